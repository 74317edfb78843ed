//! A webhook with a rate limit (E29) gets its events at that rate, in order, and all of them; and whoever looks at the figures sees that it waits.

use std::cell::Cell;
use std::time::Duration;

use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::{at_least, eventually};

use crate::promises::{assert_each_once, assert_never_faster, event, webhook};

both_engines!(a_rate_is_kept_and_what_waits_for_it_is_seen);

const RATE: u32 = 20;
const COUNT: usize = 260;
/// What each event carries: together more than a lane keeps in memory.
const BYTES: usize = 8 * 1024;
/// The age in seconds that the oldest must be seen with; the last of them waits twice as long.
const OLDEST: f64 = 6.0;
const WITHIN: Duration = Duration::from_secs(60);

/// Both gauges that tell of a throttled lane: lanes that leave sends in the log, and the age of the oldest send.
async fn gauges(program: &Program) -> (f64, f64) {
    let behind = program.metric("hookline_dispatch_lanes_behind", "").await;
    let oldest = "hookline_dispatch_oldest_undelivered_seconds";
    (behind, program.metric(oldest, "").await)
}

/// How many came in each second but the last; the median of that. A machine that stands still for a moment does not move it.
fn a_second(requests: &[Received]) -> u32 {
    let mut seconds = vec![0_u32; COUNT];
    for request in requests {
        let second = (request.at - requests[0].at).as_secs();
        seconds[usize::try_from(second).unwrap().min(COUNT - 1)] += 1;
    }
    while seconds.pop() == Some(0) {}
    seconds.sort_unstable();
    seconds[seconds.len() / 2]
}

async fn a_rate_is_kept_and_what_waits_for_it_is_seen(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let more = format!("ordered: true\nrate_limit: {RATE}/s");
    let throttled = webhook("throttled", &receiver.url("/ok/throttled"), &more);
    let beside = webhook("beside", &receiver.url("/ok/beside"), "");
    site.apply(&(throttled + &beside)).await;
    let program = site.start().await;
    let padding = "x".repeat(BYTES);
    let all: Vec<_> = (0..COUNT)
        .map(|n| {
            let data = format!("{{\"n\": {n}, \"padding\": \"{padding}\"}}");
            event("order", &n.to_string(), &data)
        })
        .collect();
    site.publish(&all).await;
    at_least("beside", COUNT, WITHIN, || receiver.count("/ok/beside")).await;
    let came = || receiver.count("/ok/throttled");
    assert!(came() < COUNT, "nobody waits for the throttled one");

    // It is seen while it lasts, and grows.
    let most = Cell::new((0.0_f64, 0.0_f64));
    let seen = async || {
        let (behind, oldest) = gauges(&program).await;
        let so_far = most.get();
        most.set((so_far.0.max(behind), so_far.1.max(oldest)));
        if came() < COUNT { Err(came()) } else { Ok(()) }
    };
    eventually("everything has come", WITHIN, seen).await;
    let calm = async || {
        let gauges = gauges(&program).await;
        if gauges == (0.0, 0.0) {
            Ok(())
        } else {
            Err(gauges)
        }
    };
    eventually("nothing waits any more", WITHIN, calm).await;

    let requests = receiver.at("/ok/throttled");
    let (behind_max, oldest_max) = most.get();
    let median = a_second(&requests);
    hookline_tests::say(&format!(
        "throttled: {median} a second; at most {behind_max} lanes behind, the oldest {oldest_max} s"
    ));
    assert_each_once(&requests, COUNT);
    let numbers: Vec<_> = requests
        .iter()
        .map(|r| r.json()["data"]["n"].as_u64())
        .collect();
    let expected: Vec<_> = (0..COUNT as u64).map(Some).collect();
    assert!(numbers == expected, "in another order: {numbers:?}");
    assert_never_faster(&requests, RATE);
    assert!(median.abs_diff(RATE) * 10 <= RATE, "{median} a second");
    assert!(behind_max >= 1.0, "no lane was behind");
    assert!(oldest_max >= OLDEST, "the oldest was {oldest_max} s old");
    assert!(program.stop().await.success());
}
