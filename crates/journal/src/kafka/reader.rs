//! Reading one partition from an offset on.
//!
//! The client library fetches into a queue of the partition's own and goes on trying for ever. What is left to do here is to keep the
//! position: past records, past gaps, and past the end that the library does not say.
//!
//! **Where the end is.** When a partition's last offsets hold no records (compacted away, or the marks of a transaction), the library
//! tells that the end was reached, but not where it is. So, when a partition stays quiet at its end, its end is asked for; when that lies
//! above the position, the partition is read once more from the position, and reaching the end again proves that nothing lies between.

use std::time::Duration;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers, Message};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::{ANSWER_WITHIN, Consumer};
use super::pool::Slot;
use crate::{Batch, ReadBudget, ReadError, Reader, StoredRecord};

/// How long a partition is quiet before its end is asked for: soon at first, because somebody may wait for the end of what there is.
const QUIET_AT_FIRST: Duration = Duration::from_millis(100);
const QUIET_LATER: Duration = Duration::from_secs(2);

/// A look without being woken, in case a wake-up went astray in the library.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);

/// Trouble is waited out this long before the next try.
const PAUSE: Duration = Duration::from_millis(250);

/// Reads one partition.
pub(crate) struct KafkaReader {
    slot: Slot,
    /// For high watermarks.
    query: Arc<Consumer>,
    topic: String,
    number: i32,
    partition: u32,
    wake: Arc<Notify>,
    position: u64,
    bytes_at_once: usize,
    tail: Tail,
    has_been_at_end: bool,
    failed: Option<ReadError>,
}

/// Start and end of a partition, or the library's words.
type Bounds = Result<(i64, i64), KafkaError>;

/// What is known of the end of the partition.
enum Tail {
    /// Nothing: there are records to come.
    Reading,
    /// It was reached. If it stays quiet, its offset is asked for.
    Reached { ask_at: Instant },
    /// Its offset is being asked for.
    Asking(JoinHandle<Bounds>),
    /// Reading starts once more, from the position.
    Restarting {
        end: u64,
        done: JoinHandle<Result<(), KafkaError>>,
    },
    /// Reading was started once more: when it reaches the end without a record, nothing lies below `end`.
    Proving { end: u64 },
    /// It is the position.
    Known,
    /// The position is out of range: where the partition starts and ends is being asked for.
    Locating(JoinHandle<Bounds>),
    /// That could not be told.
    LocateAt(Instant),
}

/// What one look at the queue found.
struct Taken {
    records: Vec<StoredRecord>,
    at_end: bool,
    error: Option<KafkaError>,
}

