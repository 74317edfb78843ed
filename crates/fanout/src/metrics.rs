//! What the fan-out tells about itself.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventResult {
    /// Somebody gets it.
    FannedOut,
    /// Nobody subscribed to it, or every filter turned it away.
    Unmatched,
    /// Its identity was seen before, within the window.
    Repeated,
    /// Nobody can read or place it.
    Rejected,
}

pub(crate) struct FanoutMetrics {
    fanned_out: IntCounter,
    unmatched: IntCounter,
    repeated: IntCounter,
    rejected: IntCounter,
    pub(crate) deliveries: IntCounter,
    pub(crate) filtered: IntCounter,
    pub(crate) filter_errors: IntCounter,
    pub(crate) batch: Histogram,
    pub(crate) oldest_seconds: Gauge,
    pub(crate) stopped: IntGauge,
}

impl FanoutMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let events = IntCounterVec::new(
            Opts::new(
                "hookline_fanout_events_total",
                "Events read, by what became of them.",
            ),
            &["result"],
        )?;
        let metrics = Self {
            fanned_out: events.with_label_values(&["fanned_out"]),
            unmatched: events.with_label_values(&["unmatched"]),
            repeated: events.with_label_values(&["repeated"]),
            rejected: events.with_label_values(&["rejected"]),
            deliveries: IntCounter::new(
                "hookline_fanout_deliveries_total",
                "Deliveries made: one for each webhook that an event matched.",
            )?,
            filtered: IntCounter::new(
                "hookline_fanout_filtered_total",
                "Deliveries not made because the webhook's filter turned the event away, be it for want of an answer.",
            )?,
            filter_errors: IntCounter::new(
                "hookline_fanout_filter_errors_total",
                "Times that a filter had no answer for an event, which counts as no: a field was missing, or types did not fit.",
            )?,
            batch: Histogram::with_opts(
                HistogramOpts::new(
                    "hookline_fanout_batch_events",
                    "Events taken at once; the registry is asked for its end once for each batch.",
                )
                .buckets(vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]),
            )?,
            oldest_seconds: Gauge::new(
                "hookline_fanout_oldest_undelivered_seconds",
                "Age of the oldest event that was read and is not fanned out yet.",
            )?,
            stopped: IntGauge::new(
                "hookline_fanout_partitions_stopped",
                "Partitions of events that stopped with an alarm; the log says why and what to do.",
            )?,
        };
        registry.register(Box::new(events))?;
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.filtered.clone()))?;
        registry.register(Box::new(metrics.filter_errors.clone()))?;
        registry.register(Box::new(metrics.batch.clone()))?;
        registry.register(Box::new(metrics.oldest_seconds.clone()))?;
        registry.register(Box::new(metrics.stopped.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn count(&self, result: EventResult) {
        match result {
            EventResult::FannedOut => &self.fanned_out,
            EventResult::Unmatched => &self.unmatched,
            EventResult::Repeated => &self.repeated,
            EventResult::Rejected => &self.rejected,
        }
        .inc();
    }
}
