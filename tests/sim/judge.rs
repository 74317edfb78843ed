//! Whether a run kept the promises, by what stands in the topics and what was seen on the wire. Whatever it finds, it says in a sentence.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hookline_journal::StoredRecord;
use hookline_model::core::claims::{ClaimReader, Counted, LogEntry};
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::outcome::{Answer, Outcome};
use hookline_model::resource::{StoredWebhook, Webhook};
use hookline_model::topics::Topic;
use hookline_model::wire::{self, header};
use prost::Message as _;

use super::plan::{Fault, Mix, WRONG_BY};
use super::process::PREFIX;
use super::receivers::Request;
use super::run::{Ended, Published};
use super::world::{Life, World};

/// What a run provoked, so that nobody believes in a run that provoked nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) repeats: u64,
    pub(crate) deliveries: u64,
    pub(crate) cancelled: u64,
    pub(crate) dead: u64,
    pub(crate) claims: u64,
    /// Records of attempts that counted for nobody.
    pub(crate) strays: u64,
    /// Sends on `deliveries` that were dropped as repeats.
    pub(crate) dropped: u64,
    pub(crate) faults: u64,
    pub(crate) lives: u64,
    pub(crate) writes: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.repeats += other.repeats;
        self.deliveries += other.deliveries;
        self.cancelled += other.cancelled;
        self.dead += other.dead;
        self.claims += other.claims;
        self.strays += other.strays;
        self.dropped += other.dropped;
        self.faults += other.faults;
        self.lives += other.lives;
        self.writes += other.writes;
    }
}

/// An attempt that counted.
struct Attempt {
    stored_at: i64,
    ticket: wire::Position,
    partition: u32,
    said: wire::Attempt,
}

impl Attempt {
    fn outcome(&self) -> Outcome {
        Outcome::from_wire(self.said.outcome()).expect("a known outcome")
    }

    /// Whether there was a request, or would have been.
    fn exchanged(&self) -> bool {
        self.said.request.is_some()
    }
}

type Id = String;

struct Case<'a> {
    ended: &'a Ended,
    world: &'a World,
    /// By delivery, in the order of the log.
    attempts: BTreeMap<Id, Vec<Attempt>>,
    /// What fan-out wrote, without its own repeats.
    fanned_out: BTreeMap<Id, WebhookUid>,
    webhooks: BTreeMap<WebhookUid, Webhook>,
    /// By partition: when claims took effect.
    claims: BTreeMap<u32, Vec<i64>>,
    figures: Figures,
}

/// Judges the run.
///
/// # Errors
/// The first promise that was broken.
pub(crate) fn judge(ended: &Ended) -> Result<Figures, String> {
    let world = &*ended.world.lock();
    let mut case = Case {
        ended,
        world,
        attempts: BTreeMap::new(),
        fanned_out: BTreeMap::new(),
        webhooks: BTreeMap::new(),
        claims: BTreeMap::new(),
        figures: Figures {
            faults: ended.done.len() as u64,
            lives: u64::from(ended.lives),
            ..Figures::default()
        },
    };
    case.read();
    case.every_delivery_ends_once()?;
    case.everybody_gets_everything()?;
    case.the_wire_is_in_the_log()?;
    case.nothing_is_repeated_without_a_reason()?;
    case.nothing_is_early()?;
    case.the_dead_are_kept()?;
    case.what_cannot_be_used_is_rejected()?;
    case.acknowledged_writes_stand()?;
    Ok(case.figures)
}

