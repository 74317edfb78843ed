//! The rules of design section 7, case by case, and for arbitrary policies.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn policy(schedule: Schedule) -> RetryPolicy {
    RetryPolicy {
        schedule,
        jitter: 0.0,
        rest: None,
        max_age: None,
        success: Success::Any2xx,
        permanent: vec![PermanentRule {
            matches: vec!["410".parse().expect("match")],
            then: Then::Deactivate,
        }],
        on_exhausted: Then::Dead,
        retry_after: RetryAfter {
            honour: true,
            cap: 24 * HOUR,
        },
    }
}

fn facts(attempt: u32, answer: Answer) -> Facts {
    Facts {
        attempt,
        first_try: Millis(1_000_000),
        ended: Millis(1_000_000),
        answer,
        retry_after: None,
        draw: 0.0,
    }
}

/// The waits of a run in which every attempt fails, up to `max` of them.
fn waits(policy: &RetryPolicy, max: u32) -> Vec<Duration> {
    let retry = |attempt| match decide(policy, &facts(attempt, Answer::Status(500))) {
        Verdict::Retry { delay } => Some(delay),
        _ => None,
    };
    (1..=max).map_while(retry).collect()
}

fn list(seconds: &[u64]) -> Schedule {
    Schedule::List(seconds.iter().map(|s| Duration::from_secs(*s)).collect())
}

fn last(outcome: Outcome, then: Then) -> Verdict {
    Verdict::Final { outcome, then }
}

#[test]
fn times_are_retries_after_the_first_attempt() {
    let three = policy(Schedule::Fixed {
        delay: 5 * SECOND,
        times: Times::Limited(3),
    });
    assert_eq!(waits(&three, 99), [5 * SECOND; 3]);
    let end = decide(&three, &facts(4, Answer::Status(500)));
    assert_eq!(end, last(Outcome::Exhausted, Then::Dead));
    assert_eq!(three.attempts_max(), Some(4));
    assert_eq!(waits(&policy(list(&[1, 2])), 99), [SECOND, 2 * SECOND]);
    assert!(waits(&policy(list(&[])), 99).is_empty(), "no retry at all");
}

#[test]
fn growth_is_capped_and_may_go_on_for_ever() {
    let growing = policy(Schedule::Exponential {
        initial: MINUTE,
        factor: 2.0,
        cap: HOUR,
        times: Times::Unlimited,
    });
    let minutes: Vec<_> = waits(&growing, 9)
        .iter()
        .map(|w| w.as_secs() / 60)
        .collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    for attempt in [10_000, u32::MAX] {
        assert_eq!(growing.wait_after(attempt), Some(HOUR));
    }
    assert_eq!(growing.attempts_max(), None);
}

#[test]
fn after_a_rest_the_whole_schedule_comes_again() {
    let mut twice = policy(list(&[1, 2]));
    twice.rest = Some(Rest {
        after: HOUR,
        cycles: Times::Limited(2),
    });
    let cycle = [SECOND, 2 * SECOND];
    let want = [&cycle[..], &[HOUR], &cycle, &[HOUR], &cycle].concat();
    assert_eq!(waits(&twice, 99), want);
    assert_eq!(twice.attempts_max(), Some(9));
    assert_eq!(twice.wait_after(9), None);
    assert_eq!(
        twice.wait_after(10),
        None,
        "beyond the end there is nothing"
    );
    twice.rest = Some(Rest {
        after: HOUR,
        cycles: Times::Unlimited,
    });
    assert_eq!(twice.wait_after(3 * 1_000_000), Some(HOUR));
    assert_eq!(twice.wait_after(3 * 1_000_000 + 1), Some(SECOND));
    assert_eq!(policy(list(&[1, 2])).wait_after(4), None);
    assert_eq!(policy(list(&[1])).wait_after(0), Some(SECOND), "0 is as 1");
}

