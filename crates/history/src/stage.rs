//! The role `history`: the topics of attempts and of events into the SQL store.
//!
//! One supervisor says now and then that this process is there, takes its share of the partitions by leases in the store, and runs a reader
//! for each. When the store does not answer, it waits; nobody waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hookline_journal::{Journal, JournalError};
use hookline_model::time::{Clock, Millis};
use hookline_model::topics::Topic;
use hookline_registry::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::metrics::HistoryMetrics;
use crate::partition::{Ended, Partition, Surroundings};
use crate::store::{Store, StoreError};
use crate::upkeep::upkeep;

/// A process that was silent for this long loses its partitions to others.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// How often a process says that it is there, and looks for partitions to take.
const TICK: Duration = Duration::from_secs(2);
/// How long the store has for all that is asked in a tick.
const TICK_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked how many partitions there are.
const TOPICS_EVERY: Duration = Duration::from_secs(60);
/// A partition that cannot be read on is tried again after this long.
const BROKEN_FOR: Duration = Duration::from_secs(30);
/// What goes on being wrong is logged again after this long.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// How long readers have to finish what they are storing when the stage is to stop, and the store to let its leases go.
const STOP_WITHIN: Duration = Duration::from_millis(600);
const FAREWELL_WITHIN: Duration = Duration::from_millis(300);

/// What is read into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The topic of attempts.
    Attempts,
    /// The topic of events.
    Events,
}

impl Source {
    const ALL: [Self; 2] = [Self::Attempts, Self::Events];

    fn topic(self, prefix: &str) -> String {
        match self {
            Self::Attempts => Topic::Attempts.name(prefix),
            Self::Events => Topic::Events.name(prefix),
        }
    }
}

/// How the history works.
#[derive(Debug, Clone)]
pub struct HistoryConfig {
    /// What topic names begin with.
    pub prefix: String,
    /// This process, for people and in leases.
    pub worker: String,
    /// How long attempts and events are kept in the store.
    pub retention: Duration,
}

/// What the history cannot begin with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Metrics could not be registered.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Why a tick did not come to its end.
#[derive(Debug, thiserror::Error)]
enum TickError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the history store did not answer within {TICK_WITHIN:?}")]
    Late,
    #[error("cannot ask for the partitions of the topics")]
    Journal(#[from] JournalError),
    #[error("there is no topic {topic}: make it with `hookline topics create`")]
    NoTopic { topic: String },
}

/// The stage.
pub struct History {
    config: HistoryConfig,
    around: Surroundings,
}

/// A partition that a reader of this process has.
struct Held {
    epoch: u64,
    stop: watch::Sender<bool>,
    next: Arc<AtomicU64>,
    /// When everything was last known to be in the store.
    complete_at: Millis,
}

/// A partition of one of the topics.
type Shard = (Source, u32);

enum Done {
    Reader {
        shard: Shard,
        epoch: u64,
        ended: Ended,
    },
    Upkeep,
}

struct Supervisor {
    config: HistoryConfig,
    topics: BTreeMap<Source, String>,
    around: Surroundings,
    partitions: BTreeMap<Source, u32>,
    topics_at: Option<Instant>,
    held: BTreeMap<Shard, Held>,
    broken: BTreeMap<Shard, Instant>,
    running: JoinSet<Done>,
    complained: Option<(Instant, String)>,
    /// Whether this process is the one that deletes what is old: it has the first partition of attempts.
    first: Arc<AtomicBool>,
}

impl History {
    /// The stage over this store. `snapshots` is the live view of the registry, which somebody else keeps live.
    ///
    /// # Errors
    /// When a metric of its name is there already.
    pub fn new(
        config: HistoryConfig,
        journal: Arc<dyn Journal>,
        store: Arc<Store>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        clock: Arc<dyn Clock>,
        metrics: &prometheus::Registry,
    ) -> Result<Self, HistoryError> {
        let metrics = Arc::new(HistoryMetrics::new(metrics)?);
        Ok(Self {
            around: Surroundings {
                journal,
                store,
                clock,
                metrics,
                retention: config.retention,
                registry: Topic::Registry.name(&config.prefix),
                snapshots,
            },
            config,
        })
    }

