//! Compares what was logged, and what came over the wire, with the table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hookline_model::limits::RESPONSE_BODY_KEPT;
use hookline_model::outcome::ErrorClass;
use hookline_tests::chaos::Script;
use serde_json::Value;

use super::cases::{Case, Expect};
use super::{ByEvent, Played};

/// How much longer than its deadline an attempt may seem to take on a busy machine.
const LATE: Duration = Duration::from_millis(1000);
/// Delays that are put together of others may be rounded up by this.
const ROUNDED: Duration = Duration::from_millis(1050);
/// The receiver reads its own clock.
const GRAIN: Duration = Duration::from_millis(2);

/// What an attempt must be logged as.
#[derive(Debug, Clone, Copy)]
struct Logged {
    outcome: &'static str,
    status: Option<u16>,
    classes: &'static [ErrorClass],
}

/// The classes that failed attempts may have.
pub(super) fn classes(expect: &Expect) -> &'static [ErrorClass] {
    match expect {
        Expect::Delivered(_) => &[],
        Expect::Status(300..=399) => &[ErrorClass::Redirect],
        Expect::Status(_) => &[ErrorClass::Status],
        Expect::Failed(classes) | Expect::SecondFailsOnce(classes) => classes,
    }
}

/// What must be logged for an event, in order.
fn expected(expect: &Expect, event: &str) -> Vec<Logged> {
    let delivered = |status| Logged {
        outcome: "delivered",
        status: Some(status),
        classes: &[],
    };
    let twice = |status, classes| {
        ["failed", "exhausted"]
            .map(|outcome| Logged {
                outcome,
                status,
                classes,
            })
            .to_vec()
    };
    match expect {
        Expect::Delivered(status) => vec![delivered(*status)],
        Expect::Status(status) => twice(Some(*status), classes(expect)),
        Expect::Failed(_) => twice(None, classes(expect)),
        Expect::SecondFailsOnce(_) if event == "first" => vec![delivered(200)],
        Expect::SecondFailsOnce(_) => {
            let failed = Logged {
                outcome: "failed",
                status: None,
                classes: classes(expect),
            };
            vec![failed, delivered(200)]
        }
    }
}

/// Everything about a case that is not as it must be.
pub(super) fn wrongs(played: &Played, by_event: &ByEvent) -> Vec<String> {
    let mut wrong = Vec::new();
    for event in played.events() {
        let none = Vec::new();
        let attempts = by_event.get(*event).unwrap_or(&none);
        of_event(&played.case, event, attempts, &mut wrong);
    }
    let attempts: Vec<_> = by_event.values().flatten().collect();
    on_the_wire(played, &attempts, &mut wrong);
    let name = format!("{} {}", played.case.number, played.case.name);
    wrong.iter().map(|what| format!("{name}: {what}")).collect()
}

fn of_event(case: &Case, event: &str, attempts: &[Value], wrong: &mut Vec<String>) {
    let expected = expected(&case.expect, event);
    let as_logged = |attempt: &Value| {
        let keys = [
            "attempt",
            "outcome",
            "status",
            "error_class",
            "error_detail",
        ];
        keys.map(|key| attempt[key].to_string()).join(" ")
    };
    let right = attempts.len() == expected.len()
        && attempts.iter().zip(&expected).all(|(attempt, expected)| {
            let class = attempt["error_class"].as_str();
            attempt["outcome"] == expected.outcome
                && attempt["status"].as_u64() == expected.status.map(u64::from)
                && class.map_or(expected.classes.is_empty(), |c| {
                    expected.classes.iter().any(|e| e.as_str() == c)
                })
        });
    if !right {
        let seen: Vec<_> = attempts.iter().map(as_logged).collect();
        wrong.push(format!("{event}: {seen:?}, expected {expected:?}"));
    }
    for attempt in attempts {
        of_attempt(case, attempt, wrong);
    }
    let due = attempts.first().and_then(due_after);
    if let Some(due) = due.filter(|_| attempts.len() > 1)
        && !(case.wait..=case.wait + ROUNDED).contains(&due)
    {
        wrong.push(format!("{event}: due after {due:?}, not {:?}", case.wait));
    }
}

