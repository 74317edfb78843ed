//! What an exchange costs. Run by hand: `cargo test -p hookline-dispatch --release speed -- --ignored --nocapture`.

use std::io::Write as _;

use super::server::Server;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn exchanges_a_second() {
    let server = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let client = Arc::new(client());
    let url = server.url();
    let each = 20_000_u32;
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let client = Arc::clone(&client);
        let outgoing = request(&url);
        #[expect(clippy::disallowed_methods, reason = "a test owns what it starts")]
        running.spawn(async move {
            for _ in 0..each {
                let answer = client.exchange(outgoing.clone()).await;
                assert_eq!(answer.answer, Answer::Status(200));
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("a run");
    }
    let rate = f64::from(64 * each) / begun.elapsed().as_secs_f64();
    writeln!(std::io::stderr(), "{rate:.0} exchanges a second").expect("stderr");
}
