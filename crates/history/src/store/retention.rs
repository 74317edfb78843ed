//! What is older than the retention goes away, little by little.

use hookline_model::time::Millis;
use sqlx::any::AnyQueryResult;

use super::statistics::{HOUR_MS, MINUTE_MS};
use super::{Store, StoreError};

impl Store {
    /// Deletes up to `limit` attempts, and as many deliveries and events, that are older than `before`. How many rows went.
    pub(crate) async fn delete_older(&self, before: Millis, limit: u32) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let _turn = self.turn().await;
        let attempts = sqlx::query(
            "DELETE FROM attempts WHERE (record_partition, record_offset, record_index) IN \
             (SELECT record_partition, record_offset, record_index FROM attempts WHERE started_ms < $1 ORDER BY started_ms LIMIT $2)",
        )
        .bind(before.0)
        .bind(i64::from(limit))
        .execute(pool)
        .await?;
        if attempts.rows_affected() < u64::from(limit) {
            self.forget_segments(before).await?;
        }
        let deliveries = sqlx::query(
            "DELETE FROM deliveries WHERE (delivery_id, run) IN \
             (SELECT delivery_id, run FROM deliveries WHERE last_ms < $1 ORDER BY last_ms LIMIT $2)",
        )
        .bind(before.0)
        .bind(i64::from(limit))
        .execute(pool)
        .await?;
        let activities = sqlx::query(
            "DELETE FROM activities WHERE seq IN \
             (SELECT seq FROM activities WHERE accepted_ms < $1 ORDER BY accepted_ms LIMIT $2)",
        )
        .bind(before.0)
        .bind(i64::from(limit))
        .execute(pool)
        .await?;
        let gone = [attempts, deliveries, activities];
        Ok(gone.iter().map(AnyQueryResult::rows_affected).sum())
    }

    /// Deletes up to `limit` sums of each sort that are older than what they are sums of, or than minutes are kept. How many rows went.
    pub(crate) async fn delete_older_sums(
        &self,
        before: Millis,
        minutes_before: Millis,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let _turn = self.turn().await;
        let mut gone = 0;
        for (step, before) in [
            (MINUTE_MS, minutes_before.max(before)),
            (HOUR_MS, Millis(before.0.saturating_sub(HOUR_MS))),
        ] {
            let deleted = sqlx::query(
                "DELETE FROM statistics WHERE (project, webhook_uid, step_ms, at_ms) IN \
                 (SELECT project, webhook_uid, step_ms, at_ms FROM statistics WHERE step_ms = $1 AND at_ms < $2 ORDER BY at_ms LIMIT $3)",
            )
            .bind(step)
            .bind(before.0)
            .bind(i64::from(limit))
            .execute(pool)
            .await?;
            gone += deleted.rows_affected();
        }
        // An hour goes once all of it is older.
        let hours = sqlx::query("DELETE FROM activity_hours WHERE hour_ms < $1")
            .bind(before.0.saturating_sub(HOUR_MS))
            .execute(pool)
            .await?;
        Ok(gone + hours.rows_affected())
    }

    /// Notes that nothing from before then is kept any more.
    pub(crate) async fn forget_before(
        &self,
        topic: &str,
        before: Millis,
    ) -> Result<(), StoreError> {
        let pool = self.pool().await?;
        let _turn = self.turn().await;
        sqlx::query("UPDATE offsets SET kept_from_ms = $1 WHERE topic = $2 AND kept_from_ms < $1")
            .bind(before.0)
            .bind(topic)
            .execute(pool)
            .await?;
        Ok(())
    }
}
