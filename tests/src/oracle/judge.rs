//! Whether accepted events, requests and the log of attempts agree, and whether what came twice may have come twice.
//!
//! The rule about repeats, from the design's *exact bound*. The log says which claim recorded an attempt. Of the process that held this
//! claim there is exactly one request for it. Any other request for the same attempt must have been made under an earlier claim, which ended
//! because its process was killed, was frozen, or lost its partitions, after that claim and before the next; the counted record is younger
//! than this; and per process and fault there are at most `outgoing.max_in_flight` of them.

mod order;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use hookline_model::ids::{DeliveryId, Position};
use hookline_model::time::Millis;
use hookline_model::wire::Outcome;

use super::lives::{Fault, Kind, Life, Lives};
use super::log::{Attempt, Log};
use super::{Fate, Oracle, PROJECT, SOURCE, expected};
use crate::receiver::Received;

/// Violations that are told; the others are counted.
const TOLD: usize = 25;
/// What a dead process had handed to the system may take this long until the receiver has read it.
const LATE: Duration = Duration::from_secs(5);

/// What a run left behind.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What the receiver journaled.
    pub requests: &'a [Received],
    /// What the log says.
    pub log: &'a Log,
    /// What was done to whom.
    pub lives: &'a Lives,
    /// `outgoing.max_in_flight` of the run.
    pub max_in_flight: usize,
}

/// A request that came although its attempt was recorded by a later owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// The webhook, as the oracle counts them.
    pub hook: usize,
    /// The event.
    pub event: usize,
    /// The process that made the request which does not count, as [`Lives::all`] counts them.
    pub life: usize,
    /// What excuses it.
    pub fault: Fault,
    /// When that request arrived.
    pub arrived: Millis,
}

/// What came of judging a run.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Events accepted.
    pub accepted: usize,
    /// Deliveries that the log knows.
    pub deliveries: usize,
    /// Attempts that count.
    pub attempts: usize,
    /// Attempts and claims that count for nobody.
    pub uncounted: usize,
    /// Requests.
    pub requests: usize,
    /// Claims that took effect.
    pub claims: usize,
    /// Lanes of ordered webhooks that requests came in.
    pub lanes: usize,
    /// What came twice and may have.
    pub repeats: Vec<Repeat>,
    /// What may not be; the first of it.
    pub violations: Vec<String>,
    /// How much of that there is.
    pub violated: usize,
}

impl Verdict {
    /// Repeats that a kind of fault caused.
    #[must_use]
    pub fn repeats_of(&self, kind: Kind) -> usize {
        let repeats = self.repeats.iter();
        repeats.filter(|repeat| repeat.fault.kind == kind).count()
    }

    /// Asserts that nothing was found.
    ///
    /// # Panics
    /// When something was.
    #[track_caller]
    pub fn assert_kept(&self) {
        assert!(
            self.violated == 0,
            "{} violations; the first of them:\n  {}\n{}",
            self.violated,
            self.violations.join("\n  "),
            self.summary()
        );
    }

    /// In numbers.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} events accepted, {} deliveries, {} attempts counted and {} not, {} claims, {} requests, {} ordered lanes, {} repeats",
            self.accepted,
            self.deliveries,
            self.attempts,
            self.uncounted,
            self.claims,
            self.requests,
            self.lanes,
            self.repeats.len()
        )
    }

    fn violation(&mut self, what: String) {
        self.violated += 1;
        if self.violations.len() < TOLD {
            self.violations.push(what);
        }
    }
}

/// A delivery's attempts in order, and what it is of.
struct Delivery<'a> {
    event: usize,
    hook: usize,
    attempts: Vec<&'a Attempt>,
}

/// A request, and under which claim it was made.
struct Sent<'a> {
    request: &'a Received,
    hook: usize,
    event: usize,
    life: Option<usize>,
    epoch: u64,
}

struct Judge<'a> {
    oracle: &'a Oracle,
    evidence: Evidence<'a>,
    lives: Vec<Life>,
    faults: Vec<Vec<Fault>>,
    verdict: Verdict,
    deliveries: HashMap<(DeliveryId, u64), Delivery<'a>>,
    /// By event and webhook.
    made: HashMap<(usize, usize), DeliveryId>,
}

