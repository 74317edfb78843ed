//! Reads a partition up to its visible end, and waits there.

use std::sync::Arc;

use tokio::sync::watch;

use super::state::{Partition, Shared};
use super::store;
use crate::{Batch, ReadBudget, ReadError, Reader};

/// Bytes taken in one go: the runtime's thread is busy that long (about a millisecond).
const SCAN_BYTES_MAX: usize = 512 * 1024;
/// Records taken in one go, for the same reason.
const SCAN_RECORDS_MAX: usize = 2000;

/// A position in a partition.
pub(super) struct EmbeddedReader {
    shared: Arc<Shared>,
    partition: Arc<Partition>,
    end: watch::Receiver<u64>,
    ended: watch::Receiver<bool>,
    position: u64,
    bytes_max: usize,
}

impl EmbeddedReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        partition: Arc<Partition>,
        from: u64,
        budget: ReadBudget,
    ) -> Self {
        Self {
            end: partition.watch_end(),
            ended: shared.ended.subscribe(),
            shared,
            partition,
            position: from,
            bytes_max: budget.bytes.min(SCAN_BYTES_MAX),
        }
    }

    fn check(&self, end: u64) -> Result<(), ReadError> {
        let Partition {
            topic, partition, ..
        } = &*self.partition;
        let (topic, partition, position) = (topic.to_string(), *partition, self.position);
        let start = self.partition.start();
        if position < start {
            return Err(ReadError::Deleted {
                topic,
                partition,
                position,
                start,
            });
        }
        if position > end {
            return Err(ReadError::BeyondEnd {
                topic,
                partition,
                position,
                end,
            });
        }
        Ok(())
    }

    /// What stands between the position and `end`, as far as the budget goes.
    fn scan(&self, end: u64, max: usize) -> Result<Batch, String> {
        let store = self.shared.store.read();
        let store = store.as_ref().ok_or("the journal is closed")?;
        let (topic, partition) = (self.partition.topic_id, self.partition.partition);
        let mut records = Vec::with_capacity(max.min(256));
        let mut bytes = 0;
        for entry in store.scan(topic, partition, self.position, end) {
            let (key, stored) = entry.into_inner().map_err(|e| e.to_string())?;
            let offset = store::offset_of(&key)?;
            let full = records.len() >= max || bytes + stored.len() > self.bytes_max;
            if full && !records.is_empty() {
                return Ok(Batch {
                    records,
                    next: offset,
                });
            }
            bytes += stored.len();
            records.push(store::decode(offset, &stored)?);
        }
        Ok(Batch { records, next: end })
    }

    fn failed(&self, reason: String) -> ReadError {
        ReadError::Failed {
            topic: self.partition.topic.to_string(),
            partition: self.partition.partition,
            reason,
        }
    }
}

#[async_trait::async_trait]
impl Reader for EmbeddedReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        loop {
            let end = *self.end.borrow_and_update();
            self.check(end)?;
            if self.position < end {
                let batch = self
                    .scan(end, max.clamp(1, SCAN_RECORDS_MAX))
                    .map_err(|reason| self.failed(reason))?;
                // Records are removed after the start has moved: where it has not, none was missed.
                self.check(end)?;
                self.position = batch.next;
                return Ok(batch);
            }
            if *self.ended.borrow_and_update() {
                let reason = self.shared.gone("read").to_string();
                return Err(self.failed(reason));
            }
            tokio::select! {
                // Neither sender goes away while this reader holds the partition and the journal.
                _ = self.end.changed() => {}
                _ = self.ended.changed() => {}
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}
