//! Becoming the owner of a partition: the cached progress, the log since then, a claim that takes effect, and what a dead owner left undone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hookline_journal::{
    Appender, JournalError, ReadBudget, ReadError, StoredRecord, append_and_wait, read_until,
};
use hookline_model::core::checkpoint::{Checkpoint, CheckpointReader};
use hookline_model::core::claims::{ClaimReader, Counted, OwnLog};
use hookline_model::core::held::{Held, HeldRange};
use hookline_model::core::lane::QueueLimits;
use hookline_model::core::partition::{After, Partition, Replayed, Ticket};
use hookline_model::ids::{Position, WebhookUid};
use hookline_model::wire;
use prost::Message as _;

use crate::attempt;
use crate::commands;
use crate::payload::Payload;
use crate::records::{self, Placed};
use crate::scan;
use crate::shared::Shared;

/// Records read at once where nobody waits.
const READ_BUDGET: ReadBudget = ReadBudget::of(1024 * 1024);

/// Sends read back at once.
const READ_BACK: usize = 256;

/// How far apart two wanted records may be before reading anew beats reading on.
const SKIP_RECORDS: u64 = 2_000;

/// Why a partition could not be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    /// Trouble that may pass: try again while the group still gives us the partition.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Somebody else claims faster than we do.
    #[error("partition {partition}: others claimed it {tries} times in a row")]
    Contended { partition: u32, tries: u32 },
    /// It goes on from the newer one when it is tried again.
    #[error("partition {partition}: its owner stored progress while it was taken over")]
    Outdated { partition: u32 },
    /// Records that are still needed were deleted: a person must look.
    #[error(
        "partition {partition}: {topic} begins at offset {start}, but progress needs it from {needed} on; \
         records that were not settled have been deleted (retention or delete-records from outside?)"
    )]
    Deleted {
        partition: u32,
        topic: String,
        start: u64,
        needed: u64,
    },
}

impl From<ReadError> for TakeoverError {
    fn from(error: ReadError) -> Self {
        Self::Journal(error.into())
    }
}

/// A partition that is ours.
pub(crate) struct Owned {
    pub(crate) partition: Partition<Payload>,
    pub(crate) log: OwnLog<Vec<crate::worker::Written>>,
    /// What follows from attempts of earlier owners and may not have been written, in order.
    pub(crate) unfollowed: Vec<Unfollowed>,
    /// Commands whose runs begin and may not have been appended, in order.
    pub(crate) starting: Vec<(u64, wire::Command)>,
    /// End of `progress` before our first checkpoint.
    pub(crate) progress_end: u64,
}

/// An attempt of an earlier owner whose consequences may be missing.
pub(crate) struct Unfollowed {
    pub(crate) ticket: Position,
    pub(crate) position: Position,
    pub(crate) attempt: wire::Attempt,
    /// The deliveries it was about, in order.
    pub(crate) payloads: Vec<Payload>,
}

/// Takes the partition over.
///
/// What is missing is looked for twice: an owner on its way out may store a newer checkpoint and delete behind it while we read.
pub(crate) async fn take_over(
    shared: &Shared,
    appender: &Arc<dyn Appender>,
    p: u32,
) -> Result<Owned, TakeoverError> {
    match try_take_over(shared, appender, p).await {
        Err(TakeoverError::Deleted { .. }) => try_take_over(shared, appender, p).await,
        result => result,
    }
}

