//! The cache of a partition's progress, and which cached state to believe.
//!
//! A checkpoint is a base or a delta to the one before of the same chain, cut into chunks. A reader takes the complete one with the highest end of
//! `attempts`, whoever wrote it, among those that need nothing that has been deleted. A missing or damaged one costs time, never sends.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message as _;

use super::held::{Held, HeldRange};
use super::lane::{LaneKey, LaneKind};
use super::marks::SourceMarks;
use super::mutation::mutated;
use crate::ids::{DeliveryId, Position, WebhookUid};
use crate::limits::{CHECKPOINT_CHUNK_BYTES, CHECKPOINT_DELTAS_BYTES};
use crate::time::Millis;
use crate::wire::{self, checkpoint_entry::Entry};

/// A send that was begun and is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(Hash))]
pub struct Single {
    /// Attempts made in the run so far, if any were made at this position (else zero: what the send carries counts).
    pub attempts: u32,
    /// Not before this.
    pub due: Millis,
    /// When the first attempt of the run began; zero when none has.
    pub first_try: Millis,
    /// It is a batch of one and [`Self::others`].
    pub batch: bool,
    /// The rest of the batch or, of one that was split, what goes on after it.
    pub others: Vec<Position>,
    /// What the others that go on after it have behind them: attempts, and when the first began.
    pub others_made: (u32, Millis),
    /// It waits until somebody skips or releases it.
    pub held: bool,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(Hash))]
pub struct Checkpoint {
    /// Every position below is settled or listed.
    pub watermark: u64,
    /// The end of `attempts` up to which this is true (exclusive).
    pub attempts_end: u64,
    /// The highest claim before that end.
    pub epoch: u64,
    /// The lowest position that is not settled.
    pub low: u64,
    /// When it was made.
    pub at: Millis,
    /// Sends begun.
    pub singles: BTreeMap<Position, Single>,
    /// Lanes with something waiting, with their cursors.
    pub lanes: BTreeMap<LaneKey, Position>,
    /// Source marks as they stood at the watermark.
    pub marks: SourceMarks,
    /// Positions below the watermark that a lane passes over: from, to (exclusive).
    pub skips: BTreeMap<Position, Position>,
    /// Runs of deliveries that were ended while they waited elsewhere, and when that may be forgotten.
    pub ended: BTreeMap<(DeliveryId, u64), Millis>,
    /// Records of `commands` below this are done.
    pub commands: u64,
    /// What stands in `held`.
    pub held: Held,
}

type Entries = BTreeMap<Vec<u8>, Bytes>;

/// See [`Checkpoint::reach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    attempts_end: u64,
    watermark: u64,
    low: u64,
    held_low: Option<u64>,
}

impl Checkpoint {
    /// How far it has come, to compare. Two may know the same of `attempts`, and the one that has read on in `deliveries` needs less: behind it may
    /// have been deleted what the other needs.
    #[must_use]
    pub fn reach(&self) -> Reach {
        Reach {
            attempts_end: self.attempts_end,
            watermark: self.watermark,
            low: self.low,
            held_low: self.held.low(),
        }
    }

    fn entries(&self) -> Entries {
        let singles = self.singles.iter().map(|(position, s)| {
            Entry::Single(wire::SingleSend {
                position: Some((*position).into()),
                attempts: s.attempts,
                due_ms: s.due.0,
                first_try_ms: s.first_try.0,
                batch: s.batch,
                others: (!s.others.is_empty()).then(|| wire::Positions::of(&s.others)),
                held: s.held,
                others_attempts: s.others_made.0,
                others_first_try_ms: s.others_made.1.0,
            })
        });
        let lanes = self.lanes.iter().map(|(key, cursor)| {
            Entry::Lane(wire::LaneCursor {
                webhook_uid: Bytes::copy_from_slice(key.webhook.as_bytes()),
                kind: key.kind.number(),
                cursor: Some((*cursor).into()),
            })
        });
        let skips = self.skips.iter().map(|(from, to)| {
            Entry::Repeats(wire::RepeatRange {
                from: Some((*from).into()),
                to: Some((*to).into()),
            })
        });
        let marks = self.marks.to_wire().map(Entry::Mark);
        let ended = self.ended.iter().map(|((id, run), forgotten)| {
            Entry::Ended(wire::EndedDelivery {
                delivery_id: Bytes::copy_from_slice(&id.0),
                run: *run,
                forgotten_at_ms: forgotten.0,
            })
        });
        let commands = (self.commands > 0).then_some(Entry::Commands(wire::CommandsDone {
            before: self.commands,
        }));
        let held = (!self.held.is_new()).then(|| {
            let (edge, ends) = self.held.stored();
            let ranges = self.held.ranges().iter().copied().map(Into::into);
            Entry::Held(wire::HeldRanges {
                ranges: ranges.collect(),
                edge,
                ends,
            })
        });
        singles
            .chain(lanes)
            .chain(skips)
            .chain(marks)
            .chain(ended)
            .chain(commands)
            .chain(held)
            .map(|entry| (key_of(&entry), encode(entry)))
            .collect()
    }

