//! The one thread that writes: takes what waits, gives out offsets, stores all of it in one fsynced batch, makes it visible, then tells.

use std::collections::VecDeque;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fjall::{OwnedWriteBatch, PersistMode};
use parking_lot::{Condvar, Mutex};
use prost::Message;
use tokio::sync::Notify;

use super::groups;
use super::state::{Partition, Shared, Told, Topic};
use super::store::{self, CommittedMeta, PartitionMeta, Store, TIME_BYTES, TopicMeta};
use crate::{
    AppendError, AppendRefused, Appended, Appender, Committed, JournalError, OnAppended, Record,
    TopicPartition, TopicSpec,
};

/// What one fsync may carry. More would make the first of them wait.
const BATCH_COMMANDS_MAX: usize = 2048;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Control commands that may wait; each has a caller who waits for it.
const CONTROLS_MAX: usize = 1024;

/// What the writer does.
pub(super) enum Command {
    Append {
        partition: Arc<Partition>,
        /// The stored form; the writer puts the append time in.
        stored: Vec<u8>,
        done: OnAppended,
    },
    Commit {
        group: String,
        positions: Vec<(TopicPartition, Committed)>,
        told: Told,
    },
    DeleteBefore {
        partition: Arc<Partition>,
        before: u64,
        told: Told,
    },
    /// Takes records off the disk that are deleted or replaced by later ones.
    Remove {
        partition: Arc<Partition>,
        offsets: Vec<u64>,
        freed: Option<u64>,
        cleaned: Option<u64>,
        told: Told,
    },
    CreateTopics {
        specs: Vec<TopicSpec>,
        told: Told,
    },
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    controls: usize,
    /// Appends among them, and their bytes.
    appends: usize,
    bytes: usize,
    closed: bool,
}

/// What waits for the writer. Bounded.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    emptied: Notify,
    appends_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(super) fn new(appends_max: usize, bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            emptied: Notify::new(),
            appends_max,
            bytes_max,
        }
    }

    /// Whether there is room for an append, which is to be put at once. `None`: closed. Encoding happens in between, outside the lock;
    /// as many as there are threads that append may overshoot.
    fn has_room(&self) -> Option<bool> {
        let waiting = self.waiting.lock();
        let free = waiting.appends < self.appends_max && waiting.bytes < self.bytes_max;
        (!waiting.closed).then_some(free)
    }

    /// Puts a command; false when closed (it is dropped, then).
    pub(super) fn push_unbounded(&self, command: Command) -> bool {
        self.push(&mut self.waiting.lock(), command).is_ok()
    }

    fn push(&self, waiting: &mut Waiting, command: Command) -> Result<(), Command> {
        if waiting.closed {
            return Err(command);
        }
        if let Command::Append { stored, .. } = &command {
            waiting.appends += 1;
            waiting.bytes += stored.len();
        } else {
            waiting.controls += 1;
        }
        waiting.commands.push_back(command);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts a control command. Gives it back when there is no room, nothing when closed.
    pub(super) fn push_control(&self, command: Command) -> Result<(), Option<Command>> {
        let mut waiting = self.waiting.lock();
        if !waiting.closed && waiting.controls >= CONTROLS_MAX {
            return Err(Some(command));
        }
        self.push(&mut waiting, command).map_err(|_| None)
    }

    /// Resolves when there may be room.
    pub(super) async fn room(&self) {
        let emptied = self.emptied.notified();
        tokio::pin!(emptied);
        emptied.as_mut().enable();
        let full = {
            let waiting = self.waiting.lock();
            !waiting.closed
                && (waiting.controls >= CONTROLS_MAX
                    || waiting.appends >= self.appends_max
                    || waiting.bytes >= self.bytes_max)
        };
        if full {
            emptied.await;
        }
    }

    /// No more is taken on; the writer finishes what waits and ends.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_waiters();
    }

    /// What waits, up to a batch. `None`: closed and empty.
    fn take(&self) -> Option<Vec<Command>> {
        let mut waiting = self.waiting.lock();
        while waiting.commands.is_empty() {
            if waiting.closed {
                return None;
            }
            self.filled.wait(&mut waiting);
        }
        let mut batch = Vec::with_capacity(waiting.commands.len().min(BATCH_COMMANDS_MAX));
        let mut batch_bytes = 0;
        while batch.len() < BATCH_COMMANDS_MAX && batch_bytes < BATCH_BYTES_MAX {
            let Some(command) = waiting.commands.pop_front() else {
                break;
            };
            if let Command::Append { stored, .. } = &command {
                waiting.appends -= 1;
                waiting.bytes -= stored.len();
                batch_bytes += stored.len();
            } else {
                waiting.controls -= 1;
            }
            batch.push(command);
        }
        drop(waiting);
        self.emptied.notify_waiters();
        Some(batch)
    }
}

