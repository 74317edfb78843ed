//! Scenarios on the embedded engine: what goes in, what comes out, and what a restart or a failure does not repeat or lose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookline_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use hookline_journal::*;
use hookline_model::ids::{DeliveryId, Slug, WebhookUid};
use hookline_model::resource::{Resource, parse_documents};
use hookline_model::time::{Clock, Millis};
use hookline_model::topics::Topic;
use hookline_model::wire;
use hookline_registry::{Kek, Layout, PutWebhook, Registry, RegistryConfig, Sealer};
use prost::Message as _;
use tokio::sync::watch;

use crate::{Fanout, FanoutConfig};

mod filters;

const PREFIX: &str = "t.";
const PARTITIONS: u32 = 4;
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwg=";
/// Far longer than anything here takes; only a fault waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn boot(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.fetch_add(1, Ordering::Relaxed)).unwrap_or(0))
    }
}

/// A system with the embedded engine and a registry, in a directory that goes away with it.
struct System {
    journal: Arc<dyn Journal>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    _dir: tempfile::TempDir,
}

impl System {
    async fn new() -> Self {
        Self::with(|journal| journal).await
    }

    async fn with(wrap: impl FnOnce(Arc<dyn Journal>) -> Arc<dyn Journal>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock: Arc<dyn Clock> = Arc::new(TestClock(AtomicI64::new(0)));
        let config = EmbeddedConfig::new(dir.path().join("data"), Arc::clone(&clock));
        let journal: Arc<dyn Journal> = EmbeddedJournal::open(config).expect("opens");
        let topics = [
            Topic::Registry,
            Topic::Events,
            Topic::Deliveries,
            Topic::Rejected,
        ];
        let specs = topics.map(|topic| TopicSpec {
            name: topic.name(PREFIX),
            partitions: if topic == Topic::Registry {
                1
            } else {
                PARTITIONS
            },
            replication: 1,
            cleanup: Cleanup::Delete { retention: None },
            append_time: topic.append_time(),
            max_record_bytes: 2 * 1024 * 1024,
            settings: BTreeMap::new(),
        });
        journal.create_topics(&specs).await.expect("topics");
        let journal = wrap(journal);
        let kek = Kek::from_base64(KEY).expect("a key");
        let config = RegistryConfig::new(PREFIX);
        let registry = Registry::open(
            Arc::clone(&journal),
            config,
            Arc::clone(&clock),
            Sealer::new(&kek),
        );
        let registry = registry.await.expect("opens");
        let layout = Layout {
            partitions: PARTITIONS,
            tier_partitions: 1,
            generations: BTreeMap::new(),
        };
        registry.ensure_layout(&layout).await.expect("laid out");
        Self {
            journal,
            registry,
            clock,
            _dir: dir,
        }
    }

    async fn webhook(&self, name: &str, events: &[&str]) -> WebhookUid {
        self.filtered_webhook(name, events, "none").await
    }

    async fn filtered_webhook(&self, name: &str, events: &[&str], filter: &str) -> WebhookUid {
        let document = serde_json::json!({
            "kind": "Webhook", "project": "shop", "name": name, "url": "https://example.com/h", "events": events, "filter": filter,
        });
        let parsed = parse_documents(&document.to_string()).expect("valid").pop();
        let Some(Resource::Webhook(spec)) = parsed else {
            unreachable!("{parsed:?}")
        };
        let put = PutWebhook {
            project: Slug::new("shop").expect("slug"),
            name: Slug::new(name).expect("slug"),
            settings: spec.settings,
            keep_state: false,
            verified: None,
            make_project: true,
            if_match: None,
        };
        self.registry
            .put_webhook(&put)
            .await
            .expect("made")
            .webhook
            .uid
    }

    async fn publish(&self, partition: u32, value: impl Into<Bytes>) -> u64 {
        let appender = self.journal.appender("test").await.expect("an appender");
        let record = Record {
            value: Some(value.into()),
            ..Record::default()
        };
        let topic = Topic::Events.name(PREFIX);
        let appended = append_and_wait(&*appender, &topic, partition, record).await;
        appended.expect("stored").offset.expect("known")
    }

