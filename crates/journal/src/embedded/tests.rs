//! The engine as a whole: what survives, what is cut, what is kept, who gets what.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hookline_model::time::{Clock, Millis};

use super::*;
use crate::{
    AppendError, AppendRefused, Appended, Batch, Cleanup, MemberEvent, ReadError, Record,
    StoredRecord, append_and_wait, append_when_room, read_until,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that tests set.
#[derive(Default)]
pub(super) struct TestClock(AtomicI64);

impl TestClock {
    fn advance(&self, span: Duration) {
        self.0.fetch_add(
            i64::try_from(span.as_millis()).expect("fits"),
            Ordering::SeqCst,
        );
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }

    fn boot(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.now().0).expect("not before 1970"))
    }
}

pub(super) fn clock() -> Arc<TestClock> {
    Arc::new(TestClock(AtomicI64::new(1_000_000)))
}

pub(super) fn open(dir: &Path) -> Arc<EmbeddedJournal> {
    open_with(dir, clock())
}

fn open_with(dir: &Path, clock: Arc<TestClock>) -> Arc<EmbeddedJournal> {
    let config = EmbeddedConfig {
        // Housekeeping only when asked for.
        housekeeping_every: DAY,
        ..EmbeddedConfig::new(dir, clock)
    };
    EmbeddedJournal::open(config).expect("opens")
}

pub(super) fn spec(name: &str, partitions: u32, cleanup: Cleanup) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions,
        replication: 1,
        cleanup,
        append_time: true,
        max_record_bytes: 2 * 1024 * 1024,
        settings: BTreeMap::new(),
    }
}

const FOREVER: Cleanup = Cleanup::Delete { retention: None };

pub(super) fn record(key: &str, value: &str) -> Record {
    Record {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: vec![("h".into(), Bytes::from_static(b"1"))],
    }
}

pub(super) async fn append(journal: &dyn Journal, topic: &str, record: Record) -> Appended {
    let appender = journal.appender("test").await.expect("an appender");
    append_and_wait(&*appender, topic, 0, record)
        .await
        .expect("appended")
}

const BUDGET: ReadBudget = ReadBudget::of(1 << 20);

pub(super) async fn read_all(journal: &dyn Journal, topic: &str, from: u64) -> Vec<StoredRecord> {
    let end = journal.end(topic, 0).await.expect("an end");
    let mut reader = journal
        .reader(topic, 0, from, BUDGET)
        .await
        .expect("a reader");
    let mut all = Vec::new();
    read_until(&mut *reader, end, |r| all.push(r))
        .await
        .expect("reads");
    all
}

async fn values(journal: &dyn Journal, topic: &str, from: u64) -> Vec<(u64, String)> {
    let all = read_all(journal, topic, from).await;
    all.into_iter()
        .map(|r| {
            let value = r.value.map_or("-".into(), |v| v.to_vec());
            (r.offset, String::from_utf8(value).expect("utf-8"))
        })
        .collect()
}

#[tokio::test]
async fn what_is_appended_is_read_in_order_and_survives_closing() {
    let dir = tempfile::tempdir().expect("a directory");
    let time = clock();
    let journal = open_with(dir.path(), time.clone());
    journal
        .create_topics(&[spec("a", 2, FOREVER)])
        .await
        .expect("made");
    for i in 0..10_u64 {
        let appended = append(&*journal, "a", record("k", &i.to_string())).await;
        assert_eq!(appended.offset, Some(i));
        assert_eq!(appended.timestamp_ms, Some(time.now().0));
        assert_eq!(journal.end("a", 0).await.expect("an end"), i + 1);
        time.advance(Duration::from_secs(1));
    }
    assert_eq!(journal.end("a", 1).await.expect("an end"), 0);
    let before = read_all(&*journal, "a", 3).await;
    assert_eq!(
        before.iter().map(|r| r.offset).collect::<Vec<_>>(),
        (3..10).collect::<Vec<_>>()
    );
    assert_eq!(before[0].header("h"), Some(&Bytes::from_static(b"1")));
    let topics = journal.topics().await.expect("topics");
    journal.close().await;
    assert!(!journal.healthy().await);
    let journal = open_with(dir.path(), time);
    assert_eq!(read_all(&*journal, "a", 3).await, before);
    assert_eq!(journal.topics().await.expect("topics"), topics);
    assert_eq!(topics["a"].settings["retention.ms"], "-1");
    assert_eq!(
        append(&*journal, "a", record("k", "x")).await.offset,
        Some(10)
    );
    assert!(journal.repairs().is_empty());
}