    /// Reads until told to stop. What goes wrong is logged and tried again: nothing else depends on it.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (tell, retention) = watch::channel(false);
        let topic = |source: Source| (source, source.topic(&self.config.prefix));
        let mut supervisor = Supervisor {
            topics: Source::ALL.map(topic).into(),
            config: self.config,
            around: self.around,
            partitions: BTreeMap::new(),
            topics_at: None,
            held: BTreeMap::new(),
            broken: BTreeMap::new(),
            running: JoinSet::new(),
            complained: None,
            first: Arc::default(),
        };
        supervisor.start_upkeep(retention);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = told(&mut stop) => break,
                Some(done) = supervisor.running.join_next() => supervisor.ended(done).await,
                _ = tick.tick() => supervisor.tick(&mut stop).await,
            }
        }
        tell.send_replace(true);
        supervisor.stop().await;
    }
}

impl Supervisor {
    #[expect(
        clippy::disallowed_methods,
        reason = "the set is this stage's own, and drained before `run` returns"
    )]
    fn start_upkeep(&mut self, mut stop: watch::Receiver<bool>) {
        let around = self.around.clone();
        let first = Arc::clone(&self.first);
        let topics: Vec<_> = self.topics.values().cloned().collect();
        self.running.spawn(async move {
            tokio::select! {
                () = told(&mut stop) => {}
                () = upkeep(around, first, topics) => {}
            }
            Done::Upkeep
        });
    }

    /// Says that this process is there, and takes or gives back partitions.
    async fn tick(&mut self, stop: &mut watch::Receiver<bool>) {
        // Bringing the tables to this version takes as long as it takes, where there is much in them.
        let tables = tokio::select! {
            biased;
            () = told(stop) => return,
            tables = self.around.store.tables() => tables,
        };
        let done = match tables {
            Ok(()) => match timeout(TICK_WITHIN, self.share()).await {
                Ok(done) => done,
                Err(_) => Err(TickError::Late),
            },
            Err(error) => Err(error.into()),
        };
        let failed_store = matches!(done, Err(TickError::Store(_) | TickError::Late));
        self.around.metrics.up.set(i64::from(!failed_store));
        match done {
            Ok(()) => {
                if self.complained.take().is_some() {
                    tracing::info!("the history goes on");
                }
            }
            Err(error) => self.complain(&error),
        }
        self.measure().await;
    }

    /// Logs what is wrong, when it is new and now and then.
    fn complain(&mut self, error: &TickError) {
        let text = chain(error);
        let known = self
            .complained
            .as_ref()
            .is_some_and(|(at, before)| *before == text && at.elapsed() < REMIND_EVERY);
        if !known {
            tracing::error!(
                error = text,
                "the history waits; deliveries go on, and it catches up later"
            );
            self.complained = Some((Instant::now(), text));
        }
    }

    async fn share(&mut self) -> Result<(), TickError> {
        self.count().await?;
        let store = Arc::clone(&self.around.store);
        let now = self.around.clock.now();
        let until = now.plus(LEASE);
        let workers = store.heartbeat(&self.config.worker, now, until).await?;
        self.broken.retain(|_, since| since.elapsed() < BROKEN_FOR);
        for (source, topic) in self.topics.clone() {
            self.share_topic(source, &topic, workers, now, until)
                .await?;
        }
        self.first.store(
            self.held.contains_key(&(Source::Attempts, 0)),
            Ordering::Relaxed,
        );
        if let Some(kept_from) = store.kept_from(Topic::Attempts).await? {
            #[expect(clippy::cast_precision_loss, reason = "good for 285,000 years")]
            let seconds = kept_from.0 as f64 / 1000.0;
            self.around.metrics.kept_from.set(seconds);
        }
        Ok(())
    }

    async fn share_topic(
        &mut self,
        source: Source,
        topic: &str,
        workers: u64,
        now: Millis,
        until: Millis,
    ) -> Result<(), TickError> {
        let store = Arc::clone(&self.around.store);
        let leases = store.leases(topic).await?;
        for lease in &leases {
            let Some(held) = self.held.get(&(source, lease.partition)) else {
                continue;
            };
            let ours = lease.epoch == held.epoch
                && store
                    .extend(topic, lease.partition, held.epoch, until)
                    .await?;
            if !ours {
                held.stop.send_replace(true);
            }
        }
        let partitions = self.partitions.get(&source).copied().unwrap_or(0);
        let share = share(partitions, workers);
        let all = (source, 0)..=(source, u32::MAX);
        // Those beyond the share go back when they have ended.
        for (_, held) in self.held.range(all.clone()).skip(share) {
            held.stop.send_replace(true);
        }
        for lease in &leases {
            let free = lease.until < now || lease.owner == self.config.worker;
            let shard = (source, lease.partition);
            let taken = self.held.contains_key(&shard);
            let broken = self.broken.contains_key(&shard);
            if self.held.range(all.clone()).count() >= share || !free || taken || broken {
                continue;
            }
            let took = store.take(topic, lease, &self.config.worker, until);
            if let Some(lease) = took.await? {
                self.read(source, lease);
            }
        }
        Ok(())
    }

    /// Asks now and then how many partitions there are.
    async fn count(&mut self) -> Result<(), TickError> {
        if self.topics_at.is_some_and(|at| at.elapsed() < TOPICS_EVERY) {
            return Ok(());
        }
        let topics = self.around.journal.topics().await?;
        let ours: Vec<_> = self.topics.values().cloned().collect();
        for (source, topic) in &self.topics {
            let Some(info) = topics.get(topic) else {
                return Err(TickError::NoTopic {
                    topic: topic.clone(),
                });
            };
            let store = &self.around.store;
            store.prepare(topic, info.partitions, &ours).await?;
            self.partitions.insert(*source, info.partitions);
        }
        self.topics_at = Some(Instant::now());
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the set is this stage's own, and drained before `run` returns"
    )]
    fn read(&mut self, source: Source, lease: crate::store::Lease) {
        let (partition, epoch) = (lease.partition, lease.epoch);
        let shard = (source, partition);
        let (stop, stopped) = watch::channel(false);
        let next = Arc::new(AtomicU64::new(lease.next.unwrap_or(0)));
        let held = Held {
            epoch,
            stop,
            next: Arc::clone(&next),
            complete_at: self.around.clock.now(),
        };
        self.held.insert(shard, held);
        let around = self.around.clone();
        tracing::debug!(
            topic = lease.topic,
            partition,
            epoch,
            "the history reads a partition"
        );
        self.running.spawn(async move {
            let ended = match Partition::open(around, source, lease, next).await {
                Ok(reader) => reader.run(stopped).await,
                Err(ended) => ended,
            };
            Done::Reader {
                shard,
                epoch,
                ended,
            }
        });
    }

    /// A reader has ended: its partition may be taken again, by this process or another.
    async fn ended(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let (shard, epoch, ended) = match done {
            Ok(Done::Reader {
                shard,
                epoch,
                ended,
            }) => (shard, epoch, ended),
            Ok(Done::Upkeep) => return,
            Err(error) => {
                tracing::error!(%error, "a reader of the history failed; its partitions are taken again");
                // Which one is not known. Those that go on stop at their next transaction, as the epoch is raised.
                self.held.clear();
                return;
            }
        };
        let (source, partition) = shard;
        let topic = &self.topics[&source];
        let ours = self.held.get(&shard).is_some_and(|h| h.epoch == epoch);
        if ours {
            self.held.remove(&shard);
        }
        match &ended {
            Ended::Told | Ended::Lost => {
                tracing::debug!(topic, partition, epoch, reason = %ended, "the history leaves a partition");
            }
            Ended::Read(error) => {
                tracing::error!(
                    topic,
                    partition,
                    %error,
                    "the history cannot read a partition on from where its store stands; where the topic was made anew, delete the store: it is rebuilt from what the topics have"
                );
                self.broken.insert(shard, Instant::now());
            }
            Ended::Store(_) | Ended::Late | Ended::Registry | Ended::Journal(_) => {
                tracing::warn!(
                    topic,
                    partition,
                    error = chain(&ended),
                    "the history could not store what it read; it reads it again"
                );
            }
        }
        if !matches!(ended, Ended::Lost) {
            let store = Arc::clone(&self.around.store);
            let freed = store.extend(topic, partition, epoch, Millis(0));
            if let Ok(Err(error)) = timeout(FAREWELL_WITHIN, freed).await {
                tracing::debug!(
                    error = chain(&error),
                    "a lease was not given back; it ends by itself"
                );
            }
        }
    }

    /// How far behind this process's partitions are.
    async fn measure(&mut self) {
        let metrics = Arc::clone(&self.around.metrics);
        let owned = |source| {
            let held = self.held.range((source, 0)..=(source, u32::MAX));
            i64::try_from(held.count()).unwrap_or(i64::MAX)
        };
        metrics.owned.set(owned(Source::Attempts));
        metrics.owned_events.set(owned(Source::Events));
        metrics
            .stopped
            .set(i64::try_from(self.broken.len()).unwrap_or(i64::MAX));
        let mut lags: BTreeMap<Source, u64> = BTreeMap::new();
        let mut oldest = Duration::ZERO;
        for ((source, partition), held) in &mut self.held {
            let asked_at = self.around.clock.now();
            let end = self.around.journal.end(&self.topics[source], *partition);
            if let Ok(Ok(end)) = timeout(TICK, end).await {
                let behind = end.saturating_sub(held.next.load(Ordering::Relaxed));
                let lag = lags.entry(*source).or_default();
                *lag = lag.saturating_add(behind);
                if behind == 0 {
                    held.complete_at = asked_at;
                }
            }
            oldest = oldest.max(asked_at.since(held.complete_at));
        }
        let lag = |source: Source| lags.get(&source).copied().unwrap_or(0);
        metrics.lag(&self.topics[&Source::Attempts], lag(Source::Attempts));
        // The lag of that topic is fan-out's, under the name that both would have.
        let behind = i64::try_from(lag(Source::Events)).unwrap_or(i64::MAX);
        metrics.behind_events.set(behind);
        metrics.oldest.set(oldest.as_secs_f64());
    }

    /// Lets the readers store what they are storing, and gives everything back.
    async fn stop(mut self) {
        for held in self.held.values() {
            held.stop.send_replace(true);
        }
        let mut epochs: BTreeMap<Shard, u64> = self
            .held
            .iter()
            .map(|(shard, held)| (*shard, held.epoch))
            .collect();
        let drain = async {
            while let Some(done) = self.running.join_next().await {
                if let Ok(Done::Reader {
                    shard,
                    ended: Ended::Lost,
                    ..
                }) = done
                {
                    epochs.remove(&shard);
                }
            }
        };
        if timeout(STOP_WITHIN, drain).await.is_err() {
            tracing::warn!(
                "the history store did not take in time what was read; it is read again by the next process"
            );
            self.running.shutdown().await;
        }
        let store = &self.around.store;
        let farewell = async {
            for ((source, partition), epoch) in epochs {
                let topic = &self.topics[&source];
                store.extend(topic, partition, epoch, Millis(0)).await?;
            }
            store.farewell(&self.config.worker).await
        };
        if let Ok(Err(error)) = timeout(FAREWELL_WITHIN, farewell).await {
            tracing::debug!(
                error = chain(&error),
                "leases were not given back; they end by themselves"
            );
        }
    }
}

/// Resolves when it is time to stop; that the side that tells is gone is the same.
pub(crate) async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Partitions that each of so many processes reads.
fn share(partitions: u32, workers: u64) -> usize {
    let share = u64::from(partitions).div_ceil(workers.max(1));
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// An error and what it came from, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
