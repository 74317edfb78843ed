//! What a new job will read: from where to where in each partition of its source, and whether that is all that was asked for.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hookline_journal::{Journal, JournalError, ReadBudget, ReadError, TopicInfo};
use hookline_model::job::{JobKind, JobPartition, JobSpec};
use hookline_model::time::Millis;
use hookline_model::topics::{Kept, Topic};

/// Partitions asked about at the same time.
const AT_ONCE: usize = 16;
/// One record is read of each.
const BUDGET: ReadBudget = ReadBudget::of(64 * 1024);

/// Why there can be no such job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangesError {
    /// What was asked for is not kept any more, or not all of it.
    #[error(
        "events are kept from {kept_from} on; begin there, or leave `from` out to replay what there is"
    )]
    NotKept {
        /// From when on everything is there.
        kept_from: Millis,
    },
    /// The journal does not answer.
    #[error("the journal does not say what it has")]
    Journal(#[from] JournalError),
    /// There is no source.
    #[error("there is no topic {topic}: make it with `hookline topics create`")]
    NoTopic {
        /// Its name.
        topic: String,
    },
}

/// A partition of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// When the first record that is left was published. Asked for only where some are gone.
    pub(crate) first_at: Option<Millis>,
}

/// The topic that a job of that kind reads.
pub(crate) fn source(kind: JobKind) -> Topic {
    match kind {
        JobKind::Redrive => Topic::Dead,
        JobKind::Replay => Topic::Events,
    }
}

/// The partitions of the source that have records now, each from its start to its end.
///
/// # Errors
/// When a replay reaches further back than its topic does, or the journal does not answer.
pub async fn job_ranges(
    journal: &dyn Journal,
    prefix: &str,
    spec: &JobSpec,
    now: Millis,
) -> Result<Vec<JobPartition>, RangesError> {
    let topic = source(spec.kind);
    let name = topic.name(prefix);
    let topics = journal.topics().await?;
    let Some(info) = topics.get(&name) else {
        return Err(RangesError::NoTopic { topic: name });
    };
    // What is no longer in `dead` is nobody's any more; events are asked for by their time, and none may be left out silently.
    let from = spec.filter.from.filter(|_| spec.kind == JobKind::Replay);
    let look = |partition| extent(journal, &name, partition, from.is_some());
    let extents: Vec<Extent> = stream::iter((0..info.partitions).map(look))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    if let Some(from) = from
        && let Some(kept_from) = kept_from(&extents, retention(info, topic), now)
        && from < kept_from
    {
        return Err(RangesError::NotKept { kept_from });
    }
    let parts = (0..)
        .zip(extents)
        .filter(|(_, extent)| extent.start < extent.end);
    Ok(parts
        .map(|(partition, extent)| JobPartition {
            partition,
            start: extent.start,
            position: extent.start,
            end: extent.end,
        })
        .collect())
}

async fn extent(
    journal: &dyn Journal,
    topic: &str,
    partition: u32,
    times: bool,
) -> Result<Extent, JournalError> {
    let end = journal.end(topic, partition).await?;
    let start = journal.start(topic, partition).await?.min(end);
    let first_at = match times && 0 < start && start < end {
        true => first_at(journal, topic, partition, start, end).await?,
        false => None,
    };
    Ok(Extent {
        start,
        end,
        first_at,
    })
}

/// When the first record from `start` on was published.
async fn first_at(
    journal: &dyn Journal,
    topic: &str,
    partition: u32,
    mut start: u64,
    end: u64,
) -> Result<Option<Millis>, JournalError> {
    let mut reader = journal.reader(topic, partition, start, BUDGET).await?;
    while reader.position() < end {
        match reader.next(1).await {
            Ok(batch) => {
                if let Some(first) = batch.records.first() {
                    return Ok(Some(Millis(first.timestamp_ms)));
                }
            }
            // Age took it meanwhile.
            Err(ReadError::Deleted { start: later, .. }) if later > start => {
                start = later;
                reader = journal.reader(topic, partition, start, BUDGET).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// How long the topic keeps its records: what the engine says, else what it was made with; `None`: for ever.
fn retention(info: &TopicInfo, topic: Topic) -> Option<Duration> {
    match info
        .settings
        .get("retention.ms")
        .map(|ms| ms.parse::<i64>())
    {
        Some(Ok(ms)) => u64::try_from(ms).ok().map(Duration::from_millis),
        _ => match topic.kept() {
            Kept::For(span) => Some(span),
            Kept::UntilSettled | Kept::Compacted => None,
        },
    }
}

/// From when on everything is surely there; `None`: from ever.
///
/// Where nothing was deleted yet, that is as long as the topic keeps what it has. Where something was, it is the first record that is left,
/// because nobody knows when the last of the deleted ones was published.
pub(crate) fn kept_from(
    extents: &[Extent],
    retention: Option<Duration>,
    now: Millis,
) -> Option<Millis> {
    let horizon = retention.map(|span| {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Millis(now.0.saturating_sub(span))
    });
    let cut = extents.iter().filter(|extent| extent.start > 0);
    let bounds = cut.map(|extent| match extent.first_at {
        Some(first) => first,
        // Nothing is left: by age, where that takes things away.
        None => horizon.unwrap_or(now),
    });
    bounds.max().or(horizon)
}
