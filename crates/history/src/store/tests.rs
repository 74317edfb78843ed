//! The store on SQLite in a directory of the test, and on PostgreSQL where there is one.

use std::sync::Arc;

use super::segments::Within;
use super::*;
use crate::testing::{self, attempt, said};
use hookline_model::time::Millis;
use hookline_model::topics::Topic;

const TOPIC: &str = "h.attempts";
const EVENTS: &str = "h.events";

fn ours() -> Vec<String> {
    vec![TOPIC.into(), EVENTS.into()]
}

async fn lease(store: &Store, worker: &str) -> Lease {
    store.prepare(TOPIC, 1, &ours()).await.unwrap();
    let seen = store.leases(TOPIC).await.unwrap().remove(0);
    let taken = store.take(TOPIC, &seen, worker, Millis(1_000_000)).await;
    taken.unwrap().expect("nobody else is there")
}

fn batch<'a>(lease: &'a Lease, attempts: &'a [crate::AttemptLine], next: u64) -> Batch<'a> {
    Batch {
        lease,
        read: Read::Attempts(attempts),
        now: Millis(1),
        next,
        claim_epoch: 1,
        kept_from: Some((0, Millis(5))),
        missed: 0,
        lease_until: Millis(1_000_000),
    }
}

async fn rows_and_offset_move_together_or_not_at_all(store: Store) {
    let mut first = lease(&store, "one").await;
    let attempts = [attempt(0, 0, "a"), attempt(0, 1, "b")];
    store
        .write(&store.turn().await, &batch(&first, &attempts, 1))
        .await
        .unwrap();
    // The same again, from the same place: the store is further.
    let again = store
        .write(&store.turn().await, &batch(&first, &attempts, 1))
        .await;
    assert!(matches!(again, Err(WriteError::Lost { .. })), "{again:?}");
    first.next = Some(1);
    // Another takes over; the first one goes on as if nothing were.
    let second = lease(&store, "two").await;
    assert_eq!((second.epoch, second.next), (first.epoch + 1, Some(1)));
    let late = [attempt(1, 0, "c")];
    let zombie = store
        .write(&store.turn().await, &batch(&first, &late, 2))
        .await;
    assert!(matches!(zombie, Err(WriteError::Lost { .. })), "{zombie:?}");
    assert_eq!(store.count().await.unwrap(), 2);
    store
        .write(&store.turn().await, &batch(&second, &late, 2))
        .await
        .unwrap();
    assert_eq!(store.count().await.unwrap(), 3);
    assert_eq!(
        store.kept_from(Topic::Attempts).await.unwrap(),
        Some(Millis(5))
    );
    store.close().await;
}

async fn what_goes_in_comes_out(store: Store) {
    let lease = lease(&store, "one").await;
    let mut full = said(7);
    full.webhook = "full\0".into();
    full.event_id = "a 'quoted' \"id\"\0".into();
    let attempts = [full.without_nul()];
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 8))
        .await
        .unwrap();
    let all = AttemptFilter::default();
    let page = store.attempts("shop", &all, None, 10).await.unwrap();
    assert_eq!(page.items, attempts);
    assert_eq!(page.next, None);
    let id = &attempts[0].id;
    let one = store.attempt("shop", id).await.unwrap();
    assert_eq!(one.as_ref(), Some(&attempts[0]));
    for (project, id) in [("other", id.as_str()), ("shop", "dlv_x.0.1"), ("shop", "x")] {
        assert_eq!(store.attempt(project, id).await.unwrap(), None);
        assert_eq!(store.delivery(project, id).await.unwrap(), None);
    }
    store.close().await;
}

