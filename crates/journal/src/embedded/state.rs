//! What all parts of the engine share: topics and partitions with their visible ends, positions, the writer's queue, and how it ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use fjall::PersistMode;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use tokio::sync::{oneshot, watch};

use super::EmbeddedConfig;
use super::groups::Groups;
use super::store::{self, CommittedByGroup, Loaded, PartitionMeta, Store, TopicMeta};
use super::writer::{Command, Queue};
use crate::JournalError;

/// A partition. Only the writer changes it.
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: u32,
    pub(super) partition: u32,
    pub(super) max_record_bytes: usize,
    /// The next offset to give out; ahead of the visible end while a batch is being written.
    pub(super) next: AtomicU64,
    /// Below it everything is durable, and may be read.
    end: watch::Sender<u64>,
    start: AtomicU64,
    marks: Mutex<PartitionMeta>,
}

impl Partition {
    /// The visible end.
    pub(super) fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// To wait for the end to move.
    pub(super) fn watch_end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Makes everything written so far visible.
    pub(super) fn publish_end(&self) {
        let next = self.next.load(Ordering::Acquire);
        self.end.send_if_modified(|end| {
            let moved = *end != next;
            *end = next;
            moved
        });
    }

    /// The first offset that is not deleted.
    pub(super) fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    pub(super) fn marks(&self) -> PartitionMeta {
        self.marks.lock().clone()
    }

    /// Takes over marks that are stored.
    pub(super) fn publish_marks(&self, marks: PartitionMeta) {
        self.start.store(marks.start, Ordering::Release);
        *self.marks.lock() = marks;
    }
}

/// A topic and its partitions.
pub(super) struct Topic {
    pub(super) meta: TopicMeta,
    pub(super) partitions: Vec<Arc<Partition>>,
}

impl Topic {
    /// A topic whose partitions are filled as `known` says: marks and the next offset.
    pub(super) fn new<E>(
        name: &str,
        meta: TopicMeta,
        known: impl Fn(u32) -> Result<(PartitionMeta, u64), E>,
    ) -> Result<Self, E> {
        let topic: Arc<str> = name.into();
        let max_record_bytes = usize::try_from(meta.max_record_bytes).unwrap_or(usize::MAX);
        let partitions = (0..meta.partitions)
            .map(|partition| {
                let (marks, next) = known(partition)?;
                Ok(Arc::new(Partition {
                    topic: topic.clone(),
                    topic_id: meta.id,
                    partition,
                    max_record_bytes,
                    next: AtomicU64::new(next),
                    end: watch::channel(next).0,
                    start: AtomicU64::new(marks.start),
                    marks: Mutex::new(marks),
                }))
            })
            .collect::<Result<_, E>>()?;
        Ok(Self { meta, partitions })
    }
}

/// Answers a control command.
pub(super) type Told = oneshot::Sender<Result<(), JournalError>>;

/// Everything the parts share.
pub(super) struct Shared {
    pub(super) config: EmbeddedConfig,
    /// `None` once closed.
    pub(super) store: RwLock<Option<Store>>,
    pub(super) topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    pub(super) committed: RwLock<CommittedByGroup>,
    pub(super) queue: Queue,
    pub(super) groups: Groups,
    /// Why nothing can be stored any more.
    pub(super) failed: OnceLock<String>,
    /// True once reading and waiting make no sense any more.
    pub(super) ended: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(
        config: EmbeddedConfig,
        store: Store,
        loaded: Loaded,
        offsets_skipped: u64,
    ) -> Result<Self, String> {
        let mut topics = BTreeMap::new();
        for (name, meta) in loaded.topics {
            let id = meta.id;
            let topic = Topic::new(&name, meta, |partition| {
                let marks = loaded
                    .partitions
                    .get(&(id, partition))
                    .cloned()
                    .unwrap_or_default();
                let last = store.last_offset(id, partition, marks.freed)?;
                let next = last
                    .map_or(0, |last| last + 1)
                    .max(marks.start)
                    .max(marks.high);
                Ok::<_, String>((marks, next + offsets_skipped))
            })?;
            topics.insert(name, Arc::new(topic));
        }
        Ok(Self {
            queue: Queue::new(config.queue_records, config.queue_bytes),
            config,
            store: RwLock::new(Some(store)),
            topics: RwLock::new(topics),
            committed: RwLock::new(loaded.committed),
            groups: Groups::default(),
            failed: OnceLock::new(),
            ended: watch::channel(false).0,
        })
    }

    /// Stores where each partition goes on, where no record shows it.
    pub(super) fn keep_ends(&self) -> Result<(), String> {
        let store = self.store.read();
        let Some(store) = store.as_ref() else {
            return Err("the journal is closed".to_owned());
        };
        let durable = Some(PersistMode::SyncData);
        let topics = self.topics.read();
        let partitions = topics.values().flat_map(|topic| &topic.partitions);
        let mut batch = store.db.batch().durability(durable);
        for partition in partitions {
            let high = partition.next.load(Ordering::Acquire);
            let marks = PartitionMeta {
                high,
                ..partition.marks()
            };
            let key = store::partition_key(partition.topic_id, partition.partition);
            batch.insert(&store.meta, key, marks.encode_to_vec());
            partition.publish_marks(marks);
        }
        batch.commit().map_err(|e| e.to_string())
    }

    /// A partition, if it exists.
    pub(super) fn partition(
        &self,
        topic: &str,
        partition: u32,
    ) -> Result<Arc<Partition>, JournalError> {
        self.find(topic, partition)
            .ok_or_else(|| JournalError::NoPartition {
                topic: topic.to_owned(),
                partition,
            })
    }

    pub(super) fn find(&self, topic: &str, partition: u32) -> Option<Arc<Partition>> {
        let topics = self.topics.read();
        let index = usize::try_from(partition).ok()?;
        topics.get(topic)?.partitions.get(index).cloned()
    }

    /// Nothing is stored any more from here on; says why.
    pub(super) fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, dir = %self.config.dir.display(), "the embedded journal stores nothing any more");
        }
        self.ended.send_replace(true);
    }

    /// Why a call cannot be answered: it failed before, or it was closed.
    pub(super) fn gone(&self, what: &str) -> JournalError {
        JournalError::Failed {
            what: what.to_owned(),
            reason: self
                .failed
                .get()
                .map_or_else(|| "the journal is closed".to_owned(), Clone::clone),
        }
    }

    /// Has the writer do something, and waits until it is durable.
    pub(super) async fn control(
        &self,
        what: &str,
        command: impl FnOnce(Told) -> Command,
    ) -> Result<(), JournalError> {
        let (tell, told) = oneshot::channel();
        let mut command = command(tell);
        loop {
            match self.queue.push_control(command) {
                Ok(()) => break,
                Err(Some(back)) => command = back,
                Err(None) => return Err(self.gone(what)),
            }
            self.queue.room().await;
        }
        told.await.unwrap_or_else(|_| Err(self.gone(what)))
    }

    /// As [`Shared::control`], from a thread of the engine (each waits for one at a time, so no bound is needed).
    pub(super) fn control_blocking(
        &self,
        what: &str,
        command: impl FnOnce(Told) -> Command,
    ) -> Result<(), JournalError> {
        let (tell, told) = oneshot::channel();
        if !self.queue.push_unbounded(command(tell)) {
            return Err(self.gone(what));
        }
        told.blocking_recv()
            .unwrap_or_else(|_| Err(self.gone(what)))
    }
}
