//! The tiers: delay topics, and the plain copiers between them. What comes in: sends on their way back, each with the path of tiers that it
//! has to pass. What goes out: the same send in the next tier of its path, and at the end in `deliveries`.
//!
//! Every record of a tier waits the same time, so a tier's partition is a line in which only the head has to be watched. [`clock`] says when
//! the head is due, [`copy`] what becomes of it, [`copier`] does so for one partition, [`commit`] remembers how far that is.
//!
//! Invariants:
//! - nothing is early by more than brokers were measured to disagree with one another; only before the first acknowledgement after a start is
//!   our own clock believed, and until then each partition has one copy under way at most;
//! - the order of a partition never changes along a path, so a ticket is its send's position in the stream of that path;
//! - what is committed was acknowledged where it was copied to, and only what was committed a while ago is deleted.
//!
//! What it does not know: why a send comes back, and what becomes of it then.

mod clock;
mod commit;
mod copier;
mod copy;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{
    Appender, GroupSpec, Journal, JournalError, Member, MemberEvent, TopicPartition,
};
use hookline_model::limits;
use hookline_model::time::Clock;
use hookline_model::topics::Topic;
use hookline_registry::Layout;
use tokio::sync::watch;
use tokio::task::JoinSet;

use clock::BrokerTime;
use commit::Commits;
use copier::{Copier, Ended, Order, Place};
use metrics::Metrics;

/// How long a last commit may take before it is given up. What is not committed is copied again, and recognised by its ticket.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// See [`TiersConfig::trim_every`]. Sooner where faults are tested: they last for seconds.
const TRIM_EVERY: Duration = if cfg!(feature = "failpoints") {
    Duration::from_secs(10)
} else {
    Duration::from_secs(60)
};

/// Settings of the tiers.
#[derive(Debug, Clone)]
pub struct TiersConfig {
    /// Prefix of all topic names, for example `hookline.`.
    pub prefix: String,
    /// Who this worker is, for people.
    pub worker: String,
    /// A worker silent for this long loses its partitions.
    pub session_timeout: Duration,
    /// How often what was copied is committed.
    pub commit_every: Duration,
    /// How often what was committed is deleted, and how long it stays at least.
    pub trim_every: Duration,
}

impl TiersConfig {
    /// The defaults, under a prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            worker: "tiers".to_owned(),
            session_timeout: limits::SESSION_TIMEOUT,
            commit_every: Duration::from_millis(200),
            trim_every: TRIM_EVERY,
        }
    }
}

/// Why the tiers stopped. What was not committed is copied again by whoever goes on.
#[derive(Debug, thiserror::Error)]
pub enum TiersError {
    /// The metrics could not be registered.
    #[error("the metrics of the tiers could not be registered")]
    Metrics(#[from] prometheus::Error),
    /// The journal failed.
    #[error("the journal failed the tiers")]
    Journal(#[from] JournalError),
    /// A copy may or may not have been stored.
    #[error("a copy out of {from} could not be stored")]
    Copy {
        /// The tier's topic.
        from: String,
        /// What the journal said.
        source: hookline_journal::AppendError,
    },
    /// A fault of ours.
    #[error("a copier ended unexpectedly")]
    Copier(#[source] tokio::task::JoinError),
}

/// The stage.
pub struct Tiers {
    config: TiersConfig,
    journal: Arc<dyn Journal>,
    layout: Arc<Layout>,
    time: Arc<BrokerTime>,
    metrics: Arc<Metrics>,
}

/// What all copiers share.
pub(crate) struct Shared {
    pub(crate) prefix: String,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) appender: Arc<dyn Appender>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) time: Arc<BrokerTime>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) commits: Arc<Commits>,
}

impl Tiers {
    /// The stage over this journal.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn new(
        config: TiersConfig,
        journal: Arc<dyn Journal>,
        layout: Arc<Layout>,
        clock: Arc<dyn Clock>,
        registry: &prometheus::Registry,
    ) -> Result<Self, TiersError> {
        let time = Arc::new(BrokerTime::new(clock));
        let metrics = Arc::new(Metrics::new(registry, Arc::clone(&time))?);
        Ok(Self {
            config,
            journal,
            layout,
            time,
            metrics,
        })
    }

    /// Copies until `stop` turns true; then what is under way is acknowledged and committed.
    ///
    /// # Errors
    /// When the journal fails for good. Running it again goes on where it was.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), TiersError> {
        let group = format!("{}tiers", self.config.prefix);
        let topics = Topic::tiers().map(|t| t.name(&self.config.prefix));
        let member = self
            .journal
            .join(GroupSpec {
                group: group.clone(),
                topics: topics.collect(),
                session_timeout: self.config.session_timeout,
                member: self.config.worker.clone(),
            })
            .await?;
        let commits = Arc::new(Commits::new(
            member.committer(),
            Arc::clone(&self.journal),
            self.config.commit_every,
            self.config.trim_every,
        ));
        let running = Running {
            group,
            shared: Arc::new(Shared {
                prefix: self.config.prefix.clone(),
                appender: self.journal.appender("tiers").await?,
                journal: self.journal,
                layout: self.layout,
                time: self.time,
                metrics: self.metrics,
                commits,
            }),
            copiers: JoinSet::new(),
            orders: BTreeMap::new(),
            alarmed: BTreeSet::new(),
        };
        running.run(member, stop).await
    }
}

