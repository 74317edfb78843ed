//! What all partitions of a worker share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hookline_journal::{Appender, Journal};
use hookline_model::time::{Clock, Millis};
use hookline_model::topics::Topic;
use hookline_registry::Registry;
use parking_lot::Mutex;

use crate::attempt::Maker;
use crate::config::DispatchConfig;
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::places::Places;

/// How often somebody who waits for the lease looks for it.
const LEASE_LOOK: Duration = Duration::from_millis(20);

/// What all partitions of a worker share.
pub(crate) struct Shared {
    pub(crate) config: DispatchConfig,
    pub(crate) names: Names,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) maker: Arc<Maker>,
    pub(crate) metrics: Metrics,
    pub(crate) lease: Lease,
    pub(crate) places: Arc<Places>,
    pub(crate) queued_bytes: AtomicUsize,
    /// Payloads of what waits in place, in all partitions.
    pub(crate) resting_bytes: AtomicUsize,
    /// What each partition tells the commit loop.
    pub(crate) standing: Mutex<BTreeMap<u32, Standing>>,
    /// The one appender of the worker; a partition that sees it fail asks for a new one.
    pub(crate) appender: tokio::sync::Mutex<Option<Arc<dyn Appender>>>,
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    /// The lowest position that an acknowledged checkpoint still needs.
    pub(crate) low: Option<u64>,
    /// When the oldest send that waits was accepted.
    pub(crate) oldest: Option<Millis>,
}

/// Topic names with their prefix.
pub(crate) struct Names {
    pub(crate) deliveries: String,
    pub(crate) attempts: String,
    pub(crate) progress: String,
    pub(crate) commands: String,
    pub(crate) held: String,
    pub(crate) dead: String,
    pub(crate) rejected: String,
    /// Tiers by their delay in milliseconds.
    pub(crate) tiers: HashMap<u64, String>,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        let tiers = Topic::tiers()
            .zip(hookline_model::limits::TIERS)
            .map(|(topic, (_, delay))| {
                (
                    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    topic.name(prefix),
                )
            })
            .collect();
        Self {
            deliveries: Topic::Deliveries.name(prefix),
            attempts: Topic::Attempts.name(prefix),
            progress: Topic::Progress.name(prefix),
            commands: Topic::Commands.name(prefix),
            held: Topic::Held.name(prefix),
            dead: Topic::Dead.name(prefix),
            rejected: Topic::Rejected.name(prefix),
            tiers,
        }
    }
}

impl Shared {
    /// The appender that works, made anew when `failed` is the one that is there.
    pub(crate) async fn appender(
        &self,
        failed: Option<&Arc<dyn Appender>>,
    ) -> Result<Arc<dyn Appender>, hookline_journal::JournalError> {
        let mut current = self.appender.lock().await;
        match current.as_ref() {
            Some(there) if failed.is_none_or(|failed| !Arc::ptr_eq(failed, there)) => {
                Ok(there.clone())
            }
            _ => {
                let new = self.journal.appender("dispatch").await?;
                *current = Some(new.clone());
                Ok(new)
            }
        }
    }

    /// Whether sends and claims may be started.
    pub(crate) fn leased(&self) -> bool {
        self.lease.holds(self.clock.boot())
    }

    /// Bytes that the worker may still queue.
    pub(crate) fn room(&self) -> usize {
        let all = self.config.queues.worker_bytes;
        all.saturating_sub(self.queued_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of payloads of what waits in place, now.
    pub(crate) fn resting_bytes(&self) -> usize {
        self.resting_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of such payloads that the worker may still keep.
    pub(crate) fn resting_room(&self) -> usize {
        let all = self.config.resting_bytes;
        all.saturating_sub(self.resting_bytes())
    }

    /// Whether there is room for more than a few sends.
    pub(crate) fn roomy(&self) -> bool {
        self.room() > self.config.queues.worker_bytes / 4
    }

    /// Resolves as soon as the lease is held.
    pub(crate) async fn until_leased(&self) {
        while !self.leased() {
            tokio::select! {
                biased;
                () = self.places.freed() => {}
                () = tokio::time::sleep(LEASE_LOOK) => {}
            }
        }
    }
}
