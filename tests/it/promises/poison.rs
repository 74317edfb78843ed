//! A bad event in a batch of an ordered webhook: the batch is taken apart, the bad one is found and given up, the others come in order, and the lane
//! goes on; whoever takes over amid that goes on with the same batches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use hookline_tests::api::Api;
use hookline_tests::oracle::log::Log;
use hookline_tests::program::{Engine, Site, Start};
use hookline_tests::receiver::{POISON, Received, Receiver};
use hookline_tests::say;
use hookline_tests::wait::{at_least, eventually};

use super::{event, numbers, place, webhook};
use crate::faults::SESSION;

both_engines!(
    a_bad_event_is_found_and_the_lane_goes_on,
    a_kill_amid_the_splitting_keeps_batches_and_ids,
);

const WITHIN: Duration = Duration::from_secs(90);
const PATH: &str = "/picky/422/batches";
const AT_ONCE: usize = 6;

/// Events of which each `n` with `bad(n)` is one that the receiver does not take.
fn some(count: u64, bad: fn(u64) -> bool) -> Vec<String> {
    let one = |n| {
        let what = if bad(n) { POISON } else { "good" };
        let data = format!("{{\"n\": {n}, \"what\": \"{what}\"}}");
        event("order", &format!("order-{n}"), &data)
    };
    (0..count).map(one).collect()
}

fn picky(receiver: &Receiver) -> String {
    let batch = format!("body: array\nbatch: {{max_events: {AT_ONCE}, max_wait: 1s}}");
    let retry =
        "retry: {jitter: 0, schedule: {list: [200ms]}, permanent: [{match: [422], then: split}]}";
    let more = format!("ordered: true\n{batch}\n{retry}");
    webhook("batches", &receiver.url(PATH), &more)
}

/// How many events were taken, or are over because nobody takes them alone. Those of the last request alone do not count before it is answered.
fn over(receiver: &Receiver) -> usize {
    let requests = receiver.at(PATH);
    let ends = |r: &&Received| r.answered == 200 || (r.answered == 422 && numbers(r).len() == 1);
    let over: BTreeSet<u64> = requests.iter().filter(ends).flat_map(numbers).collect();
    over.len()
}

/// What came of following the requests of the lane.
#[derive(Debug, Default)]
struct Followed {
    /// Batches of several events that were taken apart.
    split: usize,
    /// Events given up, in order.
    bad: Vec<u64>,
    /// Requests that came again.
    repeats: usize,
    /// The batches of several by their events, and likewise those of one.
    ids: [BTreeMap<Vec<u64>, String>; 2],
}

/// Follows the lane: each request goes on where the one before it ended. What the receiver refused whole comes event by event, and until that is done
/// in no other form; a batch that comes again is the head, and byte for byte what it was.
fn follow(requests: &[Received]) -> Followed {
    let mut seen = Followed::default();
    let mut bodies: BTreeMap<String, Bytes> = BTreeMap::new();
    let (mut next, mut apart) = (0_u64, 0_u64);
    let mut before: Option<(String, Option<String>)> = None;
    let mut sequences = Vec::new();
    for request in requests {
        let (these, id) = (numbers(request), request.webhook_id().to_owned());
        let (first, end) = (these[0], these[0] + these.len() as u64);
        assert!(these.iter().copied().eq(first..end), "{these:?}");
        let body = bodies.entry(id.clone()).or_insert(request.body.clone());
        assert_eq!(*body, request.body, "{id} came with another body");
        let kind = usize::from(these.len() == 1);
        let known = seen.ids[kind].entry(these.clone()).or_insert(id.clone());
        assert_eq!(*known, id, "{these:?} came as another batch");
        sequences.push(place(request).1);

        let attempt = request.header("hookline-attempt").map(str::to_owned);
        let this = (id, attempt);
        if let Some(last) = before.replace(this.clone())
            && last.0 == this.0
        {
            // The head again: its worker was killed before that was written down.
            assert_eq!(last.1, this.1, "what was answered is not tried again");
            seen.repeats += 1;
            continue;
        }
        assert_eq!(first, next, "{these:?} came when {next} was to come");
        assert!(
            next >= apart || these.len() == 1,
            "{these:?} is together again"
        );
        match request.answered {
            200 => next = end,
            422 if these.len() == 1 => {
                seen.bad.push(first);
                next = end;
            }
            422 => {
                seen.split += 1;
                apart = end;
            }
            other => panic!("{these:?} was answered with {other}"),
        }
    }
    assert!(sequences.is_sorted(), "{sequences:?}");
    let mut members: Vec<u64> = seen.ids[0].keys().flatten().copied().collect();
    let all = members.len();
    members.sort_unstable();
    members.dedup();
    assert_eq!(members.len(), all, "an event came in two batches");
    seen
}