    fn from_entries(head: &wire::CheckpointHead, entries: &Entries) -> Option<Self> {
        let mut checkpoint = Self {
            watermark: head.watermark,
            attempts_end: head.attempts_end,
            epoch: head.epoch,
            low: head.low,
            at: Millis(head.at_ms),
            ..Self::default()
        };
        for bytes in entries.values() {
            checkpoint.take(wire::CheckpointEntry::decode(bytes.clone()).ok()?.entry?)?;
        }
        Some(checkpoint)
    }

    /// Takes a stored entry; `None` when it makes no sense.
    fn take(&mut self, entry: Entry) -> Option<()> {
        match entry {
            Entry::Single(s) => {
                let single = Single {
                    attempts: s.attempts,
                    due: Millis(s.due_ms),
                    first_try: Millis(s.first_try_ms),
                    batch: s.batch,
                    others: s
                        .others
                        .as_ref()
                        .map(wire::Positions::read)
                        .unwrap_or_default(),
                    held: s.held,
                    others_made: (s.others_attempts, Millis(s.others_first_try_ms)),
                };
                self.singles.insert(s.position?.into(), single);
            }
            Entry::Lane(l) => {
                let key = LaneKey {
                    webhook: WebhookUid::from_slice(&l.webhook_uid)?,
                    kind: LaneKind::from_number(l.kind)?,
                };
                self.lanes.insert(key, l.cursor?.into());
            }
            Entry::Mark(m) => self.marks.load(&m).then_some(())?,
            Entry::Repeats(r) => {
                self.skips.insert(r.from?.into(), r.to?.into());
            }
            Entry::Ended(e) => {
                let id = DeliveryId::from_slice(&e.delivery_id)?;
                self.ended.insert((id, e.run), Millis(e.forgotten_at_ms));
            }
            Entry::Commands(c) => self.commands = c.before,
            Entry::Held(h) => {
                let ranges = h.ranges.into_iter().map(HeldRange::from).collect();
                self.held = Held::load(ranges, h.edge, h.ends);
            }
        }
        Some(())
    }

    fn head(&self) -> wire::CheckpointHead {
        wire::CheckpointHead {
            watermark: self.watermark,
            attempts_end: self.attempts_end,
            epoch: self.epoch,
            low: self.low,
            at_ms: self.at.0,
            held_low: self.held.low(),
        }
    }
}

fn encode(entry: Entry) -> Bytes {
    wire::CheckpointEntry { entry: Some(entry) }
        .encode_to_vec()
        .into()
}

/// What tells entries apart: everything but their value. Sorts by sort of entry, then by position.
fn key_of(entry: &Entry) -> Vec<u8> {
    let at = |tag: u8, p: Option<wire::Position>| {
        let p = p.unwrap_or_default();
        let mut key = vec![tag];
        key.extend(p.offset.to_be_bytes());
        key.extend(p.index.to_be_bytes());
        key
    };
    match entry {
        Entry::Single(s) => at(1, s.position),
        Entry::Lane(l) => [&[2], &l.webhook_uid[..], &l.kind.to_be_bytes()].concat(),
        Entry::Mark(m) => {
            let mut stream = m.stream.clone().unwrap_or_default();
            match &mut stream.stream {
                Some(wire::source::Stream::Events(from)) => from.offset = 0,
                Some(wire::source::Stream::Job(from)) => from.offset = 0,
                Some(wire::source::Stream::Command(from)) => from.offset = 0,
                Some(wire::source::Stream::Retry(from)) => from.ticket = None,
                None => {}
            }
            [&[3], &stream.encode_to_vec()[..]].concat()
        }
        Entry::Repeats(r) => at(4, r.from),
        Entry::Ended(e) => [&[5], &e.delivery_id[..], &e.run.to_be_bytes()].concat(),
        Entry::Commands(_) => vec![7],
        Entry::Held(_) => vec![6],
    }
}

/// Turns checkpoints into chunks: a base first, then deltas, and a new base when the deltas have grown as large as one.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct CheckpointWriter {
    chain: Vec<u8>,
    link: u32,
    stored: Entries,
    base_bytes: usize,
    delta_bytes: usize,
}

