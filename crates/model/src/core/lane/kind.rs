//! Which lanes a webhook has in a partition.

use crate::limits::KEY_LANES;

/// Which of a webhook's lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// What fan-out wrote, in no order.
    Fresh,
    /// What tiers brought back.
    Due,
    /// What jobs wrote, in no order.
    Bulk,
    /// What is in order within the webhook.
    Ordered,
    /// What jobs wrote, in order within itself.
    OrderedBulk,
    /// What is in order within the event key: one of [`KEY_LANES`], by a hash of the key.
    Key(u8),
}

/// The stored number of the first of the lanes by key.
const FIRST_KEY: u32 = 64;

impl LaneKind {
    /// The stored number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Fresh => 0,
            Self::Due => 1,
            Self::Bulk => 2,
            Self::Ordered => 3,
            Self::OrderedBulk => 4,
            Self::Key(key) => FIRST_KEY + u32::from(key),
        }
    }

    /// From the stored number.
    #[must_use]
    pub fn from_number(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::Fresh,
            1 => Self::Due,
            2 => Self::Bulk,
            3 => Self::Ordered,
            4 => Self::OrderedBulk,
            _ => {
                let key = n.checked_sub(FIRST_KEY).filter(|key| *key < KEY_LANES)?;
                Self::Key(u8::try_from(key).ok()?)
            }
        })
    }

    /// The lane of an event key.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        // FNV-1a: stored positions depend on it, so it is one that never changes.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
        Self::Key(u8::try_from(folded % u64::from(KEY_LANES)).unwrap_or(0))
    }

    /// Whether the next may start only when the one before is final.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Ordered | Self::OrderedBulk | Self::Key(_))
    }

    /// Whether what stands in it goes out together, where its webhook takes batches. What tiers brought back was tried by itself, each so many times: it goes on
    /// by itself, under the id that its receiver knows.
    #[must_use]
    pub fn goes_together(self) -> bool {
        self != Self::Due
    }

    /// Whether it takes only what the others leave.
    #[must_use]
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Bulk | Self::OrderedBulk)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_reads_back_from_its_number_and_nothing_else_does() {
        let kinds: Vec<_> = (0..200).filter_map(LaneKind::from_number).collect();
        assert_eq!(kinds.len(), 5 + KEY_LANES as usize);
        for kind in kinds {
            assert_eq!(LaneKind::from_number(kind.number()), Some(kind));
        }
    }

    #[test]
    fn keys_spread_over_all_lanes_and_a_key_stays_in_its_own() {
        let lanes: BTreeSet<_> = (0..2_000)
            .map(|n| LaneKind::of_key(&format!("user-{n}")))
            .collect();
        assert_eq!(lanes.len(), KEY_LANES as usize);
        // Positions that are stored depend on it.
        assert_eq!(LaneKind::of_key("user-7"), LaneKind::Key(4));
    }
}
