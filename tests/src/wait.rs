//! Waiting on conditions instead of sleeping.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds. Panics with `what` and the last thing seen when it does not within `within`.
///
/// # Panics
/// When the time is up.
pub async fn eventually<T: Debug, F>(what: &str, within: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = Result<(), T>>,
{
    let deadline = Instant::now() + within;
    loop {
        match condition().await {
            Ok(()) => return,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}; last seen: {seen:?}")
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Waits until a number reaches `at_least` and returns it.
///
/// # Panics
/// When the time is up.
pub async fn at_least(
    what: &str,
    at_least: usize,
    within: Duration,
    mut count: impl FnMut() -> usize,
) -> usize {
    let deadline = Instant::now() + within;
    loop {
        let seen = count();
        if seen >= at_least {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {seen} of {at_least} within {within:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
