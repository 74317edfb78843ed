//! What runs, what happens when it fails, and in which order it stops. The only place that spawns.
//!
//! | task | on error or panic | when told to stop | stops in stage |
//! |---|---|---|---|
//! | `samples` | logged | aborted | 1 intake |
//! | `fanout` | started again, ever later | finishes, commits | 2 readers |
//! | `tiers` | started again, ever later | finishes, commits | 2 readers |
//! | `jobs` | started again, ever later | says how far each job is | 2 readers |
//! | `dispatch` | started again, ever later | drains what is in flight | 3 dispatch |
//! | `history` | started again, ever later | stores what it has read | 4 followers |
//! | `registry` | the process stops (its view would be out of date) | finishes | 4 followers |
//! | `receiver` | the process stops | aborted | 4 followers |
//! | `view` | logged | finishes (gives the terminal back) | 5 doors |
//! | `control` | the process stops | aborted | 5 doors |
//! | `http` | the process stops | finishes | 5 doors |
//!
//! A stage is told to stop when the one before has stopped, or has had its head start. What is not done when the whole grace is over is
//! aborted and named. A panic is an error, and counted.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hookline_model::limits;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::output::Chain;

/// From the first signal to the end of the process: the longest attempt, and five seconds for everything around it.
pub(crate) const GRACE: Duration = limits::DEADLINE_MAX.saturating_add(Duration::from_secs(5));

/// The first pause before a failed task is started again; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// The longest such pause: short, because what failed with the broker is to go on soon after it is back.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A task that ran for this long begins with the first pause again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// A kind of task; the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Publishes sample events.
    Samples,
    /// The role `fanout`.
    Fanout,
    /// The role `tiers`.
    Tiers,
    /// The role `jobs`.
    Jobs,
    /// The role `dispatch`.
    Dispatch,
    /// The role `history`.
    History,
    /// Follows the registry.
    Registry,
    /// The built-in receiver.
    Receiver,
    /// The live view.
    View,
    /// Other commands reach the embedded engine through it.
    Control,
    /// Metrics and health.
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnError {
    Stop,
    Restart,
    Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnCancel {
    Wait,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Intake,
    Readers,
    Dispatch,
    Followers,
    Doors,
}

impl Stage {
    const ORDER: [Self; 5] = [
        Self::Intake,
        Self::Readers,
        Self::Dispatch,
        Self::Followers,
        Self::Doors,
    ];

    /// How long the next stage waits for this one.
    fn head_start(self) -> Duration {
        match self {
            Self::Intake | Self::Followers | Self::Doors => Duration::from_secs(1),
            // Time for the acknowledgements of a healthy broker; with a sick one the attempts in flight matter more.
            Self::Readers => Duration::from_secs(2),
            Self::Dispatch => GRACE.saturating_sub(Duration::from_secs(3)),
        }
    }
}

impl Kind {
    /// Its name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Fanout => "fanout",
            Self::Tiers => "tiers",
            Self::Jobs => "jobs",
            Self::Dispatch => "dispatch",
            Self::History => "history",
            Self::Registry => "registry",
            Self::Receiver => "receiver",
            Self::View => "view",
            Self::Control => "control",
            Self::Http => "http",
        }
    }

    fn policy(self) -> (OnError, OnCancel, Stage) {
        match self {
            Self::Samples => (OnError::Log, OnCancel::Abort, Stage::Intake),
            Self::Fanout | Self::Tiers | Self::Jobs => {
                (OnError::Restart, OnCancel::Wait, Stage::Readers)
            }
            Self::Dispatch => (OnError::Restart, OnCancel::Wait, Stage::Dispatch),
            Self::History => (OnError::Restart, OnCancel::Wait, Stage::Followers),
            Self::Registry => (OnError::Stop, OnCancel::Wait, Stage::Followers),
            Self::Receiver => (OnError::Stop, OnCancel::Abort, Stage::Followers),
            Self::View => (OnError::Log, OnCancel::Wait, Stage::Doors),
            Self::Control => (OnError::Stop, OnCancel::Abort, Stage::Doors),
            Self::Http => (OnError::Stop, OnCancel::Wait, Stage::Doors),
        }
    }
}

/// Turns true when a task shall stop.
pub(crate) type Stop = watch::Receiver<bool>;

/// Whatever made a task fail.
pub(crate) type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the future of a task, once for each start.
pub(crate) type Start = Box<dyn FnMut(Stop) -> BoxFuture<'static, Result<(), TaskError>> + Send>;

/// How a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// It failed and is about to be started again.
    Restarting(String),
    /// It failed for good.
    Failed(String),
    /// It has stopped.
    Stopped,
}

/// How all tasks are, for readiness.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<Kind, State>>);

impl Board {
    fn set(&self, kind: Kind, state: State) {
        self.0.lock().insert(kind, state);
    }

    /// All of them.
    pub(crate) fn states(&self) -> BTreeMap<Kind, State> {
        self.0.lock().clone()
    }
}

/// A task failed whose failure stops the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{task} failed: {reason}")]
pub(crate) struct Failure {
    /// Which.
    pub(crate) task: &'static str,
    /// Why.
    pub(crate) reason: String,
}

struct Running {
    kind: Kind,
    stop: watch::Sender<bool>,
    handle: JoinHandle<()>,
}

/// All tasks of the process.
pub(crate) struct Tasks {
    running: Vec<Running>,
    board: Arc<Board>,
    panics: prometheus::IntCounterVec,
    tell: mpsc::Sender<Failure>,
    told: mpsc::Receiver<Failure>,
}

