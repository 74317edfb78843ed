//! Topics on Apache Kafka or Redpanda. The only place that names the client library.
//!
//! | part | client of the library |
//! |---|---|
//! | `producer` | one for each appender |
//! | `pool`, `reader` | few, shared by all readers of the same budget |
//! | `member`, `commit` | one for each membership of a group |
//! | here, `admin` | one that asks, one that makes and deletes, one for each group whose positions are asked for |
//!
//! `rules` and `settings` say which properties may be set and what each kind of client is given; `client` and `context` serve them all.

mod admin;
mod client;
mod commit;
mod context;
mod member;
mod pool;
mod producer;
mod reader;
mod rules;
mod settings;

pub use settings::{ClientSettings, checked};

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use self::admin::Admin;
use self::client::{
    ANSWER_WITHIN, Consumer, PolledConsumer, blocking, checked_partition, failed, missing,
    no_partition, one, passing, timed_out,
};
use self::context::LogContext;
use self::member::KafkaMember;
use self::pool::Pool;
use self::producer::{KafkaAppender, RecordLimits};
use self::reader::KafkaReader;
use self::settings::BudgetClass;
use crate::{
    Appender, Committed, GroupSpec, Journal, JournalError, Member, ReadBudget, Reader, TopicInfo,
    TopicPartition, TopicSpec,
};

/// Between two tries of a question that met passing trouble.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a topic that nobody knows is asked for again: one made a moment ago is not known to every broker.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// How long readiness waits for an answer.
const HEALTHY_WITHIN: Duration = Duration::from_secs(3);

/// Groups whose positions are asked for keep a client each, at most this many.
const GROUP_CLIENTS: usize = 8;

/// How long the positions of a group are waited for before another client is asked: this one's connection may lead nowhere.
const POSITIONS_WITHIN: Duration = Duration::from_secs(3);

/// How to reach the brokers.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `[journal.kafka]`: properties of the client library by its own names, values as text.
    pub properties: BTreeMap<String, String>,
    /// Who this is, for people who look at the brokers.
    pub worker: String,
}

/// Topics on Kafka.
pub struct KafkaJournal {
    settings: Arc<ClientSettings>,
    id: String,
    query: PolledConsumer,
    admin: OnceCell<Arc<Admin>>,
    pools: [(BudgetClass, Arc<Pool>); 3],
    groups: Mutex<VecDeque<(String, Arc<PolledConsumer>)>>,
    /// How many partitions a topic was seen to have.
    seen: Mutex<HashMap<String, u32>>,
    limits: Arc<RecordLimits>,
}

impl KafkaJournal {
    /// Checks the properties and prepares. The brokers need not be there yet: [`Journal::healthy`] tells when they are.
    ///
    /// # Errors
    /// When a property is refused (see [`checked`] for all of them at once), or a file that one names cannot be used.
    pub fn connect(config: KafkaConfig) -> Result<Arc<Self>, JournalError> {
        let settings = checked(&config.properties).map_err(|mut errors| errors.swap_remove(0))?;
        let settings = Arc::new(settings);
        let id = format!("hookline.{}", config.worker.replace('\0', ""));
        let asking = format!("{id}.query");
        let query = PolledConsumer::start(&settings.query(&asking), &asking)?;
        let pools =
            BudgetClass::ALL.map(|class| (class, Pool::new(Arc::clone(&settings), &id, class)));
        Ok(Arc::new(Self {
            settings,
            id,
            query,
            admin: OnceCell::new(),
            pools,
            groups: Mutex::new(VecDeque::new()),
            seen: Mutex::new(HashMap::new()),
            limits: Arc::default(),
        }))
    }

    async fn admin(&self) -> Result<Arc<Admin>, JournalError> {
        let make = async || {
            let id = format!("{}.admin", self.id);
            let config = self.settings.admin(&id);
            let made = blocking("making a kafka client", move || {
                config.create_with_context::<_, Admin>(LogContext::new(&id))
            })
            .await?;
            made.map(Arc::new)
                .map_err(|e| failed("kafka admin client", &e))
        };
        self.admin.get_or_try_init(make).await.cloned()
    }

    /// Number of partitions of a topic; `None`: there is none such.
    async fn ask_partitions(&self, topic: &str) -> Result<Option<u32>, JournalError> {
        let (consumer, name) = (Arc::clone(self.query.get()), topic.to_owned());
        let what = format!("asking for topic {topic}");
        let metadata = blocking(&what, move || {
            consumer.fetch_metadata(Some(&name), ANSWER_WITHIN)
        })
        .await?
        .map_err(|e| failed(&what, &e))?;
        let found = metadata
            .topics()
            .iter()
            .find(|t| t.name() == topic && !t.partitions().is_empty())
            .map(|t| u32::try_from(t.partitions().len()).unwrap_or(u32::MAX));
        if let Some(count) = found {
            self.seen.lock().insert(topic.to_owned(), count);
        }
        Ok(found)
    }

