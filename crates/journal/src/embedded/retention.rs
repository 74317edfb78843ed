//! Housekeeping: records that are too old, records replaced by later ones of their key, and the space of both. One thread, in small steps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::state::{Partition, Shared, Topic};
use super::store;
use super::writer::Command;
use crate::JournalError;

/// Records looked at or removed in one step; between steps appends go first.
const STEP: usize = 1000;
/// Bytes read in one step.
const STEP_BYTES: usize = 2 * 1024 * 1024;
/// Keys remembered in one pass of compaction; what does not fit waits for the next.
const KEYS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Compaction waits for this many new records (or as many as remained last time), as every pass reads the whole partition.
const DIRTY_MIN: u64 = 1000;
/// How often tombstones are looked after where nothing else is to do.
const TOMBSTONES_EVERY: Duration = Duration::from_secs(3600);

/// Wakes and stops the thread.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    stop: bool,
    poked: bool,
}

impl Signal {
    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// There is something to do now.
    pub(super) fn poke(&self) {
        self.state.lock().poked = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Waits for `every`, or until poked. False when it is to stop.
    fn wait(&self, every: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.stop && !state.poked {
            self.changed.wait_for(&mut state, every);
        }
        state.poked = false;
        !state.stop
    }
}

/// What a compacted partition looked like after its last pass.
#[derive(Clone, Copy, Default)]
struct LastPass {
    at: Duration,
    left: u64,
    tombstones: bool,
}

/// Which of its tasks to do whether or not they are due.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    /// Do what is due.
    Nothing,
    /// Compact everything there is.
    Compaction,
}

/// The housekeeper. The lock around its memory keeps passes apart.
#[derive(Default)]
pub(super) struct Housekeeper {
    pub(super) signal: Signal,
    passes: Mutex<HashMap<(u32, u32), LastPass>>,
}

/// What a scan found.
struct Found {
    offset: u64,
    time: i64,
    key: Option<Bytes>,
    tombstone: bool,
}

impl Housekeeper {
    /// Runs until stopped.
    pub(super) fn run(&self, shared: &Shared) {
        while self.signal.wait(shared.config.housekeeping_every) {
            if let Err(error) = self.pass(shared, Force::Nothing) {
                if self.signal.stopped() {
                    return;
                }
                tracing::warn!(%error, "housekeeping was interrupted and is tried again");
            }
        }
    }

