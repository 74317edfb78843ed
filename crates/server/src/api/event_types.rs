//! `/v1/projects/{project}/event-types`: the catalog of a project.

use std::borrow::Cow;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_model::ids::Slug;
use hookline_model::presets::Preset;
use hookline_model::resource::{EventTypeSpec, FieldError, read_event_type};
use hookline_registry::{CatalogScope, EventTypeEntry, EventTypeWritten, Snapshot, WriteError};
use serde_json::{Map, Value, json};

use super::Problem;
use super::caller::{Caller, Manage, Read};
use super::projects::{TRIES, busy, merged, strip, taken};
use super::request::{Condition, Object, Parameters, created, tagged};
use crate::shown;

/// `GET …/event-types`.
pub(super) async fn list(
    mut caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let page = parameters.page(&format!("event-types/{project}"))?;
    let snapshot = caller.refreshed().await?;
    let all = snapshot
        .event_types(&project)
        .map(|entry| (Cow::Borrowed(entry.settings.name.as_str()), entry));
    Ok(Json(page.of(all, |entry| shown::event_type(entry))).into_response())
}

/// `POST …/event-types`.
pub(super) async fn create(
    caller: Caller<Manage>,
    Path(project): Path<String>,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = read(body, &project, None)?;
    let written = caller.api.registry.put_event_type(&spec, false, Some(0));
    let done = written
        .await
        .map_err(|error| taken(error, "event type", &spec.name))?;
    Ok(answer(&done))
}

/// `POST …/event-types:load`: the event types of a preset, into a project.
pub(super) async fn load(
    caller: Caller<Manage>,
    Path(project): Path<String>,
    body: Object,
) -> Result<Response, Problem> {
    body.only(&["preset"])?;
    let preset = match body.text("preset")? {
        None => return Err(Problem::field("preset", "is required")),
        Some(text) => text.parse::<Preset>(),
    };
    let preset = preset.map_err(|error| Problem::field("preset", error.to_string()))?;
    let project = Slug::new(&project).map_err(|error| Problem::not_found(error.to_string()))?;
    let loaded = caller
        .api
        .registry
        .load_catalog(&project, preset, CatalogScope::All);
    let loaded = loaded.await?;
    Ok(Json(json!({
        "created": loaded.created,
        "revived": loaded.revived,
        "kept": loaded.kept,
    }))
    .into_response())
}

/// `GET …/event-types/{name}`.
pub(super) async fn show(
    mut caller: Caller<Read>,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let snapshot = caller.refreshed().await?;
    let entry = find(&snapshot, &project, &name)?;
    Ok(tagged(
        StatusCode::OK,
        entry.version,
        shown::event_type(entry),
    ))
}

/// `PUT …/event-types/{name}`.
pub(super) async fn put(
    mut caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = read(body, &project, Some(&name))?;
    let if_match = match condition {
        Condition::None => None,
        Condition::Version(version) => Some(version),
        Condition::Exists | Condition::Absent => {
            let snapshot = caller.refreshed().await?;
            let current = snapshot.event_type(&project, &name);
            condition.version(current.map(|entry| entry.version))?
        }
    };
    let written = caller.api.registry.put_event_type(&spec, false, if_match);
    Ok(answer(&written.await?))
}

/// `PATCH …/event-types/{name}`: a merge patch; schema and example are replaced as a whole.
pub(super) async fn patch(
    mut caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
    Object(mut body): Object,
) -> Result<Response, Problem> {
    strip(&mut body);
    let whole = ["schema", "example"].map(|key| (key, body.shift_remove(key)));
    for _ in 0..TRIES {
        let snapshot = caller.refreshed().await?;
        let current = find(&snapshot, &project, &name)?;
        condition.holds(current.version)?;
        let mut document = merged(current.settings.to_document(), &body);
        for (key, value) in &whole {
            if let Some(value) = value {
                document.insert((*key).into(), value.clone());
            }
        }
        let spec = read(document, &project, Some(&name))?;
        let if_match = Some(current.version);
        let written = caller.api.registry.put_event_type(&spec, false, if_match);
        match written.await {
            Err(WriteError::Conflict { .. }) if condition == Condition::None => {}
            done => return Ok(answer(&done?)),
        }
    }
    Err(busy())
}

/// `DELETE …/event-types/{name}`.
pub(super) async fn delete(
    caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
) -> Result<Response, Problem> {
    let if_match = condition.to_delete()?;
    let deleted = caller
        .api
        .registry
        .delete_event_type(&project, &name, if_match);
    let deleted = deleted.await;
    deleted.map_err(|error| Problem::unwritten(error, "event type", &name))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn find<'a>(
    snapshot: &'a Snapshot,
    project: &str,
    name: &str,
) -> Result<&'a EventTypeEntry, Problem> {
    let found = snapshot.event_type(project, name);
    found
        .map(|entry| &**entry)
        .ok_or_else(|| Problem::none("event type", name))
}

fn read(
    mut body: Map<String, Value>,
    project: &str,
    name: Option<&str>,
) -> Result<EventTypeSpec, Problem> {
    strip(&mut body);
    let misplaced = misplaced(&mut body, project, name);
    match read_event_type(&body) {
        Ok(spec) if misplaced.is_empty() => Ok(spec),
        Ok(_) => Err(Problem::invalid(misplaced)),
        Err(errors) => Err(Problem::invalid([misplaced, errors].concat())),
    }
}

/// A document's place is that of the path; one that says otherwise is wrong.
pub(super) fn misplaced(
    body: &mut Map<String, Value>,
    project: &str,
    name: Option<&str>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, of_path) in [("project", Some(project)), ("name", name)] {
        let Some(of_path) = of_path else { continue };
        let given = body.insert(key.into(), of_path.into());
        if given.is_some_and(|given| !given.is_null() && given != of_path) {
            let shown: String = of_path.chars().take(64).collect();
            let message = format!("must be {shown}, as in the path, or be left out");
            errors.push(FieldError::new(key, message));
        }
    }
    errors
}

fn answer(done: &EventTypeWritten) -> Response {
    let body = shown::event_type(&done.event_type);
    if !done.created {
        return tagged(StatusCode::OK, done.written.version, body);
    }
    let spec = &done.event_type.settings;
    let location = format!("/v1/projects/{}/event-types/{}", spec.project, spec.name);
    created(&location, done.written.version, body)
}
