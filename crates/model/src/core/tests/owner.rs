//! An owner of a partition, as the shell runs it: nothing happens in it but by an operation of the test.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::uid;
use super::world::{
    Copied, Entry, Follow, Late, Part, Said, Send, Shape, Stop, World, counted, said_of, wanted,
};
use crate::core::checkpoint::{Checkpoint, CheckpointWriter};
use crate::core::claims::{LogEntry, OwnLog};
use crate::core::held::HeldRange;
use crate::core::lane::{Door, Health, Seat, Terms};
use crate::core::partition::{Admitted, After, Made, Partition, Read, Ticket};
use crate::ids::{Position, WebhookUid};
use crate::time::Millis;

/// An owner, as the shell runs it.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) partition: Partition<Send>,
    pub(super) log: OwnLog<Vec<Said>>,
    pub(super) writer: CheckpointWriter,
    pub(super) sending: Vec<Sending>,
    pub(super) ended: Vec<Said>,
    /// Handed to the journal: records of attempts, what follows from them, parts of a checkpoint.
    pub(super) under_way: VecDeque<(u64, Rc<Entry>)>,
    pub(super) follow: VecDeque<Follow>,
    pub(super) parts: VecDeque<Part>,
    /// Stored, and the acknowledgement is on its way.
    pub(super) stored: VecDeque<(u64, u64)>,
    pub(super) followed: VecDeque<Position>,
    /// Of the checkpoint under way: its `low`, and where its base begins.
    pub(super) checkpoint: Option<(Over, Option<usize>)>,
    pub(super) deletable: Option<(Over, Option<usize>)>,
    /// Batches whose beginning is to be written down, or is.
    beginning: Vec<Sending>,
    written: BTreeSet<Position>,
    /// What is being copied to `held`, and how far that is.
    copying: Option<(HeldRange, u64)>,
    /// Starts of this owner, by the number of the attempt.
    started: BTreeSet<(Position, u32)>,
}

/// What a checkpoint no longer needs: records of `deliveries` and of `held` below these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Over {
    low: u64,
    held: u64,
}

/// What goes out: a send or a batch.
#[derive(Clone, Hash)]
pub(super) struct Sending {
    pub(super) sends: Vec<(Position, Send)>,
    exchange: bool,
}

struct WorldDoor {
    places: u8,
    paused: bool,
    ended: bool,
    shape: Shape,
}

impl Door<Send> for WorldDoor {
    fn terms(&mut self, webhook: WebhookUid, send: &Send) -> Terms {
        if self.paused && webhook == uid(1) {
            Terms::Wait
        } else if self.ended && webhook == uid(3) {
            Terms::End
        } else {
            Terms::Send {
                rate: None,
                batch: self.shape.batch(send.webhook),
            }
        }
    }

    fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
        if self.places == 0 {
            return Seat::NoneLeft;
        }
        self.places -= 1;
        Seat::Taken
    }
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum How {
    Delivered,
    /// And goes again after so long.
    InPlace(i64),
    Retry(Vec<u64>),
    Dead(u32),
    /// An ordered one waits until it is released, a batch is split.
    Stop,
}

/// The records that follow from an attempt.
pub(super) fn follow_ups(ticket: Position, said: &Said) -> Vec<Follow> {
    let After::Follow(count) = said.after else {
        return Vec::new();
    };
    let retry = said.retry.clone().map(|path| {
        let send = Send {
            attempts: said.made.attempts,
            ..said.send
        };
        (path, send)
    });
    let one = Follow {
        ticket,
        position: said.position,
        retry,
    };
    vec![one; count as usize]
}

impl Owner {
    pub(super) fn new(
        partition: Partition<Send>,
        follow: Vec<Follow>,
        epoch: u64,
        claim: u64,
    ) -> Self {
        Self {
            partition,
            log: OwnLog::new(epoch, claim),
            writer: CheckpointWriter::default(),
            sending: Vec::new(),
            ended: Vec::new(),
            under_way: VecDeque::new(),
            follow: follow.into(),
            parts: VecDeque::new(),
            stored: VecDeque::new(),
            followed: VecDeque::new(),
            checkpoint: None,
            deletable: None,
            beginning: Vec::new(),
            written: BTreeSet::new(),
            copying: None,
            started: BTreeSet::new(),
        }
    }

