//! Test sends: which event, and the test of a webhook that is not saved.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use hookline_model::matching::TypePattern;
use hookline_model::resource::{FieldError, Webhook};
use hookline_model::wire;
use hookline_registry::Snapshot;
use serde_json::Value;

use super::caller::{Caller, Manage};
use super::request::Object;
use super::webhooks::{read, unsigned};
use super::{Api, Problem};
use crate::shown;

/// The name of a webhook that has none yet.
const UNNAMED: &str = "unsaved";

/// `POST …/webhooks:test`: a test of a webhook as the body describes it. Nothing is saved.
pub(super) async fn unsaved(
    mut caller: Caller<Manage>,
    Path(project): Path<String>,
    mut body: Object,
) -> Result<Response, Problem> {
    body.only(&["webhook", "event_type", "event"])?;
    let Some(Value::Object(mut document)) = body.0.remove("webhook") else {
        return Err(Problem::field(
            "webhook",
            "is required: the webhook as it would be saved",
        ));
    };
    document.entry("name").or_insert_with(|| UNNAMED.into());
    let snapshot = caller.refreshed().await?;
    let api = &caller.api;
    let spec = read(api, document, &project, None).map_err(|problem| problem.below("webhook"))?;
    let webhook = &spec.settings;
    // A new version of one that is there is signed as that is.
    let saved = snapshot.by_name(&project, webhook.name.as_str());
    let event = chosen(api, &snapshot, webhook, &body)?;
    let test = api.endpoints.test(&snapshot, webhook, saved, event).await;
    let test = test.map_err(unsigned)?;
    Ok(Json(shown::test(webhook, saved, &test)).into_response())
}

/// The event to test with: `event` itself, the example of `event_type`, or that of the first type that the webhook subscribes to.
pub(super) fn chosen(
    api: &Api,
    snapshot: &Snapshot,
    webhook: &Webhook,
    body: &Object,
) -> Result<wire::Event, Problem> {
    let event_type = body.text("event_type")?;
    let given = body.0.get("event").filter(|event| !event.is_null());
    if let Some(event) = given {
        if event_type.is_some() {
            let message = "say either this or `event`, which has a type of its own";
            return Err(Problem::field("event_type", message));
        }
        if !event.is_object() {
            return Err(Problem::field("event", "must be one event, an object"));
        }
        let read = api.endpoints.given(webhook.project.as_str(), event);
        return read.map_err(|errors| {
            let errors = errors.into_iter();
            let errors = errors.map(|error| FieldError::new(error.field, error.message));
            Problem::invalid(errors.collect()).below("event")
        });
    }
    if let Some(name) = event_type {
        match name.parse() {
            Ok(TypePattern::Exact(_)) => {}
            Ok(_) => return Err(Problem::field("event_type", "must be one event type")),
            Err(error) => return Err(Problem::field("event_type", error.to_string())),
        }
    }
    Ok(api.endpoints.sample(snapshot, webhook, event_type))
}
