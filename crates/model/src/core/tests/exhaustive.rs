//! Small worlds, explored exhaustively: every order in which reading, sending, recording, acknowledging, caching, dying, claiming and what comes late can
//! happen. In every state that can be reached: no send has two finals that count; nothing starts that its owner knows to be final; and whoever reads the
//! logs from any checkpoint that was ever stored finds what the whole log says. And from every state the world can come to rest with each send final
//! once.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use proptest::test_runner::{TestCaseError, TestCaseResult};

use super::from_events;
use super::owner::{How, Owner};
use super::world::{Candidate, Record, Send, Shape, World, counted, judge, said_of, wanted};
use crate::core::checkpoint::{CheckpointReader, CheckpointWriter};
use crate::core::lane::Health;
use crate::ids::Position;
use crate::wire;

/// How often what the world itself does not bound may happen.
#[derive(Debug, Clone, Copy, Hash)]
struct Budget {
    /// Looking how things stand, to claim by it.
    looks: u8,
    crashes: u8,
    checkpoints: u8,
    /// Attempts that go again in place, and such that something follows from.
    in_place: u8,
    follows: u8,
    /// Acknowledgements that do not say where the record stands.
    untold: u8,
}

/// The world to explore.
#[derive(Debug, Clone, Copy)]
pub(super) struct Small {
    /// Of each record the event and the webhooks.
    records: &'static [(u64, &'static [u128])],
    /// Whether lanes fall behind.
    scarce: bool,
    /// A former owner starts and reads nothing any more, as its lease has it.
    leased: bool,
    shape: Shape,
    budget: Budget,
}

/// Something that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// In this owner.
    Act(usize, Act),
    Crash(usize),
    /// Something of a former owner is stored late.
    Late(usize, u8),
    Look,
    Claim(usize),
}

/// What an owner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Followed,
    Follow,
    Ack {
        told: bool,
    },
    Store,
    /// What was sent has ended, the first or all, and its record is handed to the journal.
    Record {
        all: bool,
        end: End,
    },
    Start,
    Scan,
    Live,
    Checkpoint,
    Part,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Delivered,
    Dead,
    InPlace,
}

#[derive(Clone, Hash)]
struct State {
    world: World,
    budget: Budget,
}

