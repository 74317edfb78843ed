//! An ordered webhook gets its events strictly in sequence, the first that fails holds the later ones, and nobody else waits; a batch is sent again
//! as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::{at_least, eventually};

use serde_json::json;

use super::{events, numbers, place, webhook};

both_engines!(
    what_comes_later_waits_until_the_first_has_been_taken,
    each_key_has_an_order_of_its_own,
    a_batch_is_sent_again_as_it_was,
    ordered_batches_keep_their_order_when_the_worker_is_killed,
    what_is_held_goes_on_when_somebody_releases_or_skips_it,
);

const WITHIN: Duration = Duration::from_secs(60);

/// In each lane, what comes first comes in rising sequence, and the next only when the one before has been answered with 200.
#[track_caller]
fn assert_in_order(received: &[Received]) {
    let mut last: BTreeMap<String, (u64, u16)> = BTreeMap::new();
    for request in received {
        let (lane, sequence) = place(request);
        let answered = request.answered;
        if let Some((before, then)) = last.insert(lane.clone(), (sequence, answered)) {
            assert!(before <= sequence, "{lane}: {sequence} after {before}");
            assert!(
                before == sequence || then == 200,
                "{lane}: {sequence} came although {before} was answered with {then}"
            );
        }
    }
}

async fn what_comes_later_waits_until_the_first_has_been_taken(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let retry = "body: data\nretry: {jitter: 0, schedule: {list: [300ms, 1s, 1s]}}";
    site.apply(&format!(
        "{}{}",
        webhook(
            "ordered",
            &receiver.url("/until/3/ordered"),
            &format!("ordered: true\n{retry}")
        ),
        webhook("beside", &receiver.url("/ok/beside"), "body: data"),
    ))
    .await;
    site.publish(&events("user.signup", 5)).await;
    at_least("others", 5, WITHIN, || receiver.count("/ok/beside")).await;
    assert!(
        receiver.count("/until/3/ordered") < 15,
        "nobody waits for the ordered one"
    );
    at_least("ordered", 15, WITHIN, || receiver.count("/until/3/ordered")).await;
    let came = receiver.at("/until/3/ordered");
    assert_in_order(&came);
    let seen: Vec<_> = came.iter().flat_map(numbers).collect();
    let expected: Vec<u64> = (0..5).flat_map(|n| [n; 3]).collect();
    assert_eq!(seen, expected);
    for attempts in came.chunks(3) {
        let wait = attempts[2].at - attempts[1].at;
        assert!(wait >= Duration::from_millis(998), "{wait:?}");
        assert_eq!(attempts[0].webhook_id(), attempts[2].webhook_id());
    }
    assert!(program.stop().await.success());
}

async fn each_key_has_an_order_of_its_own(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let more = "ordered: key\nbody: data\nretry: {jitter: 0, schedule: {list: [1s, 1s]}}";
    let path = "/until/2/keys";
    site.apply(&webhook("keys", &receiver.url(path), more))
        .await;
    let lines: Vec<String> = (0..40_u64)
        .map(|n| {
            let key = n % 20;
            format!(
                r#"{{"specversion":"1.0","project":"shop","source":"/tests","id":"k-{n}","type":"user.signup","partitionkey":"user-{key}","data":{{"n":{n}}}}}"#
            )
        })
        .collect();
    let begun = tokio::time::Instant::now();
    site.publish(&lines).await;
    at_least("requests", 80, WITHIN, || receiver.count(path)).await;
    let took = begun.elapsed();
    let came = receiver.at(path);
    assert_in_order(&came);
    let lanes: std::collections::BTreeSet<_> = came.iter().map(|r| place(r).0).collect();
    assert!(lanes.len() > 8, "keys have lanes of their own: {lanes:?}");
    // Each event waits a second; one after the other that would be forty.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(program.stop().await.success());
}

async fn a_batch_is_sent_again_as_it_was(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let batch = "batch: {max_events: 10, max_wait: 400ms}";
    let retry = "retry: {jitter: 0, schedule: {list: [1s, 1s]}}";
    site.apply(&format!(
        "{}{}",
        webhook(
            "array",
            &receiver.url("/flaky/1/array"),
            &format!("body: array\n{batch}\n{retry}")
        ),
        webhook(
            "lines",
            &receiver.url("/ok/lines"),
            &format!("body: ndjson\n{batch}\n{retry}")
        ),
    ))
    .await;
    site.publish(&events("user.signup", 35)).await;
    let taken = || {
        let came = receiver.at("/flaky/1/array").into_iter();
        came.filter(|r| r.answered == 200)
            .map(|r| numbers(&r).len())
            .sum()
    };
    at_least("events", 35, WITHIN, taken).await;
    let mut by_id: BTreeMap<String, Vec<Received>> = BTreeMap::new();
    for request in receiver.at("/flaky/1/array") {
        let id = request.webhook_id().to_owned();
        by_id.entry(id).or_default().push(request);
    }
    let mut all = Vec::new();
    for (id, requests) in &by_id {
        assert_eq!(requests.len(), 2, "{id}");
        assert_eq!(requests[0].body, requests[1].body, "{id}");
        let attempts: Vec<_> = requests
            .iter()
            .map(|r| r.header("hookline-attempt"))
            .collect();
        assert_eq!(attempts, [Some("1"), Some("2")]);
        let these = numbers(&requests[0]);
        assert!(these.len() <= 10, "{these:?}");
        all.extend(these);
    }
    all.sort_unstable();
    assert_eq!(all, (0..35).collect::<Vec<u64>>());
    assert!(by_id.len() < 20, "they go together: {}", by_id.len());

    let lines = || -> usize {
        let came = receiver.at("/ok/lines").into_iter();
        came.map(|r| {
            r.body
                .split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
                .count()
        })
        .sum()
    };
    at_least("lines", 35, WITHIN, lines).await;
    assert_eq!(lines(), 35);
    assert!(program.stop().await.success());
}

