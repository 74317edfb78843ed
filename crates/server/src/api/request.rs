//! What requests bring: JSON, conditions, pages.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hookline_model::limits::{OVERLAP_DEFAULT, OVERLAP_MAX};
use hookline_model::resource::FieldError;
use hookline_model::time::Millis;
use hookline_model::units::parse_duration;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value, json};

use super::Problem;

/// Bytes of a resource in a request.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Of a request that is too large, so much more is read before it is answered.
const DISCARDED_BYTES_MAX: usize = 32 * 1024 * 1024;
const DISCARDED_WITHIN: Duration = Duration::from_secs(5);
/// Items of a page, unless told otherwise, and at most.
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;

/// The whole body, up to `max` bytes.
pub(crate) async fn read_body(mut body: Body, max: usize) -> Result<Bytes, Problem> {
    match Limited::new(&mut body, max).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            let what = format!("a request here may have {max} bytes");
            Err(Problem::too_large(what))
        }
        Err(error) => Err(Problem::malformed(format!(
            "the request broke off: {error}"
        ))),
    }
}

/// Reads the rest and throws it away: a client that is cut off while it sends may never get to see why.
async fn discard(body: Body) {
    let mut rest = Limited::new(body, DISCARDED_BYTES_MAX);
    let all = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Who sends more, or is slower, is cut off.
    drop(tokio::time::timeout(DISCARDED_WITHIN, all).await);
}

/// The essence of the media type, in lower case; empty when none is said.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// A JSON object in the body; nothing at all is an empty one.
pub(crate) struct Object(pub(crate) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let bytes = read_body(request.into_body(), BODY_BYTES_MAX).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(Map::new()));
        }
        let json = media == "application/json" || media.ends_with("+json");
        if !json {
            return Err(Problem::media_type(
                "send JSON with `Content-Type: application/json`",
            ));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(Problem::malformed("the body must be a JSON object")),
            Err(error) => Err(Problem::malformed(format!("the body is not JSON: {error}"))),
        }
    }
}

impl Object {
    /// Refuses members that nobody asked for.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let known_list = known.join(", ");
        let hint = match known {
            [] => "send nothing here".to_owned(),
            _ => format!("known are: {known_list}"),
        };
        let unknown: Vec<_> = self
            .0
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .map(|key| {
                let shown: String = key.chars().take(64).collect();
                FieldError::new(shown, format!("is not known; {hint}"))
            })
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(unknown))
    }

    /// A text, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::field(key, "must be a text")),
        }
    }

    /// A text of one line for people, if it is there.
    pub(crate) fn line(&self, key: &str) -> Result<Option<&str>, Problem> {
        let text = self.text(key)?;
        let fits = |text: &str| text.chars().count() <= 200 && !text.chars().any(char::is_control);
        match text {
            Some(text) if !fits(text) => Err(Problem::field(
                key,
                "must be one line of at most 200 characters",
            )),
            text => Ok(text),
        }
    }

    /// All that a rotation may say: how long the old one goes on beside the new one.
    pub(crate) fn overlap(&self) -> Result<Duration, Problem> {
        self.only(&["overlap"])?;
        let overlap = self.duration("overlap", OVERLAP_MAX)?;
        Ok(overlap.unwrap_or(OVERLAP_DEFAULT))
    }

    /// A duration (`24h`) of at most `max`, if it is there.
    fn duration(&self, key: &str, max: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        // Nothing at all is said without a unit as well.
        let zero = matches!(text, "0" | "0s");
        let span = if zero {
            Duration::ZERO
        } else {
            parse_duration(text).map_err(|error| Problem::field(key, error.to_string()))?
        };
        if span > max {
            let max = hookline_model::units::format_duration(max);
            return Err(Problem::field(key, format!("must be at most {max}")));
        }
        Ok(Some(span))
    }
}

/// Which version must be current for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Whatever there is.
    None,
    /// This one (`If-Match: "3"`).
    Version(u64),
    /// Any, but it must be there (`If-Match: *`).
    Exists,
    /// It must not be there (`If-None-Match: *`).
    Absent,
}

impl Condition {
    /// The version to ask the registry for, given what is current.
    pub(crate) fn version(self, current: Option<u64>) -> Result<Option<u64>, Problem> {
        match (self, current) {
            (Self::None, _) => Ok(None),
            (Self::Version(version), _) => Ok(Some(version)),
            (Self::Absent, None) => Ok(Some(0)),
            (Self::Absent, Some(_)) => Err(Problem::precondition("it is there already")),
            (Self::Exists, Some(version)) => Ok(Some(version)),
            (Self::Exists, None) => Err(Problem::precondition("it is not there")),
        }
    }

    /// The version to ask the registry for when something is deleted: it must be there anyway.
    pub(crate) fn to_delete(self) -> Result<Option<u64>, Problem> {
        match self {
            Self::Version(version) => Ok(Some(version)),
            Self::None | Self::Exists => Ok(None),
            Self::Absent => Err(Problem::parameter("If-None-Match", "means nothing here")),
        }
    }

