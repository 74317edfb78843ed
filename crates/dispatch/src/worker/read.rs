//! Reading the partition: at the live edge, and again for lanes that are behind.

use hookline_journal::{Batch, JournalError, ReadError, append_and_wait};
use hookline_model::core::claims::Gap;
use hookline_model::core::partition::Admitted;
use hookline_model::time::Millis;

use super::{Worker, WorkerError};
use crate::records::{self, Placed};
use crate::takeover;

impl Worker {
    /// Follows lanes that are behind, as far as what has been read goes.
    pub(super) fn scan(&mut self) {
        if self.partition.lanes().behind() == 0 {
            self.scanner.rest();
            return;
        }
        // With little room a scan would take next to nothing before it ended, and the log would be read for it again and again.
        if self.shared.roomy()
            && let Some(from) = self.partition.lanes().begin_scan()
        {
            self.scanner.seek(from);
        }
        if self.partition.lanes().scanning().is_none() {
            self.scanner.idles();
        }
        while self.partition.lanes().scanning().is_some() {
            let Some(step) = self.scanner.next(self.partition.watermark()) else {
                return;
            };
            if let Some(record) = step.record
                && !record
                    .sends()
                    .into_iter()
                    .all(|placed| self.scanned(placed))
            {
                self.scanner.unread(record);
                return;
            }
            self.partition.scan_passed(step.passed);
            // A lane may have come to the live edge without anything to send.
            self.progress.changed();
        }
    }

    fn scanned(&mut self, placed: Placed) -> bool {
        // Most of what a scan passes is not for it.
        if !self.partition.scan_takes(placed.lane, placed.position) {
            return true;
        }
        let room = self.room();
        self.partition.scanned(placed.read(), room)
    }

    pub(super) async fn read_live(
        &mut self,
        batch: Result<Batch, ReadError>,
    ) -> Result<(), WorkerError> {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Err(self.unreadable(error).await?),
        };
        let now = self.shared.clock.now();
        let read_at = tokio::time::Instant::now();
        self.progress.changed();
        for record in &batch.records {
            let bytes = record.value.as_ref().map_or(0, bytes::Bytes::len);
            self.scan_budget.live(bytes);
            self.shared.metrics.live_bytes.inc_by(bytes as u64);
            match records::sends(record) {
                Ok((placed, registry_offset)) => {
                    if registry_offset > self.snapshot.offset {
                        self.snapshot = self.shared.registry.applied(registry_offset).await?;
                    }
                    for placed in placed {
                        let room = self.room();
                        let (stream, at) = (placed.stream.clone(), placed.at);
                        let read = placed.read();
                        match self.partition.live(read, stream, at, now, room) {
                            Admitted::Repeat => self.shared.metrics.repeats.inc(),
                            Admitted::Queued => self.live_queued_at = read_at,
                            Admitted::Known | Admitted::Left => {}
                        }
                    }
                }
                Err(why) => {
                    tracing::error!(partition = self.p, offset = record.offset, reason = %why.0, "a record of deliveries cannot be used; it goes to `rejected`");
                    let rejected = records::rejected(
                        record,
                        &self.shared.names.deliveries,
                        self.p,
                        ("unreadable", &why.0),
                        now,
                    );
                    append_and_wait(
                        &*self.appender,
                        &self.shared.names.rejected,
                        self.p,
                        rejected,
                    )
                    .await?;
                }
            }
            let at = Millis(record.timestamp_ms);
            self.old_end.passed(record.offset, at, bytes);
            // A writer whose clock is ahead must not make anything forgotten early.
            self.partition.entered(at.min(now));
            self.partition.passed(record.offset + 1);
        }
        self.partition.passed(batch.next);
        Ok(())
    }

    /// Reads `attempts` to its end: whether somebody else has claimed the partition.
    pub(super) async fn look_for_claims(&mut self) -> Result<(), WorkerError> {
        let from = self.log.inspected();
        self.read_gap(Gap { from, to: None }).await
    }

    /// What it means that reading cannot go on. Records that are gone may be so because somebody else owns the partition and has settled them, or
    /// because a former owner had, behind a checkpoint that came too late for us to begin at: that is looked for before anybody is alarmed.
    async fn unreadable(&mut self, error: ReadError) -> Result<WorkerError, WorkerError> {
        let reason = error.to_string();
        let start = match error {
            ReadError::Deleted { start, .. } => Some(start),
            ReadError::BeyondEnd { .. } => None,
            error => return Ok(JournalError::from(error).into()),
        };
        self.look_for_claims().await?;
        let partition = self.p;
        if let Some(epoch) = self.log.fenced_by() {
            return Ok(WorkerError::Fenced { partition, epoch });
        }
        if let Some(start) = start
            && takeover::needs_nothing_below(&self.shared, partition, start).await?
        {
            return Ok(JournalError::from(error).into());
        }
        Ok(WorkerError::Lost { partition, reason })
    }
}
