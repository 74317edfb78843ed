//! The topics `attempts` and `dead` as the judge needs them: who claimed what, the attempts that count, and what was given up.

use std::collections::BTreeMap;

use hookline_journal::{Journal, ReadBudget, StoredRecord};
use hookline_model::core::claims::{ClaimReader, Counted, LogEntry};
use hookline_model::ids::{DeliveryId, Position};
use hookline_model::time::Millis;
use hookline_model::wire::{self, header};
use prost::Message as _;

use crate::program::Site;

const BUDGET: ReadBudget = ReadBudget::of(1024 * 1024);
/// The built-in engine goes on this much higher after it has cut a torn tail, so that what is empty then starts there.
const SKIPPED_BY_A_REPAIR: u64 = 1 << 20;

/// A claim that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: u32,
    /// Its epoch there.
    pub epoch: u64,
    /// Who claimed: host and process id.
    pub worker: String,
    /// When it was appended.
    pub at: Millis,
}

/// An attempt that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The partition.
    pub partition: u32,
    /// Where it stands there.
    pub ticket: Position,
    /// The claim that it was recorded under.
    pub epoch: u64,
    /// When its record was appended.
    pub at: Millis,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The run.
    pub run: u64,
    /// Its number in the run.
    pub number: u32,
    /// The webhook's name.
    pub webhook: String,
    /// Where the event came from: project and source.
    pub origin: (String, String),
    /// The event's id.
    pub event: String,
    /// What came of it.
    pub outcome: wire::Outcome,
    /// The status that was answered, 0 without an answer.
    pub status: u16,
    /// Whether there was a request at all.
    pub exchanged: bool,
}

impl Attempt {
    /// Whether the delivery is over.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.outcome != wire::Outcome::Failed
    }
}

/// A delivery that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// The partition.
    pub partition: u32,
    /// The attempt that decided it.
    pub ticket: Position,
    /// The delivery.
    pub delivery: DeliveryId,
}

/// All partitions of `attempts` and `dead`, from start to end.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Claims that took effect; those of a partition in the order of their epochs.
    pub claims: Vec<Claim>,
    /// Attempts that count; those of a partition in order.
    pub attempts: Vec<Attempt>,
    /// Attempts that count for nobody, and claims that came too late.
    pub uncounted: usize,
    /// What was given up. A new owner may write again what the one before has written.
    pub dead: Vec<Dead>,
}

impl Log {
    /// Reads the topics of this site up to their ends.
    ///
    /// # Panics
    /// When they cannot be read, or hold what cannot be decoded.
    pub async fn read(site: &Site) -> Self {
        let journal = site.journal().await;
        let mut log = Self::default();
        let mut claims = BTreeMap::<u32, ClaimReader>::new();
        each(&*journal, &site.topic("attempts"), |partition, record| {
            let claims = claims.entry(partition).or_default();
            log.take(partition, record, claims);
        })
        .await;
        each(&*journal, &site.topic("dead"), |partition, record| {
            log.dead.push(dead(partition, record));
        })
        .await;
        log
    }

    fn take(&mut self, partition: u32, record: &StoredRecord, claims: &mut ClaimReader) {
        let at = Millis(record.timestamp_ms);
        let (entry, worker) = entry(record);
        let count = match &entry {
            LogEntry::Written { body, .. } => body.attempts.len(),
            _ => 1,
        };
        match claims.read(entry) {
            Counted::Claimed { epoch, .. } => self.claims.push(Claim {
                partition,
                epoch,
                worker,
                at,
            }),
            Counted::Written(written) => {
                let (epoch, offset) = (written.epoch, record.offset);
                let attempts = (0..).zip(written.attempts);
                self.attempts.extend(attempts.map(|(index, a)| {
                    let ticket = Position { offset, index };
                    attempt(partition, ticket, epoch, at, a)
                }));
            }
            Counted::Nothing => self.uncounted += count,
        }
    }
}

/// Hands out all records of a topic.
async fn each(journal: &dyn Journal, topic: &str, mut take: impl FnMut(u32, &StoredRecord)) {
    let topics = journal
        .topics()
        .await
        .expect("the journal lists its topics");
    for partition in 0..topics[topic].partitions {
        let start = journal.start(topic, partition).await.expect("a start");
        let end = journal.end(topic, partition).await.expect("an end");
        assert!(
            start.is_multiple_of(SKIPPED_BY_A_REPAIR),
            "something of {topic} has been deleted: it starts at {start}"
        );
        let mut reader = journal
            .reader(topic, partition, start, BUDGET)
            .await
            .expect("the topic can be read");
        while reader.position() < end {
            let batch = reader.next(1000).await.expect("the topic can be read");
            batch.records.iter().for_each(|r| take(partition, r));
        }
    }
}

fn dead(partition: u32, record: &StoredRecord) -> Dead {
    let value = record.value.clone().expect("a record has a value");
    let dead = wire::DeadDelivery::decode(value).expect("a dead delivery can be decoded");
    let attempt = dead.attempt.expect("it has its final attempt");
    Dead {
        partition,
        ticket: dead.ticket.expect("it has a ticket").into(),
        delivery: DeliveryId::from_slice(&attempt.delivery_id).expect("an attempt has a delivery"),
    }
}

fn attempt(
    partition: u32,
    ticket: Position,
    epoch: u64,
    at: Millis,
    attempt: wire::Attempt,
) -> Attempt {
    Attempt {
        partition,
        ticket,
        epoch,
        at,
        delivery: DeliveryId::from_slice(&attempt.delivery_id).expect("an attempt has a delivery"),
        run: attempt.run,
        number: attempt.attempt,
        outcome: attempt.outcome(),
        status: u16::try_from(attempt.status).expect("a status is small"),
        exchanged: attempt.request.is_some(),
        webhook: attempt.webhook,
        origin: (attempt.project, attempt.event_source),
        event: attempt.event_id,
    }
}

/// A record of `attempts`, and who claims with it, if it is a claim.
fn entry(record: &StoredRecord) -> (LogEntry<wire::Attempts>, String) {
    let value = record.value.clone().expect("a record has a value");
    let kind = record.header(header::KIND).expect("a record has a kind");
    if kind == header::KIND_CLAIM {
        let claim = wire::Claim::decode(value).expect("a claim can be decoded");
        let entry = LogEntry::Claim {
            epoch: claim.epoch,
            nonce: claim.nonce.to_vec(),
        };
        return (entry, claim.worker);
    }
    assert!(
        kind == header::KIND_ATTEMPT || kind == header::KIND_NOTE,
        "a record of kind {kind:?}"
    );
    let body = wire::Attempts::decode(value).expect("attempts can be decoded");
    let entry = LogEntry::Written {
        epoch: body.epoch,
        sequence: body.sequence,
        body,
    };
    (entry, String::new())
}
