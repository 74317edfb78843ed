//! Lanes beside a reference that keeps everything in vectors and says what may start, not how the next one is found.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{config, uid};
use crate::core::lane::{Door, Health, LaneKey, LaneKind, Lanes, Offered, Queued, Seat, Terms};
use crate::ids::{Position, WebhookUid};
use crate::limits::{
    LANE_QUEUE_BYTES, LANE_QUEUE_SENDS, SUSPECT_QUEUE_SENDS, WINDOW_MAX, WINDOW_START,
    WORKER_QUEUE_BYTES,
};
use crate::time::Millis;

const WEBHOOKS: u128 = 4;
const KINDS: [LaneKind; 3] = [LaneKind::Fresh, LaneKind::Due, LaneKind::Bulk];
const BYTES: [usize; 4] = [100, 100, 300_000, 700_000];
const ROOMS: [usize; 4] = [
    0,
    WORKER_QUEUE_BYTES / 2,
    WORKER_QUEUE_BYTES / 2 + 500_000,
    usize::MAX,
];

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// So many records are read at the live edge.
    Live(u8),
    /// A scan goes on, or begins.
    Scan(u8),
    /// Starts what may start, with so many places in all, and for each suspect.
    Start {
        all: u8,
        suspect: u8,
    },
    /// An exchange ends: how well, and whether the send goes again.
    End {
        which: u8,
        health: Health,
        again: bool,
    },
    /// A webhook is paused, or not; and everybody who was may ask again.
    Pause(u8),
    Resume,
    Room(u8),
}

/// The sends of a record: their lanes, what they weigh, and whether they are known already, so that nothing is to be sent.
type Record = Vec<(LaneKey, usize, bool)>;

fn record() -> impl Strategy<Value = Record> {
    let send = (1..=WEBHOOKS, 0..3_usize, 0..BYTES.len(), 0_u8..8).prop_map(
        |(webhook, kind, bytes, known)| {
            let key = LaneKey {
                webhook: uid(webhook),
                kind: KINDS[kind],
            };
            (key, BYTES[bytes], known == 0)
        },
    );
    proptest::collection::vec(send, 1..3)
}

pub(super) fn cases() -> impl Strategy<Value = (Vec<Record>, Vec<Op>)> {
    let health = prop_oneof![
        3 => Just(Health::Good),
        2 => Just(Health::Bad),
        1 => Just(Health::None),
    ];
    let op = prop_oneof![
        6 => (1_u8..12).prop_map(Op::Live),
        6 => (1_u8..8).prop_map(Op::Scan),
        6 => (0_u8..9, 0_u8..4).prop_map(|(all, suspect)| Op::Start { all, suspect }),
        10 => (any::<u8>(), health, any::<bool>()).prop_map(|(which, health, again)| Op::End { which, health, again }),
        1 => any::<u8>().prop_map(Op::Pause),
        2 => Just(Op::Resume),
        2 => (0_u8..4).prop_map(Op::Room),
    ];
    (
        proptest::collection::vec(record(), 1..50),
        proptest::collection::vec(op, 0..80),
    )
}

/// The reference of one lane.
#[derive(Debug, Clone, Default)]
struct Lane {
    queue: Vec<(Position, usize)>,
    behind: Option<Position>,
    /// Nothing has gone since it was found full.
    sated: bool,
    started: Vec<Position>,
}

/// The reference of one webhook.
#[derive(Debug, Clone)]
struct Hook {
    lanes: [Lane; 3],
    again: Vec<(Position, LaneKey, usize)>,
    last: LaneKind,
    window: u32,
    in_flight: u32,
    proven: bool,
    /// Was told to wait, and nothing has changed since.
    parked: bool,
}

impl Hook {
    fn new() -> Self {
        Self {
            lanes: Default::default(),
            again: Vec::new(),
            last: LaneKind::Due,
            window: WINDOW_START,
            in_flight: 0,
            proven: false,
            parked: false,
        }
    }

    fn failing(&self) -> bool {
        self.window < WINDOW_START
    }

