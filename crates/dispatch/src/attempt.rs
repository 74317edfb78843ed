//! One attempt: prepared → sent → judged. What the receiver does is a value; what follows from it is decided here, before anything is written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use hookline_model::core::lane::Health;
use hookline_model::core::partition::{After, Made};
use hookline_model::ids::{DeliveryId, Position};
use hookline_model::outcome::{Answer, ErrorClass, Outcome};
use hookline_model::path::{self, Plan};
use hookline_model::policy::{self, Facts, Then, Verdict};
use hookline_model::resource::Secret;
use hookline_model::time::Millis;
use hookline_model::wire;
use hookline_registry::{ConnectorEntry, WebhookEntry};

use crate::metrics::Metrics;
use crate::records::Payload;
use crate::request::{self, Draft, Unbuilt};
use crate::transport::{self, Exchange, OutgoingRequest, Timings};
use crate::way_out::WayOut;

/// A send that is to be attempted now.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) position: Position,
    pub(crate) payload: Payload,
    pub(crate) webhook: Arc<WebhookEntry>,
    /// Its connector, as it is now.
    pub(crate) connector: Option<Arc<ConnectorEntry>>,
    /// Attempts made before in this run.
    pub(crate) made: u32,
    /// When the first of them began; zero when there was none.
    pub(crate) first_try: Millis,
}

/// What came of it, ready to be recorded: encoded already, because that is work for many threads, and the owner of the partition is one.
pub(crate) struct Judged {
    pub(crate) position: Position,
    pub(crate) outcome: Outcome,
    pub(crate) health: Health,
    pub(crate) after: After,
    pub(crate) made: Made,
    /// The attempt as an element of [`wire::Attempts`].
    pub(crate) encoded: Vec<u8>,
    /// What is needed to write what follows; nothing where nothing does.
    pub(crate) follow: Option<Box<Follow>>,
}

/// An attempt from which something follows.
pub(crate) struct Follow {
    pub(crate) attempt: wire::Attempt,
    pub(crate) payload: Payload,
}

impl Judged {
    fn new(
        position: Position,
        payload: Payload,
        attempt: wire::Attempt,
        outcome: Outcome,
        health: Health,
    ) -> Self {
        let after = after(&attempt);
        Self {
            position,
            outcome,
            health,
            after,
            made: made(&attempt),
            encoded: crate::records::attempt(&attempt),
            follow: matches!(after, After::Follow(_))
                .then(|| Box::new(Follow { attempt, payload })),
        }
    }
}

/// What attempts are made with.
pub(crate) struct Maker {
    pub(crate) way: WayOut,
}

impl Maker {
    /// Makes the attempt and judges it.
    pub(crate) async fn attempt(&self, prepared: Prepared, metrics: &Metrics) -> Judged {
        let number = prepared.made.saturating_add(1);
        let sent = self.way.send(
            &prepared.webhook.settings,
            prepared.connector.as_deref(),
            |token| self.request(&prepared, number, token),
        );
        let (exchange, request) = match sent.await {
            Ok((exchange, shown)) => {
                metrics.duration.observe(exchange.duration.as_secs_f64());
                (exchange, shown)
            }
            Err((class, detail)) => (
                failed(self.way.clock().now(), class, detail),
                wire::Request::default(),
            ),
        };
        self.judge(prepared, number, exchange, request)
    }

    fn request(
        &self,
        prepared: &Prepared,
        number: u32,
        token: Option<&Secret>,
    ) -> Result<(OutgoingRequest, wire::Request), Unbuilt> {
        let payload = &prepared.payload;
        let id = DeliveryId::from_slice(&payload.send().delivery_id)
            .unwrap_or(DeliveryId([0; 16]))
            .to_string();
        let now = self.way.clock().now();
        let keys = prepared.webhook.signing_keys(now);
        let draft = Draft {
            settings: &prepared.webhook.settings,
            id: &id,
            attempt: number,
            now,
            keys: &keys.map_err(|e| request::invalid(e.to_string()))?,
            connector: prepared.connector.as_deref(),
            token,
            test: false,
        };
        draft.with_event(self.way.urls(), payload.event(), payload.accepted_at())
    }

    fn judge(
        &self,
        prepared: Prepared,
        number: u32,
        exchange: Exchange,
        request: wire::Request,
    ) -> Judged {
        let policy = &prepared.webhook.settings.retry;
        let first_try = if prepared.first_try == Millis(0) {
            exchange.started_at
        } else {
            prepared.first_try
        };
        let ended = exchange.started_at.plus(exchange.duration);
        let retry_after = exchange
            .retry_after
            .as_deref()
            .and_then(|header| policy::parse_retry_after(header, ended));
        let facts = Facts {
            attempt: number,
            first_try,
            ended,
            answer: exchange.answer,
            retry_after,
            draw: fastrand::f64(),
        };
        let verdict = policy::decide(policy, &facts);
        let (outcome, next) = follow_up(&verdict, ended);
        let health = match exchange.answer {
            Answer::Status(status) if status < 500 && status != 429 => Health::Good,
            _ => Health::Bad,
        };
        let (status, class) = match exchange.answer {
            Answer::Status(status) if outcome == Outcome::Delivered => (status, ""),
            Answer::Status(status) if (300..400).contains(&status) => {
                (status, ErrorClass::Redirect.as_str())
            }
            Answer::Status(status) => (status, ErrorClass::Status.as_str()),
            Answer::Failed(class) => (0, class.as_str()),
        };
        let response = (status != 0).then(|| wire::Response {
            headers: exchange
                .headers
                .into_iter()
                .filter(|(name, _)| transport::kept(name))
                .map(|(name, value)| wire::Header { name, value })
                .collect(),
            body: exchange.body,
            body_truncated: exchange.body_truncated,
        });
        let attempt = wire::Attempt {
            attempt: number,
            outcome: wire::Outcome::from(outcome).into(),
            status: u32::from(status),
            error_class: class.to_owned(),
            error_detail: exchange.detail,
            started_at_ms: exchange.started_at.0,
            duration_ms: u32::try_from(exchange.duration.as_millis()).unwrap_or(u32::MAX),
            first_try_ms: first_try.0,
            request: Some(request),
            response,
            next,
            ..identity(
                prepared.position,
                &prepared.payload,
                Some(&prepared.webhook),
            )
        };
        Judged::new(
            prepared.position,
            prepared.payload,
            attempt,
            outcome,
            health,
        )
    }
}

