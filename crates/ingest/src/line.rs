//! One line of input made into one record of `events`. Pure but for the id that an event without one is given.

use std::fmt;

use bytes::Bytes;
use hookline_model::cloudevents;
use hookline_model::event::{self, Input, Unreadable, reason};
use hookline_model::limits;
use hookline_model::time::Millis;
use hookline_model::wire::header;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The `source` of an event that was published as bare data without one.
pub(crate) const SOURCE: &str = "hookline/publish";

/// What is filled in where the document does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The project of events that name none.
    pub project: Option<String>,
    /// When given, documents are bare data and this is their event type.
    pub event_type: Option<String>,
    /// The event key of events that have no `partitionkey`.
    pub key: Option<String>,
    /// The source of bare data.
    pub source: Option<String>,
}

/// An event ready to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its id, as published or made here.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Its project.
    pub project: String,
    /// Its event key.
    pub key: String,
    /// Its type.
    pub event_type: String,
    /// Its data as published.
    pub data: Bytes,
    /// Whether that is JSON.
    pub json: bool,
    /// The CloudEvent as JSON.
    pub value: Bytes,
}

/// Why a line cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It is not JSON.
    #[error("not a JSON document: {reason}; publish takes one document per line")]
    Json {
        /// Where and why.
        reason: String,
    },
    /// It is JSON, but not an object.
    #[error(
        "not a CloudEvent: a JSON object is needed; to publish it as bare data say its event type with --type"
    )]
    NotAnObject,
    /// It has no `specversion`.
    #[error(
        "not a CloudEvent: `specversion` is missing; to publish it as bare data say its event type with --type"
    )]
    NotACloudEvent,
    /// Nothing says which project it belongs to.
    #[error("no project: add the attribute `project` to the event, or say --project")]
    NoProject,
    /// It is larger than an event may be.
    #[error("{bytes} bytes is too large: an event is at most {max} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It breaks a rule for events.
    #[error("not a valid event ({reason}): {detail}")]
    Invalid {
        /// From the closed list that `rejected` uses.
        reason: &'static str,
        /// What exactly is wrong.
        detail: String,
    },
}

impl Defaults {
    /// Makes the event of one line.
    ///
    /// # Errors
    /// When the line is not an event; the message says what to do.
    pub fn prepare(&self, line: &[u8], now: Millis) -> Result<Prepared, LineError> {
        let text = std::str::from_utf8(line.trim_ascii()).map_err(|error| LineError::Json {
            reason: error.to_string(),
        })?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| LineError::Json {
            reason: error.to_string(),
        })?;
        let value = match &self.event_type {
            Some(event_type) => self.wrap(raw, event_type, now)?,
            None => self.complete(raw.get(), None)?,
        };
        check(value)
    }

    /// A CloudEvent around bare data, which stays byte for byte.
    fn wrap(&self, data: &RawValue, event_type: &str, now: Millis) -> Result<Vec<u8>, LineError> {
        let project = self.project.as_deref().ok_or(LineError::NoProject)?;
        let event = Whole {
            specversion: "1.0",
            id: &new_id(now),
            source: self.source.as_deref().unwrap_or(SOURCE),
            event_type,
            time: &now.to_rfc3339(),
            subject: None,
            project,
            partitionkey: self.key.as_deref(),
            contactid: None,
            contactemail: None,
            contactphone: None,
            datacontenttype: "application/json",
            data,
        };
        serde_json::to_vec(&event).map_err(|error| LineError::Json {
            reason: error.to_string(),
        })
    }

    /// The CloudEvent as it is, with the project, the key and `id` put in front where it has none.
    pub(crate) fn complete(&self, text: &str, id: Option<String>) -> Result<Vec<u8>, LineError> {
        let Some(inside) = text.strip_prefix('{') else {
            return Err(LineError::NotAnObject);
        };
        let names = Names::of(text).map_err(|error| LineError::Json {
            reason: error.to_string(),
        })?;
        if !names.specversion {
            return Err(LineError::NotACloudEvent);
        }
        let mut out = String::with_capacity(text.len() + 64);
        out.push('{');
        let mut add = |name: &str, value: &str| {
            // Serialising a string cannot fail; an empty object would end in a comma, but this one has `specversion`.
            let value = serde_json::Value::from(value);
            out.push_str(&format!("\"{name}\":{value},"));
        };
        if !names.project {
            add(
                "project",
                self.project.as_deref().ok_or(LineError::NoProject)?,
            );
        }
        if let (false, Some(key)) = (names.partitionkey, &self.key) {
            add("partitionkey", key);
        }
        if let (false, Some(id)) = (names.id, &id) {
            add("id", id);
        }
        out.push_str(inside);
        Ok(out.into_bytes())
    }
}

/// A CloudEvent around data.
#[derive(serde::Serialize)]
pub(crate) struct Whole<'a> {
    pub(crate) specversion: &'a str,
    pub(crate) id: &'a str,
    pub(crate) source: &'a str,
    #[serde(rename = "type")]
    pub(crate) event_type: &'a str,
    pub(crate) time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    pub(crate) project: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partitionkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contactid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contactemail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contactphone: Option<&'a str>,
    pub(crate) datacontenttype: &'a str,
    pub(crate) data: &'a RawValue,
}

