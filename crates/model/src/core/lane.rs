//! Lanes: what a webhook may send now, what waits in memory, and what stays in the log.
//!
//! A lane is a cursor with a window. Of an unordered webhook there are up to three in a partition: *fresh*, *due* (what tiers brought back;
//! the two alternate) and *bulk* (only what the others leave). An ordered one has one lane, or one for each hash of the event key, with a window
//! of one: what was taken from it *holds* it until it is settled. A lane that cannot send now queues a bounded number of sends and then *falls
//! behind*: its cursor stays, its later sends are simply not yet read. All positions of a lane below its cursor are settled or listed.
//!
//! What goes out together is a *unit*: a send, or a batch of them, which lanes put together from what waits in one of them.

mod hook;
mod kind;
mod round;
mod scan;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use hook::{Bucket, Hook, Ready, Turn};
pub use kind::LaneKind;
use round::{Round, Rounds};

use super::mutation::mutated;
use crate::ids::{Position, WebhookUid};
use crate::limits::{
    LANE_QUEUE_BYTES, LANE_QUEUE_SENDS, SUSPECT_QUEUE_SENDS, SUSPECTS_ASKED, WINDOW_START,
    WORKER_QUEUE_BYTES,
};
use crate::time::Millis;

/// A lane of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Whose sends.
    pub webhook: WebhookUid,
    /// Which of them.
    pub kind: LaneKind,
}

/// Something that waits in memory.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(Hash))]
pub struct Queued<T> {
    /// Where it stands in the log.
    pub position: Position,
    /// Its lane.
    pub lane: LaneKey,
    /// What to send.
    pub payload: T,
    /// What it takes of memory.
    pub bytes: usize,
    /// What it adds to the body of a batch, in bytes.
    pub weight: usize,
}

/// What the world outside says of a send that could start now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Terms {
    /// It may start.
    Send {
        /// Units a second, if limited.
        rate: Option<f64>,
        /// How many go out together, if more than one may.
        batch: Option<Batch>,
    },
    /// It ends without an exchange; that takes no place in the window.
    End,
    /// It waits until [`Lanes::resume`].
    Wait,
}

/// What goes out together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Sends at most.
    pub sends: usize,
    /// Of [`Queued::weight`] at most; one send may be more.
    pub bytes: usize,
    /// How long the first of them waits for more.
    pub wait: Duration,
}

/// What is answered to a webhook that asks for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    /// It has one.
    Taken,
    /// Its own share is taken; others may find one.
    ShareTaken,
    /// There is none for it nor for any other of its kind (suspect or not).
    NoneLeft,
}

/// Asked before a send starts.
pub trait Door<T> {
    /// On which terms this send of this webhook may start.
    fn terms(&mut self, webhook: WebhookUid, payload: &T) -> Terms;

    /// Takes one of the worker's places. A *suspect* webhook (it fails, or has not yet answered well) may hold only a bounded part of them.
    fn take_place(&mut self, webhook: WebhookUid, suspect: bool) -> Seat;

    /// Rises whenever a place is given back that may be of use to a webhook whose share was taken; where no share ever is, it need not be counted.
    fn freed(&self) -> u64 {
        0
    }
}

/// What became of an offered send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits in memory.
    Queued,
    /// Its lane is behind: it stays in the log.
    Left,
}

/// What lanes may keep in memory; beyond that they leave things in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Sends queued by one lane.
    pub lane_sends: usize,
    /// Their bytes.
    pub lane_bytes: usize,
    /// Sends that a lane keeps queued while its webhook fails.
    pub suspect_sends: usize,
    /// Bytes queued by all lanes of a worker; those of suspect webhooks may use half of it.
    pub worker_bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            lane_sends: LANE_QUEUE_SENDS,
            lane_bytes: LANE_QUEUE_BYTES,
            suspect_sends: SUSPECT_QUEUE_SENDS,
            worker_bytes: WORKER_QUEUE_BYTES,
        }
    }
}

/// How an exchange went, as far as the window is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The receiver answers well.
    Good,
    /// It fails, is overloaded or does not answer.
    Bad,
    /// There was no exchange.
    None,
}

