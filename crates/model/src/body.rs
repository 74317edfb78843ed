//! The bodies of outgoing requests. They are built once an attempt and signed and sent byte for byte.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::cloudevents::{CLOUDEVENT_JSON, push_text, to_cloudevent_json};
use crate::event::is_json;
use crate::outcome::words;
use crate::time::Millis;
use crate::wire;

words! {
    /// What the body of a webhook's requests is.
    BodyForm, "body" {
        /// `{"type", "timestamp", "data"}`.
        Standard = "standard",
        /// The event as a CloudEvent in JSON.
        CloudEvents = "cloudevents",
        /// The event's data as it was published.
        Data = "data",
        /// The data of one event or more, as a JSON array.
        Array = "array",
        /// The data of one event or more as JSON, one a line.
        Ndjson = "ndjson",
        /// Nothing.
        None = "none",
    }
}

impl BodyForm {
    /// Whether it can hold more than one event.
    #[must_use]
    pub fn holds_many(self) -> bool {
        matches!(self, Self::Array | Self::Ndjson)
    }
}

/// A body, and the header that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What is sent.
    pub bytes: Bytes,
    /// The value of `content-type`; `None` without a body. Always printable ASCII.
    pub content_type: Option<String>,
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// What a test says of itself (VidCorp: "a small packet of data which includes a test message and the event type").
const TEST: &str = r#""test":true"#;
const MESSAGE: &str = r#","message":"This is a test message.""#;

/// The body for an event, which was accepted at `accepted_at` (the time that stands in for one without a time of its own).
#[must_use]
pub fn build(form: BodyForm, event: &wire::Event, accepted_at: Millis) -> Body {
    let (bytes, content_type) = match form {
        BodyForm::Standard => (standard(event, accepted_at), Some(JSON.to_owned())),
        BodyForm::CloudEvents => (
            to_cloudevent_json(event).into(),
            Some(CLOUDEVENT_JSON.to_owned()),
        ),
        BodyForm::Data => (event.data.clone(), Some(data_type(event))),
        BodyForm::Array | BodyForm::Ndjson => {
            return build_batch(form, std::iter::once((event, accepted_at)));
        }
        BodyForm::None => (Bytes::new(), None),
    };
    Body {
        bytes,
        content_type,
    }
}

/// The body for the events of a batch, in their order: lines for [`BodyForm::Ndjson`], else a JSON array. JSON data stays byte for byte as it
/// was published, but for blanks between its tokens where it would take more than one line; other data is what [`BodyForm::Standard`] makes of
/// it.
#[must_use]
pub fn build_batch<'a>(
    form: BodyForm,
    events: impl Iterator<Item = (&'a wire::Event, Millis)>,
) -> Body {
    many(form, events.map(|(event, _)| event), push_data)
}

fn many<'a>(
    form: BodyForm,
    events: impl Iterator<Item = &'a wire::Event>,
    push: impl Fn(&mut Vec<u8>, &wire::Event),
) -> Body {
    let mut body = Vec::new();
    if form == BodyForm::Ndjson {
        for event in events {
            let start = body.len();
            push(&mut body, event);
            make_one_line(&mut body, start);
            body.push(b'\n');
        }
    } else {
        body.push(b'[');
        for (index, event) in events.enumerate() {
            if index > 0 {
                body.push(b',');
            }
            push(&mut body, event);
        }
        body.push(b']');
    }
    let content_type = match form {
        BodyForm::Ndjson => NDJSON,
        _ => JSON,
    };
    Body {
        bytes: body.into(),
        content_type: Some(content_type.to_owned()),
    }
}

/// Takes the blanks between tokens from the JSON that begins at `start`, if it has line ends. Within a string there are none: they are
/// escaped.
fn make_one_line(body: &mut Vec<u8>, start: usize) {
    if !body[start..].iter().any(|b| matches!(b, b'\n' | b'\r')) {
        return;
    }
    let (mut within, mut escaped) = (false, false);
    let mut kept = start;
    for at in start..body.len() {
        let byte = body[at];
        if within {
            within = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        } else {
            within = byte == b'"';
        }
        body[kept] = byte;
        kept += 1;
    }
    body.truncate(kept);
}

/// The same for a test: it says so wherever the form has room for that. Bodies that are the data itself have it where the data is a JSON
/// object.
#[must_use]
pub fn build_test(form: BodyForm, event: &wire::Event, accepted_at: Millis) -> Body {
    if form.holds_many() {
        return many(form, std::iter::once(event), push_marked);
    }
    let mut body = build(form, event, accepted_at);
    // CloudEvents name their extensions in small letters without separators, and take flat values.
    let json = body.content_type.as_deref().is_some_and(is_json);
    if json && let Some(marked) = marked(&body.bytes) {
        body.bytes = marked;
    }
    body
}

/// Data that says that it is a test, where it is a JSON object.
fn push_marked(body: &mut Vec<u8>, event: &wire::Event) {
    let json = is_json(&event.data_content_type);
    match json.then(|| marked(&event.data)).flatten() {
        Some(marked) => body.extend_from_slice(&marked),
        None => push_data(body, event),
    }
}

