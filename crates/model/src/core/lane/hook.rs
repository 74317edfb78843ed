//! What is remembered of one webhook: its lanes, its window, its tokens, its turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::round::Round;
use super::{Batch, Health, LaneKind, QueueLimits, Queued, mutated};
use crate::ids::Position;
use crate::limits::{
    BATCHES_WAITING_MAX, FAILING_PAUSE, FAILURES_BEFORE_PAUSE, WINDOW_MAX, WINDOW_START,
};
use crate::time::Millis;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Lane<T> {
    pub(super) queue: VecDeque<Queued<T>>,
    pub(super) bytes: usize,
    pub(super) weight: usize,
    /// The first position that was left in the log, if any.
    pub(super) behind: Option<Position>,
    /// It was full when there was more for it: reading on for it would be in vain, and would keep scans from others, until something of its queue
    /// has gone. A batch would wait in vain, too.
    pub(super) sated: bool,
    /// Since when the first of the queue waits.
    pub(super) since: Millis,
    /// Ordered: something that was taken from it goes out and is not settled.
    pub(super) held: bool,
    /// And that waits for its time, or for somebody to release it.
    pub(super) blocked: bool,
    /// Ordered: so many sends of it are being ended without an exchange.
    pub(super) ending: u32,
}

/// What a lane may queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    pub(super) sends: usize,
    pub(super) bytes: usize,
    pub(super) room: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            weight: 0,
            behind: None,
            sated: false,
            since: Millis(0),
            held: false,
            blocked: false,
            ending: 0,
        }
    }
}

impl<T> Lane<T> {
    pub(super) fn push(&mut self, queued: Queued<T>, now: Millis) {
        if self.queue.is_empty() {
            self.since = now;
        }
        self.bytes += queued.bytes;
        self.weight += queued.weight;
        self.queue.push_back(queued);
    }

    /// Since when a batch of it could go: it is full, or no more of it can come, or its first send has waited long enough.
    fn ripe(&self, batch: Batch, now: Millis) -> Millis {
        let sated = self.sated && self.behind.is_some();
        let full = sated || self.queue.len() >= batch.sends || self.weight >= batch.bytes;
        // Who set the clock back makes nobody wait longer.
        let since = self.since.min(now);
        if full { since } else { since.plus(batch.wait) }
    }

    pub(super) fn full(&self, bytes: usize, quota: Quota) -> bool {
        !self.queue.is_empty()
            && (self.queue.len() >= quota.sends
                || self.bytes + bytes > quota.bytes
                || bytes > quota.room)
    }

    pub(super) fn cursor(&self) -> Option<Position> {
        self.queue.front().map(|q| q.position).or(self.behind)
    }

    pub(super) fn wants_more(&self, sends: usize, bytes: usize) -> bool {
        self.behind.is_some()
            && !self.sated
            && self.queue.len() < sends.div_ceil(2)
            && self.bytes < bytes / 2
    }
}

/// Tokens that come in at a rate; begins empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub(super) tokens: f64,
    pub(super) at: Millis,
}

