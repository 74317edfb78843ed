//! Each platform's page, played as far as the parts exist: the webhook is made as its steps say, its events are published, the receiver fails
//! as it must, and requests, times (scaled) and final state are those of the page.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::{at_least, eventually};
use serde_json::{Value, json};

use crate::promises::event;

const WITHIN: Duration = Duration::from_secs(30);
/// How much later than it came the receiver may have noted a request.
const LATE: Duration = Duration::from_millis(5);

both_engines!(
    vidcorp_checks_the_url_retries_five_times_and_again_after_a_rest,
    sms_gateway_endpoints_are_tested_then_go_live,
    wooxy_makes_fifteen_more_attempts_before_dropping,
    vidizmo_tests_the_connection_and_goes_inactive_on_what_is_not_transient,
    esputnik_repeats_activities_at_growing_intervals_until_they_are_taken,
);

/// A running system with a project that has the catalog of a preset.
struct Account {
    site: Site,
    program: Program,
    receiver: Receiver,
    manager: Api,
}

impl Account {
    async fn of(engine: Engine, preset: &str) -> Self {
        let site = Site::new(engine).await;
        let program = site.start().await;
        let admin = Api::with_role(&site, &program, "admin", None).await;
        let project = json!({"id": "shop", "preset": preset});
        let made = admin.send("POST", "/v1/projects", &project).await;
        assert_eq!(made.status, 201, "{}", made.body);
        Self {
            manager: Api::with_role(&site, &program, "manager", Some("shop")).await,
            receiver: Receiver::start().await,
            site,
            program,
        }
    }

    async fn save(&self, document: &Value) -> hookline_tests::api::Answer {
        let all = "/v1/projects/shop/webhooks";
        self.manager.send("POST", all, document).await
    }

    /// Publishes the catalog's example of an event type, and returns its data.
    async fn publish_example(&self, event_type: &str, id: &str) -> Value {
        let path = format!("/v1/projects/shop/event-types/{event_type}");
        let example = self.manager.get(&path).await["example"].clone();
        assert!(example.is_object(), "{event_type} has an example");
        let line = event(event_type, id, &example.to_string());
        self.site.publish(&[line]).await;
        example
    }

    /// The deliveries (no tests, no tries on saving) that came to this path, once there are so many.
    async fn deliveries(&self, path: &str, count: usize) -> Vec<Received> {
        let all = || {
            let came = self.receiver.at(path).into_iter();
            let real = came.filter(|r| r.method == "POST" && r.header("hookline-test").is_none());
            real.collect::<Vec<_>>()
        };
        at_least("deliveries", count, WITHIN, || all().len()).await;
        all()
    }
}

async fn vidcorp_checks_the_url_retries_five_times_and_again_after_a_rest(engine: Engine) {
    let account = Account::of(engine, "vidcorp").await;
    let path = "/until/8/vidcorp";
    let document = json!({
        "name": "opens", "url": account.receiver.url(path), "preset": "vidcorp",
        "events": ["message_opened", "message_delivered"],
        "retry": {"schedule": {"fixed": {"delay": "1s", "times": 5}}, "rest": {"after": "4s", "cycles": "unlimited"}},
    });
    // "We may do a quick check that the URL exists by using a HEAD request": here it exists, but answers 500.
    assert_eq!(account.save(&document).await.status, 422);
    account.receiver.answer(path, 405);
    let made = account.save(&document).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        account.receiver.at(path).pop().expect("came").method,
        "HEAD"
    );
    // "A small packet of data which includes a test message and the event type".
    let one = "/v1/projects/shop/webhooks/opens:test";
    let test = json!({"event_type": "message_opened"});
    let tested = account.manager.send("POST", one, &test).await;
    assert_eq!(tested.status, 200, "{}", tested.body);
    let packet = account.receiver.at(path).pop().expect("came").json();
    assert_eq!(packet["type"], "message_opened");
    assert!(
        packet["message"]
            .as_str()
            .is_some_and(|m| m.contains("test")),
        "{packet}"
    );

    account.receiver.answer(path, 500);
    let data = account.publish_example("message_opened", "1").await;
    account.publish_example("video_play", "2").await;
    account.deliveries(path, 7).await;
    account.receiver.answer(path, 204);
    let came = account.deliveries(path, 8).await;
    assert_eq!(came.len(), 8);
    for (number, request) in came.iter().enumerate() {
        assert_eq!(
            request.header("hookline-attempt"),
            Some(&*(number + 1).to_string())
        );
        assert_eq!(
            (&request.json()["data"], &request.json()["type"]),
            (&data, &json!("message_opened"))
        );
    }
    let gaps: Vec<_> = came
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect();
    for (retry, gap) in gaps.iter().enumerate() {
        let wait = Duration::from_secs(if retry == 5 { 4 } else { 1 });
        assert!(
            *gap >= wait && *gap < wait + Duration::from_secs(3),
            "{retry}: {gaps:?}"
        );
    }
}

