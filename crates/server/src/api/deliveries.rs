//! `/v1/projects/{project}/deliveries/{id}`: one delivery, and what people want of it.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::Problem;
use super::attempts::unanswered;
use super::caller::{Caller, Manage, Read};
use super::problem::AGAIN_IN;
use super::request::{Object, Parameters};
use crate::by_hand::{Done, NotDone};
use crate::output::Chain;

const ACTIONS: &str = "retry, cancel";

/// `GET …/deliveries/{id}`.
pub(super) async fn show(
    caller: Caller<Read>,
    Path((project, id)): Path<(String, String)>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let found = caller.api.history.delivery(&project, &id).await;
    match found.map_err(unanswered)? {
        Some(delivery) => Ok(Json(delivery).into_response()),
        None => Err(Problem::none("delivery", &id)),
    }
}

/// `POST …/deliveries/{id}:retry`, `:cancel`.
pub(super) async fn act(
    mut caller: Caller<Manage>,
    Path((project, id)): Path<(String, String)>,
    body: Object,
) -> Result<Response, Problem> {
    let Some((id, action)) = id.rsplit_once(':') else {
        return Err(Problem::wrong_method(format!(
            "POST is for `{{id}}:action`, which is one of: {ACTIONS}"
        )));
    };
    body.only(&[])?;
    let snapshot = caller.refreshed().await?;
    let api = &caller.api;
    let (by_hand, store) = (&api.by_hand, &api.history);
    let done = match action {
        "retry" => by_hand.retry(store, &snapshot, &project, id).await,
        "cancel" => by_hand.cancel(store, &snapshot, &project, id).await,
        _ => {
            let shown: String = action.chars().take(64).collect();
            return Err(Problem::not_found(format!(
                "{shown:?} is nothing that can be done to a delivery; it is one of: {ACTIONS}"
            )));
        }
    };
    Ok(answer(id, done.map_err(not_done)?))
}

/// 200 when it is done, 202 when it will be.
pub(super) fn answer(delivery: &str, done: Done) -> Response {
    let status = match done {
        Done::Now => StatusCode::OK,
        Done::Later => StatusCode::ACCEPTED,
    };
    let body = Json(json!({"delivery_id": delivery, "status": done.as_str()}));
    (status, body).into_response()
}

/// Why a wish is not fulfilled.
pub(super) fn not_done(why: NotDone) -> Problem {
    match why {
        NotDone::NoDelivery(_) => Problem::not_found(why.to_string()),
        NotDone::Final(_)
        | NotDone::Deleted(_)
        | NotDone::Inactive(_)
        | NotDone::NotKept
        | NotDone::Refused(_) => Problem::conflict(why.to_string()),
        NotDone::Full(why) => Problem::too_many(why, AGAIN_IN),
        NotDone::Store(error) => unanswered(error),
        NotDone::NoLayout | NotDone::Kept(_) | NotDone::Journal(_) => {
            tracing::warn!(error = %Chain(&why), "a command was not given");
            Problem::unavailable(Chain(&why).to_string())
        }
    }
}