/// An outcome reached without an exchange.
pub(crate) fn without_exchange(
    position: Position,
    payload: Payload,
    webhook: Option<&WebhookEntry>,
    outcome: Outcome,
    made: Made,
    now: Millis,
    why: &str,
) -> Judged {
    // Cancelled is the only final outcome that does not go to `dead`: nobody wants it any more.
    let next = (outcome != Outcome::Cancelled).then_some(wire::Next {
        kind: Some(wire::next::Kind::Dead(wire::next::Dead {})),
        deactivate: false,
    });
    let attempt = wire::Attempt {
        attempt: made.attempts,
        outcome: wire::Outcome::from(outcome).into(),
        error_detail: why.to_owned(),
        started_at_ms: now.0,
        first_try_ms: made.first_try.0,
        next,
        ..identity(position, &payload, webhook)
    };
    Judged::new(position, payload, attempt, outcome, Health::None)
}

fn identity(
    position: Position,
    payload: &Payload,
    webhook: Option<&WebhookEntry>,
) -> wire::Attempt {
    let (event, send) = (payload.event(), payload.send());
    wire::Attempt {
        send: Some(position.into()),
        delivery_id: send.delivery_id.clone(),
        run: send.run,
        project: event.project.clone(),
        webhook_uid: send.webhook_uid.clone(),
        webhook: webhook.map_or_else(String::new, |w| w.name.to_string()),
        webhook_epoch: send.webhook_epoch,
        event_source: event.source.clone(),
        event_id: event.id.clone(),
        event_type: event.r#type.clone(),
        event_key: event.key.clone(),
        contact: event.contact.clone(),
        ..wire::Attempt::default()
    }
}

/// Outcome and consequences of a verdict.
fn follow_up(verdict: &Verdict, ended: Millis) -> (Outcome, Option<wire::Next>) {
    use wire::next::{Dead, InPlace, Kind, Retry};
    match verdict {
        Verdict::Delivered => (Outcome::Delivered, None),
        Verdict::Retry { delay } => {
            let kind = match path::plan(*delay) {
                Plan::InPlace(wait) => Kind::InPlace(InPlace {
                    due_ms: ended.plus(round_up(wait)).0,
                }),
                Plan::Tiers(path) => Kind::Retry(Retry {
                    due_ms: ended.plus(path.total_wait()).0,
                    path_ms: path.to_wire(),
                }),
            };
            (
                Outcome::Failed,
                Some(wire::Next {
                    kind: Some(kind),
                    deactivate: false,
                }),
            )
        }
        Verdict::Final { outcome, then } => {
            let deactivate = matches!(then, Then::Deactivate);
            (
                *outcome,
                Some(wire::Next {
                    kind: Some(Kind::Dead(Dead {})),
                    deactivate,
                }),
            )
        }
    }
}

/// Whole milliseconds, never less: a retry is never early.
fn round_up(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// What a recorded attempt leads to. The same for its maker and for a new owner that finds the record.
pub(crate) fn after(attempt: &wire::Attempt) -> After {
    let Some(next) = &attempt.next else {
        return After::Settled;
    };
    let records = match &next.kind {
        Some(wire::next::Kind::InPlace(wait)) => return After::InPlace(Millis(wait.due_ms)),
        Some(wire::next::Kind::Retry(_) | wire::next::Kind::Dead(_)) => 1,
        None => 0,
    };
    After::Follow(records + u32::from(next.deactivate))
}

/// What a recorded attempt says of its run.
pub(crate) fn made(attempt: &wire::Attempt) -> Made {
    Made {
        attempts: attempt.attempt,
        first_try: Millis(attempt.first_try_ms),
    }
}

/// An exchange that did not come about.
pub(crate) fn failed(now: Millis, class: ErrorClass, detail: String) -> Exchange {
    Exchange {
        started_at: now,
        duration: Duration::ZERO,
        answer: Answer::Failed(class),
        detail,
        headers: Vec::new(),
        body: Bytes::new(),
        body_truncated: false,
        retry_after: None,
        timings: Timings::default(),
    }
}

/// Makes the attempt; a panic on the way fails this attempt alone and is counted.
pub(crate) async fn make(maker: &Maker, metrics: &Metrics, prepared: Prepared) -> Judged {
    let _under_way = UnderWay::begin(metrics);
    let again = prepared.clone();
    let made = std::panic::AssertUnwindSafe(maker.attempt(prepared, metrics))
        .catch_unwind()
        .await;
    made.unwrap_or_else(|_| {
        metrics.panics.inc();
        let number = again.made.saturating_add(1);
        let exchange = failed(
            maker.way.clock().now(),
            ErrorClass::Internal,
            "hookline failed while making this attempt".into(),
        );
        maker.judge(again, number, exchange, wire::Request::default())
    })
}

struct UnderWay(prometheus::IntGauge);

impl UnderWay {
    fn begin(metrics: &Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.in_flight.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}