/// A unit that starts now.
#[derive(Debug)]
pub struct Start<T> {
    /// The send, or the first of the batch.
    pub queued: Queued<T>,
    /// What goes with it.
    pub others: Vec<Queued<T>>,
    /// Whether it is a batch: of one, too.
    pub batch: bool,
    /// Whether it goes out; else it is to be ended without an exchange.
    pub send: bool,
}

/// A read of the log for lanes that are behind.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Scan {
    follows: LaneKey,
    from: Position,
    /// Everything below has passed.
    at: u64,
    refused: BTreeSet<LaneKey>,
}

/// All lanes of a partition.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Lanes<T> {
    limits: QueueLimits,
    hooks: HashMap<WebhookUid, Hook<T>>,
    rounds: Rounds,
    tokens: BTreeSet<(Millis, WebhookUid)>,
    parked: BTreeSet<WebhookUid>,
    behind: BTreeSet<(Position, LaneKey)>,
    queued_bytes: usize,
    queued: usize,
    /// See [`Self::waits`].
    resting: usize,
    scan: Option<Scan>,
    /// A lane that is behind may want more than when that was last looked at.
    look: bool,
    /// The time last heard of.
    now: Millis,
    /// It was less than the time before.
    set_back: bool,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self::new(QueueLimits::default())
    }
}

impl<T> Lanes<T> {
    /// None yet.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            hooks: HashMap::new(),
            rounds: Rounds::default(),
            tokens: BTreeSet::new(),
            parked: BTreeSet::new(),
            behind: BTreeSet::new(),
            queued_bytes: 0,
            queued: 0,
            resting: 0,
            scan: None,
            look: false,
            now: Millis(0),
            set_back: false,
        }
    }
}

impl<T> Lanes<T> {
    /// A new send at the live edge. `room` is what the worker may still queue, in bytes.
    pub fn offer(&mut self, queued: Queued<T>, room: usize) -> Offered {
        let (key, position, bytes) = (queued.lane, queued.position, queued.bytes);
        let hook = self.hooks.entry(key.webhook).or_insert_with(Hook::new);
        let quota = hook.quota(key.kind, room, self.limits);
        let lane = hook.lanes.entry(key.kind).or_default();
        if lane.behind.is_some() {
            return Offered::Left;
        }
        if lane.full(bytes, quota) {
            lane.behind = Some(position);
            lane.sated = true;
            self.behind.insert((position, key));
            self.look = true;
            self.wake(key.webhook);
            return Offered::Left;
        }
        lane.push(queued, self.now);
        self.queued_bytes += bytes;
        self.queued += 1;
        self.wake(key.webhook);
        Offered::Queued
    }

    /// What time it is, where nothing is to start.
    pub fn heard(&mut self, now: Millis) {
        self.set_back |= now < self.now;
        self.now = now;
    }

    /// A unit that was begun before holds its lane (a takeover has found it).
    pub fn hold(&mut self, key: LaneKey) {
        self.hooks
            .entry(key.webhook)
            .or_insert_with(Hook::new)
            .begin(key.kind, true);
    }

    /// A unit of an ordered lane, or a batch, waits in place to go again, or no longer does.
    pub fn waits(&mut self, key: LaneKey, waits: bool) {
        let hook = self.hooks.entry(key.webhook).or_insert_with(Hook::new);
        let rested = if key.kind.is_ordered() {
            let blocked = &mut hook.lanes.entry(key.kind).or_default().blocked;
            std::mem::replace(blocked, waits) != waits
        } else if waits {
            hook.resting += 1;
            true
        } else {
            let rested = hook.resting > 0;
            hook.resting -= u32::from(rested);
            rested
        };
        match (rested, waits) {
            (true, true) => self.resting += 1,
            (true, false) => self.resting -= 1,
            (false, _) => {}
        }
        if waits && key.kind.is_ordered() {
            self.shed(key.webhook);
        } else if !waits && !key.kind.is_ordered() {
            self.wake(key.webhook);
        }
    }

