//! Lanes: what a webhook may send now, what waits in memory, and what stays in the log.
//!
//! A lane is a cursor with a window. Of an unordered webhook there are up to three in a partition: *fresh*, *due* (what tiers brought back;
//! the two alternate) and *bulk* (only what the others leave). A lane that cannot send now queues a bounded number of sends and then *falls
//! behind*: its cursor stays, its later sends are simply not yet read. All positions of a lane below its cursor are settled or listed.

mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::mutation::mutated;
use crate::ids::{Position, WebhookUid};
use crate::limits::{
    LANE_QUEUE_BYTES, LANE_QUEUE_SENDS, SUSPECT_QUEUE_SENDS, SUSPECTS_ASKED, WINDOW_MAX,
    WINDOW_START, WORKER_QUEUE_BYTES,
};
use crate::time::Millis;

/// Which of a webhook's lanes. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// What fan-out wrote.
    Fresh = 0,
    /// What tiers brought back.
    Due = 1,
    /// What jobs wrote.
    Bulk = 2,
}

impl LaneKind {
    /// From the stored number.
    #[must_use]
    pub fn from_number(n: u32) -> Option<Self> {
        [Self::Fresh, Self::Due, Self::Bulk]
            .into_iter()
            .find(|k| *k as u32 == n)
    }
}

/// A lane of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Whose sends.
    pub webhook: WebhookUid,
    /// Which of them.
    pub kind: LaneKind,
}

/// Something that waits in memory.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Queued<T> {
    /// Where it stands in the log.
    pub position: Position,
    /// Its lane.
    pub lane: LaneKey,
    /// What to send.
    pub payload: T,
    /// What it weighs.
    pub bytes: usize,
}

/// What the world outside says of a send that could start now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Terms {
    /// It may start, at most `rate` a second.
    Send {
        /// Sends a second, if limited.
        rate: Option<f64>,
    },
    /// It ends without an exchange; that takes no place in the window.
    End,
    /// It waits until [`Lanes::resume`].
    Wait,
}

/// Asked before a send starts.
pub trait Door<T> {
    /// On which terms this send of this webhook may start.
    fn terms(&mut self, webhook: WebhookUid, payload: &T) -> Terms;

    /// Takes one of the worker's places. A *suspect* webhook (it fails, or has not yet answered well) may hold only a bounded part of them.
    fn take_place(&mut self, webhook: WebhookUid, suspect: bool) -> bool;
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

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
struct Lane<T> {
    queue: VecDeque<Queued<T>>,
    bytes: usize,
    /// The first position that was left in the log, if any.
    behind: Option<Position>,
    /// A scan found it full: reading on for it would be in vain, and would keep scans from others, until something of its queue has gone.
    sated: bool,
}

/// What a lane may queue.
#[derive(Debug, Clone, Copy)]
struct Quota {
    sends: usize,
    bytes: usize,
    room: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            behind: None,
            sated: false,
        }
    }
}

impl<T> Lane<T> {
    fn full(&self, bytes: usize, quota: Quota) -> bool {
        !self.queue.is_empty()
            && (self.queue.len() >= quota.sends
                || self.bytes + bytes > quota.bytes
                || bytes > quota.room)
    }

    fn cursor(&self) -> Option<Position> {
        self.queue.front().map(|q| q.position).or(self.behind)
    }

    fn wants_more(&self, sends: usize, bytes: usize) -> bool {
        self.behind.is_some()
            && !self.sated
            && self.queue.len() < sends.div_ceil(2)
            && self.bytes < bytes / 2
    }
}

/// Tokens that come in at a rate; begins empty.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Millis,
}

impl Bucket {
    /// Takes a token, or tells when there will be one. A tenth of a second's worth may gather.
    fn take(&mut self, rate: f64, now: Millis) -> Result<(), Millis> {
        let cap = (rate / 10.0).max(1.0);
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * rate).min(cap);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(now.plus(Duration::from_secs_f64(
            ((1.0 - self.tokens) / rate).clamp(0.001, 86_400.0),
        )))
    }
}

/// Where a webhook stands in the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Turn {
    /// Nothing to send, or the window is full.
    None,
    /// In one of the two rounds.
    Round,
    /// Waits for a token until then.
    Token(Millis),
    /// Paused.
    Parked,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Hook<T> {
    /// Begun before and to be sent again first: in-place retries, and what a takeover found begun.
    again: VecDeque<Queued<T>>,
    lanes: BTreeMap<LaneKind, Lane<T>>,
    last: LaneKind,
    window: u32,
    in_flight: u32,
    proven: bool,
    bucket: Option<Bucket>,
    turn: Turn,
}

