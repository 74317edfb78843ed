//! Pure: which event identities were seen lately.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;

/// The last so many identities (project, source, id), as hashes of 128 bits with keys that nobody outside knows.
#[derive(Debug)]
pub(crate) struct IdentityWindow {
    keys: [RandomState; 2],
    size: usize,
    order: VecDeque<u128>,
    seen: HashSet<u128>,
}

impl IdentityWindow {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            keys: [RandomState::new(), RandomState::new()],
            size: size.max(1),
            order: VecDeque::new(),
            seen: HashSet::new(),
        }
    }

    /// Notes the identity; says whether it is new within the window. A repeat does not make the first one younger.
    pub(crate) fn note(&mut self, project: &str, source: &str, id: &str) -> bool {
        let [high, low] = [&self.keys[0], &self.keys[1]].map(|key| {
            // `str` hashes with an end mark, so the parts stay apart.
            u128::from(key.hash_one((project, source, id)))
        });
        let hash = high << 64 | low;
        if !self.seen.insert(hash) {
            return false;
        }
        if self.order.len() == self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(hash);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!((window.len(), window.seen.len()), (3, 3));
    }

    #[test]
    fn the_parts_of_an_identity_stay_apart() {
        let mut window = IdentityWindow::new(10);
        assert!(window.note("p", "s", "1"));
        assert!(window.note("ps", "", "1"));
        assert!(window.note("p", "s1", ""));
        assert!(window.note("q", "s", "1"));
    }
}
