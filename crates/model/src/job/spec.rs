//! What a job asks for, in the words of its document.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::JobKind;
use crate::matching::TypePattern;
use crate::outcome::{ErrorClass, Outcome};
use crate::resource::FieldError;
use crate::time::Millis;

/// The longest text of a filter, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// What of its source a job wants: all that is said must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// The type of the event: `order.paid`, or `order.*`.
    pub event_type: Option<TypePattern>,
    /// The id of the event.
    pub event_id: Option<String>,
    /// How the delivery ended.
    pub outcome: Option<Outcome>,
    /// Why its last attempt failed.
    pub error_class: Option<ErrorClass>,
    /// What its last attempt was answered.
    pub status: Option<StatusIs>,
    /// That or later: when its last attempt began, or the event was published.
    pub from: Option<Millis>,
    /// Before that.
    pub to: Option<Millis>,
}

/// A status, or all of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusIs {
    /// `503`.
    Exactly(u16),
    /// `5xx`.
    Class(u16),
}

/// How a delivery ended, as far as a filter looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Final<'a> {
    /// The type of its event.
    pub event_type: &'a str,
    /// The id of its event.
    pub event_id: &'a str,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why, in the word of its record.
    pub error_class: &'a str,
    /// The status of its last attempt; 0 without an answer.
    pub status: u32,
    /// When its last attempt began.
    pub at: Millis,
}

impl JobFilter {
    /// Whether an event of that type and id, published then, is wanted.
    #[must_use]
    pub fn wants_event(&self, event_type: &str, event_id: &str, at: Millis) -> bool {
        self.event_type
            .as_ref()
            .is_none_or(|p| p.matches(event_type))
            && self.event_id.as_deref().is_none_or(|id| id == event_id)
            && self.in_range(at)
    }

    /// Whether a delivery that ended so is wanted.
    #[must_use]
    pub fn wants_final(&self, end: &Final<'_>) -> bool {
        self.wants_event(end.event_type, end.event_id, end.at)
            && self
                .outcome
                .is_none_or(|wanted| end.outcome == Some(wanted))
            && self
                .error_class
                .is_none_or(|wanted| wanted.as_str() == end.error_class)
            && self.status.is_none_or(|wanted| wanted.is(end.status))
    }

    /// Whether that moment is in the range.
    #[must_use]
    pub fn in_range(&self, at: Millis) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }

    /// As a document again.
    #[must_use]
    pub fn to_document(&self) -> Value {
        let mut document = Map::new();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                document.insert(key.to_owned(), value.into());
            }
        };
        put(
            "event_type",
            self.event_type.as_ref().map(ToString::to_string),
        );
        put("event_id", self.event_id.clone());
        put("outcome", self.outcome.map(|o| o.as_str().to_owned()));
        put(
            "error_class",
            self.error_class.map(|c| c.as_str().to_owned()),
        );
        put("status", self.status.map(|s| s.to_string()));
        put("from", self.from.map(Millis::to_rfc3339));
        put("to", self.to.map(Millis::to_rfc3339));
        Value::Object(document)
    }
}

impl Serialize for JobFilter {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_document().serialize(to)
    }
}

impl<'de> Deserialize<'de> for JobFilter {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let document = Map::deserialize(from)?;
        let mut reader = Reader::default();
        // A word that this build does not know would make the job do more than it is to do.
        let filter = reader.filter(&document, &REDRIVE);
        match reader.errors.first() {
            None => Ok(filter),
            Some(error) => Err(serde::de::Error::custom(error)),
        }
    }
}

impl StatusIs {
    fn is(self, status: u32) -> bool {
        match self {
            Self::Exactly(wanted) => status == u32::from(wanted),
            Self::Class(class) => status / 100 == u32::from(class),
        }
    }
}

impl fmt::Display for StatusIs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(status) => write!(f, "{status}"),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

/// A status that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a status such as 503, or a class such as 5xx")]
pub struct NoStatus;

impl FromStr for StatusIs {
    type Err = NoStatus;

    fn from_str(text: &str) -> Result<Self, NoStatus> {
        let number = |digits: &str| {
            let all = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|_| all)
        };
        let read = match text.strip_suffix("xx") {
            Some(class) => number(class)
                .filter(|c| (1..=9).contains(c))
                .map(Self::Class),
            None => number(text)
                .filter(|s| (100..=999).contains(s))
                .map(Self::Exactly),
        };
        read.ok_or(NoStatus)
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// What is to be done.
    pub kind: JobKind,
    /// The name of the webhook, if it is about one.
    pub webhook: Option<String>,
    /// What of the source is wanted.
    pub filter: JobFilter,
}

const REDRIVE: [&str; 7] = [
    "event_type",
    "event_id",
    "outcome",
    "error_class",
    "status",
    "from",
    "to",
];
const REPLAY: [&str; 4] = ["event_type", "event_id", "from", "to"];

