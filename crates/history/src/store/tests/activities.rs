//! Events in the order in which they came.

use hookline_model::matching::TypePattern;
use hookline_model::wire;

use super::*;
use crate::{Activity, testing};

const BEGIN: i64 = 1_700_000_000_000;

fn activity(id: &str, accepted_ms: i64) -> Activity {
    shaped(id, accepted_ms, |_| {})
}

fn shaped(id: &str, accepted_ms: i64, shape: impl FnOnce(&mut wire::Event)) -> Activity {
    let mut event = wire::Event {
        id: id.into(),
        source: "/tests".into(),
        project: "shop".into(),
        r#type: "order".into(),
        key: "k".into(),
        data: bytes::Bytes::from_static(b"{\"n\": 1.50}"),
        ..wire::Event::default()
    };
    shape(&mut event);
    Activity::new(event, None, Millis(accepted_ms), (0, 0))
}

async fn lease_of(store: &Store, partition: usize) -> Lease {
    store.prepare(EVENTS, 2, &ours()).await.unwrap();
    let seen = store.leases(EVENTS).await.unwrap().remove(partition);
    let taken = store.take(EVENTS, &seen, "one", Millis(1_000_000)).await;
    taken.unwrap().expect("nobody else is there")
}

async fn put(store: &Store, lease: &mut Lease, activities: &[Activity]) {
    let next = lease.next.unwrap_or(0) + 1;
    let batch = Batch {
        lease,
        read: Read::Activities(activities),
        now: Millis(BEGIN),
        next,
        claim_epoch: 0,
        kept_from: None,
        missed: 0,
        lease_until: Millis(1_000_000),
    };
    store.write(&store.turn().await, &batch).await.unwrap();
    lease.next = Some(next);
}

async fn ids(store: &Store, filter: &ActivityFilter) -> Vec<String> {
    let found = store.activities("shop", filter, None, 0, 100).await;
    found.unwrap().items.into_iter().map(|a| a.id).collect()
}

