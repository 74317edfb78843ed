//! One partition of `attempts` or `events` on its way into the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hookline_journal::{Journal, JournalError, ReadBudget, ReadError, Reader, StoredRecord};
use hookline_model::time::{Clock, Millis};
use hookline_registry::Snapshot;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::decode::{Decoded, decode, lines};
use crate::metrics::HistoryMetrics;
use crate::stage::{LEASE, Source, told};
use crate::store::{Batch, Lease, Read, Store, StoreError, WriteError};
use crate::{Activity, AttemptLine};

/// What a partition may have read ahead.
const BUDGET: ReadBudget = ReadBudget::of(256 * 1024);
/// Records taken at a time: each holds up to [`ATTEMPTS_PER_RECORD_MAX`](hookline_model::limits::ATTEMPTS_PER_RECORD_MAX) attempts.
const RECORDS: usize = 16;
/// A batch that has so many bytes does not wait for more.
const BYTES: usize = 64 * 1024;
/// One that has fewer waits for more, for this long: one transaction for what happens together.
const LINGER: Duration = Duration::from_millis(100);
/// Where more is there already, it may become so large: the more rows a transaction has, the fewer pages it writes for each of them. Only few
/// batches at a time become so large.
const BYTES_OF_BACKLOG: usize = 1024 * 1024;
/// How long a batch waits to become so large. Those before it may wait for the registry.
const LARGE_WITHIN: Duration = Duration::from_secs(1);
/// What does not come within this is not there already.
const THERE_WITHIN: Duration = Duration::from_millis(20);
/// A transaction that takes longer is given up. What became of it is seen by the offset in the store.
const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// How long the live view of the registry has to reach the registry's end.
const REGISTRY_WITHIN: Duration = Duration::from_secs(30);

/// Why a partition is not read on by this process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// It was told to stop.
    #[error("told to stop")]
    Told,
    /// Another process has it.
    #[error("another process reads it")]
    Lost,
    /// The store does not take it.
    #[error(transparent)]
    Store(StoreError),
    /// The store did not say in time whether it took it.
    #[error("the history store did not answer within {WRITE_WITHIN:?}")]
    Late,
    /// What projects there are is not known.
    #[error("the registry was not read to its end within {REGISTRY_WITHIN:?}")]
    Registry,
    /// The journal does not give it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It cannot be read on from where the store stands.
    #[error(transparent)]
    Read(ReadError),
}

impl From<WriteError> for Ended {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Lost { .. } => Self::Lost,
            WriteError::Store(error) => Self::Store(error),
        }
    }
}

/// What a partition needs.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<HistoryMetrics>,
    pub(crate) retention: Duration,
    /// The topic of the registry, and the live view of it.
    pub(crate) registry: String,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Surroundings {
    /// What began before this moment is older than the retention.
    pub(crate) fn oldest(&self) -> Millis {
        let span = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        Millis(self.clock.now().0.saturating_sub(span))
    }

    /// The registry as it is now, or later. Only looked at: who reads it on may be waited for by others, and nobody waits for the history.
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Ended> {
        let end = self.journal.end(&self.registry, 0).await?;
        let mut snapshots = self.snapshots.clone();
        let reached = snapshots.wait_for(|snapshot| snapshot.offset >= end);
        match timeout(REGISTRY_WITHIN, reached).await {
            Ok(Ok(snapshot)) => Ok(Arc::clone(&snapshot)),
            // In time, or because nobody reads it on any more.
            Ok(Err(_)) | Err(_) => Err(Ended::Registry),
        }
    }
}

/// Reads one partition into the store.
pub(crate) struct Partition {
    around: Surroundings,
    source: Source,
    lease: Lease,
    reader: Box<dyn Reader>,
    claim_epoch: u64,
    /// What the store holds begins at this offset, and that is not in the store yet.
    begins: Option<u64>,
    missed: u64,
    next: Arc<AtomicU64>,
}

/// What was read and is not stored yet.
#[derive(Default)]
struct Collected {
    records: Vec<StoredRecord>,
    bytes: usize,
    /// The right to be large.
    large: Option<OwnedSemaphorePermit>,
}

impl Collected {
    fn add(&mut self, records: Vec<StoredRecord>) {
        let values = records.iter().filter_map(|record| record.value.as_ref());
        self.bytes += values.map(bytes::Bytes::len).sum::<usize>();
        self.records.extend(records);
    }
}

impl Partition {
    /// Opens it where the store stands. `next` tells how far it is.
    pub(crate) async fn open(
        around: Surroundings,
        source: Source,
        lease: Lease,
        next: Arc<AtomicU64>,
    ) -> Result<Self, Ended> {
        let (topic, partition) = (&lease.topic, lease.partition);
        let (from, begins) = match lease.next {
            Some(next) => (next, None),
            None => {
                let start = around.journal.start(topic, partition).await?;
                (start, Some(start))
            }
        };
        let reader = around
            .journal
            .reader(topic, partition, from, BUDGET)
            .await?;
        next.store(from, Ordering::Relaxed);
        Ok(Self {
            claim_epoch: lease.claim_epoch,
            around,
            source,
            lease,
            reader,
            begins,
            missed: 0,
            next,
        })
    }

