//! Events × registry → deliveries.
//!
//! In come records of `events`; out go records of `deliveries`, one for each partition that has webhooks which the event matches, and
//! `rejected` for what nobody can read or place. Reading order: `plan`, `sieve`, `identity` and `floor` are the decisions; `worker` performs
//! them for one partition; `stage` shares partitions out among workers.
//!
//! Invariants: nothing is committed before everything made from it is acknowledged; each partition of `deliveries` gets an event's
//! webhooks in order of their uids, and events in the order of their partition, so that what a dead or stale fan-out repeats is recognised
//! by its source; a batch is decided by a registry that was read to its end after the batch was. What this crate does not know: how anything
//! is delivered.

mod floor;
mod identity;
mod metrics;
mod plan;
mod progress;
mod rejected;
mod sieve;
mod stage;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Duration;

use hookline_journal::JournalError;
use hookline_model::limits;
use hookline_registry::FollowError;

pub use stage::Fanout;

/// Records taken at once; the registry's end is asked for once for each such batch.
const BATCH_MAX: usize = 500;
/// How often what is done is committed. More often would cost the broker, less often would repeat more after a kill.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// How long a partition that is given back, or a stop, waits for what is on its way.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How the fan-out behaves.
#[derive(Debug, Clone)]
pub struct FanoutConfig {
    /// What the names of topics and groups begin with.
    pub prefix: String,
    /// The name of this process, for people.
    pub worker: String,
    /// Without a sign of life for this long the partitions go to others.
    pub session_timeout: Duration,
    /// The largest event, in bytes of its published form.
    pub event_bytes_max: usize,
    /// Event identities remembered for each partition.
    pub identity_window: usize,
}

impl FanoutConfig {
    /// The defaults under that prefix.
    #[must_use]
    pub fn new(prefix: impl Into<String>, worker: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            worker: worker.into(),
            session_timeout: limits::SESSION_TIMEOUT,
            event_bytes_max: limits::EVENT_BYTES_MAX,
            identity_window: limits::IDENTITY_WINDOW,
        }
    }
}

/// Why the fan-out cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FanoutError {
    /// Its metrics could not be registered.
    #[error("the fan-out's metrics could not be registered")]
    Metrics(#[from] prometheus::Error),
    /// The group refused it.
    #[error("the fan-out cannot join its group {group}")]
    Join {
        /// The group.
        group: String,
        /// Why.
        source: JournalError,
    },
    /// The registry can no longer be followed.
    #[error("the fan-out cannot follow the registry")]
    Registry(#[from] FollowError),
    /// A worker died of a fault of ours.
    #[error("the fan-out of partition {partition} of events panicked")]
    Panicked {
        /// Of which partition.
        partition: u32,
    },
}
