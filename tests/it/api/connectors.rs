//! Connectors: their credentials are on the requests of whoever uses them, and nowhere else.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::at_least;
use serde_json::{Value, json};

use super::{shop, webhook};
use crate::promises::event;

both_engines!(
    requests_carry_the_credentials_of_their_connector,
    a_connector_is_kept_while_it_is_used_and_its_secret_is_shown_to_nobody,
    connectors_are_applied_with_the_webhooks_that_use_them,
);

const CONNECTORS: &str = "/v1/projects/shop/connectors";
const WEBHOOKS: &str = "/v1/projects/shop/webhooks";
const WITHIN: Duration = Duration::from_secs(20);

/// What every secret of these tests has in it.
const HUSH: &str = "hush";

async fn sent(site: &Site, receiver: &Receiver, path: &str, id: &str) -> Received {
    let before = receiver.count(path);
    site.publish(&[event("order.paid", id, "{}")]).await;
    came(receiver, path, before + 1).await
}

/// The last request at a path, once so many have come.
async fn came(receiver: &Receiver, path: &str, count: usize) -> Received {
    at_least(path, count, WITHIN, || receiver.count(path)).await;
    receiver.at(path).pop().expect("it came")
}

async fn requests_carry_the_credentials_of_their_connector(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let connectors = [
        json!({"name": "basic", "type": "basic", "username": "hook", "password": "hush: pässword"}),
        json!({"name": "bearer", "type": "bearer", "token": "hush.token"}),
        json!({"name": "header", "type": "api-key", "header": "X-Api-Key", "key": "hush key"}),
        json!({"name": "query", "type": "api-key", "query": "api_key", "key": "hush&key=1"}),
    ];
    for connector in &connectors {
        let made = admin.send("POST", CONNECTORS, connector).await.expect(201);
        assert!(!made.to_string().contains(HUSH), "{made}");
        let name = connector["name"].as_str().expect("a name");
        let mut document = webhook(name, &receiver.url(&format!("/ok/{name}?a=b")));
        document["connector"] = name.into();
        // In the place of what the webhook itself has there.
        document["headers"] = json!({"authorization": "mine"});
        drop(admin.send("POST", WEBHOOKS, &document).await.expect(201));
    }
    let carried = |request: &Received| {
        let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
        (header("authorization"), header("x-api-key"))
    };
    let basic = sent(&site, &receiver, "/ok/basic", "1").await;
    // base64 of `hook:hush: pässword` in UTF-8.
    assert_eq!(carried(&basic).0, "Basic aG9vazpodXNoOiBww6Rzc3dvcmQ=");
    assert_eq!(
        carried(&came(&receiver, "/ok/bearer", 1).await).0,
        "Bearer hush.token"
    );
    let header = carried(&came(&receiver, "/ok/header", 1).await);
    assert_eq!(header, ("mine".to_owned(), "hush key".to_owned()));
    let query = came(&receiver, "/ok/query", 1).await;
    assert_eq!(query.path, "/ok/query?a=b&api_key=hush%26key%3D1");

    // A new secret is on the next request; a webhook that changes over takes the other's.
    let other = json!({"token": "hush.other"});
    let bearer = format!("{CONNECTORS}/bearer");
    let patched = admin.send("PATCH", &bearer, &other).await.expect(200);
    assert!(!patched.to_string().contains(HUSH), "{patched}");
    let again = sent(&site, &receiver, "/ok/bearer", "2").await;
    assert_eq!(carried(&again).0, "Bearer hush.other");
    let none = json!({"connector": "none"});
    let one = format!("{WEBHOOKS}/bearer");
    drop(admin.send("PATCH", &one, &none).await.expect(200));
    let plain = sent(&site, &receiver, "/ok/bearer", "3").await;
    assert_eq!(carried(&plain).0, "mine");

    // Tests carry them, too, and do not tell them.
    for name in ["basic", "header", "query"] {
        let test = format!("{WEBHOOKS}/{name}:test");
        let told = admin.send("POST", &test, &json!({})).await.expect(200);
        assert_eq!(told["outcome"], "delivered", "{told}");
        assert!(!told.to_string().contains(HUSH), "{told}");
        let last = receiver.at(&format!("/ok/{name}")).pop().expect("it came");
        let secret = carried(&last) != ("mine".to_owned(), String::new());
        assert!(secret || last.path.contains("hush"), "{last:?}");
    }
    // Nothing that people see has them.
    assert!(!program.log().contains(HUSH), "the log tells a secret");
    let tail = site.succeed(&["get", "connectors", "--output", "json"], "");
    assert!(!tail.await.contains(HUSH));
    assert!(program.stop().await.success());
}

