//! A judge that passed everything would make every promise look kept: each of these runs has one thing wrong with it.

use std::collections::HashMap;
use std::time::Duration;

use hookline_model::ids::{DeliveryId, Position, WebhookUid};
use hookline_model::time::Millis;

use super::lives::{Fault, Kind, Life};
use super::log::{Attempt, Claim, Dead, Log};
use super::*;

mod order;

/// A run that kept its promises: two events, one webhook that takes them at once and one that does so at the second attempt. Process `a`
/// was killed at 500 with one request under way, which `b` made again.
struct Run {
    oracle: Oracle,
    lives: lives::Lives,
    log: Log,
    requests: Vec<Received>,
    max_in_flight: usize,
}

const KILLED: i64 = 500;

fn request(
    oracle: &Oracle,
    hook: usize,
    event: usize,
    attempt: u32,
    worker: &str,
    at: i64,
) -> Received {
    let hook = &oracle.hooks[hook];
    let number = attempt.to_string();
    let mut headers = vec![
        ("webhook-id", id(hook, &oracle.event(event)).to_string()),
        ("hookline-attempt", number),
        ("hookline-worker", worker.to_owned()),
    ];
    if hook.ordered.is_some() {
        headers.push(("hookline-lane", format!("{}-lane", hook.name)));
        headers.push(("hookline-sequence", (event * 8192).to_string()));
    }
    let after = |at: i64| Duration::from_millis(u64::try_from(at).expect("positive"));
    Received {
        at: tokio::time::Instant::now() + after(at),
        wall: Millis(at),
        method: "POST".to_owned(),
        path: format!("{}x", hook.path),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        body: oracle.event(event).body(hook.form).into(),
        answered: if attempt < hook.attempts { 500 } else { 200 },
        answered_at: Some(tokio::time::Instant::now() + after(at + 5)),
    }
}

fn id(hook: &Hook, event: &Event) -> DeliveryId {
    let uid = WebhookUid::from_slice(&[hook.name.as_bytes()[0]; 16]).expect("16 bytes");
    DeliveryId::derive(PROJECT, SOURCE, &event.id, uid)
}

fn attempt(
    oracle: &Oracle,
    hook: usize,
    event: usize,
    number: u32,
    epoch: u64,
    at: i64,
) -> Attempt {
    let (hook, event) = (&oracle.hooks[hook], oracle.event(event));
    let last = number == hook.attempts;
    Attempt {
        partition: 0,
        ticket: Position::at(u64::try_from(at).expect("positive")),
        epoch,
        at: Millis(at),
        delivery: id(hook, &event),
        run: 0,
        number,
        webhook: hook.name.clone(),
        origin: (PROJECT.to_owned(), SOURCE.to_owned()),
        event: event.id,
        outcome: if last {
            hook.ends
        } else {
            wire::Outcome::Failed
        },
        status: if last { 200 } else { 500 },
        exchanged: true,
    }
}

fn claim(epoch: u64, pid: i32, at: i64) -> Claim {
    Claim {
        partition: 0,
        epoch,
        worker: format!("some-host-{pid}"),
        at: Millis(at),
    }
}

fn life(name: &str, pid: i32, faults: Vec<Fault>) -> Life {
    Life::fabricated(name, pid, faults)
}

fn run() -> Run {
    run_with(vec![
        Hook::new("ok", "/ok/a"),
        Hook::new("second", "/until/2/b").data().delivered_at(2, ""),
    ])
}

fn run_with(hooks: Vec<Hook>) -> Run {
    seeded(7, hooks)
}

