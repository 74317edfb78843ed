//! What the store needs besides what goes in and what is asked: one process does it for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookline_model::time::Millis;

use crate::partition::Surroundings;
use crate::stage::chain;
use crate::store::{MINUTES_KEPT, StoreError};

/// How often old rows are looked for, how many go at a time, and the pause in between, in which others have the store.
const RETENTION_EVERY: Duration = Duration::from_secs(300);
const RETENTION_ROWS: u32 = 2_000;
const RETENTION_PAUSE: Duration = Duration::from_millis(50);
/// How often the store is looked at for whether it knows what it holds.
const ANALYZE_EVERY: Duration = Duration::from_secs(5);

/// Keeps the store in order as long as it is polled and `first` says that this process is the one.
pub(crate) async fn upkeep(around: Surroundings, first: Arc<AtomicBool>, topics: Vec<String>) {
    tokio::join!(retain(&around, &first, &topics), analyze(&around, &first));
}

/// Has the database look at what has come in, before it answers as if there were little.
async fn analyze(around: &Surroundings, first: &AtomicBool) {
    loop {
        tokio::time::sleep(ANALYZE_EVERY).await;
        if !first.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = around.store.analyze().await {
            tracing::debug!(
                error = chain(&error),
                "the history store was not analyzed now"
            );
        }
    }
}

/// Deletes what is older than the retention.
async fn retain(around: &Surroundings, first: &AtomicBool, topics: &[String]) {
    loop {
        tokio::time::sleep(RETENTION_EVERY.min(around.retention)).await;
        if !first.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = delete_old(around, topics).await {
            tracing::debug!(
                error = chain(&error),
                "what is old in the history store was not deleted now"
            );
        }
    }
}

async fn delete_old(around: &Surroundings, topics: &[String]) -> Result<(), StoreError> {
    let (store, before) = (&around.store, around.oldest());
    let kept = i64::try_from(MINUTES_KEPT.as_millis()).unwrap_or(i64::MAX);
    let minutes = Millis(around.clock.now().0.saturating_sub(kept));
    loop {
        let rows = store.delete_older(before, RETENTION_ROWS).await?;
        let sums = store.delete_older_sums(before, minutes, RETENTION_ROWS);
        let rows = rows + sums.await?;
        around.metrics.deleted.inc_by(rows);
        if rows == 0 {
            break;
        }
        tokio::time::sleep(RETENTION_PAUSE).await;
    }
    for topic in topics {
        store.forget_before(topic, before).await?;
    }
    Ok(())
}
