//! The dispatch stage: a member of the group, which suggests partitions; one worker per partition; one loop that commits and so keeps the lease.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hookline_journal::{
    Appender, Committed, Committer, GroupSpec, Journal, JournalError, Member, MemberEvent,
    RevokeGuard, TopicPartition,
};
use hookline_model::limits::DEADLINE_MAX;
use hookline_model::time::Clock;
use hookline_registry::Registry;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::attempt::Maker;
use crate::config::DispatchConfig;
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::shared::{Names, Shared, Standing};
use crate::takeover::TakeoverError;
use crate::way_out::WayOut;
use crate::worker::{Order, Worker, WorkerError};

/// What an attempt in flight may need beyond its deadline to be recorded.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// How long a worker that failed rests before its partition is claimed again.
const CLAIM_AGAIN: Duration = Duration::from_millis(500);

/// Why the stage ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DispatchError {
    /// The group could not be joined, or the membership ended for good.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Metrics of that name exist already.
    #[error("registering the metrics of dispatch")]
    Metrics(#[from] prometheus::Error),
}

/// The stage that turns `deliveries` into attempts.
pub struct Dispatch {
    shared: Arc<Shared>,
    workers: JoinSet<Result<(), WorkerError>>,
    running: BTreeMap<u32, Running>,
    by_task: HashMap<Id, u32>,
    /// Ours by the group's suggestion, with nobody at work: since when.
    resting: BTreeMap<u32, Instant>,
    /// Stopped by an alarm until they are assigned anew.
    stopped: BTreeMap<u32, String>,
}

struct Running {
    orders: watch::Sender<Order>,
    appender: Arc<dyn Appender>,
    /// Held until the worker has drained; the group waits for it.
    guard: Option<Arc<RevokeGuard>>,
}

impl Dispatch {
    /// The stage, ready to run.
    ///
    /// # Errors
    /// When its metrics exist already.
    pub fn new(
        config: DispatchConfig,
        journal: Arc<dyn Journal>,
        registry: Registry,
        way: WayOut,
        clock: Arc<dyn Clock>,
        metrics: &prometheus::Registry,
    ) -> Result<Self, DispatchError> {
        let metrics = Metrics::new(metrics)?;
        let max_hold = i64::try_from(config.max_hold.as_secs());
        metrics.max_hold.set(max_hold.unwrap_or(i64::MAX));
        let shared = Shared {
            names: Names::new(&config.prefix),
            maker: Arc::new(Maker { way }),
            metrics,
            lease: Lease::new(config.session_timeout),
            places: Places::new(config.max_in_flight, config.max_per_destination),
            queued_bytes: AtomicUsize::new(0),
            resting_bytes: AtomicUsize::new(0),
            standing: Mutex::new(BTreeMap::new()),
            appender: tokio::sync::Mutex::new(None),
            config,
            journal,
            registry,
            clock,
        };
        Ok(Self {
            shared: Arc::new(shared),
            workers: JoinSet::new(),
            running: BTreeMap::new(),
            by_task: HashMap::new(),
            resting: BTreeMap::new(),
            stopped: BTreeMap::new(),
        })
    }

