//! The writer: one idempotent producer of its own for each appender.
//!
//! - `acks=all`, no timeout, no gaps: after a record failed for good the client library refuses all later ones, and so do we.
//! - After a partition was missing this writer stores nothing more in it, should it come back; others go on.
//! - Callbacks run on the producer's own thread, in the order of acknowledgement.
//! - What is in flight is bounded by us, not by the library: only so can we say when there is room again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::client::{failed, missing};
use super::context::LogContext;
use super::settings::{AppendBounds, ClientSettings};
use crate::{AppendError, AppendRefused, Appended, Appender, JournalError, OnAppended, Record};

/// The largest record each topic takes, as far as somebody asked.
#[derive(Default)]
pub(crate) struct RecordLimits {
    known: RwLock<HashMap<String, usize>>,
    /// Topics whose broker refused a record as too large although we had let it pass.
    doubted: Mutex<BTreeSet<String>>,
}

impl RecordLimits {
    pub(crate) fn learn(&self, limits: impl IntoIterator<Item = (String, usize)>) {
        self.known.write().extend(limits);
    }

    fn doubt(&self, topic: &str) {
        self.doubted.lock().insert(topic.to_owned());
    }

    /// The topics to be asked about before the next appender is made: else it would fail at the same record again.
    pub(crate) fn take_doubted(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.doubted.lock())
    }
}

/// What the broker counts beside key, value and headers: the frame of a batch, and lengths.
pub(crate) const FRAME_BYTES: usize = 128;

const TOO_LARGE: &str =
    "the broker found a batch of records larger than the topic's max.message.bytes";

/// Writes with a producer of its own.
pub(crate) struct KafkaAppender {
    /// Taken out when this is dropped.
    producer: Option<ThreadedProducer<Context>>,
    state: Arc<State>,
    limits: Arc<RecordLimits>,
    record_bytes_max: usize,
}

/// What the appender and the callbacks share.
struct State {
    bounds: AppendBounds,
    records: AtomicUsize,
    bytes: AtomicUsize,
    freed: Notify,
    /// The library had no room although we had.
    library_full: AtomicBool,
    /// Why nothing more is stored.
    failed: Mutex<Option<String>>,
    has_failed: AtomicBool,
    /// Partitions that did not exist when a record on its way to them was given up.
    lost: Mutex<HashSet<(String, i32)>>,
    has_lost: AtomicBool,
}

/// One record on its way.
struct Pending {
    done: OnAppended,
    bytes: usize,
}

struct Context {
    log: LogContext,
    state: Arc<State>,
    limits: Arc<RecordLimits>,
}

impl State {
    fn new(bounds: AppendBounds) -> Self {
        Self {
            bounds,
            records: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            freed: Notify::new(),
            library_full: AtomicBool::new(false),
            failed: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            lost: Mutex::new(HashSet::new()),
            has_lost: AtomicBool::new(false),
        }
    }

    /// Nothing more goes to a partition that was missing: it may come back, and what follows must not be stored without what went before.
    fn lose(&self, topic: &str, partition: i32) {
        self.lost.lock().insert((topic.to_owned(), partition));
        self.has_lost.store(true, Ordering::Release);
    }

    fn is_lost(&self, topic: &str, partition: i32) -> bool {
        self.has_lost.load(Ordering::Acquire)
            && self.lost.lock().contains(&(topic.to_owned(), partition))
    }

    fn has_room(&self, bytes: usize) -> bool {
        let records = self.records.load(Ordering::Acquire);
        records == 0
            || (records < self.bounds.records
                && self.bytes.load(Ordering::Acquire).saturating_add(bytes) <= self.bounds.bytes)
    }