impl State {
    fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        self.hash(&mut digest);
        digest.finish()
    }

    /// Everything that can happen now; what an owner does comes in the order in which it does it when nothing hinders.
    fn moves(&mut self, small: &Small) -> Vec<Move> {
        let mut moves = Vec::new();
        let Self { world, budget } = self;
        let end = world.deliveries.len() as u64;
        let current = world.owners.len().wrapping_sub(1);
        for (which, owner) in world.owners.iter_mut().enumerate() {
            let mut can = |there_is: bool, act| {
                if there_is {
                    moves.push(Move::Act(which, act));
                }
            };
            can(!owner.followed.is_empty(), Act::Followed);
            can(!owner.follow.is_empty(), Act::Follow);
            can(!owner.stored.is_empty(), Act::Ack { told: true });
            can(
                !owner.stored.is_empty() && budget.untold > 0,
                Act::Ack { told: false },
            );
            can(!owner.under_way.is_empty(), Act::Store);
            for (all, count) in [(false, 1), (true, 2)] {
                let there_is = owner.sending.len() >= count;
                can(
                    there_is,
                    Act::Record {
                        all,
                        end: End::Delivered,
                    },
                );
                can(
                    there_is && budget.follows > 0,
                    Act::Record {
                        all,
                        end: End::Dead,
                    },
                );
                can(
                    there_is && budget.in_place > 0,
                    Act::Record {
                        all,
                        end: End::InPlace,
                    },
                );
            }
            if which == current || !small.leased {
                let lanes = owner.partition.lanes();
                let (queued, behind) = (lanes.queued(), lanes.behind());
                can(
                    queued > 0 || owner.partition.next_due().is_some(),
                    Act::Start,
                );
                can(behind > 0, Act::Scan);
                can(owner.partition.watermark() < end, Act::Live);
            }
            can(
                budget.checkpoints > 0 && owner.checkpoint.is_none(),
                Act::Checkpoint,
            );
            can(!owner.parts.is_empty(), Act::Part);
            can(owner.deletable.is_some(), Act::Delete);
            if budget.crashes > 0 {
                moves.push(Move::Crash(which));
            }
        }
        for (which, late) in world.late.iter().enumerate() {
            let there_is = [
                late.attempts.is_empty(),
                late.follow.is_empty(),
                late.parts.is_empty(),
            ];
            let what = (0..3).filter(|what| !there_is[*what]);
            moves.extend(what.map(|what| Move::Late(which, what as u8)));
        }
        if budget.looks > 0 {
            moves.push(Move::Look);
        }
        moves.extend((0..world.candidates.len()).map(Move::Claim));
        moves
    }

    fn perform(&mut self, what: Move) -> TestCaseResult {
        let Self { world, budget } = self;
        match what {
            Move::Act(which, act) => {
                let mut result = Ok(());
                world.with(which, |owner, world| {
                    match act {
                        Act::Followed => owner.followed(),
                        Act::Follow => owner.follow(world),
                        Act::Ack { told } => {
                            budget.untold -= u8::from(!told);
                            owner.ack(world, told, Health::None);
                        }
                        Act::Store => owner.store(world),
                        Act::Record { all, end } => {
                            let how = match end {
                                End::Delivered => How::Delivered,
                                End::Dead => How::Dead(1),
                                End::InPlace => How::InPlace(0),
                            };
                            budget.follows -= u8::from(end == End::Dead);
                            budget.in_place -= u8::from(end == End::InPlace);
                            owner.end(world, 0, how);
                            while all && !owner.sending.is_empty() {
                                owner.end(world, 0, How::Delivered);
                            }
                            owner.append();
                        }
                        Act::Start => result = owner.start(world, 1),
                        Act::Scan => owner.scan(world, 1)?,
                        Act::Live => owner.live(world)?,
                        Act::Checkpoint => {
                            budget.checkpoints -= 1;
                            // Each a base, so that what is stored can be read by itself.
                            owner.writer = CheckpointWriter::default();
                            owner.checkpoint(world);
                        }
                        Act::Part => owner.part(world),
                        Act::Delete => owner.delete(world),
                    }
                    Ok(())
                });
                result
            }
            Move::Crash(which) => {
                budget.crashes -= 1;
                world.gone(which);
                Ok(())
            }
            Move::Late(which, what) => {
                world.late(which, what);
                Ok(())
            }
            Move::Look => {
                budget.looks = budget.looks.saturating_sub(1);
                world.look()
            }
            Move::Claim(which) => {
                // One that finds what it needs gone has to look again.
                drop(world.claim(which));
                Ok(())
            }
        }
    }

    /// What happens next when nothing bad does: the owner goes on, or somebody takes over. `None`: it has come to rest.
    fn calmly(&mut self, small: &Small) -> Option<Move> {
        let Some(last) = self.world.owners.len().checked_sub(1) else {
            let looked = self.world.candidates.len().checked_sub(1);
            return Some(looked.map_or(Move::Look, Move::Claim));
        };
        let ordinary = |act: Act| !matches!(act, Act::Checkpoint | Act::Part | Act::Delete);
        let moves = self.moves(small);
        let next =
            |m: &Move| matches!(m, Move::Act(which, act) if *which == last && ordinary(*act));
        moves.into_iter().find(next)
    }
}

/// A quick digest: states are many, and nobody chooses them to collide.
#[derive(Default)]
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f;
        self.0 = (mixed >> 64) as u64 ^ mixed as u64 ^ word.rotate_left(32);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a reader that begins at this part of a checkpoint, or at the start of the logs, finds to be sent, with the attempts made.
fn found_from(
    world: &World,
    chunk: Option<&wire::CheckpointChunk>,
) -> Option<BTreeMap<Position, u32>> {
    let mut reader = CheckpointReader::default();
    if let Some(chunk) = chunk {
        reader.read(chunk.clone());
        // One that needs what is deleted is not believed.
        reader
            .best(world.start, world.held_start)
            .filter(|c| c.low >= world.start)?;
    } else if world.start > 0 {
        return None;
    }
    let candidate = Candidate::new(world, reader.best(world.start, world.held_start));
    let mut owner: Owner = candidate.owner(world, u64::MAX, u64::MAX - 1).ok()?;
    let mut plenty = World {
        deliveries: world.deliveries.clone(),
        start: world.start,
        shape: world.shape,
        ..World::default()
    };
    let mut found = BTreeMap::new();
    loop {
        found.extend(owner.startable(world.shape));
        let read = owner.partition.watermark() == plenty.deliveries.len() as u64;
        if read && owner.partition.lanes().behind() == 0 {
            return Some(found);
        }
        owner.live(&mut plenty).ok()?;
        owner.scan(&mut plenty, 9).ok()?;
    }
}

