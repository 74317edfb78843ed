//! Metrics of the process, and the place where those of all stages come together.

use std::collections::BTreeMap;

use hookline_model::time::Clock;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;
use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntCounterVec, Opts, Registry, TextEncoder};

use crate::tasks::Kind;

/// The metrics of this process.
pub(crate) struct Metrics {
    own: Registry,
    process: Process,
    panics: IntCounterVec,
    stages: Mutex<BTreeMap<Kind, Registry>>,
}

struct Process {
    memory: Gauge,
    memory_peak: Gauge,
    cpu: Counter,
    files: Gauge,
    files_limit: Gauge,
}

impl Metrics {
    /// The process's own ones; stages add theirs.
    ///
    /// # Errors
    /// When two have one name.
    pub(crate) fn new(clock: &dyn Clock) -> Result<Self, prometheus::Error> {
        let own = Registry::new();
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            own.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let build = Opts::new(
            "hookline_build_info",
            "Always 1; the labels say what is running.",
        )
        .const_label("version", env!("CARGO_PKG_VERSION"));
        let build = prometheus::IntGauge::with_opts(build)?;
        build.set(1);
        own.register(Box::new(build))?;
        let started = gauge(
            "hookline_process_start_time_seconds",
            "When the process started, in seconds since 1970.",
        )?;
        #[expect(clippy::cast_precision_loss, reason = "good for 285,000 years")]
        started.set(clock.now().0 as f64 / 1000.0);
        let cpu = Counter::new(
            "hookline_process_cpu_seconds_total",
            "Processor time used, user and system.",
        )?;
        own.register(Box::new(cpu.clone()))?;
        let panics = IntCounterVec::new(
            Opts::new(
                "hookline_process_task_panics_total",
                "Panics of tasks. Each is a bug.",
            ),
            &["task"],
        )?;
        own.register(Box::new(panics.clone()))?;
        let process = Process {
            memory: gauge("hookline_process_resident_memory_bytes", "Memory in use.")?,
            memory_peak: gauge(
                "hookline_process_resident_memory_peak_bytes",
                "Most memory ever in use.",
            )?,
            cpu,
            files: gauge("hookline_process_open_files", "Open files and sockets.")?,
            files_limit: gauge("hookline_process_open_files_limit", "How many may be open.")?,
        };
        Ok(Self {
            own,
            process,
            panics,
            stages: Mutex::default(),
        })
    }

    /// Counts panics, by task.
    pub(crate) fn panics(&self) -> IntCounterVec {
        self.panics.clone()
    }

    /// The registry of the process itself.
    pub(crate) fn own(&self) -> &Registry {
        &self.own
    }

    /// An empty registry for a start of `kind`, in place of the one of its last start: counters begin again, as after a restart of the
    /// process.
    pub(crate) fn stage(&self, kind: Kind) -> Registry {
        let fresh = Registry::new();
        self.stages.lock().insert(kind, fresh.clone());
        fresh
    }

    /// All metrics, families of one name joined.
    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.process.measure();
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        let stages: Vec<_> = self.stages.lock().values().cloned().collect();
        for family in std::iter::once(&self.own)
            .chain(&stages)
            .flat_map(Registry::gather)
        {
            match families.get_mut(family.name()) {
                Some(there) => there
                    .mut_metric()
                    .extend(family.get_metric().iter().cloned()),
                None => drop(families.insert(family.name().to_owned(), family)),
            }
        }
        families.into_values().collect()
    }

    /// All metrics in the text format.
    ///
    /// # Errors
    /// When a metric cannot be written down, which is a bug.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.gather())
    }
}

impl Process {
    fn measure(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |field: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|kib| kib.parse::<f64>().ok())
                .map_or(0.0, |kib| kib * 1024.0)
        };
        self.memory.set(bytes("VmRSS:"));
        self.memory_peak.set(bytes("VmHWM:"));
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let micros = (usage.user_time() + usage.system_time()).num_microseconds();
            #[expect(clippy::cast_precision_loss, reason = "good for 285 years")]
            let seconds = micros as f64 / 1e6;
            // Two scrapes at once may see each other's times; a counter never goes back.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(files.count() as f64);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52, or unlimited")]
        if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.files_limit.set(limit as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_starts_again_replaces_its_metrics_and_equal_names_are_joined() {
        let metrics = Metrics::new(&crate::clock::SystemClock).expect("valid");
        let lag = |kind, topic: &str| {
            let gauge = prometheus::IntGaugeVec::new(Opts::new("hookline_lag", "lag"), &["topic"])
                .expect("valid");
            metrics
                .stage(kind)
                .register(Box::new(gauge.clone()))
                .expect("new");
            gauge.with_label_values(&[topic]).set(1);
        };
        lag(Kind::Fanout, "old");
        lag(Kind::Fanout, "events");
        lag(Kind::Tiers, "retry.1s");
        let text = metrics.text().expect("text");
        assert_eq!(text.matches("# TYPE hookline_lag").count(), 1);
        assert!(text.contains("hookline_lag{topic=\"events\"} 1"));
        assert!(text.contains("hookline_lag{topic=\"retry.1s\"} 1"));
        assert!(!text.contains("old"));
        assert!(text.contains("hookline_build_info{version="));
        assert!(text.contains("hookline_process_cpu_seconds_total"));
    }
}
