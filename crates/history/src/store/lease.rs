//! Who reads which partition into the store. A lease only suggests: what decides is the epoch, which every transaction compares.

use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use sqlx::Row as _;

use super::{Store, StoreError, signed, unsigned};

/// A partition's lease as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: u32,
    pub(crate) epoch: u64,
    pub(crate) owner: String,
    pub(crate) until: Millis,
    pub(crate) next: Option<u64>,
}

/// A partition that is ours to read, until somebody raises the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The topic's full name.
    pub(crate) topic: String,
    /// The partition.
    pub(crate) partition: u32,
    /// Raised by each new owner.
    pub(crate) epoch: u64,
    /// The next offset to read; `None`: nothing was read yet.
    pub(crate) next: Option<u64>,
    /// The highest claim of a worker of dispatch before that offset.
    pub(crate) claim_epoch: u64,
}

impl Store {
    /// Says that `worker` is there until then, and asks how many are.
    pub(crate) async fn heartbeat(
        &self,
        worker: &str,
        now: Millis,
        until: Millis,
    ) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        sqlx::query(
            "INSERT INTO workers (worker, seen_until_ms) VALUES ($1, $2) \
             ON CONFLICT (worker) DO UPDATE SET seen_until_ms = excluded.seen_until_ms",
        )
        .bind(worker)
        .bind(until.0)
        .execute(pool)
        .await?;
        sqlx::query("DELETE FROM workers WHERE seen_until_ms < $1")
            .bind(now.0)
            .execute(pool)
            .await?;
        let row = sqlx::query("SELECT COUNT(*) FROM workers")
            .fetch_one(pool)
            .await?;
        Ok(unsigned(row.try_get(0)?).max(1))
    }

    /// Says that `worker` is gone.
    pub(crate) async fn farewell(&self, worker: &str) -> Result<(), StoreError> {
        let pool = self.pool().await?;
        sqlx::query("DELETE FROM workers WHERE worker = $1")
            .bind(worker)
            .execute(pool)
            .await?;
        Ok(())
    }

    /// Makes places for the offsets of so many partitions of a topic. `ours` are all that this store may be read from.
    pub(crate) async fn prepare(
        &self,
        topic: &str,
        partitions: u32,
        ours: &[String],
    ) -> Result<(), StoreError> {
        let pool = self.pool().await?;
        let topics = sqlx::query("SELECT DISTINCT topic FROM offsets")
            .fetch_all(pool)
            .await?;
        for row in topics {
            let found: String = row.try_get(0)?;
            if !ours.contains(&found) {
                return Err(StoreError::Foreign {
                    found,
                    wanted: topic.to_owned(),
                });
            }
        }
        for partition in 0..partitions {
            sqlx::query(
                "INSERT INTO offsets (topic, record_partition, claim_epoch, epoch, owner, lease_until_ms, missed) \
                 VALUES ($1, $2, 0, 0, '', 0, 0) ON CONFLICT DO NOTHING",
            )
            .bind(topic)
            .bind(i64::from(partition))
            .execute(pool)
            .await?;
        }
        Ok(())
    }

    /// All leases of a topic.
    pub(crate) async fn leases(&self, topic: &str) -> Result<Vec<Seen>, StoreError> {
        let pool = self.pool().await?;
        let rows = sqlx::query(
            "SELECT record_partition, epoch, owner, lease_until_ms, next_offset FROM offsets WHERE topic = $1 ORDER BY record_partition",
        )
        .bind(topic)
        .fetch_all(pool)
        .await?;
        let mut leases = Vec::with_capacity(rows.len());
        for row in rows {
            let partition: i64 = row.try_get(0)?;
            leases.push(Seen {
                partition: u32::try_from(partition).map_err(|_| StoreError::Damaged {
                    what: "a partition's number",
                })?,
                epoch: unsigned(row.try_get(1)?),
                owner: row.try_get(2)?,
                until: Millis(row.try_get(3)?),
                next: row.try_get::<Option<i64>, _>(4)?.map(unsigned),
            });
        }
        Ok(leases)
    }

    /// Takes a partition whose lease stands as it was seen. `None`: somebody else was faster.
    pub(crate) async fn take(
        &self,
        topic: &str,
        seen: &Seen,
        worker: &str,
        until: Millis,
    ) -> Result<Option<Lease>, StoreError> {
        let pool = self.pool().await?;
        let epoch = seen.epoch + 1;
        let taken = sqlx::query(
            "UPDATE offsets SET epoch = $1, owner = $2, lease_until_ms = $3 \
             WHERE topic = $4 AND record_partition = $5 AND epoch = $6",
        )
        .bind(signed(epoch))
        .bind(worker)
        .bind(until.0)
        .bind(topic)
        .bind(i64::from(seen.partition))
        .bind(signed(seen.epoch))
        .execute(pool)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(None);
        }
        // From now on nobody of a lower epoch moves it, and whoever takes it again has a higher one.
        let row = sqlx::query(
            "SELECT next_offset, claim_epoch FROM offsets WHERE topic = $1 AND record_partition = $2 AND epoch = $3",
        )
        .bind(topic)
        .bind(i64::from(seen.partition))
        .bind(signed(epoch))
        .fetch_optional(pool)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(Lease {
            topic: topic.to_owned(),
            partition: seen.partition,
            epoch,
            next: row.try_get::<Option<i64>, _>(0)?.map(unsigned),
            claim_epoch: unsigned(row.try_get(1)?),
        }))
    }

    /// Moves the end of a lease: later, or to 0 to give it up. Whether it was still ours.
    pub(crate) async fn extend(
        &self,
        topic: &str,
        partition: u32,
        epoch: u64,
        until: Millis,
    ) -> Result<bool, StoreError> {
        let pool = self.pool().await?;
        let done = sqlx::query(
            "UPDATE offsets SET lease_until_ms = $1 WHERE topic = $2 AND record_partition = $3 AND epoch = $4",
        )
        .bind(until.0)
        .bind(topic)
        .bind(i64::from(partition))
        .bind(signed(epoch))
        .execute(pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// As of when the store has everything that happened by the topic of attempts, or by that of events: the latest of what its partitions
    /// begin with. `None`: nothing was read yet.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn kept_from(&self, topic: Topic) -> Result<Option<Millis>, StoreError> {
        // A store is of one system, so the prefix does not matter.
        let pool = self.pool().await?;
        let row = sqlx::query("SELECT MAX(kept_from_ms) FROM offsets WHERE topic LIKE $1")
            .bind(format!("%{}", topic.suffix()))
            .fetch_one(pool)
            .await?;
        Ok(row.try_get::<Option<i64>, _>(0)?.map(Millis))
    }
}
