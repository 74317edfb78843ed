//! The second reader of a partition: it follows lanes that are behind, within a budget.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hookline_journal::{JournalError, ReadBudget, Reader, StoredRecord};
use hookline_model::core::held::{Held, HeldRange};
use hookline_model::time::Millis;
use tokio::time::Instant;

use crate::records::{self, Copied, Placed};
use crate::shared::Shared;

/// Catch-up reads at most this much a second, or twice the live bytes if that is more.
const SCAN_BYTES_PER_SECOND: f64 = 16.0 * 1024.0 * 1024.0;

const BUDGET: ReadBudget = ReadBudget::of(256 * 1024).backlog();

/// With nothing to read for so long, the reader is given up.
const IDLE: Duration = Duration::from_secs(10);

/// Copies that are rather read than sought among.
const NEAR: u64 = 512;

/// Where a scan reads.
#[derive(Default)]
enum Source {
    #[default]
    Nowhere,
    /// The journal may take its time, and the partition has other things to do meanwhile.
    Opening(Opening),
    Open(Open),
}

type Opening = BoxFuture<'static, Result<Open, JournalError>>;

/// A reader of the log, or of the copies of a stretch of it.
struct Open {
    reader: Box<dyn Reader>,
    copies: Option<HeldRange>,
}

/// A record of the log, or what was copied of it.
pub(crate) struct Kept {
    pub(crate) offset: u64,
    body: Body,
}

enum Body {
    Log(StoredRecord),
    Copy(Vec<Placed>),
}

impl Kept {
    /// What stands in it; nothing where it cannot be read, which was said when it came by first.
    pub(crate) fn sends(&self) -> Vec<Placed> {
        match &self.body {
            Body::Log(record) => records::sends(record).map_or_else(|_| Vec::new(), |(s, _)| s),
            Body::Copy(sends) => sends.clone(),
        }
    }
}

/// Reads the log again from where it is needed, and what was moved out of its way from where that stands now; keeps what it has read for the next
/// time.
pub(crate) struct Scanner {
    shared: Arc<Shared>,
    p: u32,
    held: Held,
    source: Source,
    /// What was read and not used up, and where it begins and ends.
    kept: VecDeque<Kept>,
    begin: u64,
    end: u64,
    /// Since when nothing was wanted of it.
    idle_since: Option<Instant>,
}

impl Scanner {
    pub(crate) fn new(shared: &Arc<Shared>, p: u32, held: &Held) -> Self {
        Self {
            shared: Arc::clone(shared),
            p,
            held: held.clone(),
            source: Source::Nowhere,
            kept: VecDeque::new(),
            begin: 0,
            end: 0,
            idle_since: None,
        }
    }

    /// Something has moved: what is read on from now on stands elsewhere.
    pub(crate) fn moved(&mut self, held: &Held) {
        self.held = held.clone();
        if !matches!(self.source, Source::Nowhere) {
            self.open(self.end);
        }
    }

