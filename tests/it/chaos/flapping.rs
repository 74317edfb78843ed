//! An endpoint that is up and down by turns (E20) is used while it is up, loses nothing, keeps its order, and costs nobody else anything.

use std::collections::BTreeMap;
use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::at_least;
use tokio::time::{Instant, sleep};

use super::{CALM, Healthy, WITHIN};
use crate::promises::{assert_each_once, webhook};

both_engines!(one_that_comes_and_goes_is_used_while_it_is_there);

/// How long it is up, and how long it is down.
const TURN: Duration = Duration::from_secs(1);
/// Times that it is down.
const TURNS: usize = 5;
/// Of its time up, the parts that are looked at.
const PART: Duration = Duration::from_millis(250);
/// Percent of them in which it must get something.
const USED: usize = 80;

/// From when to when it was up.
type Up = Vec<(Instant, Instant)>;

/// Is down and up by turns.
async fn flap(receiver: &Receiver) -> Up {
    let mut up = Up::new();
    for _ in 0..TURNS {
        receiver.answer("/ok", 503);
        sleep(TURN).await;
        receiver.as_it_says("/ok");
        let since = Instant::now();
        sleep(TURN).await;
        up.push((since, Instant::now()));
    }
    up
}

/// Of the parts of its time up in which others got something: how many there were, and in how many it got something, too.
fn parts(up: &Up, of_others: &[Received], taken: &[Received]) -> (usize, usize) {
    let (mut all, mut used) = (0, 0);
    for (since, until) in up {
        let mut from = *since;
        while from + PART <= *until {
            let within = |r: &Received| (from..from + PART).contains(&r.at);
            if of_others.iter().any(within) {
                all += 1;
                used += usize::from(taken.iter().any(within));
            }
            from += PART;
        }
    }
    (all, used)
}

/// The next is not sent before this one has been taken.
#[track_caller]
fn assert_in_order(requests: &[Received]) {
    let mut last: BTreeMap<&str, (u64, u16)> = BTreeMap::new();
    for request in requests {
        let lane = request.header("hookline-lane").expect("a lane");
        let sequence = request.header("hookline-sequence").expect("a sequence");
        let sequence: u64 = sequence.parse().expect("a number");
        let before = last.insert(lane, (sequence, request.answered));
        let right = before.is_none_or(|(earlier, answered)| match answered {
            200 => earlier < sequence,
            _ => earlier == sequence,
        });
        assert!(right, "{lane}: {sequence} after {before:?}");
    }
}

async fn one_that_comes_and_goes_is_used_while_it_is_there(engine: Engine) {
    let (flapping, ordered) = (Receiver::start().await, Receiver::start().await);
    let mut healthy = Healthy::start().await;
    let site = Site::new(engine).await;
    let retry = "retry: {jitter: 0, schedule: {fixed: {delay: 1s, times: 50}}}";
    site.apply(&format!(
        "{}{}{}",
        webhook("flapping", &flapping.url("/ok"), retry),
        webhook(
            "ordered",
            &ordered.url("/ok"),
            &format!("ordered: true\n{}", retry.replace("1s", "200ms"))
        ),
        healthy.documents()
    ))
    .await;
    let program = site.start().await;
    let publisher = healthy.publisher(&site, &program).await;
    for _ in 0..=CALM {
        healthy.wave(&publisher).await;
    }
    let calm = healthy.sent;
    let both = async { tokio::join!(flap(&flapping), flap(&ordered)).0 };
    let up = healthy.waves_during(&publisher, both).await;

    for (name, receiver) in [("flapping", &flapping), ("ordered", &ordered)] {
        let taken = || receiver.all().iter().filter(|r| r.answered == 200).count();
        at_least(name, healthy.sent, WITHIN, taken).await;
        let (taken, refused): (Vec<_>, _) =
            receiver.all().into_iter().partition(|r| r.answered == 200);
        assert_each_once(&taken, healthy.sent);
        assert!(refused.len() >= TURNS, "{name} was down: {}", refused.len());
    }
    assert_in_order(&ordered.all());
    let mut taken = flapping.all();
    taken.retain(|r| r.answered == 200);
    let (all, used) = parts(&up, &healthy.receiver.all(), &taken);
    hookline_tests::say(&format!("flapping: {used} of {all} parts of its time used"));
    assert!(all >= TURNS, "{all} parts");
    assert!(used * 100 >= all * USED, "{used} of {all}");
    healthy.assert_unnoticed("flapping", calm);
    healthy.assert_nothing_missing();
    assert!(program.stop().await.success());
}