async fn try_take_over(
    shared: &Shared,
    appender: &Arc<dyn Appender>,
    p: u32,
) -> Result<Owned, TakeoverError> {
    // In this order: what is deleted up to now, a checkpoint that is stored by now no longer needs.
    let start = shared.journal.start(&shared.names.deliveries, p).await?;
    let held = shared.journal.start(&shared.names.held, p).await?;
    let starts = Starts {
        deliveries: start,
        held,
    };
    let (checkpoint, progress_end) = best_checkpoint(shared, p, starts).await?;
    if let Some(checkpoint) = checkpoint.as_ref().filter(|c| c.low < start) {
        return Err(TakeoverError::Deleted {
            partition: p,
            topic: shared.names.deliveries.clone(),
            start,
            needed: checkpoint.low,
        });
    }
    if let Some(needed) = checkpoint.as_ref().and_then(|c| c.held.low())
        && needed < held
    {
        return Err(TakeoverError::Deleted {
            partition: p,
            topic: shared.names.held.clone(),
            start: held,
            needed,
        });
    }
    hookline_model::fail_point!("takeover-checkpoint-read");
    let from_checkpoint = checkpoint.as_ref().map(Checkpoint::reach);
    let attempts = shared.journal.start(&shared.names.attempts, p).await?;
    if let Some(checkpoint) = checkpoint.as_ref().filter(|c| c.attempts_end < attempts) {
        // What became of sends since the checkpoint stood there. With all of them settled before it, nothing is amiss: only age took it.
        let held = checkpoint.held.low().is_some();
        if held || checkpoint.low < shared.journal.end(&shared.names.deliveries, p).await? {
            return Err(TakeoverError::Deleted {
                partition: p,
                topic: shared.names.attempts.clone(),
                start: attempts,
                needed: checkpoint.attempts_end,
            });
        }
    }
    let checkpoint = match checkpoint {
        None => progress_of_held(shared, p, start).await?,
        some => some,
    };
    let mut replay = Replay::new(shared.config.queues, checkpoint, start);
    let from = replay.from.max(attempts);
    let mut reader = shared
        .journal
        .reader(&shared.names.attempts, p, from, READ_BUDGET)
        .await?;
    let end = shared.journal.end(&shared.names.attempts, p).await?;
    read_until(&mut *reader, end, |stored| replay.read(&stored)).await?;
    for _ in 0..5 {
        // Whoever stood still for a while may have lost the partition meanwhile: its claim would only cost the new owner what it has in flight.
        shared.until_leased().await;
        let epoch = replay.claims.highest() + 1;
        let nonce: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
        let claim = wire::Claim {
            format: wire::FORMAT,
            epoch,
            nonce: nonce.to_vec().into(),
            worker: shared.config.worker.clone(),
            at_ms: shared.clock.now().0,
        };
        append_and_wait(
            &**appender,
            &shared.names.attempts,
            p,
            records::claim(&claim),
        )
        .await
        .map_err(JournalError::from)?;
        hookline_model::fail_point!("takeover-claimed");
        replay.claimed = None;
        replay.ours = Some((epoch, nonce.to_vec()));
        let end = shared.journal.end(&shared.names.attempts, p).await?;
        read_until(&mut *reader, end, |stored| replay.read(&stored)).await?;
        if let Some(at) = replay.claimed.filter(|_| replay.claims.highest() == epoch) {
            drop(reader);
            tracing::debug!(partition = p, claim = epoch, "partition claimed");
            // The owner before us may have stored one more checkpoint before our claim, and deleted behind it. After the claim it deletes nothing.
            let progress_now = shared.journal.end(&shared.names.progress, p).await?;
            if progress_now != progress_end {
                let (newest, _) = best_checkpoint(shared, p, starts).await?;
                if newest.as_ref().map(Checkpoint::reach) > from_checkpoint {
                    return Err(TakeoverError::Outdated { partition: p });
                }
            }
            return finish(shared, p, replay, OwnLog::new(epoch, at), progress_end).await;
        }
    }
    Err(TakeoverError::Contended {
        partition: p,
        tries: 5,
    })
}

/// Where what is kept of each topic begins: a checkpoint that needs more is of no use.
#[derive(Clone, Copy)]
struct Starts {
    deliveries: u64,
    held: u64,
}

