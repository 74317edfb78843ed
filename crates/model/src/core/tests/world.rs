//! The world around the owners of a partition: the logs, which outlive them, and who is on the way to own it. What is true is always worked out anew,
//! from the logs alone.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use prost::Message as _;

use super::owner::{Owner, follow_ups};
use super::tiers::{Tiers, Waiting};
use super::{from_path, uid};
use crate::core::checkpoint::{Checkpoint, CheckpointReader, Reach};
use crate::core::claims::{ClaimReader, Counted, LogEntry};
use crate::core::held::{Held, HeldRange};
use crate::core::lane::{Batch, LaneKey, LaneKind};
use crate::core::marks::{Stream, StreamPosition};
use crate::core::partition::{After, Made, Partition, Read, Replayed, Sendable, Ticket};
use crate::ids::Position;
use crate::wire;

/// What is to be sent: which delivery it is, and the attempts that its run has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Send {
    pub(super) event: u64,
    pub(super) webhook: u128,
    pub(super) attempts: u32,
}

impl Sendable for Send {
    type Outline = u64;

    fn outline(&self) -> u64 {
        self.event
    }

    fn alone(&self) -> (Self, usize) {
        (*self, 10)
    }
}

/// A record of `deliveries`.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) source: wire::Source,
    pub(super) sends: Vec<Send>,
}

/// What the webhooks are like.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(super) struct Shape {
    /// In order: within the webhook, or within one of two keys.
    pub(super) ordered: &'static [u128],
    pub(super) by_key: &'static [u128],
    /// So many go out together.
    pub(super) batched: &'static [u128],
    pub(super) wait: Duration,
}

/// Sends of a batch at most.
const TOGETHER: usize = 3;

impl Shape {
    pub(super) fn kind(&self, source: &wire::Source, send: Send) -> LaneKind {
        let job = matches!(source.stream, Some(wire::source::Stream::Job(_)));
        let retry = matches!(source.stream, Some(wire::source::Stream::Retry(_)));
        let by_key = self.by_key.contains(&send.webhook);
        match (self.ordered.contains(&send.webhook) || by_key, job) {
            (true, true) => LaneKind::OrderedBulk,
            (true, false) if by_key => LaneKind::Key((send.event % 2) as u8),
            (true, false) => LaneKind::Ordered,
            (false, true) => LaneKind::Bulk,
            (false, false) if retry => LaneKind::Due,
            (false, false) => LaneKind::Fresh,
        }
    }

    pub(super) fn batch(&self, webhook: u128) -> Option<Batch> {
        self.batched.contains(&webhook).then_some(Batch {
            sends: TOGETHER,
            bytes: 1_000,
            wait: self.wait,
        })
    }

    /// Whether what fails goes again at its place, however long it waits.
    pub(super) fn stays(&self, webhook: u128) -> bool {
        [self.ordered, self.by_key, self.batched]
            .iter()
            .any(|some| some.contains(&webhook))
    }
}

/// What an attempt record says of one send.
#[derive(Debug, Clone, Hash)]
pub(super) struct Said {
    pub(super) position: Position,
    pub(super) send: Send,
    pub(super) after: After,
    pub(super) made: Made,
    /// The path of the retry that follows.
    pub(super) retry: Option<Vec<u64>>,
    /// Whether there was an exchange.
    pub(super) exchange: bool,
    /// Of a batch: the rest of it.
    pub(super) others: Vec<(Position, Send)>,
    /// It says that the batch begins, nothing else.
    pub(super) begins: bool,
    /// It says that this was copied, nothing else.
    pub(super) moved: Option<HeldRange>,
}

impl Said {
    /// Every send it is about.
    pub(super) fn sends(&self) -> impl Iterator<Item = (Position, Send)> + '_ {
        let first = self.moved.is_none().then_some((self.position, self.send));
        first.into_iter().chain(self.others.iter().copied())
    }
}

pub(super) type Entry = LogEntry<Vec<Said>>;

/// A record that follows from an attempt.
#[derive(Debug, Clone, Hash)]
pub(super) struct Follow {
    pub(super) ticket: Position,
    pub(super) position: Position,
    pub(super) retry: Option<(Vec<u64>, Send)>,
}

