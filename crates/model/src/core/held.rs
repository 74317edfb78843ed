//! The old end of a partition: what is unsettled in its first part is copied to another topic, in order and with its first position, so that one
//! webhook that waits for weeks does not keep everybody's records.
//!
//! Copies stand in *ranges*. Each holds what was not settled of a stretch of the log; a copy of what has been settled since is passed over as the
//! record in the log would be. A range exists from the moment that a record of `attempts` names it: what an owner copied and did not come to name,
//! or named under a claim that does not count, nobody reads.

use crate::ids::Position;
use crate::wire;

/// Copies of what was not settled of a stretch of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(Hash))]
pub struct HeldRange {
    /// The stretch of `deliveries`, by offset: from here.
    pub from: u64,
    /// To there (exclusive).
    pub to: u64,
    /// Where the copies stand in `held`: the first.
    pub first: u64,
    /// And behind the last.
    pub end: u64,
    /// The claim under which they were made; others between them are no part of it.
    pub epoch: u64,
}

impl From<wire::HeldRange> for HeldRange {
    fn from(stored: wire::HeldRange) -> Self {
        Self {
            from: stored.from,
            to: stored.to,
            first: stored.first,
            end: stored.end,
            epoch: stored.epoch,
        }
    }
}

impl From<HeldRange> for wire::HeldRange {
    fn from(range: HeldRange) -> Self {
        Self {
            from: range.from,
            to: range.to,
            first: range.first,
            end: range.end,
            epoch: range.epoch,
        }
    }
}

/// What a partition has in `held`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(Hash))]
pub struct Held {
    /// In the order of the log.
    ranges: Vec<HeldRange>,
    /// Whatever is unsettled below this stands in a range, and is read there.
    edge: u64,
    /// Where copies that counted ended so far.
    ends: u64,
}

impl Held {
    /// From its stored form.
    #[must_use]
    pub fn load(ranges: Vec<HeldRange>, edge: u64, ends: u64) -> Self {
        Self { ranges, edge, ends }
    }

    /// For the stored form, with [`Self::ranges`]: edge, ends.
    #[must_use]
    pub fn stored(&self) -> (u64, u64) {
        (self.edge, self.ends)
    }

    /// Whether nothing was ever moved.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.edge == 0
    }

    /// Whatever is unsettled at offsets of `deliveries` below this is read from [`Self::ranges`], what stands behind from `deliveries`.
    #[must_use]
    pub fn edge(&self) -> u64 {
        self.edge
    }

    /// What there is, in the order of the log.
    #[must_use]
    pub fn ranges(&self) -> &[HeldRange] {
        &self.ranges
    }

    /// A record of `attempts` that counts names a range. It takes the place of those of the same stretch. Who reads them again, in order, comes to the
    /// same.
    pub fn moved(&mut self, range: HeldRange) {
        self.ends = self.ends.max(range.end);
        if range.to <= range.from {
            return;
        }
        self.ranges
            .retain(|old| old.to <= range.from || range.to <= old.from);
        self.edge = self.edge.max(range.to);
        if range.first < range.end {
            let place = self.ranges.partition_point(|old| old.from < range.from);
            self.ranges.insert(place, range);
        }
    }

    /// Everything below `oldest` is settled: ranges before it are needed by nobody.
    pub fn settled_below(&mut self, oldest: Position) {
        self.ranges.retain(|range| range.to > oldest.offset);
    }

    /// The lowest offset of `held` that is needed. `None`: nothing is.
    #[must_use]
    pub fn low(&self) -> Option<u64> {
        self.ranges.iter().map(|range| range.first).min()
    }

    /// Records of `held` below this are not needed; those behind it may belong to a move that is being made.
    #[must_use]
    pub fn over(&self) -> u64 {
        self.low().unwrap_or(self.ends)
    }

    /// The range that was made first, which cleaning puts anew: what was settled in it takes room.
    #[must_use]
    pub fn eldest(&self) -> Option<HeldRange> {
        self.ranges.iter().min_by_key(|range| range.first).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u64, to: u64, first: u64, end: u64) -> HeldRange {
        HeldRange {
            from,
            to,
            first,
            end,
            epoch: 1,
        }
    }

    #[test]
    fn ranges_stand_in_the_order_of_the_log_and_a_new_one_takes_the_place_of_the_old() {
        let mut held = Held::default();
        held.moved(range(0, 10, 0, 5));
        held.moved(range(10, 30, 5, 9));
        assert_eq!((held.edge(), held.low(), held.over()), (30, Some(0), 0));
        held.moved(range(0, 10, 9, 11));
        assert_eq!(held.ranges(), [range(0, 10, 9, 11), range(10, 30, 5, 9)]);
        assert_eq!(
            (held.low(), held.eldest()),
            (Some(5), Some(range(10, 30, 5, 9)))
        );
        // Read again from the log, it changes nothing.
        let before = held.clone();
        held.moved(range(0, 10, 0, 5));
        held.moved(range(0, 10, 9, 11));
        assert_eq!(held, before);
        held.settled_below(Position::at(10));
        assert_eq!(held.ranges(), [range(10, 30, 5, 9)]);
        held.settled_below(Position::at(30));
        assert_eq!((held.low(), held.over(), held.edge()), (None, 11, 30));
    }

    #[test]
    fn nothing_left_to_copy_leaves_no_range_but_the_edge() {
        let mut held = Held::default();
        held.moved(range(0, 10, 0, 5));
        held.moved(range(0, 10, 5, 5));
        assert_eq!((held.ranges(), held.edge(), held.over()), (&[][..], 10, 5));
    }
}
