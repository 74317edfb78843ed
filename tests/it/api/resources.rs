//! Projects, webhooks and event types are made, read, changed, listed, deleted and restored.

use std::collections::BTreeSet;
use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use serde_json::json;

use super::{shop, webhook};
use crate::promises::{assert_signed, event};

both_engines!(
    a_webhook_lives_from_its_making_to_its_restoring,
    every_field_that_is_wrong_is_named_at_once,
    lists_are_read_page_by_page,
    a_catalog_is_kept_over_http,
    states_and_secrets_change_by_name,
);

const WITHIN: Duration = Duration::from_secs(20);

async fn a_webhook_lives_from_its_making_to_its_restoring(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let all = "/v1/projects/shop/webhooks";
    let made = admin
        .send("POST", all, &webhook("crm", "https://crm.example.com/"))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.header("location"), "/v1/projects/shop/webhooks/crm");
    assert_eq!(made.header("etag"), "\"1\"");
    let secret = made.body["secret"].as_str().expect("shown once");
    assert!(secret.starts_with("whsec_"));
    let uid = made.body["uid"].clone();
    let again = admin
        .send("POST", all, &webhook("crm", "https://crm.example.com/"))
        .await;
    assert_eq!(again.status, 409, "{}", again.body);

    let one = "/v1/projects/shop/webhooks/crm";
    let read = admin.get(one).await;
    assert_eq!((&read["uid"], &read["state"]), (&uid, &json!("active")));
    assert!(read.get("secret").is_none(), "{read}");
    // What was read is taken back as it is, and changes nothing.
    let back = admin.send_if("PUT", one, "\"1\"", &read).await;
    assert_eq!(
        (back.status, back.header("etag")),
        (200, "\"1\""),
        "{}",
        back.body
    );

    let changed = admin
        .send_if(
            "PATCH",
            one,
            "\"1\"",
            &json!({"title": "CRM", "retry": {"schedule": {"fixed": {"delay": "5s", "times": 2}}}}),
        )
        .await;
    assert_eq!(
        (changed.status, changed.header("etag")),
        (200, "\"2\""),
        "{}",
        changed.body
    );
    assert_eq!(
        changed.body["retry"]["schedule"],
        json!({"fixed": {"delay": "5s", "times": 2}})
    );
    let stale = admin
        .send_if("PATCH", one, "\"1\"", &json!({"title": "other"}))
        .await;
    assert_eq!(stale.status, 412, "{}", stale.body);
    let last_wins = admin.send("PATCH", one, &json!({"title": "other"})).await;
    assert_eq!(last_wins.status, 200);

    assert_eq!(admin.ask("DELETE", one).await.status, 204);
    assert_eq!(admin.ask("GET", one).await.status, 404);
    assert_eq!(admin.ask("DELETE", one).await.status, 404);
    let deleted = admin.get(&format!("{all}?deleted=true")).await;
    assert_eq!(deleted["items"][0]["uid"], uid, "{deleted}");

    // Its name is used by another one: then it cannot come back.
    let other = admin
        .send("PUT", one, &webhook("crm", "https://new.example.com/"))
        .await;
    assert_eq!(other.status, 201, "{}", other.body);
    assert_ne!(other.body["uid"], uid, "a uid is never used again");
    let restore = format!("{one}:restore");
    let taken = admin.send("POST", &restore, &json!({"uid": uid})).await;
    assert_eq!(taken.status, 409, "{}", taken.body);
    assert_eq!(admin.ask("DELETE", one).await.status, 204);
    let restored = admin
        .send("POST", &restore, &json!({"uid": uid}))
        .await
        .expect(200);
    assert_eq!(
        (&restored["uid"], &restored["title"]),
        (&uid, &json!("other"))
    );
    let deleted = admin.get(&format!("{all}?deleted=true")).await;
    let left: Vec<_> = deleted["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["uid"].clone())
        .collect();
    assert_eq!(left, [other.body["uid"].clone()]);

    let in_use = admin.ask("DELETE", "/v1/projects/shop").await;
    assert_eq!(in_use.status, 409, "{}", in_use.body);
    assert_eq!(admin.ask("DELETE", one).await.status, 204);
    assert_eq!(admin.ask("DELETE", "/v1/projects/shop").await.status, 204);
    assert_eq!(admin.ask("GET", all).await.status, 404);
}