/// Waits until the watched value is so, or nobody can change it any more.
pub(crate) async fn until<T>(watched: &mut watch::Receiver<T>, so: impl FnMut(&T) -> bool) {
    drop(watched.wait_for(so).await);
}

/// A membership and the copiers of what it was given.
struct Running {
    group: String,
    shared: Arc<Shared>,
    copiers: JoinSet<(TopicPartition, Ended)>,
    /// How each running copier is told to stop.
    orders: BTreeMap<TopicPartition, watch::Sender<Order>>,
    /// Ours, and stopped by an alarm.
    alarmed: BTreeSet<TopicPartition>,
}

impl Running {
    async fn run(
        mut self,
        mut member: Box<dyn Member>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), TiersError> {
        let mut committing = JoinSet::new();
        let commits = Arc::clone(&self.shared.commits);
        #[expect(
            clippy::disallowed_methods,
            reason = "owned by this set, which ends with this function"
        )]
        committing.spawn(async move { commits.run().await });
        let result = self.follow(&mut *member, &mut stop).await;
        let all: Vec<_> = self.orders.keys().cloned().collect();
        let drained = self.drain(&all).await;
        committing.shutdown().await;
        member.leave().await;
        result.and(drained)
    }

    /// Does what the group suggests until told to stop.
    async fn follow(
        &mut self,
        member: &mut dyn Member,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TiersError> {
        loop {
            tokio::select! {
                biased;
                () = until(stop, |stop| *stop) => return Ok(()),
                Some(ended) = self.copiers.join_next() => self.ended(ended)?,
                event = member.next() => match event? {
                    MemberEvent::Assigned(partitions) => self.start(partitions).await?,
                    MemberEvent::Revoked(partitions, guard) => {
                        self.drain(&partitions).await?;
                        guard.done();
                    }
                    MemberEvent::Lost(partitions) => self.abandon(&partitions).await?,
                },
            }
        }
    }

    async fn start(&mut self, partitions: Vec<TopicPartition>) -> Result<(), TiersError> {
        let committed = self
            .shared
            .journal
            .committed(&self.group, &partitions)
            .await?;
        for (partition, committed) in partitions.into_iter().zip(committed) {
            if self.orders.contains_key(&partition) {
                continue;
            }
            let Some(tier) =
                Topic::tiers().position(|t| t.name(&self.shared.prefix) == partition.topic)
            else {
                continue;
            };
            let (order, orders) = watch::channel(Order::Go);
            let place = Place {
                partition: partition.clone(),
                tier,
                committed,
            };
            let copier = Copier::new(Arc::clone(&self.shared), place, orders);
            #[expect(
                clippy::disallowed_methods,
                reason = "owned by this set, which is drained before the stage returns"
            )]
            self.copiers.spawn(copier.run());
            self.orders.insert(partition, order);
        }
        Ok(())
    }

    /// Lets these come to their end, with everything under way acknowledged, and commits.
    async fn drain(&mut self, partitions: &[TopicPartition]) -> Result<(), TiersError> {
        let result = self.stop(partitions, Order::Drain).await;
        // Committed also after a failure: what was acknowledged need not be copied again.
        if tokio::time::timeout(LAST_COMMIT, self.shared.commits.flush())
            .await
            .is_err()
        {
            tracing::warn!(
                "the last commit of the tiers took too long; what it covers will be copied again and recognised"
            );
        }
        self.given_up(partitions);
        result
    }

    /// Others may have these already: nothing more is done for them.
    async fn abandon(&mut self, partitions: &[TopicPartition]) -> Result<(), TiersError> {
        let result = self.stop(partitions, Order::Drop).await;
        self.given_up(partitions);
        result
    }

    fn given_up(&mut self, partitions: &[TopicPartition]) {
        self.shared.commits.forget(partitions);
        self.alarmed.retain(|alarmed| !partitions.contains(alarmed));
        self.tell_alarmed();
    }

    fn tell_alarmed(&self) {
        let count = i64::try_from(self.alarmed.len()).unwrap_or(i64::MAX);
        self.shared.metrics.stopped.set(count);
    }

    async fn stop(
        &mut self,
        partitions: &[TopicPartition],
        order: Order,
    ) -> Result<(), TiersError> {
        for sender in partitions.iter().filter_map(|p| self.orders.get(p)) {
            sender.send_replace(order);
        }
        let mut result = Ok(());
        while partitions.iter().any(|p| self.orders.contains_key(p)) {
            let Some(ended) = self.copiers.join_next().await else {
                break;
            };
            // The first failure is told, after all have ended.
            result = result.and(self.ended(ended));
        }
        result
    }

    fn ended(
        &mut self,
        ended: Result<(TopicPartition, Ended), tokio::task::JoinError>,
    ) -> Result<(), TiersError> {
        let (partition, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Which one it was is not told, so none can be waited for by name any more.
                self.orders.clear();
                return Err(TiersError::Copier(error));
            }
        };
        self.orders.remove(&partition);
        match ended {
            Ended::AsOrdered => Ok(()),
            Ended::Alarm(error) => {
                tracing::error!(
                    topic = partition.topic,
                    partition = partition.partition,
                    %error,
                    "a tier's partition is stopped: waiting retries may have been lost; compare the topic with the group's position"
                );
                self.alarmed.insert(partition);
                self.tell_alarmed();
                Ok(())
            }
            Ended::Failed(source) => Err(TiersError::Copy {
                from: partition.topic,
                source,
            }),
        }
    }
}
