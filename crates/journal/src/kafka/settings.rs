//! Which settings of the client library may be passed through, and what each kind of client is given.
//!
//! Everything may, except what would break a promise: those are refused by name, all at once, with the reason.

use std::collections::BTreeMap;
use std::time::Duration;

use hookline_model::limits;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::rules;
use crate::{GroupSpec, JournalError, ReadBudget};

/// Properties that were checked, under their canonical names.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    properties: BTreeMap<String, String>,
}

/// Checks all properties of `[journal.kafka]` and lists everything that is wrong with them. Booleans and numbers of the configuration
/// file are handed in as text. Looks at nothing but its argument: files and brokers are only touched when a client is made.
///
/// # Errors
/// One [`JournalError::Setting`] for each property that would break a promise, that the client library does not know, or whose value it
/// refuses.
pub fn checked(properties: &BTreeMap<String, String>) -> Result<ClientSettings, Vec<JournalError>> {
    let mut errors = Vec::new();
    let mut canonical = BTreeMap::new();
    for (key, value) in properties {
        let name = rules::canonical(key);
        if name != key && properties.get(name).is_some_and(|other| other != value) {
            errors.push(setting(
                key,
                format!("is another name of {name}, which has another value: keep one of them"),
            ));
            continue;
        }
        match problem(key, name, value) {
            Some(reason) => errors.push(setting(key, reason)),
            None => {
                canonical.insert(name.to_owned(), value.clone());
            }
        }
    }
    let servers = ["bootstrap.servers", "metadata.broker.list"];
    if !servers.iter().any(|key| {
        properties
            .get(*key)
            .is_some_and(|value| !value.trim().is_empty())
    }) {
        errors.push(setting(
            "bootstrap.servers",
            "must name at least one broker, as host:port".to_owned(),
        ));
    }
    if errors.is_empty() {
        Ok(ClientSettings {
            properties: canonical,
        })
    } else {
        Err(errors)
    }
}

fn setting(key: &str, reason: String) -> JournalError {
    JournalError::Setting {
        key: format!("journal.kafka.\"{key}\""),
        reason,
    }
}

fn problem(key: &str, name: &str, value: &str) -> Option<String> {
    if let Some(refused) = rules::refusal(name, value) {
        return Some(refused);
    }
    // Setting this one loads libraries, which is not for a check.
    if name == "plugin.library.paths" {
        return None;
    }
    if key.contains('\0') || value.contains('\0') {
        return Some("must not contain a NUL byte".to_owned());
    }
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => None,
        // The value is left out of the text: it may be a password.
        Err(KafkaError::ClientConfig(_, said, _, _)) => Some(without(&said, value)),
        Err(other) => Some(without(&other.to_string(), value)),
    }
}

/// `said`, with the value blotted out where it is long enough to be a secret.
fn without(said: &str, value: &str) -> String {
    if value.len() < 6 {
        said.to_owned()
    } else {
        said.replace(value, "…")
    }
}

/// How much a reader's client may hold for each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BudgetClass {
    /// Many partitions that mostly sleep (tiers).
    Small,
    /// Few partitions that are read as fast as they come.
    Normal,
    /// As few, of which a backlog is read. They have a client of their own: a client asks a broker for all its partitions at once, and one whose queue
    /// was full would wait until the question about the others, at whose end nothing comes, is answered.
    Backlog,
}

impl BudgetClass {
    pub(crate) const ALL: [Self; 3] = [Self::Small, Self::Normal, Self::Backlog];

    pub(crate) fn of(budget: ReadBudget) -> Self {
        if budget.backlog {
            Self::Backlog
        } else if budget.bytes <= 256 * 1024 {
            Self::Small
        } else {
            Self::Normal
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Normal => "normal",
            Self::Backlog => "backlog",
        }
    }
}

/// What one appender may hold that has not been acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AppendBounds {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

const APPEND_RECORDS: usize = 10_000;
const APPEND_KBYTES: usize = 8 * 1024;

/// A record of the largest size and the frame around it.
const REQUEST_BYTES_MAX: usize = limits::RECORD_BYTES_MAX + 64 * 1024;

impl ClientSettings {
    fn number(&self, key: &str) -> Option<usize> {
        self.properties.get(key)?.trim().parse().ok()
    }

    /// `defaults`, then what the operator set, then `forced`.
    fn client(&self, id: &str, defaults: &[(&str, &str)], forced: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in COMMON.iter().chain(defaults) {
            config.set(*key, *value);
        }
        config.set("client.id", id);
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        for (key, value) in forced {
            config.set(*key, *value);
        }
        // Who asks the library for its inner life must also get it; it is told at the level `trace`.
        config.set_log_level(if self.properties.contains_key("debug") {
            RDKafkaLogLevel::Debug
        } else {
            RDKafkaLogLevel::Info
        });
        config
    }

    /// The brokers as the operator named them.
    pub(crate) fn servers(&self) -> &str {
        let named = ["bootstrap.servers", "metadata.broker.list"]
            .iter()
            .find_map(|key| self.properties.get(*key));
        named.map_or("", |servers| servers.trim())
    }

