//! The owner of one partition at work: a struct consumed by [`Worker::run`], one turn after another. A turn takes everything that has come, acts on what
//! has certainly counted, records what was judged, and only then starts something new.

mod away;
mod by_hand;
mod figures;
mod follow;
mod forget;
mod free;
mod old_end;
mod read;
mod record;

use record::ToWrite;
pub(crate) use record::Written;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hookline_journal::{
    AppendError, Appended, Appender, Batch, JournalError, ReadBudget, ReadError, Reader,
    append_when_room, read_until,
};
use hookline_model::core::claims::{Gap, OwnLog};
use hookline_model::core::partition::{Made, Partition, Ticket};
use hookline_model::ids::Position;
use hookline_model::outcome::Outcome;
use hookline_model::time::Millis;
use hookline_registry::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::attempt::{self, Judged, Prepared, Unit};
use crate::door::{Opened, WorkerDoor};
use crate::mailbox::Mailbox;
use crate::metrics::Share;
use crate::payload::Payload;
use crate::places::Place;
use crate::progress::{Over, ProgressLog};
use crate::records;
use crate::scan::{ScanBudget, Scanner};
use crate::shared::Shared;
use crate::takeover::{self, TakeoverError, Unfollowed};

/// Live records taken at once.
const LIVE_BATCH: usize = 128;
const LIVE_BUDGET: ReadBudget = ReadBudget::of(1024 * 1024);

/// With all places taken and this much waiting, reading on would only fill memory: nothing new could start anyway.
const ENOUGH_QUEUED: usize = 1_000;

/// Between two reads of the live edge when memory is short.
const CROWDED_STEP: Duration = Duration::from_millis(20);

/// How often, at most, what waits in place is asked whether it is still wanted.
const ASK_RESTING: Duration = Duration::from_secs(1);

/// How long a worker with nothing to do rests, at most: what only gets older tells nobody.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// How long a worker that lacks a place, a lease or reading budget waits before it looks again, at most.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// As long at most where only suspects lack a place: they are told when there is one.
const SUSPECTS_LOOK_AGAIN: Duration = Duration::from_millis(25);

/// What has happened.
pub(crate) enum Mail {
    /// An attempt was made and judged.
    Judged(Judged),
    /// A record of attempts is stored.
    Stored {
        sequence: u64,
        result: Result<Appended, AppendError>,
    },
    /// Something that follows from a send's attempt is done.
    Followed {
        position: Position,
        result: Result<(), AppendError>,
    },
    /// A run that somebody began stands in the log: that of the command at this offset.
    Started {
        offset: u64,
        result: Result<(), AppendError>,
    },
    /// Payloads of what is due again were read, as far as they were found.
    Fetched(Result<away::Fetched, TakeoverError>),
    /// A copy of what waits at the old end is stored.
    Copied {
        bytes: usize,
        result: Result<(), AppendError>,
    },
    /// A checkpoint is stored.
    Checkpoint {
        result: Result<Appended, AppendError>,
        index: usize,
    },
    /// Records are no longer needed, if no foreign claim stands below an end.
    Freeable(free::Freeable),
}

/// What the stage tells a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Work,
    /// Start nothing, wait for what is under way, store progress, end.
    Drain,
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("partition {partition}: a worker with the higher claim {epoch} has taken over")]
    Fenced { partition: u32, epoch: u64 },
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The registry can no longer be followed.
    #[error(transparent)]
    Registry(#[from] hookline_registry::FollowError),
    /// Records that had not been read are gone: a person must look.
    #[error("partition {partition}: {reason}")]
    Lost { partition: u32, reason: String },
}

