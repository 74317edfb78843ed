//! The program: every role in one binary, and the commands around them.
//!
//! Reading order: [`pipeline`] is the flow, [`tasks`] what runs and how it stops, [`config`] what can be set, [`commands`] what a person
//! can ask for. Everything else serves these.
//!
//! Invariants stated as absences: no process-wide state (all goes through constructors), no task outside [`tasks`], no output outside
//! [`output`], no system clock outside [`clock`].

mod api;
mod attempt_filter;
mod by_hand;
mod checks;
mod cli;
mod clock;
mod commands;
mod config;
mod dev;
mod endpoints;
mod engine;
mod history;
mod http;
mod jobs;
mod lag;
mod logs;
mod metrics;
mod output;
mod pipeline;
mod process;
mod receiver;
mod secrets;
mod shown;
mod signals;
mod tasks;
mod topology;

use std::process::ExitCode;

use clap::Parser as _;

/// Every delivery is many small allocations made on one thread and freed on another, which the system's allocator pays dearly for, in time and
/// in memory. This one serves the libraries in C as well (librdkafka, SQLite), for which the system's held up to three quarters more than they
/// had asked for. How soon it gives memory back is set where it is built, in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = fail::FailScenario::setup();
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Questions to the broker that block; each is short, and threads cost memory.
        .max_blocking_threads(24)
        .thread_name("hookline")
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return output::Exit::failed(format!("the runtime did not start: {error}")).report();
        }
    };
    let done = runtime.block_on(Box::pin(commands::run(cli)));
    // Threads of a client library that still wait for a broker must not hold up the end of the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
