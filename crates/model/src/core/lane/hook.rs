//! What is remembered of one webhook: its lanes, its window, its tokens, its turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::round::Round;
use super::{Health, LaneKind, QueueLimits, Queued};
use crate::ids::Position;
use crate::limits::{FAILING_PAUSE, FAILURES_BEFORE_PAUSE, WINDOW_MAX, WINDOW_START};
use crate::time::Millis;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Lane<T> {
    pub(super) queue: VecDeque<Queued<T>>,
    pub(super) bytes: usize,
    /// The first position that was left in the log, if any.
    pub(super) behind: Option<Position>,
    /// A scan found it full: reading on for it would be in vain, and would keep scans from others, until something of its queue has gone.
    pub(super) sated: bool,
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
            behind: None,
            sated: false,
        }
    }
}

impl<T> Lane<T> {
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
    /// In one of the two rounds.
    Round,
    /// Waits for a token, or pauses because it fails, until then.
    Token(Millis),
    /// Paused.
    Parked,
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

    pub(super) fn sends_max(&self, limits: QueueLimits) -> usize {
        if self.failing() {
            limits.suspect_sends
        } else {
            limits.lane_sends
        }
    }

    /// What its lanes may queue, of the room that the worker has: suspects leave half of it to the others.
    pub(super) fn quota(&self, room: usize, limits: QueueLimits) -> Quota {
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

    pub(super) fn waiting(&self, kind: LaneKind) -> bool {
        self.lanes.get(&kind).is_some_and(|l| !l.queue.is_empty())
    }

    /// Which lane goes next: fresh and due alternate, bulk takes what they leave.
    pub(super) fn next_lane(&self) -> Option<LaneKind> {
        let (first, second) = if self.last == LaneKind::Fresh {
            (LaneKind::Due, LaneKind::Fresh)
        } else {
            (LaneKind::Fresh, LaneKind::Due)
        };
        [first, second, LaneKind::Bulk]
            .into_iter()
            .find(|kind| self.waiting(*kind))
    }

    pub(super) fn peek(&self) -> Option<&Queued<T>> {
        self.again
            .front()
            .or_else(|| self.lanes.get(&self.next_lane()?)?.queue.front())
    }

    pub(super) fn pop(&mut self) -> Option<Queued<T>> {
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
            && self
                .lanes
                .values()
                .all(|l| l.queue.is_empty() && l.behind.is_none())
    }
}
