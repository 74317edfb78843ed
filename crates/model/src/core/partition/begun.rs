//! What was begun, and how far it is.

use super::{Sendable, Ticket, mutated};
use crate::core::checkpoint::Single;
use crate::core::lane::{LaneKey, Queued};
use crate::ids::Position;
use crate::time::Millis;

/// A send of a unit, as far as it is in memory.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) enum Slot<T: Sendable> {
    /// A takeover has found that it was begun; it is being read back.
    Missing,
    /// All of it.
    Here(Queued<T>),
    /// Its payload stands in the log only.
    Away(T::Outline),
}

impl<T: Sendable> Slot<T> {
    pub(super) fn here(&self) -> Option<&Queued<T>> {
        match self {
            Self::Here(queued) => Some(queued),
            Self::Missing | Self::Away(_) => None,
        }
    }

    pub(super) fn outline(&self) -> Option<T::Outline> {
        match self {
            Self::Here(queued) => Some(queued.payload.outline()),
            Self::Away(outline) => Some(outline.clone()),
            Self::Missing => None,
        }
    }

    /// It will be kept for long.
    fn alone(&mut self) {
        if let Self::Here(queued) = self {
            (queued.payload, queued.bytes) = queued.payload.alone();
        }
    }

    /// Gives its payload back.
    fn put_away(&mut self) {
        if let Self::Here(queued) = self {
            *self = Self::Away(queued.payload.outline());
        }
    }
}

/// A unit that was begun and is not settled.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Begun<T: Sendable> {
    pub(super) single: Single,
    /// Its lane; of one that a takeover has found only the position is known, until it is read back.
    pub(super) lane: Option<LaneKey>,
    /// The send, or the first of the batch.
    pub(super) first: Slot<T>,
    /// See [`Single::others`].
    pub(super) others: Vec<Slot<T>>,
    /// It holds its lane: it goes out, or did. Else it is being ended without an exchange.
    pub(super) sent: bool,
    pub(super) phase: Phase,
}

impl Single {
    /// What goes on after it, from `due` on; without its others.
    pub(super) fn next(&self, due: Millis) -> Self {
        Self {
            attempts: self.others_made.0,
            first_try: self.others_made.1,
            others_made: self.others_made,
            due,
            ..Self::default()
        }
    }
}

impl<T: Sendable> Begun<T> {
    pub(super) fn found(single: Single) -> Self {
        Self {
            others: single.others.iter().map(|_| Slot::Missing).collect(),
            single,
            lane: None,
            first: Slot::Missing,
            sent: true,
            phase: Phase::Found,
        }
    }

    /// Its sends with their positions, `first` being its own.
    pub(super) fn slots(&self, first: Position) -> impl Iterator<Item = (Position, &Slot<T>)> {
        let others = self.single.others.iter().copied().zip(&self.others);
        [(first, &self.first)].into_iter().chain(others)
    }

    /// Those of them that go out together.
    pub(super) fn together(&self) -> impl Iterator<Item = &Slot<T>> + Clone {
        let others = if self.single.batch {
            self.others.as_slice()
        } else {
            &[]
        };
        [&self.first].into_iter().chain(others)
    }

    /// Whether all that goes out together is in memory.
    pub(super) fn whole(&self) -> bool {
        let others = usize::MAX * usize::from(!mutated!(BatchGoesInPart));
        let mut together = self.together().take(others.max(1));
        together.all(|slot| slot.here().is_some())
    }

    /// What its payloads take of memory.
    pub(super) fn bytes(&self) -> usize {
        let slots = [&self.first].into_iter().chain(&self.others);
        slots
            .filter_map(Slot::here)
            .map(|queued| queued.bytes)
            .sum()
    }

    /// See [`Sendable::alone`].
    pub(super) fn alone(&mut self) {
        self.slots_mut().for_each(Slot::alone);
    }

    pub(super) fn put_away(&mut self) {
        self.slots_mut().for_each(Slot::put_away);
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot<T>> {
        [&mut self.first].into_iter().chain(&mut self.others)
    }

    /// Until when it waits, by what it knows now.
    pub(super) fn until(&self) -> Millis {
        if self.single.held || self.phase == Phase::Behind {
            Millis(i64::MAX)
        } else {
            self.single.due
        }
    }

    /// The send at this position, if it is one of the unit's, of which `first` is the first.
    pub(super) fn slot_mut(&mut self, first: Position, position: Position) -> Option<&mut Slot<T>> {
        if position == first {
            return Some(&mut self.first);
        }
        let index = self.single.others.iter().position(|p| *p == position)?;
        self.others.get_mut(index)
    }

    /// It waits in place: for its time, or for somebody.
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Held)
    }

    /// Whether lanes are told that it waits in place.
    pub(super) fn rests(&self) -> bool {
        self.single.batch || self.lane.is_some_and(|lane| lane.kind.is_ordered())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum Phase {
    /// Found by a takeover; its payload is being read back.
    Found,
    /// Was begun, too; waits for what was begun before it in its lane.
    Behind,
    /// Waits in place until it is due.
    Waiting,
    /// Waits in place until somebody releases or ends it.
    Held,
    /// Is due, or released; its payloads are being read again.
    Fetching,
    /// Waits in its lane to go again.
    Again,
    /// A batch whose beginning is being written down.
    Beginning,
    /// The exchange is under way, or its record is not yet confirmed.
    Sending { place: bool },
    /// What follows from the attempt at this offset is being written.
    Following { ticket: Ticket, left: u32 },
}