/// The owner of one partition.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    p: u32,
    appender: Arc<dyn Appender>,
    partition: Partition<Payload>,
    log: OwnLog<Vec<Written>>,
    mailbox: Arc<Mailbox<Mail>>,
    taken: Vec<Mail>,
    /// To be written down next.
    to_write: Vec<ToWrite>,
    places: HashMap<Position, Place>,
    /// Batches whose beginning is being written down.
    beginning: HashMap<Position, Prepared>,
    by_hand: by_hand::ByHand,
    old_end: old_end::OldEnd,
    /// Payloads are being read again.
    fetching: bool,
    draining: bool,
    /// Something has changed since what waits in place was asked whether it is still wanted, at that time.
    ask_resting: bool,
    resting_asked: Millis,
    /// When the registry was asked last which jobs are over.
    jobs_asked: Millis,
    tasks: JoinSet<()>,
    live: Box<dyn Reader>,
    /// When a send from the live edge was last queued.
    live_queued_at: tokio::time::Instant,
    scanner: Scanner,
    scan_budget: ScanBudget,
    progress: ProgressLog,
    freeable: Option<free::Freeable>,
    snapshot: Arc<Snapshot>,
    changes: watch::Receiver<Arc<Snapshot>>,
    /// Something lacks that time or others may bring.
    look_again: bool,
    /// Suspects lack a place.
    suspects_wait: bool,
    queued_bytes: usize,
    resting_bytes: usize,
    behind: Share,
    queued: Share,
    blocked: Share,
    resting: Share,
}

/// What ended a wait.
enum Woke {
    Mail,
    Live(Result<Batch, ReadError>),
    Scanned(Result<usize, JournalError>),
    Commands(Result<Batch, JournalError>),
    OldEnd(Result<usize, JournalError>),
    Registry,
    Time,
    Ordered,
}

impl Worker {
    /// Takes the partition over and works on it until told to stop.
    pub(crate) async fn run(
        shared: Arc<Shared>,
        appender: Arc<dyn Appender>,
        p: u32,
        mut orders: watch::Receiver<Order>,
    ) -> Result<(), WorkerError> {
        let begun = tokio::time::Instant::now();
        // A takeover may wait for the lease; told to give the partition back, it has nothing to finish. A claim that it leaves behind owns nothing.
        let mut told = orders.clone();
        let owned = tokio::select! {
            biased;
            _ = told.wait_for(|order| *order == Order::Drain) => return Ok(()),
            owned = takeover::take_over(&shared, &appender, p) => owned?,
        };
        let watermark = owned.partition.watermark();
        tracing::info!(
            partition = p,
            claim = owned.log.epoch(),
            watermark,
            unfollowed = owned.unfollowed.len(),
            "partition taken over"
        );
        shared.metrics.takeovers.inc();
        let live = shared
            .journal
            .reader(&shared.names.deliveries, p, watermark, LIVE_BUDGET)
            .await?;
        let by_hand = by_hand::ByHand::open(&shared, p, &owned.partition).await?;
        let low = owned.partition.low();
        let old_end = old_end::OldEnd::open(&shared, p, low, watermark).await?;
        let scanner = Scanner::new(&shared, p, owned.partition.held());
        let changes = shared.registry.changes();
        let snapshot = shared.registry.snapshot();
        let now = shared.clock.now();
        let mut worker = Self {
            p,
            appender,
            partition: owned.partition,
            log: owned.log,
            mailbox: Arc::new(Mailbox::new()),
            taken: Vec::new(),
            to_write: Vec::new(),
            places: HashMap::new(),
            beginning: HashMap::new(),
            by_hand,
            old_end,
            fetching: false,
            draining: false,
            ask_resting: true,
            resting_asked: Millis(0),
            jobs_asked: Millis(0),
            tasks: JoinSet::new(),
            live,
            live_queued_at: tokio::time::Instant::now(),
            scanner,
            scan_budget: ScanBudget::new(now),
            progress: ProgressLog::new(p, owned.progress_end),
            freeable: None,
            snapshot,
            changes,
            look_again: false,
            suspects_wait: false,
            queued_bytes: 0,
            resting_bytes: 0,
            behind: Share::of(&shared.metrics.lanes_behind),
            queued: Share::of(&shared.metrics.queued),
            blocked: Share::of(&shared.metrics.lanes_blocked),
            resting: Share::of(&shared.metrics.resting_bytes),
            shared,
        };
        for unfollowed in owned.unfollowed {
            let Unfollowed {
                ticket,
                position,
                attempt,
                payloads,
            } = unfollowed;
            worker.follow(ticket, position, attempt, &payloads).await?;
        }
        for (offset, command) in owned.starting {
            worker.begin_run(offset, &command).await?;
        }
        let took = begun.elapsed().as_secs_f64();
        worker.shared.metrics.takeover_duration.observe(took);
        worker.work(&mut orders).await
    }

