//! The role `history`, and the store that it shares with the API.

use std::sync::Arc;

use hookline_history::{History, HistoryConfig, Store};

use crate::config::Config;
use crate::engine::{System, worker_name};
use crate::output::Exit;
use crate::process::Process;
use crate::tasks::{Kind, Start};

/// The SQL store of the configuration. It need not answer yet.
///
/// # Errors
/// When its URL is none.
pub(crate) fn store(config: &Config) -> Result<Arc<Store>, Exit> {
    let store = Store::new(&config.history.url).map_err(|error| Exit::usage(error.to_string()))?;
    Ok(Arc::new(store))
}

/// attempts → store.
pub(crate) fn start(process: &Process, system: &System, store: &Arc<Store>) -> Start {
    let (system, store) = (system.clone(), Arc::clone(store));
    let metrics = Arc::clone(&process.metrics);
    Box::new(move |stop| {
        let (system, store) = (system.clone(), Arc::clone(&store));
        let metrics = metrics.stage(Kind::History);
        Box::pin(async move {
            let config = HistoryConfig {
                prefix: system.config.journal.prefix.clone(),
                worker: worker_name(),
                retention: system.config.history.retention,
            };
            let stage = History::new(config, system.journal(), store, system.clock, &metrics)?;
            stage.run(stop).await;
            Ok(())
        })
    })
}
