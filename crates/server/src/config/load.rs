//! From the file and the environment to a checked [`Config`], collecting everything that is wrong on the way.

use std::collections::BTreeMap;
use std::path::Path;

use hookline_dispatch::client::EgressProxy;
use hookline_journal::JournalError;
use secrecy::SecretString;

use super::keys::{self, KAFKA, KEYS, Key, SECRETS_KEY, SECTIONS};
use super::read::{self, Value};
use super::{
    Config, ConfigError, ConfigErrors, Engine, HistoryConfig, JournalConfig, LogConfig, LogFormat,
    OldEnd, OutgoingConfig,
};
use crate::secrets::{self, Missing};

/// Every key's value, and the properties of the Kafka client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    /// By `section.name`.
    pub(crate) keys: BTreeMap<String, Value>,
    /// Properties as librdkafka names them.
    pub(crate) kafka: BTreeMap<String, String>,
}

/// What was written: by `section.name`, the value and what to call it in an error.
struct Written {
    keys: BTreeMap<String, (toml::Value, String)>,
    kafka: BTreeMap<String, String>,
    secrets_key: Option<SecretString>,
    errors: Vec<ConfigError>,
}

/// Reads a configuration.
///
/// # Errors
/// Everything that is wrong.
pub(crate) fn load(
    text: &str,
    file: &str,
    dir: &Path,
    env: impl Iterator<Item = (String, String)>,
    missing: Missing,
) -> Result<Config, ConfigErrors> {
    let table = toml::from_str::<toml::Table>(text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        let problem = format!("line {line}: {}", error.message());
        ConfigErrors(vec![ConfigError::new(file, problem)])
    })?;
    let mut written = Written {
        keys: BTreeMap::new(),
        kafka: BTreeMap::new(),
        secrets_key: None,
        errors: Vec::new(),
    };
    written.file(&table);
    let mut variables: Vec<_> = env
        .filter(|(name, _)| name.starts_with("HOOKLINE_"))
        .collect();
    variables.sort();
    for (name, value) in variables {
        written.variable(&name, value);
    }
    written.settle(dir, missing)
}

impl Written {
    /// Walks the tables of the file.
    fn file(&mut self, table: &toml::Table) {
        for (name, value) in table {
            self.entry("", name, value);
        }
    }

    fn entry(&mut self, section: &str, name: &str, value: &toml::Value) {
        let path = if section.is_empty() {
            name.to_owned()
        } else {
            format!("{section}.{name}")
        };
        if path == KAFKA {
            return match value {
                toml::Value::Table(table) => self.kafka_table("", table),
                other => self.wrong(&path, format!("must be a table, not {}", read::kind(other))),
            };
        }
        let is_section = SECTIONS.iter().any(|(s, _)| *s == path);
        match value {
            toml::Value::Table(table) if is_section => {
                for (name, value) in table {
                    self.entry(&path, name, value);
                }
            }
            other if is_section => {
                self.wrong(&path, format!("must be a table, not {}", read::kind(other)));
            }
            _ if KEYS.iter().any(|key| key.path() == path) => {
                self.keys.insert(path.clone(), (value.clone(), path));
            }
            toml::Value::Table(_) => self.wrong(&path, unknown("section", &path, section_names())),
            _ => self.wrong(&path, unknown("key", &path, key_names())),
        }
    }

    /// Properties may be written with dots outside of quotes, which makes tables of them.
    fn kafka_table(&mut self, before: &str, table: &toml::Table) {
        for (name, value) in table {
            let property = format!("{before}{name}");
            match value {
                toml::Value::Table(inner) => self.kafka_table(&format!("{property}."), inner),
                toml::Value::String(text) => {
                    self.kafka.insert(property, text.clone());
                }
                toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_) => {
                    self.kafka.insert(property, value.to_string());
                }
                other => self.wrong(
                    &format!("{KAFKA}.\"{property}\""),
                    format!(
                        "must be a text, a number or true/false, not {}",
                        read::kind(other)
                    ),
                ),
            }
        }
    }

    /// One variable. Those without two underscores in a row are other people's (a service called hookline makes some in a cluster).
    fn variable(&mut self, name: &str, value: String) {
        if name == SECRETS_KEY {
            self.secrets_key = Some(value.into());
            return;
        }
        if !name.contains("__") {
            return;
        }
        let kafka = keys::variable(KAFKA, "");
        if let Some(property) = name.strip_prefix(&kafka) {
            self.kafka
                .insert(property.to_lowercase().replace('_', "."), value);
            return;
        }
        let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
            let names = KEYS.iter().map(Key::variable).collect();
            return self.wrong(name, unknown("variable", name, names));
        };
        match read::from_env(key.form, &value) {
            Ok(value) => {
                self.keys.insert(key.path(), (value, name.to_owned()));
            }
            Err(problem) => self.wrong(name, problem),
        }
    }

    fn wrong(&mut self, key: &str, problem: impl Into<String>) {
        self.errors.push(ConfigError::new(key, problem));
    }

    /// Checks every value, fills in defaults, and makes the configuration.
    fn settle(mut self, dir: &Path, missing: Missing) -> Result<Config, ConfigErrors> {
        let mut values = Values {
            keys: BTreeMap::new(),
            kafka: std::mem::take(&mut self.kafka),
        };
        for key in &KEYS {
            let value = match self.keys.get(&key.path()) {
                Some((value, name)) => {
                    read::check(key.form, value, dir).map_err(|p| ConfigError::new(name, p))
                }
                None => read::preset(key.form, key.preset, dir)
                    .map_err(|p| ConfigError::new(key.path(), p)),
            };
            match value {
                Ok(value) => drop(values.keys.insert(key.path(), value)),
                Err(error) => self.errors.push(error),
            }
        }
        let engine = match values.keys.get("journal.engine") {
            Some(Value::Text(engine)) if engine == "embedded" => Engine::Embedded,
            _ => Engine::Kafka,
        };
        if engine == Engine::Kafka {
            self.errors.extend(kafka_errors(&values.kafka));
        }
        if let Some(Value::Path(file)) = values.keys.get("secrets.key_file") {
            let problem = secrets::problem(self.secrets_key.as_ref(), file, missing);
            self.errors.extend(problem);
        }
        if self.errors.is_empty() {
            return Ok(config(engine, values, self.secrets_key));
        }
        Err(ConfigErrors(self.errors))
    }
}

