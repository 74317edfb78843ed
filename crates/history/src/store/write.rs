//! Rows in: one transaction per batch.

use std::collections::HashMap;

use hookline_model::time::Millis;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Transaction};

use super::rows::{self, Row};
use super::{Lease, Store, StoreError, Turn, signed};
use crate::{Activity, AttemptLine};

/// Rows of one statement. The statements of each size are prepared once.
pub(super) const SIZES: [usize; 3] = [100, 10, 1];

/// What was read of a partition, to be stored together with how far it goes.
pub(crate) struct Batch<'a> {
    /// The partition, and as which owner it was read.
    pub(crate) lease: &'a Lease,
    /// What was read, in the order of the log.
    pub(crate) read: Read<'a>,
    /// The time.
    pub(crate) now: Millis,
    /// The next offset to read.
    pub(crate) next: u64,
    /// The highest claim before that.
    pub(crate) claim_epoch: u64,
    /// Said when what the store holds of this partition begins here: the offset, and the time of its first record.
    pub(crate) kept_from: Option<(u64, Millis)>,
    /// Records that were deleted before they had been read.
    pub(crate) missed: u64,
    /// How long the lease is extended.
    pub(crate) lease_until: Millis,
}

/// What a topic holds, taken apart.
#[derive(Clone, Copy)]
pub(crate) enum Read<'a> {
    /// Of `attempts`.
    Attempts(&'a [AttemptLine]),
    /// Of `events`.
    Activities(&'a [Activity]),
}

/// Why a batch was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The partition is somebody else's now, or is further than this.
    #[error("partition {partition} is read by somebody else")]
    Lost {
        /// The partition.
        partition: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Stores a batch if the partition is still ours and stands where the batch begins: all of it, or nothing.
    pub(crate) async fn write(&self, _: &Turn<'_>, batch: &Batch<'_>) -> Result<(), WriteError> {
        let pool = self.pool().await?;
        let mut transaction = pool.begin().await?;
        // First, so that whoever else would move the partition waits here, and then finds it moved.
        let moved = moving(batch).execute(&mut *transaction).await?;
        if moved.rows_affected() != 1 {
            transaction.rollback().await?;
            return Err(WriteError::Lost {
                partition: batch.lease.partition,
            });
        }
        match batch.read {
            Read::Attempts(attempts) => {
                let partition = batch.lease.partition;
                self.put_attempts(&mut transaction, partition, attempts)
                    .await?;
            }
            Read::Activities(activities) => {
                self.put_activities(&mut transaction, activities, batch.now)
                    .await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Puts attempts in, and what follows from them: how deliveries stand, and what attempts came to.
    async fn put_attempts(
        &self,
        transaction: &mut Transaction<'_, Any>,
        partition: u32,
        attempts: &[AttemptLine],
    ) -> Result<(), sqlx::Error> {
        let segment = self.segment(transaction, partition).await?;
        let rows: Vec<Row<'_>> = attempts.iter().map(Row::new).collect();
        let last = latest(&rows);
        for chunk in chunks(&rows) {
            let sql = self.inserts.attempts(chunk.len());
            let bound = chunk
                .iter()
                .fold(sqlx::query(sql), |q, row| row.bind(q, segment));
            bound.execute(&mut **transaction).await?;
        }
        self.grow_segment(transaction, segment, &rows).await?;
        for chunk in chunks(&last) {
            let sql = self.inserts.deliveries(chunk.len());
            let bound = chunk.iter().fold(sqlx::query(sql), |q, run| run.bind(q));
            bound.execute(&mut **transaction).await?;
        }
        self.put_statistics(transaction, attempts).await
    }
}

/// Moves the offset from where the batch begins to where it ends.
fn moving<'q>(batch: &'q Batch<'_>) -> Query<'q, Any, AnyArguments<'q>> {
    let (kept_offset, kept_ms) = match batch.kept_from {
        Some((offset, at)) => (Some(signed(offset)), Some(at.0)),
        None => (None, None),
    };
    sqlx::query(
        "UPDATE offsets SET next_offset = $1, claim_epoch = $2, lease_until_ms = $3, \
         kept_from_offset = COALESCE($4, kept_from_offset), kept_from_ms = COALESCE($5, kept_from_ms), missed = missed + $6 \
         WHERE topic = $7 AND record_partition = $8 AND epoch = $9 AND COALESCE(next_offset, -1) = $10",
    )
    .bind(signed(batch.next))
    .bind(signed(batch.claim_epoch))
    .bind(batch.lease_until.0)
    .bind(kept_offset)
    .bind(kept_ms)
    .bind(signed(batch.missed))
    .bind(batch.lease.topic.as_str())
    .bind(i64::from(batch.lease.partition))
    .bind(signed(batch.lease.epoch))
    .bind(batch.lease.next.map_or(-1, signed))
}

/// What the last attempt of each run says; strays say nothing. One statement may touch a row only once.
fn latest<'a>(rows: &'a [Row<'a>]) -> Vec<rows::Run<'a>> {
    let mut runs: Vec<rows::Run<'a>> = Vec::new();
    let mut places: HashMap<(&str, u64), usize> = HashMap::new();
    for row in rows.iter().filter(|row| !row.line.stray) {
        let key = (row.line.delivery_id.as_str(), row.line.run);
        match places.get(&key) {
            Some(&place) => runs[place].then(row),
            None => {
                places.insert(key, runs.len());
                runs.push(rows::Run::new(row));
            }
        }
    }
    runs
}

/// Cut into the sizes that there are statements for.
pub(super) fn chunks<T>(mut rest: &[T]) -> Vec<&[T]> {
    let mut chunks = Vec::new();
    for size in SIZES {
        while rest.len() >= size {
            let (chunk, more) = rest.split_at(size);
            chunks.push(chunk);
            rest = more;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_of_few_sizes_and_leave_nothing_out() {
        let numbers: Vec<usize> = (0..234).collect();
        let chunks = chunks(&numbers);
        assert_eq!(chunks.concat(), numbers);
        assert!(chunks.iter().all(|chunk| SIZES.contains(&chunk.len())));
    }
}
