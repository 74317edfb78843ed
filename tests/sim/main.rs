//! The whole core in one thread: fan-out, dispatch, tiers and the registry of several processes, over a journal that provokes everything that the rest must
//! survive, with scripted receivers and a clock that stands still while anybody works. All of a run is drawn from its seed, and a seed gives the same run again,
//! byte for byte.
//!
//! `make simulate SEEDS=5000` runs more of them; `SEED=17` runs one, and `TRACE=1` shows what happened in it.
#![expect(
    clippy::disallowed_methods,
    reason = "tests: a task that a process of the simulation starts ends with the process's runtime"
)]

mod admin;
mod book;
mod breaches;
mod by_hand;
mod clock;
mod groups;
mod hooks;
mod journal;
mod judge;
mod lies;
mod plan;
mod process;
mod receivers;
mod run;
mod trace;
mod world;

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use judge::{Figures, judge};
use lies::Lie;
use parking_lot::Mutex;
use plan::Plan;
use run::Ended;
use world::World;

thread_local! {
    /// Panics on this thread. The stages survive one of a worker, but there should be none.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
        })
}

/// Runs a seed.
fn ended(seed: u64, lie: Option<Lie>) -> Result<Ended, String> {
    count_panics();
    PANICS.set(0);
    let world = Arc::new(Mutex::new(World::new(seed)));
    world.lock().trace.at_length = number("TRACE").is_some();
    world.lock().lie = lie;
    let ended = panic::catch_unwind(AssertUnwindSafe(|| run::run(seed, world.clone())));
    if number("TRACE").is_some() {
        show(world.lock().trace.text());
    }
    let ended = ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default()
    })?;
    if PANICS.get() > 0 {
        return Err(format!("{} panics", PANICS.get()));
    }
    Ok(ended)
}

/// Runs a seed and judges it.
fn outcome(seed: u64) -> Result<(Figures, String), String> {
    let ended = ended(seed, None)?;
    let figures = judge(&ended)?;
    let text = ended.world.lock().trace.text().to_owned();
    Ok((figures, text))
}

#[expect(
    clippy::print_stdout,
    reason = "asked for by whoever looks into a seed"
)]
fn show(text: &str) {
    println!("{text}");
}

#[test]
fn every_seed_keeps_the_promises() {
    if number("TRACE").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter("hookline=debug")
            .without_time()
            .with_writer(std::io::stdout)
            .init();
    }
    let (from, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SEEDS").unwrap_or(1_000)),
    };
    let next = AtomicU64::new(from);
    let sum = Mutex::new(Figures::default());
    let broken: Mutex<Vec<(u64, String)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || broken.lock().len() > 20 {
                        return;
                    }
                    match outcome(seed) {
                        Ok((figures, _)) => sum.lock().add(&figures),
                        Err(reason) => broken.lock().push((seed, reason)),
                    }
                }
            });
        }
    });
    let mut broken = broken.into_inner();
    broken.sort();
    let told: Vec<_> = broken
        .iter()
        .map(|(seed, reason)| format!("seed {seed} ({:?}): {reason}", Plan::of(*seed).mix))
        .collect();
    assert!(
        told.is_empty(),
        "broken by {} seeds; `make simulate SEED=…` runs one again:\n{}",
        told.len(),
        told.join("\n")
    );
    let sum = sum.into_inner();
    show(&format!("{count} seeds: {sum:?}"));
    if count >= 1_000 {
        // A simulation in which nothing happened would prove nothing.
        assert!(
            sum.requests > 50 * count && sum.faults > count && sum.lives > 3 * count,
            "{sum:?}"
        );
        assert!(
            sum.repeats > count / 4 && sum.strays > count / 40 && sum.dropped > count / 10,
            "{sum:?}"
        );
        assert!(
            sum.cancelled > count / 10 && sum.dead > count && sum.claims > 3 * count,
            "{sum:?}"
        );
        assert!(
            sum.ordered > 20 * count && sum.batches > 5 * count && sum.batches_again > count,
            "{sum:?}"
        );
        assert!(
            sum.moved > count && sum.copies > 20 * count && sum.deleted > count,
            "{sum:?}"
        );
        assert!(
            sum.held > count / 4
                && sum.commands > count / 2
                && sum.split > count / 10
                && sum.expired > count,
            "{sum:?}"
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_byte_for_byte() {
    if let Some(why) = process::NOT_SEEDABLE {
        panic!("{why}");
    }
    for seed in 0..24 {
        let (first, second) = (outcome(seed).unwrap(), outcome(seed).unwrap());
        assert_eq!(first.0, second.0, "seed {seed}");
        let differ = first.1.lines().zip(second.1.lines()).find(|(a, b)| a != b);
        assert!(
            first.1 == second.1,
            "seed {seed} went differently: {differ:?}"
        );
        assert!(
            first.1.lines().count() > 100,
            "seed {seed}: something happened"
        );
    }
    assert_ne!(
        outcome(0).unwrap().1,
        outcome(8).unwrap().1,
        "another seed is another run"
    );
}
