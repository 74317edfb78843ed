//! hookline under measurement: a release build as its own process, all roles, on the broker.

use std::time::Duration;

use hookline_journal::Appender;
use hookline_tests::broker::Broker;
use hookline_tests::program::{Engine, Program, Site, kafka_journal};
use tokio::time::Instant;

use crate::load::{event, publish_all, publish_at};
use crate::process::{Spread, cpu_seconds, peak_rss_mib};
use crate::receiver::{ReceiverProcess, Statistics};
use crate::{Scale, settle};

const PARTITIONS: u32 = 16;
/// Webhooks of the throughput run; each gets its share of the events.
const WEBHOOKS: usize = 64;
/// Longer than this between two looks without a new request means that nothing comes any more.
const SILENCE: Duration = Duration::from_secs(20);

/// What the throughput run gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throughput {
    pub(crate) rate: f64,
    pub(crate) cpu_us: f64,
    pub(crate) broker_cpu_us: f64,
    /// The share of the program's processor time that goes into checkpoints.
    pub(crate) checkpoints: f64,
}

/// What the run with retries gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TierFigures {
    pub(crate) lateness_p99_ms: f64,
    pub(crate) beyond: Spread,
    pub(crate) early: usize,
}

/// The program and what is around it.
pub(crate) struct Bench<'a> {
    site: Site,
    program: Program,
    receiver: &'a ReceiverProcess,
    appender: std::sync::Arc<dyn Appender>,
    topic: String,
}

impl<'a> Bench<'a> {
    pub(crate) async fn new(receiver: &'a ReceiverProcess) -> Self {
        let site = Site::sized(Engine::Kafka, PARTITIONS, "").await;
        let mut documents = String::new();
        let url = |path: &str| format!("http://{}{path}", receiver.address());
        for n in 0..WEBHOOKS {
            documents += &webhook(
                &format!("t{n}"),
                &format!("bench.t{n}"),
                &url(&format!("/hooks/{n}")),
                "",
            );
        }
        documents += &webhook("latency", "latency.one", &url("/hooks/latency"), "");
        let retry = "retry: {jitter: 0, schedule: {list: [1s]}}\n";
        documents += &webhook("retried", "retried.one", &url("/once/retried"), retry);
        site.apply(&documents).await;
        let program = site.start().await;
        let appender = kafka_journal("bench-load").appender("load").await;
        let topic = site.topic("events");
        Self {
            site,
            program,
            receiver,
            appender: appender.expect("a producer"),
            topic,
        }
    }

    /// Stops the program, publishes everything, starts it again and sees how fast it drains.
    pub(crate) async fn throughput(&self, scale: Scale) -> Throughput {
        // Once for warmth: connections, windows, pages.
        self.drain(scale.deliveries / 10, "w").await;
        settle().await;
        self.drain(scale.deliveries, "").await
    }

    async fn drain(&self, deliveries: usize, _round: &str) -> Throughput {
        drop(self.receiver.statistics().await);
        let pid = self.program.pid().as_raw();
        let broker = Broker::shared().pid().unwrap_or(0);
        let first = fastrand::usize(..1 << 40);
        let events = (0..deliveries).map(|n| event(&format!("bench.t{}", n % WEBHOOKS), first + n));
        let publishing = publish_all(&*self.appender, &self.topic, PARTITIONS, events);
        let watching = async {
            // The middle: neither the run-up nor the last stragglers.
            let mut seen = Tally::default();
            self.wait_for(&mut seen, deliveries / 5).await;
            let (begun, count) = (Instant::now(), seen.count);
            let cpu = (cpu_seconds(pid), cpu_seconds(broker));
            let checkpoints = self.checkpoint_seconds().await;
            self.wait_for(&mut seen, deliveries * 9 / 10).await;
            let done = (seen.count - count) as f64;
            let used = cpu_seconds(pid) - cpu.0;
            let figures = Throughput {
                rate: done / begun.elapsed().as_secs_f64(),
                cpu_us: used * 1e6 / done,
                broker_cpu_us: (cpu_seconds(broker) - cpu.1) * 1e6 / done,
                checkpoints: (self.checkpoint_seconds().await - checkpoints) / used,
            };
            self.wait_for(&mut seen, deliveries).await;
            figures
        };
        tokio::join!(publishing, watching).1
    }

