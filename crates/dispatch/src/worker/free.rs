//! Deleting what an acknowledged checkpoint no longer needs: only once it is known that no foreign claim stands before it. Somebody who claimed
//! earlier may have begun from an older checkpoint, and still need what this one does not.

use hookline_model::core::claims::Gap;

use super::{Mail, Worker, WorkerError};
use crate::progress::Stored;

/// Records that nobody needs, provided that no foreign claim stands in `attempts` below `end`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freeable {
    /// The end of `attempts` after the checkpoint was acknowledged.
    end: u64,
    /// Records of `deliveries` below this.
    deliveries: Option<u64>,
    /// Records of `progress` below this.
    progress: Option<u64>,
    /// Records of `commands` below this.
    commands: Option<u64>,
    /// Records of `held` below this.
    held: Option<u64>,
}

impl Freeable {
    /// Together with what has not been deleted yet.
    pub(super) fn with(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        Self {
            end: self.end.max(before.end),
            deliveries: self.deliveries.max(before.deliveries),
            progress: self.progress.max(before.progress),
            commands: self.commands.max(before.commands),
            held: self.held.max(before.held),
        }
    }
}

impl Worker {
    /// An acknowledged checkpoint has made records unnecessary: asks up to where foreign claims have to be looked for.
    pub(super) fn freeable(&mut self, stored: Stored) {
        let now = self.shared.clock.now();
        let deliveries = self.progress.deletable_deliveries(stored.low, now);
        let progress = stored.progress_before;
        let (commands, held) = self.progress.deletable_over(stored.over);
        if [deliveries, progress, commands, held]
            .iter()
            .all(Option::is_none)
        {
            return;
        }
        let (shared, mailbox, p) = (self.shared.clone(), self.mailbox.clone(), self.p);
        #[expect(
            clippy::disallowed_methods,
            reason = "the set is this worker's own: it is reaped every turn and aborted with it"
        )]
        self.tasks.spawn(async move {
            match shared.journal.end(&shared.names.attempts, p).await {
                Ok(end) => mailbox.put(Mail::Freeable(Freeable {
                    end,
                    deliveries,
                    progress,
                    commands,
                    held,
                })),
                Err(error) => tracing::warn!(partition = p, %error, "settled records are not deleted now; it is tried again"),
            }
        });
    }

    /// Deletes what may be deleted. Usually what was confirmed since says that nobody else has claimed; with nothing under way it is looked up.
    pub(super) async fn free(&mut self) -> Result<(), WorkerError> {
        let Some(freeable) = self.freeable else {
            return Ok(());
        };
        if self.log.inspected() < freeable.end {
            if self.log.pending() > 0 {
                return Ok(());
            }
            let gap = Gap {
                from: self.log.inspected(),
                to: Some(freeable.end),
            };
            self.read_gap(gap).await?;
            self.not_fenced()?;
        }
        self.freeable = None;
        for (topic, before) in [
            (&self.shared.names.deliveries, freeable.deliveries),
            (&self.shared.names.progress, freeable.progress),
            (&self.shared.names.commands, freeable.commands),
            (&self.shared.names.held, freeable.held),
        ] {
            let Some(before) = before else { continue };
            let (journal, topic, p) = (self.shared.journal.clone(), topic.clone(), self.p);
            #[expect(
                clippy::disallowed_methods,
                reason = "the set is this worker's own: it is reaped every turn and aborted with it"
            )]
            self.tasks.spawn(async move {
                if let Err(error) = journal.delete_records(&topic, p, before).await {
                    tracing::warn!(topic, partition = p, before, %error, "settled records could not be deleted; it is tried again");
                }
            });
        }
        Ok(())
    }
}
