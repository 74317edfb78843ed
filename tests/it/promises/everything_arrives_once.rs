//! Everything published arrives, once, signed, and byte for byte.

use std::collections::BTreeSet;
use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;

use super::{assert_each_once, assert_signed, by_id, event, secrets, webhook};

both_engines!(
    everything_published_arrives_once,
    a_repeated_event_identity_is_dropped,
    a_change_of_a_webhook_takes_effect_within_a_second,
);

const TYPES: [&str; 4] = [
    "user.signup",
    "email.message.opened",
    "email.message.clicked",
    "order",
];

async fn everything_published_arrives_once(engine: Engine) {
    const COUNT: usize = 1000;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let flaky =
        "events: [\"email.message.opened\"]\nretry: {schedule: {list: [1s, 1s]}, jitter: 0}";
    let printed = site
        .apply(
            &[
                webhook("all", &receiver.url("/ok/all"), ""),
                webhook("mail", &receiver.url("/ok/mail"), "events: [\"email.*\"]"),
                webhook("one", &receiver.url("/ok/one"), "events: [order]"),
                webhook("flaky", &receiver.url("/flaky/1/opened"), flaky),
                webhook(
                    "none",
                    &receiver.url("/ok/none"),
                    "events: [\"other.*\", \"user\"]",
                ),
            ]
            .concat(),
        )
        .await;
    let secrets = secrets(&printed);
    assert_eq!(secrets.len(), 5, "{printed}");
    let program = site.start().await;
    // Spacing and order of keys would not survive a parse.
    let data = |n: usize| format!(r#"{{"z": {n},  "a": [1.0, "é\u00e9"]}}"#);
    let events: Vec<_> = (0..COUNT)
        .map(|n| event(TYPES[n % 4], &format!("e{n}"), &data(n)))
        .collect();
    for part in events.chunks(400) {
        site.publish(part).await;
    }
    let within = Duration::from_secs(30);
    at_least("/ok/all", COUNT, within, || receiver.count("/ok/all")).await;
    at_least("/ok/mail", COUNT / 2, within, || receiver.count("/ok/mail")).await;
    at_least("/ok/one", COUNT / 4, within, || receiver.count("/ok/one")).await;
    at_least("/flaky", COUNT / 2, within, || receiver.count("/flaky")).await;
    // A repeat would come now, if one came.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let all = receiver.at("/ok/all");
    assert_each_once(&all, COUNT);
    assert_each_once(&receiver.at("/ok/mail"), COUNT / 2);
    assert_each_once(&receiver.at("/ok/one"), COUNT / 4);
    let flaky = by_id(&receiver.at("/flaky"));
    assert_eq!(flaky.len(), COUNT / 4);
    assert!(flaky.values().all(|n| *n == 2), "once refused, once taken");
    assert_eq!(receiver.count("/ok/none"), 0);

    let mut numbers = BTreeSet::new();
    for request in &all {
        assert_eq!(request.method, "POST");
        assert_eq!(request.header("hookline-attempt"), Some("1"));
        assert_signed(request, &secrets[0]);
        let body = request.json();
        let n = usize::try_from(body["data"]["z"].as_u64().unwrap()).unwrap();
        assert!(numbers.insert(n), "event {n} came twice");
        assert_eq!(body["type"], TYPES[n % 4]);
        assert!(body["timestamp"].is_string());
        let text = String::from_utf8(request.body.to_vec()).unwrap();
        assert!(text.contains(&data(n)), "the data is as published: {text}");
    }
    for request in receiver.at("/ok/one") {
        assert_signed(&request, &secrets[2]);
    }
    assert!(program.metric("hookline_fanout_events_total", "").await >= 1000.0);
    let delivered = program
        .metric("hookline_dispatch_attempts_total", "outcome=\"delivered\"")
        .await;
    assert!((delivered - 2000.0).abs() < 0.5, "{delivered} delivered");
    assert!(program.stop().await.success());
}

async fn a_repeated_event_identity_is_dropped(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("all", &receiver.url("/ok/all"), ""))
        .await;
    let program = site.start().await;
    // With the same key, so that they meet in one partition.
    let same = event("order", "same", "{}");
    site.publish(&[same.clone(), same.clone()]).await;
    site.publish(&[same, event("order", "last", "{}")]).await;
    at_least("both", 2, Duration::from_secs(20), || {
        receiver.count("/ok/all")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_each_once(&receiver.at("/ok/all"), 2);
    let repeated = program
        .metric("hookline_fanout_events_total", "repeated")
        .await;
    assert!((repeated - 2.0).abs() < 0.5, "{repeated} repeats counted");
    assert!(program.stop().await.success());
}

async fn a_change_of_a_webhook_takes_effect_within_a_second(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("moving", &receiver.url("/ok/before"), ""))
        .await;
    let program = site.start().await;
    site.publish(&[event("order", "1", "{}")]).await;
    let within = Duration::from_secs(20);
    at_least("/ok/before", 1, within, || receiver.count("/ok/before")).await;
    let printed = site
        .apply(&webhook("moving", &receiver.url("/ok/after"), ""))
        .await;
    assert_eq!(
        secrets(&printed).len(),
        0,
        "a secret is shown once: {printed}"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.publish(&[event("order", "2", "{}")]).await;
    at_least("/ok/after", 1, within, || receiver.count("/ok/after")).await;
    assert_eq!(receiver.count("/ok/before"), 1);
    assert!(program.stop().await.success());
}
