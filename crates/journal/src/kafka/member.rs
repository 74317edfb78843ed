//! Membership of a group: the client library joins, a thread serves it, and its rebalances become events.
//!
//! The member reads nothing: partitions are paused in the same breath in which they are assigned. Readers are separate clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use async_trait::async_trait;
use hookline_model::limits;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::client::{failed, thread};
use super::commit::{self, KafkaCommitter, Membership};
use super::context::LogContext;
use super::settings::ClientSettings;
use crate::{Committer, GroupSpec, JournalError, Member, MemberEvent, RevokeGuard, TopicPartition};

/// How long the group waits for a revoked partition to be drained: the longest attempt, and what comes after it.
const DRAIN_MAX: Duration = limits::DEADLINE_MAX.saturating_add(Duration::from_secs(5));

/// How long leaving may take before it goes on without us waiting for it.
const LEAVE_MAX: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(100);

/// How often a wait for a drained partition looks whether the member leaves.
const GUARD_LOOK: Duration = Duration::from_millis(50);

type Told = Result<MemberEvent, JournalError>;

/// A member of a consumer group.
pub(crate) struct KafkaMember {
    events: mpsc::Receiver<Told>,
    committer: Arc<KafkaCommitter>,
    membership: Arc<Membership>,
    /// Resolves when the client has left and was closed.
    left: Option<oneshot::Receiver<()>>,
    group: String,
}

pub(crate) struct MemberContext {
    log: LogContext,
    events: mpsc::Sender<Told>,
    membership: Arc<Membership>,
}

impl KafkaMember {
    /// Blocks: makes a client and subscribes.
    pub(crate) fn join(
        settings: &ClientSettings,
        id: &str,
        spec: &GroupSpec,
    ) -> Result<Self, JournalError> {
        let (tell, events) = mpsc::channel(16);
        let membership = Arc::new(Membership::default());
        let context = MemberContext {
            log: LogContext::new(id),
            events: tell.clone(),
            membership: Arc::clone(&membership),
        };
        let what = || format!("joining group {}", spec.group);
        let consumer: BaseConsumer<MemberContext> = settings
            .member(id, spec)
            .create_with_context(context)
            .map_err(|e| failed(&what(), &e))?;
        let topics: Vec<&str> = spec.topics.iter().map(String::as_str).collect();
        consumer
            .subscribe(&topics)
            .map_err(|e| failed(&what(), &e))?;
        let consumer = Arc::new(consumer);
        let (requests, asked) = commit::channel();
        let group = spec.group.clone();
        let committing = {
            let (consumer, membership) = (Arc::clone(&consumer), Arc::clone(&membership));
            let group = group.clone();
            thread("kafka-commit", move || {
                commit::run(&consumer, &membership, &group, asked);
            })?
        };
        let (gone, left) = oneshot::channel();
        let serving = Arc::clone(&membership);
        let name = group.clone();
        thread("kafka-member", move || {
            serve(&consumer, &serving, &name, &tell);
            leave(&consumer, &serving, &committing);
            // Closing may take as long as the coordinator is silent: nobody else waits on this thread.
            drop(consumer);
            gone.send(()).ok();
        })?;
        Ok(Self {
            events,
            committer: Arc::new(KafkaCommitter {
                group: group.clone(),
                requests,
            }),
            membership,
            left: Some(left),
            group,
        })
    }

    fn stop(&mut self) {
        self.membership.stopped.store(true, Ordering::Release);
        // Nobody takes events any more: a guard that lies there unread is let go.
        self.events.close();
        while self.events.try_recv().is_ok() {}
        // Wakes the committing thread. When there is no room it is awake.
        drop(self.committer.requests.try_send(None));
    }
}

/// Serves the client until the member leaves or cannot go on.
fn serve(
    consumer: &BaseConsumer<MemberContext>,
    membership: &Membership,
    group: &str,
    tell: &mpsc::Sender<Told>,
) {
    while !membership.stopped() {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(record)) => {
                tracing::warn!(
                    group,
                    topic = record.topic(),
                    "a group member was given a record; its partition is paused again"
                );
                let mut list = TopicPartitionList::with_capacity(1);
                list.add_partition(record.topic(), record.partition());
                pause(consumer, &list);
            }
            Some(Err(error)) if is_final(&error) => {
                let what = format!("membership of group {group}");
                membership.left();
                drop(tell.blocking_send(Err(failed(&what, &error))));
                membership.stopped.store(true, Ordering::Release);
            }
            Some(Err(error)) => tracing::debug!(group, %error, "group member is in trouble"),
        }
    }
}

