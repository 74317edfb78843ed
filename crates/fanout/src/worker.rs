//! One partition of `events`: read, decide, append, and commit what is done.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hookline_journal::{
    AppendError, Appender, Batch, Committed, Committer, JournalError, ReadBudget, ReadError,
    Record, RevokeGuard, StoredRecord, TopicPartition, append_when_room,
};
use hookline_model::event::{self, Input};
use hookline_model::wire;
use hookline_registry::{FollowError, Layout, Snapshot};
use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::floor::Ticket;
use crate::identity::IdentityWindow;
use crate::metrics::EventResult;
use crate::plan::{Origin, Planner, Target};
use crate::progress::Progress;
use crate::rejected::{self, Reason};
use crate::sieve::Sieve;
use crate::stage::Shared;
use crate::{BATCH_MAX, COMMIT_EVERY, DRAIN_MAX};

/// What a reader may hold that was not taken yet.
const BUDGET: ReadBudget = ReadBudget::of(1024 * 1024);
/// Before a partition is begun anew after trouble that may pass: at first, and at most.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Asks a worker to finish what is on its way and end. The guard, where there is one, is held until it has.
pub(crate) type Stop = Option<Arc<RevokeGuard>>;

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It may pass: begin anew where it was committed.
    #[error("the journal failed")]
    Journal(#[from] JournalError),
    /// Its appender stores nothing more: begin anew with another.
    #[error("an append failed")]
    Append(#[from] AppendError),
    /// It will not pass by itself.
    #[error("{problem}: {remedy}")]
    Alarm {
        problem: String,
        remedy: &'static str,
    },
    /// Nobody can go on.
    #[error("the registry cannot be followed")]
    Registry(FollowError),
}

const DELETED: &str = "events were deleted before they were fanned out; to go on with what is left, commit its first offset for the group";
const MADE_ANEW: &str = "the topic was made anew or cut; to accept that, raise its generation in the layout and reset the group's offset";

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        let remedy = match error {
            ReadError::Deleted { .. } => DELETED,
            ReadError::BeyondEnd { .. } => MADE_ANEW,
            _ => return Self::Journal(error.into()),
        };
        Self::Alarm {
            problem: error.to_string(),
            remedy,
        }
    }
}

impl From<FollowError> for Trouble {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Journal(error) => Self::Journal(error),
            other => Self::Registry(other),
        }
    }
}

/// A partition, from its assignment to its end.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) place: TopicPartition,
    pub(crate) committer: Arc<dyn Committer>,
}