#[tokio::test]
async fn the_directory_has_one_holder() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let refused = EmbeddedJournal::open(EmbeddedConfig::new(dir.path(), clock()));
    let Err(JournalError::Busy { reason }) = refused else {
        panic!("a second one got in");
    };
    assert!(reason.contains(&dir.path().display().to_string()));
    assert!(reason.contains(&std::process::id().to_string()));
    journal.close().await;
    open(dir.path()).close().await;
}

#[tokio::test]
async fn refusals_leave_the_appender_usable() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let mut small = spec("small", 1, FOREVER);
    small.max_record_bytes = 10;
    journal.create_topics(&[small]).await.expect("made");
    let appender = journal.appender("test").await.expect("an appender");
    let big = append_and_wait(&*appender, "small", 0, record("k", "123456789")).await;
    assert!(matches!(big, Err(AppendError::TooLarge { bytes: 12, .. })));
    for (topic, partition) in [("none", 0), ("small", 1)] {
        let missing = append_and_wait(&*appender, topic, partition, record("k", "v")).await;
        assert!(matches!(missing, Err(AppendError::NoPartition { .. })));
    }
    let fits = append_and_wait(&*appender, "small", 0, record("k", "v")).await;
    assert_eq!(fits.expect("appended").offset, Some(0));
    for bad in ["", "a b", &"x".repeat(250)] {
        let refused = journal.create_topics(&[spec(bad, 1, FOREVER)]).await;
        assert!(refused.is_err(), "{bad}");
    }
    journal.close().await;
    let closed = append_and_wait(&*appender, "small", 0, record("k", "v")).await;
    assert!(matches!(closed, Err(AppendError::Closed)));
}

#[tokio::test]
async fn a_full_queue_gives_everything_back_and_room_wakes() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = EmbeddedConfig {
        queue_records: 4,
        ..EmbeddedConfig::new(dir.path(), clock())
    };
    let journal = EmbeddedJournal::open(config).expect("opens");
    journal
        .create_topics(&[spec("a", 1, FOREVER)])
        .await
        .expect("made");
    let appender = journal.appender("test").await.expect("an appender");
    // The writer is held up by the first callback until the queue has been filled.
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    appender
        .append(
            "a",
            0,
            record("k", "0"),
            Box::new(move |_| held.recv().expect("released")),
        )
        .map_err(|_| "refused")
        .expect("taken");
    let mut taken = 1;
    let refused = loop {
        match appender.append("a", 0, record("k", "n"), Box::new(|_| ())) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    // The first may or may not have left the queue already.
    assert!((4..=9).contains(&taken), "{taken}");
    let AppendRefused::Full { record: back, done } = refused else {
        panic!("refused for good");
    };
    assert_eq!(*back, record("k", "n"));
    release.send(()).expect("the callback waits");
    let waiting = append_when_room(&*appender, "a", 0, *back, done);
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("room in time")
        .expect("appended");
    append(&*journal, "a", record("k", "last")).await;
    assert_eq!(journal.end("a", 0).await.expect("an end"), taken + 2);
}

