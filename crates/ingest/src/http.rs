//! The body of a request to publish made into events. Pure but for ids that nobody gave.
//!
//! Three forms, told apart by what they are rather than by what they say they are: a CloudEvent (it has a `specversion`), a short form
//! (`type`, `data`, …), and a list of either. Besides, CloudEvents in binary mode: attributes in `ce-…` headers, the body is the data.

use bytes::Bytes;
use hookline_model::cloudevents;
use hookline_model::event::{self, Input};
use hookline_model::limits::{EVENT_BYTES_MAX, PUBLISH_EVENTS_MAX};
use hookline_model::time::Millis;
use hookline_model::wire::header;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::line::{Defaults, LineError, Names, Prepared, SOURCE, Whole, check, new_id, refused};

/// The media type of a list of CloudEvents.
pub const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";

/// Bytes of an `Idempotency-Key`: with the place in a list behind it, it is an event's id.
const IDEMPOTENCY_BYTES_MAX: usize = 200;

/// A request to publish.
#[derive(Debug, Clone, Copy)]
pub struct PublishRequest<'a> {
    /// The project of its path.
    pub project: &'a str,
    /// The media type, whole; empty when none is said.
    pub content_type: &'a str,
    /// `ce-…` headers in lower case, with their prefix.
    pub attributes: &'a [(String, Bytes)],
    /// Makes the ids of events that have none.
    pub idempotency_key: Option<&'a str>,
    /// The body.
    pub body: &'a Bytes,
}

/// The events of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadEvents {
    /// In the order of the request.
    pub events: Vec<Prepared>,
    /// Whether it was a list.
    pub list: bool,
}

/// What kind of mistake a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It can be read, and is wrong (422).
    Invalid,
    /// It cannot be read (400).
    Malformed,
    /// Its media type is none of the forms (415).
    MediaType,
    /// It is too large (413).
    TooLarge,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// What kind of mistake.
    pub fault: Fault,
    /// Where: `type`, `[3].data`, `Idempotency-Key`; empty for the whole.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl RequestError {
    fn new(fault: Fault, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            fault,
            field: field.into(),
            message: message.into(),
        }
    }
}