async fn a_connector_is_kept_while_it_is_used_and_its_secret_is_shown_to_nobody(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    refusals(&admin).await;
    let spec = json!({"name": "login", "type": "basic", "username": "a", "password": "hush"});
    let made = admin.send("POST", CONNECTORS, &spec).await;
    assert_eq!(
        made.header("location"),
        "/v1/projects/shop/connectors/login"
    );
    let etag = made.header("etag").to_owned();
    drop(made.expect(201));
    let one = format!("{CONNECTORS}/login");
    let shown = admin.get(&one).await;
    assert_eq!(
        (&shown["type"], &shown["username"], &shown["password"]),
        (&json!("basic"), &json!("a"), &Value::Null)
    );
    assert_eq!(admin.get(CONNECTORS).await["items"], json!([shown]));

    // The same again changes nothing; without a secret it keeps its own, but not one of another type.
    let again = admin.send("PUT", &one, &spec).await.expect(200);
    assert_eq!(again, shown);
    let renamed = json!({"type": "basic", "username": "b"});
    let renamed = admin.send("PUT", &one, &renamed).await.expect(200);
    assert_eq!(renamed["secret_at"], shown["secret_at"]);
    let refused = admin.send("PUT", &one, &json!({"type": "bearer"})).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["token"]));
    let condition = [("if-match", etag.as_str())];
    let late = admin.call("DELETE", &one, &condition, "").await.unwrap();
    assert_eq!(late.status, 412, "{}", late.body);

    // Used, it stays.
    let mut document = webhook("crm", "http://127.0.0.1:9/x");
    document["connector"] = "missing".into();
    let refused = admin.send("POST", WEBHOOKS, &document).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["connector"]));
    document["connector"] = "login".into();
    let made = admin.send("POST", WEBHOOKS, &document).await.expect(201);
    assert_eq!(made["connector"], "login");
    let used = admin.send("DELETE", &one, &Value::Null).await;
    assert_eq!(used.status, 409);
    assert!(used.body["detail"].as_str().unwrap().contains("crm"));
    let crm = format!("{WEBHOOKS}/crm");
    let deleted = admin.send("DELETE", &crm, &Value::Null).await;
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    let deleted = admin.send("DELETE", &one, &Value::Null).await;
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    // What used it cannot come back without it.
    let uid = json!({"uid": made["uid"]});
    let back = admin
        .send("POST", &format!("{WEBHOOKS}/crm:restore"), &uid)
        .await;
    assert_eq!((back.status, back.fields()), (422, vec!["connector"]));
    roles(&site, &program).await;
    assert!(program.stop().await.success());
}

async fn refusals(admin: &Api) {
    for (wrong, fields) in [
        (json!({"name": "x"}), vec!["type"]),
        (json!({"name": "x", "type": "mtls"}), vec!["type"]),
        (json!({"name": "x", "type": "bearer"}), vec!["token"]),
        (
            json!({"name": "X", "type": "basic", "token": "hush"}),
            vec!["name", "token", "username"],
        ),
    ] {
        let refused = admin.send("POST", CONNECTORS, &wrong).await;
        assert_eq!(refused.status, 422, "{wrong}: {}", refused.body);
        assert_eq!(refused.fields(), fields, "{}", refused.body);
        assert!(!refused.body.to_string().contains(HUSH));
    }
}

async fn roles(site: &Site, program: &Program) {
    let spec = json!({"name": "theirs", "type": "bearer", "token": "hush"});
    for (role, status) in [("viewer", 403), ("publisher", 403), ("manager", 201)] {
        let api = Api::with_role(site, program, role, Some("shop")).await;
        let made = api.send("POST", CONNECTORS, &spec).await;
        assert_eq!(made.status, status, "{role}: {}", made.body);
    }
    let viewer = Api::with_role(site, program, "viewer", Some("shop")).await;
    let shown = viewer.get(&format!("{CONNECTORS}/theirs")).await;
    assert_eq!(shown["type"], "bearer");
}

async fn connectors_are_applied_with_the_webhooks_that_use_them(engine: Engine) {
    let site = Site::new(engine).await;
    let receiver = Receiver::start().await;
    let url = receiver.url("/ok/verified");
    // VIDIZMO's test connection: the endpoint is tried with the credentials before anything is written.
    let documents = format!(
        "kind: Webhook\nproject: shop\nname: crm\nurl: {url}\nevents: [\"*\"]\nverification: test\nconnector: login\n---\nkind: Connector\nproject: shop\nname: login\ntype: bearer\ntoken: hush.applied\n"
    );
    let printed = site.apply(&documents).await;
    assert!(
        printed.contains("created connector shop/login"),
        "{printed}"
    );
    let tried = receiver.at("/ok/verified");
    assert_eq!(tried.len(), 1);
    assert_eq!(
        tried[0].header("authorization"),
        Some("Bearer hush.applied")
    );
    let printed = site.apply(&documents).await;
    assert!(
        printed.contains("unchanged connector shop/login"),
        "{printed}"
    );
    let arguments = ["get", "connectors", "login", "--output", "json"];
    let shown: Value = serde_json::from_str(&site.succeed(&arguments, "").await).unwrap();
    assert_eq!(
        (&shown["type"], &shown["token"]),
        (&json!("bearer"), &Value::Null)
    );
}
