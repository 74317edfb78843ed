//! A dispatcher is frozen for longer than its session (SIGSTOP), another one takes over, and then it goes on (SIGCONT) as if nothing had
//! happened: it must start nothing for what it has lost, nothing that it records counts, and it must not take anything back.

use std::time::Duration;

use hookline_model::time::Millis;
use hookline_tests::oracle::lives::Kind;
use hookline_tests::oracle::log::Log;
use hookline_tests::oracle::{Arrivals, Hook, Oracle, Verdict};
use hookline_tests::program::{Engine, Site, Start};
use hookline_tests::say;
use hookline_tests::wait::{at_least, eventually};
use tokio::time::sleep;

use super::{IN_FLIGHT, NOT_STUCK, Run, SESSION, worker};

/// Events a second.
const RATE: f64 = 200.0;
/// How the limited webhook is limited, and what lies between two requests to it then.
const LIMIT: &str = "rate_limit: 2/s";
const PERIOD: Duration = Duration::from_millis(500);
/// Which of the webhooks that one is.
const LIMITED: usize = 3;

fn hooks() -> Vec<Hook> {
    vec![
        Hook::new("quick", "/ok/quick").data(),
        // Some requests are under way all the time, and places are free.
        Hook::new("slow", "/slow/60/slow"),
        Hook::new("second", "/until/2/second")
            .only("email.message.clicked")
            .delivered_at(2, "retry: {jitter: 0, schedule: {list: [1s]}}"),
        // Something waits for it all the time, and almost never is a request about to be sent.
        Hook::new("limited", "/ok/limited")
            .only("email.message.clicked")
            .unhurried(LIMIT),
    ]
}

async fn keeps_up(run: &Run) {
    let mut arrivals = Arrivals::new(&run.oracle, &run.receiver);
    let few = || {
        let missing = arrivals.missing();
        let few =
            ["quick", "slow"].map(|hook| missing.get(hook).copied().unwrap_or(0) < IN_FLIGHT / 2);
        async move {
            if few == [true, true] {
                Ok(())
            } else {
                Err(missing)
            }
        }
    };
    eventually("it keeps up", NOT_STUCK, few).await;
}

/// When each claim of a process was appended.
fn claims(log: &Log, run: &Run, name: &str) -> Vec<Millis> {
    let lives = run.lives.all();
    let life = lives.iter().find(|life| life.name == name).expect("it ran");
    let claims = log.claims.iter().filter(|c| life.is(&c.worker));
    claims.map(|claim| claim.at).collect()
}

/// What became of a run with one that was frozen.
struct Thawed {
    verdict: Verdict,
    log: Log,
    /// When it went on.
    at: Millis,
    /// It met the claim of the other one.
    overtaken: bool,
}

