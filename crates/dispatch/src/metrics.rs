//! What the dispatch stage counts. Labels come from closed sets.

use hookline_model::outcome::Outcome;
use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// Figures of the dispatch stage.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Attempts and final outcomes reached without one, by outcome.
    pub(crate) attempts: IntCounterVec,
    /// From the start of an exchange to its end, seconds.
    pub(crate) duration: Histogram,
    /// Exchanges under way.
    pub(crate) in_flight: IntGauge,
    /// Lanes whose later sends stay in the log.
    pub(crate) lanes_behind: IntGauge,
    /// Ordered lanes and batches whose head waits for its next attempt, or for somebody.
    pub(crate) lanes_blocked: IntGauge,
    pub(crate) resting_bytes: IntGauge,
    /// Bytes copied to `held`.
    pub(crate) held_bytes: IntCounter,
    /// `max_hold`, to compare the oldest send with.
    pub(crate) max_hold: IntGauge,
    /// Sends waiting in memory.
    pub(crate) queued: IntGauge,
    /// Age of the oldest send that waits or is under way, seconds.
    pub(crate) oldest: IntGauge,
    /// Retries handed to the tiers.
    pub(crate) retries: IntCounter,
    /// Sends dropped because they had come before.
    pub(crate) repeats: IntCounter,
    /// Bytes read again for lanes that were behind.
    pub(crate) scanned_bytes: IntCounter,
    /// Bytes read at the live edge.
    pub(crate) live_bytes: IntCounter,
    /// Bytes of checkpoints stored.
    pub(crate) checkpoint_bytes: IntCounter,
    /// Time that went into making checkpoints, seconds.
    pub(crate) checkpoint_seconds: Counter,
    /// Claims that took effect.
    pub(crate) takeovers: IntCounter,
    /// From the assignment of a partition to the first send that may start, seconds.
    pub(crate) takeover_duration: Histogram,
    /// Partitions owned.
    pub(crate) partitions: IntGauge,
    /// Partitions stopped by an alarm; somebody must look.
    pub(crate) stopped: IntGauge,
    /// Panics caught while an attempt was made.
    pub(crate) panics: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let checkpoint_seconds = Counter::new(
            "hookline_dispatch_checkpoint_seconds_total",
            "time that went into making checkpoints",
        )?;
        registry.register(Box::new(checkpoint_seconds.clone()))?;
        let attempts = IntCounterVec::new(
            Opts::new(
                "hookline_dispatch_attempts_total",
                "attempts made, and final outcomes reached without one, by outcome",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(attempts.clone()))?;
        for outcome in Outcome::ALL {
            attempts.with_label_values(&[outcome.as_str()]);
        }
        let buckets = vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0,
            30.0,
        ];
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "hookline_dispatch_attempt_duration_seconds",
                "duration of an exchange",
            )
            .buckets(buckets),
        )?;
        registry.register(Box::new(duration.clone()))?;
        let takeover_duration = Histogram::with_opts(
            HistogramOpts::new(
                "hookline_dispatch_takeover_seconds",
                "from the assignment of a partition to the first send that may start",
            )
            .buckets(vec![0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]),
        )?;
        registry.register(Box::new(takeover_duration.clone()))?;
        Ok(Self {
            attempts,
            duration,
            takeover_duration,
            in_flight: gauge("hookline_dispatch_in_flight", "exchanges under way")?,
            lanes_behind: gauge(
                "hookline_dispatch_lanes_behind",
                "lanes whose later sends stay in the log",
            )?,
            lanes_blocked: gauge(
                "hookline_dispatch_lanes_blocked",
                "ordered lanes and batches whose head waits for its next attempt, or for somebody",
            )?,
            resting_bytes: gauge(
                "hookline_dispatch_resting_bytes",
                "bytes in memory of what waits for its next attempt, or for somebody, in its lane",
            )?,
            held_bytes: counter(
                "hookline_dispatch_held_bytes_total",
                "bytes of what waits at the old end that were copied out of the way",
            )?,
            max_hold: gauge(
                "hookline_dispatch_max_hold_seconds",
                "how long a send may wait for its turn",
            )?,
            queued: gauge("hookline_dispatch_queued_sends", "sends waiting in memory")?,
            oldest: gauge(
                "hookline_dispatch_oldest_undelivered_seconds",
                "age of the oldest send that waits or is under way",
            )?,
            retries: counter(
                "hookline_dispatch_retries_total",
                "sends handed to the tiers",
            )?,
            repeats: counter(
                "hookline_dispatch_repeats_dropped_total",
                "sends dropped because they had come before",
            )?,
            scanned_bytes: counter(
                "hookline_dispatch_scanned_bytes_total",
                "bytes read again for lanes that were behind, and for what was not kept in memory",
            )?,
            live_bytes: counter(
                "hookline_dispatch_live_bytes_total",
                "bytes read at the live edge",
            )?,
            checkpoint_bytes: counter(
                "hookline_dispatch_checkpoint_bytes_total",
                "bytes of checkpoints stored",
            )?,
            checkpoint_seconds,
            takeovers: counter(
                "hookline_dispatch_takeovers_total",
                "claims that took effect",
            )?,
            partitions: gauge("hookline_dispatch_partitions", "partitions owned")?,
            stopped: gauge(
                "hookline_dispatch_partitions_stopped",
                "partitions stopped by an alarm",
            )?,
            panics: counter(
                "hookline_dispatch_panics_total",
                "panics caught while an attempt was made",
            )?,
        })
    }
}

/// One partition's share of a gauge; taken back when dropped.
pub(crate) struct Share {
    gauge: IntGauge,
    now: i64,
}

impl Share {
    pub(crate) fn of(gauge: &IntGauge) -> Self {
        Self {
            gauge: gauge.clone(),
            now: 0,
        }
    }

    pub(crate) fn set(&mut self, value: i64) {
        if value != self.now {
            self.gauge.add(value - self.now);
            self.now = value;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.sub(self.now);
    }
}
