//! `POST /v1/projects/{project}/events`: 202 only once the journal has every event.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hookline_ingest::{Fault, Prepared, PublishError, PublishRequest, Publisher, RequestError};
use hookline_journal::Journal;
use hookline_model::limits::PUBLISH_BODY_BYTES;
use hookline_model::resource::{FieldError, ProjectSpec};
use hookline_model::time::Clock;
use hookline_model::units::Rate;
use hookline_registry::Snapshot;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use super::caller::{Caller, Publish};
use super::request::read_body;
use super::{Api, Problem};
use crate::engine::System;
use crate::output::Chain;

/// How long a request waits for the journal's acknowledgement.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);
/// Errors told of one list: who has so many looks at one and sees the others.
const ERRORS_MAX: usize = 100;
/// Bytes of all requests that are waiting for the journal: what is above is asked to come again.
const BYTES_UNDER_WAY: usize = 64 * 1024 * 1024;

/// The way of events to the journal.
pub(super) struct Publishing {
    journal: Arc<dyn Journal>,
    prefix: String,
    clock: Arc<dyn Clock>,
    publisher: tokio::sync::Mutex<Option<Arc<Publisher>>>,
    room: Semaphore,
    limits: Mutex<HashMap<String, Limit>>,
}

/// What a project may publish through this process.
struct Limit {
    rate: Rate,
    limiter: Arc<DefaultDirectRateLimiter>,
}

impl Publishing {
    pub(super) fn new(system: &System) -> Self {
        Self {
            journal: system.journal(),
            prefix: system.config.journal.prefix.clone(),
            clock: Arc::clone(&system.clock),
            publisher: tokio::sync::Mutex::new(None),
            room: Semaphore::new(BYTES_UNDER_WAY),
            limits: Mutex::default(),
        }
    }

    async fn publisher(&self) -> Result<Arc<Publisher>, PublishError> {
        let mut slot = self.publisher.lock().await;
        if let Some(publisher) = &*slot {
            return Ok(Arc::clone(publisher));
        }
        let clock = Arc::clone(&self.clock);
        let publisher = Publisher::open(&self.journal, &self.prefix, clock).await?;
        Ok(Arc::clone(slot.insert(Arc::new(publisher))))
    }

    /// A publisher that has failed appends nothing more.
    async fn forget(&self, failed: &Arc<Publisher>) {
        let mut slot = self.publisher.lock().await;
        if slot.as_ref().is_some_and(|p| Arc::ptr_eq(p, failed)) {
            *slot = None;
        }
    }

    /// Appends all, in order, and waits until all are acknowledged.
    async fn publish(&self, events: Vec<Prepared>) -> Result<(), PublishError> {
        let publisher = self.publisher().await?;
        let done = async {
            let mut acks = Vec::with_capacity(events.len());
            for event in events {
                acks.push(publisher.publish(event).await?);
            }
            for ack in acks {
                ack.await?;
            }
            Ok(())
        };
        let done = done.await;
        if done.is_err() {
            self.forget(&publisher).await;
        }
        done
    }

    /// Takes `count` events off what the project may publish now.
    fn admit(&self, project: &ProjectSpec, count: usize) -> Result<(), Problem> {
        let Some(rate) = project.rate_limit else {
            return Ok(());
        };
        let limiter = self.limiter(project.id.as_str(), rate);
        let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
        let Some(count) = count else { return Ok(()) };
        let detail = format!("project {} may publish {rate}", project.id);
        match limiter.check_n(count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                Err(Problem::too_many(detail, wait))
            }
            Err(_) => Err(Problem::too_many(
                format!("{detail}; {count} events at once are more than that: send smaller lists"),
                rate.per(),
            )),
        }
    }

    fn limiter(&self, project: &str, rate: Rate) -> Arc<DefaultDirectRateLimiter> {
        let mut limits = self.limits.lock();
        if let Some(limit) = limits.get(project).filter(|limit| limit.rate == rate) {
            return Arc::clone(&limit.limiter);
        }
        let burst = NonZeroU32::new(rate.count()).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(rate.interval()).unwrap_or(Quota::per_second(burst));
        let limiter = Arc::new(RateLimiter::direct(quota.allow_burst(burst)));
        let limit = Limit {
            rate,
            limiter: Arc::clone(&limiter),
        };
        limits.insert(project.to_owned(), limit);
        limiter
    }
}