impl Oracle {
    /// Judges a run in which nothing is under way any more.
    ///
    /// # Panics
    /// When it checked nothing.
    #[must_use]
    pub fn judge(&self, evidence: Evidence<'_>) -> Verdict {
        let lives = evidence.lives.all();
        let everywhere = evidence.lives.everywhere();
        let faults = lives.iter().map(|life| {
            let mut faults = life.faults();
            faults.extend(&everywhere);
            faults
        });
        let mut judge = Judge {
            oracle: self,
            evidence,
            faults: faults.collect(),
            lives,
            verdict: Verdict {
                attempts: evidence.log.attempts.len(),
                uncounted: evidence.log.uncounted,
                requests: evidence.requests.len(),
                claims: evidence.log.claims.len(),
                ..Verdict::default()
            },
            deliveries: HashMap::new(),
            made: HashMap::new(),
        };
        judge.log();
        judge.dead();
        judge.obligations();
        judge.wire();
        judge.bounds();
        judge.order();
        let verdict = judge.verdict;
        assert!(
            verdict.accepted > 0 && verdict.deliveries > 0 && verdict.requests > 0,
            "a run that checked nothing: {}",
            verdict.summary()
        );
        verdict
    }
}

impl<'a> Judge<'a> {
    /// The log by itself: attempts count 1, 2, … without a gap, and end once.
    fn log(&mut self) {
        let log = self.evidence.log;
        for attempt in &log.attempts {
            let origin = (attempt.origin.0.as_str(), attempt.origin.1.as_str());
            let hooks = self.oracle.hooks.iter();
            let of = self
                .oracle
                .number_of_id(&attempt.event)
                .filter(|_| origin == (PROJECT, SOURCE))
                .zip(hooks.clone().position(|hook| hook.name == attempt.webhook));
            let Some((event, hook)) = of else {
                self.verdict
                    .violation(format!("an attempt for what nobody published: {attempt:?}"));
                continue;
            };
            let delivery = self
                .deliveries
                .entry((attempt.delivery, attempt.run))
                .or_insert_with(|| Delivery {
                    event,
                    hook,
                    attempts: Vec::new(),
                });
            delivery.attempts.push(attempt);
            let (of_delivery, of_attempt) = ((delivery.event, delivery.hook), (event, hook));
            let made = *self.made.entry(of_attempt).or_insert(attempt.delivery);
            if of_delivery != of_attempt || made != attempt.delivery {
                self.verdict.violation(format!(
                    "event {event} for webhook {} has two deliveries: {attempt:?}",
                    attempt.webhook
                ));
            }
        }
        let Self {
            deliveries,
            verdict,
            oracle,
            ..
        } = self;
        verdict.deliveries = deliveries.len();
        for delivery in deliveries.values() {
            if let Err(what) = numbered(delivery, oracle) {
                let hook = &oracle.hooks[delivery.hook].name;
                verdict.violation(format!(
                    "event {} for webhook {hook}: {what}: {:#?}",
                    delivery.event, delivery.attempts
                ));
            }
        }
    }

    /// What was given up is in `dead`, by the attempt that decided it, and nothing else is.
    fn dead(&mut self) {
        let mut dead: HashMap<DeliveryId, BTreeSet<(u32, Position)>> = HashMap::new();
        for entry in &self.evidence.log.dead {
            let tickets = dead.entry(entry.delivery).or_default();
            tickets.insert((entry.partition, entry.ticket));
        }
        for ((id, _), delivery) in &self.deliveries {
            let last = delivery.attempts.last().filter(|last| given_up(last));
            let decided = last.map(|last| (last.partition, last.ticket));
            let written = dead.remove(id).unwrap_or_default();
            if written != decided.into_iter().collect() {
                self.verdict.violation(format!(
                    "dead has {written:?} of {id}, which ended with {:?}",
                    delivery.attempts.last()
                ));
            }
        }
        if !dead.is_empty() {
            self.verdict
                .violation(format!("dead has what nobody delivered: {dead:?}"));
        }
    }