    async fn checkpoint_seconds(&self) -> f64 {
        let name = "hookline_dispatch_checkpoint_seconds_total";
        self.program.metric(name, "").await
    }

    /// At a steady rate that leaves it half idle.
    pub(crate) async fn latency(&self, rate: u64, seconds: u64) -> Spread {
        settle().await;
        // The first second warms up.
        publish_at(&*self.appender, &self.topic, PARTITIONS, rate, 1, |n| {
            event("latency.one", n)
        })
        .await;
        settle().await;
        drop(self.receiver.statistics().await);
        let make = |n| event("latency.one", 1_000_000 + n);
        let count = publish_at(
            &*self.appender,
            &self.topic,
            PARTITIONS,
            rate,
            seconds,
            make,
        )
        .await;
        settle().await;
        let statistics = self.receiver.statistics().await;
        assert_eq!(statistics.count, count, "every event came, once");
        statistics.age
    }

    /// Every delivery fails once and is due again after a second.
    pub(crate) async fn tiers(&self, scale: Scale) -> TierFigures {
        drop(self.receiver.statistics().await);
        let count = scale.retries;
        let rate = LOAD_OF_RETRIES;
        let seconds = (count as u64).div_ceil(rate);
        let make = |n| event("retried.one", n);
        let sent = publish_at(
            &*self.appender,
            &self.topic,
            PARTITIONS,
            rate,
            seconds,
            make,
        )
        .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let statistics = self.receiver.statistics().await;
        assert_eq!(statistics.count, 2 * sent, "each came twice");
        let beyond = |us: u64| us.saturating_sub(1_000_000);
        let again = statistics.again;
        TierFigures {
            lateness_p99_ms: self.lateness_p99_ms().await,
            beyond: Spread {
                count: again.count,
                p50: beyond(again.p50),
                p99: beyond(again.p99),
                max: beyond(again.max),
            },
            early: statistics.early,
        }
    }

    /// The bound of the histogram's bucket below which 99 of 100 lie.
    async fn lateness_p99_ms(&self) -> f64 {
        let (_, text) = self
            .program
            .get("/metrics")
            .await
            .expect("/metrics answers");
        let buckets: Vec<(f64, f64)> = {
            let of = |line| bucket(line, "hookline_tiers_lateness_seconds_bucket");
            text.lines().filter_map(of).collect()
        };
        let all = buckets.iter().map(|(_, count)| *count).fold(0.0, f64::max);
        assert!(all > 0.0, "lateness was measured");
        let within = buckets.iter().filter(|(_, count)| *count >= 0.99 * all);
        within
            .map(|(bound, _)| *bound * 1000.0)
            .fold(f64::INFINITY, f64::min)
    }

    /// Stops the program; answers its peak memory in MiB.
    pub(crate) async fn finish(self) -> f64 {
        let memory = peak_rss_mib(self.program.pid().as_raw());
        assert!(self.program.stop().await.success(), "it stops gracefully");
        drop(self.site);
        memory
    }

    async fn wait_for(&self, seen: &mut Tally, count: usize) {
        let mut since = Instant::now();
        while seen.count < count {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if seen.add(&self.receiver.statistics().await) {
                since = Instant::now();
            }
            assert!(
                since.elapsed() < SILENCE,
                "{} of {count} came, then nothing",
                seen.count
            );
        }
    }
}

/// First attempts a second in the run with retries.
const LOAD_OF_RETRIES: u64 = 500;

#[derive(Default)]
struct Tally {
    count: usize,
}

impl Tally {
    /// Whether anything new came.
    fn add(&mut self, statistics: &Statistics) -> bool {
        self.count += statistics.count;
        statistics.count > 0
    }
}

/// One bucket of a histogram: its bound in seconds and how many lie below.
pub(crate) fn bucket(line: &str, name: &str) -> Option<(f64, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, count) = rest.rsplit_once(' ')?;
    let (_, bound) = labels.split_once("le=\"")?;
    let bound = bound.split('"').next()?;
    let bound = if bound == "+Inf" {
        f64::INFINITY
    } else {
        bound.parse().ok()?
    };
    Some((bound, count.parse().ok()?))
}

pub(crate) fn webhook(name: &str, event_type: &str, url: &str, more: &str) -> String {
    format!(
        "kind: Webhook\nproject: bench\nname: {name}\nurl: {url}\nevents: [\"{event_type}\"]\n{more}---\n"
    )
}
