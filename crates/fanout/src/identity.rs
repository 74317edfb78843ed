//! Pure: which event identities were seen lately.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

/// The last so many identities (project, source, id), as hashes of 128 bits with keys that nobody outside knows.
///
/// There is one of these for each partition, and all of them fill up: what an identity costs is what counts. The hashes stand in a ring, in the
/// order in which they came, and a table of places in the ring finds them: 16 bytes for a hash and about 10 to find it, and never a larger
/// copy to be made.
#[derive(Debug)]
pub(crate) struct IdentityWindow {
    keys: [RandomState; 2],
    size: usize,
    ring: Vec<u128>,
    /// Where in the ring the oldest stands, once it is full.
    oldest: usize,
    /// Places in the ring plus one; 0 is free. A hash is searched for from its own slot on up to a free one.
    table: Vec<u32>,
}

impl IdentityWindow {
    pub(crate) fn new(size: usize) -> Self {
        let size = size.clamp(1, SIZE_MAX);
        // At most two thirds of the slots are ever taken.
        let slots = (size + size / 2 + 1).next_power_of_two();
        Self {
            keys: [RandomState::new(), RandomState::new()],
            size,
            ring: Vec::new(),
            oldest: 0,
            table: vec![0; slots],
        }
    }

    /// Notes the identity; says whether it is new within the window. A repeat does not make the first one younger.
    pub(crate) fn note(&mut self, project: &str, source: &str, id: &str) -> bool {
        let [high, low] = [&self.keys[0], &self.keys[1]].map(|key| {
            // `str` hashes with an end mark, so the parts stay apart.
            u128::from(key.hash_one((project, source, id)))
        });
        let hash = high << 64 | low;
        if self.find(hash).is_ok() {
            return false;
        }
        let place = if self.ring.len() < self.size {
            if self.ring.len() == self.ring.capacity() {
                // By as much again, but not beyond what there will ever be.
                let more = self.ring.len().max(64).min(self.size - self.ring.len());
                self.ring.reserve_exact(more);
            }
            self.ring.push(hash);
            self.ring.len() - 1
        } else {
            let place = self.oldest;
            self.forget(self.ring[place]);
            self.ring[place] = hash;
            self.oldest = (place + 1) % self.size;
            place
        };
        // Looked for anew: forgetting another may have moved the free slots.
        if let Err(slot) = self.find(hash) {
            self.table[slot] = u32::try_from(place + 1).unwrap_or(0);
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    fn slot_of(&self, hash: u128) -> usize {
        // The hash is as good as random, so that its lowest bits are.
        (hash as usize) & (self.table.len() - 1)
    }

    /// The slot that leads to this hash, or the free one where it would go.
    fn find(&self, hash: u128) -> Result<usize, usize> {
        let mut slot = self.slot_of(hash);
        loop {
            match self.table[slot] {
                0 => return Err(slot),
                place if self.ring[place as usize - 1] == hash => return Ok(slot),
                _ => slot = (slot + 1) & (self.table.len() - 1),
            }
        }
    }

    /// Frees the slot of this hash, and moves up what stands behind it only because the slot was taken.
    fn forget(&mut self, hash: u128) {
        let Ok(mut free) = self.find(hash) else {
            return;
        };
        let mask = self.table.len() - 1;
        let mut slot = free;
        loop {
            slot = (slot + 1) & mask;
            let place = self.table[slot];
            if place == 0 {
                break;
            }
            let home = self.slot_of(self.ring[place as usize - 1]);
            // Whether the free slot lies on the way from its own slot to where it stands.
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(free) & mask) {
                self.table[free] = place;
                free = slot;
            }
        }
        self.table[free] = 0;
    }
}

/// Places are kept in 32 bits.
const SIZE_MAX: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    #[test]
    fn repeats_are_seen_within_the_window_only() {
        let mut window = IdentityWindow::new(3);
        for id in ["a", "b", "c"] {
            assert!(window.note("p", "s", id));
        }
        assert!(!window.note("p", "s", "a"));
        assert!(window.note("p", "s", "d"), "pushes out a");
        assert!(window.note("p", "s", "a"), "forgotten");
        assert!(!window.note("p", "s", "c"));
        let taken = window.table.iter().filter(|place| **place != 0).count();
        assert_eq!((window.len(), taken), (3, 3));
    }

    #[test]
    fn the_parts_of_an_identity_stay_apart() {
        let mut window = IdentityWindow::new(10);
        assert!(window.note("p", "s", "1"));
        assert!(window.note("ps", "", "1"));
        assert!(window.note("p", "s1", ""));
        assert!(window.note("q", "s", "1"));
    }

    #[test]
    fn it_says_what_a_queue_and_a_set_would_say() {
        for size in [1, 2, 5, 21, 100] {
            let mut window = IdentityWindow::new(size);
            let (mut order, mut seen) = (VecDeque::new(), HashSet::new());
            for n in 0..20_000_u64 {
                // Some that come again at once, some later, some never.
                let id = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % (3 * size as u64);
                let new = seen.insert(id);
                if new {
                    if order.len() == size {
                        seen.remove(&order.pop_front().expect("it is full"));
                    }
                    order.push_back(id);
                }
                assert_eq!(
                    window.note("p", "s", &id.to_string()),
                    new,
                    "size {size}, step {n}"
                );
            }
            assert_eq!(window.len(), order.len());
            assert_eq!(window.ring.capacity(), size.min(window.ring.capacity()));
        }
    }
}