impl KafkaReader {
    pub(crate) fn new(
        slot: Slot,
        query: Arc<Consumer>,
        (topic, number, partition): (&str, i32, u32),
        position: u64,
        budget: ReadBudget,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            slot,
            query,
            topic: topic.to_owned(),
            number,
            partition,
            wake,
            position,
            bytes_at_once: budget.bytes.max(64 * 1024),
            tail: Tail::Reading,
            has_been_at_end: false,
            failed: None,
        }
    }

    /// Takes what is there, without waiting.
    fn take(&mut self, max: usize) -> Taken {
        let mut taken = Taken {
            records: Vec::new(),
            at_end: false,
            error: None,
        };
        let mut bytes = 0;
        while taken.records.len() < max && bytes < self.bytes_at_once {
            match self.slot.queue().poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    taken.at_end = false;
                    let Ok(offset) = u64::try_from(message.offset()) else {
                        continue;
                    };
                    // After reading was started once more, records may come twice.
                    if offset >= self.position {
                        bytes += message.key_len() + message.payload_len();
                        self.position = offset + 1;
                        taken.records.push(stored(&message, offset));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => taken.at_end = true,
                Some(Err(error)) => {
                    taken.error = Some(error);
                    break;
                }
            }
        }
        taken
    }

    /// Notes that the end was reached.
    fn reached(&mut self) {
        if let Tail::Proving { end } = self.tail {
            self.position = self.position.max(end);
            self.tail = Tail::Known;
        } else if !matches!(self.tail, Tail::Restarting { .. } | Tail::Locating(_)) {
            let quiet = if self.has_been_at_end {
                QUIET_LATER
            } else {
                QUIET_AT_FIRST
            };
            self.tail = Tail::Reached {
                ask_at: Instant::now() + quiet,
            };
        }
    }

    fn ask(&self, consumer: Arc<Consumer>) -> JoinHandle<Bounds> {
        let (topic, number) = (self.topic.clone(), self.number);
        tokio::task::spawn_blocking(move || {
            consumer.fetch_watermarks(&topic, number, ANSWER_WITHIN)
        })
    }

    fn fail(&mut self, reason: String) -> ReadError {
        let error = ReadError::Failed {
            topic: self.topic.clone(),
            partition: self.partition,
            reason,
        };
        self.failed = Some(error.clone());
        error
    }

    /// What an error in the queue means.
    fn trouble(&mut self, error: &KafkaError) -> Result<(), ReadError> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset) => {
                self.tail = Tail::Locating(self.ask(Arc::clone(&self.query)));
                Ok(())
            }
            Some(Code::LogTruncation) => {
                Err(self.fail("records that had been read were cut off by the broker".to_owned()))
            }
            Some(
                Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
                | Code::InvalidTopic
                // Records that cannot be read: going on would skip them silently.
                | Code::BadMessage
                | Code::BadCompression
                | Code::InvalidMessage
                | Code::InvalidMessageSize
                | Code::MessageSizeTooLarge
                | Code::NotImplemented
                | Code::Fatal,
            ) => Err(self.fail(error.to_string())),
            // The library goes on trying.
            _ => {
                tracing::warn!(topic = self.topic, partition = self.partition, %error, "reading is in trouble");
                Ok(())
            }
        }
    }

    /// The offset of the end is known.
    fn answered(&mut self, bounds: Bounds) {
        self.has_been_at_end = true;
        self.tail = match bounds {
            Ok((_, end)) => match u64::try_from(end) {
                Ok(end) if end > self.position => Tail::Restarting {
                    end,
                    done: tokio::task::spawn_blocking(self.slot.restart(self.position)),
                },
                _ => Tail::Known,
            },
            Err(_) => Tail::Reached {
                ask_at: Instant::now() + QUIET_LATER,
            },
        };
    }

    /// Where the partition starts and ends is known, and the position was refused.
    fn located(&mut self, bounds: Bounds) -> Result<(), ReadError> {
        let position = self.position;
        let Ok((start, end)) = bounds else {
            self.tail = Tail::LocateAt(Instant::now() + PAUSE);
            return Ok(());
        };
        let start = u64::try_from(start).unwrap_or(0);
        let end = u64::try_from(end).unwrap_or(0);
        let (topic, partition) = (self.topic.clone(), self.partition);
        let error = if position < start {
            ReadError::Deleted {
                topic,
                partition,
                position,
                start,
            }
        } else if position > end {
            ReadError::BeyondEnd {
                topic,
                partition,
                position,
                end,
            }
        } else {
            // It was a moment's confusion, for instance of a new leader.
            self.tail = Tail::Restarting {
                end: position,
                done: tokio::task::spawn_blocking(self.slot.restart(position)),
            };
            return Ok(());
        };
        self.failed = Some(error.clone());
        Err(error)
    }

    /// Waits until something happened. Cancel safe: what is awaited stays in `self.tail`.
    async fn wait(&mut self) -> Result<(), ReadError> {
        let wake = Arc::clone(&self.wake);
        let woken = wake.notified();
        let anyway = Instant::now() + LOOK_ANYWAY;
        match &mut self.tail {
            Tail::Reading | Tail::Proving { .. } | Tail::Known => {
                drop(tokio::time::timeout_at(anyway, woken).await);
            }
            Tail::Reached { ask_at } => {
                let at = *ask_at;
                if tokio::time::timeout_at(at, woken).await.is_err() {
                    // The reader's own end: that of what is committed.
                    self.tail = Tail::Asking(self.ask(self.slot.consumer()));
                }
            }
            Tail::Asking(answer) => tokio::select! {
                () = woken => {}
                bounds = answer => match bounds {
                    Ok(bounds) => self.answered(bounds),
                    Err(e) => return Err(self.fail(e.to_string())),
                },
            },
            Tail::Restarting { end, done } => {
                let end = *end;
                match done.await {
                    Ok(Ok(())) => self.tail = Tail::Proving { end },
                    Ok(Err(e)) => return Err(self.fail(e.to_string())),
                    Err(e) => return Err(self.fail(e.to_string())),
                }
            }
            Tail::Locating(answer) => match answer.await {
                Ok(bounds) => return self.located(bounds),
                Err(e) => return Err(self.fail(e.to_string())),
            },
            Tail::LocateAt(at) => {
                tokio::time::sleep_until(*at).await;
                self.tail = Tail::Locating(self.ask(Arc::clone(&self.query)));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        // Before anything is taken: a partition with a long backlog must let others have their turn.
        tokio::task::consume_budget().await;
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let before = self.position;
            let taken = self.take(max.max(1));
            let moved = !taken.records.is_empty();
            if moved
                && matches!(
                    self.tail,
                    Tail::Reached { .. } | Tail::Asking(_) | Tail::Known
                )
            {
                self.tail = Tail::Reading;
            }
            if taken.at_end {
                self.reached();
            }
            if let Some(error) = &taken.error
                && let Err(error) = self.trouble(error)
                && !moved
            {
                return Err(error);
            }
            if moved || self.position > before {
                return Ok(Batch {
                    records: taken.records,
                    next: self.position,
                });
            }
            if !taken.at_end && taken.error.is_none() {
                self.wait().await?;
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// A copy of a record: one allocation for all its bytes.
fn stored(message: &BorrowedMessage<'_>, offset: u64) -> StoredRecord {
    let headers = message.headers().map(named).unwrap_or_default();
    let (key, value) = (message.key(), message.payload());
    let parts = [key.unwrap_or_default(), value.unwrap_or_default()];
    let parts = parts.into_iter().chain(headers.iter().map(|h| h.1));
    let mut rest = Bytes::from(parts.collect::<Vec<_>>().concat());
    StoredRecord {
        offset,
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: key.map(|k| rest.split_to(k.len())),
        value: value.map(|v| rest.split_to(v.len())),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), rest.split_to(value.len())))
            .collect(),
    }
}

/// The headers in order. A name that is no UTF-8 becomes the replacement character: the wrapper panics on it, and anybody may write one.
fn named(headers: &BorrowedHeaders) -> Vec<(&str, &[u8])> {
    let header = |index| {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| headers.get(index)));
        found.map_or(("\u{fffd}", &[][..]), |h| {
            (h.key, h.value.unwrap_or_default())
        })
    };
    (0..headers.count()).map(header).collect()
}
