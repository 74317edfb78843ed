//! Pure: what is on its way, how far everything is acknowledged, and which deliveries were met before.

use std::collections::{HashSet, VecDeque};

use hookline_model::ids::DeliveryId;
use hookline_model::job::JobCounts;

/// A place in the source, and what was met until there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) position: u64,
    pub(crate) counts: JobCounts,
}

/// Appends of one partition in the order in which they were handed over; each comes with an answer of type `A`.
#[derive(Debug)]
pub(crate) struct Flight<A> {
    flying: VecDeque<(Reached, usize, A)>,
    bytes: usize,
    /// As of the last acknowledged append.
    done: Reached,
    /// As of the last record read.
    read: Reached,
}

impl<A> Flight<A> {
    /// Nothing on its way.
    pub(crate) fn at(reached: Reached) -> Self {
        Self {
            flying: VecDeque::new(),
            bytes: 0,
            done: reached,
            read: reached,
        }
    }

    /// As of the last record read, whatever is on its way.
    pub(crate) fn read(&self) -> Reached {
        self.read
    }

    /// Everything until here is done and acknowledged.
    pub(crate) fn reached(&self) -> Reached {
        match self.flying.is_empty() {
            true => self.read,
            false => self.done,
        }
    }

    /// Whether more may be handed over.
    pub(crate) fn has_room(&self, records: usize, bytes: usize) -> bool {
        self.flying.len() < records && self.bytes < bytes
    }

    /// A record was read, and nothing came of it.
    pub(crate) fn pass(&mut self, reached: Reached) {
        self.read = reached;
    }

    /// A record was read, and something of so many bytes was handed over.
    pub(crate) fn push(&mut self, reached: Reached, bytes: usize, answer: A) {
        if self.flying.is_empty() {
            self.done = self.read;
        }
        self.read = reached;
        self.bytes += bytes;
        self.flying.push_back((reached, bytes, answer));
    }

    /// The answer that is awaited next.
    pub(crate) fn front(&mut self) -> Option<&mut A> {
        self.flying.front_mut().map(|(_, _, answer)| answer)
    }

    /// It was acknowledged.
    pub(crate) fn acknowledged(&mut self) {
        if let Some((reached, bytes, _)) = self.flying.pop_front() {
            self.done = reached;
            self.bytes -= bytes;
        }
    }
}

/// The last so many deliveries that a partition had for a job. A delivery may stand in its source more than once: an event that was published
/// twice, one that ended again after it had been started over, what a new owner of a partition wrote again.
#[derive(Debug)]
pub(crate) struct Seen {
    size: usize,
    order: VecDeque<DeliveryId>,
    there: HashSet<DeliveryId>,
}

impl Seen {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            order: VecDeque::new(),
            there: HashSet::new(),
        }
    }

    /// Takes note of it; false when it was met before.
    pub(crate) fn note(&mut self, delivery: DeliveryId) -> bool {
        if !self.there.insert(delivery) {
            return false;
        }
        if self.order.len() >= self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.there.remove(&oldest);
        }
        self.order.push_back(delivery);
        true
    }
}
