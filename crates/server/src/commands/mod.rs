//! What a person can ask for, one module each.

mod apply;
mod by_hand;
mod check_config;
mod export;
mod get;
mod jobs;
pub(crate) mod keys;
mod preset;
mod publish;
pub(crate) mod serve;
mod tail;
mod topics;

use std::sync::Arc;

use crate::cli::{Cli, Command, ConfigArgs};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::engine::{Access, System};
use crate::logs;
use crate::output::Exit;

/// Does what was asked for.
///
/// # Errors
/// How it ended without success.
pub(crate) async fn run(cli: Cli) -> Result<(), Exit> {
    match cli.command {
        Command::Dev(args) => crate::dev::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Topics(args) => topics::run(args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Preset(args) => preset::run(&args.action),
        Command::Keys(args) => keys::run(args).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Tail(args) => tail::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Redrive(args) => jobs::redrive(args).await,
        Command::Replay(args) => jobs::replay(args).await,
        Command::Retry(args) => by_hand::retry(args).await,
        Command::Cancel(args) => by_hand::cancel(args).await,
        Command::Release(args) => by_hand::release(args).await,
        Command::Skip(args) => by_hand::skip(args).await,
    }
}

/// The configuration of a short command, whose logs are quiet.
fn configure(args: &ConfigArgs) -> Result<Arc<Config>, Exit> {
    let config = Config::load(&args.config)?;
    logs::start_quiet(&config.log);
    Ok(Arc::new(config))
}

/// The system for a short command.
async fn open(args: &ConfigArgs) -> Result<System, Exit> {
    open_with(&configure(args)?).await
}

/// The system of a configuration, likewise.
async fn open_with(config: &Arc<Config>) -> Result<System, Exit> {
    System::open(config, Access::Command, Arc::new(SystemClock)).await
}
