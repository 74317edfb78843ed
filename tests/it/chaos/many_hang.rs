//! A project with many webhooks whose endpoint never answers (E30) holds no more requests at a time than its share, and others do not notice.

use std::time::Duration;

use hookline_tests::program::{Engine, Site, Start};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::at_least;

use super::{CALM, Healthy, WITHIN};
use crate::promises::event;

both_engines!(many_that_hang_hold_the_share_of_their_project);

const WEBHOOKS: usize = 300;
/// Requests of the program at a time.
const IN_FLIGHT: usize = 40;
/// Of which a project whose endpoints do not answer may hold a quarter.
const SHARE: usize = IN_FLIGHT / 4;
const DEADLINE: Duration = Duration::from_secs(2);
/// Whatever comes within this is under way at the same time: a request is held for its whole deadline, of which this leaves a half for the way.
const TOGETHER: Duration = Duration::from_secs(1);

/// The most that came within a span.
fn most_together(requests: &[Received]) -> usize {
    let counts = requests.iter().enumerate().map(|(nth, first)| {
        let later = requests.iter().skip(nth);
        later.take_while(|r| r.at < first.at + TOGETHER).count()
    });
    counts.max().unwrap_or(0)
}

async fn many_that_hang_hold_the_share_of_their_project(engine: Engine) {
    let hanging = Receiver::start().await;
    let mut healthy = Healthy::start().await;
    let site = Site::new(engine).await;
    let mut documents = "kind: Project\nid: loud\n---\n".to_owned();
    for n in 0..WEBHOOKS {
        documents += &format!(
            "kind: Webhook\nproject: loud\nname: hangs-{n}\nurl: {}\nevents: [\"*\"]\ndeadline: {}s\n\
             retry: {{jitter: 0, schedule: {{list: [2s, 1h]}}}}\n---\n",
            hanging.url(&format!("/hang/{n}")),
            DEADLINE.as_secs(),
        );
    }
    site.apply(&(documents + &healthy.documents())).await;
    let places = ("HOOKLINE_OUTGOING__MAX_IN_FLIGHT", IN_FLIGHT.to_string());
    let start = Start::default().with(places.0, &places.1);
    let program = site.start_with(&start).await;
    let publisher = healthy.publisher(&site, &program).await;
    for _ in 0..=CALM {
        healthy.wave(&publisher).await;
    }
    let calm = healthy.sent;

    let loud: Vec<_> = ["a", "b"]
        .map(|id| event("order", id, "{}").replace("\"shop\"", "\"loud\""))
        .to_vec();
    site.publish(&loud).await;
    // They take turns three times.
    let some = at_least("hanging", SHARE * 4, WITHIN, || hanging.count("/hang"));
    healthy.waves_during(&publisher, some).await;
    let requests = hanging.all();
    let most = most_together(&requests);
    hookline_tests::say(&format!(
        "many that hang: {} requests, at most {most} together",
        requests.len()
    ));
    assert!(most <= SHARE, "{most} at a time");
    assert_eq!(most, SHARE, "they hold what they may");
    // Those that are just being given up and those that follow may overlap for the receiver.
    assert!(hanging.in_flight_max() <= 2 * SHARE);
    healthy.assert_unnoticed("many that hang", calm);
    healthy.assert_nothing_missing();
    assert!(program.stop().await.success());
}
