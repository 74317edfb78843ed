//! Every outcome is reachable, and `tail` shows it.

use std::time::Duration;

use hookline_tests::program::{Engine, Program, Site, Tail};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::eventually;

use super::{event, events, webhook};

both_engines!(
    delivered_failed_exhausted_refused_and_expired_are_seen,
    deactivating_a_webhook_cancels_what_waits,
    a_permanent_answer_deactivates,
    an_inactive_webhook_gets_nothing_and_a_paused_one_later,
);

const WITHIN: Duration = Duration::from_secs(30);

async fn outcomes_are(tail: &Tail, webhook: &str, expected: &[&str]) {
    let check = async || {
        let seen = tail.outcomes(webhook);
        if seen == expected { Ok(()) } else { Err(seen) }
    };
    eventually(
        &format!("the outcomes of {webhook} are {expected:?}"),
        WITHIN,
        check,
    )
    .await;
}

async fn delivered_failed_exhausted_refused_and_expired_are_seen(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let closed = format!("http://127.0.0.1:{}/", hookline_tests::program::free_port());
    let twice = "retry: {jitter: 0, schedule: {list: [200ms, 200ms]}}";
    let dead_on_400 = "retry: {permanent: [{match: [400], then: dead}]}";
    let short_lived =
        "retry: {jitter: 0, schedule: {fixed: {delay: 1s, times: 10}}, max_age: 1500ms}";
    let documents = [
        webhook("good", &receiver.url("/ok/good"), ""),
        webhook("mended", &receiver.url("/flaky/1/mended"), twice),
        webhook("broken", &receiver.url("/status/500/broken"), twice),
        webhook("closed", &closed, twice),
        webhook(
            "refusing",
            &receiver.url("/status/400/refusing"),
            dead_on_400,
        ),
        webhook("aging", &receiver.url("/status/500/aging"), short_lived),
        webhook(
            "slow",
            &receiver.url("/hang/slow"),
            &format!("deadline: 1s\n{twice}"),
        ),
        webhook(
            "picky",
            &receiver.url("/status/204/picky"),
            &format!("success: [200]\n{twice}"),
        ),
    ];
    site.apply(&documents.concat()).await;
    let program = site.start().await;
    let tail = site.tail();
    site.publish(&[event("order", "e1", "{}")]).await;
    let exhausted = ["failed", "failed", "exhausted"];
    outcomes_are(&tail, "good", &["delivered"]).await;
    outcomes_are(&tail, "mended", &["failed", "delivered"]).await;
    outcomes_are(&tail, "broken", &exhausted).await;
    outcomes_are(&tail, "closed", &exhausted).await;
    outcomes_are(&tail, "refusing", &["refused"]).await;
    outcomes_are(&tail, "slow", &exhausted).await;
    outcomes_are(&tail, "picky", &exhausted).await;
    let aged = async || match tail.outcomes("aging").last().map(String::as_str) {
        Some("expired") => Ok(()),
        other => Err(other.map(str::to_owned)),
    };
    eventually("aging expires", WITHIN, aged).await;

    let good = &tail.of("good")[0];
    assert_eq!(good["status"], 200);
    assert_eq!(good["attempt"], 1);
    assert_eq!(good["event_id"], "e1");
    assert_eq!(good["event_type"], "order");
    assert_eq!(
        good["delivery_id"].as_str(),
        Some(receiver.at("/ok/good")[0].webhook_id())
    );
    let class = |webhook: &str| {
        tail.of(webhook)[0]["error_class"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_ne!(class("closed"), "");
    assert_ne!(class("slow"), "");
    assert_ne!(class("closed"), class("slow"));
    assert!(
        tail.of("broken")[0]["next_attempt_at"].is_string(),
        "{:?}",
        tail.of("broken")
    );
    attempts_are_counted(&program).await;
    assert!(program.stop().await.success());
}

async fn attempts_are_counted(program: &Program) {
    for outcome in ["delivered", "failed", "exhausted", "refused", "expired"] {
        let label = format!("outcome=\"{outcome}\"");
        let count = program
            .metric("hookline_dispatch_attempts_total", &label)
            .await;
        assert!(count >= 1.0, "{outcome} is counted");
    }
}

async fn deactivating_a_webhook_cancels_what_waits(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let url = receiver.url("/status/500/w");
    let retry = "retry: {jitter: 0, schedule: {fixed: {delay: 2s, times: 20}}}\n";
    site.apply(&webhook("w", &url, retry)).await;
    let program = site.start().await;
    let tail = site.tail();
    site.publish(&[event("order", "1", "{}")]).await;
    outcomes_are(&tail, "w", &["failed"]).await;
    site.apply(&webhook("w", &url, &format!("{retry}state: inactive\n")))
        .await;
    outcomes_are(&tail, "w", &["failed", "cancelled"]).await;
    assert_eq!(receiver.count("/status/500/w"), 1);
    // Active again, what was cancelled stays so; what is new flows.
    receiver.answer("/status/500/w", 200);
    site.apply(&webhook("w", &url, &format!("{retry}state: active\n")))
        .await;
    site.publish(&[event("order", "2", "{}")]).await;
    outcomes_are(&tail, "w", &["failed", "cancelled", "delivered"]).await;
    assert!(program.stop().await.success());
}

async fn a_permanent_answer_deactivates(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    // The standard preset: 410 says that the receiver is gone for good.
    site.apply(&webhook("gone", &receiver.url("/status/410/gone"), ""))
        .await;
    let program = site.start().await;
    let tail = site.tail();
    site.publish(&[event("order", "1", "{}")]).await;
    outcomes_are(&tail, "gone", &["refused"]).await;
    let inactive = async || {
        let arguments = [
            "get",
            "webhook",
            "gone",
            "--project",
            "shop",
            "--output",
            "json",
        ];
        let printed = site.succeed(&arguments, "").await;
        if printed.contains("inactive") {
            Ok(())
        } else {
            Err(printed)
        }
    };
    eventually("the webhook is inactive", WITHIN, inactive).await;
    site.publish(&events("order", 3)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(receiver.count("/status/410/gone"), 1);
    assert!(program.stop().await.success());
}

async fn an_inactive_webhook_gets_nothing_and_a_paused_one_later(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let (off, paused) = (receiver.url("/ok/off"), receiver.url("/ok/paused"));
    let documents = [
        webhook("off", &off, "state: inactive"),
        webhook("paused", &paused, "state: paused"),
        webhook("on", &receiver.url("/ok/on"), ""),
    ];
    site.apply(&documents.concat()).await;
    let program = site.start().await;
    site.publish(&events("order", 10)).await;
    let on = || receiver.count("/ok/on");
    hookline_tests::wait::at_least("on", 10, WITHIN, on).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        (receiver.count("/ok/off"), receiver.count("/ok/paused")),
        (0, 0)
    );
    let resumed =
        webhook("off", &off, "state: active") + &webhook("paused", &paused, "state: active");
    site.apply(&resumed).await;
    let late = || receiver.count("/ok/paused");
    hookline_tests::wait::at_least("paused", 10, WITHIN, late).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        receiver.count("/ok/off"),
        0,
        "new events are not fanned out to it"
    );
    assert!(program.stop().await.success());
}