    pub(crate) fn append_bounds(&self) -> AppendBounds {
        let kbytes = self
            .number("queue.buffering.max.kbytes")
            .unwrap_or(APPEND_KBYTES);
        AppendBounds {
            records: self
                .number("queue.buffering.max.messages")
                .unwrap_or(APPEND_RECORDS)
                .max(1),
            bytes: kbytes.saturating_mul(1024).max(REQUEST_BYTES_MAX),
        }
    }

    pub(crate) fn record_bytes_max(&self) -> usize {
        self.number("message.max.bytes")
            .unwrap_or(REQUEST_BYTES_MAX)
    }

    pub(crate) fn producer(&self, id: &str) -> ClientConfig {
        let bounds = self.append_bounds();
        // Our own bounds refuse first, because only we know when there is room again.
        let records = bounds.records.saturating_mul(2).min(i32::MAX as usize);
        let kbytes = (bounds.bytes / 1024)
            .saturating_mul(2)
            .min(i32::MAX as usize);
        let mut config = self.client(
            id,
            &[
                ("linger.ms", "0"),
                // While a request is under way the next one gathers what comes: at once when there is little, in batches when there is much.
                ("max.in.flight.requests.per.connection", "1"),
                ("message.max.bytes", &REQUEST_BYTES_MAX.to_string()),
                ("topic.metadata.propagation.max.ms", "5000"),
            ],
            &[
                ("acks", "all"),
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "true"),
                ("message.timeout.ms", "0"),
            ],
        );
        config.set("queue.buffering.max.messages", records.to_string());
        config.set("queue.buffering.max.kbytes", kbytes.to_string());
        config
    }

    /// A client that reads given partitions from given offsets.
    ///
    /// `read_committed`: no record of ours is transactional, but a producer of `events` may use transactions, and what it aborted never
    /// happened. The end of a partition is asked for elsewhere, without it: it must count what is acknowledged but not yet decided.
    pub(crate) fn reader(&self, id: &str, class: BudgetClass) -> ClientConfig {
        // A response is kept in memory until the last of its records is taken, hence the bounds on whole responses, too.
        // The queue holds more than one answer for a partition: with room for just one, every answer would fill it, and the partition would sit
        // out the back-off and then the long poll of the others before it is fetched from again.
        let (records, kbytes, partition, response) = match class {
            BudgetClass::Small => ("500", "128", "65536", "524288"),
            BudgetClass::Normal | BudgetClass::Backlog => ("4000", "512", "262144", "1048576"),
        };
        // A long poll answers at once when records come. It also delays the first fetch of a partition that joins meanwhile, and of one whose queue
        // was full: hence not longer, and next to nothing where all is there already.
        let wait = match class {
            BudgetClass::Small | BudgetClass::Normal => "100",
            BudgetClass::Backlog => "10",
        };
        let mut defaults = vec![
            ("queued.min.messages", records),
            ("queued.max.messages.kbytes", kbytes),
            ("fetch.message.max.bytes", partition),
            ("fetch.max.bytes", response),
            ("fetch.wait.max.ms", wait),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "100"),
        ];
        if class == BudgetClass::Backlog {
            defaults.extend(ASKING);
        }
        self.client(
            id,
            &defaults,
            &[
                ("group.id", READER_GROUP),
                ("message.max.bytes", "65536"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
                ("isolation.level", "read_committed"),
            ],
        )
    }

    /// A client that only asks: metadata, starts and ends. Its ends are high watermarks.
    pub(crate) fn query(&self, id: &str) -> ClientConfig {
        self.client(
            id,
            &ASKING,
            &[
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("isolation.level", "read_uncommitted"),
            ],
        )
    }

    /// A client that asks for the committed positions of a group without joining it.
    pub(crate) fn group_query(&self, id: &str, group: &str) -> ClientConfig {
        let mut config = self.query(id);
        config.set("group.id", group);
        config
    }

    pub(crate) fn admin(&self, id: &str) -> ClientConfig {
        let mut config = self.client(id, &ASKING, &[]);
        // Nobody takes the log lines of this client, so that they would pile up; the query client says the same.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config
    }

    pub(crate) fn member(&self, id: &str, spec: &GroupSpec) -> ClientConfig {
        let session = spec.session_timeout;
        let heartbeat = (session / 10).clamp(Duration::from_millis(100), Duration::from_secs(3));
        self.client(
            id,
            &[
                ("max.poll.interval.ms", "300000"),
                ("topic.metadata.refresh.interval.ms", "30000"),
            ],
            &[
                ("group.id", &spec.group),
                ("session.timeout.ms", &session.as_millis().to_string()),
                ("heartbeat.interval.ms", &heartbeat.as_millis().to_string()),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("queued.min.messages", "1"),
            ],
        )
    }
}

/// Readers belong to no group, but the client library wants a name; nobody joins it and nothing is committed to it.
const READER_GROUP: &str = "hookline.reader";