    /// What was taken from the lane is settled: the next may go, where it held the lane.
    pub fn settled(&mut self, key: LaneKey, sent: bool) {
        let Some(hook) = self.hooks.get_mut(&key.webhook) else {
            return;
        };
        if !key.kind.is_ordered() {
            return;
        }
        if let Some(lane) = hook.lanes.get_mut(&key.kind) {
            if sent {
                lane.held = false;
                self.resting -= usize::from(std::mem::take(&mut lane.blocked));
            } else {
                lane.ending = lane.ending.saturating_sub(1);
            }
        }
        self.look |= hook.behind();
        self.wake(key.webhook);
    }

    /// A send that had been begun goes again, before everything else of its webhook.
    pub fn again(&mut self, queued: Queued<T>) {
        let webhook = queued.lane.webhook;
        self.queued_bytes += queued.bytes;
        self.queued += 1;
        self.hooks
            .entry(webhook)
            .or_insert_with(Hook::new)
            .again
            .push_back(queued);
        self.wake(webhook);
    }

    /// A lane that a takeover found behind.
    pub fn load_behind(&mut self, key: LaneKey, cursor: Position) {
        let lane = self
            .hooks
            .entry(key.webhook)
            .or_insert_with(Hook::new)
            .lanes
            .entry(key.kind)
            .or_default();
        if let Some(old) = lane.behind.replace(cursor) {
            self.behind.remove(&(old, key));
        }
        self.behind.insert((cursor, key));
        self.look = true;
    }

    /// Puts a webhook into a round if it has something to send and room in its window.
    fn wake(&mut self, webhook: WebhookUid) {
        let Some(hook) = self.hooks.get_mut(&webhook) else {
            return;
        };
        if let Turn::Filling(at) = hook.turn {
            self.tokens.remove(&(at, webhook));
            hook.turn = Turn::None;
        }
        if hook.turn != Turn::None || hook.in_flight >= hook.window {
            return;
        }
        match hook.ready(self.now) {
            Ready::Again | Ready::Lane(_) => {
                hook.turn = Turn::Round;
                self.rounds.push(hook.round(), webhook);
            }
            Ready::Fills(until) => {
                hook.turn = Turn::Filling(until);
                self.tokens.insert((until, webhook));
            }
            Ready::Nothing => {}
        }
    }

    /// The next send to start, if there is one. Healthy webhooks go in turn, then those that are new, then those that fail.
    pub fn next(&mut self, now: Millis, door: &mut dyn Door<T>) -> Option<Start<T>> {
        self.heard(now);
        // Who waits for a token waits by the clock; when that was set back, all ask again.
        if std::mem::take(&mut self.set_back) {
            for (_, webhook) in std::mem::take(&mut self.tokens) {
                self.end_turn(webhook);
                self.wake(webhook);
            }
        }
        while let Some((at, webhook)) = self.tokens.first().copied().filter(|(at, _)| *at <= now) {
            self.tokens.remove(&(at, webhook));
            self.end_turn(webhook);
            self.wake(webhook);
        }
        self.rounds.freed(door.freed());
        Rounds::ALL
            .into_iter()
            .find_map(|round| self.next_of(round, now, door))
    }

