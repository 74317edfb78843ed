//! One attempt as people and programs see it.

use base64::Engine;
use hookline_model::ids::{DeliveryId, Position, WebhookUid};
use hookline_model::time::Millis;
use hookline_model::wire;
use serde::{Deserialize, Serialize};

/// An item of `attempts`. Serialised it has the field names of the REST interface; a field that says nothing is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptLine {
    /// Identity of the attempt.
    pub id: String,
    /// The delivery, which is also the request's `webhook-id`.
    pub delivery_id: String,
    /// The run of the delivery; 0 is the one from fan-out.
    pub run: u64,
    /// The project.
    pub project: String,
    /// The event's id.
    pub event_id: String,
    /// The event's source.
    pub event_source: String,
    /// The event's type.
    pub event_type: String,
    /// The event key.
    pub event_key: String,
    /// Who the event is about, where it is about one.
    pub contact: Option<ContactView>,
    /// The webhook's name.
    pub webhook: String,
    /// The webhook's uid.
    pub webhook_uid: String,
    /// Counts from 1 in each run; 0 when a final outcome was reached without any attempt.
    pub attempt: u32,
    /// One of the outcomes.
    pub outcome: &'static str,
    /// HTTP status.
    pub status: Option<u32>,
    /// Why it failed, from the closed list.
    pub error_class: Option<String>,
    /// One sentence on that.
    pub error_detail: Option<String>,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// How long it took.
    pub duration_ms: u32,
    /// When the next attempt is due, RFC 3339.
    pub next_attempt_at: Option<String>,
    /// Where it was sent.
    pub url: Option<String>,
    /// What was sent.
    pub request: Option<RequestView>,
    /// What came back.
    pub response: Option<ResponseView>,
    /// Made by a worker that had lost the partition: it counts for nobody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stray: bool,
    /// Where it stands in `attempts`.
    pub position: PositionView,
    /// When the next attempt is due, in milliseconds since 1970.
    #[serde(skip)]
    pub due_ms: Option<i64>,
    /// When it began, in milliseconds since 1970.
    #[serde(skip)]
    pub started_ms: i64,
}

/// Who an event is about; what was not said is null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContactView {
    /// Its id.
    pub id: Option<String>,
    /// Its e-mail address.
    pub email: Option<String>,
    /// Its phone number.
    pub phone: Option<String>,
}

impl ContactView {
    /// A contact of whom something is known.
    pub(crate) fn of(
        id: Option<String>,
        email: Option<String>,
        phone: Option<String>,
    ) -> Option<Self> {
        let said = id.is_some() || email.is_some() || phone.is_some();
        said.then_some(Self { id, email, phone })
    }
}

/// A request as it was sent, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// Its headers.
    pub headers: Vec<HeaderView>,
    /// Bytes of its body.
    pub body_bytes: u64,
}

/// A response, cut to the capture limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseView {
    /// Its headers.
    pub headers: Vec<HeaderView>,
    /// Its body where it is text.
    pub body: Option<String>,
    /// Its body where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// The body went on beyond what was kept.
    pub body_truncated: bool,
}

/// A header. Bytes that are not UTF-8 are shown as replacement characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderView {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PositionView {
    /// The partition.
    pub partition: u32,
    /// The record.
    pub offset: u64,
    /// Which of the record's attempts.
    pub index: u32,
}