    /// Goes to `offset`; cheap when that is what comes next anyway.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.idle_since = None;
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
        self.open(offset);
        (self.begin, self.end) = (offset, offset);
    }

    fn open(&mut self, offset: u64) {
        let (shared, p) = (Arc::clone(&self.shared), self.p);
        let copies = self.held.ranges().iter().copied();
        let copies = copies.filter(|_| offset < self.held.edge());
        let opening: Opening = match copies.into_iter().find(|range| offset < range.to) {
            Some(range) => Box::pin(async move {
                let reader = open_copies(&shared, p, range, offset).await?;
                let copies = Some(range);
                Ok(Open { reader, copies })
            }),
            None => {
                // Nothing before the edge is left.
                let offset = offset.max(self.held.edge());
                self.end = self.end.max(offset);
                Box::pin(async move {
                    let topic = &shared.names.deliveries;
                    let reader = shared.journal.reader(topic, p, offset, BUDGET).await?;
                    let copies = None;
                    Ok(Open { reader, copies })
                })
            }
        };
        self.source = Source::Opening(opening);
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
        let Source::Open(Open { reader, copies }) = &mut self.source else {
            return std::future::pending().await;
        };
        let Some(range) = *copies else {
            let batch = reader.next(256).await?;
            let bytes = batch.records.iter().map(size).sum();
            self.kept
                .extend(batch.records.into_iter().map(|record| Kept {
                    offset: record.offset,
                    body: Body::Log(record),
                }));
            self.end = self.end.max(batch.next);
            return Ok(bytes);
        };
        let mut bytes = 0;
        if reader.position() < range.end {
            let batch = reader.next(256).await?;
            bytes = batch.records.iter().map(size).sum();
            for stored in batch.records.iter().filter(|r| r.offset < range.end) {
                let copy = read_copy(&self.shared, self.p, stored)?;
                if copy.epoch == range.epoch && copy.offset >= self.end {
                    self.end = copy.offset + 1;
                    self.kept.push_back(Kept {
                        offset: copy.offset,
                        body: Body::Copy(copy.sends),
                    });
                }
            }
        }
        if reader.position() >= range.end {
            self.end = self.end.max(range.to);
            self.open(self.end);
        }
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
    pub(crate) fn unread(&mut self, record: Kept) {
        self.begin = record.offset;
        self.kept.push_front(record);
    }

    /// Nothing that is behind can take more now. When that lasts, as while a webhook is paused, what is held is freed.
    pub(crate) fn idles(&mut self) {
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= IDLE {
            self.rest();
        }
    }

    /// Nothing is behind: frees what is held.
    pub(crate) fn rest(&mut self) {
        self.source = Source::Nowhere;
        self.kept = VecDeque::new();
        (self.begin, self.end) = (0, 0);
    }
}

fn size(record: &StoredRecord) -> usize {
    record.value.as_ref().map_or(0, bytes::Bytes::len)
}

/// A copy was made by us, and is somebody's only send: what cannot be read is passed over by nobody.
pub(crate) fn read_copy(
    shared: &Shared,
    p: u32,
    stored: &StoredRecord,
) -> Result<Copied, JournalError> {
    records::copied(stored).map_err(|why| JournalError::Failed {
        what: format!("reading {}[{p}] at {}", shared.names.held, stored.offset),
        reason: why.0,
    })
}

/// Reads the copies of a range from that of `offset` of the log on, or a little before.
pub(crate) async fn open_copies(
    shared: &Shared,
    p: u32,
    range: HeldRange,
    offset: u64,
) -> Result<Box<dyn Reader>, JournalError> {
    let (mut low, mut high) = (range.first, range.end);
    // They stand in the order of the log.
    while offset > range.from && high - low > NEAR {
        let middle = low + (high - low) / 2;
        match first_copy(shared, p, range, middle, high).await? {
            Some((at, there)) if there < offset => low = at,
            _ => high = middle,
        }
    }
    let topic = &shared.names.held;
    shared.journal.reader(topic, p, low, BUDGET).await
}

/// The first copy of the range from `at` on and below `end`: where it stands, and of which record.
async fn first_copy(
    shared: &Shared,
    p: u32,
    range: HeldRange,
    at: u64,
    end: u64,
) -> Result<Option<(u64, u64)>, JournalError> {
    let topic = &shared.names.held;
    let mut reader = shared.journal.reader(topic, p, at, BUDGET).await?;
    while reader.position() < end {
        let batch = reader.next(1).await?;
        for stored in batch.records.iter().filter(|r| r.offset < end) {
            let copy = read_copy(shared, p, stored)?;
            if copy.epoch == range.epoch {
                return Ok(Some((stored.offset, copy.offset)));
            }
        }
    }
    Ok(None)
}

/// A step along the log.
pub(crate) struct Step {
    /// Everything below has been passed once the record is dealt with.
    pub(crate) passed: u64,
    /// The record, if there was one.
    pub(crate) record: Option<Kept>,
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