    /// Whether what is current, and is there, is what the caller means.
    pub(crate) fn holds(self, current: u64) -> Result<(), Problem> {
        match self {
            Self::Version(version) if version != current => Err(Problem::precondition(format!(
                "it is at version {current}, not at {version}: read it again"
            ))
            .with("version", current.into())),
            Self::Absent => Err(Problem::precondition("it is there already")),
            _ => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Condition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wrong = |name: &str| {
            Problem::parameter(
                name,
                "must be `*`, or one entity tag as answers give it: \"3\"",
            )
        };
        if let Some(value) = parts.headers.get(header::IF_NONE_MATCH) {
            return match value.as_bytes() {
                b"*" => Ok(Self::Absent),
                _ => Err(Problem::parameter("If-None-Match", "must be `*`")),
            };
        }
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let (first, more) = (values.next(), values.next());
        let Some(value) = first else {
            return Ok(Self::None);
        };
        let text = value.to_str().map_err(|_| wrong("If-Match"))?.trim();
        if more.is_some() {
            return Err(wrong("If-Match"));
        }
        if text == "*" {
            return Ok(Self::Exists);
        }
        let bare = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text);
        match bare.parse() {
            Ok(version) => Ok(Self::Version(version)),
            Err(_) => Err(wrong("If-Match")),
        }
    }
}

/// A resource with its version as an entity tag.
pub(crate) fn tagged(status: http::StatusCode, version: u64, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A resource that was made: 201, and where it is.
pub(crate) fn created(location: &str, version: u64, body: Value) -> Response {
    let mut response = tagged(http::StatusCode::CREATED, version, body);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The query of a request.
pub(crate) struct Parameters(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let Query(map) = read.map_err(|error| Problem::malformed(error.to_string()))?;
        Ok(Self(map))
    }
}

impl Parameters {
    /// Refuses parameters that mean nothing here: a mistyped one would be passed over silently.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let shown: String = key.chars().take(64).collect();
                let known = known.join(", ");
                let message = format!("is no parameter here; known are: {known}");
                Err(Problem::parameter(&shown, message))
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.0.get(name).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::parameter(name, "must be true or false")),
        }
    }

    /// What is given, as it is.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A text, if it is there and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|text| !text.is_empty()).cloned()
    }

    /// A moment in RFC 3339, if it is there.
    pub(crate) fn moment(&self, name: &str) -> Result<Option<Millis>, Problem> {
        let Some(text) = self.0.get(name) else {
            return Ok(None);
        };
        match text.parse::<jiff::Timestamp>() {
            Ok(moment) => Ok(Some(Millis(moment.as_millisecond()))),
            Err(_) => Err(Problem::parameter(
                name,
                "must be a moment as in RFC 3339: 2026-01-31T12:00:00Z",
            )),
        }
    }

    /// How many items, and behind which.
    pub(crate) fn page(&self, scope: &str) -> Result<Page, Problem> {
        let limit = match self.0.get("limit") {
            None => LIMIT_DEFAULT,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => limit,
                _ => {
                    let message = format!("must be from 1 to {LIMIT_MAX}");
                    return Err(Problem::parameter("limit", message));
                }
            },
        };
        let after = match self.0.get("cursor") {
            None => None,
            Some(cursor) => Some(read_cursor(cursor, scope).ok_or_else(|| {
                Problem::parameter(
                    "cursor",
                    "is not one that this list gave; begin without one",
                )
            })?),
        };
        Ok(Page {
            scope: scope.to_owned(),
            limit,
            after,
        })
    }
}

/// Which part of a list is wanted.
pub(crate) struct Page {
    scope: String,
    limit: usize,
    /// The sort key of the last item of the page before.
    after: Option<String>,
}

impl Page {
    /// How many items are wanted.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The key of the item behind which they begin.
    pub(crate) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The cursor of what comes behind the item with this key.
    pub(crate) fn cursor(&self, key: &str) -> String {
        write_cursor(key, &self.scope)
    }

    /// One page of `items`, each with the key that it is sorted by.
    pub(crate) fn of<'a, T>(
        self,
        items: impl Iterator<Item = (Cow<'a, str>, T)>,
        show: impl Fn(T) -> Value,
    ) -> Value {
        let mut items: Vec<_> = items
            .filter(|(key, _)| self.after.as_ref().is_none_or(|after| **key > **after))
            .collect();
        let more = items.len() > self.limit;
        if more {
            items.select_nth_unstable_by(self.limit, |(a, _), (b, _)| a.cmp(b));
            items.truncate(self.limit);
        }
        items.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let last = items.last().filter(|_| more);
        let next = last.map(|(key, _)| write_cursor(key, &self.scope));
        let items: Vec<_> = items.into_iter().map(|(_, item)| show(item)).collect();
        json!({"items": items, "next_cursor": next})
    }
}

/// Cursors name the list they belong to, so that one project's opens no other's.
fn write_cursor(key: &str, scope: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{scope}\n{key}"))
}

fn read_cursor(cursor: &str, scope: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (of, key) = text.split_once('\n')?;
    (of == scope).then(|| key.to_owned())
}
