//! Durable topics: one small interface, two engines.
//!
//! Everything hookline stores goes through [`Journal`]. What the rest of the system relies on, and both engines keep:
//!
//! - a partition has one order; an offset is never used twice, but there may be gaps;
//! - an append is acknowledged only when it is durable (fsync, or `acks=all`), and its acknowledgement may get lost;
//! - an [`Appender`] leaves no gaps: after an append that failed for good it appends nothing more;
//! - a group has several members; partitions are revoked before they are assigned elsewhere; a member may go on after it lost one;
//! - a commit is accepted from members only, renews the session and checks no partition; it may come late or fail;
//! - append time may step back; compaction keeps the last record of a key;
//! - [`Journal::end`] is linear with acknowledged appends.
//!
//! What this crate does not know: what the records mean.

pub mod embedded;
pub mod kafka;
mod types;

pub use types::*;

use std::sync::Arc;

use async_trait::async_trait;

/// Durable topics. See the crate's documentation for what both engines keep.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// A new writer. `name` tells it apart in logs and in the broker's client ids.
    ///
    /// # Errors
    /// When the engine cannot be reached or refuses the settings.
    async fn appender(&self, name: &str) -> Result<Arc<dyn Appender>, JournalError>;

    /// Reads `topic`/`partition` from offset `from` (inclusive), independently of every other reader and of groups.
    ///
    /// # Errors
    /// When the topic or the partition does not exist. A position that is out of range shows in [`Reader::next`].
    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError>;

    /// The offset of the first record that has not been deleted.
    ///
    /// # Errors
    /// When the topic or the partition does not exist, or nobody answers in time.
    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError>;

    /// The offset after the last acknowledged record: linear with acknowledged appends.
    ///
    /// # Errors
    /// As [`Journal::start`].
    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError>;

    /// Deletes all records of a partition below `before`.
    ///
    /// # Errors
    /// As [`Journal::start`].
    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError>;

    /// Joins a consumer group, which suggests who works on which partition. It hands out no records: members read with
    /// [`Journal::reader`] from where they think right.
    ///
    /// # Errors
    /// When the group or a topic is refused.
    async fn join(&self, group: GroupSpec) -> Result<Box<dyn Member>, JournalError>;

    /// Positions committed by a group, `None` where there is none, in the order asked.
    ///
    /// # Errors
    /// When nobody answers in time.
    async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError>;

    /// Makes the topics that do not exist yet. Those that do are left as they are.
    ///
    /// # Errors
    /// When one could not be made.
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), JournalError>;

    /// What exists, by name.
    ///
    /// # Errors
    /// When nobody answers in time.
    async fn topics(&self) -> Result<std::collections::BTreeMap<String, TopicInfo>, JournalError>;

    /// Whether the engine answers now (for readiness).
    async fn healthy(&self) -> bool;
}

/// A writer that leaves no gaps: records of one partition are stored in the order of the calls, and after one failed for
/// good nothing more is stored (make a new appender and go back to what was acknowledged).
#[async_trait]
pub trait Appender: Send + Sync {
    /// Hands over one record. `done` is called once, from a thread of the engine: it must neither block nor append.
    ///
    /// # Errors
    /// When there is no room ([`AppendRefused::Full`] gives everything back: wait for [`Appender::room`]), or when this appender has
    /// failed. `done` is then not called.
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused>;

    /// Resolves when there may be room again.
    async fn room(&self);
}

/// Appends and waits for the acknowledgement.
///
/// # Errors
/// When the record was not, or may not have been, stored.
pub async fn append_and_wait(
    appender: &dyn Appender,
    topic: &str,
    partition: u32,
    record: Record,
) -> Result<Appended, AppendError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    append_when_room(
        appender,
        topic,
        partition,
        record,
        Box::new(move |result| drop(tell.send(result))),
    )
    .await?;
    told.await.unwrap_or(Err(AppendError::Closed))
}

/// Appends as soon as there is room.
///
/// # Errors
/// When the appender has failed.
pub async fn append_when_room(
    appender: &dyn Appender,
    topic: &str,
    partition: u32,
    mut record: Record,
    mut done: OnAppended,
) -> Result<(), AppendError> {
    loop {
        match appender.append(topic, partition, record, done) {
            Ok(()) => return Ok(()),
            Err(AppendRefused::Failed(error)) => return Err(error),
            Err(AppendRefused::Full {
                record: back,
                done: done_back,
            }) => {
                (record, done) = (*back, done_back);
                appender.room().await;
            }
        }
    }
}

/// Reads one partition in order. Dropping it stops reading.
#[async_trait]
pub trait Reader: Send {
    /// The next records, at most `max`, as soon as there are any. May answer with no records when only the position moved
    /// (a gap, or records that were compacted away). Cancel safe.
    ///
    /// # Errors
    /// [`ReadError::Deleted`] when the position lies below the start of the partition, [`ReadError::BeyondEnd`] when it lies above its end;
    /// passing trouble of the engine is retried inside.
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError>;

    /// The offset below which everything has been handed out or does not exist.
    fn position(&self) -> u64;
}

/// Reads from `reader` until its position reaches `end`, handing each record to `each`. Records at or above `end` that came along are
/// handed out, too.
///
/// # Errors
/// As [`Reader::next`].
pub async fn read_until(
    reader: &mut dyn Reader,
    end: u64,
    mut each: impl FnMut(StoredRecord) + Send,
) -> Result<(), ReadError> {
    while reader.position() < end {
        let batch = reader.next(1000).await?;
        batch.records.into_iter().for_each(&mut each);
    }
    Ok(())
}

/// A member of a consumer group.
#[async_trait]
pub trait Member: Send {
    /// The next change of what the group suggests. Cancel safe. Must be awaited all the time the membership lasts.
    ///
    /// # Errors
    /// When the membership ended for good (make a new one).
    async fn next(&mut self) -> Result<MemberEvent, JournalError>;

    /// Commits on behalf of this member; may be cloned and used from anywhere.
    fn committer(&self) -> Arc<dyn Committer>;

    /// Gives back what it holds (after a last [`MemberEvent::Revoked`]-like drain by the caller) and leaves.
    async fn leave(self: Box<Self>);
}

/// Commits positions as a member of a group.
#[async_trait]
pub trait Committer: Send + Sync {
    /// Commits the next position to be read of each partition. An accepted commit renews the member's session, counted from the moment
    /// it was *sent*. It checks no partition. None is accepted between a loss and the moment when [`Member::next`] has told of it.
    ///
    /// # Errors
    /// [`JournalError::NotMember`] when the group no longer knows this member.
    async fn commit(&self, positions: Vec<(TopicPartition, Committed)>)
    -> Result<(), JournalError>;
}
