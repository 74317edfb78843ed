//! Logs: `tracing` to standard error, as text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging to standard error.
pub(crate) fn start(config: &LogConfig) {
    start_to(
        config,
        BoxMakeWriter::new(std::io::stderr),
        std::io::stderr().is_terminal(),
    );
}

/// What the storage engine and the Kafka client tell of their inner life is for those who ask for it by name.
const LIBRARIES: &str = "fjall=warn,lsm_tree=warn";

/// Logs of a short command: only warnings and errors, so that they do not drown its output. What the configuration says explicitly wins.
pub(crate) fn start_quiet(config: &LogConfig) {
    let mut config = config.clone();
    if config.level == crate::config::LOG_LEVEL_DEFAULT {
        // A broker that does not answer is the command's own error; the client's running commentary would only hide it.
        config.level = "warn,librdkafka=error,hookline_journal::kafka=error".into();
    }
    start(&config);
}

/// Starts logging to `writer`. A second call changes nothing.
pub(crate) fn start_to(config: &LogConfig, writer: BoxMakeWriter, colours: bool) {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", config.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours);
    let started = match config.format {
        LogFormat::Text => base.try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started already");
    }
}