/// Chunks to append in order, and whether they are a base (what was written before it is then no longer needed).
#[derive(Debug)]
pub struct Chunks {
    /// To be appended to `progress` of the partition, in this order.
    pub chunks: Vec<wire::CheckpointChunk>,
    /// Whether this begins a chain.
    pub base: bool,
}

impl CheckpointWriter {
    /// The chunks of the next checkpoint. `fresh` is a new random id, used when a chain begins.
    pub fn write(&mut self, checkpoint: &Checkpoint, fresh: [u8; 16]) -> Chunks {
        let entries = checkpoint.entries();
        let changed: Entries = entries
            .iter()
            .filter(|(key, value)| self.stored.get(*key) != Some(value))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let removed: Vec<Bytes> = self
            .stored
            .iter()
            .filter(|(key, _)| !entries.contains_key(*key))
            .map(|(_, value)| value.clone())
            .collect();
        let delta_bytes: usize = changed
            .values()
            .chain(&removed)
            .map(|v| v.len() + 4)
            .sum::<usize>()
            + 64;
        let base = self.chain.is_empty()
            || self.delta_bytes + delta_bytes > self.base_bytes.max(CHECKPOINT_DELTAS_BYTES);
        let (body, removed) = if base {
            self.chain = fresh.to_vec();
            self.link = 0;
            self.base_bytes = entries.values().map(|v| v.len() + 4).sum();
            self.delta_bytes = 0;
            (entries.values().cloned().collect::<Vec<_>>(), Vec::new())
        } else {
            self.link += 1;
            self.delta_bytes += delta_bytes;
            (changed.into_values().collect(), removed)
        };
        self.stored = entries;
        Chunks {
            chunks: cut(&self.chain, self.link, checkpoint.head(), body, removed),
            base,
        }
    }

    /// The last checkpoint did not get stored: the next one is a base.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

fn cut(
    chain: &[u8],
    link: u32,
    head: wire::CheckpointHead,
    body: Vec<Bytes>,
    removed: Vec<Bytes>,
) -> Vec<wire::CheckpointChunk> {
    let empty = || wire::CheckpointChunk {
        format: wire::FORMAT,
        chain: Bytes::copy_from_slice(chain),
        link,
        head: Some(head),
        ..wire::CheckpointChunk::default()
    };
    let mut chunks = vec![empty()];
    let mut bytes = 0;
    let parts = removed
        .into_iter()
        .map(|v| (v, true))
        .chain(body.into_iter().map(|v| (v, false)));
    for (value, gone) in parts {
        if bytes + value.len() + 64 > CHECKPOINT_CHUNK_BYTES - 1024 {
            chunks.push(empty());
            bytes = 0;
        }
        bytes += value.len() + 8;
        let entry = wire::CheckpointEntry::decode(value).expect("encoded by us a moment ago");
        let chunk = chunks.last_mut().expect("there is always one");
        if gone {
            chunk.removed.push(entry)
        } else {
            chunk.entries.push(entry)
        }
    }
    let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    for (index, chunk) in (0..).zip(&mut chunks) {
        chunk.index = index;
        chunk.count = count;
    }
    chunks
}

/// Reads `progress` in order and keeps what is complete of every chain.
#[derive(Debug, Default)]
pub struct CheckpointReader {
    chains: HashMap<Bytes, Chain>,
    /// Checkpoints completed so far.
    completed: u64,
}

#[derive(Debug, Default)]
struct Chain {
    /// What is complete: head and entries, and which one of all it was.
    head: Option<wire::CheckpointHead>,
    entries: Entries,
    completed: u64,
    next_link: u32,
    /// Of the next link: what has come so far.
    part: Vec<wire::CheckpointChunk>,
    /// The next link holds what this build cannot make sense of, so nothing can be built on it either.
    damaged: bool,
}

impl CheckpointReader {
    /// The next chunk of the log. Those that do not fit on what came before are passed over.
    pub fn read(&mut self, chunk: wire::CheckpointChunk) {
        if !wire::readable(chunk.format) || chunk.head.is_none() {
            return;
        }
        let chain = self.chains.entry(chunk.chain.clone()).or_default();
        if chain.damaged || (chunk.link != chain.next_link && !mutated!(DeltaOnWrongBase)) {
            return;
        }
        if chunk.index == 0 {
            chain.part.clear();
        }
        if usize::try_from(chunk.index) != Ok(chain.part.len()) {
            return;
        }
        let complete = chunk.index + 1 == chunk.count;
        chain.part.push(chunk);
        if complete {
            self.completed += 1;
            chain.complete(self.completed);
        }
    }