    /// Reads until something ends it.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Ended {
        loop {
            let collected = tokio::select! {
                biased;
                () = told(&mut stop) => return Ended::Told,
                collected = self.collect() => collected,
            };
            let stored = match collected {
                Ok(collected) => self.store(collected).await,
                Err(ended) => Err(ended),
            };
            if let Err(ended) = stored {
                return ended;
            }
        }
    }

    /// The next batch, as soon as there is one.
    async fn collect(&mut self) -> Result<Collected, Ended> {
        let mut collected = Collected::default();
        let batch = match self.reader.next(RECORDS).await {
            Ok(batch) => batch,
            Err(ReadError::Deleted {
                position, start, ..
            }) => {
                self.skip(position, start).await?;
                return Ok(collected);
            }
            Err(error) => return Err(Ended::Read(error)),
        };
        collected.add(batch.records);
        let until = Instant::now() + LINGER;
        while collected.bytes < BYTES {
            match timeout_at(until, self.reader.next(RECORDS)).await {
                Ok(Ok(batch)) => collected.add(batch.records),
                // Time is up; an error comes again the next time.
                Ok(Err(_)) | Err(_) => return Ok(collected),
            }
        }
        let large = timeout(LARGE_WITHIN, self.around.store.large_batch()).await;
        let Ok(large) = large else {
            return Ok(collected);
        };
        collected.large = Some(large);
        while collected.bytes < BYTES_OF_BACKLOG {
            match timeout(THERE_WITHIN, self.reader.next(RECORDS)).await {
                Ok(Ok(batch)) => collected.add(batch.records),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        Ok(collected)
    }

    /// Goes on behind records that were deleted before they had been read.
    async fn skip(&mut self, position: u64, start: u64) -> Result<(), Ended> {
        let Lease {
            topic, partition, ..
        } = &self.lease;
        let missed = start.saturating_sub(position);
        tracing::warn!(
            topic,
            partition,
            from = position,
            to = start,
            "records were deleted before the history had read them; what it has begins anew behind them"
        );
        self.reader = self
            .around
            .journal
            .reader(topic, *partition, start, BUDGET)
            .await?;
        self.missed += missed;
        self.around.metrics.missed.inc_by(missed);
        self.begins = Some(start);
        Ok(())
    }

    /// The attempts of records, in the order of the log.
    fn attempts(&mut self, records: Vec<StoredRecord>) -> Vec<AttemptLine> {
        let mut attempts = Vec::new();
        let oldest = self.around.oldest();
        for record in records {
            match decode(&record, &mut self.claim_epoch) {
                Decoded::Attempts {
                    attempts: found,
                    stray,
                } => {
                    let lines = lines(found, self.lease.partition, record.offset, stray);
                    // What retention would take away at once need not come.
                    attempts.extend(
                        lines
                            .filter(|line| line.started_ms >= oldest.0)
                            .map(AttemptLine::without_nul),
                    );
                }
                Decoded::Other => {}
                Decoded::Unreadable(reason) => {
                    self.around.metrics.unreadable.inc();
                    tracing::warn!(
                        topic = self.lease.topic,
                        partition = self.lease.partition,
                        offset = record.offset,
                        reason,
                        "a record of attempts cannot be read by this version and is passed over"
                    );
                }
            }
        }
        attempts
    }

    /// The events of records, in the order of the log. What is none, or of no project, stands in `rejected` by fan-out, which has said so.
    fn activities(&self, records: &[StoredRecord], snapshot: Option<&Snapshot>) -> Vec<Activity> {
        let (now, oldest) = (self.around.clock.now(), self.around.oldest());
        let Some(snapshot) = snapshot else {
            return Vec::new();
        };
        let read = records
            .iter()
            .filter_map(|record| Activity::read(record, self.lease.partition, snapshot, now));
        read.filter(|activity| activity.accepted_ms >= oldest.0)
            .collect()
    }

    /// Stores what was read, together with how far that goes.
    async fn store(&mut self, collected: Collected) -> Result<(), Ended> {
        let next = self.reader.position();
        if self.lease.next == Some(next) && self.missed == 0 {
            return Ok(());
        }
        let Collected {
            records,
            large: _large,
            ..
        } = collected;
        let first_at = records.first().map(|r| Millis(r.timestamp_ms));
        let snapshot = match self.source {
            Source::Events if !records.is_empty() => Some(self.around.snapshot().await?),
            Source::Events | Source::Attempts => None,
        };
        // Taken apart into rows it takes many times as much: only for who may write next.
        let store = Arc::clone(&self.around.store);
        let turn = store.turn().await;
        let (attempts, activities);
        let read = match self.source {
            Source::Attempts => {
                attempts = self.attempts(records);
                Read::Attempts(&attempts)
            }
            Source::Events => {
                activities = self.activities(&records, snapshot.as_deref());
                Read::Activities(&activities)
            }
        };
        // What is older than the retention was read and left out.
        let oldest = self.around.oldest();
        let now = self.around.clock.now();
        let kept_from = self.begins.zip(first_at.map(|at| at.min(now).max(oldest)));
        let batch = Batch {
            lease: &self.lease,
            read,
            now,
            next,
            claim_epoch: self.claim_epoch,
            kept_from,
            missed: self.missed,
            lease_until: now.plus(LEASE),
        };
        hookline_model::fail_point!("history-read");
        let began = Instant::now();
        match timeout(WRITE_WITHIN, store.write(&turn, &batch)).await {
            Ok(stored) => stored?,
            Err(_) => return Err(Ended::Late),
        }
        let metrics = &self.around.metrics;
        metrics.write.observe(began.elapsed().as_secs_f64());
        metrics.stored(&read);
        self.lease.next = Some(next);
        self.next.store(next, Ordering::Relaxed);
        self.missed = 0;
        if kept_from.is_some() {
            self.begins = None;
        }
        Ok(())
    }
}
