//! One log decides who owns a partition.
//!
//! The consumer group only suggests. A new owner appends a claim with the highest epoch read plus one, reads up to it, and owns the partition
//! if no equal or higher epoch stands before it. A record of a lower epoch behind a claim counts for nobody. An owner acts on an acknowledged
//! record only once it knows that no foreign claim stands before it: offsets without a gap say so, a gap is read first.

use std::collections::VecDeque;

use super::mutation::mutated;

/// What a record of `attempts` is, as far as ownership goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogEntry<A> {
    /// A claim.
    Claim {
        /// Its epoch.
        epoch: u64,
        /// Which claim of that epoch.
        nonce: Vec<u8>,
    },
    /// Something an owner wrote.
    Written {
        /// The epoch it was written under.
        epoch: u64,
        /// Counts the records written under that claim.
        sequence: u64,
        /// What it says.
        body: A,
    },
    /// Of a kind that this build does not know.
    Other,
}

/// Reads `attempts` in order and tells which records count.
#[derive(Debug, Clone, Default)]
pub struct ClaimReader {
    highest: u64,
}

/// What a reader of the whole log makes of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Counted<A> {
    /// The claim took effect: from here on this epoch owns the partition.
    Claimed {
        /// The epoch.
        epoch: u64,
        /// Which claim of that epoch.
        nonce: Vec<u8>,
    },
    /// An owner's record.
    Written(A),
    /// Counts for nobody: a late claim, or a record of somebody who had lost the partition.
    Nothing,
}

impl ClaimReader {
    /// Begins where `highest` was the highest epoch.
    #[must_use]
    pub fn new(highest: u64) -> Self {
        Self { highest }
    }

    /// The highest epoch so far.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The next record of the log.
    pub fn read<A>(&mut self, entry: LogEntry<A>) -> Counted<A> {
        match entry {
            LogEntry::Claim { epoch, nonce }
                if epoch > self.highest
                    || (mutated!(EqualClaimCounts) && epoch == self.highest) =>
            {
                self.highest = epoch;
                Counted::Claimed { epoch, nonce }
            }
            // A higher epoch without its claim: who reads this begins behind it, where older records have been deleted.
            LogEntry::Written { epoch, body, .. }
                if epoch >= self.highest || mutated!(LowerEpochCounts) =>
            {
                self.highest = self.highest.max(epoch);
                Counted::Written(body)
            }
            LogEntry::Claim { .. } | LogEntry::Written { .. } | LogEntry::Other => Counted::Nothing,
        }
    }
}

/// What the owner must read before it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// First offset to look at.
    pub from: u64,
    /// First offset not to look at; `None`: up to the end of the log as it is now.
    pub to: Option<u64>,
}

/// The owner's side of `attempts`: what it wrote, and which of that has certainly counted.
///
/// Acknowledgements of one partition come in the order of the appends.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct OwnLog<R> {
    epoch: u64,
    sequence: u64,
    /// Below this there is no foreign claim after ours. Own records below it that are still pending are confirmed next.
    inspected: u64,
    pending: VecDeque<Pending<R>>,
    fenced: Option<u64>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
struct Pending<R> {
    sequence: u64,
    body: R,
    acked: Acked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Acked {
    No,
    /// Acknowledged, or read in the log, which is as good.
    At(u64),
    Somewhere,
}

impl<R> OwnLog<R> {
    /// The log of an owner whose claim of `epoch` took effect at offset `claim`.
    #[must_use]
    pub fn new(epoch: u64, claim: u64) -> Self {
        Self {
            epoch,
            sequence: 0,
            inspected: claim + 1,
            pending: VecDeque::new(),
            fenced: None,
        }
    }

    /// The epoch to write under.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Everything below this offset has been acted on by this owner, or is of no effect.
    #[must_use]
    pub fn inspected(&self) -> u64 {
        match self.pending.front().map(|p| p.acked) {
            Some(Acked::At(offset)) if !mutated!(OwnRecordsPassedOver) => {
                self.inspected.min(offset)
            }
            _ => self.inspected,
        }
    }

    /// A higher claim was met: this owner must stop.
    #[must_use]
    pub fn fenced_by(&self) -> Option<u64> {
        self.fenced
    }

    /// Records handed to the journal and not yet confirmed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The sequence number of the next record.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.sequence + 1
    }

    /// A record with [`Self::next_sequence`] was handed to the journal.
    pub fn appended(&mut self, body: R) -> u64 {
        self.sequence += 1;
        self.pending.push_back(Pending {
            sequence: self.sequence,
            body,
            acked: Acked::No,
        });
        self.sequence
    }

    /// The journal has stored the record; `None` when it did not say where.
    pub fn acked(&mut self, sequence: u64, offset: Option<u64>) {
        let pending = self.pending.iter_mut().find(|p| p.sequence == sequence);
        if let Some(pending) = pending.filter(|p| p.acked == Acked::No) {
            pending.acked = offset.map_or(Acked::Somewhere, Acked::At);
        }
    }

    /// The next record that has certainly counted, with its offset. `Err` when something must be read first.
    ///
    /// # Errors
    /// The gap to read and hand to [`Self::inspect`].
    pub fn confirm(&mut self) -> Result<Option<(u64, R)>, Gap> {
        if self.fenced.is_some() {
            return Ok(None);
        }
        match self.pending.front().map(|p| p.acked) {
            None | Some(Acked::No) => Ok(None),
            Some(Acked::At(offset)) if offset <= self.inspected || mutated!(GapNotInspected) => {
                self.inspected = self.inspected.max(offset + 1);
                Ok(self.pending.pop_front().map(|p| (offset, p.body)))
            }
            Some(Acked::At(offset)) => Err(Gap {
                from: self.inspected,
                to: Some(offset),
            }),
            Some(Acked::Somewhere) => Err(Gap {
                from: self.inspected,
                to: None,
            }),
        }
    }

