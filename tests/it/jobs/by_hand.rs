//! Single deliveries that somebody wants sent now, or not at all.

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site, Start};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use serde_json::Value;

use super::{WITHIN, exhausted};
use crate::promises::{events, webhook};

both_engines!(
    what_waits_goes_at_once_and_what_is_final_starts_over,
    what_is_cancelled_is_not_sent_again,
    the_head_of_a_lane_goes_at_once_or_not_at_all,
    a_run_begins_once_although_its_worker_is_killed,
    without_its_event_a_dead_delivery_can_be_sent_and_another_cannot,
);

/// One attempt, and the next in an hour.
const IN_AN_HOUR: &str = "body: data\nretry: {jitter: 0, schedule: {list: [1h]}}";

fn path(id: &str) -> String {
    format!("/v1/projects/shop/deliveries/{id}")
}

/// Waits until the latest run of the delivery has that outcome, and returns the delivery.
async fn comes_to(api: &Api, id: &str, outcome: &str) -> Value {
    let look = async || match api.call("GET", &path(id), &[], "").await {
        Ok(answer) if answer.body["outcome"] == outcome => Ok(()),
        seen => Err(seen),
    };
    eventually(&format!("the delivery is {outcome}"), WITHIN, look).await;
    api.get(&path(id)).await
}

/// What becomes of wanting it.
async fn want(api: &Api, id: &str, action: &str) -> (u16, Value) {
    let answer = api.ask("POST", &format!("{}:{action}", path(id))).await;
    (answer.status, answer.body)
}

#[track_caller]
fn assert_done((status, body): (u16, Value)) {
    assert_eq!((status, &body["status"]), (200, &"done".into()), "{body}");
}

/// Registers a webhook whose receiver is broken, and returns the id of a delivery that has failed once and waits for an hour.
async fn failed_once(site: &Site, api: &Api, receiver: &Receiver, name: &str) -> String {
    let at = format!("/ok/{name}");
    receiver.answer(&at, 500);
    let more = format!("events: [{name}]\n{IN_AN_HOUR}");
    site.apply(&webhook(name, &receiver.url(&at), &more)).await;
    site.publish(&events(name, 1)).await;
    at_least("an attempt", 1, WITHIN, || receiver.count(&at)).await;
    let id = receiver.at(&at)[0].webhook_id().to_owned();
    comes_to(api, &id, "failed").await;
    id
}

async fn what_waits_goes_at_once_and_what_is_final_starts_over(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let viewer = Api::with_role(&site, &program, "viewer", None).await;
    let id = failed_once(&site, &api, &receiver, "later").await;
    let at = "/ok/later";
    receiver.answer(at, 200);
    assert_eq!(want(&viewer, &id, "retry").await.0, 403);
    assert_done(want(&api, &id, "retry").await);
    at_least("it", 2, WITHIN, || receiver.count(at)).await;
    let delivery = comes_to(&api, &id, "delivered").await;
    assert_eq!(delivery["runs"].as_array().unwrap().len(), 2, "{delivery}");
    // Another run of the same delivery, for receivers that know it.
    let second = &receiver.at(at)[1];
    assert_eq!(second.webhook_id(), id);
    assert_eq!(second.header("hookline-attempt"), Some("1"));
    assert_eq!(second.body, receiver.at(at)[0].body);

    assert_done(want(&api, &id, "retry").await);
    at_least("it", 3, WITHIN, || receiver.count(at)).await;
    let thrice = async || match api.get(&path(&id)).await {
        delivery if delivery["runs"].as_array().unwrap().len() == 3 => Ok(()),
        delivery => Err(delivery),
    };
    eventually("the third run is shown", WITHIN, thrice).await;
    let (status, body) = want(&api, &id, "cancel").await;
    assert_eq!(status, 409, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("delivered"));
    let unknown = "dlv_00000000000000000000000000000000";
    assert_eq!(want(&api, unknown, "retry").await.0, 404);
    assert_eq!(want(&api, "7", "cancel").await.0, 404);
    assert_eq!(want(&api, &id, "forget").await.0, 404);
    for (state, status) in [("inactive", 409), ("active", 200)] {
        let patch = serde_json::json!({"state": state});
        let hook = "/v1/projects/shop/webhooks/later";
        drop(api.send("PATCH", hook, &patch).await.expect(200));
        assert_eq!(want(&api, &id, "retry").await.0, status, "{state}");
    }
    at_least("it", 4, WITHIN, || receiver.count(at)).await;
    assert!(program.stop().await.success());
}

