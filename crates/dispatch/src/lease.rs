//! A worker starts a send only while it holds the lease: the time it *sent* its last *acknowledged* commit, plus the session timeout, less a margin.
//!
//! The group may give a partition to somebody else only after the session timeout has passed since it last heard of this worker, so a worker that
//! was frozen finds its lease over before anything else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hookline_model::limits::LEASE_MARGIN;

/// Until when sends may start, on a clock that runs while suspended.
pub(crate) struct Lease {
    until_ms: AtomicU64,
    term: Duration,
}

impl Lease {
    pub(crate) fn new(session_timeout: Duration) -> Self {
        let margin = LEASE_MARGIN.min(session_timeout / 3);
        Self {
            until_ms: AtomicU64::new(0),
            term: session_timeout - margin,
        }
    }

    /// A commit that was sent at `sent` has been acknowledged.
    pub(crate) fn renewed(&self, sent: Duration) {
        let until = u64::try_from((sent + self.term).as_millis()).unwrap_or(u64::MAX);
        self.until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// It ends now: partitions were lost.
    pub(crate) fn end(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    pub(crate) fn holds(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.until_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_when_the_commit_was_sent_and_ends_before_the_session() {
        let lease = Lease::new(Duration::from_secs(10));
        assert!(!lease.holds(Duration::ZERO));
        lease.renewed(Duration::from_secs(100));
        assert!(lease.holds(Duration::from_secs(107)));
        assert!(!lease.holds(Duration::from_secs(108)));
        lease.renewed(Duration::from_secs(99));
        assert!(
            lease.holds(Duration::from_secs(107)),
            "a late answer to an older commit shortens nothing"
        );
        lease.end();
        assert!(!lease.holds(Duration::from_secs(101)));
    }
}