    /// Works until `shutdown` says true: then nothing new starts, what is in flight is finished and recorded, and the partitions are given back.
    ///
    /// # Errors
    /// When the group cannot be joined or the membership ends for good.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), DispatchError> {
        let mut member = self.join().await?;
        let mut committer = member.committer();
        let mut commits = tokio::time::interval(self.shared.config.session_timeout / 5);
        commits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let rest = self.resting.values().min().copied();
            tokio::select! {
                // In this order: the lease before everything, what has ended before what is new.
                biased;
                _ = commits.tick() => self.commit(&committer).await,
                Some(ended) = self.workers.join_next_with_id() => self.worker_ended(&committer, ended).await,
                event = member.next() => match event {
                    Ok(event) => self.suggested(&committer, event).await,
                    Err(error) => {
                        // The session is gone: nobody may start anything, and what is running counts for nobody.
                        self.lease_lost().await;
                        self.resting.clear();
                        self.stopped.clear();
                        self.shared.standing.lock().clear();
                        tracing::warn!(%error, "the dispatch group was lost; joining again");
                        member.leave().await;
                        tokio::time::sleep(CLAIM_AGAIN).await;
                        member = self.join().await?;
                        committer = member.committer();
                    }
                },
                () = async { tokio::time::sleep_until(rest.unwrap_or_else(Instant::now)).await }, if rest.is_some() => self.claim_rested().await,
                () = async { drop(shutdown.wait_for(|stop| *stop).await) } => break,
            }
        }
        self.drain(member, committer).await;
        Ok(())
    }

    async fn join(&self) -> Result<Box<dyn Member>, JournalError> {
        let config = &self.shared.config;
        let spec = GroupSpec {
            group: format!("{}dispatch", config.prefix),
            topics: vec![self.shared.names.deliveries.clone()],
            session_timeout: config.session_timeout,
            member: config.worker.clone(),
        };
        self.shared.journal.join(spec).await
    }

    async fn suggested(&mut self, member: &Arc<dyn Committer>, event: MemberEvent) {
        match event {
            MemberEvent::Assigned(partitions) => {
                let layout = self
                    .shared
                    .registry
                    .snapshot()
                    .layout()
                    .map_or(0, |layout| layout.partitions);
                for partition in partitions.iter().map(|tp| tp.partition) {
                    if partition >= layout {
                        tracing::info!(
                            partition,
                            layout,
                            "the topic has more partitions than the layout; this one stays unused"
                        );
                        continue;
                    }
                    self.shared
                        .standing
                        .lock()
                        .insert(partition, Standing::default());
                    self.stopped.remove(&partition);
                    self.resting.insert(partition, Instant::now());
                }
                hookline_model::fail_point!("dispatch-assigned");
                // Taking over takes many questions, and so may the first commit: neither waits for the other. The claim itself waits for the lease.
                self.claim_rested().await;
                self.commit(member).await;
            }
            MemberEvent::Revoked(partitions, guard) => {
                hookline_model::fail_point!("dispatch-revoked");
                let guard = Arc::new(guard);
                for p in partitions.iter().map(|tp| tp.partition) {
                    self.resting.remove(&p);
                    self.stopped.remove(&p);
                    if let Some(running) = self.running.get_mut(&p) {
                        running.guard = Some(guard.clone());
                        running.orders.send_replace(Order::Drain);
                    } else {
                        self.shared.standing.lock().remove(&p);
                    }
                }
            }
            MemberEvent::Lost(partitions) => {
                tracing::warn!(count = partitions.len(), "partitions were lost");
                // Nobody may start anything before the next accepted commit; what is still ours is claimed again.
                self.lease_lost().await;
                for p in partitions.iter().map(|tp| tp.partition) {
                    self.resting.remove(&p);
                    self.stopped.remove(&p);
                    self.shared.standing.lock().remove(&p);
                }
            }
        }
        self.figures();
    }

    /// A first value to commit for partitions that were just assigned: what the group has, else the start of the log. It renews the lease and changes
    /// nothing. What nobody answers is asked again with the next commit: without a value there is no commit, and without a commit no lease.
    async fn know_lows(&self) {
        let unknown: Vec<u32> = {
            let standing = self.shared.standing.lock();
            let unknown = standing.iter().filter(|(_, s)| s.low.is_none());
            unknown.map(|(p, _)| *p).collect()
        };
        if unknown.is_empty() {
            return;
        }
        let named: Vec<TopicPartition> = unknown.iter().map(|p| self.place(*p)).collect();
        let group = format!("{}dispatch", self.shared.config.prefix);
        let committed = match self.shared.journal.committed(&group, &named).await {
            Ok(committed) => committed,
            Err(error) => {
                tracing::warn!(%error, "committed positions cannot be read; asked again with the next commit");
                return;
            }
        };
        for (place, committed) in named.iter().zip(committed) {
            let low = match committed {
                Some(committed) => Some(committed.offset),
                None => {
                    let start = self.shared.journal.start(&place.topic, place.partition);
                    start.await.ok()
                }
            };
            // Unless a checkpoint has told it meanwhile, or the partition is gone.
            if let Some(standing) = self.shared.standing.lock().get_mut(&place.partition) {
                standing.low = standing.low.or(low);
            }
        }
    }

    fn place(&self, partition: u32) -> TopicPartition {
        TopicPartition {
            topic: self.shared.names.deliveries.clone(),
            partition,
        }
    }

    /// Starts a worker on every partition that has rested long enough. It claims only under the lease: the group may have given the partition to others
    /// without our knowing, and a claim would take it back.
    async fn claim_rested(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> = self
            .resting
            .iter()
            .filter(|(p, at)| **at <= now && !self.running.contains_key(p))
            .map(|(p, _)| *p)
            .collect();
        for p in due {
            match self.shared.appender(None).await {
                Ok(appender) => {
                    self.resting.remove(&p);
                    self.start_worker(p, appender);
                }
                Err(error) => {
                    tracing::warn!(partition = p, %error, "no appender; trying again");
                    self.resting.insert(p, Instant::now() + CLAIM_AGAIN);
                }
            }
        }
        self.figures();
    }

    fn start_worker(&mut self, p: u32, appender: Arc<dyn Appender>) {
        let (orders, told) = watch::channel(Order::Work);
        #[expect(
            clippy::disallowed_methods,
            reason = "the set is the stage's own: it is awaited in `run` and drained at the end"
        )]
        let task = self
            .workers
            .spawn(Worker::run(self.shared.clone(), appender.clone(), p, told));
        self.by_task.insert(task.id(), p);
        self.running.insert(
            p,
            Running {
                orders,
                appender,
                guard: None,
            },
        );
    }

    async fn worker_ended(
        &mut self,
        member: &Arc<dyn Committer>,
        ended: Result<(Id, Result<(), WorkerError>), JoinError>,
    ) {
        let (id, result) = match ended {
            Ok((id, result)) => (
                id,
                result.map_err(|error| (Consequence::of(&error), error.to_string())),
            ),
            Err(error) => {
                if error.is_panic() {
                    self.shared.metrics.panics.inc();
                }
                (error.id(), Err((Consequence::Claim, error.to_string())))
            }
        };
        let Some(p) = self.by_task.remove(&id) else {
            return;
        };
        let Some(running) = self.running.remove(&p) else {
            return;
        };
        match result {
            Ok(()) => tracing::info!(partition = p, "partition drained"),
            Err((Consequence::Stop, reason)) => {
                tracing::error!(
                    partition = p,
                    reason,
                    "ALARM: this partition stops until somebody has looked; the others go on"
                );
                self.stopped.insert(p, reason);
            }
            Err((consequence, reason)) => {
                tracing::warn!(
                    partition = p,
                    reason,
                    "the owner of this partition ended; it is claimed again"
                );
                // This makes a new one for everybody, unless somebody else has done so already.
                if consequence == Consequence::NewAppender
                    && self.shared.appender(Some(&running.appender)).await.is_err()
                {
                    tracing::warn!(partition = p, "no new appender yet");
                }
                if running.guard.is_none() {
                    self.resting.insert(p, Instant::now() + CLAIM_AGAIN);
                }
            }
        }
        if let Some(guard) = running.guard {
            // What the last checkpoint says is committed before the partition goes to somebody else.
            self.commit(member).await;
            self.shared.standing.lock().remove(&p);
            drop(guard);
        }
        self.figures();
    }

    /// Commits the lowest unsettled position of each partition. An accepted commit renews the lease from the moment it was sent.
    async fn commit(&self, member: &Arc<dyn Committer>) {
        // What is known renews the lease of what is ours already; that must not wait for long.
        let patience = self.shared.config.session_timeout / 4;
        if tokio::time::timeout(patience, self.know_lows())
            .await
            .is_err()
        {
            tracing::warn!(
                "committed positions cannot be read in time; asked again with the next commit"
            );
        }
        let lows: Vec<(u32, u64)> = self
            .shared
            .standing
            .lock()
            .iter()
            .filter_map(|(p, standing)| Some((*p, standing.low?)))
            .collect();
        self.age();
        if lows.is_empty() {
            return;
        }
        let positions = lows
            .into_iter()
            .map(|(p, offset)| {
                (
                    self.place(p),
                    Committed {
                        offset,
                        metadata: String::new(),
                    },
                )
            })
            .collect();
        let sent = self.shared.clock.boot();
        match tokio::time::timeout(
            self.shared.config.session_timeout / 2,
            member.commit(positions),
        )
        .await
        {
            Ok(Ok(())) => {
                hookline_model::fail_point!("dispatch-committed");
                let held = self.shared.leased();
                self.shared.lease.renewed(sent);
                if !held {
                    self.shared.places.wake();
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the commit that renews the lease failed"),
            Err(_) => tracing::warn!("the commit that renews the lease got no answer in time"),
        }
    }

    fn age(&self) {
        let now = self.shared.clock.now();
        let oldest = self
            .shared
            .standing
            .lock()
            .values()
            .filter_map(|standing| standing.oldest)
            .min();
        let age = oldest.map_or(0, |at| {
            i64::try_from(now.since(at).as_secs()).unwrap_or(i64::MAX)
        });
        self.shared.metrics.oldest.set(age);
    }

    fn figures(&self) {
        self.shared
            .metrics
            .partitions
            .set(i64::try_from(self.running.len()).unwrap_or(i64::MAX));
        self.shared
            .metrics
            .stopped
            .set(i64::try_from(self.stopped.len()).unwrap_or(i64::MAX));
    }

    /// Ends the lease and all workers at once; their partitions rest, until they are claimed again or taken off the list.
    async fn lease_lost(&mut self) {
        self.shared.lease.end();
        let again = Instant::now() + CLAIM_AGAIN;
        let ours = self
            .running
            .iter()
            .filter(|(_, running)| running.guard.is_none());
        let ours: Vec<u32> = ours.map(|(p, _)| *p).collect();
        self.abort_all().await;
        self.resting.extend(ours.into_iter().map(|p| (p, again)));
    }

    async fn abort_all(&mut self) {
        self.workers.shutdown().await;
        self.running.clear();
        self.by_task.clear();
        self.figures();
    }

    /// Finishes what is in flight, stores progress and gives the partitions back.
    async fn drain(mut self, member: Box<dyn Member>, committer: Arc<dyn Committer>) {
        for running in self.running.values() {
            running.orders.send_replace(Order::Drain);
        }
        let deadline = Instant::now() + DEADLINE_MAX + DRAIN_MARGIN;
        let mut commits = tokio::time::interval(self.shared.config.session_timeout / 5);
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                _ = commits.tick() => self.commit(&committer).await,
                Some(ended) = self.workers.join_next_with_id() => self.worker_ended(&committer, ended).await,
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!(partitions = self.running.len(), "not everything in flight has ended in time; it may be sent again");
                    self.abort_all().await;
                }
            }
        }
        self.commit(&committer).await;
        hookline_model::fail_point!("dispatch-drained");
        // The lease ends before the client leaves the group.
        self.shared.lease.end();
        member.leave().await;
    }
}

/// What the end of a worker asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consequence {
    /// A person must look.
    Stop,
    /// The partition is claimed again.
    Claim,
    /// So it is, with a new appender.
    NewAppender,
}

impl Consequence {
    fn of(error: &WorkerError) -> Self {
        match error {
            WorkerError::Lost { .. } | WorkerError::Takeover(TakeoverError::Deleted { .. }) => {
                Self::Stop
            }
            WorkerError::Append(_)
            | WorkerError::Journal(JournalError::Append(_))
            | WorkerError::Takeover(TakeoverError::Journal(JournalError::Append(_))) => {
                Self::NewAppender
            }
            WorkerError::Takeover(_)
            | WorkerError::Journal(_)
            | WorkerError::Registry(_)
            | WorkerError::Fenced { .. } => Self::Claim,
        }
    }
}