/// Whether a complete checkpoint, whoever stored it, needs nothing of `deliveries` below `start`.
pub(crate) async fn needs_nothing_below(
    shared: &Shared,
    p: u32,
    start: u64,
) -> Result<bool, TakeoverError> {
    let starts = Starts {
        deliveries: start,
        held: shared.journal.start(&shared.names.held, p).await?,
    };
    let (checkpoint, _) = best_checkpoint(shared, p, starts).await?;
    Ok(checkpoint.is_some_and(|checkpoint| checkpoint.low >= start))
}

async fn best_checkpoint(
    shared: &Shared,
    p: u32,
    starts: Starts,
) -> Result<(Option<Checkpoint>, u64), TakeoverError> {
    let topic = &shared.names.progress;
    let (start, end) = (
        shared.journal.start(topic, p).await?,
        shared.journal.end(topic, p).await?,
    );
    let mut found = CheckpointReader::default();
    if start < end {
        let mut reader = shared.journal.reader(topic, p, start, READ_BUDGET).await?;
        read_until(&mut *reader, end, |stored| {
            match stored.value.map(wire::CheckpointChunk::decode) {
                Some(Ok(chunk)) => found.read(chunk),
                // A damaged one costs time, never sends.
                _ => tracing::warn!(
                    partition = p,
                    offset = stored.offset,
                    "a part of a checkpoint cannot be read"
                ),
            }
        })
        .await?;
    }
    Ok((found.best(starts.deliveries, starts.held), end))
}

/// The log since the checkpoint, applied.
struct Replay {
    partition: Partition<Payload>,
    claims: ClaimReader,
    from: u64,
    ours: Option<(u64, Vec<u8>)>,
    claimed: Option<u64>,
    refollow: BTreeMap<Position, (Position, wire::Attempt)>,
    starting: Vec<u64>,
}

impl Replay {
    fn new(queues: QueueLimits, checkpoint: Option<Checkpoint>, start: u64) -> Self {
        let (from, epoch) = checkpoint
            .as_ref()
            .map_or((0, 0), |c| (c.attempts_end, c.epoch));
        Self {
            partition: Partition::load_with(queues, checkpoint, start),
            claims: ClaimReader::new(epoch),
            from,
            ours: None,
            claimed: None,
            refollow: BTreeMap::new(),
            starting: Vec::new(),
        }
    }

    fn read(&mut self, stored: &StoredRecord) {
        match self.claims.read(records::log_entry(stored)) {
            Counted::Claimed { epoch, nonce } => {
                if self.ours == Some((epoch, nonce)) {
                    self.claimed = Some(stored.offset);
                }
            }
            Counted::Nothing => {}
            Counted::Written(attempts) => {
                let epoch = attempts.epoch;
                for (index, attempt) in (0..).zip(attempts.attempts) {
                    let ticket = Position {
                        offset: stored.offset,
                        index,
                    };
                    self.attempt(epoch, ticket, attempt);
                }
                for batch in attempts.batches {
                    let sends = batch.sends.as_ref().map(wire::Positions::read);
                    let webhook = WebhookUid::from_slice(&batch.webhook_uid);
                    if let Some((sends, webhook)) = sends.zip(webhook) {
                        self.partition.replay_begun(&sends, webhook);
                    }
                }
                let ticket = Ticket {
                    offset: stored.offset,
                    epoch,
                };
                for range in attempts.moved {
                    self.partition.moved(range.into());
                }
                for done in attempts.commands {
                    commands::replay(&mut self.partition, ticket, &done);
                    self.starting.extend(done.starts.then_some(done.offset));
                }
            }
        }
    }

    fn attempt(&mut self, epoch: u64, ticket: Position, attempt: wire::Attempt) {
        let sends = attempt.sends();
        let Some((position, webhook)) = sends
            .first()
            .copied()
            .zip(WebhookUid::from_slice(&attempt.webhook_uid))
        else {
            return;
        };
        let (after, made) = (attempt::after(&attempt), attempt::made(&attempt));
        if self.partition.replay(
            Ticket {
                offset: ticket.offset,
                epoch,
            },
            &sends,
            webhook,
            after,
            made,
        ) == Replayed::Refollow
        {
            self.refollow.insert(ticket, (position, attempt));
        }
    }
}