/// `POST …/events`.
pub(super) async fn publish(
    caller: Caller<Publish>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let api = Arc::clone(&caller.api);
    let project = &caller.project(&id)?.settings;
    let (parts, body) = request.into_parts();
    let bytes = read_body(body, PUBLISH_BODY_BYTES).await?;
    let read = read(&api, &parts.headers, &id, &bytes)?;
    described(&caller.snapshot, &id, &read.events, read.list)?;
    api.publishing.admit(project, read.events.len())?;
    let ids: Vec<_> = read.events.iter().map(|event| event.id.clone()).collect();
    let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let Ok(_room) = api.publishing.room.try_acquire_many(permits) else {
        return Err(Problem::unavailable(
            "too much is being published at the same time; send it again",
        ));
    };
    let published = api.publishing.publish(read.events);
    match tokio::time::timeout(ACKNOWLEDGED_WITHIN, published).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = %Chain(&error), "events were published that the journal did not take");
            return Err(not_known());
        }
        Err(_) => return Err(not_known()),
    }
    let body = match ids.as_slice() {
        [id] if !read.list => json!({"id": id, "ids": [id]}),
        ids => json!({"ids": ids}),
    };
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// Never a success for what may not be durable.
fn not_known() -> Problem {
    Problem::unavailable(
        "the journal did not acknowledge the events, which may be stored all the same; send them again with the same ids or the same `Idempotency-Key`, and each is one event",
    )
}

fn read(
    api: &Api,
    headers: &HeaderMap,
    project: &str,
    body: &Bytes,
) -> Result<hookline_ingest::ReadEvents, Problem> {
    let text = |name: &str| {
        let value = headers.get(name);
        let text = value.map(|value| value.to_str());
        let wrong = |_| Problem::parameter(name, "must be visible ASCII characters");
        text.transpose().map_err(wrong)
    };
    let attributes: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("ce-"))
        .map(|(name, value)| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            (name.as_str().to_owned(), value)
        })
        .collect();
    let request = PublishRequest {
        project,
        content_type: text(header::CONTENT_TYPE.as_str())?.unwrap_or_default(),
        attributes: &attributes,
        idempotency_key: text("idempotency-key")?,
        body,
    };
    request.read(api.clock.now()).map_err(refused)
}

/// The gravest fault decides what kind of answer it is; all of them are told.
fn refused(errors: Vec<RequestError>) -> Problem {
    let gravest = errors.iter().map(|error| error.fault).max();
    let fields: Vec<_> = errors
        .into_iter()
        .map(|error| FieldError::new(error.field, error.message))
        .collect();
    let detail = fields.first().map(ToString::to_string).unwrap_or_default();
    match gravest {
        Some(Fault::TooLarge) => Problem::too_large(detail).naming(fields),
        Some(Fault::MediaType) => Problem::media_type(detail).naming(fields),
        Some(Fault::Malformed) => Problem::malformed(detail).naming(fields),
        Some(Fault::Invalid) | None => Problem::invalid(fields),
    }
}

/// In a strict project, what the catalog does not describe is not taken.
fn described(
    snapshot: &Snapshot,
    project: &str,
    events: &[Prepared],
    list: bool,
) -> Result<(), Problem> {
    let mut errors = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let refusals = snapshot.refusals(project, &event.event_type, &event.data, event.json);
        errors.extend(refusals.into_iter().map(|error| match list {
            true => FieldError::new(format!("[{index}].{}", error.field), error.message),
            false => error,
        }));
        if errors.len() >= ERRORS_MAX {
            break;
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Problem::invalid(errors))
}