/// Leaves the group, and goes on serving the client until nobody commits any more.
fn leave(
    consumer: &BaseConsumer<MemberContext>,
    membership: &Membership,
    committing: &std::thread::JoinHandle<()>,
) {
    membership.left();
    consumer.unsubscribe();
    let patience = Instant::now() + LEAVE_MAX;
    while !committing.is_finished() && Instant::now() < patience {
        drop(consumer.poll(POLL));
    }
}

/// Whether the library will not get over it by itself.
fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(
                Code::Fatal
                    | Code::InconsistentGroupProtocol
                    | Code::InvalidSessionTimeout
                    | Code::InvalidGroupId
                    | Code::GroupAuthorizationFailed
                    | Code::GroupMaxSizeReached
                    | Code::FencedInstanceId
            )
        )
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .filter_map(|element| {
            Some(TopicPartition {
                topic: element.topic().to_owned(),
                partition: u32::try_from(element.partition()).ok()?,
            })
        })
        .collect()
}

fn pause(consumer: &BaseConsumer<MemberContext>, list: &TopicPartitionList) {
    if let Err(error) = consumer.pause(list) {
        tracing::warn!(%error, "a group member could not pause its partitions");
    }
}

impl MemberContext {
    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let news = partitions(list);
        // From an offset of our own, so that the committed ones are not fetched: nothing is read here anyway.
        let mut at_start = TopicPartitionList::with_capacity(list.count());
        for element in list.elements() {
            at_start
                .add_partition_offset(element.topic(), element.partition(), Offset::Offset(0))
                .expect("the offset is representable and the partition was just added");
        }
        if let Err(error) = consumer.incremental_assign(&at_start) {
            // The library joins anew by itself after whatever made it refuse.
            tracing::warn!(%error, "an assignment of the group was not taken");
            return;
        }
        self.membership.joined();
        if !news.is_empty() {
            pause(consumer, &at_start);
            self.tell(MemberEvent::Assigned(news));
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let gone = partitions(list);
        if consumer.assignment_lost() {
            self.membership.left();
            hookline_model::fail_point!("member-lost");
            self.lost(gone);
        } else if !gone.is_empty() && !self.membership.stopped() && !self.drained(&gone) {
            tracing::warn!("a revoked partition was not drained in time and is given up");
            self.lost(gone);
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            tracing::warn!(%error, "a revocation of the group was not taken");
        }
    }

    /// Waits until the partitions are drained; the library's own thread keeps the session alive meanwhile.
    fn drained(&self, gone: &[TopicPartition]) -> bool {
        let (guard, released) = RevokeGuard::new();
        self.tell(MemberEvent::Revoked(gone.to_vec(), guard));
        let patience = Instant::now() + DRAIN_MAX;
        while !self.membership.stopped() {
            match released.recv_timeout(GUARD_LOOK) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= patience => return false,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        true
    }

    /// From here on no commit counts until the loss has been taken note of.
    fn lost(&self, gone: Vec<TopicPartition>) {
        self.membership.lost();
        self.tell(MemberEvent::Lost(gone));
    }

    /// Waits for room, but not for a member that leaves: that one closes the channel.
    fn tell(&self, event: MemberEvent) {
        drop(self.events.blocking_send(Ok(event)));
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.log.line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.trouble(&error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assigned(consumer, list);
        } else {
            self.revoked(consumer, list);
        }
    }
}

#[async_trait]
impl Member for KafkaMember {
    async fn next(&mut self) -> Result<MemberEvent, JournalError> {
        let event = self.events.recv().await.unwrap_or_else(|| {
            Err(JournalError::NotMember {
                group: self.group.clone(),
            })
        });
        if matches!(event, Ok(MemberEvent::Lost(_))) {
            self.membership.told();
        }
        event
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::clone(&self.committer) as Arc<dyn Committer>
    }

    async fn leave(mut self: Box<Self>) {
        self.stop();
        if let Some(left) = self.left.take()
            && tokio::time::timeout(LEAVE_MAX, left).await.is_err()
        {
            tracing::warn!(
                group = self.group,
                "leaving the group takes long and goes on by itself"
            );
        }
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.stop();
    }
}