async fn pages_are_stable_while_more_comes_in(store: Store) {
    let mut lease = lease(&store, "one").await;
    let mut attempts: Vec<_> = (0..250).map(|n| attempt(n, 0, "a")).collect();
    for (line, n) in attempts.iter_mut().zip(0..) {
        // Many at the same moment.
        line.started_ms = 1_700_000_000_000 + n / 10;
    }
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 250))
        .await
        .unwrap();
    lease.next = Some(250);
    let all = AttemptFilter::default();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.attempts("shop", &all, after, 40).await.unwrap();
        seen.extend(page.items.iter().map(|line| line.position.offset));
        let next = lease.next.unwrap();
        let mut newer = [attempt(next, 0, "a")];
        newer[0].started_ms = 1_800_000_000_000;
        store
            .write(&store.turn().await, &batch(&lease, &newer, next + 1))
            .await
            .unwrap();
        lease.next = Some(next + 1);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<u64> = (0..250).rev().collect();
    assert_eq!(seen, expected);
    store.close().await;
}

async fn filters_take_what_they_say(store: Store) {
    let lease = lease(&store, "one").await;
    let mut attempts: Vec<_> = (0..4).map(|n| attempt(n, 0, "a")).collect();
    let odd = &mut attempts[1];
    odd.webhook = "b".into();
    odd.outcome = "failed";
    odd.status = Some(503);
    odd.error_class = Some("status".into());
    odd.attempt = 2;
    odd.url = Some("https://b.example.com/x?key=1".into());
    odd.event_id = "odd".into();
    odd.event_type = "odd.type".into();
    odd.event_key = "odd key".into();
    odd.delivery_id = "dlv_odd".into();
    odd.contact = crate::ContactView::of(Some("7".into()), Some("a@B".into()), Some("+1".into()));
    odd.started_ms += 10_000;
    let at = odd.started_ms;
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 4))
        .await
        .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let none = AttemptFilter::default;
    let filters = [
        AttemptFilter {
            webhook: text("b"),
            ..none()
        },
        AttemptFilter {
            outcome: text("failed"),
            ..none()
        },
        AttemptFilter {
            status: Some(StatusFilter::Class(5)),
            ..none()
        },
        AttemptFilter {
            status: Some(StatusFilter::Exactly(503)),
            ..none()
        },
        AttemptFilter {
            error_class: text("status"),
            ..none()
        },
        AttemptFilter {
            attempt: Some(2),
            ..none()
        },
        AttemptFilter {
            endpoint: text("https://b.example.com/x"),
            ..none()
        },
        AttemptFilter {
            endpoint: text("https://b.example.com/x?key=2"),
            ..none()
        },
        AttemptFilter {
            delivery: text("dlv_odd"),
            ..none()
        },
        AttemptFilter {
            event_id: text("odd"),
            ..none()
        },
        AttemptFilter {
            event_type: text("odd.type"),
            ..none()
        },
        AttemptFilter {
            key: text("odd key"),
            ..none()
        },
        AttemptFilter {
            contact: text("7"),
            ..none()
        },
        AttemptFilter {
            contact: text("a@b"),
            ..none()
        },
        AttemptFilter {
            contact: text("A@B"),
            ..none()
        },
        AttemptFilter {
            contact: text("+1"),
            ..none()
        },
        AttemptFilter {
            from: Some(Millis(at)),
            ..none()
        },
        AttemptFilter {
            from: Some(Millis(at)),
            to: Some(Millis(at + 1)),
            webhook: text("b"),
            ..none()
        },
    ];
    for filter in filters {
        let page = store.attempts("shop", &filter, None, 10).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|l| l.position.offset).collect();
        assert_eq!(found, [1], "{filter:?}");
        let page = store.attempts("other", &filter, None, 10).await.unwrap();
        assert_eq!(page.items, [], "{filter:?}");
    }
    let before = AttemptFilter {
        to: Some(Millis(at)),
        ..none()
    };
    let page = store.attempts("shop", &before, None, 10).await.unwrap();
    assert_eq!(page.items.len(), 3);
    let hostile = AttemptFilter {
        webhook: text("b' OR '1'='1\0"),
        ..none()
    };
    let page = store.attempts("shop", &hostile, None, 10).await.unwrap();
    assert_eq!(page.items, []);
    store.close().await;
}

