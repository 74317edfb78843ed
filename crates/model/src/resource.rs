//! What people configure: projects, event types, connectors and webhooks, in the words of the resource file. The same words, as JSON, are the stored form in the
//! registry, so they outlive code: words are only ever added.
//!
//! [`parse_documents`] reads what people write: everything that is wrong is said at once, unknown keys are refused, and what later versions
//! will do is refused as long as this one does not (`resource/later.rs` lists it). Reading back what is stored is lenient about unknown
//! keys, because a newer version may have written it.

mod batch;
mod connector;
mod documents;
mod event_type;
mod headers;
mod later;
mod reader;
mod retry;
#[cfg(test)]
mod tests;
mod webhook;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub use connector::{ClientAuth, ConnectorSpec, ConnectorType, KeyPlace, OAuth2, Secret};
pub use documents::parse_documents;
pub use headers::{Headers, check_header};

use crate::body::BodyForm;
use crate::catalog::{CatalogEntry, Schema};
use crate::ids::{Slug, WebhookUid};
use crate::matching::TypePattern;
use crate::outcome::words;
use crate::policy::RetryPolicy;
use crate::presets::Preset;
use crate::signature::Scheme;
use crate::units::Rate;

/// Reads a project's document.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_project(document: &Map<String, Value>) -> Result<ProjectSpec, Vec<FieldError>> {
    documents::read_project(document)
}

/// Reads an event type's document.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_event_type(document: &Map<String, Value>) -> Result<EventTypeSpec, Vec<FieldError>> {
    event_type::read(document)
}

/// Reads a connector's document.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_connector(document: &Map<String, Value>) -> Result<ConnectorSpec, Vec<FieldError>> {
    connector::read(document)
}

/// Reads a connector as it is stored, which is without its secret.
///
/// # Errors
/// As [`read_connector`].
pub fn read_stored_connector(
    document: &Map<String, Value>,
) -> Result<ConnectorSpec, Vec<FieldError>> {
    connector::read_stored(document)
}

/// Reads a webhook's document.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_webhook(document: &Map<String, Value>) -> Result<WebhookSpec, Vec<FieldError>> {
    webhook::read(document)
}

/// What is wrong with a resource: where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Which resource of the file, for people (`document 2, Webhook shop/crm`); empty when there is only one.
    pub document: String,
    /// The path of the field: `retry.schedule.list[2]`; empty for the whole.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl FieldError {
    /// About a field of the only resource there is.
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            document: String::new(),
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.document.is_empty() {
            write!(f, "{}: ", self.document)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for FieldError {}

/// One document of a resource file.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// `kind: Project`.
    Project(ProjectSpec),
    /// `kind: EventType`.
    EventType(Box<EventTypeSpec>),
    /// `kind: Connector`.
    Connector(Box<ConnectorSpec>),
    /// `kind: Webhook`.
    Webhook(Box<WebhookSpec>),
}

impl Resource {
    /// The word of its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Project(_) => "Project",
            Self::EventType(_) => "EventType",
            Self::Connector(_) => "Connector",
            Self::Webhook(_) => "Webhook",
        }
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectSpec {
    /// Its id.
    pub id: Slug,
    /// Free text.
    #[serde(default)]
    pub title: String,
    /// The preset whose catalog of event types it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Only events that its catalog describes are taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// How many events may be published over HTTP in a span, by each process that takes them; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Rate>,
}

impl ProjectSpec {
    /// A project with nothing chosen.
    #[must_use]
    pub fn new(id: Slug) -> Self {
        Self {
            id,
            title: String::new(),
            preset: None,
            strict: false,
            rate_limit: None,
        }
    }

    /// The project as a complete resource document.
    #[must_use]
    pub fn to_document(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": "Project",
            "id": self.id,
            "title": self.title,
            "preset": self.preset,
            "strict": self.strict,
            "rate_limit": self.rate_limit.map_or("none".into(), |rate| rate.to_string()),
        })
    }
}

