//! A whole partition through crashes, zombies, lost acknowledgements and repeats, against what its logs say.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::owner::{How, Owner};
use super::world::{Provoked, Record, Send, Shape, World, judge};
use super::{config, failing_case, from_events, from_job};
use crate::core::lane::Health;
use crate::ids::Position;

const WEBHOOKS: u128 = 3;
const TIERS_MS: [u64; 2] = [1_000, 5_000];
const PATHS_MS: [&[u64]; 3] = [&[1_000], &[5_000], &[5_000, 1_000]];

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Fan-out or a job writes.
    Publish(u8),
    /// Of the current owner, or of one that does not know yet that it is no longer. Without an owner somebody takes over.
    Act {
        former: bool,
        act: Act,
    },
    Copy {
        tier: bool,
        copier: bool,
    },
    Restart {
        tier: bool,
        copier: bool,
        back: u8,
    },
    /// Something that a former owner had handed to the journal is stored.
    Late {
        which: u8,
        what: u8,
    },
    /// Somebody looks how things stand; somebody who has looked claims; both at once.
    Look,
    Claim {
        second: bool,
    },
    TakeOver,
    Crash {
        former: bool,
    },
    Pause,
    /// A webhook is deleted, or comes back.
    End,
    /// Room for queues becomes scarce, or plenty.
    Room,
    /// Somebody releases what waits.
    Release,
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Live(u8),
    Scan(u8),
    Start(u8),
    End {
        which: u8,
        how: u8,
    },
    Append,
    Store,
    Ack {
        told: bool,
        good: bool,
    },
    Follow,
    Followed,
    Checkpoint,
    Part(u8),
    /// A checkpoint, stored at once.
    Cache,
    Delete,
    /// Copies what waits at the old end, or at that of what was copied.
    Move {
        again: bool,
        records: u8,
    },
    /// Gives payloads of what waits back, but for a few bytes.
    PutAway(u8),
    Fetch(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1_u8..5).prop_map(Act::Live),
        3 => (1_u8..4).prop_map(Act::Scan),
        4 => (1_u8..9).prop_map(Act::Start),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Act::End { which, how }),
        4 => Just(Act::Append),
        4 => Just(Act::Store),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(told, good)| Act::Ack { told, good }),
        3 => Just(Act::Follow),
        3 => Just(Act::Followed),
        1 => Just(Act::Checkpoint),
        2 => (1_u8..5).prop_map(Act::Part),
        2 => Just(Act::Cache),
        2 => Just(Act::Delete),
        2 => (any::<bool>(), 1_u8..9).prop_map(|(again, records)| Act::Move { again, records }),
        2 => (0_u8..40).prop_map(Act::PutAway),
        2 => (1_u8..4).prop_map(Act::Fetch),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let former = || prop_oneof![3 => Just(false), 1 => Just(true)];
    let op = prop_oneof![
        3 => (1_u8..4).prop_map(Op::Publish),
        40 => (former(), act()).prop_map(|(former, act)| Op::Act { former, act }),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(tier, copier)| Op::Copy { tier, copier }),
        1 => (any::<bool>(), any::<bool>(), 0_u8..4).prop_map(|(tier, copier, back)| Op::Restart { tier, copier, back }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(which, what)| Op::Late { which, what }),
        2 => Just(Op::Look),
        2 => any::<bool>().prop_map(|second| Op::Claim { second }),
        1 => Just(Op::TakeOver),
        1 => former().prop_map(|former| Op::Crash { former }),
        1 => Just(Op::Pause),
        1 => Just(Op::End),
        1 => Just(Op::Room),
        1 => Just(Op::Release),
    ];
    proptest::collection::vec(op, 0..150)
}

/// Fan-out and a job write in order; killed in between, they go back a little and write some again.
fn incoming() -> impl Strategy<Value = Vec<Record>> {
    let webhooks = proptest::collection::btree_set(1..=WEBHOOKS, 1..=WEBHOOKS as usize);
    let step = (webhooks, 0_u8..6, 0_u8..4);
    proptest::collection::vec(step, 1..20).prop_map(|steps| {
        let mut written: Vec<Record> = Vec::new();
        for (number, (webhooks, back, job)) in (0_u64..).zip(steps) {
            if back == 5 {
                let again: Vec<Record> = written.iter().rev().take(3).rev().cloned().collect();
                written.extend(again);
            }
            let source = if job == 3 {
                from_job("j", number)
            } else {
                from_events(0, number)
            };
            let sends = webhooks.into_iter().map(|webhook| Send {
                event: number,
                webhook,
                attempts: 0,
            });
            written.push(Record {
                source,
                sends: sends.collect(),
            });
        }
        written
    })
}