fn of_attempt(case: &Case, attempt: &Value, wrong: &mut Vec<String>) {
    let took = Duration::from_millis(attempt["duration_ms"].as_u64().unwrap_or(u64::MAX));
    if took > case.deadline + LATE {
        wrong.push(format!("it took {took:?}"));
    }
    if attempt["error_class"] == "timeout" && took < case.deadline {
        wrong.push(format!("the deadline came after {took:?}"));
    }
    let detail = attempt["error_detail"].as_str().unwrap_or_default();
    if !detail.contains(case.detail) {
        wrong.push(format!("it is said: {detail}"));
    }
    let response = &attempt["response"];
    let body = body_of(response);
    if body.len() > RESPONSE_BODY_KEPT {
        wrong.push(format!("{} bytes of the body are kept", body.len()));
    }
    if attempt["status"].is_null() {
        return;
    }
    if case
        .truncated
        .is_some_and(|t| response["body_truncated"] != t)
    {
        wrong.push(format!("body_truncated is {}", response["body_truncated"]));
    }
    if case.body.as_ref().is_some_and(|expected| *expected != body) {
        wrong.push(format!(
            "{} bytes of another body are kept: {:?}",
            body.len(),
            String::from_utf8_lossy(body.get(..40).unwrap_or(&body))
        ));
    }
}

fn body_of(response: &Value) -> Vec<u8> {
    match (response["body"].as_str(), response["body_base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(base64)) => BASE64_STANDARD.decode(base64).unwrap(),
        (None, None) => Vec::new(),
    }
}

/// How long after its end the next attempt is due.
fn due_after(attempt: &Value) -> Option<Duration> {
    let time = |key: &str| attempt[key].as_str()?.parse::<jiff::Timestamp>().ok();
    let waited = time("next_attempt_at")?.as_millisecond() - time("started_at")?.as_millisecond();
    let waited = Duration::from_millis(u64::try_from(waited).ok()?);
    waited.checked_sub(Duration::from_millis(attempt["duration_ms"].as_u64()?))
}

/// Each logged attempt is one request, and the reverse.
fn on_the_wire(played: &Played, attempts: &[&Value], wrong: &mut Vec<String>) {
    let (case, chaos) = (&played.case, &played.chaos);
    let requests = chaos.requests();
    let fresh = match &case.script {
        // Nothing reaches anybody.
        Script::Refuse | Script::Blackhole => return,
        Script::AtOnce(_) | Script::Tls(_) => {
            if !requests.is_empty() {
                wrong.push(format!("a request was sent all the same: {requests:?}"));
            }
            true
        }
        Script::AfterHead(_) | Script::Requests(_) => {
            let logged: BTreeSet<_> = attempts
                .iter()
                .map(|attempt| {
                    let id = attempt["delivery_id"].as_str().unwrap_or_default();
                    (id.to_owned(), attempt["attempt"].to_string())
                })
                .collect();
            let sent: BTreeSet<_> = requests.iter().map(|wire| wire.attempt()).collect();
            if sent != logged || requests.len() != attempts.len() {
                wrong.push(format!(
                    "{} requests {sent:?}, {} attempts {logged:?}",
                    requests.len(),
                    attempts.len()
                ));
            }
            case.fresh
        }
    };
    for wire in &requests {
        if !wire.head.starts_with("POST /hook HTTP/1.1\r\n") || wire.header("cookie").is_some() {
            wrong.push(format!("a request of another kind: {}", wire.head));
        }
    }
    if fresh && chaos.connections() != attempts.len() {
        wrong.push(format!(
            "{} connections for {} attempts",
            chaos.connections(),
            attempts.len()
        ));
    }
    let mut last = BTreeMap::new();
    for wire in &requests {
        let (id, _) = wire.attempt();
        let before = last.insert(id, wire.at);
        if before.is_some_and(|at| wire.at + GRAIN < at + case.wait) {
            wrong.push("the second attempt came early".to_owned());
        }
    }
}
