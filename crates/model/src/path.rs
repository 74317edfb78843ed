//! Where a retry waits: in place, or in which tiers one after the other.
//!
//! A path is also a stream whose highest ticket every partition remembers, so paths must be few: delays are rounded up to a fixed set of
//! sums, about 200 of them up to a day. A path waits never less than the delay, and at most 5 % or a second longer, whichever is more.
//! It takes whole days first and then at most four tiers. Only where four tiers of the ladder cannot come near enough does it take more:
//! between 8 s and 86 s, where the ladder is steep, up to [`TIERS_BELOW_A_DAY_MAX`], and in a few narrow places above five.

use std::sync::OnceLock;
use std::time::Duration;

use crate::limits::{IN_PLACE_BELOW, TIERS};

/// The most tiers that the part of a delay below a day takes.
pub const TIERS_BELOW_A_DAY_MAX: usize = 9;

/// How many tiers are enough for most delays.
const TIERS_WANTED: u8 = 4;

/// Delays beyond this are cut. Policies allow 30 days and half as much again for jitter.
pub const DELAY_MAX: Duration = Duration::from_secs(400 * 24 * 3600);

const DAY_TIER: u8 = 19;
const DAY_SECONDS: usize = 24 * 3600;
const DAY_MS: u64 = DAY_SECONDS as u64 * 1000;
const _: () = assert!(TIERS[DAY_TIER as usize].1.as_secs() == DAY_SECONDS as u64);
const _: () = assert!(TIERS.len() == DAY_TIER as usize + 1);

/// The tiers that a retry passes, longest first. Each is an index into [`TIERS`]. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierPath(Vec<u8>);

/// Where a retry waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// In the lane, for so long; it never leaves the worker.
    InPlace(Duration),
    /// In these tiers.
    Tiers(TierPath),
}

impl Plan {
    /// How long the retry waits in all.
    #[must_use]
    pub fn total_wait(&self) -> Duration {
        match self {
            Self::InPlace(wait) => *wait,
            Self::Tiers(path) => path.total_wait(),
        }
    }
}

impl TierPath {
    /// The tiers, as indexes into [`TIERS`], in the order in which they are passed.
    #[must_use]
    pub fn tiers(&self) -> &[u8] {
        &self.0
    }

    /// The tier of this hop, from 0; `None` behind the last one.
    #[must_use]
    pub fn tier(&self, hop: usize) -> Option<u8> {
        self.0.get(hop).copied()
    }

    /// How long all tiers wait together.
    #[must_use]
    pub fn total_wait(&self) -> Duration {
        self.0.iter().map(|t| TIERS[usize::from(*t)].1).sum()
    }

    /// The stored form: each tier's delay in milliseconds.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u64> {
        self.0.iter().map(|t| tier_ms(*t)).collect()
    }

    /// From the stored form; `None` when it is empty or names a delay that is no tier.
    #[must_use]
    pub fn from_wire(path_ms: &[u64]) -> Option<Self> {
        let index = |ms: &u64| (0..=DAY_TIER).find(|t| tier_ms(*t) == *ms);
        let tiers: Vec<u8> = path_ms.iter().map(index).collect::<Option<_>>()?;
        (!tiers.is_empty()).then_some(Self(tiers))
    }
}

fn tier_ms(tier: u8) -> u64 {
    u64::try_from(TIERS[usize::from(tier)].1.as_millis()).unwrap_or(u64::MAX)
}

/// Where a retry waits that is due after `delay`.
#[must_use]
pub fn plan(delay: Duration) -> Plan {
    if delay < IN_PLACE_BELOW {
        return Plan::InPlace(delay);
    }
    // Rounded up: a path must never be early.
    let ms = u64::try_from(delay.min(DELAY_MAX).as_nanos().div_ceil(1_000_000)).unwrap_or(DAY_MS);
    let days = usize::try_from(ms / DAY_MS).unwrap_or(0);
    let mut tiers = vec![DAY_TIER; days];
    let rest = ms % DAY_MS;
    if rest > 0 {
        let steps = steps();
        let at = steps.partition_point(|(sum, _)| *sum < rest);
        // The last step is a day, so there always is one.
        tiers.extend(steps.get(at).map_or(&[DAY_TIER][..], |(_, path)| path));
    }
    Plan::Tiers(TierPath(tiers))
}

/// The sums to which delays up to a day are rounded, in milliseconds, ascending, each with its tiers.
fn steps() -> &'static [(u64, Vec<u8>)] {
    static STEPS: OnceLock<Vec<(u64, Vec<u8>)>> = OnceLock::new();
    STEPS.get_or_init(|| {
        let fewest = fewest_tiers();
        let mut steps = Vec::new();
        let mut covered = 0;
        while covered < DAY_SECONDS {
            // The bound of the shortest delay that is not covered yet holds for all delays up to the sum that is chosen by it.
            let bound = covered + (covered / 20).max(1);
            // What stands on the ladder is waited for exactly.
            let bound = TIERS
                .iter()
                .map(|(_, delay)| usize::try_from(delay.as_secs()).unwrap_or(DAY_SECONDS))
                .find(|tier| *tier > covered)
                .map_or(bound, |tier| bound.min(tier));
            let next = (covered + 1..=bound)
                .max_by_key(|sum| (TIERS_WANTED.max(fewest[*sum].0).wrapping_neg(), *sum))
                .unwrap_or(bound);
            steps.push((next as u64 * 1000, tiers_of(&fewest, next)));
            covered = next;
        }
        steps
    })
}

