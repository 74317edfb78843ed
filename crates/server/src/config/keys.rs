//! The one list of what can be set.

use std::time::Duration;

use hookline_model::limits;

/// The default of `journal.partitions`: room for sixteen workers, cheap on one machine.
pub(crate) const PARTITIONS_DEFAULT: u64 = 16;
/// The most partitions that are made: each costs a worker memory and the broker files, and the checkpoint of each is its own.
pub(crate) const PARTITIONS_MAX: u64 = 1024;
/// The default of `journal.replication`: what a single broker can do. Three is right for production.
pub(crate) const REPLICATION_DEFAULT: u64 = 1;
/// The default of `outgoing.max_in_flight`: at 50 ms an answer this is 20,000 requests a second.
pub(crate) const MAX_IN_FLIGHT_DEFAULT: u64 = 1024;
/// The most requests at once: each may hold a connection, and processes have 65,536 files at best.
pub(crate) const MAX_IN_FLIGHT_MAX: u64 = 32_768;
/// The default of `history.retention`: as long as the topic of attempts is kept.
pub(crate) const HISTORY_RETENTION_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest `history.retention`: what is kept for ever needs another place.
pub(crate) const HISTORY_RETENTION_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);
/// The default of `log.level`.
pub(crate) const LOG_LEVEL_DEFAULT: &str = "info";
/// The shortest `dispatch.session_timeout`: what brokers accept unless told otherwise, and three lease margins.
pub(crate) const SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(7);
const _: () = assert!(SESSION_TIMEOUT_MIN.as_millis() > limits::LEASE_MARGIN.as_millis() * 3);
/// The longest `dispatch.session_timeout`: a partition of a dead worker stands still for that long.
pub(crate) const SESSION_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Form {
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number in this range.
    Number(u64, u64),
    /// `true` or `false`.
    Flag,
    /// A duration in this range (`250ms`, `5s`).
    Span(Duration, Duration),
    /// A size in this range, in bytes (`64KiB`).
    Size(u64, u64),
    /// A host name.
    Host,
    /// The beginning of topic names: letters, digits, `.`, `_`, `-`.
    Prefix,
    /// An address and a port.
    Listen,
    /// A file or directory; relative to the directory of the configuration file.
    Path,
    /// As [`Form::Path`]; an empty text is none.
    PathOrNone,
    /// Networks in CIDR notation.
    Networks,
    /// `sqlite://FILE` or `postgres://…`.
    StoreUrl,
    /// `http://HOST:PORT`, perhaps with a password; an empty text is none.
    ProxyUrl,
    /// A log filter.
    Filter,
}

/// A default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Preset {
    /// A text.
    Text(&'static str),
    /// A number.
    Number(u64),
    /// A flag.
    Flag(bool),
    /// A duration.
    Span(Duration),
    /// A size in bytes.
    Size(u64),
    /// No entries.
    Nothing,
}

/// A key that can be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// The table it stands in.
    pub(crate) section: &'static str,
    /// Its name there.
    pub(crate) name: &'static str,
    /// How its value is written.
    pub(crate) form: Form,
    /// What it is when nobody sets it.
    pub(crate) preset: Preset,
    /// What it does, and why one would change it.
    pub(crate) about: &'static str,
}

impl Key {
    /// `section.name`.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment twin.
    pub(crate) fn variable(&self) -> String {
        variable(self.section, self.name)
    }
}

/// The environment twin of a key.
pub(crate) fn variable(section: &str, name: &str) -> String {
    format!(
        "HOOKLINE_{}__{}",
        section.replace('.', "__").to_uppercase(),
        name.replace('.', "_").to_uppercase()
    )
}

/// The section whose keys are properties of the Kafka client.
pub(crate) const KAFKA: &str = "journal.kafka";

/// The variable that holds the key of secrets.
pub(crate) const SECRETS_KEY: &str = "HOOKLINE_SECRETS_KEY";