async fn a_delivery_stands_as_its_last_attempt_says(store: Store) {
    let mut lease = lease(&store, "one").await;
    let tried = |offset: u64, number: u32, outcome: &'static str| {
        let mut line = attempt(offset, 0, "a");
        line.delivery_id = "dlv_x".into();
        line.id = format!("dlv_x.0.{number}");
        line.attempt = number;
        line.outcome = outcome;
        line.due_ms = (outcome == "failed").then_some(line.started_ms + 1000);
        line.next_attempt_at = line.due_ms.map(|ms| Millis(ms).to_rfc3339());
        line
    };
    let mut first = [tried(0, 1, "failed"), tried(1, 2, "failed")];
    first[0].stray = false;
    store
        .write(&store.turn().await, &batch(&lease, &first, 2))
        .await
        .unwrap();
    lease.next = Some(2);
    let found = store.delivery("shop", "dlv_x").await.unwrap().unwrap();
    assert_eq!((found.outcome, found.attempts.len()), ("failed", 2));
    assert!(found.next_attempt_at.is_some());
    let mut stray = tried(3, 2, "exhausted");
    stray.stray = true;
    let mut end = tried(4, 3, "delivered");
    end.started_ms += 60_000;
    let then = [end, stray];
    store
        .write(&store.turn().await, &batch(&lease, &then, 5))
        .await
        .unwrap();
    let found = store.delivery("shop", "dlv_x").await.unwrap().unwrap();
    assert_eq!((found.outcome, found.attempts.len()), ("delivered", 4));
    assert_eq!(found.next_attempt_at, None);
    assert_eq!(found.runs.len(), 1);
    let run = &found.runs[0];
    assert_eq!((run.run, run.attempts, run.outcome), (0, 3, "delivered"));
    assert!(run.first_attempt_at < run.last_attempt_at);
    // Of two with one identity the one that counts.
    let one = store.attempt("shop", "dlv_x.0.2").await.unwrap().unwrap();
    assert_eq!((one.outcome, one.stray), ("failed", false));
    store.close().await;
}

async fn what_is_old_goes_in_small_parts(store: Store) {
    let lease = lease(&store, "one").await;
    let mut attempts: Vec<_> = (0..30).map(|n| attempt(n, 0, "a")).collect();
    for (line, n) in attempts.iter_mut().zip(0..) {
        line.delivery_id = format!("dlv_{n}");
        line.started_ms = n;
    }
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 30))
        .await
        .unwrap();
    let mut parts = Vec::new();
    loop {
        match store.delete_older(Millis(25), 10).await.unwrap() {
            0 => break,
            rows => parts.push(rows),
        }
    }
    assert_eq!(parts, [20, 20, 10]);
    assert_eq!(store.count().await.unwrap(), 5);
    assert_eq!(store.delivery("shop", "dlv_24").await.unwrap(), None);
    assert!(store.delivery("shop", "dlv_25").await.unwrap().is_some());
    store.forget_before(TOPIC, Millis(25)).await.unwrap();
    assert_eq!(
        store.kept_from(Topic::Attempts).await.unwrap(),
        Some(Millis(25))
    );
    store.close().await;
}

/// All parts of an export, put together, and how many there were.
async fn exported(mut export: crate::Export) -> (usize, Vec<u8>) {
    let (mut parts, mut whole) = (0, Vec::new());
    while let Some(part) = export.next().await.unwrap() {
        parts += 1;
        whole.extend_from_slice(&part);
    }
    (parts, whole)
}

