//! A journal in memory that can misbehave, and a clock that follows the paused time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hookline_journal::*;
use hookline_model::time::{Clock, Millis};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

/// Our clock, and the brokers' beside it.
pub(super) struct SimClock {
    begun: tokio::time::Instant,
    broker_ahead: AtomicI64,
}

impl SimClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: tokio::time::Instant::now(),
            broker_ahead: AtomicI64::new(0),
        })
    }

    pub(super) fn broker(&self) -> i64 {
        self.now().0 + self.broker_ahead.load(Ordering::SeqCst)
    }

    pub(super) fn step_broker(&self, by: i64) {
        self.broker_ahead.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000).plus(self.begun.elapsed())
    }

    fn boot(&self) -> Duration {
        self.begun.elapsed()
    }
}

#[derive(Default)]
struct State {
    logs: HashMap<TopicPartition, Vec<StoredRecord>>,
    starts: HashMap<TopicPartition, u64>,
    committed: HashMap<TopicPartition, Committed>,
    appends_left: Option<u32>,
    blocked: bool,
    commits_refused: u32,
}

pub(super) struct Memory {
    pub(super) clock: Arc<SimClock>,
    state: Mutex<State>,
    changed: Notify,
    told: mpsc::Sender<MemberEvent>,
    events: Arc<tokio::sync::Mutex<mpsc::Receiver<MemberEvent>>>,
    itself: std::sync::Weak<Self>,
}

impl Memory {
    pub(super) fn new(clock: Arc<SimClock>) -> Arc<Self> {
        let (told, events) = mpsc::channel(16);
        Arc::new_cyclic(|itself| Self {
            clock,
            state: Mutex::default(),
            changed: Notify::new(),
            told,
            events: Arc::new(tokio::sync::Mutex::new(events)),
            itself: itself.clone(),
        })
    }

    pub(super) fn tell(&self, event: MemberEvent) {
        self.told.try_send(event).expect("room");
    }

    pub(super) fn put(&self, place: &TopicPartition, value: Vec<u8>) -> Appended {
        let mut state = self.state.lock();
        let start = state.starts.get(place).copied().unwrap_or(0);
        let log = state.logs.entry(place.clone()).or_default();
        let record = StoredRecord {
            offset: log.last().map_or(start, |r| r.offset + 1),
            timestamp_ms: self.clock.broker(),
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        };
        let appended = Appended {
            offset: Some(record.offset),
            timestamp_ms: Some(record.timestamp_ms),
        };
        log.push(record);
        drop(state);
        self.changed.notify_waiters();
        appended
    }

    pub(super) fn records(&self, place: &TopicPartition) -> Vec<StoredRecord> {
        self.state
            .lock()
            .logs
            .get(place)
            .cloned()
            .unwrap_or_default()
    }

    pub(super) async fn wait_for(&self, place: &TopicPartition, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.records(place).len() >= count {
                return;
            }
            tokio::time::timeout(Duration::from_secs(100_000), changed)
                .await
                .expect("something happens");
        }
    }

    pub(super) fn committed_at(&self, place: &TopicPartition) -> Option<Committed> {
        self.state.lock().committed.get(place).cloned()
    }

    pub(super) fn commit_at(&self, place: &TopicPartition, committed: Committed) {
        self.state.lock().committed.insert(place.clone(), committed);
    }

    pub(super) fn start_of(&self, place: &TopicPartition) -> u64 {
        self.state.lock().starts.get(place).copied().unwrap_or(0)
    }

    /// The present appender fails for good after that many more appends.
    pub(super) fn fail_after(&self, appends: u32) {
        self.state.lock().appends_left = Some(appends);
    }

    pub(super) fn block_appends(&self, blocked: bool) {
        self.state.lock().blocked = blocked;
        self.changed.notify_waiters();
    }

    pub(super) fn refuse_commits(&self, times: u32) {
        self.state.lock().commits_refused = times;
    }
}