async fn sms_gateway_endpoints_are_tested_then_go_live(engine: Engine) {
    let account = Account::of(engine, "sms-gateway").await;
    let types = account.manager.get("/v1/projects/shop/event-types").await;
    let types: Vec<_> = types["items"].as_array().expect("a list").iter().collect();
    let names: Vec<_> = types.iter().filter_map(|t| t["name"].as_str()).collect();
    let path = "/ok/sms";
    let document = json!({
        "name": "sms", "url": account.receiver.url(path), "preset": "sms-gateway", "events": ["*"],
    });
    let made = account.save(&document).await.expect(201);
    assert_eq!(made["state"], "inactive");
    let hook = "/v1/projects/shop/webhooks/sms";
    let act = async |action: &str| {
        let path = format!("{hook}:{action}");
        account.manager.send("POST", &path, &json!({})).await
    };
    assert_eq!(act("activate").await.status, 409);
    assert_eq!(act("test").await.expect(200)["outcome"], "delivered");
    assert_eq!(act("activate").await.expect(200)["state"], "active");
    for (id, name) in names.iter().enumerate() {
        account.publish_example(name, &id.to_string()).await;
    }
    let came = account.deliveries(path, names.len()).await;
    let mut got: Vec<_> = came
        .iter()
        .map(|r| r.json()["type"].as_str().unwrap().to_owned())
        .collect();
    got.sort();
    let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    names.sort();
    assert_eq!(got, names);
}

