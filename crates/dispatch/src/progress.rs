//! Storing checkpoints: when, and what may be deleted once one is acknowledged.

use std::time::Duration;

use hookline_journal::Record;
use hookline_model::core::checkpoint::{Checkpoint, CheckpointWriter};
use hookline_model::time::Millis;

use crate::records;

/// Settled records are deleted when there are this many, or when that long has passed. Sooner where faults are tested: they last for seconds.
const DELETE_RECORDS: u64 = if cfg!(feature = "failpoints") {
    500
} else {
    10_000
};
/// See [`DELETE_RECORDS`].
const DELETE_EVERY: Duration = Duration::from_secs(60);

/// The partition's side of `progress`.
pub(crate) struct ProgressLog {
    p: u32,
    writer: CheckpointWriter,
    dirty: bool,
    last: Millis,
    under_way: Option<UnderWay>,
    /// First record of the latest base, and of what was there before us.
    base_at: u64,
    deleted: (u64, Millis),
    over_deleted: Over,
}

struct UnderWay {
    low: u64,
    over: Over,
    base: bool,
    left: usize,
    first: Option<u64>,
}

/// Beside `deliveries` and `progress`, what nobody needs once a checkpoint is stored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Over {
    /// Records of `commands` below this are done, and nothing that follows from them is missing.
    pub(crate) commands: u64,
    /// Records of `held` below this are settled, or were copied again.
    pub(crate) held: u64,
}

/// An acknowledged checkpoint.
pub(crate) struct Stored {
    /// The lowest position that it still needs.
    pub(crate) low: u64,
    /// What else it made unnecessary.
    pub(crate) over: Over,
    /// Records of `progress` below this are no longer needed.
    pub(crate) progress_before: Option<u64>,
}

impl ProgressLog {
    pub(crate) fn new(p: u32, end: u64) -> Self {
        Self {
            p,
            writer: CheckpointWriter::default(),
            dirty: true,
            last: Millis(0),
            under_way: None,
            base_at: end,
            deleted: (0, Millis(0)),
            over_deleted: Over::default(),
        }
    }

    /// The partition's state changed.
    pub(crate) fn changed(&mut self) {
        self.dirty = true;
    }

    /// Whether a checkpoint is to be stored now; `last`: without waiting for the time.
    pub(crate) fn wants(&self, now: Millis, every: Duration, last: bool) -> bool {
        self.dirty
            && self.under_way.is_none()
            && (last || now.since(self.last) >= every || now < self.last)
    }

    /// Nothing is left to store.
    pub(crate) fn settled(&self) -> bool {
        !self.dirty && self.under_way.is_none()
    }

    /// How long until [`Self::wants`] says yes by itself.
    pub(crate) fn due_in(&self, now: Millis, every: Duration) -> Option<Duration> {
        (self.dirty && self.under_way.is_none()).then(|| every.saturating_sub(now.since(self.last)))
    }

    /// The records of the next checkpoint; once they are stored, what is `over` may go.
    pub(crate) fn begin(
        &mut self,
        checkpoint: &Checkpoint,
        over: Over,
        now: Millis,
    ) -> Vec<Record> {
        let chunks = self
            .writer
            .write(checkpoint, std::array::from_fn(|_| fastrand::u8(..)));
        self.dirty = false;
        self.last = now;
        self.under_way = Some(UnderWay {
            low: checkpoint.low,
            over,
            base: chunks.base,
            left: chunks.chunks.len(),
            first: None,
        });
        chunks
            .chunks
            .iter()
            .map(|chunk| records::plain(None, chunk))
            .collect()
    }

    /// A record of it is stored.
    pub(crate) fn stored(&mut self, index: usize, offset: Option<u64>) -> Option<Stored> {
        let under_way = self.under_way.as_mut()?;
        under_way.left -= 1;
        if index == 0 {
            under_way.first = offset;
        }
        if under_way.left > 0 {
            return None;
        }
        let done = self.under_way.take()?;
        let progress_before = done
            .first
            .filter(|first| done.base && *first >= self.base_at);
        if let Some(first) = progress_before {
            self.base_at = first;
        }
        tracing::trace!(
            partition = self.p,
            low = done.low,
            base = done.base,
            "checkpoint stored"
        );
        Some(Stored {
            low: done.low,
            over: done.over,
            progress_before,
        })
    }

    /// Where to delete `deliveries` up to, if it is worth it.
    pub(crate) fn deletable_deliveries(&mut self, low: u64, now: Millis) -> Option<u64> {
        let (done, at) = self.deleted;
        let enough = low >= done + DELETE_RECORDS || (low > done && now.since(at) >= DELETE_EVERY);
        if enough {
            self.deleted = (low, now);
        }
        enough.then_some(low)
    }

    /// Where to delete `commands` and `held` up to: there is little of it, and so none is kept for longer than it has to be.
    pub(crate) fn deletable_over(&mut self, over: Over) -> (Option<u64>, Option<u64>) {
        let done = self.over_deleted;
        self.over_deleted = Over {
            commands: over.commands.max(done.commands),
            held: over.held.max(done.held),
        };
        (
            (over.commands > done.commands).then_some(over.commands),
            (over.held > done.held).then_some(over.held),
        )
    }
}
