//! The old end of the partition: when what is unsettled there keeps too many records, or for too long, it is copied to `held`, and then nothing
//! before it is needed. Copies are made of everything that is not certainly settled when its record comes by; what has been settled since is passed
//! over where it is read, as in the log.

use std::collections::VecDeque;
use std::time::Duration;

use hookline_journal::{AppendError, Appended, JournalError, ReadBudget, append_when_room};
use hookline_model::core::held::HeldRange;
use hookline_model::time::Millis;

use super::{Mail, ToWrite, Worker, WorkerError};
use crate::records;
use crate::scan::Scanner;
use crate::shared::Shared;

/// Copies on their way at once.
const FLYING_MAX: usize = 512;
/// See [`FLYING_MAX`].
const FLYING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Places along the log whose time and bytes are remembered.
const MARKS_MAX: usize = 2_048;
/// Between two of them.
const MARK_BYTES: u64 = 1024 * 1024;
/// See [`MARK_BYTES`].
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How often, at most and at least, it is looked whether something has become too old.
const LOOK_MIN: Duration = Duration::from_millis(500);
/// How often, at least, it is looked how much follows the old end.
const LOOK_FOR_BYTES: Duration = Duration::from_secs(10);
/// See [`LOOK_MIN`].
const LOOK_MAX: Duration = Duration::from_secs(600);
/// How many records tell how large those are that were written before.
const PROBE: usize = 64;

/// Where the log stood at a time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    offset: u64,
    at: Millis,
    /// Bytes before it, from the first mark on.
    bytes: u64,
}

/// The ages and sizes of stretches of the log.
#[derive(Debug, Default)]
struct Marks {
    marks: VecDeque<Mark>,
    bytes: u64,
}

