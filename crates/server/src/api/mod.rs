//! REST: `/v1/…`. What is behind it is the registry (resources), the ingest crate (events), the outside client (test sends)
//! and the history (attempts, activities, statistics, jobs).
//!
//! Reading order: `caller` (who may), `request` (what requests bring), `problem` (what goes wrong), then a file for each resource. Every
//! path stands in [`routes`], and in `openapi.yaml`, which a test holds against it.

mod activities;
mod attempts;
mod caller;
mod connectors;
mod deliveries;
mod event_types;
mod events;
mod jobs;
mod keys;
mod openapi;
mod presets;
mod problem;
mod projects;
mod request;
mod states;
mod statistics;
mod test_sends;
mod webhooks;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{MethodRouter, get, post};
use hookline_dispatch::WayOut;
use hookline_dispatch::guard::UrlPolicy;
use hookline_history::Store;
use hookline_model::time::Clock;
use hookline_registry::{Registry, Snapshot};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::activities::Following;
use self::events::Publishing;
pub(crate) use self::problem::Problem;
use crate::by_hand::ByHand;
use crate::cli::Role;
use crate::endpoints::Endpoints;
use crate::engine::System;
use crate::http::Pages;
use crate::jobs::Maker;

/// How long a request waits to see what is current.
const CURRENT_WITHIN: Duration = Duration::from_secs(3);
/// How old what is known may be, where it need not be current to the last write. With the wait it is less than the five seconds within
/// which a revoked key must be refused.
const RECENT: Duration = Duration::from_secs(1);

/// What the handlers work with.
pub(crate) struct Api {
    /// Projects, webhooks, event types, keys.
    pub(crate) registry: Registry,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// The judgement of URLs.
    pub(crate) urls: Arc<UrlPolicy>,
    /// The way to endpoints, for tests and verification.
    pub(crate) endpoints: Endpoints,
    /// What became of deliveries.
    pub(crate) history: Arc<Store>,
    /// Who waits for events in it.
    pub(crate) following: Following,
    /// Where jobs are made.
    jobs: Maker,
    /// The way of events to the journal.
    publishing: Publishing,
    /// Where wishes for single deliveries go.
    by_hand: ByHand,
    /// What this process was started for.
    roles: BTreeSet<Role>,
    /// As of when the registry was last known to be current.
    current_at: Mutex<Option<Instant>>,
}

impl Api {
    /// The API of a process with these roles.
    pub(crate) fn new(system: &System, roles: &[Role], way: WayOut, history: Arc<Store>) -> Self {
        Self {
            registry: system.registry.clone(),
            clock: Arc::clone(&system.clock),
            urls: Arc::clone(way.urls()),
            endpoints: Endpoints::new(&system.config, &system.clock, way),
            history,
            following: Following::new(),
            jobs: Maker::new(system),
            publishing: Publishing::new(system),
            by_hand: ByHand::new(system),
            roles: roles.iter().copied().collect(),
            current_at: Mutex::new(None),
        }
    }

    /// Whether this process does that at all.
    fn serves(&self, role: Role) -> Result<(), Problem> {
        if self.roles.contains(&role) {
            return Ok(());
        }
        Err(Problem::not_found(format!(
            "this process runs without the role {role}; ask one that has it"
        )))
    }

    /// Everything that was acknowledged before this call.
    pub(crate) async fn refreshed(&self) -> Result<Arc<Snapshot>, Problem> {
        let began = Instant::now();
        match tokio::time::timeout(CURRENT_WITHIN, self.registry.refresh()).await {
            Ok(snapshot) => {
                let snapshot = snapshot?;
                let mut known = self.current_at.lock();
                *known = Some(known.map_or(began, |at| at.max(began)));
                Ok(snapshot)
            }
            Err(_) => Err(Problem::unavailable(
                "the journal does not answer, so it is not known what is current",
            )),
        }
    }

    /// What was current a second ago or later.
    pub(crate) async fn recent(&self) -> Result<Arc<Snapshot>, Problem> {
        let known = *self.current_at.lock();
        match known {
            Some(at) if at.elapsed() < RECENT => Ok(self.registry.snapshot()),
            _ => self.refreshed().await,
        }
    }
}

/// Every path, and what answers there.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<Pages>>)> {
    vec![
        ("/v1/openapi.json", get(openapi::show)),
        ("/v1/presets", get(presets::list)),
        ("/v1/presets/{preset}", get(presets::show)),
        ("/v1/projects", get(projects::list).post(projects::create)),
        (
            "/v1/projects/{project}",
            get(projects::show)
                .patch(projects::patch)
                .delete(projects::delete),
        ),
        ("/v1/projects/{project}/events", post(events::publish)),
        ("/v1/projects/{project}/activities", get(activities::list)),
        ("/v1/projects/{project}/statistics", get(statistics::show)),
        ("/v1/projects/{project}/attempts", get(attempts::list)),
        (
            "/v1/projects/{project}/attempts/export",
            get(attempts::export),
        ),
        ("/v1/projects/{project}/attempts/{id}", get(attempts::show)),
        (
            "/v1/projects/{project}/deliveries/{id}",
            // `{id}:retry` and the like.
            get(deliveries::show).post(deliveries::act),
        ),
        (
            "/v1/projects/{project}/webhooks",
            get(webhooks::list).post(webhooks::create),
        ),
        (
            "/v1/projects/{project}/webhooks:test",
            post(test_sends::unsaved),
        ),
        (
            "/v1/projects/{project}/webhooks/{name}",
            get(webhooks::show)
                .put(webhooks::put)
                .patch(webhooks::patch)
                .delete(webhooks::delete)
                // `{name}:activate` and the like.
                .post(states::act),
        ),
        (
            "/v1/projects/{project}/connectors",
            get(connectors::list).post(connectors::create),
        ),
        (
            "/v1/projects/{project}/connectors/{name}",
            get(connectors::show)
                .put(connectors::put)
                .patch(connectors::patch)
                .delete(connectors::delete),
        ),
        (
            "/v1/projects/{project}/event-types",
            get(event_types::list).post(event_types::create),
        ),
        (
            "/v1/projects/{project}/event-types:load",
            post(event_types::load),
        ),
        (
            "/v1/projects/{project}/event-types/{name}",
            get(event_types::show)
                .put(event_types::put)
                .patch(event_types::patch)
                .delete(event_types::delete),
        ),
        (
            "/v1/projects/{project}/jobs",
            get(jobs::list).post(jobs::create),
        ),
        (
            "/v1/projects/{project}/jobs/{id}",
            // `{id}:pause` and the like.
            get(jobs::show).post(jobs::act),
        ),
        (
            "/v1/projects/{project}/keys",
            get(keys::list).post(keys::create),
        ),
        (
            "/v1/projects/{project}/keys/{id}",
            get(keys::show)
                .patch(keys::patch)
                .delete(keys::delete)
                // `{id}:rotate`.
                .post(keys::act),
        ),
    ]
}

/// The routes as a router.
pub(crate) fn router() -> Router<Arc<Pages>> {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        })
}
