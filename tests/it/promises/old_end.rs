//! One webhook that waits for long keeps nobody's records, and loses none of its own; what waits for too long ends visibly.

use std::sync::Arc;
use std::time::Duration;

use hookline_journal::Journal;
use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};

use super::{event, events, webhook};

both_engines!(
    what_waits_is_moved_out_of_the_way_and_comes_in_order_later,
    what_waits_for_too_long_expires,
);

const WITHIN: Duration = Duration::from_secs(60);
/// Records of each wave that flows past what waits.
const WAVE: usize = 1_500;
/// Settled records are deleted some hundreds at a time.
const LEFT_MAX: u64 = 800;

/// Records of a topic: first and behind the last.
async fn extent(journal: &Arc<dyn Journal>, topic: &str) -> (u64, u64) {
    let start = journal.start(topic, 0).await.unwrap();
    (start, journal.end(topic, 0).await.unwrap())
}

/// Lets events flow past what waits until hardly more of them is left than of what waits.
async fn flow(site: &Site, receiver: &Receiver, wave: usize) -> u64 {
    let pad = "x".repeat(200);
    let some: Vec<_> = (0..WAVE)
        .map(|n| {
            event(
                "flow",
                &format!("flow-{wave}-{n}"),
                &format!("{{\"pad\": \"{pad}\"}}"),
            )
        })
        .collect();
    site.publish(&some).await;
    at_least("the flow", (wave + 1) * WAVE, WITHIN, || {
        receiver.count("/ok/flow")
    })
    .await;
    let (journal, topic) = (site.journal().await, site.topic("deliveries"));
    let few = || async {
        let (start, end) = extent(&journal, &topic).await;
        if end - start <= LEFT_MAX {
            Ok(())
        } else {
            Err((start, end))
        }
    };
    eventually("few records are left", WITHIN, few).await;
    extent(&journal, &topic).await.0
}

async fn what_waits_is_moved_out_of_the_way_and_comes_in_order_later(engine: Engine) {
    let receiver = Receiver::start().await;
    let more = "[dispatch]\nold_end_after = \"2s\"\nold_end_bytes = \"64KiB\"\n";
    let site = Site::sized(engine, 1, more).await;
    let program = site.start().await;
    let (paused, stuck) = ("/ok/paused", "/ok/stuck");
    receiver.answer(stuck, 500);
    let flowing = webhook("flow", &receiver.url("/ok/flow"), "events: [flow]");
    let waiting = |state: &str| {
        let more = format!("events: [paused]\nordered: true\nbody: data\nstate: {state}");
        webhook("paused", &receiver.url(paused), &more)
    };
    let blocked =
        "events: [stuck]\nordered: true\nbody: data\nretry: {jitter: 0, schedule: {list: [1h]}}";
    let blocked = webhook("stuck", &receiver.url(stuck), blocked);
    site.apply(&[flowing, waiting("paused"), blocked].concat())
        .await;
    site.publish(&events("paused", 40)).await;
    site.publish(&events("stuck", 5)).await;
    at_least("the head", 1, WITHIN, || receiver.count(stuck)).await;
    let start = flow(&site, &receiver, 0).await;
    assert!(start > 45, "{start}: what waits stands before");

    // Whoever comes next finds it.
    program.kill().await;
    let program = site.start().await;
    let later: Vec<_> = (40..60)
        .map(|n| event("paused", &format!("paused-{n}"), &format!("{{\"n\": {n}}}")))
        .collect();
    site.publish(&later).await;
    let start = flow(&site, &receiver, 1).await;
    assert_eq!((receiver.count(paused), receiver.count(stuck)), (0, 1));
    assert!(program.stop().await.success());
    // What is cached of it is only a cache.
    let (journal, progress) = (site.journal().await, site.topic("progress"));
    let (_, end) = extent(&journal, &progress).await;
    journal.delete_records(&progress, 0, end).await.unwrap();
    drop(journal);
    let program = site.start().await;

    site.apply(&waiting("active")).await;
    at_least("all of it", 60, WITHIN, || receiver.count(paused)).await;
    let numbers: Vec<_> = receiver
        .at(paused)
        .iter()
        .map(|r| r.json()["n"].clone())
        .collect();
    assert_eq!(numbers, (0..60).collect::<Vec<_>>(), "in order, and once");
    let sequence = |r: &hookline_tests::receiver::Received| {
        let sequence = r.header("hookline-sequence").expect("a sequence");
        sequence.parse::<u64>().expect("a number")
    };
    let sequences: Vec<_> = receiver.at(paused).iter().map(sequence).collect();
    assert!(
        sequences.is_sorted() && sequences[0] < start,
        "{sequences:?}"
    );
    receiver.answer(stuck, 200);
    let head = receiver.at(stuck)[0].webhook_id().to_owned();
    let release = ["release", "--project", "shop", "--webhook", "stuck", &head];
    assert_eq!(site.succeed(&release, "").await.trim(), "done");
    at_least("the others", 6, WITHIN, || receiver.count(stuck)).await;
    let numbers: Vec<_> = receiver
        .at(stuck)
        .iter()
        .map(|r| r.json()["n"].clone())
        .collect();
    assert_eq!(numbers, [0, 0, 1, 2, 3, 4]);

    // And then nobody needs the copies.
    let (journal, held) = (site.journal().await, site.topic("held"));
    let gone = || async {
        let (start, end) = extent(&journal, &held).await;
        if start == end && end > 0 {
            Ok(())
        } else {
            Err((start, end))
        }
    };
    eventually("the copies are gone", WITHIN, gone).await;
    assert!(program.stop().await.success());
}

async fn what_waits_for_too_long_expires(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::sized(engine, 1, "[dispatch]\nmax_hold = \"4s\"\n").await;
    let program = site.start().await;
    let (paused, stuck) = ("/ok/paused", "/ok/stuck");
    receiver.answer(stuck, 500);
    let waiting = "events: [paused]\nstate: paused";
    let hold = "events: [stuck]\nordered: true\nretry: {jitter: 0, schedule: {list: [1h]}}";
    let documents = [
        webhook("paused", &receiver.url(paused), waiting),
        webhook("stuck", &receiver.url(stuck), hold),
    ];
    site.apply(&documents.concat()).await;
    site.publish(&events("paused", 7)).await;
    site.publish(&events("stuck", 3)).await;
    let viewer = Api::with_role(&site, &program, "viewer", None).await;
    for (name, count) in [("paused", 7), ("stuck", 3)] {
        let path = format!("/v1/projects/shop/attempts?webhook={name}&outcome=expired");
        let expired = async || match viewer.get(&path).await["items"].as_array() {
            Some(items) if items.len() == count => Ok(()),
            items => Err(format!("{items:?}")),
        };
        eventually(&format!("all of {name} expire"), WITHIN, expired).await;
    }
    assert_eq!(receiver.count(paused), 0);
    assert_eq!(
        program
            .metric("hookline_dispatch_max_hold_seconds", "")
            .await,
        4.0
    );
    // They can be sent again all the same.
    receiver.answer(stuck, 200);
    let redrive = [
        "redrive",
        "--project",
        "shop",
        "--webhook",
        "stuck",
        "--output",
        "json",
    ];
    let tried = receiver.count(stuck);
    site.succeed(&redrive, "").await;
    at_least("them", tried + 3, WITHIN, || receiver.count(stuck)).await;
    assert!(program.stop().await.success());
}