fn seeded(seed: u64, hooks: Vec<Hook>) -> Run {
    let oracle = Oracle::new(seed, hooks);
    for _ in 0..2 {
        let event = oracle.hand_out();
        oracle.accepted(event.number);
    }
    let killed = Fault {
        kind: Kind::Killed,
        from: Millis(KILLED),
        to: Millis(KILLED + 1),
        over: None,
    };
    let lives = lives::Lives::default();
    lives.fabricate(life("a", 11, vec![killed]));
    lives.fabricate(life("b", 12, vec![]));
    let (o, mut log) = (&oracle, Log::default());
    log.claims = vec![claim(1, 11, 100), claim(2, 12, 600)];
    log.attempts = vec![
        attempt(o, 0, 0, 1, 1, 201),
        attempt(o, 1, 0, 1, 1, 202),
        attempt(o, 0, 1, 1, 2, 701),
        attempt(o, 1, 1, 1, 2, 702),
        attempt(o, 1, 0, 2, 2, 801),
        attempt(o, 1, 1, 2, 2, 802),
    ];
    let requests = vec![
        request(o, 0, 0, 1, "a", 200),
        request(o, 1, 0, 1, "a", 200),
        request(o, 0, 1, 1, "a", 499),
        request(o, 0, 1, 1, "b", 700),
        request(o, 1, 1, 1, "b", 700),
        request(o, 1, 0, 2, "b", 800),
        request(o, 1, 1, 2, "b", 800),
    ];
    Run {
        oracle,
        lives,
        log,
        requests,
        max_in_flight: 1,
    }
}

fn judged(run: &Run) -> Verdict {
    run.oracle.judge(Evidence {
        requests: &run.requests,
        log: &run.log,
        lives: &run.lives,
        max_in_flight: run.max_in_flight,
    })
}

#[track_caller]
fn found(what: &str, change: impl FnOnce(&mut Run)) {
    found_in(run(), what, change);
}

#[track_caller]
fn found_in(mut run: Run, what: &str, change: impl FnOnce(&mut Run)) {
    change(&mut run);
    let verdict = judged(&run);
    assert!(
        verdict.violations.iter().any(|v| v.contains(what)),
        "{what:?} was to be found: {:#?}",
        verdict.violations
    );
}

#[test]
fn a_run_that_kept_its_promises_passes() {
    let verdict = judged(&run());
    verdict.assert_kept();
    assert_eq!((verdict.accepted, verdict.deliveries), (2, 4));
    assert_eq!((verdict.attempts, verdict.requests), (6, 7));
    assert_eq!(verdict.repeats_of(Kind::Killed), 1);
    assert_eq!((verdict.repeats[0].hook, verdict.repeats[0].event), (0, 1));
}

#[test]
fn what_is_lost_is_found() {
    found("is lost for ok", |run| {
        run.log.attempts.remove(2);
        run.requests.retain(|r| {
            r.wall != Millis(499) && !(r.wall == Millis(700) && r.path.starts_with("/ok"))
        });
    });
    found("is lost for second", |run| {
        run.log.attempts.retain(|a| a.webhook != "second");
        run.requests.retain(|r| r.path.starts_with("/ok"));
    });
    found("it is not over", |run| {
        run.log.attempts.pop();
        run.requests.pop();
    });
}

#[test]
fn what_was_given_up_must_be_in_dead_and_nothing_else() {
    let exhausted = |run: &mut Run| {
        run.oracle.hooks[0].ends = wire::Outcome::Exhausted;
        for attempt in run.log.attempts.iter_mut().filter(|a| a.webhook == "ok") {
            attempt.outcome = wire::Outcome::Exhausted;
            run.log.dead.push(Dead {
                partition: 0,
                ticket: attempt.ticket,
                delivery: attempt.delivery,
            });
        }
        // Written again by the next owner.
        run.log.dead.push(run.log.dead[0]);
    };
    let mut all = run();
    exhausted(&mut all);
    judged(&all).assert_kept();
    found("dead has {} of", |run| {
        exhausted(run);
        run.log.dead.retain(|dead| dead.ticket != Position::at(201));
    });
    found("dead has {(0, Position", |run| {
        exhausted(run);
        run.log.dead[0].ticket = Position::at(9);
    });
    found("dead has {(0, Position", |run| {
        exhausted(run);
        run.log.dead[0].delivery = run.log.attempts[1].delivery;
    });
}

#[test]
fn an_event_that_is_perhaps_there_may_be_missing_but_not_in_part() {
    let mut all = run();
    drop(all.oracle.hand_out());
    judged(&all).assert_kept();
    let event = attempt(&all.oracle, 0, 2, 1, 2, 900);
    all.log.attempts.push(event);
    all.requests.push(request(&all.oracle, 0, 2, 1, "b", 899));
    let verdict = judged(&all);
    assert!(
        verdict.violations[0].contains("event 2 (Perhaps) is lost for second"),
        "{:?}",
        verdict.violations
    );
}

