//! Progress of one partition of `deliveries`, as its owner sees it: the watermark (every position below is settled or listed) and the exceptions
//! below it. It is a function of `attempts` and what that refers to; see [`super::checkpoint`] for its stored form.
//!
//! Life of a send: read at the live edge ([`Partition::live`]) or by a scan, it waits in its lane; [`Partition::next`] begins it, alone or with others
//! of a batch, as a *unit* that is named by the position of its first; a batch is written down before it goes out ([`Partition::begun`]); the
//! unit's attempt record is stored and has certainly counted ([`Partition::confirmed`]); what follows from it is acknowledged
//! ([`Partition::followed`]); it is settled.

mod asked;
mod begun;
mod old_end;
mod replay;
mod resting;

pub use resting::Resting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use begun::{Begun, Phase, Slot};

use super::checkpoint::{Checkpoint, Single};
use super::held::Held;
use super::lane::{Door, Health, LaneKey, Lanes, Offered, QueueLimits, Queued, Start};
use super::marks::{JobIs, SourceMarks, Stream, StreamPosition};
use super::mutation::mutated;
use crate::ids::{DeliveryId, Position};
use crate::time::Millis;

/// What is to be sent, as a partition keeps it: cheap to clone.
pub trait Sendable: Clone {
    /// What is remembered of it while its payload stands in the log only.
    type Outline: Clone + std::fmt::Debug + std::hash::Hash;

    /// See [`Self::Outline`].
    fn outline(&self) -> Self::Outline;

    /// As it is kept while it waits for long: sharing nothing with others, which may be gone by then. And what it takes of memory, in bytes.
    fn alone(&self) -> (Self, usize);
}

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
    /// What it takes of memory.
    pub bytes: usize,
    /// What it adds to the body of a batch, in bytes.
    pub weight: usize,
}

