//! The broker is well, but nothing reaches it for two minutes.

use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::{Site, kafka_journal_at};
use hookline_tests::proxy::{Proxy, Reserved};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_unreachable_for_two_minutes_costs_nothing_but_time() {
    let room = Site::room_for_brokers().await;
    let reserved = Reserved::new().await;
    let outside = reserved.port();
    let broker = spawn_blocking(move || Broker::private_behind(outside))
        .await
        .unwrap();
    let network = Proxy::start(reserved, &broker.second_door());
    let receiver = Receiver::start().await;
    let site = Site::on_brokers(&network.address(), 1, "", room).await;
    site.succeed(&["topics", "create"], "").await;
    site.apply(&webhooks(&receiver)).await;
    let mut program = site.start().await;
    // The producer of events is not cut off: a backlog grows.
    let journal = kafka_journal_at(broker.address(), "traffic");
    let traffic = Traffic::start(journal, site.topic("events"), Duration::from_millis(25));
    at_least("the stream runs", 100, Duration::from_secs(30), || {
        receiver.count("/ok/quick")
    })
    .await;

    let memory = program
        .metric("hookline_process_resident_memory_bytes", "")
        .await;
    network.silence();
    let silenced = Instant::now();
    let (_, ()) = tokio::join!(
        assert_commands_say_so(&site),
        assert_alive_but_not_ready(&mut program)
    );
    let mut most: f64 = 0.0;
    while silenced.elapsed()
        < Duration::from_secs(
            std::env::var("SILENCE")
                .ok()
                .and_then(|s| s.parse().ok())
                .unwrap_or(120),
        )
    {
        most = most.max(
            program
                .metric("hookline_process_resident_memory_bytes", "")
                .await,
        );
        assert!(program.ended().is_none());
        sleep(Duration::from_secs(5)).await;
    }
    network.mend();
    let returned = Instant::now();
    println!("memory {memory} then {most}");
    let took = resumed(&receiver, "two minutes of silence", returned).await;
    println!("mended: {took:?}");
    assert_resumed_in_time("two minutes of silence", took);

    let accepted = traffic.finish().await;
    assert_all_came(&site, &program, &receiver, &accepted).await;
    for path in PATHS {
        println!(
            "{path}: {} repeats of {}",
            repeats(&receiver, path),
            accepted.len()
        );
    }
    assert!(program.stop().await.success());
}
