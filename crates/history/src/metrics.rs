//! What the history tells about itself.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::store::Read;

pub(crate) struct HistoryMetrics {
    attempts: IntCounter,
    activities: IntCounter,
    batch: Histogram,
    pub(crate) write: Histogram,
    pub(crate) unreadable: IntCounter,
    pub(crate) missed: IntCounter,
    pub(crate) deleted: IntCounter,
    pub(crate) owned: IntGauge,
    pub(crate) owned_events: IntGauge,
    pub(crate) behind_events: IntGauge,
    pub(crate) stopped: IntGauge,
    pub(crate) up: IntGauge,
    pub(crate) oldest: Gauge,
    pub(crate) kept_from: Gauge,
    lag: IntGaugeVec,
}

impl HistoryMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let number = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        // The same as of the stages that read by group; here the offset is the store's.
        let lag = IntGaugeVec::new(
            Opts::new(
                "hookline_journal_consumer_lag_records",
                "Records between what was committed and the end of the topic, all partitions together.",
            ),
            &["topic"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        Ok(Self {
            attempts: counter(
                "hookline_history_attempts_total",
                "Attempts put into the store.",
            )?,
            activities: counter(
                "hookline_history_activities_total",
                "Events put into the store, repeated ones included.",
            )?,
            batch: histogram(
                "hookline_history_batch_attempts",
                "Attempts of one transaction.",
                vec![1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0],
            )?,
            write: histogram(
                "hookline_history_write_duration_seconds",
                "How long a transaction took, waiting for its turn included.",
                vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            )?,
            unreadable: counter(
                "hookline_history_unreadable_total",
                "Records of attempts that this version cannot read; they are passed over, and the log names them.",
            )?,
            missed: counter(
                "hookline_history_missed_records_total",
                "Records that were deleted from the topic before the store had them.",
            )?,
            deleted: counter(
                "hookline_history_deleted_rows_total",
                "Rows deleted because they were older than the retention.",
            )?,
            owned: number(
                "hookline_history_partitions_owned",
                "Partitions of attempts that this process reads into the store.",
            )?,
            owned_events: number(
                "hookline_history_event_partitions_owned",
                "Partitions of events that this process reads into the store.",
            )?,
            behind_events: number(
                "hookline_history_events_behind_records",
                "Records between what is in the store and the end of the topic of events, by this process's partitions.",
            )?,
            stopped: number(
                "hookline_history_partitions_stopped",
                "Partitions that cannot be read on; the log says why and what to do.",
            )?,
            up: number(
                "hookline_history_store_up",
                "Whether the store answered the last time it was asked.",
            )?,
            oldest: gauge(
                "hookline_history_oldest_undelivered_seconds",
                "How long ago this process was last known to have everything in the store, by its own partitions.",
            )?,
            kept_from: gauge(
                "hookline_history_kept_from_timestamp_seconds",
                "As of when the store has everything that happened, in seconds since 1970.",
            )?,
            lag,
        })
    }

    /// What one transaction put in.
    pub(crate) fn stored(&self, read: &Read<'_>) {
        let (count, rows) = match read {
            Read::Attempts(attempts) => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                self.batch.observe(attempts.len() as f64);
                (&self.attempts, attempts.len())
            }
            Read::Activities(activities) => (&self.activities, activities.len()),
        };
        count.inc_by(u64::try_from(rows).unwrap_or(0));
    }

    pub(crate) fn lag(&self, topic: &str, records: u64) {
        self.lag
            .with_label_values(&[topic])
            .set(i64::try_from(records).unwrap_or(i64::MAX));
    }
}
