//! Of several brokers one after the other dies, and with it each time the coordinator of some group and the leaders of some partitions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::Site;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::*;

const BROKERS: usize = 3;
/// Where groups live: who leads a partition of it coordinates the groups in it.
const GROUPS: &str = "__consumer_offsets";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_coordinators_and_leaders_move_delivery_goes_on() {
    let room = Site::room_for_brokers().await;
    let brokers = spawn_blocking(|| Broker::cluster(BROKERS)).await.unwrap();
    let brokers: Arc<[Broker]> = brokers.into();
    let addresses: Vec<_> = brokers.iter().map(Broker::address).collect();
    let addresses = addresses.join(",");
    let site = Site::on_brokers(&addresses, 3, "", room).await;
    let (run, program) = Run::begin(site, &addresses).await;

    let mut moved = BTreeSet::new();
    for victim in 0..BROKERS {
        let before = leaders(&brokers, victim).await;
        brokers[victim].kill();
        let killed = Instant::now();
        // What it led is led by others, and nobody waits for its return. That it is dead the others find out only when its session is over.
        let what = format!("the death of broker {}", victim + 1);
        let took = run.resumed(&what, killed).await;
        assert!(took <= FRESH_WITHIN, "after {what}: {took:?}");
        elsewhere(&brokers, victim).await;
        let node = brokers[victim].node();
        let led = before.iter().enumerate().filter(|(_, led)| **led == node);
        moved.extend(led.map(|(partition, _)| partition));
        let all = Arc::clone(&brokers);
        spawn_blocking(move || {
            all[victim].restart();
            all[victim].wait_until_in_sync(BROKERS);
        })
        .await
        .unwrap();
        run.assert_resumes("its return", Instant::now()).await;
    }
    assert!(!moved.is_empty(), "no coordinator was among the dead");
    let verdict = run.finish(program).await;
    assert!(verdict.accepted > 500, "{}", verdict.summary());
}

/// Who coordinates the groups of each partition, as anybody but `victim` knows it.
async fn leaders(brokers: &Arc<[Broker]>, victim: usize) -> Vec<usize> {
    let all = Arc::clone(brokers);
    let other = (victim + 1) % BROKERS;
    spawn_blocking(move || all[other].leaders(GROUPS))
        .await
        .unwrap()
}

/// Waits until the dead broker leads nothing any more.
async fn elsewhere(brokers: &Arc<[Broker]>, victim: usize) {
    let node = brokers[victim].node();
    eventually("others lead", Duration::from_secs(20), || async {
        let led = leaders(brokers, victim).await;
        if !led.is_empty() && led.iter().all(|leader| *leader != node) {
            Ok(())
        } else {
            Err(led)
        }
    })
    .await;
}
