//! What the tiers count.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use hookline_model::time::Millis;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::clock::BrokerTime;

/// See the help texts.
pub(crate) struct Metrics {
    pub(crate) lateness: Histogram,
    pub(crate) copies: IntCounter,
    pub(crate) rejected: IntCounter,
    pub(crate) stopped: IntGauge,
    heads: Arc<Heads>,
}

/// When the head of a partition is due; what nothing waits for is due never.
#[derive(Debug)]
pub(crate) struct Head(AtomicI64);

type Heads = Mutex<Vec<Weak<Head>>>;

impl Head {
    const NEVER: i64 = i64::MAX;

    pub(crate) fn set(&self, due: Option<Millis>) {
        self.0
            .store(due.map_or(Self::NEVER, |d| d.0), Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn new(
        registry: &Registry,
        time: Arc<BrokerTime>,
    ) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let lateness = Histogram::with_opts(
            HistogramOpts::new(
                "hookline_tiers_lateness_seconds",
                "from when a retry was due to its acknowledged return to deliveries",
            )
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                60.0, 300.0,
            ]),
        )?;
        registry.register(Box::new(lateness.clone()))?;
        let stopped = IntGauge::new(
            "hookline_tiers_partitions_stopped",
            "partitions of tiers stopped by an alarm",
        )?;
        registry.register(Box::new(stopped.clone()))?;
        let heads = Arc::new(Heads::default());
        registry.register(Box::new(Oldest {
            gauge: Gauge::new(
                "hookline_tiers_oldest_undelivered_seconds",
                "for how long the retry that waits most overdue has been due",
            )?,
            heads: Arc::clone(&heads),
            time,
        }))?;
        Ok(Self {
            lateness,
            copies: counter(
                "hookline_tiers_copies_total",
                "records copied to the next tier or back to deliveries",
            )?,
            rejected: counter(
                "hookline_tiers_rejected_total",
                "records of tiers that could not be used",
            )?,
            stopped,
            heads,
        })
    }

    /// The head of one more partition; it no longer counts once it is dropped.
    pub(crate) fn head(&self) -> Arc<Head> {
        let head = Arc::new(Head(AtomicI64::new(Head::NEVER)));
        let mut heads = self.heads.lock();
        heads.retain(|h| h.strong_count() > 0);
        heads.push(Arc::downgrade(&head));
        head
    }
}

/// Computed when asked for, so that it also grows while nothing moves.
struct Oldest {
    gauge: Gauge,
    heads: Arc<Heads>,
    time: Arc<BrokerTime>,
}

impl Collector for Oldest {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let heads = self.heads.lock();
        let due = heads
            .iter()
            .filter_map(Weak::upgrade)
            .map(|h| h.0.load(Ordering::Relaxed))
            .min();
        let overdue = self.time.now().since(Millis(due.unwrap_or(Head::NEVER)));
        self.gauge.set(overdue.as_secs_f64());
        self.gauge.collect()
    }
}
