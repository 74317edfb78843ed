//! The system's clocks: the only file that reads them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hookline_model::time::{Clock, Millis};
use nix::time::{ClockId, clock_gettime};

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        #[expect(clippy::disallowed_methods, reason = "this is the clock file")]
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn boot(&self) -> Duration {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .expect("the kernel has had this clock since version 2.6.39");
        Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_nsec()).unwrap_or(0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_goes_forward_and_the_wall_clock_is_of_this_century() {
        let clock = SystemClock;
        let first = clock.boot();
        assert!(clock.boot() >= first);
        assert!(clock.now().0 > 1_600_000_000_000);
    }
}