    /// Every accepted event has its deliveries; one that is perhaps there has all or none.
    fn obligations(&mut self) {
        let fates = self.oracle.fates.lock().clone();
        for (number, fate) in fates.iter().enumerate() {
            let event = self.oracle.event(number);
            let wanted = self.oracle.wanted(&event);
            let there = (0..self.oracle.hooks.len())
                .filter(|hook| self.made.contains_key(&(number, *hook)))
                .fold(0, |all: u32, hook| all | 1 << hook);
            if there & !wanted != 0 {
                self.verdict.violation(format!(
                    "event {number} was delivered to whom it does not match"
                ));
            }
            let must = *fate == Fate::Accepted || there != 0;
            self.verdict.accepted += usize::from(*fate == Fate::Accepted);
            if must && wanted & !there != 0 {
                let hooks = self.oracle.hooks.iter().enumerate();
                let lost: Vec<_> = hooks
                    .filter(|(n, _)| (wanted & !there) >> n & 1 == 1)
                    .map(|(_, hook)| hook.name.as_str())
                    .collect();
                self.verdict.violation(format!(
                    "event {number} ({fate:?}) is lost for {}",
                    lost.join(", ")
                ));
            }
        }
    }

    /// What was on the wire is in the log and the reverse, and came once unless something excuses it.
    fn wire(&mut self) {
        let mut by_attempt: BTreeMap<(DeliveryId, u32), Vec<Sent<'a>>> = BTreeMap::new();
        let ids: HashMap<String, DeliveryId> = self
            .deliveries
            .keys()
            .map(|(id, _)| (id.to_string(), *id))
            .collect();
        for request in self.evidence.requests {
            let (event, hook, number) = match expected(self.oracle, request) {
                Ok(expected) => expected,
                Err(what) => {
                    self.verdict
                        .violation(format!("a request that should not be: {what}: {request:?}"));
                    continue;
                }
            };
            let id = ids.get(request.webhook_id()).copied();
            let Some(id) = id.filter(|id| self.made.get(&(event, hook)) == Some(id)) else {
                self.verdict.violation(format!(
                    "a request whose webhook-id is not that of its delivery in the log: {request:?}"
                ));
                continue;
            };
            let Some(partition) = self
                .deliveries
                .get(&(id, 0))
                .and_then(|d| d.attempts.first())
                .map(|a| a.partition)
            else {
                continue;
            };
            match self.sent(request, partition, event, hook) {
                Ok(sent) => by_attempt.entry((id, number)).or_default().push(sent),
                Err(what) => self.verdict.violation(format!("{what}: {request:?}")),
            }
        }
        let recorded: Vec<&Attempt> = self.evidence.log.attempts.iter().collect();
        for attempt in recorded {
            let key = (attempt.delivery, attempt.number);
            let sent = if attempt.exchanged {
                by_attempt.remove(&key).unwrap_or_default()
            } else {
                continue;
            };
            self.attempt(attempt, sent);
        }
        for ((id, number), sent) in by_attempt {
            let requests: Vec<_> = sent.iter().map(|s| s.request).collect();
            self.verdict.violation(format!(
                "attempt {number} of {id} was on the wire and is not in the log: {requests:?}"
            ));
        }
    }

