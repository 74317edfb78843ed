//! The stage: a member of the group, with a worker for each partition that the group suggests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{
    Appender, GroupSpec, Journal, JournalError, Member, MemberEvent, RevokeGuard, TopicPartition,
};
use hookline_model::time::{Clock, Millis};
use hookline_model::topics::Topic;
use hookline_registry::{FollowError, Registry};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};

use crate::metrics::FanoutMetrics;
use crate::sieve::Unanswered;
use crate::worker::{Stop, Worker};
use crate::{DRAIN_MAX, FanoutConfig, FanoutError};

/// Before the group is joined again.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// How often the age of the oldest event is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the workers share.
pub(crate) struct Shared {
    pub(crate) config: FanoutConfig,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: FanoutMetrics,
    pub(crate) group: String,
    pub(crate) deliveries: String,
    pub(crate) rejected: String,
    /// By partition: the time of the oldest event that is not done.
    pub(crate) ages: Mutex<BTreeMap<u32, i64>>,
    /// What is said of filters without an answer.
    pub(crate) unanswered: Unanswered,
    appender: tokio::sync::Mutex<Option<Arc<dyn Appender>>>,
}

impl Shared {
    /// The appender of all workers. One failed append ends it, and all of them begin anew with the next.
    pub(crate) async fn appender(&self) -> Result<Arc<dyn Appender>, JournalError> {
        let mut slot = self.appender.lock().await;
        match &mut *slot {
            Some(appender) => Ok(Arc::clone(appender)),
            none => Ok(Arc::clone(
                none.insert(self.journal.appender("fanout").await?),
            )),
        }
    }

    /// The next one asked for is another than `failed`.
    pub(crate) async fn renew(&self, failed: &Arc<dyn Appender>) {
        let mut slot = self.appender.lock().await;
        if slot.as_ref().is_some_and(|a| Arc::ptr_eq(a, failed)) {
            *slot = None;
        }
    }

    pub(crate) fn note_age(&self, partition: u32, oldest_ms: Option<i64>) {
        let mut ages = self.ages.lock();
        match oldest_ms {
            Some(at) => drop(ages.insert(partition, at)),
            None => drop(ages.remove(&partition)),
        }
    }

    fn tell_age(&self) {
        let oldest = self.ages.lock().values().min().copied();
        let age = oldest.map_or(Duration::ZERO, |at| self.clock.now().since(Millis(at)));
        self.metrics.oldest_seconds.set(age.as_secs_f64());
    }
}

/// The fan-out: turns events into deliveries.
pub struct Fanout {
    shared: Arc<Shared>,
}

/// A worker at work.
struct Running {
    stop: Option<oneshot::Sender<Stop>>,
    abort: AbortHandle,
}

/// How a membership ended.
enum Ended {
    /// As asked.
    Stopped,
    /// The group lost it: join again.
    Lost(JournalError),
}

type Done = (u32, Result<(), FollowError>);

/// The workers of one membership.
#[derive(Default)]
struct Workers {
    running: BTreeMap<u32, Running>,
    set: JoinSet<Done>,
}

