//! `/v1/projects/{project}/keys`: keys that see one project.

use std::borrow::Cow;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_model::access::Role as KeyRole;
use hookline_model::ids::Slug;
use hookline_model::resource::FieldError;
use hookline_model::time::Millis;
use hookline_registry::{KeyChange, KeyEntry, KeyMade, NewKey, Snapshot};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::Problem;
use super::caller::{Administer, Caller};
use super::request::{Condition, Object, Parameters, created, tagged};
use crate::shown;

/// `GET …/keys`.
pub(super) async fn list(
    mut caller: Caller<Administer>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let page = parameters.page(&format!("keys/{project}"))?;
    let snapshot = caller.refreshed().await?;
    let all = snapshot
        .keys()
        .filter(|entry| of(entry, &project))
        .map(|entry| (Cow::Borrowed(entry.key.id.as_str()), entry));
    Ok(Json(page.of(all, |entry| shown::key(entry))).into_response())
}

/// `POST …/keys`: the answer shows the key, once.
pub(super) async fn create(
    caller: Caller<Administer>,
    Path(project): Path<String>,
    body: Object,
) -> Result<Response, Problem> {
    body.only(&["role", "title", "expires_at"])?;
    let role = match body.text("role")? {
        None => Err("is required: viewer, publisher, manager or admin".to_owned()),
        Some(text) => text.parse::<KeyRole>().map_err(|error| error.to_string()),
    };
    let role = role.map_err(|message| Problem::field("role", message))?;
    let new = NewKey {
        project: Some(caller.project(&project)?.settings.id.clone()),
        role,
        title: body.line("title")?.unwrap_or_default().to_owned(),
        expires_at: expiry(&body, caller.api.clock.now())?.flatten(),
    };
    let made = caller.api.registry.create_key(&new).await?;
    Ok(made_answer(&made, &project))
}

/// `GET …/keys/{id}`.
pub(super) async fn show(
    mut caller: Caller<Administer>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let snapshot = caller.refreshed().await?;
    let entry = find(&snapshot, &project, &id)?;
    Ok(tagged(StatusCode::OK, entry.version, shown::key(entry)))
}

/// `PATCH …/keys/{id}`: title and end.
pub(super) async fn patch(
    mut caller: Caller<Administer>,
    Path((project, id)): Path<(String, String)>,
    condition: Condition,
    body: Object,
) -> Result<Response, Problem> {
    body.only(&["title", "expires_at"])?;
    let change = KeyChange {
        title: match body.0.contains_key("title") {
            true => Some(body.line("title")?.unwrap_or_default().to_owned()),
            false => None,
        },
        expires_at: expiry(&body, caller.api.clock.now())?,
    };
    let snapshot = caller.refreshed().await?;
    let current = find(&snapshot, &project, &id)?;
    condition.holds(current.version)?;
    let if_match = condition.version(Some(current.version))?;
    let project = current.key.project.as_ref();
    let changed = caller
        .api
        .registry
        .change_key(project, &id, &change, if_match);
    let entry = changed
        .await
        .map_err(|error| Problem::unwritten(error, "key", &id))?;
    Ok(tagged(StatusCode::OK, entry.version, shown::key(&entry)))
}

/// `DELETE …/keys/{id}`: it is refused from then on.
pub(super) async fn delete(
    mut caller: Caller<Administer>,
    Path((project, id)): Path<(String, String)>,
    condition: Condition,
) -> Result<Response, Problem> {
    let snapshot = caller.refreshed().await?;
    let current = find(&snapshot, &project, &id)?;
    let if_match = condition.version(Some(current.version))?;
    let project = current.key.project.as_ref();
    let revoked = caller.api.registry.revoke_key(project, &id, if_match);
    revoked
        .await
        .map_err(|error| Problem::unwritten(error, "key", &id))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST …/keys/{id}:rotate`: a key like this one, which ends after an overlap.
pub(super) async fn act(
    mut caller: Caller<Administer>,
    Path((project, id)): Path<(String, String)>,
    body: Object,
) -> Result<Response, Problem> {
    let Some((id, action)) = id.rsplit_once(':') else {
        return Err(Problem::wrong_method(
            "a key is changed with PATCH; POST is for `{id}:rotate`",
        ));
    };
    if action != "rotate" {
        return Err(Problem::not_found("what can be done to a key is: rotate"));
    }
    let overlap = body.overlap()?;
    let snapshot = caller.refreshed().await?;
    let current = find(&snapshot, &project, id)?;
    let ends = caller.api.clock.now().plus(overlap);
    let of = current.key.project.as_ref();
    let made = caller.api.registry.rotate_key(of, id, ends).await;
    let made = made.map_err(|error| Problem::unwritten(error, "key", id))?;
    Ok(made_answer(&made, &project))
}

fn of(entry: &KeyEntry, project: &str) -> bool {
    entry.key.project.as_ref().map(Slug::as_str) == Some(project)
}

fn find<'a>(snapshot: &'a Snapshot, project: &str, id: &str) -> Result<&'a KeyEntry, Problem> {
    let found = snapshot.key(id).filter(|entry| of(entry, project));
    found
        .map(|entry| &**entry)
        .ok_or_else(|| Problem::none("key", id))
}

/// `expires_at` of a body: absent, `null` (never), or a time to come.
fn expiry(body: &Object, now: Millis) -> Result<Option<Option<Millis>>, Problem> {
    if matches!(body.0.get("expires_at"), Some(Value::Null)) {
        return Ok(Some(None));
    }
    let Some(text) = body.text("expires_at")? else {
        return Ok(None);
    };
    let read = text.parse::<jiff::Timestamp>();
    let wrong = |message: String| Problem::invalid(vec![FieldError::new("expires_at", message)]);
    let at = read.map_err(|_| wrong("must be a time such as 2030-01-31T12:00:00Z".into()))?;
    let at = Millis(at.as_millisecond());
    if at <= now {
        return Err(wrong(
            "is over already; to end a key at once delete it".into(),
        ));
    }
    Ok(Some(Some(at)))
}

fn made_answer(made: &KeyMade, project: &str) -> Response {
    let mut body = shown::key(&made.entry);
    body["key"] = made.text.expose_secret().into();
    let location = format!("/v1/projects/{project}/keys/{}", made.entry.key.id);
    created(&location, made.entry.version, body)
}
