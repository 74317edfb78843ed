//! The broker stands still for half a minute, and goes on as if nothing had been.

use std::sync::Arc;
use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::Site;
use tokio::io::AsyncWriteExt as _;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_for_30_s_costs_nothing_but_time() {
    let room = Site::room_for_brokers().await;
    let broker = Arc::new(spawn_blocking(Broker::private).await.unwrap());
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    let (run, mut program) = Run::begin(site, broker.address()).await;

    broker.freeze();
    let frozen = Instant::now();
    tokio::join!(
        assert_commands_say_so(&run.site),
        assert_alive_but_not_ready(&mut program)
    );
    sleep_until(frozen + Duration::from_secs(30)).await;
    assert!(!program.has_ended());
    broker.thaw();
    let events = run.site.topic("events");
    let thawed = Arc::clone(&broker);
    spawn_blocking(move || thawed.wait_until_it_leads(&events))
        .await
        .unwrap();
    run.assert_resumes("30 s of standstill", Instant::now())
        .await;
    run.finish(program).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_to_a_broker_that_stands_still_ends_with_an_error() {
    let room = Site::room_for_brokers().await;
    let broker = Arc::new(spawn_blocking(Broker::private).await.unwrap());
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    site.succeed(&["topics", "create"], "").await;
    let journal = site.journal().await;
    let events = site.topic("events");
    let mut publishing = site.piped(&["publish", "-"]);
    let mut input = publishing.stdin.take().expect("piped");
    let line = |id: &str| event("order.paid", id, "{}") + "\n";
    // When the second is stored, it has been answered that the first is.
    for count in 1..=2 {
        let line = line(&count.to_string());
        input.write_all(line.as_bytes()).await.unwrap();
        eventually("it is stored", Duration::from_secs(30), || async {
            let mut stored = 0;
            for partition in 0..journal.topics().await.unwrap()[&events].partitions {
                stored += journal.end(&events, partition).await.unwrap();
            }
            if stored == count { Ok(()) } else { Err(stored) }
        })
        .await;
    }
    broker.freeze();
    input.write_all(line("3").as_bytes()).await.unwrap();
    drop(input);
    let output = timeout(Duration::from_secs(45), publishing.wait_with_output()).await;
    broker.thaw();
    let output = output
        .expect("it ends while the broker stands still")
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("acknowledged nothing for 30 s"), "{said}");
    // That the second is may not have been answered before the broker stood still.
    let published = [
        "1 event is published, and from line 2 on",
        "2 events are published, and from line 3 on",
    ];
    assert!(published.iter().any(|some| said.contains(some)), "{said}");
    assert_eq!(text(&output.stdout), "");
}