/// For every number of seconds up to a day the fewest tiers that add up to it, and the longest of these.
fn fewest_tiers() -> Vec<(u8, u8)> {
    let mut fewest = vec![(0u8, 0u8)];
    for sum in 1..=DAY_SECONDS {
        let mut best = (u8::MAX, 0);
        for tier in (0..=DAY_TIER).rev() {
            let seconds =
                usize::try_from(TIERS[usize::from(tier)].1.as_secs()).unwrap_or(usize::MAX);
            if let Some(rest) = sum.checked_sub(seconds)
                && fewest[rest].0.saturating_add(1) < best.0
            {
                best = (fewest[rest].0.saturating_add(1), tier);
            }
        }
        fewest.push(best);
    }
    fewest
}

fn tiers_of(fewest: &[(u8, u8)], sum: usize) -> Vec<u8> {
    let mut tiers = Vec::new();
    let mut rest = sum;
    while rest > 0 {
        let tier = fewest[rest].1;
        tiers.push(tier);
        rest -= usize::try_from(TIERS[usize::from(tier)].1.as_secs()).unwrap_or(rest);
    }
    tiers.sort_unstable_by(|a, b| b.cmp(a));
    tiers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(DAY_SECONDS as u64);

    fn path(delay: Duration) -> TierPath {
        match plan(delay) {
            Plan::Tiers(path) => path,
            Plan::InPlace(_) => panic!("{delay:?} waits in place"),
        }
    }

    fn assert_bound(delay: Duration, path: &TierPath) {
        let wait = path.total_wait();
        let bound = (delay + delay / 20).max(delay + Duration::from_secs(1));
        assert!(wait >= delay && wait <= bound, "{delay:?} waits {wait:?}");
        let days = usize::try_from(delay.as_secs()).expect("fits") / DAY_SECONDS;
        let rest = path.tiers().len() - days.min(path.tiers().len());
        let below_a_day = delay - DAY * u32::try_from(days).expect("fits");
        let steep = below_a_day > Duration::from_secs(8) && below_a_day <= Duration::from_secs(86);
        let most = if steep { TIERS_BELOW_A_DAY_MAX } else { 5 };
        assert!(rest <= most, "{delay:?} takes {rest} tiers after the days");
        assert!(path.tiers().is_sorted_by(|a, b| a >= b), "longest first");
    }

    #[test]
    fn every_second_of_two_days_and_few_paths() {
        let (mut paths, mut long) = (BTreeSet::new(), 0);
        for second in 1..=2 * DAY.as_secs() {
            let delay = Duration::from_secs(second);
            let path = path(delay);
            assert_bound(delay, &path);
            if delay <= DAY {
                long += usize::from(second > 86 && path.tiers().len() > 4);
                paths.insert(path);
            }
        }
        assert!(paths.len() <= 250, "{} paths", paths.len());
        assert!(long <= 2_000, "{long} delays take five tiers");
    }

    #[test]
    fn every_tier_is_its_own_path() {
        for (tier, (name, delay)) in (0u8..).zip(TIERS) {
            assert_eq!(path(delay).tiers(), [tier], "{name}");
        }
    }

    #[test]
    fn what_is_under_a_second_waits_in_place() {
        for ms in [0, 1, 999] {
            let delay = Duration::from_millis(ms);
            assert_eq!(plan(delay), Plan::InPlace(delay));
        }
        assert_eq!(path(Duration::from_secs(1)).tiers(), [0]);
        let total = path(Duration::from_nanos(1_000_000_001)).total_wait();
        assert_eq!(total, Duration::from_secs(2), "rounded up, never early");
    }

    #[test]
    fn whole_days_come_first() {
        let ms = path(2 * DAY + Duration::from_secs(3600)).to_wire();
        assert_eq!(ms, [DAY_MS, DAY_MS, 3_600_000]);
        assert_eq!(path(Duration::MAX).tiers().len(), 400, "cut, no overflow");
    }

    #[test]
    fn stored_forms() {
        assert_eq!(TierPath::from_wire(&[]), None);
        assert_eq!(TierPath::from_wire(&[1000, 1001]), None);
        let six = path(Duration::from_secs(6));
        assert_eq!(six.to_wire(), [5000, 1000]);
        assert_eq!((six.tier(1), six.tier(2)), (Some(0), None));
        // Stored data outlives code: these may only change together with the ladder.
        assert_eq!(path(Duration::from_secs(7)).to_wire(), [5000, 1000, 1000]);
        assert_eq!(path(Duration::from_secs(10)).to_wire(), [5000, 5000]);
    }

    proptest! {
        #[test]
        fn the_bound_holds(ns in 1_000_000_000u64..40 * DAY_MS * 1_000_000) {
            let delay = Duration::from_nanos(ns);
            let path = path(delay);
            assert_bound(delay, &path);
            prop_assert_eq!(TierPath::from_wire(&path.to_wire()), Some(path));
        }

        #[test]
        fn longer_delays_never_wait_shorter(ms in 1_000u64..3 * DAY_MS, more in 0u64..100_000) {
            let wait = |ms| plan(Duration::from_millis(ms)).total_wait();
            prop_assert!(wait(ms + more) >= wait(ms));
        }
    }
}