/// Every checkpoint that was ever stored says, together with the log behind its end, what the whole log says.
fn readers_agree(world: &World) -> TestCaseResult {
    let counted = counted(&world.attempts);
    let mut expected = BTreeMap::new();
    for (position, send) in wanted(&world.deliveries) {
        let (finals, in_place) = said_of(&counted, position);
        if finals > 1 {
            return Err(TestCaseError::fail(format!(
                "{position:?} has {finals} finals that count"
            )));
        }
        if finals == 0 {
            let made = in_place.last().map_or(send.attempts, |made| made.attempts);
            expected.insert(position, made);
        }
    }
    let from = world.progress.iter().map(|part| Some(&*part.chunk));
    for chunk in from.chain([None]) {
        if let Some(found) = found_from(world, chunk)
            && found != expected
        {
            return Err(TestCaseError::fail(format!(
                "from {chunk:?} a reader finds {found:?}, and the log says {expected:?}"
            )));
        }
    }
    Ok(())
}

/// How a state was reached.
struct Path(Move, Option<Rc<Path>>);

fn told(mut path: Option<Rc<Path>>) -> Vec<Move> {
    let mut moves = Vec::new();
    while let Some(step) = path {
        moves.push(step.0);
        path = step.1.clone();
    }
    moves.reverse();
    moves
}

/// Explores it all; how many states there are, or how something goes wrong.
fn explore(small: &Small) -> Result<usize, String> {
    let records = small.records.iter().map(|(event, webhooks)| {
        let sends = webhooks.iter().map(|webhook| Send {
            event: *event,
            webhook: *webhook,
            attempts: 0,
        });
        Rc::new(Record {
            source: from_events(0, *event),
            sends: sends.collect(),
        })
    });
    let mut first = State {
        world: World {
            deliveries: records.collect(),
            scarce: small.scarce,
            shape: small.shape,
            ..World::default()
        },
        budget: Budget {
            looks: small.budget.looks + 1,
            ..small.budget
        },
    };
    for step in [Move::Look, Move::Claim(0)] {
        first.perform(step).expect("nothing is there yet");
    }
    let mut seen = HashSet::from([first.digest()]);
    // States from which the way to rest has been walked, and logs that have been read from everywhere.
    let (mut rests, mut agreed) = (HashSet::new(), HashSet::new());
    let mut open = vec![(first, None)];
    while let Some((mut state, path)) = open.pop() {
        let wrong = |error: &TestCaseError, steps: &[Move]| {
            let mut moves = told(path.clone());
            moves.extend(steps);
            format!("{error}\nafter {moves:#?}")
        };
        let mut logs = Digest::default();
        (
            &state.world.attempts,
            &state.world.progress,
            state.world.start,
        )
            .hash(&mut logs);
        if agreed.insert(logs.finish()) {
            readers_agree(&state.world).map_err(|error| wrong(&error, &[]))?;
        }
        let mut calm = state.clone();
        let (mut walked, mut steps) = (Vec::new(), Vec::new());
        while rests.insert(calm.digest()) {
            walked.push(calm.digest());
            let Some(step) = calm.calmly(small) else {
                judge(&calm.world).map_err(|error| wrong(&error, &steps))?;
                walked.clear();
                break;
            };
            steps.push(step);
            calm.perform(step).map_err(|error| wrong(&error, &steps))?;
        }
        if walked.contains(&calm.digest()) {
            return Err(wrong(
                &TestCaseError::fail("it never comes to rest"),
                &steps,
            ));
        }
        for step in state.moves(small) {
            let mut next = state.clone();
            next.perform(step).map_err(|error| wrong(&error, &[step]))?;
            if seen.insert(next.digest()) {
                open.push((next, Some(Rc::new(Path(step, path.clone())))));
            }
        }
    }
    Ok(seen.len())
}

/// Explores it all, and demands that there was as much to explore as there should be.
fn explore_all(small: &Small, states_min: usize) {
    match explore(small) {
        Ok(states) => assert!(states >= states_min, "only {states} states: {small:?}"),
        Err(wrong) => panic!("{wrong}"),
    }
}

/// Whether something goes wrong, as the one case there is.
pub(super) fn failing_case(small: &Small) -> Option<u32> {
    let failed = std::panic::catch_unwind(|| explore(small).is_err());
    failed.unwrap_or(true).then_some(1)
}

