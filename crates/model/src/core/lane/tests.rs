use std::collections::BTreeMap;

use super::*;
use crate::limits::{FAILING_PAUSE, FAILURES_BEFORE_PAUSE};

struct Open;

impl Door<u32> for Open {
    fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
        Terms::Send {
            rate: None,
            batch: None,
        }
    }

    fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
        Seat::Taken
    }
}

fn seat(there_is: bool) -> Seat {
    if there_is {
        Seat::Taken
    } else {
        Seat::NoneLeft
    }
}

fn uid(n: u128) -> WebhookUid {
    WebhookUid(uuid::Uuid::from_u128(n))
}

fn key(n: u128, kind: LaneKind) -> LaneKey {
    LaneKey {
        webhook: uid(n),
        kind,
    }
}

fn queued(lane: LaneKey, offset: u64) -> Queued<u32> {
    Queued {
        position: Position::at(offset),
        lane,
        payload: 0,
        bytes: 100,
        weight: 100,
    }
}

fn start(lanes: &mut Lanes<u32>) -> Vec<(u64, LaneKind)> {
    std::iter::from_fn(|| lanes.next(Millis(0), &mut Open))
        .map(|s| (s.queued.position.offset, s.queued.lane.kind))
        .collect()
}

#[test]
fn fresh_and_due_alternate_and_bulk_takes_what_they_leave() {
    let mut lanes = Lanes::default();
    for offset in 0..2 {
        lanes.offer(queued(key(1, LaneKind::Bulk), offset), usize::MAX);
        lanes.offer(queued(key(1, LaneKind::Fresh), 10 + offset), usize::MAX);
        lanes.offer(queued(key(1, LaneKind::Due), 20 + offset), usize::MAX);
    }
    use LaneKind::{Bulk, Due, Fresh};
    assert_eq!(
        start(&mut lanes),
        [
            (10, Fresh),
            (20, Due),
            (11, Fresh),
            (21, Due),
            (0, Bulk),
            (1, Bulk)
        ]
    );
}

#[test]
fn the_window_opens_grows_and_halves() {
    let mut lanes = Lanes::default();
    for offset in 0..100 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
    }
    assert_eq!(start(&mut lanes).len(), 8);
    lanes.ended(uid(1), Health::Good);
    assert_eq!(
        start(&mut lanes).len(),
        2,
        "one place came free and one was added"
    );
    for _ in 0..4 {
        lanes.ended(uid(1), Health::Bad);
    }
    assert_eq!(lanes.window(uid(1)), (1, 5));
    assert!(start(&mut lanes).is_empty());
    for _ in 0..5 {
        lanes.ended(uid(1), Health::Bad);
    }
    assert_eq!(start(&mut lanes).len(), 1, "never below one");
}

#[test]
fn one_webhook_does_not_hold_up_another() {
    let mut lanes = Lanes::default();
    for offset in 0..20 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
    }
    lanes.offer(queued(key(2, LaneKind::Fresh), 20), usize::MAX);
    let started = start(&mut lanes);
    assert_eq!(started.len(), 9);
    assert_eq!(started[1].0, 20, "they take turns");
}

/// Drives a scan over a log of `lanes[offset]` up to `watermark`.
fn scan(lanes: &mut Lanes<u32>, log: &[LaneKey], watermark: u64) {
    let Some(from) = lanes.begin_scan() else {
        return;
    };
    for offset in from..watermark {
        let lane = log[usize::try_from(offset).expect("small")];
        let position = Position::at(offset);
        if lanes.scan_takes(lane, position)
            && !lanes.scanned(lane, position, Some(queued(lane, offset)), usize::MAX)
        {
            return;
        }
        lanes.scan_passed(offset + 1, watermark);
    }
}