async fn every_field_that_is_wrong_is_named_at_once(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let all = "/v1/projects/shop/webhooks";
    let wrong = json!({
        "name": "No Slug", "url": "ftp://x", "events": [], "deadline": "99h", "colour": "red",
        "headers": {"host": "x"}, "retry": {"jitter": 7}, "project": "other",
    });
    let refused = admin.send("POST", all, &wrong).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let fields: BTreeSet<_> = refused.fields().into_iter().collect();
    let expected = [
        "name",
        "url",
        "events",
        "deadline",
        "colour",
        "headers.host",
        "retry.jitter",
        "project",
    ];
    assert_eq!(fields, expected.into_iter().collect(), "{}", refused.body);
    for member in ["type", "title", "status", "detail"] {
        assert!(refused.body.get(member).is_some(), "{member}");
    }
    // The guard judges URLs here as it does before every attempt.
    let inside = admin
        .send("POST", all, &webhook("in", "https://10.0.0.1/"))
        .await;
    assert_eq!(
        (inside.status, inside.fields()),
        (422, vec!["url"]),
        "{}",
        inside.body
    );

    let text = admin
        .call("POST", all, &[("content-type", "text/plain")], "{}")
        .await
        .unwrap();
    assert_eq!(text.status, 415);
    let broken = admin.call("POST", all, &[], "{").await.unwrap();
    assert_eq!(broken.status, 400);
    let large = admin
        .call("POST", all, &[], vec![b' '; 2 << 20])
        .await
        .unwrap();
    assert_eq!(large.status, 413);
    let condition = admin
        .send_if(
            "PUT",
            &format!("{all}/crm"),
            "yesterday",
            &webhook("crm", "https://x.example.com"),
        )
        .await;
    assert_eq!(
        (condition.status, condition.fields()),
        (400, vec!["If-Match"])
    );
    let parameter = admin.ask("GET", &format!("{all}?limit=0")).await;
    assert_eq!((parameter.status, parameter.fields()), (400, vec!["limit"]));
    let mistyped = admin.ask("GET", &format!("{all}?limmit=1")).await;
    assert_eq!(mistyped.status, 400, "{}", mistyped.body);
    assert_eq!(admin.ask("PUT", all).await.status, 405);
    assert_eq!(
        admin
            .ask("POST", &format!("{all}/crm:explode"))
            .await
            .status,
        404
    );
}

async fn lists_are_read_page_by_page(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let all = "/v1/projects/shop/webhooks";
    for n in 0..7 {
        let made = admin
            .send(
                "POST",
                all,
                &webhook(&format!("w{n}"), "https://x.example.com/"),
            )
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let mut names = Vec::new();
    let mut path = format!("{all}?limit=3");
    let cursor = loop {
        let page = admin.get(&path).await;
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|w| w["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            None => break path.split("cursor=").nth(1).unwrap().to_owned(),
            Some(cursor) => path = format!("{all}?limit=3&cursor={cursor}"),
        }
    };
    assert_eq!(names, ["w0", "w1", "w2", "w3", "w4", "w5", "w6"]);
    // A cursor belongs to its list.
    assert_eq!(
        admin
            .send("POST", "/v1/projects", &json!({"id": "other"}))
            .await
            .status,
        201
    );
    let foreign = admin
        .ask(
            "GET",
            &format!("/v1/projects/other/webhooks?cursor={cursor}"),
        )
        .await;
    assert_eq!((foreign.status, foreign.fields()), (400, vec!["cursor"]));
}

async fn a_catalog_is_kept_over_http(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let types = "/v1/projects/shop/event-types";
    let loaded = admin
        .send(
            "POST",
            &format!("{types}:load"),
            &json!({"preset": "vidcorp"}),
        )
        .await;
    assert_eq!(
        loaded.expect(200),
        json!({"created": 16, "revived": 0, "kept": 0})
    );
    let page = admin.get(&format!("{types}?limit=100")).await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(16));
    let own = json!({"name": "order.paid", "category": "Order", "schema": {"required": ["total"]}, "example": {"total": 1}});
    assert_eq!(admin.send("POST", types, &own).await.status, 201);
    assert_eq!(admin.send("POST", types, &own).await.status, 409);
    let one = format!("{types}/order.paid");
    let wrong = admin
        .send("PATCH", &one, &json!({"example": {"sum": 1}}))
        .await;
    assert_eq!(
        (wrong.status, wrong.fields()),
        (422, vec!["example.total"]),
        "{}",
        wrong.body
    );
    let changed = admin
        .send("PATCH", &one, &json!({"title": "Paid"}))
        .await
        .expect(200);
    assert_eq!(
        (&changed["title"], &changed["category"]),
        (&json!("Paid"), &json!("Order"))
    );
    assert_eq!(admin.ask("DELETE", &one).await.status, 204);
    assert_eq!(admin.ask("GET", &one).await.status, 404);

    let presets = admin.get("/v1/presets").await;
    assert_eq!(presets["items"].as_array().map(Vec::len), Some(6));
    let wooxy = admin.get("/v1/presets/wooxy").await;
    assert_eq!(wooxy["event_types"].as_array().map(Vec::len), Some(43));
    let preset = admin
        .send(
            "PATCH",
            "/v1/projects/shop",
            &json!({"preset": "wooxy", "title": "Shop"}),
        )
        .await;
    assert_eq!(preset.expect(200)["event_types_created"], 43);
    let described = hookline_tests::api::Api::new(&program, None)
        .get("/v1/openapi.json")
        .await;
    assert_eq!(described["openapi"], "3.1.0");
}