    /// What it had handed to the journal and is not stored.
    pub(super) fn leaves(self) -> Late {
        Late {
            attempts: self.under_way.into_iter().map(|(_, entry)| entry).collect(),
            follow: self.follow,
            parts: self.parts,
        }
    }

    pub(super) fn live(&mut self, world: &mut World) -> Result<(), Stop> {
        let offset = self.partition.watermark();
        if offset >= world.deliveries.len() as u64 {
            return Ok(());
        }
        for (read, stream, at) in world.read(offset)? {
            let room = world.room(read.position);
            let provoked = &mut world.provoked;
            match self
                .partition
                .live(read, stream, at, Millis(world.now), room)
            {
                Admitted::Queued => {}
                Admitted::Left => provoked.left_behind += 1,
                Admitted::Repeat => provoked.repeats += 1,
                Admitted::Known => provoked.known += 1,
            }
        }
        self.partition.entered(Millis(world.now));
        self.partition.passed(offset + 1);
        Ok(())
    }

    /// A few records at a time: much can happen while a scan is under way.
    pub(super) fn scan(&mut self, world: &mut World, records: u64) -> Result<(), Stop> {
        let lanes = self.partition.lanes();
        let Some(from) = lanes.begin_scan().or_else(|| lanes.scanning()) else {
            return Ok(());
        };
        for offset in from..(from + records).min(self.partition.watermark()) {
            let held = self.partition.held().clone();
            for read in world.read_again(&held, offset)? {
                if !self.partition.scan_takes(read.lane, read.position) {
                    continue;
                }
                let room = world.room(read.position);
                world.provoked.scanned += 1;
                if !self.partition.scanned(read, room) {
                    return Ok(());
                }
            }
            self.partition.scan_passed(offset + 1);
            if self.partition.lanes().scanning().is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Starts what may start. Nothing that this owner knows to be final, nothing twice, and every attempt with the number that the log gives it.
    pub(super) fn start(&mut self, world: &World, places: u8) -> TestCaseResult {
        let mut door = WorldDoor {
            places,
            paused: world.paused,
            ended: world.ended,
            shape: world.shape,
        };
        while let Some(start) = self.partition.next(Millis(world.now), &mut door) {
            let sends: Vec<_> = [&start.queued]
                .into_iter()
                .chain(&start.others)
                .map(|queued| (queued.position, queued.payload))
                .collect();
            let first = start.queued.position;
            let attempts = self.partition.single(first).map_or(0, |s| s.attempts);
            let counted = counted(&world.attempts);
            let known = counted
                .iter()
                .filter(|(offset, _)| *offset < self.log.inspected());
            let known = known.copied().collect::<Vec<_>>();
            for (position, send) in &sends {
                let made = attempts.max(send.attempts);
                let (finals, again) = said_of(&known, *position);
                prop_assert_eq!(finals, 0, "{:?} is known to be final, and starts", position);
                let expected = again.last().map_or(send.attempts, |made| made.attempts);
                prop_assert_eq!(made, expected, "attempts made so far at {:?}", position);
                prop_assert!(
                    self.started.insert((*position, made)),
                    "{position:?} starts twice"
                );
                prop_assert_eq!(start.queued.lane.webhook, uid(send.webhook));
            }
            let lane = start.queued.lane;
            if start.send && lane.kind.is_ordered() {
                for (position, send) in wanted(&world.deliveries).range(..first) {
                    let source = &world.deliveries[position.offset as usize].source;
                    let same = uid(send.webhook) == lane.webhook
                        && world.shape.kind(source, *send) == lane.kind;
                    let (finals, _) = said_of(&known, *position);
                    prop_assert!(
                        !same || finals == 1,
                        "{first:?} starts before {position:?} is final"
                    );
                }
            }
            let sending = Sending {
                sends,
                exchange: start.send,
            };
            if start.batch {
                self.beginning.push(sending);
            } else {
                self.sending.push(sending);
            }
            if door.places == 0 {
                break;
            }
        }
        self.write_beginnings();
        Ok(())
    }

    /// Batches are written down before they go out.
    fn write_beginnings(&mut self) {
        let body: Vec<Said> = self
            .beginning
            .iter()
            .map(|sending| Said {
                position: sending.sends[0].0,
                send: sending.sends[0].1,
                after: After::Settled,
                made: Made::default(),
                retry: None,
                exchange: false,
                others: sending.sends[1..].to_vec(),
                begins: true,
                moved: None,
            })
            .filter(|said| !self.written.contains(&said.position))
            .collect();
        if body.is_empty() {
            return;
        }
        self.written.extend(body.iter().map(|said| said.position));
        self.hand_over(body);
    }

    /// All that could start now, with the attempts made: to look what it knows, not to send.
    pub(super) fn startable(&mut self, shape: Shape) -> Vec<(Position, u32)> {
        let mut door = WorldDoor {
            places: u8::MAX,
            paused: false,
            ended: false,
            shape,
        };
        let mut startable = Vec::new();
        while let Some(start) = self.partition.next(Millis(1), &mut door) {
            let first = start.queued.position;
            let made = self.partition.single(first).map_or(0, |s| s.attempts);
            for queued in [&start.queued].into_iter().chain(&start.others) {
                startable.push((queued.position, made.max(queued.payload.attempts)));
            }
            if start.batch {
                self.partition.begun(first, true);
            }
            // An ordered lane shows its next when this one is out of the way.
            let ticket = Ticket {
                offset: u64::MAX,
                epoch: 0,
            };
            self.partition
                .confirmed(ticket, first, After::Settled, Health::None, Made::default());
        }
        startable
    }

    /// One that was started has ended: `how` chooses from what can come of it.
    pub(super) fn end(&mut self, world: &World, which: usize, how: How) {
        if self.sending.is_empty() {
            return;
        }
        let Sending { sends, exchange } = self.sending.remove(which % self.sending.len());
        let (position, send) = sends[0];
        let single = self.partition.single(position);
        let made = single.map_or(0, |s| s.attempts).max(send.attempts);
        let attempts = made + u32::from(exchange);
        let stays = world.shape.stays(send.webhook);
        let batch = sends.len() > 1;
        let (after, retry) = match how {
            How::Retry(path) if exchange && stays => {
                let wait = i64::try_from(path[0] / 500).unwrap_or(0);
                (After::InPlace(Millis(world.now + wait)), None)
            }
            How::Stop if exchange && batch => (After::Split, None),
            How::Stop if exchange && stays && world.shape.batch(send.webhook).is_none() => {
                (After::Hold, None)
            }
            How::InPlace(wait) if exchange => (After::InPlace(Millis(world.now + wait)), None),
            How::Retry(path) if exchange => (After::Follow(1), Some(path)),
            How::Dead(records) => (After::Follow(records), None),
            _ => (After::Settled, None),
        };
        let made = Made {
            attempts,
            first_try: Millis(1),
        };
        self.ended.push(Said {
            position,
            send,
            after,
            made,
            retry,
            exchange,
            others: sends[1..].to_vec(),
            begins: false,
            moved: None,
        });
    }

    /// Somebody releases what waits in this lane.
    pub(super) fn release(&mut self) {
        let resting: Vec<_> = self.partition.resting().map(|q| q.position).collect();
        for position in resting {
            self.partition.release(position);
        }
    }

    /// Gives the payloads of what waits back, but for so many bytes.
    pub(super) fn put_away(&mut self, world: &mut World, bytes: usize) {
        let resting = self.partition.resting().count();
        assert_eq!(resting, self.partition.lanes().resting());
        let before = self.partition.resting_bytes();
        self.partition.put_away(bytes, Millis(world.now));
        let away = before > self.partition.resting_bytes();
        world.provoked.put_away += u32::from(away);
    }

    /// Reads some of what is due, and is not in memory.
    pub(super) fn fetch(&mut self, world: &mut World, sends: usize) -> Result<(), Stop> {
        let held = self.partition.held().clone();
        for position in self.partition.to_fetch(sends) {
            self.partition
                .restore(world.read_back(&held, position)?, true);
            world.provoked.fetched += 1;
        }
        Ok(())
    }

    pub(super) fn append(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let body = std::mem::take(&mut self.ended);
        self.hand_over(body);
    }

    /// Copies a few records of what is unsettled at the old end (`again`: of what was copied first); the last one is followed by what names it all.
    pub(super) fn copy(
        &mut self,
        world: &mut World,
        again: bool,
        records: u64,
    ) -> Result<(), Stop> {
        let held = self.partition.held().clone();
        let (mut range, mut at) = match self.copying {
            Some((range, at)) if at < range.to => (range, at),
            Some(_) => return Ok(()),
            None => {
                let (from, to) = match held.eldest().filter(|_| again) {
                    Some(eldest) => (eldest.from, eldest.to),
                    None => (self.partition.low(), self.partition.watermark()),
                };
                if from >= to {
                    return Ok(());
                }
                world.provoked.cleanings += u32::from(to <= held.edge());
                let range = HeldRange {
                    from,
                    to,
                    first: world.held.len() as u64,
                    end: 0,
                    epoch: self.log.epoch(),
                };
                (range, from)
            }
        };
        for _ in 0..records {
            if at >= range.to {
                break;
            }
            let reads = world.read_again(&held, at)?;
            let waits = |read: &&Read<Send>| self.partition.waits_at(read.lane, read.position);
            let indexes: Vec<u32> = reads
                .iter()
                .filter(waits)
                .map(|read| read.position.index)
                .collect();
            if !indexes.is_empty() {
                world.held.push(Rc::new(Copied {
                    epoch: range.epoch,
                    offset: at,
                    indexes,
                }));
            }
            at += 1;
        }
        if at >= range.to {
            range.end = world.held.len() as u64;
            self.hand_over(vec![Said {
                position: Position::at(range.from),
                send: Send {
                    event: 0,
                    webhook: 0,
                    attempts: 0,
                },
                after: After::Settled,
                made: Made::default(),
                retry: None,
                exchange: false,
                others: Vec::new(),
                begins: false,
                moved: Some(range),
            }]);
        }
        self.copying = Some((range, at));
        Ok(())
    }

    fn hand_over(&mut self, body: Vec<Said>) {
        let (epoch, sequence) = (self.log.epoch(), self.log.appended(body.clone()));
        let entry = LogEntry::Written {
            epoch,
            sequence,
            body,
        };
        self.under_way.push_back((sequence, Rc::new(entry)));
    }

    /// The journal stores what was handed to it first.
    pub(super) fn store(&mut self, world: &mut World) {
        if let Some((sequence, entry)) = self.under_way.pop_front() {
            self.stored
                .push_back((sequence, world.attempts.len() as u64));
            world.attempts.push(entry);
        }
    }

    /// The next acknowledgement comes, `told` or not where the record stands, and the owner goes on as far as it may.
    pub(super) fn ack(&mut self, world: &mut World, told: bool, health: Health) {
        if let Some((sequence, offset)) = self.stored.pop_front() {
            self.log.acked(sequence, told.then_some(offset));
            self.confirm(world, health);
        }
    }

    fn confirm(&mut self, world: &mut World, health: Health) {
        for _ in 0..1_000 {
            match self.log.confirm() {
                Ok(Some((offset, said))) => {
                    let ticket = Ticket {
                        offset,
                        epoch: self.log.epoch(),
                    };
                    for (index, said) in (0..).zip(said) {
                        if said.begins {
                            self.begun(world, said.position);
                            continue;
                        }
                        if let Some(range) = said.moved {
                            world.provoked.moves += 1;
                            self.partition.moved(range);
                            self.copying = None;
                            continue;
                        }
                        world.provoked.splits += u32::from(said.after == After::Split);
                        world.provoked.held += u32::from(said.after == After::Hold);
                        self.partition.confirmed(
                            ticket,
                            said.position,
                            said.after,
                            health,
                            said.made,
                        );
                        self.follow
                            .extend(follow_ups(Position { offset, index }, &said));
                    }
                }
                Ok(None) => return,
                Err(gap) => self.inspect(world, gap.from, gap.to),
            }
        }
        panic!("it looks for its record for ever: {:?}", self.log);
    }

    /// The batch is written down: it goes out, or (now and then) it is put back.
    fn begun(&mut self, world: &mut World, first: Position) {
        let at = self
            .beginning
            .iter()
            .position(|sending| sending.sends[0].0 == first)
            .expect("it begins");
        let sending = self.beginning.remove(at);
        world.provoked.batches += u32::from(sending.sends.len() > 1);
        let goes = world.now % 5 != 4;
        self.partition.begun(first, goes);
        if goes {
            self.sending.push(sending);
        } else {
            let made = self.partition.single(first).map_or(0, |s| s.attempts);
            for (position, send) in sending.sends {
                self.started.remove(&(position, made.max(send.attempts)));
            }
        }
    }

    pub(super) fn inspect(&mut self, world: &World, from: u64, to: Option<u64>) {
        let to = to.unwrap_or(world.attempts.len() as u64);
        for offset in from..to {
            self.log.inspect(offset, &world.attempts[offset as usize]);
        }
        self.log.inspected_to(to);
    }

    /// The next record that follows is stored.
    pub(super) fn follow(&mut self, world: &mut World) {
        if let Some(follow) = self.follow.pop_front() {
            self.followed.push_back(follow.position);
            world.follow(follow);
        }
    }

    /// Its acknowledgement comes.
    pub(super) fn followed(&mut self) {
        if let Some(position) = self.followed.pop_front() {
            self.partition.followed(position);
        }
    }

    /// What would be cached now.
    pub(super) fn state(&mut self, world: &World) -> Checkpoint {
        self.partition
            .checkpoint(self.log.epoch(), self.log.inspected(), Millis(world.now))
    }

    /// Hands a checkpoint to the journal, if none is under way.
    pub(super) fn checkpoint(&mut self, world: &mut World) {
        if self.checkpoint.is_some() {
            return;
        }
        let state = self.state(world);
        world.chains += 1;
        let chunks = self.writer.write(&state, world.chains.to_be_bytes());
        let held = self.partition.held().over();
        let over = Over {
            low: state.low,
            held: self
                .copying
                .map_or(held, |(range, _)| held.min(range.first)),
        };
        self.checkpoint = Some((over, chunks.base.then_some(usize::MAX)));
        let mut digest = DefaultHasher::new();
        state.hash(&mut digest);
        let digest = digest.finish();
        let parts = chunks.chunks.into_iter().map(|chunk| Part {
            digest,
            chunk: Rc::new(chunk),
        });
        self.parts.extend(parts);
    }

    /// A part is stored; with the last one the checkpoint is acknowledged.
    pub(super) fn part(&mut self, world: &mut World) {
        let Some(part) = self.parts.pop_front() else {
            return;
        };
        let at = world.progress.len();
        world.progress.push(part);
        if let Some((over, base)) = self.checkpoint {
            let base = base.map(|base| base.min(at));
            self.checkpoint = Some((over, base));
            if self.parts.is_empty() {
                self.checkpoint = None;
                let before = self.deletable.and_then(|(_, base)| base);
                self.deletable = Some((over, base.or(before)));
            }
        }
    }

    /// Deletes what the acknowledged checkpoint no longer needs, having looked for a higher claim.
    pub(super) fn delete(&mut self, world: &mut World) {
        let Some((over, base)) = self.deletable.take() else {
            return;
        };
        self.inspect(world, self.log.inspected(), None);
        self.confirm(world, Health::None);
        if self.log.fenced_by().is_none() {
            world.provoked.deletions += u32::from(over.low > world.start);
            world.start = world.start.max(over.low);
            world.held_start = world.held_start.max(over.held);
            world.progress_start = world.progress_start.max(base.unwrap_or(0));
        }
    }
}

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.partition, &self.log, &self.sending, &self.ended).hash(state);
        (&self.under_way, &self.stored, &self.follow, &self.followed).hash(state);
        (
            &self.parts,
            self.checkpoint,
            self.deletable,
            &self.beginning,
            self.copying,
        )
            .hash(state);
    }
}