#[tokio::test]
async fn a_callback_may_be_the_last_to_hold_the_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    journal
        .create_topics(&[spec("a", 1, FOREVER)])
        .await
        .expect("made");
    let appender = journal.appender("test").await.expect("an appender");
    let (tell, told) = tokio::sync::oneshot::channel();
    let (handed_over, last) = std::sync::mpsc::sync_channel::<Arc<EmbeddedJournal>>(1);
    let done = Box::new(move |fate: Result<Appended, AppendError>| {
        drop(last.recv().expect("handed over"));
        tell.send(fate.is_ok()).expect("waited for");
    });
    let taken = append_when_room(&*appender, "a", 0, record("k", "v"), done);
    taken.await.expect("taken");
    handed_over.send(journal).expect("received");
    let told = tokio::time::timeout(Duration::from_secs(10), told).await;
    assert!(told.expect("in time").expect("told"));
    let again = open(dir.path());
    assert_eq!(again.end("a", 0).await.expect("an end"), 1);
}

#[tokio::test]
async fn readers_wait_at_the_end_and_are_told_what_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    journal
        .create_topics(&[spec("a", 1, FOREVER)])
        .await
        .expect("made");
    let mut reader = journal.reader("a", 0, 0, BUDGET).await.expect("a reader");
    let (batch, _) = tokio::join!(reader.next(10), append(&*journal, "a", record("k", "0")));
    assert_eq!(batch.expect("read").next, 1);
    for _ in 0..9 {
        append(&*journal, "a", record("k", "v")).await;
    }
    let Batch { records, next } = reader.next(4).await.expect("read");
    assert_eq!((records.len(), next, reader.position()), (4, 5, 5));
    journal.delete_records("a", 0, 8).await.expect("deleted");
    assert_eq!(journal.start("a", 0).await.expect("a start"), 8);
    let gone = reader.next(4).await;
    assert!(matches!(
        gone,
        Err(ReadError::Deleted {
            position: 5,
            start: 8,
            ..
        })
    ));
    let mut ahead = journal.reader("a", 0, 11, BUDGET).await.expect("a reader");
    let beyond = ahead.next(1).await;
    assert!(matches!(beyond, Err(ReadError::BeyondEnd { end: 10, .. })));
    assert!(journal.delete_records("a", 0, 11).await.is_err());
    assert!(journal.reader("a", 1, 0, BUDGET).await.is_err());
    let mut waits = journal.reader("a", 0, 10, BUDGET).await.expect("a reader");
    let (ended, ()) = tokio::join!(waits.next(1), journal.close());
    assert!(matches!(ended, Err(ReadError::Failed { .. })));
}

#[tokio::test]
async fn deleted_records_never_give_their_offsets_away() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..3_u64 {
        let journal = open(dir.path());
        journal
            .create_topics(&[spec("a", 1, FOREVER)])
            .await
            .expect("made");
        for i in 0..50 {
            let appended = append(&*journal, "a", record("k", "v")).await;
            assert_eq!(appended.offset, Some(round * 50 + i));
        }
        let end = journal.end("a", 0).await.expect("an end");
        journal.delete_records("a", 0, end).await.expect("deleted");
        journal.housekeep_now().await.expect("freed");
        {
            let store = journal.shared.store.read();
            let left = store.as_ref().expect("open").records.iter().count();
            assert_eq!(left, 0, "space is freed");
        }
        assert!(read_all(&*journal, "a", end).await.is_empty());
        journal.close().await;
    }
}

#[tokio::test]
async fn old_records_go_by_age() {
    let dir = tempfile::tempdir().expect("a directory");
    let time = clock();
    let journal = open_with(dir.path(), time.clone());
    let retention = Some(Duration::from_secs(60));
    journal
        .create_topics(&[
            spec("a", 1, Cleanup::Delete { retention }),
            spec("b", 1, FOREVER),
        ])
        .await
        .expect("made");
    for i in 0..5 {
        append(&*journal, "a", record("k", &i.to_string())).await;
        append(&*journal, "b", record("k", "v")).await;
        time.advance(Duration::from_secs(20));
    }
    journal.housekeep_now().await.expect("done");
    assert_eq!(journal.start("a", 0).await.expect("a start"), 2);
    assert_eq!(journal.start("b", 0).await.expect("a start"), 0);
    time.advance(Duration::from_secs(100));
    journal.housekeep_now().await.expect("done");
    assert_eq!(journal.start("a", 0).await.expect("a start"), 5);
    assert_eq!(journal.end("a", 0).await.expect("an end"), 5);
}

