//! `POST …/webhooks/{name}:…`: states, tests, restoring, new secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::resource::{State, Verification};
use hookline_model::wire::{self, command::What};
use hookline_registry::{DeletedWebhook, WebhookEntry};
use secrecy::ExposeSecret as _;

use super::Problem;
use super::caller::{Caller, Manage};
use super::deliveries::{answer, not_done};
use super::request::{Condition, Object, tagged};
use super::test_sends::chosen;
use super::webhooks::{find, unsigned};
use crate::{endpoints, shown};

const ACTIONS: &str =
    "activate, deactivate, pause, resume, rotate-secret, restore, test, skip, release";

/// What can be done to a webhook.
pub(super) async fn act(
    caller: Caller<Manage>,
    Path((project, name)): Path<(String, String)>,
    condition: Condition,
    body: Object,
) -> Result<Response, Problem> {
    let Some((name, action)) = name.rsplit_once(':') else {
        return Err(Problem::wrong_method(format!(
            "a webhook is written with PUT or PATCH; POST is for `{{name}}:action`, which is one of: {ACTIONS}"
        )));
    };
    let target = Target {
        caller,
        project,
        name: name.to_owned(),
        condition,
        body,
    };
    match action {
        "activate" => target.activate().await,
        "deactivate" => target.set(State::Inactive, None).await,
        "pause" => target.set(State::Paused, Some(State::Active)).await,
        "resume" => target.set(State::Active, Some(State::Paused)).await,
        "rotate-secret" => target.rotate().await,
        "restore" => target.restore().await,
        "test" => target.test().await,
        "skip" => target.head(What::Skip(wire::command::Skip {})).await,
        "release" => target.head(What::Release(wire::command::Release {})).await,
        _ => {
            let shown: String = action.chars().take(64).collect();
            Err(Problem::not_found(format!(
                "{shown:?} is nothing that can be done to a webhook; it is one of: {ACTIONS}"
            )))
        }
    }
}

/// The webhook that is meant, and what the request says.
struct Target {
    caller: Caller<Manage>,
    project: String,
    name: String,
    condition: Condition,
    body: Object,
}

impl Target {
    async fn current(&mut self) -> Result<Arc<WebhookEntry>, Problem> {
        let snapshot = self.caller.refreshed().await?;
        let webhook = find(&snapshot, &self.project, &self.name)?;
        self.condition.holds(webhook.version)?;
        Ok(Arc::clone(webhook))
    }

    fn shown(&self, webhook: &WebhookEntry) -> Response {
        let body = shown::webhook(webhook, self.caller.api.clock.now());
        tagged(StatusCode::OK, webhook.version, body)
    }

    /// Goes live; where the webhook asks for a test, only once one has passed.
    async fn activate(mut self) -> Result<Response, Problem> {
        let current = self.current().await?;
        let settings = &current.settings;
        let untested = settings.verification == Verification::Test
            && current.state() != State::Active
            && !endpoints::passed(&current, settings);
        if untested {
            return Err(Problem::conflict(format!(
                "webhook {0} goes live only once a test has passed: `POST …/webhooks/{0}:test`, and then activate it",
                self.name
            )));
        }
        self.set(State::Active, None).await
    }

    /// Skips or releases the head of an ordered lane, which the body names: by itself the head may be another one by now.
    async fn head(mut self, what: What) -> Result<Response, Problem> {
        let current = self.current().await?;
        self.body.only(&["delivery_id"])?;
        let named = self.body.text("delivery_id")?.ok_or_else(|| {
            Problem::field(
                "delivery_id",
                "is required: the delivery that is meant (GET …/attempts shows it, and so does each request as `webhook-id`)",
            )
        })?;
        let delivery = DeliveryId::parse(named).ok_or_else(|| {
            Problem::field(
                "delivery_id",
                "is no delivery id; one looks like dlv_0123456789abcdef0123456789abcdef",
            )
        })?;
        let by_hand = &self.caller.api.by_hand;
        let done = by_hand.head(&self.caller.snapshot, &current, delivery, what);
        Ok(answer(named, done.await.map_err(not_done)?))
    }

    /// Sends a test, and remembers one that the webhook needs to go live.
    async fn test(mut self) -> Result<Response, Problem> {
        let current = self.current().await?;
        let api = &self.caller.api;
        self.body.only(&["event_type", "event"])?;
        let webhook = &current.settings;
        let event = chosen(api, &self.caller.snapshot, webhook, &self.body)?;
        let test = api
            .endpoints
            .test(&self.caller.snapshot, webhook, Some(&current), event)
            .await;
        let test = test.map_err(unsigned)?;
        if let Some(verified) = api.endpoints.passed_test(webhook, &test) {
            let registry = &api.registry;
            registry
                .set_verified(&self.project, &self.name, &verified)
                .await
                .map_err(|error| Problem::unwritten(error, "webhook", &self.name))?;
        }
        Ok(Json(shown::test(webhook, Some(&current), &test)).into_response())
    }

    /// Sets the state. With `only_from` it must be in that state now, or be there already.
    async fn set(mut self, state: State, only_from: Option<State>) -> Result<Response, Problem> {
        self.body.only(&["reason"])?;
        let reason = self.body.line("reason")?.map(str::to_owned);
        let current = self.current().await?;
        if let Some(from) = only_from
            && current.state() != from
            && current.state() != state
        {
            return Err(Problem::conflict(format!(
                "webhook {} is {}; this is for one that is {from}",
                self.name,
                current.state()
            )));
        }
        // What was looked at is what is changed, unless somebody was faster: then that is looked at.
        let registry = &self.caller.api.registry;
        let (project, name) = (self.project.as_str(), self.name.as_str());
        let if_match = Some(current.version);
        let written = registry
            .set_state(project, name, state, reason.as_deref(), if_match)
            .await
            .map_err(|error| Problem::unwritten(error, "webhook", name))?;
        let snapshot = registry.applied(written.offset).await?;
        let webhook = find(&snapshot, project, name)?;
        Ok(self.shown(webhook))
    }

    async fn rotate(mut self) -> Result<Response, Problem> {
        let overlap = self.body.overlap()?;
        let if_match = match self.condition {
            Condition::None => None,
            _ => Some(self.current().await?.version),
        };
        let registry = &self.caller.api.registry;
        let rotated = registry
            .rotate_secret(&self.project, &self.name, overlap, if_match)
            .await
            .map_err(|error| Problem::unwritten(error, "webhook", &self.name))?;
        let mut body = shown::webhook(&rotated.webhook, self.caller.api.clock.now());
        if let Some(secret) = &rotated.new_secret {
            body["secret"] = secret.expose_secret().into();
        }
        Ok(tagged(StatusCode::OK, rotated.webhook.version, body))
    }

    async fn restore(self) -> Result<Response, Problem> {
        self.body.only(&["uid"])?;
        let registry = &self.caller.api.registry;
        let deleted = registry.list_deleted(&self.project).await?;
        let uid = match self.body.text("uid")? {
            Some(text) => {
                let uid = text.parse::<WebhookUid>();
                Some(uid.map_err(|error| Problem::field("uid", error.to_string()))?)
            }
            None => None,
        };
        // The latest first.
        let meant = |d: &&DeletedWebhook| d.name == self.name && uid.is_none_or(|u| u == d.uid);
        let Some(meant) = deleted.iter().find(meant) else {
            return Err(Problem::none("webhook", &self.name).with("deleted", false.into()));
        };
        let webhook = registry.restore_webhook(&self.project, meant.uid).await?;
        Ok(self.shown(&webhook))
    }
}
