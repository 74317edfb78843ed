//! Whether a run kept the promises, by what stands in the topics and what was seen on the wire. Whatever it finds, it says in a sentence.

mod order;
mod requests;

use std::collections::{BTreeMap, BTreeSet};

use hookline_journal::StoredRecord;
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::outcome::{Answer, Outcome};
use hookline_model::resource::{StoredWebhook, Webhook};
use hookline_model::topics::Topic;
use hookline_model::wire::{self, next};
use prost::Message as _;

use super::book::{Attempt, Book, Place, RunId, WireId, id};
use super::process::PREFIX;
use super::receivers::Request;
use super::run::{Ended, Published};
use super::world::{EPOCH_MS, World, place};

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
    /// Requests with a place in an order.
    pub(crate) ordered: u64,
    /// Batches that were begun, and those that were sent more than once.
    pub(crate) batches: u64,
    pub(crate) batches_again: u64,
    /// Batches that were split.
    pub(crate) split: u64,
    /// Stretches of logs that were moved to `held`, and copies made for it.
    pub(crate) moved: u64,
    pub(crate) copies: u64,
    /// Partitions of topics of which settled records were deleted.
    pub(crate) deleted: u64,
    /// Times that somebody had to be asked to pass over a send, or let it go.
    pub(crate) held: u64,
    /// Commands that were done and not refused.
    pub(crate) commands: u64,
    /// What waited for too long.
    pub(crate) expired: u64,
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
        self.ordered += other.ordered;
        self.batches += other.batches;
        self.batches_again += other.batches_again;
        self.split += other.split;
        self.moved += other.moved;
        self.copies += other.copies;
        self.deleted += other.deleted;
        self.held += other.held;
        self.commands += other.commands;
        self.expired += other.expired;
    }
}

/// A rule, by its name.
pub(crate) type Rule = (&'static str, fn(&mut Case<'_>) -> Result<(), String>);

/// All of them.
pub(crate) const RULES: [Rule; 17] = [
    ("ends", |case| case.every_delivery_ends_once()),
    ("everybody", |case| case.everybody_gets_everything()),
    ("wire", |case| case.the_wire_is_in_the_log()),
    ("bodies", |case| case.bodies_are_what_was_published()),
    ("repeats", |case| {
        case.nothing_is_repeated_without_a_reason()
    }),
    ("early", |case| case.nothing_is_early()),
    ("batches begun", |case| case.batches_are_begun_once()),
    ("batches sent", |case| case.batches_are_sent_as_begun()),
    ("order", |case| case.one_is_final_before_the_next()),
    ("sequences", |case| case.sequences_never_go_back()),
    ("places", |case| case.places_are_told()),
    ("published", |case| case.order_is_that_of_publication()),
    ("dead", |case| case.the_dead_are_kept()),
    ("expired", |case| case.nobody_expires_early()),
    ("commands", |case| case.wishes_come_true()),
    ("rejected", |case| case.what_cannot_be_used_is_rejected()),
    ("writes", |case| case.acknowledged_writes_stand()),
];

/// What is judged, and by what.
pub(crate) struct Case<'a> {
    ended: &'a Ended,
    world: &'a World,
    book: Book,
    /// In the order in which they came.
    requests: Vec<&'a Request>,
    by_wire: BTreeMap<WireId, Vec<&'a Request>>,
    /// Every version of each.
    webhooks: BTreeMap<WebhookUid, Vec<Webhook>>,
    /// Where sends stand that somebody let go before their time.
    released: BTreeSet<Place>,
    figures: Figures,
}

/// Judges the run.
///
/// # Errors
/// The first promise that was broken.
pub(crate) fn judge(ended: &Ended) -> Result<Figures, String> {
    judge_by(ended, |_| true)
}

/// Judges the run by some of the rules.
///
/// # Errors
/// See [`judge`].
pub(crate) fn judge_by(ended: &Ended, by: impl Fn(&str) -> bool) -> Result<Figures, String> {
    let world = &*ended.world.lock();
    let mut case = Case::of(ended, world);
    for (name, rule) in RULES {
        if by(name) {
            rule(&mut case).map_err(|broken| format!("{name}: {broken}"))?;
        }
    }
    Ok(case.figures)
}

impl<'a> Case<'a> {
    fn of(ended: &'a Ended, world: &'a World) -> Self {
        let book = Book::of(world);
        let mut requests: Vec<&Request> = world.receivers.requests.iter().collect();
        requests.sort_by_key(|request| request.at);
        let mut by_wire: BTreeMap<WireId, Vec<&Request>> = BTreeMap::new();
        for request in &requests {
            by_wire.entry(request.wire_id()).or_default().push(request);
        }
        let done = book.commands.iter();
        let released = done
            .filter(|(_, (_, done))| done.release)
            .filter_map(|((partition, _), (_, done))| Some((*partition, done.send?.into())));
        let mut case = Self {
            released: released.collect(),
            ended,
            world,
            requests,
            by_wire,
            webhooks: BTreeMap::new(),
            figures: Figures::default(),
            book,
        };
        case.read_webhooks();
        case.count();
        case
    }