#[test]
fn a_lane_that_cannot_send_falls_behind_and_catches_up_in_order() {
    let n = 3 * LANE_QUEUE_SENDS as u64;
    let log: Vec<LaneKey> = (0..n)
        .map(|i| key(if i % 3 == 0 { 2 } else { 1 }, LaneKind::Fresh))
        .collect();
    let mut lanes = Lanes::default();
    let mut got: HashMap<WebhookUid, Vec<u64>> = HashMap::new();
    let mut held = Vec::new();
    for (offset, lane) in (0_u64..).zip(&log) {
        lanes.offer(queued(*lane, offset), usize::MAX);
        // Webhook 2 answers at once; webhook 1 does not answer yet.
        while let Some(s) = lanes.next(Millis(0), &mut Open) {
            got.entry(s.queued.lane.webhook)
                .or_default()
                .push(s.queued.position.offset);
            if s.queued.lane.webhook == uid(2) {
                lanes.ended(uid(2), Health::Good)
            } else {
                held.push(())
            }
        }
    }
    assert_eq!(lanes.behind(), 1, "only the one that hangs");
    assert_eq!(got[&uid(2)].len() as u64, n / 3);
    for _ in held {
        lanes.ended(uid(1), Health::Good);
    }
    while lanes.behind() > 0 || lanes.queued() > 0 {
        while let Some(s) = lanes.next(Millis(0), &mut Open) {
            got.entry(s.queued.lane.webhook)
                .or_default()
                .push(s.queued.position.offset);
            lanes.ended(s.queued.lane.webhook, Health::Good);
        }
        scan(&mut lanes, &log, n);
    }
    let expected: Vec<u64> = (0..n).filter(|i| i % 3 != 0).collect();
    assert_eq!(got[&uid(1)], expected, "each once, in the order of the log");
}

#[test]
fn a_rate_limit_delays_and_its_bucket_starts_empty() {
    struct Slow;
    impl Door<u32> for Slow {
        fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
            Terms::Send {
                rate: Some(10.0),
                batch: None,
            }
        }
        fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
            Seat::Taken
        }
    }
    let mut lanes = Lanes::default();
    for offset in 0..50 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
    }
    let mut started = 0;
    for ms in 0..=2000 {
        while lanes.next(Millis(ms), &mut Slow).is_some() {
            started += 1;
            lanes.ended(uid(1), Health::Good);
        }
    }
    assert!((19..=20).contains(&started), "{started}");
}

#[test]
fn paused_webhooks_wait_until_resumed() {
    struct Paused(bool);
    impl Door<u32> for Paused {
        fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
            if self.0 {
                Terms::Wait
            } else {
                Terms::Send {
                    rate: None,
                    batch: None,
                }
            }
        }
        fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
            Seat::Taken
        }
    }
    let mut lanes = Lanes::default();
    lanes.offer(queued(key(1, LaneKind::Fresh), 1), usize::MAX);
    assert!(lanes.next(Millis(0), &mut Paused(true)).is_none());
    assert!(
        lanes.next(Millis(0), &mut Paused(false)).is_none(),
        "nobody asks again by itself"
    );
    lanes.resume();
    assert!(lanes.next(Millis(0), &mut Paused(false)).is_some());
}

#[test]
fn without_a_place_the_turn_is_kept() {
    struct Full(bool);
    impl Door<u32> for Full {
        fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
            Terms::Send {
                rate: None,
                batch: None,
            }
        }
        fn take_place(&mut self, _: WebhookUid, suspect: bool) -> Seat {
            seat(!suspect || self.0)
        }
    }
    let mut lanes = Lanes::default();
    lanes.offer(queued(key(1, LaneKind::Fresh), 1), usize::MAX);
    assert!(
        lanes.next(Millis(0), &mut Full(false)).is_none(),
        "not yet proven"
    );
    let started = lanes
        .next(Millis(0), &mut Full(true))
        .expect("a place came free");
    assert_eq!(started.queued.position.offset, 1);
    lanes.ended(uid(1), Health::Good);
    lanes.offer(queued(key(1, LaneKind::Fresh), 2), usize::MAX);
    assert!(
        lanes.next(Millis(0), &mut Full(false)).is_some(),
        "proven now"
    );
}

/// Places as the worker shares them: suspects of a project may hold only so many.
#[derive(Default)]
struct Shares {
    freed: u64,
    /// The suspects that asked, in turn.
    asked: Vec<WebhookUid>,
    healthy: u32,
    /// By webhook, standing for its project.
    suspect: HashMap<WebhookUid, u32>,
}