    fn next_of(&mut self, round: Round, now: Millis, door: &mut dyn Door<T>) -> Option<Start<T>> {
        let mut refused = 0;
        loop {
            let webhook = self.rounds.pop(round)?;
            let Some(hook) = self.hooks.get_mut(&webhook) else {
                continue;
            };
            // Much may have changed since it was put into the round.
            if hook.in_flight >= hook.window && !mutated!(WindowOverrun) {
                hook.turn = Turn::None;
                continue;
            }
            if hook.round() > round {
                self.rounds.push(hook.round(), webhook);
                continue;
            }
            let ready = hook.ready(now);
            let Some(terms) = hook
                .head(ready)
                .map(|head| door.terms(webhook, &head.payload))
            else {
                // A batch that fills, or nothing.
                hook.turn = Turn::None;
                self.wake(webhook);
                continue;
            };
            match terms {
                Terms::Wait => {
                    hook.turn = Turn::Parked;
                    self.parked.insert(webhook);
                }
                Terms::End => return self.take(webhook, ready, false, door),
                Terms::Send { batch, .. } if hook.batch != batch => {
                    // Which of its lanes may go depends on that.
                    hook.batch = batch;
                    hook.turn = Turn::None;
                    self.wake(webhook);
                }
                // What ends in front of it must have ended.
                Terms::Send { .. } if hook.ending(ready) => hook.turn = Turn::None,
                Terms::Send { rate, .. } => {
                    if let Some(until) = hook.pauses(now) {
                        hook.turn = Turn::Token(until);
                        self.tokens.insert((until, webhook));
                        continue;
                    }
                    if let Some(rate) = rate.filter(|r| *r > 0.0) {
                        let bucket = hook.bucket.get_or_insert(Bucket {
                            tokens: 0.0,
                            at: now,
                        });
                        // A token is taken back below when there is no place.
                        if let Err(at) = bucket.take(rate, now) {
                            hook.turn = Turn::Token(at);
                            self.tokens.insert((at, webhook));
                            continue;
                        }
                    }
                    let seat = door.take_place(webhook, hook.suspect());
                    if seat == Seat::Taken {
                        return self.take(webhook, ready, true, door);
                    }
                    if let Some(bucket) = hook.bucket.as_mut().filter(|_| rate.is_some()) {
                        bucket.tokens += 1.0;
                    }
                    if seat == Seat::NoneLeft {
                        self.rounds.push_first(hook.round(), webhook);
                        return None;
                    }
                    self.rounds.refuse(hook.round(), webhook);
                    refused += 1;
                    if refused >= SUSPECTS_ASKED {
                        return None;
                    }
                }
            }
        }
    }

    fn take(
        &mut self,
        webhook: WebhookUid,
        ready: Ready,
        send: bool,
        door: &mut dyn Door<T>,
    ) -> Option<Start<T>> {
        let hook = self.hooks.get_mut(&webhook)?;
        hook.turn = Turn::None;
        let queued = hook.pop(ready)?;
        let batch = hook.batch(ready).filter(|_| send);
        let mut others = Vec::new();
        if let Some(batch) = batch {
            let mut weight = queued.weight;
            while let Some(next) = hook.head(ready).filter(|_| others.len() + 1 < batch.sends) {
                weight += next.weight;
                let goes = matches!(door.terms(webhook, &next.payload), Terms::Send { .. });
                if weight > batch.bytes || !goes {
                    break;
                }
                others.extend(hook.pop(ready));
            }
        }
        if let Ready::Lane(kind) = ready {
            hook.begin(kind, send);
        }
        self.look |= hook.behind() && !mutated!(RoomNotNoticed);
        if send {
            hook.in_flight += 1;
        }
        self.queued_bytes -= queued.bytes + others.iter().map(|q| q.bytes).sum::<usize>();
        self.queued -= 1 + others.len();
        self.wake(webhook);
        Some(Start {
            queued,
            others,
            batch: batch.is_some(),
            send,
        })
    }

    fn end_turn(&mut self, webhook: WebhookUid) {
        if let Some(hook) = self.hooks.get_mut(&webhook) {
            hook.turn = Turn::None;
        }
    }

    /// When [`Self::next`] may have something because of time alone.
    #[must_use]
    pub fn next_token(&self) -> Option<Millis> {
        self.tokens.first().map(|(at, _)| *at)
    }

    /// Whether a webhook waits for its share of the places.
    #[must_use]
    pub fn awaits_share(&self) -> bool {
        self.rounds.any_refused()
    }

    /// What was started with an exchange has ended: its place in the window is free, and the window adapts.
    pub fn ended(&mut self, webhook: WebhookUid, health: Health) {
        let Some(hook) = self.hooks.get_mut(&webhook) else {
            return;
        };
        hook.in_flight = hook.in_flight.saturating_sub(1);
        hook.learn(health, self.now);
        match health {
            Health::Good => self.look |= hook.behind(),
            Health::Bad if hook.failing() => self.shed(webhook),
            Health::Bad | Health::None => {}
        }
        self.wake(webhook);
    }

