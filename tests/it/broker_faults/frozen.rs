//! The broker stands still for half a minute, and goes on as if nothing had been.

use std::sync::Arc;
use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::Site;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_for_30_s_costs_nothing_but_time() {
    let room = Site::room_for_brokers().await;
    let broker = Arc::new(spawn_blocking(Broker::private).await.unwrap());
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    let (run, mut program) = Run::begin(site, broker.address()).await;

    broker.freeze();
    let frozen = Instant::now();
    tokio::join!(
        assert_commands_say_so(&run.site),
        assert_alive_but_not_ready(&mut program)
    );
    sleep_until(frozen + Duration::from_secs(30)).await;
    assert!(!program.has_ended());
    broker.thaw();
    let events = run.site.topic("events");
    let thawed = Arc::clone(&broker);
    spawn_blocking(move || thawed.wait_until_it_leads(&events))
        .await
        .unwrap();
    run.assert_resumes("30 s of standstill", Instant::now())
        .await;
    run.finish(program).await;
}
