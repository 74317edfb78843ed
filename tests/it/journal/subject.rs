//! The engine under test, seen by two clients.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::embedded::{EmbeddedConfig, EmbeddedJournal, RemoteJournal};
use hookline_journal::{Cleanup, Journal, TopicSpec, append_and_wait};
use hookline_tests::program::{Engine, SystemClock, kafka_journal};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{spec, value};

/// Two clients of one engine: with Kafka two connections, with the embedded engine the journal itself and one through its control socket.
pub(crate) struct Subject {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) other: Arc<dyn Journal>,
    embedded: Option<Arc<EmbeddedJournal>>,
    engine: Engine,
    unique: String,
    _control: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Subject {
    pub(crate) async fn new(engine: Engine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut embedded = None;
        let mut control = JoinSet::new();
        let (journal, other): (Arc<dyn Journal>, Arc<dyn Journal>) = match engine {
            Engine::Kafka => (kafka_journal("one"), kafka_journal("two")),
            Engine::Embedded => {
                let config = EmbeddedConfig::new(dir.path(), Arc::new(SystemClock));
                let opened = EmbeddedJournal::open(config).unwrap();
                embedded = Some(Arc::clone(&opened));
                let serving = Arc::clone(&opened).serve_control();
                control.spawn(async move { serving.await.unwrap() });
                let remote = connect(dir.path()).await;
                (opened, Arc::new(remote))
            }
        };
        Self {
            journal,
            other,
            embedded,
            engine,
            unique: format!("c{:08x}.", fastrand::u32(..)),
            _control: control,
            _dir: dir,
        }
    }

    /// Where the second member of a group joins: groups of the embedded engine have their members in one process.
    pub(crate) fn peer(&self) -> &Arc<dyn Journal> {
        match self.engine {
            Engine::Kafka => &self.other,
            Engine::Embedded => &self.journal,
        }
    }

    /// The name of a group or topic that nobody else uses.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.unique)
    }

    /// Makes a topic whose records are kept.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) -> String {
        let name = self.name(name);
        let spec = self.spec(&name, partitions);
        self.journal.create_topics(&[spec]).await.unwrap();
        name
    }

    pub(crate) fn spec(&self, name: &str, partitions: u32) -> TopicSpec {
        spec(name, partitions, Cleanup::Delete { retention: None })
    }

    pub(crate) async fn compacted_topic(&self, name: &str) -> String {
        let name = self.name(name);
        let settings = self.kafka_settings(&[
            ("segment.ms", "100"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("delete.retention.ms", "100"),
            ("max.compaction.lag.ms", "500"),
        ]);
        let spec = TopicSpec {
            settings,
            ..spec(&name, 1, Cleanup::Compact)
        };
        self.journal.create_topics(&[spec]).await.unwrap();
        name
    }

    pub(crate) async fn short_lived_topic(&self, name: &str) -> String {
        let name = self.name(name);
        let retention = Some(Duration::from_secs(2));
        let settings =
            self.kafka_settings(&[("segment.ms", "500"), ("file.delete.delay.ms", "100")]);
        let spec = TopicSpec {
            settings,
            ..spec(&name, 1, Cleanup::Delete { retention })
        };
        self.journal.create_topics(&[spec]).await.unwrap();
        name
    }

    /// Settings that let the broker do at once what it would do in hours.
    fn kafka_settings(&self, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        if self.engine != Engine::Kafka {
            return BTreeMap::new();
        }
        let owned = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    /// Has the engine compact now, as far as it can be asked to.
    pub(crate) async fn compact(&self, topic: &str) {
        match self.engine {
            // Only closed segments are compacted; an append after `segment.ms` closes one.
            Engine::Kafka => {
                let appender = self.journal.appender("nudge").await.unwrap();
                let mut record = value("nudge");
                record.key = Some("nudge".into());
                append_and_wait(&*appender, topic, 0, record).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Engine::Embedded => {
                let embedded = self.embedded.as_ref().unwrap();
                embedded.compact_now().await.unwrap();
            }
        }
    }

    /// Has the engine drop what is too old now, as far as it can be asked to.
    pub(crate) async fn retain(&self) {
        if let Some(embedded) = &self.embedded {
            embedded.housekeep_now().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Connects as soon as the control socket is there.
async fn connect(dir: &Path) -> RemoteJournal {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match RemoteJournal::connect(dir).await {
            Ok(remote) => return remote,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