impl Fanout {
    /// A fan-out that has not begun.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(
        config: FanoutConfig,
        journal: Arc<dyn Journal>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        metrics: &prometheus::Registry,
    ) -> Result<Self, FanoutError> {
        let prefix = &config.prefix;
        let shared = Shared {
            metrics: FanoutMetrics::new(metrics)?,
            group: format!("{prefix}fanout"),
            deliveries: Topic::Deliveries.name(prefix),
            rejected: Topic::Rejected.name(prefix),
            config,
            journal,
            registry,
            clock,
            ages: Mutex::default(),
            unanswered: Unanswered::default(),
            appender: tokio::sync::Mutex::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Works until `shutdown` says true or is gone; then finishes what is on its way, commits it and leaves the group.
    ///
    /// # Errors
    /// When it cannot go on: the process must not either.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) -> Result<(), FanoutError> {
        loop {
            let spec = GroupSpec {
                group: self.shared.group.clone(),
                topics: vec![Topic::Events.name(&self.shared.config.prefix)],
                session_timeout: self.shared.config.session_timeout,
                member: self.shared.config.worker.clone(),
            };
            let joined = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
                joined = self.shared.journal.join(spec) => joined,
            };
            let lost = match joined {
                Ok(mut member) => {
                    let mut workers = Workers::default();
                    let ended = self.member(&mut *member, &mut workers, &mut shutdown).await;
                    workers.set.shutdown().await;
                    match ended? {
                        Ended::Stopped => {
                            member.leave().await;
                            return Ok(());
                        }
                        Ended::Lost(error) => error,
                    }
                }
                Err(source @ JournalError::Setting { .. }) => {
                    let group = self.shared.group.clone();
                    return Err(FanoutError::Join { group, source });
                }
                Err(error) => error,
            };
            tracing::warn!(error = %lost, "the fan-out is not in its group, joining again");
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
                () = sleep(JOIN_PAUSE) => {}
            }
        }
    }

    /// One membership: starts and stops workers as the group suggests.
    async fn member(
        &self,
        member: &mut dyn Member,
        workers: &mut Workers,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Ended, FanoutError> {
        let mut tell = interval(TELL_EVERY);
        loop {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(joined) = workers.set.join_next_with_id() => workers.ended(joined)?,
                event = member.next() => match event {
                    Ok(event) => self.change(member, workers, event),
                    Err(error) => return Ok(Ended::Lost(error)),
                },
                _ = tell.tick() => self.shared.tell_age(),
            }
        }
        workers.stop_all();
        let drained = async {
            while !workers.set.is_empty() {
                tokio::select! {
                    biased;
                    Some(joined) = workers.set.join_next_with_id() => workers.ended(joined)?,
                    event = member.next() => match event {
                        Ok(MemberEvent::Lost(places)) => workers.abort(&places),
                        Ok(MemberEvent::Revoked(places, guard)) => workers.stop(&places, guard),
                        // Nothing is begun any more.
                        Ok(MemberEvent::Assigned(_)) => {}
                        Err(error) => {
                            tracing::warn!(error = %error, "the group was lost while stopping");
                            return Ok(());
                        }
                    },
                }
            }
            Ok(())
        };
        // Each worker bounds its own waiting; this is only in case one does not.
        match timeout(DRAIN_MAX * 3, drained).await {
            Ok(drained) => drained.map(|()| Ended::Stopped),
            Err(_) => Ok(Ended::Stopped),
        }
    }

    fn change(&self, member: &dyn Member, workers: &mut Workers, event: MemberEvent) {
        match event {
            MemberEvent::Assigned(places) => {
                for place in places {
                    tracing::info!(events.partition = place.partition, "fanning out");
                    let worker = Worker {
                        shared: Arc::clone(&self.shared),
                        place,
                        committer: member.committer(),
                    };
                    workers.start(worker);
                }
            }
            MemberEvent::Revoked(places, guard) => {
                hookline_model::fail_point!("fanout-revoked");
                workers.stop(&places, guard);
            }
            MemberEvent::Lost(places) => workers.abort(&places),
        }
    }
}

impl Workers {
    #[expect(
        clippy::disallowed_methods,
        reason = "the set belongs to one membership, which ends with all of its workers"
    )]
    fn start(&mut self, worker: Worker) {
        let partition = worker.place.partition;
        let (stop, stopped) = oneshot::channel();
        let abort = self
            .set
            .spawn(async move { (partition, worker.run(stopped).await) });
        let running = Running {
            stop: Some(stop),
            abort,
        };
        if let Some(before) = self.running.insert(partition, running) {
            // Given twice without being taken: whatever the first one repeats is recognised by its source.
            before.abort.abort();
        }
    }

    fn stop(&mut self, places: &[TopicPartition], guard: RevokeGuard) {
        let guard = Arc::new(guard);
        for place in places {
            self.stop_one(place.partition, Some(&guard));
        }
    }

    fn stop_all(&mut self) {
        let partitions: Vec<_> = self.running.keys().copied().collect();
        for partition in partitions {
            self.stop_one(partition, None);
        }
    }

    fn stop_one(&mut self, partition: u32, guard: Option<&Arc<RevokeGuard>>) {
        let running = self.running.get_mut(&partition);
        if let Some(stop) = running.and_then(|r| r.stop.take()) {
            // A worker that has ended already has nothing to finish.
            drop(stop.send(guard.cloned()));
        }
    }

    fn abort(&mut self, places: &[TopicPartition]) {
        for place in places {
            if let Some(running) = self.running.remove(&place.partition) {
                running.abort.abort();
            }
        }
    }

    fn ended(
        &mut self,
        joined: Result<(tokio::task::Id, Done), tokio::task::JoinError>,
    ) -> Result<(), FanoutError> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let of_this = |r: &Running| r.abort.id() == id;
        let partition = self
            .running
            .iter()
            .find(|(_, r)| of_this(r))
            .map(|(p, _)| *p);
        if let Some(partition) = partition {
            self.running.remove(&partition);
        }
        match joined {
            Ok((_, (_, result))) => result.map_err(FanoutError::Registry),
            Err(error) if error.is_cancelled() => Ok(()),
            Err(_) => Err(FanoutError::Panicked {
                partition: partition.unwrap_or_default(),
            }),
        }
    }
}