    /// The partition as the client library counts, once the brokers know it.
    async fn known(&self, topic: &str, partition: u32) -> Result<i32, JournalError> {
        let number = checked_partition(topic, partition)?;
        if self.seen.lock().get(topic).is_some_and(|n| partition < *n) {
            return Ok(number);
        }
        let patience = Instant::now() + KNOWN_WITHIN;
        loop {
            if self
                .ask_partitions(topic)
                .await?
                .is_some_and(|n| partition < n)
            {
                return Ok(number);
            }
            if Instant::now() >= patience {
                return Err(no_partition(topic, partition));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One end of a partition: a single request to its leader.
    async fn edge(&self, topic: &str, partition: u32, which: Offset) -> Result<u64, JournalError> {
        let number = self.known(topic, partition).await?;
        let what = format!("asking where {topic}[{partition}] starts and ends");
        let patience = Instant::now() + ANSWER_WITHIN;
        loop {
            let (consumer, name) = (Arc::clone(self.query.get()), topic.to_owned());
            let answer = blocking(&what, move || edge(&consumer, &name, number, which)).await?;
            match answer {
                Ok(offset) => return Ok(offset),
                Err(error) if missing(&error) => {
                    self.seen.lock().remove(topic);
                    return Err(no_partition(topic, partition));
                }
                Err(error) if passing(&error) && Instant::now() < patience => {
                    tokio::time::sleep(PAUSE).await;
                    // The leader may be another by now. When nobody answers, the next try says so.
                    drop(self.ask_partitions(topic).await);
                }
                Err(error) => return Err(failed(&what, &error)),
            }
        }
    }

    /// Asks for the limits of topics that refused a record of an earlier appender.
    async fn settle_doubts(&self) -> Result<(), JournalError> {
        let doubted = self.limits.take_doubted();
        if doubted.is_empty() {
            return Ok(());
        }
        let nothing_known = |topic| (topic, TopicInfo::default());
        let mut topics = doubted.into_iter().map(nothing_known).collect();
        admin::describe(&*self.admin().await?, &mut topics).await?;
        self.limits.learn(admin::record_limits(&topics));
        Ok(())
    }

    /// A client that may ask for the positions of `group`.
    async fn group_client(&self, group: &str) -> Result<Arc<PolledConsumer>, JournalError> {
        if let Some((_, client)) = self.groups.lock().iter().find(|(name, _)| name == group) {
            return Ok(Arc::clone(client));
        }
        let id = format!("{}.positions", self.id);
        let config = self.settings.group_query(&id, group);
        let made = blocking("making a kafka client", move || {
            PolledConsumer::start(&config, &id)
        })
        .await??;
        let made = Arc::new(made);
        let mut groups = self.groups.lock();
        if groups.len() >= GROUP_CLIENTS {
            drop(groups.pop_front());
        }
        groups.push_back((group.to_owned(), Arc::clone(&made)));
        Ok(made)
    }

    /// Gives up a client that got no answer; the next one asked is another.
    fn forget_group_client(&self, silent: &Arc<PolledConsumer>) {
        let mut groups = self.groups.lock();
        groups.retain(|(_, client)| !Arc::ptr_eq(client, silent));
    }

    /// The committed positions as the client library tells them.
    async fn ask_committed(
        &self,
        group: &str,
        list: &TopicPartitionList,
    ) -> Result<TopicPartitionList, JournalError> {
        let what = format!("asking for the positions of group {group}");
        let patience = Instant::now() + ANSWER_WITHIN;
        loop {
            let (client, list) = (self.group_client(group).await?, list.clone());
            let asked = Arc::clone(&client);
            let within = POSITIONS_WITHIN.min(patience - Instant::now());
            let found =
                blocking(&what, move || asked.get().committed_offsets(list, within)).await?;
            match found {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() >= patience => return Err(failed(&what, &error)),
                Err(error) if timed_out(&error) => self.forget_group_client(&client),
                Err(error) if passing(&error) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(failed(&what, &error)),
            }
        }
    }
}

/// Asks the leader for an end of a partition: [`Offset::Beginning`] or [`Offset::End`]. Blocks.
fn edge(
    consumer: &Consumer,
    topic: &str,
    partition: i32,
    which: Offset,
) -> Result<u64, rdkafka::error::KafkaError> {
    // Where a time is looked up, these two stand for the first and the last.
    let found = consumer.offsets_for_times(one(topic, partition, which), ANSWER_WITHIN)?;
    let mut offset = 0;
    for element in found.elements() {
        element.error()?;
        if let Offset::Offset(n) = element.offset() {
            offset = u64::try_from(n).unwrap_or(0);
        }
    }
    Ok(offset)
}

#[async_trait]
impl Journal for KafkaJournal {
    async fn appender(&self, name: &str) -> Result<Arc<dyn Appender>, JournalError> {
        self.settle_doubts().await?;
        let id = format!("{}.{}", self.id, name.replace('\0', ""));
        let (settings, limits) = (Arc::clone(&self.settings), Arc::clone(&self.limits));
        let made = blocking("making a kafka producer", move || {
            KafkaAppender::new(&settings, &id, limits)
        });
        Ok(Arc::new(made.await??))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        let number = self.known(topic, partition).await?;
        let class = BudgetClass::of(budget);
        let (_, pool) = self
            .pools
            .iter()
            .find(|(of, _)| *of == class)
            .expect("there is a pool for each class");
        let wake = Arc::new(Notify::new());
        let slot = pool.slot(topic, number, from, Arc::clone(&wake)).await?;
        Ok(Box::new(KafkaReader::new(
            slot,
            Arc::clone(self.query.get()),
            (topic, number, partition),
            from,
            budget,
            wake,
        )))
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.edge(topic, partition, Offset::Beginning).await
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.edge(topic, partition, Offset::End).await
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError> {
        self.known(topic, partition).await?;
        let admin = self.admin().await?;
        admin::delete_records(&admin, topic, partition, before).await
    }

    async fn join(&self, group: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        for topic in &group.topics {
            self.known(topic, 0).await?;
        }
        let settings = Arc::clone(&self.settings);
        let id = format!("{}.{}", self.id, group.member.replace('\0', ""));
        let member = blocking("joining a group", move || {
            KafkaMember::join(&settings, &id, &group)
        });
        Ok(Box::new(member.await??))
    }

    async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for tp in partitions {
            list.add_partition(&tp.topic, checked_partition(&tp.topic, tp.partition)?);
        }
        let found = self.ask_committed(group, &list).await?;
        let mut by_partition = HashMap::new();
        for element in found.elements() {
            if let Err(error) = element.error()
                && !missing(&error)
            {
                let what = format!("asking for the positions of group {group}");
                return Err(failed(&what, &error));
            }
            if let Offset::Offset(offset) = element.offset() {
                let committed = Committed {
                    offset: u64::try_from(offset).unwrap_or(0),
                    metadata: element.metadata().to_owned(),
                };
                by_partition.insert((element.topic().to_owned(), element.partition()), committed);
            }
        }
        let of = |tp: &TopicPartition| {
            let number = i32::try_from(tp.partition).ok()?;
            by_partition.get(&(tp.topic.clone(), number)).cloned()
        };
        Ok(partitions.iter().map(of).collect())
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), JournalError> {
        let admin = self.admin().await?;
        admin::create_topics(&admin, topics).await?;
        // Made, but perhaps not yet known to the broker that is asked next.
        for spec in topics {
            let patience = Instant::now() + ANSWER_WITHIN;
            while self.ask_partitions(&spec.name).await?.is_none() {
                if Instant::now() >= patience {
                    return Err(JournalError::Timeout {
                        what: format!("making topic {}", spec.name),
                        waited: ANSWER_WITHIN,
                    });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        let consumer = Arc::clone(self.query.get());
        // The first question of every command: who hears that nobody answers wants to know whom it asked.
        let what = &format!(
            "asking the brokers at {} for the topics",
            self.settings.servers()
        );
        let mut topics = blocking(what, move || {
            consumer
                .fetch_metadata(None, ANSWER_WITHIN)
                .map(|metadata| admin::listed(&metadata))
        })
        .await?
        .map_err(|e| failed(what, &e))?;
        let admin = self.admin().await?;
        admin::describe(&admin, &mut topics).await?;
        self.limits.learn(admin::record_limits(&topics));
        Ok(topics)
    }

    async fn healthy(&self) -> bool {
        // Any answer will do, also that there is no such topic.
        let consumer = Arc::clone(self.query.get());
        let asked = blocking("asking whether kafka answers", move || {
            consumer.fetch_metadata(Some("__consumer_offsets"), HEALTHY_WITHIN)
        });
        matches!(asked.await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> KafkaConfig {
        // Nobody listens there: making a client talks to nobody.
        let servers = [("bootstrap.servers", "127.0.0.1:1")];
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        KafkaConfig {
            properties: servers.iter().chain(pairs).map(text).collect(),
            worker: "test".to_owned(),
        }
    }

    #[test]
    fn tls_and_sasl_are_compiled_in() {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let made = KafkaJournal::connect(config(&[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanism", mechanism),
                ("sasl.username", "u"),
                ("sasl.password", "p"),
            ]));
            assert!(made.is_ok(), "{mechanism}: {:?}", made.err());
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let refused = KafkaJournal::connect(config(&[
            ("security.protocol", "ssl"),
            ("ssl.ca.location", "/no/such/file"),
        ]));
        let told = refused.err().expect("refused").to_string();
        assert!(told.contains("ssl.ca.location"), "{told}");
    }

    #[tokio::test]
    async fn without_brokers_nothing_hangs_or_panics() {
        let journal = KafkaJournal::connect(config(&[])).expect("made");
        let appender = journal.appender("w").await.expect("made");
        let (tell, told) = tokio::sync::oneshot::channel();
        let done: crate::OnAppended = Box::new(move |fate| drop(tell.send(fate)));
        assert!(
            appender
                .append("t", 0, crate::Record::default(), done)
                .is_ok()
        );
        // What was on its way is told to be given up, and dropping does not wait for it.
        drop(appender);
        assert!(matches!(told.await, Ok(Err(crate::AppendError::Closed))));
    }
}
