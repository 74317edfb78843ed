//! Consumers that a thread of their own keeps served, and small helpers around the client library.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;

use super::context::LogContext;
use crate::JournalError;

/// How long a question to the brokers may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often the thread of a client looks whether it should end. Events wake it at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) type Consumer = BaseConsumer<LogContext>;

/// A consumer whose events are served by a thread. It is closed on that thread, because closing may block for long.
pub(crate) struct PolledConsumer {
    consumer: Arc<Consumer>,
    stop: Arc<AtomicBool>,
}

impl PolledConsumer {
    pub(crate) fn start(config: &ClientConfig, name: &str) -> Result<Self, JournalError> {
        let consumer: Consumer = config
            .create_with_context(LogContext::new(name))
            .map_err(|e| failed("kafka client", &e))?;
        let consumer = Arc::new(consumer);
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopped) = (Arc::clone(&consumer), Arc::clone(&stop));
        thread(name, move || {
            // The last one to let go closes the client: that must be this thread.
            while !(stopped.load(Ordering::Acquire) && Arc::strong_count(&served) == 1) {
                match served.poll(LOOK_EVERY) {
                    None => {}
                    Some(Ok(_)) => {
                        tracing::warn!("kafka reader got a record that nobody asked for")
                    }
                    Some(Err(error)) => tracing::debug!(%error, "kafka client reported an error"),
                }
            }
        })?;
        Ok(Self { consumer, stop })
    }

    pub(crate) fn get(&self) -> &Arc<Consumer> {
        &self.consumer
    }
}

impl Drop for PolledConsumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Starts a thread. The client library blocks, so it gets threads of its own rather than the runtime's.
pub(crate) fn thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, JournalError> {
    std::thread::Builder::new()
        .name(name.chars().take(15).collect())
        .spawn(body)
        .map_err(|e| JournalError::Failed {
            what: "starting a thread for the kafka client".to_owned(),
            reason: e.to_string(),
        })
}

/// Runs a call that blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JournalError> {
    tokio::task::spawn_blocking(body)
        .await
        .map_err(|e| JournalError::Failed {
            what: what.to_owned(),
            reason: e.to_string(),
        })
}

/// `error` as the journal says it.
pub(crate) fn failed(what: &str, error: &KafkaError) -> JournalError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        _ if timed_out(error) => JournalError::Timeout {
            what: what.to_owned(),
            waited: ANSWER_WITHIN,
        },
        // After trying for as long.
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown) => JournalError::Failed {
            what: what.to_owned(),
            reason: "no broker can be reached".to_owned(),
        },
        _ => JournalError::Failed {
            what: what.to_owned(),
            // The wrapper's own words name the wrong call for some of them.
            reason: error
                .rdkafka_error_code()
                .map_or_else(|| error.to_string(), |code| code.to_string()),
        },
    }
}

/// Whether nobody answered in time.
pub(crate) fn timed_out(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue)
    )
}

/// Whether asking again soon may help.
pub(crate) fn passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::ReplicaNotAvailable
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::NetworkException
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::WaitingForCoordinator
                | Code::WaitCache
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::OffsetNotAvailable
                | Code::KafkaStorageError
                | Code::PreferredLeaderNotAvailable
        )
    )
}

/// Whether there is no such topic or partition.
pub(crate) fn missing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
                | Code::InvalidTopic
        )
    )
}

/// The partition as the client library counts, or that there is none such.
pub(crate) fn checked_partition(topic: &str, partition: u32) -> Result<i32, JournalError> {
    match i32::try_from(partition) {
        // A NUL byte would end the name within the library.
        Ok(p) if !topic.is_empty() && !topic.contains('\0') => Ok(p),
        _ => Err(no_partition(topic, partition)),
    }
}

pub(crate) fn no_partition(topic: &str, partition: u32) -> JournalError {
    JournalError::NoPartition {
        topic: topic.to_owned(),
        partition,
    }
}

/// An offset as the client library counts. What is larger than any offset stays so.
pub(crate) fn raw_offset(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// A list of one partition.
pub(crate) fn one(topic: &str, partition: i32, offset: Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, offset)
        .expect("the offset is representable and the partition was just added");
    list
}
