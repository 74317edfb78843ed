//! One event of a project as people and programs see it: an item of `activities`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookline_journal::StoredRecord;
use hookline_model::event::{self, Input};
use hookline_model::limits::EVENT_BYTES_MAX;
use hookline_model::time::Millis;
use hookline_model::wire;
use hookline_registry::Snapshot;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::ContactView;

/// A longer text at the status path is no status.
const STATUS_BYTES_MAX: usize = 256;

/// An item of `activities`. Serialised it has the field names of the REST interface; a field that says nothing is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// The event's id, unique within its source.
    pub id: String,
    /// The event's source.
    pub source: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it happened, as it was published; where that was not said, when it was accepted.
    pub time: String,
    /// When it was accepted, RFC 3339.
    pub accepted_at: String,
    /// The event key.
    pub key: String,
    /// Who it is about, where it is about somebody.
    pub contact: Option<ContactView>,
    /// What stands at the status path of its type.
    pub status: Option<String>,
    /// Its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The schema of its data.
    #[serde(skip_serializing_if = "Option::is_none", rename = "dataschema")]
    pub data_schema: Option<String>,
    /// The media type of its data, where one was said.
    #[serde(skip_serializing_if = "Option::is_none", rename = "datacontenttype")]
    pub data_content_type: Option<String>,
    /// Its other attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// Its data.
    #[serde(flatten)]
    pub data: ActivityData,
    /// The project.
    #[serde(skip)]
    pub project: String,
    /// Whether the event said itself when it happened.
    #[serde(skip)]
    pub(crate) timed: bool,
    /// When it was accepted, in milliseconds since 1970.
    #[serde(skip)]
    pub accepted_ms: i64,
    /// The partition and the offset of its record.
    #[serde(skip)]
    pub(crate) at: (u32, u64),
}

/// The data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActivityData {
    /// There is none.
    None,
    /// JSON, byte for byte as it was published.
    Json(String),
    /// Anything else, in base64.
    Bytes(String),
}

impl Serialize for ActivityData {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = to.serialize_map(None)?;
        match self {
            Self::None => map.serialize_entry("data", &())?,
            Self::Json(text) => {
                let raw: &RawValue = serde_json::from_str(text).map_err(S::Error::custom)?;
                map.serialize_entry("data", raw)?;
            }
            Self::Bytes(base64) => {
                map.serialize_entry("data", &())?;
                map.serialize_entry("data_base64", base64)?;
            }
        }
        map.end()
    }
}

impl Activity {
    /// What a record of `events` says; `None`: nobody can read it, or it has no place (fan-out writes such to `rejected`).
    pub(crate) fn read(
        record: &StoredRecord,
        partition: u32,
        snapshot: &Snapshot,
        now: Millis,
    ) -> Option<Self> {
        let input = Input {
            key: record.key.as_deref(),
            value: record.value.as_ref(),
            headers: &record.headers,
        };
        let event = event::parse(input, EVENT_BYTES_MAX).ok()?;
        snapshot.project(&event.project)?;
        let json = event::is_json(&event.data_content_type);
        let refused = snapshot.refusals(&event.project, &event.r#type, &event.data, json);
        if !refused.is_empty() {
            return None;
        }
        // Producers set the times of these records: none is later than now, and one without any counts as of now.
        let accepted = match record.timestamp_ms {
            ..=0 => now,
            time => Millis(time).min(now),
        };
        let status = snapshot
            .status_path(&event.project, &event.r#type)
            .and_then(|path| event::text_at(&event, path))
            .filter(|status| !status.is_empty() && status.len() <= STATUS_BYTES_MAX);
        Some(Self::new(
            event,
            status,
            accepted,
            (partition, record.offset),
        ))
    }

    pub(crate) fn new(
        event: wire::Event,
        status: Option<String>,
        accepted: Millis,
        at: (u32, u64),
    ) -> Self {
        let accepted_at = accepted.to_rfc3339();
        let timed = !event.time.is_empty();
        let data = match std::str::from_utf8(&event.data) {
            Ok("") => ActivityData::None,
            Ok(text) if event::is_json(&event.data_content_type) => ActivityData::Json(text.into()),
            _ => ActivityData::Bytes(STANDARD.encode(&event.data)),
        };
        Self {
            id: event.id,
            source: event.source,
            event_type: event.r#type,
            time: if timed {
                event.time
            } else {
                accepted_at.clone()
            },
            accepted_at,
            key: event.key,
            contact: event.contact.and_then(|contact| {
                ContactView::of(said(contact.id), said(contact.email), said(contact.phone))
            }),
            // PostgreSQL has no NUL in texts; attributes have no control characters, and JSON writes it otherwise.
            status: status.map(|status| status.replace('\0', "\u{fffd}")),
            subject: said(event.subject),
            data_schema: said(event.data_schema),
            data_content_type: said(event.data_content_type),
            extensions: event.extensions.into_iter().collect(),
            data,
            project: event.project,
            timed,
            accepted_ms: accepted.0,
            at,
        }
    }

    /// The event again, for filters.
    #[must_use]
    pub fn to_event(&self) -> wire::Event {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        wire::Event {
            id: self.id.clone(),
            source: self.source.clone(),
            project: self.project.clone(),
            r#type: self.event_type.clone(),
            time: if self.timed {
                self.time.clone()
            } else {
                String::new()
            },
            key: self.key.clone(),
            data: match &self.data {
                ActivityData::None => bytes::Bytes::new(),
                ActivityData::Json(text) => text.clone().into(),
                ActivityData::Bytes(base64) => STANDARD.decode(base64).unwrap_or_default().into(),
            },
            data_content_type: text(&self.data_content_type),
            subject: text(&self.subject),
            data_schema: text(&self.data_schema),
            contact: self.contact.as_ref().map(|contact| wire::Contact {
                id: text(&contact.id),
                email: text(&contact.email),
                phone: text(&contact.phone),
            }),
            extensions: self
                .extensions
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }
    }
}

fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(data: &'static [u8], media: &str) -> wire::Event {
        wire::Event {
            id: "e1".into(),
            source: "/s".into(),
            project: "mail".into(),
            r#type: "activity.read".into(),
            key: "k".into(),
            data: Bytes::from_static(data),
            data_content_type: media.into(),
            contact: Some(wire::Contact {
                email: "Ann@example.com".into(),
                ..wire::Contact::default()
            }),
            extensions: [("tenant".to_owned(), "7".to_owned())].into(),
            ..wire::Event::default()
        }
    }

    #[test]
    fn json_is_shown_as_it_was_published_and_all_else_in_base64() {
        let shown = |event: wire::Event| {
            let activity = Activity::new(event.clone(), None, Millis(0), (0, 0));
            assert_eq!(activity.to_event(), event);
            serde_json::to_string(&activity).unwrap()
        };
        let number = shown(event(br#"{"b":1.00000000000000000001,"a":2}"#, ""));
        assert!(
            number.contains(r#""data":{"b":1.00000000000000000001,"a":2}"#),
            "{number}"
        );
        assert!(number.contains(r#""time":"1970-01-01T00:00:00.000Z""#));
        assert!(number.contains(r#""email":"Ann@example.com""#));
        let bytes = shown(event(b"\xff\x00", "application/octet-stream"));
        assert!(
            bytes.contains(r#""data":null,"data_base64":"/wA=""#),
            "{bytes}"
        );
        let none = shown(event(b"", ""));
        assert!(none.contains(r#""data":null"#) && !none.contains("data_base64"));
    }
}
