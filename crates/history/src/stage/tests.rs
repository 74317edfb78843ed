//! The stage over the embedded journal and real stores.

use std::path::Path;

use hookline_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use hookline_journal::{Cleanup, Record, TopicSpec, append_and_wait};
use hookline_model::ids::Slug;
use hookline_model::presets::Preset;
use hookline_model::resource::ProjectSpec;
use hookline_model::wire::{self, header};
use hookline_registry::{Kek, Registry, RegistryConfig, Sealer};
use prost::Message as _;
use tokio::task::JoinHandle;

use super::*;
use crate::store::{ActivityFilter, AttemptFilter};
use crate::testing;

const WITHIN: Duration = Duration::from_secs(30);

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000).plus(self.0.elapsed())
    }

    fn boot(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A journal with the topics that are read, and a registry.
struct Topics {
    journal: Arc<EmbeddedJournal>,
    clock: Arc<dyn Clock>,
    partitions: u32,
    registry: Registry,
    _live: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl Topics {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests: a task ends with its runtime"
    )]
    async fn new(partitions: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TestClock(Instant::now()));
        let config = EmbeddedConfig::new(dir.path().join("journal"), Arc::clone(&clock));
        let journal = tokio::task::spawn_blocking(move || EmbeddedJournal::open(config));
        let journal = journal.await.unwrap().unwrap();
        let topics = [Topic::Attempts, Topic::Events, Topic::Registry].map(|topic| TopicSpec {
            name: topic.name("h."),
            partitions: if topic == Topic::Registry {
                1
            } else {
                partitions
            },
            replication: 1,
            cleanup: Cleanup::Delete { retention: None },
            append_time: topic.append_time(),
            max_record_bytes: 2 * 1024 * 1024,
            settings: BTreeMap::new(),
        });
        journal.create_topics(&topics).await.unwrap();
        let sealer = Sealer::new(&Kek::generate().unwrap());
        let registry = Registry::open(
            Arc::clone(&journal) as Arc<dyn Journal>,
            RegistryConfig::new("h."),
            Arc::clone(&clock),
            sealer,
        );
        let registry = registry.await.unwrap();
        let (live, shutdown) = watch::channel(false);
        let followed = registry.clone();
        tokio::spawn(async move { followed.run(shutdown).await });
        Self {
            journal,
            clock,
            partitions,
            registry,
            _live: live,
            _dir: dir,
        }
    }

    /// Writes attempts one record each, over all partitions, as the worker of dispatch with this epoch.
    async fn attempts(&self, epoch: u64, numbers: std::ops::Range<u32>) {
        let appender = self.journal.appender("test").await.unwrap();
        for number in numbers {
            let attempt = wire::Attempt {
                delivery_id: Self::delivery(number).into(),
                event_id: format!("e{number}"),
                started_at_ms: 1_700_000_000_000 + i64::from(number),
                ..testing::full()
            };
            let attempts = wire::Attempts {
                format: wire::FORMAT,
                epoch,
                sequence: 1,
                attempts: vec![attempt],
                ..wire::Attempts::default()
            };
            let record = Self::record(header::KIND_ATTEMPT, attempts.encode_to_vec());
            let partition = number % self.partitions;
            append_and_wait(&*appender, "h.attempts", partition, record)
                .await
                .unwrap();
        }
    }

    /// Publishes events of the type of an activity that was read, one record each; returns when all are in the journal.
    async fn publish(&self, partition: u32, values: &[String]) {
        let appender = self.journal.appender("test").await.unwrap();
        for value in values {
            let record = Record {
                key: None,
                value: Some(value.clone().into()),
                headers: vec![],
            };
            append_and_wait(&*appender, "h.events", partition, record)
                .await
                .unwrap();
        }
    }

    async fn project(&self, id: &str, preset: Option<Preset>) {
        let spec = ProjectSpec {
            preset,
            ..ProjectSpec::new(Slug::new(id).unwrap())
        };
        self.registry.put_project(&spec, None).await.unwrap();
    }

    async fn append(&self, kind: &str, value: Vec<u8>) {
        let appender = self.journal.appender("test").await.unwrap();
        append_and_wait(&*appender, "h.attempts", 0, Self::record(kind, value))
            .await
            .unwrap();
    }

    fn delivery(number: u32) -> Vec<u8> {
        let mut id = vec![0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        id
    }

    fn record(kind: &str, value: Vec<u8>) -> Record {
        Record {
            key: None,
            value: Some(value.into()),
            headers: vec![(header::KIND.into(), kind.to_owned().into())],
        }
    }
}

/// A running stage.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    metrics: prometheus::Registry,
}