/// The sections and what they are about, in the order of the reference.
pub(crate) const SECTIONS: [(&str, &str); 9] = [
    ("journal", "Where topics live."),
    (
        KAFKA,
        "Any librdkafka property, as it is named there. Those that would break a promise are refused by name.",
    ),
    ("journal.embedded", "The engine inside the process."),
    (
        "http",
        "The REST interface, metrics, health; later the console.",
    ),
    ("outgoing", "Requests to webhooks."),
    ("dispatch", "Who works on which partition."),
    ("history", "The SQL view of attempts."),
    ("secrets", "How stored secrets are sealed."),
    ("log", "What is logged, to standard error."),
];

/// All keys but the properties of the Kafka client.
pub(crate) const KEYS: [Key; 25] = [
    Key {
        section: "journal",
        name: "engine",
        form: Form::Word(&["kafka", "embedded"]),
        preset: Preset::Text("kafka"),
        about: "`kafka` (or Redpanda), or `embedded`: in the same process, on one machine.",
    },
    Key {
        section: "journal",
        name: "prefix",
        form: Form::Prefix,
        preset: Preset::Text("hookline."),
        about: "What the names of topics and groups begin with. Two systems on one broker need two prefixes.",
    },
    Key {
        section: "journal",
        name: "partitions",
        form: Form::Number(1, PARTITIONS_MAX),
        preset: Preset::Number(PARTITIONS_DEFAULT),
        about: "Partitions of the topics that `topics create` makes: at most as many workers share the work. Fixed once the topics exist.",
    },
    Key {
        section: "journal",
        name: "replication",
        form: Form::Number(1, 9),
        preset: Preset::Number(REPLICATION_DEFAULT),
        about: "Copies of the topics that `topics create` makes. Use 3 where losing a broker must lose nothing.",
    },
    Key {
        section: "journal.embedded",
        name: "dir",
        form: Form::Path,
        preset: Preset::Text("data"),
        about: "The directory of the embedded engine. One process holds it; other commands reach that process through a socket inside.",
    },
    Key {
        section: "http",
        name: "listen",
        form: Form::Listen,
        preset: Preset::Text("127.0.0.1:8080"),
        about: "Where the REST interface, `/metrics`, `/healthz` and `/readyz` are served. Port 0 takes a free one, which is printed.",
    },
    Key {
        section: "outgoing",
        name: "allow_http",
        form: Form::Flag,
        preset: Preset::Flag(false),
        about: "Dangerous: allows plain `http://` endpoints, where anybody on the way reads and changes requests.",
    },
    Key {
        section: "outgoing",
        name: "allow_addresses",
        form: Form::Networks,
        preset: Preset::Nothing,
        about: "Dangerous: networks exempt from the address guard, such as `127.0.0.0/8`. Registered URLs then reach into them.",
    },
    Key {
        section: "outgoing",
        name: "max_in_flight",
        form: Form::Number(1, MAX_IN_FLIGHT_MAX),
        preset: Preset::Number(MAX_IN_FLIGHT_DEFAULT),
        about: "Requests at the same time, per worker. Also the most that a killed worker may repeat.",
    },
    Key {
        section: "outgoing",
        name: "max_per_destination",
        form: Form::Number(1, MAX_IN_FLIGHT_MAX),
        preset: Preset::Number(limits::PER_DESTINATION as u64),
        about: "Requests to one host and port at the same time, per worker, whatever webhooks and projects they are for: so nobody is flooded by way of many webhooks. What lies in `allow_addresses` by address is not counted.",
    },
    Key {
        section: "outgoing",
        name: "origin",
        form: Form::Host,
        preset: Preset::Text("hookline"),
        about: "The host name that endpoints are asked to allow in the CloudEvents handshake (`WebHook-Request-Origin`).",
    },
    Key {
        section: "outgoing",
        name: "ca_file",
        form: Form::PathOrNone,
        preset: Preset::Text(""),
        about: "Certificate authorities (PEM) that all endpoints' certificates may be from, beside the public ones: a company's own, say. A single webhook has `trusted_ca`.",
    },
    Key {
        section: "outgoing",
        name: "http2",
        form: Form::Flag,
        preset: Preset::Flag(false),
        about: "Speaks HTTP/2 to https endpoints that offer it. A connection still carries one request at a time.",
    },
    Key {
        section: "outgoing",
        name: "proxy",
        form: Form::ProxyUrl,
        preset: Preset::Text(""),
        about: "An egress proxy (HTTP `CONNECT`) that all requests go through, such as `http://proxy.example.com:3128`. Names are still resolved and judged here, and the proxy is asked for the judged address. The proxy variables of the environment are ignored.",
    },
    Key {
        section: "outgoing",
        name: "proxy_enforces_policy",
        form: Form::Flag,
        preset: Preset::Flag(false),
        about: "Dangerous: the proxy is given host names, resolves them itself, and is trusted to refuse internal addresses.",
    },
    Key {
        section: "dispatch",
        name: "session_timeout",
        form: Form::Span(SESSION_TIMEOUT_MIN, SESSION_TIMEOUT_MAX),
        preset: Preset::Span(limits::SESSION_TIMEOUT),
        about: "A worker silent for this long loses its partitions to others. Shorter takes over sooner, longer survives longer pauses.",
    },
    Key {
        section: "dispatch",
        name: "old_end_after",
        form: Form::Span(Duration::from_secs(1), Duration::from_secs(7 * 86_400)),
        preset: Preset::Span(limits::OLD_END_AFTER),
        about: "What waits in a partition for this long (for a webhook that is paused, say) is copied from `deliveries` to `held`, so that it does not keep the records of all others.",
    },
    Key {
        section: "dispatch",
        name: "old_end_bytes",
        form: Form::Size(64 * 1024, 1 << 50),
        preset: Preset::Size(limits::OLD_END_BYTES),
        about: "Likewise, when so many bytes follow it in the partition: about what `deliveries` takes of the brokers' disks, per partition, where something waits.",
    },
    Key {
        section: "dispatch",
        name: "max_hold",
        form: Form::Span(Duration::from_secs(1), Duration::from_secs(3_650 * 86_400)),
        preset: Preset::Span(limits::MAX_HOLD),
        about: "What has waited for its turn in its lane for longer ends `expired`. Compare `hookline_dispatch_oldest_undelivered_seconds` with it, and raise an alarm well before.",
    },
    Key {
        section: "dispatch",
        name: "resting_bytes",
        form: Form::Size(64 * 1024, 64 << 30),
        preset: Preset::Size(limits::WORKER_RESTING_BYTES as u64),
        about: "The first of an ordered lane, or a batch, that failed waits in memory for its next attempt; beyond so many bytes of them, per process, they are read again when they are due.",
    },
    Key {
        section: "history",
        name: "url",
        form: Form::StoreUrl,
        preset: Preset::Text("sqlite://history.db"),
        about: "The SQL store of the history role: `sqlite://FILE` (one process on one machine writes it) or `postgres://…` (several share the work; `?sslmode=verify-full` asks for TLS and checks the certificate). Processes with the role `api` answer from it. It may be deleted: what the topics still have comes back.",
    },
    Key {
        section: "history",
        name: "retention",
        form: Form::Span(Duration::from_secs(60), HISTORY_RETENTION_MAX),
        preset: Preset::Span(HISTORY_RETENTION_DEFAULT),
        about: "Attempts, and events, older than this are deleted from the store. A store made anew reaches back as far as the topics: attempts are kept for 90 days, events for 7.",
    },
    Key {
        section: "secrets",
        name: "key_file",
        form: Form::Path,
        preset: Preset::Text("hookline.key"),
        about: "The key (base64, 32 bytes) under which secrets are stored: `(umask 077; head -c 32 /dev/urandom | base64 > hookline.key)` makes one. Nothing starts without (only `hookline dev` makes its own). All processes need the same; keep a copy. `HOOKLINE_SECRETS_KEY`, the key itself, wins. Further keys, on lines of their own or behind commas, only open: [secrets.md](secrets.md) says how a key is replaced.",
    },
    Key {
        section: "log",
        name: "level",
        form: Form::Filter,
        preset: Preset::Text(LOG_LEVEL_DEFAULT),
        about: "`error`, `warn`, `info`, `debug`, or a filter such as `info,hookline_dispatch=debug`.",
    },
    Key {
        section: "log",
        name: "format",
        form: Form::Word(&["text", "json"]),
        preset: Preset::Text("text"),
        about: "`text`, or `json`: one object a line.",
    },
];