    fn suspect(&self) -> bool {
        !self.proven || self.failing()
    }

    fn sends_max(&self) -> usize {
        if self.failing() {
            SUSPECT_QUEUE_SENDS
        } else {
            LANE_QUEUE_SENDS
        }
    }

    fn full(&self, kind: LaneKind, bytes: usize, room: usize) -> bool {
        let queue = &self.lanes[kind.number() as usize].queue;
        let queued: usize = queue.iter().map(|(_, bytes)| bytes).sum();
        let kept = if self.suspect() {
            WORKER_QUEUE_BYTES / 2
        } else {
            0
        };
        let too_many = queue.len() >= self.sends_max() || queued + bytes > LANE_QUEUE_BYTES;
        !queue.is_empty() && (too_many || bytes > room.saturating_sub(kept))
    }

    /// Which lane goes next: fresh and due alternate, bulk takes what they leave.
    fn next_lane(&self) -> Option<LaneKind> {
        let order = match self.last {
            LaneKind::Fresh => [LaneKind::Due, LaneKind::Fresh, LaneKind::Bulk],
            _ => [LaneKind::Fresh, LaneKind::Due, LaneKind::Bulk],
        };
        order
            .into_iter()
            .find(|kind| !self.lanes[kind.number() as usize].queue.is_empty())
    }

    fn head(&self) -> Option<Position> {
        let again = self.again.first().map(|(position, ..)| *position);
        again.or_else(|| {
            let next = self.next_lane()?;
            Some(self.lanes[next.number() as usize].queue.first()?.0)
        })
    }

    fn may_start(&self) -> bool {
        self.head().is_some() && self.in_flight < self.window && !self.parked
    }

    fn take(&mut self) {
        self.in_flight += 1;
        if !self.again.is_empty() {
            self.again.remove(0);
            return;
        }
        let kind = self.next_lane().expect("there is a head");
        let lane = &mut self.lanes[kind.number() as usize];
        let (position, _) = lane.queue.remove(0);
        lane.started.push(position);
        lane.sated = false;
        if kind != LaneKind::Bulk {
            self.last = kind;
        }
    }

    fn wants_more(&self, kind: LaneKind) -> bool {
        let lane = &self.lanes[kind.number() as usize];
        let bytes: usize = lane.queue.iter().map(|(_, bytes)| bytes).sum();
        let empty_enough = lane.queue.len() < self.sends_max() / 2 && bytes < LANE_QUEUE_BYTES / 2;
        lane.behind.is_some() && !lane.sated && !self.parked && empty_enough
    }
}

/// A worker's places: so many in all, and for each suspect.
struct TestDoor<'a> {
    all: u8,
    suspect: BTreeMap<WebhookUid, u8>,
    paused: &'a BTreeSet<WebhookUid>,
    freed: u64,
    told_to_wait: Vec<WebhookUid>,
    granted: Option<(WebhookUid, bool)>,
}

impl TestDoor<'_> {
    fn left(&self, webhook: WebhookUid, suspect: bool) -> u8 {
        let its = self.suspect.get(&webhook).copied().unwrap_or(0);
        if suspect { its.min(self.all) } else { self.all }
    }
}

impl Door<Position> for TestDoor<'_> {
    fn terms(&mut self, webhook: WebhookUid, _: &Position) -> Terms {
        if self.paused.contains(&webhook) {
            self.told_to_wait.push(webhook);
            Terms::Wait
        } else {
            Terms::Send {
                rate: None,
                batch: None,
            }
        }
    }

    fn freed(&self) -> u64 {
        self.freed
    }

    fn take_place(&mut self, webhook: WebhookUid, suspect: bool) -> Seat {
        let there_is = self.left(webhook, suspect) > 0;
        if self.all == 0 {
            return Seat::NoneLeft;
        }
        self.all -= u8::from(there_is);
        if let Some(its) = self
            .suspect
            .get_mut(&webhook)
            .filter(|_| there_is && suspect)
        {
            *its -= 1;
        }
        self.granted = there_is.then_some((webhook, suspect));
        if there_is {
            Seat::Taken
        } else {
            Seat::ShareTaken
        }
    }
}