    /// Runs a fan-out until `done` resolves, and then to its end.
    async fn run(&self, done: impl Future<Output = ()>) -> prometheus::Registry {
        let metrics = prometheus::Registry::new();
        let fanout = Fanout::new(
            FanoutConfig::new(PREFIX, "test"),
            Arc::clone(&self.journal),
            self.registry.clone(),
            Arc::clone(&self.clock),
            &metrics,
        );
        let (stop, stopped) = watch::channel(false);
        let until = async {
            tokio::time::timeout(PATIENCE, done).await.expect("in time");
            stop.send_replace(true);
        };
        let (ended, ()) = tokio::join!(fanout.expect("made").run(stopped), until);
        ended.expect("graceful");
        metrics
    }

    async fn read(&self, topic: Topic) -> Vec<StoredRecord> {
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let name = topic.name(PREFIX);
            let end = self.journal.end(&name, partition).await.expect("end");
            let budget = ReadBudget::of(1 << 20);
            let reader = self.journal.reader(&name, partition, 0, budget).await;
            let mut reader = reader.expect("a reader");
            read_until(&mut *reader, end, |r| all.push(r))
                .await
                .expect("read");
        }
        all
    }

    /// Which event went to which webhook, how often.
    async fn sends(&self) -> BTreeMap<(String, WebhookUid), u32> {
        let mut sends = BTreeMap::new();
        for record in self.read(Topic::Deliveries).await {
            let record =
                wire::Deliveries::decode(record.value.expect("a value")).expect("readable");
            let event = record.event.expect("an event");
            for send in record.sends {
                let uid = WebhookUid::from_slice(&send.webhook_uid).expect("a uid");
                let id = DeliveryId::derive(&event.project, &event.source, &event.id, uid);
                assert_eq!(&*send.delivery_id, &id.0);
                assert_eq!(send.webhook_epoch, 1);
                *sends.entry((event.id.clone(), uid)).or_insert(0) += 1;
            }
        }
        sends
    }

    async fn until_sends(&self, count: usize) {
        until(|| async { self.sends().await.len() >= count }).await;
    }
}

async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn event(id: &str, project: &str, event_type: &str) -> Vec<u8> {
    serde_json::json!({
        "specversion": "1.0", "id": id, "source": "/test", "project": project, "type": event_type,
        "data": {"n": 1},
    })
    .to_string()
    .into_bytes()
}

