//! What the jobs tell about themselves.

use prometheus::{IntCounter, IntGauge, Registry};

pub(crate) struct JobsMetrics {
    pub(crate) running: IntGauge,
    pub(crate) records: IntCounter,
    pub(crate) deliveries: IntCounter,
}

impl JobsMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let running = IntGauge::new("hookline_jobs_running", "Jobs that this process runs now.")?;
        registry.register(Box::new(running.clone()))?;
        Ok(Self {
            running,
            records: counter(
                "hookline_jobs_records_total",
                "Records of their sources that jobs have looked at.",
            )?,
            deliveries: counter(
                "hookline_jobs_deliveries_total",
                "Deliveries that jobs have started over, repeats of a job that was taken over included.",
            )?,
        })
    }
}
