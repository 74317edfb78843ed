//! `retry` and `success`, from words and to words.

use std::time::Duration;

use serde_json::{Value, json};

use super::reader::{At, Object, Reader, hint};
use crate::policy::{
    Match, PermanentRule, Rest, RetryAfter, RetryPolicy, Schedule, Success, Then, Times,
};
use crate::units::format_duration;

const KEYS: [&str; 7] = [
    "schedule",
    "jitter",
    "rest",
    "max_age",
    "permanent",
    "on_exhausted",
    "retry_after",
];

/// Reads a whole policy: nothing may be missing, presets have filled it up.
pub(super) fn read(reader: &mut Reader, webhook: &Object<'_>) -> Option<RetryPolicy> {
    let before = reader.errors.len();
    let success = reader
        .required(webhook, "success")
        .and_then(|at| read_success(reader, &at));
    let at = reader.required(webhook, "retry")?;
    let retry = reader.object(&at, &KEYS)?;
    let schedule = reader
        .required(&retry, "schedule")
        .and_then(|at| read_schedule(reader, &at));
    let jitter = reader
        .required(&retry, "jitter")
        .and_then(|at| reader.number(&at));
    let rest = reader
        .required(&retry, "rest")
        .and_then(|at| read_rest(reader, &at));
    let max_age = reader
        .required(&retry, "max_age")
        .and_then(|at| reader.duration_or_none(&at));
    let permanent = reader
        .required(&retry, "permanent")
        .and_then(|at| read_permanent(reader, &at));
    let on_exhausted = reader
        .required(&retry, "on_exhausted")
        .and_then(|at| read_then(reader, &at));
    let retry_after = reader
        .required(&retry, "retry_after")
        .and_then(|at| read_retry_after(reader, &at));
    let policy = RetryPolicy {
        schedule: schedule?,
        jitter: jitter?,
        rest: rest?,
        max_age: max_age?,
        success: success?,
        permanent: permanent?,
        on_exhausted: on_exhausted?,
        retry_after: retry_after?,
    };
    for mut error in policy.check() {
        if !error.field.starts_with("success") {
            error.field.insert_str(0, "retry.");
        }
        reader.errors.push(error);
    }
    (reader.errors.len() == before).then_some(policy)
}

fn read_success(reader: &mut Reader, at: &At<'_>) -> Option<Success> {
    if at.is_word("2xx") {
        return Some(Success::Any2xx);
    }
    if !at.value.is_array() {
        reader.error(&at.path, "must be `2xx` or a list of codes: [200, 202]");
        return None;
    }
    let code = |reader: &mut Reader, at: &At<'_>| {
        let count = reader.count(at)?;
        // Out of range either way; the policy's own check names the range.
        Some(u16::try_from(count).unwrap_or(u16::MAX))
    };
    reader.list(at, code).map(Success::Codes)
}

fn read_times(reader: &mut Reader, at: &At<'_>) -> Option<Times> {
    if at.is_word("unlimited") {
        return Some(Times::Unlimited);
    }
    if !at.value.is_u64() {
        reader.error(&at.path, "must be a whole number from 0, or `unlimited`");
        return None;
    }
    reader.count(at).map(Times::Limited)
}

fn read_schedule(reader: &mut Reader, at: &At<'_>) -> Option<Schedule> {
    const FORMS: [&str; 3] = ["fixed", "list", "exponential"];
    let object = reader.object(at, &FORMS)?;
    let given: Vec<_> = FORMS.iter().filter_map(|f| object.get(f)).collect();
    let [form] = given.as_slice() else {
        reader.error(&at.path, "must be exactly one of fixed, list, exponential");
        return None;
    };
    if object.get("list").is_some() {
        let waits = reader.list(form, |reader, at| reader.duration(at));
        return waits.map(Schedule::List);
    }
    if object.get("fixed").is_some() {
        let fixed = reader.object(form, &["delay", "times"])?;
        let delay = required_duration(reader, &fixed, "delay");
        let times = required_times(reader, &fixed, "times");
        return Some(Schedule::Fixed {
            delay: delay?,
            times: times?,
        });
    }
    let growing = reader.object(form, &["initial", "factor", "cap", "times"])?;
    let initial = required_duration(reader, &growing, "initial");
    let factor = reader
        .required(&growing, "factor")
        .and_then(|at| reader.number(&at));
    let cap = required_duration(reader, &growing, "cap");
    let times = required_times(reader, &growing, "times");
    Some(Schedule::Exponential {
        initial: initial?,
        factor: factor?,
        cap: cap?,
        times: times?,
    })
}

fn required_duration(reader: &mut Reader, object: &Object<'_>, key: &str) -> Option<Duration> {
    let at = reader.required(object, key)?;
    reader.duration(&at)
}