const CRASH: Budget = Budget {
    looks: 1,
    crashes: 1,
    checkpoints: 0,
    in_place: 0,
    follows: 0,
    untold: 0,
};

/// Three sends for two webhooks, in two records.
const THREE: Small = Small {
    records: &[(0, &[1, 2]), (1, &[1])],
    scarce: false,
    leased: true,
    shape: PLAIN,
    budget: CRASH,
};

const PLAIN: Shape = Shape {
    ordered: &[],
    by_key: &[],
    batched: &[],
    wait: Duration::ZERO,
};

/// Two sends of one lane.
const TWO: Small = Small {
    records: &[(0, &[1]), (1, &[1])],
    ..THREE
};

pub(super) const FOLLOWED: Small = Small {
    budget: Budget {
        follows: 1,
        ..CRASH
    },
    ..THREE
};

pub(super) const IN_PLACE: Small = Small {
    budget: Budget {
        in_place: 1,
        ..CRASH
    },
    ..THREE
};

pub(super) const UNTOLD: Small = Small {
    budget: Budget { untold: 2, ..CRASH },
    ..THREE
};

pub(super) const CACHED: Small = Small {
    leased: false,
    budget: Budget {
        crashes: 0,
        checkpoints: 1,
        ..CRASH
    },
    ..THREE
};

pub(super) const CACHED_FOLLOWED: Small = Small {
    budget: Budget {
        checkpoints: 1,
        follows: 1,
        untold: 1,
        ..CRASH
    },
    ..TWO
};

pub(super) const CACHED_IN_PLACE: Small = Small {
    budget: Budget {
        checkpoints: 1,
        in_place: 1,
        ..CRASH
    },
    ..TWO
};

pub(super) const CLAIMED: Small = Small {
    budget: Budget {
        looks: 2,
        crashes: 1,
        ..CRASH
    },
    ..TWO
};

pub(super) const BEHIND: Small = Small {
    records: &[(0, &[1]), (1, &[1]), (0, &[1])],
    scarce: true,
    budget: Budget {
        checkpoints: 1,
        ..CRASH
    },
    ..THREE
};

pub(super) const ORDERED: Small = Small {
    shape: Shape {
        ordered: &[1],
        ..PLAIN
    },
    budget: Budget {
        checkpoints: 1,
        in_place: 1,
        ..CRASH
    },
    ..THREE
};

pub(super) const BATCHED: Small = Small {
    shape: Shape {
        batched: &[1],
        ..PLAIN
    },
    budget: Budget {
        checkpoints: 1,
        in_place: 1,
        ..CRASH
    },
    ..TWO
};

pub(super) const ORDERED_BEHIND: Small = Small {
    records: &[(0, &[1]), (1, &[1]), (0, &[1]), (2, &[1])],
    scarce: true,
    shape: Shape {
        ordered: &[1],
        ..PLAIN
    },
    budget: Budget {
        checkpoints: 1,
        ..CRASH
    },
    ..THREE
};

#[test]
fn an_ordered_lane_a_checkpoint_and_one_that_goes_again() {
    explore_all(&ORDERED, 1_000);
}

#[test]
fn an_ordered_lane_behind_a_repeat_and_a_checkpoint() {
    explore_all(&ORDERED_BEHIND, 1_000);
}

#[test]
fn two_sends_in_batches_a_checkpoint_and_one_that_goes_again() {
    explore_all(&BATCHED, 1_000);
}

#[test]
fn three_sends_and_what_follows_from_one() {
    explore_all(&FOLLOWED, 110_000);
}

#[test]
fn three_sends_and_one_goes_again_in_place() {
    explore_all(&IN_PLACE, 210_000);
}

#[test]
fn three_sends_and_acknowledgements_that_do_not_say_where() {
    explore_all(&UNTOLD, 40_000);
}

#[test]
fn three_sends_a_former_owner_that_goes_on_and_a_checkpoint() {
    explore_all(&CACHED, 720_000);
}

#[test]
fn two_sends_a_checkpoint_and_what_follows() {
    explore_all(&CACHED_FOLLOWED, 560_000);
}

#[test]
fn two_sends_a_checkpoint_and_one_goes_again_in_place() {
    explore_all(&CACHED_IN_PLACE, 510_000);
}

#[test]
fn two_sends_and_two_that_claim_at_once() {
    explore_all(&CLAIMED, 80_000);
}

#[test]
fn a_lane_behind_a_repeat_and_a_checkpoint() {
    explore_all(&BEHIND, 490_000);
}