#[test]
fn permanent_rules_by_code_class_range_and_error_class() {
    let mut rules = policy(list(&[1]));
    let rule = |words: &[&str], then| PermanentRule {
        matches: words.iter().map(|w| w.parse().expect("match")).collect(),
        then,
    };
    rules.permanent = vec![
        rule(&["410", "tls_expired"], Then::Deactivate),
        rule(&["3xx", "400-407", "url_refused"], Then::Split),
        rule(&["4xx", "redirect"], Then::Hold),
    ];
    let verdict = |answer| decide(&rules, &facts(1, answer));
    for (answer, then) in [
        (Answer::Status(410), Then::Deactivate),
        (Answer::Failed(ErrorClass::TlsExpired), Then::Deactivate),
        (Answer::Status(302), Then::Split),
        (Answer::Status(407), Then::Split),
        (Answer::Failed(ErrorClass::UrlRefused), Then::Split),
        (Answer::Status(408), Then::Hold),
    ] {
        assert_eq!(verdict(answer), last(Outcome::Refused, then), "{answer:?}");
    }
    for answer in [
        Answer::Status(500),
        Answer::Status(101),
        Answer::Failed(ErrorClass::Blocked),
        Answer::Failed(ErrorClass::TlsUnknownCa),
    ] {
        let again = Verdict::Retry { delay: SECOND };
        assert_eq!(verdict(answer), again, "{answer:?}");
    }
    rules.permanent.clear();
    let url = decide(&rules, &facts(1, Answer::Failed(ErrorClass::UrlRefused)));
    assert_eq!(
        url,
        last(Outcome::Refused, Then::Dead),
        "without any rule too"
    );
}

#[test]
fn success_comes_before_everything() {
    let mut wanted = policy(list(&[]));
    wanted.max_age = Some(SECOND);
    let late = Facts {
        ended: Millis(i64::MAX),
        ..facts(u32::MAX, Answer::Status(204))
    };
    assert_eq!(decide(&wanted, &late), Verdict::Delivered);
    wanted.success = Success::Codes(vec![200, 410]);
    let verdict = |status| decide(&wanted, &facts(1, Answer::Status(status))).outcome();
    assert_eq!(verdict(410), Outcome::Delivered);
    assert_eq!(verdict(204), Outcome::Exhausted);
}

#[test]
fn retry_after_only_lengthens_only_429_and_503_and_up_to_its_cap() {
    let mut asked = policy(list(&[10]));
    asked.retry_after.cap = HOUR;
    let delay = |policy: &RetryPolicy, status, seconds| {
        let facts = Facts {
            retry_after: Some(Duration::from_secs(seconds)),
            ..facts(1, Answer::Status(status))
        };
        match decide(policy, &facts) {
            Verdict::Retry { delay } => delay.as_secs(),
            other => panic!("{other:?}"),
        }
    };
    for status in [429, 503] {
        for (seconds, want) in [(0, 10), (1, 10), (30, 30), (86_400, 3600), (u64::MAX, 3600)] {
            assert_eq!(delay(&asked, status, seconds), want, "{status} {seconds}");
        }
    }
    assert_eq!(delay(&asked, 500, 30), 10);
    asked.retry_after.honour = false;
    assert_eq!(delay(&asked, 503, 30), 10);
}

#[test]
fn too_old_is_decided_before_waiting() {
    let mut aged = policy(list(&[60, 60]));
    aged.max_age = Some(100 * SECOND);
    let at = |ended: i64| Facts {
        ended: Millis(1_000_000 + ended),
        ..facts(1, Answer::Status(500))
    };
    let again = Verdict::Retry { delay: MINUTE };
    assert_eq!(decide(&aged, &at(40_000)), again);
    assert_eq!(
        decide(&aged, &at(40_001)),
        last(Outcome::Expired, Then::Dead)
    );
    assert!(!expired(&aged, Millis(0), Millis(100_000)));
    assert!(expired(&aged, Millis(0), Millis(100_001)));
    assert!(!expired(&policy(list(&[])), Millis(0), Millis(i64::MAX)));
}

#[test]
fn what_a_rule_can_match_reads_back_as_written() {
    for text in ["410", "4xx", "400-407", "tls_expired", "too_many_1xx"] {
        let read: Match = text.parse().expect(text);
        assert_eq!(read.to_string(), text);
    }
    for bad in [
        "", "99", "600", "6xx", "0xx", "xx", "4x", "4XX", "407-400", "400-", "+10", "400-4000",
        "nope", "é",
    ] {
        assert!(bad.parse::<Match>().is_err(), "{bad}");
    }
}