fn required_times(reader: &mut Reader, object: &Object<'_>, key: &str) -> Option<Times> {
    let at = reader.required(object, key)?;
    read_times(reader, &at)
}

fn read_rest(reader: &mut Reader, at: &At<'_>) -> Option<Option<Rest>> {
    if at.is_word("none") {
        return Some(None);
    }
    let rest = reader.object(at, &["after", "cycles"])?;
    let after = required_duration(reader, &rest, "after");
    let cycles = required_times(reader, &rest, "cycles");
    Some(Some(Rest {
        after: after?,
        cycles: cycles?,
    }))
}

fn read_permanent(reader: &mut Reader, at: &At<'_>) -> Option<Vec<PermanentRule>> {
    if at.is_word("none") {
        return Some(Vec::new());
    }
    reader.list(at, |reader, at| {
        let rule = reader.object(at, &["match", "then"])?;
        let matches = reader
            .required(&rule, "match")
            .and_then(|at| reader.list(&at, read_match));
        let then = reader
            .required(&rule, "then")
            .and_then(|at| read_then(reader, &at));
        Some(PermanentRule {
            matches: matches?,
            then: then?,
        })
    })
}

fn read_match(reader: &mut Reader, at: &At<'_>) -> Option<Match> {
    if at.value.is_number() {
        return reader.taken(at, at.value.to_string().parse());
    }
    reader.parsed(at)
}

fn read_then(reader: &mut Reader, at: &At<'_>) -> Option<Then> {
    let text = reader.text(at)?;
    let then = text.parse().ok();
    if then.is_none() {
        let hint = hint(text, &["dead", "deactivate", "hold", "split"]);
        reader.error(&at.path, format!("is no consequence; {hint}"));
    }
    then
}

fn read_retry_after(reader: &mut Reader, at: &At<'_>) -> Option<RetryAfter> {
    let object = reader.object(at, &["honour", "cap"])?;
    let honour = reader
        .required(&object, "honour")
        .and_then(|at| reader.truth(&at));
    // A cap says nothing where none is heeded.
    let cap = match (honour, object.get("cap")) {
        (Some(false), None) => Some(Duration::from_secs(24 * 3600)),
        _ => required_duration(reader, &object, "cap"),
    };
    Some(RetryAfter {
        honour: honour?,
        cap: cap?,
    })
}

pub(super) fn write_success(success: &Success) -> Value {
    match success {
        Success::Any2xx => json!("2xx"),
        Success::Codes(codes) => json!(codes),
    }
}

pub(super) fn write(policy: &RetryPolicy) -> Value {
    let rule = |rule: &PermanentRule| {
        let matches: Vec<Value> = rule.matches.iter().map(write_match).collect();
        json!({"match": matches, "then": rule.then.as_str()})
    };
    json!({
        "schedule": write_schedule(&policy.schedule),
        "jitter": write_number(policy.jitter),
        "rest": policy.rest.map_or(json!("none"), |rest| json!({
            "after": format_duration(rest.after),
            "cycles": write_times(rest.cycles),
        })),
        "max_age": policy.max_age.map_or("none".into(), format_duration),
        "permanent": policy.permanent.iter().map(rule).collect::<Vec<_>>(),
        "on_exhausted": policy.on_exhausted.as_str(),
        "retry_after": {
            "honour": policy.retry_after.honour,
            "cap": format_duration(policy.retry_after.cap),
        },
    })
}

fn write_schedule(schedule: &Schedule) -> Value {
    match schedule {
        Schedule::Fixed { delay, times } => {
            json!({"fixed": {"delay": format_duration(*delay), "times": write_times(*times)}})
        }
        Schedule::List(waits) => {
            let waits: Vec<_> = waits.iter().map(|w| format_duration(*w)).collect();
            json!({"list": waits})
        }
        Schedule::Exponential {
            initial,
            factor,
            cap,
            times,
        } => json!({"exponential": {
            "initial": format_duration(*initial),
            "factor": write_number(*factor),
            "cap": format_duration(*cap),
            "times": write_times(*times),
        }}),
    }
}

fn write_match(one: &Match) -> Value {
    match one {
        Match::Status(from, to) if from == to => json!(from),
        other => json!(other.to_string()),
    }
}

fn write_times(times: Times) -> Value {
    match times {
        Times::Limited(times) => json!(times),
        Times::Unlimited => json!("unlimited"),
    }
}

/// Whole numbers without a fraction, as people write them.
fn write_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e9 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and below 1e9, as just checked"
        )]
        let whole = number as i64;
        json!(whole)
    } else {
        json!(number)
    }
}