/// A part of a checkpoint, and what tells it from others.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) digest: u64,
    pub(super) chunk: Rc<wire::CheckpointChunk>,
}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// What a former owner had handed to the journal: it may still be stored, in its order.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Late {
    pub(super) attempts: VecDeque<Rc<Entry>>,
    pub(super) follow: VecDeque<Follow>,
    pub(super) parts: VecDeque<Part>,
}

/// How often something happened that the tests are about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Provoked {
    pub(super) takeovers: u32,
    /// Of these: not from the start of the logs.
    pub(super) from_checkpoint: u32,
    pub(super) claims_in_vain: u32,
    pub(super) fenced: u32,
    /// Claimed, but from older progress than there was by then.
    pub(super) outdated: u32,
    /// Met what somebody else had deleted.
    pub(super) deleted: u32,
    pub(super) deletions: u32,
    pub(super) late: u32,
    pub(super) repeats: u32,
    /// Sends met at the live edge that had been dealt with before.
    pub(super) known: u32,
    pub(super) left_behind: u32,
    pub(super) scanned: u32,
    pub(super) batches: u32,
    pub(super) splits: u32,
    pub(super) held: u32,
    /// Copied to `held`, and named; copied again; read there.
    pub(super) moves: u32,
    pub(super) cleanings: u32,
    pub(super) copies_read: u32,
    /// Payloads of what waits given back, and read again.
    pub(super) put_away: u32,
    pub(super) fetched: u32,
}

/// A record of `held`.
#[derive(Debug, Clone, Hash)]
pub(super) struct Copied {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) indexes: Vec<u32>,
}

/// The logs, which outlive everybody.
#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) incoming: VecDeque<Rc<Record>>,
    pub(super) deliveries: Vec<Rc<Record>>,
    /// Records of `deliveries` and of `progress` below these have been deleted.
    pub(super) start: u64,
    pub(super) progress_start: usize,
    pub(super) held_start: u64,
    /// Copies of sends: by whom, and where each stood.
    pub(super) held: Vec<Rc<Copied>>,
    pub(super) attempts: Vec<Rc<Entry>>,
    pub(super) progress: Vec<Part>,
    pub(super) tiers: Tiers<Send>,
    pub(super) late: Vec<Late>,
    /// Owners that do not know yet that they are no longer; the last one is the current one.
    pub(super) owners: Vec<Owner>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) now: i64,
    pub(super) paused: bool,
    /// A takeover keeps the payloads only of every other send that waits.
    pub(super) thrifty: bool,
    /// What the webhooks are like.
    pub(super) shape: Shape,
    /// Webhook 3 was deleted.
    pub(super) ended: bool,
    /// Room for queues: by position scarce, or plenty.
    pub(super) scarce: bool,
    /// Different for all checkpoints.
    pub(super) chains: u128,
    pub(super) provoked: Provoked,
    pub(super) copies_read: Cell<u32>,
    /// Records written that follow from attempts, by ticket.
    pub(super) written: BTreeMap<Position, u32>,
}

/// Somebody on the way to own the partition.
#[derive(Clone)]
pub(super) struct Candidate {
    partition: Partition<Send>,
    claims: ClaimReader,
    /// How far the checkpoint it began at has come.
    from: Option<Reach>,
    /// How far it has read `attempts`.
    at: usize,
    follow: Vec<Follow>,
}

/// Why an owner or a candidate goes no further.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It wants to read what has been deleted: it must look again how things stand.
    Deleted,
}

/// The reference: the entries that count, with their offsets.
pub(super) fn counted(attempts: &[Rc<Entry>]) -> Vec<(u64, &Vec<Said>)> {
    let mut highest = 0;
    let mut counted = Vec::new();
    for (offset, entry) in (0..).zip(attempts) {
        match &**entry {
            LogEntry::Claim { epoch, .. } => highest = highest.max(*epoch),
            LogEntry::Written { epoch, body, .. } if *epoch == highest => {
                counted.push((offset, body))
            }
            LogEntry::Written { .. } | LogEntry::Other => {}
        }
    }
    counted
}