impl Marks {
    /// A record of the log has come by.
    fn passed(&mut self, offset: u64, at: Millis, bytes: usize) {
        let last = self.marks.back();
        if last.is_none_or(|last| {
            self.bytes >= last.bytes + MARK_BYTES || at.since(last.at) >= MARK_EVERY
        }) {
            let bytes = self.bytes;
            self.marks.push_back(Mark { offset, at, bytes });
        }
        self.bytes += bytes as u64;
        if self.marks.len() > MARKS_MAX {
            // The ends stay, and every other one between them.
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// How old what stands at `low` is, and how much follows it; older and more rather than younger and less.
    fn since(&mut self, low: u64, now: Millis) -> Option<(Duration, u64)> {
        while self.marks.get(1).is_some_and(|second| second.offset <= low) {
            self.marks.pop_front();
        }
        let first = self.marks.front()?;
        Some((now.since(first.at), self.bytes - first.bytes))
    }
}

/// What is being copied.
struct Copying {
    range: HeldRange,
    /// It was copied before: only what is left of it is copied again.
    again: bool,
    source: Scanner,
    passed: u64,
    flying: (usize, usize),
    recorded: bool,
}

/// The old end, and what is being done about it.
pub(super) struct OldEnd {
    marks: Marks,
    copying: Option<Copying>,
    looked: Millis,
    /// When a range was copied again, or could have been.
    cleaned: Millis,
    expired: Millis,
}

impl OldEnd {
    /// Looks what stands at the old end of a partition that was taken over.
    pub(super) async fn open(
        shared: &Shared,
        p: u32,
        low: u64,
        watermark: u64,
    ) -> Result<Self, JournalError> {
        let now = shared.clock.now();
        let mut marks = Marks::default();
        if low < watermark {
            let budget = ReadBudget::of(256 * 1024).backlog();
            let topic = &shared.names.deliveries;
            let mut reader = shared.journal.reader(topic, p, low, budget).await?;
            let batch = reader.next(PROBE).await?;
            let bytes =
                |r: &hookline_journal::StoredRecord| r.value.as_ref().map_or(0, bytes::Bytes::len);
            let all: usize = batch.records.iter().map(bytes).sum();
            let each = all / batch.records.len().max(1);
            if let Some(first) = batch.records.first() {
                let of_all =
                    each.saturating_mul(usize::try_from(watermark - low).unwrap_or(usize::MAX));
                marks.passed(low, Millis(first.timestamp_ms), of_all);
            }
        }
        Ok(Self {
            marks,
            copying: None,
            looked: now,
            cleaned: now,
            expired: now,
        })
    }

    /// A record has come by at the live edge.
    pub(super) fn passed(&mut self, offset: u64, at: Millis, bytes: usize) {
        self.marks.passed(offset, at, bytes);
    }

    /// Whether there is something to read.
    pub(super) fn wants(&self) -> bool {
        self.copying.as_ref().is_some_and(|copying| {
            copying.passed < copying.range.to && copying.source.empty() && copying.roomy()
        })
    }

    /// Reads on; cancel safe.
    pub(super) async fn fill(&mut self) -> Result<usize, JournalError> {
        match &mut self.copying {
            Some(copying) => copying.source.fill().await,
            None => std::future::pending().await,
        }
    }

    /// A copy is stored.
    pub(super) fn copied(&mut self, bytes: usize) {
        if let Some(copying) = &mut self.copying {
            copying.flying.0 -= 1;
            copying.flying.1 -= bytes;
        }
    }

    /// Records of `held` below this are needed by nobody, as far as is known here.
    pub(super) fn free_below(&self, over: u64) -> u64 {
        self.copying
            .as_ref()
            .map_or(over, |copying| over.min(copying.range.first))
    }
}

impl Copying {
    fn roomy(&self) -> bool {
        self.flying.0 < FLYING_MAX && self.flying.1 < FLYING_BYTES_MAX
    }
}

impl Worker {
    /// Looks now and then whether the old end keeps too much, and goes on with what is being copied.
    pub(super) async fn move_old_end(&mut self) -> Result<(), WorkerError> {
        self.expire();
        self.look_at_old_end().await?;
        let Some(copying) = &mut self.old_end.copying else {
            return Ok(());
        };
        if copying.recorded {
            return Ok(());
        }
        while copying.roomy()
            && let Some(step) = copying.source.next(copying.range.to)
        {
            copying.passed = step.passed;
            let Some(record) = step.record else { continue };
            let partition = &self.partition;
            let waiting: Vec<_> = record
                .sends()
                .into_iter()
                .filter(|placed| partition.waits_at(placed.lane, placed.position))
                .collect();
            let Some(record) = records::held(copying.range.epoch, &waiting) else {
                continue;
            };
            let bytes = record.value.as_ref().map_or(0, bytes::Bytes::len);
            copying.flying.0 += 1;
            copying.flying.1 += bytes;
            self.shared.metrics.held_bytes.inc_by(bytes as u64);
            let mailbox = self.mailbox.clone();
            let done = Box::new(move |result: Result<Appended, AppendError>| {
                let result = result.map(|_| ());
                mailbox.put(Mail::Copied { bytes, result });
            });
            let held = &self.shared.names.held;
            append_when_room(&*self.appender, held, self.p, record, done).await?;
        }
        if copying.passed >= copying.range.to && copying.flying.0 == 0 {
            let end = self.shared.journal.end(&self.shared.names.held, self.p);
            copying.range.end = end.await?;
            copying.recorded = true;
            hookline_model::fail_point!("dispatch-old-end-copied");
            self.to_write.push(ToWrite::moved(copying.range));
        }
        Ok(())
    }

    /// The move has certainly counted: what was copied is read there from now on.
    pub(super) fn moved(&mut self, range: HeldRange) {
        self.partition.moved(range);
        self.scanner.moved(self.partition.held());
        if let Some(copying) = self.old_end.copying.take() {
            tracing::info!(
                partition = self.p,
                from = range.from,
                to = range.to,
                copies = range.end - range.first,
                again = copying.again,
                "what waits at the old end was moved out of the way"
            );
        }
        self.progress.changed();
    }

    async fn look_at_old_end(&mut self) -> Result<(), WorkerError> {
        let (now, config) = (self.shared.clock.now(), &self.shared.config);
        // Bytes may come fast, whatever time it takes to grow old.
        let every = (config.old_end_after / 20).clamp(LOOK_MIN, LOOK_FOR_BYTES);
        if self.old_end.copying.is_some()
            || (now.since(self.old_end.looked) < every && now >= self.old_end.looked)
        {
            return Ok(());
        }
        self.old_end.looked = now;
        let (low, watermark) = (self.partition.low(), self.partition.watermark());
        let since = self.old_end.marks.since(low, now);
        let (age, bytes) = since.filter(|_| low < watermark).unwrap_or_default();
        let eldest = self.partition.held().eldest();
        let (from, to) = if age >= config.old_end_after || bytes >= config.old_end_bytes {
            (low, watermark)
        } else if let Some(eldest) = eldest
            && now.since(self.old_end.cleaned) >= config.old_end_after
        {
            (eldest.from, eldest.to)
        } else {
            return Ok(());
        };
        let again = to <= self.partition.held().edge();
        if again || eldest.is_none() {
            self.old_end.cleaned = now;
        }
        let first = self.shared.journal.end(&self.shared.names.held, self.p);
        let range = HeldRange {
            from,
            to,
            first: first.await?,
            end: 0,
            epoch: self.log.epoch(),
        };
        let mut source = Scanner::new(&self.shared, self.p, self.partition.held());
        source.seek(from);
        self.old_end.copying = Some(Copying {
            range,
            again,
            source,
            passed: from,
            flying: (0, 0),
            recorded: false,
        });
        Ok(())
    }

    /// What has waited for too long is asked for, now and then: nothing else may happen to it.
    fn expire(&mut self) {
        let now = self.shared.clock.now();
        let every = (self.shared.config.max_hold / 100).clamp(LOOK_MIN, LOOK_MAX);
        if now.since(self.old_end.expired) >= every || now < self.old_end.expired {
            self.old_end.expired = now;
            self.partition.lanes().resume();
            self.ask_resting = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_and_bytes_are_those_of_what_stands_at_the_old_end_or_a_little_before() {
        let mut marks = Marks::default();
        assert!(marks.since(0, Millis(5)).is_none());
        for n in 0..10_000_u64 {
            marks.passed(n, Millis(i64::try_from(n).unwrap() * 100), 1_000);
        }
        let now = Millis(1_000_000);
        let (age, bytes) = marks.since(5_000, now).unwrap();
        let old = Duration::from_millis(500_000);
        assert!(age >= old && age < old + Duration::from_secs(20), "{age:?}");
        assert!((5_000_000..5_200_000).contains(&bytes), "{bytes}");
        assert!(marks.marks.len() <= MARKS_MAX);
        let (age, bytes) = marks.since(9_999, now).unwrap();
        assert!(
            age < Duration::from_secs(20) && bytes < 200_000,
            "{age:?} {bytes}"
        );
    }
}