/// A JSON object that says first that it is a test; nothing where `json` is none, or says something of that name itself.
fn marked(json: &[u8]) -> Option<Bytes> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        test: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        message: Option<serde::de::IgnoredAny>,
    }
    let rest = json.trim_ascii_start().strip_prefix(b"{")?;
    let named: Named = serde_json::from_slice(json).ok()?;
    if named.test.is_some() {
        return None;
    }
    let empty = rest.trim_ascii_start().starts_with(b"}");
    let mut marked = Vec::with_capacity(json.len() + TEST.len() + MESSAGE.len() + 2);
    marked.push(b'{');
    marked.extend_from_slice(TEST.as_bytes());
    if named.message.is_none() {
        marked.extend_from_slice(MESSAGE.as_bytes());
    }
    if !empty {
        marked.push(b',');
    }
    marked.extend_from_slice(rest);
    Some(marked.into())
}

/// The media type of the data. What cannot stand in a header was never accepted; should it come all the same, it is left out.
fn data_type(event: &wire::Event) -> String {
    let named = &event.data_content_type;
    if named.is_empty() {
        JSON.into()
    } else if named.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        named.clone()
    } else {
        "application/octet-stream".into()
    }
}

fn standard(event: &wire::Event, accepted_at: Millis) -> Bytes {
    let mut body = Vec::with_capacity(event.data.len() + event.r#type.len() + 80);
    body.extend_from_slice(b"{\"type\":");
    push_text(&mut body, &event.r#type);
    body.extend_from_slice(b",\"timestamp\":");
    if event.time.is_empty() {
        push_text(&mut body, &accepted_at.to_rfc3339());
    } else {
        push_text(&mut body, &event.time);
    }
    body.extend_from_slice(b",\"data\":");
    push_data(&mut body, event);
    body.push(b'}');
    body.into()
}

/// JSON byte for byte, text as a JSON string, anything else as base64 in a JSON string.
fn push_data(body: &mut Vec<u8>, event: &wire::Event) {
    if event.data.is_empty() {
        body.extend_from_slice(b"null");
    } else if is_json(&event.data_content_type) {
        body.extend_from_slice(&event.data);
    } else if let Ok(text) = std::str::from_utf8(&event.data) {
        push_text(body, text);
    } else {
        push_text(body, &STANDARD.encode(&event.data));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn event(data: &'static [u8], media: &str) -> wire::Event {
        wire::Event {
            id: "1".into(),
            source: "/s".into(),
            project: "shop".into(),
            r#type: "user.signup".into(),
            key: "shop".into(),
            data: Bytes::from_static(data),
            data_content_type: media.into(),
            ..wire::Event::default()
        }
    }

    fn text(form: BodyForm, event: &wire::Event) -> String {
        let body = build(form, event, Millis(1_700_000_000_123));
        String::from_utf8(body.bytes.to_vec()).expect("utf-8")
    }

    #[test]
    fn json_data_stays_byte_for_byte() {
        let event = event(b"{\"b\": 1.00,\n\"b\":1e999}", "");
        assert_eq!(
            text(BodyForm::Standard, &event),
            "{\"type\":\"user.signup\",\"timestamp\":\"2023-11-14T22:13:20.123Z\",\"data\":{\"b\": 1.00,\n\"b\":1e999}}"
        );
        let data = build(BodyForm::Data, &event, Millis(0));
        assert_eq!(data.bytes, event.data);
        assert_eq!(data.content_type.as_deref(), Some("application/json"));
    }

    #[test]
    fn a_test_says_so_and_changes_nothing_else() {
        let test = |form, data: &'static [u8], media| {
            let body = build_test(form, &event(data, media), Millis(0));
            String::from_utf8(body.bytes.to_vec()).expect("utf-8")
        };
        let standard = test(BodyForm::Standard, b"[1.00]", "");
        let mark = r#""test":true,"message":"This is a test message.""#;
        assert!(standard.starts_with(&format!("{{{mark},\"type\":\"user.signup\"")));
        assert!(standard.ends_with("\"data\":[1.00]}"), "{standard}");
        assert_eq!(test(BodyForm::Data, b" { }", ""), format!("{{{mark} }}"));
        assert_eq!(
            test(BodyForm::Data, b"{\"a\": 1.0}", ""),
            format!("{{{mark},\"a\": 1.0}}")
        );
        let other = test(BodyForm::Data, b"{\"message\":1}", "");
        assert_eq!(other, r#"{"test":true,"message":1}"#);
        for left in ["[{}]", "1", "{\"test\":0}"] {
            assert_eq!(test(BodyForm::Data, left.as_bytes(), ""), left);
        }
        assert_eq!(test(BodyForm::Data, b"{}", "text/plain"), "{}");
        let cloud = test(BodyForm::CloudEvents, b"{}", "");
        assert!(cloud.starts_with(&format!("{{{mark},")), "{cloud}");
    }

    #[test]
    fn other_data_becomes_a_string() {
        let mut plain = event("a\"é\u{1}".as_bytes(), "text/plain; charset=utf-8");
        plain.time = "2024-01-02T03:04:05+01:00".into();
        assert_eq!(
            text(BodyForm::Standard, &plain),
            r#"{"type":"user.signup","timestamp":"2024-01-02T03:04:05+01:00","data":"a\"é\u0001"}"#
        );
        let data = build(BodyForm::Data, &plain, Millis(0));
        assert_eq!(
            data.content_type.as_deref(),
            Some("text/plain; charset=utf-8")
        );
        let binary = text(BodyForm::Standard, &event(b"\xff\x00", "image/png"));
        assert!(binary.ends_with("\"data\":\"/wA=\"}"), "{binary}");
        let empty = text(BodyForm::Standard, &event(b"", ""));
        assert!(empty.ends_with("\"data\":null}"), "{empty}");
    }

    #[test]
    fn nothing_has_no_type_and_a_bad_type_never_reaches_a_header() {
        let none = build(BodyForm::None, &event(b"1", ""), Millis(0));
        assert!(none.bytes.is_empty() && none.content_type.is_none());
        let bad = build(BodyForm::Data, &event(b"1", "a\r\nb: c"), Millis(0));
        assert_eq!(
            bad.content_type.as_deref(),
            Some("application/octet-stream")
        );
    }

    fn batch(form: BodyForm, events: &[wire::Event]) -> Body {
        build_batch(form, events.iter().map(|event| (event, Millis(0))))
    }

    #[test]
    fn a_batch_is_an_array_or_lines() {
        let events = [
            event(b"{\"b\": 1.00,\r\n\t\"b\": \"a\\\" \\\\\"}", ""),
            event("a\n\"é".as_bytes(), "text/plain"),
            event(b"", ""),
            event(b"[1, 1e999]", ""),
        ];
        let array = batch(BodyForm::Array, &events);
        assert_eq!(array.content_type.as_deref(), Some("application/json"));
        assert_eq!(
            array.bytes,
            "[{\"b\": 1.00,\r\n\t\"b\": \"a\\\" \\\\\"},\"a\\n\\\"é\",null,[1, 1e999]]"
        );
        let lines = batch(BodyForm::Ndjson, &events);
        assert_eq!(lines.content_type.as_deref(), Some("application/x-ndjson"));
        assert_eq!(
            lines.bytes,
            "{\"b\":1.00,\"b\":\"a\\\" \\\\\"}\n\"a\\n\\\"é\"\nnull\n[1, 1e999]\n"
        );
        assert_eq!(text(BodyForm::Array, &events[3]), "[[1, 1e999]]");
        assert_eq!(text(BodyForm::Ndjson, &events[3]), "[1, 1e999]\n");
        assert_eq!(batch(BodyForm::Array, &[]).bytes, "[]");
    }

    #[test]
    fn a_test_in_a_body_for_many_says_so_in_its_event() {
        let mark = r#""test":true,"message":"This is a test message.""#;
        for (data, media, want) in [
            ("{\"a\":\n1}", "", format!("{{{mark},\"a\":1}}")),
            ("[{}]", "", "[{}]".into()),
            ("{}", "text/plain", "\"{}\"".into()),
        ] {
            let event = event(data.as_bytes(), media);
            let lines = build_test(BodyForm::Ndjson, &event, Millis(0));
            assert_eq!(lines.bytes, format!("{want}\n"));
            let array = build_test(BodyForm::Array, &event, Millis(0));
            let array: Value = serde_json::from_slice(&array.bytes).expect("JSON");
            let want: Value = serde_json::from_str(&want).expect("JSON");
            assert_eq!(array, serde_json::json!([want]));
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ \\\\\"\r\n\t{}]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn of(data: Vec<u8>, media: &str) -> wire::Event {
        wire::Event {
            data: data.into(),
            ..event(b"", media)
        }
    }

    /// An event, and what its data is in a body for many.
    fn one() -> impl Strategy<Value = (wire::Event, Value)> {
        prop_oneof![
            (value(), any::<bool>()).prop_map(|(value, pretty)| {
                let data = match pretty {
                    true => serde_json::to_vec_pretty(&value),
                    false => serde_json::to_vec(&value),
                };
                (of(data.expect("JSON"), ""), value)
            }),
            ".{1,9}".prop_map(|text| (of(text.clone().into_bytes(), "text/plain"), text.into())),
            Just((event(b"\xff\n", "image/png"), "/wo=".into())),
            Just((event(b"", ""), Value::Null)),
        ]
    }

    proptest! {
        #[test]
        fn bodies_for_many_read_back_as_the_data(all in proptest::collection::vec(one(), 0..6)) {
            let (events, data): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            let array = batch(BodyForm::Array, &events).bytes;
            let read: Vec<Value> = serde_json::from_slice(&array).expect("an array");
            prop_assert_eq!(&read, &data);
            let lines = batch(BodyForm::Ndjson, &events).bytes;
            let lines = std::str::from_utf8(&lines).expect("text");
            prop_assert!(!lines.contains('\r') && (lines.is_empty() || lines.ends_with('\n')));
            let read: Result<Vec<Value>, _> = lines.split_terminator('\n').map(serde_json::from_str).collect();
            prop_assert_eq!(read.expect("a value a line"), data);
        }
    }
}
