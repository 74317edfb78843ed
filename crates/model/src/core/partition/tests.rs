//! A partition through crashes, zombies and lost acknowledgements, against what its logs say: each send that is not a repeat has exactly one counted
//! final attempt in the end, and none is started again but one whose outcome was not acknowledged when its owner died.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::core::checkpoint::{CheckpointReader, CheckpointWriter};
use crate::core::claims::{ClaimReader, Counted, LogEntry, OwnLog};
use crate::core::lane::{LaneKind, Terms};
use crate::wire;

const WEBHOOKS: u128 = 3;

fn uid(n: u128) -> WebhookUid {
    WebhookUid(uuid::Uuid::from_u128(n))
}

/// A record of `deliveries`: which event it is from, and the webhooks it names.
#[derive(Debug, Clone)]
struct Record {
    event: u64,
    webhooks: Vec<u128>,
}

/// What an attempt record says of one send.
#[derive(Debug, Clone, Copy)]
struct Said {
    position: Position,
    webhook: WebhookUid,
    after: After,
    made: Made,
}

#[derive(Debug, Clone)]
enum Op {
    Live(u8),
    Scan,
    Start(u8),
    End(u8, u8),
    Append,
    Ack,
    Followed(u8),
    Checkpoint,
    Resume,
    /// Crash; how many of the appends under way still get stored, and how many only behind the next claim.
    Crash(u8, u8),
}

struct Door(u8, bool);

impl super::Door<u64> for Door {
    fn terms(&mut self, webhook: WebhookUid, _: &u64) -> Terms {
        if self.1 && webhook == uid(1) {
            Terms::Wait
        } else {
            Terms::Send { rate: None }
        }
    }

    fn take_place(&mut self, _: WebhookUid, _: bool) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

/// The world around an owner: the logs, which outlive it.
#[derive(Default)]
struct World {
    deliveries: Vec<Record>,
    attempts: Vec<LogEntry<Vec<Said>>>,
    progress: Vec<wire::CheckpointChunk>,
    starts: BTreeMap<Position, u32>,
    excused: BTreeMap<Position, u32>,
    crashes: u8,
    now: i64,
}

struct Owner {
    partition: Partition<u64>,
    log: OwnLog<Vec<Said>>,
    writer: CheckpointWriter,
    sending: Vec<(Position, WebhookUid, u32)>,
    ended: Vec<Said>,
    under_way: VecDeque<(u64, LogEntry<Vec<Said>>)>,
    following: Vec<Position>,
}

impl World {
    fn read(&self, offset: u64) -> Vec<(Read<u64>, Stream, StreamPosition)> {
        let record = &self.deliveries[usize::try_from(offset).expect("small")];
        let count = u32::try_from(record.webhooks.len()).expect("small");
        (0..count)
            .zip(&record.webhooks)
            .map(|(index, webhook)| {
                let position = Position { offset, index };
                let next = if index + 1 == count {
                    Position::at(offset + 1)
                } else {
                    Position {
                        offset,
                        index: index + 1,
                    }
                };
                let lane = LaneKey {
                    webhook: uid(*webhook),
                    kind: LaneKind::Fresh,
                };
                let source = wire::Source {
                    stream: Some(wire::source::Stream::Events(wire::FromEvents {
                        partition: 0,
                        offset: record.event,
                        generation: 0,
                    })),
                };
                let (stream, at) = Stream::of(&source, uid(*webhook)).expect("a stream");
                (
                    Read {
                        position,
                        next,
                        lane,
                        payload: record.event,
                        bytes: 10,
                    },
                    stream,
                    at,
                )
            })
            .collect()
    }

    fn take_over(&mut self, late: Vec<LogEntry<Vec<Said>>>) -> Owner {
        let mut reader = CheckpointReader::default();
        self.progress
            .iter()
            .cloned()
            .for_each(|chunk| reader.read(chunk));
        let checkpoint = reader.best(0);
        let (from, epoch) = checkpoint
            .as_ref()
            .map_or((0, 0), |c| (c.attempts_end, c.epoch));
        let mut partition = Partition::load(checkpoint, 0);
        let mut claims = ClaimReader::new(epoch);
        let mut following = Vec::new();
        for (offset, entry) in (0_u64..)
            .zip(&self.attempts)
            .skip(usize::try_from(from).expect("small"))
        {
            if let Counted::Written(said) = claims.read(entry.clone()) {
                let ticket = Ticket {
                    offset,
                    epoch: claims.highest(),
                };
                for said in said {
                    if partition.replay(ticket, said.position, said.webhook, said.after, said.made)
                        == Replayed::Refollow
                    {
                        following.push(said.position);
                    }
                }
            }
        }
        let epoch = claims.highest() + 1;
        self.attempts.push(LogEntry::Claim {
            epoch,
            nonce: vec![],
        });
        let log = OwnLog::new(epoch, self.attempts.len() as u64 - 1);
        self.attempts.extend(late);
        for position in partition.found() {
            let read = self
                .read(position.offset)
                .into_iter()
                .find(|(read, ..)| read.position == position)
                .expect("it is there");
            partition.restore(read.0);
        }
        Owner {
            partition,
            log,
            writer: CheckpointWriter::default(),
            sending: vec![],
            ended: vec![],
            under_way: VecDeque::new(),
            following,
        }
    }
}

/// Often there is little room, so that lanes fall behind all the time; now and then there is enough to give something back later.
fn room(position: Position) -> usize {
    if position.offset % 4 < 2 {
        0
    } else {
        usize::MAX
    }
}

impl Owner {
    fn live(&mut self, world: &World, count: u8) {
        for _ in 0..count {
            let offset = self.partition.watermark();
            if offset >= world.deliveries.len() as u64 {
                return;
            }
            for (read, stream, at) in world.read(offset) {
                let room = room(read.position);
                self.partition
                    .live(read, stream, at, Millis(world.now), room);
            }
            self.partition.passed(offset + 1);
        }
    }

