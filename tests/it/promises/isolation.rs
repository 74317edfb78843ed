//! A dead endpoint delays no other.

use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use tokio::time::Instant;

use super::{assert_each_once, events, webhook};

both_engines!(dead_endpoints_delay_no_other);

async fn dead_endpoints_delay_no_other(engine: Engine) {
    const COUNT: usize = 500;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let slow = "deadline: 5s\nretry: {schedule: {list: [1m]}}";
    let refused = format!("http://127.0.0.1:{}/", hookline_tests::program::free_port());
    let documents = [
        webhook("hanging", &receiver.url("/hang/1"), slow),
        webhook("hanging-too", &receiver.url("/hang/2"), slow),
        webhook(
            "failing",
            &receiver.url("/status/500/1"),
            "retry: {schedule: {list: [1s, 1s, 1s]}}",
        ),
        webhook(
            "refusing",
            &refused,
            "retry: {schedule: {list: [1s, 1s, 1s]}}",
        ),
        webhook("healthy", &receiver.url("/ok/healthy"), ""),
    ];
    site.apply(&documents.concat()).await;
    let program = site.start().await;
    // Wave by wave, while the dead ones hold all that they may hold.
    let mut slowest = Duration::ZERO;
    for (n, wave) in events("order", COUNT).chunks(100).enumerate() {
        site.publish(wave).await;
        let published = Instant::now();
        let expected = 100 * (n + 1);
        at_least("the healthy one", expected, Duration::from_secs(10), || {
            receiver.count("/ok")
        })
        .await;
        slowest = slowest.max(published.elapsed());
    }
    assert!(slowest < Duration::from_secs(3), "a wave took {slowest:?}");
    assert_each_once(&receiver.at("/ok"), COUNT);
    assert!(
        receiver.count("/hang") >= 16,
        "the dead ones were tried: {}",
        receiver.count("/hang")
    );
    // One that only fails is tried again and again, one request at a time.
    let tried = receiver.count("/status");
    assert!(tried >= 50, "the failing one was tried: {tried}");
    let stopping = Instant::now();
    assert!(program.stop().await.success());
    let took = stopping.elapsed();
    assert!(
        took < Duration::from_secs(11),
        "deadline and 5 s, but {took:?}"
    );
}