    async fn work(&mut self, orders: &mut watch::Receiver<Order>) -> Result<(), WorkerError> {
        let mut seen = self.snapshot.offset;
        loop {
            let draining = *orders.borrow_and_update() == Order::Drain;
            self.draining = draining;
            self.take_mail().await?;
            self.confirm().await?;
            self.free().await?;
            self.record().await?;
            if self.snapshot.offset != seen {
                seen = self.snapshot.offset;
                self.partition.lanes().resume();
                self.ask_resting = true;
            }
            (self.look_again, self.suspects_wait) = (false, false);
            if draining {
                hookline_model::fail_point!("dispatch-draining");
            } else {
                // Answers come all the time under load: reading must not depend on a moment without any.
                if self.reads_live()
                    && let Some(batch) = self.live.next(LIVE_BATCH).now_or_never()
                {
                    self.read_live(batch).await?;
                }
                self.scan();
                self.move_old_end().await?;
                self.ask_resting();
                self.start();
                self.fetch();
                self.record().await?;
            }
            self.figures();
            let drained = draining
                && self.to_write.is_empty()
                && self.log.pending() == 0
                && self.partition.unsettled() == 0;
            self.store_progress(drained).await?;
            if drained && self.progress.settled() {
                return Ok(());
            }
            match self.wait(orders, draining).await {
                Woke::Live(batch) => self.read_live(batch).await?,
                Woke::Scanned(bytes) => {
                    let bytes = bytes?;
                    self.scan_budget.spend(bytes);
                    self.shared.metrics.scanned_bytes.inc_by(bytes as u64);
                }
                Woke::Commands(batch) => self.commands(batch?).await?,
                Woke::OldEnd(bytes) => self.scan_budget.spend(bytes?),
                Woke::Registry => self.snapshot = self.changes.borrow_and_update().clone(),
                Woke::Mail | Woke::Time | Woke::Ordered => {}
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    async fn wait(&mut self, orders: &mut watch::Receiver<Order>, draining: bool) -> Woke {
        let now = self.shared.clock.now();
        let due = self.partition.next_due().map(|due| due.since(now));
        let read_live = !draining && self.reads_live();
        let again = if self.look_again {
            Some(LOOK_AGAIN)
        } else {
            self.suspects_wait.then_some(SUSPECTS_LOOK_AGAIN)
        };
        let progress = self
            .progress
            .due_in(now, self.shared.config.checkpoint_every);
        let longest = [due.filter(|_| !draining), again, progress]
            .into_iter()
            .flatten()
            .min()
            .map_or(LOOK_AROUND, |longest| longest.min(LOOK_AROUND));
        let scanning =
            !draining && self.partition.lanes().scanning().is_some() && self.scanner.empty();
        let copies = !draining && self.old_end.wants();
        let scan_wait = if scanning || copies {
            self.scan_budget.check(now).err()
        } else {
            None
        };
        tokio::select! {
            // Mail comes last of what comes from outside: every turn begins with taking all of it, so it cannot starve, and the others could.
            biased;
            changed = orders.changed() => { if changed.is_err() { std::future::pending::<()>().await; } Woke::Ordered }
            Ok(()) = self.changes.changed() => Woke::Registry,
            bytes = self.scanner.fill(), if scanning && scan_wait.is_none() => Woke::Scanned(bytes),
            bytes = self.old_end.fill(), if copies && scan_wait.is_none() => Woke::OldEnd(bytes),
            batch = self.by_hand.next(), if !draining => Woke::Commands(batch),
            batch = self.live.next(LIVE_BATCH), if read_live => Woke::Live(batch),
            () = self.mailbox.came() => Woke::Mail,
            () = self.shared.places.freed(), if self.look_again => Woke::Time,
            () = self.shared.places.suspect_freed(), if self.suspects_wait => Woke::Time,
            () = tokio::time::sleep(longest.min(scan_wait.unwrap_or(longest))) => Woke::Time,
        }
    }

    /// Whether to read on at the live edge. With little room left it goes in small steps: lanes that do send then keep up instead of falling
    /// behind and being read twice, and a webhook that has nothing to do with it waits for no more than a step. What leaves nothing in memory (the
    /// backlog of lanes that are behind already) takes no steps: others stand after it.
    fn reads_live(&mut self) -> bool {
        let idle = self.partition.lanes().queued() < ENOUGH_QUEUED || !self.shared.places.full();
        let roomy = self.shared.roomy();
        let reads = idle && (roomy || self.live_queued_at.elapsed() >= CROWDED_STEP);
        self.look_again |= !reads;
        reads
    }

    async fn take_mail(&mut self) -> Result<(), WorkerError> {
        let mut taken = std::mem::take(&mut self.taken);
        self.mailbox.take(&mut taken);
        for mail in taken.drain(..) {
            match mail {
                Mail::Judged(judged) => self.to_write.push(ToWrite::judged(judged)),
                Mail::Stored { sequence, result } => self.log.acked(sequence, result?.offset),
                Mail::Followed { position, result } => {
                    result?;
                    self.partition.followed(position);
                    // Perhaps the last thing that happens here for a long time: what is settled now must not wait for the next.
                    self.progress.changed();
                }
                Mail::Started { offset, result } => {
                    result?;
                    self.partition.started(offset);
                    self.progress.changed();
                }
                Mail::Fetched(fetched) => self.fetched(fetched?).await?,
                Mail::Copied { bytes, result } => {
                    result?;
                    self.old_end.copied(bytes);
                }
                Mail::Checkpoint { result, index } => {
                    if let Some(stored) = self.progress.stored(index, result?.offset) {
                        self.shared.standing.lock().entry(self.p).or_default().low =
                            Some(stored.low);
                        hookline_model::fail_point!("dispatch-checkpoint-stored");
                        self.freeable(stored);
                    }
                }
                Mail::Freeable(freeable) => {
                    self.freeable = Some(freeable.with(self.freeable.take()))
                }
            }
        }
        self.taken = taken;
        Ok(())
    }

    /// Acts on the records that have certainly counted.
    async fn confirm(&mut self) -> Result<(), WorkerError> {
        loop {
            match self.log.confirm() {
                Ok(Some((offset, records))) => {
                    self.progress.changed();
                    let ticket = Ticket {
                        offset,
                        epoch: self.log.epoch(),
                    };
                    let mut index = 0;
                    for written in records {
                        match written {
                            Written::Judged(judged) => {
                                let at = Position { offset, index };
                                index += 1;
                                self.judged(ticket, at, *judged).await?;
                            }
                            Written::Begins(position) => self.begins(position),
                            Written::Moved(range) => self.moved(range),
                            Written::Done(done) => self.command_done(ticket, *done).await?,
                        }
                    }
                }
                Ok(None) => break,
                Err(gap) => self.read_gap(gap).await?,
            }
        }
        self.not_fenced()
    }

    /// An attempt that has certainly counted.
    async fn judged(
        &mut self,
        ticket: Ticket,
        at: Position,
        judged: Judged,
    ) -> Result<(), WorkerError> {
        let Judged {
            position,
            after,
            made,
            health,
            follow,
            ..
        } = judged;
        self.places.remove(&position);
        self.partition
            .confirmed(ticket, position, after, health, made);
        if let Some(follow) = follow {
            self.follow(at, position, follow.attempt, &follow.payloads)
                .await?;
        }
        Ok(())
    }

    /// A batch is written down, and that has certainly counted: it goes out, unless nothing may be started any more.
    fn begins(&mut self, position: Position) {
        let goes = !self.draining && self.shared.leased();
        self.partition.begun(position, goes);
        match self.beginning.remove(&position) {
            Some(prepared) if goes => self.send(prepared),
            _ => drop(self.places.remove(&position)),
        }
    }

    fn not_fenced(&self) -> Result<(), WorkerError> {
        match self.log.fenced_by() {
            Some(epoch) => Err(WorkerError::Fenced {
                partition: self.p,
                epoch,
            }),
            None => Ok(()),
        }
    }

    async fn read_gap(&mut self, gap: Gap) -> Result<(), WorkerError> {
        let topic = &self.shared.names.attempts;
        let to = match gap.to {
            Some(to) => to,
            None => self.shared.journal.end(topic, self.p).await?,
        };
        let mut reader = self
            .shared
            .journal
            .reader(topic, self.p, gap.from, LIVE_BUDGET)
            .await?;
        let log = &mut self.log;
        read_until(&mut *reader, to, |stored| {
            if stored.offset < to {
                log.inspect(stored.offset, &records::log_entry(&stored));
            }
        })
        .await
        .map_err(JournalError::from)?;
        log.inspected_to(to);
        Ok(())
    }

    /// Starts everything that may start.
    fn start(&mut self) {
        let now = self.shared.clock.now();
        let mut door = WorkerDoor::new(&self.shared, &self.snapshot, self.by_hand.ended(), now);
        while let Some(start) = self.partition.next(now, &mut door) {
            self.progress.changed();
            let single = self.partition.single(start.queued.position);
            let (attempts, first_try, batch) = single.map_or((0, Millis(0), false), |single| {
                (single.attempts, single.first_try, single.batch)
            });
            let carried = start.queued.payload.send();
            let made = Made {
                attempts: attempts.max(carried.attempts),
                first_try: if first_try == Millis(0) {
                    Millis(carried.first_try_ms)
                } else {
                    first_try
                },
            };
            let begins = start.batch;
            let opened = door.opened(&start.queued, start.send);
            let unit = Unit::of(start, batch);
            match opened {
                Opened::End {
                    webhook,
                    outcome,
                    why,
                } => {
                    let judged = attempt::without_exchange(
                        &unit,
                        webhook.as_deref(),
                        outcome,
                        made,
                        now,
                        why,
                    );
                    self.to_write.push(ToWrite::judged(judged));
                }
                Opened::Send { webhook, place } => {
                    hookline_model::fail_point!("dispatch-started");
                    let position = unit.position;
                    self.places.insert(position, place);
                    let prepared = Prepared {
                        unit,
                        connector: self.snapshot.connector_of(&webhook.settings).cloned(),
                        webhook,
                        made: made.attempts,
                        first_try: made.first_try,
                    };
                    if begins {
                        self.to_write.push(ToWrite::begins(&prepared.unit));
                        self.beginning.insert(position, prepared);
                    } else {
                        let (shared, mailbox) = (self.shared.clone(), self.mailbox.clone());
                        send(&mut self.tasks, shared, mailbox, prepared);
                    }
                }
            }
        }
        self.look_again |= door.lacked;
        self.suspects_wait = door.suspects_lack || self.partition.lanes().awaits_share();
    }

    fn send(&mut self, prepared: Prepared) {
        let (shared, mailbox) = (self.shared.clone(), self.mailbox.clone());
        send(&mut self.tasks, shared, mailbox, prepared);
    }

    /// What waits in place for long, and would be ended if it went now, does not wait any longer: what stands behind it may be wanted.
    fn ask_resting(&mut self) {
        let now = self.shared.clock.now();
        let lately = now.since(self.resting_asked) < ASK_RESTING && self.resting_asked <= now;
        if !self.ask_resting || lately {
            return;
        }
        let door = WorkerDoor::new(&self.shared, &self.snapshot, self.by_hand.ended(), now);
        let unwanted: Vec<Position> = self
            .partition
            .resting()
            .filter(|resting| door.ends(resting))
            .map(|resting| resting.position)
            .collect();
        for position in unwanted {
            self.partition.release(position);
        }
        (self.ask_resting, self.resting_asked) = (false, now);
    }

    async fn store_progress(&mut self, last: bool) -> Result<(), WorkerError> {
        let now = self.shared.clock.now();
        if !self
            .progress
            .wants(now, self.shared.config.checkpoint_every, last)
        {
            return Ok(());
        }
        let begun = tokio::time::Instant::now();
        let oldest = self
            .partition
            .lanes()
            .heads()
            .map(|queued| queued.payload.accepted_at())
            .min();
        let resting = self.partition.resting();
        let oldest_resting = resting.map(|resting| resting.outline.accepted_at).min();
        let oldest = [oldest, oldest_resting].into_iter().flatten().min();
        self.shared
            .standing
            .lock()
            .entry(self.p)
            .or_default()
            .oldest = oldest;
        let snapshot = &self.snapshot;
        self.partition
            .lanes()
            .tidy(|webhook| snapshot.webhook(webhook).is_some());
        self.forget_jobs(now);
        let checkpoint = self
            .partition
            .checkpoint(self.log.epoch(), self.log.inspected(), now);
        let over = Over {
            commands: self.partition.commands_over(),
            held: self.old_end.free_below(self.partition.held().over()),
        };
        let records = self.progress.begin(&checkpoint, over, now);
        let took = begun.elapsed().as_secs_f64();
        self.shared.metrics.checkpoint_seconds.inc_by(took);
        for (index, record) in (0..).zip(records) {
            self.shared
                .metrics
                .checkpoint_bytes
                .inc_by(record.value.as_ref().map_or(0, bytes::Bytes::len) as u64);
            let mailbox = self.mailbox.clone();
            let done = Box::new(move |result| mailbox.put(Mail::Checkpoint { result, index }));
            append_when_room(
                &*self.appender,
                &self.shared.names.progress,
                self.p,
                record,
                done,
            )
            .await?;
            hookline_model::fail_point!("dispatch-checkpoint-handed");
        }
        Ok(())
    }
}

fn send(
    tasks: &mut JoinSet<()>,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<Mail>>,
    prepared: Prepared,
) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the set is the worker's own: it is reaped every turn and aborted with it"
    )]
    tasks.spawn(async move {
        let judged = attempt::make(&shared.maker, &shared.metrics, prepared).await;
        hookline_model::fail_point!("dispatch-judged");
        mailbox.put(Mail::Judged(judged));
    });
}

/// Outcomes of what is ended without an exchange, with the reason that people see.
pub(crate) const DELETED: (Outcome, &str) =
    (Outcome::Cancelled, "the webhook was deleted or deactivated");
/// See [`DELETED`].
pub(crate) const BY_HAND: (Outcome, &str) = (Outcome::Cancelled, "ended by hand");
/// See [`DELETED`].
pub(crate) const HELD_TOO_LONG: (Outcome, &str) =
    (Outcome::Expired, "waited for longer than max_hold");
/// See [`DELETED`].
pub(crate) const TOO_OLD: (Outcome, &str) = (Outcome::Expired, "older than the policy's max_age");
