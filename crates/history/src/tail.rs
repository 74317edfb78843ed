//! Follows `attempts` in all partitions.
//!
//! Within a partition items come in the order of the log; between partitions there is none.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use hookline_journal::{
    Journal, JournalError, ReadBudget, ReadError, Reader, StoredRecord, TopicPartition,
};
use hookline_model::ids::Position;
use hookline_model::topics::Topic;
use hookline_model::wire;

use crate::AttemptLine;
use crate::decode::{Decoded, decode};

/// Records taken at a time; what a partition has read ahead is bounded by [`BUDGET`].
const RECORDS_MAX: usize = 200;
const BUDGET: ReadBudget = ReadBudget::of(1024 * 1024);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailFrom {
    /// With the oldest attempt that is kept.
    Start,
    /// With the next attempt made.
    End,
    /// About that many records before the end of each partition.
    Recent(u64),
}

/// Which attempts are wanted; what is not said matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailFilter {
    /// Of this project.
    pub project: Option<String>,
    /// Of the webhook with this name.
    pub webhook: Option<String>,
}

impl TailFilter {
    fn takes(&self, attempt: &wire::Attempt) -> bool {
        self.project.as_ref().is_none_or(|p| *p == attempt.project)
            && self.webhook.as_ref().is_none_or(|w| *w == attempt.webhook)
    }
}

/// What the tail hands out.
#[derive(Debug, Clone)]
pub enum TailItem {
    /// An attempt.
    Attempt(Box<AttemptLine>),
    /// A record that this build cannot read.
    Unreadable {
        /// Where it stands.
        at: TopicPartition,
        /// Its offset.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Records that were deleted (by age) before the tail had read them.
    Missed {
        /// Where.
        at: TopicPartition,
        /// The first that is missing.
        from: u64,
        /// The first that is there again.
        to: u64,
    },
}

/// Why the tail cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// The journal could not be asked.
    #[error("cannot open the topic of attempts")]
    Journal(#[from] JournalError),
    /// There is nothing to follow.
    #[error("there is no topic {topic}: make it with `hookline topics create`")]
    NoTopic {
        /// Its full name.
        topic: String,
    },
    /// A partition cannot be read on.
    #[error("cannot read on")]
    Read(#[from] ReadError),
}

/// Attempts as they happen.
pub struct Tail {
    partitions: SelectAll<BoxStream<'static, Result<Vec<TailItem>, TailError>>>,
    filter: TailFilter,
    ready: std::collections::VecDeque<TailItem>,
}

impl Tail {
    /// Opens all partitions of `attempts` under `prefix`.
    ///
    /// # Errors
    /// When the journal does not answer, or has no such topic.
    pub async fn open(
        journal: &Arc<dyn Journal>,
        prefix: &str,
        from: TailFrom,
        filter: TailFilter,
    ) -> Result<Self, TailError> {
        let topic = Topic::Attempts.name(prefix);
        let count = journal.topics().await?.get(&topic).map(|t| t.partitions);
        let Some(count) = count else {
            return Err(TailError::NoTopic { topic });
        };
        let mut partitions = SelectAll::new();
        for partition in 0..count {
            let position = match from {
                TailFrom::Start => journal.start(&topic, partition).await?,
                TailFrom::End => journal.end(&topic, partition).await?,
                TailFrom::Recent(records) => {
                    let end = journal.end(&topic, partition).await?;
                    let start = journal.start(&topic, partition).await?;
                    end.saturating_sub(records).max(start)
                }
            };
            let reader = journal.reader(&topic, partition, position, BUDGET).await?;
            let one = Partition {
                journal: Arc::clone(journal),
                at: TopicPartition {
                    topic: topic.clone(),
                    partition,
                },
                reader,
                filter: filter.clone(),
                epoch: 0,
            };
            partitions.push(one.into_stream());
        }
        Ok(Self {
            partitions,
            filter,
            ready: std::collections::VecDeque::new(),
        })
    }

    /// What was asked for.
    #[must_use]
    pub fn filter(&self) -> &TailFilter {
        &self.filter
    }

    /// The next item, as soon as there is one. Cancel safe.
    ///
    /// # Errors
    /// When a partition cannot be read on. The others can: calling again goes on with them.
    pub async fn next(&mut self) -> Result<TailItem, TailError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            match self.partitions.next().await {
                Some(items) => self.ready.extend(items?),
                // Every partition has failed, and said so.
                None => std::future::pending().await,
            }
        }
    }
}

