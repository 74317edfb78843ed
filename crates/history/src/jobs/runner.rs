//! One job, from where the registry says it is to its end.

use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{
    AppendError, Appended, Appender, Batch, Journal, JournalError, ReadBudget, ReadError, Reader,
    append_when_room,
};
use hookline_model::job::{Job, JobReport, Standing};
use hookline_model::time::Clock;
use hookline_model::topics::Topic;
use hookline_registry::{FollowError, Registry, Snapshot, WriteError};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::flight::{Flight, Reached, Seen};
use super::metrics::JobsMetrics;
use super::pick::{Origin, goes_to, pick, started_over};
use super::ranges::source;
use crate::stage::told;

/// Records taken at once; the registry's end is asked for once for each such batch.
const BATCH_MAX: usize = 500;
/// What a reader may hold that was not taken yet.
const BUDGET: ReadBudget = ReadBudget::of(2 * 1024 * 1024);
/// Appends on their way, and their bytes: a batch more than this at most.
const FLYING_MAX: usize = 2_000;
/// See [`FLYING_MAX`].
const FLYING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often the registry is told how far the job is.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Deliveries of a partition that are recognised when they come again.
const SEEN_MAX: usize = 200_000;
/// How long what is on its way is waited for when the job is left.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// What all runners of a process share.
pub(crate) struct Around {
    pub(crate) prefix: String,
    pub(crate) worker: String,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: JobsMetrics,
}

/// A job that this process has taken.
pub(crate) struct Runner {
    pub(crate) around: Arc<Around>,
    pub(crate) project: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) token: String,
    /// As it was when it was taken; counts and positions are kept up.
    pub(crate) job: Job,
}

/// How a runner came to leave its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the end of the partition, or of the job.
    Through,
    /// It is paused, over, gone, or somebody else's.
    Dismissed,
    /// The process stops.
    Stopped,
}