impl Bucket {
    /// Takes a token, or tells when there will be one. A tenth of a second's worth may gather.
    pub(super) fn take(&mut self, rate: f64, now: Millis) -> Result<(), Millis> {
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
pub(super) enum Turn {
    /// Nothing to send, or the window is full.
    None,
    /// In one of the rounds.
    Round,
    /// What it has to send is a batch that is not full: it goes then at the latest.
    Filling(Millis),
    /// Waits for a token, or pauses because it fails, until then.
    Token(Millis),
    /// Paused.
    Parked,
}

/// What of a webhook could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// What was begun before.
    Again,
    /// The first of this lane.
    Lane(LaneKind),
    /// A batch, when that time has come.
    Fills(Millis),
    /// Nothing.
    Nothing,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Hook<T> {
    /// Begun before and to be sent again first: in-place retries, and what a takeover found begun.
    pub(super) again: VecDeque<Queued<T>>,
    pub(super) lanes: BTreeMap<LaneKind, Lane<T>>,
    pub(super) last: LaneKind,
    pub(super) window: u32,
    pub(super) in_flight: u32,
    pub(super) proven: bool,
    /// Failures since it last answered well.
    pub(super) failures: u32,
    /// With many of them: when the next attempt may begin.
    pub(super) paused_until: Millis,
    pub(super) bucket: Option<Bucket>,
    pub(super) turn: Turn,
    /// What goes out together, as far as it is known.
    pub(super) batch: Option<Batch>,
    /// Batches of no order that wait to go again.
    pub(super) resting: u32,
}

impl<T> Hook<T> {
    pub(super) fn new() -> Self {
        Self {
            again: VecDeque::new(),
            lanes: BTreeMap::new(),
            last: LaneKind::Due,
            window: WINDOW_START,
            in_flight: 0,
            proven: false,
            failures: 0,
            paused_until: Millis(0),
            bucket: None,
            turn: Turn::None,
            batch: None,
            resting: 0,
        }
    }

    /// Which round it takes turns in.
    pub(super) fn round(&self) -> Round {
        if self.failing() {
            Round::Failing
        } else if self.proven {
            Round::Healthy
        } else {
            Round::Untried
        }
    }

    /// It fails, or has not yet answered well.
    pub(super) fn suspect(&self) -> bool {
        !self.proven || self.failing()
    }

    pub(super) fn failing(&self) -> bool {
        self.window < WINDOW_START
    }

    pub(super) fn sends_max(&self, kind: LaneKind, limits: QueueLimits) -> usize {
        if self.failing() || self.lanes.get(&kind).is_some_and(|lane| lane.blocked) {
            limits.suspect_sends
        } else {
            limits.lane_sends
        }
    }

    /// What its lanes may queue, of the room that the worker has: suspects leave half of it to the others.
    pub(super) fn quota(&self, kind: LaneKind, room: usize, limits: QueueLimits) -> Quota {
        let kept = if self.suspect() {
            limits.worker_bytes / 2
        } else {
            0
        };
        Quota {
            sends: self.sends_max(kind, limits),
            bytes: limits.lane_bytes,
            room: room.saturating_sub(kept),
        }
    }

    /// How many of the lane go out together, if more than one may.
    fn together(&self, kind: LaneKind) -> Option<Batch> {
        self.batch.filter(|_| kind.goes_together())
    }

    /// As what the next of it goes out: what was begun before is what it is.
    pub(super) fn batch(&self, ready: Ready) -> Option<Batch> {
        match ready {
            Ready::Lane(kind) => self.together(kind),
            Ready::Again | Ready::Fills(_) | Ready::Nothing => None,
        }
    }

    /// Whether something of the lane could go, and since when; or from when on.
    fn ripe(&self, kind: LaneKind, lane: &Lane<T>, now: Millis) -> Option<Millis> {
        if lane.queue.is_empty() || (lane.held && !mutated!(OrderNotKept)) {
            return None;
        }
        let Some(batch) = self.together(kind) else {
            return Some(Millis(i64::MIN));
        };
        (kind.is_ordered() || self.resting < BATCHES_WAITING_MAX).then(|| lane.ripe(batch, now))
    }

    /// What goes next. What was begun before goes first; then the lanes take turns; bulk takes what they leave.
    pub(super) fn ready(&self, now: Millis) -> Ready {
        if !self.again.is_empty() {
            return Ready::Again;
        }
        let mut fills = None;
        for bulk in [false, true] {
            let lanes = |after: bool| {
                self.lanes.iter().filter(move |(kind, _)| {
                    kind.is_bulk() == bulk && (**kind > self.last) == after
                })
            };
            for (kind, lane) in lanes(true).chain(lanes(false)) {
                match self.ripe(*kind, lane, now) {
                    Some(from) if from <= now => return Ready::Lane(*kind),
                    Some(from) => fills = Some(fills.map_or(from, |f: Millis| f.min(from))),
                    None => {}
                }
            }
        }
        fills.map_or(Ready::Nothing, Ready::Fills)
    }

    /// The first of it.
    pub(super) fn head(&self, ready: Ready) -> Option<&Queued<T>> {
        match ready {
            Ready::Again => self.again.front(),
            Ready::Lane(kind) => self.lanes.get(&kind)?.queue.front(),
            Ready::Fills(_) | Ready::Nothing => None,
        }
    }

    /// Whether sends of that lane are being ended, so that none of it may go out.
    pub(super) fn ending(&self, ready: Ready) -> bool {
        matches!(ready, Ready::Lane(kind) if self.lanes.get(&kind).is_some_and(|lane| lane.ending > 0))
    }

    /// Takes it.
    pub(super) fn pop(&mut self, ready: Ready) -> Option<Queued<T>> {
        let kind = match ready {
            Ready::Again => return self.again.pop_front(),
            Ready::Lane(kind) => kind,
            Ready::Fills(_) | Ready::Nothing => return None,
        };
        let lane = self.lanes.get_mut(&kind)?;
        let queued = lane.queue.pop_front()?;
        lane.bytes -= queued.bytes;
        lane.weight -= queued.weight;
        lane.sated = false;
        if !kind.is_bulk() {
            self.last = kind;
        }
        Some(queued)
    }

    /// Something was taken from the lane, to be sent or to be ended.
    pub(super) fn begin(&mut self, kind: LaneKind, send: bool) {
        if !kind.is_ordered() {
            return;
        }
        let lane = self.lanes.entry(kind).or_default();
        if send {
            lane.held = true;
        } else {
            lane.ending += 1;
        }
    }

    /// An exchange has ended, and went like this: the window adapts.
    pub(super) fn learn(&mut self, health: Health, now: Millis) {
        match health {
            Health::Good => {
                self.proven = true;
                self.failures = 0;
                self.window = (self.window + 1).min(WINDOW_MAX);
            }
            Health::Bad => {
                self.window = (self.window / 2).max(1);
                self.failures = self.failures.saturating_add(1);
                if self.failures > FAILURES_BEFORE_PAUSE {
                    self.paused_until = now.plus(FAILING_PAUSE);
                }
            }
            Health::None => {}
        }
    }

    /// When it may begin its next attempt, if not yet. A clock that was set back makes no pause longer.
    pub(super) fn pauses(&mut self, now: Millis) -> Option<Millis> {
        self.paused_until = self.paused_until.min(now.plus(FAILING_PAUSE));
        (self.failures > FAILURES_BEFORE_PAUSE && now < self.paused_until)
            .then_some(self.paused_until)
    }

    /// Whether anything of it was left in the log.
    pub(super) fn behind(&self) -> bool {
        self.lanes.values().any(|lane| lane.behind.is_some())
    }

    pub(super) fn idle(&self) -> bool {
        self.again.is_empty()
            && self.in_flight == 0
            && self.resting == 0
            && self
                .lanes
                .values()
                .all(|l| l.queue.is_empty() && l.behind.is_none() && !l.held && l.ending == 0)
    }
}