#[test]
fn limits_name_the_field() {
    let fields = |policy: &RetryPolicy| -> Vec<String> {
        policy.check().into_iter().map(|e| e.field).collect()
    };
    assert!(fields(&policy(list(&[5, 300]))).is_empty());
    let mut bad = policy(list(&[1, 0, 30 * 24 * 3600 + 1]));
    bad.jitter = f64::NAN;
    bad.max_age = Some(Duration::ZERO);
    bad.success = Success::Codes(vec![200, 302, 99]);
    bad.permanent.push(PermanentRule {
        matches: vec![],
        then: Then::Dead,
    });
    bad.on_exhausted = Then::Split;
    bad.retry_after.cap = Duration::MAX;
    bad.rest = Some(Rest {
        after: Duration::ZERO,
        cycles: Times::Limited(u32::MAX),
    });
    assert_eq!(
        fields(&bad),
        [
            "schedule.list[1]",
            "schedule.list[2]",
            "jitter",
            "rest.after",
            "rest.cycles",
            "max_age",
            "success[1]",
            "success[2]",
            "permanent[1].match",
            "on_exhausted",
            "retry_after.cap",
        ]
    );
    for factor in [f64::NAN, f64::INFINITY, 0.5, -1.0, 1e300] {
        let growing = policy(Schedule::Exponential {
            initial: MINUTE,
            factor,
            cap: SECOND,
            times: Times::Unlimited,
        });
        let want = ["schedule.exponential.factor", "schedule.exponential.cap"];
        assert_eq!(fields(&growing), want, "{factor}");
    }
    let quick = Schedule::Fixed {
        delay: Duration::from_millis(10),
        times: Times::Unlimited,
    };
    assert_eq!(fields(&policy(quick)), ["schedule.fixed.delay"]);
}

fn any_times() -> impl Strategy<Value = Times> {
    prop_oneof![
        any::<u32>().prop_map(Times::Limited),
        Just(Times::Unlimited)
    ]
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let span = || any::<u64>().prop_map(Duration::from_millis);
    prop_oneof![
        (span(), any_times()).prop_map(|(delay, times)| Schedule::Fixed { delay, times }),
        proptest::collection::vec(span(), 0..5).prop_map(Schedule::List),
        (span(), any::<f64>(), span(), any_times()).prop_map(|(initial, factor, cap, times)| {
            Schedule::Exponential {
                initial,
                factor,
                cap,
                times,
            }
        }),
    ]
}

/// What matters is that the call came back.
fn survives<T>(_: T) {}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_is_earlier_than_the_schedule(
        schedule in any_schedule(),
        jitter in any::<f64>(),
        rest in proptest::option::of((any::<u64>(), any_times())),
        max_age in proptest::option::of(any::<u64>()),
        attempt in any::<u32>(),
        first in any::<i64>(),
        ended in any::<i64>(),
        asked in proptest::option::of(any::<u64>()),
        draw in any::<f64>(),
    ) {
        let mut any = policy(schedule);
        any.jitter = jitter;
        any.rest = rest.map(|(ms, cycles)| Rest { after: Duration::from_millis(ms), cycles });
        any.max_age = max_age.map(Duration::from_millis);
        let facts = Facts {
            attempt,
            first_try: Millis(first),
            ended: Millis(ended),
            answer: Answer::Status(503),
            retry_after: asked.map(Duration::from_secs),
            draw,
        };
        survives((any.check(), any.attempts_max()));
        if let Verdict::Retry { delay } = decide(&any, &facts) {
            prop_assert!(delay >= any.wait_after(attempt).expect("there is a retry"));
        }
    }

    #[test]
    fn jitter_only_adds_and_no_more_than_its_share(ms in 1u64..3_000_000_000, jitter in 0.0..=0.5f64, draw in 0.0..1.0f64) {
        let mut jittered = policy(Schedule::List(vec![Duration::from_millis(ms)]));
        jittered.jitter = jitter;
        let facts = Facts { draw, ..facts(1, Answer::Failed(ErrorClass::Timeout)) };
        let Verdict::Retry { delay } = decide(&jittered, &facts) else {
            panic!("no retry");
        };
        let wait = Duration::from_millis(ms);
        prop_assert!(delay >= wait && delay <= wait.mul_f64(1.0 + jitter) + Duration::from_millis(1));
    }

    #[test]
    fn a_run_ends_where_it_says(list in proptest::collection::vec(1u64..9, 0..6), cycles in proptest::option::of(0u32..5)) {
        let mut ending = policy(Schedule::List(list.iter().map(|s| Duration::from_secs(*s)).collect()));
        ending.rest = cycles.map(|c| Rest { after: HOUR, cycles: Times::Limited(c) });
        let made = waits(&ending, 1000).len() as u64 + 1;
        prop_assert_eq!(Some(made), ending.attempts_max());
    }

    #[test]
    fn retry_after_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[A-Za-z0-9 ,:-]{0,40}", now in any::<i64>()) {
        survives(parse_retry_after(&bytes, Millis(now)));
        survives(parse_retry_after(text.as_bytes(), Millis(now)));
    }
}
