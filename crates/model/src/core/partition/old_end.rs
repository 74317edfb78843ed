//! What is needed of the logs: of `deliveries`, and of what was moved out of its way to `held`.

use super::{Partition, Sendable, mutated};
use crate::core::held::{Held, HeldRange};
use crate::core::lane::LaneKey;
use crate::ids::Position;

impl<T: Sendable> Partition<T> {
    /// The lowest record of `deliveries` that is still needed: the lowest that is not settled, but for those that stand in `held`.
    #[must_use]
    pub fn low(&self) -> u64 {
        let edge = self.held.edge();
        let begun = self.begun.range(Position::at(edge)..).next();
        let others = self.others.range(Position::at(edge)..).next();
        // A lane is read from its cursor on; that of a batch whose beginning may not count stands before it.
        let lanes = self.lanes.lowest().into_iter();
        let lanes = lanes.chain(self.beginning.keys().next().copied());
        let lanes = lanes.map(|p| p.offset.max(edge));
        [begun.map(|(p, _)| p.offset), others.map(|(p, _)| p.offset)]
            .into_iter()
            .flatten()
            .chain(lanes)
            .fold(self.watermark, u64::min)
    }

    /// The lowest position that is not settled, wherever it stands.
    #[must_use]
    pub fn oldest(&self) -> Position {
        let begun = self.begun.keys().next().copied();
        let watermark = Position::at(self.watermark);
        [begun, self.lanes.lowest()]
            .into_iter()
            .flatten()
            .fold(watermark, Position::min)
    }

    /// Whether a send is not settled for certain: it is to be copied when its stretch of the log moves. A stretch that moved before may reach beyond
    /// what a new owner has read.
    #[must_use]
    pub fn waits_at(&self, lane: LaneKey, position: Position) -> bool {
        if self.begun.contains_key(&position) || self.others.contains_key(&position) {
            return !mutated!(BegunNotCopied);
        }
        if self.skipped(position) || self.ahead.contains_key(&position) {
            return false;
        }
        position.offset >= self.watermark
            || self.lanes.cursor(lane).is_some_and(|at| at <= position)
    }

    /// What stands in `held`.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// A record of `attempts` that counts names a range of `held`.
    pub fn moved(&mut self, range: HeldRange) {
        self.held.moved(range);
    }
}
