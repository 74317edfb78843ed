//! Source marks, against a list of everything that was ever admitted.

use proptest::prelude::*;

use super::{config, from_events, from_job, from_path, source, uid};
use crate::core::marks::{JobIs, SourceMarks, Stream};
use crate::ids::Position;
use crate::limits::{JOB_MARK_KEPT, PATH_MARK_GRACE};
use crate::time::Millis;
use crate::wire;

const PATHS: [&[u64]; 4] = [&[1000], &[5000], &[5000, 1000], &[86_400_000, 5000]];

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// A send of one of the streams, near here.
    Send {
        stream: u8,
        offset: u64,
        index: u32,
        webhook: u128,
    },
    /// Time passes, as part of the longest wait.
    Wait(u8),
    /// A job comes to its end, or is forgotten by the registry. It may still speak: its runner may not know.
    Ends { job: u8, gone: bool },
    /// A checkpoint: streams that can no longer speak are forgotten, the rest is stored and loaded.
    Reload,
}

pub(super) fn operations() -> impl Strategy<Value = Vec<Op>> {
    let send = (0_u8..10, 0_u64..6, 0_u32..3, 1_u128..5);
    let op = prop_oneof![
        12 => send.prop_map(|(stream, offset, index, webhook)| Op::Send { stream, offset, index, webhook }),
        1 => any::<u8>().prop_map(Op::Wait),
        1 => (0_u8..2, any::<bool>()).prop_map(|(job, gone)| Op::Ends { job, gone }),
        1 => Just(Op::Reload),
    ];
    proptest::collection::vec(op, 0..60)
}

/// One send that was admitted: its stream, its place in it, and when it came.
struct Seen {
    stream: u8,
    at: (u64, u128),
    time: i64,
}

/// The first of the streams of jobs, and the jobs.
const FIRST_JOB: u8 = 7;
const JOBS: [&str; 2] = ["a", "b"];

/// Whether a stream that last spoke then is forgotten.
fn is_forgotten(stream: u8, spoke: i64, jobs: [JobIs; 2], now: i64) -> bool {
    let (since, kept) = match stream {
        0..4 => {
            let path: u64 = PATHS[usize::from(stream)].iter().sum();
            (spoke, path as i64 + PATH_MARK_GRACE.as_millis() as i64)
        }
        FIRST_JOB | 8 => match jobs[usize::from(stream - FIRST_JOB)] {
            JobIs::Open => return false,
            JobIs::Over(at) => (at.0, JOB_MARK_KEPT.as_millis() as i64),
            JobIs::Gone => (spoke, JOB_MARK_KEPT.as_millis() as i64),
        },
        _ => return false,
    };
    now - since > kept
}

pub(super) fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut marks = SourceMarks::default();
    let mut seen: Vec<Seen> = Vec::new();
    let mut now = 0_i64;
    let mut jobs = [JobIs::Open; 2];
    for op in ops {
        match op {
            Op::Send {
                stream,
                offset,
                index,
                webhook,
            } => {
                let (from, at) = match stream {
                    0..4 => {
                        let path = PATHS[usize::from(stream)];
                        (
                            from_path(path, Position { offset, index }),
                            (offset, u128::from(index)),
                        )
                    }
                    4 | 5 => (from_events(u32::from(stream), offset), (offset, webhook)),
                    6 => {
                        // The topic was made anew: what it says is new.
                        let anew = wire::FromEvents {
                            partition: 4,
                            offset,
                            generation: 1,
                        };
                        (
                            source(wire::source::Stream::Events(anew)),
                            (offset, webhook),
                        )
                    }
                    7 | 8 => (
                        from_job(JOBS[usize::from(stream - FIRST_JOB)], offset),
                        (offset, webhook),
                    ),
                    _ => {
                        let command = wire::FromCommand {
                            offset,
                            generation: 0,
                        };
                        (source(wire::source::Stream::Command(command)), (offset, 0))
                    }
                };
                let new = seen.iter().all(|s| s.stream != stream || s.at < at);
                let (from, place) = Stream::of(&from, uid(webhook)).expect("a stream");
                prop_assert_eq!(marks.admit(from, place, Millis(now)), new, "{:?}", op);
                if new {
                    seen.push(Seen {
                        stream,
                        at,
                        time: now,
                    });
                }
            }
            Op::Wait(part) => now += i64::from(part) * PATH_MARK_GRACE.as_millis() as i64 / 200,
            Op::Ends { job, gone } => {
                let job = &mut jobs[usize::from(job)];
                *job = match *job {
                    JobIs::Open if gone => JobIs::Gone,
                    JobIs::Open => JobIs::Over(Millis(now)),
                    JobIs::Over(_) | JobIs::Gone => JobIs::Gone,
                };
            }
            Op::Reload => {
                marks.forget(Millis(now));
                marks.forget_jobs(Millis(now), |name| jobs[usize::from(name != JOBS[0])]);
                let spoke = |stream| {
                    seen.iter()
                        .filter(|s| s.stream == stream)
                        .map(|s| s.time)
                        .max()
                };
                let silent: Vec<u8> = (0..10)
                    .filter(|stream| {
                        spoke(*stream).is_some_and(|at| is_forgotten(*stream, at, jobs, now))
                    })
                    .collect();
                seen.retain(|s| !silent.contains(&s.stream));
                let mut loaded = SourceMarks::default();
                for mark in marks.to_wire() {
                    prop_assert!(loaded.load(&mark));
                }
                prop_assert_eq!(&loaded, &marks);
                marks = loaded;
            }
        }
        let streams: std::collections::BTreeSet<u8> = seen.iter().map(|s| s.stream).collect();
        prop_assert_eq!(marks.len(), streams.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_send_is_new_when_its_stream_has_not_come_so_far(ops in operations()) {
        run(ops)?;
    }
}
