//! `ordered` and `batch`, from words and to words, and what must fit together with them.

use std::time::Duration;

use serde_json::{Value, json};

use super::reader::{At, Object, Reader, hint};
use super::{Batching, Ordered};
use crate::body::BodyForm;
use crate::limits::{
    BATCH_BYTES, BATCH_BYTES_DEFAULT, BATCH_EVENTS_DEFAULT, BATCH_EVENTS_MAX, BATCH_WAIT_DEFAULT,
    BATCH_WAIT_MAX,
};
use crate::policy::{RetryPolicy, Then};
use crate::units::{format_duration, format_size, parse_size};

pub(super) fn read_ordered(reader: &mut Reader, whole: &Object<'_>) -> Option<Ordered> {
    let at = reader.required(whole, "ordered")?;
    match at.value {
        Value::Bool(false) => return Some(Ordered::No),
        Value::Bool(true) => return Some(Ordered::Webhook),
        Value::String(word) => match word.as_str() {
            "webhook" => return Some(Ordered::Webhook),
            "key" => return Some(Ordered::Key),
            _ => {}
        },
        _ => {}
    }
    let word = at.value.as_str().unwrap_or_default();
    let hint = hint(word, &["false", "true", "webhook", "key"]);
    reader.error(&at.path, format!("says no order; {hint}"));
    None
}

pub(super) fn write_ordered(ordered: Ordered) -> Value {
    match ordered {
        Ordered::No => json!(false),
        Ordered::Webhook => json!("webhook"),
        Ordered::Key => json!("key"),
    }
}

pub(super) fn read(reader: &mut Reader, whole: &Object<'_>) -> Option<Option<Batching>> {
    let Some(at) = whole.get("batch").filter(|at| !at.is_word("none")) else {
        return Some(None);
    };
    if !at.value.is_object() {
        reader.error(
            &at.path,
            "must be `none`, or have keys: {max_events: 100, max_bytes: 256KiB, max_wait: 200ms}",
        );
        return None;
    }
    let batch = reader.object(&at, &["max_events", "max_bytes", "max_wait"])?;
    let max_events = batch
        .get("max_events")
        .map_or(Some(BATCH_EVENTS_DEFAULT), |at| read_events(reader, &at));
    let max_bytes = batch
        .get("max_bytes")
        .map_or(Some(BATCH_BYTES_DEFAULT), |at| read_bytes(reader, &at));
    let max_wait = batch
        .get("max_wait")
        .map_or(Some(BATCH_WAIT_DEFAULT), |at| read_wait(reader, &at));
    Some(Some(Batching {
        max_events: max_events?,
        max_bytes: max_bytes?,
        max_wait: max_wait?,
    }))
}

fn read_events(reader: &mut Reader, at: &At<'_>) -> Option<u32> {
    let events = reader.count(at)?;
    if (1..=BATCH_EVENTS_MAX).contains(&events) {
        return Some(events);
    }
    reader.error(&at.path, format!("must be from 1 to {BATCH_EVENTS_MAX}"));
    None
}

fn read_bytes(reader: &mut Reader, at: &At<'_>) -> Option<u64> {
    if at.value.is_number() {
        let message = format!("a size needs a unit: {0}B or {0}KiB", at.value);
        reader.error(&at.path, message);
        return None;
    }
    let text = reader.text(at)?;
    let bytes = reader.taken(at, parse_size(text))?;
    if BATCH_BYTES.contains(&bytes) {
        return Some(bytes);
    }
    let (min, max) = (*BATCH_BYTES.start(), *BATCH_BYTES.end());
    let (min, max) = (format_size(min), format_size(max));
    reader.error(&at.path, format!("must be from {min} to {max}"));
    None
}

fn read_wait(reader: &mut Reader, at: &At<'_>) -> Option<Duration> {
    let wait = reader.duration(at)?;
    if wait <= BATCH_WAIT_MAX {
        return Some(wait);
    }
    let max = format_duration(BATCH_WAIT_MAX);
    reader.error(&at.path, format!("must be from 0s to {max}"));
    None
}

pub(super) fn write(batch: Option<Batching>) -> Value {
    batch.map_or(json!("none"), |batch| {
        json!({
            "max_events": batch.max_events,
            "max_bytes": format_size(batch.max_bytes),
            "max_wait": format_duration(batch.max_wait),
        })
    })
}

/// What a batch asks of the body; `from` says where it came from, if that was not the document.
pub(super) fn check_body(reader: &mut Reader, body: BodyForm, from: &str) {
    if !body.holds_many() {
        reader.error(
            "batch",
            format!(
                "needs `body: array` or `body: ndjson`, not {body}{from}; choose one of these, or write `batch: none`"
            ),
        );
    }
}

/// What the consequences in a policy ask of the rest.
pub(super) fn check_policy(
    reader: &mut Reader,
    policy: &RetryPolicy,
    ordered: Ordered,
    batch: Option<Batching>,
) {
    let permanent = policy.permanent.iter().enumerate();
    let mut all: Vec<_> = permanent
        .map(|(index, rule)| (format!("retry.permanent[{index}].then"), rule.then))
        .collect();
    all.push(("retry.on_exhausted".to_owned(), policy.on_exhausted));
    for (field, then) in all {
        if then == Then::Hold && ordered == Ordered::No {
            reader.error(
                field,
                "`hold` needs order, for without it nothing waits behind; write `ordered: webhook` or `ordered: key` too, or use dead or deactivate",
            );
        } else if then == Then::Split && batch.is_none() {
            reader.error(
                field,
                "`split` needs batches; write `batch: {max_events: 100}` with `body: array` too, or use dead or deactivate",
            );
        }
    }
}