async fn an_export_is_the_whole_in_parts(store: Store) {
    let store = Arc::new(store);
    let lease = lease(&store, "one").await;
    let mut attempts: Vec<_> = (0..1100).map(|n| attempt(n, 0, "a")).collect();
    attempts[3].event_id = "=cmd|' /C calc'!A0".into();
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 1100))
        .await
        .unwrap();
    let now = Millis(attempts[0].started_ms + 1);
    let export =
        |filter, format| crate::Export::new(Arc::clone(&store), "shop", filter, format, now);
    for (format, lines) in [
        (crate::ExportFormat::Csv, 1101),
        (crate::ExportFormat::JsonLines, 1100),
    ] {
        let (parts, whole) = exported(export(AttemptFilter::default(), format)).await;
        let whole = String::from_utf8(whole).unwrap();
        assert_eq!((parts, whole.lines().count()), (3, lines));
        let safe = whole.contains("\"'=cmd");
        assert_eq!(safe, format == crate::ExportFormat::Csv);
    }
    let pdf = |filter| exported(export(filter, crate::ExportFormat::Pdf));
    let (parts, whole) = pdf(AttemptFilter::default()).await;
    // What every file has at its end comes behind the attempts.
    assert_eq!(parts, 4);
    let text = testing::pdf_text(&whole).concat();
    assert_eq!(text.matches("2023-11-14 22:13:20.000").count(), 1100);
    assert!(text.contains("=cmd|' /C calc'!A0"), "{text}");
    let none = AttemptFilter {
        to: Some(Millis(attempts[0].started_ms)),
        ..AttemptFilter::default()
    };
    let (_, whole) = pdf(none).await;
    assert!(testing::pdf_text(&whole)[0].contains("No attempts."));
    store.close().await;
}

async fn a_summary_counts_what_a_filter_takes(store: Store) {
    let lease = lease(&store, "one").await;
    let mut attempts: Vec<_> = (0..100).map(|n| attempt(n, 0, "a")).collect();
    for (line, n) in attempts.iter_mut().zip(0..) {
        line.started_ms += n * 60_000;
        line.outcome = if n % 10 == 0 {
            "exhausted"
        } else {
            "delivered"
        };
        line.webhook = if n < 50 { "a" } else { "b" }.into();
    }
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 100))
        .await
        .unwrap();
    let (first, last) = (attempts[0].started_ms, attempts[99].started_ms);
    let all = AttemptFilter::default();
    let whole = store.attempt_summary("shop", &all).await.unwrap();
    assert_eq!(whole.count, 100);
    assert_eq!(whole.outcomes, [90, 0, 10, 0, 0, 0]);
    assert_eq!(whole.interval, Some((Millis(first), Millis(last))));
    assert_eq!(whole.step_ms, 120_000);
    assert!(whole.series.len() <= 51);
    let sums = whole.series.iter().flat_map(|(_, counts)| counts);
    assert_eq!(sums.sum::<u64>(), 100);
    let some = AttemptFilter {
        webhook: Some("b".into()),
        outcome: Some("exhausted".into()),
        from: Some(Millis(first + 60 * 60_000)),
        ..AttemptFilter::default()
    };
    let some = store.attempt_summary("shop", &some).await.unwrap();
    assert_eq!((some.count, some.outcomes[2], some.series.len()), (4, 4, 4));
    let none = store.attempt_summary("other", &all).await.unwrap();
    assert_eq!(none, AttemptSummary::default());
    store.close().await;
}

async fn a_store_of_another_system_is_refused(store: Store) {
    store.prepare(TOPIC, 2, &ours()).await.unwrap();
    store.prepare(TOPIC, 3, &ours()).await.unwrap();
    assert_eq!(store.leases(TOPIC).await.unwrap().len(), 3);
    let refused = store
        .prepare("other.attempts", 1, &["other.attempts".into()])
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("h.attempts"), "{refused}");
    store.close().await;
}