async fn what_is_cancelled_is_not_sent_again(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let at = "/ok/soon";
    receiver.answer(at, 500);
    let soon = "body: data\nretry: {jitter: 0, schedule: {list: [5s, 1h]}}";
    site.apply(&webhook("soon", &receiver.url(at), soon)).await;
    site.publish(&events("user.signup", 1)).await;
    at_least("an attempt", 1, WITHIN, || receiver.count(at)).await;
    let id = receiver.at(at)[0].webhook_id().to_owned();
    comes_to(&api, &id, "failed").await;
    // Whether it still waits for its second attempt is a matter of five seconds; if not, it waits for its third.
    let flags = ["cancel", "--project", "shop", "--output", "json", &id];
    let said: Value = serde_json::from_str(&site.succeed(&flags, "").await).unwrap();
    assert_eq!(said["status"], "done", "{said}");
    receiver.answer(at, 200);
    let delivery = match receiver.count(at) {
        1 => comes_to(&api, &id, "cancelled").await,
        _ => api.get(&path(&id)).await,
    };
    assert_ne!(delivery["outcome"], "delivered", "{delivery}");
    // It can be wanted again all the same.
    let flags = ["retry", "--project", "shop", &id];
    assert_eq!(site.succeed(&flags, "").await.trim(), "done");
    comes_to(&api, &id, "delivered").await;
    let output = site.run(&["cancel", "--project", "shop", &id], "").await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("final"), "{said}");
    let flags = ["retry", "--project", "nowhere", &id];
    let said = String::from_utf8_lossy(&site.run(&flags, "").await.stderr).into_owned();
    assert!(
        said.contains("--project: there is no project nowhere"),
        "{said}"
    );
    assert!(program.stop().await.success());
}

async fn the_head_of_a_lane_goes_at_once_or_not_at_all(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let at = "/ok/lane";
    receiver.answer(at, 500);
    let more = format!("ordered: true\n{IN_AN_HOUR}");
    site.apply(&webhook("lane", &receiver.url(at), &more)).await;
    site.publish(&events("user.signup", 3)).await;
    at_least("an attempt", 1, WITHIN, || receiver.count(at)).await;
    let first = receiver.at(at)[0].webhook_id().to_owned();
    comes_to(&api, &first, "failed").await;
    assert_done(want(&api, &first, "cancel").await);
    comes_to(&api, &first, "cancelled").await;
    at_least("the next", 2, WITHIN, || receiver.count(at)).await;
    let second = receiver.at(at)[1].webhook_id().to_owned();
    comes_to(&api, &second, "failed").await;
    receiver.answer(at, 200);
    assert_done(want(&api, &second, "retry").await);
    at_least("all", 4, WITHIN, || receiver.count(at)).await;
    let delivery = comes_to(&api, &second, "delivered").await;
    assert_eq!(delivery["runs"].as_array().unwrap().len(), 1, "{delivery}");
    let seen: Vec<_> = receiver
        .at(at)
        .iter()
        .map(|r| r.json()["n"].clone())
        .collect();
    assert_eq!(seen, [0, 1, 1, 2]);
    // The first starts over behind the others.
    let flags = ["retry", "--project", "shop", &first];
    assert_eq!(site.succeed(&flags, "").await.trim(), "done");
    at_least("it", 5, WITHIN, || receiver.count(at)).await;
    assert_eq!(receiver.at(at)[4].webhook_id(), first);
    let flags = ["skip", "--project", "shop", "--webhook", "lane", &first];
    let said = String::from_utf8_lossy(&site.run(&flags, "").await.stderr).into_owned();
    assert!(said.contains("head of an ordered lane"), "{said}");
    assert!(program.stop().await.success());
}

