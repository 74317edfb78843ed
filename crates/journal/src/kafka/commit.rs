//! Commits on behalf of a member, one request at a time, on a thread of its own: so they work while the member's thread waits for a
//! revoked partition to be drained.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use tokio::sync::{mpsc, oneshot};

use super::client::{ANSWER_WITHIN, checked_partition, failed, raw_offset};
use super::member::MemberContext;
use crate::{Committed, Committer, JournalError, TopicPartition};

/// Commits that wait while one is on its way.
const WAITING_MAX: usize = 64;

type Positions = Vec<(TopicPartition, Committed)>;

pub(crate) struct Request {
    positions: Positions,
    done: oneshot::Sender<Result<(), JournalError>>,
}

/// Whether this client is a member, as far as it knows.
///
/// A client that lost its membership may commit as somebody outside the group, which the broker takes when the group is empty. Such a
/// commit renews no session, so it must not count. Nor must one of a client that has joined anew while its user has not yet heard of the loss: it
/// would take the acceptance for a sign that it still has what it lost. Hence this is looked at before and after.
#[derive(Default)]
pub(crate) struct Membership {
    state: Mutex<State>,
    /// The member leaves, or has left.
    pub(crate) stopped: AtomicBool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct State {
    joined: bool,
    losses: u64,
    /// Losses that the member's user has taken note of.
    told: u64,
}

impl Membership {
    pub(crate) fn joined(&self) {
        self.state.lock().joined = true;
    }

    /// It is no member any more.
    pub(crate) fn left(&self) {
        self.state.lock().joined = false;
    }

    /// Partitions were lost; the user is about to be told.
    pub(crate) fn lost(&self) {
        self.state.lock().losses += 1;
    }

    /// The user has taken note of a loss.
    pub(crate) fn told(&self) {
        self.state.lock().told += 1;
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn now(&self) -> Option<State> {
        let state = *self.state.lock();
        (state.joined && state.losses == state.told && !self.stopped()).then_some(state)
    }
}

/// Hands commits to the thread.
pub(crate) struct KafkaCommitter {
    pub(crate) group: String,
    pub(crate) requests: mpsc::Sender<Option<Request>>,
}

/// The two ends of a member's commits. `None` wakes the thread so that it sees that the member leaves.
pub(crate) fn channel() -> (
    mpsc::Sender<Option<Request>>,
    mpsc::Receiver<Option<Request>>,
) {
    mpsc::channel(WAITING_MAX)
}

#[async_trait]
impl Committer for KafkaCommitter {
    async fn commit(&self, positions: Positions) -> Result<(), JournalError> {
        let what = || format!("committing to group {}", self.group);
        if positions.is_empty() {
            return Err(JournalError::Failed {
                what: what(),
                reason: "there is no position to commit, and without one no session is renewed"
                    .to_owned(),
            });
        }
        for (tp, _) in &positions {
            checked_partition(&tp.topic, tp.partition)?;
        }
        let not_member = || JournalError::NotMember {
            group: self.group.clone(),
        };
        let (done, outcome) = oneshot::channel();
        let hand_over = async {
            let request = Request { positions, done };
            self.requests
                .send(Some(request))
                .await
                .map_err(|_| not_member())?;
            outcome.await.map_err(|_| not_member())?
        };
        tokio::time::timeout(ANSWER_WITHIN, hand_over)
            .await
            .map_err(|_| JournalError::Timeout {
                what: what(),
                waited: ANSWER_WITHIN,
            })?
    }
}

/// The thread: commits until the member leaves.
pub(crate) fn run(
    consumer: &BaseConsumer<MemberContext>,
    membership: &Membership,
    group: &str,
    mut requests: mpsc::Receiver<Option<Request>>,
) {
    while !membership.stopped() {
        let Some(Some(first)) = requests.blocking_recv() else {
            break;
        };
        let mut batch = vec![first];
        while let Ok(Some(next)) = requests.try_recv() {
            batch.push(next);
        }
        serve(consumer, membership, group, batch);
    }
    // Whoever still asks learns that this is no member any more, because the channel is gone.
}

/// Commits what waits, in one request; when that fails, each by itself, because one may have spoilt it for all.
fn serve(
    consumer: &BaseConsumer<MemberContext>,
    membership: &Membership,
    group: &str,
    batch: Vec<Request>,
) {
    let together = commit(
        consumer,
        membership,
        group,
        batch.iter().flat_map(|r| &r.positions),
    );
    let alone = batch.len() == 1;
    for request in batch {
        let outcome = match &together {
            Err(JournalError::Failed { .. }) if !alone => {
                commit(consumer, membership, group, request.positions.iter())
            }
            outcome => outcome.clone(),
        };
        // Nobody waits any more for one that took too long.
        drop(request.done.send(outcome));
    }
}

fn commit<'a>(
    consumer: &BaseConsumer<MemberContext>,
    membership: &Membership,
    group: &str,
    positions: impl Iterator<Item = &'a (TopicPartition, Committed)>,
) -> Result<(), JournalError> {
    let not_member = || JournalError::NotMember {
        group: group.to_owned(),
    };
    let before = membership.now().ok_or_else(not_member)?;
    let list = list(positions);
    consumer
        .commit(&list, CommitMode::Sync)
        .map_err(|error| commit_error(group, &error))?;
    if consumer.assignment_lost() || membership.now() != Some(before) {
        return Err(not_member());
    }
    Ok(())
}

/// The last position of each partition.
fn list<'a>(
    positions: impl Iterator<Item = &'a (TopicPartition, Committed)>,
) -> TopicPartitionList {
    let last: BTreeMap<_, _> = positions.map(|(tp, committed)| (tp, committed)).collect();
    let mut list = TopicPartitionList::with_capacity(last.len());
    for (tp, committed) in last {
        let partition = i32::try_from(tp.partition).unwrap_or(i32::MAX);
        let mut element = list.add_partition(&tp.topic, partition);
        element
            .set_offset(Offset::Offset(raw_offset(committed.offset)))
            .expect("no offset is negative");
        element.set_metadata(&committed.metadata);
    }
    list
}