impl AttemptLine {
    /// As the record at this place says it.
    pub(crate) fn new(attempt: wire::Attempt, partition: u32, at: Position, stray: bool) -> Self {
        use wire::next::Kind;
        let outcome = outcome_word(attempt.outcome());
        let delivery = DeliveryId::from_slice(&attempt.delivery_id)
            .map_or_else(|| "?".to_owned(), |id| id.to_string());
        let due_ms = attempt
            .next
            .as_ref()
            .and_then(|next| match next.kind.as_ref()? {
                Kind::Retry(retry) => Some(retry.due_ms),
                Kind::InPlace(wait) => Some(wait.due_ms),
                Kind::Dead(_) | Kind::Hold(_) | Kind::Split(_) => None,
            });
        // An outcome without an exchange repeats the number of the last attempt: the id must not.
        let ended = attempt.request.is_none() && outcome != "failed";
        Self {
            id: attempt_id(&delivery, attempt.run, attempt.attempt, ended),
            delivery_id: delivery,
            run: attempt.run,
            project: attempt.project,
            event_id: attempt.event_id,
            event_source: attempt.event_source,
            event_type: attempt.event_type,
            event_key: attempt.event_key,
            contact: attempt
                .contact
                .and_then(|c| ContactView::of(said(c.id), said(c.email), said(c.phone))),
            webhook: attempt.webhook,
            webhook_uid: WebhookUid::from_slice(&attempt.webhook_uid)
                .map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
            attempt: attempt.attempt,
            outcome,
            status: (attempt.status != 0).then_some(attempt.status),
            error_class: said(attempt.error_class),
            error_detail: said(attempt.error_detail),
            started_at: Millis(attempt.started_at_ms).to_rfc3339(),
            duration_ms: attempt.duration_ms,
            next_attempt_at: due_ms.map(|ms| Millis(ms).to_rfc3339()),
            url: attempt.request.as_ref().map(|r| r.url.clone()),
            request: attempt.request.map(|request| RequestView {
                method: request.method,
                url: request.url,
                headers: headers(request.headers),
                body_bytes: request.body_bytes,
            }),
            response: attempt.response.map(response),
            stray,
            position: PositionView {
                partition,
                offset: at.offset,
                index: at.index,
            },
            due_ms,
            started_ms: attempt.started_at_ms,
        }
    }

    /// Without the one character that not every database has in texts. Bodies and headers are stored as JSON, which writes it otherwise.
    pub(crate) fn without_nul(mut self) -> Self {
        let texts = [
            &mut self.project,
            &mut self.event_id,
            &mut self.event_source,
            &mut self.event_type,
            &mut self.event_key,
            &mut self.webhook,
        ];
        let contact = self.contact.as_mut();
        let contact = contact.map(|c| [&mut c.id, &mut c.email, &mut c.phone]);
        let maybe = [&mut self.error_class, &mut self.error_detail, &mut self.url];
        let maybe = contact.into_iter().flatten().chain(maybe).flatten();
        for text in texts.into_iter().chain(maybe) {
            if text.contains('\0') {
                *text = text.replace('\0', "\u{fffd}");
            }
        }
        self
    }

    /// The JSON form, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and options always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// One line for people, in columns; `colour` is for terminals only.
    #[must_use]
    pub fn to_text(&self, colour: bool) -> String {
        let time = self.started_at.get(11..23).unwrap_or(&self.started_at);
        let answer = match (&self.status, &self.error_class) {
            (Some(status), _) => status.to_string(),
            (None, Some(class)) => class.clone(),
            (None, None) => "-".to_owned(),
        };
        let mut line = format!("{time}  ");
        let (on, off) = if colour {
            (self.colour(), "\u{1b}[0m")
        } else {
            ("", "")
        };
        line.push_str(&format!(
            "{on}{:<9}{off}  {:<16} #{:<3} {:<13} {:>5} ms  {:<24} {}",
            self.outcome,
            printable(&self.webhook),
            self.attempt,
            printable(&answer),
            self.duration_ms,
            printable(&self.event_type),
            printable(&self.event_id),
        ));
        if let Some(due) = self.due_ms {
            let ended = self.started_ms.saturating_add(i64::from(self.duration_ms));
            let wait = Millis(due).since(Millis(ended));
            line.push_str(&format!("  next in {}", short(wait)));
        }
        if self.stray {
            line.push_str("  (stray: counts for nobody)");
        }
        line
    }

    fn colour(&self) -> &'static str {
        match self.outcome {
            "delivered" => "\u{1b}[32m",
            "failed" => "\u{1b}[33m",
            "cancelled" => "\u{1b}[90m",
            _ => "\u{1b}[31m",
        }
    }
}

/// The identity of an attempt; `ended` is an outcome that was reached without an exchange.
pub(crate) fn attempt_id(delivery: &str, run: u64, attempt: u32, ended: bool) -> String {
    let suffix = if ended { ENDED } else { "" };
    format!("{delivery}.{run}.{attempt}{suffix}")
}

/// What the id of an outcome without an exchange ends with.
pub(crate) const ENDED: &str = ".end";

/// The outcomes, as words.
pub const OUTCOMES: [&str; 6] = [
    "delivered",
    "failed",
    "exhausted",
    "refused",
    "expired",
    "cancelled",
];

/// The word of an outcome that was stored as text.
pub(crate) fn known_outcome(stored: &str) -> &'static str {
    let known = OUTCOMES.into_iter().find(|word| *word == stored);
    known.unwrap_or("unknown")
}

