//! What is older than the retention goes away, little by little.

use hookline_model::time::Millis;

use super::{Store, StoreError};

impl Store {
    /// Deletes up to `limit` attempts, and as many deliveries, that are older than `before`. How many rows went.
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
        let deliveries = sqlx::query(
            "DELETE FROM deliveries WHERE (delivery_id, run) IN \
             (SELECT delivery_id, run FROM deliveries WHERE last_ms < $1 ORDER BY last_ms LIMIT $2)",
        )
        .bind(before.0)
        .bind(i64::from(limit))
        .execute(pool)
        .await?;
        Ok(attempts.rows_affected() + deliveries.rows_affected())
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
