//! The events themselves, pulled instead of sent, and what attempts came to.

use std::collections::BTreeSet;
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::eventually;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{WITHIN, attempts, members};
use crate::promises::{event, events, webhook};

both_engines!(
    events_are_pulled_by_what_they_say,
    who_waits_is_answered_when_something_comes,
    who_reads_on_misses_nothing_while_more_comes,
    statistics_say_what_attempts_came_to,
);

const MAIL: &str = "kind: Project\nid: mail\npreset: esputnik\n---\n";

/// As eSputnik's page shows them.
fn activity(id: &str, status: &str, email: &str) -> String {
    let data = json!({
        "iid": "76662EBB-9FD4-4A6A-B1F8-2F594DF9B7B4", "contactId": 295_953_704, "email": email, "activityStatus": status,
        "mediaType": "email", "activityDateTime": "2018-03-01T13:31:52", "messageId": 976_440,
    });
    let event_type = format!("activity.{}", status.to_lowercase());
    json!({
        "specversion": "1.0", "project": "mail", "source": "/mailer", "id": id, "type": event_type, "partitionkey": email,
        "time": "2018-03-01T13:31:52Z", "contactid": "295953704", "contactemail": email, "data": data,
    })
    .to_string()
}

/// Waits until the list has exactly these events, in any order.
async fn shown(api: &Api, project: &str, query: &str, expected: &[&str]) -> Vec<Value> {
    let path = format!("/v1/projects/{project}/activities?limit=500{query}");
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    let look = async || {
        let answer = api.ask("GET", &path).await;
        let items = answer.body["items"].as_array().cloned().unwrap_or_default();
        let ids: BTreeSet<_> = items.iter().filter_map(|i| i["id"].as_str()).collect();
        if answer.status == 200 && ids == expected && ids.len() == items.len() {
            Ok(())
        } else {
            Err(answer)
        }
    };
    eventually(&format!("{query}: {expected:?} are shown"), WITHIN, look).await;
    api.get(&path).await["items"].as_array().unwrap().clone()
}

