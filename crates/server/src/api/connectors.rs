//! `/v1/projects/{project}/connectors`: credentials that webhooks use by name. Their secrets come in and never go out.

use std::borrow::Cow;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_model::resource::{ConnectorSpec, read_connector};
use hookline_registry::{ConnectorEntry, ConnectorWritten, Snapshot, WriteError};
use serde_json::{Map, Value};

use super::caller::{Caller, Manage, Read};
use super::event_types::misplaced;
use super::projects::{TRIES, busy, merged, strip, taken};
use super::request::{Condition, Object, Parameters, created, tagged};
use super::{Api, Problem};
use crate::{checks, shown};

/// `GET …/connectors`.
pub(super) async fn list(
    mut caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let page = parameters.page(&format!("connectors/{project}"))?;
    let snapshot = caller.refreshed().await?;
    let all = snapshot
        .connectors(&project)
        .map(|entry| (Cow::Borrowed(&*entry.name), entry));
    Ok(Json(page.of(all, |entry| shown::connector(entry))).into_response())
}

/// `POST …/connectors`.
pub(super) async fn create(
    caller: Caller<Manage>,
    Path(project): Path<String>,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = read(&caller.api, body, &project, None)?;
    let written = caller.api.registry.put_connector(&spec, false, Some(0));
    let done = written
        .await
        .map_err(|error| taken(error, "connector", spec.name.as_str()))?;
    Ok(answer(&done))
}

/// `GET …/connectors/{name}`.
pub(super) async fn show(
    mut caller: Caller<Read>,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let snapshot = caller.refreshed().await?;
    let entry = find(&snapshot, &project, &name)?;
    Ok(tagged(
        StatusCode::OK,
        entry.version,
        shown::connector(entry),
    ))
}

/// `PUT …/connectors/{name}`: without a secret, one of the same type keeps its own.
pub(super) async fn put(
    mut caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = read(&caller.api, body, &project, Some(&name))?;
    let if_match = match condition {
        Condition::None => None,
        Condition::Version(version) => Some(version),
        Condition::Exists | Condition::Absent => {
            let snapshot = caller.refreshed().await?;
            let current = snapshot.connector(&project, &name);
            condition.version(current.map(|entry| entry.version))?
        }
    };
    let written = caller.api.registry.put_connector(&spec, false, if_match);
    Ok(answer(&written.await?))
}

/// `PATCH …/connectors/{name}`: a merge patch.
pub(super) async fn patch(
    mut caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
    Object(mut body): Object,
) -> Result<Response, Problem> {
    strip(&mut body);
    for _ in 0..TRIES {
        let snapshot = caller.refreshed().await?;
        let current = find(&snapshot, &project, &name)?;
        condition.holds(current.version)?;
        let document = merged(current.settings.to_document(), &body);
        let spec = read(&caller.api, document, &project, Some(&name))?;
        let if_match = Some(current.version);
        let written = caller.api.registry.put_connector(&spec, false, if_match);
        match written.await {
            Err(WriteError::Conflict { .. }) if condition == Condition::None => {}
            done => return Ok(answer(&done?)),
        }
    }
    Err(busy())
}

/// `DELETE …/connectors/{name}`.
pub(super) async fn delete(
    caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
) -> Result<Response, Problem> {
    let if_match = condition.to_delete()?;
    let deleted = caller
        .api
        .registry
        .delete_connector(&project, &name, if_match);
    let deleted = deleted.await;
    deleted.map_err(|error| Problem::unwritten(error, "connector", &name))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn find<'a>(
    snapshot: &'a Snapshot,
    project: &str,
    name: &str,
) -> Result<&'a ConnectorEntry, Problem> {
    let found = snapshot.connector(project, name);
    found
        .map(|entry| &**entry)
        .ok_or_else(|| Problem::none("connector", name))
}

fn read(
    api: &Api,
    mut body: Map<String, Value>,
    project: &str,
    name: Option<&str>,
) -> Result<ConnectorSpec, Problem> {
    strip(&mut body);
    let mut errors = misplaced(&mut body, project, name);
    match read_connector(&body) {
        Ok(spec) => {
            errors.extend(checks::connector(&api.urls, &spec));
            match errors.is_empty() {
                true => Ok(spec),
                false => Err(Problem::invalid(errors)),
            }
        }
        Err(wrong) => Err(Problem::invalid([errors, wrong].concat())),
    }
}

fn answer(done: &ConnectorWritten) -> Response {
    let body = shown::connector(&done.connector);
    if !done.created {
        return tagged(StatusCode::OK, done.written.version, body);
    }
    let spec = &done.connector.settings;
    let location = format!("/v1/projects/{}/connectors/{}", spec.project, spec.name);
    created(&location, done.written.version, body)
}
