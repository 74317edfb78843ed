//! The broker stands still for half a minute, and goes on as if nothing had been.

use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::{Site, kafka_journal_at};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_for_30_s_costs_nothing_but_time() {
    let room = Site::room_for_brokers().await;
    let broker = spawn_blocking(Broker::private).await.unwrap();
    let receiver = Receiver::start().await;
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    site.succeed(&["topics", "create"], "").await;
    site.apply(&webhooks(&receiver)).await;
    let mut program = site.start().await;
    let journal = kafka_journal_at(broker.address(), "traffic");
    let traffic = Traffic::start(journal, site.topic("events"), Duration::from_millis(25));
    at_least("the stream runs", 100, Duration::from_secs(30), || {
        receiver.count("/ok/quick")
    })
    .await;

    broker.freeze();
    let frozen = Instant::now();
    let (_, ()) = tokio::join!(
        assert_commands_say_so(&site),
        assert_alive_but_not_ready(&mut program)
    );
    tokio::time::sleep_until(frozen + Duration::from_secs(30)).await;
    broker.thaw();
    let returned = Instant::now();
    let took = resumed(&receiver, "30 s of standstill", returned).await;
    println!("thaw: {took:?}");
    assert_resumed_in_time("30 s of standstill", took);

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
