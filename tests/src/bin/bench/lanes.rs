//! `make bench ARGS=lanes`: what the healthy notice of others' trouble, and what it costs to take a partition over.
//!
//! The healthy webhooks are measured alone, then once more while one webhook has a million sends waiting at an endpoint that takes 300 ms, thousands hang, and
//! one answers 500 for ever; all of it in one run, so that the ratios mean something on a noisy machine. Then the program is stopped with a great many
//! sends unsettled, and started again.

use std::collections::HashSet;
use std::time::Duration;

use hookline_journal::{ReadBudget, StoredRecord, read_until};
use hookline_model::ids::WebhookUid;
use hookline_model::wire;
use hookline_tests::program::{Engine, Program, Site};
use prost::Message as _;
use tokio::time::Instant;

use crate::healthy::{self, Healthy, PARTITIONS, SILENCE};
use crate::hookline::{bucket, webhook};
use crate::process::peak_rss_mib;
use crate::receiver::ReceiverProcess;
use crate::{Figure, Scale, print, say, settle};

/// How much trouble.
struct Trouble {
    waiting: usize,
    hanging: usize,
    failing: usize,
}

impl Trouble {
    fn of(scale: Scale) -> Self {
        if scale.deliveries >= Scale::FULL.deliveries {
            Self {
                waiting: 1_000_000,
                hanging: 5_000,
                failing: 20_000,
            }
        } else {
            Self {
                waiting: 50_000,
                hanging: 500,
                failing: 2_000,
            }
        }
    }
}

/// Events for each of the webhooks that hang: more than their windows take.
const HANGING_EVENTS: usize = 20;

pub(crate) async fn measure(scale: Scale) {
    say("hookline bench, lanes: real Kafka, one machine; this takes several minutes");
    let trouble = Trouble::of(scale);
    let receiver = ReceiverProcess::start().await;
    let site = Site::sized(Engine::Kafka, PARTITIONS, "").await;
    register(&site, &receiver, &trouble).await;
    let mut run = Healthy::at(site, &receiver).await;
    let program = run.site.start().await;
    say("the healthy alone …");
    run.drain(scale.deliveries / 4).await;
    settle().await;
    let alone = run.some_times(scale).await;
    say("trouble: a slow endpoint's backlog, hanging endpoints, one that fails for ever …");
    run.trouble(&trouble, &program).await;
    say("the healthy beside it …");
    let beside = run.some_times(scale).await;
    let memory = peak_rss_mib(program.pid().as_raw());
    let behind = program.metric("hookline_dispatch_lanes_behind", "").await;
    let scanned = program
        .metric("hookline_dispatch_scanned_bytes_total", "")
        .await;
    let live = program
        .metric("hookline_dispatch_live_bytes_total", "")
        .await;
    assert!(program.stop().await.success(), "it stops gracefully");
    say("what stands in `deliveries` …");
    let (sends, twice) = run.written().await;
    say("taking over …");
    let program = run.site.start().await;
    let takeover = run.takeover(&program).await;
    assert!(program.stop().await.success(), "it stops gracefully");

    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let mut figures = healthy::compared(&alone, &beside);
    figures.extend([
        Figure {
            name: "worker, peak RSS, MiB",
            value: format!("{memory:.0}"),
            aim: "≤ 256",
            met: Some(memory <= 256.0),
        },
        Figure::plain("lanes behind", format!("{behind:.0}")),
        Figure::plain(
            "read at the live edge; again, MiB",
            format!("{:.0}; {:.0}", mib(live), mib(scanned)),
        ),
        Figure {
            name: "sends from fan-out; written twice",
            value: format!("{sends}; {twice}"),
            aim: "0",
            met: Some(twice == 0),
        },
        Figure {
            name: "slowest takeover of a partition, s (histogram's bound)",
            value: format!("{takeover}"),
            aim: "≤ 2",
            met: Some(takeover <= 2.0),
        },
    ]);
    print(figures);
}