impl Door<u32> for Shares {
    fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
        Terms::Send {
            rate: None,
            batch: None,
        }
    }

    fn take_place(&mut self, webhook: WebhookUid, suspect: bool) -> Seat {
        let (left, lack) = if suspect {
            let its = self.suspect.entry(webhook).or_insert(0);
            self.asked.push(webhook);
            (its, Seat::ShareTaken)
        } else {
            (&mut self.healthy, Seat::NoneLeft)
        };
        let there_is = *left > 0;
        *left = left.saturating_sub(1);
        if there_is { Seat::Taken } else { lack }
    }

    fn freed(&self) -> u64 {
        self.freed
    }
}

#[test]
fn a_suspect_that_finds_no_place_holds_up_no_suspect_of_another_project() {
    let mut lanes = Lanes::default();
    for (offset, webhook) in [(0, 1), (1, 2)] {
        lanes.offer(queued(key(webhook, LaneKind::Fresh), offset), usize::MAX);
    }
    let mut door = Shares {
        suspect: HashMap::from([(uid(2), 1)]),
        ..Shares::default()
    };
    let started = lanes.next(Millis(0), &mut door).expect("2 has a place");
    assert_eq!(started.queued.lane.webhook, uid(2));
    assert!(lanes.awaits_share());
    door.suspect.insert(uid(1), 1);
    door.freed += 1;
    assert!(
        lanes.next(Millis(0), &mut door).is_some(),
        "nobody is left out"
    );
}

#[test]
fn nobody_asks_twice_for_a_share_of_which_nothing_was_given_back() {
    let mut lanes = Lanes::default();
    let offer = |lanes: &mut Lanes<u32>, webhook: u128| {
        lanes.offer(
            queued(key(webhook, LaneKind::Fresh), webhook as u64),
            usize::MAX,
        );
    };
    let mut door = Shares::default();
    offer(&mut lanes, 1);
    offer(&mut lanes, 2);
    assert!(lanes.next(Millis(0), &mut door).is_none());
    offer(&mut lanes, 3);
    assert!(lanes.next(Millis(0), &mut door).is_none());
    assert_eq!(door.asked, [1, 2, 3].map(uid), "each once");
    door.freed += 1;
    offer(&mut lanes, 4);
    assert!(lanes.next(Millis(0), &mut door).is_none());
    let then = &door.asked[3..];
    assert_eq!(then, [4, 1, 2, 3].map(uid), "who has not asked goes first");
}

#[test]
fn who_fails_again_and_again_pauses_between_attempts_until_it_answers_well() {
    let mut lanes = Lanes::new(QueueLimits {
        suspect_sends: 120,
        ..QueueLimits::default()
    });
    for offset in 0..120 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
    }
    let pause = i64::try_from(FAILING_PAUSE.as_millis()).unwrap();
    let mut begun = Vec::new();
    for ms in 0..20 * pause {
        while lanes.next(Millis(ms), &mut Open).is_some() {
            begun.push(ms);
            lanes.ended(uid(1), Health::Bad);
        }
    }
    let (at_once, paced) = begun.split_at(FAILURES_BEFORE_PAUSE as usize + 1);
    assert!(at_once.iter().all(|at| *at == 0), "{at_once:?}");
    let gaps = paced.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.clone().all(|gap| gap == pause), "{paced:?}");
    assert!(gaps.count() >= 15, "{paced:?}");
    // Set back by an hour, the clock makes nobody pause for an hour.
    let before = Millis(-3_600_000);
    assert!(lanes.next(before, &mut Open).is_none());
    assert!(lanes.next(before.plus(FAILING_PAUSE), &mut Open).is_some());
    lanes.ended(uid(1), Health::Good);
    assert!(
        lanes.next(before.plus(FAILING_PAUSE), &mut Open).is_some(),
        "no pause when it answers well"
    );
}

#[test]
fn a_new_webhook_is_tried_before_those_that_fail() {
    let mut lanes = Lanes::default();
    for webhook in 1..=20 {
        lanes.offer(queued(key(webhook, LaneKind::Fresh), 0), usize::MAX);
    }
    assert_eq!(start(&mut lanes).len(), 20);
    for webhook in 1..=20 {
        lanes.ended(uid(webhook), Health::Bad);
        lanes.offer(queued(key(webhook, LaneKind::Fresh), 1), usize::MAX);
    }
    lanes.offer(queued(key(30, LaneKind::Fresh), 3), usize::MAX);
    let first = lanes.next(Millis(0), &mut Open).expect("there are places");
    assert_eq!(first.queued.lane.webhook, uid(30));
}