/// Runs until the queue is closed and empty, or storing failed.
pub(super) fn run(shared: &Shared) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        while let Some(commands) = shared.queue.take() {
            if let Some(reason) = shared.failed.get() {
                refuse_all(commands, reason);
            } else {
                write(shared, commands);
            }
        }
    }));
    if ended.is_err() {
        shared.fail("the writer came to an unexpected end; see the log");
    }
    // Nobody waits for a writer that is gone.
    shared.queue.close();
    while let Some(commands) = shared.queue.take() {
        refuse_all(commands, "the writer has ended");
    }
}

/// What remains to be done once a batch is durable.
#[derive(Default)]
struct AfterBatch {
    appended: Vec<(OnAppended, Appended, Arc<Partition>)>,
    told: Vec<Told>,
    /// By topic id and partition.
    ends: HashMap<(u32, u32), Arc<Partition>>,
    marks: HashMap<(u32, u32), (Arc<Partition>, PartitionMeta)>,
    topics: BTreeMap<String, Arc<Topic>>,
    committed: Vec<(String, Vec<(TopicPartition, Committed)>)>,
}

fn write(shared: &Shared, commands: Vec<Command>) {
    let mut after = AfterBatch::default();
    let stored = {
        let store = shared.store.read();
        match store.as_ref() {
            Some(store) => store_batch(shared, store, commands, &mut after),
            None => Err("the journal is closed".to_owned()),
        }
    };
    match stored {
        Ok(()) => after.publish(shared),
        Err(reason) => {
            shared.fail(&reason);
            after.refuse(&reason);
        }
    }
}

fn store_batch(
    shared: &Shared,
    store: &Store,
    commands: Vec<Command>,
    after: &mut AfterBatch,
) -> Result<(), String> {
    let mut batch =
        OwnedWriteBatch::with_capacity(store.db.clone(), commands.len()).durability(Some(
            // Data and length; nothing else of the file's metadata is needed to read it back.
            PersistMode::SyncData,
        ));
    let now = shared.config.clock.now().0;
    for command in commands {
        add(shared, store, &mut batch, command, now, after);
    }
    for ((topic, partition), (_, marks)) in &after.marks {
        batch.insert(
            &store.meta,
            store::partition_key(*topic, *partition),
            marks.encode_to_vec(),
        );
    }
    batch
        .commit()
        .map_err(|e| format!("writing to {} failed: {e}", shared.config.dir.display()))
}

fn add(
    shared: &Shared,
    store: &Store,
    batch: &mut OwnedWriteBatch,
    command: Command,
    now: i64,
    after: &mut AfterBatch,
) {
    match command {
        Command::Append {
            partition,
            stored,
            done,
        } => add_record(store, batch, (partition, stored, done), now, after),
        Command::Commit {
            group,
            positions,
            told,
        } => {
            add_positions(store, batch, &group, &positions);
            after.committed.push((group, positions));
            after.told.push(told);
        }
        Command::DeleteBefore {
            partition,
            before,
            told,
        } => {
            let marks = after.marks_of(&partition);
            marks.start = marks.start.max(before);
            after.told.push(told);
        }
        Command::Remove {
            partition,
            offsets,
            freed,
            cleaned,
            told,
        } => {
            for offset in offsets {
                let key = store::record_key(partition.topic_id, partition.partition, offset);
                // Each key is written once and removed once, so record and removal may vanish together.
                batch.remove_weak(&store.records, key);
            }
            let high = partition.next.load(Ordering::Acquire);
            let marks = after.marks_of(&partition);
            marks.high = marks.high.max(high);
            marks.freed = marks.freed.max(freed.unwrap_or(0));
            marks.cleaned = marks.cleaned.max(cleaned.unwrap_or(0));
            after.told.push(told);
        }
        Command::CreateTopics { specs, told } => {
            create_topics(shared, store, batch, specs, after);
            after.told.push(told);
        }
    }
}

fn add_record(
    store: &Store,
    batch: &mut OwnedWriteBatch,
    (partition, mut stored, done): (Arc<Partition>, Vec<u8>, OnAppended),
    now: i64,
    after: &mut AfterBatch,
) {
    let offset = partition.next.fetch_add(1, Ordering::AcqRel);
    if let Some(time) = stored.first_chunk_mut::<TIME_BYTES>() {
        *time = now.to_be_bytes();
    }
    let id = (partition.topic_id, partition.partition);
    let key = store::record_key(id.0, id.1, offset);
    batch.insert(&store.records, key, stored);
    after.ends.entry(id).or_insert_with(|| partition.clone());
    let appended = Appended {
        offset: Some(offset),
        timestamp_ms: Some(now),
    };
    after.appended.push((done, appended, partition));
}

