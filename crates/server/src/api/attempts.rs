//! `/v1/projects/{project}/attempts`: what became of events, from the history's store.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use hookline_history::{AttemptFilter, Export, ExportFormat, Place, StoreError};
use hookline_model::topics::Topic;
use serde_json::json;

use super::Problem;
use super::caller::{Caller, Read};
use super::request::Parameters;
use crate::attempt_filter::{self, NAMES};
use crate::output::Chain;

/// `GET …/attempts`, latest first.
pub(super) async fn list(
    caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[&NAMES[..], &["limit", "cursor"]].concat())?;
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
    parameters.only(&[&NAMES[..], &["format"]].concat())?;
    let filter = filter(&parameters)?;
    let word = parameters.text("format").unwrap_or_else(|| "jsonl".into());
    let format = ExportFormat::from_word(&word)
        .ok_or_else(|| Problem::parameter("format", "must be csv, jsonl or pdf"))?;
    let store = Arc::clone(&caller.api.history);
    let now = caller.api.clock.now();
    let mut export = Export::new(store, &project, filter, format, now);
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
    let chosen = attempt_filter::read(|name| parameters.given(name));
    chosen.map_err(|error| Problem::parameter(&error.field, error.message))
}

/// The store does not answer; everything else goes on.
pub(super) fn unanswered(error: StoreError) -> Problem {
    match error {
        StoreError::Damaged { .. } => Problem::internal(&error),
        StoreError::Late | StoreError::Unready(_) => Problem::unavailable(error.to_string()),
        other => {
            tracing::warn!(error = %Chain(&other), "somebody asked what happened, and the history store does not answer");
            Problem::unavailable(
                "the history store does not answer; deliveries go on, and what is missed is caught up",
            )
        }
    }
}