/// The reference of a scan under way.
struct Scan {
    follows: LaneKey,
    from: Position,
    at: u64,
    /// Had to leave something, or gave something back that the scan had passed.
    out: Vec<LaneKey>,
}

struct Test {
    log: Vec<Record>,
    lanes: Lanes<Position>,
    hooks: BTreeMap<WebhookUid, Hook>,
    scan: Option<Scan>,
    edge: u64,
    room: usize,
    starts: u64,
    paused: BTreeSet<WebhookUid>,
    sending: Vec<(Position, LaneKey, usize)>,
}

fn next_after(position: Position) -> Position {
    Position {
        index: position.index + 1,
        ..position
    }
}

impl Test {
    fn live(&mut self) -> TestCaseResult {
        let Some(record) = self.log.get(self.edge as usize).cloned() else {
            return Ok(());
        };
        for (index, (key, bytes, known)) in (0..).zip(record) {
            let position = Position {
                offset: self.edge,
                index,
            };
            if known {
                continue;
            }
            let queued = Queued {
                position,
                lane: key,
                payload: position,
                bytes,
                weight: 0,
            };
            let offered = self.lanes.offer(queued, self.room);
            let hook = self.hooks.entry(key.webhook).or_insert_with(Hook::new);
            let full = hook.full(key.kind, bytes, self.room);
            let lane = &mut hook.lanes[key.kind.number() as usize];
            let expected = if lane.behind.is_some() {
                Offered::Left
            } else if full {
                (lane.behind, lane.sated) = (Some(position), true);
                Offered::Left
            } else {
                lane.queue.push((position, bytes));
                Offered::Queued
            };
            prop_assert_eq!(offered, expected, "{:?} at {:?}", key, position);
        }
        self.edge += 1;
        Ok(())
    }

    fn scan(&mut self, records: u8) -> TestCaseResult {
        let began = self.lanes.begin_scan();
        if self.scan.is_none() {
            let wanting = self.hooks.iter().flat_map(|(uid, hook)| {
                let kinds = KINDS.into_iter().filter(|kind| hook.wants_more(*kind));
                kinds.filter_map(|kind| {
                    Some((
                        hook.lanes[kind.number() as usize].behind?,
                        LaneKey {
                            webhook: *uid,
                            kind,
                        },
                    ))
                })
            });
            let first = wanting.min();
            prop_assert_eq!(began, first.map(|(at, _)| at.offset));
            self.scan = first.map(|(at, follows)| Scan {
                follows,
                from: Position::at(at.offset),
                at: at.offset,
                out: Vec::new(),
            });
        } else {
            prop_assert_eq!(began, None);
        }
        for _ in 0..records {
            let Some(at) = self.scan.as_ref().map(|scan| scan.at) else {
                return Ok(());
            };
            prop_assert_eq!(self.lanes.scanning(), Some(at));
            if at < self.edge && !self.scan_record(at)? {
                return Ok(());
            }
            let next = (at + 1).min(self.edge);
            self.lanes.scan_passed(next, self.edge);
            let Some(scan) = &mut self.scan else {
                return Ok(());
            };
            scan.at = next;
            if next == self.edge {
                let scan = self.scan.take().expect("it is under way");
                for (uid, hook) in &mut self.hooks {
                    for kind in KINDS {
                        let lane = &mut hook.lanes[kind.number() as usize];
                        let out = scan.out.contains(&LaneKey {
                            webhook: *uid,
                            kind,
                        });
                        lane.behind = lane.behind.filter(|behind| *behind < scan.from || out);
                    }
                }
            }
        }
        Ok(())
    }