async fn states_and_secrets_change_by_name(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let made = admin
        .send(
            "POST",
            "/v1/projects/shop/webhooks",
            &webhook("crm", &receiver.url("/crm")),
        )
        .await
        .expect(201);
    let first = made["secret"].as_str().unwrap().to_owned();
    let one = "/v1/projects/shop/webhooks/crm";
    let act = |action: &str| format!("{one}:{action}");

    // Both secrets sign, until the old one is over.
    let rotated = admin
        .send("POST", &act("rotate-secret"), &json!({"overlap": "1h"}))
        .await
        .expect(200);
    let second = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(rotated["secrets"].as_array().map(Vec::len), Some(2));
    site.publish(&[event("a.b", "1", "{}")]).await;
    at_least("requests", 1, WITHIN, || receiver.count("/crm")).await;
    let request = &receiver.at("/crm")[0];
    assert_signed(request, &first);
    assert_signed(request, &second);
    let rotated = admin
        .send("POST", &act("rotate-secret"), &json!({"overlap": "0s"}))
        .await
        .expect(200);
    let third = rotated["secret"].as_str().unwrap().to_owned();
    site.publish(&[event("a.b", "2", "{}")]).await;
    at_least("requests", 2, WITHIN, || receiver.count("/crm")).await;
    let request = &receiver.at("/crm")[1];
    assert_signed(request, &third);
    let signatures = request.header("webhook-signature").unwrap();
    assert_eq!(
        signatures.split(' ').count(),
        1,
        "the old ones are over: {signatures}"
    );

    // A paused webhook keeps its sends; a deactivated one's are cancelled, and nothing new comes.
    let paused = admin
        .send("POST", &act("pause"), &json!({"reason": "moving house"}))
        .await
        .expect(200);
    assert_eq!(
        (&paused["state"], &paused["state_reason"]),
        (&json!("paused"), &json!("moving house"))
    );
    site.publish(&[event("a.b", "3", "{}")]).await;
    assert_eq!(
        admin.ask("POST", &act("resume")).await.expect(200)["state"],
        "active"
    );
    at_least("requests", 3, WITHIN, || receiver.count("/crm")).await;
    let off = admin.ask("POST", &act("deactivate")).await.expect(200);
    assert_eq!(off["state"], "inactive");
    let not_paused = admin.ask("POST", &act("resume")).await;
    assert_eq!(not_paused.status, 409, "{}", not_paused.body);
    site.publish(&[event("a.b", "4", "{}")]).await;
    assert_eq!(
        admin.ask("POST", &act("activate")).await.expect(200)["state"],
        "active"
    );
    site.publish(&[event("a.b", "5", "{}")]).await;
    at_least("requests", 4, WITHIN, || receiver.count("/crm")).await;
    let bodies: Vec<_> = receiver
        .at("/crm")
        .iter()
        .map(|r| r.webhook_id().to_owned())
        .collect();
    assert_eq!(
        bodies.iter().collect::<BTreeSet<_>>().len(),
        4,
        "4 came while it was off"
    );
}
