//! The second reader of a partition: it follows lanes that are behind, within a budget.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::BoxFuture;
use hookline_journal::{JournalError, ReadBudget, Reader, StoredRecord};
use hookline_model::time::Millis;

use crate::shared::Shared;

/// Catch-up reads at most this much a second, or twice the live bytes if that is more.
const SCAN_BYTES_PER_SECOND: f64 = 16.0 * 1024.0 * 1024.0;

const BUDGET: ReadBudget = ReadBudget { bytes: 256 * 1024 };

/// Where a scan reads.
#[derive(Default)]
enum Source {
    #[default]
    Nowhere,
    /// The journal may take its time, and the partition has other things to do meanwhile.
    Opening(BoxFuture<'static, Result<Box<dyn Reader>, JournalError>>),
    Open(Box<dyn Reader>),
}

/// Reads the log again from where lanes need it; keeps what it has read for the next time.
#[derive(Default)]
pub(crate) struct Scanner {
    source: Source,
    /// What was read and not used up, and where it begins and ends.
    kept: VecDeque<StoredRecord>,
    begin: u64,
    end: u64,
}

impl Scanner {
    /// Goes to `offset`; cheap when that is what comes next anyway.
    pub(crate) fn seek(&mut self, shared: &Shared, p: u32, offset: u64) {
        let reads = !matches!(self.source, Source::Nowhere);
        if reads && self.begin <= offset && offset <= self.end {
            while self
                .kept
                .front()
                .is_some_and(|record| record.offset < offset)
            {
                self.kept.pop_front();
            }
            self.begin = offset;
            return;
        }
        self.kept.clear();
        let (journal, topic) = (shared.journal.clone(), shared.names.deliveries.clone());
        let opening = async move { journal.reader(&topic, p, offset, BUDGET).await };
        self.source = Source::Opening(Box::pin(opening));
        (self.begin, self.end) = (offset, offset);
    }

    /// Whether [`Self::fill`] has to wait for the log.
    pub(crate) fn empty(&self) -> bool {
        self.kept.is_empty() && self.begin >= self.end
    }

    /// Reads on; cancel safe.
    pub(crate) async fn fill(&mut self) -> Result<usize, JournalError> {
        if let Source::Opening(opening) = &mut self.source {
            let opened = opening.await;
            self.source = Source::Nowhere;
            self.source = Source::Open(opened?);
        }
        let Source::Open(reader) = &mut self.source else {
            return std::future::pending().await;
        };
        let batch = reader.next(256).await?;
        let bytes = batch
            .records
            .iter()
            .map(|r| r.value.as_ref().map_or(0, bytes::Bytes::len))
            .sum();
        self.kept.extend(batch.records);
        self.end = batch.next;
        Ok(bytes)
    }

    /// The next record below `limit`, and the offset up to which the log has then been passed.
    pub(crate) fn next(&mut self, limit: u64) -> Option<Step> {
        match self.kept.front() {
            Some(record) if record.offset < limit => {
                let record = self.kept.pop_front()?;
                self.begin = self.kept.front().map_or(self.end, |next| next.offset);
                let passed = self.begin.min(limit);
                Some(Step {
                    passed,
                    record: Some(record),
                })
            }
            Some(_) => (self.begin < limit).then_some(Step {
                passed: limit,
                record: None,
            }),
            None => {
                let passed = self.end.min(limit);
                let moved = self.begin < passed;
                self.begin = self.begin.max(passed);
                moved.then_some(Step {
                    passed,
                    record: None,
                })
            }
        }
    }

    /// The record just taken was not dealt with completely: it comes again.
    pub(crate) fn unread(&mut self, record: StoredRecord) {
        self.begin = record.offset;
        self.kept.push_front(record);
    }

    /// Nothing is behind: frees what is held.
    pub(crate) fn rest(&mut self) {
        *self = Self::default();
    }
}

/// A step along the log.
pub(crate) struct Step {
    /// Everything below has been passed once the record is dealt with.
    pub(crate) passed: u64,
    /// The record, if there was one.
    pub(crate) record: Option<StoredRecord>,
}

/// Bytes that may be read again.
pub(crate) struct ScanBudget {
    tokens: f64,
    at: Millis,
    live: f64,
}

impl ScanBudget {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            tokens: SCAN_BYTES_PER_SECOND / 4.0,
            at: now,
            live: 0.0,
        }
    }

    /// Bytes came by at the live edge.
    pub(crate) fn live(&mut self, bytes: usize) {
        self.live += 2.0 * bytes as f64;
    }

    /// Whether reading may go on; else how long to wait.
    pub(crate) fn check(&mut self, now: Millis) -> Result<(), Duration> {
        let elapsed = now.since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + (SCAN_BYTES_PER_SECOND * elapsed).max(self.live))
            .min(SCAN_BYTES_PER_SECOND);
        self.live = 0.0;
        if self.tokens > 0.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64(
            (-self.tokens / SCAN_BYTES_PER_SECOND).clamp(0.001, 1.0),
        ))
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept_on_average_and_grows_with_the_live_edge() {
        let mut budget = ScanBudget::new(Millis(0));
        let mut read = 0_usize;
        for ms in 0..10_000 {
            while budget.check(Millis(ms)).is_ok() {
                budget.spend(100_000);
                read += 100_000;
            }
        }
        let allowed = SCAN_BYTES_PER_SECOND * 10.25;
        assert!(
            (read as f64) < allowed + 200_000.0 && (read as f64) > allowed * 0.95,
            "{read}"
        );
    }
}