impl PublishRequest<'_> {
    /// The events. Either all are right, or none is taken.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn read(&self, now: Millis) -> Result<ReadEvents, Vec<RequestError>> {
        self.check_key().map_err(|error| vec![error])?;
        if self.binary() {
            let event = self.read_binary().map_err(|error| vec![error])?;
            return Ok(ReadEvents {
                events: vec![event],
                list: false,
            });
        }
        let documents = self.documents().map_err(|error| vec![error])?;
        let mut events = Vec::new();
        let mut errors = Vec::new();
        let (list, documents) = match documents {
            Documents::One(one) => (false, vec![one]),
            Documents::List(list) => (true, list),
        };
        for (index, document) in documents.into_iter().enumerate() {
            match self.read_one(document, list.then_some(index), now) {
                Ok(event) => events.push(event),
                Err(error) if list => errors.push(RequestError {
                    field: match error.field.as_str() {
                        "" => format!("[{index}]"),
                        field => format!("[{index}].{field}"),
                    },
                    ..error
                }),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Ok(ReadEvents { events, list });
        }
        Err(errors)
    }

    fn check_key(&self) -> Result<(), RequestError> {
        let fits = |key: &str| {
            (1..=IDEMPOTENCY_BYTES_MAX).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_graphic())
        };
        match self.idempotency_key {
            Some(key) if !fits(key) => Err(RequestError::new(
                Fault::Malformed,
                "Idempotency-Key",
                format!(
                    "must have 1 to {IDEMPOTENCY_BYTES_MAX} visible ASCII characters, and no blanks"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn binary(&self) -> bool {
        let named = |(name, _): &(String, Bytes)| name == "ce-specversion";
        self.attributes.iter().any(named) && !self.essence().starts_with("application/cloudevents")
    }

    fn essence(&self) -> String {
        let essence = self.content_type.split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    }

    /// The id of an event that has none, where the request makes it.
    fn made_id(&self, index: Option<usize>) -> Option<String> {
        let key = self.idempotency_key?;
        Some(match index {
            None => key.to_owned(),
            Some(index) => format!("{key}/{index}"),
        })
    }

    fn documents(&self) -> Result<Documents<'_>, RequestError> {
        let essence = self.essence();
        let known = [
            "application/json",
            cloudevents::MEDIA_TYPE,
            BATCH_MEDIA_TYPE,
        ];
        if !known.contains(&essence.as_str()) {
            let message = format!("must be one of: {}", known.join(", "));
            return Err(RequestError::new(Fault::MediaType, "Content-Type", message));
        }
        let malformed = |why: String| {
            RequestError::new(Fault::Malformed, "", format!("the body is not JSON: {why}"))
        };
        let text = std::str::from_utf8(self.body).map_err(|e| malformed(e.to_string()))?;
        if !text.trim_start().starts_with('[') {
            if essence == BATCH_MEDIA_TYPE {
                let message = format!("`{BATCH_MEDIA_TYPE}` is a list of CloudEvents");
                return Err(RequestError::new(Fault::Malformed, "", message));
            }
            let one: &RawValue =
                serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
            return Ok(Documents::One(one));
        }
        if essence == cloudevents::MEDIA_TYPE {
            let message = format!("a list of CloudEvents is `{BATCH_MEDIA_TYPE}`");
            return Err(RequestError::new(Fault::Malformed, "", message));
        }
        let list: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
        if list.is_empty() {
            return Err(RequestError::new(
                Fault::Invalid,
                "",
                "there is no event in the list",
            ));
        }
        if list.len() > PUBLISH_EVENTS_MAX {
            let message = format!("a request may have {PUBLISH_EVENTS_MAX} events; send several");
            return Err(RequestError::new(Fault::TooLarge, "", message));
        }
        Ok(Documents::List(list))
    }

    fn read_one(
        &self,
        document: &RawValue,
        index: Option<usize>,
        now: Millis,
    ) -> Result<Prepared, RequestError> {
        let text = document.get();
        if !text.starts_with('{') {
            return Err(RequestError::new(
                Fault::Invalid,
                "",
                "an event must be an object",
            ));
        }
        let names = Names::of(text).map_err(|e| self.invalid("", e.to_string()))?;
        let value = if names.specversion || self.essence() != "application/json" {
            let defaults = Defaults {
                project: Some(self.project.to_owned()),
                ..Defaults::default()
            };
            defaults
                .complete(text, self.made_id(index))
                .map_err(as_request)?
        } else {
            self.wrap(text, index, now)?
        };
        self.own(check(value).map_err(as_request)?)
    }

    /// A CloudEvent around the short form, whose data stays byte for byte.
    fn wrap(&self, text: &str, index: Option<usize>, now: Millis) -> Result<Vec<u8>, RequestError> {
        let short: Short<'_> = serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            self.invalid(&named_in(&message), message)
        })?;
        let required = |field: &str| self.invalid(field, "is required".into());
        let event_type = short.event_type.ok_or_else(|| required("type"))?;
        let data = short.data.ok_or_else(|| required("data"))?;
        let made = || self.made_id(index).unwrap_or_else(|| new_id(now));
        let contact = short.contact.unwrap_or_default();
        let event = Whole {
            specversion: "1.0",
            id: &short.id.unwrap_or_else(made),
            source: short.source.as_deref().unwrap_or(SOURCE),
            event_type: &event_type,
            time: &short.time.unwrap_or_else(|| now.to_rfc3339()),
            subject: short.subject.as_deref(),
            project: self.project,
            partitionkey: short.key.as_deref(),
            contactid: contact.id.as_deref(),
            contactemail: contact.email.as_deref(),
            contactphone: contact.phone.as_deref(),
            datacontenttype: "application/json",
            data,
        };
        serde_json::to_vec(&event).map_err(|error| self.invalid("", error.to_string()))
    }

    fn read_binary(&self) -> Result<Prepared, RequestError> {
        let mut headers: Vec<(String, Bytes)> = Vec::with_capacity(self.attributes.len() + 3);
        let mut named = |name: &str, value: &str| {
            headers.push((name.to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        };
        if !self.content_type.is_empty() {
            named(header::CONTENT_TYPE, self.content_type);
        }
        let has = |name: &str| self.attributes.iter().any(|(n, _)| n == name);
        if !has("ce-project") {
            named("ce_project", self.project);
        }
        if let (false, Some(id)) = (has("ce-id"), self.made_id(None)) {
            named("ce_id", &id);
        }
        let given = self.attributes.iter().filter_map(|(name, value)| {
            let attribute = name.strip_prefix("ce-")?;
            Some((format!("ce_{attribute}"), value.clone()))
        });
        headers.extend(given);
        let input = Input {
            key: None,
            value: Some(self.body),
            headers: &headers,
        };
        let event = event::parse(input, EVENT_BYTES_MAX)
            .map_err(|unreadable| as_request(refused(unreadable, self.body.len())))?;
        let value = cloudevents::to_cloudevent_json(&event);
        self.own(check(value).map_err(as_request)?)
    }

    /// An event of another project does not belong here.
    fn own(&self, event: Prepared) -> Result<Prepared, RequestError> {
        if event.project == self.project {
            return Ok(event);
        }
        let message = format!("must be {}, as in the path, or be left out", self.project);
        Err(self.invalid("project", message))
    }

    #[expect(
        clippy::unused_self,
        reason = "reads as what it is: this request is invalid there"
    )]
    fn invalid(&self, field: &str, message: String) -> RequestError {
        RequestError::new(Fault::Invalid, field, message)
    }
}

