//! One partition of one tier: reads ahead of nothing but the head, copies everything that is due without waiting for each acknowledgement,
//! and notes how far all is acknowledged. Costs nothing while nothing is due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{
    AppendError, Appended, Committed, ReadBudget, ReadError, Reader, Record, StoredRecord,
    TopicPartition, append_when_room,
};
use hookline_model::limits::TIERS;
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::clock::{self, BrokerTime, TierClock};
use super::copy::{self, Unusable};
use super::metrics::Head;
use super::{Shared, until};

/// What a reader may hold: the head, and some more for when many are due.
const READ_BUDGET: ReadBudget = ReadBudget::of(256 * 1024);
/// Records taken at once while everything read is due already.
const BATCH_MAX: usize = 128;
/// Copies of one partition that may wait for their acknowledgement, and their bytes.
const IN_FLIGHT_MAX: usize = 512;
const IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;
/// The longest sleep: the measured skew may change meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// How long copies under way may take to be acknowledged when the partition is given back.
const DRAIN: Duration = Duration::from_secs(5);
/// How long after a failure to read the next try comes.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What a copier is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Go,
    /// Copy nothing more; wait for what is under way.
    Drain,
    /// Do nothing more.
    Drop,
}

/// Why a copier ended.
#[derive(Debug)]
pub(crate) enum Ended {
    AsOrdered,
    /// Going on could hide a loss.
    Alarm(ReadError),
    /// The appender has failed.
    Failed(AppendError),
}

/// Which partition, and how far it is.
pub(crate) struct Place {
    pub(crate) partition: TopicPartition,
    /// Index into the ladder.
    pub(crate) tier: usize,
    pub(crate) committed: Option<Committed>,
}

/// Fates of copies, as the engine reports them.
struct Acks {
    told: Mutex<Vec<Ack>>,
    some: Notify,
    time: Arc<BrokerTime>,
}

struct Ack {
    number: u64,
    at: Millis,
    result: Result<Appended, AppendError>,
}

/// A copy whose acknowledgement, or whose predecessor's, is awaited.
struct UnderWay {
    stored: StoredRecord,
    due: Millis,
    sent: Millis,
    last_hop: bool,
    acknowledged: bool,
}

/// See the module's documentation.
pub(crate) struct Copier {
    shared: Arc<Shared>,
    place: Place,
    orders: watch::Receiver<Order>,
    acks: Arc<Acks>,
    head: Arc<Head>,
    due: TierClock,
    /// Read and not yet copied, with when each is due.
    waiting: VecDeque<(StoredRecord, Millis)>,
    under_way: VecDeque<UnderWay>,
    /// Number of the first copy under way; they are numbered in order.
    first_number: u64,
    bytes_under_way: usize,
    batch: usize,
}

impl Copier {
    pub(crate) fn new(shared: Arc<Shared>, place: Place, orders: watch::Receiver<Order>) -> Self {
        let previous_due = place
            .committed
            .as_ref()
            .and_then(|c| clock::from_metadata(&c.metadata));
        let acks = Arc::new(Acks {
            told: Mutex::default(),
            some: Notify::new(),
            time: Arc::clone(&shared.time),
        });
        Self {
            head: shared.metrics.head(),
            due: TierClock::new(TIERS[place.tier].1, previous_due),
            shared,
            place,
            orders,
            acks,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            first_number: 0,
            bytes_under_way: 0,
            batch: 1,
        }
    }

    pub(crate) async fn run(mut self) -> (TopicPartition, Ended) {
        let mut orders = self.orders.clone();
        let ended = tokio::select! {
            biased;
            ended = self.copy() => ended,
            () = until(&mut orders, |order| *order != Order::Go) => Ended::AsOrdered,
        };
        let ended = match ended {
            Ended::AsOrdered => self.drain().await,
            Ended::Alarm(error) => {
                // What was copied before stays true.
                drop(self.drain().await);
                Ended::Alarm(error)
            }
            failed @ Ended::Failed(_) => failed,
        };
        (self.place.partition, ended)
    }

    /// Waits for what is under way, within bounds.
    async fn drain(&mut self) -> Ended {
        let mut orders = self.orders.clone();
        let acknowledged = async {
            while !self.under_way.is_empty() {
                self.acks.some.notified().await;
                if let Err(error) = self.settle().await {
                    return Ended::Failed(error);
                }
            }
            Ended::AsOrdered
        };
        tokio::select! {
            biased;
            ended = tokio::time::timeout(DRAIN, acknowledged) => ended.unwrap_or(Ended::AsOrdered),
            () = until(&mut orders, |order| *order == Order::Drop) => Ended::AsOrdered,
        }
    }

