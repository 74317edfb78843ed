//! Progress of one partition of `deliveries`, as its owner sees it: the watermark (every position below is settled or listed) and the exceptions
//! below it. It is a function of `attempts` and what that refers to; see [`super::checkpoint`] for its stored form.
//!
//! Life of a send: read at the live edge ([`Partition::live`]) or by a scan, it waits in its lane; [`Partition::next`] begins it; its attempt record
//! is stored and has certainly counted ([`Partition::confirmed`]); what follows from it is acknowledged ([`Partition::followed`]); it is settled.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{Checkpoint, Single};
use super::lane::{Door, Health, LaneKey, Lanes, Offered, QueueLimits, Queued, Start};
use super::marks::{SourceMarks, Stream, StreamPosition};
use super::mutation::mutated;
use crate::ids::{Position, WebhookUid};
use crate::limits::IN_PLACE_BELOW;
use crate::time::Millis;

/// What became of a send at the live edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It waits in memory.
    Queued,
    /// Its lane is behind: it stays in the log.
    Left,
    /// It has come before, from the same place of the same stream.
    Repeat,
    /// A previous owner has dealt with it, or it is being restored.
    Known,
}

/// A send as it is read from the log.
#[derive(Debug)]
pub struct Read<T> {
    /// Where it stands, and where the next position of the log is.
    pub position: Position,
    /// See `position`.
    pub next: Position,
    /// Its lane.
    pub lane: LaneKey,
    /// What to send.
    pub payload: T,
    /// What it weighs.
    pub bytes: usize,
}

impl<T> Read<T> {
    fn queued(self) -> Queued<T> {
        Queued {
            position: self.position,
            lane: self.lane,
            payload: self.payload,
            bytes: self.bytes,
        }
    }
}

/// Where an attempt record stands in `attempts`, and the claim it was written under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Offset of the record.
    pub offset: u64,
    /// The claim that counted there.
    pub epoch: u64,
}

/// What a confirmed attempt leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub enum After {
    /// Nothing: the send is settled.
    Settled,
    /// The send goes again at its place, not before this.
    InPlace(Millis),
    /// So many records are being written; then the send is settled.
    Follow(u32),
}

/// What an attempt record says of the run so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(Hash))]
pub struct Made {
    /// Attempts made in the run, that one included.
    pub attempts: u32,
    /// When the first of them began.
    pub first_try: Millis,
}

impl Made {
    fn single(self, due: Millis) -> Single {
        Single {
            attempts: self.attempts,
            due,
            first_try: self.first_try,
        }
    }
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
struct Begun<T> {
    single: Single,
    lane: Option<LaneKey>,
    payload: Option<T>,
    bytes: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Phase {
    /// Found by a takeover; its payload is being read back.
    Found,
    /// Waits in place until it is due.
    Waiting,
    /// Waits in its lane to go again.
    Again,
    /// The exchange is under way, or its record is not yet confirmed.
    Sending { place: bool },
    /// What follows from the attempt at this offset is being written.
    Following { ticket: Ticket, left: u32 },
}

/// What a previous owner's record says of a send that was outstanding, for the new owner to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// The record changes nothing: the send had been settled before.
    Old,
    /// The send is settled.
    Settled,
    /// The send goes again at its place.
    InPlace,
    /// What follows may be missing and must be written (again).
    Refollow,
}

/// The state of a partition. `T` is what is needed to send, cheap to clone.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Partition<T> {
    watermark: u64,
    marks: SourceMarks,
    lanes: Lanes<T>,
    begun: BTreeMap<Position, Begun<T>>,
    /// In-place waits by due time.
    waiting: BTreeSet<(Millis, Position)>,
    /// Positions that a lane passes over: repeats, and what was dealt with out of turn. From, to (exclusive).
    skips: BTreeMap<Position, Position>,
    /// Settled by a previous owner, at or above the watermark: by which record.
    ahead: BTreeMap<Position, Ticket>,
    /// Records of `attempts` whose follow-ups are not all acknowledged, with their number.
    open: BTreeMap<Ticket, u32>,
}

impl<T: Clone> Partition<T> {
    /// From a checkpoint, or (without one) from the first record that the log still has.
    #[must_use]
    pub fn load(checkpoint: Option<Checkpoint>, log_start: u64) -> Self {
        Self::load_with(QueueLimits::default(), checkpoint, log_start)
    }