    fn records(&self, topic: Topic) -> Vec<(u32, Vec<(i64, StoredRecord)>)> {
        let name = topic.name(PREFIX);
        let logs = self.world.logs.iter().filter(|(at, _)| at.topic == name);
        logs.map(|(at, log)| (at.partition, log.ever.clone()))
            .collect()
    }

    fn read_webhooks(&mut self) {
        for (_, records) in self.records(Topic::Registry) {
            for (_, record) in records {
                let Some(record) =
                    registry_record(&record).filter(|r| r.kind == "webhook" && !r.body.is_empty())
                else {
                    continue;
                };
                let stored: StoredWebhook = serde_json::from_slice(&record.body).expect("ours");
                self.webhooks
                    .entry(stored.uid)
                    .or_default()
                    .push(stored.settings);
            }
        }
    }

    fn count(&mut self) {
        let (book, world) = (&self.book, self.world);
        let last = |all: &Vec<Attempt>| all.last().map(Attempt::outcome);
        let ends = || book.attempts.values().filter_map(last);
        let attempts = || book.attempts.values().flatten();
        let one = |attempt: &&Attempt| attempt.place() == attempt.first;
        let split = |a: &&Attempt| matches!(a.then(), Some(next::Kind::Split(_)));
        let held = |a: &&Attempt| matches!(a.then(), Some(next::Kind::Hold(_)));
        let again =
            |requests: &&Vec<&Request>| requests.len() > 1 && requests[0].id.starts_with("bat_");
        let copies = world
            .logs
            .iter()
            .filter(|(at, _)| at.topic == Topic::Held.name(PREFIX));
        let settled = [Topic::Deliveries, Topic::Commands, Topic::Held].map(|t| t.name(PREFIX));
        let deleted = world
            .logs
            .iter()
            .filter(|(at, log)| settled.contains(&at.topic) && log.start > 0);
        self.figures = Figures {
            requests: self.requests.len() as u64,
            deliveries: book.of_run.len() as u64,
            cancelled: ends().filter(|o| *o == Outcome::Cancelled).count() as u64,
            dead: ends().filter(|o| o.is_dead()).count() as u64,
            expired: ends().filter(|o| *o == Outcome::Expired).count() as u64,
            claims: book.claims.values().map(Vec::len).sum::<usize>() as u64,
            strays: book.strays,
            dropped: book.dropped,
            faults: self.ended.done.len() as u64,
            lives: u64::from(self.ended.lives),
            writes: world.writes.len() as u64,
            ordered: self.requests.iter().filter(|r| r.order.is_some()).count() as u64,
            batches: book.batches.len() as u64,
            batches_again: self.by_wire.values().filter(again).count() as u64,
            split: attempts().filter(one).filter(split).count() as u64,
            held: attempts().filter(one).filter(held).count() as u64,
            moved: book.moved,
            copies: copies.map(|(_, log)| log.ever.len()).sum::<usize>() as u64,
            deleted: deleted.count() as u64,
            commands: book
                .commands
                .values()
                .filter(|(_, done)| done.refused.is_empty())
                .count() as u64,
            repeats: 0,
        };
    }

    /// Every run of a delivery has exactly one final outcome, attempts are numbered 1, 2, … without a gap, and nothing comes behind the end.
    fn every_delivery_ends_once(&self) -> Result<(), String> {
        for (run, places) in &self.book.of_run {
            let (id, number) = run;
            let attempts = self.book.attempts_of(run);
            let story = || {
                let told = attempts
                    .iter()
                    .map(|a| format!("{}:{}", a.said.attempt, a.outcome()));
                told.collect::<Vec<_>>().join(" ")
            };
            let finals = attempts.iter().filter(|a| a.outcome().is_final()).count();
            if finals != 1 {
                return Err(format!(
                    "run {number} of {id} in {:?}, at {places:?}, has {finals} final outcomes: {}",
                    self.book.sends[&places[0]].lane,
                    story()
                ));
            }
            let mut made = 0;
            for (index, attempt) in attempts.iter().enumerate() {
                let expected = if attempt.exchanged() { made + 1 } else { made };
                if attempt.said.attempt != expected {
                    return Err(format!(
                        "run {number} of {id}: attempt {} where {expected} comes: {}",
                        attempt.said.attempt,
                        story()
                    ));
                }
                made = expected;
                if attempt.outcome().is_final() && index + 1 != attempts.len() {
                    return Err(format!(
                        "run {number} of {id}: something comes behind its end: {}",
                        story()
                    ));
                }
            }
        }
        let unknown = |run: &&RunId| !self.book.of_run.contains_key(*run);
        match self.book.attempts.keys().find(unknown) {
            Some((id, run)) => Err(format!(
                "run {run} of {id} was attempted, and no partition took it"
            )),
            None => Ok(()),
        }
    }

