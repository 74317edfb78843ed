//! A webhook's document, from words and to words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::reader::{At, Object, Reader, hint};
use super::{
    FieldError, Headers, Method, Webhook, WebhookSpec, batch, connector, headers, later, retry,
};
use crate::body::BodyForm;
use crate::filter::Filter;
use crate::ids::Slug;
use crate::limits::{DEADLINE_MAX, URL_BYTES_MAX};
use crate::matching::TypePattern;
use crate::presets::Preset;
use crate::signature::Scheme;
use crate::units::format_duration;

const KEYS: [&str; 23] = [
    "kind",
    "project",
    "name",
    "title",
    "description",
    "url",
    "events",
    "filter",
    "preset",
    "state",
    "method",
    "headers",
    "connector",
    "trusted_ca",
    "signature",
    "ordered",
    "batch",
    "body",
    "success",
    "deadline",
    "rate_limit",
    "verification",
    "retry",
];

/// Shorter deadlines would fail healthy endpoints.
const DEADLINE_MIN: Duration = Duration::from_millis(100);
/// Patterns of one webhook.
const EVENTS_MAX: usize = 500;
const TITLE_CHARS_MAX: usize = 200;
const DESCRIPTION_CHARS_MAX: usize = 4000;
/// Attempts per second that one webhook may ask for.
const RATE_MAX: f64 = 100_000.0;

/// Reads a document as written.
pub(super) fn read(document: &Map<String, Value>) -> Result<WebhookSpec, Vec<FieldError>> {
    let settings = read_by(Reader::new(true), document)?;
    let state_given = document.get("state").is_some_and(|s| !s.is_null());
    Ok(WebhookSpec {
        settings,
        state_given,
    })
}

/// Reads what is stored; keys of newer versions are passed over.
pub(super) fn read_stored(document: &Value) -> Result<Webhook, Vec<FieldError>> {
    match document {
        Value::Object(map) => {
            // What was stored before batches had a word says nothing of them, and is not to get those of its preset.
            let mut map = map.clone();
            map.entry("batch").or_insert_with(|| "none".into());
            read_by(Reader::new(false), &map)
        }
        _ => Err(vec![FieldError::new("", "a webhook must be an object")]),
    }
}

fn read_by(mut reader: Reader, given: &Map<String, Value>) -> Result<Webhook, Vec<FieldError>> {
    reader.known(&Object::of(given, ""), &KEYS);
    let preset = match Object::of(given, "").get("preset") {
        Some(at) => reader.parsed(&at),
        None => Some(Preset::Standard),
    };
    // With a preset that nobody knows, the rest is still checked.
    let preset = preset.unwrap_or(Preset::Standard);
    let whole = preset.complete(given);
    let whole = Object::of(&whole, "");
    let from = match given.get("batch") {
        None | Some(Value::Null) => format!(" (preset `{preset}` asks for batches)"),
        Some(_) => String::new(),
    };
    let webhook = read_whole(&mut reader, &whole, preset, &from);
    reader.finish(webhook)
}

/// `batch_from` says where the batch comes from, if not from the document.
fn read_whole(
    reader: &mut Reader,
    whole: &Object<'_>,
    preset: Preset,
    batch_from: &str,
) -> Option<Webhook> {
    let project = required_slug(reader, whole, "project");
    let name = required_slug(reader, whole, "name");
    let title = whole.get("title").map_or(Some(String::new()), |at| {
        reader.prose(&at, TITLE_CHARS_MAX, false)
    });
    let description = whole.get("description").map_or(Some(String::new()), |at| {
        reader.prose(&at, DESCRIPTION_CHARS_MAX, true)
    });
    let url = reader
        .required(whole, "url")
        .and_then(|at| read_url(reader, &at));
    let events = reader
        .required(whole, "events")
        .and_then(|at| read_events(reader, &at));
    let filter = read_filter(reader, whole);
    let state = word(reader, whole, "state");
    let method = word(reader, whole, "method");
    let headers = whole
        .get("headers")
        .map_or(Some(Headers::default()), |at| read_headers(reader, &at));
    let connector = connector::read_name(reader, whole.get("connector"));
    let signature = whole
        .get("signature")
        .map_or(Some(Scheme::V1), |at| reader.parsed(&at));
    let trusted_ca = match whole.get("trusted_ca").filter(|at| !at.is_word("none")) {
        None => Some(None),
        Some(at) => reader
            .text(&at)
            .and_then(|text| reader.taken(&at, connector::certificates(text)).map(Some)),
    };
    let ordered = batch::read_ordered(reader, whole);
    let batch = batch::read(reader, whole);
    let body =
        reader
            .required(whole, "body")
            .and_then(|at| match later::refuse_body(reader, &at) {
                true => None,
                false => reader.parsed::<BodyForm>(&at),
            });
    if let (Some(Some(_)), Some(body)) = (batch, body) {
        batch::check_body(reader, body, batch_from);
    }
    if let (Some(Method::Get), Some(body)) = (method, body)
        && body != BodyForm::None
    {
        reader.error("method", "GET has no body; write `body: none` too");
    }
    let deadline = reader
        .required(whole, "deadline")
        .and_then(|at| read_deadline(reader, &at));
    let rate_limit = read_rate(reader, whole);
    let verification = word(reader, whole, "verification");
    let policy = retry::read(reader, whole);
    if let (Some(policy), Some(ordered), Some(batch)) = (&policy, ordered, batch) {
        batch::check_policy(reader, policy, ordered, batch);
    }
    Some(Webhook {
        project: project?,
        name: name?,
        title: title?,
        description: description?,
        url: url?,
        events: events?,
        filter: filter?,
        preset,
        state: state?,
        method: method?,
        headers: headers?,
        connector: connector?,
        signature: signature?,
        trusted_ca: trusted_ca?,
        ordered: ordered?,
        batch: batch?,
        body: body?,
        deadline: deadline?,
        rate_limit: rate_limit?,
        verification: verification?,
        retry: Arc::new(policy?),
    })
}