impl<T> Read<T> {
    fn queued(self) -> Queued<T> {
        Queued {
            position: self.position,
            lane: self.lane,
            payload: self.payload,
            bytes: self.bytes,
            weight: self.weight,
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
    /// Nothing: the unit is settled.
    Settled,
    /// The unit goes again at its place, not before this.
    InPlace(Millis),
    /// So many records are being written; then the unit is settled.
    Follow(u32),
    /// The unit waits at its place until [`Partition::release`].
    Hold,
    /// The batch is over: its sends go on one after the other, at their places.
    Split,
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

/// The state of a partition. `T` is what is needed to send.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Partition<T: Sendable> {
    watermark: u64,
    marks: SourceMarks,
    lanes: Lanes<T>,
    begun: BTreeMap<Position, Begun<T>>,
    /// Sends of units begun that are not the first of them, with that one.
    others: BTreeMap<Position, Position>,
    /// Batches whose beginning is not certainly written down, by their first: to others they still wait in their lanes.
    beginning: BTreeMap<Position, LaneKey>,
    /// Units that a takeover found begun in an ordered lane behind the first of them, in order.
    behind: BTreeMap<LaneKey, VecDeque<Position>>,
    /// In-place waits by due time.
    waiting: BTreeSet<(Millis, Position)>,
    /// What waits in place and has payloads in memory, by how long it waits; and their bytes.
    loaded: BTreeSet<(Millis, Position)>,
    loaded_bytes: usize,
    /// What is due, or released, and whose payloads have to be read again first.
    fetching: BTreeSet<(Millis, Position)>,
    /// The time last heard of.
    now: Millis,
    /// Everything that came into the log before this moment has been read.
    entered: Millis,
    /// Positions that a lane passes over: repeats, and what was dealt with out of turn. From, to (exclusive).
    skips: BTreeMap<Position, Position>,
    /// See [`Checkpoint::ended`].
    ended: BTreeMap<(DeliveryId, u64), Millis>,
    /// See [`Checkpoint::commands`].
    commands: u64,
    /// See [`Checkpoint::held`].
    held: Held,
    /// Commands whose run has not certainly been appended to the log, with the record that says it begins.
    starting: BTreeMap<u64, Ticket>,
    /// Settled by a previous owner, at or above the watermark: by which record.
    ahead: BTreeMap<Position, Ticket>,
    /// Records of `attempts` whose follow-ups are not all acknowledged, with their number.
    open: BTreeMap<Ticket, u32>,
}

impl<T: Sendable> Partition<T> {
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
        let others = checkpoint
            .singles
            .iter()
            .flat_map(|(first, single)| single.others.iter().map(|other| (*other, *first)))
            .filter(|_| !mutated!(OthersForgotten))
            .collect();
        let begun = checkpoint
            .singles
            .into_iter()
            .map(|(position, single)| (position, Begun::found(single)))
            .collect();
        Self {
            watermark: checkpoint.watermark.max(log_start),
            marks: checkpoint.marks,
            lanes,
            begun,
            others,
            beginning: BTreeMap::new(),
            behind: BTreeMap::new(),
            waiting: BTreeSet::new(),
            loaded: BTreeSet::new(),
            loaded_bytes: 0,
            fetching: BTreeSet::new(),
            now: Millis(i64::MIN),
            entered: Millis(i64::MIN),
            skips: checkpoint.skips,
            ended: checkpoint.ended,
            commands: checkpoint.commands,
            held: checkpoint.held,
            starting: BTreeMap::new(),
            ahead: BTreeMap::new(),
            open: BTreeMap::new(),
        }
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
        self.lanes.heard(now);
        let fresh = self.marks.admit(stream, at, now);
        let known = self.ahead.remove(&position).is_some()
            || self.begun.contains_key(&position)
            || self.others.contains_key(&position)
            || self.skipped(position);
        if !fresh || known {
            let before = |cursor: Position| cursor <= position && !mutated!(KnownNotPassedOver);
            let mut beginning = self.beginning.iter();
            if self.lanes.cursor(lane).is_some_and(before)
                || beginning.any(|(first, of)| *of == lane && before(*first))
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

    /// What was handed to [`Self::live`] last came into the log at this moment, so that nothing from before is still to come.
    pub fn entered(&mut self, at: Millis) {
        self.entered = self.entered.max(at);
    }

    /// Whether sends of jobs have come whose streams are remembered.
    #[must_use]
    pub fn remembers_jobs(&self) -> bool {
        self.marks.jobs().next().is_some()
    }

    /// Forgets how far jobs came that can no longer speak; `is` says how a job stands.
    pub fn forget_jobs(&mut self, is: impl FnMut(&str) -> JobIs) {
        self.marks.forget_jobs(self.entered, is);
    }

    /// Whether the scan under way takes a send of this lane at this position.
    #[must_use]
    pub fn scan_takes(&self, lane: LaneKey, position: Position) -> bool {
        self.lanes.scan_takes(lane, position)
    }

    /// A send that the scan takes. False: the scan ended at it.
    pub fn scanned(&mut self, read: Read<T>, room: usize) -> bool {
        let (lane, position) = (read.lane, read.position);
        let known = self.skipped(position)
            || self.begun.contains_key(&position)
            || self.others.contains_key(&position);
        let queued = (!known).then(|| read.queued());
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

    /// The next unit to start; what is to be ended without an exchange is handed out, too. A batch that was not begun before is to be written down
    /// first: [`Start::batch`] says so, and [`Self::begun`] when that has been done.
    pub fn next(&mut self, now: Millis, door: &mut dyn Door<T>) -> Option<Start<T>> {
        self.set_clock(now);
        self.go_again(now);
        let mut start = self.lanes.next(now, door)?;
        let position = start.queued.position;
        if let Some(begun) = self.begun.get_mut(&position) {
            begun.phase = Phase::Sending { place: start.send };
            if begun.single.batch {
                start.others = begun
                    .others
                    .iter()
                    .filter_map(Slot::here)
                    .cloned()
                    .collect();
            }
            return Some(start);
        }
        let others: Vec<Position> = start.others.iter().map(|q| q.position).collect();
        self.others
            .extend(others.iter().map(|other| (*other, position)));
        let begun = Begun {
            single: Single {
                batch: start.batch,
                others,
                ..Single::default()
            },
            lane: Some(start.queued.lane),
            first: Slot::Here(start.queued.clone()),
            others: start.others.iter().cloned().map(Slot::Here).collect(),
            sent: start.send,
            phase: if start.batch {
                Phase::Beginning
            } else {
                Phase::Sending { place: start.send }
            },
        };
        self.begun.insert(position, begun);
        if start.batch {
            self.beginning.insert(position, start.queued.lane);
        }
        Some(start)
    }

    /// The batch is written down, and that has certainly counted: it goes out now, or (`goes` is false) when somebody may send again.
    pub fn begun(&mut self, position: Position, goes: bool) {
        let Some(begun) = self
            .begun
            .get_mut(&position)
            .filter(|b| b.phase == Phase::Beginning)
        else {
            return;
        };
        begun.phase = Phase::Sending { place: true };
        self.beginning.remove(&position);
        if !goes {
            self.put_back(position);
        }
    }

    /// What is known of a send that was begun: attempts made in its run, and when the first one of its run began (zero: none).
    #[must_use]
    pub fn single(&self, position: Position) -> Option<&Single> {
        self.begun.get(&position).map(|b| &b.single)
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

    /// The attempt record of the unit at `position` is stored as `ticket` and has certainly counted.
    pub fn confirmed(
        &mut self,
        ticket: Ticket,
        position: Position,
        then: After,
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
        (begun.single.attempts, begun.single.first_try) = (made.attempts, made.first_try);
        match then {
            After::Settled | After::Follow(0) => self.settle(position, ticket),
            After::InPlace(due) => {
                begun.single.due = due;
                self.wait_in_place(position);
            }
            After::Hold => {
                begun.single.held = true;
                self.wait_in_place(position);
            }
            After::Split => {
                (begun.single.batch, begun.single.due) = (false, self.now);
                begun.single.others_made = (made.attempts, made.first_try);
                self.wait_in_place(position);
            }
            After::Follow(left) => {
                begun.phase = Phase::Following { ticket, left };
                *self.open.entry(ticket).or_default() += left;
            }
        }
    }

    /// One of the records that follow from the unit's attempt is acknowledged. True when it is settled now.
    pub fn followed(&mut self, position: Position) -> bool {
        let Some(begun) = self.begun.get_mut(&position) else {
            return false;
        };
        let Phase::Following { ticket, left } = &mut begun.phase else {
            return false;
        };
        *left -= 1;
        let (ticket, settled) = (*ticket, *left == 0);
        self.close(ticket);
        if settled {
            self.settle(position, ticket);
        }
        settled
    }

    /// One thing less that follows from the record is not acknowledged.
    fn close(&mut self, ticket: Ticket) {
        if let Some(count) = self.open.get_mut(&ticket) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&ticket);
            }
        }
    }

    /// The unit is settled. Above the watermark (it was restored from there) that must still be known when reading comes by.
    fn settle(&mut self, position: Position, ticket: Ticket) {
        let Some(begun) = self.begun.remove(&position) else {
            return;
        };
        let lane = begun.lane;
        let mut others = begun.others.into_iter();
        if begun.single.batch {
            for position in &begun.single.others {
                self.passed_over(*position, ticket, lane);
            }
        } else if let Some((next, later)) = begun.single.others.split_first() {
            // Of a batch that was split, the next one goes on in its place.
            self.passed_over(position, ticket, lane);
            self.others.remove(next);
            self.others
                .extend(later.iter().map(|other| (*other, *next)));
            let single = Single {
                others: later.to_vec(),
                ..begun.single.next(self.now)
            };
            let goes_on = Begun {
                lane,
                first: others.next().unwrap_or(Slot::Missing),
                others: others.collect(),
                sent: true,
                ..Begun::found(single)
            };
            self.begun.insert(*next, goes_on);
            if let Some(lane) = lane.filter(|lane| lane.kind.is_ordered()) {
                self.lanes.hold(lane);
            }
            self.wait_in_place(*next);
            return;
        }
        self.passed_over(position, ticket, lane);
        if let Some(lane) = lane.filter(|lane| !self.goes_on(*lane)) {
            self.lanes.settled(lane, begun.sent);
        }
    }

    fn passed_over(&mut self, position: Position, ticket: Ticket, lane: Option<LaneKey>) {
        self.others.remove(&position);
        if position.offset >= self.watermark {
            self.ahead.insert(position, ticket);
        }
        // For others the lane still stands before it.
        let mut before = self.beginning.range(..position);
        if before.any(|(_, beginning)| Some(*beginning) == lane) {
            self.skip(position, after(position));
        }
    }

    /// Exchanges under way, or whose record is not yet confirmed.
    #[must_use]
    pub fn sending(&self) -> usize {
        self.begun
            .values()
            .filter(|b| matches!(b.phase, Phase::Beginning | Phase::Sending { .. }))
            .count()
    }

    /// Begun and not settled, of any phase that does not just wait; and runs that begin.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let unsettled = |b: &&Begun<T>| {
            matches!(
                b.phase,
                Phase::Beginning | Phase::Sending { .. } | Phase::Following { .. }
            )
        };
        self.begun.values().filter(unsettled).count() + self.starting.len()
    }