impl Worker {
    /// Works until it is told to stop. Begins anew after trouble that may pass; after an alarm it only waits for the end.
    pub(crate) async fn run(self, mut stop: oneshot::Receiver<Stop>) -> Result<(), FollowError> {
        let (mut pause, mut reached) = (PAUSE, 0);
        let _age = Forget(&self);
        loop {
            let before = reached;
            let trouble = match self.work(&mut stop, &mut reached).await {
                Ok(_guard) => return Ok(()),
                Err(trouble) => trouble,
            };
            let partition = self.place.partition;
            match trouble {
                Trouble::Registry(error) => return Err(error),
                Trouble::Alarm { .. } => {
                    tracing::error!(events.partition = partition, error = %trouble, "the fan-out of a partition has stopped");
                    let _stopped = Stopped::new(&self.shared.metrics.stopped);
                    let _guard = stop.await;
                    return Ok(());
                }
                Trouble::Journal(_) | Trouble::Append(_) => {
                    let cause = std::error::Error::source(&trouble).map(ToString::to_string);
                    tracing::warn!(events.partition = partition, error = %trouble, cause, "the fan-out of a partition begins anew where it was committed");
                }
            }
            if reached > before {
                pause = PAUSE;
            }
            tokio::select! {
                biased;
                _guard = &mut stop => return Ok(()),
                () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    /// Works until it is told to stop, and then finishes what is on its way.
    /// `reached` is how far everything is done at the end.
    async fn work(
        &self,
        stop: &mut oneshot::Receiver<Stop>,
        reached: &mut u64,
    ) -> Result<Stop, Trouble> {
        let (mut session, from) = tokio::select! {
            biased;
            guard = &mut *stop => return Ok(guard.unwrap_or_default()),
            begun = self.begin() => begun?,
        };
        let journal = &self.shared.journal;
        let place = &self.place;
        let mut reader = journal
            .reader(&place.topic, place.partition, from, BUDGET)
            .await?;
        let mut ticks = interval(COMMIT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut commits = Commits::new(self, from);
        let result = loop {
            tokio::select! {
                biased;
                guard = &mut *stop => break Ok(guard.unwrap_or_default()),
                error = session.progress.failed() => {
                    self.shared.renew(&session.appender).await;
                    break Err(error.into());
                }
                () = commits.answered() => {}
                _ = ticks.tick() => {
                    commits.send(session.progress.position());
                    self.shared.note_age(place.partition, session.progress.oldest_ms());
                }
                batch = reader.next(BATCH_MAX) => {
                    let (done, guard) = finish(session.batch(batch?), stop).await;
                    if matches!(done, Err(Trouble::Append(_))) {
                        self.shared.renew(&session.appender).await;
                    }
                    match (guard, done) {
                        // Told to stop, it stops, whatever else there is to say.
                        (Some(guard), _) => break Ok(guard),
                        (None, Err(trouble)) => break Err(trouble),
                        (None, Ok(())) => {}
                    }
                }
            }
        };
        hookline_model::fail_point!("fanout-draining");
        // What was acknowledged is committed in either case; after a stop, what is on its way is waited for.
        if result.is_ok()
            && timeout(DRAIN_MAX, session.progress.settled())
                .await
                .is_err()
        {
            tracing::warn!(
                events.partition = place.partition,
                "what was on its way was not acknowledged in time; it will be repeated, and recognised"
            );
        }
        *reached = session.progress.position();
        commits.finish(*reached).await;
        self.shared.note_age(place.partition, None);
        result
    }

    /// Finds where to go on, and learns which identities were seen before.
    async fn begin(&self) -> Result<(Session<'_>, u64), Trouble> {
        let from = self.position().await?;
        let seen = self.seen_before(from).await?;
        let appender = self.shared.appender().await?;
        let session = Session {
            worker: self,
            appender,
            progress: Progress::at(from),
            seen,
            planner: Planner::default(),
        };
        Ok((session, from))
    }

    /// What was committed; at first the start of the log.
    async fn position(&self) -> Result<u64, Trouble> {
        let (journal, place) = (&self.shared.journal, &self.place);
        let committed = journal
            .committed(&self.shared.group, std::slice::from_ref(place))
            .await?;
        let start = journal.start(&place.topic, place.partition).await?;
        let Some(committed) = committed.into_iter().next().flatten() else {
            return Ok(start);
        };
        let position = committed.offset;
        let name = format!("{}[{}]", place.topic, place.partition);
        if position < start {
            return Err(Trouble::Alarm {
                problem: format!("{name} begins at {start}, but {position} was committed"),
                remedy: DELETED,
            });
        }
        let end = journal.end(&place.topic, place.partition).await?;
        if position > end {
            return Err(Trouble::Alarm {
                problem: format!("{name} ends at {end}, but {position} was committed"),
                remedy: MADE_ANEW,
            });
        }
        Ok(position)
    }

    /// Reads back the identities of the window below `from`.
    async fn seen_before(&self, from: u64) -> Result<IdentityWindow, Trouble> {
        let (journal, place) = (&self.shared.journal, &self.place);
        let size = self.shared.config.identity_window;
        let mut seen = IdentityWindow::new(size);
        let start = journal.start(&place.topic, place.partition).await?;
        let back = start.max(from.saturating_sub(size as u64));
        if back >= from {
            return Ok(seen);
        }
        let snapshot = self.shared.registry.refresh().await?;
        let mut reader = journal
            .reader(&place.topic, place.partition, back, BUDGET)
            .await?;
        while reader.position() < from {
            let batch = match reader.next(BATCH_MAX).await {
                Ok(batch) => batch,
                // Age took them meanwhile. They were fanned out, so that is no reason for an alarm.
                Err(ReadError::Deleted { start, .. }) => {
                    let back = start.min(from);
                    let (topic, partition) = (&place.topic, place.partition);
                    reader = journal.reader(topic, partition, back, BUDGET).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            hookline_model::fail_point!("fanout-reading-back");
            for record in batch.records.iter().take_while(|r| r.offset < from) {
                // What was rejected is not counted as seen: it may come again once its project exists.
                if let Ok(event) = self.read(record)
                    && snapshot.project(&event.project).is_some()
                {
                    seen.note(&event.project, &event.source, &event.id);
                }
            }
        }
        tracing::debug!(
            events.partition = place.partition,
            identities = seen.len(),
            "read back"
        );
        Ok(seen)
    }

    fn read(&self, record: &StoredRecord) -> Result<wire::Event, Reason> {
        let input = Input {
            key: record.key.as_deref(),
            value: record.value.as_ref(),
            headers: &record.headers,
        };
        event::parse(input, self.shared.config.event_bytes_max).map_err(|unreadable| Reason {
            word: unreadable.reason,
            detail: unreadable.detail,
        })
    }
}

/// Finishes a batch. Told to stop meanwhile, it gets a little longer: what it left out would be begun anew by somebody else.
async fn finish(
    batch: impl Future<Output = Result<(), Trouble>>,
    stop: &mut oneshot::Receiver<Stop>,
) -> (Result<(), Trouble>, Option<Stop>) {
    let mut batch = std::pin::pin!(batch);
    tokio::select! {
        biased;
        done = &mut batch => (done, None),
        guard = stop => {
            let done = timeout(DRAIN_MAX, batch).await.unwrap_or(Ok(()));
            (done, Some(guard.unwrap_or_default()))
        }
    }
}

/// However a worker ends, its age is no longer told.
struct Forget<'a>(&'a Worker);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.shared.note_age(self.0.place.partition, None);
    }
}

/// Counts a partition that has stopped, as long as it is ours.
struct Stopped<'a>(&'a IntGauge);

impl<'a> Stopped<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a strict project does not take an event.
fn undescribed(event: &wire::Event, snapshot: &Snapshot) -> Option<Reason> {
    let json = event::is_json(&event.data_content_type);
    let errors = snapshot.refusals(&event.project, &event.r#type, &event.data, json);
    if errors.is_empty() {
        return None;
    }
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Some(Reason {
        word: "not_described",
        detail: told.join("; "),
    })
}

/// The work on a partition with one appender.
struct Session<'a> {
    worker: &'a Worker,
    appender: Arc<dyn Appender>,
    progress: Arc<Progress>,
    seen: IdentityWindow,
    planner: Planner,
}

impl Session<'_> {
    async fn batch(&mut self, batch: Batch) -> Result<(), Trouble> {
        let shared = &self.worker.shared;
        if !batch.records.is_empty() {
            hookline_model::fail_point!("fanout-polled");
            shared.metrics.batch.observe(batch.records.len() as f64);
            let snapshot = shared.registry.refresh().await?;
            let Some(layout) = snapshot.layout().cloned() else {
                return Err(Trouble::Journal(JournalError::Failed {
                    what: "fanning out".into(),
                    reason: "the registry holds no layout yet: run `hookline topics create`".into(),
                }));
            };
            for record in &batch.records {
                self.event(record, &snapshot, &layout).await?;
            }
        }
        self.progress.read_to(batch.next);
        Ok(())
    }

    async fn event(
        &mut self,
        record: &StoredRecord,
        snapshot: &Snapshot,
        layout: &Layout,
    ) -> Result<(), Trouble> {
        let ticket = self.progress.begin(record.offset, record.timestamp_ms);
        let read = self.worker.read(record).and_then(|event| {
            let undescribed = undescribed(&event, snapshot);
            undescribed.map_or(Ok(event), Err)
        });
        let result = match read {
            Err(reason) => self.reject(record, reason, layout, ticket).await?,
            Ok(event) if snapshot.project(&event.project).is_none() => {
                let reason = Reason {
                    word: "unknown_project",
                    detail: format!("there is no project {:?}", event.project),
                };
                self.reject(record, reason, layout, ticket).await?
            }
            Ok(event) if !self.seen.note(&event.project, &event.source, &event.id) => {
                EventResult::Repeated
            }
            Ok(event) => {
                self.fan_out(record, &event, snapshot, layout, ticket)
                    .await?
            }
        };
        self.worker.shared.metrics.count(result);
        self.progress.planned(ticket);
        Ok(())
    }

    async fn fan_out(
        &mut self,
        record: &StoredRecord,
        event: &wire::Event,
        snapshot: &Snapshot,
        layout: &Layout,
        ticket: Ticket,
    ) -> Result<EventResult, Trouble> {
        let shared = &self.worker.shared;
        let origin = Origin {
            partition: self.worker.place.partition,
            offset: record.offset,
            generation: layout.generation("events"),
            registry_offset: snapshot.offset,
            accepted_at_ms: record.timestamp_ms,
        };
        let matching = snapshot.matching(&event.project, &event.r#type);
        let data = OnceLock::new();
        let sieve = Sieve::new(shared, event, &data);
        let wanted = matching.filter(|webhook| sieve.wants(webhook));
        let targets = wanted.map(|webhook| Target {
            uid: webhook.uid,
            epoch: webhook.epoch,
            partition: webhook.partition(layout.partitions),
            ordered: webhook.settings.ordered,
        });
        let mut result = EventResult::Unmatched;
        for planned in self.planner.plan(event, origin, targets) {
            let stored = Record {
                key: None,
                value: Some(planned.value),
                headers: Vec::new(),
            };
            let done = self.progress.append(ticket);
            let topic = &shared.deliveries;
            append_when_room(&*self.appender, topic, planned.partition, stored, done).await?;
            hookline_model::fail_point!("fanout-handed");
            shared.metrics.deliveries.inc_by(planned.sends.into());
            result = EventResult::FannedOut;
        }
        Ok(result)
    }

    async fn reject(
        &mut self,
        record: &StoredRecord,
        reason: Reason,
        layout: &Layout,
        ticket: Ticket,
    ) -> Result<EventResult, Trouble> {
        let (shared, place) = (&self.worker.shared, &self.worker.place);
        tracing::debug!(
            events.partition = place.partition,
            offset = record.offset,
            reason = reason.word,
            "rejected"
        );
        let now = shared.clock.now();
        let rejected = rejected::record(&place.topic, place.partition, record, reason, now);
        let partition = place.partition % layout.partitions.max(1);
        let done = self.progress.append(ticket);
        append_when_room(&*self.appender, &shared.rejected, partition, rejected, done).await?;
        Ok(EventResult::Rejected)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<(), JournalError>> + Send>>;

/// Commits, one at a time, without keeping the work waiting.
struct Commits<'a> {
    worker: &'a Worker,
    committed: u64,
    asked: Option<(u64, Answer)>,
}

impl<'a> Commits<'a> {
    fn new(worker: &'a Worker, committed: u64) -> Self {
        Self {
            worker,
            committed,
            asked: None,
        }
    }

    /// Commits `position`, unless it stands there already or an earlier commit is not answered.
    fn send(&mut self, position: u64) {
        if position <= self.committed || self.asked.is_some() {
            return;
        }
        let committer = Arc::clone(&self.worker.committer);
        let place = self.worker.place.clone();
        let answer = Box::pin(async move {
            let position = Committed {
                offset: position,
                metadata: String::new(),
            };
            committer.commit(vec![(place, position)]).await
        });
        self.asked = Some((position, answer));
    }

    /// Resolves when a commit is answered; never, when none was sent. Cancel safe.
    async fn answered(&mut self) {
        let Some((position, answer)) = &mut self.asked else {
            return std::future::pending().await;
        };
        let result = answer.await;
        match result {
            Ok(()) => {
                hookline_model::fail_point!("fanout-committed");
                self.committed = *position;
            }
            // The next one takes it along; if nobody ever does, it is repeated, and recognised.
            Err(error) => {
                let partition = self.worker.place.partition;
                tracing::warn!(events.partition = partition, error = %error, "a commit failed");
            }
        }
        self.asked = None;
    }

    /// Sends what is left and waits for it, for a while.
    async fn finish(&mut self, position: u64) {
        let all = async {
            if self.asked.is_some() {
                self.answered().await;
            }
            self.send(position);
            if self.asked.is_some() {
                self.answered().await;
            }
        };
        if timeout(DRAIN_MAX, all).await.is_err() {
            let partition = self.worker.place.partition;
            tracing::warn!(
                events.partition = partition,
                "the last commit was not answered in time"
            );
        }
    }
}