    fn take(&self, bytes: usize) {
        self.records.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give_back(&self, bytes: usize) {
        self.records.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    fn fail(&self, reason: &str) {
        self.failed.lock().get_or_insert_with(|| reason.to_owned());
        self.has_failed.store(true, Ordering::Release);
        self.freed.notify_waiters();
    }

    fn failure(&self, topic: &str) -> Option<AppendError> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        Some(AppendError::Failed {
            topic: topic.to_owned(),
            reason: self.failed.lock().clone().unwrap_or_default(),
        })
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.log.line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.trouble(&error, reason);
        use RDKafkaErrorCode::{Fatal, GaplessGuarantee};
        if matches!(error.rdkafka_error_code(), Some(Fatal | GaplessGuarantee)) {
            self.state.fail(reason);
        }
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Context {
    // The mutex is there for the sake of `Sync` only; it is never contended.
    type DeliveryOpaque = Box<Mutex<Pending>>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Self::DeliveryOpaque) {
        let Pending { done, bytes } = pending.into_inner();
        let fate = match result {
            Ok(stored) => Ok(Appended {
                offset: u64::try_from(stored.offset()).ok(),
                timestamp_ms: match stored.timestamp() {
                    // Without an offset the broker answered a repeated request, and the time is not that of the append either.
                    Timestamp::LogAppendTime(ms) if ms >= 0 && stored.offset() >= 0 => Some(ms),
                    _ => None,
                },
            }),
            Err((error, record)) => {
                let topic = record.topic();
                let mut error = append_error(error, topic, record.partition(), bytes);
                if let AppendError::TooLarge { .. } = error {
                    // The broker refuses whole batches: this record may be a small one that was stored together with a large one.
                    self.limits.doubt(topic);
                    error = AppendError::Failed {
                        topic: topic.to_owned(),
                        reason: TOO_LARGE.to_owned(),
                    };
                }
                match &error {
                    AppendError::Failed { reason, .. } => self.state.fail(reason),
                    AppendError::NoPartition { .. } => self.state.lose(topic, record.partition()),
                    _ => {}
                }
                Err(error)
            }
        };
        self.state.give_back(bytes);
        // A panic here would end the thread on which all acknowledgements arrive.
        if std::panic::catch_unwind(AssertUnwindSafe(|| done(fate))).is_err() {
            tracing::error!("a callback of an append panicked");
        }
    }
}

fn append_error(error: &KafkaError, topic: &str, partition: i32, bytes: usize) -> AppendError {
    use RDKafkaErrorCode as Code;
    let topic = topic.to_owned();
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
            AppendError::TooLarge { topic, bytes }
        }
        Some(Code::PurgeQueue | Code::PurgeInflight) => AppendError::Closed,
        _ if missing(error) => AppendError::NoPartition {
            topic,
            partition: u32::try_from(partition).unwrap_or(u32::MAX),
        },
        _ => AppendError::Failed {
            topic,
            reason: error.to_string(),
        },
    }
}

fn size(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
    record.key.as_ref().map_or(0, bytes::Bytes::len)
        + record.value.as_ref().map_or(0, bytes::Bytes::len)
        + headers
}

impl KafkaAppender {
    /// Blocks: makes a client.
    pub(crate) fn new(
        settings: &ClientSettings,
        id: &str,
        limits: Arc<RecordLimits>,
    ) -> Result<Self, JournalError> {
        let state = Arc::new(State::new(settings.append_bounds()));
        let context = Context {
            log: LogContext::new(id),
            state: Arc::clone(&state),
            limits: Arc::clone(&limits),
        };
        let producer = settings
            .producer(id)
            .create_with_context(context)
            .map_err(|e| failed("kafka producer", &e))?;
        Ok(Self {
            producer: Some(producer),
            state,
            limits,
            record_bytes_max: settings.record_bytes_max(),
        })
    }

    fn check(
        &self,
        topic: &str,
        partition: u32,
        record: &Record,
    ) -> Result<(i32, usize), AppendError> {
        if let Some(error) = self.state.failure(topic) {
            return Err(error);
        }
        let number = i32::try_from(partition)
            .ok()
            .filter(|_| !topic.is_empty() && !topic.contains('\0'))
            .filter(|number| !self.state.is_lost(topic, *number))
            .ok_or_else(|| AppendError::NoPartition {
                topic: topic.to_owned(),
                partition,
            })?;
        let bytes = size(record);
        // Refused here, because a record that the broker finds too large fails the whole appender.
        let framed = bytes + FRAME_BYTES + record.headers.len() * 8;
        let limit = self.limits.known.read().get(topic).copied();
        if framed > limit.unwrap_or(usize::MAX).min(self.record_bytes_max) {
            return Err(AppendError::TooLarge {
                topic: topic.to_owned(),
                bytes,
            });
        }
        Ok((number, bytes))
    }