fn metric(metrics: &prometheus::Registry, name: &str, label: Option<&str>) -> f64 {
    let families = metrics.gather();
    let family = families
        .iter()
        .find(|f| f.name() == name)
        .expect("a metric");
    let has = |m: &&prometheus::proto::Metric| {
        label.is_none_or(|l| m.get_label().iter().any(|pair| pair.value() == l))
    };
    let metric = family
        .get_metric()
        .iter()
        .find(has)
        .expect("with that label");
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

#[tokio::test]
async fn events_become_deliveries_and_a_restart_repeats_nothing() {
    let system = System::new().await;
    let all = system.webhook("all", &["*"]).await;
    let signup = system.webhook("signup", &["user.signup", "user.*"]).await;
    system.publish(0, event("e1", "shop", "user.signup")).await;
    system.publish(1, event("e2", "shop", "order.paid")).await;
    system.publish(0, event("e1", "shop", "user.signup")).await;
    system.publish(2, "no event").await;
    system
        .publish(3, event("e3", "nowhere", "user.signup"))
        .await;
    let both = async {
        system.until_sends(3).await;
        until(|| async { system.read(Topic::Rejected).await.len() == 2 }).await;
    };
    let metrics = system.run(both).await;
    let expected: BTreeMap<_, _> = [("e1", all), ("e1", signup), ("e2", all)]
        .map(|(id, uid)| ((id.to_owned(), uid), 1))
        .into();
    assert_eq!(system.sends().await, expected);
    let count = |label| metric(&metrics, "hookline_fanout_events_total", Some(label));
    assert_eq!(
        ["fanned_out", "repeated", "rejected"].map(count),
        [2.0, 1.0, 2.0]
    );
    assert_eq!(
        metric(&metrics, "hookline_fanout_deliveries_total", None),
        3.0
    );

    let mut reasons = Vec::new();
    for record in system.read(Topic::Rejected).await {
        let rejected = wire::Rejected::decode(record.value.expect("a value")).expect("readable");
        assert_eq!(rejected.topic, "t.events");
        reasons.push((rejected.reason, rejected.partition, rejected.offset));
    }
    reasons.sort();
    let expected_reasons = [("unknown_project", 3, 0), ("unreadable", 2, 0)];
    assert_eq!(
        reasons,
        expected_reasons.map(|(r, p, o)| (r.to_owned(), p, o))
    );

    // A new process: everything was committed, and what was seen is known again.
    system.publish(0, event("e1", "shop", "user.signup")).await;
    system.publish(0, event("e4", "shop", "other")).await;
    let metrics = system.run(system.until_sends(4)).await;
    let mut expected = expected;
    expected.insert(("e4".into(), all), 1);
    assert_eq!(system.sends().await, expected);
    assert_eq!(
        metric(&metrics, "hookline_fanout_events_total", Some("repeated")),
        1.0
    );
    assert_eq!(
        metric(&metrics, "hookline_fanout_events_total", Some("rejected")),
        0.0
    );
}

#[tokio::test]
async fn an_event_after_a_webhook_was_made_reaches_it() {
    let system = System::new().await;
    system.webhook("first", &["*"]).await;
    // Nobody runs the registry of this fan-out: it must ask for itself.
    let others = async {
        let kek = Kek::from_base64(KEY).expect("a key");
        for round in 0..20 {
            let other = System {
                journal: Arc::clone(&system.journal),
                registry: Registry::open(
                    Arc::clone(&system.journal),
                    RegistryConfig::new(PREFIX),
                    Arc::clone(&system.clock),
                    Sealer::new(&kek),
                )
                .await
                .expect("opens"),
                clock: Arc::clone(&system.clock),
                _dir: tempfile::tempdir().expect("a directory"),
            };
            let uid = other.webhook(&format!("w{round}"), &["*"]).await;
            let id = format!("e{round}");
            system
                .publish(round % PARTITIONS, event(&id, "shop", "x"))
                .await;
            let key = (id, uid);
            until(|| async { system.sends().await.contains_key(&key) }).await;
        }
    };
    system.run(others).await;
    // The first webhook and those made so far got each event.
    assert_eq!(system.sends().await.len(), (2..22).sum::<usize>());
}

#[tokio::test]
async fn events_deleted_before_they_were_fanned_out_raise_the_alarm() {
    let system = System::new().await;
    system.webhook("all", &["*"]).await;
    let topic = Topic::Events.name(PREFIX);
    for n in 0..4 {
        system
            .publish(0, event(&format!("a{n}"), "shop", "x"))
            .await;
    }
    system.run(system.until_sends(4)).await;
    for n in 0..4 {
        system
            .publish(0, event(&format!("b{n}"), "shop", "x"))
            .await;
    }
    system
        .journal
        .delete_records(&topic, 0, 6)
        .await
        .expect("deleted");
    system.publish(1, event("c", "shop", "x")).await;
    let metrics = system.run(system.until_sends(5)).await;
    let stopped = metric(&metrics, "hookline_fanout_partitions_stopped", None);
    assert_eq!(stopped, 0.0, "told as long as it lasts");
    let ids: Vec<_> = system.sends().await.into_keys().map(|(id, _)| id).collect();
    assert_eq!(
        ids,
        ["a0", "a1", "a2", "a3", "c"],
        "the partition stopped, the others went on"
    );
}

#[tokio::test]
async fn events_that_age_takes_while_their_identities_are_read_back_raise_no_alarm() {
    let system = System::with(|journal| {
        Arc::new(Flaky {
            journal,
            left: Arc::default(),
            starts_late: true,
        })
    })
    .await;
    system.webhook("all", &["*"]).await;
    for n in 0..4 {
        system
            .publish(0, event(&format!("a{n}"), "shop", "x"))
            .await;
    }
    system.run(system.until_sends(4)).await;
    let topic = Topic::Events.name(PREFIX);
    let deleted = system.journal.delete_records(&topic, 0, 3).await;
    deleted.expect("deleted");
    system.publish(0, event("a3", "shop", "x")).await;
    system.publish(0, event("b", "shop", "x")).await;
    let metrics = system.run(system.until_sends(5)).await;
    let repeated = metric(&metrics, "hookline_fanout_events_total", Some("repeated"));
    assert_eq!(repeated, 1.0, "what was left was read back");
}

/// A journal whose appenders fail for good after some appends, or that has deleted more events than it says.
struct Flaky {
    journal: Arc<dyn Journal>,
    left: Arc<AtomicU64>,
    starts_late: bool,
}

struct FlakyAppender {
    appender: Arc<dyn Appender>,
    left: Arc<AtomicU64>,
    broken: std::sync::atomic::AtomicBool,
}

fn broken() -> AppendError {
    AppendError::Failed {
        topic: "any".into(),
        reason: "as the test wants".into(),
    }
}

#[async_trait]
impl Appender for FlakyAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(AppendRefused::Failed(broken()));
        }
        if !topic.ends_with("deliveries") {
            return self.appender.append(topic, partition, record, done);
        }
        let less = |left: u64| Some(left.saturating_sub(1));
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        let left = left.expect("always some");
        if left > 0 && left.is_multiple_of(7) {
            self.broken.store(true, Ordering::SeqCst);
            if left.is_multiple_of(2) {
                // Stored, but nobody hears of it.
                let lost: OnAppended = Box::new(|_| done(Err(broken())));
                return self.appender.append(topic, partition, record, lost);
            }
            done(Err(broken()));
            return Ok(());
        }
        self.appender.append(topic, partition, record, done)
    }

    async fn room(&self) {
        self.appender.room().await;
    }
}