/// The reference: what the log says of one send: whether it is final, and the attempts after which it goes again at its place.
pub(super) fn said_of(counted: &[(u64, &Vec<Said>)], position: Position) -> (usize, Vec<Made>) {
    let of = counted
        .iter()
        .flat_map(|(_, said)| said.iter())
        .filter(|said| !said.begins && said.sends().any(|(p, _)| p == position));
    let (again, finals): (Vec<_>, Vec<_>) =
        of.partition(|said| matches!(said.after, After::InPlace(_) | After::Hold | After::Split));
    (finals.len(), again.iter().map(|said| said.made).collect())
}

/// The reference: the sends that are no repeats, by their identity alone.
pub(super) fn wanted(deliveries: &[Rc<Record>]) -> BTreeMap<Position, Send> {
    let mut seen = BTreeSet::new();
    let mut wanted = BTreeMap::new();
    for (offset, record) in (0..).zip(deliveries) {
        for (index, send) in (0..).zip(&record.sends) {
            if seen.insert((record.source.encode_to_vec(), send.webhook)) {
                wanted.insert(Position { offset, index }, *send);
            }
        }
    }
    wanted
}

impl World {
    /// The sends of a record, as the shell reads them again: from the log or, below the edge, what was copied of it.
    pub(super) fn read_again(&self, held: &Held, offset: u64) -> Result<Vec<Read<Send>>, Stop> {
        if offset >= held.edge() {
            let sends = self.read(offset)?;
            return Ok(sends.into_iter().map(|(read, ..)| read).collect());
        }
        let range = held
            .ranges()
            .iter()
            .find(|r| r.from <= offset && offset < r.to);
        let Some(range) = range else {
            return Ok(Vec::new());
        };
        if range.first < self.held_start {
            return Err(Stop::Deleted);
        }
        let copies = range.first as usize..range.end as usize;
        let copy = self.held[copies].iter();
        let mut copy = copy.filter(|copy| copy.epoch == range.epoch && copy.offset == offset);
        let Some(copy) = copy.next() else {
            return Ok(Vec::new());
        };
        self.copies_read.set(self.copies_read.get() + 1);
        let sends = self.sends(offset).into_iter().map(|(read, ..)| read);
        let here = |read: &Read<Send>| copy.indexes.contains(&read.position.index);
        Ok(sends.filter(here).collect())
    }

    /// One send of a record that was begun.
    pub(super) fn read_back(&self, held: &Held, position: Position) -> Result<Read<Send>, Stop> {
        let sends = if position.offset >= self.start {
            let sends = self.sends(position.offset);
            sends.into_iter().map(|(read, ..)| read).collect()
        } else {
            self.read_again(held, position.offset)?
        };
        let mut sends = sends.into_iter();
        sends
            .find(|read| read.position == position)
            .ok_or(Stop::Deleted)
    }

    /// The sends of a record, as the shell reads them.
    pub(super) fn read(
        &self,
        offset: u64,
    ) -> Result<Vec<(Read<Send>, Stream, StreamPosition)>, Stop> {
        if offset < self.start {
            return Err(Stop::Deleted);
        }
        Ok(self.sends(offset))
    }

    fn sends(&self, offset: u64) -> Vec<(Read<Send>, Stream, StreamPosition)> {
        let record = &self.deliveries[offset as usize];
        let count = record.sends.len() as u32;
        let read = (0..count).zip(&record.sends).map(|(index, send)| {
            let webhook = uid(send.webhook);
            let (stream, at) = Stream::of(&record.source, webhook).expect("a stream");
            let read = Read {
                position: Position { offset, index },
                next: if index + 1 == count {
                    Position::at(offset + 1)
                } else {
                    Position {
                        offset,
                        index: index + 1,
                    }
                },
                lane: LaneKey {
                    webhook,
                    kind: self.shape.kind(&record.source, *send),
                },
                payload: *send,
                bytes: 10,
                weight: 10,
            };
            (read, stream, at)
        });
        read.collect()
    }

