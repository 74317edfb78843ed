//! `make bench ARGS=order`: what ordered lanes cost that are held, and how fast a held one drains.
//!
//! The healthy webhooks are measured alone, then once more while ten thousand ordered lanes wait behind a head that failed, and one, which is paused,
//! has a million sends waiting; then that one is let go. All of it in one run, so that the ratios mean something on a noisy machine.

use std::time::Duration;

use hookline_tests::program::{Engine, Program, Site, Start};
use tokio::time::Instant;

use crate::healthy::{self, Healthy, PARTITIONS, SILENCE};
use crate::hookline::webhook;
use crate::process::peak_rss_mib;
use crate::receiver::ReceiverProcess;
use crate::{Figure, Scale, print, say};

/// Events for each of the lanes whose head fails.
const BEHIND_A_HEAD: usize = 3;
/// Resources of one file: fewer than it may have.
const AT_ONCE: usize = 4_000;

pub(crate) async fn measure(scale: Scale) {
    say("hookline bench, order: real Kafka, one machine; this takes several minutes");
    let full = scale.deliveries >= Scale::FULL.deliveries;
    let (blocked, waiting) = if full {
        (10_000, 1_000_000)
    } else {
        (1_000, 50_000)
    };
    let receiver = ReceiverProcess::start().await;
    let site = Site::sized(Engine::Kafka, PARTITIONS, "").await;
    register(&site, &receiver, blocked).await;
    let mut run = Healthy::at(site, &receiver).await;
    // The worker by itself: what the others hold in memory has nothing to do with lanes.
    let rest = Start::roles("ingest,history,jobs,api").beside("rest");
    let rest = run.site.start_with(&rest).await;
    let program = run.site.start_roles(Some("fanout,dispatch,tiers")).await;
    say("the healthy alone …");
    run.drain(scale.deliveries / 4).await;
    let alone = run.some_times(scale).await;
    say("lanes whose head fails, and one that is paused …");
    run.publish(BEHIND_A_HEAD, |_| "blocked.all".to_owned())
        .await;
    run.publish(waiting, |_| "held.one".to_owned()).await;
    let lanes = until_blocked(&program, blocked).await;
    say("the healthy beside them …");
    let beside = run.some_times(scale).await;
    let held_memory = peak_rss_mib(program.pid().as_raw());
    say("the paused one goes on …");
    drop(run.receiver.statistics().await);
    let read = async || {
        let read = program.metric("hookline_dispatch_scanned_bytes_total", "");
        read.await
    };
    let read_before = read().await;
    run.site.apply(&held(&receiver, "active")).await;
    let drained = until_drained(&receiver, waiting).await;
    let read_again = (read().await - read_before) / waiting as f64;
    let memory = peak_rss_mib(program.pid().as_raw());
    for program in [program, rest] {
        assert!(program.stop().await.success(), "it stops gracefully");
    }

    let mut figures = healthy::compared(&alone, &beside);
    figures.extend([
        Figure::plain("ordered lanes blocked by their head", format!("{lanes:.0}")),
        Figure::plain("sends held by one lane", format!("{waiting}")),
        Figure {
            name: "worker (fanout, dispatch, tiers), peak RSS while they are held, MiB",
            value: format!("{held_memory:.0}"),
            aim: "≤ 256",
            met: Some(held_memory <= 256.0),
        },
        Figure {
            name: "the held lane in batches, events/s",
            value: format!("{drained:.0}"),
            aim: "≥ 20000",
            met: Some(drained >= 20_000.0),
        },
        Figure::plain(
            "read of the log for it, bytes an event; MiB/s",
            format!(
                "{read_again:.0}; {:.1}",
                read_again * drained / f64::from(1 << 20)
            ),
        ),
        Figure::plain("worker, peak RSS at the end, MiB", format!("{memory:.0}")),
    ]);
    print(figures);
}

/// The ordered webhook that is paused at first.
fn held(receiver: &ReceiverProcess, state: &str) -> String {
    let url = format!("http://{}/batch", receiver.address());
    let more = format!(
        "ordered: true\nbody: array\nbatch: {{max_events: 1000, max_bytes: 1MiB, max_wait: 100ms}}\nstate: {state}\n"
    );
    webhook("held", "held.one", &url, &more)
}

/// Registers all of them.
async fn register(site: &Site, receiver: &ReceiverProcess, blocked: usize) {
    let mut documents = held(receiver, "paused") + &healthy::webhooks(receiver);
    let fails = format!("http://{}/fail", receiver.address());
    let waits = "ordered: true\nretry: {jitter: 0, schedule: {list: [10h]}}\n";
    for n in 0..blocked {
        documents += &webhook(&format!("blocked-{n}"), "blocked.all", &fails, waits);
        if n % AT_ONCE == 0 {
            site.apply(&std::mem::take(&mut documents)).await;
        }
    }
    site.apply(&documents).await;
}

/// Waits until every head has failed and everything has been read once.
async fn until_blocked(program: &Program, lanes: usize) -> f64 {
    let begun = Instant::now();
    let mut last_read = 0.0;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let blocked = program.metric("hookline_dispatch_lanes_blocked", "").await;
        let read = program
            .metric("hookline_dispatch_live_bytes_total", "")
            .await;
        if blocked >= lanes as f64 && read < last_read + f64::from(1 << 20) {
            return blocked;
        }
        last_read = read;
        let waited = begun.elapsed();
        assert!(
            waited < Duration::from_secs(300),
            "{blocked} of {lanes} are blocked"
        );
    }
}

/// Events a second, from the first batch to the last.
async fn until_drained(receiver: &ReceiverProcess, count: usize) -> f64 {
    let (mut seen, mut since, mut first) = (0, Instant::now(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let new = receiver.statistics().await;
        if new.batched > 0 {
            since = Instant::now();
            if first == 0 {
                first = new.batched_us.0;
            }
            seen += new.batched;
            if seen >= count {
                return count as f64 * 1e6 / (new.batched_us.1 - first) as f64;
            }
        }
        assert!(
            since.elapsed() < SILENCE,
            "{seen} of {count} came, then nothing"
        );
    }
}