async fn an_event_comes_once_as_it_first_was(store: Store) {
    let mut lease = lease_of(&store, 0).await;
    let full = shaped("full", BEGIN, |event| {
        event.time = "2023-01-02T03:04:05Z".into();
        event.subject = "s".into();
        event.data_schema = "https://example.com/schema".into();
        event.data_content_type = "application/json".into();
        event.extensions = [("tenant".to_owned(), "a\0b".to_owned())].into();
        event.contact = Some(wire::Contact {
            id: "7".into(),
            email: "Ann@Example.com".into(),
            phone: "+1".into(),
        });
    });
    let mut bytes = shaped("bytes", BEGIN, |event| {
        event.data = bytes::Bytes::from_static(b"\0\xff");
        event.data_content_type = "image/png".into();
    });
    bytes.at = (3, 4);
    let stored = [
        full,
        bytes,
        shaped("none", BEGIN, |event| event.data.clear()),
    ];
    put(&store, &mut lease, &stored).await;
    let repeated = shaped("full", BEGIN + 5, |event| event.r#type = "other".into());
    let elsewhere = [
        shaped("full", BEGIN, |event| event.source = "/other".into()),
        shaped("full", BEGIN, |event| event.project = "other".into()),
    ];
    put(&store, &mut lease, &[repeated.clone(), repeated]).await;
    put(&store, &mut lease, &elsewhere).await;
    let all = ActivityFilter::default();
    let page = store.activities("shop", &all, None, 0, 100).await.unwrap();
    assert_eq!(
        page.items.iter().take(3).cloned().collect::<Vec<_>>(),
        stored
    );
    assert_eq!((page.items.len(), page.more), (4, false));
    assert_eq!(page.items[3], elsewhere[0]);
    let end = store.activities_end().await.unwrap();
    assert_eq!((end.last, end.began), (7, BEGIN));
    store.close().await;
}

async fn events_are_found_by_what_they_say(store: Store) {
    let mut lease = lease_of(&store, 0).await;
    let hour = 3_600_000;
    let mut read = shaped("read", BEGIN + hour, |event| {
        event.r#type = "activity.read".into();
        event.contact = Some(wire::Contact {
            email: "Ann@Example.com".into(),
            ..wire::Contact::default()
        });
    });
    read.status = Some("READ".into());
    let stored = [
        activity("first", BEGIN),
        read,
        shaped("deep", BEGIN + 2 * hour, |event| {
            event.r#type = "activity.a.b".into();
        }),
        shaped("dot", BEGIN + 3 * hour, |event| {
            event.r#type = "activity.".into();
        }),
    ];
    put(&store, &mut lease, &stored).await;
    // What comes late belongs to its own time.
    put(&store, &mut lease, &[activity("late", BEGIN + 1)]).await;
    let none = ActivityFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let pattern = |text: &str| text.parse::<TypePattern>().unwrap();
    let of_pattern = |text: &str| ActivityFilter {
        patterns: Some(vec![pattern(text)]),
        ..none()
    };
    let email = |email: &str| ActivityFilter {
        email: text(email),
        ..none()
    };
    let between = |from: i64, to: i64| ActivityFilter {
        from: Some(Millis(from)),
        to: Some(Millis(to)),
        ..none()
    };
    for (filter, expected) in [
        (none(), vec!["first", "read", "deep", "dot", "late"]),
        (email("ann@example.com"), vec!["read"]),
        (email("ANN@EXAMPLE.COM"), vec!["read"]),
        (email("bob@example.com"), vec![]),
        (
            ActivityFilter {
                status: text("READ"),
                ..none()
            },
            vec!["read"],
        ),
        (
            ActivityFilter {
                event_type: text("order"),
                ..none()
            },
            vec!["first", "late"],
        ),
        (
            of_pattern("*"),
            vec!["first", "read", "deep", "dot", "late"],
        ),
        (of_pattern("activity.*"), vec!["read", "deep"]),
        (of_pattern("activity.a.*"), vec!["deep"]),
        (of_pattern("order"), vec!["first", "late"]),
        (
            ActivityFilter {
                patterns: Some(vec![]),
                ..none()
            },
            vec![],
        ),
        (between(BEGIN, BEGIN + hour), vec!["first", "late"]),
        (between(BEGIN + 1, BEGIN + hour + 1), vec!["read", "late"]),
        (between(BEGIN + 5 * hour, BEGIN + 9 * hour), vec![]),
        (
            ActivityFilter {
                from: Some(Millis(BEGIN + hour)),
                ..none()
            },
            vec!["read", "deep", "dot"],
        ),
    ] {
        assert_eq!(ids(&store, &filter).await, expected, "{filter:?}");
    }
    store.close().await;
}

async fn pages_end_where_the_next_begins(store: Store) {
    let mut lease = lease_of(&store, 0).await;
    let many: Vec<_> = (0..450)
        .map(|n| activity(&format!("e{n}"), BEGIN))
        .collect();
    put(&store, &mut lease, &many).await;
    let all = ActivityFilter::default();
    let odd = |activity: &Activity| !activity.id.ends_with(['0', '2', '4', '6', '8']);
    let rare = |activity: &Activity| activity.id == "e440";
    let wanted: [(Option<Wanted<'_>>, usize); 3] =
        [(None, 450), (Some(&odd), 225), (Some(&rare), 1)];
    for (wanted, expected) in wanted {
        for limit in [1, 7, 100, 500] {
            let (mut after, mut seen) = (0, Vec::new());
            loop {
                let page = store.activities("shop", &all, wanted, after, limit).await;
                let page = page.unwrap();
                assert!(page.items.len() <= limit);
                seen.extend(page.items.into_iter().map(|a| a.id));
                after = page.position;
                if !page.more {
                    break;
                }
            }
            let numbers: Vec<_> = seen
                .iter()
                .map(|id| many.iter().position(|a| a.id == *id))
                .collect();
            assert!(numbers.is_sorted(), "in their order");
            assert_eq!(seen.len(), expected, "limit {limit}");
        }
    }
    // Large ones come in small pages.
    let large: Vec<_> = (0..8)
        .map(|n| {
            shaped(&format!("large{n}"), BEGIN, |event| {
                event.data = format!("\"{}\"", "x".repeat(700 * 1024)).into();
            })
        })
        .collect();
    put(&store, &mut lease, &large).await;
    let page = store
        .activities("shop", &all, None, 450, 100)
        .await
        .unwrap();
    assert!((2..8).contains(&page.items.len()) && page.more);
    let rest = store
        .activities("shop", &all, None, page.position, 100)
        .await;
    assert_eq!(page.items.len() + rest.unwrap().items.len(), 8);
    store.close().await;
}

/// Two partitions are written at the same time, and somebody reads on all the while.
async fn nothing_comes_in_behind_who_reads_on(store: Store) {
    const BATCHES: usize = 60;
    let leases = [lease_of(&store, 0).await, lease_of(&store, 1).await];
    let write = async |mut lease: Lease| {
        for n in 0..BATCHES {
            let partition = lease.partition;
            let some: Vec<_> = (0..=n % 3)
                .map(|m| {
                    // Times say nothing about the order.
                    let back = i64::try_from(n * 7 % 13).unwrap() * 3_600_000;
                    activity(&format!("{partition}-{n}-{m}"), BEGIN - back)
                })
                .collect();
            put(&store, &mut lease, &some).await;
        }
    };
    let [one, two] = leases;
    let expected = 2 * BATCHES * 2;
    let follow = async {
        let all = ActivityFilter::default();
        let (mut after, mut seen) = (0, Vec::new());
        while seen.len() < expected {
            let page = store
                .activities("shop", &all, None, after, 5)
                .await
                .unwrap();
            after = page.position;
            seen.extend(page.items.into_iter().map(|a| a.id));
        }
        seen
    };
    let follow = tokio::time::timeout(std::time::Duration::from_secs(60), follow);
    let ((), (), seen) = tokio::join!(write(one), write(two), follow);
    let mut seen = seen.expect("nothing was missed");
    assert_eq!(ids_count(&store).await, expected);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), expected);
    store.close().await;
}

async fn ids_count(store: &Store) -> usize {
    let all = ActivityFilter::default();
    let page = store.activities("shop", &all, None, 0, 500).await.unwrap();
    page.items.len()
}

async fn old_events_go_with_their_hours(store: Store) {
    let mut lease = lease_of(&store, 0).await;
    let hours: Vec<_> = (0..10_i64)
        .map(|n| activity(&format!("e{n}"), BEGIN + n * 3_600_000))
        .collect();
    put(&store, &mut lease, &hours).await;
    let before = Millis(BEGIN + 4 * 3_600_000);
    assert_eq!(store.delete_older(before, 3).await.unwrap(), 3);
    assert_eq!(store.delete_older(before, 3).await.unwrap(), 1);
    assert_eq!(store.delete_older_sums(before, before, 3).await.unwrap(), 4);
    let all = ActivityFilter::default();
    assert_eq!(ids(&store, &all).await.len(), 6);
    let gone = ActivityFilter {
        to: Some(before),
        ..all
    };
    assert!(ids(&store, &gone).await.is_empty());
    store.close().await;
}

/// No list reads all events of a project, nor sorts any.
#[tokio::test]
async fn every_list_of_events_enters_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = testing::sqlite(dir.path());
    let pool = store.pool().await.unwrap();
    let none = ActivityFilter::default;
    let text = Some("x".to_owned());
    let by_email = ActivityFilter {
        email: text.clone(),
        ..none()
    };
    let by_status = ActivityFilter {
        status: text.clone(),
        ..none()
    };
    let by_type = ActivityFilter {
        event_type: text,
        ..none()
    };
    for (filter, expected) in [
        (
            none(),
            "activities_by_order (project=? AND seq>? AND seq<?)",
        ),
        (
            by_email,
            "activities_by_email (project=? AND email_lower=? AND seq>? AND seq<?)",
        ),
        (
            by_status,
            "activities_by_status (project=? AND status=? AND seq>? AND seq<?)",
        ),
        (
            by_type,
            "activities_by_type (project=? AND event_type=? AND seq>? AND seq<?)",
        ),
    ] {
        let filter = ActivityFilter {
            from: Some(Millis(1)),
            to: Some(Millis(2)),
            ..filter
        };
        let mut asked = filter.numbers("shop", 3, 9, 50);
        asked.text.insert_str(0, "EXPLAIN QUERY PLAN ");
        let rows = asked.fetch(pool).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, 3)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(expected), "{filter:?}: {plan}");
        assert!(
            !plan.contains("SCAN") && !plan.contains("TEMP"),
            "{filter:?}: {plan}"
        );
    }
    store.close().await;
}

both_stores!(
    an_event_comes_once_as_it_first_was,
    events_are_found_by_what_they_say,
    pages_end_where_the_next_begins,
    nothing_comes_in_behind_who_reads_on,
    old_events_go_with_their_hours,
);
