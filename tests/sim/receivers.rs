//! Receivers of webhooks, by script, and the requests that came to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookline_dispatch::transport::{Exchange, OutgoingRequest, Timings, Transport};
use hookline_model::outcome::{Answer, ErrorClass};
use hookline_model::time::Clock as _;

use super::clock::SimClock;
use super::world::{Life, Shared};

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Answers 200.
    Well,
    /// Answers 500 to the first so many attempts of each delivery.
    FailsFirst(u32),
    /// Answers this, always.
    Always(u16),
    /// Up and down in turn, so many milliseconds each; refuses connections while down.
    Flaps(i64),
    /// Never answers, as long as there is trouble.
    Hangs,
    /// 429 with `Retry-After` of so many seconds to the first attempt.
    AsksToWait(u32),
    /// Answers 410 to one delivery in so many.
    Gone(u64),
    /// Answers 503, as long as there is trouble.
    Down,
    /// Answers 500 to the first attempts, so many, of one request in so many.
    Stumbles { one_in: u64, times: u32 },
    /// Answers 200, after so many milliseconds.
    Slow(u64),
    /// Answers 413 to more than so many events.
    TakesAtMost(usize),
    /// Answers 422 to the first attempt of one request in so many.
    Objects(u64),
}

/// A request on the wire.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) life: Life,
    pub(crate) at: i64,
    pub(crate) webhook: String,
    pub(crate) id: String,
    pub(crate) attempt: u32,
    /// `hookline-lane` and `hookline-sequence`, where it has a place in an order.
    pub(crate) order: Option<(String, u64)>,
    pub(crate) body: Bytes,
    /// When it was answered, and how.
    pub(crate) answered: Option<(i64, Answer)>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Receivers {
    pub(crate) behaviours: BTreeMap<String, Behaviour>,
    pub(crate) requests: Vec<Request>,
    /// No more trouble but what lasts for ever.
    pub(crate) calm: bool,
}

/// The outside HTTP of one life.
pub(crate) struct SimTransport {
    pub(crate) world: Shared,
    pub(crate) life: Life,
    pub(crate) clock: Arc<SimClock>,
}

/// What will come of a request.
struct Fate {
    after: Duration,
    answer: Answer,
    retry_after: Option<Bytes>,
}

impl SimTransport {
    fn arrive(&self, request: &OutgoingRequest) -> (usize, Fate) {
        let header = |name: &str| {
            let value = request.headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let text = |name: &str| header(name).unwrap_or_else(|| panic!("every request has {name}"));
        let order = header("hookline-lane").map(|lane| {
            let sequence = text("hookline-sequence").parse().expect("a number");
            (lane, sequence)
        });
        let webhook = request
            .target
            .url()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let attempt: u32 = text("hookline-attempt").parse().expect("a number");
        let id = text("webhook-id");
        let at = self.clock.elapsed_ms();
        let mut world = self.world.lock();
        world.happened += 1;
        let behaviour = world.receivers.behaviours[&webhook];
        let latency = Duration::from_millis(world.random.u64(1..60));
        let calm = world.receivers.calm;
        let ok = Answer::Status(200);
        let mut fate = Fate {
            after: latency,
            answer: ok,
            retry_after: None,
        };
        match behaviour {
            Behaviour::Well => {}
            Behaviour::FailsFirst(n) => {
                if attempt <= n {
                    fate.answer = Answer::Status(500);
                }
            }
            Behaviour::Always(status) => fate.answer = Answer::Status(status),
            Behaviour::Flaps(span) => {
                if !calm && at / span % 2 == 1 {
                    fate.answer = Answer::Failed(ErrorClass::ConnRefused);
                    fate.after = Duration::ZERO;
                }
            }
            Behaviour::Hangs => {
                if !calm {
                    fate.answer = Answer::Failed(ErrorClass::Timeout);
                    fate.after = request.deadline;
                }
            }
            Behaviour::AsksToWait(seconds) => {
                if attempt == 1 {
                    fate.answer = Answer::Status(429);
                    fate.retry_after = Some(seconds.to_string().into());
                }
            }
            Behaviour::Gone(one_in) => {
                if one_of(&id, one_in) {
                    fate.answer = Answer::Status(410);
                }
            }
            Behaviour::Down => {
                if !calm {
                    fate.answer = Answer::Status(503);
                }
            }
            Behaviour::Stumbles { one_in, times } => {
                if attempt <= times && one_of(&id, one_in) {
                    fate.answer = Answer::Status(500);
                }
            }
            Behaviour::Slow(ms) => {
                if !calm {
                    fate.after += Duration::from_millis(ms);
                }
            }
            Behaviour::TakesAtMost(events) => {
                if count(&request.body) > events {
                    fate.answer = Answer::Status(413);
                }
            }
            Behaviour::Objects(one_in) => {
                if attempt == 1 && one_of(&id, one_in) {
                    fate.answer = Answer::Status(422);
                }
            }
        }
        let life = self.life;
        world.trace.line(
            at,
            format_args!("{life:?} -> {webhook} {id} {attempt} {order:?}"),
        );
        world.receivers.requests.push(Request {
            life,
            at,
            webhook,
            id,
            attempt,
            order,
            body: request.body.clone(),
            answered: None,
        });
        (world.receivers.requests.len() - 1, fate)
    }
}

/// Whether a request is that of so many.
fn one_of(id: &str, one_in: u64) -> bool {
    let sum: u64 = id.bytes().map(u64::from).sum();
    sum.is_multiple_of(one_in)
}

/// Events in a list, or in lines.
fn count(body: &[u8]) -> usize {
    match serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(body) {
        Ok(list) => list.len(),
        Err(_) => body.iter().filter(|byte| **byte == b'\n').count(),
    }
}

#[async_trait]
impl Transport for SimTransport {
    async fn exchange(&self, request: OutgoingRequest) -> Exchange {
        let started_at = self.clock.now();
        let begun = self.clock.elapsed_ms();
        let (index, fate) = self.arrive(&request);
        tokio::time::sleep(fate.after).await;
        let ended = self.clock.elapsed_ms();
        {
            let mut world = self.world.lock();
            world.happened += 1;
            world.receivers.requests[index].answered = Some((ended, fate.answer));
        }
        Exchange {
            started_at,
            duration: Duration::from_millis(u64::try_from(ended - begun).unwrap_or(0)),
            answer: fate.answer,
            detail: String::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            body_truncated: false,
            retry_after: fate.retry_after,
            timings: Timings::default(),
        }
    }
}
