//! An endpoint that is back after a long outage (E21) gets what waited for it: a little at first, more as it answers well, never more at a time
//! than a webhook may have, in order where there is one, and all of it.

use std::time::Duration;

use hookline_model::limits::{WINDOW_MAX, WINDOW_START};
use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::at_least;

use crate::promises::{assert_each_once, events, webhook};

both_engines!(what_waited_for_one_that_was_away_comes_gently);

/// More than a lane queues in memory.
const WAITING: usize = 2_500;
/// Of which the ordered one gets these, one by one.
const IN_ORDER: usize = 400;
/// How long an answer takes once the endpoint is back.
const ANSWER: Duration = Duration::from_millis(200);
/// Attempts in vain, before it is back.
const IN_VAIN: usize = 100;
const WITHIN: Duration = Duration::from_secs(90);

/// Everybody begins with a small window, and each good answer makes room for one more. In the receiver's own times: those that it cannot have
/// answered yet are under way. Answers that it only may have given are taken for given.
#[track_caller]
fn assert_gently(name: &str, mut taken: Vec<Received>) {
    taken.sort_by_key(|r| r.at);
    let start = usize::try_from(WINDOW_START).unwrap();
    let mut answered = 0;
    for (before, request) in taken.iter().enumerate() {
        while taken[answered].at + ANSWER <= request.at {
            answered += 1;
        }
        let under_way = before + 1 - answered;
        assert!(
            under_way <= start + answered,
            "{name}: {under_way} at a time after {answered} answers"
        );
    }
}

async fn what_waited_for_one_that_was_away_comes_gently(engine: Engine) {
    let receivers = [
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    ];
    let [paused, down, ordered] = &receivers;
    let site = Site::sized(engine, 1, "").await;
    let path = format!("/slow/{}", ANSWER.as_millis());
    let retry = "retry: {jitter: 0, schedule: {fixed: {delay: 2s, times: 100}}}";
    site.apply(&format!(
        "{}{}{}",
        webhook("paused", &paused.url(&path), "state: paused"),
        webhook("down", &down.url(&path), retry),
        webhook(
            "ordered",
            &ordered.url("/ok"),
            &format!("events: [first]\nordered: true\n{retry}")
        ),
    ))
    .await;
    let program = site.start().await;
    down.answer(&path, 503);
    ordered.answer("/ok", 503);
    let mut all = events("first", IN_ORDER);
    all.extend(events("later", WAITING - IN_ORDER));
    site.publish(&all).await;
    at_least("attempts in vain", IN_VAIN, WITHIN, || down.count("/")).await;
    at_least("the ordered one's", 2, WITHIN, || ordered.count("/")).await;
    assert_eq!(paused.count("/"), 0, "it is paused");

    down.as_it_says(&path);
    ordered.as_it_says("/ok");
    let manager = Api::with_role(&site, &program, "manager", None).await;
    let activate = "/v1/projects/shop/webhooks/paused:activate";
    drop(manager.ask("POST", activate).await.expect(200));
    let taken = |receiver: &Receiver| {
        let mut taken = receiver.all();
        taken.retain(|r| r.answered == 200);
        taken
    };
    for (name, receiver, count) in [
        ("paused", paused, WAITING),
        ("down", down, WAITING),
        ("ordered", ordered, IN_ORDER),
    ] {
        at_least(name, count, WITHIN, || taken(receiver).len()).await;
        assert_each_once(&taken(receiver), count);
        let most = receiver.in_flight_max();
        hookline_tests::say(&format!("recovered: {name}, at most {most} at a time"));
        if name != "ordered" {
            assert_gently(name, taken(receiver));
        }
    }
    let start = usize::try_from(WINDOW_START).unwrap();
    let max = usize::try_from(WINDOW_MAX).unwrap();
    for receiver in &receivers {
        assert!(receiver.in_flight_max() <= max, "more than a webhook may");
    }
    let most = paused.in_flight_max();
    assert!(most >= start * 3, "it never got more than {most} at a time");
    assert_eq!(ordered.in_flight_max(), 1, "one after the other");
    let numbers: Vec<_> = taken(ordered)
        .iter()
        .map(|r| r.json()["data"]["n"].as_u64())
        .collect();
    let expected: Vec<_> = (0..IN_ORDER as u64).map(Some).collect();
    assert!(numbers == expected, "in another order: {numbers:?}");
    assert!(program.stop().await.success());
}