/// Reads back what was begun, so that it can go on.
async fn finish(
    shared: &Shared,
    p: u32,
    mut replay: Replay,
    log: OwnLog<Vec<crate::worker::Written>>,
    progress_end: u64,
) -> Result<Owned, TakeoverError> {
    // What something follows from has been begun, too, but is not found: it does not go again.
    let refollow = replay.refollow.values();
    let to_follow: Vec<_> = refollow.flat_map(|(_, attempt)| attempt.sends()).collect();
    let followed = read_back(shared, p, replay.partition.held(), &to_follow).await?;
    let found = replay.partition.found();
    let mut room = shared.resting_room();
    for positions in found.chunks(READ_BACK) {
        let read = read_back(shared, p, replay.partition.held(), positions).await?;
        for (position, placed) in read {
            let Some(placed) = placed else {
                return Err(TakeoverError::Deleted {
                    partition: p,
                    topic: shared.names.deliveries.clone(),
                    start: shared.journal.start(&shared.names.deliveries, p).await?,
                    needed: position.offset,
                });
            };
            // Of many there is only remembered what they are about.
            let keep = placed.bytes <= room;
            room -= if keep { placed.bytes } else { 0 };
            replay.partition.restore(placed.read(), keep);
        }
    }
    hookline_model::fail_point!("takeover-read-back");
    replay.partition.restored();
    let mut unfollowed = Vec::with_capacity(replay.refollow.len());
    for (ticket, (position, attempt)) in replay.refollow {
        let sends = attempt.sends();
        let payloads: Vec<Payload> = sends
            .iter()
            .filter_map(|position| Some(followed.get(position)?.as_ref()?.payload.clone()))
            .collect();
        if payloads.len() < sends.len() {
            // Deleted, and not among what was moved: whoever did that knew that all of this was acknowledged. Only what the log is read again for
            // stands before it.
            if let After::Follow(count) = attempt::after(&attempt) {
                for _ in 0..count {
                    replay.partition.followed(position);
                }
            }
            continue;
        }
        unfollowed.push(Unfollowed {
            ticket,
            position,
            payloads,
            attempt,
        });
    }
    let mut starting = Vec::with_capacity(replay.starting.len());
    for offset in replay.starting {
        let topic = &shared.names.commands;
        match commands::read_back(&*shared.journal, topic, p, offset).await? {
            Some(command) => starting.push((offset, command)),
            None => replay.partition.started(offset),
        }
    }
    Ok(Owned {
        partition: replay.partition,
        log,
        unfollowed,
        starting,
        progress_end,
    })
}

/// Sends that were to be read, and what was found.
pub(crate) type Wanted = BTreeMap<Position, Option<Placed>>;

/// Reads these sends, as far as they are there: `low` keeps what is unsettled from deletion, or it was copied before that rose above it.
pub(crate) async fn read_back(
    shared: &Shared,
    p: u32,
    held: &Held,
    positions: &[Position],
) -> Result<Wanted, TakeoverError> {
    let mut wanted: Wanted = positions.iter().map(|position| (*position, None)).collect();
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let topic = &shared.names.deliveries;
    let start = shared.journal.start(topic, p).await?;
    for range in held.ranges() {
        let bounds = Position::at(range.from)..Position::at(range.to.min(start));
        if bounds.start < bounds.end {
            read_copies(shared, p, *range, bounds, &mut wanted).await?;
        }
    }
    let offsets: Vec<u64> = {
        let missing = wanted.iter().filter(|(_, placed)| placed.is_none());
        let missing = missing.filter(|(position, _)| position.offset >= start);
        let mut offsets: Vec<u64> = missing.map(|(position, _)| position.offset).collect();
        offsets.dedup();
        offsets
    };
    let mut offsets = offsets.into_iter().peekable();
    while let Some(first) = offsets.next() {
        let mut last = first;
        while let Some(next) = offsets.next_if(|next| next - last <= SKIP_RECORDS) {
            last = next;
        }
        let mut reader = shared.journal.reader(topic, p, first, READ_BUDGET).await?;
        read_until(&mut *reader, last + 1, |stored| {
            let Ok((placed, _)) = records::sends(&stored) else {
                return;
            };
            take_wanted(placed, &mut wanted);
        })
        .await?;
    }
    Ok(wanted)
}

