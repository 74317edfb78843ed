//! Events of a range of time are sent to a webhook again.

use std::time::Duration;

use hookline_model::time::Clock as _;
use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site, SystemClock};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use serde_json::{Value, json};

use super::{JOBS, WITHIN, comes_to, made, written};
use crate::promises::{assert_each_once, by_id, events, webhook};

both_engines!(
    a_range_is_replayed_to_one_webhook,
    a_range_that_is_not_kept_is_refused,
);

/// A moment that is later than everything before and earlier than everything after.
async fn now() -> String {
    tokio::time::sleep(Duration::from_millis(20)).await;
    let now = SystemClock.now().to_rfc3339();
    tokio::time::sleep(Duration::from_millis(20)).await;
    now
}

async fn a_range_is_replayed_to_one_webhook(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let first = webhook("first", &receiver.url("/ok/first"), "events: [\"order.*\"]");
    site.apply(&first).await;
    site.publish(&events("order.before", 10)).await;
    let from = now().await;
    site.publish(&events("order.paid", 30)).await;
    site.publish(&events("other", 5)).await;
    let to = now().await;
    site.publish(&events("order.after", 10)).await;
    at_least("all", 50, WITHIN, || receiver.count("/ok/first")).await;
    // One that came later, and wants only some of them.
    let late = "events: [\"order.*\"]\nfilter: event.data.n >= 10";
    site.apply(&webhook("late", &receiver.url("/ok/late"), late))
        .await;
    let range = json!({"from": from, "to": to});
    let body = json!({"kind": "replay", "webhook": "late", "filter": range});
    let job = comes_to(&api, &made(&api, &body).await, "done").await;
    assert_eq!(written(&job), 20, "{job}");
    at_least("those", 20, WITHIN, || receiver.count("/ok/late")).await;
    assert_each_once(&receiver.at("/ok/late"), 20);
    let types = receiver.at("/ok/late");
    assert!(types.iter().all(|r| r.json()["type"] == "order.paid"));
    // To the one that had them already they come again, under the same ids.
    let flags = ["--webhook", "first", "--from", &from, "--to", &to];
    let all = [
        &["replay", "--project", "shop", "--output", "json"],
        &flags[..],
    ];
    let printed = site.succeed(&all.concat(), "").await;
    let job: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((written(&job), &job["status"]), (30, &json!("done")));
    at_least("those", 80, WITHIN, || receiver.count("/ok/first")).await;
    let counts = by_id(&receiver.at("/ok/first"));
    assert_eq!(counts.len(), 50);
    assert_eq!(counts.values().filter(|n| **n == 2).count(), 30);
    assert!(program.stop().await.success());
}

async fn a_range_that_is_not_kept_is_refused(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    site.apply(&webhook("crm", &receiver.url("/ok/crm"), ""))
        .await;
    let before = now().await;
    site.publish(&events("gone", 10)).await;
    at_least("all", 10, WITHIN, || receiver.count("/ok/crm")).await;
    let after = now().await;
    site.publish(&events("kept", 10)).await;
    at_least("all", 20, WITHIN, || receiver.count("/ok/crm")).await;
    let replay = async |from: &str| {
        let body = json!({"kind": "replay", "webhook": "crm", "filter": {"from": from}});
        api.send("POST", JOBS, &body).await
    };
    // Further back than any event is kept for.
    let refused = replay("2020-01-01T00:00:00Z").await;
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["filter.from"])
    );
    let job = replay(&before).await.expect(201);
    let job = comes_to(&api, job["id"].as_str().unwrap(), "done").await;
    assert_eq!(written(&job), 20, "{job}");
    // The first ones go.
    let (journal, topic) = (site.journal().await, site.topic("events"));
    for partition in 0..2 {
        if journal.end(&topic, partition).await.unwrap() >= 20 {
            journal.delete_records(&topic, partition, 10).await.unwrap();
        }
    }
    let refused = replay(&before).await;
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["filter.from"])
    );
    let kept_from = refused.body["kept_from"].as_str().unwrap().to_owned();
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains(&kept_from)
    );
    assert!(kept_from > after, "{kept_from} is later than {after}");
    let job = replay(&kept_from).await.expect(201);
    let job = comes_to(&api, job["id"].as_str().unwrap(), "done").await;
    assert_eq!(written(&job), 10, "{job}");
    at_least("those, too", 50, WITHIN, || receiver.count("/ok/crm")).await;
    let nobody = json!({"kind": "replay", "webhook": "nobody"});
    assert_eq!(api.send("POST", JOBS, &nobody).await.fields(), ["webhook"]);
    assert!(program.stop().await.success());
}
