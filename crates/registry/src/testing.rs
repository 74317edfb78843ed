//! A journal in memory with one partition, whose weather a test decides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hookline_journal::*;
use hookline_model::resource::{Resource, Webhook, parse_documents};
use hookline_model::time::{Clock, Millis};
use parking_lot::Mutex;
use tokio::sync::watch;

/// What happens to an append. All but `Fine` end the appender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fine,
    /// Stored, but the acknowledgement gets lost.
    AckLost,
    /// Not stored.
    Lost,
    /// Not stored until [`MemoryJournal::land`].
    Late,
}

#[derive(Default)]
struct State {
    /// By offset; `None` is a gap.
    records: Vec<Option<StoredRecord>>,
    late: Vec<Record>,
    weather: VecDeque<Weather>,
    appended: u64,
    /// Readers see nothing from here on.
    hidden_from: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct MemoryJournal {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
    /// Readers made through this handle see nothing.
    asleep: Arc<AtomicBool>,
}

impl MemoryJournal {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(())),
            asleep: Arc::default(),
        }
    }

    /// The same journal for another process, which can be put to sleep by itself.
    pub(crate) fn elsewhere(&self) -> Self {
        Self {
            asleep: Arc::default(),
            ..self.clone()
        }
    }

    pub(crate) fn sleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// Compaction of one record that is not the last of its key.
    pub(crate) fn compact_away(&self, offset: u64) {
        let mut state = self.state.lock();
        let at = usize::try_from(offset).expect("small");
        let key = state.records[at].take().expect("there").key;
        let mut later = state.records[at..].iter().flatten();
        assert!(later.any(|r| r.key == key), "the last of its key");
    }

    /// Offsets of the records that are there, with whether each is a tombstone.
    pub(crate) fn offsets(&self) -> Vec<(u64, bool)> {
        let state = self.state.lock();
        let there = state.records.iter().flatten();
        there.map(|r| (r.offset, r.value.is_none())).collect()
    }

    pub(crate) fn forecast(&self, weather: impl IntoIterator<Item = Weather>) {
        self.state.lock().weather.extend(weather);
    }

    /// What was late arrives now.
    pub(crate) fn land(&self) {
        let mut state = self.state.lock();
        for record in std::mem::take(&mut state.late) {
            store(&mut state, record);
        }
        drop(state);
        self.changed.send_replace(());
    }

    pub(crate) fn hide(&self, hide: bool) {
        let mut state = self.state.lock();
        state.hidden_from = hide.then_some(state.records.len() as u64);
        drop(state);
        self.changed.send_replace(());
    }

    pub(crate) fn appended(&self) -> u64 {
        self.state.lock().appended
    }

    pub(crate) fn text(&self) -> String {
        let state = self.state.lock();
        let values = state
            .records
            .iter()
            .flatten()
            .filter_map(|r| r.value.clone());
        values
            .map(|v| String::from_utf8_lossy(&v).into_owned())
            .collect()
    }

    /// Drops records that are not the last of their key, each with probability one half; then tombstones that are all that is left.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock();
        let mut last = BTreeMap::new();
        for record in state.records.iter().flatten() {
            last.insert(record.key.clone(), record.offset);
        }
        for slot in &mut state.records {
            if slot.as_ref().is_some_and(|r| last[&r.key] != r.offset) && fastrand::bool() {
                *slot = None;
            }
        }
        let mut count = BTreeMap::new();
        for record in state.records.iter().flatten() {
            *count.entry(record.key.clone()).or_insert(0) += 1;
        }
        for slot in &mut state.records {
            if slot
                .as_ref()
                .is_some_and(|r| r.value.is_none() && count[&r.key] == 1)
            {
                *slot = None;
            }
        }
    }
}

