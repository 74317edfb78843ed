//! One attempt: prepared → sent → judged. What the receiver does is a value; what follows from it is decided here, before anything is written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use hookline_model::core::lane::{Health, LaneKey, Start};
use hookline_model::core::partition::{After, Made};
use hookline_model::ids::{BatchId, DeliveryId, Position};
use hookline_model::outcome::{Answer, ErrorClass, Outcome};
use hookline_model::path::{self, Plan};
use hookline_model::policy::{self, Facts, Then, Verdict};
use hookline_model::resource::Secret;
use hookline_model::time::Millis;
use hookline_model::wire;
use hookline_registry::{ConnectorEntry, WebhookEntry};

use crate::metrics::Metrics;
use crate::payload::Payload;
use crate::request::{self, Draft, Order, Unbuilt};
use crate::transport::{self, Exchange, OutgoingRequest, Timings};
use crate::way_out::WayOut;

/// What goes out by one request: a send, or the sends of a batch.
#[derive(Clone)]
pub(crate) struct Unit {
    /// Where its first stands, which is what it goes by.
    pub(crate) position: Position,
    pub(crate) lane: LaneKey,
    /// It is a batch; of one, too.
    pub(crate) batch: bool,
    pub(crate) payload: Payload,
    /// The rest of the batch.
    pub(crate) others: Vec<(Position, Payload)>,
}

impl Unit {
    /// What [`hookline_model::core::partition::Partition::next`] has handed out.
    pub(crate) fn of(start: Start<Payload>, batch: bool) -> Self {
        let others = start.others.into_iter();
        Self {
            position: start.queued.position,
            lane: start.queued.lane,
            batch,
            payload: start.queued.payload,
            others: others
                .map(|other| (other.position, other.payload))
                .collect(),
        }
    }

    /// Where its sends stand.
    pub(crate) fn positions(&self) -> Vec<Position> {
        [self.position]
            .into_iter()
            .chain(self.others.iter().map(|(position, _)| *position))
            .collect()
    }

    fn payloads(&self) -> impl Iterator<Item = &Payload> {
        [&self.payload]
            .into_iter()
            .chain(self.others.iter().map(|(_, payload)| payload))
    }

    fn batch_id(&self) -> Option<BatchId> {
        self.batch
            .then(|| BatchId::derive(self.payloads().map(|payload| &*payload.send().delivery_id)))
    }

    /// Its retries wait at its place: it is in order, or would have to be put together again.
    fn stays(&self) -> bool {
        self.batch || self.lane.kind.is_ordered()
    }
}

/// What is to be attempted now.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) unit: Unit,
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
    /// The deliveries it was about, in order.
    pub(crate) payloads: Vec<Payload>,
}

impl Judged {
    fn new(unit: &Unit, attempt: wire::Attempt, outcome: Outcome, health: Health) -> Self {
        let after = after(&attempt);
        Self {
            position: unit.position,
            outcome,
            health,
            after,
            made: made(&attempt),
            encoded: crate::records::attempt(&attempt),
            follow: matches!(after, After::Follow(_)).then(|| {
                Box::new(Follow {
                    attempt,
                    payloads: unit.payloads().cloned().collect(),
                })
            }),
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
        let unit = &prepared.unit;
        let delivery = DeliveryId::from_slice(&unit.payload.send().delivery_id);
        let id = match unit.batch_id() {
            Some(batch) => batch.to_string(),
            None => delivery.unwrap_or(DeliveryId([0; 16])).to_string(),
        };
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
            order: Order::of(unit.lane, unit.position),
            test: false,
        };
        let events = unit
            .payloads()
            .map(|payload| (payload.event(), payload.accepted_at()));
        if unit.batch {
            draft.with_events(self.way.urls(), events)
        } else {
            let payload = &unit.payload;
            draft.with_event(self.way.urls(), payload.event(), payload.accepted_at())
        }
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
        let unit = &prepared.unit;
        let (outcome, next) = follow_up(&verdict, ended, unit);
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
            ..identity(unit, Some(&prepared.webhook))
        };
        Judged::new(unit, attempt, outcome, health)
    }
}

/// An outcome reached without an exchange.
pub(crate) fn without_exchange(
    unit: &Unit,
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
        ..identity(unit, webhook)
    };
    Judged::new(unit, attempt, outcome, Health::None)
}

fn identity(unit: &Unit, webhook: Option<&WebhookEntry>) -> wire::Attempt {
    let (event, send) = (unit.payload.event(), unit.payload.send());
    let others = unit.others.iter().map(|(position, payload)| {
        let (event, send) = (payload.event(), payload.send());
        wire::BatchMember {
            send: Some((*position).into()),
            delivery_id: send.delivery_id.clone(),
            run: send.run,
            webhook_epoch: send.webhook_epoch,
            event_source: event.source.clone(),
            event_id: event.id.clone(),
            event_type: event.r#type.clone(),
            event_key: event.key.clone(),
            contact: event.contact.clone(),
        }
    });
    let batch_id = unit.batch_id().map(|id| Bytes::copy_from_slice(&id.0));
    wire::Attempt {
        others: others.collect(),
        batch_id: batch_id.unwrap_or_default(),
        send: Some(unit.position.into()),
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
fn follow_up(verdict: &Verdict, ended: Millis, unit: &Unit) -> (Outcome, Option<wire::Next>) {
    use wire::next::{Dead, Hold, InPlace, Kind, Retry, Split};
    let next = |kind, deactivate| {
        Some(wire::Next {
            kind: Some(kind),
            deactivate,
        })
    };
    match verdict {
        Verdict::Delivered => (Outcome::Delivered, None),
        Verdict::Retry { delay } if unit.stays() => {
            let due_ms = ended.plus(round_up(*delay)).0;
            (
                Outcome::Failed,
                next(Kind::InPlace(InPlace { due_ms }), false),
            )
        }
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
            (Outcome::Failed, next(kind, false))
        }
        // Nobody waits behind what is in no order, and one event cannot be split: then it ends.
        Verdict::Final {
            then: Then::Hold, ..
        } if unit.lane.kind.is_ordered() => (Outcome::Failed, next(Kind::Hold(Hold {}), false)),
        Verdict::Final {
            then: Then::Split, ..
        } if !unit.others.is_empty() => (Outcome::Failed, next(Kind::Split(Split {}), false)),
        Verdict::Final { outcome, then } => {
            let deactivate = matches!(then, Then::Deactivate);
            (*outcome, next(Kind::Dead(Dead {}), deactivate))
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
        Some(wire::next::Kind::Hold(_)) => return After::Hold,
        Some(wire::next::Kind::Split(_)) => return After::Split,
        Some(wire::next::Kind::Retry(_)) => 1,
        Some(wire::next::Kind::Dead(_)) => {
            1 + u32::try_from(attempt.others.len()).unwrap_or(u32::MAX - 2)
        }
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