    /// Copies until something ends it. Cancel safe: what was handed over stands in `under_way`.
    async fn copy(&mut self) -> Ended {
        let mut from = match self.start().await {
            Ok(from) => from,
            Err(error) => return Ended::Alarm(error),
        };
        loop {
            let mut reader = self.reader(from).await;
            match self.copy_from(&mut *reader).await {
                Stopped::Append(error) => return Ended::Failed(error),
                Stopped::Read(error @ ReadError::Failed { .. }) => {
                    tracing::warn!(%error, "reading a tier failed; it is tried again");
                    from = reader.position();
                    drop(reader);
                    tokio::time::sleep(READ_AGAIN).await;
                }
                Stopped::Read(error) => return Ended::Alarm(error),
            }
        }
    }

    /// Where to begin. Nothing committed means that nothing was ever copied.
    async fn start(&self) -> Result<u64, ReadError> {
        let TopicPartition { topic, partition } = &self.place.partition;
        if let Some(committed) = &self.place.committed {
            return Ok(committed.offset);
        }
        loop {
            match self.shared.journal.start(topic, *partition).await {
                Ok(start) => return Ok(start),
                Err(error) => {
                    tracing::warn!(topic, partition, %error, "the start of a tier is not known; it is asked for again");
                    tokio::time::sleep(READ_AGAIN).await;
                }
            }
        }
    }

    async fn reader(&self, from: u64) -> Box<dyn Reader> {
        let TopicPartition { topic, partition } = &self.place.partition;
        loop {
            let reader = self
                .shared
                .journal
                .reader(topic, *partition, from, READ_BUDGET)
                .await;
            match reader {
                Ok(reader) => return reader,
                Err(error) => {
                    tracing::warn!(topic, partition, %error, "a tier cannot be read; it is tried again");
                    tokio::time::sleep(READ_AGAIN).await;
                }
            }
        }
    }

    async fn copy_from(&mut self, reader: &mut dyn Reader) -> Stopped {
        loop {
            if let Err(error) = self.copy_due().await {
                return Stopped::Append(error);
            }
            let room = self.has_room();
            let wait = self
                .waiting
                .front()
                .map(|(_, due)| self.shared.time.until_past(*due).min(SLEEP_MAX));
            tokio::select! {
                biased;
                () = self.acks.some.notified(), if !self.under_way.is_empty() => {
                    if let Err(error) = self.settle().await {
                        return Stopped::Append(error);
                    }
                }
                batch = reader.next(self.batch), if wait.is_none() && room => match batch {
                    Ok(batch) => self.take(batch.records),
                    Err(error) => return Stopped::Read(error),
                },
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() && room => {}
            }
        }
    }

    /// Until the brokers' clocks are known, copies go one by one: should our own clock be wrong, it makes one record early and not a backlog.
    fn has_room(&self) -> bool {
        let room = if self.shared.time.measured() {
            IN_FLIGHT_MAX
        } else {
            1
        };
        self.under_way.len() < room && self.bytes_under_way < IN_FLIGHT_BYTES
    }

    /// Takes what was read. As long as all of it is due already, more is asked for at a time.
    fn take(&mut self, records: Vec<StoredRecord>) {
        if records.is_empty() {
            return;
        }
        for record in records {
            let due = self.due.due(Millis(record.timestamp_ms));
            self.waiting.push_back((record, due));
        }
        let all_due = self
            .waiting
            .back()
            .is_some_and(|(_, due)| self.shared.time.until_past(*due).is_zero());
        self.batch = if all_due {
            (self.batch * 2).min(BATCH_MAX)
        } else {
            1
        };
        self.show_head();
    }

    /// Hands over everything that is due, as far as there is room.
    async fn copy_due(&mut self) -> Result<(), AppendError> {
        while self.has_room()
            && let Some((stored, due)) = self.waiting.front().cloned()
            && self.shared.time.until_past(due).is_zero()
        {
            let next = copy::next(stored.value.as_ref(), self.place.tier, &self.shared.layout);
            let sent = self.shared.time.local();
            let (topic, partition, record) = match next {
                Ok(copy) => (copy.topic, copy.partition, copy.record),
                Err(why) => self.reject(&stored, &why),
            };
            hookline_model::fail_point!("tiers-taken");
            self.hand_over(topic, partition, record).await?;
            hookline_model::fail_point!("tiers-handed");
            self.waiting.pop_front();
            self.bytes_under_way += stored.value.as_ref().map_or(0, bytes::Bytes::len);
            self.under_way.push_back(UnderWay {
                stored,
                due,
                sent,
                last_hop: topic == Topic::Deliveries,
                acknowledged: false,
            });
        }
        Ok(())
    }