/// What the webhooks are like: none of them in order or in batches, some, by key, both.
const SHAPES: [Shape; 5] = [
    Shape {
        ordered: &[],
        by_key: &[],
        batched: &[],
        wait: Duration::ZERO,
    },
    Shape {
        ordered: &[2],
        by_key: &[3],
        batched: &[],
        wait: Duration::ZERO,
    },
    Shape {
        ordered: &[1],
        by_key: &[],
        batched: &[2],
        wait: Duration::ZERO,
    },
    Shape {
        ordered: &[2, 3],
        by_key: &[],
        batched: &[1, 2],
        wait: Duration::from_millis(7),
    },
    Shape {
        ordered: &[],
        by_key: &[1, 3],
        batched: &[2, 3],
        wait: Duration::from_millis(7),
    },
];

pub(super) type Case = (Vec<Record>, Vec<Op>, u8);

pub(super) fn cases() -> impl Strategy<Value = Case> {
    (incoming(), operations(), 0..SHAPES.len() as u8)
}

fn how(byte: u8) -> How {
    match byte % 9 {
        8 => How::Stop,
        0 => How::InPlace(1),
        1 | 2 => How::Retry(PATHS_MS[usize::from(byte / 8) % 3].to_vec()),
        3 => How::Dead(1 + u32::from(byte / 8 % 2)),
        _ => How::Delivered,
    }
}

fn perform(world: &mut World, which: usize, act: Act) -> TestCaseResult {
    let mut result = Ok(());
    world.with(which, |owner, world| {
        match act {
            Act::Live(count) => {
                for _ in 0..count {
                    owner.live(world)?;
                }
            }
            Act::Scan(records) => owner.scan(world, u64::from(records))?,
            Act::Start(places) => result = owner.start(world, places),
            Act::End { which, how: byte } => owner.end(world, usize::from(which), how(byte)),
            Act::Append => owner.append(),
            Act::Store => owner.store(world),
            Act::Ack { told, good } => {
                let health = if good { Health::Good } else { Health::Bad };
                owner.ack(world, told, health);
            }
            Act::Follow => owner.follow(world),
            Act::Followed => owner.followed(),
            Act::Checkpoint => owner.checkpoint(world),
            Act::Part(count) => (0..count).for_each(|_| owner.part(world)),
            Act::Cache => {
                owner.checkpoint(world);
                (0..9).for_each(|_| owner.part(world));
            }
            Act::Delete => owner.delete(world),
            Act::Move { again, records } => owner.copy(world, again, u64::from(records))?,
            Act::PutAway(bytes) => owner.put_away(world, usize::from(bytes)),
            Act::Fetch(sends) => owner.fetch(world, usize::from(sends))?,
        }
        Ok(())
    });
    result
}

fn take_over(world: &mut World) -> TestCaseResult {
    let others = world.candidates.len();
    // What was read may be gone by the time of the claim; then one looks again.
    for _ in 0..3 {
        world.look()?;
        while world.candidates.len() > others && world.claim(others).is_ok() {}
        if !world.owners.is_empty() {
            return Ok(());
        }
    }
    Err(TestCaseError::fail("nobody can take over"))
}

pub(super) fn run(case: Case) -> TestCaseResult {
    live_through(case).map(drop)
}