    /// Often there is little room, so that lanes fall behind all the time; now and then there is enough to give something back later.
    pub(super) fn room(&self, position: Position) -> usize {
        if self.scarce && position.offset % 4 < 2 {
            0
        } else {
            usize::MAX
        }
    }

    pub(super) fn publish(&mut self) {
        self.deliveries.extend(self.incoming.pop_front());
    }

    pub(super) fn copy(&mut self, tier: u64, copier: bool) {
        if let Some(back) = self.tiers.copy(tier, copier) {
            self.deliveries.push(Rc::new(Record {
                source: from_path(&back.path, back.ticket),
                sends: vec![back.what],
            }));
        }
    }

    /// What can be read of what is cached.
    pub(super) fn cached(&self) -> Option<Checkpoint> {
        let mut reader = CheckpointReader::default();
        for part in &self.progress[self.progress_start..] {
            reader.read((*part.chunk).clone());
        }
        reader.best(self.start, self.held_start)
    }

    /// Somebody reads what is cached, and the log since then.
    pub(super) fn look(&mut self) -> TestCaseResult {
        let checkpoint = self.cached();
        let low = checkpoint.as_ref().map_or(0, |c| c.low);
        let held = checkpoint.as_ref().and_then(|c| c.held.low());
        prop_assert!(
            held.is_none_or(|held| held >= self.held_start),
            "alarm: copies from {held:?} on are needed, all below {} is gone",
            self.held_start
        );
        prop_assert!(
            low >= self.start,
            "alarm: {low} is needed, all below {} is gone",
            self.start
        );
        self.provoked.from_checkpoint += u32::from(checkpoint.is_some());
        self.candidates.push(Candidate::new(self, checkpoint));
        Ok(())
    }

    /// One of them claims, reads up to its claim, and owns the partition if nobody was faster.
    pub(super) fn claim(&mut self, which: usize) -> Result<(), Stop> {
        let mut candidate = self.candidates.remove(which);
        let epoch = candidate.claims.highest() + 1;
        let nonce = self.attempts.len().to_be_bytes().to_vec();
        self.attempts.push(Rc::new(LogEntry::Claim {
            epoch,
            nonce: nonce.clone(),
        }));
        let claimed = candidate.replay(self);
        let Some((at, _)) = claimed.filter(|(_, n)| *n == nonce) else {
            self.provoked.claims_in_vain += 1;
            self.candidates.insert(which, candidate);
            return Ok(());
        };
        // As the shell does: the owner before may have stored one more checkpoint before this claim, and deleted behind it. Progress stored from
        // the older one would be believed for its higher end, and needs what is gone.
        if self.cached().map(|c| c.reach()) > candidate.from {
            self.provoked.outdated += 1;
            return Err(Stop::Deleted);
        }
        self.owners.push(candidate.owner(self, epoch, at)?);
        self.provoked.takeovers += 1;
        if self.owners.len() > 2 {
            self.gone(0);
        }
        Ok(())
    }

    /// An owner is no longer there; what it handed to the journal may still come.
    pub(super) fn gone(&mut self, which: usize) {
        let owner = self.owners.remove(which);
        self.late.push(owner.leaves());
        self.late.retain(|late| !late.is_empty());
    }

    /// The next that a former owner had handed to the journal is stored after all.
    pub(super) fn late(&mut self, which: usize, what: u8) {
        let Some(late) = self.late.get_mut(which) else {
            return;
        };
        self.provoked.late += 1;
        match what % 3 {
            0 => self.attempts.extend(late.attempts.pop_front()),
            1 => {
                if let Some(follow) = late.follow.pop_front() {
                    self.follow(follow);
                }
            }
            _ => self.progress.extend(late.parts.pop_front()),
        }
        self.late.retain(|late| !late.is_empty());
    }

    pub(super) fn follow(&mut self, follow: Follow) {
        *self.written.entry(follow.ticket).or_default() += 1;
        if let Some((path, what)) = follow.retry {
            self.tiers.append(Waiting {
                path,
                hop: 0,
                ticket: follow.ticket,
                what,
            });
        }
    }