async fn ordered_batches_keep_their_order_when_the_worker_is_killed(engine: Engine) {
    const EVENTS: usize = 3_000;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let mut program = site.start().await;
    let retry = "retry: {jitter: 0, schedule: {list: [50ms, 1s, 1s, 1s, 1s, 1s]}}";
    site.apply(&format!(
        "{}{}",
        webhook(
            "batches",
            &receiver.url("/flaky/1/batches"),
            &format!(
                "ordered: true\nbody: array\nbatch: {{max_events: 20, max_wait: 20ms}}\n{retry}"
            )
        ),
        webhook(
            "single",
            &receiver.url("/ok/single"),
            &format!("ordered: true\nbody: data\n{retry}")
        ),
    ))
    .await;
    let lines = events("user.signup", EVENTS);
    for part in lines.chunks(EVENTS / 4) {
        site.publish(part).await;
        let so_far = receiver.count("/ok/single");
        at_least("some more", so_far + 50, WITHIN, || {
            receiver.count("/ok/single")
        })
        .await;
        program.kill().await;
        program = site.start().await;
    }
    let last = |path: &'static str| {
        let came = receiver.at(path);
        let taken = came.iter().rev().find(|r| r.answered == 200);
        taken.and_then(|r| numbers(r).last().copied())
    };
    for path in ["/ok/single", "/flaky/1/batches"] {
        let arrived = || {
            let last = last(path);
            async move {
                let end = u64::try_from(EVENTS).unwrap_or(u64::MAX) - 1;
                if last == Some(end) { Ok(()) } else { Err(last) }
            }
        };
        eventually("everything has come", Duration::from_secs(120), arrived).await;
        // What is first seen is in order; after a kill at most one is seen again.
        let mut seen: u64 = 0;
        let mut repeats = 0;
        let mut bodies: BTreeMap<String, bytes::Bytes> = BTreeMap::new();
        for request in receiver.at(path) {
            let before = bodies.insert(request.webhook_id().to_owned(), request.body.clone());
            assert!(
                before.is_none_or(|body| body == request.body),
                "{} came with another body",
                request.webhook_id()
            );
            for n in numbers(&request) {
                assert!(n <= seen, "{path}: {n} came when {seen} was to come");
                if n == seen {
                    seen += 1;
                }
            }
            let taken_again =
                request.answered == 200 && numbers(&request).iter().all(|n| n + 1 < seen);
            repeats += usize::from(taken_again);
        }
        assert_eq!(usize::try_from(seen), Ok(EVENTS), "{path}");
        assert!(repeats <= 4, "{path}: {repeats} repeats after four kills");
    }
    assert!(program.stop().await.success());
}

async fn what_is_held_goes_on_when_somebody_releases_or_skips_it(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    let path = "/ok/held";
    receiver.answer(path, 500);
    let retry = "retry: {jitter: 0, schedule: {list: [200ms]}, on_exhausted: hold}";
    let more = format!("ordered: true\nbody: data\n{retry}");
    site.apply(&webhook("held", &receiver.url(path), &more))
        .await;
    site.publish(&events("user.signup", 4)).await;
    at_least("attempts", 2, WITHIN, || receiver.count(path)).await;
    let manager = Api::with_role(&site, &program, "manager", None).await;
    let hook = "/v1/projects/shop/webhooks/held";
    let head = |request: &Received| json!({"delivery_id": request.webhook_id()});

    // Released it is tried once more, and held again.
    let first = head(&receiver.at(path)[0]);
    // It is held once its last attempt counts.
    let release = || async {
        let answer = manager
            .send("POST", &format!("{hook}:release"), &first)
            .await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.body)
        }
    };
    eventually("it is released", WITHIN, release).await;
    at_least("attempts", 3, WITHIN, || receiver.count(path)).await;
    // Skipped, it lets the next one go; that is the one whose answer is good now.
    let skip = || async {
        let answer = manager.send("POST", &format!("{hook}:skip"), &first).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.body)
        }
    };
    receiver.answer(path, 200);
    eventually("it is skipped", WITHIN, skip).await;
    at_least("requests", 6, WITHIN, || receiver.count(path)).await;
    let seen: Vec<_> = receiver.at(path).iter().flat_map(numbers).collect();
    assert_eq!(seen, [0, 0, 0, 1, 2, 3]);

    let again = manager.send("POST", &format!("{hook}:skip"), &first).await;
    assert_eq!(again.status, 409, "{}", again.body);
    let bad = manager
        .send(
            "POST",
            &format!("{hook}:skip"),
            &json!({"delivery_id": "7"}),
        )
        .await;
    assert_eq!(bad.status, 422, "{}", bad.body);
    assert_eq!(bad.body["errors"][0]["field"], "delivery_id");
    assert!(program.stop().await.success());
}
