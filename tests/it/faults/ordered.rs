//! Ordered lanes while workers are frozen, killed, joined and left: a send starts only when the one before it is final, whoever makes it; what
//! comes again is the head of a lane, once for each time that something happened to its worker; nothing is lost.
//!
//! All of that the judge looks at, lane by lane, as the receiver saw it.

use std::cell::Cell;
use std::time::Duration;

use hookline_model::time::{Clock as _, Millis};
use hookline_tests::oracle::lives::Kind;
use hookline_tests::oracle::{Hook, Oracle, Verdict};
use hookline_tests::program::{Engine, Program, Site, Start, SystemClock};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use tokio::time::{Instant, sleep};

use super::{ALL, NOT_STUCK, Run, SESSION, worker};
use crate::promises::assert_never_faster;

both_engines!(
    a_frozen_worker_puts_no_lane_out_of_order,
    workers_come_and_go_and_lanes_keep_their_order,
    a_rate_delays_and_neither_drops_nor_reorders,
);

/// What fails waits in its lane; one delivery in so many does so once.
const STUMBLES: u64 = 4;
const RETRY: &str = "retry: {jitter: 0, schedule: {list: [100ms, 1s]}}";
/// Events a second: so few for each lane that one which waits for each answer and each record keeps up on a slow disk, too.
const RATE: f64 = 30.0;

/// Lanes of both kinds that fail now and then, and some with requests under way all the time.
fn hooks() -> Vec<Hook> {
    vec![
        Hook::new("whole", "/hiccup/4/whole")
            .only("email.message.clicked")
            .stumbling(STUMBLES, RETRY)
            .ordered("webhook"),
        Hook::new("keyed", "/hiccup/4/keyed")
            .data()
            .stumbling(STUMBLES, RETRY)
            .ordered("key"),
        Hook::new("slow", "/slow/400/slow")
            .only("user.signup")
            .ordered("key"),
        Hook::new("beside", "/ok/beside"),
    ]
}

/// Freezes that one of the processes which just waits for answers. Says which, and when.
async fn freeze(run: &Run, programs: &[&Program]) -> (usize, Millis) {
    let waits = || {
        let name = run.receiver.journal(|requests| {
            let latest = requests.iter().rev().take(200);
            let mut open = latest.filter(|r| r.answered == 0 && r.path.starts_with("/slow"));
            let fresh = open.find(|r| r.at.elapsed() < Duration::from_millis(100));
            fresh.and_then(|r| r.header("hookline-worker").map(str::to_owned))
        });
        programs
            .iter()
            .position(|p| Some(p.name()) == name.as_deref())
    };
    let found = Cell::new(None);
    let look = async || {
        found.set(waits());
        if found.get().is_some() {
            Ok(())
        } else {
            Err(())
        }
    };
    eventually("a request is under way", NOT_STUCK, look).await;
    let which = found.get().expect("it was found");
    run.lives.freeze(programs[which]);
    (which, SystemClock.now())
}

async fn a_frozen_worker_puts_no_lane_out_of_order(engine: Engine) {
    let run = Run::new(engine, hooks()).await;
    let verdict = match engine {
        Engine::Kafka => frozen_in_turn(&run).await,
        Engine::Embedded => frozen_alone(&run).await,
    };
    assert_eq!(run.lives.faults(Kind::Frozen), 2);
    assert!(verdict.lanes > 10, "{}", verdict.summary());
}

/// Two dispatchers, each of which is frozen until the other one has taken over, and then goes on.
async fn frozen_in_turn(run: &Run) -> Verdict {
    let rest = run.start(&worker("rest", "fanout,tiers")).await;
    let first = run.start(&worker("first", "dispatch")).await;
    let stream = run.publisher().await.stream(RATE);
    run.sends(&first, Millis(0), 20).await;
    let (_, at) = freeze(run, &[&first]).await;
    let second = run.start(&worker("second", "dispatch")).await;
    run.sends(&second, at, 40).await;
    run.lives.thaw(&first);
    // Whatever it does wrong it does now; and it comes back, and shares.
    sleep(SESSION * 2).await;
    let both = [&first, &second];
    let (which, at) = freeze(run, &both).await;
    run.sends(both[1 - which], at, 40).await;
    run.lives.thaw(both[which]);
    sleep(SESSION * 2).await;
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    run.is_not_stuck().await;
    for program in [first, second, rest] {
        assert!(program.stop().await.success());
    }
    let verdict = run.judged().await;
    assert!(
        verdict.repeats_of(Kind::Frozen) > 0,
        "frozen with requests under way, some are made again: {}",
        verdict.summary()
    );
    verdict
}

/// One process that stands still for longer than its session, as when a machine is suspended; nobody takes over.
async fn frozen_alone(run: &Run) -> Verdict {
    let alone = run.start(&worker("alone", ALL)).await;
    let stream = run.publisher().await.stream(RATE);
    run.sends(&alone, Millis(0), 20).await;
    for _ in 0..2 {
        freeze(run, &[&alone]).await;
        sleep(SESSION + SESSION / 2).await;
        run.lives.thaw(&alone);
        run.sends(&alone, SystemClock.now(), 40).await;
    }
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    run.is_not_stuck().await;
    assert!(alone.stop().await.success());
    run.judged().await
}

/// Several webhooks of each kind, so that workers find some in their partitions.
fn many() -> Vec<Hook> {
    let mut hooks = hooks();
    for name in ["a", "b", "c"] {
        hooks.push(
            Hook::new(&format!("keyed-{name}"), &format!("/hiccup/4/more-{name}"))
                .only("user.signup")
                .stumbling(STUMBLES, RETRY)
                .ordered("key"),
        );
        hooks.push(
            Hook::new(&format!("whole-{name}"), &format!("/ok/whole-{name}"))
                .only("email.message.clicked")
                .ordered("webhook"),
        );
    }
    hooks
}

