//! A retry schedule is honoured: so many attempts, never early, and not much late.

use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::at_least;

use super::{event, events, webhook};

both_engines!(
    a_list_of_delays_is_honoured,
    an_exponential_schedule_grows_to_its_cap,
    a_rest_starts_the_schedule_over,
    retry_after_is_honoured,
    many_retries_are_never_early,
);

const MS: fn(u64) -> Duration = Duration::from_millis;
/// On a machine that runs other tests beside this one; `make bench` measures the real figure.
const LATE: Duration = Duration::from_millis(1500);
/// The receiver reads its own clock, a little after the end of the attempt before and before the start of this one.
const GRAIN: Duration = Duration::from_millis(2);

/// The spans between consecutive requests.
fn gaps(received: &[Received]) -> Vec<Duration> {
    let pairs = received.windows(2);
    pairs.map(|pair| pair[1].at - pair[0].at).collect()
}

#[track_caller]
fn assert_gaps(received: &[Received], expected: &[Duration]) {
    let gaps = gaps(received);
    assert_eq!(gaps.len(), expected.len(), "{gaps:?}");
    for (gap, expected) in gaps.iter().zip(expected) {
        assert!(
            *gap + GRAIN >= *expected,
            "early: {gaps:?}, expected {expected:?}"
        );
        assert!(
            *gap <= *expected + LATE,
            "late: {gaps:?}, expected {expected:?}"
        );
    }
    let numbers: Vec<_> = received
        .iter()
        .filter_map(|r| r.header("hookline-attempt"))
        .collect();
    let counted: Vec<_> = (1..=received.len()).map(|n| n.to_string()).collect();
    assert_eq!(numbers, counted, "attempts count from 1");
    let id = received[0].webhook_id();
    assert!(
        received.iter().all(|r| r.webhook_id() == id),
        "one webhook-id"
    );
}

/// Applies a webhook with this policy, publishes one event and waits for so many requests, and for a moment longer.
async fn requests(engine: Engine, path: &str, retry: &str, count: usize) -> Vec<Received> {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let retry = format!("retry: {{jitter: 0, {retry}}}");
    site.apply(&webhook("w", &receiver.url(path), &retry)).await;
    let program = site.start().await;
    site.publish(&[event("order", "1", "{}")]).await;
    at_least(path, count, Duration::from_secs(30), || {
        receiver.count(path)
    })
    .await;
    tokio::time::sleep(MS(1200)).await;
    assert!(program.stop().await.success());
    receiver.at(path)
}

async fn a_list_of_delays_is_honoured(engine: Engine) {
    let received = requests(
        engine,
        "/status/500/list",
        "schedule: {list: [1s, 2s, 300ms]}",
        4,
    )
    .await;
    assert_gaps(&received, &[MS(1000), MS(2000), MS(300)]);
}

async fn an_exponential_schedule_grows_to_its_cap(engine: Engine) {
    let schedule = "schedule: {exponential: {initial: 500ms, factor: 2, cap: 1s, times: 3}}";
    let received = requests(engine, "/status/503/exp", schedule, 4).await;
    assert_gaps(&received, &[MS(500), MS(1000), MS(1000)]);
}

async fn a_rest_starts_the_schedule_over(engine: Engine) {
    // 1 + 1 attempts, rest, 1 + 1 attempts, then no more.
    let policy = "schedule: {fixed: {delay: 200ms, times: 1}}, rest: {after: 2s, cycles: 1}";
    let received = requests(engine, "/status/500/rest", policy, 4).await;
    assert_gaps(&received, &[MS(200), MS(2000), MS(200)]);
}

async fn retry_after_is_honoured(engine: Engine) {
    let policy = "schedule: {fixed: {delay: 1s, times: 2}}, retry_after: {honour: true, cap: 1h}";
    let received = requests(engine, "/retry-after/3/once", policy, 2).await;
    assert_gaps(&received, &[MS(3000)]);
}

async fn many_retries_are_never_early(engine: Engine) {
    const COUNT: usize = 200;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let retry = "retry: {jitter: 0.2, schedule: {list: [1s, 2s]}}";
    site.apply(&webhook("w", &receiver.url("/flaky/2/many"), retry))
        .await;
    let program = site.start().await;
    site.publish(&events("order", COUNT)).await;
    let within = Duration::from_secs(40);
    at_least("three attempts each", 3 * COUNT, within, || {
        receiver.count("/flaky")
    })
    .await;
    let mut by_delivery = std::collections::BTreeMap::<_, Vec<_>>::new();
    for request in receiver.all() {
        by_delivery
            .entry(request.webhook_id().to_owned())
            .or_default()
            .push(request);
    }
    assert_eq!(by_delivery.len(), COUNT);
    for received in by_delivery.values() {
        let gaps = gaps(received);
        assert!(
            gaps[0] + GRAIN >= MS(1000) && gaps[1] + GRAIN >= MS(2000),
            "early: {gaps:?}"
        );
        // Composed delays may be rounded up by a second, jitter adds a fifth.
        assert!(
            gaps[0] <= MS(2200) + LATE && gaps[1] <= MS(3400) + LATE,
            "late: {gaps:?}"
        );
    }
    let observed = program
        .metric("hookline_tiers_lateness_seconds_count", "")
        .await;
    assert!(observed >= 1.0, "lateness is measured");
    assert!(program.stop().await.success());
}