/// A run in which the dispatcher `frozen` is frozen and goes on.
async fn frozen_and_thawed(run: &Run, frozen: &Start) -> Thawed {
    let rest = run.start(&worker("rest", "fanout,tiers")).await;
    let frozen = run.start(frozen).await;
    let stream = run.publisher().await.stream(RATE);
    run.sends(&frozen, Millis(0), 20).await;
    keeps_up(run).await;
    let limited = || run.receiver.count("/ok/limited");
    let before = limited();
    at_least(
        "requests to the limited one",
        before + 1,
        NOT_STUCK,
        limited,
    )
    .await;
    sleep(PERIOD / 4).await;
    run.lives.freeze(&frozen);
    let at = run.lives.all()[1].faults()[0];
    let other = run.start(&worker("other", "dispatch")).await;
    run.sends(&other, at.to, 20).await;
    let fresh = run.oracle.counts().0;
    let mut arrivals = Arrivals::new(&run.oracle, &run.receiver);
    let reached = || {
        let reached = arrivals.has_reached_the_prompt(fresh);
        async move { if reached { Ok(()) } else { Err(fresh) } }
    };
    eventually("a fresh event is delivered meanwhile", NOT_STUCK, reached).await;
    let log = Log::read(&run.site).await;
    assert_eq!(
        claims(&log, run, "frozen").len(),
        2,
        "it had both partitions"
    );
    assert_eq!(claims(&log, run, "other").len(), 2, "both were taken over");

    run.lives.thaw(&frozen);
    let thawed = run.lives.all()[1].faults()[0].over.expect("it goes on");
    // Whatever the thawed one does wrong it does now.
    sleep(SESSION * 2).await;
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    // What waits for the limited one may come now.
    let documents = run.oracle.documents(&run.receiver);
    run.site.apply(&documents.replace(LIMIT, "")).await;
    run.is_not_stuck().await;
    let overtaken = frozen.log().contains("a worker with the higher claim");
    for program in [frozen, other, rest] {
        assert!(program.stop().await.success());
    }
    let log = Log::read(&run.site).await;
    let verdict = run.judged_by(&log);
    assert!(
        verdict.repeats_of(Kind::Frozen) > 0,
        "frozen with requests under way, some are made again: {}",
        verdict.summary()
    );
    let late = verdict.repeats.iter().filter(|r| r.arrived >= thawed);
    assert!(
        late.clone().all(|repeat| repeat.hook != LIMITED),
        "it started something that it had no right to any more"
    );
    say(&format!(
        "{} requests came out after it went on",
        late.count()
    ));
    Thawed {
        verdict,
        log,
        at: thawed,
        overtaken,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_dispatcher_starts_nothing_when_it_goes_on() {
    let run = Run::new(Engine::Kafka, hooks()).await;
    frozen_and_thawed(&run, &worker("frozen", "dispatch")).await;
}

/// As when a machine was suspended: the client does not notice that time has passed, until the group tells it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_dispatcher_that_does_not_notice_neither_counts_nor_takes_anything_back() {
    const UNNOTICED: Duration = Duration::from_millis(2500);
    let run = Run::new(Engine::Kafka, hooks()).await;
    let frozen = worker("frozen", "dispatch").held_up_at("member-lost", UNNOTICED);
    let thawed = frozen_and_thawed(&run, &frozen).await;
    // Unless it met the other's claim before it came to recording anything.
    assert!(
        thawed.verdict.uncounted > 0 || thawed.overtaken,
        "what it recorded late counts for nobody: {}",
        thawed.verdict.summary()
    );
    let unnoticed = thawed.at..thawed.at.plus(UNNOTICED);
    let claims = claims(&thawed.log, &run, "frozen");
    assert!(
        !claims.iter().any(|claim| unnoticed.contains(claim)),
        "without the lease it claims nothing: it went on at {}, and claimed at {claims:?}",
        thawed.at
    );
}

/// Frozen as soon as it owns the partition, before it has stored anything: what it stores when it goes on is older than what the next owner has
/// stored, although it stands behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_owner_deletes_nothing_that_others_need() {
    const HELD: Duration = Duration::from_secs(4);
    const EVENTS: usize = 1500;
    let oracle = Oracle::new(
        fastrand::u64(..1 << 32),
        vec![Hook::new("quick", "/ok/quick")],
    );
    let run = Run::on(Site::sized(Engine::Kafka, 1, "").await, oracle).await;
    let rest = run.start(&worker("rest", "fanout,tiers")).await;
    let first = run.start(&worker("first", "dispatch")).await;
    run.publisher().await.publish(100).await;
    run.has_drained().await;
    assert!(first.stop().await.success());

    let frozen = worker("frozen", "dispatch")
        .held_up_at("takeover-read-back", HELD)
        .held_up_at("member-lost", HELD)
        .with("HOOKLINE_LOG__LEVEL", "info,hookline_dispatch=debug");
    let frozen = run.start(&frozen).await;
    let said = |what: &'static str| {
        let log = std::fs::read_to_string(frozen.log_file()).unwrap_or_default();
        async move { if log.contains(what) { Ok(()) } else { Err(log) } }
    };
    let claimed = || said("partition claimed");
    eventually("it claims the partition", NOT_STUCK, claimed).await;
    // There is nothing to read back, so it is held up a moment later.
    sleep(HELD / 8).await;
    run.lives.freeze(&frozen);
    let other = run.start(&worker("other", "dispatch")).await;
    run.publisher().await.publish(EVENTS).await;
    run.has_drained().await;
    let (journal, deliveries) = (run.site.journal().await, run.site.topic("deliveries"));
    let deleted = || async {
        let start = journal.start(&deliveries, 0).await.expect("a start");
        if start > 500 { Ok(()) } else { Err(start) }
    };
    eventually(
        "the next owner has deleted what it settled",
        NOT_STUCK,
        deleted,
    )
    .await;
    let progress = run.site.topic("progress");
    let stored = journal.end(&progress, 0).await.expect("an end");
    run.lives.thaw(&frozen);
    let goes_on = || said("partition taken over");
    eventually("it goes on", NOT_STUCK, goes_on).await;
    let stores = || async {
        let end = journal.end(&progress, 0).await.expect("an end");
        if end > stored { Ok(()) } else { Err(end) }
    };
    eventually("the late one stores progress", NOT_STUCK, stores).await;
    // What it does wrong it does now.
    sleep(Duration::from_secs(1)).await;
    run.lives.kill(other).await;
    assert!(frozen.stop().await.success());
    let next = run.start(&worker("next", "dispatch")).await;
    run.is_not_stuck().await;
    for program in [next, rest] {
        assert!(program.stop().await.success());
    }
    let verdict = run.judged().await;
    assert_eq!(verdict.accepted, 100 + EVENTS + 1);
}