fn place(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

struct MemoryAppender(Arc<Memory>);

#[async_trait]
impl Appender for MemoryAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let mut state = self.0.state.lock();
        if state.blocked {
            return Err(AppendRefused::Full {
                record: Box::new(record),
                done,
            });
        }
        let failing = state.appends_left == Some(0);
        if let Some(left) = state.appends_left.as_mut() {
            *left = left.saturating_sub(1);
        }
        drop(state);
        let result = if failing {
            Err(AppendError::Failed {
                topic: topic.to_owned(),
                reason: "as the test wants".to_owned(),
            })
        } else {
            let value = record.value.expect("value").to_vec();
            Ok(self.0.put(&place(topic, partition), value))
        };
        done(result);
        Ok(())
    }

    async fn room(&self) {
        self.0.changed.notified().await;
    }
}

struct MemoryReader {
    memory: Arc<Memory>,
    place: TopicPartition,
    position: u64,
}

#[async_trait]
impl Reader for MemoryReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        loop {
            let changed = self.memory.changed.notified();
            let start = self.memory.start_of(&self.place);
            if start > self.position {
                return Err(ReadError::Deleted {
                    topic: self.place.topic.clone(),
                    partition: self.place.partition,
                    position: self.position,
                    start,
                });
            }
            let mut records = self.memory.records(&self.place);
            records.retain(|r| r.offset >= self.position);
            records.truncate(max);
            if let Some(last) = records.last() {
                self.position = last.offset + 1;
                return Ok(Batch {
                    records,
                    next: self.position,
                });
            }
            changed.await;
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

struct MemoryMember {
    memory: Arc<Memory>,
}

#[async_trait]
impl Member for MemoryMember {
    async fn next(&mut self) -> Result<MemberEvent, JournalError> {
        let mut events = self.memory.events.lock().await;
        Ok(events.recv().await.expect("the test tells"))
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(MemoryCommitter(Arc::clone(&self.memory)))
    }

    async fn leave(self: Box<Self>) {}
}

struct MemoryCommitter(Arc<Memory>);

#[async_trait]
impl Committer for MemoryCommitter {
    async fn commit(
        &self,
        positions: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), JournalError> {
        let mut state = self.0.state.lock();
        if let Some(left) = state.commits_refused.checked_sub(1) {
            state.commits_refused = left;
            return Err(JournalError::Failed {
                what: "commit".to_owned(),
                reason: "as the test wants".to_owned(),
            });
        }
        state.committed.extend(positions);
        Ok(())
    }
}

#[async_trait]
impl Journal for Memory {
    async fn appender(&self, _: &str) -> Result<Arc<dyn Appender>, JournalError> {
        self.state.lock().appends_left = None;
        Ok(Arc::new(MemoryAppender(
            self.itself.upgrade().expect("alive"),
        )))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        _: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        Ok(Box::new(MemoryReader {
            memory: self.itself.upgrade().expect("alive"),
            place: place(topic, partition),
            position: from,
        }))
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        Ok(self.start_of(&place(topic, partition)))
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        let records = self.records(&place(topic, partition));
        Ok(records.last().map_or(0, |r| r.offset + 1))
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError> {
        let place = place(topic, partition);
        let mut state = self.state.lock();
        if let Some(log) = state.logs.get_mut(&place) {
            log.retain(|r| r.offset >= before);
        }
        state.starts.insert(place, before);
        Ok(())
    }

    async fn join(&self, _: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        Ok(Box::new(MemoryMember {
            memory: self.itself.upgrade().expect("alive"),
        }))
    }

    async fn committed(
        &self,
        _: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        Ok(partitions.iter().map(|p| self.committed_at(p)).collect())
    }

    async fn create_topics(&self, _: &[TopicSpec]) -> Result<(), JournalError> {
        Ok(())
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        Ok(BTreeMap::new())
    }

    async fn healthy(&self) -> bool {
        true
    }
}
