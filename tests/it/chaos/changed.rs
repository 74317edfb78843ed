//! A webhook that is changed while a request of it is under way: the attempt ends as it began, and what follows is new.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::chaos::{Chaos, Script, Step};
use hookline_tests::program::{Engine, Site};
use hookline_tests::wait::at_least;
use serde_json::json;

use crate::promises::{event, webhook};

both_engines!(an_attempt_under_way_ends_as_it_began);

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
