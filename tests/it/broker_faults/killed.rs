//! The broker dies and comes back.

use std::sync::Arc;
use std::time::Duration;

use hookline_model::time::Clock as _;
use hookline_tests::broker::Broker;
use hookline_tests::oracle::lives::Kind;
use hookline_tests::program::{Site, Start, SystemClock};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_and_comes_back_costs_nothing_but_time() {
    let room = Site::room_for_brokers().await;
    let broker = Arc::new(spawn_blocking(Broker::private).await.unwrap());
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    let (run, mut program) = Run::begin(site, broker.address()).await;

    broker.kill();
    let returned = restart(&broker, &run).await;
    run.assert_resumes("a kill", returned).await;
    sleep(Duration::from_secs(2)).await;

    // Down for much longer than a session lasts.
    broker.kill();
    let killed = Instant::now();
    tokio::join!(
        assert_commands_say_so(&run.site),
        assert_alive_but_not_ready(&mut program)
    );
    sleep_until(killed + Duration::from_secs(25)).await;
    assert!(!program.has_ended());
    let returned = restart(&broker, &run).await;
    run.assert_resumes("25 s without a broker", returned).await;
    sleep(Duration::from_secs(2)).await;

    // Asked to stop while there is no broker, it does so in an orderly way; started while there is none, it waits for one.
    let from = SystemClock.now();
    broker.kill();
    sleep(Duration::from_secs(1)).await;
    program.ask_to_stop();
    let ended = program.ended(STOPS_WITHIN).await;
    assert!(ended.success(), "{ended}");
    let mut program = run.site.spawn(&Start::default());
    run.lives.begin(&program);
    assert_alive_but_not_ready(&mut program).await;
    let returned = restart(&broker, &run).await;
    // What it had in flight when it was to stop could not be recorded.
    run.lives.failed_everywhere(from);
    program.wait_until_ready().await;
    run.resumed("a start without a broker", returned).await;

    let verdict = run.finish(program).await;
    assert!(verdict.accepted > 1000, "{}", verdict.summary());
    assert!(verdict.repeats_of(Kind::Killed) == 0, "nobody was killed");
}

/// Starts it again, and says when it was back.
async fn restart(broker: &Arc<Broker>, run: &Run) -> Instant {
    let (restarted, events) = (Arc::clone(broker), run.site.topic("events"));
    spawn_blocking(move || {
        restarted.restart();
        restarted.wait_until_it_leads(&events);
    })
    .await
    .unwrap();
    Instant::now()
}