#[test]
fn a_webhook_that_began_to_fail_while_it_waited_holds_up_no_healthy_one() {
    let mut lanes = Lanes::default();
    // Both have answered well, and the first has two more under way.
    for (offset, webhook) in [(0, 1), (1, 2), (2, 1), (3, 1)] {
        lanes.offer(queued(key(webhook, LaneKind::Fresh), offset), usize::MAX);
    }
    assert_eq!(start(&mut lanes).len(), 4);
    lanes.ended(uid(1), Health::Good);
    lanes.ended(uid(2), Health::Good);
    // Both wait for a place when the first begins to fail.
    for (offset, webhook) in [(4, 1), (5, 2)] {
        lanes.offer(queued(key(webhook, LaneKind::Fresh), offset), usize::MAX);
    }
    let mut door = Shares::default();
    assert!(lanes.next(Millis(0), &mut door).is_none());
    lanes.ended(uid(1), Health::Bad);
    door.healthy = 1;
    let started = lanes.next(Millis(0), &mut door).expect("2 has a place");
    assert_eq!(started.queued.lane.webhook, uid(2));
}

#[test]
fn a_window_that_shrank_while_a_webhook_waited_for_its_turn_is_kept() {
    struct Full(bool);
    impl Door<u32> for Full {
        fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
            Terms::Send {
                rate: None,
                batch: None,
            }
        }
        fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
            seat(!self.0)
        }
    }
    let mut lanes = Lanes::default();
    for offset in 0..7 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
        assert!(lanes.next(Millis(0), &mut Full(false)).is_some());
    }
    lanes.offer(queued(key(1, LaneKind::Fresh), 7), usize::MAX);
    assert!(lanes.next(Millis(0), &mut Full(true)).is_none());
    lanes.ended(uid(1), Health::Bad);
    assert_eq!(lanes.window(uid(1)), (4, 6));
    assert!(lanes.next(Millis(0), &mut Full(false)).is_none());
    lanes.ended(uid(1), Health::None);
    lanes.ended(uid(1), Health::None);
    lanes.ended(uid(1), Health::None);
    assert!(lanes.next(Millis(0), &mut Full(false)).is_some());
}

#[test]
fn a_lane_that_has_no_room_keeps_no_scan_from_the_others() {
    let log: Vec<LaneKey> = [1, 1, 2, 2].map(|n| key(n, LaneKind::Fresh)).to_vec();
    let mut lanes = Lanes::default();
    for webhook in [1, 2] {
        lanes.load_behind(
            key(webhook, LaneKind::Fresh),
            Position::at((webhook as u64 - 1) * 2),
        );
    }
    // Webhook 1 takes one and has no room for the second.
    assert_eq!(lanes.begin_scan(), Some(0));
    assert!(lanes.scanned(log[0], Position::at(0), Some(queued(log[0], 0)), 0));
    assert!(!lanes.scanned(log[1], Position::at(1), Some(queued(log[1], 1)), 0));
    assert_eq!(
        lanes.begin_scan(),
        Some(2),
        "webhook 2 is next, not 1 again and again"
    );
    lanes.abandon_scan();
    assert_eq!(start(&mut lanes), [(0, LaneKind::Fresh)]);
    assert_eq!(lanes.begin_scan(), Some(1), "something of 1 has gone");
}

/// Batches of so many, which wait for a second to be full.
struct Batching(usize);

impl Door<u32> for Batching {
    fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
        Terms::Send {
            rate: None,
            batch: Some(Batch {
                sends: self.0,
                bytes: usize::MAX,
                wait: Duration::from_secs(1),
            }),
        }
    }

    fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
        Seat::Taken
    }
}