fn add_positions(
    store: &Store,
    batch: &mut OwnedWriteBatch,
    group: &str,
    positions: &[(TopicPartition, Committed)],
) {
    for (at, committed) in positions {
        let meta = CommittedMeta {
            offset: committed.offset,
            metadata: committed.metadata.clone(),
        };
        let key = store::committed_key(group, at);
        batch.insert(&store.meta, key, meta.encode_to_vec());
    }
}

fn create_topics(
    shared: &Shared,
    store: &Store,
    batch: &mut OwnedWriteBatch,
    specs: Vec<TopicSpec>,
    after: &mut AfterBatch,
) {
    let topics = shared.topics.read();
    for spec in specs {
        if topics.contains_key(&spec.name) || after.topics.contains_key(&spec.name) {
            continue;
        }
        let ids = topics.values().chain(after.topics.values());
        let id = ids.map(|t| t.meta.id + 1).max().unwrap_or(1);
        let meta = TopicMeta::from_spec(id, &spec);
        batch.insert(
            &store.meta,
            store::topic_key(&spec.name),
            meta.encode_to_vec(),
        );
        let empty = |_| Ok::<_, std::convert::Infallible>((PartitionMeta::default(), 0));
        let Ok(topic) = Topic::new(&spec.name, meta, empty);
        after.topics.insert(spec.name, Arc::new(topic));
    }
}

impl AfterBatch {
    fn marks_of(&mut self, partition: &Arc<Partition>) -> &mut PartitionMeta {
        let id = (partition.topic_id, partition.partition);
        let entry = self
            .marks
            .entry(id)
            .or_insert_with(|| (partition.clone(), partition.marks()));
        &mut entry.1
    }

    /// Visible first, then told: who hears of an append must find it.
    fn publish(self, shared: &Shared) {
        for (partition, marks) in self.marks.into_values() {
            partition.publish_marks(marks);
        }
        for partition in self.ends.into_values() {
            partition.publish_end();
        }
        if !self.topics.is_empty() {
            shared.topics.write().extend(self.topics);
            let now = shared.config.clock.boot();
            shared.groups.topics_changed(&groups::counts(shared), now);
        }
        if !self.committed.is_empty() {
            let mut committed = shared.committed.write();
            for (group, positions) in self.committed {
                committed.entry(group).or_default().extend(positions);
            }
        }
        for (done, appended, _) in self.appended {
            done(Ok(appended));
        }
        for told in self.told {
            // Who no longer waits need not know.
            drop(told.send(Ok(())));
        }
    }

    fn refuse(self, reason: &str) {
        for (done, _, partition) in self.appended {
            done(Err(append_failed(&partition, reason)));
        }
        for told in self.told {
            refuse_control(told, reason);
        }
    }
}

fn append_failed(partition: &Partition, reason: &str) -> AppendError {
    AppendError::Failed {
        topic: partition.topic.to_string(),
        reason: reason.to_owned(),
    }
}

fn refuse_control(told: Told, reason: &str) {
    let error = JournalError::Failed {
        what: "store".to_owned(),
        reason: reason.to_owned(),
    };
    drop(told.send(Err(error)));
}

fn refuse_all(commands: Vec<Command>, reason: &str) {
    for command in commands {
        match command {
            Command::Append {
                partition, done, ..
            } => done(Err(append_failed(&partition, reason))),
            Command::Commit { told, .. }
            | Command::DeleteBefore { told, .. }
            | Command::Remove { told, .. }
            | Command::CreateTopics { told, .. } => refuse_control(told, reason),
        }
    }
}

/// Hands records to the writer. It fails only when the engine does, and then everybody's does.
pub(super) struct EmbeddedAppender {
    pub(super) shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl Appender for EmbeddedAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let Some(to) = self.shared.find(topic, partition) else {
            let topic = topic.to_owned();
            let error = AppendError::NoPartition { topic, partition };
            return Err(AppendRefused::Failed(error));
        };
        let bytes = store::record_bytes(&record);
        if bytes > to.max_record_bytes {
            let topic = topic.to_owned();
            return Err(AppendRefused::Failed(AppendError::TooLarge {
                topic,
                bytes,
            }));
        }
        match self.shared.queue.has_room() {
            Some(true) => {}
            Some(false) => {
                let record = Box::new(record);
                return Err(AppendRefused::Full { record, done });
            }
            None => return Err(AppendRefused::Failed(self.closed(&to))),
        }
        let command = Command::Append {
            stored: store::encode(record),
            done,
            partition: to.clone(),
        };
        if self.shared.queue.push_unbounded(command) {
            Ok(())
        } else {
            Err(AppendRefused::Failed(self.closed(&to)))
        }
    }

    async fn room(&self) {
        self.shared.queue.room().await;
    }
}

impl EmbeddedAppender {
    fn closed(&self, to: &Partition) -> AppendError {
        self.shared
            .failed
            .get()
            .map_or(AppendError::Closed, |reason| append_failed(to, reason))
    }
}