    fn scan_record(&mut self, offset: u64) -> Result<bool, TestCaseError> {
        for (index, (key, bytes, known)) in (0..).zip(self.log[offset as usize].clone()) {
            let position = Position { offset, index };
            let scan = self.scan.as_mut().expect("it is under way");
            let behind = self
                .hooks
                .get(&key.webhook)
                .and_then(|hook| hook.lanes[key.kind.number() as usize].behind);
            let takes = behind.is_some_and(|cursor| cursor <= position && cursor >= scan.from)
                && !scan.out.contains(&key);
            prop_assert_eq!(self.lanes.scan_takes(key, position), takes);
            if !takes {
                continue;
            }
            let queued = Queued {
                position,
                lane: key,
                payload: position,
                bytes,
                weight: 0,
            };
            let went_on = self
                .lanes
                .scanned(key, position, (!known).then_some(queued), self.room);
            let hook = self.hooks.get_mut(&key.webhook).expect("it is behind");
            let full = !known && hook.full(key.kind, bytes, self.room);
            let lane = &mut hook.lanes[key.kind.number() as usize];
            if full {
                (lane.behind, lane.sated) = (Some(position), true);
                scan.out.push(key);
                if scan.follows == key {
                    self.scan = None;
                    prop_assert!(!went_on);
                    return Ok(false);
                }
            } else {
                lane.behind = Some(next_after(position));
                if !known {
                    lane.queue.push((position, bytes));
                    lane.sated = false;
                }
            }
            prop_assert!(went_on);
        }
        Ok(true)
    }

    /// Starts what may start: only what the reference allows, and all of it.
    fn start(&mut self, all: u8, suspect: u8) -> TestCaseResult {
        self.starts += 1;
        let mut door = TestDoor {
            freed: self.starts,
            all,
            suspect: self.hooks.keys().map(|uid| (*uid, suspect)).collect(),
            paused: &self.paused,
            told_to_wait: Vec::new(),
            granted: None,
        };
        loop {
            // Late enough for whoever pauses because it fails.
            let now = Millis(i64::try_from(self.starts).unwrap_or(i64::MAX) * 1_000);
            let start = self.lanes.next(now, &mut door);
            for uid in door.told_to_wait.drain(..) {
                self.hooks.get_mut(&uid).expect("it has sends").parked = true;
            }
            let Some(start) = start else { break };
            let webhook = start.queued.lane.webhook;
            let hook = &self.hooks[&webhook];
            prop_assert!(start.send && hook.may_start(), "{:?} may not start", hook);
            prop_assert_eq!(hook.head(), Some(start.queued.position));
            prop_assert_eq!(door.granted.take(), Some((webhook, hook.suspect())));
            self.hooks.get_mut(&webhook).expect("it has sends").take();
            self.sending
                .push((start.queued.position, start.queued.lane, start.queued.bytes));
        }
        for (uid, hook) in &self.hooks {
            let place = door.left(*uid, hook.suspect()) > 0;
            prop_assert!(!(hook.may_start() && place), "{uid} could start: {hook:?}");
        }
        Ok(())
    }

    fn end(&mut self, which: usize, health: Health, again: bool) {
        if self.sending.is_empty() {
            return;
        }
        let (position, lane, bytes) = self.sending.remove(which % self.sending.len());
        let webhook = lane.webhook;
        self.lanes.ended(webhook, health);
        let hook = self.hooks.get_mut(&webhook).expect("it sends");
        hook.in_flight -= 1;
        match health {
            Health::Good => {
                hook.proven = true;
                hook.window = (hook.window + 1).min(WINDOW_MAX);
            }
            Health::Bad => {
                hook.window = (hook.window / 2).max(1);
                if hook.failing() {
                    for kind in KINDS {
                        let lane = &mut hook.lanes[kind.number() as usize];
                        if lane.queue.len() > SUSPECT_QUEUE_SENDS {
                            lane.behind = Some(lane.queue[SUSPECT_QUEUE_SENDS].0);
                            lane.queue.truncate(SUSPECT_QUEUE_SENDS);
                            if let Some(scan) = &mut self.scan {
                                scan.out.push(LaneKey { webhook, kind });
                            }
                        }
                    }
                }
            }
            Health::None => {}
        }
        if again {
            hook.again.push((position, lane, bytes));
            self.lanes.again(Queued {
                position,
                lane,
                payload: position,
                bytes,
                weight: 0,
            });
        }
    }