impl<T> Hook<T> {
    fn new() -> Self {
        Self {
            again: VecDeque::new(),
            lanes: BTreeMap::new(),
            last: LaneKind::Due,
            window: WINDOW_START,
            in_flight: 0,
            proven: false,
            bucket: None,
            turn: Turn::None,
        }
    }

    fn suspect(&self) -> bool {
        !self.proven || self.failing()
    }

    fn failing(&self) -> bool {
        self.window < WINDOW_START
    }

    fn sends_max(&self, limits: QueueLimits) -> usize {
        if self.failing() {
            limits.suspect_sends
        } else {
            limits.lane_sends
        }
    }

    /// What its lanes may queue, of the room that the worker has: suspects leave half of it to the others.
    fn quota(&self, room: usize, limits: QueueLimits) -> Quota {
        let kept = if self.suspect() {
            limits.worker_bytes / 2
        } else {
            0
        };
        Quota {
            sends: self.sends_max(limits),
            bytes: limits.lane_bytes,
            room: room.saturating_sub(kept),
        }
    }

    fn waiting(&self, kind: LaneKind) -> bool {
        self.lanes.get(&kind).is_some_and(|l| !l.queue.is_empty())
    }

    /// Which lane goes next: fresh and due alternate, bulk takes what they leave.
    fn next_lane(&self) -> Option<LaneKind> {
        let (first, second) = if self.last == LaneKind::Fresh {
            (LaneKind::Due, LaneKind::Fresh)
        } else {
            (LaneKind::Fresh, LaneKind::Due)
        };
        [first, second, LaneKind::Bulk]
            .into_iter()
            .find(|kind| self.waiting(*kind))
    }

    fn peek(&self) -> Option<&Queued<T>> {
        self.again
            .front()
            .or_else(|| self.lanes.get(&self.next_lane()?)?.queue.front())
    }

    fn pop(&mut self) -> Option<Queued<T>> {
        if let Some(again) = self.again.pop_front() {
            return Some(again);
        }
        let kind = self.next_lane()?;
        let lane = self.lanes.get_mut(&kind)?;
        let queued = lane.queue.pop_front()?;
        lane.bytes -= queued.bytes;
        lane.sated = false;
        if kind != LaneKind::Bulk {
            self.last = kind;
        }
        Some(queued)
    }

    fn idle(&self) -> bool {
        self.again.is_empty()
            && self.in_flight == 0
            && self
                .lanes
                .values()
                .all(|l| l.queue.is_empty() && l.behind.is_none())
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

/// A send that starts now.
#[derive(Debug)]
pub struct Start<T> {
    /// The send.
    pub queued: Queued<T>,
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
    healthy: VecDeque<WebhookUid>,
    suspect: VecDeque<WebhookUid>,
    tokens: BTreeSet<(Millis, WebhookUid)>,
    parked: BTreeSet<WebhookUid>,
    behind: BTreeSet<(Position, LaneKey)>,
    queued_bytes: usize,
    queued: usize,
    scan: Option<Scan>,
    /// The time last heard of.
    now: Millis,
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
            healthy: VecDeque::new(),
            suspect: VecDeque::new(),
            tokens: BTreeSet::new(),
            parked: BTreeSet::new(),
            behind: BTreeSet::new(),
            queued_bytes: 0,
            queued: 0,
            scan: None,
            now: Millis(0),
        }
    }
}

impl<T> Lanes<T> {
    /// A new send at the live edge. `room` is what the worker may still queue, in bytes.
    pub fn offer(&mut self, queued: Queued<T>, room: usize) -> Offered {
        let (key, position, bytes) = (queued.lane, queued.position, queued.bytes);
        let hook = self.hooks.entry(key.webhook).or_insert_with(Hook::new);
        let quota = hook.quota(room, self.limits);
        let lane = hook.lanes.entry(key.kind).or_default();
        if lane.behind.is_some() {
            return Offered::Left;
        }
        if lane.full(bytes, quota) {
            lane.behind = Some(position);
            self.behind.insert((position, key));
            return Offered::Left;
        }
        lane.queue.push_back(queued);
        lane.bytes += bytes;
        self.queued_bytes += bytes;
        self.queued += 1;
        self.wake(key.webhook);
        Offered::Queued
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
    }

