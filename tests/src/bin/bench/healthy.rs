//! Healthy webhooks, which are measured alone and then beside whatever troubles others: one site on one Kafka, and one receiver.

use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Appender, Journal};
use hookline_tests::program::{Site, kafka_journal};
use tokio::time::Instant;

use crate::hookline::webhook;
use crate::load::{event, publish_all};
use crate::receiver::ReceiverProcess;

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

/// The healthy webhooks, as a resource file.
pub(crate) fn webhooks(receiver: &ReceiverProcess) -> String {
    (0..HEALTHY)
        .map(|n| {
            let url = format!("http://{}/hooks/{n}", receiver.address());
            webhook(&format!("h{n}"), &format!("healthy.h{n}"), &url, "")
        })
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