    fn send(
        &self,
        topic: &str,
        partition: i32,
        record: &Record,
        pending: Pending,
    ) -> Result<(), (KafkaError, Pending)> {
        let mut send =
            BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(Mutex::new(pending)))
                .partition(partition);
        send.key = record.key.as_deref();
        send.payload = record.value.as_deref();
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            send.headers = Some(record.headers.iter().fold(headers, |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: Some(&value[..]),
                })
            }));
        }
        self.producer
            .as_ref()
            .expect("taken out only when dropped")
            .send(send)
            .map_err(|(error, back)| (error, back.delivery_opaque.into_inner()))
    }
}

#[async_trait]
impl Appender for KafkaAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let (number, bytes) = self
            .check(topic, partition, &record)
            .map_err(AppendRefused::Failed)?;
        if !self.state.has_room(bytes) {
            return Err(AppendRefused::Full {
                record: Box::new(record),
                done,
            });
        }
        self.state.take(bytes);
        let Err((error, pending)) = self.send(topic, number, &record, Pending { done, bytes })
        else {
            return Ok(());
        };
        self.state.give_back(bytes);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            self.state.library_full.store(true, Ordering::Release);
            return Err(AppendRefused::Full {
                record: Box::new(record),
                done: pending.done,
            });
        }
        let mut error = append_error(&error, topic, number, bytes);
        if let AppendError::Failed { reason, .. } = &mut error {
            // What happened first says more than that the producer has failed.
            let producer = self.producer.as_ref();
            if let Some((_, first)) = producer.and_then(|p| p.client().fatal_error()) {
                *reason = first;
            }
            self.state.fail(reason);
        }
        Err(AppendRefused::Failed(error))
    }

    async fn room(&self) {
        if self.state.library_full.swap(false, Ordering::AcqRel) {
            // It frees a record a moment after its callback ran, and does not say so.
            tokio::time::sleep(Duration::from_millis(5)).await;
            return;
        }
        loop {
            let mut freed = std::pin::pin!(self.state.freed.notified());
            // From here on a callback is noticed, also one that ran before the await.
            freed.as_mut().enable();
            if self.state.has_failed.load(Ordering::Acquire) || self.state.has_room(1) {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for KafkaAppender {
    fn drop(&mut self) {
        let producer = self.producer.take();
        // Closing waits for what is in flight to be given up. Without a thread it has to happen here.
        drop(super::client::thread("kafka-close", move || drop(producer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(records: usize, bytes: usize) -> State {
        State::new(AppendBounds { records, bytes })
    }

    #[test]
    fn room_is_bounded_in_records_and_bytes_but_one_record_always_fits() {
        let state = state(2, 10);
        assert!(state.has_room(100));
        state.take(4);
        assert!(state.has_room(6) && !state.has_room(7));
        state.take(4);
        assert!(!state.has_room(1));
        state.give_back(4);
        assert!(state.has_room(1));
    }

    #[test]
    fn a_partition_that_was_missing_stays_so() {
        let state = state(1, 1);
        state.lose("t", 1);
        assert!(state.is_lost("t", 1) && !state.is_lost("t", 0) && !state.is_lost("u", 1));
    }

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        let state = state(1, 1);
        assert!(state.failure("t").is_none());
        state.fail("first");
        state.fail("second");
        let told = state.failure("t").expect("failed").to_string();
        assert_eq!(told, "append to t failed: first");
    }

    #[test]
    fn errors_that_leave_no_gap_do_not_fail_the_appender() {
        let of = |code| append_error(&KafkaError::MessageProduction(code), "t", 3, 7);
        assert!(matches!(
            of(RDKafkaErrorCode::MessageSizeTooLarge),
            AppendError::TooLarge { bytes: 7, .. }
        ));
        assert!(matches!(
            of(RDKafkaErrorCode::UnknownPartition),
            AppendError::NoPartition { partition: 3, .. }
        ));
        assert!(matches!(
            of(RDKafkaErrorCode::PurgeInflight),
            AppendError::Closed
        ));
        assert!(matches!(
            of(RDKafkaErrorCode::GaplessGuarantee),
            AppendError::Failed { .. }
        ));
    }
}