fn required_slug(reader: &mut Reader, whole: &Object<'_>, key: &str) -> Option<Slug> {
    let at = reader.required(whole, key)?;
    let text = reader.text(&at)?;
    reader.taken(&at, Slug::new(text))
}

/// One of a closed list of words; presets see to it that there is one.
fn word<T>(reader: &mut Reader, whole: &Object<'_>, key: &str) -> Option<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let at = reader.required(whole, key)?;
    reader.parsed(&at)
}

/// Only what can be said without knowing what the operator allows; the address guard judges the rest.
pub(super) fn read_url(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let url = reader.text(at)?;
    let problem = if url.len() > URL_BYTES_MAX {
        format!("must have at most {URL_BYTES_MAX} bytes")
    } else if !(url.starts_with("https://") || url.starts_with("http://")) {
        "must begin with https://".into()
    } else if url.bytes().any(|b| b <= 0x20 || b == 0x7f || b == b'\\') {
        "must not contain blanks, control characters or backslashes".into()
    } else {
        return Some(url.to_owned());
    };
    reader.error(&at.path, problem);
    None
}

fn read_events(reader: &mut Reader, at: &At<'_>) -> Option<Vec<TypePattern>> {
    let read = reader.list(at, |reader, at| reader.parsed::<TypePattern>(at))?;
    if read.is_empty() || read.len() > EVENTS_MAX {
        reader.error(
            &at.path,
            format!("must have 1 to {EVENTS_MAX} patterns; [\"*\"] is all event types"),
        );
        return None;
    }
    let mut events = Vec::with_capacity(read.len());
    for pattern in read {
        if !events.contains(&pattern) {
            events.push(pattern);
        }
    }
    Some(events)
}

/// What is stored is taken as it is: a newer version may know more of the language.
fn read_filter(reader: &mut Reader, whole: &Object<'_>) -> Option<Option<String>> {
    let Some(at) = whole.get("filter").filter(|at| !at.is_word("none")) else {
        return Some(None);
    };
    let text = reader.text(&at)?.trim();
    if reader.strict {
        reader.taken(&at, Filter::compile(text))?;
    }
    Some(Some(text.to_owned()))
}

fn read_headers(reader: &mut Reader, at: &At<'_>) -> Option<Headers> {
    let Value::Object(map) = at.value else {
        reader.error(
            &at.path,
            "must have header names as keys: {x-tenant: \"42\"}",
        );
        return None;
    };
    let before = reader.errors.len();
    let mut headers = BTreeMap::new();
    for (name, value) in map {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        let at = At {
            value,
            path: format!("{}.{shown}", at.path),
        };
        let Some(value) = reader.text(&at) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        reader.taken(&at, headers::check_header(&name, value));
        if headers.insert(name, value.to_owned()).is_some() {
            reader.error(
                &at.path,
                "stands here twice; upper and lower case are the same",
            );
        }
    }
    let pairs = headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    reader.taken(at, headers::check_sum(pairs));
    (reader.errors.len() == before).then(|| headers.into())
}

fn read_deadline(reader: &mut Reader, at: &At<'_>) -> Option<Duration> {
    let deadline = reader.duration(at)?;
    if (DEADLINE_MIN..=DEADLINE_MAX).contains(&deadline) {
        return Some(deadline);
    }
    let (min, max) = (format_duration(DEADLINE_MIN), format_duration(DEADLINE_MAX));
    reader.error(&at.path, format!("must be from {min} to {max}"));
    None
}

fn read_rate(reader: &mut Reader, whole: &Object<'_>) -> Option<Option<crate::units::Rate>> {
    let Some(at) = whole.get("rate_limit").filter(|at| !at.is_word("none")) else {
        return Some(None);
    };
    let rate: crate::units::Rate = reader.parsed(&at)?;
    if rate.per_second() > RATE_MAX {
        reader.error(&at.path, format!("must be at most {RATE_MAX}/s, or `none`"));
        return None;
    }
    Some(Some(rate))
}

/// The settings as a document again, complete: it does not change when a preset does.
pub(super) fn write(webhook: &Webhook) -> Value {
    let events: Vec<_> = webhook.events.iter().map(ToString::to_string).collect();
    json!({
        "kind": "Webhook",
        "project": webhook.project,
        "name": webhook.name,
        "title": webhook.title,
        "description": webhook.description,
        "url": webhook.url,
        "events": events,
        "filter": webhook.filter.as_deref().unwrap_or("none"),
        "preset": webhook.preset,
        "state": webhook.state.as_str(),
        "method": webhook.method.as_str(),
        "headers": webhook.headers,
        "connector": webhook.connector.as_ref().map_or("none", Slug::as_str),
        "signature": webhook.signature.as_str(),
        "trusted_ca": webhook.trusted_ca.as_deref().unwrap_or("none"),
        "ordered": batch::write_ordered(webhook.ordered),
        "batch": batch::write(webhook.batch),
        "body": webhook.body.as_str(),
        "success": retry::write_success(&webhook.retry.success),
        "deadline": format_duration(webhook.deadline),
        "rate_limit": webhook.rate_limit.map_or("none".into(), |r| r.to_string()),
        "verification": webhook.verification.as_str(),
        "retry": retry::write(&webhook.retry),
    })
}

/// The remedy for a kind that is not known.
pub(super) fn kind_hint(kind: &str) -> String {
    hint(kind, &["Project", "EventType", "Connector", "Webhook"])
}