async fn wooxy_makes_fifteen_more_attempts_before_dropping(engine: Engine) {
    let account = Account::of(engine, "wooxy").await;
    // Only 200 is taken. 3 × 100 s, 6 × 600 s, 6 × 3600 s, scaled to what waits in place.
    let path = "/status/201/wooxy";
    let waits = [[200; 3].as_slice(), &[300; 6], &[400; 6]].concat();
    let list: Vec<_> = waits.iter().map(|ms| format!("{ms}ms")).collect();
    let document = json!({
        "name": "all-email", "title": "All of e-mail, as ticked", "url": account.receiver.url(path),
        "preset": "wooxy", "events": ["email.*"], "retry": {"schedule": {"list": list}},
    });
    let tail = account.site.tail();
    let made = account.save(&document).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let types = account
        .manager
        .get("/v1/projects/shop/event-types?limit=100")
        .await;
    let types = types["items"].as_array().expect("a list");
    assert_eq!(types.len(), 43);
    let of = |channel: &str| {
        let names = types.iter().filter_map(|t| t["name"].as_str());
        names
            .filter(|name| name.starts_with(channel))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (email, sms) = (of("email."), of("sms."));
    assert_eq!((email.len(), sms.len()), (11, 4));
    account.publish_example(&sms[0], "other").await;
    account.publish_example(&email[0], "1").await;
    let exhausted = || {
        tail.outcomes("all-email")
            .iter()
            .filter(|o| *o == "exhausted")
            .count()
    };
    at_least("exhausted", 1, WITHIN, exhausted).await;
    let came = account.deliveries(path, 16).await;
    assert_eq!(came.len(), 16, "one, and 15 more");
    for (pair, wait) in came.windows(2).zip(waits) {
        let gap = pair[1].at - pair[0].at;
        assert!(
            gap + LATE >= Duration::from_millis(wait),
            "{gap:?} instead of {wait} ms"
        );
    }
    assert!(came.iter().all(|r| r.json()["type"] == email[0].as_str()));
}

async fn vidizmo_tests_the_connection_and_goes_inactive_on_what_is_not_transient(engine: Engine) {
    let account = Account::of(engine, "vidizmo").await;
    let path = "/ok/vidizmo";
    let document = json!({
        "name": "app", "url": account.receiver.url(path), "preset": "vidizmo", "events": ["*"],
        "headers": {"x-token": "abc"}, "retry": {"schedule": {"fixed": {"delay": "1s", "times": 3}}},
    });
    // "Only users with Manager+ roles can create webhook applications."
    let viewer = Api::with_role(&account.site, &account.program, "viewer", Some("shop")).await;
    let all = "/v1/projects/shop/webhooks";
    assert_eq!(viewer.send("POST", all, &document).await.status, 403);
    // "Before saving your webhook app, you must test the connection."
    account.receiver.answer(path, 401);
    let refused = account.save(&document).await;
    assert_eq!(
        (refused.status, &refused.body["attempt"]["status"]),
        (422, &json!(401))
    );
    account.receiver.answer(path, 200);
    let made = account.save(&document).await.expect(201);
    let id = made["uid"].as_str().expect("a system-made id");
    assert_eq!(made["state"], "active");

    // Transient: three retries, and then it is over; the app stays active.
    account.receiver.answer(path, 503);
    let types = account.manager.get("/v1/projects/shop/event-types").await;
    let name = types["items"][0]["name"]
        .as_str()
        .expect("an event type")
        .to_owned();
    let tail = account.site.tail();
    account.publish_example(&name, "1").await;
    let came = account.deliveries(path, 4).await;
    assert!(came.iter().all(|r| r.header("x-token") == Some("abc")));
    let gaps = came.windows(2).map(|pair| pair[1].at - pair[0].at);
    assert!(gaps.into_iter().all(|gap| gap >= Duration::from_secs(1)));
    let exhausted = || {
        tail.outcomes("app")
            .iter()
            .filter(|o| *o == "exhausted")
            .count()
    };
    at_least("exhausted", 1, WITHIN, exhausted).await;
    let hook = format!("{all}/app");
    assert_eq!(account.manager.get(&hook).await["state"], "active");
    let logged = tail.of("app");
    assert!(
        logged.iter().all(|attempt| attempt["webhook_uid"] == id),
        "{logged:?}"
    );

    // "The app will become inactive if any non-transient error occurs."
    account.receiver.answer(path, 404);
    account.publish_example(&name, "2").await;
    eventually("inactive", WITHIN, || async {
        let now = account.manager.get(&hook).await;
        let why = now["state_reason"].as_str().unwrap_or_default();
        if now["state"] == "inactive" && why.contains("404") {
            Ok(())
        } else {
            Err(now)
        }
    })
    .await;
    let before = account.deliveries(path, 5).await.len();
    assert_eq!(before, 5, "not tried again");
    // The active toggle; the connection was tested when it was saved.
    account.receiver.answer(path, 200);
    let activated = account
        .manager
        .send("POST", &format!("{hook}:activate"), &json!({}))
        .await;
    assert_eq!(activated.status, 200, "{}", activated.body);
    account.publish_example(&name, "3").await;
    assert_eq!(account.deliveries(path, 6).await.len(), 6);
}

async fn esputnik_repeats_activities_at_growing_intervals_until_they_are_taken(engine: Engine) {
    let account = Account::of(engine, "esputnik").await;
    let path = "/until/5/esputnik";
    let url = account.receiver.url(path);
    // A minute is a second here, and an hour four.
    let document = json!({
        "name": "activities", "url": url, "preset": "esputnik", "events": ["*"],
        "batch": {"max_wait": "300ms"},
        "retry": {"schedule": {"exponential": {"initial": "1s", "factor": 2, "cap": "4s", "times": "unlimited"}}},
    });
    // "Upon saving, a GET request is sent … The actual cause can be determined from the server error code."
    account.receiver.answer(path, 403);
    let made = account.save(&document).await.expect(201);
    assert_eq!(
        made["verification_result"]["attempt"]["status"], 403,
        "{made}"
    );
    let uid = made["uid"].clone();
    assert_eq!(account.receiver.at(path).pop().expect("came").method, "GET");
    account.receiver.answer(path, 200);
    let hook = "/v1/projects/shop/webhooks/activities";
    let title = json!({"title": "Activities of contacts"});
    let named = account.manager.send("PATCH", hook, &title).await;
    assert_eq!(named.expect(200)["uid"], uid);

    // "If the webhook URL does not return the HTTP 200 response code": 201 is another code.
    account.receiver.answer(path, 201);
    let types = account.manager.get("/v1/projects/shop/event-types").await;
    let types = types["items"].as_array().expect("a list");
    let names: Vec<_> = types.iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names.len(), 7, "the statuses of the page: {names:?}");
    let first = account.publish_example(names[0], "0").await;
    account.deliveries(path, 1).await;
    // "The subsequent requests will be postponed and delivered in their sequence after the first one has been delivered."
    let mut published = vec![first.clone()];
    for (id, name) in names.iter().enumerate().skip(1) {
        published.push(account.publish_example(name, &id.to_string()).await);
    }
    account.deliveries(path, 4).await;
    account.receiver.answer(path, 200);
    let came = account.deliveries(path, 5).await;
    let came = &came[..5];
    let gaps: Vec<_> = came
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect();
    for (gap, seconds) in gaps.iter().zip([1, 2, 4, 4]) {
        let wait = Duration::from_secs(seconds);
        assert!(
            *gap + LATE >= wait && *gap < wait + Duration::from_secs(3),
            "{gaps:?}"
        );
    }
    assert!(came.iter().all(|request| request.json() == json!([first])));

    let taken = || {
        let came = account.receiver.at(path).into_iter();
        let taken = came.filter(|r| r.method == "POST" && r.answered == 200);
        let batches = taken.map(|r| r.json().as_array().expect("a list").clone());
        batches.collect::<Vec<_>>()
    };
    at_least("activities", names.len(), WITHIN, || {
        taken().iter().map(Vec::len).sum()
    })
    .await;
    assert_eq!(
        taken().concat(),
        published,
        "all of them, in their sequence"
    );
    assert!(taken().len() < names.len(), "several in one request");

    // The deleted are listed, and come back with the identity that they had.
    let deleted = account.manager.send("DELETE", hook, &json!({})).await;
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    let list = account
        .manager
        .get("/v1/projects/shop/webhooks?deleted=true")
        .await;
    assert_eq!(list["items"][0]["uid"], uid);
    let restore = format!("{hook}:restore");
    let restored = account
        .manager
        .send("POST", &restore, &json!({"uid": uid}))
        .await;
    assert_eq!(restored.expect(200)["uid"], uid);
}