fn store(state: &mut State, record: Record) -> u64 {
    let offset = state.records.len() as u64;
    state.appended += 1;
    state.records.push(Some(StoredRecord {
        offset,
        timestamp_ms: 0,
        key: record.key,
        value: record.value,
        headers: record.headers,
    }));
    // Offsets have gaps.
    if offset.is_multiple_of(3) {
        state.records.push(None);
    }
    offset
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn appender(&self, _: &str) -> Result<Arc<dyn Appender>, JournalError> {
        Ok(Arc::new(MemoryAppender {
            journal: self.clone(),
            failed: Mutex::new(false),
        }))
    }

    async fn reader(
        &self,
        _: &str,
        _: u32,
        from: u64,
        _: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        Ok(Box::new(MemoryReader {
            journal: self.clone(),
            changed: self.changed.subscribe(),
            position: from,
        }))
    }

    async fn start(&self, _: &str, _: u32) -> Result<u64, JournalError> {
        Ok(0)
    }

    async fn end(&self, _: &str, _: u32) -> Result<u64, JournalError> {
        let end = self.state.lock().records.len() as u64;
        // Others act between the answer and what is done with it.
        tokio::task::yield_now().await;
        Ok(end)
    }

    async fn delete_records(&self, _: &str, _: u32, _: u64) -> Result<(), JournalError> {
        unimplemented!("nothing of the registry is deleted")
    }

    async fn join(&self, _: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        unimplemented!("the registry has no group")
    }

    async fn committed(
        &self,
        _: &str,
        _: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        unimplemented!("the registry has no group")
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

struct MemoryAppender {
    journal: MemoryJournal,
    failed: Mutex<bool>,
}

fn failed() -> AppendError {
    AppendError::Failed {
        topic: "registry".into(),
        reason: "bad weather".into(),
    }
}

#[async_trait]
impl Appender for MemoryAppender {
    fn append(
        &self,
        _: &str,
        _: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let mut broken = self.failed.lock();
        if *broken {
            return Err(AppendRefused::Failed(failed()));
        }
        let mut state = self.journal.state.lock();
        let weather = state.weather.pop_front().unwrap_or(Weather::Fine);
        *broken = weather != Weather::Fine;
        let result = match weather {
            Weather::Fine => Ok(Appended {
                offset: Some(store(&mut state, record)),
                timestamp_ms: Some(0),
            }),
            Weather::AckLost => {
                store(&mut state, record);
                Err(failed())
            }
            Weather::Lost => Err(failed()),
            Weather::Late => {
                state.late.push(record);
                Err(failed())
            }
        };
        drop(state);
        self.journal.changed.send_replace(());
        done(result);
        Ok(())
    }

    async fn room(&self) {}
}

struct MemoryReader {
    journal: MemoryJournal,
    changed: watch::Receiver<()>,
    position: u64,
}

#[async_trait]
impl Reader for MemoryReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        loop {
            self.changed.mark_unchanged();
            {
                let state = self.journal.state.lock();
                let end = state.hidden_from.unwrap_or(state.records.len() as u64);
                let asleep = self.journal.asleep.load(Ordering::Relaxed);
                if self.position < end && !asleep {
                    let from = usize::try_from(self.position).expect("small");
                    let to = usize::try_from(end).expect("small").min(from + max);
                    self.position = to as u64;
                    return Ok(Batch {
                        records: state.records[from..to].iter().flatten().cloned().collect(),
                        next: self.position,
                    });
                }
            }
            if self.changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// A clock that goes forward a millisecond each time one looks, and by whole suspensions.
#[derive(Default)]
pub(crate) struct TestClock {
    looks: AtomicI64,
    suspended_ms: AtomicU64,
}

impl TestClock {
    /// The machine sleeps for so long. Timers do not notice.
    pub(crate) fn suspend(&self, span: Duration) {
        let ms = u64::try_from(span.as_millis()).expect("short");
        self.suspended_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000 + self.looks.fetch_add(1, Ordering::Relaxed))
    }

    fn boot(&self) -> Duration {
        Duration::from_millis(self.suspended_ms.load(Ordering::Relaxed))
    }
}

pub(crate) fn webhook(name: &str, events: &[&str]) -> Webhook {
    let document = serde_json::json!({
        "kind": "Webhook", "project": "shop", "name": name, "url": "https://example.com/hook", "events": events,
    });
    match parse_documents(&document.to_string()).expect("valid").pop() {
        Some(Resource::Webhook(spec)) => spec.settings,
        other => unreachable!("{other:?}"),
    }
}