    fn resume(&mut self) {
        self.lanes.resume();
        self.hooks.values_mut().for_each(|hook| hook.parked = false);
    }

    /// All that can be asked has the reference's answer.
    fn check(&self) -> TestCaseResult {
        let mut cursors = BTreeMap::new();
        let (mut queued, mut bytes, mut behind) = (0, 0, 0);
        for (uid, hook) in &self.hooks {
            prop_assert_eq!(self.lanes.window(*uid), (hook.window, hook.in_flight));
            queued += hook.again.len();
            bytes += hook.again.iter().map(|(.., bytes)| bytes).sum::<usize>();
            for kind in KINDS {
                let lane = &hook.lanes[kind.number() as usize];
                queued += lane.queue.len();
                bytes += lane.queue.iter().map(|(_, bytes)| bytes).sum::<usize>();
                behind += usize::from(lane.behind.is_some());
                let first = lane.queue.first().map(|(position, _)| *position);
                if let Some(cursor) = first.or(lane.behind) {
                    cursors.insert(
                        LaneKey {
                            webhook: *uid,
                            kind,
                        },
                        cursor,
                    );
                }
            }
        }
        prop_assert_eq!(self.lanes.cursors().collect::<BTreeMap<_, _>>(), cursors);
        prop_assert_eq!(
            (self.lanes.queued(), self.lanes.queued_bytes()),
            (queued, bytes)
        );
        prop_assert_eq!(self.lanes.behind(), behind);
        Ok(())
    }
}

pub(super) fn run((log, ops): (Vec<Record>, Vec<Op>)) -> TestCaseResult {
    let mut test = Test {
        log,
        lanes: Lanes::default(),
        hooks: BTreeMap::new(),
        scan: None,
        edge: 0,
        room: usize::MAX,
        starts: 0,
        paused: BTreeSet::new(),
        sending: Vec::new(),
    };
    for op in ops {
        match op {
            Op::Live(count) => {
                for _ in 0..count {
                    test.live()?;
                }
            }
            Op::Scan(records) => test.scan(records)?,
            Op::Start { all, suspect } => test.start(all, suspect)?,
            Op::End {
                which,
                health,
                again,
            } => test.end(usize::from(which), health, again),
            Op::Pause(which) => {
                let webhook = uid(1 + u128::from(which) % WEBHOOKS);
                if !test.paused.remove(&webhook) {
                    test.paused.insert(webhook);
                }
            }
            Op::Resume => test.resume(),
            Op::Room(which) => test.room = ROOMS[usize::from(which)],
        }
        test.check()?;
    }
    // Nothing hinders any more: everything goes, each lane in the order of the log, each send once.
    test.paused.clear();
    test.resume();
    for round in 0.. {
        prop_assert!(round < 500, "it never ends");
        test.live()?;
        test.scan(9)?;
        test.start(200, 200)?;
        while !test.sending.is_empty() {
            test.end(0, Health::Good, false);
        }
        test.check()?;
        let idle = test.lanes.queued() == 0 && test.lanes.behind() == 0;
        if idle && test.edge == test.log.len() as u64 {
            break;
        }
    }
    let mut expected: BTreeMap<LaneKey, Vec<Position>> = BTreeMap::new();
    for (offset, record) in (0..).zip(&test.log) {
        for (index, (key, _, known)) in (0..).zip(record) {
            if !known {
                expected
                    .entry(*key)
                    .or_default()
                    .push(Position { offset, index });
            }
        }
    }
    for (key, expected) in expected {
        prop_assert_eq!(
            &test.hooks[&key.webhook].lanes[key.kind.number() as usize].started,
            &expected,
            "{:?}",
            key
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn lanes_start_what_may_start_and_all_of_it_in_the_end(case in cases()) {
        run(case)?;
    }
}
