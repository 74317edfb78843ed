//! What the kernel says about a process, and small arithmetic on samples.

use std::fs;

/// Ticks of `/proc/PID/stat` a second; fixed on every Linux that matters.
const TICKS: f64 = 100.0;

/// Processor time of a process and its threads so far, in seconds.
pub(crate) fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in brackets and may hold blanks; utime and stime are the 14th and the 15th.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = after.split_whitespace().collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / TICKS
}

/// The most memory that a process ever held, in MiB.
pub(crate) fn peak_rss_mib(pid: i32) -> f64 {
    mib(pid, "VmHWM:")
}

/// The memory that a process holds now, in MiB.
pub(crate) fn rss_mib(pid: i32) -> f64 {
    mib(pid, "VmRSS:")
}

fn mib(pid: i32, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// What a process wrote so far, to files, sockets and pipes, in KiB.
pub(crate) fn written_kib(pid: i32) -> f64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar:"));
    let bytes = line.and_then(|bytes| bytes.trim().parse::<f64>().ok());
    bytes.unwrap_or(0.0) / 1024.0
}

/// Microseconds since 1970, comparable between the processes of one machine.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |span| {
        u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
    })
}

/// The middle and the far end of samples, in microseconds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl Spread {
    pub(crate) fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            let place =
                ((samples.len() as f64 * share) as usize).min(samples.len().saturating_sub(1));
            samples.get(place).copied().unwrap_or(0)
        };
        Self {
            count: samples.len(),
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// The one in the middle of an odd number of figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
