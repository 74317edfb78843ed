//! `/v1/projects/{project}/webhooks`.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_model::ids::Slug;
use hookline_model::resource::{FieldError, WebhookSpec, read_webhook};
use hookline_registry::{PutWebhook, Snapshot, WebhookEntry, WebhookWritten, WriteError};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::caller::{Caller, Manage, Read};
use super::event_types::misplaced;
use super::projects::{TRIES, busy, merged, strip, taken};
use super::request::{Condition, Object, Parameters, created, tagged};
use super::{Api, Problem};
use crate::endpoints::Verdict;
use crate::{checks, shown};

/// `GET …/webhooks`; with `deleted=true` those that can be restored.
pub(super) async fn list(
    mut caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["limit", "cursor", "deleted"])?;
    let now = caller.api.clock.now();
    if parameters.flag("deleted")? {
        let page = parameters.page(&format!("deleted/{project}"))?;
        let deleted = caller.api.registry.list_deleted(&project).await?;
        let all = deleted.iter().map(|deleted| {
            // Latest first.
            let age = i64::MAX - deleted.deleted_at.0;
            (Cow::Owned(format!("{age:019}/{}", deleted.uid)), deleted)
        });
        return Ok(Json(page.of(all, shown::deleted_webhook)).into_response());
    }
    let page = parameters.page(&format!("webhooks/{project}"))?;
    let snapshot = caller.refreshed().await?;
    let all = snapshot
        .webhooks()
        .filter(|webhook| *webhook.project == *project)
        .map(|webhook| (Cow::Borrowed(&*webhook.name), webhook));
    Ok(Json(page.of(all, |webhook| shown::webhook(webhook, now))).into_response())
}

/// `POST …/webhooks`.
pub(super) async fn create(
    mut caller: Caller<Manage>,
    Path(project): Path<String>,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = read(&caller.api, body, &project, None)?;
    let name = spec.settings.name.clone();
    let snapshot = caller.refreshed().await?;
    if snapshot.by_name(&project, name.as_str()).is_some() {
        return Err(Problem::conflict(format!(
            "there is a webhook {name} already"
        )));
    }
    match save(&caller.api, &snapshot, spec, None, Some(0)).await {
        Ok(saved) => Ok(saved.answer(&caller.api)),
        Err(Unsaved::Write(error)) => Err(taken(error, "webhook", name.as_str())),
        Err(Unsaved::Problem(problem)) => Err(problem),
    }
}

/// `GET …/webhooks/{name}`.
pub(super) async fn show(
    mut caller: Caller<Read>,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let snapshot = caller.refreshed().await?;
    let webhook = find(&snapshot, &project, &name)?;
    let body = shown::webhook(webhook, caller.api.clock.now());
    Ok(tagged(StatusCode::OK, webhook.version, body))
}

/// `PUT …/webhooks/{name}`: what the body leaves out takes the preset's value; the state stays when it is not said.
pub(super) async fn put(
    mut caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = read(&caller.api, body, &project, Some(&name))?;
    for _ in 0..TRIES {
        let snapshot = caller.refreshed().await?;
        let current = snapshot.by_name(&project, &name);
        let if_match = condition.version(current.map(|webhook| webhook.version))?;
        // What was verified is what is written: not over what somebody else wrote meanwhile.
        let expected = if_match.unwrap_or(current.map_or(0, |webhook| webhook.version));
        match save(
            &caller.api,
            &snapshot,
            spec.clone(),
            current,
            Some(expected),
        )
        .await
        {
            Err(Unsaved::Write(WriteError::Conflict { .. })) if condition == Condition::None => {}
            saved => return Ok(saved?.answer(&caller.api)),
        }
    }
    Err(busy())
}

/// `PATCH …/webhooks/{name}`: a merge patch.
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
        let mut spec = read(&caller.api, document, &project, Some(&name))?;
        spec.state_given = body.get("state").is_some_and(|state| !state.is_null());
        let if_match = Some(current.version);
        match save(&caller.api, &snapshot, spec, Some(current), if_match).await {
            Err(Unsaved::Write(WriteError::Conflict { .. })) if condition == Condition::None => {}
            saved => return Ok(saved?.answer(&caller.api)),
        }
    }
    Err(busy())
}

/// `DELETE …/webhooks/{name}`.
pub(super) async fn delete(
    caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
) -> Result<Response, Problem> {
    let if_match = condition.to_delete()?;
    let deleted = caller
        .api
        .registry
        .delete_webhook(&project, &name, if_match);
    deleted
        .await
        .map_err(|error| Problem::unwritten(error, "webhook", &name))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The webhook of that name.
pub(super) fn find<'a>(
    snapshot: &'a Snapshot,
    project: &str,
    name: &str,
) -> Result<&'a Arc<WebhookEntry>, Problem> {
    let found = snapshot.by_name(project, name);
    found.ok_or_else(|| Problem::none("webhook", name))
}

