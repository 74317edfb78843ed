//! A graceful restart in mid-stream loses nothing and repeats nothing.

use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use tokio::time::Instant;

use super::{assert_each_once, by_id, events, webhook};

both_engines!(
    a_graceful_restart_in_mid_stream_repeats_nothing,
    a_retry_that_waits_survives_a_restart,
    a_kill_loses_nothing,
);

async fn a_graceful_restart_in_mid_stream_repeats_nothing(engine: Engine) {
    const COUNT: usize = 1500;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let documents = [
        webhook("quick", &receiver.url("/ok/quick"), ""),
        webhook("slow", &receiver.url("/slow/60/slow"), ""),
    ];
    site.apply(&documents.concat()).await;
    let program = site.start().await;
    let events = events("order", COUNT);
    let (before, after) = events.split_at(COUNT / 2);
    site.publish(before).await;
    at_least("the stream runs", 50, Duration::from_secs(20), || {
        receiver.count("/slow")
    })
    .await;
    let asked = Instant::now();
    // Publishing goes on while it stops; with the embedded engine there is then nobody to publish to.
    assert!(
        program.stop().await.success(),
        "a graceful stop exits with 0"
    );
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(20), "it took {took:?} to stop");
    assert_eq!(receiver.in_flight(), 0, "no request is cut off");
    let sent = receiver.count("/slow");
    assert!(sent < COUNT, "it stopped in mid-stream");

    let program = site.start().await;
    site.publish(after).await;
    for path in ["/ok/quick", "/slow/60/slow"] {
        at_least(path, COUNT, Duration::from_secs(40), || {
            receiver.count(path)
        })
        .await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_each_once(&receiver.at("/ok/quick"), COUNT);
    assert_each_once(&receiver.at("/slow/60/slow"), COUNT);
    assert!(program.stop().await.success());
}

async fn a_retry_that_waits_survives_a_restart(engine: Engine) {
    const COUNT: usize = 20;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let retry = "retry: {jitter: 0, schedule: {list: [5s]}}";
    site.apply(&webhook("w", &receiver.url("/flaky/1/w"), retry))
        .await;
    let program = site.start().await;
    site.publish(&events("order", COUNT)).await;
    at_least("first attempts", COUNT, Duration::from_secs(20), || {
        receiver.count("/flaky")
    })
    .await;
    assert!(program.stop().await.success());
    assert_eq!(receiver.count("/flaky"), COUNT);
    let program = site.start().await;
    at_least(
        "second attempts",
        2 * COUNT,
        Duration::from_secs(30),
        || receiver.count("/flaky"),
    )
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let counts = by_id(&receiver.at("/flaky"));
    assert_eq!(counts.len(), COUNT);
    assert!(counts.values().all(|n| *n == 2), "{counts:?}");
    assert!(program.stop().await.success());
}

async fn a_kill_loses_nothing(engine: Engine) {
    const COUNT: usize = 600;
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("w", &receiver.url("/slow/20/w"), ""))
        .await;
    let program = site.start().await;
    site.publish(&events("order", COUNT)).await;
    at_least("the stream runs", 30, Duration::from_secs(20), || {
        receiver.count("/slow")
    })
    .await;
    program.kill().await;
    let in_flight_max = receiver.in_flight_max();
    let program = site.start().await;
    // Until the killed member's session has run out, its partitions wait.
    let all = || by_id(&receiver.at("/slow")).len();
    at_least("all deliveries", COUNT, Duration::from_secs(90), all).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let received = receiver.at("/slow");
    let repeats = received.len() - by_id(&received).len();
    // Those whose outcome was not yet acknowledged; acknowledgements trail the answers a little.
    let bound = 2 * in_flight_max.max(8);
    assert!(
        repeats <= bound,
        "{repeats} repeats, at most {bound} may be"
    );
    assert!(program.stop().await.success());
}