    /// A few records at a time: much can happen while a scan is under way.
    fn scan(&mut self, world: &World) {
        let lanes = self.partition.lanes();
        let Some(from) = lanes.begin_scan().or_else(|| lanes.scanning()) else {
            return;
        };
        for offset in from..(from + 3).min(self.partition.watermark()) {
            for (read, ..) in world.read(offset) {
                let position = read.position;
                if self.partition.scan_takes(read.lane, position)
                    && !self.partition.scanned(read, room(position))
                {
                    return;
                }
            }
            self.partition.scan_passed(offset + 1);
            if self.partition.lanes().scanning().is_none() {
                return;
            }
        }
    }

    fn start(&mut self, world: &mut World, places: u8, paused: bool) {
        let mut door = Door(places, paused);
        while let Some(start) = self.partition.next(Millis(world.now), &mut door) {
            let position = start.queued.position;
            *world.starts.entry(position).or_default() += 1;
            let made = self.partition.single(position).unwrap_or_default().attempts;
            self.sending
                .push((position, start.queued.lane.webhook, made + 1));
        }
    }

    fn end(&mut self, world: &World, which: u8, how: u8) {
        if self.sending.is_empty() {
            return;
        }
        let (position, webhook, attempts) =
            self.sending.remove(usize::from(which) % self.sending.len());
        let after = match how % 4 {
            0 if attempts < 4 => After::InPlace(Millis(world.now + 1)),
            1 => After::Follow(1 + u32::from(how % 2)),
            _ => After::Settled,
        };
        self.ended.push(Said {
            position,
            webhook,
            after,
            made: Made {
                attempts,
                first_try: Millis(1),
            },
        });
    }

    fn append(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let said = std::mem::take(&mut self.ended);
        let sequence = self.log.appended(said.clone());
        self.under_way.push_back((
            sequence,
            LogEntry::Written {
                epoch: self.log.epoch(),
                sequence,
                body: said,
            },
        ));
    }

    fn ack(&mut self, world: &mut World) {
        let Some((sequence, entry)) = self.under_way.pop_front() else {
            return;
        };
        world.attempts.push(entry);
        self.log
            .acked(sequence, Some(world.attempts.len() as u64 - 1));
        loop {
            match self.log.confirm() {
                Ok(Some((offset, said))) => {
                    let ticket = Ticket {
                        offset,
                        epoch: self.log.epoch(),
                    };
                    for said in said {
                        self.partition.confirmed(
                            ticket,
                            said.position,
                            said.after,
                            if offset.is_multiple_of(3) {
                                Health::Good
                            } else {
                                Health::Bad
                            },
                            said.made,
                        );
                        if matches!(said.after, After::Follow(_)) {
                            self.following.push(said.position);
                        } else if let After::InPlace(_) = said.after {
                            // Its next start is another attempt, not a repeat.
                            *world.excused.entry(said.position).or_default() += 1;
                        }
                    }
                }
                Ok(None) => return,
                Err(gap) => {
                    let to = gap.to.unwrap_or(world.attempts.len() as u64);
                    for offset in gap.from..to {
                        self.log.inspect(
                            offset,
                            &world.attempts[usize::try_from(offset).expect("small")],
                        );
                    }
                    self.log.inspected_to(to);
                }
            }
        }
    }

    fn followed(&mut self, which: u8) {
        if self.following.is_empty() {
            return;
        }
        let at = usize::from(which) % self.following.len();
        if self.partition.followed(self.following[at]) {
            self.following.remove(at);
        }
    }

    fn checkpoint(&mut self, world: &mut World) {
        let checkpoint =
            self.partition
                .checkpoint(self.log.epoch(), self.log.inspected(), Millis(world.now));
        let n = world.progress.len() as u128;
        world
            .progress
            .extend(self.writer.write(&checkpoint, (n + 1).to_be_bytes()).chunks);
    }