    /// One round over all partitions.
    pub(super) fn pass(&self, shared: &Shared, force: Force) -> Result<(), JournalError> {
        let mut passes = self.passes.lock();
        let topics: Vec<Arc<Topic>> = shared.topics.read().values().cloned().collect();
        for topic in topics {
            for partition in &topic.partitions {
                if self.signal.stopped() {
                    return Ok(());
                }
                if let Some(retention) = topic.meta.retention() {
                    self.retain(shared, partition, retention)?;
                }
                self.free(shared, partition)?;
                if topic.meta.compact {
                    let last = passes
                        .entry((partition.topic_id, partition.partition))
                        .or_default();
                    self.compact(shared, partition, last, force)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the start over records that are too old. Stops at the first that is not, so a clock that was ahead delays, and never deletes.
    fn retain(
        &self,
        shared: &Shared,
        partition: &Arc<Partition>,
        retention: Duration,
    ) -> Result<(), JournalError> {
        let span = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let oldest = shared.config.clock.now().0.saturating_sub(span);
        while !self.signal.stopped() {
            let (start, end) = (partition.start(), partition.end());
            let step = scan(shared, partition, start, end, Look::UntilYoung(oldest))?;
            let young = step.found.iter().find(|f| f.time >= oldest);
            let before = young.map_or(step.next, |f| f.offset);
            if before > start {
                delete_before(shared, partition, before)?;
            }
            if young.is_some() || step.next >= end {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes deleted records off the disk.
    fn free(&self, shared: &Shared, partition: &Arc<Partition>) -> Result<(), JournalError> {
        while !self.signal.stopped() {
            let (freed, start) = (partition.marks().freed, partition.start());
            if freed >= start {
                return Ok(());
            }
            let step = scan(shared, partition, freed, start, Look::Offsets)?;
            let offsets = step.found.iter().map(|f| f.offset).collect();
            remove(shared, partition, offsets, Some(step.next), None)?;
        }
        Ok(())
    }

    /// Keeps the last record of each key, and drops tombstones that everybody had time to see.
    fn compact(
        &self,
        shared: &Shared,
        partition: &Arc<Partition>,
        last: &mut LastPass,
        force: Force,
    ) -> Result<(), JournalError> {
        let (now, boot) = (shared.config.clock.now().0, shared.config.clock.boot());
        let kept = i64::try_from(shared.config.tombstones_kept.as_millis()).unwrap_or(i64::MAX);
        let (cleaned, end) = (partition.marks().cleaned, partition.end());
        let dirty = end.saturating_sub(cleaned) >= DIRTY_MIN.max(last.left);
        let tombstones = last.tombstones && boot.saturating_sub(last.at) >= TOMBSTONES_EVERY;
        // After a start nothing is known about tombstones, so the first pass looks.
        let first = last.at == Duration::ZERO && end > partition.start();
        if force == Force::Nothing && !dirty && !tombstones && !first {
            return Ok(());
        }
        let from = partition.start();
        let (latest, upto) = self.latest_of_keys(shared, partition, cleaned.max(from), end)?;
        let (mut at, mut left, mut some_tombstones) = (from, 0, false);
        while at < upto && !self.signal.stopped() {
            let step = scan(shared, partition, at, upto, Look::Keys)?;
            let mut offsets = Vec::new();
            for found in &step.found {
                let replaced = found
                    .key
                    .as_ref()
                    .and_then(|key| latest.get(key))
                    .is_some_and(|latest| *latest > found.offset);
                if replaced || (found.tombstone && found.time <= now.saturating_sub(kept)) {
                    offsets.push(found.offset);
                } else {
                    left += 1;
                    some_tombstones |= found.tombstone;
                }
            }
            if !offsets.is_empty() {
                remove(shared, partition, offsets, None, None)?;
            }
            at = step.next;
        }
        if at >= upto && upto > cleaned {
            remove(shared, partition, Vec::new(), None, Some(upto))?;
        }
        *last = LastPass {
            // Zero means never.
            at: boot.max(Duration::from_nanos(1)),
            left,
            tombstones: some_tombstones,
        };
        Ok(())
    }

    /// The last offset of each key in the part that was not cleaned yet, and how far that part was read.
    fn latest_of_keys(
        &self,
        shared: &Shared,
        partition: &Partition,
        from: u64,
        end: u64,
    ) -> Result<(HashMap<Bytes, u64>, u64), JournalError> {
        let (mut latest, mut bytes, mut at) = (HashMap::new(), 0, from);
        while at < end && bytes < KEYS_BYTES_MAX && !self.signal.stopped() {
            let step = scan(shared, partition, at, end, Look::Keys)?;
            for found in step.found {
                if let Some(key) = found.key {
                    // A copy, so that the key does not hold the record's bytes; and about what an entry costs.
                    let length = key.len() + 64;
                    if latest
                        .insert(Bytes::copy_from_slice(&key), found.offset)
                        .is_none()
                    {
                        bytes += length;
                    }
                }
            }
            at = step.next;
        }
        Ok((latest, at))
    }
}

/// What a scan is after.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Offsets,
    /// Keys and tombstones, too.
    Keys,
    /// Up to the first record of that time or later.
    UntilYoung(i64),
}

struct Step {
    found: Vec<Found>,
    next: u64,
}

fn failed(reason: String) -> JournalError {
    JournalError::Failed {
        what: "housekeeping".to_owned(),
        reason,
    }
}

fn scan(
    shared: &Shared,
    partition: &Partition,
    from: u64,
    to: u64,
    look: Look,
) -> Result<Step, JournalError> {
    let store = shared.store.read();
    let store = store.as_ref().ok_or_else(|| shared.gone("housekeeping"))?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for entry in store.scan(partition.topic_id, partition.partition, from, to) {
        let (key, stored) = entry.into_inner().map_err(|e| failed(e.to_string()))?;
        let offset = store::offset_of(&key).map_err(failed)?;
        if found.len() >= STEP || bytes >= STEP_BYTES {
            return Ok(Step {
                found,
                next: offset,
            });
        }
        bytes += stored.len();
        let (key, tombstone) = if look == Look::Keys {
            let record = store::decode(offset, &stored).map_err(failed)?;
            // A tombstone without a key replaces nothing.
            let tombstone = record.value.is_none() && record.key.is_some();
            (record.key, tombstone)
        } else {
            (None, false)
        };
        let time = store::decode_time(&stored).map_err(failed)?;
        found.push(Found {
            offset,
            time,
            key,
            tombstone,
        });
        if matches!(look, Look::UntilYoung(oldest) if time >= oldest) {
            // Mostly the very first: a round over all partitions must cost next to nothing.
            return Ok(Step {
                found,
                next: offset + 1,
            });
        }
    }
    Ok(Step { found, next: to })
}

fn delete_before(
    shared: &Shared,
    partition: &Arc<Partition>,
    before: u64,
) -> Result<(), JournalError> {
    shared.control_blocking("delete records by age", |told| Command::DeleteBefore {
        partition: partition.clone(),
        before,
        told,
    })
}

fn remove(
    shared: &Shared,
    partition: &Arc<Partition>,
    offsets: Vec<u64>,
    freed: Option<u64>,
    cleaned: Option<u64>,
) -> Result<(), JournalError> {
    shared.control_blocking("free space", |told| Command::Remove {
        partition: partition.clone(),
        offsets,
        freed,
        cleaned,
        told,
    })
}
