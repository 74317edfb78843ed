//! The clients that readers share.
//!
//! A client of the library costs threads and connections, a partition next to nothing: so few clients read many partitions. One client
//! can read a partition only once; a second reader of it takes the next client, which is made when there is none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::Notify;

use super::client::{
    ANSWER_WITHIN, Consumer, PolledConsumer, blocking, failed, one, raw_offset, thread,
};
use super::context::LogContext;
use super::settings::{BudgetClass, ClientSettings};
use crate::JournalError;

/// How long a new reader waits for the old one of the same partition to be gone, before it takes another client.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// The clients of one budget.
pub(crate) struct Pool {
    settings: Arc<ClientSettings>,
    id: String,
    class: BudgetClass,
    clients: Mutex<Vec<Arc<PoolClient>>>,
    making: tokio::sync::Mutex<()>,
    released: Notify,
}

struct PoolClient {
    consumer: PolledConsumer,
    taken: Mutex<HashMap<(String, i32), Taken>>,
    /// Topics that it knows the leaders of.
    met: Mutex<HashSet<String>>,
}

impl PoolClient {
    /// The library looks for the leaders of a topic that is new to it only once a second, but it keeps what it hears when asked.
    fn meet(&self, topic: &str) {
        if self.met.lock().contains(topic) {
            return;
        }
        let answer = self
            .consumer
            .get()
            .fetch_metadata(Some(topic), ANSWER_WITHIN);
        // Without an answer reading begins as it does without the question.
        if answer.is_ok() {
            self.met.lock().insert(topic.to_owned());
        }
    }
}

#[derive(PartialEq, Eq)]
enum Taken {
    Reading,
    Releasing,
}

/// The right to read one partition with one client. Dropping it stops reading.
pub(crate) struct Slot {
    pool: Arc<Pool>,
    client: Arc<PoolClient>,
    key: (String, i32),
    /// Taken out when this is dropped.
    queue: Option<PartitionQueue<LogContext>>,
    /// Whether this slot was given up. Held while the assignment is changed.
    closed: Arc<Mutex<bool>>,
}

impl Pool {
    pub(crate) fn new(settings: Arc<ClientSettings>, id: &str, class: BudgetClass) -> Arc<Self> {
        Arc::new(Self {
            settings,
            id: format!("{id}.read-{}", class.name()),
            class,
            clients: Mutex::new(Vec::new()),
            making: tokio::sync::Mutex::new(()),
            released: Notify::new(),
        })
    }

    /// Starts to read a partition. `wake` is told when there is something to take.
    pub(crate) async fn slot(
        self: &Arc<Self>,
        topic: &str,
        partition: i32,
        from: u64,
        wake: Arc<Notify>,
    ) -> Result<Slot, JournalError> {
        let key = (topic.to_owned(), partition);
        let client = self.client(&key).await?;
        let mut slot = Slot {
            pool: Arc::clone(self),
            client,
            key,
            queue: None,
            closed: Arc::new(Mutex::new(false)),
        };
        blocking("reading a partition", move || {
            slot.start(from, wake)?;
            Ok(slot)
        })
        .await?
    }

