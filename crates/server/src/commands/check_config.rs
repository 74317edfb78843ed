//! `hookline check-config`: what is in effect, and what is wrong.

use crate::cli::CheckConfigArgs;
use crate::config::{self, Config};
use crate::output::{Exit, complain, say_raw};

/// Prints the effective configuration, or everything that is wrong with it.
///
/// # Errors
/// Everything that is wrong.
pub(crate) fn run(args: &CheckConfigArgs) -> Result<(), Exit> {
    if args.reference {
        return say_raw(&config::reference());
    }
    let config = Config::load(&args.config.config)?;
    for danger in config.dangers() {
        complain(&format!("warning: dangerous setting: {danger}"));
    }
    say_raw(&config.to_toml())
}
