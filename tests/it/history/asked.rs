//! What people ask: lists, filters, pages, single attempts and deliveries, files.

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use serde_json::json;

use super::{attempts, members};
use crate::promises::{event, webhook};

both_engines!(
    attempts_are_found_by_what_is_known_of_them,
    a_page_is_not_disturbed_and_a_cursor_is_of_one_project,
    a_file_has_all_of_them_and_no_cell_is_a_formula,
);

async fn attempts_are_found_by_what_is_known_of_them(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let (good, bad) = (receiver.url("/ok/good"), receiver.url("/status/500/bad"));
    let twice = "retry: {jitter: 0, schedule: {list: [200ms]}}";
    site.apply(&[webhook("good", &good, ""), webhook("bad", &bad, twice)].concat())
        .await;
    let program = site.start().await;
    let about_ann = r#"{"specversion":"1.0","project":"shop","source":"/tests","id":"e1","type":"order","partitionkey":"ann","contactid":"7","contactemail":"ann@example.com","contactphone":"+100","data":{}}"#;
    site.publish(&[about_ann.to_owned(), event("other", "e2", "{}")])
        .await;
    let api = Api::with_role(&site, &program, "viewer", Some("shop")).await;
    let all = attempts(&api, "", 6).await;
    let mut times = members(&all, "started_at");
    times.reverse();
    assert!(times.is_sorted(), "{times:?}");

    let found = attempts(&api, "&webhook=good&event_id=e1", 1).await;
    let one = &found[0];
    assert_eq!(one["outcome"], "delivered");
    assert_eq!((&one["status"], &one["attempt"]), (&json!(200), &json!(1)));
    assert_eq!(one["event_type"], "order");
    assert_eq!(one["event_key"], "ann");
    assert_eq!(one["contact"]["email"], "ann@example.com");
    assert_eq!(one["url"], good);
    assert_eq!(one["request"]["method"], "POST");
    assert!(one["response"]["headers"].is_array(), "{one}");
    let headers = one["request"]["headers"].as_array().unwrap();
    let named = |name: &str| headers.iter().any(|h| h["name"] == name);
    assert!(named("webhook-id") && named("webhook-timestamp"), "{one}");
    let id = one["id"].as_str().unwrap();
    let same = api.get(&format!("/v1/projects/shop/attempts/{id}")).await;
    assert_eq!(same, *one);

    for (query, count) in [
        ("&webhook=bad", 4),
        ("&outcome=failed", 2),
        ("&outcome=exhausted&event_id=e1", 1),
        ("&status=5xx", 4),
        ("&status=500", 4),
        ("&status=4xx", 0),
        ("&error_class=status", 4),
        ("&attempt=2", 2),
        ("&event_type=other", 3),
        ("&key=ann", 3),
        ("&contact=7", 3),
        ("&contact=ann%40example.com", 3),
        ("&contact=ANN%40example.com", 3),
        ("&contact=%2B100", 3),
        ("&contact=nobody", 0),
        ("&from=2000-01-01T00:00:00Z&to=2100-01-01T00:00:00Z", 6),
        ("&to=2000-01-01T00:00:00Z", 0),
    ] {
        attempts(&api, query, count).await;
    }
    attempts(&api, &format!("&endpoint={bad}"), 4).await;
    let delivery = found[0]["delivery_id"].as_str().unwrap();
    attempts(&api, &format!("&delivery={delivery}"), 1).await;

    let ended = attempts(&api, "&outcome=exhausted&event_id=e1", 1).await;
    let delivery = ended[0]["delivery_id"].as_str().unwrap();
    let shown = api
        .get(&format!("/v1/projects/shop/deliveries/{delivery}"))
        .await;
    assert_eq!(shown["outcome"], "exhausted");
    assert_eq!(shown["next_attempt_at"], json!(null));
    assert_eq!(shown["runs"][0]["attempts"], 2);
    let outcomes = members(shown["attempts"].as_array().unwrap(), "outcome");
    assert_eq!(outcomes, ["exhausted", "failed"]);

    for (path, parameter) in [
        ("attempts?outcome=odd", "outcome"),
        ("attempts?status=6", "status"),
        ("attempts?attempt=x", "attempt"),
        ("attempts?from=yesterday", "from"),
        ("attempts?limit=501", "limit"),
        ("attempts?colour=red", "colour"),
        ("attempts/export?format=xml", "format"),
    ] {
        let refused = api.ask("GET", &format!("/v1/projects/shop/{path}")).await;
        assert_eq!(refused.fields(), [parameter], "{}", refused.body);
        assert_eq!(refused.status, 400);
    }
    let unknown = "attempts/dlv_00000000000000000000000000000000.0.1";
    for path in [unknown, "attempts/x", "deliveries/x", "attempts/%00.0.1"] {
        let none = api.ask("GET", &format!("/v1/projects/shop/{path}")).await;
        assert_eq!(none.status, 404, "{path}: {}", none.body);
    }
    let publisher = Api::with_role(&site, &program, "publisher", None).await;
    let refused = publisher.ask("GET", "/v1/projects/shop/attempts").await;
    assert_eq!(refused.status, 403);
    assert!(program.stop().await.success());
}

