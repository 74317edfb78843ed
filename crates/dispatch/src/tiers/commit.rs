//! How far each partition is: committed a few times a second, and deleted behind that a while later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Committed, Committer, Journal, JournalError, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long after a failed commit the next is tried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Positions = BTreeMap<TopicPartition, Committed>;

/// See the module's documentation.
pub(crate) struct Commits {
    committer: Arc<dyn Committer>,
    journal: Arc<dyn Journal>,
    every: Duration,
    trim_every: Duration,
    pending: Mutex<Positions>,
    changed: Notify,
    /// One commit at a time, so that an older position never follows a newer one.
    turn: tokio::sync::Mutex<()>,
    trim: Mutex<Trim>,
}

/// What was committed lately, and what long enough ago to be deleted: a late commit of a former member may set a position back, and what it
/// points to should still be there.
#[derive(Default)]
struct Trim {
    young: BTreeMap<TopicPartition, u64>,
    ripe: BTreeMap<TopicPartition, u64>,
}

impl Commits {
    pub(crate) fn new(
        committer: Arc<dyn Committer>,
        journal: Arc<dyn Journal>,
        every: Duration,
        trim_every: Duration,
    ) -> Self {
        Self {
            committer,
            journal,
            every,
            trim_every,
            pending: Mutex::default(),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            trim: Mutex::default(),
        }
    }

    /// Notes how far a partition is.
    pub(crate) fn note(&self, partition: &TopicPartition, position: Committed) {
        let mut pending = self.pending.lock();
        if let Some(noted) = pending.get_mut(partition) {
            *noted = position;
            return;
        }
        pending.insert(partition.clone(), position);
        drop(pending);
        self.changed.notify_one();
    }

    /// These belong to somebody else now.
    pub(crate) fn forget(&self, partitions: &[TopicPartition]) {
        let mut pending = self.pending.lock();
        for partition in partitions {
            pending.remove(partition);
        }
    }

    /// Commits and deletes for ever.
    pub(crate) async fn run(&self) {
        let mut trim_at = Instant::now() + self.trim_every;
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => {
                    tokio::time::sleep(self.every).await;
                    if !self.flush().await {
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
                () = tokio::time::sleep_until(trim_at) => {
                    self.delete_ripe().await;
                    trim_at = Instant::now() + self.trim_every;
                }
            }
        }
    }

    /// Commits what is noted; whether that went well. What failed stays noted.
    pub(crate) async fn flush(&self) -> bool {
        let _turn = self.turn.lock().await;
        let positions = std::mem::take(&mut *self.pending.lock());
        if positions.is_empty() {
            return true;
        }
        let list = positions.iter().map(|(p, c)| (p.clone(), c.clone()));
        match self.committer.commit(list.collect()).await {
            Ok(()) => {
                hookline_model::fail_point!("tiers-committed");
                let mut trim = self.trim.lock();
                for (partition, position) in positions {
                    trim.young.insert(partition, position.offset);
                }
                true
            }
            Err(error) => {
                // No longer a member: the partitions will be taken away, and nobody needs these positions.
                if !matches!(error, JournalError::NotMember { .. }) {
                    self.keep(positions);
                }
                tracing::warn!(%error, "a commit of the tiers failed; until one succeeds, a restart copies again what it covers");
                false
            }
        }
    }

    fn keep(&self, positions: Positions) {
        let mut pending = self.pending.lock();
        for (partition, position) in positions {
            // What was noted meanwhile is newer.
            pending.entry(partition).or_insert(position);
        }
        self.changed.notify_one();
    }

    async fn delete_ripe(&self) {
        let ripe = {
            let mut trim = self.trim.lock();
            let young = std::mem::take(&mut trim.young);
            std::mem::replace(&mut trim.ripe, young)
        };
        for (partition, before) in ripe {
            let deleted = self
                .journal
                .delete_records(&partition.topic, partition.partition, before)
                .await;
            if let Err(error) = deleted {
                tracing::warn!(topic = partition.topic, partition = partition.partition, %error, "copied records of a tier could not be deleted; tried again after the next commit");
            }
        }
    }
}
