//! The plain data that crosses the journal's interface.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

/// A record to append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The key; compaction keeps the last record of each.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order; a name may come more than once.
    pub headers: Vec<(String, Bytes)>,
}

/// A record as it stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in the partition.
    pub offset: u64,
    /// Append time in milliseconds since 1970, where the topic keeps that; else the producer's.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order. Values that were null are empty.
    pub headers: Vec<(String, Bytes)>,
}

impl StoredRecord {
    /// The last header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v)
    }
}

/// Records read, and how far that goes.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// In order of their offsets; may be empty.
    pub records: Vec<StoredRecord>,
    /// Everything below has been handed out or does not exist.
    pub next: u64,
}

/// What an acknowledged append says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Where the record stands. `None`: it is stored, but the broker did not say where (a repeated request of an idempotent producer).
    pub offset: Option<u64>,
    /// The append time, under the same condition.
    pub timestamp_ms: Option<i64>,
}

/// Called once with the fate of an append.
pub type OnAppended = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// An append was not taken on.
pub enum AppendRefused {
    /// No room now; everything is given back.
    Full {
        /// The record handed in.
        record: Box<Record>,
        /// The callback handed in.
        done: OnAppended,
    },
    /// This appender has failed, or the record can never be stored.
    Failed(AppendError),
}

/// Why an append failed for good.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The record is larger than the topic takes. The appender goes on.
    #[error("record of {bytes} bytes is too large for topic {topic}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Key, value and headers together.
        bytes: usize,
    },
    /// There is no such topic or partition. The appender goes on.
    #[error("topic {topic} has no partition {partition}")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The engine failed; nothing more will be stored by this appender.
    #[error("append to {topic} failed: {reason}")]
    Failed {
        /// The topic.
        topic: String,
        /// What the engine said.
        reason: String,
    },
    /// The engine was closed; whether the record was stored is unknown.
    #[error("the journal was closed")]
    Closed,
}

/// Why reading cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The position lies below the start: somebody deleted records that had not been read.
    #[error(
        "{topic}[{partition}]: records from {position} on were deleted, the first left is {start}"
    )]
    Deleted {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where reading stood.
        position: u64,
        /// The first record left.
        start: u64,
    },
    /// The position lies above the end: the topic was made anew or cut.
    #[error("{topic}[{partition}]: reading stood at {position}, but the partition ends at {end}")]
    BeyondEnd {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where reading stood.
        position: u64,
        /// The end of the partition.
        end: u64,
    },
    /// The engine failed for good.
    #[error("reading {topic}[{partition}] failed: {reason}")]
    Failed {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What the engine said.
        reason: String,
    },
}

/// Why a call to the journal failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is no such topic (or not that many partitions).
    #[error("there is no topic {topic} with a partition {partition}")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// A setting was refused.
    #[error("setting {key}: {reason}")]
    Setting {
        /// The key as it stands in the configuration.
        key: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The group does not know this member (any more).
    #[error("no longer a member of group {group}")]
    NotMember {
        /// The group.
        group: String,
    },
    /// The data directory is held by another process.
    #[error("{reason}")]
    Busy {
        /// Who holds what.
        reason: String,
    },
    /// The engine did not answer in time; the outcome is unknown.
    #[error("{what}: no answer within {waited:?}")]
    Timeout {
        /// What was asked.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// The engine said no, or failed.
    #[error("{what}: {reason}")]
    Failed {
        /// What was asked.
        what: String,
        /// What the engine said.
        reason: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Appending failed.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// How much a reader may hold that has not been taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBudget {
    /// Upper bound in bytes (an engine may overshoot by one fetch).
    pub bytes: usize,
    /// What is read stands there already, and somebody waits for it: it is not to wait with those who read at the end.
    pub backlog: bool,
}

impl ReadBudget {
    /// Of so many bytes.
    #[must_use]
    pub const fn of(bytes: usize) -> Self {
        Self {
            bytes,
            backlog: false,
        }
    }

    /// For who reads what stands there already.
    #[must_use]
    pub const fn backlog(self) -> Self {
        Self {
            backlog: true,
            ..self
        }
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The full name, prefix included.
    pub topic: String,
    /// The partition.
    pub partition: u32,
}

/// A committed position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// The next offset to read.
    pub offset: u64,
    /// Free text kept beside it.
    pub metadata: String,
}

/// A group to join.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// Its name.
    pub group: String,
    /// The topics whose partitions are shared out.
    pub topics: Vec<String>,
    /// Without a heartbeat or commit for this long a member is out.
    pub session_timeout: Duration,
    /// Who joins, for people.
    pub member: String,
}

/// What a group tells its member.
#[derive(Debug)]
pub enum MemberEvent {
    /// These are suggested to this member now (in addition to those before).
    Assigned(Vec<TopicPartition>),
    /// Give these back: start nothing, drain, store progress, then drop or call [`RevokeGuard::done`]. The group waits (bounded).
    Revoked(Vec<TopicPartition>, RevokeGuard),
    /// These are gone already; another member may have them.
    Lost(Vec<TopicPartition>),
}

/// Held while a revoked partition is drained; the group waits until it is gone.
#[derive(Debug)]
pub struct RevokeGuard {
    /// Nothing is ever sent: the receiver learns from its end being gone.
    _held: std::sync::mpsc::SyncSender<()>,
}

impl RevokeGuard {
    /// A guard, and the side on which `recv` fails as soon as the guard is let go.
    #[must_use]
    pub fn new() -> (Self, std::sync::mpsc::Receiver<()>) {
        let (held, gone) = std::sync::mpsc::sync_channel(1);
        (Self { _held: held }, gone)
    }

    /// The partitions may go to somebody else.
    pub fn done(self) {}
}

/// How old records of a topic go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// By age; `None` keeps them until somebody deletes them.
    Delete {
        /// How long they are kept.
        retention: Option<Duration>,
    },
    /// The last record of each key stays.
    Compact,
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The full name, prefix included.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Copies (Kafka only).
    pub replication: u16,
    /// How old records go away.
    pub cleanup: Cleanup,
    /// Whether the record's time is that of the append (else the producer's).
    pub append_time: bool,
    /// The largest record, in bytes.
    pub max_record_bytes: usize,
    /// Further settings of the engine, by its own names.
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicInfo {
    /// Number of partitions.
    pub partitions: u32,
    /// Copies.
    pub replication: u16,
    /// The engine's settings by its own names (`cleanup.policy`, `retention.ms`, …).
    pub settings: BTreeMap<String, String>,
}
