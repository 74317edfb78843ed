//! What is settled is deleted: however much flows through, what is kept for its delivery stays small.

use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use tokio::task::spawn_blocking;

use super::{event, noise, webhook};

/// Enough that what is kept of them does not depend on how many they are.
const EVENTS: usize = 16_000;
const AT_ONCE: usize = 500;
const DATA_BYTES: usize = 8 * 1024;
/// One event in so many fails once, and waits in a tier.
const ONE_FAILS_IN: usize = 4;
/// Everything that the events take in `deliveries` and tiers together, at least.
const FLOW: u64 = ((EVENTS + EVENTS / ONE_FAILS_IN) * DATA_BYTES) as u64;
/// Topics whose records go when they are settled.
const PASSING: [&str; 3] = ["deliveries", "retry.1s", "progress"];
/// The smallest that Kafka allows. In an installation they are larger, and so is the flow.
const SEGMENT_BYTES: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_disk_stays_bounded() {
    let room = Site::room_for_brokers().await;
    let broker = spawn_blocking(Broker::private).await.unwrap();
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    site.succeed(&["topics", "create"], "").await;
    let topics = PASSING.map(|topic| site.topic(topic));
    let altered = topics.clone();
    let broker = spawn_blocking(move || {
        broker.cut(&altered, SEGMENT_BYTES);
        broker
    });
    let broker = broker.await.unwrap();
    let disk = || topics.iter().map(|topic| broker.disk(topic)).sum::<u64>();
    let most = flow(&site, disk).await;
    // On a busy machine more of it is under way at a time.
    let bound = FLOW / 2;
    assert!(
        most <= bound,
        "{most} bytes on disk at a time, of {FLOW} that passed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_built_in_engine_keeps_few_settled_records() {
    let site = Site::new(Engine::Embedded).await;
    let none = flow(&site, || 0).await;
    assert_eq!(none, 0);
}

/// Lets events flow until all have come and few of their records are left. Returns the most that `disk` said meanwhile.
async fn flow(site: &Site, disk: impl Fn() -> u64) -> u64 {
    let receiver = Receiver::start().await;
    let retry = "retry: {jitter: 0, schedule: {list: [1s]}}\n";
    let mut documents = webhook(
        "fails",
        &receiver.url("/until/2/fails"),
        &format!("events: [fails]\n{retry}"),
    );
    // Some, so that every partition has one.
    let quick: Vec<_> = (1..ONE_FAILS_IN).map(|n| format!("quick-{n}")).collect();
    for name in &quick {
        documents += &webhook(
            name,
            &receiver.url(&format!("/ok/{name}")),
            &format!("events: [{name}]"),
        );
    }
    site.apply(&documents).await;
    let program = site.start().await;
    let mut most = 0;
    for first in (0..EVENTS).step_by(AT_ONCE) {
        let some: Vec<_> = (first..first + AT_ONCE).map(|n| large(n, &quick)).collect();
        site.publish(&some).await;
        most = most.max(disk());
    }
    let requests = EVENTS + EVENTS / ONE_FAILS_IN;
    at_least("requests", requests, Duration::from_secs(60), || {
        receiver.journal(<[_]>::len)
    })
    .await;
    let journal = site.journal().await;
    eventually(
        "what is settled is gone",
        Duration::from_secs(30),
        || async {
            let topic = site.topic("deliveries");
            let mut kept = 0;
            for partition in 0..journal.topics().await.unwrap()[&topic].partitions {
                let end = journal.end(&topic, partition).await.unwrap();
                kept += end - journal.start(&topic, partition).await.unwrap();
            }
            // Deleting takes place some hundreds of records at a time.
            if kept < 2_000 { Ok(()) } else { Err(kept) }
        },
    )
    .await;
    most = most.max(disk());
    assert!(program.stop().await.success());
    most
}

/// An event whose data nobody can compress.
fn large(n: usize, quick: &[String]) -> String {
    let kind = match n % ONE_FAILS_IN {
        0 => "fails",
        n => &quick[n - 1],
    };
    let noise = noise(DATA_BYTES);
    event(kind, &n.to_string(), &format!("{{\"noise\": \"{noise}\"}}"))
}