    /// Under which claim a request was made: the last one that its process had made in the partition by then.
    fn sent(
        &self,
        request: &'a Received,
        partition: u32,
        event: usize,
        hook: usize,
    ) -> Result<Sent<'a>, String> {
        let life = match request.header("hookline-worker") {
            None => None,
            Some(name) => {
                let found = self.lives.iter().position(|life| life.name == name);
                Some(found.ok_or_else(|| format!("a request of an unknown process {name}"))?)
            }
        };
        let claims = self.evidence.log.claims.iter();
        let epoch = claims
            .filter(|claim| claim.partition == partition && claim.at <= request.wall)
            .filter(|claim| life.is_none_or(|life| self.lives[life].is(&claim.worker)))
            .map(|claim| claim.epoch)
            .max()
            .ok_or("a request of a process that had never claimed the partition")?;
        Ok(Sent {
            request,
            hook,
            event,
            life,
            epoch,
        })
    }

    fn attempt(&mut self, attempt: &Attempt, sent: Vec<Sent<'a>>) {
        let (counted, others): (Vec<_>, Vec<_>) =
            sent.into_iter().partition(|s| s.epoch == attempt.epoch);
        let told = |sent: &[Sent<'_>]| {
            let requests: Vec<_> = sent.iter().map(|s| s.request).collect();
            format!("{attempt:?}; {requests:?}")
        };
        if attempt.status != 0
            && (counted.len() != 1 || counted[0].request.answered != attempt.status)
        {
            self.verdict.violation(format!(
                "of the owner that recorded it there must be exactly one request, answered so: {}",
                told(&counted)
            ));
        } else if counted.len() > 1 {
            self.verdict
                .violation(format!("one owner made it twice: {}", told(&counted)));
        }
        for sent in others {
            match self.excuse(attempt, &sent) {
                Some((life, fault)) => self.verdict.repeats.push(Repeat {
                    hook: sent.hook,
                    event: sent.event,
                    life,
                    fault,
                    arrived: sent.request.wall,
                }),
                None => self.verdict.violation(format!(
                    "a request repeats what another owner recorded, and nothing excuses it (made under claim {}): {attempt:?}; {:?}",
                    sent.epoch, sent.request
                )),
            }
        }
    }

    /// What ended the claim under which this request was made, if that was no orderly end.
    fn excuse(&self, attempt: &Attempt, sent: &Sent<'_>) -> Option<(usize, Fault)> {
        let claims = self.evidence.log.claims.iter();
        let mut claims = claims.filter(|claim| claim.partition == attempt.partition);
        let own = claims.clone().find(|claim| claim.epoch == sent.epoch)?;
        let next = claims.find(|claim| claim.epoch > sent.epoch)?;
        let life = sent
            .life
            .or_else(|| self.lives.iter().position(|life| life.is(&own.worker)))?;
        let arrived = sent.request.wall;
        let excuses = |fault: &&Fault| {
            let ended_it = own.at <= fault.to && next.at >= fault.from;
            let in_time = fault.kind == Kind::Frozen || arrived <= fault.to.plus(LATE);
            ended_it && in_time && attempt.at >= fault.from
        };
        // By an earlier claim only: who claims later knows what was recorded.
        let fault = self.faults[life].iter().find(excuses);
        fault
            .filter(|_| sent.epoch < attempt.epoch)
            .map(|fault| (life, *fault))
    }

    fn bounds(&mut self) {
        let mut counts: BTreeMap<(usize, Kind, Millis), usize> = BTreeMap::new();
        for repeat in &self.verdict.repeats {
            let key = (repeat.life, repeat.fault.kind, repeat.fault.from);
            *counts.entry(key).or_default() += 1;
        }
        for ((life, kind, at), count) in counts {
            if count > self.evidence.max_in_flight {
                self.verdict.violation(format!(
                    "{} repeats because {} was {kind:?} at {at}, but at most {} could be in flight",
                    count, self.lives[life].name, self.evidence.max_in_flight
                ));
            }
        }
    }
}

fn given_up(last: &Attempt) -> bool {
    matches!(
        last.outcome,
        Outcome::Exhausted | Outcome::Refused | Outcome::Expired
    )
}

/// Whether the attempts of a delivery are those that its webhook's policy asks for.
fn numbered(delivery: &Delivery<'_>, oracle: &Oracle) -> Result<(), &'static str> {
    let hook = &oracle.hooks[delivery.hook];
    let mut made = 0;
    for attempt in &delivery.attempts {
        made += u32::from(attempt.exchanged);
        if attempt.number != made {
            return Err("attempts do not count 1, 2, … in the log");
        }
    }
    let Some((last, before)) = delivery.attempts.split_last() else {
        return Err("there is no attempt");
    };
    if before.iter().any(|attempt| attempt.is_final()) {
        return Err("it went on after it was over");
    }
    if !last.is_final() || last.outcome == Outcome::Unspecified {
        return Err("it is not over");
    }
    let expected = hook.attempts_of(&last.delivery.to_string());
    if (made, last.outcome) != (expected, hook.ends) {
        return Err("its webhook's policy says otherwise");
    }
    Ok(())
}