struct Partition {
    journal: Arc<dyn Journal>,
    at: TopicPartition,
    reader: Box<dyn Reader>,
    filter: TailFilter,
    /// The highest claim seen. Records of a lower one count for nobody.
    epoch: u64,
}

impl Partition {
    fn into_stream(self) -> BoxStream<'static, Result<Vec<TailItem>, TailError>> {
        futures::stream::unfold(Some(self), |partition| async {
            let mut partition = partition?;
            match partition.next().await {
                Ok(items) => Some((Ok(items), Some(partition))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Vec<TailItem>, TailError> {
        match self.reader.next(RECORDS_MAX).await {
            Ok(batch) => {
                let mut items = Vec::new();
                for record in batch.records {
                    self.decode(&record, &mut items);
                }
                Ok(items)
            }
            Err(ReadError::Deleted {
                position, start, ..
            }) => {
                let TopicPartition { topic, partition } = &self.at;
                self.reader = self
                    .journal
                    .reader(topic, *partition, start, BUDGET)
                    .await?;
                Ok(vec![TailItem::Missed {
                    at: self.at.clone(),
                    from: position,
                    to: start,
                }])
            }
            Err(error) => Err(error.into()),
        }
    }

    fn decode(&mut self, record: &StoredRecord, items: &mut Vec<TailItem>) {
        let (attempts, stray) = match decode(record, &mut self.epoch) {
            Decoded::Attempts { attempts, stray } => (attempts, stray),
            Decoded::Other => return,
            Decoded::Unreadable(reason) => {
                items.push(TailItem::Unreadable {
                    at: self.at.clone(),
                    offset: record.offset,
                    reason,
                });
                return;
            }
        };
        for (index, attempt) in (0..).zip(attempts) {
            if self.filter.takes(&attempt) {
                let at = Position {
                    offset: record.offset,
                    index,
                };
                let line = AttemptLine::new(attempt, self.at.partition, at, stray);
                items.push(TailItem::Attempt(Box::new(line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use hookline_journal::{Appender, Batch, Committed, GroupSpec, Member, TopicInfo, TopicSpec};
    use hookline_model::wire::header;
    use prost::Message as _;

    use super::*;

    /// One partition that holds what it was made with, from offset `start` on.
    struct Fixed {
        start: u64,
        records: Vec<StoredRecord>,
    }

    struct FixedReader {
        start: u64,
        position: u64,
        records: Vec<StoredRecord>,
    }

    #[async_trait::async_trait]
    impl Reader for FixedReader {
        async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
            if self.position < self.start {
                return Err(ReadError::Deleted {
                    topic: String::new(),
                    partition: 0,
                    position: self.position,
                    start: self.start,
                });
            }
            let records: Vec<_> = self
                .records
                .iter()
                .filter(|r| r.offset >= self.position)
                .take(max)
                .cloned()
                .collect();
            let Some(last) = records.last() else {
                return std::future::pending().await;
            };
            self.position = last.offset + 1;
            Ok(Batch {
                records,
                next: self.position,
            })
        }

        fn position(&self) -> u64 {
            self.position
        }
    }

    #[async_trait::async_trait]
    impl Journal for Fixed {
        async fn appender(&self, _: &str) -> Result<Arc<dyn Appender>, JournalError> {
            unimplemented!("a tail only reads")
        }
        async fn reader(
            &self,
            _: &str,
            _: u32,
            from: u64,
            _: ReadBudget,
        ) -> Result<Box<dyn Reader>, JournalError> {
            Ok(Box::new(FixedReader {
                start: self.start,
                position: from,
                records: self.records.clone(),
            }))
        }
        async fn start(&self, _: &str, _: u32) -> Result<u64, JournalError> {
            // As if records were deleted right after this was asked.
            Ok(0)
        }
        async fn end(&self, _: &str, _: u32) -> Result<u64, JournalError> {
            Ok(self.records.last().map_or(0, |r| r.offset + 1))
        }
        async fn delete_records(&self, _: &str, _: u32, _: u64) -> Result<(), JournalError> {
            unimplemented!("a tail only reads")
        }
        async fn join(&self, _: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
            unimplemented!("a tail joins no group")
        }
        async fn committed(
            &self,
            _: &str,
            _: &[TopicPartition],
        ) -> Result<Vec<Option<Committed>>, JournalError> {
            unimplemented!("a tail commits nothing")
        }
        async fn create_topics(&self, _: &[TopicSpec]) -> Result<(), JournalError> {
            unimplemented!("a tail only reads")
        }
        async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
            let info = TopicInfo {
                partitions: 1,
                ..TopicInfo::default()
            };
            Ok(BTreeMap::from([("h.attempts".to_owned(), info)]))
        }
        async fn healthy(&self) -> bool {
            true
        }
    }

    fn record(offset: u64, kind: &str, value: Vec<u8>) -> StoredRecord {
        StoredRecord {
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(value.into()),
            headers: vec![(
                header::KIND.to_owned(),
                Bytes::copy_from_slice(kind.as_bytes()),
            )],
        }
    }

    fn attempts(epoch: u64, webhooks: &[&str]) -> Vec<u8> {
        let attempts = webhooks
            .iter()
            .map(|webhook| wire::Attempt {
                project: "demo".into(),
                webhook: (*webhook).into(),
                outcome: wire::Outcome::Delivered.into(),
                ..wire::Attempt::default()
            })
            .collect();
        wire::Attempts {
            format: wire::FORMAT,
            epoch,
            sequence: 1,
            attempts,
            ..wire::Attempts::default()
        }
        .encode_to_vec()
    }

    fn claim(epoch: u64) -> Vec<u8> {
        wire::Claim {
            format: wire::FORMAT,
            epoch,
            ..wire::Claim::default()
        }
        .encode_to_vec()
    }

    async fn take(journal: Fixed, from: TailFrom, filter: TailFilter, count: usize) -> Vec<String> {
        let journal: Arc<dyn Journal> = Arc::new(journal);
        let mut tail = Tail::open(&journal, "h.", from, filter).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(match tail.next().await.unwrap() {
                TailItem::Attempt(line) if line.stray => format!("{} stray", line.webhook),
                TailItem::Attempt(line) => line.webhook.clone(),
                TailItem::Unreadable { offset, .. } => format!("unreadable {offset}"),
                TailItem::Missed { from, to, .. } => format!("missed {from}..{to}"),
            });
        }
        let more = tokio::time::timeout(std::time::Duration::from_secs(1), tail.next()).await;
        assert!(more.is_err(), "nothing more: {more:?}");
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn hands_out_attempts_and_reports_what_it_cannot_read() {
        let records = vec![
            record(0, "attempt", attempts(1, &["ok"])),
            record(1, "claim", claim(2)),
            record(2, "attempt", attempts(1, &["late"])),
            record(4, "from a newer build", b"\xff".to_vec()),
            record(5, "attempt", b"\xff\xff".to_vec()),
            record(
                6,
                "attempt",
                wire::Attempts {
                    format: 9,
                    ..wire::Attempts::default()
                }
                .encode_to_vec(),
            ),
            record(7, "attempt", attempts(2, &["ok", "dead", "ok"])),
        ];
        let all = Fixed {
            start: 0,
            records: records.clone(),
        };
        assert_eq!(
            take(all, TailFrom::Start, TailFilter::default(), 7).await,
            [
                "ok",
                "late stray",
                "unreadable 5",
                "unreadable 6",
                "ok",
                "dead",
                "ok"
            ]
        );
        let only = TailFilter {
            project: Some("demo".into()),
            webhook: Some("dead".into()),
        };
        let all = Fixed {
            start: 0,
            records: records.clone(),
        };
        assert_eq!(
            take(all, TailFrom::Start, only, 3).await,
            ["unreadable 5", "unreadable 6", "dead"]
        );
        let all = Fixed {
            start: 0,
            records: records.clone(),
        };
        let recent = TailFrom::Recent(2);
        assert_eq!(
            take(all, recent, TailFilter::default(), 4).await,
            ["unreadable 6", "ok", "dead", "ok"]
        );
        let all = Fixed { start: 0, records };
        assert!(
            take(all, TailFrom::End, TailFilter::default(), 0)
                .await
                .is_empty()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_it_missed_when_records_were_deleted() {
        let journal = Fixed {
            start: 5,
            records: vec![record(5, "attempt", attempts(1, &["ok"]))],
        };
        assert_eq!(
            take(journal, TailFrom::Start, TailFilter::default(), 2).await,
            ["missed 0..5", "ok"]
        );
    }

    #[tokio::test]
    async fn without_the_topic_it_says_how_to_make_it() {
        let journal: Arc<dyn Journal> = Arc::new(Fixed {
            start: 0,
            records: vec![],
        });
        let error = Tail::open(&journal, "other.", TailFrom::End, TailFilter::default())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("other.attempts"));
        assert!(error.to_string().contains("topics create"));
    }
}