#[tokio::test]
async fn compaction_keeps_the_last_of_a_key_and_tombstones_for_a_day() {
    let dir = tempfile::tempdir().expect("a directory");
    let time = clock();
    let journal = open_with(dir.path(), time.clone());
    journal
        .create_topics(&[spec("c", 1, Cleanup::Compact)])
        .await
        .expect("made");
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", "2")] {
        append(&*journal, "c", record(key, value)).await;
    }
    let tombstone = Record {
        value: None,
        ..record("c", "")
    };
    append(&*journal, "c", tombstone.clone()).await;
    journal.compact_now().await.expect("compacted");
    let two = |o, v: &str| (o, v.to_string());
    let expected = vec![two(2, "2"), two(4, "2"), two(5, "-")];
    assert_eq!(values(&*journal, "c", 0).await, expected);
    // Reading from a gap goes on behind it.
    assert_eq!(values(&*journal, "c", 3).await, expected[1..]);
    append(&*journal, "c", record("a", "3")).await;
    time.advance(DAY - Duration::from_secs(1));
    journal.compact_now().await.expect("compacted");
    let expected = vec![two(4, "2"), two(5, "-"), two(6, "3")];
    assert_eq!(values(&*journal, "c", 0).await, expected);
    append(
        &*journal,
        "c",
        Record {
            value: None,
            ..record("a", "")
        },
    )
    .await;
    time.advance(DAY);
    journal.compact_now().await.expect("compacted");
    assert_eq!(values(&*journal, "c", 0).await, [two(4, "2")]);
    journal.close().await;
    // The last offset was dropped, and is still not used again.
    let journal = open_with(dir.path(), time);
    assert_eq!(journal.end("c", 0).await.expect("an end"), 8);
    assert_eq!(
        append(&*journal, "c", record("d", "1")).await.offset,
        Some(8)
    );
}

/// Reads and deletions in random order against a plain list, over restarts and the store's own merging.
#[tokio::test]
async fn the_store_agrees_with_a_plain_list() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = fastrand::Rng::with_seed(7);
    let mut expected: Vec<(u64, String)> = Vec::new();
    let mut next = 0;
    for _ in 0..6 {
        let journal = open(dir.path());
        journal
            .create_topics(&[spec("a", 1, FOREVER)])
            .await
            .expect("made");
        for _ in 0..20 {
            let appender = journal.appender("test").await.expect("an appender");
            for _ in 0..random.u64(1..60) {
                let value = format!("{next}-{}", "x".repeat(random.usize(0..3000)));
                append_when_room(&*appender, "a", 0, record("k", &value), Box::new(|_| ()))
                    .await
                    .expect("taken");
                expected.push((next, value));
                next += 1;
            }
            let value = "barrier".to_string();
            append(&*journal, "a", record("k", &value)).await;
            expected.push((next, value));
            next += 1;
            let start = journal.start("a", 0).await.expect("a start");
            if random.bool() {
                let before = random.u64(start..=next);
                journal
                    .delete_records("a", 0, before)
                    .await
                    .expect("deleted");
                journal.housekeep_now().await.expect("freed");
                expected.retain(|(offset, _)| *offset >= before);
            }
            if random.u8(0..5) == 0 {
                let store = journal.shared.store.read();
                let store = store.as_ref().expect("open");
                store.records.rotate_memtable_and_wait().expect("sorted");
                store.records.major_compact().expect("merged");
            }
            let start = journal.start("a", 0).await.expect("a start");
            assert!(values(&*journal, "a", start).await == expected);
        }
        journal.close().await;
    }
    assert!(next > 1000);
}

mod crash;
mod members;
