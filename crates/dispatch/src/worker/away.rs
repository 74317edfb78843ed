//! Payloads of what waits in place, where there are too many to keep: they are put away, and read again from where they stand when it is their turn.

use std::time::Duration;

use hookline_model::core::held::Held;
use hookline_model::ids::Position;

use super::{Mail, Worker, WorkerError};
use crate::takeover::{self, TakeoverError, Wanted};

/// What is due so soon keeps its payload: reading it again would be work for nothing.
const SOON: Duration = Duration::from_secs(1);

/// Sends read at once, unless there are more of them in one batch.
const AT_ONCE: usize = 256;

/// What was read.
pub(crate) struct Fetched {
    read: Wanted,
    /// Where it was looked for.
    held: Held,
}

impl Worker {
    /// Puts payloads away when the worker keeps more of them than it may.
    pub(super) fn put_away(&mut self) {
        self.tell_resting();
        let all = self.shared.resting_bytes();
        let Some(over) = all
            .checked_sub(self.shared.config.resting_bytes)
            .filter(|over| *over > 0)
        else {
            return;
        };
        let soon = self.shared.clock.now().plus(SOON);
        self.partition
            .put_away(self.resting_bytes.saturating_sub(over), soon);
        self.tell_resting();
    }

    /// Begins to read what is due and not in memory, within the budget of catch-up.
    pub(super) fn fetch(&mut self) {
        if self.fetching {
            return;
        }
        let wanted = self.partition.to_fetch(AT_ONCE);
        if wanted.is_empty() {
            return;
        }
        if self.scan_budget.check(self.shared.clock.now()).is_err() {
            self.look_again = true;
            return;
        }
        self.fetching = true;
        let (shared, mailbox, p) = (self.shared.clone(), self.mailbox.clone(), self.p);
        let held = self.partition.held().clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the set is this worker's own: it is reaped every turn and aborted with it"
        )]
        self.tasks.spawn(async move {
            let read = takeover::read_back(&shared, p, &held, &wanted).await;
            mailbox.put(Mail::Fetched(read.map(|read| Fetched { read, held })));
        });
    }

    /// What was read goes out, as soon as all that goes with it is there.
    pub(super) async fn fetched(&mut self, fetched: Fetched) -> Result<(), WorkerError> {
        self.fetching = false;
        let Fetched { read, held } = fetched;
        let missing = self.restore(read);
        match missing {
            // It was moved meanwhile: it is looked for there.
            Some(_) if held != *self.partition.held() => Ok(()),
            Some(position) => Err(self.gone(position).await?),
            None => Ok(()),
        }
    }

    /// Reads the sends of a unit at once, where somebody waits for it.
    pub(super) async fn fetch_now(&mut self, unit: Position) -> Result<(), WorkerError> {
        let away = self.partition.away(unit);
        if away.is_empty() {
            return Ok(());
        }
        let read = takeover::read_back(&self.shared, self.p, self.partition.held(), &away).await?;
        match self.restore(read) {
            Some(position) => Err(self.gone(position).await?),
            None => Ok(()),
        }
    }

    /// What was read is in memory again. Returns a send that was not found, if there is one.
    fn restore(&mut self, read: Wanted) -> Option<Position> {
        let (mut missing, mut bytes) = (None, 0);
        for (position, placed) in read {
            match placed {
                Some(placed) => {
                    bytes += placed.bytes;
                    self.partition.restore(placed.read(), true);
                }
                None => missing = Some(position),
            }
        }
        self.scan_budget.spend(bytes);
        self.shared.metrics.scanned_bytes.inc_by(bytes as u64);
        missing
    }

    /// What it means that a send which is not settled is nowhere: somebody else owns the partition and has settled it, or a person must look.
    async fn gone(&mut self, position: Position) -> Result<WorkerError, WorkerError> {
        self.look_for_claims().await?;
        let partition = self.p;
        if let Some(epoch) = self.log.fenced_by() {
            return Ok(WorkerError::Fenced { partition, epoch });
        }
        let topic = self.shared.names.deliveries.clone();
        let start = self.shared.journal.start(&topic, partition).await?;
        Ok(TakeoverError::Deleted {
            partition,
            topic,
            start,
            needed: position.offset,
        }
        .into())
    }
}