async fn workers_come_and_go_and_lanes_keep_their_order(engine: Engine) {
    let oracle = Oracle::new(fastrand::u64(..1 << 32), many());
    let run = Run::on(Site::sized(engine, 3, "").await, oracle).await;
    let verdict = match engine {
        Engine::Kafka => joined_and_left(&run).await,
        Engine::Embedded => one_after_the_other(&run).await,
    };
    assert_eq!(run.lives.faults(Kind::Killed), 1);
    assert_eq!(
        verdict.repeats_of(Kind::Killed),
        verdict.repeats.len(),
        "who joins, and who leaves gracefully, repeats nothing: {}",
        verdict.summary()
    );
    assert!(verdict.lanes > 30, "{}", verdict.summary());
}

/// With the session of a real installation: a busy machine does not end it.
fn roomy(name: &str) -> Start {
    Start::roles(ALL).named(name)
}

/// A second and a third worker join one that is at work; one leaves, and another one is killed.
async fn joined_and_left(run: &Run) -> Verdict {
    let a = run.start(&roomy("a")).await;
    let stream = run.publisher().await.stream(RATE);
    run.sends(&a, Millis(0), 50).await;
    let b = run.start(&roomy("b")).await;
    let c = run.start(&roomy("c")).await;
    for program in [&a, &b, &c] {
        let owns = async || match program.metric("hookline_dispatch_partitions", "").await {
            owned if owned >= 1.0 => Ok(()),
            owned => Err(owned),
        };
        eventually("it owns a partition", NOT_STUCK, owns).await;
    }
    more(run, 200).await;
    assert!(b.stop().await.success());
    more(run, 200).await;
    // That one of the two that does most, so that something is under way.
    let since = Millis(SystemClock.now().0 - 2_000);
    let (dies, stays) = if run.sent(&a, since) > run.sent(&c, since) {
        (a, c)
    } else {
        (c, a)
    };
    run.lives.kill(dies).await;
    more(run, 50).await;
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    run.is_not_stuck().await;
    assert!(stays.stop().await.success());
    run.judged().await
}

/// One process after the other on one directory: the first stops gracefully, the second is killed, both while lanes have much to send.
async fn one_after_the_other(run: &Run) -> Verdict {
    let first = run.start(&roomy("first")).await;
    run.publisher().await.publish(100).await;
    run.sends(&first, Millis(0), 50).await;
    assert!(first.stop().await.success());
    let second = run.start(&roomy("second")).await;
    run.publisher().await.publish(100).await;
    run.sends(&second, Millis(0), 50).await;
    run.lives.kill(second).await;
    let third = run.start(&roomy("third")).await;
    run.is_not_stuck().await;
    assert!(third.stop().await.success());
    run.judged().await
}

/// Waits for so many more requests.
async fn more(run: &Run, count: usize) {
    let all = || run.receiver.journal(<[_]>::len);
    let before = all();
    at_least("more requests", before + count, NOT_STUCK, all).await;
}

/// Requests a second, of the webhook in order and of the other.
const LIMITS: [u32; 2] = [10, 15];
const PATHS: [&str; 2] = ["/hiccup/4/lane", "/hiccup/4/loose"];
const LIMITED: usize = 50;

async fn a_rate_delays_and_neither_drops_nor_reorders(engine: Engine) {
    let [lane, loose] = LIMITS.map(|rate| format!("rate_limit: {rate}/s"));
    let hooks = vec![
        Hook::new("lane", PATHS[0])
            .stumbling(STUMBLES, RETRY)
            .ordered("webhook")
            .unhurried(&lane),
        Hook::new("loose", PATHS[1])
            .stumbling(STUMBLES, RETRY)
            .unhurried(&loose),
        Hook::new("beside", "/ok/beside"),
    ];
    let run = Run::new(engine, hooks).await;
    let first = run.start(&worker("first", ALL)).await;
    let begun = Instant::now();
    run.publisher().await.publish(LIMITED).await;
    let beside = || run.receiver.count("/ok/beside");
    at_least("beside", LIMITED, NOT_STUCK, beside).await;
    for path in PATHS {
        assert!(run.receiver.count(path) < LIMITED, "{path} waits");
    }
    let some = || run.receiver.count(PATHS[0]);
    at_least("requests in order", LIMITED / 4, NOT_STUCK, some).await;
    run.lives.kill(first).await;
    let second = run.start(&worker("second", ALL)).await;
    run.has_drained().await;
    run.is_not_stuck().await;
    assert!(second.stop().await.success());
    let verdict = run.judged().await;
    assert_eq!(verdict.accepted, LIMITED + 1);
    assert_at_most(&run.receiver, begun);
}

/// Neither webhook was sent more than its rate allows.
#[track_caller]
fn assert_at_most(receiver: &Receiver, begun: Instant) {
    /// What may have gathered, and what a killed worker had under way.
    const BURST: f64 = 6.0;
    // The next is sent only when the one before is answered, so that nothing can pile up on the way: that holds from any to any.
    assert_never_faster(&receiver.at(PATHS[0]), LIMITS[0]);
    // Of the other, what was sent in time may arrive late, but nothing early.
    for (count, request) in (1_u32..).zip(&receiver.at(PATHS[1])) {
        let allowed = (request.at - begun).as_secs_f64() * f64::from(LIMITS[1]) * 1.02 + BURST;
        assert!(
            f64::from(count) <= allowed,
            "{count} within {:?}",
            request.at - begun
        );
    }
}
