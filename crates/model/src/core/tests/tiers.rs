//! The tiers as plain lists: copiers that die between copying and committing, and former ones that go on.

use std::collections::BTreeMap;

use crate::ids::Position;

/// A retry on its way back.
#[derive(Debug, Clone, Hash)]
pub(super) struct Waiting<W> {
    pub(super) path: Vec<u64>,
    pub(super) hop: usize,
    pub(super) ticket: Position,
    pub(super) what: W,
}

/// The topics of all tiers, and how far each of their two copiers is.
#[derive(Debug, Clone, Hash)]
pub(super) struct Tiers<W> {
    topics: BTreeMap<u64, Vec<Waiting<W>>>,
    copiers: BTreeMap<(u64, bool), usize>,
}

impl<W> Default for Tiers<W> {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            copiers: BTreeMap::new(),
        }
    }
}

impl<W: Clone> Tiers<W> {
    pub(super) fn append(&mut self, waiting: Waiting<W>) {
        let tier = waiting.path[waiting.hop];
        self.topics.entry(tier).or_default().push(waiting);
    }

    /// A copier copies its next record; what comes back from its last tier is returned.
    pub(super) fn copy(&mut self, tier: u64, copier: bool) -> Option<Waiting<W>> {
        let at = self.copiers.entry((tier, copier)).or_default();
        let mut waiting = self.topics.get(&tier)?.get(*at)?.clone();
        *at += 1;
        if waiting.hop + 1 == waiting.path.len() {
            return Some(waiting);
        }
        waiting.hop += 1;
        self.append(waiting);
        None
    }

    /// A copier begins anew at what was committed: that may lie some way back, but never beyond what was copied.
    pub(super) fn restart(&mut self, tier: u64, copier: bool, back: usize) {
        let at = |copier| self.copiers.get(&(tier, copier)).copied().unwrap_or(0);
        let copied = at(false).max(at(true));
        self.copiers
            .insert((tier, copier), copied.saturating_sub(back));
    }

    /// The tiers that have anything left to copy, by the first copier.
    pub(super) fn waiting(&self) -> Option<u64> {
        let left = self.topics.iter().find(|(tier, records)| {
            self.copiers.get(&(**tier, false)).copied().unwrap_or(0) < records.len()
        });
        left.map(|(tier, _)| *tier)
    }
}