    /// The checkpoint to believe, where `deliveries` begins at `start` and `held` at `held_start`.
    ///
    /// A former owner may store one late and delete behind it, and then another with a higher end may need what is gone. Each complete one is true, so
    /// one that needs less will do. When all need what is gone, the highest is returned all the same, for the caller to raise the alarm.
    #[must_use]
    pub fn best(&self, start: u64, held_start: u64) -> Option<Checkpoint> {
        let complete = self.chains.values().filter_map(|c| Some((c.head?, c)));
        let (head, chain) = complete.max_by_key(|(head, chain)| {
            let end = (head.attempts_end, head.epoch);
            let end = if mutated!(LastCheckpointBelieved) {
                (0, 0)
            } else {
                end
            };
            let held = head.held_low.is_none_or(|low| low >= held_start);
            let enough = (head.low >= start && held) || mutated!(DeletedIsBelieved);
            (enough, end, chain.completed)
        })?;
        Checkpoint::from_entries(&head, &chain.entries)
    }
}

impl Chain {
    fn complete(&mut self, completed: u64) {
        let chunks = std::mem::take(&mut self.part);
        let mut all = chunks
            .iter()
            .flat_map(|chunk| chunk.entries.iter().chain(&chunk.removed));
        let usable = all.all(|e| {
            let entry = e.entry.clone();
            entry.is_some_and(|entry| Checkpoint::default().take(entry).is_some())
        });
        if !usable {
            self.damaged = true;
            return;
        }
        for chunk in chunks {
            self.head = chunk.head;
            for entry in chunk.removed.into_iter().filter_map(|e| e.entry) {
                self.entries.remove(&key_of(&entry));
            }
            for entry in chunk.entries.into_iter().filter_map(|e| e.entry) {
                self.entries.insert(key_of(&entry), encode(entry));
            }
        }
        self.completed = completed;
        self.next_link += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::marks::Stream;
    use proptest::prelude::*;

    fn read(chunks: impl IntoIterator<Item = wire::CheckpointChunk>) -> Option<Checkpoint> {
        let mut reader = CheckpointReader::default();
        for chunk in chunks {
            reader
                .read(wire::CheckpointChunk::decode(&chunk.encode_to_vec()[..]).expect("decodes"));
        }
        reader.best(0, 0)
    }

    fn held(count: u64, seed: u64) -> Held {
        let mut held = Held::default();
        for n in 0..count {
            let range = HeldRange {
                from: 10 * n,
                to: 10 * (n + 1),
                first: seed + 5 * n,
                end: seed + 5 * (n + 1),
                epoch: count,
            };
            held.moved(range);
        }
        held
    }

    fn arbitrary() -> impl Strategy<Value = Checkpoint> {
        let position = (0_u64..50, 0_u32..3).prop_map(|(offset, index)| Position { offset, index });
        let single = (0_u32..9, 0_i64..9, 0_i64..9).prop_map(|(attempts, due, first)| Single {
            attempts,
            due: Millis(due),
            first_try: Millis(first),
            batch: due % 2 == 1,
            others: (0..due as u64 % 4)
                .map(|n| Position::at(n * n + 7))
                .collect(),
            held: first % 2 == 1,
            others_made: (attempts, Millis(due)),
        });
        let lane = (0_u128..5, 0_u32..3).prop_map(|(uid, kind)| LaneKey {
            webhook: WebhookUid(uuid::Uuid::from_u128(uid)),
            kind: LaneKind::from_number(kind).expect("one of three"),
        });
        let marks = proptest::collection::vec((0_u32..4, 0_u64..99, 1_u128..9), 0..6);
        (
            (0_u64..1000, 0_u64..1000, 0_u64..9),
            proptest::collection::btree_map(position.clone(), single, 0..8),
            proptest::collection::btree_map(lane, position.clone(), 0..8),
            proptest::collection::btree_map(position.clone(), position, 0..4),
            marks,
        )
            .prop_map(
                |((watermark, attempts_end, epoch), singles, lanes, skips, marks)| {
                    let mut checkpoint = Checkpoint {
                        watermark,
                        attempts_end,
                        epoch,
                        low: watermark,
                        at: Millis(5),
                        singles,
                        lanes,
                        skips,
                        held: held(epoch, attempts_end),
                        ..Checkpoint::default()
                    };
                    for (partition, offset, webhook) in marks {
                        let source = wire::Source {
                            stream: Some(wire::source::Stream::Events(wire::FromEvents {
                                partition,
                                offset,
                                generation: 0,
                            })),
                        };
                        let (stream, at) =
                            Stream::of(&source, WebhookUid(uuid::Uuid::from_u128(webhook)))
                                .expect("a stream");
                        checkpoint.marks.admit(stream, at, Millis(3));
                    }
                    checkpoint
                },
            )
    }

    proptest! {
        #[test]
        fn base_and_deltas_read_back_as_what_was_written(mut states in proptest::collection::vec(arbitrary(), 1..8)) {
            let mut writer = CheckpointWriter::default();
            let mut log = Vec::new();
            for (n, state) in states.iter_mut().enumerate() {
                state.attempts_end = n as u64;
                log.extend(writer.write(state, [n as u8; 16]).chunks);
                prop_assert_eq!(read(log.clone()), Some(state.clone()));
            }
        }

        #[test]
        fn a_lost_chunk_leaves_an_older_state_never_a_wrong_one(mut states in proptest::collection::vec(arbitrary(), 1..8), lost in 0_usize..8) {
            let mut writer = CheckpointWriter::default();
            let mut log = Vec::new();
            for (n, state) in states.iter_mut().enumerate() {
                state.attempts_end = n as u64;
                log.extend(writer.write(state, [n as u8; 16]).chunks);
            }
            let lost = lost % log.len();
            log.remove(lost);
            let got = read(log);
            prop_assert!(got.is_none() || states.contains(&got.expect("some")));
        }
    }

    #[test]
    fn a_large_state_is_cut_into_chunks_and_counts_only_when_complete() {
        let mut state = Checkpoint {
            attempts_end: 1,
            ..Checkpoint::default()
        };
        for offset in 0..60_000 {
            state.singles.insert(
                Position::at(offset),
                Single {
                    attempts: 1,
                    due: Millis(1_700_000_000_000),
                    first_try: Millis(1_700_000_000_000),
                    ..Single::default()
                },
            );
        }
        let chunks = CheckpointWriter::default().write(&state, [1; 16]).chunks;
        assert!(chunks.len() > 1);
        assert!(
            chunks
                .iter()
                .all(|c| c.encoded_len() <= CHECKPOINT_CHUNK_BYTES)
        );
        assert_eq!(read(chunks[..chunks.len() - 1].to_vec()), None);
        assert_eq!(read(chunks), Some(state));
    }

    #[test]
    fn the_highest_end_wins_whoever_wrote_it() {
        let state = |end| Checkpoint {
            attempts_end: end,
            watermark: end,
            ..Checkpoint::default()
        };
        let mut ours = CheckpointWriter::default();
        let mut zombie = CheckpointWriter::default();
        let mut log = zombie.write(&state(5), [1; 16]).chunks;
        log.extend(ours.write(&state(9), [2; 16]).chunks);
        log.extend(zombie.write(&state(6), [3; 16]).chunks);
        assert_eq!(read(log).map(|c| c.attempts_end), Some(9));
    }

    #[test]
    fn what_this_build_does_not_know_is_never_left_out() {
        let state = |end| Checkpoint {
            attempts_end: end,
            ..Checkpoint::default()
        };
        let mut writer = CheckpointWriter::default();
        let mut log = writer.write(&state(1), [1; 16]).chunks;
        let mut strange = writer.write(&state(2), [1; 16]).chunks;
        strange[0]
            .entries
            .push(wire::CheckpointEntry { entry: None });
        log.extend(strange);
        log.extend(writer.write(&state(3), [1; 16]).chunks);
        assert_eq!(
            read(log).map(|c| c.attempts_end),
            Some(1),
            "an exception that cannot be read makes the state untrue, and all that build on it"
        );
    }

    #[test]
    fn one_that_needs_what_is_deleted_gives_way_to_one_that_does_not() {
        let state = |end, low| Checkpoint {
            attempts_end: end,
            low,
            watermark: low,
            ..Checkpoint::default()
        };
        // The new owner's end is held back; the former owner's, stored late, is higher, and the new owner has deleted what it needs.
        let mut reader = CheckpointReader::default();
        let mut ours = CheckpointWriter::default();
        let mut zombie = CheckpointWriter::default();
        let ours = ours.write(&state(5, 9), [1; 16]).chunks;
        let zombie = zombie.write(&state(7, 3), [2; 16]).chunks;
        ours.into_iter()
            .chain(zombie)
            .for_each(|chunk| reader.read(chunk));
        assert_eq!(reader.best(3, 0).map(|c| c.attempts_end), Some(7));
        assert_eq!(reader.best(9, 0).map(|c| c.attempts_end), Some(5));
        assert_eq!(
            reader.best(10, 0).map(|c| c.attempts_end),
            Some(7),
            "all need it: for the alarm"
        );
    }
}