/// What the Kafka engine says about the properties.
fn kafka_errors(properties: &BTreeMap<String, String>) -> Vec<ConfigError> {
    let refused = hookline_journal::kafka::checked(properties).err();
    refused
        .unwrap_or_default()
        .into_iter()
        .map(|error| match error {
            JournalError::Setting { key, reason } => ConfigError::new(key, reason),
            other => ConfigError::new(KAFKA, other.to_string()),
        })
        .collect()
}

fn section_names() -> Vec<String> {
    SECTIONS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

fn key_names() -> Vec<String> {
    KEYS.iter().map(Key::path).collect()
}

/// "unknown …", with the nearest name that would have been known.
fn unknown(what: &str, name: &str, known: Vec<String>) -> String {
    let nearest = known
        .into_iter()
        .map(|candidate| (distance(name, &candidate), candidate))
        .min();
    match nearest {
        // Further apart than a third of the name it is no misspelling.
        Some((apart, candidate)) if apart <= candidate.len() / 3 => {
            format!("unknown {what}; did you mean {candidate}?")
        }
        _ => format!("unknown {what}; docs/configuration.md lists all"),
    }
}

/// Letters to insert, remove or replace to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Takes a key's value out of the map.
macro_rules! take {
    ($values:expr, $key:literal, $form:ident) => {
        match $values.keys.get($key) {
            Some(Value::$form(value)) => value.clone(),
            _ => unreachable!(
                "every declared key has a checked value of its form: {}",
                $key
            ),
        }
    };
}

fn config(engine: Engine, values: Values, secrets_key: Option<SecretString>) -> Config {
    Config {
        journal: JournalConfig {
            engine,
            prefix: take!(values, "journal.prefix", Text),
            partitions: u32::try_from(take!(values, "journal.partitions", Number)).unwrap_or(1),
            replication: u16::try_from(take!(values, "journal.replication", Number)).unwrap_or(1),
            kafka: values.kafka.clone(),
            embedded_dir: take!(values, "journal.embedded.dir", Path),
        },
        listen: take!(values, "http.listen", Listen),
        outgoing: OutgoingConfig {
            allow_http: take!(values, "outgoing.allow_http", Flag),
            allow_addresses: take!(values, "outgoing.allow_addresses", Networks),
            max_in_flight: usize::try_from(take!(values, "outgoing.max_in_flight", Number))
                .unwrap_or(1),
            max_per_destination: usize::try_from(take!(
                values,
                "outgoing.max_per_destination",
                Number
            ))
            .unwrap_or(1),
            origin: take!(values, "outgoing.origin", Text),
            ca_file: Some(take!(values, "outgoing.ca_file", Path))
                .filter(|file| !file.as_os_str().is_empty()),
            http2: take!(values, "outgoing.http2", Flag),
            // It has been read once already, when it was checked.
            proxy: EgressProxy::parse(
                &take!(values, "outgoing.proxy", Text),
                take!(values, "outgoing.proxy_enforces_policy", Flag),
            )
            .ok(),
        },
        history: HistoryConfig {
            url: take!(values, "history.url", Text),
            retention: take!(values, "history.retention", Span),
        },
        key_file: take!(values, "secrets.key_file", Path),
        key: secrets_key,
        session_timeout: take!(values, "dispatch.session_timeout", Span),
        old_end: OldEnd {
            after: take!(values, "dispatch.old_end_after", Span),
            bytes: take!(values, "dispatch.old_end_bytes", Size),
            max_hold: take!(values, "dispatch.max_hold", Span),
            resting_bytes: take!(values, "dispatch.resting_bytes", Size),
        },
        log: LogConfig {
            level: take!(values, "log.level", Text),
            format: match take!(values, "log.format", Text).as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
        },
        values,
    }
}
