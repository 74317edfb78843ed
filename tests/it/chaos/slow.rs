//! An endpoint that always answers just within the deadline (E22) gets everything at the first attempt, holds no more requests than a webhook may
//! have, and slows nobody else down.

use hookline_model::limits::WINDOW_MAX;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;

use super::{CALM, Healthy, WITHIN};
use crate::promises::{assert_each_once, events, webhook};

both_engines!(one_that_answers_at_the_last_moment_holds_up_nobody);

/// Answered at once, so that it has all the room that a webhook may have.
const EAGER: usize = 400;
/// Answered at the last moment: more than there is room for.
const SLOW: usize = 300;
/// As far from the deadline as a busy machine needs.
const PATH: &str = "/slow/1900";
const DEADLINE: &str = "deadline: 3s";

async fn one_that_answers_at_the_last_moment_holds_up_nobody(engine: Engine) {
    let slow = Receiver::start().await;
    let mut healthy = Healthy::start().await;
    let site = Site::sized(engine, 1, "").await;
    let more = format!("events: [eager, slow]\n{DEADLINE}");
    site.apply(&(webhook("slow", &slow.url(PATH), &more) + &healthy.documents()))
        .await;
    let program = site.start().await;
    let publisher = healthy.publisher(&site, &program).await;
    slow.answer(PATH, 200);
    site.publish(&events("eager", EAGER)).await;
    at_least("eager", EAGER, WITHIN, || slow.count("/")).await;
    for _ in 0..=CALM {
        healthy.wave(&publisher).await;
    }
    let calm = healthy.sent;

    slow.as_it_says(PATH);
    site.publish(&events("slow", SLOW)).await;
    let answered = || slow.all().iter().filter(|r| r.answered == 200).count();
    let all = at_least("slow", EAGER + SLOW, WITHIN, answered);
    healthy.waves_during(&publisher, all).await;
    let most = slow.in_flight_max();
    hookline_tests::say(&format!("slow: at most {most} at a time"));

    assert_each_once(&slow.all(), EAGER + SLOW);
    let max = usize::try_from(WINDOW_MAX).unwrap();
    assert!(most <= max, "{most} at a time");
    assert!(most > max / 2, "at most {most} at a time: it was not slow");
    healthy.assert_unnoticed("slow", calm);
    healthy.assert_nothing_missing();
    // Nothing comes again: no deadline has passed.
    let delivered = async || {
        let labels = "outcome=\"delivered\"";
        let name = "hookline_dispatch_attempts_total";
        let all = program.metric(name, "").await;
        let delivered = program.metric(name, labels).await;
        (all, delivered)
    };
    let (all, good) = delivered().await;
    assert!((all - good).abs() < 0.5, "{good} of {all} were delivered");
    assert!(program.stop().await.success());
}
