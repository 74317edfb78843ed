//! When a record is due, and what time it is where it was stamped. Pure but for [`BrokerTime`], which reads the clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hookline_model::time::{Clock, Millis};
use parking_lot::Mutex;

/// When the records of one partition of a tier are due, in their order.
#[derive(Debug, Clone)]
pub(crate) struct TierClock {
    tier_ms: i64,
    previous_due: Option<Millis>,
}

impl TierClock {
    /// `previous_due` is that of the last record before the ones to come.
    pub(crate) fn new(tier: Duration, previous_due: Option<Millis>) -> Self {
        Self {
            tier_ms: i64::try_from(tier.as_millis()).unwrap_or(i64::MAX),
            previous_due,
        }
    }

    /// When the next record is due, by the clock that stamped it. A stamp that stepped back counts as that of the record before, which was
    /// appended earlier: so the wait can only come out longer than the tier, never shorter.
    pub(crate) fn due(&mut self, appended: Millis) -> Millis {
        let appended = self.previous_due.map_or(appended.0, |previous| {
            appended.0.max(previous.0.saturating_sub(self.tier_ms))
        });
        let due = Millis(appended.saturating_add(self.tier_ms));
        self.previous_due = Some(due);
        due
    }
}

/// What a commit keeps beside the offset.
pub(crate) fn to_metadata(previous_due: Option<Millis>) -> String {
    previous_due.map_or_else(String::new, |due| format!("due={}", due.0))
}

/// The previous due of a commit; `None` when there was none.
pub(crate) fn from_metadata(metadata: &str) -> Option<Millis> {
    metadata.strip_prefix("due=")?.parse().ok().map(Millis)
}

/// Samples kept, and how long the older ones count once there are newer ones.
const SAMPLES_MAX: usize = 64;
const SAMPLE_AGE_MS: i64 = 600_000;

/// How far the brokers' clocks are from ours, as our own appends show: a stamp was put on between sending and acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct Skew {
    samples: VecDeque<Sample>,
    offset_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: i64,
    /// The broker's clock is ahead of ours by at least this …
    least: i64,
    /// … and by at most this.
    most: i64,
}

impl Skew {
    /// Learns from an append: when it was sent and acknowledged by our clock, and its stamp. One millisecond each way is what rounding hides.
    pub(crate) fn observe(&mut self, sent: Millis, acknowledged: Millis, stamp: Millis) {
        let sample = Sample {
            at: acknowledged.0,
            least: stamp.0.saturating_sub(acknowledged.0).saturating_sub(1),
            most: stamp.0.saturating_sub(sent.0).saturating_add(1),
        };
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES_MAX
            || self
                .samples
                .front()
                .is_some_and(|s| s.at < sample.at.saturating_sub(SAMPLE_AGE_MS))
        {
            self.samples.pop_front();
        }
        let least = self.samples.iter().map(|s| s.least).max();
        let most = self.samples.iter().map(|s| s.most).min();
        // Where samples contradict one another, a clock stepped or two brokers differ: the smaller value makes nothing early.
        self.offset_ms = least.zip(most).map_or(0, |(least, most)| least.min(most));
    }

    /// What to add to our clock for a time that the brokers' clocks have certainly reached. Zero until something was measured.
    pub(crate) fn offset_ms(&self) -> i64 {
        self.offset_ms
    }
}

/// The time by the brokers' clocks. It counts on by the clock that only goes forward, so that ours stepping changes nothing.
pub(crate) struct BrokerTime {
    clock: Arc<dyn Clock>,
    wall_at_zero: i64,
    skew: Mutex<Skew>,
}

impl BrokerTime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let wall_at_zero = clock.now().0.saturating_sub(boot_ms(&*clock));
        Self {
            clock,
            wall_at_zero,
            skew: Mutex::default(),
        }
    }

    /// Our own clock, which never steps.
    pub(crate) fn local(&self) -> Millis {
        Millis(self.wall_at_zero.saturating_add(boot_ms(&*self.clock)))
    }

    /// A time that the brokers' clocks have reached.
    pub(crate) fn now(&self) -> Millis {
        Millis(self.local().0.saturating_add(self.skew.lock().offset_ms()))
    }

    /// Whether the brokers' clocks have been measured.
    pub(crate) fn measured(&self) -> bool {
        !self.skew.lock().samples.is_empty()
    }

    /// See [`Skew::observe`].
    pub(crate) fn observe(&self, sent: Millis, acknowledged: Millis, stamp: Millis) {
        self.skew.lock().observe(sent, acknowledged, stamp);
    }

    /// How long until this moment has passed, zero when it has. A stamp is cut to milliseconds, so its moment is over a millisecond later.
    pub(crate) fn until_past(&self, moment: Millis) -> Duration {
        let left = moment.0.saturating_add(1).saturating_sub(self.now().0);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }
}

