//! How many records stand before the stages that read by group: `hookline_journal_consumer_lag_records{topic}`.
//!
//! It is measured when somebody looks, so that it is true then and costs nothing otherwise.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::stream::FuturesUnordered;
use hookline_journal::{Committed, Journal, JournalError, TopicPartition};
use hookline_model::topics::Topic;
use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cli::Role;
use crate::engine::System;

/// What was measured so recently is not measured again.
const FRESH: Duration = Duration::from_secs(1);
/// A scrape waits for this long at most; the last figures stand.
const WITHIN: Duration = Duration::from_secs(3);
/// Questions to the journal at the same time.
const AT_ONCE: usize = 16;

/// A group and what it reads.
#[derive(Debug, Clone)]
pub(crate) struct Reads {
    /// The group.
    pub(crate) group: String,
    /// The topics, and how many partitions each has.
    pub(crate) topics: Vec<(String, u32)>,
}

/// Measures the lag of groups.
pub(crate) struct Lag {
    journal: Arc<dyn Journal>,
    reads: Vec<Reads>,
    gauge: IntGaugeVec,
    measured: Mutex<Option<Instant>>,
}

impl Lag {
    /// Of these groups, shown in `registry`.
    ///
    /// # Errors
    /// When the registry has such a metric.
    pub(crate) fn new(
        journal: Arc<dyn Journal>,
        reads: Vec<Reads>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let gauge = IntGaugeVec::new(
            Opts::new(
                "hookline_journal_consumer_lag_records",
                "Records between what was committed and the end of the topic, all partitions together.",
            ),
            &["topic"],
        )?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self {
            journal,
            reads,
            gauge,
            measured: Mutex::new(None),
        })
    }

    /// Measures anew unless that was done just now. When the journal does not answer, the last figures stand.
    pub(crate) async fn refresh(&self) {
        let mut measured = self.measured.lock().await;
        if measured.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        match tokio::time::timeout(WITHIN, self.measure()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the lag could not be measured"),
            Err(_) => tracing::debug!("the lag could not be measured in time"),
        }
        *measured = Some(Instant::now());
    }

    async fn measure(&self) -> Result<(), JournalError> {
        for reads in &self.reads {
            for (topic, partitions) in &reads.topics {
                let lag = self.of(&reads.group, topic, *partitions).await?;
                self.gauge
                    .with_label_values(&[topic])
                    .set(i64::try_from(lag).unwrap_or(i64::MAX));
            }
        }
        Ok(())
    }

    async fn of(&self, group: &str, topic: &str, partitions: u32) -> Result<u64, JournalError> {
        let all: Vec<_> = (0..partitions)
            .map(|partition| TopicPartition {
                topic: topic.to_owned(),
                partition,
            })
            .collect();
        let committed = self.journal.committed(group, &all).await?;
        let mut sum = 0_u64;
        let mut each: FuturesUnordered<_> = FuturesUnordered::new();
        for (tp, committed) in all.into_iter().zip(committed) {
            if each.len() >= AT_ONCE
                && let Some(lag) = each.try_next().await?
            {
                sum = sum.saturating_add(lag);
            }
            each.push(self.behind(tp, committed));
        }
        while let Some(lag) = each.try_next().await? {
            sum = sum.saturating_add(lag);
        }
        Ok(sum)
    }

    async fn behind(
        &self,
        at: TopicPartition,
        committed: Option<Committed>,
    ) -> Result<u64, JournalError> {
        let end = self.journal.end(&at.topic, at.partition).await?;
        let read = match committed {
            Some(committed) => committed.offset,
            None => self.journal.start(&at.topic, at.partition).await?,
        };
        Ok(end.saturating_sub(read))
    }
}

/// What the groups of these roles read.
pub(crate) fn reads(system: &System, roles: &[Role]) -> Vec<Reads> {
    let prefix = &system.config.journal.prefix;
    let group = |role: Role| format!("{prefix}{role}");
    let all = |topics: Vec<Topic>, partitions| {
        topics
            .iter()
            .map(|topic| (topic.name(prefix), partitions))
            .collect()
    };
    let mut reads = Vec::new();
    if roles.contains(&Role::Fanout) {
        let topics = all(vec![Topic::Events], system.layout.partitions);
        reads.push(Reads {
            group: group(Role::Fanout),
            topics,
        });
    }
    if roles.contains(&Role::Dispatch) {
        let topics = all(vec![Topic::Deliveries], system.layout.partitions);
        reads.push(Reads {
            group: group(Role::Dispatch),
            topics,
        });
    }
    if roles.contains(&Role::Tiers) {
        let topics = all(Topic::tiers().collect(), system.layout.tier_partitions);
        reads.push(Reads {
            group: group(Role::Tiers),
            topics,
        });
    }
    reads
}
