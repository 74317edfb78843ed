//! `hookline serve`: roles until told to stop.

use std::sync::Arc;

use crate::cli::{Role, ServeArgs};
use crate::config::Config;
use crate::engine::worker_name;
use crate::output::{Exit, say};
use crate::process::Process;
use crate::{logs, pipeline};

/// Runs the roles.
///
/// # Errors
/// When it cannot start, or something failed that nothing works without.
pub(crate) async fn run(mut args: ServeArgs) -> Result<(), Exit> {
    args.roles.sort_unstable();
    args.roles.dedup();
    let config = Arc::new(Config::load(&args.config.config)?);
    logs::start(&config.log);
    announce(&config, &args.roles);
    let mut process = Process::begin(&config).await?;
    if say(format_args!("listening on http://{}", process.address)).is_err() {
        tracing::debug!("nobody reads the standard output");
    }
    match process.open(&config).await {
        Ok(Some(system)) => {
            pipeline::start(&mut process, &system, &args.roles)?;
            tracing::info!(http = %process.address, "ready");
            process.finish().await
        }
        Ok(None) => {
            process.stop().await;
            Ok(())
        }
        Err(exit) => {
            process.stop().await;
            Err(exit)
        }
    }
}

/// What the log says at every start.
pub(crate) fn announce(config: &Config, roles: &[Role]) {
    let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        engine = %config.journal.engine,
        prefix = config.journal.prefix,
        roles = names.join(","),
        worker = worker_name(),
        "hookline starts"
    );
    for danger in config.dangers() {
        tracing::warn!("dangerous setting: {danger}");
    }
}