/// No list reads all attempts of a project, nor sorts more than those that match; of several conditions the one that leads to less is looked up.
#[tokio::test]
async fn every_list_enters_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = testing::sqlite(dir.path());
    assert_eq!(store.count().await.unwrap(), 0);
    // Who comes later finds what is to be known of the indexes.
    store.close().await;
    let store = testing::sqlite_there(dir.path());
    let pool = store.pool().await.unwrap();
    let lists = [
        ("", "attempts_by_time (project=?"),
        ("webhook", "attempts_by_webhook (project=? AND webhook=?"),
        ("outcome", "attempts_by_outcome (project=? AND outcome=?"),
        ("type", "attempts_by_type (project=? AND event_type=?"),
        ("endpoint", "attempts_by_endpoint (project=? AND endpoint=?"),
        ("attempt", "attempts_by_number (project=? AND attempt=?"),
        ("class", "attempts_by_status (project=? AND <expr>=?"),
        ("status", "attempts_by_status (project=? AND <expr>=?"),
        ("error", "attempts_by_failure (project=? AND error_class=?"),
        (
            "key",
            "attempts_by_key (segment=? AND project=? AND event_key=?",
        ),
        (
            "id",
            "attempts_by_event (segment=? AND project=? AND event_id=?",
        ),
        (
            "delivery",
            "attempts_by_delivery (segment=? AND project=? AND delivery_id=?",
        ),
        (
            "webhook delivered",
            "attempts_by_webhook (project=? AND webhook=?",
        ),
        (
            "webhook outcome",
            "attempts_by_trouble (project=? AND webhook=? AND outcome=?",
        ),
        (
            "webhook type delivered",
            "attempts_by_webhook (project=? AND webhook=?",
        ),
        (
            "webhook status",
            "attempts_by_webhook (project=? AND webhook=?",
        ),
        ("type class", "attempts_by_type (project=? AND event_type=?"),
        (
            "webhook key outcome",
            "attempts_by_key (segment=? AND project=? AND event_key=?",
        ),
        (
            "webhook id",
            "attempts_by_event (segment=? AND project=? AND event_id=?",
        ),
    ];
    for (words, expected) in lists {
        let mut filter = AttemptFilter::default();
        let text = || Some("x".to_owned());
        for word in words.split_whitespace() {
            match word {
                "webhook" => filter.webhook = text(),
                "outcome" => filter.outcome = Some("failed".into()),
                "delivered" => filter.outcome = Some("delivered".into()),
                "type" => filter.event_type = text(),
                "endpoint" => filter.endpoint = text(),
                "attempt" => filter.attempt = Some(7),
                "class" => filter.status = Some(StatusFilter::Class(5)),
                "status" => filter.status = Some(StatusFilter::Exactly(503)),
                "error" => filter.error_class = text(),
                "key" => filter.key = text(),
                "id" => filter.event_id = text(),
                "delivery" => filter.delivery = text(),
                other => panic!("{other}"),
            }
        }
        let within = if filter.looks_up() {
            Within::Segment(7)
        } else {
            Within::All
        };
        let first = plan(&filter.page(&within, "shop", None, 50), pool).await;
        assert!(first.contains(expected), "{words}: {first}");
        let after = Place::parse("1.2.3.4");
        let next = plan(&filter.page(&within, "shop", after, 50), pool).await;
        let behind = format!("{expected} AND started_ms<?)");
        assert!(next.contains(&behind), "{words}: {next}");
        if filter.looks_up() {
            let found = plan(&filter.segments("shop", 9, None), pool).await;
            assert!(found.contains(expected), "{words}: {found}");
            assert!(found.contains("segments_by_time"), "{words}: {found}");
        }
    }
    let contact = AttemptFilter {
        contact: Some("c".into()),
        ..AttemptFilter::default()
    };
    for within in [Within::Segment(7), Within::Segments(vec![7, 8])] {
        let page = plan(&contact.page(&within, "shop", None, 50), pool).await;
        let found = plan(&contact.segments("shop", 9, None), pool).await;
        for index in [
            "attempts_by_contact (segment=? AND project=? AND contact_id=?",
            "attempts_by_email (segment=? AND project=? AND <expr>=?",
            "attempts_by_phone (segment=? AND project=? AND contact_phone=?",
        ] {
            assert!(page.contains(index), "{page}");
            assert!(found.contains(index), "{found}");
        }
    }
    store.close().await;
}

/// How SQLite answers a question.
async fn plan(asked: &Statement, pool: &AnyPool) -> String {
    let mut explained = Statement::new(format!("EXPLAIN QUERY PLAN {}", asked.text));
    explained.arguments = asked.arguments.clone();
    let rows = explained.fetch(pool).await.unwrap();
    let steps: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, 3)).collect();
    let plan = steps.join("\n");
    assert!(!plan.contains("SCAN"), "{}: {plan}", asked.text);
    plan
}