    /// Puts a webhook into a round if it has something to send and room in its window.
    fn wake(&mut self, webhook: WebhookUid) {
        let Some(hook) = self.hooks.get_mut(&webhook) else {
            return;
        };
        if hook.turn != Turn::None || hook.peek().is_none() || hook.in_flight >= hook.window {
            return;
        }
        hook.turn = Turn::Round;
        if hook.suspect() {
            self.suspect.push_back(webhook)
        } else {
            self.healthy.push_back(webhook)
        }
    }

    /// The next send to start, if there is one. Healthy webhooks go in turn, then the suspect ones.
    pub fn next(&mut self, now: Millis, door: &mut dyn Door<T>) -> Option<Start<T>> {
        // Who waits for a token waits by the clock; when that was set back, all ask again.
        let until = if now < self.now {
            Millis(i64::MAX)
        } else {
            now
        };
        self.now = now;
        while let Some((at, webhook)) = self.tokens.first().copied().filter(|(at, _)| *at <= until)
        {
            self.tokens.remove(&(at, webhook));
            self.end_turn(webhook);
            self.wake(webhook);
        }
        self.next_of(false, now, door)
            .or_else(|| self.next_of(true, now, door))
    }

    fn next_of(&mut self, suspect: bool, now: Millis, door: &mut dyn Door<T>) -> Option<Start<T>> {
        let mut refused = 0;
        loop {
            let webhook = if suspect {
                self.suspect.pop_front()?
            } else {
                self.healthy.pop_front()?
            };
            let Some(hook) = self.hooks.get_mut(&webhook) else {
                continue;
            };
            // Much may have changed since it was put into the round.
            if hook.in_flight >= hook.window && !mutated!(WindowOverrun) {
                hook.turn = Turn::None;
                continue;
            }
            if hook.suspect() && !suspect {
                self.suspect.push_back(webhook);
                continue;
            }
            let Some(terms) = hook.peek().map(|head| door.terms(webhook, &head.payload)) else {
                hook.turn = Turn::None;
                continue;
            };
            match terms {
                Terms::Wait => {
                    hook.turn = Turn::Parked;
                    self.parked.insert(webhook);
                }
                Terms::End => return self.take(webhook, false),
                Terms::Send { rate } => {
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
                    if door.take_place(webhook, hook.suspect()) {
                        return self.take(webhook, true);
                    }
                    if let Some(bucket) = hook.bucket.as_mut().filter(|_| rate.is_some()) {
                        bucket.tokens += 1.0;
                    }
                    if !hook.suspect() {
                        // There is no place for anybody.
                        self.healthy.push_front(webhook);
                        return None;
                    }
                    // Others may find one: suspects share their places by project.
                    self.suspect.push_back(webhook);
                    refused += 1;
                    if refused >= SUSPECTS_ASKED.min(self.suspect.len()) {
                        return None;
                    }
                }
            }
        }
    }

    fn take(&mut self, webhook: WebhookUid, send: bool) -> Option<Start<T>> {
        let hook = self.hooks.get_mut(&webhook)?;
        hook.turn = Turn::None;
        let queued = hook.pop()?;
        if send {
            hook.in_flight += 1;
        }
        self.queued_bytes -= queued.bytes;
        self.queued -= 1;
        self.wake(webhook);
        Some(Start { queued, send })
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

    /// What was started with an exchange has ended: its place in the window is free, and the window adapts.
    pub fn ended(&mut self, webhook: WebhookUid, health: Health) {
        let Some(hook) = self.hooks.get_mut(&webhook) else {
            return;
        };
        hook.in_flight = hook.in_flight.saturating_sub(1);
        match health {
            Health::Good => {
                hook.proven = true;
                hook.window = (hook.window + 1).min(WINDOW_MAX);
            }
            Health::Bad => {
                hook.window = (hook.window / 2).max(1);
                if hook.failing() {
                    self.shed(webhook);
                }
            }
            Health::None => {}
        }
        self.wake(webhook);
    }

    /// A webhook fails: most of what it has queued goes back to where it still stands, the log.
    fn shed(&mut self, webhook: WebhookUid) {
        let Some(hook) = self.hooks.get_mut(&webhook) else {
            return;
        };
        for (kind, lane) in &mut hook.lanes {
            let mut first = None;
            while lane.queue.len() > self.limits.suspect_sends {
                let Some(queued) = lane.queue.pop_back() else {
                    break;
                };
                lane.bytes -= queued.bytes;
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
                // The scan has passed what was given back.
                if let Some(scan) = self.scan.as_mut().filter(|_| !mutated!(ShedLaneTakesOn)) {
                    scan.refused.insert(key);
                }
            }
        }
    }

    /// Settings changed: whoever was parked asks again.
    pub fn resume(&mut self) {
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
