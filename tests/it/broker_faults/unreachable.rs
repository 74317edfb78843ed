//! The broker is well, but nothing reaches it for two minutes.

use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::Site;
use hookline_tests::proxy::{Proxy, Reserved};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::*;

/// How much more memory it may use while nothing reaches the broker, in MiB.
const MORE_MEMORY: f64 = 48.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_unreachable_for_two_minutes_costs_nothing_but_time() {
    let silence: u64 = std::env::var("SILENCE")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(120);
    let room = Site::room_for_brokers().await;
    let reserved = Reserved::new().await;
    let outside = reserved.port();
    let broker = spawn_blocking(move || Broker::private_behind(outside))
        .await
        .unwrap();
    let network = Proxy::start(reserved, &broker.second_door());
    let site = Site::on_brokers(&network.address(), 1, "", room).await;
    // The producer of events is not cut off: a backlog grows.
    let (run, mut program) = Run::begin(site, broker.address()).await;
    assert!(network.passed() > 0, "it came by way of the network");

    let memory = memory_of(&program).await;
    network.silence();
    let silenced = Instant::now();
    tokio::join!(
        assert_commands_say_so(&run.site),
        assert_alive_but_not_ready(&mut program)
    );
    let mut most = memory;
    while silenced.elapsed() < Duration::from_secs(silence) {
        most = most.max(memory_of(&program).await);
        assert!(!program.has_ended());
        sleep(Duration::from_secs(3)).await;
    }
    network.mend();
    run.assert_resumes("two minutes of silence", Instant::now())
        .await;
    say(&format!("memory: {memory:.1} MiB, then at most {most:.1}"));
    assert!(most < memory + MORE_MEMORY, "{memory} MiB, then {most}");
    run.finish(program).await;
}
