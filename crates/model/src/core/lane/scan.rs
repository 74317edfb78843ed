//! Reading the log again for lanes that are behind: one lane is followed, and the others behind take what passes.

use std::collections::BTreeSet;

use super::{LaneKey, Lanes, Queued, Scan, Turn, move_cursor, mutated};
use crate::ids::Position;

impl<T> Lanes<T> {
    /// Begins to read the log for lanes that are behind and could take more: from which offset. `None`: nothing to do, or a scan is under way.
    pub fn begin_scan(&mut self) -> Option<u64> {
        if self.scan.is_some() || !std::mem::take(&mut self.look) {
            return None;
        }
        let (from, follows) = *self.behind.iter().find(|(_, key)| {
            self.hooks.get(&key.webhook).is_some_and(|h| {
                h.turn != Turn::Parked
                    && h.lanes.get(&key.kind).is_some_and(|lane| {
                        lane.wants_more(h.sends_max(key.kind, self.limits), self.limits.lane_bytes)
                    })
            })
        })?;
        self.scan = Some(Scan {
            follows,
            from: Position::at(from.offset),
            at: from.offset,
            refused: BTreeSet::new(),
        });
        Some(from.offset)
    }

    /// Where the scan stands: the next offset that it needs.
    #[must_use]
    pub fn scanning(&self) -> Option<u64> {
        self.scan.as_ref().map(|s| s.at)
    }

    /// Whether the scan would take a send of this lane at this position.
    #[must_use]
    pub fn scan_takes(&self, lane: LaneKey, position: Position) -> bool {
        let Some(scan) = &self.scan else { return false };
        let Some(cursor) = self
            .hooks
            .get(&lane.webhook)
            .and_then(|h| h.lanes.get(&lane.kind))
            .and_then(|l| l.behind)
        else {
            return false;
        };
        cursor <= position && cursor >= scan.from && !scan.refused.contains(&lane)
    }

    /// A send that the scan met and [`Self::scan_takes`]. `queued` is `None` when it needs no sending (a repeat, or settled before).
    /// False: the followed lane is full, the scan has ended at this record.
    pub fn scanned(
        &mut self,
        lane: LaneKey,
        position: Position,
        queued: Option<Queued<T>>,
        room: usize,
    ) -> bool {
        let Some(scan) = self.scan.as_mut() else {
            return false;
        };
        let Some(hook) = self.hooks.get_mut(&lane.webhook) else {
            return true;
        };
        let quota = hook.quota(lane.kind, room, self.limits);
        let entry = hook.lanes.entry(lane.kind).or_default();
        let old = entry.behind;
        if queued.as_ref().is_some_and(|q| entry.full(q.bytes, quota)) {
            if !mutated!(RefusedLaneTakesOn) {
                scan.refused.insert(lane);
            }
            entry.sated = true;
            move_cursor(&mut self.behind, lane, old, Some(position));
            entry.behind = Some(position);
            let ended = scan.follows == lane;
            if ended {
                self.abandon_scan();
            }
            self.wake(lane.webhook);
            return !ended;
        }
        let next = Position {
            offset: position.offset,
            index: position.index + u32::from(!mutated!(CursorStays)),
        };
        move_cursor(&mut self.behind, lane, old, Some(next));
        entry.behind = Some(next);
        if let Some(queued) = queued {
            self.queued_bytes += queued.bytes;
            self.queued += 1;
            entry.push(queued, self.now);
            entry.sated = false;
            self.wake(lane.webhook);
        }
        true
    }

    /// The scan has read everything below `next`; the live edge is at `watermark`. Lanes that kept up rejoin it there.
    pub fn scan_passed(&mut self, next: u64, watermark: u64) {
        let Some(scan) = self.scan.as_mut() else {
            return;
        };
        scan.at = scan.at.max(next);
        if scan.at + u64::from(mutated!(ScanRejoinsEarly)) < watermark {
            return;
        }
        let Some(scan) = self.scan.take() else { return };
        self.look = true;
        let kept_up: Vec<(Position, LaneKey)> = self
            .behind
            .iter()
            .filter(|(at, key)| *at >= scan.from && !scan.refused.contains(key))
            .copied()
            .collect();
        for (at, key) in kept_up {
            self.behind.remove(&(at, key));
            if let Some(lane) = self
                .hooks
                .get_mut(&key.webhook)
                .and_then(|h| h.lanes.get_mut(&key.kind))
            {
                lane.behind = None;
            }
        }
    }

    /// Stops the scan where it is (nothing is lost: cursors stand).
    pub fn abandon_scan(&mut self) {
        self.scan = None;
        self.look = true;
    }
}