    /// Lets an owner do something; one that meets a higher claim, or a position that is gone, stops.
    pub(super) fn with(
        &mut self,
        which: usize,
        act: impl FnOnce(&mut Owner, &mut Self) -> Result<(), Stop>,
    ) {
        let mut owner = self.owners.remove(which);
        let result = act(&mut owner, self);
        if result.is_err() {
            // As the shell does: somebody else may own the partition, and have settled what is gone.
            let from = owner.log.inspected();
            owner.inspect(self, from, None);
        }
        let fenced = owner.log.fenced_by().is_some();
        self.provoked.fenced += u32::from(fenced);
        self.provoked.deleted += u32::from(result.is_err() && !fenced);
        let goes_on = result.is_ok() && !fenced;
        self.owners.insert(which, owner);
        if !goes_on {
            self.gone(which);
        }
    }
}

impl Late {
    fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.follow.is_empty() && self.parts.is_empty()
    }
}

impl Candidate {
    /// Who begins at a checkpoint, or at the start of the logs, and has read `attempts` to its end.
    pub(super) fn new(world: &World, checkpoint: Option<Checkpoint>) -> Self {
        let (from, epoch) = checkpoint
            .as_ref()
            .map_or((0, 0), |c| (c.attempts_end, c.epoch));
        let mut candidate = Self {
            from: checkpoint.as_ref().map(Checkpoint::reach),
            partition: Partition::load(checkpoint, world.start),
            claims: ClaimReader::new(epoch),
            at: from as usize,
            follow: Vec::new(),
        };
        candidate.replay(world);
        candidate
    }

    /// Its claim took effect: it reads back what was begun.
    pub(super) fn owner(mut self, world: &World, epoch: u64, claim: u64) -> Result<Owner, Stop> {
        let held = self.partition.held().clone();
        for position in self.partition.found() {
            let read = world.read_back(&held, position)?;
            let keep = !world.thrifty || position.offset % 2 == 0;
            self.partition.restore(read, keep);
        }
        self.partition.restored();
        // What is deleted and was not moved was settled for certain: it is read again only for what stands before it.
        let (there, settled): (Vec<_>, Vec<_>) = std::mem::take(&mut self.follow)
            .into_iter()
            .partition(|follow| world.read_back(&held, follow.position).is_ok());
        for follow in settled {
            self.partition.followed(follow.position);
        }
        self.follow = there;
        Ok(Owner::new(self.partition, self.follow, epoch, claim))
    }

    /// Reads `attempts` to its end; the last claim that took effect.
    fn replay(&mut self, world: &World) -> Option<(u64, Vec<u8>)> {
        let mut claimed = None;
        for (offset, entry) in (0_u64..).zip(&world.attempts).skip(self.at) {
            match self.claims.read((**entry).clone()) {
                Counted::Claimed { nonce, .. } => claimed = Some((offset, nonce)),
                Counted::Written(said) => {
                    let ticket = Ticket {
                        offset,
                        epoch: self.claims.highest(),
                    };
                    for (index, said) in (0..).zip(said) {
                        if let Some(range) = said.moved {
                            self.partition.moved(range);
                            continue;
                        }
                        let webhook = uid(said.send.webhook);
                        let sends: Vec<Position> = said.sends().map(|(p, _)| p).collect();
                        if said.begins {
                            self.partition.replay_begun(&sends, webhook);
                            continue;
                        }
                        let replayed = self
                            .partition
                            .replay(ticket, &sends, webhook, said.after, said.made);
                        if replayed == Replayed::Refollow {
                            self.follow
                                .extend(follow_ups(Position { offset, index }, &said));
                        }
                    }
                }
                Counted::Nothing => {}
            }
        }
        self.at = world.attempts.len();
        claimed
    }
}

