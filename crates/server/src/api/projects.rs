//! `/v1/projects`.

use std::borrow::Cow;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_model::resource::{ProjectSpec, read_project};
use hookline_registry::ProjectWritten;
use serde_json::{Map, Value};

use super::Problem;
use super::caller::{Administer, Caller, Read};
use super::request::{Condition, Object, Parameters, created, tagged};
use crate::shown::{self, READ_ONLY};

/// Tries of a change that does not say which version it means.
pub(super) const TRIES: u32 = 5;

/// `GET /v1/projects`.
pub(super) async fn list(
    mut caller: Caller<Read>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let page = parameters.page("projects")?;
    let snapshot = caller.refreshed().await?;
    let all = snapshot
        .projects()
        .filter(|project| {
            caller
                .bound_to()
                .is_none_or(|own| own.as_str() == &*project.id)
        })
        .map(|project| (Cow::Borrowed(&*project.id), project));
    Ok(Json(page.of(all, |project| shown::project(project))).into_response())
}

/// `POST /v1/projects`.
pub(super) async fn create(
    caller: Caller<Administer>,
    Object(mut body): Object,
) -> Result<Response, Problem> {
    strip(&mut body);
    let spec = read_project(&body).map_err(Problem::invalid)?;
    if let Some(own) = caller.bound_to() {
        return Err(Problem::forbidden(format!(
            "this key is bound to the project {own} and makes no others"
        )));
    }
    let written = caller.api.registry.put_project(&spec, Some(0)).await;
    let done = written.map_err(|error| taken(error, "project", spec.id.as_str()))?;
    let location = format!("/v1/projects/{}", spec.id);
    Ok(created(&location, done.written.version, shown(&done)))
}

/// `GET /v1/projects/{project}`.
pub(super) async fn show(
    mut caller: Caller<Read>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.refreshed().await?;
    let project = caller.project(&id)?;
    Ok(tagged(
        StatusCode::OK,
        project.version,
        shown::project(project),
    ))
}

/// `PATCH /v1/projects/{project}`: a merge patch.
pub(super) async fn patch(
    mut caller: Caller<Administer>,
    Path(id): Path<String>,
    condition: Condition,
    Object(mut body): Object,
) -> Result<Response, Problem> {
    strip(&mut body);
    for _ in 0..TRIES {
        caller.refreshed().await?;
        let project = caller.project(&id)?;
        condition.holds(project.version)?;
        let spec = patched(&project.settings, &body)?;
        let written = caller
            .api
            .registry
            .put_project(&spec, Some(project.version));
        match written.await {
            Err(hookline_registry::WriteError::Conflict { .. }) if condition == Condition::None => {
            }
            done => {
                let done = done?;
                return Ok(tagged(StatusCode::OK, done.written.version, shown(&done)));
            }
        }
    }
    Err(busy())
}

/// `DELETE /v1/projects/{project}`.
pub(super) async fn delete(
    mut caller: Caller<Administer>,
    Path(id): Path<String>,
    condition: Condition,
) -> Result<Response, Problem> {
    caller.refreshed().await?;
    let project = caller.project(&id)?;
    let if_match = condition.version(Some(project.version))?;
    let id = &project.settings.id;
    caller.api.registry.delete_project(id, if_match).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn patched(current: &ProjectSpec, patch: &Map<String, Value>) -> Result<ProjectSpec, Problem> {
    let document = merged(current.to_document(), patch);
    let spec = read_project(&document).map_err(Problem::invalid)?;
    if spec.id != current.id {
        return Err(Problem::field("id", "cannot be changed"));
    }
    Ok(spec)
}

fn shown(done: &ProjectWritten) -> Value {
    let mut body = shown::project(&done.project);
    if let Some(loaded) = done.loaded {
        body["event_types_created"] = loaded.created.into();
    }
    body
}

/// Takes out what the system adds to resources.
pub(super) fn strip(body: &mut Map<String, Value>) {
    body.retain(|key, _| !READ_ONLY.contains(&key.as_str()));
}

/// A resource's document with a patch in it.
pub(super) fn merged(document: Value, patch: &Map<String, Value>) -> Map<String, Value> {
    let mut document = match document {
        Value::Object(document) => document,
        // Resources are objects.
        _ => Map::new(),
    };
    merge(&mut document, patch);
    document
}

/// A JSON merge patch (RFC 7396), but that a schedule is replaced as a whole: it is one of several forms, and two at once mean nothing.
fn merge(into: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (into.get_mut(key), value) {
            (_, Value::Null) => drop(into.shift_remove(key)),
            (Some(Value::Object(below)), Value::Object(above)) if key != "schedule" => {
                merge(below, above);
            }
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

/// Making something under a name that is in use: 409, and not the 412 of a version that nobody spoke of.
pub(super) fn taken(error: hookline_registry::WriteError, what: &str, name: &str) -> Problem {
    match error {
        hookline_registry::WriteError::Conflict { version, .. } if version > 0 => {
            Problem::conflict(format!("there is a {what} {name} already"))
        }
        other => other.into(),
    }
}

/// Others changed it again and again in between.
pub(super) fn busy() -> Problem {
    Problem::unavailable("it is being changed by others all the time: try again")
}
