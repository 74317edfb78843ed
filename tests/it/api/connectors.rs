//! Connectors: their credentials are on the requests of whoever uses them, and nowhere else.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::receiver::{CLIENT_CERTIFICATE, Received, Receiver};
use hookline_tests::tls::Authority;
use hookline_tests::wait::at_least;
use serde_json::{Value, json};

use super::{shop, webhook};
use crate::promises::event;

both_engines!(
    requests_carry_the_credentials_of_their_connector,
    a_token_is_had_once_shared_and_dropped_when_it_is_refused,
    each_webhook_shows_its_own_certificate,
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

async fn a_token_is_had_once_shared_and_dropped_when_it_is_refused(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let mut login = json!({
        "name": "login", "type": "oauth2", "token_url": receiver.url("/token/login"),
        "client_id": "hookline", "client_secret": HUSH, "scopes": "send read",
    });
    let made = admin.send("POST", CONNECTORS, &login).await.expect(201);
    assert!(!made.to_string().contains(HUSH), "{made}");
    assert_eq!(made["scopes"], json!(["send", "read"]));
    for name in ["a", "b"] {
        let mut document = webhook(name, &receiver.url(&format!("/ok/{name}")));
        document["connector"] = "login".into();
        document["retry"] = json!({"schedule": {"list": ["100ms", "100ms", "1s"]}});
        drop(admin.send("POST", WEBHOOKS, &document).await.expect(201));
    }
    let lines: Vec<_> = (0..50)
        .map(|n| event("order.paid", &format!("many-{n}"), "{}"))
        .collect();
    site.publish(&lines).await;
    for path in ["/ok/a", "/ok/b"] {
        at_least(path, 50, WITHIN, || receiver.count(path)).await;
    }
    let tokens = receiver.at("/token/");
    assert_eq!(tokens.len(), 1, "one request for all of them");
    // base64 of `hookline:hush`
    let basic = tokens[0].header("authorization");
    assert_eq!(basic, Some("Basic aG9va2xpbmU6aHVzaA=="));
    assert_eq!(
        tokens[0].body,
        "grant_type=client_credentials&scope=send+read"
    );
    for request in receiver.at("/ok/") {
        assert_eq!(request.header("authorization"), Some("Bearer token-1"));
    }

    // An endpoint that takes the token no more: that attempt has failed, and the next one has another token.
    let url = json!({"url": receiver.url("/with-token/2/a")});
    let one = format!("{WEBHOOKS}/a");
    drop(admin.send("PATCH", &one, &url).await.expect(200));
    let tail = site.tail();
    site.publish(&[event("order.paid", "refused", "{}")]).await;
    at_least("attempts", 2, WITHIN, || receiver.count("/with-token/")).await;
    let answers: Vec<_> = receiver
        .at("/with-token/")
        .iter()
        .map(|r| r.answered)
        .collect();
    assert_eq!(answers, [401, 200]);
    at_least("delivered", 1, WITHIN, || {
        let outcomes = tail.outcomes("a");
        outcomes.iter().filter(|o| *o == "delivered").count()
    })
    .await;

    // A token server that refuses: the attempt fails and says why, and nothing reaches the endpoint.
    receiver.answer("/token/", 403);
    login["client_secret"] = "hush too".into();
    let path = format!("{CONNECTORS}/login");
    drop(admin.send("PUT", &path, &login).await.expect(200));
    let before = receiver.count("/ok/b");
    let tested = admin
        .send("POST", &format!("{WEBHOOKS}/b:test"), &json!({}))
        .await
        .expect(200);
    assert_eq!(tested["error_class"], "auth_failed", "{tested}");
    assert_eq!(
        tested["error_detail"],
        "connector login: the token server answered with 403"
    );
    assert_eq!(receiver.count("/ok/b"), before);
    // The guard judges where tokens are had as it does where events go.
    let metadata = json!({"token_url": "http://169.254.169.254/token"});
    let refused = admin.send("PATCH", &path, &metadata).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["token_url"]));
    assert!(!program.log().contains(HUSH), "the log tells a secret");
    assert!(program.stop().await.success());
}

async fn each_webhook_shows_its_own_certificate(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let authority = Authority::new();
    let receiver = Receiver::start_tls(authority.server_of_known("127.0.0.1")).await;
    for name in ["a", "b"] {
        let (certificate, key) = authority.client(name);
        let connector = json!({
            "name": name, "type": "mtls", "certificate": certificate, "private_key": key,
        });
        let made = admin.send("POST", CONNECTORS, &connector).await.expect(201);
        assert_eq!(made["certificate"], certificate);
        assert_eq!(made.get("private_key"), None);
        let mut document = webhook(name, &receiver.url(&format!("/ok/{name}")));
        document["connector"] = name.into();
        document["trusted_ca"] = authority.pem().into();
        drop(admin.send("POST", WEBHOOKS, &document).await.expect(201));
        let other = json!({"private_key": authority.client(name).1});
        let wrong = admin
            .send("PATCH", &format!("{CONNECTORS}/{name}"), &other)
            .await;
        assert_eq!((wrong.status, wrong.fields()), (422, vec!["private_key"]));
    }
    let lines: Vec<_> = (0..20)
        .map(|n| event("order.paid", &format!("tls-{n}"), "{}"))
        .collect();
    site.publish(&lines).await;
    for name in ["a", "b"] {
        let path = format!("/ok/{name}");
        at_least(&path, 20, WITHIN, || receiver.count(&path)).await;
        let connector = admin.get(&format!("{CONNECTORS}/{name}")).await;
        let pem = connector["certificate"].as_str().expect("text");
        let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
        for request in receiver.at(&path) {
            assert_eq!(request.header(CLIENT_CERTIFICATE), Some(&*body));
        }
    }
    // Without the certificate, or without the authority, the way is closed, and says why. In TLS 1.3 a server says what it misses when the client
    // has begun to speak already, so that its words may be lost with the connection.
    for (change, classes) in [
        (
            json!({"connector": "none"}),
            &["tls_client_cert_required", "conn_closed", "conn_reset"][..],
        ),
        (json!({"trusted_ca": "none"}), &["tls_unknown_ca"]),
    ] {
        let one = format!("{WEBHOOKS}/a");
        drop(admin.send("PATCH", &one, &change).await.expect(200));
        let tested = admin.send("POST", &format!("{one}:test"), &json!({})).await;
        let tested = tested.expect(200);
        let class = tested["error_class"].as_str().unwrap_or_default();
        assert!(classes.contains(&class), "{tested}");
    }
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
        (json!({"name": "x", "type": "password"}), vec!["type"]),
        (json!({"name": "x", "type": "mtls"}), vec!["certificate"]),
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