#[async_trait]
impl Journal for Flaky {
    async fn appender(&self, name: &str) -> Result<Arc<dyn Appender>, JournalError> {
        let appender = self.journal.appender(name).await?;
        if name != "fanout" {
            return Ok(appender);
        }
        Ok(Arc::new(FlakyAppender {
            appender,
            left: Arc::clone(&self.left),
            broken: false.into(),
        }))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        self.journal.reader(topic, partition, from, budget).await
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        if self.starts_late && topic.ends_with("events") {
            return Ok(0);
        }
        self.journal.start(topic, partition).await
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.journal.end(topic, partition).await
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError> {
        self.journal.delete_records(topic, partition, before).await
    }

    async fn join(&self, group: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        self.journal.join(group).await
    }

    async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        self.journal.committed(group, partitions).await
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), JournalError> {
        self.journal.create_topics(topics).await
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        self.journal.topics().await
    }

    async fn healthy(&self) -> bool {
        self.journal.healthy().await
    }
}

#[tokio::test]
async fn failing_appenders_lose_nothing_and_keep_the_order_of_the_source() {
    let left = Arc::new(AtomicU64::new(60));
    let system = System::with(|journal| {
        Arc::new(Flaky {
            journal,
            left,
            starts_late: false,
        })
    })
    .await;
    let mut uids = Vec::new();
    for n in 0..3 {
        uids.push(system.webhook(&format!("w{n}"), &["*"]).await);
    }
    for n in 0..8 {
        system
            .publish(n % 2, event(&format!("e{n}"), "shop", "x"))
            .await;
    }
    system.run(system.until_sends(24)).await;
    // After the first time that a position of the stream is seen, only positions above it are new: what comes again is recognised.
    let mut marks: BTreeMap<(u32, u32), (u64, WebhookUid)> = BTreeMap::new();
    let mut taken = 0;
    for partition in 0..PARTITIONS {
        let name = Topic::Deliveries.name(PREFIX);
        let end = system.journal.end(&name, partition).await.expect("end");
        let budget = ReadBudget::of(1 << 20);
        let mut reader = system
            .journal
            .reader(&name, partition, 0, budget)
            .await
            .expect("a reader");
        let mut records = Vec::new();
        read_until(&mut *reader, end, |r| records.push(r))
            .await
            .expect("read");
        for record in records {
            let record =
                wire::Deliveries::decode(record.value.expect("a value")).expect("readable");
            let Some(wire::source::Stream::Events(from)) = record.source.and_then(|s| s.stream)
            else {
                unreachable!("not from events")
            };
            for send in record.sends {
                let uid = WebhookUid::from_slice(&send.webhook_uid).expect("a uid");
                let mark = marks.get(&(partition, from.partition));
                if mark.is_none_or(|m| *m < (from.offset, uid)) {
                    marks.insert((partition, from.partition), (from.offset, uid));
                    taken += 1;
                }
            }
        }
    }
    assert_eq!(taken, 24, "each once, by the marks");
}
