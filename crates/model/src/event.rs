//! Reading public records of `events`: which form a record has, and the rules that every event keeps whatever its form.
//!
//! The hot path of fan-out: one pass over the value, data neither copied nor built into a tree, memory bounded by the size of the record
//! however hostile it is.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;

use crate::cloudevents;
use crate::matching::EVENT_TYPE_BYTES_MAX;
use crate::wire;

#[cfg(test)]
mod tests;

/// Why a record is no event: the closed list that `rejected` uses (fan-out adds `unknown_project`, and `not_described` in strict
/// projects).
pub mod reason {
    /// There is nothing in it.
    pub const EMPTY: &str = "empty";
    /// It is not JSON or not the protobuf it says it is.
    pub const UNREADABLE: &str = "unreadable";
    /// It can be read but breaks a rule for events.
    pub const INVALID: &str = "invalid";
    /// It is larger than an event may be.
    pub const TOO_LARGE: &str = "too_large";
    /// Its media type is none of the public forms.
    pub const UNKNOWN_FORMAT: &str = "unknown_format";
}

/// Bytes of an event's id.
pub const ID_BYTES_MAX: usize = 256;
/// Bytes of every other attribute.
const ATTRIBUTE_BYTES_MAX: usize = 1024;
/// Bytes of an extension's value. They are not used for routing, so they may be longer.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// How many extensions an event may have.
pub(crate) const EXTENSIONS_MAX: usize = 64;

/// A public record as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The record key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a Bytes>,
    /// The headers.
    pub headers: &'a [(String, Bytes)],
}

/// Why a record is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Unreadable {
    /// From the closed list [`reason`].
    pub reason: &'static str,
    /// What exactly is wrong, for people.
    pub detail: String,
}

pub(crate) fn invalid(detail: impl Into<String>) -> Unreadable {
    Unreadable {
        reason: reason::INVALID,
        detail: detail.into(),
    }
}

/// The forms that a record may have.
enum Form {
    Structured,
    Binary,
    Protobuf,
}

/// Reads a public record whose value and headers are together no larger than `bytes_max`.
///
/// # Errors
/// When it is no event, with a reason from the closed list.
pub fn parse(input: Input<'_>, bytes_max: usize) -> Result<wire::Event, Unreadable> {
    let headers: usize = input.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
    let bytes = input.value.map_or(0, Bytes::len) + headers;
    if bytes > bytes_max {
        return Err(Unreadable {
            reason: reason::TOO_LARGE,
            detail: format!("{bytes} bytes, an event may have {bytes_max}"),
        });
    }
    let form = form(&input)?;
    let empty = Bytes::new();
    let value = input.value.unwrap_or(&empty);
    if value.is_empty() && !matches!(form, Form::Binary) {
        return Err(Unreadable {
            reason: reason::EMPTY,
            detail: "the record has no value".into(),
        });
    }
    let mut event = match form {
        Form::Structured => cloudevents::from_json(value)?,
        Form::Binary => cloudevents::from_headers(input.headers, value)?,
        Form::Protobuf => from_protobuf(value)?,
    };
    if event.key.is_empty() {
        event.key = key_of(input.key, &event.project);
    }
    check(&event)?;
    Ok(event)
}

/// The value of the first header of this name, whatever its case.
pub(crate) fn header<'a>(headers: &'a [(String, Bytes)], name: &str) -> Option<&'a Bytes> {
    let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

