//! What waits for its next attempt in its lane takes bounded memory, whoever else waits: beyond the bound it is read again when it is due.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::{at_least, eventually};

use serde_json::json;

use super::{event, webhook};

both_engines!(what_waits_in_many_lanes_takes_bounded_memory);

const WITHIN: Duration = Duration::from_secs(60);
const HOOKS: usize = 40;
const EVENTS: usize = 6;
/// Events of a batch, so that each lane is held by one of two.
const TOGETHER: usize = 3;
const BYTES: usize = 8 * 1024;
/// A tenth of what the first batches have.
const KEPT: usize = HOOKS * TOGETHER * BYTES / 10;

/// All lanes are blocked, and what they keep in memory is within bounds.
async fn all_wait_within_bounds(program: &Program) {
    let look = async || {
        let blocked = program.metric("hookline_dispatch_lanes_blocked", "").await;
        let kept = program.metric("hookline_dispatch_resting_bytes", "").await;
        let fits = blocked >= HOOKS as f64 && kept > 0.0 && kept <= KEPT as f64;
        if fits { Ok(()) } else { Err((blocked, kept)) }
    };
    eventually("all wait, and little is kept", WITHIN, look).await;
}

async fn what_waits_in_many_lanes_takes_bounded_memory(engine: Engine) {
    let receiver = Receiver::start().await;
    let more = format!("[dispatch]\nresting_bytes = \"{}KiB\"\n", KEPT / 1024);
    let site = Site::with(engine, &more).await;
    let program = site.start().await;
    receiver.answer("/ok/big", 500);
    let at = |hook: usize| format!("/ok/big/{hook}/");
    let hooks: String = (0..HOOKS)
        .map(|hook| {
            let more = format!(
                "ordered: true\nbody: array\nbatch: {{max_events: {TOGETHER}, max_bytes: 1MiB, max_wait: 1s}}\n\
                 retry: {{jitter: 0, schedule: {{fixed: {{delay: 4s, times: 100}}}}}}"
            );
            webhook(&format!("big-{hook}"), &receiver.url(&at(hook)), &more)
        })
        .collect();
    site.apply(&hooks).await;
    let pad = "x".repeat(BYTES);
    let big: Vec<String> = (0..EVENTS)
        .map(|n| {
            event(
                "big",
                &format!("big-{n}"),
                &format!("{{\"n\": {n}, \"pad\": \"{pad}\"}}"),
            )
        })
        .collect();
    site.publish(&big).await;
    at_least("first attempts", HOOKS, WITHIN, || {
        receiver.count("/ok/big")
    })
    .await;
    all_wait_within_bounds(&program).await;
    // Most are read again for it.
    at_least("second attempts", 2 * HOOKS, WITHIN, || {
        receiver.count("/ok/big")
    })
    .await;
    assert!(
        program
            .metric("hookline_dispatch_scanned_bytes_total", "")
            .await
            > 0.0
    );
    all_wait_within_bounds(&program).await;

    // Nor does a new owner keep more.
    program.kill().await;
    let program = site.start().await;
    all_wait_within_bounds(&program).await;
    // People can do with them what they can do with any.
    let api = Api::with_role(&site, &program, "manager", None).await;
    let (skipped, released) = (0..4, 4..8);
    for (hooks, action) in [(skipped.clone(), "skip"), (released, "release")] {
        for hook in hooks {
            let name = format!("big-{hook}");
            let sent = format!("/v1/projects/shop/attempts?webhook={name}");
            let sent = api.get(&sent).await;
            let head = json!({"delivery_id": sent["items"][0]["delivery_id"]});
            let path = format!("/v1/projects/shop/webhooks/{name}:{action}");
            // It may be on its way just now.
            let done = async || match api.send("POST", &path, &head).await {
                answer if answer.status == 200 => Ok(()),
                answer => Err(answer.body),
            };
            eventually(&format!("{name}: {action}"), WITHIN, done).await;
        }
    }
    receiver.answer("/ok/big", 200);
    let numbers = |request: &Received| -> Vec<u64> {
        let body = request.json();
        let batch = body.as_array().expect("a batch").iter();
        batch
            .map(|data| data["n"].as_u64().expect("a number"))
            .collect()
    };
    for hook in 0..HOOKS {
        let taken = || {
            let came = receiver.at(&at(hook)).into_iter();
            let taken: Vec<u64> = came
                .filter(|r| r.answered == 200)
                .flat_map(|r| numbers(&r))
                .collect();
            let last = taken.last().copied();
            async move {
                if last == Some(EVENTS as u64 - 1) {
                    Ok(())
                } else {
                    Err((hook, taken))
                }
            }
        };
        eventually("all of it has come", WITHIN, taken).await;
        // Each batch comes as it was until it is taken or skipped, then the next.
        let came = receiver.at(&at(hook));
        let mut seen = Vec::new();
        let mut last: Option<&Received> = None;
        for request in &came {
            let again = last.filter(|last| last.webhook_id() == request.webhook_id());
            match again {
                Some(last) => assert_eq!(last.body, request.body, "{hook}"),
                None => seen.extend(numbers(request)),
            }
            last = Some(request);
        }
        assert_eq!(seen, (0..EVENTS as u64).collect::<Vec<_>>(), "{hook}");
        let first_taken = came.iter().any(|r| r.answered == 200 && numbers(r)[0] == 0);
        assert_eq!(first_taken, !skipped.contains(&hook), "{hook}");
    }
    assert!(program.stop().await.success());
}