/// Why a job cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// It may pass: whoever takes it next begins where the registry says it is.
    #[error("the journal failed")]
    Journal(#[from] JournalError),
    /// As before; its appender stores nothing more.
    #[error("an append failed")]
    Append(#[from] AppendError),
    /// As before.
    #[error("the registry cannot be followed")]
    Registry(#[from] FollowError),
    /// It will not pass by itself.
    #[error("{0}")]
    ForGood(String),
}

type Answer = oneshot::Receiver<Result<Appended, AppendError>>;

/// The work on one partition.
struct Source {
    index: usize,
    topic: String,
    partition: u32,
    /// Below, records were dealt with before; they are looked at to recognise what comes again.
    from: u64,
    end: u64,
    seen: Seen,
    flight: Flight<Answer>,
    reader: Box<dyn Reader>,
}

impl Runner {
    /// Runs it until it is through, or there is a reason to leave it. Says what was wrong, where that may pass.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Trouble> {
        let done = self.work(&mut stop).await;
        let (token, now) = (self.token.clone(), self.around.clock.now());
        let (word, result) = match done {
            Ok(Way::Through) => {
                self.change(|job| job.finish(&token, now)).await;
                ("done", Ok(()))
            }
            Ok(Way::Dismissed) => ("left", Ok(())),
            Ok(Way::Stopped) => {
                self.change(|job| job.release(&token)).await;
                ("given back", Ok(()))
            }
            Err(Trouble::ForGood(reason)) => {
                tracing::error!(job = &*self.id, reason, "a job failed");
                self.change(|job| job.fail(&token, &reason, now)).await;
                ("failed", Ok(()))
            }
            Err(trouble) => {
                self.change(|job| job.release(&token)).await;
                ("given back", Err(trouble))
            }
        };
        let counts = self.job.counts;
        tracing::info!(
            job = &*self.id,
            project = &*self.project,
            matched = counts.matched,
            written = counts.written,
            skipped = counts.skipped,
            repeated = counts.repeated,
            missed = counts.missed,
            "a job was {word}"
        );
        result
    }

    /// A last word to the registry. Where it is not taken, the lease ends by itself.
    async fn change(&self, edit: impl FnMut(&mut Job) + Send) {
        let registry = &self.around.registry;
        let changed = registry.change_job(&self.project, &self.id, edit).await;
        if let Err(error) = changed {
            tracing::warn!(job = &*self.id, %error, "what became of a job was not noted; it goes on from where it was noted last");
        }
    }

    async fn work(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Way, Trouble> {
        let appender = tokio::select! {
            biased;
            () = told(stop) => return Ok(Way::Stopped),
            appender = self.around.journal.appender("jobs") => appender?,
        };
        for index in 0..self.job.partitions.len() {
            let part = self.job.partitions[index];
            if part.position >= part.end {
                continue;
            }
            let source = tokio::select! {
                biased;
                () = told(stop) => return Ok(Way::Stopped),
                source = self.open(index) => source?,
            };
            let way = self.partition(source, &*appender, stop).await?;
            if way != Way::Through {
                return Ok(way);
            }
        }
        Ok(Way::Through)
    }

    async fn open(&self, index: usize) -> Result<Source, Trouble> {
        let part = self.job.partitions[index];
        let topic = source(self.job.kind).name(&self.around.prefix);
        let back = part.position.saturating_sub(SEEN_MAX as u64);
        let mut at = back.max(part.start);
        let start = self.around.journal.start(&topic, part.partition).await?;
        // What is gone and was dealt with is missed by nobody.
        at = at.max(start.min(part.position));
        let reader = self
            .around
            .journal
            .reader(&topic, part.partition, at, BUDGET);
        Ok(Source {
            index,
            reader: reader.await?,
            topic,
            partition: part.partition,
            from: part.position,
            end: part.end,
            seen: Seen::new(SEEN_MAX),
            flight: Flight::at(Reached {
                position: part.position,
                counts: self.job.counts,
            }),
        })
    }

    /// Reads a partition to its end, as the job sees it. However it ends, the registry is told how far everything is acknowledged.
    async fn partition(
        &mut self,
        mut source: Source,
        appender: &dyn Appender,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Way, Trouble> {
        let done = self.read(&mut source, appender, stop).await;
        if !matches!(done, Err(Trouble::Append(_)))
            && timeout(DRAIN_MAX, drain(&mut source.flight)).await.is_err()
        {
            tracing::warn!(
                job = &*self.id,
                "what was on its way was not acknowledged in time; it will be repeated, and recognised"
            );
        }
        let standing = self.report(source.index, source.flight.reached()).await;
        match (done?, standing) {
            // Told to stop and dismissed at once: there is nothing to give back.
            (_, Standing::Told | Standing::Lost) => Ok(Way::Dismissed),
            (way, Standing::Ours) => Ok(way),
        }
    }

    async fn read(
        &mut self,
        source: &mut Source,
        appender: &dyn Appender,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Way, Trouble> {
        let mut changes = self.around.registry.changes();
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once, and there is nothing to say yet.
        ticks.tick().await;
        loop {
            let read = source.flight.read().position;
            if source.flight.reached().position >= source.end {
                return Ok(Way::Through);
            }
            let reading = read < source.end && source.flight.has_room(FLYING_MAX, FLYING_BYTES_MAX);
            tokio::select! {
                biased;
                () = told(stop) => return Ok(Way::Stopped),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(Way::Stopped);
                    }
                    if self.dismissed(&changes.borrow_and_update()) {
                        return Ok(Way::Dismissed);
                    }
                }
                _ = ticks.tick() => {
                    if self.report(source.index, source.flight.reached()).await != Standing::Ours {
                        return Ok(Way::Dismissed);
                    }
                }
                answer = answered(&mut source.flight) => {
                    answer?;
                    source.flight.acknowledged();
                }
                batch = source.reader.next(BATCH_MAX), if reading => match batch {
                    Ok(batch) => self.batch(source, batch, appender).await?,
                    Err(ReadError::Deleted { start, .. }) => self.missed(source, start).await?,
                    Err(error @ ReadError::BeyondEnd { .. }) => {
                        return Err(Trouble::ForGood(format!("{error}: the topic was made anew or cut")));
                    }
                    Err(error) => return Err(JournalError::from(error).into()),
                },
            }
        }
    }

    /// Whether the registry says, as far as it has been read, that the job is not ours any more.
    fn dismissed(&self, snapshot: &Snapshot) -> bool {
        let Some(entry) = snapshot.job(&self.project, &self.id) else {
            return true;
        };
        entry.job.standing(&self.token) != Standing::Ours
    }

    /// Deals with records, in order.
    async fn batch(
        &mut self,
        source: &mut Source,
        batch: Batch,
        appender: &dyn Appender,
    ) -> Result<(), Trouble> {
        let around = Arc::clone(&self.around);
        if !batch.records.is_empty() {
            let snapshot = around.registry.refresh().await?;
            let Some(layout) = snapshot.layout().cloned() else {
                return Err(Trouble::ForGood("the registry holds no layout".into()));
            };
            let deliveries = Topic::Deliveries.name(&around.prefix);
            for record in batch.records.iter().take_while(|r| r.offset < source.end) {
                let picked = pick(&self.project, &self.job, record, &snapshot);
                let new = match &picked {
                    Ok(Some(picked)) => source.seen.note(picked.delivery),
                    _ => false,
                };
                if record.offset < source.from {
                    continue;
                }
                around.metrics.records.inc();
                let mut reached = Reached {
                    position: record.offset + 1,
                    counts: source.flight.read().counts,
                };
                let counts = &mut reached.counts;
                let picked = match picked {
                    Ok(picked) => picked,
                    Err(problem) => {
                        tracing::warn!(
                            job = &*self.id,
                            topic = source.topic,
                            partition = source.partition,
                            offset = record.offset,
                            problem,
                            "a job passes over a record that cannot be read"
                        );
                        counts.missed += 1;
                        None
                    }
                };
                let wanted = picked.inspect(|_| counts.matched += 1);
                let sent = match wanted {
                    None => None,
                    Some(_) if !new => {
                        counts.repeated += 1;
                        None
                    }
                    Some(picked) => match goes_to(&snapshot, picked.webhook) {
                        Some(webhook) => Some((picked, webhook)),
                        None => {
                            counts.skipped += 1;
                            None
                        }
                    },
                };
                let Some((picked, webhook)) = sent else {
                    source.flight.pass(reached);
                    continue;
                };
                counts.written += 1;
                let origin = Origin {
                    job: &self.id,
                    partition: source.partition,
                    offset: record.offset,
                    registry_offset: snapshot.offset,
                };
                let started = started_over(picked, webhook, origin);
                let bytes = started.value.as_ref().map_or(0, bytes::Bytes::len);
                let (tell, answer) = oneshot::channel();
                let done = Box::new(move |result| drop(tell.send(result)));
                let partition = webhook.partition(layout.partitions);
                append_when_room(appender, &deliveries, partition, started, done).await?;
                around.metrics.deliveries.inc();
                source.flight.push(reached, bytes, answer);
                hookline_model::fail_point!("jobs-handed");
            }
        }
        let mut reached = source.flight.read();
        reached.position = reached.position.max(batch.next.min(source.end));
        source.flight.pass(reached);
        Ok(())
    }

    /// Records were deleted before they were read: age took them, as it takes all.
    async fn missed(&mut self, source: &mut Source, start: u64) -> Result<(), Trouble> {
        let mut reached = source.flight.read();
        let goes_on = start.max(source.reader.position());
        let there = goes_on.min(source.end);
        let missed = there.saturating_sub(reached.position);
        if missed > 0 {
            tracing::warn!(
                job = &*self.id,
                topic = source.topic,
                partition = source.partition,
                from = reached.position,
                to = there,
                "a job goes on behind records that were deleted before it read them"
            );
            reached.counts.missed += missed;
            reached.position = there;
            source.flight.pass(reached);
        }
        let (topic, partition) = (&source.topic, source.partition);
        let reader = self
            .around
            .journal
            .reader(topic, partition, goes_on, BUDGET);
        source.reader = reader.await?;
        Ok(())
    }

    /// Tells the registry how far everything is acknowledged, and learns whether the job is still ours.
    async fn report(&mut self, index: usize, reached: Reached) -> Standing {
        let report = JobReport {
            index,
            position: reached.position,
            counts: reached.counts,
        };
        self.job.partitions[index].position = reached.position;
        self.job.counts = reached.counts;
        let now = self.around.clock.now();
        let (mut standing, token) = (Standing::Lost, &self.token);
        let changed = self
            .around
            .registry
            .change_job(&self.project, &self.id, |job| {
                standing = job.report(token, &report, now);
            })
            .await;
        hookline_model::fail_point!("jobs-reported");
        match changed {
            Ok(_) => standing,
            Err(WriteError::NotFound { .. }) => Standing::Lost,
            Err(error) => {
                // The next one says it, too; until then the lease may end, and another may do again what is recognised as a repeat.
                tracing::warn!(job = &*self.id, %error, "how far a job is was not noted");
                Standing::Ours
            }
        }
    }
}

/// Resolves with the fate of the append that was handed over first; never, when none is on its way. Cancel safe.
async fn answered(flight: &mut Flight<Answer>) -> Result<(), Trouble> {
    let Some(answer) = flight.front() else {
        return std::future::pending().await;
    };
    match answer.await.unwrap_or(Err(AppendError::Closed)) {
        Ok(_) => Ok(()),
        Err(error @ (AppendError::TooLarge { .. } | AppendError::NoPartition { .. })) => {
            Err(Trouble::ForGood(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for everything that is on its way, as far as it goes well.
async fn drain(flight: &mut Flight<Answer>) {
    while flight.front().is_some() {
        if answered(flight).await.is_err() {
            return;
        }
        flight.acknowledged();
    }
}
