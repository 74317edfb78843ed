//! Errors as people and programs get them: RFC 9457 documents that name the fields.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hookline_model::resource::FieldError;
use hookline_registry::{FollowError, WriteError};
use serde_json::{Map, Value, json};

use crate::output::Chain;

/// When to try again after a failure that may pass.
pub(super) const AGAIN_IN: Duration = Duration::from_secs(1);

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    word: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    more: Map<String, Value>,
}

impl Problem {
    /// A problem of that status. `word` is what programs tell it by, `title` what it is called.
    pub(crate) fn new(
        status: StatusCode,
        word: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            word,
            title,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            more: Map::new(),
        }
    }

    /// 400: the request cannot be read at all.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed",
            "Malformed request",
            detail,
        )
    }

    /// 400: a parameter or header is wrong.
    pub(crate) fn parameter(name: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut problem = Self::malformed(format!("{name}: {message}"));
        problem.errors.push(FieldError::new(name, message));
        problem
    }

    /// 401.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "No valid key",
            detail,
        )
    }

    /// 403.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 404: there is no such thing of that name, or the caller may not know of it.
    pub(crate) fn none(what: &str, name: &str) -> Self {
        let shown: String = name.chars().take(64).collect();
        Self::not_found(format!("there is no {what} {shown}"))
    }

    /// A write that failed; one that found nothing says so in the caller's words.
    pub(crate) fn unwritten(error: WriteError, what: &str, name: &str) -> Self {
        match error {
            WriteError::NotFound { .. } => Self::none(what, name),
            other => other.into(),
        }
    }

    /// 405.
    pub(crate) fn wrong_method(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            detail,
        )
    }

    /// 409.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Conflict", detail)
    }

    /// 412.
    pub(crate) fn precondition(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition-failed",
            "Changed by somebody else",
            detail,
        )
    }

    /// 413.
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Too large",
            detail,
        )
    }

    /// 415.
    pub(crate) fn media_type(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "Unsupported media type",
            detail,
        )
    }

    /// 422: read, and wrong in these places.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => one.to_string(),
            many => format!("{} fields are wrong", many.len()),
        };
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "Invalid",
            detail,
        );
        problem.errors = errors;
        problem
    }

    /// 422: one field is wrong.
    pub(crate) fn field(name: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(name, message)])
    }

    /// 422: the endpoint did not pass the verification without which its webhook is not saved.
    pub(crate) fn unverified(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unverified",
            "Not verified",
            detail,
        )
    }

    /// 429.
    pub(crate) fn too_many(detail: impl Into<String>, again_in: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "Too many requests",
            detail,
        );
        problem.retry_after = Some(again_in);
        problem
    }

    /// 500: our fault; the log says why.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain(error), "a request to the API failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "this should not have happened; the log of the process says why",
        )
    }

    /// 503.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Not available now",
            detail,
        );
        problem.retry_after = Some(AGAIN_IN);
        problem
    }

    /// With the fields that it is about.
    pub(crate) fn naming(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// About what stands in this field of the request.
    pub(crate) fn below(mut self, field: &str) -> Self {
        for error in &mut self.errors {
            error.field = match error.field.as_str() {
                "" => field.to_owned(),
                inner => format!("{field}.{inner}"),
            };
        }
        if let [one] = self.errors.as_slice() {
            self.detail = one.to_string();
        }
        self
    }

    /// With a member of its own.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.into(), value);
        self
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict { version, .. } => {
                Self::precondition(error.to_string()).with("version", version.into())
            }
            WriteError::NotFound { .. } => Self::not_found(error.to_string()),
            WriteError::NameTaken { .. }
            | WriteError::InUse { .. }
            | WriteError::ConnectorInUse { .. } => Self::conflict(error.to_string()),
            WriteError::NoConnector { .. } => Self::field("connector", error.to_string()),
            WriteError::NoSecret { field } => Self::field(field, "is required"),
            WriteError::Invalid { problem, .. } => Self::field("", problem),
            WriteError::Contended { .. } | WriteError::OutcomeUnknown { .. } => {
                Self::unavailable(error.to_string())
            }
            WriteError::Follow(_) | WriteError::Journal(_) => {
                tracing::warn!(error = %Chain(&error), "a change was asked for that the journal did not take");
                Self::unavailable(format!("{error}; the journal does not answer"))
            }
            other => Self::internal(&other),
        }
    }
}

impl From<FollowError> for Problem {
    fn from(error: FollowError) -> Self {
        tracing::warn!(error = %Chain(&error), "the registry cannot be read up to its end");
        Self::unavailable("the journal does not answer, so it is not known what is current")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let errors: Vec<Value> = self
            .errors
            .iter()
            .map(|error| json!({"field": error.field, "message": error.message}))
            .collect();
        let mut body = json!({
            "type": format!("urn:hookline:problem:{}", self.word),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "errors": errors,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.more);
        }
        let mut response = (
            self.status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body.to_string(),
        )
            .into_response();
        let headers = response.headers_mut();
        if let Some(span) = self.retry_after {
            // Whole seconds, never sooner than meant.
            let seconds = span.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"hookline\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