impl JobSpec {
    /// Reads `{"kind": …, "webhook": …, "filter": {…}}`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(document: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut reader = Reader::default();
        for key in document.keys() {
            if !["kind", "webhook", "filter"].contains(&key.as_str()) {
                reader.unknown(key, "kind, webhook, filter");
            }
        }
        let kind = match text(document, "kind") {
            Ok(Some(word)) => reader.taken("kind", word.parse::<JobKind>()),
            Ok(None) => reader.error("kind", "is required: redrive or replay"),
            Err(problem) => reader.error("kind", problem),
        };
        let webhook = match text(document, "webhook") {
            Ok(webhook) => webhook.map(str::to_owned),
            Err(problem) => reader.error("webhook", problem),
        };
        let nothing = Map::new();
        let given = match document.get("filter") {
            None | Some(Value::Null) => &nothing,
            Some(Value::Object(given)) => given,
            Some(_) => {
                reader.error::<()>("filter", "must be an object");
                &nothing
            }
        };
        // The webhook may stand among the rest of what is wanted, too.
        let mut given = given.clone();
        let inside = match text(&given, "webhook") {
            Ok(inside) => inside.map(str::to_owned),
            Err(problem) => reader.error("filter.webhook", problem),
        };
        given.remove("webhook");
        if let (Some(one), Some(other)) = (&webhook, &inside)
            && one != other
        {
            reader.error::<()>("filter.webhook", "is another one than `webhook`");
        }
        let webhook = webhook.or(inside);
        let known: &[&str] = match kind {
            Some(JobKind::Replay) => &REPLAY,
            _ => &REDRIVE,
        };
        reader.prefix = "filter.";
        let filter = reader.filter(&given, known);
        reader.prefix = "";
        if kind == Some(JobKind::Replay) && webhook.is_none() {
            reader.error::<()>("webhook", "is required: events are replayed to one webhook");
        }
        match kind {
            Some(kind) if reader.errors.is_empty() => Ok(Self {
                kind,
                webhook,
                filter,
            }),
            _ => Err(reader.errors),
        }
    }

    /// As a document again.
    #[must_use]
    pub fn to_document(&self) -> Value {
        json!({"kind": self.kind, "webhook": self.webhook, "filter": self.filter})
    }
}

/// A text, if it is there; `null` and nothing are the same.
fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, &'static str> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() || text.len() > TEXT_BYTES_MAX => {
            Err("must have 1 to 256 bytes")
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("must be a text"),
    }
}

/// Reads, and takes note of what is wrong.
#[derive(Default)]
struct Reader {
    prefix: &'static str,
    errors: Vec<FieldError>,
}

impl Reader {
    fn error<T>(&mut self, field: &str, message: impl Into<String>) -> Option<T> {
        let field = format!("{}{field}", self.prefix);
        self.errors.push(FieldError::new(field, message));
        None
    }

    fn unknown(&mut self, key: &str, known: &str) {
        let shown: String = key.chars().take(64).collect();
        self.error::<()>(&shown, format!("is not known; known are: {known}"));
    }

    fn taken<T>(&mut self, field: &str, read: Result<T, impl fmt::Display>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error) => self.error(field, error.to_string()),
        }
    }

    fn filter(&mut self, given: &Map<String, Value>, known: &[&str]) -> JobFilter {
        for key in given.keys() {
            if !known.contains(&key.as_str()) {
                self.unknown(key, &known.join(", "));
            }
        }
        let filter = JobFilter {
            event_type: self.parsed(given, "event_type"),
            event_id: self.parsed(given, "event_id"),
            outcome: self.outcome(given),
            error_class: self.parsed(given, "error_class"),
            status: self.status(given),
            from: self.moment(given, "from"),
            to: self.moment(given, "to"),
        };
        if let (Some(from), Some(to)) = (filter.from, filter.to)
            && to <= from
        {
            self.error::<()>("to", "must be later than `from`");
        }
        filter
    }

    fn parsed<T>(&mut self, given: &Map<String, Value>, key: &str) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        match text(given, key) {
            Ok(text) => self.taken(key, text?.parse()),
            Err(problem) => self.error(key, problem),
        }
    }

    fn outcome(&mut self, given: &Map<String, Value>) -> Option<Outcome> {
        let outcome: Outcome = self.parsed(given, "outcome")?;
        if outcome.is_dead() {
            return Some(outcome);
        }
        self.error("outcome", "must be one of: exhausted, refused, expired")
    }

    fn status(&mut self, given: &Map<String, Value>) -> Option<StatusIs> {
        match given.get("status") {
            Some(Value::Number(number)) => self.taken("status", number.to_string().parse()),
            _ => self.parsed(given, "status"),
        }
    }

    fn moment(&mut self, given: &Map<String, Value>, key: &str) -> Option<Millis> {
        let text = match text(given, key) {
            Ok(text) => text?,
            Err(problem) => return self.error(key, problem),
        };
        match text.parse::<jiff::Timestamp>() {
            Ok(moment) => Some(Millis(moment.as_millisecond())),
            Err(_) => self.error(key, "must be a moment as in RFC 3339: 2026-01-31T12:00:00Z"),
        }
    }
}
