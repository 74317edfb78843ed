//! What attempts came to.

use super::*;
use crate::AttemptLine;
use crate::testing;

const BEGIN: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

fn line(offset: u64, at: i64, outcome: &'static str, duration_ms: u32) -> AttemptLine {
    let mut line = attempt(offset, 0, "a");
    line.webhook_uid = "uid-a".into();
    line.delivery_id = format!("dlv_{offset}");
    line.id = format!("dlv_{offset}.0.1");
    line.started_ms = at;
    line.outcome = outcome;
    line.duration_ms = duration_ms;
    line
}

fn interval(minutes: i64) -> Interval {
    let to = Millis(BEGIN + minutes * MINUTE);
    Interval::around(Millis(BEGIN), to, to)
}

async fn of(store: &Store, uid: &str, interval: Interval) -> WebhookStatistics {
    let uids = [uid.to_owned(), "uid-none".to_owned()];
    let mut found = store.statistics("shop", &uids, interval).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found["uid-none"], WebhookStatistics::default());
    found.remove(uid).unwrap()
}

async fn attempts_are_added_up_while_they_are_stored(store: Store) {
    let mut lease = lease(&store, "one").await;
    let first = [
        line(0, BEGIN, "delivered", 10),
        line(1, BEGIN + 1, "failed", 5_000),
        line(2, BEGIN + MINUTE, "delivered", 20),
    ];
    store
        .write(&store.turn().await, &batch(&lease, &first, 3))
        .await
        .unwrap();
    lease.next = Some(3);
    let mut stray = line(3, BEGIN, "delivered", 1);
    stray.stray = true;
    let mut ended = line(4, BEGIN + MINUTE, "cancelled", 0);
    ended.id.push_str(".end");
    let mut other = line(5, BEGIN, "delivered", 1);
    other.webhook_uid = "uid-b".into();
    let second = [
        stray,
        ended,
        other,
        line(6, BEGIN + MINUTE, "exhausted", 30),
    ];
    store
        .write(&store.turn().await, &batch(&lease, &second, 7))
        .await
        .unwrap();
    let found = of(&store, "uid-a", interval(60)).await;
    let whole = found.whole;
    assert_eq!(
        (whole.attempts(), whole.delivered(), whole.failed()),
        (4, 2, 2)
    );
    assert_eq!(whole.success_rate(), Some(0.5));
    let outcomes: Vec<_> = whole.outcomes().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        outcomes,
        [("delivered", 2), ("exhausted", 1), ("cancelled", 1)]
    );
    let latency = whole.latency().unwrap();
    assert!((16..=24).contains(&latency.p50), "{latency:?}");
    assert!((4_096..=6_144).contains(&latency.p99), "{latency:?}");
    let minutes: Vec<_> = found
        .series
        .iter()
        .map(|(at, f)| (at.0, f.attempts()))
        .collect();
    let minute = BEGIN / MINUTE * MINUTE;
    assert_eq!(minutes, [(minute, 2), (minute + MINUTE, 2)]);
    assert_eq!(found.oldest_waiting, Some(Millis(BEGIN + 1)));
    let hours = of(&store, "uid-a", interval(24 * 60)).await;
    assert_eq!(hours.whole, whole);
    let days = of(&store, "uid-a", interval(30 * 24 * 60)).await;
    assert_eq!((days.whole, days.series.len()), (whole, 1));
    let later = Interval::around(
        Millis(BEGIN + MINUTE),
        Millis(BEGIN + 2 * MINUTE),
        Millis(BEGIN),
    );
    assert_eq!(of(&store, "uid-a", later).await.whole.attempts(), 2);
    assert_eq!(of(&store, "uid-b", interval(60)).await.whole.attempts(), 1);
    // Minutes go first; and then there are still the hours.
    let gone = store.delete_older_sums(Millis(0), Millis(BEGIN + 9 * MINUTE), 100);
    assert_eq!(gone.await.unwrap(), 3);
    assert_eq!(of(&store, "uid-a", interval(60)).await.series, []);
    assert_eq!(of(&store, "uid-a", interval(24 * 60)).await.whole, whole);
    store.close().await;
}

async fn a_store_of_an_earlier_version_is_added_up(store: Store) {
    migrator(store.dialect, 1).run(&store.pool).await.unwrap();
    for (offset, outcome, duration, ended, stray) in [
        (0, "delivered", 10, 0, 0),
        (1, "failed", 5_000, 0, 0),
        (2, "cancelled", 0, 1, 0),
        (3, "delivered", 1, 0, 1),
    ] {
        let sql = format!(
            "INSERT INTO attempts (record_partition, record_offset, record_index, project, delivery_id, run, attempt, ended, stray, \
             event_source, event_id, event_type, event_key, contact_email, webhook, webhook_uid, outcome, started_ms, duration_ms) VALUES \
             (0, {offset}, 0, 'shop', 'd{offset}', 0, 1, {ended}, {stray}, '/s', 'e', 't', 'k', 'Ann@example.com', 'a', 'uid-a', \
             '{outcome}', {BEGIN}, {duration})"
        );
        sqlx::query(&sql).execute(&store.pool).await.unwrap();
    }
    for minutes in [60, 24 * 60] {
        let whole = of(&store, "uid-a", interval(minutes)).await.whole;
        assert_eq!((whole.attempts(), whole.delivered()), (2, 1));
        assert_eq!(whole.outcomes().map(|(_, count)| count).sum::<u64>(), 2);
        assert!(whole.latency().unwrap().p99 > 4_096);
    }
    let filter = AttemptFilter {
        contact: Some("ann@EXAMPLE.com".into()),
        ..AttemptFilter::default()
    };
    let page = store.attempts("shop", &filter, None, 10).await.unwrap();
    assert_eq!(page.items.len(), 4);
    store.close().await;
}

/// Nobody counts attempts, nor what waits.
#[tokio::test]
async fn statistics_enter_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let store = testing::sqlite(dir.path());
    let pool = store.pool().await.unwrap();
    let uids = ["uid-a".to_owned(), "uid-b".to_owned()];
    let asked = [
        (
            crate::store::statistics::series("shop", &uids, interval(60)),
            "(project=? AND webhook_uid=? AND step_ms=? AND at_ms>? AND at_ms<?)",
        ),
        (
            crate::store::statistics::waiting("shop", &uids),
            "deliveries_open (project=? AND webhook_uid=?)",
        ),
    ];
    for (mut asked, expected) in asked {
        asked.text.insert_str(0, "EXPLAIN QUERY PLAN ");
        let rows = asked.fetch(pool).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, 3)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(expected), "{plan}");
        assert!(
            !plan.contains("SCAN attempts") && !plan.contains("SCAN deliveries"),
            "{plan}"
        );
    }
    store.close().await;
}

both_stores!(
    attempts_are_added_up_while_they_are_stored,
    a_store_of_an_earlier_version_is_added_up,
);
