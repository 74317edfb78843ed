//! An owner of a partition, as the shell runs it: nothing happens in it but by an operation of the test.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::uid;
use super::world::{Entry, Follow, Late, Part, Said, Send, Stop, World, counted, said_of};
use crate::core::checkpoint::{Checkpoint, CheckpointWriter};
use crate::core::claims::{LogEntry, OwnLog};
use crate::core::lane::{Door, Health, Seat, Terms};
use crate::core::partition::{Admitted, After, Made, Partition, Ticket};
use crate::ids::{Position, WebhookUid};
use crate::time::Millis;

/// An owner, as the shell runs it.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) partition: Partition<Send>,
    pub(super) log: OwnLog<Vec<Said>>,
    pub(super) writer: CheckpointWriter,
    pub(super) sending: Vec<(Position, Send, bool)>,
    pub(super) ended: Vec<Said>,
    /// Handed to the journal: records of attempts, what follows from them, parts of a checkpoint.
    pub(super) under_way: VecDeque<(u64, Rc<Entry>)>,
    pub(super) follow: VecDeque<Follow>,
    pub(super) parts: VecDeque<Part>,
    /// Stored, and the acknowledgement is on its way.
    pub(super) stored: VecDeque<(u64, u64)>,
    pub(super) followed: VecDeque<Position>,
    /// Of the checkpoint under way: its `low`, and where its base begins.
    pub(super) checkpoint: Option<(u64, Option<usize>)>,
    pub(super) deletable: Option<(u64, Option<usize>)>,
    /// Starts of this owner, by the number of the attempt.
    started: BTreeSet<(Position, u32)>,
}

struct WorldDoor {
    places: u8,
    paused: bool,
    ended: bool,
}

impl Door<Send> for WorldDoor {
    fn terms(&mut self, webhook: WebhookUid, _: &Send) -> Terms {
        if self.paused && webhook == uid(1) {
            Terms::Wait
        } else if self.ended && webhook == uid(3) {
            Terms::End
        } else {
            Terms::Send { rate: None }
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
            for (read, ..) in world.read(offset)? {
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
        };
        while let Some(start) = self.partition.next(Millis(world.now), &mut door) {
            let (position, send) = (start.queued.position, start.queued.payload);
            let made = self
                .partition
                .single(position)
                .unwrap_or_default()
                .attempts
                .max(send.attempts);
            let counted = counted(&world.attempts);
            let known = counted
                .iter()
                .filter(|(offset, _)| *offset < self.log.inspected());
            let (finals, in_place) = said_of(&known.copied().collect::<Vec<_>>(), position);
            prop_assert_eq!(finals, 0, "{:?} is known to be final, and starts", position);
            let expected = in_place.last().map_or(send.attempts, |made| made.attempts);
            prop_assert_eq!(made, expected, "attempts made so far at {:?}", position);
            prop_assert!(
                self.started.insert((position, made)),
                "{position:?} starts twice"
            );
            self.sending.push((position, send, start.send));
            if door.places == 0 {
                break;
            }
        }
        Ok(())
    }

    /// All that could start now, with the attempts made: to look what it knows, not to send.
    pub(super) fn startable(&mut self) -> Vec<(Position, u32)> {
        let mut door = WorldDoor {
            places: u8::MAX,
            paused: false,
            ended: false,
        };
        let mut startable = Vec::new();
        while let Some(start) = self.partition.next(Millis(1), &mut door) {
            let (position, send) = (start.queued.position, start.queued.payload);
            let made = self.partition.single(position).unwrap_or_default();
            startable.push((position, made.attempts.max(send.attempts)));
        }
        startable
    }

    /// One that was started has ended: `how` chooses from what can come of it.
    pub(super) fn end(&mut self, world: &World, which: usize, how: How) {
        if self.sending.is_empty() {
            return;
        }
        let (position, send, exchange) = self.sending.remove(which % self.sending.len());
        let single = self.partition.single(position).unwrap_or_default();
        let attempts = single.attempts.max(send.attempts) + u32::from(exchange);
        let (after, retry) = match how {
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
        });
    }

    pub(super) fn append(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let body = std::mem::take(&mut self.ended);
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
    pub(super) fn ack(&mut self, world: &World, told: bool, health: Health) {
        if let Some((sequence, offset)) = self.stored.pop_front() {
            self.log.acked(sequence, told.then_some(offset));
            self.confirm(world, health);
        }
    }

    fn confirm(&mut self, world: &World, health: Health) {
        for _ in 0..1_000 {
            match self.log.confirm() {
                Ok(Some((offset, said))) => {
                    let ticket = Ticket {
                        offset,
                        epoch: self.log.epoch(),
                    };
                    for (index, said) in (0..).zip(said) {
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

    fn inspect(&mut self, world: &World, from: u64, to: Option<u64>) {
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
        self.checkpoint = Some((state.low, chunks.base.then_some(usize::MAX)));
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
        if let Some((low, base)) = self.checkpoint {
            let base = base.map(|base| base.min(at));
            self.checkpoint = Some((low, base));
            if self.parts.is_empty() {
                self.checkpoint = None;
                let before = self.deletable.and_then(|(_, base)| base);
                self.deletable = Some((low, base.or(before)));
            }
        }
    }

    /// Deletes what the acknowledged checkpoint no longer needs, having looked for a higher claim.
    pub(super) fn delete(&mut self, world: &mut World) {
        let Some((low, base)) = self.deletable.take() else {
            return;
        };
        self.inspect(world, self.log.inspected(), None);
        self.confirm(world, Health::None);
        if self.log.fenced_by().is_none() {
            world.provoked.deletions += u32::from(low > world.start);
            world.start = world.start.max(low);
            world.progress_start = world.progress_start.max(base.unwrap_or(0));
        }
    }
}

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.partition, &self.log, &self.sending, &self.ended).hash(state);
        (&self.under_way, &self.stored, &self.follow, &self.followed).hash(state);
        (&self.parts, self.checkpoint, self.deletable).hash(state);
    }
}