impl Tasks {
    /// None yet. Panics are counted in `panics`, by task.
    pub(crate) fn new(panics: prometheus::IntCounterVec) -> Self {
        let (tell, told) = mpsc::channel(1);
        Self {
            running: Vec::new(),
            board: Arc::new(Board::default()),
            panics,
            tell,
            told,
        }
    }

    /// How they are.
    pub(crate) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Starts a task that can be started again.
    #[expect(clippy::disallowed_methods, reason = "this is the place that spawns")]
    pub(crate) fn start(&mut self, kind: Kind, start: Start) {
        let (stop, stopped) = watch::channel(false);
        let panics = self.panics.with_label_values(&[kind.as_str()]);
        self.board.set(kind, State::Running);
        let supervisor = Supervisor {
            kind,
            start,
            stop: stopped,
            board: self.board(),
            panics,
            tell: self.tell.clone(),
        };
        let handle = tokio::spawn(supervisor.run());
        self.running.push(Running { kind, stop, handle });
    }

    /// Starts a task that can be started only once: for kinds whose failure is logged or stops the process.
    pub(crate) fn start_once(
        &mut self,
        kind: Kind,
        start: impl FnOnce(Stop) -> BoxFuture<'static, Result<(), TaskError>> + Send + 'static,
    ) {
        let mut start = Some(start);
        self.start(
            kind,
            Box::new(move |stop| match start.take() {
                Some(start) => start(stop),
                None => Box::pin(async { Err("it cannot be started twice".into()) }),
            }),
        );
    }

    /// The next failure that stops the process. Cancel safe.
    pub(crate) async fn failed(&mut self) -> Failure {
        match self.told.recv().await {
            Some(failure) => failure,
            // `self` holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Stops everything in order, within `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut late: Vec<Running> = Vec::new();
        for stage in Stage::ORDER {
            let (mut these, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.running)
                .into_iter()
                .partition(|task| task.kind.policy().2 == stage);
            self.running = others;
            for task in &these {
                task.stop.send_replace(true);
                if task.kind.policy().1 == OnCancel::Abort {
                    task.handle.abort();
                }
            }
            let until = deadline.min(Instant::now() + stage.head_start());
            let all = futures::future::join_all(these.iter_mut().map(|task| &mut task.handle));
            if tokio::time::timeout_at(until, all).await.is_err() {
                late.extend(these.into_iter().filter(|task| !task.handle.is_finished()));
            }
        }
        for task in late.iter().filter(|task| !task.handle.is_finished()) {
            tracing::error!(
                task = task.kind.as_str(),
                "did not stop in time and was aborted; what it had not finished is done again by the next process"
            );
            task.handle.abort();
        }
    }
}

/// One task and its restarts.
struct Supervisor {
    kind: Kind,
    start: Start,
    stop: Stop,
    board: Arc<Board>,
    panics: prometheus::IntCounter,
    tell: mpsc::Sender<Failure>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            self.board.set(self.kind, State::Running);
            let began = Instant::now();
            let Some(reason) = self.once().await else {
                return self.board.set(self.kind, State::Stopped);
            };
            let task = self.kind.as_str();
            match self.kind.policy().0 {
                OnError::Log => {
                    tracing::error!(task, reason, "a task failed; the others go on");
                    return self.board.set(self.kind, State::Failed(reason));
                }
                OnError::Stop => {
                    tracing::error!(task, reason, "a task failed that nothing works without");
                    self.board.set(self.kind, State::Failed(reason.clone()));
                    // When there is no room, an earlier failure stops the process already.
                    drop(self.tell.try_send(Failure { task, reason }));
                    return;
                }
                OnError::Restart => {
                    if began.elapsed() >= HEALTHY_AFTER {
                        backoff = BACKOFF_FIRST;
                    }
                    tracing::error!(task, reason, again_in = ?backoff, "a task failed and will be started again");
                    self.board.set(self.kind, State::Restarting(reason));
                    if self.pause(backoff).await {
                        return self.board.set(self.kind, State::Stopped);
                    }
                    backoff = BACKOFF_MAX.min(backoff * 2);
                }
            }
        }
    }

    /// Runs it once. `None`: it was told to stop and did.
    async fn once(&mut self) -> Option<String> {
        let stop = self.stop.clone();
        // Making the future may panic as well as running it. Nothing of a task that panicked is used again.
        let start = &mut self.start;
        let run = AssertUnwindSafe(async move { start(stop).await });
        let ended = run.catch_unwind().await;
        // Told to, or the side that tells is gone because the process ends.
        let stopping = *self.stop.borrow() || self.stop.has_changed().is_err();
        let reason = match ended {
            Ok(Ok(())) if stopping => return None,
            Ok(Ok(())) => "it ended although nobody asked it to".to_owned(),
            Ok(Err(error)) => Chain(&*error).to_string(),
            Err(panic) => {
                self.panics.inc();
                format!("it panicked: {}", panic_text(&*panic))
            }
        };
        if stopping {
            tracing::error!(task = self.kind.as_str(), reason, "failed while stopping");
            return None;
        }
        Some(reason)
    }

    /// Waits. Whether it was told to stop meanwhile.
    async fn pause(&mut self, span: Duration) -> bool {
        // In time: told to stop, or the side that tells is gone.
        tokio::time::timeout(span, self.stop.wait_for(|stop| *stop))
            .await
            .is_ok()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}

#[cfg(test)]
mod tests;
