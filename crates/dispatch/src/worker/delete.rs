//! Deleting what is settled.

use hookline_model::core::claims::Gap;

use super::{Worker, WorkerError};

impl Worker {
    /// Frees what an acknowledged checkpoint no longer needs, unless somebody else has claimed the partition since: who was suspended
    /// does not know, and the new owner may need more, and has chunks of its own where ours stand.
    pub(super) async fn delete_behind(&mut self) -> Result<(), WorkerError> {
        let Some(stored) = self.deletable.take() else {
            return Ok(());
        };
        let now = self.shared.clock.now();
        let deliveries = self.progress.deletable_deliveries(stored.low, now);
        if deliveries.is_none() && stored.progress_before.is_none() {
            return Ok(());
        }
        self.read_gap(Gap {
            from: self.log.inspected(),
            to: None,
        })
        .await?;
        self.confirm().await?;
        for (topic, before) in [
            (&self.shared.names.deliveries, deliveries),
            (&self.shared.names.progress, stored.progress_before),
        ] {
            let Some(before) = before else { continue };
            let (journal, topic, p) = (self.shared.journal.clone(), topic.clone(), self.p);
            #[expect(clippy::disallowed_methods, reason = "the set is this worker's own: it is reaped every turn and aborted with it")]
            self.tasks.spawn(async move {
                if let Err(error) = journal.delete_records(&topic, p, before).await {
                    tracing::warn!(topic, partition = p, before, %error, "settled records could not be deleted; it is tried again");
                }
            });
        }
        Ok(())
    }
}