/// An event type in the catalog of a project. Serialised it is the body of a registry record: a document again, and if it follows a preset,
/// only what differs from that.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTypeSpec {
    /// The project it belongs to.
    pub project: Slug,
    /// The type that events name; unique in the project.
    pub name: String,
    /// The preset that it is from. Values that were not given are those of the preset's event type of this name, and follow it.
    pub preset: Option<Preset>,
    /// Under which heading it stands.
    pub category: String,
    /// Under which heading within the category.
    pub group: String,
    /// Free text.
    pub title: String,
    /// Free text.
    pub description: String,
    /// What the data of its events is.
    pub schema: Option<Schema>,
    /// Such data.
    pub example: Option<Arc<serde_json::Value>>,
    /// Whether it is no longer offered. Events of it are treated as before.
    pub archived: bool,
}

impl EventTypeSpec {
    /// A preset's event type in a project.
    #[must_use]
    pub fn of_preset(project: Slug, preset: Preset, entry: &CatalogEntry) -> Self {
        Self {
            project,
            name: entry.name.clone(),
            preset: Some(preset),
            category: entry.category.clone(),
            group: entry.group.clone(),
            title: entry.title.clone(),
            description: entry.description.clone(),
            schema: Some(entry.schema.clone()),
            example: Some(Arc::clone(&entry.example)),
            archived: false,
        }
    }

    /// The event type as a complete resource document.
    #[must_use]
    pub fn to_document(&self) -> serde_json::Value {
        event_type::write(self)
    }
}

impl Serialize for EventTypeSpec {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        event_type::write_stored(self).serialize(to)
    }
}

impl<'de> Deserialize<'de> for EventTypeSpec {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let document = serde_json::Value::deserialize(from)?;
        event_type::read_stored(&document).map_err(all)
    }
}

/// Several errors as one of serde's.
fn all<E: serde::de::Error>(errors: Vec<FieldError>) -> E {
    let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
    E::custom(all.join("; "))
}

/// A webhook as it was asked for: settled, the preset's values standing where nothing was said.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookSpec {
    /// The settings.
    pub settings: Webhook,
    /// Whether the state was said. If not, one that exists keeps its state.
    pub state_given: bool,
}

words! {
    /// What a webhook does with events.
    State, "state" {
        /// Everything is delivered.
        Active = "active",
        /// Sends wait.
        Paused = "paused",
        /// New events are not fanned out, waiting ones are cancelled.
        Inactive = "inactive",
    }
}

words! {
    /// The method of a webhook's requests.
    Method, "method" {
        /// `POST`.
        Post = "POST",
        /// `PUT`.
        Put = "PUT",
        /// `PATCH`.
        Patch = "PATCH",
        /// `GET`, with body `none` only.
        Get = "GET",
    }
}

words! {
    /// How an endpoint is tried when a webhook is saved.
    Verification, "verification" {
        /// Not at all.
        None = "none",
        /// `HEAD` must be answered below 500, but not with 404 or 410 (VidCorp).
        Head = "head",
        /// `GET`; the webhook is saved all the same, and what came is shown (eSputnik).
        Get = "get",
        /// A test event must be taken before the webhook goes live (VIDIZMO, SMS gateway).
        Test = "test",
        /// A random text must come back: the endpoint's owner wants the requests.
        Challenge = "challenge",
        /// The handshake of CloudEvents' webhook specification: `OPTIONS`, answered with the permission to send.
        Handshake = "handshake",
    }
}

/// Within what order holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ordered {
    /// Nowhere.
    #[default]
    No,
    /// Among all sends of the webhook.
    Webhook,
    /// Among sends of one event key.
    Key,
}

impl Ordered {
    /// The stamp on a send.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        match self {
            Self::No => 0,
            Self::Webhook => 1,
            Self::Key => 2,
        }
    }
}

