//! Publishing over HTTP: 202 is durable, a repeated request is one event, and refusals say why.

use std::collections::BTreeSet;
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use serde_json::json;

use super::{shop, webhook};

both_engines!(
    what_was_accepted_arrives_once_however_often_it_was_sent,
    what_is_refused_is_named,
    a_project_publishes_no_faster_than_it_may,
);

const WITHIN: Duration = Duration::from_secs(30);
const EVENTS: &str = "/v1/projects/shop/events";

async fn what_was_accepted_arrives_once_however_often_it_was_sent(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let hook = webhook("crm", &receiver.url("/crm"));
    assert_eq!(
        admin
            .send("POST", "/v1/projects/shop/webhooks", &hook)
            .await
            .status,
        201
    );
    let publisher = Api::with_role(&site, &program, "publisher", Some("shop")).await;

    let short =
        r#"{"type": "order.paid", "data": {"total": 1.50}, "key": "o-1", "contact": {"id": "7"}}"#;
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        let headers = [("idempotency-key", "pay-1")];
        let answer = publisher
            .call("POST", EVENTS, &headers, short)
            .await
            .unwrap()
            .expect(202);
        ids.insert(answer["ids"].to_string());
    }
    assert_eq!(ids.len(), 1, "the same id each time: {ids:?}");
    let list = json!([
        {"specversion": "1.0", "id": "c1", "source": "/s", "type": "a.b", "data": {"n": 1}},
        {"specversion": "1.0", "id": "c2", "source": "/s", "type": "a.b", "data": {"n": 2}},
    ]);
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let answer = publisher
        .call("POST", EVENTS, &headers, list.to_string())
        .await
        .unwrap()
        .expect(202);
    assert_eq!(answer["ids"], json!(["c1", "c2"]));
    let one = list[0].to_string();
    let headers = [("content-type", "application/cloudevents+json")];
    let answer = publisher
        .call("POST", EVENTS, &headers, one)
        .await
        .unwrap()
        .expect(202);
    assert_eq!(answer["ids"], json!(["c1"]));
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "b1"),
        ("ce-source", "/s"),
        ("ce-type", "a.binary"),
    ];
    let answer = publisher
        .call("POST", EVENTS, &binary, "{\"n\":  3}")
        .await
        .unwrap();
    assert_eq!(answer.expect(202)["ids"], json!(["b1"]));

    // One more behind them all in their partition, and they have all been looked at.
    at_least("requests", 4, WITHIN, || receiver.count("/crm")).await;
    let last = json!({"type": "last", "data": 1, "key": "o-1"});
    assert_eq!(publisher.send("POST", EVENTS, &last).await.status, 202);
    at_least("requests", 5, WITHIN, || receiver.count("/crm")).await;
    let bodies: Vec<_> = receiver
        .at("/crm")
        .iter()
        .map(|r| String::from_utf8_lossy(&r.body).into_owned())
        .collect();
    assert_eq!(bodies.len(), 5, "{bodies:?}");
    assert!(
        bodies
            .iter()
            .any(|b| b.contains("\"data\":{\"total\": 1.50}")),
        "byte for byte: {bodies:?}"
    );
    assert!(
        bodies.iter().any(|b| b.contains("\"data\":{\"n\":  3}")),
        "byte for byte: {bodies:?}"
    );
}

async fn what_is_refused_is_named(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let send = |body: String| admin.call("POST", EVENTS, &[], body);
    let refused = send("{}".into()).await.unwrap();
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["type"]),
        "{}",
        refused.body
    );
    let foreign =
        json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "project": "other"});
    let refused = send(foreign.to_string()).await.unwrap();
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["project"]),
        "{}",
        refused.body
    );
    let list = json!([{"type": "a.b", "data": 1}, {"data": 1}, 7]);
    let refused = send(list.to_string()).await.unwrap();
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["[1].type", "[2]"])
    );
    let large = json!({"type": "a.b", "data": "x".repeat(800 * 1024)});
    assert_eq!(send(large.to_string()).await.unwrap().status, 413);
    assert_eq!(send("x".repeat(5 << 20)).await.unwrap().status, 413);
    let text = admin
        .call("POST", EVENTS, &[("content-type", "text/plain")], "hello")
        .await
        .unwrap();
    assert_eq!(text.status, 415, "{}", text.body);
    let nowhere = admin
        .send(
            "POST",
            "/v1/projects/none/events",
            &json!({"type": "a", "data": 1}),
        )
        .await;
    assert_eq!(nowhere.status, 404, "{}", nowhere.body);

    // A strict project takes what its catalog describes.
    let strict = json!({"strict": true});
    assert_eq!(
        admin
            .send("PATCH", "/v1/projects/shop", &strict)
            .await
            .status,
        200
    );
    let own = json!({"name": "order.paid", "schema": {"type": "object", "required": ["total"]}});
    assert_eq!(
        admin
            .send("POST", "/v1/projects/shop/event-types", &own)
            .await
            .status,
        201
    );
    let unknown = send(json!({"type": "order.lost", "data": {}}).to_string())
        .await
        .unwrap();
    assert_eq!(
        (unknown.status, unknown.fields()),
        (422, vec!["type"]),
        "{}",
        unknown.body
    );
    let wrong = send(json!({"type": "order.paid", "data": {}}).to_string())
        .await
        .unwrap();
    assert_eq!(wrong.status, 422, "{}", wrong.body);
    let right = send(json!({"type": "order.paid", "data": {"total": 1}}).to_string())
        .await
        .unwrap();
    assert_eq!(right.status, 202, "{}", right.body);
}

async fn a_project_publishes_no_faster_than_it_may(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let limit = json!({"rate_limit": "3/h"});
    assert_eq!(
        admin
            .send("PATCH", "/v1/projects/shop", &limit)
            .await
            .status,
        200
    );
    let event = json!({"type": "a.b", "data": 1});
    eventually("the limit holds", Duration::from_secs(5), || async {
        match admin.send("POST", EVENTS, &event).await {
            answer if answer.status == 429 => {
                let seconds: u64 = answer.header("retry-after").parse().unwrap();
                assert!((1..=3600).contains(&seconds), "{seconds}");
                Ok(())
            }
            answer => Err(answer.status),
        }
    })
    .await;
    let unlimited = json!({"rate_limit": "none"});
    assert_eq!(
        admin
            .send("PATCH", "/v1/projects/shop", &unlimited)
            .await
            .status,
        200
    );
    assert_eq!(admin.send("POST", EVENTS, &event).await.status, 202);
}