/// What it provoked.
fn live_through((incoming, ops, shape): Case) -> Result<Provoked, TestCaseError> {
    let mut world = World {
        shape: SHAPES[usize::from(shape)],
        incoming: incoming.into_iter().map(Rc::new).collect(),
        thrifty: true,
        ..World::default()
    };
    for op in ops {
        world.now += 1;
        let last = world.owners.len().checked_sub(1);
        match op {
            Op::Publish(count) => (0..count).for_each(|_| world.publish()),
            Op::Act { former, act } => match last {
                None => take_over(&mut world)?,
                Some(last) if former && last > 0 => perform(&mut world, last - 1, act)?,
                Some(last) => perform(&mut world, last, act)?,
            },
            Op::Copy { tier, copier } => world.copy(TIERS_MS[usize::from(tier)], copier),
            Op::Restart { tier, copier, back } => {
                world
                    .tiers
                    .restart(TIERS_MS[usize::from(tier)], copier, usize::from(back));
            }
            Op::Late { which, what } => {
                let count = world.late.len().max(1);
                world.late(usize::from(which) % count, what);
            }
            Op::Look => {
                world.look()?;
                if world.candidates.len() > 2 {
                    world.candidates.remove(0);
                }
            }
            Op::Claim { second } => {
                if !world.candidates.is_empty() {
                    let which = usize::from(second).min(world.candidates.len() - 1);
                    drop(world.claim(which));
                }
            }
            Op::TakeOver => take_over(&mut world)?,
            Op::Crash { former } => {
                if let Some(last) = last {
                    world.gone(if former { 0 } else { last });
                }
            }
            Op::Pause => {
                world.paused = !world.paused;
                for owner in &mut world.owners {
                    owner.partition.lanes().resume();
                }
            }
            Op::End => world.ended = !world.ended,
            Op::Room => world.scarce = !world.scarce,
            Op::Release => world.owners.iter_mut().for_each(Owner::release),
        }
    }
    calm(&mut world)?;
    judge(&world)?;
    world.provoked.copies_read = world.copies_read.get();
    Ok(world.provoked)
}

