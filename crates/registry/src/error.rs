//! What can go wrong, one enum for each operation.

use hookline_journal::{JournalError, ReadError};

use crate::seal::{KeyId, SealError};

/// Why the registry's log can no longer be followed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The journal failed.
    #[error("the registry cannot be read")]
    Journal(#[from] JournalError),
    /// The log is not the one that was read so far.
    #[error(
        "the registry's topic was cut or made anew while it was being read: restart this process"
    )]
    Read(#[from] ReadError),
    /// A record was written by a newer program.
    #[error(
        "{topic}, offset {offset}: {record} cannot be understood ({problem}): this program is older than the one that wrote it, upgrade it"
    )]
    Unreadable {
        /// The registry's topic.
        topic: String,
        /// Where the record stands.
        offset: u64,
        /// What it describes: kind, project and name.
        record: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Why the registry could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It could not be read to its end.
    #[error("the registry {topic} could not be read to its end")]
    Follow {
        /// The registry's topic.
        topic: String,
        /// Why.
        source: FollowError,
    },
    /// Its secrets were sealed with another key.
    #[error(
        "the secrets in {topic} are sealed with another key than {ours}: give this process the secrets key of the others (secrets.key_file or HOOKLINE_SECRETS_KEY)"
    )]
    WrongKey {
        /// The registry's topic.
        topic: String,
        /// The key this process has.
        ours: KeyId,
        /// What opening the canary said.
        source: SealError,
    },
    /// Some of its secrets were sealed with a key that this process does not have (any more).
    #[error(
        "{count} records in {topic} hold secrets that are still sealed with key {key}, which this process does not have: list that key behind the first one (secrets.key_file or HOOKLINE_SECRETS_KEY) until hookline_registry_secrets_under_old_keys is 0"
    )]
    MissingKey {
        /// The registry's topic.
        topic: String,
        /// How many records.
        count: usize,
        /// The key that the first of them needs.
        key: KeyId,
    },
    /// The record by which the key is checked could not be written.
    #[error("the record by which the secrets key is checked could not be written to {topic}")]
    Canary {
        /// The registry's topic.
        topic: String,
        /// Why.
        source: Box<WriteError>,
    },
}

/// Why a change was not made, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The resource is at another version than the caller thinks (412).
    #[error("{kind} {name} is at version {version}, not at {expected}: read it again")]
    Conflict {
        /// What it is.
        kind: String,
        /// Its project and name.
        name: String,
        /// What the caller expected; 0 is none.
        expected: u64,
        /// What it is; 0 is none.
        version: u64,
    },
    /// Others changed it again and again at the same time.
    #[error("{kind} {name} is being changed by others all the time: try again")]
    Contended {
        /// What it is.
        kind: String,
        /// Its project and name.
        name: String,
    },
    /// There is no such thing (404).
    #[error("there is no {kind} {name}")]
    NotFound {
        /// What was looked for.
        kind: String,
        /// Its project and name, or uid.
        name: String,
    },
    /// A deleted webhook cannot come back because its name is in use (409).
    #[error("the name {name} is in use by another webhook: delete or rename that one first")]
    NameTaken {
        /// Project and name.
        name: String,
    },
    /// A connector cannot be deleted while webhooks use it (409).
    #[error(
        "connector {name} is used by {}: let them use another or none first",
        shown(users)
    )]
    ConnectorInUse {
        /// Its name.
        name: String,
        /// The names of these webhooks.
        users: Vec<String>,
    },
    /// A webhook names a connector that there is not (422).
    #[error("there is no connector {name} in the project: make it first, or say `none`")]
    NoConnector {
        /// Its name.
        name: String,
    },
    /// A connector has no secret to keep (422).
    #[error("{field} is required")]
    NoSecret {
        /// The field that is missing.
        field: &'static str,
    },
    /// It cannot be deleted while others need it (409).
    #[error("project {name} still has {what}: delete what it has first")]
    InUse {
        /// The project.
        name: String,
        /// What it still has.
        what: String,
    },
    /// It was not seen in time; the change may have been made or may still be (503).
    #[error("whether the change of {kind} {name} was made is not known: look, then try again")]
    OutcomeUnknown {
        /// What it is.
        kind: String,
        /// Its project and name.
        name: String,
    },
    /// What is to be written is wrong in itself.
    #[error("{kind} {name} cannot be written: {problem}")]
    Invalid {
        /// What it is.
        kind: String,
        /// Its project and name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A secret could not be made or opened.
    #[error("a secret could not be sealed or opened")]
    Seal(#[from] SealError),
    /// The registry cannot be read.
    #[error("the registry is not up to date")]
    Follow(#[from] FollowError),
    /// The journal refused the record; nothing was written.
    #[error("the journal took no record; nothing was written")]
    Journal(#[from] JournalError),
}

/// A few of many names.
fn shown(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let (some, rest) = names.split_at(names.len().min(SHOWN));
    let some = some.join(", ");
    match rest.len() {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}
