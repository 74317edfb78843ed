//! A process is killed at every stage of its work, one after another, each time in mid-stream: nothing is lost, what is repeated is what
//! was under way, and the next process is not stuck.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use hookline_model::wire::Outcome;
use hookline_tests::oracle::lives::Kind;
use hookline_tests::oracle::{Hook, Oracle, Verdict};
use hookline_tests::program::{Engine, Program, Start};
use hookline_tests::receiver::Received;
use hookline_tests::say;
use hookline_tests::wait::at_least;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::{ALL, Run, worker};

/// How long a process may take from its start to its end at a fail point: it may have to wait for a session to run out before it works.
const DIES_WITHIN: Duration = Duration::from_secs(30);
/// Events a second until it dies.
const RATE: f64 = 50.0;
/// Enough that half of a request ends within the body.
const PAYLOAD: usize = 3000;

/// What brings a process to a fail point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its work.
    Work,
    /// A second process that joins.
    Joining,
    /// Being asked to stop.
    Stopping,
}

use By::{Joining, Stopping, Work};

/// Stage of the reliability matrix, fail point, how often it is passed before the process dies there, and what brings it there.
type Stage = (&'static str, &'static str, usize, By);

/// Where events become deliveries, and where retries wait.
const FANOUT_AND_TIERS: &[Stage] = &[
    ("k04", "fanout-polled", 15, Work),
    ("k05", "fanout-handed", 31, Work),
    ("k05", "fanout-acknowledged", 31, Work),
    ("k15", "fanout-committed", 4, Work),
    ("k17", "tiers-taken", 10, Work),
    ("k17", "tiers-handed", 10, Work),
    ("k17", "tiers-acknowledged", 10, Work),
    ("k17", "tiers-committed", 3, Work),
    ("k18", "fanout-revoked", 0, Joining),
    ("k19", "fanout-draining", 0, Stopping),
    ("k20", "fanout-reading-back", 0, Work),
];

/// From the decision to send to a checkpoint that says so.
const SENDING: &[Stage] = &[
    ("k06", "dispatch-started", 40, Work),
    ("k07", "client-connected", 2, Work),
    ("k08", "client-half-written", 40, Work),
    ("k09", "client-written", 40, Work),
    ("k10", "client-head-read", 40, Work),
    ("k11", "dispatch-judged", 40, Work),
    ("k12", "dispatch-record-handed", 40, Work),
    ("k13", "dispatch-record-stored", 40, Work),
    ("k14", "dispatch-checkpoint-handed", 3, Work),
    ("k14", "dispatch-checkpoint-stored", 3, Work),
    ("k15", "dispatch-committed", 4, Work),
];

/// What follows from an attempt; gaining and losing partitions; beginning and ending.
const FOLLOWING_AND_CHANGING: &[Stage] = &[
    ("k16", "dispatch-following", 20, Work),
    ("k16", "dispatch-follow-handed", 20, Work),
    ("k16", "dispatch-followed", 20, Work),
    ("k18", "dispatch-assigned", 0, Work),
    ("k18", "dispatch-revoked", 0, Joining),
    ("k19", "dispatch-draining", 0, Stopping),
    ("k19", "dispatch-drained", 0, Stopping),
    ("k20", "registry-reading", 0, Work),
    ("k20", "takeover-checkpoint-read", 0, Work),
    ("k20", "takeover-claimed", 0, Work),
    ("k20", "takeover-read-back", 0, Work),
];

both_engines!(
    killed_while_events_fan_out_or_retries_wait,
    killed_while_sending,
    killed_while_following_up_starting_or_stopping,
);

async fn killed_while_events_fan_out_or_retries_wait(engine: Engine) {
    killed_at_each(engine, FANOUT_AND_TIERS).await;
}

async fn killed_while_sending(engine: Engine) {
    let verdict = killed_at_each(engine, SENDING).await;
    assert!(
        verdict.repeats.len() >= 5,
        "killed with requests under way, some are made again: {}",
        verdict.summary()
    );
}

async fn killed_while_following_up_starting_or_stopping(engine: Engine) {
    killed_at_each(engine, FOLLOWING_AND_CHANGING).await;
}

