//! The topic `attempts` as the judge needs it: who claimed what, and the attempts that count.

use hookline_journal::{ReadBudget, StoredRecord};
use hookline_model::core::claims::{ClaimReader, Counted, LogEntry};
use hookline_model::ids::DeliveryId;
use hookline_model::time::Millis;
use hookline_model::wire::{self, header};
use prost::Message as _;

use crate::program::Site;

const BUDGET: ReadBudget = ReadBudget { bytes: 1024 * 1024 };

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

/// All partitions of `attempts`, from start to end.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Claims that took effect; those of a partition in the order of their epochs.
    pub claims: Vec<Claim>,
    /// Attempts that count; those of a partition in order.
    pub attempts: Vec<Attempt>,
    /// Attempts that count for nobody, and claims that came too late.
    pub uncounted: usize,
}

impl Log {
    /// Reads the topic of this site up to its end.
    ///
    /// # Panics
    /// When it cannot be read, or holds what cannot be decoded.
    pub async fn read(site: &Site) -> Self {
        let (journal, topic) = (site.journal().await, site.topic("attempts"));
        let topics = journal
            .topics()
            .await
            .expect("the journal lists its topics");
        let partitions = topics[&topic].partitions;
        let mut log = Self::default();
        for partition in 0..partitions {
            let start = journal.start(&topic, partition).await.expect("a start");
            let end = journal.end(&topic, partition).await.expect("an end");
            assert_eq!(start, 0, "nothing of {topic} has been deleted");
            let mut claims = ClaimReader::new(0);
            let mut reader = journal
                .reader(&topic, partition, start, BUDGET)
                .await
                .expect("the topic can be read");
            while reader.position() < end {
                let batch = reader.next(1000).await.expect("the topic can be read");
                for record in &batch.records {
                    log.take(partition, record, &mut claims);
                }
            }
        }
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
                let epoch = written.epoch;
                let attempts = written.attempts.into_iter();
                self.attempts
                    .extend(attempts.map(|a| attempt(partition, epoch, at, a)));
            }
            Counted::Nothing => self.uncounted += count,
        }
    }
}

fn attempt(partition: u32, epoch: u64, at: Millis, attempt: wire::Attempt) -> Attempt {
    Attempt {
        partition,
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
    assert_eq!(kind, header::KIND_ATTEMPT, "kinds of records");
    let body = wire::Attempts::decode(value).expect("attempts can be decoded");
    let entry = LogEntry::Written {
        epoch: body.epoch,
        sequence: body.sequence,
        body,
    };
    (entry, String::new())
}