    /// A webhook fails, or one of its lanes waits: most of what that has queued goes back to where it still stands, the log.
    fn shed(&mut self, webhook: WebhookUid) {
        let Some(hook) = self.hooks.get_mut(&webhook) else {
            return;
        };
        let failing = hook.failing();
        for (kind, lane) in &mut hook.lanes {
            if !failing && !lane.blocked {
                continue;
            }
            let mut first = None;
            while lane.queue.len() > self.limits.suspect_sends {
                let Some(queued) = lane.queue.pop_back() else {
                    break;
                };
                lane.bytes -= queued.bytes;
                lane.weight -= queued.weight;
                self.queued_bytes -= queued.bytes;
                self.queued -= 1;
                first = Some(queued.position);
            }
            if let Some(first) = first {
                let key = LaneKey {
                    webhook,
                    kind: *kind,
                };
                move_cursor(&mut self.behind, key, lane.behind, Some(first));
                lane.behind = Some(first);
                self.look = true;
                // The scan has passed what was given back.
                if let Some(scan) = self.scan.as_mut().filter(|_| !mutated!(ShedLaneTakesOn)) {
                    scan.refused.insert(key);
                }
            }
        }
    }

    /// Settings changed: whoever was parked asks again.
    pub fn resume(&mut self) {
        self.look = true;
        for webhook in std::mem::take(&mut self.parked) {
            self.end_turn(webhook);
            self.wake(webhook);
        }
    }

    /// The cursor of every lane that is not at the live edge with nothing waiting: what a checkpoint must list.
    pub fn cursors(&self) -> impl Iterator<Item = (LaneKey, Position)> + '_ {
        self.hooks.iter().flat_map(|(webhook, hook)| {
            hook.lanes.iter().filter_map(|(kind, lane)| {
                Some((
                    LaneKey {
                        webhook: *webhook,
                        kind: *kind,
                    },
                    lane.cursor()?,
                ))
            })
        })
    }

    /// Whether a lane of the webhook has its cursor at this position or before it.
    #[must_use]
    pub fn reach(&self, webhook: WebhookUid, position: Position) -> bool {
        self.hooks.get(&webhook).is_some_and(|hook| {
            hook.lanes
                .values()
                .any(|lane| lane.cursor().is_some_and(|cursor| cursor <= position))
        })
    }

    /// The cursor of one lane, if it is not at the live edge with nothing waiting.
    #[must_use]
    pub fn cursor(&self, key: LaneKey) -> Option<Position> {
        self.hooks.get(&key.webhook)?.lanes.get(&key.kind)?.cursor()
    }

    /// The lowest cursor of all.
    #[must_use]
    pub fn lowest(&self) -> Option<Position> {
        self.cursors().map(|(_, at)| at).min()
    }

    /// What waits first in each webhook (for the age of the oldest).
    pub fn heads(&self) -> impl Iterator<Item = &Queued<T>> {
        self.hooks.values().flat_map(|h| {
            h.again
                .front()
                .into_iter()
                .chain(h.lanes.values().filter_map(|l| l.queue.front()))
        })
    }

    /// Lanes that are behind.
    #[must_use]
    pub fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Bytes of what waits in memory.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Sends waiting in memory.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Units that wait in place for long.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.resting
    }

    /// The window of a webhook, and how much of it is used.
    #[must_use]
    pub fn window(&self, webhook: WebhookUid) -> (u32, u32) {
        self.hooks
            .get(&webhook)
            .map_or((WINDOW_START, 0), |h| (h.window, h.in_flight))
    }

    /// Forgets webhooks of which nothing is left to remember (`keep` says which still exist).
    pub fn tidy(&mut self, mut keep: impl FnMut(WebhookUid) -> bool) {
        self.hooks.retain(|webhook, hook| {
            !(hook.idle() && matches!(hook.turn, Turn::None) && !keep(*webhook))
        });
    }
}

fn move_cursor(
    behind: &mut BTreeSet<(Position, LaneKey)>,
    key: LaneKey,
    old: Option<Position>,
    new: Option<Position>,
) {
    if let Some(old) = old {
        behind.remove(&(old, key));
    }
    if let Some(new) = new {
        behind.insert((new, key));
    }
}

#[cfg(test)]
mod tests;
