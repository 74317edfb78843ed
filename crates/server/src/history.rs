//! The role `history`, on a thread of its own that gives way to all others: delivery never waits for it, not for a processor either. It shares
//! the store with the API by its URL, not by connections, which belong to the thread that made them.

use std::sync::Arc;

use hookline_history::{History, HistoryConfig, Store};

use crate::config::Config;
use crate::engine::{System, worker_name};
use crate::output::Exit;
use crate::process::Process;
use crate::tasks::{Kind, Start, TaskError};

/// The SQL store of the configuration. It need not answer yet.
///
/// # Errors
/// When its URL is none.
pub(crate) fn store(config: &Config) -> Result<Arc<Store>, Exit> {
    let store = Store::new(&config.history.url).map_err(|error| Exit::usage(error.to_string()))?;
    Ok(Arc::new(store))
}

/// How far its thread stands back: where the processors are busy it gets about a tenth of what another thread does, and catches up later.
const NICE: i32 = 10;

/// attempts and events → store.
pub(crate) fn start(process: &Process, system: &System) -> Start {
    let system = system.clone();
    let metrics = Arc::clone(&process.metrics);
    Box::new(move |stop| {
        let system = system.clone();
        let metrics = metrics.stage(Kind::History);
        Box::pin(async move {
            let config = HistoryConfig {
                prefix: system.config.journal.prefix.clone(),
                worker: worker_name(),
                retention: system.config.history.retention,
            };
            let store = Store::filled(&system.config.history.url)?;
            let journal = system.journal();
            let (store, snapshots) = (Arc::new(store), system.registry.changes());
            let stage = History::new(config, journal, store, snapshots, system.clock, &metrics)?;
            standing_back(stage.run(stop)).await
        })
    })
}

/// Runs `work` on a thread, with those that it starts, behind everybody else.
async fn standing_back(work: impl Future<Output = ()> + Send + 'static) -> Result<(), TaskError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new().name("history".into());
    thread.spawn(move || {
        // Of this thread alone, and of the threads that the store's driver starts from it. Without it things still work.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "the history's thread cannot stand back");
        }
        runtime.block_on(work);
        // Nobody waits any more where the supervisor has given up.
        tell.send(()).ok();
    })?;
    told.await
        .map_err(|_| "the history's thread has ended".into())
}
