//! What was begun, and how far it is.

use super::Ticket;
use crate::core::checkpoint::Single;
use crate::core::lane::{LaneKey, Queued};
use crate::time::Millis;

/// A unit that was begun and is not settled.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Begun<T> {
    pub(super) single: Single,
    /// The send; of one that a takeover has found only its position is known, until it is read back.
    pub(super) send: Option<Queued<T>>,
    /// See [`Single::others`].
    pub(super) others: Vec<Option<Queued<T>>>,
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

impl<T> Begun<T> {
    pub(super) fn found(single: Single) -> Self {
        Self {
            others: single.others.iter().map(|_| None).collect(),
            single,
            send: None,
            sent: true,
            phase: Phase::Found,
        }
    }

    pub(super) fn lane(&self) -> Option<LaneKey> {
        self.send.as_ref().map(|send| send.lane)
    }

    /// It waits in place: for its time, or for somebody.
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Held)
    }

    /// Whether lanes are told that it waits in place.
    pub(super) fn rests(&self) -> bool {
        self.single.batch || self.lane().is_some_and(|lane| lane.kind.is_ordered())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum Phase {
    /// Found by a takeover; its payload is being read back.
    Found,
    /// Waits in place until it is due.
    Waiting,
    /// Waits in place until somebody releases or ends it.
    Held,
    /// Waits in its lane to go again.
    Again,
    /// A batch whose beginning is being written down.
    Beginning,
    /// The exchange is under way, or its record is not yet confirmed.
    Sending { place: bool },
    /// What follows from the attempt at this offset is being written.
    Following { ticket: Ticket, left: u32 },
}
