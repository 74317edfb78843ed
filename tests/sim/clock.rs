//! The clocks of one life.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hookline_model::time::{Clock, Millis};
use tokio::time::Instant;

use super::world::EPOCH_MS;

/// Follows the paused time of the life's runtime. The wall clock may be wrong.
pub(crate) struct SimClock {
    /// When the life began, in milliseconds of the world.
    began_ms: i64,
    begun: Instant,
    wrong_by_ms: AtomicI64,
}

impl SimClock {
    /// Must be called inside the life's runtime.
    pub(crate) fn new(began_ms: i64, wrong_by_ms: i64) -> Self {
        Self {
            began_ms,
            begun: Instant::now(),
            wrong_by_ms: AtomicI64::new(wrong_by_ms),
        }
    }

    /// Milliseconds since the beginning of the world.
    pub(crate) fn elapsed_ms(&self) -> i64 {
        self.began_ms + i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Millis {
        Millis(EPOCH_MS + self.elapsed_ms() + self.wrong_by_ms.load(Ordering::Relaxed))
    }

    fn boot(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.elapsed_ms()).unwrap_or(0))
    }
}