/// How events are put together into one request. Whichever comes first closes a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// So many events.
    pub max_events: u32,
    /// So many bytes of events. A larger event goes alone.
    pub max_bytes: u64,
    /// So long after its first event.
    pub max_wait: Duration,
}

/// A webhook's settings. As JSON they are a resource document again.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// The project it belongs to.
    pub project: Slug,
    /// Unique in the project.
    pub name: Slug,
    /// Free text.
    pub title: String,
    /// Free text.
    pub description: String,
    /// Where requests go. Only its form is checked here; the address guard judges it.
    pub url: String,
    /// What it is subscribed to.
    pub events: Vec<TypePattern>,
    /// Which of these events it wants, in the language of [`Filter`](crate::filter::Filter); `None`: all.
    pub filter: Option<String>,
    /// Where values came from that were not given.
    pub preset: Preset,
    /// What it does with events.
    pub state: State,
    /// The method of its requests.
    pub method: Method,
    /// Its own headers, names in lower case.
    pub headers: Headers,
    /// The connector whose credentials its requests carry.
    pub connector: Option<Slug>,
    /// How its requests are signed.
    pub signature: Scheme,
    /// Certificate authorities that the endpoint's certificate may be from beside the public ones (PEM).
    pub trusted_ca: Option<Arc<str>>,
    /// Within what order holds.
    pub ordered: Ordered,
    /// How events are put together into one request; `None`: each request holds one.
    pub batch: Option<Batching>,
    /// What the body of its requests is.
    pub body: BodyForm,
    /// How long an attempt may take.
    pub deadline: Duration,
    /// How many attempts may begin in a span; `None`: no limit.
    pub rate_limit: Option<Rate>,
    /// How the endpoint is tried when this is saved.
    pub verification: Verification,
    /// When to try again and when not, and what counts as success.
    pub retry: Arc<RetryPolicy>,
}

impl Webhook {
    /// Whether it gets events of this type.
    #[must_use]
    pub fn subscribes(&self, event_type: &str) -> bool {
        self.events.iter().any(|p| p.matches(event_type))
    }

    /// What a verification says something about, in short: as long as it stays the same, the endpoint need not be tried again.
    #[must_use]
    pub fn verified_part(&self) -> String {
        let part = (
            self.verification.as_str(),
            &self.url,
            self.method.as_str(),
            &self.headers,
            self.body.as_str(),
        );
        let mut text = serde_json::to_vec(&part).unwrap_or_default();
        if let Some(connector) = &self.connector {
            text.extend_from_slice(connector.as_str().as_bytes());
        }
        if let Some(authorities) = &self.trusted_ca {
            text.push(b'\n');
            text.extend_from_slice(authorities.as_bytes());
        }
        let digest = Sha256::digest(text);
        digest[..16].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The settings as a resource document.
    #[must_use]
    pub fn to_document(&self) -> serde_json::Value {
        webhook::write(self)
    }
}

impl Serialize for Webhook {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_document().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Webhook {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let document = serde_json::Value::deserialize(from)?;
        webhook::read_stored(&document).map_err(all)
    }
}

/// A webhook as the registry keeps it: the settings and what the system adds. Serialised as JSON it is the body of a registry record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredWebhook {
    /// Made at creation, never reused.
    pub uid: WebhookUid,
    /// Raised by deactivating and deleting; deliveries of a lower one are cancelled.
    pub epoch: u64,
    /// When it was created.
    pub created_at_ms: i64,
    /// Why it is in its state, when that was not simply asked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state_reason: String,
    /// When it came into its state.
    #[serde(default)]
    pub state_at_ms: i64,
    /// What was verified last, with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Its secrets, sealed. Opaque here.
    #[serde(default)]
    pub secrets: serde_json::Value,
    /// What was asked for.
    pub settings: Webhook,
}

/// A verification that an endpoint has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// What was verified: [`Webhook::verified_part`] at that time.
    pub part: String,
    /// When.
    pub at_ms: i64,
    /// The rate that the endpoint has granted, where it named one (CloudEvents handshake).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}
