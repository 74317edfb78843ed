//! Single cases; whole lives of a partition are in `core/tests`.

use super::*;
use crate::core::lane::{LaneKind, Seat, Terms};
use crate::ids::WebhookUid;
use crate::wire;

impl Sendable for () {
    type Outline = ();
    fn outline(&self) {}
    fn alone(&self) -> ((), usize) {
        ((), 10)
    }
}

struct Open;

impl Door<()> for Open {
    fn terms(&mut self, _: WebhookUid, (): &()) -> Terms {
        Terms::Send {
            rate: None,
            batch: None,
        }
    }

    fn take_place(&mut self, _: WebhookUid, _: bool) -> Seat {
        Seat::Taken
    }
}

const WEBHOOK: WebhookUid = WebhookUid(uuid::Uuid::from_u128(1));

/// The only send of the record at this offset.
fn read(offset: u64) -> (Read<()>, Stream, StreamPosition) {
    let source = wire::Source {
        stream: Some(wire::source::Stream::Events(wire::FromEvents {
            partition: 0,
            offset,
            generation: 0,
        })),
    };
    let (stream, at) = Stream::of(&source, WEBHOOK).expect("a stream");
    let read = Read {
        position: Position::at(offset),
        next: Position::at(offset + 1),
        lane: LaneKey {
            webhook: WEBHOOK,
            kind: LaneKind::Fresh,
        },
        payload: (),
        bytes: 10,
        weight: 10,
    };
    (read, stream, at)
}

fn live(partition: &mut Partition<()>, offset: u64) -> Admitted {
    let (read, stream, at) = read(offset);
    let admitted = partition.live(read, stream, at, Millis(0), usize::MAX);
    partition.passed(offset + 1);
    admitted
}

const TICKET: Ticket = Ticket {
    offset: 1,
    epoch: 1,
};

const ONE: Made = Made {
    attempts: 1,
    first_try: Millis(7),
};

#[test]
fn a_replayed_attempt_from_which_nothing_follows_leaves_its_send_settled() {
    let mut partition: Partition<()> = Partition::load(None, 0);
    let position = Position::at(0);
    let replayed = partition.replay(TICKET, &[position], WEBHOOK, After::Follow(0), ONE);
    assert_eq!(replayed, Replayed::Settled);
    assert_eq!(live(&mut partition, 0), Admitted::Known);
    let checkpoint = partition.checkpoint(2, 9, Millis(0));
    assert_eq!(
        (checkpoint.low, checkpoint.attempts_end),
        (1, 9),
        "nothing is waited for"
    );
}

#[test]
fn a_clock_that_is_set_back_makes_no_wait_in_place_long() {
    let mut partition: Partition<()> = Partition::load(None, 0);
    assert_eq!(live(&mut partition, 0), Admitted::Queued);
    let hour = 3_600_000;
    assert!(partition.next(Millis(hour), &mut Open).is_some());
    let after = After::InPlace(Millis(hour + 500));
    partition.confirmed(TICKET, Position::at(0), after, Health::Bad, ONE);
    assert!(partition.next(Millis(0), &mut Open).is_none());
    assert!(partition.next(Millis(499), &mut Open).is_none());
    let again = partition.next(Millis(500), &mut Open).expect("due");
    assert_eq!(again.queued.position, Position::at(0));
}

#[test]
fn a_run_that_begins_is_written_down_again_until_it_stands_in_the_log() {
    let mut partition: Partition<()> = Partition::load(None, 0);
    partition.command_done(3);
    partition.starts(TICKET, 3);
    let later = Ticket {
        offset: 8,
        epoch: 1,
    };
    partition.command_done(4);
    assert_eq!((partition.commands(), partition.commands_over()), (5, 3));
    assert_eq!(partition.unsettled(), 1);
    let checkpoint = partition.checkpoint(1, 9, Millis(0));
    assert_eq!((checkpoint.attempts_end, checkpoint.commands), (1, 5));
    // A new owner that begins there finds it again.
    let mut next: Partition<()> = Partition::load(Some(checkpoint), 0);
    next.command_done(3);
    next.starts(TICKET, 3);
    next.started(3);
    next.starts(later, 6);
    next.command_done(6);
    next.started(6);
    assert_eq!((next.commands_over(), next.unsettled()), (7, 0));
    assert_eq!(next.checkpoint(1, 9, Millis(0)).attempts_end, 9);
}

/// A job's send in the record at this offset.
fn from_job(partition: &mut Partition<()>, offset: u64, entered: Millis, now: Millis) -> Admitted {
    let source = wire::Source {
        stream: Some(wire::source::Stream::Job(wire::FromJob {
            job: "redrive".into(),
            partition: 0,
            offset: 77,
        })),
    };
    let (stream, at) = Stream::of(&source, WEBHOOK).expect("a stream");
    let (read, ..) = read(offset);
    let admitted = partition.live(read, stream, at, now, usize::MAX);
    partition.entered(entered);
    partition.passed(offset + 1);
    admitted
}

#[test]
fn what_a_zombie_of_a_job_wrote_in_time_is_a_repeat_however_late_it_is_read() {
    let over = |_: &str| JobIs::Over(Millis(1_000));
    let (day, month) = (86_400_000, 30 * 86_400_000);
    let mut partition: Partition<()> = Partition::load(None, 0);
    // The partition stood still for a month; the repeat was written a day after the first.
    let first = from_job(&mut partition, 0, Millis(0), Millis(month));
    assert_eq!(first, Admitted::Queued);
    partition.forget_jobs(over);
    let stored = partition.checkpoint(1, 9, Millis(month));
    assert_eq!(stored.marks.len(), 1);
    let mut next: Partition<()> = Partition::load(Some(stored), 0);
    next.forget_jobs(over);
    let again = from_job(&mut next, 1, Millis(day), Millis(2 * month));
    assert_eq!(again, Admitted::Repeat);
    next.forget_jobs(over);
    assert!(next.remembers_jobs());
    // With what came in more than seven days after its end it is forgotten.
    assert_eq!(live(&mut next, 2), Admitted::Left);
    next.entered(Millis(8 * day));
    next.forget_jobs(|_| JobIs::Open);
    assert!(next.remembers_jobs());
    next.forget_jobs(over);
    assert!(!next.remembers_jobs());
    assert_eq!(next.checkpoint(1, 9, Millis(2 * month)).marks.len(), 1);
}