impl Running {
    fn start(topics: &Topics, store: &Arc<Store>, worker: &str) -> Self {
        let days = Duration::from_secs(90 * 24 * 3600);
        Self::keeping(topics, store, worker, days)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "tests: a task ends with its runtime"
    )]
    fn keeping(topics: &Topics, store: &Arc<Store>, worker: &str, retention: Duration) -> Self {
        let metrics = prometheus::Registry::new();
        let config = HistoryConfig {
            prefix: "h.".into(),
            worker: worker.into(),
            retention,
        };
        let journal = Arc::clone(&topics.journal) as Arc<dyn Journal>;
        let (store, clock) = (Arc::clone(store), Arc::clone(&topics.clock));
        let snapshots = topics.registry.changes();
        let stage = History::new(config, journal, store, snapshots, clock, &metrics).unwrap();
        let (stop, stopped) = watch::channel(false);
        Self {
            stop,
            task: tokio::spawn(stage.run(stopped)),
            metrics,
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|f| f.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

async fn eventually(what: &str, check: impl AsyncFn() -> bool) {
    let until = Instant::now() + WITHIN;
    while !check().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn has(store: &Store, count: u64) {
    let what = format!("{count} attempts are in the store");
    eventually(&what, async || store.count().await.unwrap() >= count).await;
    assert_eq!(store.count().await.unwrap(), count);
}

fn sqlite(dir: &Path) -> Arc<Store> {
    Arc::new(testing::sqlite(dir))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_stored_once_over_restarts_and_a_deleted_store_comes_back() {
    let topics = Topics::new(3).await;
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    topics.attempts(1, 0..200).await;
    let running = Running::start(&topics, &store, "one");
    has(&store, 200).await;
    topics.attempts(1, 200..300).await;
    has(&store, 300).await;
    running.stop().await;
    topics.attempts(1, 300..400).await;
    // Leases were given back, so the next one begins at once.
    let again = Running::start(&topics, &store, "two");
    has(&store, 400).await;
    eventually("it has caught up", async || {
        again.metric("hookline_journal_consumer_lag_records") == 0.0
            && again.metric("hookline_history_oldest_undelivered_seconds") < 5.0
            && again.metric("hookline_history_partitions_owned") == 3.0
            && again.metric("hookline_history_kept_from_timestamp_seconds") > 1.0
    })
    .await;
    again.stop().await;
    let page = store
        .attempts("shop", &AttemptFilter::default(), None, 500)
        .await
        .unwrap();
    let mut events: Vec<_> = page.items.iter().map(|l| l.event_id.clone()).collect();
    events.sort_unstable();
    events.dedup();
    assert_eq!(events.len(), 400);
    store.close().await;

    // Of one partition the topic no longer has everything.
    topics
        .journal
        .delete_records("h.attempts", 0, 20)
        .await
        .unwrap();
    let anew = tempfile::tempdir().unwrap();
    let store = sqlite(anew.path());
    let running = Running::start(&topics, &store, "three");
    has(&store, 380).await;
    assert!(store.kept_from(Topic::Attempts).await.unwrap() > Some(Millis(1_700_000_000_000)));
    running.stop().await;
}

fn read_activity(project: &str, id: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","project":"{project}","source":"/s","id":"{id}","type":"activity.read","data":{{"activityStatus":"READ"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_projects_are_stored_once_with_their_status() {
    let topics = Topics::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    topics.project("mail", Some(Preset::Esputnik)).await;
    topics.project("plain", None).await;
    let first = [
        read_activity("mail", "e1"),
        read_activity("nowhere", "e2"),
        "no event".into(),
        read_activity("mail", "e1"),
        read_activity("plain", "e3"),
    ];
    topics.publish(0, &first).await;
    topics
        .publish(
            1,
            &[read_activity("mail", "e4"), read_activity("mail", "e1")],
        )
        .await;
    let running = Running::start(&topics, &store, "one");
    let all = ActivityFilter::default();
    let found = async |project: &str| {
        let page = store.activities(project, &all, None, 0, 10).await.unwrap();
        let mut found: Vec<_> = page
            .items
            .into_iter()
            .map(|activity| (activity.id, activity.status))
            .collect();
        found.sort_unstable();
        found
    };
    let read = |id: &str| (id.to_owned(), Some("READ".to_owned()));
    eventually("they are stored", async || {
        found("mail").await.len() == 2 && found("plain").await.len() == 1
    })
    .await;
    assert_eq!(found("mail").await, [read("e1"), read("e4")]);
    assert_eq!(found("plain").await, [("e3".to_owned(), None)]);
    running.stop().await;
    // A project that is made, and an event of it: the store knows of the one before it judges the other.
    topics.project("new", None).await;
    topics.publish(1, &[read_activity("new", "e5")]).await;
    let again = Running::start(&topics, &store, "two");
    eventually("it goes on", async || found("new").await.len() == 1).await;
    assert_eq!(again.metric("hookline_history_event_partitions_owned"), 2.0);
    assert!(found("nowhere").await.is_empty());
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_passed_over_and_strays_are_marked() {
    let topics = Topics::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let running = Running::start(&topics, &store, "one");
    topics.attempts(1, 0..1).await;
    let claim = wire::Claim {
        format: wire::FORMAT,
        epoch: 2,
        ..wire::Claim::default()
    };
    topics
        .append(header::KIND_CLAIM, claim.encode_to_vec())
        .await;
    topics
        .append(header::KIND_ATTEMPT, b"\xff\xff".to_vec())
        .await;
    has(&store, 1).await;
    running.stop().await;
    // What was claimed before is still known after a restart.
    let again = Running::start(&topics, &store, "two");
    topics.attempts(1, 1..2).await;
    topics.attempts(2, 2..3).await;
    has(&store, 3).await;
    again.stop().await;
    let page = store
        .attempts("shop", &AttemptFilter::default(), None, 10)
        .await
        .unwrap();
    let strays: Vec<_> = page
        .items
        .iter()
        .map(|l| (l.event_id.as_str(), l.stray))
        .collect();
    assert_eq!(strays, [("e2", false), ("e1", true), ("e0", false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_deleted_before_they_were_read_are_counted_and_passed() {
    let topics = Topics::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    topics.attempts(1, 0..10).await;
    let running = Running::start(&topics, &store, "one");
    has(&store, 10).await;
    running.stop().await;
    topics.attempts(1, 10..20).await;
    topics
        .journal
        .delete_records("h.attempts", 0, 15)
        .await
        .unwrap();
    let again = Running::start(&topics, &store, "two");
    has(&store, 15).await;
    assert_eq!(again.metric("hookline_history_missed_records_total"), 5.0);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_older_than_the_retention_neither_comes_nor_stays() {
    let topics = Topics::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    topics.attempts(1, 0..20).await;
    let retention = Duration::from_secs(3);
    let running = Running::keeping(&topics, &store, "one", retention);
    has(&store, 20).await;
    eventually("they are deleted", async || {
        store.count().await.unwrap() == 0
    })
    .await;
    running.stop().await;
    let kept_from = store.kept_from(Topic::Attempts).await.unwrap();
    assert!(kept_from > Some(Millis(1_700_000_000_000)), "{kept_from:?}");
    let anew = tempfile::tempdir().unwrap();
    let store = sqlite(anew.path());
    let running = Running::keeping(&topics, &store, "two", retention);
    eventually("it has caught up", async || {
        store.kept_from(Topic::Attempts).await.unwrap().is_some()
    })
    .await;
    assert_eq!(store.count().await.unwrap(), 0);
    assert!(store.kept_from(Topic::Attempts).await.unwrap() >= kept_from);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_there_is_waited_for() {
    let topics = Topics::new(2).await;
    topics.attempts(1, 0..20).await;
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("later");
    let store = sqlite(&missing);
    let running = Running::start(&topics, &store, "one");
    eventually("it is known to be down", async || {
        running.metric("hookline_history_store_up") == 0.0
    })
    .await;
    std::fs::create_dir(&missing).unwrap();
    has(&store, 20).await;
    eventually("it is known to be up", async || {
        running.metric("hookline_history_store_up") == 1.0
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_the_partitions_of_one_postgres() {
    let Some(server) = testing::postgres() else {
        return;
    };
    let topics = Topics::new(4).await;
    let stores = server.stores().map(Arc::new);
    topics.attempts(1, 0..100).await;
    let one = Running::start(&topics, &stores[0], "one");
    has(&stores[0], 100).await;
    let two = Running::start(&topics, &stores[1], "two");
    eventually("each has a half", async || {
        [&one, &two]
            .iter()
            .all(|r| r.metric("hookline_history_partitions_owned") == 2.0)
    })
    .await;
    topics.attempts(1, 100..200).await;
    has(&stores[0], 200).await;
    let stored = |running: &Running| running.metric("hookline_history_attempts_total");
    assert_eq!(stored(&one) + stored(&two), 200.0);
    assert!(stored(&two) > 0.0);
    // One goes without a word: its lease ends, and the other reads on.
    one.task.abort();
    topics.attempts(1, 200..300).await;
    has(&stores[1], 300).await;
    two.stop().await;
    for store in stores {
        store.close().await;
    }
}

#[test]
fn every_partition_has_a_place_in_the_shares() {
    for partitions in 1..20 {
        for workers in 1..20 {
            let share = share(partitions, workers);
            assert!(share * usize::try_from(workers).unwrap() >= partitions as usize);
        }
    }
    assert_eq!(share(4, 0), 4);
}
