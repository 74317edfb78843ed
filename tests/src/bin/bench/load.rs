//! Events to publish, and Kafka's own way from producer to consumer as a measure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{
    Appender, Cleanup, Journal, OnAppended, ReadBudget, Record, TopicSpec, append_when_room,
};
use hookline_tests::program::kafka_journal;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use crate::process::{Spread, now_us};
use crate::settle;

/// The payload of an event together with its envelope is about this long.
const EVENT_BYTES: usize = 512;

/// Data of an event: the time and something to carry.
pub(crate) fn data() -> String {
    format!(
        r#"{{"t":{},"text":"{}"}}"#,
        now_us(),
        "x".repeat(EVENT_BYTES - 200)
    )
}

/// A structured CloudEvent that says when it was made.
pub(crate) fn event(event_type: &str, id: usize) -> Record {
    let text = format!(
        r#"{{"specversion":"1.0","project":"bench","source":"/bench","id":"{event_type}-{id}","type":"{event_type}","data":{}}}"#,
        data()
    );
    Record {
        key: Some(Bytes::from(format!("{event_type}-{}", id % 997))),
        value: Some(Bytes::from(text)),
        headers: vec![(
            "content-type".into(),
            Bytes::from_static(b"application/cloudevents+json"),
        )],
    }
}

/// The body that hookline makes of such an event.
pub(crate) fn standard_body() -> String {
    format!(
        r#"{{"type":"bench.t0","timestamp":"2025-01-01T00:00:00.000Z","data":{}}}"#,
        data()
    )
}

/// What was handed to the journal and is not acknowledged yet, and one more until nothing else comes.
#[derive(Clone)]
struct Unacknowledged(Arc<(AtomicUsize, Notify)>);

impl Unacknowledged {
    fn new() -> Self {
        Self(Arc::new((AtomicUsize::new(1), Notify::new())))
    }

    /// Counts one more, until this is called.
    fn one(&self) -> OnAppended {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        let done = Self::clone(self);
        Box::new(move |result| {
            done.less();
            assert!(result.is_ok(), "an event was not stored");
        })
    }

    fn less(&self) {
        if self.0.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.1.notify_one();
        }
    }

    /// Nothing else comes: waits for what was handed over.
    async fn none(self) {
        self.less();
        self.0.1.notified().await;
    }
}

/// Publishes so many events as fast as the journal takes them, and waits until all are acknowledged.
pub(crate) async fn publish_all(
    appender: &dyn Appender,
    topic: &str,
    partitions: u32,
    events: impl Iterator<Item = Record>,
) {
    let unacknowledged = Unacknowledged::new();
    for (n, record) in events.enumerate() {
        let partition = u32::try_from(n).unwrap_or(0) % partitions;
        append_when_room(appender, topic, partition, record, unacknowledged.one())
            .await
            .expect("Kafka takes events");
    }
    unacknowledged.none().await;
}

/// Publishes at a steady rate, and waits until all are acknowledged.
pub(crate) async fn publish_at(
    appender: &dyn Appender,
    topic: &str,
    partitions: u32,
    rate: u64,
    seconds: u64,
    mut event: impl FnMut(usize) -> Record,
) -> usize {
    let count = usize::try_from(rate * seconds).expect("small");
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let unacknowledged = Unacknowledged::new();
    let mut sent = 0;
    while sent < count {
        ticks.tick().await;
        // The timer's grain is a millisecond: as many as are due by now.
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as usize;
        while sent < due.min(count) {
            let partition = u32::try_from(sent).unwrap_or(0) % partitions;
            let done = unacknowledged.one();
            append_when_room(appender, topic, partition, event(sent), done)
                .await
                .expect("Kafka takes events");
            sent += 1;
        }
    }
    unacknowledged.none().await;
    count
}

/// From producer to consumer through one topic, with the client settings that hookline uses.
pub(crate) async fn produce_to_consume(rate: u64, seconds: u64) -> Spread {
    let producer = kafka_journal("bench-producer");
    let consumer = kafka_journal("bench-consumer");
    let topic = format!("bench-{:08x}", fastrand::u32(..));
    let spec = TopicSpec {
        name: topic.clone(),
        partitions: 1,
        replication: 1,
        cleanup: Cleanup::Delete { retention: None },
        append_time: false,
        max_record_bytes: 1 << 20,
        settings: BTreeMap::new(),
    };
    producer
        .create_topics(&[spec])
        .await
        .expect("a topic can be made");
    settle().await;
    let appender = producer.appender("bench").await.expect("a producer");
    let count = usize::try_from(rate * seconds).expect("small");
    let reading = read_ages(&*consumer, &topic, count);
    let writing = publish_at(&*appender, &topic, 1, rate, seconds, |n| event("bench", n));
    let (ages, _) = tokio::join!(reading, writing);
    Spread::of(ages)
}

async fn read_ages(journal: &dyn Journal, topic: &str, count: usize) -> Vec<u64> {
    let budget = ReadBudget::of(1 << 20);
    let mut reader = journal.reader(topic, 0, 0, budget).await.expect("a reader");
    let mut ages = Vec::with_capacity(count);
    while ages.len() < count {
        let batch = reader.next(1000).await.expect("records");
        let now = now_us();
        for record in batch.records {
            let value = record.value.unwrap_or_default();
            let event: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
            ages.push(now.saturating_sub(event["data"]["t"].as_u64().unwrap_or(now)));
        }
    }
    ages
}
