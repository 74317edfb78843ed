//! A webhook that is changed while a request of it is under way: the attempt ends as it began, and what follows is new (E27).

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::chaos::{Chaos, Script, Step};
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use serde_json::json;

use crate::promises::{assert_signed, event, secrets, webhook};

both_engines!(
    an_attempt_under_way_ends_as_it_began,
    a_request_under_way_keeps_its_secret_and_is_not_called_back,
);

const WITHIN: Duration = Duration::from_secs(20);
/// Longer than two changes over HTTP take, by far.
const SLOW: Duration = Duration::from_secs(4);
/// When a change has taken effect at the latest.
const EFFECT: Duration = Duration::from_secs(2);

fn after(pause: Duration) -> Script {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    Script::Requests(vec![vec![Step::Pause(pause), Step::Say(ok)]])
}

async fn an_attempt_under_way_ends_as_it_began(engine: Engine) {
    let old = Chaos::start(after(SLOW)).await;
    let gone = Chaos::start(after(SLOW)).await;
    let new = Chaos::start(after(Duration::ZERO)).await;
    let site = Site::new(engine).await;
    let moving = webhook("moving", &old.url("/old"), "deadline: 10s");
    let leaving = webhook("leaving", &gone.url("/gone"), "deadline: 10s");
    site.apply(&(moving + &leaving)).await;
    let program = site.start().await;
    let admin = Api::with_role(&site, &program, "admin", None).await;
    let tail = site.tail();
    site.publish(&[event("order", "1", "{}")]).await;
    at_least("both requests", 2, WITHIN, || {
        old.requests().len() + gone.requests().len()
    })
    .await;
    let hooks = "/v1/projects/shop/webhooks";
    let change = json!({"url": new.url("/new")});
    let changed = admin
        .send("PATCH", &format!("{hooks}/moving"), &change)
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let deleted = admin.ask("DELETE", &format!("{hooks}/leaving")).await;
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    assert!(
        tail.attempts().is_empty(),
        "both were under way: {:?}",
        tail.attempts()
    );
    at_least("both attempts", 2, WITHIN, || tail.attempts().len()).await;
    for (name, url) in [("moving", old.url("/old")), ("leaving", gone.url("/gone"))] {
        assert_eq!(tail.outcomes(name), ["delivered"], "{name}");
        assert_eq!(tail.of(name)[0]["url"], url, "{name}");
    }
    tokio::time::sleep(EFFECT).await;
    site.publish(&[event("order", "2", "{}")]).await;
    at_least("the new place", 1, WITHIN, || new.requests().len()).await;
    at_least("its attempt", 2, WITHIN, || tail.of("moving").len()).await;
    assert_eq!(tail.outcomes("moving"), ["delivered", "delivered"]);
    assert_eq!((old.requests().len(), gone.requests().len()), (1, 1));
    assert_eq!(tail.outcomes("leaving"), ["delivered"]);
    assert!(program.stop().await.success());
}

async fn a_request_under_way_keeps_its_secret_and_is_not_called_back(engine: Engine) {
    let receiver = Receiver::start().await;
    let (off, rotated) = ("/slow/4000/off", "/slow/4000/rotated");
    let site = Site::new(engine).await;
    let leaving = webhook("off", &receiver.url(off), "deadline: 10s");
    drop(site.apply(&leaving).await);
    let printed = site
        .apply(&webhook("rotated", &receiver.url(rotated), "deadline: 10s"))
        .await;
    let first = secrets(&printed).pop().expect("a secret");
    let program = site.start().await;
    let admin = Api::with_role(&site, &program, "admin", None).await;
    let tail = site.tail();
    site.publish(&[event("order", "1", "{}")]).await;
    at_least("both requests", 2, WITHIN, || receiver.count("/slow")).await;
    let hooks = "/v1/projects/shop/webhooks";
    let stopped = admin.ask("POST", &format!("{hooks}/off:deactivate")).await;
    assert_eq!(stopped.status, 200, "{}", stopped.body);
    let rotate = format!("{hooks}/rotated:rotate-secret");
    let renewed = admin.send("POST", &rotate, &json!({"overlap": "0s"})).await;
    let second = renewed.expect(200)["secret"]
        .as_str()
        .expect("shown once")
        .to_owned();
    assert!(tail.attempts().is_empty(), "both were under way");
    at_least("both attempts", 2, WITHIN, || tail.attempts().len()).await;
    for name in ["off", "rotated"] {
        assert_eq!(tail.outcomes(name), ["delivered"], "{name}");
    }
    tokio::time::sleep(EFFECT).await;
    site.publish(&[event("order", "2", "{}")]).await;
    at_least("its second attempt", 2, WITHIN, || tail.of("rotated").len()).await;
    let requests = receiver.at(rotated);
    assert_signed(&requests[0], &first);
    assert_signed(&requests[1], &second);
    assert_eq!((requests.len(), receiver.count(off)), (2, 1));
    assert_eq!(tail.outcomes("off"), ["delivered"]);
    assert!(program.stop().await.success());
}
