//! What a new owner makes of the log of the one before: the records since the cached state, and what was begun, read back.

use std::collections::BTreeSet;

use super::begun::{Begun, Phase};
use super::{After, Made, Partition, Replayed, Sendable, Ticket, after, mutated};
use crate::core::checkpoint::Single;
use crate::core::lane::LaneKey;
use crate::ids::{Position, WebhookUid};
use crate::time::Millis;

impl<T: Sendable> Partition<T> {
    fn outstanding(&self, position: Position, webhook: WebhookUid) -> bool {
        if self.begun.contains_key(&position) || self.others.contains_key(&position) {
            return true;
        }
        if self.ahead.contains_key(&position) || self.skipped(position) {
            return false;
        }
        position.offset >= self.watermark || self.lanes.reach(webhook, position)
    }

    /// Before anything is sent: a record of `attempts` that counts says that this batch begins.
    pub fn replay_begun(&mut self, sends: &[Position], webhook: WebhookUid) {
        let Some((first, others)) = sends.split_first() else {
            return;
        };
        if !self.outstanding(*first, webhook) {
            return;
        }
        for position in sends {
            self.skip(*position, after(*position));
            // It counts, and so what the cached state says of them is older, or comes again behind it.
            self.begun.remove(position);
        }
        if !mutated!(OthersForgotten) {
            self.others
                .extend(others.iter().map(|other| (*other, *first)));
        }
        let single = Single {
            batch: true,
            others: others.to_vec(),
            ..Single::default()
        };
        self.begun.insert(*first, Begun::found(single));
    }

    /// Before anything is sent: a record of `attempts` that counts, in order. It says that the attempt on the unit at `sends` led to `after`.
    pub fn replay(
        &mut self,
        ticket: Ticket,
        sends: &[Position],
        webhook: WebhookUid,
        then: After,
        made: Made,
    ) -> Replayed {
        let Some(position) = sends.first().copied() else {
            return Replayed::Old;
        };
        if !self.outstanding(position, webhook) {
            return Replayed::Old;
        }
        let mut single = match self.begun.remove(&position) {
            Some(begun) => begun.single,
            None => Single {
                others: sends[1..].to_vec(),
                batch: sends.len() > 1,
                ..Single::default()
            },
        };
        (single.attempts, single.first_try) = (made.attempts, made.first_try);
        match then {
            After::InPlace(due) => single.due = due,
            After::Hold => single.held = true,
            After::Split => {
                (single.batch, single.due) = (false, Millis(0));
                single.others_made = (made.attempts, made.first_try);
            }
            After::Settled | After::Follow(_) => {
                return self.replay_settled(ticket, position, single, then);
            }
        }
        let others = single.others.iter().map(|other| (*other, position));
        self.others
            .extend(others.filter(|_| !mutated!(OthersForgotten)));
        for position in [position].iter().chain(&single.others) {
            self.skip(*position, after(*position));
        }
        self.begun.insert(position, Begun::found(single));
        Replayed::InPlace
    }

    fn replay_settled(
        &mut self,
        ticket: Ticket,
        position: Position,
        single: Single,
        then: After,
    ) -> Replayed {
        let together = if single.batch { single.others.len() } else { 0 };
        let (with, later) = single.others.split_at(together);
        for position in [position].iter().chain(with) {
            self.others.remove(position);
            if position.offset >= self.watermark {
                self.ahead.insert(*position, ticket);
            } else {
                self.skip(*position, after(*position));
            }
        }
        if let Some((first, others)) = later.split_first() {
            self.others.remove(first);
            self.others
                .extend(others.iter().map(|other| (*other, *first)));
            let next = Single {
                others: others.to_vec(),
                ..single.next(Millis(0))
            };
            self.begun.insert(*first, Begun::found(next));
        }
        let After::Follow(left @ 1..) = then else {
            return Replayed::Settled;
        };
        *self.open.entry(ticket).or_default() += left;
        let mut begun = Begun::found(Single::default());
        begun.phase = Phase::Following { ticket, left };
        begun.sent = false;
        self.begun.insert(position, begun);
        Replayed::Refollow
    }

    /// Before anything is sent: somebody has released the unit at this position.
    pub fn replay_released(&mut self, position: Position) {
        if let Some(begun) = self.begun.get_mut(&position) {
            begun.single.held = false;
            begun.single.due = Millis(0);
        }
    }

    /// Sends that were begun and must be read back from the log, in order, to go again.
    #[must_use]
    pub fn found(&self) -> Vec<Position> {
        let found = self.begun.iter().filter(|(_, b)| b.phase == Phase::Found);
        let mut found: Vec<Position> = found
            .flat_map(|(first, b)| [*first].into_iter().chain(b.single.others.iter().copied()))
            .collect();
        found.sort_unstable();
        found
    }

    /// Everything that was begun has been read back.
    pub fn restored(&mut self) {
        let found: Vec<Position> = self
            .begun
            .iter()
            .filter(|(_, b)| b.phase == Phase::Found && b.lane.is_some())
            .map(|(position, _)| *position)
            .collect();
        let mut headed: BTreeSet<LaneKey> = BTreeSet::new();
        for position in found {
            let lane = self.begun.get(&position).and_then(|begun| begun.lane);
            let Some(lane) = lane.filter(|_| !mutated!(RestoredDoesNotHold)) else {
                self.wait_in_place(position);
                continue;
            };
            if lane.kind.is_ordered() && !headed.insert(lane) {
                // Several units of it were being ended at once; should they go out after all, they go one after the other.
                self.wait_behind(lane, position);
            } else {
                self.lanes.hold(lane);
                self.wait_in_place(position);
            }
        }
    }

    /// The unit goes on when what was begun before it in its lane is settled.
    fn wait_behind(&mut self, lane: LaneKey, position: Position) {
        if let Some(begun) = self.begun.get_mut(&position) {
            begun.phase = Phase::Behind;
            self.behind.entry(lane).or_default().push_back(position);
        }
        self.loads(position);
    }

    /// What was begun before in the lane is settled: what waits behind it goes on, if something does.
    pub(super) fn goes_on(&mut self, lane: LaneKey) -> bool {
        let Some(behind) = self.behind.get_mut(&lane) else {
            return false;
        };
        let next = behind.pop_front();
        if behind.is_empty() {
            self.behind.remove(&lane);
        }
        let Some(position) = next else {
            return false;
        };
        self.unloads(position);
        self.lanes.hold(lane);
        self.wait_in_place(position);
        true
    }
}