/// For every client.
///
/// When the network or a broker went silent and is back, a connection that led nowhere has to be given up, and the next one to be made,
/// before anything goes on. The library's own limits let that take a minute and a half; these let it take some seconds.
const COMMON: [(&str, &str); 7] = [
    ("socket.keepalive.enable", "true"),
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "5000"),
    ("api.version.request.timeout.ms", "4000"),
    ("reconnect.backoff.max.ms", "1000"),
    ("allow.auto.create.topics", "false"),
    ("enable.metrics.push", "false"),
];

/// For clients that only ask, or read, now and then. A connection that stood idle while the network was silent may lead nowhere, too, and only the
/// next question would find out.
const ASKING: [(&str, &str); 1] = [("connections.max.idle.ms", "30000")];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) -> Result<ClientSettings, Vec<String>> {
        let mut properties = BTreeMap::from([("bootstrap.servers".into(), "127.0.0.1:1".into())]);
        properties.extend(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())));
        checked(&properties).map_err(|e| e.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_would_break_a_promise_is_refused_by_the_name_it_was_given() {
        for (key, value) in [
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("enable.idempotence", "false"),
            ("enable.gapless.guarantee", "F"),
            ("message.timeout.ms", "300000"),
            ("delivery.timeout.ms", "1"),
            ("enable.auto.commit", "true"),
            ("auto.commit.enable", "1"),
            ("enable.auto.offset.store", "T"),
            ("auto.offset.reset", "earliest"),
            ("group.protocol", "consumer"),
            ("group.instance.id", "a"),
            ("group.id", "a"),
            ("transactional.id", "a"),
            ("partition.assignment.strategy", "range,roundrobin"),
            ("isolation.level", "read_uncommitted"),
            ("max.in.flight", "6"),
            ("max.in.flight.requests.per.connection", "1000000"),
            ("retries", "3"),
            ("message.send.max.retries", "0"),
            ("session.timeout.ms", "45000"),
            ("heartbeat.interval.ms", "3000"),
            ("max.poll.interval.ms", "1000"),
            ("allow.auto.create.topics", "true"),
            ("delivery.report.only.error", "true"),
            ("queuing.strategy", "lifo"),
            ("queue.buffering.max.messages", "0"),
            ("message.max.bytes", "1000000"),
            ("enable.partition.eof", "false"),
            ("test.mock.num.brokers", "3"),
            ("offset.store.method", "file"),
            ("api.version.request", "false"),
        ] {
            let errors = check(&[(key, value)]).expect_err(key);
            assert_eq!(errors.len(), 1, "{key}: {errors:?}");
            assert!(
                errors[0].starts_with(&format!("setting journal.kafka.\"{key}\": ")),
                "{errors:?}"
            );
        }
    }

    #[test]
    fn what_keeps_the_promises_is_passed_through() {
        let settings = check(&[
            ("acks", "ALL"),
            ("enable.idempotence", "True"),
            ("delivery.timeout.ms", "0"),
            ("max.in.flight", "1"),
            ("compression.codec", "lz4"),
            ("queue.buffering.max.ms", "7"),
            ("client.id", "mine"),
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
        ])
        .expect("allowed");
        let producer = settings.producer("ours");
        for (key, value) in [
            ("acks", "all"),
            ("linger.ms", "7"),
            ("compression.type", "lz4"),
            ("client.id", "mine"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
        ] {
            assert_eq!(producer.get(key), Some(value), "{key}");
        }
        assert_eq!(producer.get("queue.buffering.max.ms"), None);
        producer
            .create_native_config()
            .expect("known to the library");
    }

    #[test]
    fn every_kind_of_client_has_settings_that_the_library_knows() {
        let settings = check(&[]).expect("allowed");
        let spec = GroupSpec {
            group: "g".into(),
            topics: vec![],
            session_timeout: Duration::from_secs(10),
            member: "m".into(),
        };
        for config in [
            settings.producer("a"),
            settings.reader("a", BudgetClass::Small),
            settings.reader("a", BudgetClass::Normal),
            settings.query("a"),
            settings.group_query("a", "g"),
            settings.admin("a"),
            settings.member("a", &spec),
        ] {
            config.create_native_config().expect("known to the library");
        }
    }

    #[test]
    fn all_errors_are_listed_at_once_and_secrets_are_not_repeated() {
        let errors = checked(&BTreeMap::from([
            ("acks".into(), "1".into()),
            ("no.such.thing".into(), "1".into()),
            ("linger.ms".into(), "hunter2hunter2".into()),
        ]))
        .expect_err("four");
        assert_eq!(errors.len(), 4, "{errors:?}");
        let text = format!("{errors:?}");
        assert!(text.contains("No such configuration property"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn two_names_of_one_property_must_agree() {
        assert!(check(&[("linger.ms", "1"), ("queue.buffering.max.ms", "2")]).is_err());
        assert!(check(&[("linger.ms", "1"), ("queue.buffering.max.ms", "1")]).is_ok());
    }
}