async fn events_are_pulled_by_what_they_say(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let url = receiver.url("/ok/mail");
    let filtered = "events: [\"activity.*\"]\nfilter: \"event.data.activityStatus == 'SPAM'\"\nstate: inactive\n";
    let some = webhook("some", &url, "events: [activity.read, other]\n");
    let of_mail = [webhook("spam", &url, filtered), some].concat();
    let of_mail = of_mail.replace("project: shop", "project: mail");
    site.apply(&[MAIL.to_owned(), of_mail, webhook("all", &url, "")].concat())
        .await;
    let program = site.start().await;
    let ann = "Ann@Example.com";
    let published = [
        activity("a1", "DELIVERED", ann),
        activity("a2", "READ", ann),
        activity("a3", "READ", "bob@example.com"),
        activity("a4", "SPAM", "bob@example.com"),
        activity("a1", "CLICKED", ann),
        event("order", "o1", r#"{"activityStatus": "READ", "n": 1.50}"#),
        activity("x", "READ", ann).replace("\"mail\"", "\"nowhere\""),
    ];
    site.publish(&published).await;
    let api = Api::with_role(&site, &program, "viewer", Some("mail")).await;
    let all = shown(&api, "mail", "", &["a1", "a2", "a3", "a4"]).await;
    let first = all.iter().find(|item| item["id"] == "a1").unwrap();
    assert_eq!(first["status"], "DELIVERED", "the first one stays: {first}");
    assert_eq!(first["source"], "/mailer");
    assert_eq!(first["type"], "activity.delivered");
    assert_eq!(first["time"], "2018-03-01T13:31:52Z");
    assert_eq!(first["key"], ann);
    assert_eq!(
        first["contact"],
        json!({"id": "295953704", "email": ann, "phone": null})
    );
    assert_eq!(first["data"]["activityDateTime"], "2018-03-01T13:31:52");
    let accepted = first["accepted_at"].as_str().unwrap();
    for (query, expected) in [
        ("&email=ann%40example.com", vec!["a1", "a2"]),
        ("&status=READ", vec!["a2", "a3"]),
        ("&status=READ&email=BOB@example.com", vec!["a3"]),
        ("&status=CLICKED", vec![]),
        ("&type=activity.spam", vec!["a4"]),
        ("&webhook=spam", vec!["a4"]),
        ("&webhook=some", vec!["a2", "a3"]),
        ("&from=2000-01-01T00:00:00Z&to=2000-03-01T00:00:00Z", vec![]),
        (&format!("&to={accepted}&email=ann@example.com"), vec![]),
    ] {
        shown(&api, "mail", query, &expected).await;
    }
    let admin = Api::with_role(&site, &program, "admin", None).await;
    let plain = shown(&admin, "shop", "", &["o1"]).await;
    assert_eq!(plain[0]["status"], json!(null), "shop has no status path");
    for (query, parameter) in [
        ("from=2000-01-01T00:00:00Z", "from"),
        ("from=2026-01-01T00:00:00Z&to=2026-04-01T00:00:01Z", "from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("to=tomorrow", "to"),
        ("wait=61s", "wait"),
        ("wait=long", "wait"),
        ("webhook=nobody", "webhook"),
        ("limit=0", "limit"),
        ("colour=red", "colour"),
    ] {
        let path = format!("/v1/projects/mail/activities?{query}");
        let refused = api.ask("GET", &path).await;
        assert_eq!(refused.fields(), [parameter], "{query}: {}", refused.body);
        assert_eq!(refused.status, 400);
    }
    let page = api.get("/v1/projects/mail/activities?limit=1").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    assert!(page["kept_from"].is_string(), "{page}");
    let foreign = format!("/v1/projects/shop/activities?cursor={cursor}");
    assert_eq!(admin.ask("GET", &foreign).await.fields(), ["cursor"]);
    assert_eq!(
        api.ask("GET", "/v1/projects/shop/activities").await.status,
        404
    );
    let publisher = Api::with_role(&site, &program, "publisher", None).await;
    for path in ["activities", "statistics"] {
        let refused = publisher
            .ask("GET", &format!("/v1/projects/mail/{path}"))
            .await;
        assert_eq!(refused.status, 403);
    }
    // A store that was made anew has the same events, and no place for a cursor from before.
    assert!(program.stop().await.success());
    for file in ["history.db", "history.db-wal", "history.db-shm"] {
        drop(std::fs::remove_file(site.dir().join(file)));
    }
    let program = site.start().await;
    let api = api.at(&program);
    shown(&api, "mail", "", &["a1", "a2", "a3", "a4"]).await;
    let stale = format!("/v1/projects/mail/activities?cursor={cursor}");
    assert_eq!(api.ask("GET", &stale).await.fields(), ["cursor"]);
    assert!(program.stop().await.success());
}

async fn who_waits_is_answered_when_something_comes(engine: Engine) {
    let site = Site::new(engine).await;
    site.apply(MAIL).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    let tail = |wait: &str, cursor: &str| {
        let path = format!("/v1/projects/mail/activities?status=READ&wait={wait}{cursor}");
        let api = api.clone();
        async move { api.get(&path).await }
    };
    // From the beginning: what comes ends the wait.
    let published = [
        activity("a0", "SPAM", "a@b.c"),
        activity("a1", "READ", "a@b.c"),
    ];
    let began = Instant::now();
    let (page, ()) = tokio::join!(tail("25s", ""), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        site.publish(&published).await;
    });
    assert_eq!(
        members(page["items"].as_array().unwrap(), "id"),
        ["a1"],
        "{page}"
    );
    assert!(began.elapsed() < Duration::from_secs(24));
    // Nothing behind it: the same cursor, when the time is over.
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    let behind = format!("&cursor={cursor}");
    let began = Instant::now();
    let empty = tail("1s", &behind).await;
    assert_eq!(
        (&empty["items"], &empty["next_cursor"]),
        (&json!([]), &json!(cursor))
    );
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(tail("0s", &behind).await["next_cursor"].is_string());
    let path = format!("/v1/projects/mail/activities?status=READ{behind}");
    assert_eq!(api.get(&path).await["next_cursor"], json!(null));
    let later = [activity("a2", "READ", "a@b.c")];
    let (page, ()) = tokio::join!(tail("25s", &behind), site.publish(&later));
    assert_eq!(members(page["items"].as_array().unwrap(), "id"), ["a2"]);
    // A process that stops keeps nobody waiting, and waits for nobody.
    let behind = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
    let began = Instant::now();
    let (page, stopped) = tokio::join!(tail("60s", &behind), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        program.stop().await
    });
    assert_eq!(page["items"], json!([]));
    assert!(stopped.success());
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

async fn who_reads_on_misses_nothing_while_more_comes(engine: Engine) {
    const ROUNDS: usize = 6;
    let site = Site::new(engine).await;
    site.apply(MAIL).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    let publish = async |name: &str| {
        for round in 0..ROUNDS {
            let some: Vec<_> = (0..25)
                .map(|n| activity(&format!("{name}-{round}-{n}"), "READ", &format!("{n}@b.c")))
                .collect();
            site.publish(&some).await;
        }
    };
    let read = async {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        let until = Instant::now() + WITHIN;
        while seen.len() < 2 * ROUNDS * 25 && Instant::now() < until {
            let path = format!("/v1/projects/mail/activities?limit=7&wait=2s{cursor}");
            let page = api.get(&path).await;
            let items = page["items"].as_array().unwrap();
            seen.extend(members(items, "id").iter().map(|id| (*id).to_owned()));
            cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
        }
        seen
    };
    let ((), (), mut seen) = tokio::join!(publish("one"), publish("two"), read);
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((count, seen.len()), (2 * ROUNDS * 25, 2 * ROUNDS * 25));
    assert!(program.stop().await.success());
}

async fn statistics_say_what_attempts_came_to(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let (good, bad) = (receiver.url("/ok/good"), receiver.url("/status/500/bad"));
    let once = "events: [order]\nretry: {jitter: 0, schedule: {list: [100ms]}}\n";
    let waits = "events: [order]\nretry: {jitter: 0, schedule: {list: [1h]}}\n";
    let none = webhook("none", &good, "events: [nothing]\n");
    let hooks = [
        webhook("good", &good, ""),
        webhook("bad", &bad, once),
        webhook("waits", &bad, waits),
        none,
    ];
    site.apply(&hooks.concat()).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    site.publish(&events("order", 5)).await;
    site.publish(&events("other", 3)).await;
    attempts(&api, "", 8 + 10 + 5).await;
    let answer = api.get("/v1/projects/shop/statistics").await;
    let items = answer["items"].as_array().unwrap();
    assert_eq!(members(items, "webhook"), ["bad", "good", "none", "waits"]);
    assert_eq!(
        (&answer["step"], &answer["next_cursor"]),
        (&json!("hour"), &json!(null))
    );
    let [bad, good, none, waits] = items.as_slice() else {
        panic!("{answer}")
    };
    assert_eq!(
        (&good["attempts"], &good["delivered"], &good["failed"]),
        (&json!(8), &json!(8), &json!(0))
    );
    assert_eq!(
        (&good["success_rate"], &good["oldest_undelivered_seconds"]),
        (&json!(1.0), &json!(null))
    );
    assert_eq!(good["outcomes"]["delivered"], 8);
    let latency = &good["latency_ms"];
    assert!(
        latency["p50"].as_u64() <= latency["p95"].as_u64(),
        "{latency}"
    );
    assert!(
        latency["p95"].as_u64() <= latency["p99"].as_u64(),
        "{latency}"
    );
    assert_eq!(
        (
            &bad["attempts"],
            &bad["failed"],
            &bad["outcomes"]["exhausted"]
        ),
        (&json!(10), &json!(10), &json!(5))
    );
    assert_eq!(bad["success_rate"], json!(0.0));
    assert_eq!(bad["oldest_undelivered_seconds"], json!(null));
    assert_eq!(
        (&none["attempts"], &none["latency_ms"], &none["series"]),
        (&json!(0), &json!(null), &json!([]))
    );
    assert_eq!(none["success_rate"], json!(null));
    assert!(waits["oldest_undelivered_seconds"].is_u64(), "{waits}");
    let steps = good["series"].as_array().unwrap();
    let sum: u64 = steps.iter().map(|s| s["attempts"].as_u64().unwrap()).sum();
    assert_eq!(sum, 8, "{good}");

    let page = api.get("/v1/projects/shop/statistics?limit=3").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api
        .get(&format!(
            "/v1/projects/shop/statistics?limit=3&cursor={cursor}"
        ))
        .await;
    assert_eq!(
        members(rest["items"].as_array().unwrap(), "webhook"),
        ["waits"]
    );
    let now: jiff::Timestamp = attempts(&api, "", 23).await[0]["started_at"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let from = now - jiff::SignedDuration::from_mins(30);
    let one = api
        .get(&format!(
            "/v1/projects/shop/statistics?webhook=good&from={from}"
        ))
        .await;
    assert_eq!(
        members(one["items"].as_array().unwrap(), "webhook"),
        ["good"]
    );
    assert_eq!(
        (&one["step"], &one["items"][0]["attempts"]),
        (&json!("minute"), &json!(8))
    );
    let before = api
        .get("/v1/projects/shop/statistics?webhook=good&from=2020-01-01T00:00:00Z&to=2020-02-01T00:00:00Z")
        .await;
    assert_eq!(
        (&before["step"], &before["items"][0]["attempts"]),
        (&json!("day"), &json!(0))
    );
    for (query, parameter) in [
        ("webhook=nobody", "webhook"),
        ("from=2000-01-01T00:00:00Z", "from"),
        ("limit=101", "limit"),
        ("outcome=failed", "outcome"),
    ] {
        let refused = api
            .ask("GET", &format!("/v1/projects/shop/statistics?{query}"))
            .await;
        assert_eq!((refused.status, refused.fields()), (400, vec![parameter]));
    }
    assert!(program.stop().await.success());
}