    /// Every event that was accepted reaches every steady webhook that asked for it.
    fn everybody_gets_everything(&self) -> Result<(), String> {
        let steady = self.ended.plan.hooks.iter().filter(|h| h.steady);
        let steady: BTreeSet<&str> = steady.map(|h| h.name.as_str()).collect();
        let webhooks = self
            .webhooks
            .iter()
            .filter_map(|(uid, all)| Some((*uid, all.last()?)));
        let webhooks: Vec<_> = webhooks
            .filter(|(_, w)| steady.contains(w.name.as_str()))
            .collect();
        for published in self.first_of_each() {
            let event = &published.event;
            for (uid, webhook) in webhooks.iter().filter(|(_, w)| w.subscribes(event.kind)) {
                let id = DeliveryId::derive(event.project, "/sim", &event.id, *uid).to_string();
                let attempts = self.book.attempts_of(&(id, 0));
                let Some(last) = attempts.last() else {
                    return Err(format!(
                        "event {} at {}[{}] was never fanned out to {}",
                        event.id, published.partition, published.offset, webhook.name
                    ));
                };
                let taken = |r: &&&Request| {
                    r.attempt == last.said.attempt
                        && matches!(r.answered, Some((_, Answer::Status(200))))
                };
                let requests = self.by_wire.get(&last.unit).map_or(&[][..], Vec::as_slice);
                if last.outcome() == Outcome::Delivered && !requests.iter().any(|r| taken(&r)) {
                    return Err(format!(
                        "event {} counts as delivered to {}, which never took it",
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

    /// What a person wanted and was told to be done has been done; each was answered.
    fn wishes_come_true(&self) -> Result<(), String> {
        for (partition, records) in self.records(Topic::Commands) {
            for (_, record) in records {
                let command = wire::Command::decode(record.value.clone().unwrap_or_default());
                let what = command.expect("ours").what.expect("it says what to do");
                let Some((_, done)) = self.book.commands.get(&(partition, record.offset)) else {
                    return Err(format!(
                        "command {partition}[{}] is not done",
                        record.offset
                    ));
                };
                let ends = matches!(
                    what,
                    wire::command::What::Skip(_) | wire::command::What::Cancel(_)
                );
                let send = done.send.filter(|_| done.refused.is_empty() && ends);
                let Some(place) = send.map(|send| (partition, send.into())) else {
                    continue;
                };
                let run = self.book.sends.get(&place).map(|sent| &sent.run);
                let last = run.and_then(|run| self.book.attempts_of(run).last());
                if last.map(Attempt::outcome) != Some(Outcome::Cancelled) {
                    return Err(format!(
                        "what stood at {place:?} was ended by hand, and is {:?}",
                        last.map(Attempt::outcome)
                    ));
                }
            }
        }
        Ok(())
    }

    /// What ended without success stands in `dead`, once, and nothing else does.
    fn the_dead_are_kept(&self) -> Result<(), String> {
        let mut kept: BTreeSet<(u32, u64, u32, String)> = BTreeSet::new();
        for (partition, records) in self.records(Topic::Dead) {
            for (_, record) in records {
                let dead =
                    wire::DeadDelivery::decode(record.value.unwrap_or_default()).expect("ours");
                let ticket = dead.ticket.expect("a ticket");
                let attempt = dead.attempt.expect("an attempt");
                kept.insert((
                    partition,
                    ticket.offset,
                    ticket.index,
                    id(&attempt.delivery_id),
                ));
            }
        }
        let attempts = self.book.attempts.values().flatten();
        let ended = attempts.filter(|a| a.outcome().is_dead());
        let wanted: BTreeSet<_> = ended
            .map(|a| {
                let ticket = a.ticket;
                (
                    a.partition,
                    ticket.offset,
                    ticket.index,
                    id(&a.said.delivery_id),
                )
            })
            .collect();
        match kept.symmetric_difference(&wanted).next() {
            Some(ticket) => Err(format!(
                "`dead` and the log disagree on the attempt at {ticket:?}"
            )),
            None => Ok(()),
        }
    }

    /// Nobody is given up for having waited too long before it has waited for that long, or what leads its batch has.
    fn nobody_expires_early(&self) -> Result<(), String> {
        let max_hold = self.ended.plan.setup.old_end.max_hold;
        let max_hold = i64::try_from(max_hold.as_millis()).unwrap_or(i64::MAX);
        let attempts = self.book.attempts.values().flatten();
        let expired = attempts.filter(|a| a.outcome() == Outcome::Expired && !a.exchanged());
        for attempt in expired {
            let (partition, position) = attempt.first;
            let log = &self.world.logs[&place(&Topic::Deliveries.name(PREFIX), partition)];
            let there = log.ever.iter().find(|(_, r)| r.offset == position.offset);
            let Some((entered_at, _)) = there else {
                return Err(format!("nothing ever stood at {:?}", attempt.first));
            };
            let waited = attempt.said.started_at_ms - EPOCH_MS - entered_at;
            if attempt.said.first_try_ms == 0 && waited + self.clocks_differ() < max_hold {
                return Err(format!(
                    "run {} of {} expired after {waited} ms, {max_hold} were to pass",
                    attempt.said.run, attempt.unit.0
                ));
            }
        }
        Ok(())
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
        for write in &self.world.writes {
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

fn registry_record(record: &StoredRecord) -> Option<wire::RegistryRecord> {
    wire::RegistryRecord::decode(record.value.clone()?).ok()
}