    /// The state to cache. `inspected` is where `attempts` has been followed to ([`super::claims::OwnLog::inspected`]).
    #[must_use]
    pub fn checkpoint(&mut self, epoch: u64, inspected: u64, now: Millis) -> Checkpoint {
        self.marks.forget(self.entered);
        self.ended.retain(|_, forgotten| *forgotten > now);
        self.held.settled_below(self.oldest());
        // A batch whose beginning may not count yet stands in its lane, with all that follows it there; what was begun of that is passed over.
        let mut lanes: BTreeMap<LaneKey, Position> = self.lanes.cursors().collect();
        for (first, lane) in &self.beginning {
            let cursor = lanes.entry(*lane).or_insert(*first);
            *cursor = (*cursor).min(*first);
        }
        let begun_ahead: Vec<Position> = self
            .begun
            .iter()
            .filter(|(_, b)| b.phase != Phase::Beginning && !self.beginning.is_empty())
            .filter(|(position, b)| {
                b.lane
                    .and_then(|lane| lanes.get(&lane))
                    .is_some_and(|cursor| cursor <= *position)
            })
            .flat_map(|(position, b)| {
                [*position]
                    .into_iter()
                    .chain(b.single.others.iter().copied())
            })
            .collect();
        for position in begun_ahead {
            self.skip(position, after(position));
        }
        // What every lane has passed is forgotten. Above the watermark nothing has been passed yet.
        let edge = Position::at(self.watermark);
        let floor = lanes
            .values()
            .min()
            .map_or(edge, |lowest| edge.min(*lowest));
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
                .filter(|(_, b)| b.phase != Phase::Beginning)
                .map(|(position, b)| (*position, b.single.clone()))
                .collect(),
            lanes,
            marks: self.marks.clone(),
            skips: self.skips.clone(),
            ended: self.ended.clone(),
            commands: self.commands,
            held: self.held.clone(),
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

fn after(position: Position) -> Position {
    Position {
        offset: position.offset,
        index: position.index + 1,
    }
}

#[cfg(test)]
mod tests;
