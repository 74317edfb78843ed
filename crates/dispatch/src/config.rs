//! Settings of the dispatch stage, with their reasons.

use std::time::Duration;

use hookline_model::core::lane::QueueLimits;
use hookline_model::limits;

/// Settings of the dispatch stage.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Prefix of all topic names, for example `hookline.`.
    pub prefix: String,
    /// Who this worker is, for people: host name and process id, say.
    pub worker: String,
    /// Exchanges under way at once, over all partitions of this worker.
    pub max_in_flight: usize,
    /// As many of these lead to the same scheme, host and port, unless the operator allows its address by name.
    pub max_per_destination: usize,
    /// A worker silent for this long loses its partitions; its lease is shorter by [`limits::LEASE_MARGIN`].
    pub session_timeout: Duration,
    /// What waits in memory at most.
    pub queues: QueueLimits,
    /// Payloads of what waits in place are kept up to so many bytes; beyond that they are read again.
    pub resting_bytes: usize,
    /// How often progress is stored when it changed.
    pub checkpoint_every: Duration,
    /// What is unsettled at the old end of a partition is moved out of the way when it is older than this,
    pub old_end_after: Duration,
    /// or when so many bytes follow it.
    pub old_end_bytes: u64,
    /// What has waited for its turn for longer ends `expired`.
    pub max_hold: Duration,
}

impl DispatchConfig {
    /// The defaults of `limits`, under a prefix.
    #[must_use]
    pub fn new(prefix: &str, worker: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            worker: worker.to_owned(),
            max_in_flight: 1024,
            max_per_destination: limits::PER_DESTINATION,
            session_timeout: limits::SESSION_TIMEOUT,
            queues: QueueLimits::default(),
            resting_bytes: limits::WORKER_RESTING_BYTES,
            checkpoint_every: limits::CHECKPOINT_EVERY,
            old_end_after: limits::OLD_END_AFTER,
            old_end_bytes: limits::OLD_END_BYTES,
            max_hold: limits::MAX_HOLD,
        }
    }
}
