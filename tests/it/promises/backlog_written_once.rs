//! A slow endpoint's backlog is written to `deliveries` once: it waits there, and is queued nowhere again.

use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;

use super::{assert_each_once, events, webhook};

both_engines!(a_slow_endpoints_backlog_is_written_once);

async fn a_slow_endpoints_backlog_is_written_once(engine: Engine) {
    /// More than a lane may queue, so that it falls behind.
    const COUNT: usize = 3000;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let slow = webhook("slow", &receiver.url("/slow/400/slow"), "events: [slow]");
    let quick = webhook("quick", &receiver.url("/ok/quick"), "events: [quick]");
    site.apply(&(slow + &quick)).await;
    let program = site.start().await;
    site.publish(&events("slow", COUNT)).await;
    site.publish(&events("quick", 100)).await;
    at_least("/ok/quick", 100, Duration::from_secs(10), || {
        receiver.count("/ok")
    })
    .await;
    assert!(
        receiver.count("/slow") < COUNT,
        "there is a backlog when the quick one is done"
    );
    at_least("/slow", COUNT, Duration::from_secs(50), || {
        receiver.count("/slow")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_each_once(&receiver.at("/slow"), COUNT);
    assert_each_once(&receiver.at("/ok"), 100);

    let journal = site.journal().await;
    let topics = journal.topics().await.unwrap();
    let written = async |suffix: &str| {
        let topic = site.topic(suffix);
        let mut records = 0;
        for partition in 0..topics.get(&topic).map_or(0, |t| t.partitions) {
            records += journal.end(&topic, partition).await.unwrap();
        }
        records
    };
    assert_eq!(
        written("deliveries").await,
        (COUNT + 100) as u64,
        "records of deliveries"
    );
    assert_eq!(written("held").await, 0);
    for topic in topics
        .keys()
        .filter(|t| t.starts_with(&site.topic("retry.")))
    {
        let suffix = topic.trim_start_matches(&site.topic(""));
        assert_eq!(written(suffix).await, 0, "{topic}");
    }
    assert!(program.stop().await.success());
}