#[test]
fn what_nobody_published_is_found() {
    found("for what nobody published", |run| {
        run.log.attempts[0].event = "7-99".to_owned();
    });
    found("for what nobody published", |run| {
        run.log.attempts[0].origin.0 = "other".to_owned();
    });
    found("never handed out", |run| {
        run.requests[0].body = b"{\"event\":99}".to_vec().into();
    });
    found("not byte for byte", |run| {
        let body = String::from_utf8_lossy(&run.requests[0].body).replace("\"z\"", "\"Z\"");
        run.requests[0].body = body.into();
    });
}

#[test]
fn attempts_that_do_not_count_up_are_found() {
    found("do not count 1, 2", |run| run.log.attempts[1].number = 2);
    found("do not count 1, 2", |run| {
        let again = run.log.attempts[0].clone();
        run.log.attempts.insert(1, again);
    });
    found("went on after it was over", |run| {
        run.log.attempts[1].outcome = wire::Outcome::Delivered;
    });
    found("policy says otherwise", |run| {
        run.log.attempts[0].outcome = wire::Outcome::Exhausted;
    });
}

#[test]
fn wire_and_log_that_differ_are_found() {
    found("exactly one request", |run| {
        run.requests.remove(0);
    });
    found("exactly one request", |run| run.requests[0].answered = 503);
    found("is not in the log", |run| {
        let third = request(&run.oracle, 1, 0, 3, "b", 900);
        run.requests.push(third);
    });
    found("webhook-id is not that of its delivery", |run| {
        let other = run.requests[1].headers[0].clone();
        run.requests[0].headers[0] = other;
    });
}

#[test]
fn a_repeat_that_nothing_excuses_is_found() {
    // Nothing happened to the process.
    found("nothing excuses it", |run| {
        run.lives = lives::Lives::default();
        run.lives.fabricate(life("a", 11, vec![]));
        run.lives.fabricate(life("b", 12, vec![]));
    });
    // It happened after somebody else had claimed the partition already.
    found("nothing excuses it", |run| {
        run.log.claims[1].at = Millis(400)
    });
    // One owner made it twice.
    found("exactly one request", |run| {
        let again = run.requests[0].clone();
        run.requests.push(again);
    });
    // A later owner made what had been recorded: the mirror image of what is allowed.
    found("nothing excuses it", |run| {
        let again = request(&run.oracle, 0, 0, 1, "b", 750);
        run.requests.push(again);
    });
    // More than could be in flight.
    found("at most 1 could be in flight", |run| {
        let another = request(&run.oracle, 1, 1, 1, "a", 499);
        run.requests.push(another);
    });
    found("had never claimed", |run| run.requests[0].wall = Millis(99));
    found("unknown process", |run| {
        run.requests[0].headers[2].1 = "c".to_owned();
    });
}

#[test]
fn payloads_follow_from_the_seed_and_are_json_on_one_line() {
    let (one, same, other) = (
        Oracle::new(1, vec![]),
        Oracle::new(1, vec![]),
        Oracle::new(2, vec![]).with_payloads_of(5000),
    );
    let mut types = HashMap::<_, usize>::new();
    for number in 0..300 {
        let event = one.event(number);
        assert_eq!(event, same.event(number));
        assert_ne!(event.data, other.event(number).data);
        assert!(other.event(number).data.len() >= 5000);
        assert!(!event.document().contains('\n'));
        let parsed: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!(parsed["event"], number);
        assert_eq!(
            number_in(event.body(Form::Standard).as_bytes()),
            Some(number)
        );
        assert_eq!(number_in(event.body(Form::Data).as_bytes()), Some(number));
        *types.entry(event.event_type).or_default() += 1;
    }
    assert_eq!(types.len(), TYPES.len());
}

#[test]
fn a_process_tells_of_its_losses() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("serve.log");
    let said = "2026-01-02T03:04:05.250000Z  WARN hookline_dispatch::stage: partitions were lost count=2\n\
                2026-01-02T03:04:06.000000Z  INFO hookline_dispatch::stage: partition drained partition=1\n";
    std::fs::write(&log, said).expect("written");
    let mut life = life("a", 11, vec![]);
    life.log = log;
    let faults = life.faults();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].kind, Kind::Lost);
    assert_eq!(faults[0].to.to_rfc3339(), "2026-01-02T03:04:05.250Z");
    assert_eq!(faults[0].to.since(faults[0].from), Duration::from_secs(10));
}