    fn reject(&self, stored: &StoredRecord, why: &Unusable) -> (Topic, u32, Record) {
        let from = &self.place.partition;
        tracing::error!(
            topic = from.topic,
            partition = from.partition,
            offset = stored.offset,
            reason = why.detail,
            "a record of a tier cannot be used; it goes to `rejected`"
        );
        self.shared.metrics.rejected.inc();
        let record = copy::rejected(stored, from, why, self.shared.time.local());
        let partition = from.partition % self.shared.layout.partitions.max(1);
        (Topic::Rejected, partition, record)
    }

    async fn hand_over(
        &self,
        topic: Topic,
        partition: u32,
        record: Record,
    ) -> Result<(), AppendError> {
        let acks = Arc::clone(&self.acks);
        let number = self.first_number + self.under_way.len() as u64;
        append_when_room(
            &*self.shared.appender,
            &topic.name(&self.shared.prefix),
            partition,
            record,
            Box::new(move |result| {
                let at = acks.time.local();
                acks.told.lock().push(Ack { number, at, result });
                acks.some.notify_one();
            }),
        )
        .await
    }

    /// Takes the acknowledgements that came and notes how far all before is acknowledged.
    async fn settle(&mut self) -> Result<(), AppendError> {
        let told = std::mem::take(&mut *self.acks.told.lock());
        for ack in told {
            let Some(index) = ack
                .number
                .checked_sub(self.first_number)
                .and_then(|i| usize::try_from(i).ok())
            else {
                continue;
            };
            match ack.result {
                Ok(appended) => self.acknowledged(index, appended, ack.at),
                Err(error @ (AppendError::TooLarge { .. } | AppendError::NoPartition { .. })) => {
                    self.refused(index, ack.number, &error).await?
                }
                Err(error) => return Err(error),
            }
        }
        let mut settled = None;
        while self.under_way.front().is_some_and(|c| c.acknowledged) {
            let Some(copy) = self.under_way.pop_front() else {
                break;
            };
            self.first_number += 1;
            self.bytes_under_way -= copy.stored.value.as_ref().map_or(0, bytes::Bytes::len);
            settled = Some((copy.stored.offset, copy.due));
        }
        if let Some((offset, due)) = settled {
            let position = Committed {
                offset: offset + 1,
                metadata: clock::to_metadata(Some(due)),
            };
            self.shared.commits.note(&self.place.partition, position);
            self.show_head();
        }
        Ok(())
    }

    fn acknowledged(&mut self, index: usize, appended: Appended, at: Millis) {
        let Some(copy) = self.under_way.get_mut(index) else {
            return;
        };
        copy.acknowledged = true;
        hookline_model::fail_point!("tiers-acknowledged");
        if let Some(stamp) = appended.timestamp_ms {
            self.shared.time.observe(copy.sent, at, Millis(stamp));
        }
        self.shared.metrics.copies.inc();
        if copy.last_hop {
            // By the same clock that said when it was due.
            let ago = self.shared.time.local().since(at);
            let late = self.shared.time.now().since(copy.due).saturating_sub(ago);
            self.shared.metrics.lateness.observe(late.as_secs_f64());
        }
    }

    /// The place it should go to does not take it, and never will.
    async fn refused(
        &mut self,
        index: usize,
        number: u64,
        error: &AppendError,
    ) -> Result<(), AppendError> {
        let Some(copy) = self.under_way.get_mut(index) else {
            return Ok(());
        };
        copy.last_hop = false;
        let stored = copy.stored.clone();
        let why = Unusable {
            reason: "unreadable",
            detail: error.to_string(),
        };
        let (topic, partition, record) = self.reject(&stored, &why);
        let acks = Arc::clone(&self.acks);
        append_when_room(
            &*self.shared.appender,
            &topic.name(&self.shared.prefix),
            partition,
            record,
            Box::new(move |result| {
                let at = acks.time.local();
                // A copy that even `rejected` does not take stops the stage rather than being skipped.
                let result = result.map_err(|e| AppendError::Failed {
                    topic: "rejected".into(),
                    reason: e.to_string(),
                });
                acks.told.lock().push(Ack { number, at, result });
                acks.some.notify_one();
            }),
        )
        .await
    }

    fn show_head(&self) {
        let due = self
            .under_way
            .front()
            .map(|c| c.due)
            .or_else(|| self.waiting.front().map(|(_, due)| *due));
        self.head.set(due);
    }
}

/// Why copying from a reader stopped.
enum Stopped {
    Append(AppendError),
    Read(ReadError),
}
