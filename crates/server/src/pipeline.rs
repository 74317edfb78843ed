//! The flow: which role reads and writes what. Only wiring.
//!
//! ```text
//! producers ──► events ──► fan-out ──► deliveries ──► dispatch ──► HTTP ──► attempts ──► history
//!                             ▲             ▲           │  ▲ own log ◄──────┘
//!                             │             │           ├──► dead, responses
//!       registry (compacted) ─┴─ live view  ├── tiers ◄─┘ failed: retry.1s … retry.24h
//!                                           └── jobs ◄── dead, events: what is sent again
//! ```

use std::sync::Arc;

use hookline_dispatch::tiers::{Tiers, TiersConfig};
use hookline_dispatch::{Dispatch, DispatchConfig, WayOut};
use hookline_fanout::{Fanout, FanoutConfig};

use crate::api::Api;
use crate::cli::Role;
use crate::engine::{self, System, worker_name};
use crate::history;
use crate::jobs;
use crate::lag::{self, Lag};
use crate::output::Exit;
use crate::process::Process;
use crate::secrets;
use crate::tasks::{Kind, Start};

/// Starts the roles and what they stand on.
///
/// # Errors
/// When a setting is refused.
pub(crate) fn start(process: &mut Process, system: &System, roles: &[Role]) -> Result<(), Exit> {
    // What an old key has sealed is sealed again by whoever follows the registry; this tells how much is left.
    secrets::UnderOldKeys::show(&system.registry, process.metrics.own())
        .map_err(|error| Exit::from_error(&error))?;
    // Every role decides by the registry's live view; without it nothing may go on.
    let registry = system.registry.clone();
    process.tasks.start_once(Kind::Registry, |stop| {
        Box::pin(async move { Ok(registry.run(stop).await?) })
    });
    // Other commands reach an embedded engine only through this process.
    if let Some(engine) = system.opened.embedded.clone() {
        process.tasks.start_once(Kind::Control, |_| {
            Box::pin(async move { Ok(engine.serve_control().await?) })
        });
    }
    // What each group has committed (dispatch: its watermark), against the end of the topics.
    let lag = Lag::new(
        system.journal(),
        lag::reads(system, roles),
        process.metrics.own(),
    )
    .map_err(|error| Exit::from_error(&error))?;
    let store = history::store(&system.config)?;
    let way = engine::way_out(&system.config, &system.clock)?;
    for role in roles {
        match role {
            // events × registry → deliveries: one record for all webhooks of a partition.
            Role::Fanout => process.tasks.start(Kind::Fanout, fanout(process, system)),
            // deliveries → HTTP → attempts, and from there what follows: retry.*, dead, responses.
            Role::Dispatch => process
                .tasks
                .start(Kind::Dispatch, dispatch(process, system, &way)),
            // retry.* → retry.* → deliveries: plain copiers, each topic with one delay.
            Role::Tiers => process.tasks.start(Kind::Tiers, tiers(process, system)),
            // attempts and events → SQL, for people.
            Role::History => {
                let history = history::start(process, system);
                process.tasks.start(Kind::History, history);
            }
            // dead, events → deliveries: what people want to be sent again.
            Role::Jobs => process
                .tasks
                .start(Kind::Jobs, jobs::start(process, system)),
            // Both answer over HTTP: events in, and everything else.
            Role::Ingest | Role::Api => {}
        }
    }
    let api = Api::new(system, roles, way, store);
    process.pages.started(system.journal(), lag, api);
    Ok(())
}

fn fanout(process: &Process, system: &System) -> Start {
    let (system, metrics) = (system.clone(), Arc::clone(&process.metrics));
    Box::new(move |stop| {
        let (system, metrics) = (system.clone(), metrics.stage(Kind::Fanout));
        Box::pin(async move {
            let mut config = FanoutConfig::new(&system.config.journal.prefix, worker_name());
            config.session_timeout = system.config.session_timeout();
            let stage = Fanout::new(
                config,
                system.journal(),
                system.registry,
                system.clock,
                &metrics,
            )?;
            Ok(stage.run(stop).await?)
        })
    })
}

fn tiers(process: &Process, system: &System) -> Start {
    let (system, metrics) = (system.clone(), Arc::clone(&process.metrics));
    Box::new(move |stop| {
        let (system, metrics) = (system.clone(), metrics.stage(Kind::Tiers));
        Box::pin(async move {
            let mut config = TiersConfig::new(&system.config.journal.prefix);
            config.session_timeout = system.config.session_timeout();
            let stage = Tiers::new(
                config,
                system.journal(),
                system.layout,
                system.clock,
                &metrics,
            )?;
            Ok(stage.run(stop).await?)
        })
    })
}

fn dispatch(process: &Process, system: &System, way: &WayOut) -> Start {
    // One for all starts: connections and the guard outlive a restart of the stage.
    let way = way.clone();
    let (system, metrics) = (system.clone(), Arc::clone(&process.metrics));
    Box::new(move |stop| {
        let (system, way) = (system.clone(), way.clone());
        let metrics = metrics.stage(Kind::Dispatch);
        Box::pin(async move {
            let mut config = DispatchConfig::new(&system.config.journal.prefix, &worker_name());
            config.max_in_flight = system.config.outgoing.max_in_flight;
            config.max_per_destination = system.config.outgoing.max_per_destination;
            config.session_timeout = system.config.session_timeout();
            let old_end = system.config.old_end;
            config.old_end_after = old_end.after;
            config.old_end_bytes = old_end.bytes;
            config.max_hold = old_end.max_hold;
            config.resting_bytes = usize::try_from(old_end.resting_bytes).unwrap_or(usize::MAX);
            let stage = Dispatch::new(
                config,
                system.journal(),
                system.registry,
                way,
                system.clock,
                &metrics,
            )?;
            Ok(stage.run(stop).await?)
        })
    })
}
