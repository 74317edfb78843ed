//! The configuration: one TOML file, every key with an environment twin that wins, unknown keys refused, all errors at once.
//!
//! [`keys`] is the one list of what can be set; reading, checking, `check-config` and the reference page all follow it.

pub(crate) mod keys;
mod load;
mod read;
mod render;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookline_dispatch::client::EgressProxy;
use ipnet::IpNet;

pub(crate) use keys::LOG_LEVEL_DEFAULT;
pub(crate) use render::reference;

use crate::secrets::Missing;

/// One thing that is wrong, with the key (or variable) it concerns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub(crate) struct ConfigError {
    /// The key, the environment variable or the file.
    pub(crate) key: String,
    /// What is wrong and what would be right.
    pub(crate) problem: String,
}

impl ConfigError {
    /// An error about `key`.
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl From<ConfigErrors> for crate::output::Exit {
    fn from(errors: ConfigErrors) -> Self {
        Self::Usage(errors.0.iter().map(ToString::to_string).collect())
    }
}

/// Where topics live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Kafka or Redpanda.
    Kafka,
    /// In the same process, on disk.
    Embedded,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "kafka",
            Self::Embedded => "embedded",
        })
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// What is logged, in the words of the filter (`info`, `warn,hookline_dispatch=debug`).
    pub(crate) level: String,
    /// How lines look.
    pub(crate) format: LogFormat,
}

/// `[journal]` and what lies below it.
#[derive(Debug, Clone)]
pub(crate) struct JournalConfig {
    /// Where topics live.
    pub(crate) engine: Engine,
    /// What topic and group names begin with.
    pub(crate) prefix: String,
    /// Partitions of topics that are made.
    pub(crate) partitions: u32,
    /// Copies of topics that are made.
    pub(crate) replication: u16,
    /// Properties of the Kafka client.
    pub(crate) kafka: BTreeMap<String, String>,
    /// Directory of the embedded engine.
    pub(crate) embedded_dir: PathBuf,
}

/// `[outgoing]`.
#[derive(Debug, Clone)]
pub(crate) struct OutgoingConfig {
    /// Whether plain HTTP endpoints are allowed.
    pub(crate) allow_http: bool,
    /// Networks exempt from the address guard.
    pub(crate) allow_addresses: Vec<IpNet>,
    /// Requests at the same time, per worker.
    pub(crate) max_in_flight: usize,
    /// As many of these lead to one destination.
    pub(crate) max_per_destination: usize,
    /// The host name that handshakes ask for.
    pub(crate) origin: String,
    /// Certificate authorities trusted beside the public ones (PEM).
    pub(crate) ca_file: Option<PathBuf>,
    /// Whether HTTP/2 is spoken where servers offer it.
    pub(crate) http2: bool,
    /// The proxy that requests go through.
    pub(crate) proxy: Option<EgressProxy>,
}

/// `[history]`.
#[derive(Clone)]
pub(crate) struct HistoryConfig {
    /// Where the SQL store is. It may hold a password.
    pub(crate) url: String,
    /// How long attempts are kept there.
    pub(crate) retention: Duration,
}

impl fmt::Debug for HistoryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryConfig")
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// What becomes of what waits for long: `[dispatch] old_end_after`, `old_end_bytes`, `max_hold`, `resting_bytes`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OldEnd {
    pub(crate) after: Duration,
    pub(crate) bytes: u64,
    pub(crate) max_hold: Duration,
    pub(crate) resting_bytes: u64,
}

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// `[journal]`.
    pub(crate) journal: JournalConfig,
    /// `[http] listen`.
    pub(crate) listen: SocketAddr,
    /// `[outgoing]`.
    pub(crate) outgoing: OutgoingConfig,
    /// `[history]`.
    pub(crate) history: HistoryConfig,
    /// `[secrets] key_file`.
    pub(crate) key_file: PathBuf,
    /// `HOOKLINE_SECRETS_KEY`, which wins over the file.
    pub(crate) key: Option<secrecy::SecretString>,
    /// `[dispatch] session_timeout`.
    session_timeout: Duration,
    /// What else stands in `[dispatch]`.
    pub(crate) old_end: OldEnd,
    /// `[log]`.
    pub(crate) log: LogConfig,
    /// All values, for printing.
    values: load::Values,
}

impl Config {
    /// Reads the file at `path` and the environment of this process.
    ///
    /// # Errors
    /// Everything that is wrong; that there is no key for secrets is wrong, too.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, Missing::Refuse)
    }

    /// As [`Config::load`], for who makes the key for secrets next where there is none.
    ///
    /// # Errors
    /// Everything else that is wrong.
    pub(crate) fn load_without_key(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, Missing::WillBeMade)
    }

    fn read(path: &Path, missing: Missing) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigErrors(vec![ConfigError::new(
                "--config",
                format!("{} cannot be read: {error}", path.display()),
            )])
        })?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        load::load(&text, &path.display().to_string(), dir, env, missing)
    }

    /// How long a process may be silent before its partitions go to others.
    pub(crate) fn session_timeout(&self) -> Duration {
        // Tests have brokers that accept less than others do unless told otherwise.
        #[cfg(feature = "failpoints")]
        fail::fail_point!("session-timeout", |ms| {
            let ms = ms.and_then(|ms| ms.parse().ok());
            ms.map_or(self.session_timeout, Duration::from_millis)
        });
        self.session_timeout
    }

    /// Settings that give up a protection, in words, for the log at every start.
    pub(crate) fn dangers(&self) -> Vec<String> {
        let mut dangers = Vec::new();
        if self.outgoing.allow_http {
            dangers.push(
                "outgoing.allow_http is on: requests and signatures may travel unencrypted".into(),
            );
        }
        if !self.outgoing.allow_addresses.is_empty() {
            let networks: Vec<_> = self
                .outgoing
                .allow_addresses
                .iter()
                .map(ToString::to_string)
                .collect();
            dangers.push(format!(
                "outgoing.allow_addresses exempts {} from the address guard: registered URLs may reach into these networks",
                networks.join(", ")
            ));
        }
        if let Some(proxy) = self.outgoing.proxy.as_ref().filter(|p| p.enforces_policy()) {
            dangers.push(format!(
                "outgoing.proxy_enforces_policy is on: which addresses names may lead to is judged by the proxy at {} alone",
                proxy.address()
            ));
        }
        dangers
    }

    /// The effective configuration as TOML, secrets left out.
    pub(crate) fn to_toml(&self) -> String {
        render::effective(&self.values)
    }
}

#[cfg(test)]
mod tests;