fn take_wanted(placed: Vec<Placed>, wanted: &mut Wanted) {
    for placed in placed {
        if let Some(slot) = wanted.get_mut(&placed.position) {
            *slot = Some(placed);
        }
    }
}

/// Reads those of the wanted sends back whose records in the log are deleted.
async fn read_copies(
    shared: &Shared,
    p: u32,
    range: HeldRange,
    bounds: Range<Position>,
    wanted: &mut Wanted,
) -> Result<(), TakeoverError> {
    let mut of_it = wanted.range(bounds).map(|(position, _)| position.offset);
    let Some(first) = of_it.next() else {
        return Ok(());
    };
    let last = of_it.next_back().unwrap_or(first);
    let mut reader = scan::open_copies(shared, p, range, first).await?;
    while reader.position() < range.end {
        let batch = reader.next(500).await?;
        for stored in batch.records.iter().filter(|r| r.offset < range.end) {
            let copy = scan::read_copy(shared, p, stored)?;
            if copy.epoch != range.epoch {
                continue;
            }
            if copy.offset > last {
                return Ok(());
            }
            take_wanted(copy.sends, wanted);
        }
    }
    Ok(())
}

/// Without any cached progress nothing is known to be settled. What is below the start of the log is, but for what stands in `held`: where each
/// lane's begins there.
async fn progress_of_held(
    shared: &Shared,
    p: u32,
    watermark: u64,
) -> Result<Option<Checkpoint>, TakeoverError> {
    let topic = &shared.names.held;
    let (start, end) = (
        shared.journal.start(topic, p).await?,
        shared.journal.end(topic, p).await?,
    );
    if start >= end {
        return Ok(None);
    }
    let held = ranges_of_the_log(shared, p).await?;
    let mut lanes = BTreeMap::new();
    for range in held.ranges() {
        let from = range.first.max(start);
        let mut reader = shared.journal.reader(topic, p, from, READ_BUDGET).await?;
        while reader.position() < range.end {
            let batch = reader.next(500).await?;
            for stored in batch.records.iter().filter(|r| r.offset < range.end) {
                let copy = scan::read_copy(shared, p, stored)?;
                for placed in copy.sends.iter().filter(|_| copy.epoch == range.epoch) {
                    let first = lanes.entry(placed.lane).or_insert(placed.position);
                    *first = placed.position.min(*first);
                }
            }
        }
    }
    Ok(Some(Checkpoint {
        watermark,
        low: watermark,
        lanes,
        ..Checkpoint::default()
    }))
}

/// The ranges of `held` that count, by the whole log.
async fn ranges_of_the_log(shared: &Shared, p: u32) -> Result<Held, TakeoverError> {
    let topic = &shared.names.attempts;
    let (start, end) = (
        shared.journal.start(topic, p).await?,
        shared.journal.end(topic, p).await?,
    );
    let mut reader = shared.journal.reader(topic, p, start, READ_BUDGET).await?;
    let (mut claims, mut held) = (ClaimReader::new(0), Held::default());
    read_until(&mut *reader, end, |stored| {
        if let Counted::Written(body) = claims.read(records::log_entry(&stored)) {
            for range in body.moved {
                held.moved(range.into());
            }
        }
    })
    .await?;
    Ok(held)
}