async fn a_run_begins_once_although_its_worker_is_killed(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let id = failed_once(&site, &api, &receiver, "later").await;
    let at = "/ok/later";
    receiver.answer(at, 200);
    assert!(program.stop().await.success());
    let mut runs = 1;
    // It is noted that the run begins, and it has not; it has, and that is not noted. Then its request may have gone out already, and goes out again.
    let mut repeated = 0;
    for (point, at_most) in [("dispatch-run-begins", 0), ("dispatch-run-begun", 1)] {
        let dies = Start::default().dies_at(point, 0);
        let mut program = site.start_with(&dies).await;
        let api = api.at(&program);
        let retry = format!("{}:retry", path(&id));
        // Nobody may be left to answer.
        let answer = api.call("POST", &retry, &[], "").await;
        assert!(
            !matches!(&answer, Ok(answered) if answered.status >= 300),
            "{answer:?}"
        );
        program.ended(WITHIN).await;
        let program = site.start().await;
        let api = api.at(&program);
        runs += 1;
        let begun = async || match api.get(&path(&id)).await {
            delivery if delivery["runs"].as_array().unwrap().len() == runs => Ok(()),
            delivery => Err(delivery),
        };
        eventually("the run is shown", WITHIN, begun).await;
        repeated = receiver.count(at) - runs;
        assert!(repeated <= at_most, "{point}: {repeated}");
        assert!(program.stop().await.success());
    }
    // What comes behind them comes after them; if one of them began twice, it would have come by then.
    let program = site.start().await;
    let before = receiver.count(at);
    site.publish(&events("later", 2)).await;
    at_least("the other", before + 1, WITHIN, || receiver.count(at)).await;
    let again = receiver.at(at);
    let again = again.iter().filter(|r| r.webhook_id() == id);
    assert_eq!(again.count(), runs + repeated);
    let api = api.at(&program);
    let delivery = api.get(&path(&id)).await;
    let attempts: Vec<_> = delivery["runs"].as_array().unwrap().iter().collect();
    let attempts: Vec<_> = attempts.iter().map(|run| &run["attempts"]).collect();
    assert_eq!(attempts, vec![1; runs], "{delivery}");
    assert!(program.stop().await.success());
}

async fn without_its_event_a_dead_delivery_can_be_sent_and_another_cannot(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    exhausted(&site, &receiver, "mended", 150).await;
    let other = "/ok/other";
    site.apply(&webhook("other", &receiver.url(other), "events: [other]"))
        .await;
    site.publish(&events("other", 1)).await;
    at_least("it", 1, WITHIN, || receiver.count(other)).await;
    let delivered = receiver.at(other)[0].webhook_id().to_owned();
    comes_to(&api, &delivered, "delivered").await;
    let (journal, topic) = (site.journal().await, site.topic("events"));
    for partition in 0..2 {
        let end = journal.end(&topic, partition).await.unwrap();
        journal
            .delete_records(&topic, partition, end)
            .await
            .unwrap();
    }
    let (status, body) = want(&api, &delivered, "retry").await;
    assert_eq!(status, 409, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("no longer kept"));
    let last = receiver.at("/ok/mended").pop().unwrap();
    let dead = last.webhook_id().to_owned();
    comes_to(&api, &dead, "exhausted").await;
    assert_done(want(&api, &dead, "retry").await);
    at_least("it", 301, WITHIN, || receiver.count("/ok/mended")).await;
    let sent = receiver.at("/ok/mended").pop().unwrap();
    assert_eq!((sent.webhook_id(), &sent.body), (&*dead, &last.body));
    assert!(program.stop().await.success());
}