/// Nothing bad happens any more: whoever owns the partition now comes to the end of it.
fn calm(world: &mut World) -> TestCaseResult {
    world.candidates.clear();
    world.paused = false;
    while world.owners.len() > 1 {
        world.gone(0);
    }
    for owner in &mut world.owners {
        owner.partition.lanes().resume();
    }
    for round in 0.. {
        prop_assert!(round < 500, "it never ends");
        world.now += 2;
        if world.owners.is_empty() {
            take_over(world)?;
        }
        world.publish();
        while let Some(tier) = world.tiers.waiting() {
            world.copy(tier, false);
        }
        let mut result = Ok(());
        world.with(0, |owner, world| {
            for _ in 0..9 {
                owner.live(world)?;
            }
            owner.scan(world, 5)?;
            owner.release();
            owner.fetch(world, 2)?;
            result = owner.start(world, 100);
            while !owner.sending.is_empty() {
                owner.end(world, 0, How::Delivered);
            }
            owner.append();
            for _ in 0..100 {
                owner.store(world);
                owner.ack(world, true, Health::Good);
                owner.follow(world);
                owner.followed();
            }
            owner.checkpoint(world);
            (0..9).for_each(|_| owner.part(world));
            owner.delete(world);
            Ok(())
        });
        result?;
        let end = world.deliveries.len() as u64;
        let at_rest = |owner: &Owner| owner.partition.oldest() == Position::at(end);
        if world.incoming.is_empty()
            && world.tiers.waiting().is_none()
            && world.owners.iter().any(at_rest)
        {
            break;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_send_ends_once_through_crashes_zombies_and_repeats(case in cases()) {
        run(case)?;
    }
}

/// The owner stores progress, deletes behind it and forgets the older one, while somebody who had looked before is about to claim. Progress stored
/// from what that one knows would be the only one left, and would need what is gone.
#[test]
fn who_claims_from_older_progress_than_there_is_by_then_begins_anew() {
    let record = Record {
        source: from_events(0, 0),
        sends: vec![Send {
            event: 0,
            webhook: 2,
            attempts: 0,
        }],
    };
    let act = |act| Op::Act { former: false, act };
    let how = 76;
    let ops = vec![
        Op::TakeOver,
        Op::Look,
        Op::Publish(1),
        act(Act::Live(1)),
        act(Act::Start(1)),
        act(Act::End { which: 0, how }),
        act(Act::Append),
        act(Act::Cache),
        act(Act::Store),
        act(Act::Delete),
        act(Act::Cache),
        act(Act::Delete),
        Op::Claim { second: false },
        act(Act::Cache),
        act(Act::Delete),
    ];
    let provoked = live_through((vec![record], ops, 0)).expect("nothing is lost");
    assert_eq!((provoked.outdated, provoked.deletions > 0), (1, true));
}

/// The same, where the newer progress knows nothing more of `attempts`: what waited had been moved out of the way, and the owner has only read on.
#[test]
fn progress_that_has_only_read_on_counts_as_newer() {
    let record = |event| Record {
        source: from_events(0, event),
        sends: vec![Send {
            event,
            webhook: 1,
            attempts: 0,
        }],
    };
    let act = |act| Op::Act { former: false, act };
    let ops = vec![
        Op::Publish(1),
        Op::TakeOver,
        act(Act::Live(1)),
        act(Act::Move {
            again: false,
            records: 1,
        }),
        act(Act::Store),
        Op::TakeOver,
        Op::Publish(1),
        act(Act::Cache),
        Op::Look,
        act(Act::Live(1)),
        act(Act::Cache),
        act(Act::Delete),
        Op::Claim { second: false },
        act(Act::Cache),
        act(Act::Delete),
    ];
    let provoked = live_through((vec![record(0), record(1)], ops, 0)).expect("nothing is lost");
    assert_eq!((provoked.outdated, provoked.deletions > 0), (1, true));
}

/// Of a lane in order, whose webhook was deleted, two sends were being ended. It comes back, and a new owner begins a batch of the first of them; but
/// what the next one goes on from is progress that the former owner stores still. The second of them is not part of that batch.
#[test]
fn what_was_being_ended_does_not_join_a_batch_that_was_begun() {
    let record = |event, webhook| Record {
        source: from_events(0, event),
        sends: vec![Send {
            event,
            webhook,
            attempts: 0,
        }],
    };
    let act = |act| Op::Act { former: false, act };
    let ops = vec![
        Op::Publish(3),
        act(Act::Live(1)),
        act(Act::Live(1)),
        Op::End,
        act(Act::Cache),
        Op::End,
        Op::End,
        act(Act::Live(2)),
        act(Act::Start(2)),
        Op::End,
        Op::TakeOver,
        act(Act::Scan(1)),
        act(Act::Start(1)),
        Op::Act {
            former: true,
            act: Act::Cache,
        },
        act(Act::Store),
        Op::TakeOver,
    ];
    let records = vec![record(0, 3), record(1, 1), record(2, 3)];
    let provoked = live_through((records, ops, 4)).expect("the batch stays as it began");
    assert_eq!(provoked.takeovers, 3);
}

#[test]
fn the_cases_provoke_what_they_are_about() {
    let sum = Cell::new(Provoked::default());
    let failed = failing_case(10_000, cases(), |case| {
        let one = live_through(case)?;
        let mut all = sum.get();
        all.takeovers += one.takeovers;
        all.from_checkpoint += one.from_checkpoint;
        all.claims_in_vain += one.claims_in_vain;
        all.fenced += one.fenced;
        all.outdated += one.outdated;
        all.deleted += one.deleted;
        all.deletions += one.deletions;
        all.late += one.late;
        all.repeats += one.repeats;
        all.known += one.known;
        all.left_behind += one.left_behind;
        all.scanned += one.scanned;
        all.batches += one.batches;
        all.splits += one.splits;
        all.held += one.held;
        all.moves += one.moves;
        all.cleanings += one.cleanings;
        all.copies_read += one.copies_read;
        all.put_away += one.put_away;
        all.fetched += one.fetched;
        sum.set(all);
        Ok(())
    });
    assert_eq!(failed, None);
    let sum = sum.get();
    let all = [
        sum.takeovers,
        sum.from_checkpoint,
        sum.claims_in_vain,
        sum.fenced,
        sum.outdated,
        sum.deletions,
        sum.late,
        sum.repeats,
        sum.known,
        sum.left_behind,
        sum.scanned,
        sum.batches,
        sum.splits,
        sum.held,
        sum.moves,
        sum.cleanings,
        sum.copies_read,
        sum.put_away,
        sum.fetched,
    ];
    // What a property never met it says nothing about.
    assert!(all.iter().all(|count| *count > 0), "{sum:?}");
    // Nothing is deleted that anybody still reads.
    assert_eq!(sum.deleted, 0, "{sum:?}");
}