async fn a_bad_event_is_found_and_the_lane_goes_on(engine: Engine) {
    const EVENTS: u64 = 40;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    site.apply(&picky(&receiver)).await;
    // First and last of a batch, two in one, and one somewhere.
    let bad = |n| matches!(n, 6 | 17 | 20 | 22 | 33);
    site.publish(&some(EVENTS, bad)).await;
    at_least("events", 40, WITHIN, || over(&receiver)).await;
    let seen = follow(&receiver.at(PATH));
    assert_eq!(seen.bad, [6, 17, 20, 22, 33]);
    assert!((2..=5).contains(&seen.split), "{seen:?}");
    assert_eq!(seen.repeats, 0, "{seen:?}");

    // Each bad one has its own end, and can be found by it; the others are delivered.
    let viewer = Api::with_role(&site, &program, "viewer", None).await;
    let ended = async |outcome: &str| {
        let path =
            format!("/v1/projects/shop/attempts?webhook=batches&limit=200&outcome={outcome}");
        let answer = viewer.get(&path).await;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let ids = items.iter().filter_map(|i| i["event_id"].as_str());
        ids.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let refused: BTreeSet<_> = seen.bad.iter().map(|n| format!("order-{n}")).collect();
    let shown = async || {
        let (bad, good) = (ended("refused").await, ended("delivered").await);
        if (&bad, good.len()) == (&refused, 35) {
            Ok(())
        } else {
            Err((bad, good))
        }
    };
    eventually("each has its outcome", WITHIN, shown).await;
    assert!(program.stop().await.success());
    assert_eq!(dead(&site).await, 5);
}

/// Deliveries in `dead`.
async fn dead(site: &Site) -> usize {
    let log = Log::read(site).await;
    let deliveries: BTreeSet<_> = log.dead.iter().map(|dead| dead.delivery).collect();
    deliveries.len()
}

async fn a_kill_amid_the_splitting_keeps_batches_and_ids(engine: Engine) {
    const EVENTS: u64 = 60;
    /// Where the process ends, and how often it comes by there before.
    const KILLS: [(&str, usize); 6] = [
        // Its batch is noted, and refused; then it ends before it has gone on, or with the first alone.
        ("dispatch-record-stored", 1),
        ("client-written", 2),
        ("dispatch-judged", 3),
        ("dispatch-record-stored", 4),
        ("client-head-read", 3),
        ("dispatch-following", 0),
    ];
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&picky(&receiver)).await;
    // In each batch the second but last.
    let bad = |n| n % 6 == 4;
    site.publish(&some(EVENTS, bad)).await;
    for (point, after) in KILLS {
        let dies = Start::default().session(SESSION).dies_at(point, after);
        let mut program = site.spawn(&dies);
        let status = program.ended(WITHIN).await;
        assert!(!status.success(), "it did not die at {point}: {status}");
    }
    let program = site.start_with(&Start::default().session(SESSION)).await;
    at_least("events", 60, WITHIN, || over(&receiver)).await;
    assert!(program.stop().await.success());
    let seen = follow(&receiver.at(PATH));
    say(&format!(
        "{} batches were taken apart in {} lives, {} requests came again",
        seen.split,
        KILLS.len() + 1,
        seen.repeats
    ));
    assert!(seen.bad.iter().copied().eq((0..EVENTS).filter(|n| bad(*n))));
    assert!(seen.split >= 6, "{seen:?}");
    assert!(seen.repeats <= KILLS.len(), "at most one a kill: {seen:?}");
    assert_eq!(dead(&site).await, seen.bad.len());
}
