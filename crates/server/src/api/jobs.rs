//! `/v1/projects/{project}/jobs`: deliveries started over by their thousands.

use std::borrow::Cow;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_history::RangesError;
use hookline_model::job::{Job, JobRefusal, JobSpec};
use hookline_registry::JobEntry;

use super::Problem;
use super::caller::{Caller, Manage, Read};
use super::request::{Object, Parameters, created, tagged};
use crate::jobs::NotMade;
use crate::output::Chain;
use crate::shown;

const ACTIONS: &str = "pause, resume, cancel";

/// `GET …/jobs`, the earliest first.
pub(super) async fn list(
    mut caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let page = parameters.page(&format!("jobs/{project}"))?;
    let snapshot = caller.refreshed().await?;
    let all = snapshot
        .jobs(&project)
        .map(|entry| (Cow::Borrowed(&*entry.id), entry));
    Ok(Json(page.of(all, |entry| shown::job(entry))).into_response())
}

/// `POST …/jobs`.
pub(super) async fn create(
    mut caller: Caller<Manage>,
    Path(project): Path<String>,
    Object(body): Object,
) -> Result<Response, Problem> {
    let spec = JobSpec::read(&body).map_err(Problem::invalid)?;
    let snapshot = caller.refreshed().await?;
    let of = caller.project(&project)?.settings.id.clone();
    let made = caller.api.jobs.make(&of, &spec, &snapshot).await;
    let entry = made.map_err(not_made)?;
    let location = format!("/v1/projects/{project}/jobs/{}", entry.id);
    Ok(created(&location, entry.version, shown::job(&entry)))
}

/// `GET …/jobs/{id}`.
pub(super) async fn show(
    mut caller: Caller<Read>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let snapshot = caller.refreshed().await?;
    let entry = snapshot.job(&project, &id);
    Ok(answer(entry.ok_or_else(|| Problem::none("job", &id))?))
}

/// `POST …/jobs/{id}:pause`, `:resume`, `:cancel`.
pub(super) async fn act(
    caller: Caller<Manage>,
    Path((project, id)): Path<(String, String)>,
    body: Object,
) -> Result<Response, Problem> {
    let Some((id, action)) = id.rsplit_once(':') else {
        return Err(Problem::wrong_method(format!(
            "a job does not change; POST is for `{{id}}:action`, which is one of: {ACTIONS}"
        )));
    };
    let now = caller.api.clock.now();
    let edit: &(dyn Fn(&mut Job) -> Result<(), JobRefusal> + Sync) = match action {
        "pause" => &|job| job.pause(),
        "resume" => &|job| job.resume(),
        "cancel" => &|job| job.cancel(now),
        _ => {
            let shown: String = action.chars().take(64).collect();
            return Err(Problem::not_found(format!(
                "{shown:?} is nothing that can be done to a job; it is one of: {ACTIONS}"
            )));
        }
    };
    body.only(&[])?;
    let mut refused = None;
    let changed = caller.api.registry.change_job(&project, id, |job| {
        refused = edit(job).err();
    });
    let entry = changed
        .await
        .map_err(|error| Problem::unwritten(error, "job", id))?;
    match refused {
        None => Ok(answer(&entry)),
        Some(refusal) => Err(Problem::conflict(format!("job {id}: {refusal}"))),
    }
}

fn answer(entry: &JobEntry) -> Response {
    tagged(StatusCode::OK, entry.version, shown::job(entry))
}

fn not_made(error: NotMade) -> Problem {
    match error {
        NotMade::NoWebhook(_) => Problem::field("webhook", error.to_string()),
        NotMade::Inactive(_) => Problem::conflict(error.to_string()),
        NotMade::Ranges(RangesError::NotKept { kept_from }) => {
            let problem = Problem::field("filter.from", error.to_string());
            problem.with("kept_from", kept_from.to_rfc3339().into())
        }
        NotMade::Ranges(error) => {
            tracing::warn!(error = %Chain(&error), "a job was asked for, and the journal does not answer");
            Problem::unavailable(format!("{error}; try again"))
        }
        NotMade::Write(error) => error.into(),
    }
}
