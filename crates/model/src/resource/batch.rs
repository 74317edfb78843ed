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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{FieldError, Resource, Webhook, parse_documents};

    fn read(more: &str) -> Result<Webhook, Vec<FieldError>> {
        let text = format!(
            "kind: Webhook\nproject: shop\nname: crm\nurl: https://a.example.com/\nevents: [a]\n{more}"
        );
        match parse_documents(&text)?.as_slice() {
            [Resource::Webhook(spec)] => Ok(spec.settings.clone()),
            other => panic!("{other:#?}"),
        }
    }

    fn batching(more: &str) -> (u32, u64, Duration) {
        let webhook = read(&format!("body: array\nbatch: {more}")).expect(more);
        let document = webhook.to_document();
        let again: Webhook = serde_json::from_value(document).expect("stored");
        assert_eq!(again, webhook);
        let batch = webhook.batch.expect("a batch");
        (batch.max_events, batch.max_bytes, batch.max_wait)
    }

    #[test]
    fn order_has_four_words_and_three_meanings() {
        for (word, want, written) in [
            ("false", Ordered::No, json!(false)),
            ("true", Ordered::Webhook, json!("webhook")),
            ("webhook", Ordered::Webhook, json!("webhook")),
            ("key", Ordered::Key, json!("key")),
        ] {
            let webhook = read(&format!("ordered: {word}")).expect(word);
            assert_eq!(webhook.ordered, want);
            assert_eq!(webhook.to_document()["ordered"], written);
        }
        assert_eq!(read("").expect("minimal").ordered, Ordered::No);
    }

    #[test]
    fn what_a_batch_leaves_out_and_how_far_it_goes() {
        let ms = Duration::from_millis;
        assert_eq!(batching("{}"), (100, 256 * 1024, ms(200)));
        assert_eq!(batching("{max_events: 1}"), (1, 256 * 1024, ms(200)));
        assert_eq!(
            batching("{max_events: 1000, max_bytes: 1MiB, max_wait: 5m}"),
            (1000, 1024 * 1024, ms(300_000))
        );
        assert_eq!(
            batching("{max_bytes: 1024B, max_wait: 0s}"),
            (100, 1024, ms(0))
        );
        for body in ["array", "ndjson"] {
            let alone = read(&format!("body: {body}")).expect("each request holds one event");
            assert_eq!((alone.batch, alone.body.as_str()), (None, body));
        }
        let none = read("body: array\nbatch: none").expect("none");
        assert_eq!(none.to_document()["batch"], "none");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (more, want) in [
            (
                "ordered: keys",
                "ordered: says no order; did you mean `key`?",
            ),
            (
                "ordered: 1",
                "ordered: says no order; known here are false,",
            ),
            (
                "batch: {}",
                "batch: needs `body: array` or `body: ndjson`, not standard; ",
            ),
            (
                "preset: esputnik\nbody: data",
                "batch: needs `body: array` or `body: ndjson`, not data (preset `esputnik` asks for batches); choose",
            ),
            (
                "body: array\nbatch: 100",
                "batch: must be `none`, or have keys",
            ),
            (
                "body: array\nbatch: {events: 1}",
                "batch.events: unknown key",
            ),
            (
                "body: array\nbatch: {max_events: 0}",
                "batch.max_events: must be from 1 to 1000",
            ),
            (
                "body: array\nbatch: {max_events: 1001}",
                "batch.max_events: must be from 1 to 1000",
            ),
            (
                "body: array\nbatch: {max_events: 1.5}",
                "batch.max_events: must be a whole number",
            ),
            (
                "body: array\nbatch: {max_bytes: 1023B}",
                "batch.max_bytes: must be from 1KiB to 1MiB",
            ),
            (
                "body: array\nbatch: {max_bytes: 2MiB}",
                "batch.max_bytes: must be from 1KiB to 1MiB",
            ),
            (
                "body: array\nbatch: {max_bytes: 4096}",
                "batch.max_bytes: a size needs a unit",
            ),
            (
                "body: array\nbatch: {max_wait: 6m}",
                "batch.max_wait: must be from 0s to 5m",
            ),
            (
                "retry: {on_exhausted: hold}",
                "retry.on_exhausted: `hold` needs order",
            ),
            (
                "retry: {permanent: [{match: [404], then: dead}, {match: [410], then: hold}]}",
                "retry.permanent[1].then: `hold` needs order",
            ),
            (
                "retry: {permanent: [{match: [410], then: split}]}",
                "retry.permanent[0].then: `split` needs batches",
            ),
            (
                "body: array\nbatch: {}\nretry: {on_exhausted: split}",
                "retry.on_exhausted: must be dead, deactivate or hold",
            ),
        ] {
            let errors = read(more).expect_err(more);
            let [error] = errors.as_slice() else {
                panic!("{more}: {errors:#?}")
            };
            let found = format!("{}: {}", error.field, error.message);
            assert!(found.starts_with(want), "{found}");
        }
    }

    #[test]
    fn consequences_of_what_is_ordered_and_batched() {
        let webhook = read(
            "ordered: key\nbody: ndjson\nbatch: {}\nretry: {on_exhausted: hold, permanent: [{match: [410], then: hold}, {match: [413], then: split}]}",
        )
        .expect("fits");
        assert_eq!(webhook.retry.on_exhausted, Then::Hold);
        let then: Vec<_> = webhook.retry.permanent.iter().map(|r| r.then).collect();
        assert_eq!(then, [Then::Hold, Then::Split]);
        let stored: Webhook = serde_json::from_value(webhook.to_document()).expect("stored");
        assert_eq!(stored, webhook);
    }
}