fn outcome_word(outcome: wire::Outcome) -> &'static str {
    match outcome {
        wire::Outcome::Delivered => "delivered",
        wire::Outcome::Failed => "failed",
        wire::Outcome::Exhausted => "exhausted",
        wire::Outcome::Refused => "refused",
        wire::Outcome::Expired => "expired",
        wire::Outcome::Cancelled => "cancelled",
        // Written by a newer build.
        wire::Outcome::Unspecified => "unknown",
    }
}

fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn headers(headers: Vec<wire::Header>) -> Vec<HeaderView> {
    headers
        .into_iter()
        .map(|header| HeaderView {
            name: header.name,
            value: String::from_utf8_lossy(&header.value).into_owned(),
        })
        .collect()
}

fn response(response: wire::Response) -> ResponseView {
    let (body, body_base64) = match String::from_utf8(response.body.to_vec()) {
        Ok(text) => (Some(text), None),
        Err(error) => {
            let bytes = error.into_bytes();
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            (None, Some(text))
        }
    };
    ResponseView {
        headers: headers(response.headers),
        body,
        body_base64,
        body_truncated: response.body_truncated,
    }
}

/// Without control characters: what producers and receivers wrote must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A span in its largest fitting unit.
fn short(span: std::time::Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> wire::Attempt {
        wire::Attempt {
            delivery_id: vec![0xab; 16].into(),
            attempt: 2,
            project: "demo".into(),
            webhook_uid: vec![1; 16].into(),
            webhook: "flaky".into(),
            event_id: "e\u{1b}[2J1".into(),
            event_type: "activity.read".into(),
            outcome: wire::Outcome::Failed.into(),
            status: 500,
            error_class: "status".into(),
            started_at_ms: 1_700_000_000_000,
            duration_ms: 12,
            request: Some(wire::Request {
                method: "POST".into(),
                url: "http://127.0.0.1:1/flaky".into(),
                headers: vec![],
                body_bytes: 3,
            }),
            response: Some(wire::Response {
                headers: vec![wire::Header {
                    name: "x".into(),
                    value: vec![b'a', 0xff].into(),
                }],
                body: vec![0xff].into(),
                body_truncated: false,
            }),
            next: Some(wire::Next {
                kind: Some(wire::next::Kind::Retry(wire::next::Retry {
                    path_ms: vec![1000],
                    due_ms: 1_700_000_001_012,
                })),
                deactivate: false,
            }),
            ..wire::Attempt::default()
        }
    }

    fn line(attempt: wire::Attempt) -> AttemptLine {
        AttemptLine::new(
            attempt,
            3,
            Position {
                offset: 7,
                index: 1,
            },
            false,
        )
    }

    #[test]
    fn the_json_form_has_the_names_of_the_interface() {
        let json: serde_json::Value = serde_json::from_str(&line(attempt()).to_json()).unwrap();
        for name in [
            "id",
            "delivery_id",
            "run",
            "event_id",
            "event_type",
            "webhook",
            "attempt",
            "outcome",
            "status",
            "error_class",
            "started_at",
            "duration_ms",
            "next_attempt_at",
            "url",
            "request",
            "response",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["delivery_id"], format!("dlv_{}", "ab".repeat(16)));
        assert_eq!(json["next_attempt_at"], "2023-11-14T22:13:21.012Z");
        assert_eq!(json["response"]["body_base64"], "/w==");
        assert_eq!(json["response"]["headers"][0]["value"], "a\u{fffd}");
        assert_eq!(json["position"]["offset"], 7);
    }

    #[test]
    fn the_text_form_is_one_line_without_control_characters() {
        let text = line(attempt()).to_text(false);
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
        assert!(text.starts_with("22:13:20.000  failed     flaky"), "{text}");
        assert!(text.contains("#2") && text.contains("500") && text.ends_with("next in 1.0 s"));
        assert!(line(attempt()).to_text(true).contains("\u{1b}[33mfailed"));
    }

    #[test]
    fn an_outcome_without_an_exchange_has_an_id_of_its_own() {
        let made = line(attempt());
        let ended = line(wire::Attempt {
            outcome: wire::Outcome::Cancelled.into(),
            status: 0,
            error_class: String::new(),
            request: None,
            next: None,
            ..attempt()
        });
        assert_ne!(made.id, ended.id);
        assert_eq!(
            (ended.status, ended.url, ended.next_attempt_at),
            (None, None, None)
        );
        let unknown = line(wire::Attempt {
            outcome: 99,
            ..attempt()
        });
        assert_eq!(unknown.outcome, "unknown");
    }
}
