//! What waits in place: for its time, or for somebody. It may wait for hours, and ten thousand lanes may be blocked by what does: beyond a bound its
//! payloads are put away (they stand in the log, or in `held`) and read again when it is to go.

use super::{Begun, Partition, Phase, Read, Sendable, Slot};
use crate::core::lane::{Health, LaneKey, Queued};
use crate::ids::Position;
use crate::time::Millis;

/// What waits in place for long, by the first of its sends.
#[derive(Debug)]
pub struct Resting<O> {
    /// Where it stands.
    pub position: Position,
    /// Its lane.
    pub lane: LaneKey,
    /// What is known of it.
    pub outline: O,
}

impl<T: Sendable> Partition<T> {
    /// The unit waits until it is due, or is released.
    pub(super) fn wait_in_place(&mut self, position: Position) {
        let Some(begun) = self.begun.get_mut(&position) else {
            return;
        };
        if begun.single.held {
            begun.phase = Phase::Held;
        } else {
            begun.phase = Phase::Waiting;
            self.waiting.insert((begun.single.due, position));
        }
        if let Some(lane) = begun.lane.filter(|_| begun.rests()) {
            self.lanes.waits(lane, true);
        }
        self.loads(position);
    }

    /// Its payloads count as long as it waits.
    pub(super) fn loads(&mut self, position: Position) {
        let Some(begun) = self.begun.get_mut(&position) else {
            return;
        };
        if begun.rests() {
            begun.alone();
        }
        let bytes = begun.bytes();
        if bytes > 0 && self.loaded.insert((begun.until(), position)) {
            self.loaded_bytes += bytes;
        }
    }

    pub(super) fn unloads(&mut self, position: Position) {
        let Some(begun) = self.begun.get(&position) else {
            return;
        };
        if self.loaded.remove(&(begun.until(), position)) {
            self.loaded_bytes -= begun.bytes();
        }
    }

    /// It waits no longer. `None`: it did not.
    fn wakes(&mut self, position: Position) -> Option<()> {
        self.begun.get(&position).filter(|b| b.waits())?;
        self.unloads(position);
        let due = self.begun.get(&position)?.single.due;
        self.waiting.remove(&(due, position));
        Some(())
    }

    /// It goes on at once, whatever it waits for. False: it does not wait.
    pub fn release(&mut self, position: Position) -> bool {
        if self.wakes(position).is_none() {
            return false;
        }
        if let Some(begun) = self.begun.get_mut(&position) {
            begun.single.held = false;
            begun.single.due = self.now;
            begun.phase = Phase::Waiting;
            self.waiting.insert((self.now, position));
        }
        self.loads(position);
        true
    }

    /// What waits in place is being ended by hand: it goes out no more, and that counts with its record.
    pub fn ends(&mut self, position: Position) {
        if self.wakes(position).is_none() {
            return;
        }
        if let Some(begun) = self.begun.get_mut(&position) {
            begun.phase = Phase::Sending { place: false };
            if let Some(lane) = begun.lane.filter(|_| begun.rests()) {
                self.lanes.waits(lane, false);
            }
        }
    }

    /// What is due goes again, once all of it is in memory.
    pub(super) fn go_again(&mut self, now: Millis) {
        while let Some((due, position)) =
            self.waiting.first().copied().filter(|(due, _)| *due <= now)
        {
            self.unloads(position);
            self.waiting.remove(&(due, position));
            let Some(begun) = self.begun.get_mut(&position) else {
                continue;
            };
            begun.phase = Phase::Fetching;
            if begun.whole() {
                self.goes(position);
            } else {
                self.fetching.insert((due, position));
            }
        }
    }

    /// It waits in its lane, in front of all that was not begun.
    fn goes(&mut self, position: Position) {
        let Some(begun) = self.begun.get_mut(&position) else {
            return;
        };
        let Some(send) = begun.first.here().cloned() else {
            return;
        };
        begun.phase = Phase::Again;
        if begun.rests() {
            self.lanes.waits(send.lane, false);
        }
        self.lanes.again(send);
    }

    /// The unit does not go out now: it waits in place and goes again as soon as it may.
    pub(super) fn put_back(&mut self, position: Position) {
        let Some(begun) = self.begun.get_mut(&position) else {
            return;
        };
        begun.single.due = self.now;
        if let Some(lane) = begun.lane {
            self.lanes.ended(lane.webhook, Health::None);
        }
        self.wait_in_place(position);
    }