async fn a_page_is_not_disturbed_and_a_cursor_is_of_one_project(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("good", &receiver.url("/ok/good"), ""))
        .await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "admin", None).await;
    site.publish(&crate::promises::events("order", 25)).await;
    let all = attempts(&api, "", 25).await;
    let first = api.get("/v1/projects/shop/attempts?limit=10").await;
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    assert!(first["kept_from"].is_string(), "{first}");
    site.publish(&crate::promises::events("later", 10)).await;
    attempts(&api, "", 35).await;
    let mut seen = members(first["items"].as_array().unwrap(), "id")
        .iter()
        .map(|id| (*id).to_owned())
        .collect::<Vec<_>>();
    let mut next = Some(cursor.clone());
    while let Some(cursor) = next {
        let path = format!("/v1/projects/shop/attempts?limit=10&cursor={cursor}");
        let page = api.get(&path).await;
        let items = page["items"].as_array().unwrap();
        seen.extend(members(items, "id").iter().map(|id| (*id).to_owned()));
        next = page["next_cursor"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, members(&all, "id"));

    let made = api
        .send("POST", "/v1/projects", &json!({"id": "other"}))
        .await;
    assert_eq!(made.status, 201);
    let foreign = format!("/v1/projects/other/attempts?cursor={cursor}");
    // The base64 of `attempts/shop`, a new line, and something that is no place.
    let forged = "/v1/projects/shop/attempts?cursor=YXR0ZW1wdHMvc2hvcAoxLjIuMyBPUiAx";
    let broken = "/v1/projects/shop/attempts?cursor=x";
    for path in [&foreign, forged, broken] {
        let refused = api.ask("GET", path).await;
        assert_eq!((refused.status, refused.fields()), (400, vec!["cursor"]));
    }
    let id = all[0]["id"].as_str().unwrap();
    let delivery = all[0]["delivery_id"].as_str().unwrap();
    for path in [format!("attempts/{id}"), format!("deliveries/{delivery}")] {
        let none = api.ask("GET", &format!("/v1/projects/other/{path}")).await;
        assert_eq!(none.status, 404);
    }
    let bound = Api::with_role(&site, &program, "viewer", Some("other")).await;
    let none = bound.ask("GET", "/v1/projects/shop/attempts").await;
    assert_eq!(none.status, 404);
    assert!(program.stop().await.success());
}

async fn a_file_has_all_of_them_and_no_cell_is_a_formula(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let printed = site
        .apply(&webhook("good", &receiver.url("/ok/good"), ""))
        .await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    let mut published = crate::promises::events("order", 600);
    published.push(event("order", "=cmd|' /C calc'!A0", "{}"));
    site.publish(&published).await;
    crate::history::attempts(&api, "&event_id=%3Dcmd%7C'%20%2FC%20calc'!A0", 1).await;
    let export = "/v1/projects/shop/attempts/export";
    let lines = async || api.download(export).await.1.lines().count();
    let all = async || match lines().await {
        601 => Ok(()),
        other => Err(other),
    };
    hookline_tests::wait::eventually("all are exported", super::WITHIN, all).await;
    let (headers, json_lines) = api.download(export).await;
    assert_eq!(headers["content-type"], "application/jsonl");
    for line in json_lines.lines() {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(item["outcome"], "delivered");
    }
    let (headers, table) = api.download(&format!("{export}?format=csv")).await;
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/csv")
    );
    assert!(table.starts_with("\"id\",\"delivery_id\","), "{table}");
    assert!(table.contains("\"'=cmd|' /C calc'!A0\""));
    assert!(!table.contains("\"=cmd"));
    let some = format!("{export}?event_id=order-1&webhook=good");
    assert_eq!(api.download(&some).await.1.lines().count(), 1);
    for secret in crate::promises::secrets(&printed) {
        assert!(!table.contains(&secret) && !json_lines.contains(&secret));
    }
    assert!(program.stop().await.success());
}
