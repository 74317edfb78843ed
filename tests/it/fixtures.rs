//! What the tests stand on is tested, too: a receiver that forgot requests would make every promise look kept.

use std::time::Duration;

use hookline_tests::broker::{Broker, run_kcat};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Sends one request and returns the status of the answer, if there is one within a second.
async fn post(receiver: &Receiver, path: &str, webhook_id: &str) -> Option<u16> {
    let url = receiver.url("");
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nwebhook-id: {webhook_id}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    timeout(Duration::from_secs(1), reading)
        .await
        .ok()?
        .unwrap();
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn the_receiver_does_what_a_path_says_and_remembers() {
    let receiver = Receiver::start().await;
    assert_eq!(post(&receiver, "/ok/a", "1").await, Some(200));
    assert_eq!(post(&receiver, "/status/418/a", "1").await, Some(418));
    for expected in [500, 500, 200, 200] {
        assert_eq!(post(&receiver, "/flaky/2/a", "1").await, Some(expected));
    }
    assert_eq!(
        post(&receiver, "/flaky/2/a", "2").await,
        Some(500),
        "each id for itself"
    );
    assert_eq!(post(&receiver, "/retry-after/7/a", "1").await, Some(429));
    assert_eq!(post(&receiver, "/retry-after/7/a", "1").await, Some(200));
    let begun = Instant::now();
    assert_eq!(post(&receiver, "/slow/150/a", "1").await, Some(200));
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert_eq!(post(&receiver, "/hang/a", "1").await, None);
    receiver.answer("/ok/a", 503);
    assert_eq!(post(&receiver, "/ok/a", "1").await, Some(503));

    assert_eq!(receiver.count("/flaky"), 5);
    assert_eq!(receiver.all().len(), 12);
    let first = &receiver.at("/ok/a")[0];
    assert_eq!(
        (first.method.as_str(), first.webhook_id(), first.answered),
        ("POST", "1", 200)
    );
    assert_eq!(first.body, "{}");
    assert_eq!(receiver.at("/hang")[0].answered, 0);
    at_least(
        "the hanging one was let go",
        1,
        Duration::from_secs(5),
        || usize::from(receiver.in_flight() == 0),
    )
    .await;
}

#[test]
fn the_broker_is_a_real_one() {
    let broker = Broker::shared();
    assert!(broker.pid().is_some());
    let listed = run_kcat(&["-L", "-J", "-b", broker.address()], b"");
    let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap();
    assert_eq!(
        listed["brokers"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
}