/// What must be true in the end, by the logs alone: each send that is no repeat is final, once; nothing else is; and the attempts of each
/// delivery are numbered from one without a gap.
pub(super) fn judge(world: &World) -> TestCaseResult {
    let wanted = wanted(&world.deliveries);
    let counted = counted(&world.attempts);
    let mut numbers: BTreeMap<(u64, u128), Vec<u32>> = BTreeMap::new();
    let mut following = BTreeSet::new();
    // The batches that were begun, by their first, and what is final so far.
    let mut together: BTreeMap<Position, Vec<(Position, Send)>> = BTreeMap::new();
    let mut ended: BTreeSet<Position> = BTreeSet::new();
    let lane_of = |position: &Position, send: &Send| {
        let record = &world.deliveries[position.offset as usize];
        (send.webhook, world.shape.kind(&record.source, *send))
    };
    let tickets = counted.iter().flat_map(|(offset, said)| {
        let index = 0_u32..;
        index.zip(said.iter()).map(|(index, said)| {
            (
                Position {
                    offset: *offset,
                    index,
                },
                said,
            )
        })
    });
    for (ticket, said) in tickets.filter(|(_, said)| said.moved.is_none()) {
        let sends: Vec<_> = said.sends().collect();
        for (position, send) in &sends {
            prop_assert_eq!(
                wanted.get(position),
                Some(send),
                "a repeat, or nothing at all"
            );
            prop_assert!(!ended.contains(position), "{:?} is final already", position);
        }
        if said.begins {
            for (position, _) in &sends {
                let elsewhere = together
                    .values()
                    .any(|batch| batch.iter().any(|(p, _)| p == position));
                prop_assert!(!elsewhere, "{:?} is in another batch", position);
            }
            together.insert(said.position, sends);
            continue;
        }
        if said.exchange {
            let batch = together
                .values()
                .find(|batch| batch.iter().any(|(p, _)| *p == said.position));
            prop_assert!(
                batch.is_none_or(|batch| *batch == sends),
                "{sends:?} is not what began as {batch:?}"
            );
            let (webhook, lane) = lane_of(&said.position, &said.send);
            let before = wanted
                .range(..said.position)
                .filter(|(p, send)| lane_of(p, send) == (webhook, lane))
                .find(|(p, _)| lane.is_ordered() && !ended.contains(*p));
            prop_assert_eq!(before, None, "{:?} of {:?} came first", said.position, lane);
        }
        let written = world.written.get(&ticket).copied().unwrap_or(0);
        if let After::Follow(count) = said.after {
            following.insert(ticket);
            prop_assert!(written >= count, "what follows from {said:?} is missing");
        }
        match said.after {
            After::Settled | After::Follow(_) => {
                ended.extend(sends.iter().map(|(p, _)| *p));
                together.remove(&said.position);
            }
            After::Split => drop(together.remove(&said.position)),
            After::InPlace(_) | After::Hold => {}
        }
        for (_, send) in sends.iter().filter(|_| said.exchange) {
            let delivery = (send.event, send.webhook);
            numbers
                .entry(delivery)
                .or_default()
                .push(said.made.attempts);
        }
    }
    let stray = world
        .written
        .keys()
        .find(|ticket| !following.contains(*ticket));
    prop_assert_eq!(stray, None, "it follows from nothing that counts");
    for (position, send) in &wanted {
        let (finals, _) = said_of(&counted, *position);
        prop_assert_eq!(finals, 1, "counted finals of {:?} at {:?}", send, position);
    }
    for (delivery, numbers) in numbers {
        let expected: Vec<u32> = (1..).take(numbers.len()).collect();
        prop_assert_eq!(numbers, expected, "attempts of {:?}", delivery);
    }
    Ok(())
}

impl Hash for World {
    /// What tells two worlds apart that began alike.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (
            self.incoming.len(),
            self.deliveries.len(),
            self.start,
            self.progress_start,
            self.held_start,
            &self.held,
        )
            .hash(state);
        (&self.attempts, &self.progress, &self.tiers, &self.late).hash(state);
        (
            self.now,
            self.paused,
            self.ended,
            &self.owners,
            &self.written,
        )
            .hash(state);
        for candidate in &self.candidates {
            (
                &candidate.partition,
                candidate.claims.highest(),
                candidate.at,
                &candidate.follow,
            )
                .hash(state);
        }
    }
}
