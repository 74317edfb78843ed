//! What people want of single deliveries, as records of `commands`: read by the owner of the partition, done once, and known to be done by its log.

use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{Journal, JournalError, ReadBudget, StoredRecord, append_and_wait};
use hookline_model::core::claims::LogEntry;
use hookline_model::core::partition::Partition;
use hookline_model::ids::DeliveryId;
use hookline_model::limits::ENDED_KEPT;
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use hookline_model::wire;
use prost::Message as _;

use crate::door::Ended;
use crate::records::{self, Payload};

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not, and will not be: why.
    Refused(String),
    /// Nobody has said yet; it will be done when somebody owns the partition again.
    Pending,
}

/// Gives a command to the owner of the partition `p` of `deliveries` and waits for its answer, `patience` at most.
///
/// # Errors
/// When the journal does not take it; whether it will be done is unknown then.
pub async fn give(
    journal: &dyn Journal,
    prefix: &str,
    p: u32,
    command: &wire::Command,
    patience: Duration,
) -> Result<Answer, JournalError> {
    let attempts = Topic::Attempts.name(prefix);
    // The answer stands behind what is there by now.
    let from = journal.end(&attempts, p).await?;
    let appender = journal.appender("commands").await?;
    let key = Some(command.webhook_uid.clone());
    let record = records::plain(key, command);
    let appended = append_and_wait(&*appender, &Topic::Commands.name(prefix), p, record).await?;
    let Some(offset) = appended.offset else {
        return Ok(Answer::Pending);
    };
    let answer = tokio::time::timeout(patience, answer(journal, &attempts, p, from, offset)).await;
    answer.unwrap_or(Ok(Answer::Pending))
}

async fn answer(
    journal: &dyn Journal,
    attempts: &str,
    p: u32,
    from: u64,
    offset: u64,
) -> Result<Answer, JournalError> {
    let budget = ReadBudget { bytes: 256 * 1024 };
    let mut reader = journal.reader(attempts, p, from, budget).await?;
    loop {
        let batch = reader.next(64).await.map_err(JournalError::from)?;
        for record in &batch.records {
            let LogEntry::Written { body, .. } = records::log_entry(record) else {
                continue;
            };
            let done = body.commands.into_iter().find(|done| done.offset == offset);
            match done {
                Some(done) if done.refused.is_empty() => return Ok(Answer::Done),
                Some(done) => return Ok(Answer::Refused(done.refused)),
                None => {}
            }
        }
    }
}

/// The command in a record, or why nothing can be made of it.
pub(crate) fn read(stored: &StoredRecord) -> Result<wire::Command, String> {
    let value = stored.value.clone().ok_or("it has no value")?;
    let command =
        wire::Command::decode(value).map_err(|error| format!("it is no command: {error}"))?;
    if !wire::readable(command.format) {
        return Err(format!(
            "its format is {}, this build reads {}",
            command.format,
            wire::FORMAT
        ));
    }
    Ok(command)
}

/// What a command that is done means for progress: the same for its doer, once that counts, and for a new owner that finds it in the log.
pub(crate) fn replay(partition: &mut Partition<Payload>, done: &wire::CommandDone) {
    take_note(partition, done);
    if let Some(send) = done.send.filter(|_| done.release) {
        partition.replay_released(send.into());
    }
}

/// See [`replay`]; without the release, which waits for what was begun to be read back.
pub(crate) fn take_note(partition: &mut Partition<Payload>, done: &wire::CommandDone) {
    partition.command_done(done.offset);
    if let Some(delivery) = DeliveryId::from_slice(&done.ended) {
        let forgotten = Millis(done.at_ms).plus(ENDED_KEPT);
        partition.end_run(delivery, done.ended_run, forgotten);
    }
}

/// The runs ended, as the door asks for them.
pub(crate) fn ended(partition: &Partition<Payload>) -> Ended {
    partition
        .ended()
        .keys()
        .map(|(id, run)| (Bytes::copy_from_slice(&id.0), *run))
        .collect()
}