/// A webhook's document in a request: its place is that of the path, and its URL one that the guard lets pass.
pub(super) fn read(
    api: &Api,
    mut body: Map<String, Value>,
    project: &str,
    name: Option<&str>,
) -> Result<WebhookSpec, Problem> {
    strip(&mut body);
    let mut errors = misplaced(&mut body, project, name);
    let read = read_webhook(&body);
    let url = body.get("url").and_then(Value::as_str);
    if let Err(wrong) = &read {
        errors.extend(wrong.iter().cloned());
    }
    let named = |errors: &[FieldError]| errors.iter().any(|error| error.field == "url");
    if let (Some(url), false) = (url, named(&errors))
        && let Some(refused) = checks::url(&api.urls, "url", url)
    {
        errors.push(refused);
    }
    if let Ok(spec) = &read {
        errors.extend(checks::authorities(&spec.settings));
    }
    match read {
        Ok(spec) if errors.is_empty() => Ok(spec),
        _ => Err(Problem::invalid(errors)),
    }
}

/// A webhook that was saved.
pub(super) struct Saved {
    done: WebhookWritten,
    verdict: Option<Verdict>,
}

/// Why a webhook was not saved.
pub(super) enum Unsaved {
    /// The registry did not take it.
    Write(WriteError),
    /// It may not be.
    Problem(Problem),
}

impl From<Unsaved> for Problem {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Write(error) => error.into(),
            Unsaved::Problem(problem) => problem,
        }
    }
}

impl Saved {
    fn answer(self, api: &Api) -> Response {
        let done = self.done;
        let mut body = shown::webhook(&done.webhook, api.clock.now());
        if let Some(secret) = &done.new_secret {
            body["secret"] = secret.expose_secret().into();
        }
        if let Some(verdict) = &self.verdict {
            body["verification_result"] = shown::verdict(&done.webhook.settings, verdict);
        }
        if !done.created {
            return tagged(StatusCode::OK, done.written.version, body);
        }
        let location = format!(
            "/v1/projects/{}/webhooks/{}",
            done.webhook.project, done.webhook.name
        );
        created(&location, done.written.version, body)
    }
}

/// Writes a webhook, once its endpoint has passed the verification that it asks for.
async fn save(
    api: &Api,
    snapshot: &Snapshot,
    spec: WebhookSpec,
    current: Option<&Arc<WebhookEntry>>,
    if_match: Option<u64>,
) -> Result<Saved, Unsaved> {
    let settings = &spec.settings;
    // What is not written anyway need not be tried.
    let version = current.map_or(0, |current| current.version);
    if let Some(expected) = if_match.filter(|expected| *expected != version) {
        return Err(Unsaved::Write(WriteError::Conflict {
            kind: "webhook".into(),
            name: format!("{}/{}", settings.project, settings.name),
            expected,
            version,
        }));
    }
    let verdict = verify(api, snapshot, &spec, current)
        .await
        .map_err(Unsaved::Problem)?;
    let put = PutWebhook {
        project: settings.project.clone(),
        name: Slug::clone(&settings.name),
        keep_state: !spec.state_given,
        settings: spec.settings,
        verified: verdict.as_ref().and_then(|v| v.verified.clone()),
        make_project: false,
        if_match,
    };
    let done = api.registry.put_webhook(&put).await;
    let done = done.map_err(Unsaved::Write)?;
    Ok(Saved { done, verdict })
}

async fn verify(
    api: &Api,
    snapshot: &Snapshot,
    spec: &WebhookSpec,
    current: Option<&Arc<WebhookEntry>>,
) -> Result<Option<Verdict>, Problem> {
    let connector = snapshot.connector_of(&spec.settings).map(|found| &**found);
    let verdict = api
        .endpoints
        .verify(snapshot, spec, current, connector)
        .await;
    match verdict.map_err(unsigned)? {
        Some(Verdict {
            forbidden: Some(why),
            test,
            ..
        }) => {
            Err(Problem::unverified(why)
                .with("attempt", shown::test(&spec.settings, current, &test)))
        }
        verdict => Ok(verdict),
    }
}

/// The secret of a webhook cannot be opened.
pub(super) fn unsigned(why: String) -> Problem {
    tracing::error!(why, "a webhook's secret cannot be used");
    Problem::unavailable("the webhook's secret cannot be used; the log of the process says why")
}
