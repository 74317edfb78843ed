//! `/v1/projects/{project}/attempts`: what became of events, from the history's store.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use hookline_history::{
    AttemptFilter, Export, ExportFormat, OUTCOMES, Place, StatusFilter, StoreError,
};
use hookline_model::topics::Topic;
use serde_json::json;

use super::Problem;
use super::caller::{Caller, Read};
use super::request::Parameters;
use crate::output::Chain;

/// The parameters that choose attempts.
const FILTER: [&str; 13] = [
    "webhook",
    "outcome",
    "status",
    "error_class",
    "attempt",
    "endpoint",
    "delivery",
    "event_id",
    "event_type",
    "key",
    "contact",
    "from",
    "to",
];

/// `GET …/attempts`, latest first.
pub(super) async fn list(
    caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[&FILTER[..], &["limit", "cursor"]].concat())?;
    let filter = filter(&parameters)?;
    let page = parameters.page(&format!("attempts/{project}"))?;
    let after = match page.after() {
        None => None,
        Some(key) => Some(Place::parse(key).ok_or_else(|| {
            Problem::parameter(
                "cursor",
                "is not one that this list gave; begin without one",
            )
        })?),
    };
    let store = &caller.api.history;
    let found = store
        .attempts(&project, &filter, after, page.limit())
        .await
        .map_err(unanswered)?;
    let kept_from = store.kept_from(Topic::Attempts).await.map_err(unanswered)?;
    let next = found.next.map(|place| page.cursor(&place.to_string()));
    Ok(Json(json!({
        "items": found.items,
        "next_cursor": next,
        "kept_from": kept_from.map(|moment| moment.to_rfc3339()),
    }))
    .into_response())
}

/// `GET …/attempts/{id}`.
pub(super) async fn show(
    caller: Caller<Read>,
    Path((project, id)): Path<(String, String)>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let found = caller.api.history.attempt(&project, &id).await;
    match found.map_err(unanswered)? {
        Some(attempt) => Ok(Json(attempt).into_response()),
        None => Err(Problem::none("attempt", &id)),
    }
}

/// `GET …/attempts/export`: all of them, written while they are read.
pub(super) async fn export(
    caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[&FILTER[..], &["format"]].concat())?;
    let filter = filter(&parameters)?;
    let word = parameters.text("format").unwrap_or_else(|| "jsonl".into());
    let format = ExportFormat::from_word(&word)
        .ok_or_else(|| Problem::parameter("format", "must be csv or jsonl"))?;
    let store = Arc::clone(&caller.api.history);
    let mut export = Export::new(store, &project, filter, format);
    // When the store does not answer at all, that is said in time.
    let first = export.next().await.map_err(unanswered)?;
    let parts = stream::try_unfold((first, export), |(part, mut export)| async move {
        let Some(part) = part else {
            return Ok::<Option<(Bytes, _)>, StoreError>(None);
        };
        // An error ends the connection before the end of the body, which no client takes for the whole.
        let next = export.next().await.inspect_err(|error| {
            tracing::warn!(error = %Chain(error), "an export broke off: the history store does not answer");
        })?;
        Ok(Some((part, (next, export))))
    });
    let name = format!(
        "attachment; filename=\"{project}-attempts.{}\"",
        format.extension()
    );
    let headers = [
        (header::CONTENT_TYPE, format.media_type().to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// What the parameters choose.
fn filter(parameters: &Parameters) -> Result<AttemptFilter, Problem> {
    let outcome = parameters.text("outcome");
    if let Some(word) = &outcome
        && !OUTCOMES.contains(&word.as_str())
    {
        let message = format!("must be one of: {}", OUTCOMES.join(", "));
        return Err(Problem::parameter("outcome", message));
    }
    let status = match parameters.text("status") {
        None => None,
        Some(text) => Some(status(&text).ok_or_else(|| {
            Problem::parameter(
                "status",
                "must be a status such as 503, or a class such as 5xx",
            )
        })?),
    };
    let attempt = match parameters.text("attempt") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Problem::parameter("attempt", "must be a number"))?,
        ),
    };
    Ok(AttemptFilter {
        webhook: parameters.text("webhook"),
        outcome,
        status,
        error_class: parameters.text("error_class"),
        attempt,
        endpoint: parameters.text("endpoint"),
        delivery: parameters.text("delivery"),
        event_id: parameters.text("event_id"),
        event_type: parameters.text("event_type"),
        key: parameters.text("key"),
        contact: parameters.text("contact"),
        from: parameters.moment("from")?,
        to: parameters.moment("to")?,
    })
}

/// `503` or `5xx`.
fn status(text: &str) -> Option<StatusFilter> {
    let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
    if let Some(class) = text.strip_suffix("xx") {
        let class = Some(class).filter(digits)?.parse().ok()?;
        return (1..=9)
            .contains(&class)
            .then_some(StatusFilter::Class(class));
    }
    let status = Some(text).filter(digits)?.parse().ok()?;
    (100..=999)
        .contains(&status)
        .then_some(StatusFilter::Exactly(status))
}

/// The store does not answer; everything else goes on.
pub(super) fn unanswered(error: StoreError) -> Problem {
    match error {
        StoreError::Damaged { .. } => Problem::internal(&error),
        StoreError::Late => Problem::unavailable(error.to_string()),
        other => {
            tracing::warn!(error = %Chain(&other), "somebody asked what happened, and the history store does not answer");
            Problem::unavailable(
                "the history store does not answer; deliveries go on, and what is missed is caught up",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_number_or_a_class() {
        assert_eq!(status("503"), Some(StatusFilter::Exactly(503)));
        assert_eq!(status("5xx"), Some(StatusFilter::Class(5)));
        for wrong in ["", "xx", "0xx", "55xx", "50", "1000", "+200", "-1xx", "abc"] {
            assert_eq!(status(wrong), None, "{wrong}");
        }
    }
}