#[test]
fn a_batch_does_not_wait_for_what_its_lane_has_no_room_for() {
    let mut lanes = Lanes::new(QueueLimits {
        lane_bytes: 1_000,
        ..QueueLimits::default()
    });
    let lane = key(1, LaneKind::Ordered);
    let went = |lanes: &mut Lanes<u32>, ms: i64| {
        let start = lanes.next(Millis(ms), &mut Batching(100));
        start.map(|start| 1 + start.others.len())
    };
    for offset in 0..10 {
        lanes.offer(queued(lane, offset), usize::MAX);
        assert_eq!(went(&mut lanes, 0), None, "it waits to be full");
    }
    lanes.offer(queued(lane, 10), usize::MAX);
    assert_eq!(went(&mut lanes, 0), Some(10));
    lanes.ended(uid(1), Health::Good);
    lanes.settled(lane, true);
    // Of what was left in the log, it takes what it can.
    assert_eq!(lanes.begin_scan(), Some(10));
    for offset in 10..20 {
        assert!(lanes.scanned(
            lane,
            Position::at(offset),
            Some(queued(lane, offset)),
            usize::MAX
        ));
        assert_eq!(went(&mut lanes, 1), None, "more is coming");
    }
    assert!(!lanes.scanned(lane, Position::at(20), Some(queued(lane, 20)), usize::MAX));
    assert_eq!(went(&mut lanes, 1), Some(10));
    lanes.ended(uid(1), Health::Good);
    lanes.settled(lane, true);
    // Once it has come to the live edge, it waits again.
    assert_eq!(lanes.begin_scan(), Some(20));
    assert!(lanes.scanned(lane, Position::at(20), Some(queued(lane, 20)), usize::MAX));
    lanes.scan_passed(21, 21);
    assert_eq!(went(&mut lanes, 2), None);
    assert_eq!(went(&mut lanes, 1_000), None);
    assert_eq!(went(&mut lanes, 1_001), Some(1));
}

#[test]
fn a_clock_that_is_set_back_holds_up_no_rate() {
    struct Slow;
    impl Door<u32> for Slow {
        fn terms(&mut self, _: WebhookUid, _: &u32) -> Terms {
            Terms::Send {
                rate: Some(10.0),
                batch: None,
            }
        }
        fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
            Seat::Taken
        }
    }
    let mut lanes = Lanes::default();
    for offset in 0..50 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
    }
    let mut started = 0;
    let hour = 3_600_000;
    for ms in (hour..hour + 1000).chain(0..1000) {
        while lanes.next(Millis(ms), &mut Slow).is_some() {
            started += 1;
            lanes.ended(uid(1), Health::Good);
        }
    }
    assert!((18..=20).contains(&started), "{started}");
}

/// What tells two states apart, for the exploration of small worlds.
impl<T: std::hash::Hash> std::hash::Hash for Lanes<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let hooks: BTreeMap<_, _> = self.hooks.iter().collect();
        for (uid, hook) in hooks {
            (uid, &hook.again, &hook.lanes, hook.last).hash(state);
            (hook.window, hook.in_flight, hook.proven, hook.turn).hash(state);
            (hook.failures, hook.paused_until).hash(state);
            let bucket = hook.bucket.map(|b| (b.tokens.to_bits(), b.at));
            bucket.hash(state);
        }
        (&self.rounds, &self.look, &self.tokens, &self.parked).hash(state);
        (&self.behind, self.queued_bytes, self.queued, self.now).hash(state);
        if let Some(scan) = &self.scan {
            let refused: BTreeSet<_> = scan.refused.iter().collect();
            (scan.follows, scan.from, scan.at, refused).hash(state);
        }
    }
}

#[test]
fn what_tiers_brought_back_goes_by_itself_and_waits_for_no_batch() {
    let mut lanes = Lanes::default();
    for offset in 0..2 {
        lanes.offer(queued(key(1, LaneKind::Fresh), offset), usize::MAX);
        lanes.offer(queued(key(1, LaneKind::Due), 10 + offset), usize::MAX);
    }
    let mut started = |now| -> Vec<(u64, usize, bool)> {
        std::iter::from_fn(|| lanes.next(Millis(now), &mut Batching(3)))
            .map(|s| (s.queued.position.offset, 1 + s.others.len(), s.batch))
            .collect()
    };
    assert_eq!(started(0), [(10, 1, false), (11, 1, false)]);
    assert_eq!(started(1_000), [(0, 2, true)]);
}
