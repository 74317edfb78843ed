//! Filters: who of those that subscribed to an event gets it.

use super::*;

#[tokio::test]
async fn filters_decide_among_those_that_subscribed() {
    let system = System::new().await;
    let all = system.webhook("all", &["*"]).await;
    let small = system
        .filtered_webhook(
            "small",
            &["order.*"],
            "event.data.n < 2 && event.id != 'e2'",
        )
        .await;
    let large = system
        .filtered_webhook("large", &["order.*"], "event.data.n >= 2")
        .await;
    let unsure = system
        .filtered_webhook("unsure", &["*"], "event.data.missing == 1")
        .await;
    for (partition, id, event_type) in [
        (0, "e1", "order.paid"),
        (1, "e2", "order.paid"),
        (2, "e3", "user.signup"),
    ] {
        let event = event(id, "shop", event_type);
        system.publish(partition, event).await;
    }
    let metrics = system.run(system.until_sends(4)).await;
    let expected: BTreeMap<_, _> = [("e1", all), ("e2", all), ("e3", all), ("e1", small)]
        .map(|(id, uid)| ((id.to_owned(), uid), 1))
        .into();
    let sends = system.sends().await;
    assert_eq!(sends, expected);
    assert!(sends.keys().all(|(_, uid)| ![large, unsure].contains(uid)));
    let count = |name| metric(&metrics, name, None);
    // `large` twice, `small` once, `unsure` three times: that one for want of an answer.
    assert_eq!(count("hookline_fanout_filtered_total"), 6.0);
    assert_eq!(count("hookline_fanout_filter_errors_total"), 3.0);
}

#[tokio::test]
async fn an_event_that_every_filter_turns_away_is_done() {
    let system = System::new().await;
    system
        .filtered_webhook("never", &["*"], "event.type == 'x' && event.type != 'x'")
        .await;
    let last = system
        .filtered_webhook("last", &["*"], "event.id == 'e3'")
        .await;
    for id in ["e1", "e2", "e3"] {
        system.publish(0, event(id, "shop", "order.paid")).await;
    }
    let metrics = system.run(system.until_sends(1)).await;
    assert_eq!(
        system.sends().await,
        BTreeMap::from([(("e3".to_owned(), last), 1)])
    );
    let count = |label| metric(&metrics, "hookline_fanout_events_total", Some(label));
    assert_eq!(["fanned_out", "unmatched"].map(count), [1.0, 2.0]);
    // A new process does not look at them again.
    system.publish(1, event("e3", "shop", "other")).await;
    let metrics = system.run(async {
        until(|| async { system.read(Topic::Deliveries).await.len() == 2 }).await;
    });
    let read = metric(
        &metrics.await,
        "hookline_fanout_events_total",
        Some("unmatched"),
    );
    assert_eq!(read, 0.0);
}
