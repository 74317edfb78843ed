//! Endpoints are tried: by test sends, and by the verification that a webhook asks for before it is saved or goes live.

use std::time::Duration;

use hookline_tests::api::{Answer, Api};
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use serde_json::{Value, json};

use super::{shop, webhook};
use crate::promises::event;

both_engines!(
    a_test_is_sent_and_told_whatever_the_receiver_says,
    an_endpoint_that_fails_its_verification_is_not_saved,
    sms_gateway_webhooks_go_live_once_a_test_has_passed,
    applied_files_are_verified_before_anything_is_written,
);

const ALL: &str = "/v1/projects/shop/webhooks";
const WITHIN: Duration = Duration::from_secs(20);

fn header<'a>(shown: &'a Value, name: &str) -> Option<&'a str> {
    let headers = shown["headers"].as_array().expect("headers");
    let found = headers.iter().find(|header| header["name"] == name)?;
    found["value"].as_str()
}

async fn a_test_is_sent_and_told_whatever_the_receiver_says(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let catalog = admin
        .send(
            "POST",
            "/v1/projects/shop/event-types:load",
            &json!({"preset": "vidcorp"}),
        )
        .await;
    assert_eq!(catalog.status, 200, "{}", catalog.body);
    let mut document = webhook("crm", &receiver.url("/ok/saved"));
    document["events"] = json!(["message_delivered", "message_opened"]);
    document["headers"] = json!({"x-tenant": "42"});
    let made = admin.send("POST", ALL, &document).await.expect(201);

    // An event type's example, marked in body and header, and told exactly as it was sent.
    let one = format!("{ALL}/crm:test");
    let test = json!({"event_type": "message_opened"});
    let told = admin.send("POST", &one, &test).await.expect(200);
    assert_eq!(told["outcome"], "delivered", "{told}");
    assert_eq!(
        (&told["status"], &told["error_class"]),
        (&json!(200), &Value::Null)
    );
    let [request] = receiver.at("/ok/saved").try_into().expect("one request");
    assert_eq!(request.header("hookline-test"), Some("true"));
    assert_eq!(request.header("x-tenant"), Some("42"));
    let body = request.json();
    assert_eq!(
        (&body["test"], &body["type"]),
        (&json!(true), &json!("message_opened"))
    );
    let example = admin
        .get("/v1/projects/shop/event-types/message_opened")
        .await;
    assert_eq!(body["data"], example["example"]);
    crate::promises::assert_signed(&request, made["secret"].as_str().expect("shown once"));
    assert_eq!(
        told["request"]["body"].as_str().map(str::as_bytes),
        Some(&*request.body)
    );
    for name in [
        "webhook-id",
        "webhook-signature",
        "x-tenant",
        "hookline-test",
    ] {
        assert_eq!(
            header(&told["request"], name),
            request.header(name),
            "{name}"
        );
    }
    assert!(
        told["timings"]["answer_ms"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0),
        "{told}"
    );

    // Without a choice it is the first type; a given event is sent as it is.
    let told = admin.send("POST", &one, &json!({})).await.expect(200);
    assert_eq!(told["event_type"], "message_delivered");
    let given = json!({"event": {"type": "mine", "data": {"n": 7}}});
    let told = admin.send("POST", &one, &given).await.expect(200);
    assert_eq!(told["event_type"], "mine");
    let last = receiver.at("/ok/saved").pop().expect("came").json();
    assert_eq!(last["data"], json!({"n": 7}));

    // Failures are told with their class; nothing is saved, nothing retried.
    let unsaved = format!("{ALL}:test");
    let at = |url: &str| json!({"webhook": {"url": url, "events": ["*"], "deadline": "1s"}});
    for (path, status, class) in [
        ("/status/503/x", 503, "status"),
        ("/status/302/x", 302, "redirect"),
    ] {
        let told = admin
            .send("POST", &unsaved, &at(&receiver.url(path)))
            .await
            .expect(200);
        assert_eq!(
            (&told["outcome"], &told["status"]),
            (&json!("failed"), &json!(status))
        );
        assert_eq!(told["error_class"], class, "{told}");
        assert_eq!(receiver.count(path), 1);
    }
    let slow = admin
        .send("POST", &unsaved, &at(&receiver.url("/hang/x")))
        .await
        .expect(200);
    assert_eq!(
        (&slow["status"], &slow["error_class"]),
        (&Value::Null, &json!("timeout"))
    );
    let closed = format!("http://127.0.0.1:{}/", hookline_tests::program::free_port());
    let closed = admin.send("POST", &unsaved, &at(&closed)).await.expect(200);
    assert_eq!(closed["error_class"], "conn_refused", "{closed}");
    let listed = admin.get(ALL).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));

    // What is wrong is named where it stands; the guard judges here too.
    let inside = admin.send("POST", &unsaved, &at("https://10.0.0.1/")).await;
    assert_eq!(
        (inside.status, inside.fields()),
        (422, vec!["webhook.url"]),
        "{}",
        inside.body
    );
    let both = json!({"event_type": "a", "event": {"type": "b", "data": 1}});
    let both = admin.send("POST", &one, &both).await;
    assert_eq!((both.status, both.fields()), (422, vec!["event_type"]));
    let bad = json!({"event": {"data": 1}});
    let bad = admin.send("POST", &one, &bad).await;
    assert_eq!(
        (bad.status, bad.fields()),
        (422, vec!["event.type"]),
        "{}",
        bad.body
    );
    let viewer = Api::with_role(&site, &program, "viewer", None).await;
    assert_eq!(viewer.send("POST", &one, &json!({})).await.status, 403);
}

