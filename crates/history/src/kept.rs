//! The whole event of a delivery, for somebody who wants it sent again: from `events`, where the store says that it stands, else from `dead`,
//! where it stands behind the last attempt.

use std::time::Duration;

use hookline_journal::{Journal, JournalError, ReadBudget, ReadError, StoredRecord};
use hookline_model::event::{self, Input};
use hookline_model::ids::DeliveryId;
use hookline_model::limits::EVENT_BYTES_MAX;
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use hookline_model::wire;
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::jobs::accepted_at;
use crate::store::{DeliveryView, Store, StoreError};

const BUDGET: ReadBudget = ReadBudget::of(2 * 1024 * 1024);
/// Records of `dead` read at once.
const AT_ONCE: usize = 100;
/// How much earlier than the attempt, by the clocks of others, its record may seem to be.
const SKEW: Duration = Duration::from_secs(600);
/// How long the store is waited for that knows the delivery, but not its event.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long `dead` is looked through.
const SEARCH_MAX: Duration = Duration::from_secs(5);

/// An event that is still kept.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptEvent {
    /// The event, as it was published.
    pub event: wire::Event,
    /// When it was accepted, as far as that is known.
    pub accepted_at: Millis,
}

/// Why it is not known whether an event is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal does not answer.
    #[error("the journal does not say what it has")]
    Journal(#[from] JournalError),
    /// `dead` is too long to be looked through.
    #[error("the delivery was not found in `dead` within {SEARCH_MAX:?}")]
    Late,
}

/// The event of a delivery; `None` when no topic keeps it any more. `p` is the partition of its webhook.
///
/// # Errors
/// When that cannot be found out.
pub async fn kept_event(
    journal: &dyn Journal,
    prefix: &str,
    store: &Store,
    delivery: &DeliveryView,
    p: u32,
) -> Result<Option<KeptEvent>, KeptError> {
    if let Some(kept) = of_events(journal, prefix, store, delivery).await? {
        return Ok(Some(kept));
    }
    let dead = Topic::Dead.name(prefix);
    let found = tokio::time::timeout(SEARCH_MAX, of_dead(journal, &dead, p, delivery)).await;
    if let Some(kept) = found.map_err(|_| KeptError::Late)?? {
        return Ok(Some(kept));
    }
    // The store may know an attempt before it knows the event: they come from different topics.
    let began = Instant::now();
    while began.elapsed() < CAUGHT_UP_WITHIN && place(store, delivery).await?.is_none() {
        sleep(LOOK_EVERY).await;
    }
    of_events(journal, prefix, store, delivery).await
}

async fn place(store: &Store, delivery: &DeliveryView) -> Result<Option<(u32, u64)>, StoreError> {
    let (project, source) = (&delivery.project, &delivery.event_source);
    store.event_place(project, source, &delivery.event_id).await
}

async fn of_events(
    journal: &dyn Journal,
    prefix: &str,
    store: &Store,
    delivery: &DeliveryView,
) -> Result<Option<KeptEvent>, KeptError> {
    let Some((partition, offset)) = place(store, delivery).await? else {
        return Ok(None);
    };
    let events = Topic::Events.name(prefix);
    let published = one(journal, &events, partition, offset).await?;
    Ok(published.and_then(|record| published_as(&record, delivery)))
}

/// The record at `offset`, if it is there.
async fn one(
    journal: &dyn Journal,
    topic: &str,
    partition: u32,
    offset: u64,
) -> Result<Option<StoredRecord>, JournalError> {
    let found = from(journal, topic, partition, offset).await?;
    Ok(found.filter(|record| record.offset == offset))
}

/// The first record at `offset` or behind it, if there is one.
async fn from(
    journal: &dyn Journal,
    topic: &str,
    partition: u32,
    offset: u64,
) -> Result<Option<StoredRecord>, JournalError> {
    let end = journal.end(topic, partition).await?;
    if offset >= end {
        return Ok(None);
    }
    let mut reader = journal.reader(topic, partition, offset, BUDGET).await?;
    while reader.position() < end {
        match reader.next(1).await {
            Ok(batch) => {
                if let Some(first) = batch.records.into_iter().next() {
                    return Ok(Some(first));
                }
            }
            Err(ReadError::Deleted { .. } | ReadError::BeyondEnd { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn published_as(record: &StoredRecord, delivery: &DeliveryView) -> Option<KeptEvent> {
    let input = Input {
        key: record.key.as_deref(),
        value: record.value.as_ref(),
        headers: &record.headers,
    };
    let event = event::parse(input, EVENT_BYTES_MAX).ok()?;
    // The topic may have been made anew since.
    let same = event.project == delivery.project
        && event.source == delivery.event_source
        && event.id == delivery.event_id;
    same.then_some(KeptEvent {
        event,
        accepted_at: Millis(record.timestamp_ms),
    })
}

/// Looks for the delivery from the time of its last attempt on.
async fn of_dead(
    journal: &dyn Journal,
    topic: &str,
    p: u32,
    delivery: &DeliveryView,
) -> Result<Option<KeptEvent>, KeptError> {
    let Some(id) = DeliveryId::parse(&delivery.id) else {
        return Ok(None);
    };
    let skew = i64::try_from(SKEW.as_millis()).unwrap_or(0);
    let not_before = delivery.last_ms - skew;
    let end = journal.end(topic, p).await?;
    let (mut low, mut high) = (journal.start(topic, p).await?, end);
    // Times of records rise but for skew: the first that is not older.
    while low + AT_ONCE as u64 <= high {
        let middle = low + (high - low) / 2;
        match from(journal, topic, p, middle).await? {
            Some(record) if record.timestamp_ms < not_before => low = record.offset + 1,
            _ => high = middle,
        }
    }
    let mut reader = journal.reader(topic, p, low, BUDGET).await?;
    while reader.position() < end {
        let batch = match reader.next(AT_ONCE).await {
            Ok(batch) => batch,
            // Age takes it while it is looked for.
            Err(ReadError::Deleted { start, .. }) if start > reader.position() => {
                reader = journal.reader(topic, p, start, BUDGET).await?;
                continue;
            }
            Err(error) => return Err(JournalError::from(error).into()),
        };
        let found = batch.records.iter().find_map(|record| {
            let dead = wire::DeadDelivery::decode(record.value.clone()?).ok()?;
            let attempt = dead.attempt?;
            let event = dead.event?;
            let accepted_at = accepted_at(dead.accepted_at_ms, &attempt, record.timestamp_ms);
            (attempt.delivery_id == id.0[..]).then_some(KeptEvent {
                event,
                accepted_at: Millis(accepted_at),
            })
        });
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