fn form(input: &Input<'_>) -> Result<Form, Unreadable> {
    let binary = header(input.headers, "ce_specversion").is_some();
    let Some(media) = header(input.headers, wire::header::CONTENT_TYPE) else {
        return Ok(if binary {
            Form::Binary
        } else {
            Form::Structured
        });
    };
    let media = String::from_utf8_lossy(media);
    let named = essence(&media);
    if named.eq_ignore_ascii_case(cloudevents::MEDIA_TYPE) {
        return Ok(Form::Structured);
    }
    if binary {
        return Ok(Form::Binary);
    }
    // Producers that name plain JSON mean the same as those that name nothing.
    if named.is_empty() || named.eq_ignore_ascii_case("application/json") {
        return Ok(Form::Structured);
    }
    let protobuf = ["application/x-protobuf", "application/protobuf"];
    if protobuf.iter().any(|p| named.eq_ignore_ascii_case(p)) && names_our_event(&media) {
        return Ok(Form::Protobuf);
    }
    Err(Unreadable {
        reason: reason::UNKNOWN_FORMAT,
        detail: format!(
            "content-type {:?} is no form of an event; use application/cloudevents+json (one event a record), ce_* headers, or application/x-protobuf; proto=hookline.v1.Event",
            media.chars().take(128).collect::<String>()
        ),
    })
}

/// A media type without its parameters.
fn essence(media: &str) -> &str {
    media.split(';').next().unwrap_or_default().trim()
}

/// Whether the parameter that names a protobuf type, if there is one, names ours.
fn names_our_event(media: &str) -> bool {
    let parameter = |p: &str| {
        let (name, value) = p.split_once('=')?;
        let name = name.trim();
        let names_type = ["proto", "messagetype"]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n));
        names_type.then(|| value.trim().trim_matches('"') == "hookline.v1.Event")
    };
    media
        .split(';')
        .skip(1)
        .filter_map(parameter)
        .all(|ours| ours)
}

/// Whether data of this media type is JSON. Data without one is.
#[must_use]
pub fn is_json(media: &str) -> bool {
    if media.is_empty() {
        return true;
    }
    let named = essence(media).as_bytes();
    let ends = |suffix: &[u8]| {
        named.len() > suffix.len()
            && named[named.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
    };
    ends(b"/json") || ends(b"+json")
}

/// The text at a path such as `data.order.status`: numbers and truth values are written out. `None`: the event has nothing like that there.
#[must_use]
pub fn text_at(event: &wire::Event, path: &str) -> Option<String> {
    use serde_json::value::RawValue;
    let mut members = path.strip_prefix("data.")?.split('.').peekable();
    if !is_json(&event.data_content_type) {
        return None;
    }
    let mut at: &[u8] = &event.data;
    while let Some(member) = members.next() {
        // Level by level: nothing beside the path is built into a tree.
        let level: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(at).ok()?;
        at = level.get(member)?.get().as_bytes();
        if members.peek().is_none() {
            return match serde_json::from_slice(at).ok()? {
                serde_json::Value::String(text) => Some(text),
                value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                    Some(value.to_string())
                }
                _ => None,
            };
        }
    }
    None
}

fn from_protobuf(value: &Bytes) -> Result<wire::Event, Unreadable> {
    let mut event = wire::Event::decode(value.clone()).map_err(|error| Unreadable {
        reason: reason::UNREADABLE,
        detail: format!("not a protobuf hookline.v1.Event: {error}"),
    })?;
    settle_data(&mut event)?;
    Ok(event)
}

/// Makes sure that data which counts as JSON is JSON, for bodies carry it unchanged. Without a media type it is looked at: what is not
/// JSON is from then on bytes.
pub(crate) fn settle_data(event: &mut wire::Event) -> Result<(), Unreadable> {
    if event.data.is_empty() || !is_json(&event.data_content_type) {
        return Ok(());
    }
    match serde_json::from_slice::<&serde_json::value::RawValue>(&event.data) {
        Ok(_) => Ok(()),
        Err(_) if event.data_content_type.is_empty() => {
            event.data_content_type = "application/octet-stream".into();
            Ok(())
        }
        Err(error) => Err(invalid(format!(
            "the data is said to be JSON but is not: {error}"
        ))),
    }
}

/// The event key where the event names none: the record key, else the project. Bytes that are no text are written in base64.
fn key_of(record_key: Option<&[u8]>, project: &str) -> String {
    match record_key {
        None | Some([]) => project.to_owned(),
        Some(key) => std::str::from_utf8(key).map_or_else(
            |_| {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.encode(key)
            },
            ToOwned::to_owned,
        ),
    }
}

