//! Who runs which job: whoever takes it first in the registry, for as long as it goes on saying so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::Journal;
use hookline_model::limits::JOB_KEPT;
use hookline_model::time::{Clock, Millis};
use hookline_registry::{JobEntry, Registry, WriteError};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::metrics::JobsMetrics;
use super::runner::{Around, Runner, Trouble};
use crate::stage::{chain, told};

/// Jobs that one process runs at the same time.
const AT_ONCE: usize = 4;
/// How often it is looked for jobs that others have let go without a word.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for jobs that were over long ago.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A job that met trouble is left alone for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long runners have to say how far they came when the stage is to stop.
const STOP_WITHIN: Duration = Duration::from_millis(1800);

/// How the jobs are run.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// What topic names begin with.
    pub prefix: String,
    /// This process, for people and in leases; no two may have the same name.
    pub worker: String,
}

/// What the jobs cannot begin with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// Metrics could not be registered.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// The stage.
pub struct Jobs {
    around: Arc<Around>,
}

/// A project and an id.
type Key = (Arc<str>, Arc<str>);

struct Supervisor {
    around: Arc<Around>,
    stop: watch::Receiver<bool>,
    running: JoinSet<Result<(), Trouble>>,
    ours: HashMap<Id, Key>,
    /// Those that met trouble, and when.
    resting: HashMap<Key, Instant>,
    taken: u64,
    tidied: Instant,
}

impl Jobs {
    /// The stage over this journal.
    ///
    /// # Errors
    /// When a metric of its name is there already.
    pub fn new(
        config: JobsConfig,
        journal: Arc<dyn Journal>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        metrics: &prometheus::Registry,
    ) -> Result<Self, JobsError> {
        Ok(Self {
            around: Arc::new(Around {
                prefix: config.prefix,
                worker: config.worker,
                journal,
                registry,
                clock,
                metrics: JobsMetrics::new(metrics)?,
            }),
        })
    }

    /// Takes and runs jobs until told to stop. What goes wrong is logged and tried again.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.around.registry.changes();
        let mut supervisor = Supervisor {
            around: self.around,
            stop: stop.clone(),
            running: JoinSet::new(),
            ours: HashMap::new(),
            resting: HashMap::new(),
            taken: 0,
            tidied: Instant::now(),
        };
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = told(&mut stop) => break,
                Some(ended) = supervisor.running.join_next_with_id() => supervisor.ended(ended),
                Ok(()) = changes.changed() => {
                    changes.mark_unchanged();
                    supervisor.look().await;
                }
                _ = ticks.tick() => {
                    supervisor.look().await;
                    supervisor.tidy().await;
                }
            }
        }
        supervisor.leave().await;
    }
}

impl Supervisor {
    /// Takes jobs that nobody has, the earliest first, as far as there is room.
    async fn look(&mut self) {
        self.resting
            .retain(|_, since| since.elapsed() < AGAIN_AFTER);
        let snapshot = self.around.registry.snapshot();
        let now = self.around.clock.now();
        let free = |entry: &&Arc<JobEntry>| {
            let key = key(entry);
            entry.job.is_free(now)
                && !self.resting.contains_key(&key)
                && !self.ours.values().any(|ours| *ours == key)
        };
        let mut free: Vec<_> = snapshot.all_jobs().filter(free).cloned().collect();
        free.sort_by(|a, b| a.id.cmp(&b.id));
        for entry in free {
            if self.ours.len() >= AT_ONCE || *self.stop.borrow() {
                return;
            }
            self.take(&entry, now).await;
        }
    }

    async fn take(&mut self, entry: &JobEntry, now: Millis) {
        self.taken += 1;
        let worker = &self.around.worker;
        let token = format!("{worker}/{}/{}", now.0, self.taken);
        let mut took = false;
        let registry = &self.around.registry;
        let taking = registry.change_job(&entry.project, &entry.id, |job| {
            took = job.take(worker, &token, now);
        });
        match taking.await {
            Ok(taken) if took => self.start(taken, token),
            // Somebody was faster.
            Ok(_) | Err(WriteError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(
                    job = &*entry.id,
                    error = chain(&error),
                    "a job could not be taken"
                );
                self.resting.insert(key(entry), Instant::now());
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the set is this stage's own, and drained before `run` returns"
    )]
    fn start(&mut self, entry: JobEntry, token: String) {
        let (read, all) = entry.job.read_of();
        tracing::info!(
            job = &*entry.id,
            project = &*entry.project,
            kind = entry.job.kind.as_str(),
            read,
            all,
            "a job begins or goes on"
        );
        let key = key(&entry);
        let runner = Runner {
            around: Arc::clone(&self.around),
            project: entry.project,
            id: entry.id,
            token,
            job: entry.job,
        };
        let handle = self.running.spawn(runner.run(self.stop.clone()));
        self.ours.insert(handle.id(), key);
        self.count();
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), Trouble>), JoinError>) {
        let (id, trouble) = match ended {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(trouble))) => (id, Some(chain(&trouble))),
            Err(error) => (error.id(), Some(error.to_string())),
        };
        let key = self.ours.remove(&id);
        self.count();
        let (Some(key), Some(error)) = (key, trouble) else {
            return;
        };
        tracing::warn!(
            job = &*key.1,
            error,
            "a job met trouble; it goes on from where the registry says it is"
        );
        self.resting.insert(key, Instant::now());
    }

    fn count(&self) {
        let running = i64::try_from(self.ours.len()).unwrap_or(i64::MAX);
        self.around.metrics.running.set(running);
    }

    /// Forgets jobs that were over long ago.
    async fn tidy(&mut self) {
        if self.tidied.elapsed() < TIDY_EVERY {
            return;
        }
        self.tidied = Instant::now();
        let now = self.around.clock.now();
        let snapshot = self.around.registry.snapshot();
        let old = snapshot.all_jobs().filter(|entry| {
            let finished = entry.job.finished_at_ms;
            finished.is_some_and(|at| now.since(Millis(at)) > JOB_KEPT)
        });
        for entry in old {
            let deleted = self.around.registry.delete_job(&entry.project, &entry.id);
            match deleted.await {
                Ok(_) | Err(WriteError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::debug!(error = chain(&error), "an old job was not forgotten now");
                    return;
                }
            }
        }
    }

    /// Lets the runners say how far they came; they were told with the stage.
    async fn leave(mut self) {
        let drain = async { while self.running.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, drain).await.is_err() {
            tracing::warn!(
                "jobs were left without a last word; they go on elsewhere when their leases have ended"
            );
            self.running.shutdown().await;
        }
    }
}

fn key(entry: &JobEntry) -> Key {
    (Arc::clone(&entry.project), Arc::clone(&entry.id))
}
