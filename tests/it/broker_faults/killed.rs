//! The broker dies and comes back.

use std::sync::Arc;
use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::{Site, kafka_journal_at};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_and_comes_back_costs_nothing_but_time() {
    let room = Site::room_for_brokers().await;
    let broker = Arc::new(spawn_blocking(Broker::private).await.unwrap());
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

    for round in 1..=2 {
        broker.kill();
        let returned = restart(&broker).await;
        let took = resumed(&receiver, "a kill", returned).await;
        println!("round {round}: {took:?}");
        assert_resumed_in_time("a kill", took);
        sleep(Duration::from_secs(3)).await;
    }

    // Down for longer than any session lasts.
    broker.kill();
    let killed = Instant::now();
    let (_, ()) = tokio::join!(
        assert_commands_say_so(&site),
        assert_alive_but_not_ready(&mut program)
    );
    tokio::time::sleep_until(killed + Duration::from_secs(25)).await;
    let returned = restart(&broker).await;
    let took = resumed(&receiver, "25 s without a broker", returned).await;
    println!("long: {took:?}");
    assert_resumed_in_time("25 s without a broker", took);
    assert!(program.ended().is_none());
    sleep(Duration::from_secs(3)).await;

    // Asked to stop while there is no broker, it does; started while there is none, it waits.
    broker.kill();
    sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    let ended = program.stop_within(Duration::from_secs(40)).await;
    println!("stopped after {:?}", asked.elapsed());
    assert!(ended.success(), "{ended}");
    let mut program = site.launch(None);
    assert_alive_but_not_ready(&mut program).await;
    let returned = restart(&broker).await;
    program.wait_until_ready().await;
    let took = resumed(&receiver, "a start without a broker", returned).await;
    println!("start: {took:?}");

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

/// Starts it again, and says when it answered.
async fn restart(broker: &Arc<Broker>) -> Instant {
    let broker = Arc::clone(broker);
    spawn_blocking(move || broker.restart()).await.unwrap();
    Instant::now()
}
