//! Retries through the tiers: owners that write again what their predecessors may have written, former owners whose appends come late, copiers that
//! repeat. The partition compares each ticket with the highest of its path; the reference remembers every ticket it has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::tiers::{Tiers, Waiting};
use super::{config, from_path, uid};
use crate::core::marks::{SourceMarks, Stream};
use crate::ids::Position;
use crate::path::{self, Plan, TierPath};
use crate::time::Millis;

/// Delays whose paths share tiers in many ways.
const DELAYS_S: [u64; 8] = [1, 5, 6, 7, 10, 30, 36, 86_401];
const TIERS_MS: [u64; 4] = [1_000, 5_000, 30_000, 86_400_000];

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// An attempt is recorded, in a new record or the last one, and goes to a path.
    Fail {
        delay: u8,
        bundled: bool,
    },
    /// An owner's next retry is stored: the owner's, or (late) its predecessor's.
    Write {
        former: bool,
    },
    /// A new owner writes again from so many before the first that may be missing.
    TakeOver {
        back: u8,
    },
    Copy {
        tier: u8,
        copier: bool,
    },
    Restart {
        tier: u8,
        copier: bool,
        back: u8,
    },
    /// The partition reads on.
    Read(u8),
    Checkpoint,
    /// And begins anew from its last checkpoint.
    Crash,
}

pub(super) fn operations() -> impl Strategy<Value = Vec<Op>> {
    let tier = 0..TIERS_MS.len() as u8;
    let op = prop_oneof![
        6 => (any::<u8>(), any::<bool>()).prop_map(|(delay, bundled)| Op::Fail { delay, bundled }),
        8 => prop_oneof![3 => Just(false), 1 => Just(true)].prop_map(|former| Op::Write { former }),
        1 => (0_u8..3).prop_map(|back| Op::TakeOver { back }),
        12 => (tier.clone(), any::<bool>()).prop_map(|(tier, copier)| Op::Copy { tier, copier }),
        2 => (tier, any::<bool>(), 0_u8..5).prop_map(|(tier, copier, back)| Op::Restart { tier, copier, back }),
        3 => (1_u8..4).prop_map(Op::Read),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
    ];
    proptest::collection::vec(op, 0..100)
}

#[derive(Default)]
struct World {
    /// What was recorded, in order: the ticket and where it goes.
    recorded: Vec<(Position, Vec<u64>)>,
    /// Up to which of these the owner and its predecessor have written; the predecessor knows only so many.
    written: usize,
    former: (usize, usize),
    /// Written by anybody, from the first on without a gap.
    safe: usize,
    tiers: Tiers<()>,
    deliveries: Vec<Waiting<()>>,
    marks: SourceMarks,
    read: usize,
    stored: (usize, SourceMarks),
    /// Tickets admitted, by where they stand.
    admitted: BTreeMap<usize, Position>,
}

impl World {
    fn write(&mut self, which: usize) {
        let (ticket, path) = self.recorded[which].clone();
        self.tiers.append(Waiting {
            path,
            hop: 0,
            ticket,
            what: (),
        });
        self.safe = self.safe.max(which + 1);
    }

    fn copy(&mut self, tier: u64, copier: bool) {
        self.deliveries.extend(self.tiers.copy(tier, copier));
    }

    fn read(&mut self) -> Result<(), TestCaseError> {
        let Some(record) = self.deliveries.get(self.read) else {
            return Ok(());
        };
        let source = from_path(&record.path, record.ticket);
        let (stream, at) = Stream::of(&source, uid(1)).expect("a stream");
        let admitted = self.marks.admit(stream, at, Millis(0));
        let new = self.deliveries[..self.read]
            .iter()
            .all(|before| before.ticket != record.ticket);
        prop_assert_eq!(admitted, new, "{:?}", record);
        if admitted {
            self.admitted.insert(self.read, record.ticket);
        }
        self.read += 1;
        Ok(())
    }
}

pub(super) fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut world = World::default();
    let mut next = Position::at(0);
    for op in ops {
        match op {
            Op::Fail { delay, bundled } => {
                next = if bundled {
                    Position {
                        index: next.index + 1,
                        ..next
                    }
                } else {
                    Position::at(next.offset + 1)
                };
                let delay = Duration::from_secs(DELAYS_S[usize::from(delay) % DELAYS_S.len()]);
                let Plan::Tiers(path) = path::plan(delay) else {
                    return Err(TestCaseError::fail("it waits in place"));
                };
                let wire = path.to_wire();
                prop_assert_eq!(TierPath::from_wire(&wire), Some(path));
                prop_assert!(Duration::from_millis(wire.iter().sum()) >= delay);
                world.recorded.push((next, wire));
            }
            Op::Write { former: false } if world.written < world.recorded.len() => {
                world.write(world.written);
                world.written += 1;
            }
            Op::Write { former: true } if world.former.0 < world.former.1 => {
                world.write(world.former.0);
                world.former.0 += 1;
            }
            Op::Write { .. } => {}
            Op::TakeOver { back } => {
                world.former = (world.written, world.recorded.len());
                world.written = world.safe.saturating_sub(usize::from(back));
            }
            Op::Copy { tier, copier } => world.copy(TIERS_MS[usize::from(tier)], copier),
            Op::Restart { tier, copier, back } => {
                world
                    .tiers
                    .restart(TIERS_MS[usize::from(tier)], copier, usize::from(back));
            }
            Op::Read(count) => {
                for _ in 0..count {
                    world.read()?;
                }
            }
            Op::Checkpoint => world.stored = (world.read, world.marks.clone()),
            Op::Crash => (world.read, world.marks) = world.stored.clone(),
        }
    }
    while world.written < world.recorded.len() {
        world.write(world.written);
        world.written += 1;
    }
    while let Some(tier) = world.tiers.waiting() {
        world.copy(tier, false);
    }
    while world.read < world.deliveries.len() {
        world.read()?;
    }
    let came: BTreeSet<Position> = world.admitted.values().copied().collect();
    let recorded: BTreeSet<Position> = world.recorded.iter().map(|(ticket, _)| *ticket).collect();
    prop_assert_eq!(&came, &recorded, "every retry comes back");
    prop_assert_eq!(world.admitted.len(), recorded.len(), "once");
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_retry_comes_back_once_whoever_repeats_it(ops in operations()) {
        run(ops)?;
    }
}