/// The roles of a process have a store each.
#[tokio::test]
async fn those_who_begin_together_make_the_tables_once() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("h.db").display());
        let stores: Vec<Store> = (0..4).map(|_| Store::new(&url).unwrap()).collect();
        let all = AttemptFilter::default();
        let asked = stores
            .iter()
            .map(|store| store.attempts("shop", &all, None, 10));
        for page in futures::future::join_all(asked).await {
            assert_eq!(page.unwrap().items, []);
        }
        for store in stores {
            store.close().await;
        }
    }
}

#[tokio::test]
async fn who_reads_makes_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("h.db").display());
    let all = AttemptFilter::default();
    let reader = Store::reader(&url).unwrap();
    let absent = reader.attempts("shop", &all, None, 10).await;
    let error = absent.unwrap_err().to_string();
    assert!(error.contains("is not there yet"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    reads_what_another_writes(Store::new(&url).unwrap(), reader).await;

    // Who wrote it is gone.
    let reader = Store::reader(&url).unwrap();
    let page = reader.attempts("shop", &all, None, 10).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let raised = "UPDATE _sqlx_migrations SET version = version + 100";
    for statement in [raised, "DELETE FROM attempts"] {
        let refused = sqlx::query(statement).execute(&reader.pool).await;
        assert!(refused.is_err(), "{statement}");
    }
    reader.close().await;
    let writer = Store::new(&url).unwrap();
    let pool = writer.pool().await.unwrap();
    sqlx::query(raised).execute(pool).await.unwrap();
    writer.close().await;
    let reader = Store::reader(&url).unwrap();
    let newer = reader.attempt("shop", "dlv_x.0.1").await;
    let error = newer.unwrap_err().to_string();
    assert!(error.contains("a newer version"), "{error}");
}

#[tokio::test]
async fn who_reads_postgres_changes_nothing() {
    let Some(server) = testing::postgres() else {
        return;
    };
    let (writer, reader) = server.writer_and_reader();
    let absent = reader.attempt("shop", "dlv_x.0.1").await;
    let error = absent.unwrap_err().to_string();
    assert!(error.contains("is not there yet"), "{error}");
    reads_what_another_writes(writer, reader).await;
}

#[tokio::test]
async fn postgres_looks_at_what_has_come_in() {
    let Some(server) = testing::postgres() else {
        return;
    };
    let store = server.store();
    let lease = lease(&store, "one").await;
    let attempts: Vec<_> = (0..1_500).map(|n| attempt(n, 0, "a")).collect();
    store
        .write(&store.turn().await, &batch(&lease, &attempts, 1_500))
        .await
        .unwrap();
    // Its own account of what came in follows within seconds.
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        store.analyze().await.unwrap();
        let known =
            sqlx::query("SELECT reltuples::bigint FROM pg_class WHERE relname = 'attempts'");
        let known = known.fetch_one(&store.pool).await.unwrap();
        if sqlx::Row::get::<i64, _>(&known, 0) == 1_500 {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "it never looks");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await;
}

async fn reads_what_another_writes(writer: Store, reader: Store) {
    let lease = lease(&writer, "one").await;
    writer
        .write(
            &writer.turn().await,
            &batch(&lease, &[attempt(0, 0, "a")], 1),
        )
        .await
        .unwrap();
    let all = AttemptFilter::default();
    let page = reader.attempts("shop", &all, None, 10).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let changed = sqlx::query("DELETE FROM attempts").execute(&reader.pool);
    assert!(changed.await.is_err());
    reader.close().await;
    writer.close().await;
}

/// Each function on both databases.
macro_rules! both_stores {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(super::testing::sqlite(dir.path())).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(server) = super::testing::postgres() else { return };
                super::$name(server.store()).await;
            })+
        }
    };
}

both_stores!(
    rows_and_offset_move_together_or_not_at_all,
    what_goes_in_comes_out,
    pages_are_stable_while_more_comes_in,
    filters_take_what_they_say,
    a_delivery_stands_as_its_last_attempt_says,
    what_is_old_goes_in_small_parts,
    an_export_is_the_whole_in_parts,
    a_summary_counts_what_a_filter_takes,
    a_store_of_another_system_is_refused,
);

mod activities;
mod segments;
mod statistics;