    /// A clock that is set back makes no wait in place longer.
    pub(super) fn set_clock(&mut self, now: Millis) {
        let back = Millis(self.now.0.saturating_sub(now.0));
        if self.now.0 != i64::MIN && back.0 > 0 {
            for (due, position) in std::mem::take(&mut self.waiting) {
                let loaded = self.loaded.remove(&(due, position));
                let due = Millis(due.0.saturating_sub(back.0));
                if let Some(begun) = self.begun.get_mut(&position) {
                    begun.single.due = due;
                    self.waiting.insert((due, position));
                    if loaded {
                        self.loaded.insert((due, position));
                    }
                }
            }
        }
        self.now = now;
    }

    /// Bytes of the payloads of what waits in place.
    #[must_use]
    pub fn resting_bytes(&self) -> usize {
        self.loaded_bytes
    }

    /// Gives payloads of what waits in place back, until no more than `bytes` of them are left; what waits longest first. What is due by `soon`
    /// keeps them.
    pub fn put_away(&mut self, bytes: usize, soon: Millis) {
        while self.loaded_bytes > bytes
            && let Some((until, position)) = self.loaded.last().copied()
            && until > soon
        {
            self.unloads(position);
            if let Some(begun) = self.begun.get_mut(&position) {
                begun.put_away();
            }
        }
    }

    /// What has to be read again: the positions, in order, of as many units as have at most so many sends, but of one at least. What was due first
    /// comes first.
    #[must_use]
    pub fn to_fetch(&self, sends: usize) -> Vec<Position> {
        let mut wanted = Vec::new();
        for (_, position) in &self.fetching {
            let away = self.away(*position);
            if !wanted.is_empty() && wanted.len() + away.len() > sends {
                break;
            }
            wanted.extend(away);
        }
        wanted.sort_unstable();
        wanted
    }

    /// The sends of this unit that are not in memory.
    #[must_use]
    pub fn away(&self, position: Position) -> Vec<Position> {
        let begun = self.begun.get(&position);
        let slots = begun.into_iter().flat_map(|begun| begun.slots(position));
        slots
            .filter(|(_, slot)| slot.here().is_none())
            .map(|(position, _)| position)
            .collect()
    }

    /// The sends that go out together with the one at this position, if a unit begins there and is in memory: whether it is a batch, and those sends.
    pub fn unit(
        &self,
        position: Position,
    ) -> Option<(bool, impl Iterator<Item = &Queued<T>> + Clone)> {
        let begun = self.begun.get(&position).filter(|begun| begun.whole())?;
        let together = begun.together().filter_map(Slot::here);
        Some((begun.single.batch, together))
    }

    /// What is known of the sends that go out together with the one at this position, if a unit begins there.
    pub fn outlines(&self, position: Position) -> impl Iterator<Item = T::Outline> {
        let begun = self.begun.get(&position).into_iter();
        begun.flat_map(Begun::together).filter_map(Slot::outline)
    }

    /// Every unit that was begun and is not settled, by the position of its first.
    pub fn begun_at(&self) -> impl Iterator<Item = Position> + '_ {
        self.begun.keys().copied()
    }

    /// Units that wait in place, by the position of their first.
    pub fn resting_at(&self) -> impl Iterator<Item = Position> + '_ {
        self.begun
            .iter()
            .filter(|(_, b)| b.waits())
            .map(|(position, _)| *position)
    }

    /// What waits in place for long.
    pub fn resting(&self) -> impl Iterator<Item = Resting<T::Outline>> {
        self.begun.iter().filter_map(|(position, begun)| {
            let rests = begun.waits() || begun.phase == Phase::Fetching;
            Some(Resting {
                position: *position,
                lane: begun.lane.filter(|_| rests && begun.rests())?,
                outline: begun.first.outline()?,
            })
        })
    }

    /// The send of a unit that was begun was read from where it stands. Where not to `keep` its payload, only what it is about is remembered.
    pub fn restore(&mut self, read: Read<T>, keep: bool) {
        let position = read.position;
        let first = self.others.get(&position).copied().unwrap_or(position);
        let begun = self.begun.get_mut(&first);
        let wanted = begun.and_then(|begun| begun.slot_mut(first, position));
        if wanted.is_none_or(|slot| slot.here().is_some()) {
            return;
        }
        self.unloads(first);
        let Some(begun) = self.begun.get_mut(&first) else {
            return;
        };
        begun.lane = Some(read.lane);
        if let Some(slot) = begun.slot_mut(first, position) {
            *slot = if keep {
                Slot::Here(read.queued())
            } else {
                Slot::Away(read.payload.outline())
            };
        }
        if begun.waits() {
            self.loads(first);
        } else if begun.phase == Phase::Fetching && begun.whole() {
            let due = begun.single.due;
            if self.fetching.remove(&(due, first)) {
                self.goes(first);
            }
        }
    }
}
