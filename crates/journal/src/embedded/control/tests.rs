//! Both ends of the control socket together.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::embedded::tests::{append, clock, open, read_all, record, spec};
use crate::{
    AppendError, Cleanup, GroupSpec, ReadBudget, ReadError, TopicPartition, append_and_wait,
    append_when_room,
};

const FOREVER: Cleanup = Cleanup::Delete { retention: None };

/// Runs `test` beside the control socket of a journal in `dir`, then closes it.
async fn served(dir: &Path, test: impl AsyncFnOnce(RemoteJournal, Arc<EmbeddedJournal>)) {
    let journal = open(dir);
    let testing = async {
        let remote = loop {
            match RemoteJournal::connect(dir).await {
                Ok(remote) => break remote,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        test(remote, journal.clone()).await;
        journal.close().await;
    };
    let (served, ()) = tokio::join!(journal.clone().serve_control(), testing);
    served.expect("served until closed");
    assert!(!dir.join(SOCKET).exists());
}

#[tokio::test]
async fn everything_but_groups_works_from_outside() {
    let dir = tempfile::tempdir().expect("a directory");
    served(dir.path(), async |remote, journal| {
        let mode = std::fs::metadata(journal.dir().join(SOCKET)).expect("there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let specs = [spec("a", 1, FOREVER), spec("c", 2, Cleanup::Compact)];
        remote.create_topics(&specs).await.expect("made");
        let (theirs, ours) = (remote.topics().await, journal.topics().await);
        assert_eq!(theirs.expect("topics"), ours.expect("topics"));
        for i in 0..5_u64 {
            let appended = append(&remote, "a", record("k", "v")).await;
            assert_eq!(appended.offset, Some(i));
            assert_eq!(appended.timestamp_ms, Some(1_000_000));
            assert_eq!(remote.end("a", 0).await.expect("an end"), i + 1);
        }
        assert_eq!(
            read_all(&remote, "a", 2).await,
            read_all(&*journal, "a", 2).await
        );
        remote.delete_records("a", 0, 3).await.expect("deleted");
        assert_eq!(remote.start("a", 0).await.expect("a start"), 3);
        let budget = ReadBudget::of(1000);
        let mut gone = remote.reader("a", 0, 2, budget).await.expect("a reader");
        let gone = gone.next(1).await;
        assert!(matches!(
            gone,
            Err(ReadError::Deleted {
                position: 2,
                start: 3,
                ..
            })
        ));
        let missing = remote.reader("a", 7, 0, budget).await;
        assert!(matches!(
            missing,
            Err(JournalError::NoPartition { partition: 7, .. })
        ));
        let at = TopicPartition {
            topic: "a".into(),
            partition: 0,
        };
        let none = remote.committed("g", &[at]).await.expect("asked");
        assert_eq!(none, [None]);
        assert!(remote.healthy().await);
        let joined = remote.join(GroupSpec {
            group: "g".into(),
            topics: vec!["a".into()],
            session_timeout: BUSY_WAIT,
            member: "m".into(),
        });
        assert!(matches!(joined.await, Err(JournalError::Failed { .. })));
    })
    .await;
}

#[tokio::test]
async fn many_appends_keep_their_order_and_slow_readers_get_all_of_them() {
    const MANY: u64 = 5000;
    let dir = tempfile::tempdir().expect("a directory");
    served(dir.path(), async |remote, _| {
        let mut small = spec("a", 1, FOREVER);
        small.max_record_bytes = 1000;
        remote.create_topics(&[small]).await.expect("made");
        let appender = remote.appender("test").await.expect("an appender");
        let acknowledged = Arc::new(AtomicU64::new(0));
        for i in 0..MANY {
            let acknowledged = acknowledged.clone();
            let done = Box::new(move |fate: Result<crate::Appended, AppendError>| {
                assert_eq!(fate.expect("stored").offset, Some(i));
                acknowledged.fetch_add(1, Ordering::SeqCst);
            });
            let sent = append_when_room(&*appender, "a", 0, record("k", &i.to_string()), done);
            sent.await.expect("taken");
        }
        // What can never be stored is refused, and the appender goes on.
        let large = append_and_wait(&*appender, "a", 0, record("k", &"x".repeat(2000))).await;
        assert!(matches!(large, Err(AppendError::TooLarge { .. })));
        let last = append_and_wait(&*appender, "a", 0, record("k", "last")).await;
        assert_eq!(last.expect("stored").offset, Some(MANY));
        assert_eq!(acknowledged.load(Ordering::SeqCst), MANY);
        // A budget far smaller than what there is.
        let budget = ReadBudget::of(100);
        let mut reader = remote.reader("a", 0, 0, budget).await.expect("a reader");
        let mut next = 0;
        while reader.position() <= MANY {
            let batch = reader.next(7).await.expect("read");
            for record in &batch.records {
                assert_eq!(record.offset, next);
                next += 1;
            }
            assert_eq!((batch.next, reader.position()), (next, next));
        }
        // Waits at the end, and goes on.
        let (batch, _) = tokio::join!(reader.next(1), append(&remote, "a", record("k", "v")));
        assert_eq!(batch.expect("read").next, MANY + 2);
    })
    .await;
}

#[tokio::test]
async fn who_finds_the_directory_taken_connects() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = EmbeddedConfig::new(dir.path(), clock());
    served(dir.path(), async |remote, journal| {
        let specs = [spec("a", 1, FOREVER)];
        remote.create_topics(&specs).await.expect("made");
        let other = open_or_connect(config.clone()).await.expect("connected");
        assert_eq!(append(&*other, "a", record("k", "v")).await.offset, Some(0));
        let appender = other.appender("test").await.expect("an appender");
        let mut reader = other
            .reader("a", 0, 1, ReadBudget::of(1000))
            .await
            .expect("a reader");
        journal.close().await;
        let lost = append_and_wait(&*appender, "a", 0, record("k", "v")).await;
        assert!(
            matches!(lost, Err(AppendError::Failed { .. } | AppendError::Closed)),
            "{lost:?}"
        );
        let lost = reader.next(1).await;
        assert!(matches!(lost, Err(ReadError::Failed { .. })), "{lost:?}");
        assert!(!other.healthy().await);
    })
    .await;
    let free = open_or_connect(config).await.expect("opened");
    assert_eq!(free.end("a", 0).await.expect("an end"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_does_not_answer_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let refused = open_or_connect(EmbeddedConfig::new(dir.path(), clock())).await;
    let Err(JournalError::Busy { reason }) = refused else {
        panic!("it got in");
    };
    let pid = std::process::id().to_string();
    assert!(
        reason.contains(&pid) && reason.contains("control socket"),
        "{reason}"
    );
    journal.close().await;
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_works_all_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let long = dir.path().join("a".repeat(60)).join("b".repeat(60));
    served(&long, async |remote, journal| {
        remote
            .create_topics(&[spec("a", 1, FOREVER)])
            .await
            .expect("made");
        append(&remote, "a", record("k", "v")).await;
        assert_eq!(journal.end("a", 0).await.expect("an end"), 1);
    })
    .await;
}