    /// As [`Self::load`], with other limits of what lanes keep in memory.
    #[must_use]
    pub fn load_with(limits: QueueLimits, checkpoint: Option<Checkpoint>, log_start: u64) -> Self {
        let checkpoint = checkpoint.unwrap_or_else(|| Checkpoint {
            watermark: log_start,
            ..Checkpoint::default()
        });
        let mut lanes = Lanes::new(limits);
        for (key, cursor) in checkpoint.lanes {
            lanes.load_behind(key, cursor);
        }
        let begun = checkpoint
            .singles
            .into_iter()
            .map(|(position, single)| {
                (
                    position,
                    Begun {
                        single,
                        lane: None,
                        payload: None,
                        bytes: 0,
                        phase: Phase::Found,
                    },
                )
            })
            .collect();
        Self {
            watermark: checkpoint.watermark.max(log_start),
            marks: checkpoint.marks,
            lanes,
            begun,
            waiting: BTreeSet::new(),
            skips: checkpoint.skips,
            ahead: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    fn outstanding(&self, position: Position, webhook: WebhookUid) -> bool {
        if self.begun.contains_key(&position) {
            return true;
        }
        if self.ahead.contains_key(&position) || self.skipped(position) {
            return false;
        }
        position.offset >= self.watermark
            || [
                super::lane::LaneKind::Fresh,
                super::lane::LaneKind::Due,
                super::lane::LaneKind::Bulk,
            ]
            .into_iter()
            .any(|kind| {
                self.lanes
                    .cursor(LaneKey { webhook, kind })
                    .is_some_and(|cursor| cursor <= position)
            })
    }

    /// Before anything is sent: a record of `attempts` that counts, in order. It says that the attempt on the send at `position` led to `after`.
    pub fn replay(
        &mut self,
        ticket: Ticket,
        position: Position,
        webhook: WebhookUid,
        after: After,
        made: Made,
    ) -> Replayed {
        if !self.outstanding(position, webhook) {
            return Replayed::Old;
        }
        if let After::InPlace(due) = after {
            let begun = self.begun.entry(position).or_insert(Begun {
                single: Single::default(),
                lane: None,
                payload: None,
                bytes: 0,
                phase: Phase::Found,
            });
            begun.single = made.single(due);
            self.skip(
                position,
                Position {
                    offset: position.offset,
                    index: position.index + 1,
                },
            );
            return Replayed::InPlace;
        }
        self.begun.remove(&position);
        if position.offset >= self.watermark {
            self.ahead.insert(position, ticket);
        } else {
            self.skip(
                position,
                Position {
                    offset: position.offset,
                    index: position.index + 1,
                },
            );
        }
        if let After::Follow(left @ 1..) = after {
            *self.open.entry(ticket).or_default() += left;
            let phase = Phase::Following { ticket, left };
            self.begun.insert(
                position,
                Begun {
                    single: Single::default(),
                    lane: None,
                    payload: None,
                    bytes: 0,
                    phase,
                },
            );
            return Replayed::Refollow;
        }
        Replayed::Settled
    }

    /// Sends that were begun and must be read back from the log, in order, to go again.
    #[must_use]
    pub fn found(&self) -> Vec<Position> {
        self.begun
            .iter()
            .filter(|(_, b)| b.phase == Phase::Found)
            .map(|(p, _)| *p)
            .collect()
    }

    /// Such a send was read back.
    pub fn restore(&mut self, read: Read<T>) {
        let Some(begun) = self
            .begun
            .get_mut(&read.position)
            .filter(|b| b.phase == Phase::Found)
        else {
            return;
        };
        begun.lane = Some(read.lane);
        begun.payload = Some(read.payload);
        begun.bytes = read.bytes;
        begun.phase = Phase::Waiting;
        self.waiting.insert((begun.single.due, read.position));
    }

    /// Where reading at the live edge goes on.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// A send at the live edge. `room` is what the worker may still queue, in bytes.
    pub fn live(
        &mut self,
        read: Read<T>,
        stream: Stream,
        at: StreamPosition,
        now: Millis,
        room: usize,
    ) -> Admitted {
        let (position, next, lane) = (read.position, read.next, read.lane);
        let fresh = self.marks.admit(stream, at, now);
        let known = self.ahead.remove(&position).is_some()
            || self.begun.contains_key(&position)
            || self.skipped(position);
        if !fresh || known {
            if self
                .lanes
                .cursor(lane)
                .is_some_and(|cursor| cursor <= position && !mutated!(KnownNotPassedOver))
            {
                self.skip(position, next);
            }
            return if fresh {
                Admitted::Known
            } else {
                Admitted::Repeat
            };
        }
        match self.lanes.offer(read.queued(), room) {
            Offered::Queued => Admitted::Queued,
            Offered::Left => Admitted::Left,
        }
    }

    /// Everything below `next` has been handed to [`Self::live`] or does not exist.
    pub fn passed(&mut self, next: u64) {
        self.watermark = self.watermark.max(next);
        while self.ahead.first_key_value().is_some_and(|(p, _)| {
            p.offset < self.watermark + u64::from(mutated!(AheadForgottenEarly))
        }) {
            self.ahead.pop_first();
        }
    }

    /// Whether the scan under way takes a send of this lane at this position.
    #[must_use]
    pub fn scan_takes(&self, lane: LaneKey, position: Position) -> bool {
        self.lanes.scan_takes(lane, position)
    }

    /// A send that the scan takes. False: the scan ended at it.
    pub fn scanned(&mut self, read: Read<T>, room: usize) -> bool {
        let (lane, position) = (read.lane, read.position);
        let queued =
            (!self.skipped(position) && !self.begun.contains_key(&position)).then(|| read.queued());
        self.lanes.scanned(lane, position, queued, room)
    }

    /// The scan has read everything below `next`.
    pub fn scan_passed(&mut self, next: u64) {
        self.lanes.scan_passed(next, self.watermark);
    }

    /// The lanes (to begin scans, and for figures).
    pub fn lanes(&mut self) -> &mut Lanes<T> {
        &mut self.lanes
    }

    /// The next send to start. A send to be ended without an exchange is handed out, too.
    pub fn next(&mut self, now: Millis, door: &mut dyn Door<T>) -> Option<Start<T>> {
        self.wait_no_longer_than(now.plus(IN_PLACE_BELOW));
        while let Some((due, position)) =
            self.waiting.first().copied().filter(|(due, _)| *due <= now)
        {
            self.waiting.remove(&(due, position));
            let Some(begun) = self.begun.get_mut(&position) else {
                continue;
            };
            let Some((lane, payload)) = begun.lane.zip(begun.payload.clone()) else {
                continue;
            };
            begun.phase = Phase::Again;
            self.lanes.again(Queued {
                position,
                lane,
                payload,
                bytes: begun.bytes,
            });
        }
        let start = self.lanes.next(now, door)?;
        let queued = &start.queued;
        let begun = self.begun.entry(queued.position).or_insert_with(|| Begun {
            single: Single::default(),
            lane: Some(queued.lane),
            payload: Some(queued.payload.clone()),
            bytes: queued.bytes,
            phase: Phase::Again,
        });
        begun.phase = Phase::Sending { place: start.send };
        Some(start)
    }

    /// Waits in place are short: one that is due later than this was begun by a clock that has been set back since.
    fn wait_no_longer_than(&mut self, latest: Millis) {
        while let Some((due, position)) = self
            .waiting
            .last()
            .copied()
            .filter(|(due, _)| *due > latest)
        {
            self.waiting.remove(&(due, position));
            if let Some(begun) = self.begun.get_mut(&position) {
                begun.single.due = latest;
                self.waiting.insert((latest, position));
            }
        }
    }

    /// What is known of a send that was begun: attempts made in its run, and when the first one of its run began (zero: none).
    #[must_use]
    pub fn single(&self, position: Position) -> Option<Single> {
        self.begun.get(&position).map(|b| b.single)
    }

    /// When [`Self::next`] may have something because of time alone.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        [
            self.waiting.first().map(|(due, _)| *due),
            self.lanes.next_token(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The attempt record of a send begun is stored as `ticket` and has certainly counted.
    pub fn confirmed(
        &mut self,
        ticket: Ticket,
        position: Position,
        after: After,
        health: Health,
        made: Made,
    ) {
        let Some(begun) = self.begun.get_mut(&position) else {
            return;
        };
        let Phase::Sending { place } = begun.phase else {
            return;
        };
        if let Some(lane) = begun.lane.filter(|_| place) {
            self.lanes.ended(lane.webhook, health);
        }
        match after {
            After::Settled | After::Follow(0) => self.settle(position, ticket),
            After::InPlace(due) => {
                begun.single = made.single(due);
                begun.phase = Phase::Waiting;
                self.waiting.insert((due, position));
            }
            After::Follow(left) => {
                begun.phase = Phase::Following { ticket, left };
                *self.open.entry(ticket).or_default() += left;
            }
        }
    }

    /// One of the records that follow from the send's attempt is acknowledged. True when it is settled now.
    pub fn followed(&mut self, position: Position) -> bool {
        let Some(begun) = self.begun.get_mut(&position) else {
            return false;
        };
        let Phase::Following { ticket, left } = &mut begun.phase else {
            return false;
        };
        *left -= 1;
        let (ticket, settled) = (*ticket, *left == 0);
        if let Some(count) = self.open.get_mut(&ticket) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&ticket);
            }
        }
        if settled {
            self.settle(position, ticket);
        }
        settled
    }