fn commit_error(group: &str, error: &KafkaError) -> JournalError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(
            Code::UnknownMemberId
            | Code::IllegalGeneration
            | Code::FencedInstanceId
            | Code::FencedMemberEpoch
            | Code::StaleMemberEpoch
            | Code::AssignmentLost
            | Code::Fenced
            | Code::BrokerDestroy,
        ) => JournalError::NotMember {
            group: group.to_owned(),
        },
        _ => failed(&format!("committing to group {group}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, partition: u32, offset: u64) -> (TopicPartition, Committed) {
        let tp = TopicPartition {
            topic: topic.into(),
            partition,
        };
        let metadata = format!("m{offset}");
        (tp, Committed { offset, metadata })
    }

    #[test]
    fn of_several_commits_the_last_of_each_partition_counts() {
        let all = [at("t", 0, 7), at("u", 1, 3), at("t", 0, 5)];
        let list = list(all.iter());
        assert_eq!(list.count(), 2);
        let found = list.find_partition("t", 0).expect("there");
        assert_eq!(found.offset(), Offset::Offset(5));
        assert_eq!(found.metadata(), "m5");
    }

    #[test]
    fn a_loss_between_is_noticed_even_when_the_client_joined_again() {
        let membership = Membership::default();
        assert!(membership.now().is_none());
        membership.joined();
        let before = membership.now();
        assert!(before.is_some());
        membership.left();
        membership.lost();
        assert!(membership.now().is_none());
        membership.joined();
        assert!(
            membership.now().is_none(),
            "not before its user knows what was lost"
        );
        membership.told();
        assert!(membership.now().is_some());
        assert!(membership.now() != before);
    }

    #[test]
    fn only_the_loss_of_membership_says_so() {
        let of = |code| commit_error("g", &KafkaError::ConsumerCommit(code));
        assert!(matches!(
            of(RDKafkaErrorCode::IllegalGeneration),
            JournalError::NotMember { .. }
        ));
        assert!(matches!(
            of(RDKafkaErrorCode::RebalanceInProgress),
            JournalError::Failed { .. }
        ));
    }
}