impl Case<'_> {
    fn world(&self) -> &World {
        self.world
    }

    fn records(&self, topic: Topic) -> Vec<(u32, Vec<(i64, StoredRecord)>)> {
        let name = topic.name(PREFIX);
        let logs = self.world().logs.iter().filter(|(at, _)| at.topic == name);
        logs.map(|(at, log)| (at.partition, log.ever.clone()))
            .collect()
    }

    fn read(&mut self) {
        for (partition, records) in self.records(Topic::Attempts) {
            let mut claims = ClaimReader::new(0);
            for (stored_at, record) in records {
                match claims.read(entry(&record)) {
                    Counted::Claimed { .. } => {
                        self.figures.claims += 1;
                        self.claims.entry(partition).or_default().push(stored_at);
                    }
                    Counted::Nothing => self.figures.strays += 1,
                    Counted::Written(attempts) => {
                        for (index, said) in (0..).zip(attempts.attempts) {
                            let ticket = wire::Position {
                                offset: record.offset,
                                index,
                            };
                            let attempt = Attempt {
                                stored_at,
                                ticket,
                                partition,
                                said,
                            };
                            self.attempts
                                .entry(id(&attempt.said.delivery_id))
                                .or_default()
                                .push(attempt);
                        }
                    }
                }
            }
        }
        for (_, records) in self.records(Topic::Deliveries) {
            // What a partition takes: of each stream only what lies above everything before. A fan-out that goes back may decide otherwise than before, by a
            // newer registry; the first decision stands.
            let mut highest: BTreeMap<u32, (u64, Bytes)> = BTreeMap::new();
            for (_, record) in records {
                let deliveries =
                    wire::Deliveries::decode(record.value.unwrap_or_default()).expect("ours");
                let Some(wire::source::Stream::Events(from)) =
                    deliveries.source.and_then(|s| s.stream)
                else {
                    continue;
                };
                for send in &deliveries.sends {
                    let place = (from.offset, send.webhook_uid.clone());
                    if highest
                        .get(&from.partition)
                        .is_some_and(|highest| place <= *highest)
                    {
                        self.figures.dropped += 1;
                        continue;
                    }
                    highest.insert(from.partition, place);
                    let uid = WebhookUid::from_slice(&send.webhook_uid).expect("a uid");
                    self.fanned_out.insert(id(&send.delivery_id), uid);
                }
            }
        }
        for (_, records) in self.records(Topic::Registry) {
            for (_, record) in records {
                let Some(record) =
                    registry_record(&record).filter(|r| r.kind == "webhook" && !r.body.is_empty())
                else {
                    continue;
                };
                let stored: StoredWebhook = serde_json::from_slice(&record.body).expect("ours");
                self.webhooks.insert(stored.uid, stored.settings);
            }
        }
        self.figures.requests = self.world().receivers.requests.len() as u64;
        self.figures.deliveries = self.fanned_out.len() as u64;
        self.figures.writes = self.world().writes.len() as u64;
    }

    /// Every delivery that was fanned out has exactly one final outcome, attempts are numbered 1, 2, … without a gap, and nothing comes behind the end.
    fn every_delivery_ends_once(&mut self) -> Result<(), String> {
        for (id, uid) in &self.fanned_out {
            let none = Vec::new();
            let attempts = self.attempts.get(id).unwrap_or(&none);
            let story = || {
                attempts
                    .iter()
                    .map(|a| format!("{}:{}", a.said.attempt, a.outcome()))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let finals = attempts.iter().filter(|a| a.outcome().is_final()).count();
            if finals != 1 {
                let places = self.places(id);
                return Err(format!(
                    "delivery {id} of {uid}, written at {places}, has {finals} final outcomes: {}",
                    story()
                ));
            }
            let mut made = 0;
            for (index, attempt) in attempts.iter().enumerate() {
                let expected = if attempt.exchanged() { made + 1 } else { made };
                if attempt.said.attempt != expected {
                    return Err(format!(
                        "delivery {id}: attempt {} where {expected} comes: {}",
                        attempt.said.attempt,
                        story()
                    ));
                }
                made = expected;
                if attempt.outcome().is_final() && index + 1 != attempts.len() {
                    return Err(format!(
                        "delivery {id}: something comes behind its end: {}",
                        story()
                    ));
                }
            }
            let last = attempts.last().map(Attempt::outcome);
            self.figures.cancelled += u64::from(last == Some(Outcome::Cancelled));
            self.figures.dead += u64::from(last.is_some_and(Outcome::is_dead));
        }
        match self
            .attempts
            .keys()
            .find(|id| !self.fanned_out.contains_key(*id))
        {
            Some(id) => Err(format!(
                "delivery {id} was attempted, and nobody fanned it out"
            )),
            None => Ok(()),
        }
    }

    /// Where a delivery stands in `deliveries`: partition, offset, index, when it came, and where it came from.
    fn places(&self, wanted: &str) -> String {
        let mut places = Vec::new();
        for (partition, records) in self.records(Topic::Deliveries) {
            for (at, record) in records {
                let deliveries =
                    wire::Deliveries::decode(record.value.unwrap_or_default()).expect("ours");
                let stream = deliveries.source.and_then(|source| source.stream);
                for (index, _) in deliveries
                    .sends
                    .iter()
                    .enumerate()
                    .filter(|(_, send)| id(&send.delivery_id) == wanted)
                {
                    places.push(format!(
                        "[{partition}] {}.{index} at {at} from {stream:?}",
                        record.offset
                    ));
                }
            }
        }
        places.join(", ")
    }

    /// Every event that was accepted reaches every steady webhook that asked for it.
    fn everybody_gets_everything(&self) -> Result<(), String> {
        let steady: BTreeSet<&str> = self
            .ended
            .plan
            .hooks
            .iter()
            .filter(|h| h.steady)
            .map(|h| h.name.as_str())
            .collect();
        for published in self.first_of_each() {
            let event = &published.event;
            for (uid, webhook) in self
                .webhooks
                .iter()
                .filter(|(_, w)| steady.contains(w.name.as_str()) && w.subscribes(event.kind))
            {
                let id = DeliveryId::derive(event.project, "/sim", &event.id, *uid).to_string();
                let Some(attempts) = self.attempts.get(&id) else {
                    return Err(format!(
                        "event {} at {}[{}] was never fanned out to {}",
                        event.id, published.partition, published.offset, webhook.name
                    ));
                };
                if !attempts.iter().any(|a| a.outcome() == Outcome::Delivered) {
                    continue;
                }
                let body = format!("{{\"type\":\"{}\",\"timestamp\":\"", event.kind);
                let data = format!(",\"data\":{}}}", event.data);
                let taken = self
                    .requests_of(&id)
                    .find(|r| matches!(r.answered, Some((_, Answer::Status(200)))));
                let text = taken.map(|r| String::from_utf8_lossy(&r.body).into_owned());
                if !text
                    .as_ref()
                    .is_some_and(|text| text.starts_with(&body) && text.ends_with(&data))
                {
                    return Err(format!(
                        "event {} counts as delivered to {}, which took {text:?}",
                        event.id, webhook.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Of each identity, in each partition, the first.
    fn first_of_each(&self) -> impl Iterator<Item = &Published> {
        let mut seen = BTreeSet::new();
        self.ended.published.iter().filter(move |published| {
            let event = &published.event;
            !event.garbage && event.project != "nobody" && seen.insert(event.id.clone())
        })
    }

    fn requests_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Request> {
        self.world()
            .receivers
            .requests
            .iter()
            .filter(move |request| request.id == id)
    }

    /// What counts was on the wire, and what was on the wire belongs to a delivery.
    fn the_wire_is_in_the_log(&self) -> Result<(), String> {
        let wire: BTreeSet<(&str, u32)> = self
            .world()
            .receivers
            .requests
            .iter()
            .map(|r| (r.id.as_str(), r.attempt))
            .collect();
        for (id, attempts) in &self.attempts {
            for attempt in attempts.iter().filter(|a| a.exchanged()) {
                if !wire.contains(&(id.as_str(), attempt.said.attempt)) {
                    return Err(format!(
                        "attempt {} of {id} is in the log, but was never on the wire",
                        attempt.said.attempt
                    ));
                }
            }
        }
        match wire
            .iter()
            .find(|(id, _)| !self.fanned_out.contains_key(*id))
        {
            Some((id, _)) => Err(format!("a request of {id}, which nobody fanned out")),
            None => Ok(()),
        }
    }

    /// Design section 5, exactly: an attempt is on the wire a second time only if nothing was recorded of the first when it began, and a claim stands between
    /// the two. An attempt n + 1 begins only after a recorded failure n. As many repeats as one worker may have in flight come of one claim at most; and
    /// none at all where nobody was harmed.
    fn nothing_is_repeated_without_a_reason(&mut self) -> Result<(), String> {
        let mut by_claim: BTreeMap<(Life, u32, i64), u64> = BTreeMap::new();
        let mut before: BTreeMap<(&str, u32), &Request> = BTreeMap::new();
        let mut requests: Vec<&Request> = self.world.receivers.requests.iter().collect();
        requests.sort_by_key(|request| request.at);
        for request in requests {
            let Request {
                id,
                attempt,
                life,
                at,
                ..
            } = request;
            let zombie = self.zombie(*life, *at);
            let none = Vec::new();
            let known = self.attempts.get(id).unwrap_or(&none);
            if let Some(recorded) = known
                .iter()
                .find(|a| a.said.attempt == *attempt && a.stored_at < *at && !zombie)
            {
                return Err(format!(
                    "attempt {attempt} of {id} went out at {at} by {life:?}, although its outcome stood in the log since {}",
                    recorded.stored_at
                ));
            }
            let failed_before = |a: &Attempt| {
                a.said.attempt + 1 == *attempt
                    && a.outcome() == Outcome::Failed
                    && a.stored_at <= *at
            };
            if *attempt > 1 && !zombie && !known.iter().any(failed_before) {
                return Err(format!(
                    "attempt {attempt} of {id} went out at {at} without a recorded failure of the one before"
                ));
            }
            if let Some(last) = before.insert((id, *attempt), request) {
                self.figures.repeats += 1;
                let partition = known.first().map_or(0, |a| a.partition);
                let claim = self.claims.get(&partition).and_then(|claims| {
                    claims.iter().find(|claim| (last.at..=*at).contains(*claim))
                });
                let stray = zombie || self.zombie(last.life, last.at);
                let Some(claim) = claim.copied().or_else(|| stray.then_some(last.at)) else {
                    return Err(format!(
                        "attempt {attempt} of {id} went out at {} by {:?} and again at {at} by {life:?}, and nobody had claimed the partition in between",
                        last.at, last.life
                    ));
                };
                *by_claim.entry((last.life, partition, claim)).or_default() += 1;
            }
        }
        if matches!(self.ended.plan.mix, Mix::None | Mix::Graceful) && self.figures.repeats > 0 {
            return Err(format!(
                "{} repeats, although nobody was harmed",
                self.figures.repeats
            ));
        }
        let bound = self.ended.plan.setup.max_in_flight as u64;
        match by_claim.iter().find(|(_, count)| **count > bound) {
            Some(((life, partition, at), count)) => Err(format!(
                "{count} repeats of what {life:?} had sent before partition {partition} was claimed at {at}, at most {bound} may be"
            )),
            None => Ok(()),
        }
    }

    /// Whether the life may start something that is not its own any more: it stood still between looking at its lease and the socket. After a group has
    /// forgotten a member, two may for a while believe in their leases; what they write still counts for one of them alone.
    fn zombie(&self, life: Life, at: i64) -> bool {
        self.ended.done.iter().any(|done| match done.fault {
            Fault::Freeze { .. } => done.life == life && done.to <= at && at <= done.to + 1,
            Fault::Forget { .. } => done.from <= at && at <= done.from + 8_000,
            _ => false,
        })
    }

    /// Attempt n + 1 begins no earlier after the end of n than the policy says; clocks that are wrong may take their error off.
    fn nothing_is_early(&self) -> Result<(), String> {
        let slack = if self.ended.plan.mix == Mix::Clocks {
            2 * WRONG_BY * 12
        } else {
            1
        };
        for (id, attempts) in &self.attempts {
            let Some(webhook) = self
                .fanned_out
                .get(id)
                .and_then(|uid| self.webhooks.get(uid))
            else {
                continue;
            };
            for pair in attempts.windows(2).filter(|pair| pair[1].exchanged()) {
                let n = pair[0].said.attempt;
                let Some(wait) = webhook.retry.wait_after(n) else {
                    continue;
                };
                let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                let ended = self
                    .requests_of(id)
                    .filter(|r| r.attempt == n)
                    .filter_map(|r| r.answered)
                    .map(|(at, _)| at)
                    .min();
                let began = self
                    .requests_of(id)
                    .filter(|r| r.attempt == n + 1)
                    .map(|r| r.at)
                    .min();
                if let Some((ended, began)) = ended.zip(began)
                    && began + slack < ended + wait
                {
                    return Err(format!(
                        "attempt {} of {id} began {} ms after the end of {n}, {wait} were to pass",
                        n + 1,
                        began - ended
                    ));
                }
            }
        }
        Ok(())
    }

    /// What ended without success stands in `dead`, and nothing else does.
    fn the_dead_are_kept(&self) -> Result<(), String> {
        let mut kept: BTreeSet<(u32, u64, u32)> = BTreeSet::new();
        for (partition, records) in self.records(Topic::Dead) {
            for (_, record) in records {
                let dead =
                    wire::DeadDelivery::decode(record.value.unwrap_or_default()).expect("ours");
                let ticket = dead.ticket.expect("a ticket");
                kept.insert((partition, ticket.offset, ticket.index));
            }
        }
        let ended = self
            .attempts
            .values()
            .flatten()
            .filter(|a| a.outcome().is_dead());
        let wanted: BTreeSet<_> = ended
            .map(|a| (a.partition, a.ticket.offset, a.ticket.index))
            .collect();
        match kept.symmetric_difference(&wanted).next() {
            Some(ticket) => Err(format!(
                "`dead` and the log disagree on the attempt at {ticket:?}"
            )),
            None => Ok(()),
        }
    }

    fn what_cannot_be_used_is_rejected(&self) -> Result<(), String> {
        let mut rejected: BTreeSet<(u32, u64)> = BTreeSet::new();
        for (_, records) in self.records(Topic::Rejected) {
            for (_, record) in records {
                let record =
                    wire::Rejected::decode(record.value.unwrap_or_default()).expect("ours");
                if record.topic != Topic::Events.name(PREFIX) {
                    return Err(format!(
                        "a record of {} was rejected: {} {}",
                        record.topic, record.reason, record.detail
                    ));
                }
                rejected.insert((record.partition, record.offset));
            }
        }
        let bad = self
            .ended
            .published
            .iter()
            .filter(|p| p.event.garbage || p.event.project == "nobody");
        let wanted: BTreeSet<_> = bad.map(|p| (p.partition, p.offset)).collect();
        match rejected.symmetric_difference(&wanted).next() {
            Some(at) => Err(format!("`rejected` is wrong about the event at {at:?}")),
            None => Ok(()),
        }
    }

    /// A write that was acknowledged won its version, and nobody else did.
    fn acknowledged_writes_stand(&self) -> Result<(), String> {
        let mut winners: BTreeMap<(String, u64), wire::RegistryRecord> = BTreeMap::new();
        for (_, records) in self.records(Topic::Registry) {
            for record in records
                .iter()
                .filter_map(|(_, record)| registry_record(record))
                .filter(|r| r.kind == "webhook")
            {
                winners
                    .entry((record.name.clone(), record.version))
                    .or_insert(record);
            }
        }
        let mut told = BTreeSet::new();
        for write in &self.world().writes {
            if !told.insert((write.name.clone(), write.version)) {
                return Err(format!(
                    "two were told that they wrote version {} of {}",
                    write.version, write.name
                ));
            }
            let winner = winners.get(&(write.name.clone(), write.version));
            let stands = winner
                .map(|winner| String::from_utf8_lossy(&winner.body).into_owned())
                .unwrap_or_default();
            if let Some(title) = &write.title
                && !stands.contains(&format!("\"title\":\"{title}\""))
            {
                return Err(format!(
                    "{write:?} was acknowledged, but there stands {stands}"
                ));
            }
        }
        Ok(())
    }
}

fn id(bytes: &[u8]) -> Id {
    DeliveryId::from_slice(bytes).expect("16 bytes").to_string()
}

fn registry_record(record: &StoredRecord) -> Option<wire::RegistryRecord> {
    wire::RegistryRecord::decode(record.value.clone()?).ok()
}

fn entry(record: &StoredRecord) -> LogEntry<wire::Attempts> {
    let value = record.value.clone().unwrap_or_default();
    match record.header(header::KIND).map(Bytes::as_ref) {
        Some(kind) if kind == header::KIND_CLAIM.as_bytes() => {
            let claim = wire::Claim::decode(value).expect("ours");
            LogEntry::Claim {
                epoch: claim.epoch,
                nonce: claim.nonce.to_vec(),
            }
        }
        _ => {
            let body = wire::Attempts::decode(value).expect("ours");
            LogEntry::Written {
                epoch: body.epoch,
                sequence: body.sequence,
                body,
            }
        }
    }
}