    /// Dies. What was under way is excused from being started only once.
    fn crash(mut self, world: &mut World, stored: u8, late: u8) -> Owner {
        let in_place = |said: &Said| matches!(said.after, After::InPlace(_));
        for (position, ..) in &self.sending {
            *world.excused.entry(*position).or_default() += 1;
        }
        for said in &self.ended {
            *world.excused.entry(said.position).or_default() += 1;
        }
        let mut under_way: Vec<_> = self.under_way.drain(..).map(|(_, entry)| entry).collect();
        let rest = under_way.split_off(usize::from(stored).min(under_way.len()));
        for entry in &under_way {
            if let LogEntry::Written { body, .. } = entry {
                for said in body.iter().filter(|said| in_place(said)) {
                    *world.excused.entry(said.position).or_default() += 1;
                }
            }
        }
        for entry in &rest {
            if let LogEntry::Written { body, .. } = entry {
                for said in body {
                    *world.excused.entry(said.position).or_default() += 1;
                }
            }
        }
        world.attempts.extend(under_way);
        world.crashes += 1;
        let late = rest.into_iter().take(usize::from(late)).collect();
        world.take_over(late)
    }
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1_u8..5).prop_map(Op::Live),
        3 => Just(Op::Scan),
        4 => (1_u8..9).prop_map(Op::Start),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Op::End(which, how)),
        4 => Just(Op::Append),
        4 => Just(Op::Ack),
        3 => any::<u8>().prop_map(Op::Followed),
        2 => Just(Op::Checkpoint),
        1 => Just(Op::Resume),
        1 => (0_u8..3, 0_u8..3).prop_map(|(stored, late)| Op::Crash(stored, late)),
    ];
    proptest::collection::vec(op, 0..120)
}

/// Fan-out writes events in order; killed in between, it goes back a little and writes some again.
fn log() -> impl Strategy<Value = Vec<Record>> {
    let step = (
        proptest::collection::btree_set(1..=WEBHOOKS, 1..=WEBHOOKS as usize),
        0_u64..6,
    );
    proptest::collection::vec(step, 1..25).prop_map(|steps| {
        let mut written: Vec<Record> = Vec::new();
        for (event, (webhooks, back)) in (0_u64..).zip(steps) {
            if back == 5 {
                let again: Vec<Record> = written.iter().rev().take(3).rev().cloned().collect();
                written.extend(again);
            }
            written.push(Record {
                event,
                webhooks: webhooks.into_iter().collect(),
            });
        }
        written
    })
}

fn run(deliveries: Vec<Record>, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut wanted: BTreeSet<Position> = BTreeSet::new();
    let mut highest = None;
    for (offset, record) in (0..).zip(&deliveries) {
        for (index, webhook) in (0..).zip(&record.webhooks) {
            if highest.is_none_or(|h| (record.event, *webhook) > h) {
                highest = Some((record.event, *webhook));
                wanted.insert(Position { offset, index });
            }
        }
    }
    let mut world = World {
        deliveries,
        ..World::default()
    };
    let mut owner = world.take_over(Vec::new());
    let mut paused = true;
    for op in ops {
        world.now += 1;
        match op {
            Op::Live(count) => owner.live(&world, count),
            Op::Scan => owner.scan(&world),
            Op::Start(places) => owner.start(&mut world, places, paused),
            Op::End(which, how) => owner.end(&world, which, how),
            Op::Append => owner.append(),
            Op::Ack => owner.ack(&mut world),
            Op::Followed(which) => owner.followed(which),
            Op::Checkpoint => owner.checkpoint(&mut world),
            Op::Resume => {
                paused = !paused;
                owner.partition.lanes().resume();
            }
            Op::Crash(stored, late) => owner = owner.crash(&mut world, stored, late),
        }
    }
    // Everything calms down.
    owner.partition.lanes().resume();
    for round in 0.. {
        prop_assert!(round < 2000, "it never ends: {:?}", owner.partition);
        world.now += 2;
        owner.live(&world, 9);
        owner.scan(&world);
        owner.start(&mut world, 100, false);
        while !owner.sending.is_empty() {
            owner.end(&world, 0, 2);
        }
        owner.append();
        while !owner.under_way.is_empty() {
            owner.ack(&mut world);
        }
        while !owner.following.is_empty() {
            owner.followed(0);
        }
        let end = world.deliveries.len() as u64;
        if owner.partition.watermark() == end && owner.partition.low() == end {
            break;
        }
    }
    let mut finals: BTreeMap<Position, u32> = BTreeMap::new();
    let mut claims = ClaimReader::new(0);
    for entry in world.attempts.clone() {
        if let Counted::Written(said) = claims.read(entry) {
            for said in said
                .into_iter()
                .filter(|said| !matches!(said.after, After::InPlace(_)))
            {
                *finals.entry(said.position).or_default() += 1;
            }
        }
    }
    prop_assert_eq!(
        finals.keys().copied().collect::<BTreeSet<_>>(),
        wanted,
        "each send that is no repeat, and nothing else"
    );
    prop_assert!(
        finals.values().all(|n| *n == 1),
        "exactly one final each: {:?}",
        finals
    );
    for (position, starts) in &world.starts {
        let excused = world.excused.get(position).copied().unwrap_or(0);
        prop_assert!(
            *starts <= 1 + excused,
            "{position:?} was started {starts} times, {excused} excused"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn every_send_ends_once_through_crashes_and_zombies(deliveries in log(), ops in operations()) {
        run(deliveries, ops)?;
    }
}
