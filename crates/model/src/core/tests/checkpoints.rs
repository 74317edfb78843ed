//! Which cached state to believe, against a list of everything that was written and what became of each chunk.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::{config, from_events, uid};
use crate::core::checkpoint::{Checkpoint, CheckpointReader, CheckpointWriter, Single};
use crate::core::lane::{LaneKey, LaneKind};
use crate::core::marks::Stream;
use crate::ids::{DeliveryId, Position};
use crate::time::Millis;
use crate::wire;

/// What becomes of a chunk on its way into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    Twice,
    Lost,
    /// It holds something that this build does not know.
    Strange,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// The writer's state goes on: what changes, and how much.
    Change(usize, u8, u8),
    /// It writes a checkpoint.
    Write(usize),
    /// So many of its chunks reach the log.
    Store(usize, u8, Fate),
    /// It dies; its next checkpoint is a base.
    Die(usize),
    /// Somebody reads the log, where records below this have been deleted.
    Read(u64),
}

pub(super) fn operations() -> impl Strategy<Value = Vec<Op>> {
    let who = 0_usize..3;
    let fate = prop_oneof![
        12 => Just(Fate::Stored),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Strange),
    ];
    let op = prop_oneof![
        6 => (who.clone(), any::<u8>(), any::<u8>()).prop_map(|(who, what, n)| Op::Change(who, what, n)),
        5 => who.clone().prop_map(Op::Write),
        8 => (who.clone(), 1_u8..4, fate).prop_map(|(who, n, fate)| Op::Store(who, n, fate)),
        1 => who.prop_map(Op::Die),
        2 => (0_u64..30).prop_map(Op::Read),
    ];
    proptest::collection::vec(op, 0..60)
}

/// One checkpoint that was written: the reference keeps all of them, whole.
struct Written {
    state: Checkpoint,
    /// The one before it in its chain.
    on: Option<usize>,
    chunks: u32,
    /// Which of its chunks are in the log, undamaged, and where the last one came.
    stored: BTreeSet<u32>,
    strange: bool,
    last: usize,
}

#[derive(Default)]
struct Author {
    state: Checkpoint,
    writer: CheckpointWriter,
    last: Option<usize>,
    /// Chunks on their way: of which checkpoint, and which one.
    under_way: VecDeque<(usize, wire::CheckpointChunk)>,
}

/// Whether a checkpoint can be read: all of it is there, and so is what it builds on.
fn readable(all: &[Written], at: usize) -> bool {
    let one = &all[at];
    let whole = !one.strange && one.stored.len() == one.chunks as usize;
    whole && one.on.is_none_or(|on| readable(all, on))
}

/// The reference: of what can be read and needs nothing that is gone the highest end; of equal ones what came last.
fn best(all: &[Written], start: u64) -> Option<&Checkpoint> {
    let readable = (0..all.len())
        .filter(|at| readable(all, *at))
        .map(|at| &all[at]);
    let mut best: Option<&Written> = None;
    for one in readable {
        let rank = |w: &Written| {
            (
                w.state.low >= start,
                w.state.attempts_end,
                w.state.epoch,
                w.last,
            )
        };
        if best.is_none_or(|best| rank(one) > rank(best)) {
            best = Some(one);
        }
    }
    best.map(|one| &one.state)
}

fn change(state: &mut Checkpoint, what: u8, n: u8) {
    let position = Position {
        offset: u64::from(n % 8),
        index: u32::from(n / 8 % 2),
    };
    let lane = LaneKey {
        webhook: uid(u128::from(n % 5)),
        kind: LaneKind::from_number(u32::from(n) % 3).expect("one of three"),
    };
    let single = Single {
        attempts: u32::from(what),
        due: Millis(i64::from(n)),
        first_try: Millis(i64::from(what)),
        batch: n % 2 == 1,
        others: (0..u64::from(n % 4)).map(|n| Position::at(9 + n)).collect(),
        held: n % 3 == 1,
        others_made: (u32::from(n), Millis(i64::from(what))),
    };
    match what % 10 {
        0 => state.attempts_end += u64::from(n % 4),
        1 => {
            state.watermark += u64::from(n % 4);
            state.low += u64::from(n % 3);
        }
        2 => drop(state.singles.insert(position, single)),
        3 => drop(state.singles.remove(&position)),
        4 => drop(state.lanes.insert(lane, position)),
        5 => drop(state.lanes.remove(&lane)),
        6 => drop(state.skips.insert(position, Position::at(u64::from(what)))),
        7 => {
            let run = (DeliveryId([n % 4; 16]), u64::from(n % 3));
            state.ended.insert(run, Millis(i64::from(what)));
        }
        8 => {
            state.commands += u64::from(n % 3);
            state.ended.pop_first();
        }
        _ => {
            let source = from_events(u32::from(n % 4), u64::from(what));
            let (stream, at) = Stream::of(&source, uid(u128::from(n))).expect("a stream");
            state.marks.admit(stream, at, Millis(i64::from(what)));
            state.skips.pop_first();
        }
    }
}

pub(super) fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut authors: [Author; 3] = Default::default();
    let mut written: Vec<Written> = Vec::new();
    let mut log: Vec<wire::CheckpointChunk> = Vec::new();
    for (epoch, author) in (1..).zip(&mut authors) {
        author.state.epoch = epoch;
    }
    for op in ops.into_iter().chain([Op::Read(0), Op::Read(8)]) {
        match op {
            Op::Change(who, what, n) => change(&mut authors[who].state, what, n),
            Op::Write(who) => {
                let author = &mut authors[who];
                let fresh = (written.len() as u128 + 1).to_be_bytes();
                let chunks = author.writer.write(&author.state, fresh);
                let at = written.len();
                written.push(Written {
                    state: author.state.clone(),
                    on: author.last.filter(|_| !chunks.base),
                    chunks: chunks.chunks.len() as u32,
                    stored: BTreeSet::new(),
                    strange: false,
                    last: 0,
                });
                author.last = Some(at);
                author
                    .under_way
                    .extend(chunks.chunks.into_iter().map(|chunk| (at, chunk)));
            }
            Op::Store(who, count, fate) => {
                for _ in 0..count {
                    let Some((at, mut chunk)) = authors[who].under_way.pop_front() else {
                        break;
                    };
                    if fate == Fate::Lost {
                        continue;
                    }
                    let one = &mut written[at];
                    one.stored.insert(chunk.index);
                    one.last = log.len();
                    if fate == Fate::Strange {
                        one.strange = true;
                        chunk.entries.push(wire::CheckpointEntry { entry: None });
                    }
                    if fate == Fate::Twice {
                        log.push(chunk.clone());
                    }
                    log.push(chunk);
                }
            }
            Op::Die(who) => {
                let Author { state, .. } = std::mem::take(&mut authors[who]);
                authors[who].state = state;
            }
            Op::Read(start) => {
                let mut reader = CheckpointReader::default();
                log.iter().cloned().for_each(|chunk| reader.read(chunk));
                let got = reader.best(start, 0);
                prop_assert_eq!(got.as_ref(), best(&written, start));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_complete_one_with_the_highest_end_is_believed(ops in operations()) {
        run(ops)?;
    }
}