fn boot_ms(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.boot().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stamp_that_steps_back_waits_like_the_one_before() {
        let mut clock = TierClock::new(Duration::from_secs(5), None);
        assert_eq!(clock.due(Millis(10_000)), Millis(15_000));
        assert_eq!(clock.due(Millis(4_000)), Millis(15_000));
        assert_eq!(clock.due(Millis(10_001)), Millis(15_001));
        // The same after a restart, from what the commit kept.
        let kept = from_metadata(&to_metadata(Some(Millis(15_001))));
        assert_eq!(kept, Some(Millis(15_001)));
        let mut clock = TierClock::new(Duration::from_secs(5), kept);
        assert_eq!(clock.due(Millis(4_000)), Millis(15_001));
        assert_eq!(from_metadata(""), None);
        assert_eq!(from_metadata("due=x"), None);
        assert_eq!(to_metadata(None), "");
    }

    #[test]
    fn skew_is_bounded_by_sending_and_acknowledgement() {
        let mut skew = Skew::default();
        assert_eq!(skew.offset_ms(), 0);
        skew.observe(Millis(1000), Millis(1040), Millis(6020));
        assert_eq!(skew.offset_ms(), 4979);
        // A faster answer tells more, a slower one nothing.
        skew.observe(Millis(2000), Millis(2002), Millis(7001));
        assert_eq!(skew.offset_ms(), 4998);
        skew.observe(Millis(3000), Millis(4000), Millis(8500));
        assert_eq!(skew.offset_ms(), 4998);
        // The broker's clock steps back: believed at once.
        skew.observe(Millis(5000), Millis(5002), Millis(5001));
        assert_eq!(skew.offset_ms(), 2);
        // What was measured long ago is forgotten.
        skew.observe(Millis(900_000), Millis(900_002), Millis(901_001));
        assert_eq!(skew.offset_ms(), 998);
    }

    proptest! {
        /// Whatever the stamps do, due times keep the order and are the tier after the highest stamp so far. Only the rule is tested here;
        /// whether a copy is made no earlier than its due time is for the tests of the stage.
        #[test]
        fn due_follows_the_highest_stamp(
            tier in 1_i64..100_000,
            steps in proptest::collection::vec((0_i64..5_000, -20_000_i64..20_000), 1..50),
        ) {
            let mut clock = TierClock::new(Duration::from_millis(tier.unsigned_abs()), None);
            let mut truly = 1_000_000_i64;
            let mut highest = i64::MIN;
            let mut last = Millis(i64::MIN);
            for (gap, error) in steps {
                truly += gap;
                let stamp = truly + error;
                let due = clock.due(Millis(stamp));
                prop_assert!(due >= last, "order is kept");
                prop_assert!(due.0 >= stamp + tier, "at least the tier after its own stamp");
                highest = highest.max(stamp);
                prop_assert_eq!(due.0, highest + tier, "and no later than the highest stamp asks for");
                last = due;
            }
        }

        #[test]
        fn the_estimate_never_runs_ahead_of_a_steady_broker(
            ahead in -100_000_i64..100_000,
            trips in proptest::collection::vec((0_i64..10_000, 0_i64..3_000, 0_i64..3_000), 1..200),
        ) {
            let mut skew = Skew::default();
            let mut local = 5_000_000_i64;
            for (gap, there, back) in trips {
                local += gap;
                let stamp = local + there + ahead;
                skew.observe(Millis(local), Millis(local + there + back), Millis(stamp));
                local += there + back;
                prop_assert!(skew.offset_ms() <= ahead);
                prop_assert!(skew.offset_ms() >= ahead - back - 1);
            }
        }
    }
}