fn hooks() -> Vec<Hook> {
    vec![
        Hook::new("quick", "/ok/quick"),
        Hook::new("other", "/ok/other").data(),
        Hook::new("slow", "/slow/30/slow"),
        Hook::new("second", "/until/2/second")
            .delivered_at(2, "retry: {jitter: 0, schedule: {list: [1s]}}"),
        Hook::new("place", "/until/3/place").delivered_at(
            3,
            "retry: {jitter: 0, schedule: {fixed: {delay: 200ms, times: 3}}}",
        ),
        Hook::new("dead", "/status/500/dead").ends_at(
            2,
            Outcome::Exhausted,
            "retry: {jitter: 0, schedule: {list: [300ms]}}",
        ),
    ]
}

/// Nothing is lost whatever stage a process is killed at, and the next one is not stuck.
async fn killed_at_each(engine: Engine, stages: &[Stage]) -> Verdict {
    let oracle = Oracle::new(fastrand::u64(..1 << 32), hooks()).with_payloads_of(PAYLOAD);
    let run = Run::of(engine, oracle).await;
    // A first start has nothing to read back, so it is an orderly one.
    let first = run.start(&worker("first", ALL)).await;
    run.is_not_stuck().await;
    assert!(first.stop().await.success());
    let mut died = 0;
    for (stage, point, after, by) in stages {
        if engine == Engine::Embedded && *by == Joining {
            // One process holds the data: there is nobody to join it.
            continue;
        }
        let begun = Instant::now();
        let victim = worker(&format!("{stage}-{point}"), ALL).dies_at(point, *after);
        let next = worker(&format!("after-{point}"), ALL);
        let next = dies(&run, &victim, *after, *by, &next).await;
        died += 1;
        let at = begun.elapsed();
        run.is_not_stuck().await;
        assert!(next.stop().await.success());
        say(&format!(
            "{stage} {point}: dead and replaced after {at:.1?}, everything delivered and stopped after {:.1?}",
            begun.elapsed()
        ));
    }
    assert!(died >= stages.len() - 1, "{died} stages");
    // On the embedded engine the log is read through a process that runs.
    let last = run.start(&worker("last", ALL)).await;
    let verdict = run.judged().await;
    assert!(last.stop().await.success());
    assert!(verdict.accepted > 2 * died, "{}", verdict.summary());
    assert_eq!(run.lives.faults(Kind::Killed), died);
    verdict
}

/// Starts the victim and brings it to its fail point while events come in, and starts the next process.
async fn dies(run: &Run, victim: &Start, after: usize, by: By, next: &Start) -> Program {
    let mut victim = run.spawn(victim);
    // A broker takes events although nobody runs yet; the embedded engine takes them through the process, which must have got so far.
    let stream = match (run.site.engine(), after, by) {
        (Engine::Embedded, 0, Work) => None,
        (Engine::Embedded, ..) => {
            victim.wait_until_ready().await;
            Some(run.publisher().await.stream(RATE))
        }
        (Engine::Kafka, ..) => Some(run.publisher().await.stream(RATE)),
    };
    if by != Work {
        victim.wait_until_ready().await;
        delivers(run, &victim).await;
    }
    let joined = match by {
        Joining => Some(run.start(next).await),
        Stopping => {
            victim.ask_to_stop();
            None
        }
        Work => None,
    };
    let status = run.lives.died(victim, DIES_WITHIN).await;
    assert_eq!(
        status.signal(),
        Some(Signal::SIGABRT as i32),
        "it ended at its fail point: {status}"
    );
    if let Some(stream) = stream {
        // On the embedded engine it ended with the process.
        drop(stream.finish(DIES_WITHIN).await);
    }
    match joined {
        Some(next) => next,
        None => run.start(next).await,
    }
}

/// Waits until the process has partitions and sends.
async fn delivers(run: &Run, program: &Program) {
    let of = |requests: &[Received]| {
        let name = Some(program.name());
        let sent = requests
            .iter()
            .filter(|r| r.header("hookline-worker") == name);
        sent.count()
    };
    at_least("requests of the victim", 50, DIES_WITHIN, || {
        run.receiver.journal(of)
    })
    .await;
}