    /// A client that does not read `key`; it is marked as reading it from now on.
    async fn client(
        self: &Arc<Self>,
        key: &(String, i32),
    ) -> Result<Arc<PoolClient>, JournalError> {
        let patience = tokio::time::Instant::now() + RELEASED_WITHIN;
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            let (free, releasing) = self.look(key);
            if let Some(client) = free {
                return Ok(client);
            }
            if releasing && tokio::time::timeout_at(patience, released).await.is_ok() {
                continue;
            }
            let _one_at_a_time = self.making.lock().await;
            if let (Some(client), _) = self.look(key) {
                return Ok(client);
            }
            let (settings, class) = (Arc::clone(&self.settings), self.class);
            let id = format!("{}-{}", self.id, self.clients.lock().len() + 1);
            let consumer = blocking("making a kafka client", move || {
                PolledConsumer::start(&settings.reader(&id, class), &id)
            })
            .await??;
            let taken = HashMap::from([(key.clone(), Taken::Reading)]);
            let client = Arc::new(PoolClient {
                consumer,
                taken: Mutex::new(taken),
                met: Mutex::default(),
            });
            self.clients.lock().push(Arc::clone(&client));
            return Ok(client);
        }
    }

    /// A client that is free for `key`, and whether one will be soon.
    fn look(&self, key: &(String, i32)) -> (Option<Arc<PoolClient>>, bool) {
        let mut releasing = false;
        for client in self.clients.lock().iter() {
            let mut taken = client.taken.lock();
            match taken.get(key) {
                None => {
                    taken.insert(key.clone(), Taken::Reading);
                    return (Some(Arc::clone(client)), false);
                }
                Some(how) => releasing |= *how == Taken::Releasing,
            }
        }
        (None, releasing)
    }
}

impl Slot {
    fn start(&mut self, from: u64, wake: Arc<Notify>) -> Result<(), JournalError> {
        self.client.meet(&self.key.0);
        let consumer = self.client.consumer.get();
        let (topic, partition) = (self.key.0.as_str(), self.key.1);
        // Split off before the partition is assigned, so that no record ever goes to the common queue.
        let mut queue = consumer
            .split_partition_queue(topic, partition)
            .ok_or_else(|| JournalError::Failed {
                what: format!("reading {topic}[{partition}]"),
                reason: "the client library knows no such partition".to_owned(),
            })?;
        queue.set_nonempty_callback(move || wake.notify_one());
        self.queue = Some(queue);
        assign(consumer, topic, partition, from)
            .map_err(|e| failed(&format!("reading {topic}[{partition}]"), &e))
    }

    pub(crate) fn queue(&self) -> &PartitionQueue<LogContext> {
        self.queue
            .as_ref()
            .expect("set before the slot is handed out")
    }

    pub(crate) fn consumer(&self) -> Arc<Consumer> {
        Arc::clone(self.client.consumer.get())
    }

    /// Reads again, from `from`. Blocks; to be run elsewhere, also after this slot was given up.
    pub(crate) fn restart(
        &self,
        from: u64,
    ) -> impl FnOnce() -> Result<(), KafkaError> + Send + use<> {
        let (consumer, closed) = (self.consumer(), Arc::clone(&self.closed));
        let (topic, partition) = self.key.clone();
        move || {
            let closed = closed.lock();
            if *closed {
                return Ok(());
            }
            consumer.incremental_unassign(&one(&topic, partition, Offset::Invalid))?;
            assign(&consumer, &topic, partition, from)
        }
    }
}

fn assign(consumer: &Consumer, topic: &str, partition: i32, from: u64) -> Result<(), KafkaError> {
    consumer.incremental_assign(&one(topic, partition, Offset::Offset(raw_offset(from))))
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (pool, client) = (Arc::clone(&self.pool), Arc::clone(&self.client));
        let (key, closed, queue) = (
            self.key.clone(),
            Arc::clone(&self.closed),
            self.queue.take(),
        );
        if let Some(taken) = client.taken.lock().get_mut(&key) {
            *taken = Taken::Releasing;
        }
        let release = move || {
            let mut closed = closed.lock();
            *closed = true;
            let gone = one(&key.0, key.1, Offset::Invalid);
            if let Err(error) = client.consumer.get().incremental_unassign(&gone) {
                tracing::debug!(topic = key.0, partition = key.1, %error, "a partition was not read any more");
            }
            // Only then: the queue's callback is shared with whoever reads this partition next.
            drop(queue);
            client.taken.lock().remove(&key);
            pool.released.notify_waiters();
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(release)),
            Err(_) => drop(thread("kafka-release", release)),
        }
    }
}