/// Checks what will be published with the rules that fan-out reads by, so that an error shows here and not in `rejected`.
pub(crate) fn check(value: Vec<u8>) -> Result<Prepared, LineError> {
    let value = Bytes::from(value);
    let headers = headers();
    let input = Input {
        key: None,
        value: Some(&value),
        headers: &headers,
    };
    let event = event::parse(input, limits::EVENT_BYTES_MAX)
        .map_err(|unreadable| refused(unreadable, value.len()))?;
    Ok(Prepared {
        key: event.key,
        json: event::is_json(&event.data_content_type),
        event_type: event.r#type,
        data: event.data,
        id: event.id,
        source: event.source,
        project: event.project,
        value,
    })
}

/// Why fan-out would not read an event of `bytes` bytes.
pub(crate) fn refused(unreadable: Unreadable, bytes: usize) -> LineError {
    if unreadable.reason == reason::TOO_LARGE {
        return LineError::TooLarge {
            bytes,
            max: limits::EVENT_BYTES_MAX,
        };
    }
    LineError::Invalid {
        reason: unreadable.reason,
        detail: unreadable.detail,
    }
}

/// The headers of every record that is published here.
pub(crate) fn headers() -> Vec<(String, Bytes)> {
    let media_type = Bytes::from_static(cloudevents::MEDIA_TYPE.as_bytes());
    vec![(header::CONTENT_TYPE.to_owned(), media_type)]
}

pub(crate) fn new_id(now: Millis) -> String {
    let ms = u64::try_from(now.0).unwrap_or(0);
    let nanos = u32::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
    let at = uuid::Timestamp::from_unix(uuid::NoContext, ms / 1000, nanos);
    uuid::Uuid::new_v7(at).to_string()
}

/// Which of the attributes that matter here a document has; everything else is passed over.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) specversion: bool,
    id: bool,
    project: bool,
    partitionkey: bool,
}

impl Names {
    pub(crate) fn of(document: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(document)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "specversion" => names.specversion = true,
                        "id" => names.id = true,
                        "project" => names.project = true,
                        "partitionkey" => names.partitionkey = true,
                        _ => {}
                    }
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
                Ok(names)
            }
        }
        from.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_123);

    fn defaults() -> Defaults {
        Defaults {
            project: Some("demo".into()),
            ..Defaults::default()
        }
    }

    fn text(prepared: &Prepared) -> &str {
        std::str::from_utf8(&prepared.value).unwrap()
    }

    #[test]
    fn bare_data_becomes_a_cloudevent_with_its_bytes_kept() {
        let defaults = Defaults {
            event_type: Some("user.signup".into()),
            ..defaults()
        };
        let made = defaults
            .prepare(b" {\"b\": 1.00, \"a\":[ 2]}\n", NOW)
            .unwrap();
        assert_eq!(
            (made.project.as_str(), made.key.as_str()),
            ("demo", "demo"),
            "the key is the project when nothing else is said"
        );
        assert_eq!(made.source, "hookline/publish");
        assert!(text(&made).ends_with("\"data\":{\"b\": 1.00, \"a\":[ 2]}}"));
        assert!(text(&made).contains("\"time\":\"2023-11-14T22:13:20.123Z\""));
        assert!(text(&made).contains(&made.id));
        let again = defaults.prepare(b"1", NOW).unwrap();
        assert_ne!(again.id, made.id, "each event has its own id");
    }

    #[test]
    fn a_cloudevent_stays_as_it_is_and_missing_parts_are_filled_in() {
        let line = br#"{"specversion":"1.0","id":"1","source":"/s","type":"a.b","data":{"n": 1}}"#;
        let made = Defaults {
            key: Some("k\"1".into()),
            ..defaults()
        }
        .prepare(line, NOW)
        .unwrap();
        assert_eq!(
            text(&made),
            r#"{"project":"demo","partitionkey":"k\"1","specversion":"1.0","id":"1","source":"/s","type":"a.b","data":{"n": 1}}"#
        );
        assert_eq!((made.id.as_str(), made.key.as_str()), ("1", "k\"1"));

        let own = br#"{"specversion":"1.0","id":"1","source":"/s","type":"a.b","project":"shop","partitionkey":"7"}"#;
        let made = defaults().prepare(own, NOW).unwrap();
        assert_eq!(&made.value[..], own);
        assert_eq!((made.project.as_str(), made.key.as_str()), ("shop", "7"));
    }

    #[test]
    fn errors_say_what_to_do() {
        let none = Defaults::default();
        let says = |defaults: &Defaults, line: &str| {
            defaults
                .prepare(line.as_bytes(), NOW)
                .unwrap_err()
                .to_string()
        };
        assert!(says(&none, "{").contains("not a JSON document"));
        assert!(says(&none, "").contains("not a JSON document"));
        assert!(says(&none, "[1]").contains("--type"));
        assert!(says(&none, "{\"a\":1}").contains("`specversion`"));
        assert!(
            says(
                &none,
                r#"{"specversion":"1.0","id":"1","source":"/s","type":"a"}"#
            )
            .contains("--project")
        );
        let large = format!("\"{}\"", "x".repeat(limits::EVENT_BYTES_MAX));
        let typed = Defaults {
            event_type: Some("a".into()),
            ..defaults()
        };
        assert!(says(&typed, &large).contains("too large"));
        let without_id = r#"{"specversion":"1.0","source":"/s","type":"a"}"#;
        assert!(says(&defaults(), without_id).contains("id"));
        assert!(
            defaults().prepare(b"{\"specversion\":\xff}", NOW).is_err(),
            "not UTF-8"
        );
    }
}