    /// A record of the gap, in order.
    pub fn inspect<A>(&mut self, offset: u64, entry: &LogEntry<A>) {
        match entry {
            LogEntry::Claim { epoch, .. } | LogEntry::Written { epoch, .. }
                if *epoch > self.epoch && self.fenced.is_none() =>
            {
                self.fenced = Some(*epoch);
            }
            LogEntry::Written {
                epoch, sequence, ..
            } if *epoch == self.epoch && self.fenced.is_none() => {
                // Also one whose acknowledgement is still on its way: what has been passed must not be looked for later.
                let pending = self.pending.iter_mut().find(|p| p.sequence == *sequence);
                if let Some(pending) = pending.filter(|p| {
                    p.acked == Acked::Somewhere
                        || (p.acked == Acked::No && !mutated!(OwnRecordsPassedOver))
                }) {
                    pending.acked = Acked::At(offset);
                }
            }
            _ => {}
        }
        if self.fenced.is_none() {
            self.inspected = self.inspected.max(offset + 1);
        }
    }

    /// The gap has been read up to `to` (exclusive).
    pub fn inspected_to(&mut self, to: u64) {
        if self.fenced.is_none() {
            self.inspected = self.inspected.max(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(epoch: u64) -> LogEntry<()> {
        LogEntry::Claim {
            epoch,
            nonce: vec![],
        }
    }

    fn written(epoch: u64, sequence: u64) -> LogEntry<()> {
        LogEntry::Written {
            epoch,
            sequence,
            body: (),
        }
    }

    #[test]
    fn a_record_of_a_lower_epoch_behind_a_claim_counts_for_nobody() {
        let mut reader = ClaimReader::new(0);
        assert_eq!(
            reader.read(claim(1)),
            Counted::Claimed {
                epoch: 1,
                nonce: vec![]
            }
        );
        assert_eq!(reader.read(written(1, 1)), Counted::Written(()));
        assert_eq!(
            reader.read(claim(2)),
            Counted::Claimed {
                epoch: 2,
                nonce: vec![]
            }
        );
        assert_eq!(reader.read(written(1, 2)), Counted::Nothing);
        assert_eq!(
            reader.read(claim(2)),
            Counted::Nothing,
            "the first claim of an epoch wins"
        );
        assert_eq!(reader.read(written(2, 1)), Counted::Written(()));
    }

    #[test]
    fn records_whose_claim_was_deleted_long_ago_still_count() {
        let mut reader = ClaimReader::new(0);
        assert_eq!(reader.read(written(7, 90)), Counted::Written(()));
        assert_eq!(reader.highest(), 7, "the next claim is a higher one");
        assert_eq!(reader.read(written(6, 4)), Counted::Nothing);
        assert_eq!(reader.read(claim(7)), Counted::Nothing);
    }

    #[test]
    fn contiguous_offsets_confirm_without_reading() {
        let mut log = OwnLog::new(3, 10);
        log.appended("a");
        log.appended("b");
        log.acked(1, Some(11));
        assert_eq!(log.confirm(), Ok(Some((11, "a"))));
        assert_eq!(log.confirm(), Ok(None));
        log.acked(2, Some(12));
        assert_eq!(log.confirm(), Ok(Some((12, "b"))));
    }

    #[test]
    fn a_gap_is_read_first_and_a_zombie_in_it_harms_nothing() {
        let mut log = OwnLog::new(3, 10);
        log.appended("a");
        log.acked(1, Some(13));
        assert_eq!(
            log.confirm(),
            Err(Gap {
                from: 11,
                to: Some(13)
            })
        );
        log.inspect(11, &written(2, 9));
        log.inspect(12, &claim(3));
        log.inspected_to(13);
        assert_eq!(log.confirm(), Ok(Some((13, "a"))));
    }

    #[test]
    fn a_higher_claim_in_the_gap_stops_the_owner() {
        let mut log = OwnLog::new(3, 10);
        log.appended("a");
        log.acked(1, Some(12));
        log.inspect(11, &claim(4));
        log.inspected_to(12);
        assert_eq!(log.fenced_by(), Some(4));
        assert_eq!(log.confirm(), Ok(None));
        assert_eq!(log.inspected(), 11);
    }

    #[test]
    fn a_record_stored_nobody_said_where_is_found_by_its_sequence() {
        let mut log = OwnLog::new(3, 10);
        log.appended("a");
        log.acked(1, None);
        assert_eq!(log.confirm(), Err(Gap { from: 11, to: None }));
        log.inspect(11, &written(3, 1));
        log.inspected_to(12);
        assert_eq!(log.confirm(), Ok(Some((11, "a"))));
    }

    #[test]
    fn an_own_record_that_was_read_before_its_acknowledgement_came_is_not_passed_over() {
        let mut log = OwnLog::new(3, 10);
        log.appended("a");
        log.appended("b");
        log.acked(1, None);
        assert_eq!(log.confirm(), Err(Gap { from: 11, to: None }));
        // Both are stored; only the first is acknowledged.
        log.inspect(11, &written(3, 1));
        log.inspect(12, &written(3, 2));
        log.inspected_to(13);
        assert_eq!(
            log.inspected(),
            11,
            "a checkpoint made now may not claim them"
        );
        assert_eq!(log.confirm(), Ok(Some((11, "a"))));
        assert_eq!(log.confirm(), Ok(Some((12, "b"))));
        assert_eq!(log.inspected(), 13);
        log.acked(2, None);
        assert_eq!(log.confirm(), Ok(None), "and nobody looks for it once more");
    }
}