/// The rules that hold for every form.
fn check(event: &wire::Event) -> Result<(), Unreadable> {
    required("id", &event.id, ID_BYTES_MAX)?;
    required("source", &event.source, ATTRIBUTE_BYTES_MAX)?;
    required("project", &event.project, ATTRIBUTE_BYTES_MAX)?;
    required("type", &event.r#type, EVENT_TYPE_BYTES_MAX)?;
    plain("partitionkey", &event.key, ATTRIBUTE_BYTES_MAX)?;
    plain("subject", &event.subject, ATTRIBUTE_BYTES_MAX)?;
    plain("dataschema", &event.data_schema, ATTRIBUTE_BYTES_MAX)?;
    if let Some(contact) = &event.contact {
        plain("contactid", &contact.id, ATTRIBUTE_BYTES_MAX)?;
        plain("contactemail", &contact.email, ATTRIBUTE_BYTES_MAX)?;
        plain("contactphone", &contact.phone, ATTRIBUTE_BYTES_MAX)?;
    }
    let media = event.data_content_type.as_bytes();
    if media.len() > 256 || !media.iter().all(|b| (0x20..0x7f).contains(b)) {
        return Err(invalid(
            "`datacontenttype` must be a media type: at most 256 printable ASCII characters",
        ));
    }
    if !event.time.is_empty() && !is_rfc3339(&event.time) {
        return Err(invalid(
            "`time` must be a moment by RFC 3339, for example 2024-01-02T03:04:05Z",
        ));
    }
    check_extensions(event)
}

fn check_extensions(event: &wire::Event) -> Result<(), Unreadable> {
    if event.extensions.len() > EXTENSIONS_MAX {
        return Err(invalid(format!(
            "an event may have {EXTENSIONS_MAX} extension attributes"
        )));
    }
    for (name, value) in &event.extensions {
        let sound = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > 64 || !name.as_bytes().iter().all(sound) {
            return Err(invalid(format!(
                "{:?} is no name for an extension attribute: use at most 64 of a-z and 0-9",
                cut(name)
            )));
        }
        if cloudevents::RESERVED.contains(&name.as_str()) {
            return Err(invalid(format!(
                "`{name}` is no extension attribute; it has a field of its own"
            )));
        }
        if value.len() > EXTENSION_BYTES_MAX {
            return Err(invalid(format!(
                "`{name}` is longer than {EXTENSION_BYTES_MAX} bytes"
            )));
        }
    }
    Ok(())
}

fn required(name: &str, value: &str, bytes_max: usize) -> Result<(), Unreadable> {
    if value.is_empty() {
        return Err(invalid(format!(
            "`{name}` is required and must not be empty"
        )));
    }
    plain(name, value, bytes_max)
}

fn plain(name: &str, value: &str, bytes_max: usize) -> Result<(), Unreadable> {
    if value.len() > bytes_max {
        return Err(invalid(format!(
            "`{name}` is longer than {bytes_max} bytes"
        )));
    }
    // C0, DEL, and C1 (which UTF-8 writes with 0xC2 in front).
    if value.bytes().any(|b| b < 0x20 || b == 0x7f || b == 0xc2)
        && value.chars().any(char::is_control)
    {
        return Err(invalid(format!(
            "`{name}` must not contain control characters"
        )));
    }
    Ok(())
}

/// The beginning of a text from outside, for an error.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn is_rfc3339(time: &str) -> bool {
    let bytes = time.as_bytes();
    // The parser takes more than RFC 3339 (zone names in brackets, other separators).
    let shaped = (20..=64).contains(&bytes.len())
        && matches!(bytes[10], b'T' | b't' | b' ')
        && bytes[4] == b'-'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && bytes
            .iter()
            .all(|b| b.is_ascii_digit() || b"-:+.TtZz ".contains(b));
    shaped && time.parse::<jiff::Timestamp>().is_ok()
}