enum Documents<'a> {
    One(&'a RawValue),
    List(Vec<&'a RawValue>),
}

/// The short form of an event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Short<'a> {
    #[serde(rename = "type")]
    event_type: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    key: Option<String>,
    id: Option<String>,
    source: Option<String>,
    subject: Option<String>,
    time: Option<String>,
    contact: Option<Contact>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Contact {
    id: Option<String>,
    email: Option<String>,
    phone: Option<String>,
}

fn as_request(error: LineError) -> RequestError {
    match error {
        LineError::TooLarge { .. } => RequestError::new(Fault::TooLarge, "", error.to_string()),
        LineError::NotACloudEvent => {
            RequestError::new(Fault::Invalid, "specversion", "is required: \"1.0\"")
        }
        LineError::Invalid { detail, .. } => {
            RequestError::new(Fault::Invalid, named_in(&detail), detail)
        }
        other => RequestError::new(Fault::Invalid, "", other.to_string()),
    }
}

/// The first name that a message has in backticks.
fn named_in(message: &str) -> String {
    let name = message.split('`').nth(1).unwrap_or_default();
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_123);

    fn read(
        content_type: &str,
        key: Option<&str>,
        body: &str,
    ) -> Result<ReadEvents, Vec<RequestError>> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        PublishRequest {
            project: "demo",
            content_type,
            attributes: &[],
            idempotency_key: key,
            body: &body,
        }
        .read(NOW)
    }

    fn faults(content_type: &str, body: &str) -> Vec<(Fault, String)> {
        let errors = read(content_type, None, body).expect_err("refused");
        errors.into_iter().map(|e| (e.fault, e.field)).collect()
    }

    fn text(event: &Prepared) -> &str {
        std::str::from_utf8(&event.value).expect("JSON")
    }

    #[test]
    fn the_short_form_becomes_a_cloudevent_with_its_data_kept() {
        let body = r#"{"type":"a.b","data":{"n": 1.00,"ü":"\u00e9"},"key":"k","id":"7","source":"/s",
            "contact":{"id":"c","email":"e@x.org","phone":"+1"}}"#;
        let read = read("application/json; charset=utf-8", None, body).expect("an event");
        assert!(!read.list);
        let event = &read.events[0];
        let whole = (event.id.as_str(), event.key.as_str(), event.source.as_str());
        assert_eq!(whole, ("7", "k", "/s"));
        assert!(
            text(event).ends_with(r#""data":{"n": 1.00,"ü":"\u00e9"}}"#),
            "{}",
            text(event)
        );
        for part in [
            r#""contactid":"c""#,
            r#""contactemail":"e@x.org""#,
            r#""contactphone":"+1""#,
        ] {
            assert!(text(event).contains(part), "{}", text(event));
        }
        assert_eq!(
            (event.event_type.as_str(), event.project.as_str()),
            ("a.b", "demo")
        );
    }

    #[test]
    fn an_idempotency_key_makes_the_ids_that_are_missing_and_no_others() {
        let short = r#"{"type":"a.b","data":1}"#;
        let cloud = r#"{"specversion":"1.0","type":"a.b","source":"/s"}"#;
        for body in [short, cloud] {
            let read = read("application/json", Some("order-17"), body).expect("an event");
            assert_eq!(read.events[0].id, "order-17");
        }
        let list = format!(r#"[{short},{{"type":"a.b","data":1,"id":"own"}},{cloud}]"#);
        let events = read("application/json", Some("order-17"), &list)
            .expect("events")
            .events;
        let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["order-17/0", "own", "order-17/2"]);
        let without = read("application/json", None, short).expect("an event");
        assert_eq!(without.events[0].id.len(), 36, "a UUID");
        for key in ["", "a b", "é", &"x".repeat(201)] {
            let error = read("application/json", Some(key), short).expect_err("refused");
            assert_eq!(error[0].field, "Idempotency-Key", "{key:?}");
        }
    }

    #[test]
    fn a_list_is_taken_whole_or_not_at_all_and_every_mistake_has_its_place() {
        let good = r#"{"specversion":"1.0","id":"1","type":"a","source":"/s"}"#;
        let list = format!(
            r#"[{good},{{"type":"a"}},7,{{"specversion":"1.0","id":"1","type":"a","source":"/s","project":"other"}},{{"type":"a","data":1,"colour":"red"}}]"#
        );
        let at = |field: &str| (Fault::Invalid, field.to_owned());
        assert_eq!(
            faults("application/json", &list),
            [
                at("[1].data"),
                at("[2]"),
                at("[3].project"),
                at("[4].colour")
            ]
        );
        let batch = read(BATCH_MEDIA_TYPE, None, &format!("[{good}]")).expect("events");
        assert!(batch.list);
        assert_eq!(
            faults(BATCH_MEDIA_TYPE, r#"[{"type":"a","data":1}]"#),
            [at("[0].specversion")]
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_is_wrong() {
        let one = |fault, field: &str| vec![(fault, field.to_owned())];
        assert_eq!(faults("application/json", "{"), one(Fault::Malformed, ""));
        assert_eq!(faults("application/json", ""), one(Fault::Malformed, ""));
        assert_eq!(faults("application/json", "[]"), one(Fault::Invalid, ""));
        assert_eq!(
            faults("text/plain", "{}"),
            one(Fault::MediaType, "Content-Type")
        );
        assert_eq!(faults("", "{}"), one(Fault::MediaType, "Content-Type"));
        assert_eq!(faults(BATCH_MEDIA_TYPE, "{}"), one(Fault::Malformed, ""));
        assert_eq!(
            faults(cloudevents::MEDIA_TYPE, "[]"),
            one(Fault::Malformed, "")
        );
        assert_eq!(
            faults("application/json", "{}"),
            one(Fault::Invalid, "type")
        );
        let large = format!(r#"{{"type":"a","data":"{}"}}"#, "x".repeat(EVENT_BYTES_MAX));
        assert_eq!(faults("application/json", &large), one(Fault::TooLarge, ""));
        let many = format!("[{}1]", "1,".repeat(PUBLISH_EVENTS_MAX));
        assert_eq!(faults("application/json", &many), one(Fault::TooLarge, ""));
    }

    #[test]
    fn in_binary_mode_attributes_are_headers_and_the_body_is_the_data() {
        let body = Bytes::from_static(b"{\"n\": 1.0}");
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-type", "a.b"),
            ("ce-source", "/s"),
            ("ce-partitionkey", "k"),
        ];
        let attributes = attributes.map(|(n, v)| (n.to_owned(), Bytes::from_static(v.as_bytes())));
        let mut request = PublishRequest {
            project: "demo",
            content_type: "application/json",
            attributes: &attributes,
            idempotency_key: Some("x"),
            body: &body,
        };
        let event = request.read(NOW).expect("an event").events.remove(0);
        assert_eq!((event.id.as_str(), event.key.as_str()), ("x", "k"));
        assert!(
            text(&event).ends_with("\"data\":{\"n\": 1.0}}"),
            "{}",
            text(&event)
        );
        request.idempotency_key = None;
        let error = request.read(NOW).expect_err("no id");
        assert_eq!(error[0].field, "id");
    }
}
