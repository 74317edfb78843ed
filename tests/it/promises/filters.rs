//! A webhook with a filter gets exactly the events that it wants.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use serde_json::json;

use super::{assert_each_once, event, events, webhook};

both_engines!(
    only_wanted_events_arrive,
    a_filter_that_cannot_be_read_is_refused_where_it_stands,
);

const WITHIN: Duration = Duration::from_secs(30);

async fn only_wanted_events_arrive(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let (picky, all) = (receiver.url("/ok/picky"), receiver.url("/ok/all"));
    let documents = [
        webhook("all", &all, ""),
        webhook("picky", &picky, "filter: event.data.n >= 7\n"),
        webhook(
            "unsure",
            &receiver.url("/ok/unsure"),
            "filter: event.data.m > 1\n",
        ),
    ];
    site.apply(&documents.concat()).await;
    let program = site.start().await;
    site.publish(&events("order", 10)).await;
    let arrived = |path: &'static str| {
        let receiver = &receiver;
        move || receiver.count(path)
    };
    at_least("all", 10, WITHIN, arrived("/ok/all")).await;
    at_least("picky", 3, WITHIN, arrived("/ok/picky")).await;

    // Another filter decides about what comes from then on, and a test is sent whatever it says.
    site.apply(&webhook(
        "picky",
        &picky,
        "filter: event.id == \"late\" || event.key == \"x\"\n",
    ))
    .await;
    site.publish(&events("other", 5)).await;
    site.publish(&[event("order", "late", "[1]")]).await;
    at_least("all", 16, WITHIN, arrived("/ok/all")).await;
    at_least("picky", 4, WITHIN, arrived("/ok/picky")).await;
    let admin = Api::with_role(&site, &program, "admin", None).await;
    let test = "/v1/projects/shop/webhooks/picky:test";
    let sent = admin
        .send("POST", test, &json!({"event_type": "order"}))
        .await;
    assert_eq!(sent.expect(200)["outcome"], "delivered");
    assert_eq!(receiver.count("/ok/picky"), 5);
    // Without one it gets everything again.
    site.apply(&webhook("picky", &picky, "filter: none\n"))
        .await;
    site.publish(&[event("order", "last", "{}")]).await;
    at_least("picky", 6, WITHIN, arrived("/ok/picky")).await;

    assert_each_once(&receiver.at("/ok/picky"), 6);
    assert_eq!(receiver.count("/ok/unsure"), 0);
    let counted = async |name| program.metric(name, "").await;
    assert_eq!(counted("hookline_fanout_filter_errors_total").await, 17.0);
    assert_eq!(counted("hookline_fanout_filtered_total").await, 17.0 + 12.0);
    assert!(program.log().contains("the event has no `m`"));
    assert!(program.stop().await.success());
}

async fn a_filter_that_cannot_be_read_is_refused_where_it_stands(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let bad = webhook(
        "bad",
        "https://a.example.com/",
        "filter: event.data.n > limit\n",
    );
    let refused = site.run(&["apply", "-f", "-"], &bad).await;
    assert!(!refused.status.success(), "{refused:?}");
    let told = String::from_utf8_lossy(&refused.stderr);
    let expected = "filter: column 16: there is no variable `limit`";
    assert!(told.contains(expected), "{told}");

    site.apply(&webhook(
        "good",
        "https://a.example.com/",
        "filter: event.data.n > 7\n",
    ))
    .await;
    let get = [
        "get",
        "webhook",
        "good",
        "--project",
        "shop",
        "--output",
        "json",
    ];
    let shown = site.succeed(&get, "").await;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["filter"], "event.data.n > 7");

    let admin = Api::with_role(&site, &program, "admin", None).await;
    let one = "/v1/projects/shop/webhooks/good";
    for wrong in ["event.data.n >", "size(", "matches()", &"(".repeat(5000)] {
        let refused = admin.send("PATCH", one, &json!({"filter": wrong})).await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.fields(), ["filter"], "{}", refused.body);
    }
    assert_eq!(admin.get(one).await["filter"], "event.data.n > 7");
    let changed = admin.send("PATCH", one, &json!({"filter": null})).await;
    assert_eq!(changed.expect(200)["filter"], "none");
    assert!(program.stop().await.success());
}