/// Registers the healthy and those that are in trouble.
async fn register(site: &Site, receiver: &ReceiverProcess, trouble: &Trouble) {
    let url = |path: &str| format!("http://{}{path}", receiver.address());
    let mut documents = healthy::webhooks(receiver);
    documents += &webhook("slow", "slow.one", &url("/slow/300"), "");
    documents += &webhook(
        "failing",
        "failing.one",
        &url("/fail"),
        "retry: {schedule: {fixed: {delay: 5s, times: unlimited}}}\n",
    );
    for n in 0..trouble.hanging {
        documents += &webhook(
            &format!("hang-{n}"),
            "hanging.all",
            &url("/hang"),
            "deadline: 15s\n",
        );
    }
    site.apply(&documents).await;
}

impl Healthy<'_> {
    /// Publishes it, and waits until fan-out has written all of it, the lanes have fallen behind, and the live edge has passed it.
    async fn trouble(&mut self, trouble: &Trouble, program: &Program) {
        self.publish(HANGING_EVENTS, |_| "hanging.all".to_owned())
            .await;
        self.publish(trouble.failing, |_| "failing.one".to_owned())
            .await;
        self.publish(trouble.waiting, |_| "slow.one".to_owned())
            .await;
        let (mut last, mut last_read) = (0, 0.0);
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let read = program.metric("hookline_dispatch_live_bytes_total", "");
            let read = read.await;
            let mut end = 0;
            for partition in 0..PARTITIONS {
                end += self
                    .journal
                    .end(&self.site.topic("deliveries"), partition)
                    .await
                    .expect("Kafka answers");
            }
            // Retries trickle in all the time; a million sends do not.
            if end < last + 2_000 && read < last_read + f64::from(8 << 20) {
                return;
            }
            (last, last_read) = (end, read);
        }
    }

    /// How many sends of fan-out stand in `deliveries`, and how many of them stand there more than once.
    async fn written(&self) -> (usize, usize) {
        let topic = self.site.topic("deliveries");
        let (mut sends, mut seen) = (0, HashSet::new());
        for partition in 0..PARTITIONS {
            let start = self
                .journal
                .start(&topic, partition)
                .await
                .expect("Kafka answers");
            let end = self
                .journal
                .end(&topic, partition)
                .await
                .expect("Kafka answers");
            let budget = ReadBudget::of(4 << 20);
            let mut reader = self
                .journal
                .reader(&topic, partition, start, budget)
                .await
                .expect("a reader");
            let each = |record: StoredRecord| {
                let record =
                    wire::Deliveries::decode(record.value.unwrap_or_default()).expect("ours");
                let Some(wire::source::Stream::Events(from)) =
                    record.source.and_then(|source| source.stream)
                else {
                    return;
                };
                for send in record.sends {
                    sends += 1;
                    let uid = WebhookUid::from_slice(&send.webhook_uid).expect("a uid");
                    seen.insert((from.partition, from.offset, uid));
                }
            };
            read_until(&mut *reader, end, each).await.expect("records");
        }
        (sends, sends - seen.len())
    }

    /// The bound of the histogram's bucket in which the slowest takeover lies.
    async fn takeover(&self, program: &Program) -> f64 {
        let deadline = Instant::now() + SILENCE;
        loop {
            let (_, text) = program.get("/metrics").await.expect("/metrics answers");
            let buckets: Vec<(f64, f64)> = text
                .lines()
                .filter_map(|line| bucket(line, "hookline_dispatch_takeover_seconds_bucket"))
                .collect();
            let all = buckets.iter().map(|(_, count)| *count).fold(0.0, f64::max);
            if all >= f64::from(PARTITIONS) {
                let whole = buckets.iter().filter(|(_, count)| *count >= all);
                return whole.map(|(bound, _)| *bound).fold(f64::INFINITY, f64::min);
            }
            assert!(
                Instant::now() < deadline,
                "{all} of {PARTITIONS} partitions were taken over"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
