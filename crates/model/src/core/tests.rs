//! The core against naive models of itself: each machine is driven with random operations beside one that keeps everything in vectors and searches
//! them from the beginning; small worlds are explored exhaustively; and faults put in on purpose must be found.

mod checkpoints;
mod claims;
mod exhaustive;
mod lanes;
mod marks;
mod mutations;
mod owner;
mod partition;
mod tickets;
mod tiers;
mod world;

use std::cell::Cell;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRng, TestRunner};

use crate::ids::{Position, WebhookUid};
use crate::wire;

/// Random sequences that every property holds for.
const CASES: u32 = 100_000;

fn uid(n: u128) -> WebhookUid {
    WebhookUid(uuid::Uuid::from_u128(n))
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        ..ProptestConfig::default()
    }
}

fn from_events(partition: u32, offset: u64) -> wire::Source {
    source(wire::source::Stream::Events(wire::FromEvents {
        partition,
        offset,
        generation: 0,
    }))
}

fn from_path(path_ms: &[u64], ticket: Position) -> wire::Source {
    source(wire::source::Stream::Retry(wire::FromRetry {
        path_ms: path_ms.to_vec(),
        ticket: Some(ticket.into()),
    }))
}

fn from_job(job: &str, offset: u64) -> wire::Source {
    source(wire::source::Stream::Job(wire::FromJob {
        job: job.to_owned(),
        partition: 0,
        offset,
    }))
}

fn source(stream: wire::source::Stream) -> wire::Source {
    wire::Source {
        stream: Some(stream),
    }
}

/// In which of that many cases, which are the same each time, the property fails first.
fn failing_case<S>(
    cases: u32,
    strategy: S,
    test: impl Fn(S::Value) -> TestCaseResult,
) -> Option<u32>
where
    S: Strategy,
    S::Value: Debug,
{
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let begun = Cell::new(0);
    let result = TestRunner::new_with_rng(config, rng).run(&strategy, |case| {
        begun.set(begun.get() + 1);
        test(case)
    });
    result.is_err().then(|| begun.get())
}