/// A webhook of that name, URL and verification.
fn verified(name: &str, url: &str, kind: &str) -> Value {
    let mut document = webhook(name, url);
    document["verification"] = kind.into();
    document
}

async fn an_endpoint_that_fails_its_verification_is_not_saved(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let save = async |path: &str, kind: &str| -> Answer {
        let name = path.trim_matches('/').replace('/', "-");
        let document = verified(&format!("{kind}-{name}"), &receiver.url(path), kind);
        admin.send("POST", ALL, &document).await
    };
    // VidCorp: servers that do not know HEAD still exist. eSputnik: saved, and the code is shown.
    for (path, kind, saved) in [
        ("/status/405/a", "head", true),
        ("/status/404/a", "head", false),
        ("/status/410/a", "head", false),
        ("/status/500/a", "head", false),
        ("/ok/b", "get", true),
        ("/status/403/b", "get", true),
        ("/ok/c", "test", true),
        ("/status/500/c", "test", false),
        ("/echo/d", "challenge", true),
        ("/ok/d", "challenge", false),
        ("/allow/120/e", "handshake", true),
        ("/ok/e", "handshake", false),
    ] {
        let answer = save(path, kind).await;
        let request = receiver.at(path).pop().expect("the endpoint was tried");
        let method = match kind {
            "head" => "HEAD",
            "get" => "GET",
            "handshake" => "OPTIONS",
            _ => "POST",
        };
        assert_eq!(request.method, method, "{kind}");
        if !saved {
            assert_eq!(answer.status, 422, "{path} {kind}: {}", answer.body);
            let attempt = &answer.body["attempt"];
            assert_eq!(attempt["request"]["method"], method, "{}", answer.body);
            assert!(attempt["response"]["status"].is_u64(), "{}", answer.body);
            assert!(
                answer.body["detail"]
                    .as_str()
                    .is_some_and(|d| d.contains(kind))
            );
            continue;
        }
        let body = answer.expect(201);
        let result = &body["verification_result"];
        let passed = path != "/status/403/b";
        assert_eq!(result["passed"], passed, "{path} {kind}: {result}");
        assert_eq!(body["verification"], kind);
    }
    let shown = admin.get(ALL).await;
    assert_eq!(shown["items"].as_array().map(Vec::len), Some(6), "{shown}");

    // As long as it is about the same endpoint nothing is tried again; another URL is.
    let hook = format!("{ALL}/test-ok-c");
    let tried = receiver.count("/ok/c");
    let title = json!({"title": "C"});
    assert_eq!(admin.send("PATCH", &hook, &title).await.status, 200);
    assert_eq!(receiver.count("/ok/c"), tried);
    let moved = json!({"url": receiver.url("/status/500/moved")});
    let refused = admin.send("PATCH", &hook, &moved).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let now = admin.get(&hook).await;
    assert!(
        now["url"]
            .as_str()
            .is_some_and(|url| url.ends_with("/ok/c")),
        "{now}"
    );
}

async fn sms_gateway_webhooks_go_live_once_a_test_has_passed(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let receiver = Receiver::start().await;
    let mut document = webhook("sms", &receiver.url("/status/500/sms"));
    document["preset"] = "sms-gateway".into();
    let made = admin.send("POST", ALL, &document).await.expect(201);
    assert_eq!(made["state"], "inactive", "{made}");
    assert_eq!(receiver.count("/"), 0, "saved without a test");
    let (activate, test) = (format!("{ALL}/sms:activate"), format!("{ALL}/sms:test"));
    assert_eq!(admin.send("POST", &activate, &json!({})).await.status, 409);
    let failed = admin.send("POST", &test, &json!({})).await.expect(200);
    assert_eq!(failed["outcome"], "failed");
    assert_eq!(admin.send("POST", &activate, &json!({})).await.status, 409);
    receiver.answer("/status/500/sms", 204);
    let passed = admin.send("POST", &test, &json!({})).await.expect(200);
    assert_eq!(passed["outcome"], "delivered");
    let live = admin.send("POST", &activate, &json!({})).await.expect(200);
    assert_eq!(live["state"], "active");
    site.publish(&[event("sms.reply", "1", "{}")]).await;
    let count = || receiver.count("/status/500/sms");
    at_least("requests", 3, WITHIN, count).await;
    let last = receiver.at("/status/500/sms").pop().expect("came");
    assert_eq!(last.header("hookline-test"), None);
}

async fn applied_files_are_verified_before_anything_is_written(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = Api::with_role(&site, &program, "admin", None).await;
    let receiver = Receiver::start().await;
    let document = |name: &str, path: &str, kind: &str| {
        let url = receiver.url(path);
        format!(
            "kind: Webhook\nproject: shop\nname: {name}\nurl: {url}\nevents: ['*']\nverification: {kind}\n---\n"
        )
    };
    let arguments = ["apply", "-f", "-"];
    let good = document("good", "/ok/good", "head");
    let bad = document("bad", "/status/500/bad", "test");
    let refused = site.run(&arguments, &format!("{good}{bad}")).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("webhook shop/bad: the endpoint did not pass its verification (test)"),
        "{said}"
    );
    assert!(
        said.contains("500") && said.contains("nothing was applied"),
        "{said}"
    );
    assert_eq!(admin.ask("GET", "/v1/projects/shop").await.status, 404);
    let shown = document("shown", "/status/403/shown", "get");
    let applied = site.apply(&format!("{good}{shown}")).await;
    assert!(applied.contains("verification (get) failed"), "{applied}");
    assert_eq!(receiver.count("/ok/good"), 2);
    site.apply(&good).await;
    assert_eq!(receiver.count("/ok/good"), 2, "it has passed already");
}
