//! What a worker tells about itself, and the accounts of memory that it shares with the other partitions of its process.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Worker;

impl Worker {
    /// Tells what can be counted now.
    pub(super) fn figures(&mut self) {
        let lanes = self.partition.lanes();
        let (behind, queued, blocked) = (lanes.behind(), lanes.queued(), lanes.resting());
        self.account();
        self.put_away();
        self.behind.set(counted(behind));
        self.queued.set(counted(queued));
        self.blocked.set(counted(blocked));
        self.resting.set(counted(self.resting_bytes));
    }

    /// Bytes that may still be queued, now.
    pub(super) fn room(&mut self) -> usize {
        self.account();
        self.shared.room()
    }

    /// Tells the other partitions of this worker what is queued here: they share the room.
    fn account(&mut self) {
        let bytes = self.partition.lanes().queued_bytes();
        told(&self.shared.queued_bytes, &mut self.queued_bytes, bytes);
    }

    /// Tells them what the payloads of what waits in place take of memory.
    pub(super) fn tell_resting(&mut self) {
        let bytes = self.partition.resting_bytes();
        told(&self.shared.resting_bytes, &mut self.resting_bytes, bytes);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        told(&self.shared.queued_bytes, &mut self.queued_bytes, 0);
        told(&self.shared.resting_bytes, &mut self.resting_bytes, 0);
    }
}

fn counted(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Tells what is in use here now, in place of what was before.
fn told(all: &AtomicUsize, before: &mut usize, now: usize) {
    if now > *before {
        all.fetch_add(now - *before, Ordering::Relaxed);
    } else if now < *before {
        all.fetch_sub(*before - now, Ordering::Relaxed);
    }
    *before = now;
}