    /// The send is settled. Above the watermark (it was restored from there) that must still be known when reading comes by.
    fn settle(&mut self, position: Position, ticket: Ticket) {
        self.begun.remove(&position);
        if position.offset >= self.watermark {
            self.ahead.insert(position, ticket);
        }
    }

    /// Exchanges under way, or whose record is not yet confirmed.
    #[must_use]
    pub fn sending(&self) -> usize {
        self.begun
            .values()
            .filter(|b| matches!(b.phase, Phase::Sending { .. }))
            .count()
    }

    /// Begun and not settled, of any phase that does not just wait.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.begun
            .values()
            .filter(|b| matches!(b.phase, Phase::Sending { .. } | Phase::Following { .. }))
            .count()
    }

    /// The lowest position that is not settled.
    #[must_use]
    pub fn low(&self) -> u64 {
        let begun = self.begun.keys().next().map(|p| p.offset);
        let lane = self.lanes.lowest().map(|p| p.offset);
        [begun, lane]
            .into_iter()
            .flatten()
            .fold(self.watermark, u64::min)
    }

    /// The state to cache. `inspected` is where `attempts` has been followed to ([`super::claims::OwnLog::inspected`]).
    #[must_use]
    pub fn checkpoint(&mut self, epoch: u64, inspected: u64, now: Millis) -> Checkpoint {
        self.marks.forget(now);
        // What every lane has passed is forgotten. Above the watermark nothing has been passed yet.
        let edge = Position::at(self.watermark);
        let floor = self.lanes.lowest().map_or(edge, |lowest| lowest.min(edge));
        self.skips
            .retain(|_, to| *to > floor && !mutated!(SkipsForgotten));
        // Held back to the first record that a new owner must read (again); the claim that counts there is that record's own.
        let held_back = self.open.keys().chain(self.ahead.values()).min().copied();
        let end = held_back
            .filter(|_| !mutated!(EndNotHeldBack))
            .unwrap_or(Ticket {
                offset: inspected,
                epoch,
            });
        Checkpoint {
            watermark: self.watermark,
            attempts_end: end.offset,
            epoch: if mutated!(HeldBackEpochWrong) {
                epoch
            } else {
                end.epoch
            },
            low: self.low(),
            at: now,
            singles: self
                .begun
                .iter()
                .map(|(position, b)| (*position, b.single))
                .collect(),
            lanes: self.lanes.cursors().collect(),
            marks: self.marks.clone(),
            skips: self.skips.clone(),
        }
    }

    fn skipped(&self, position: Position) -> bool {
        self.skips
            .range(..=position)
            .next_back()
            .is_some_and(|(_, to)| position < *to)
    }

    fn skip(&mut self, from: Position, to: Position) {
        let before = self.skips.range(..=from).next_back().map(|(f, t)| (*f, *t));
        match before {
            Some((_, end)) if end >= to => {}
            Some((begin, end)) if end >= from => {
                self.skips.insert(begin, to);
            }
            _ => {
                self.skips.insert(from, to);
            }
        }
    }
}

#[cfg(test)]
mod tests;
