//! Healthy webhooks, which are measured alone and then beside whatever troubles others: one site on one Kafka, and one receiver.

use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Appender, Journal};
use hookline_tests::program::{Site, kafka_journal};
use tokio::time::Instant;

use crate::hookline::webhook;
use crate::load::{event, publish_all, publish_at};
use crate::process::{Spread, median};
use crate::receiver::ReceiverProcess;
use crate::{Figure, LATENCY_RATE, Scale, settle};

pub(crate) const PARTITIONS: u32 = 8;
/// Healthy webhooks; each gets its share of the events.
const HEALTHY: usize = 64;
/// Longer than this without anything new means that nothing comes any more.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// The healthy, and what publishes to them and to the others.
pub(crate) struct Healthy<'a> {
    pub(crate) site: Site,
    pub(crate) receiver: &'a ReceiverProcess,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) appender: Arc<dyn Appender>,
    pub(crate) topic: String,
    /// Of the next event.
    pub(crate) next: usize,
}

/// How often they are measured, alone and beside the trouble: these machines are noisy. Ratios are those of the medians.
const TIMES: usize = 3;

/// What the healthy saw.
pub(crate) struct Seen {
    /// Deliveries a second.
    rate: f64,
    /// From publishing an event to its request, at a steady rate.
    age: Spread,
}

/// What they saw alone, and beside the trouble.
pub(crate) fn compared(alone: &[Seen], beside: &[Seen]) -> Vec<Figure> {
    let ratio = |of: &dyn Fn(&Seen) -> f64| {
        let [beside, alone] = [beside, alone].map(|seen| median(seen.iter().map(of).collect()));
        beside / alone
    };
    let rate = ratio(&|seen| seen.rate);
    let p50 = ratio(&|seen| seen.age.p50 as f64);
    let p99 = ratio(&|seen| seen.age.p99 as f64);
    let all = |of: &dyn Fn(&Seen) -> String| {
        let [alone, beside] =
            [alone, beside].map(|seen| seen.iter().map(of).collect::<Vec<_>>().join(", "));
        format!("{alone}; {beside}")
    };
    vec![
        Figure::plain(
            "healthy, deliveries/s alone; beside",
            all(&|seen| format!("{:.0}", seen.rate)),
        ),
        Figure {
            name: "ratio of throughputs",
            value: format!("{rate:.3}"),
            aim: "≥ 0.9",
            met: Some(rate >= 0.9),
        },
        Figure::plain(
            "publish → request p50, ms alone; beside",
            all(&|seen| format!("{:.2}", seen.age.p50 as f64 / 1000.0)),
        ),
        Figure {
            name: "ratio of p50",
            value: format!("{p50:.2}"),
            aim: "≤ 1.2",
            met: Some(p50 <= 1.2),
        },
        Figure::plain("ratio of p99", format!("{p99:.2}")),
    ]
}

/// The healthy webhooks, as a resource file.
pub(crate) fn webhooks(receiver: &ReceiverProcess) -> String {
    let url = format!("http://{}/hooks/latency", receiver.address());
    let latency = webhook("latency", "latency.one", &url, "");
    (0..HEALTHY)
        .map(|n| {
            let url = format!("http://{}/hooks/{n}", receiver.address());
            webhook(&format!("h{n}"), &format!("healthy.h{n}"), &url, "")
        })
        .chain([latency])
        .collect()
}

impl<'a> Healthy<'a> {
    /// On a site whose webhooks are registered.
    pub(crate) async fn at(site: Site, receiver: &'a ReceiverProcess) -> Self {
        let journal = kafka_journal("bench-load");
        Self {
            appender: journal.appender("load").await.expect("a producer"),
            topic: site.topic("events"),
            site,
            receiver,
            journal,
            next: fastrand::usize(..1 << 40),
        }
    }

    /// Publishes so many events, each of its kind, as fast as the journal takes them.
    pub(crate) async fn publish(&mut self, count: usize, kind: impl Fn(usize) -> String) {
        let first = self.next;
        self.next += count;
        let events = (0..count).map(|n| event(&kind(n), first + n));
        publish_all(&*self.appender, &self.topic, PARTITIONS, events).await;
    }

    /// What they see, some times.
    pub(crate) async fn some_times(&mut self, scale: Scale) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            settle().await;
            seen.push(self.once(scale).await);
        }
        seen
    }

    /// From publishing the first to the last request, and then at a steady rate.
    async fn once(&mut self, scale: Scale) -> Seen {
        let rate = self.drain(scale.deliveries / 2).await;
        settle().await;
        drop(self.receiver.statistics().await);
        let first = self.next;
        self.next += 1_000_000;
        let make = |n| event("latency.one", first + n);
        publish_at(
            &*self.appender,
            &self.topic,
            PARTITIONS,
            LATENCY_RATE,
            scale.seconds,
            make,
        )
        .await;
        settle().await;
        let age = self.receiver.statistics().await.healthy_age;
        Seen { rate, age }
    }

    /// Publishes so many events to the healthy. Deliveries a second, from publishing the first to the last request.
    pub(crate) async fn drain(&mut self, count: usize) -> f64 {
        drop(self.receiver.statistics().await);
        let begun = Instant::now();
        self.publish(count, |n| format!("healthy.h{}", n % HEALTHY))
            .await;
        let (mut seen, mut since) = (0, Instant::now());
        while seen < count {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let new = self.receiver.statistics().await.healthy;
            seen += new;
            if new > 0 {
                since = Instant::now();
            }
            assert!(
                since.elapsed() < SILENCE,
                "{seen} of {count} came, then nothing"
            );
        }
        count as f64 / begun.elapsed().as_secs_f64()
    }
}
