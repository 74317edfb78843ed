//! What people want of single deliveries, as records of `commands`: read by the owner of the partition, done once, and known to be done by its log.

use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{
    AppendError, Appender, Journal, JournalError, ReadBudget, ReadError, StoredRecord,
    append_and_wait,
};
use hookline_model::core::claims::LogEntry;
use hookline_model::core::partition::{Partition, Ticket};
use hookline_model::ids::DeliveryId;
use hookline_model::limits::ENDED_KEPT;
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use hookline_model::wire;
use prost::Message as _;
use tokio::sync::Mutex;

use crate::door::Ended;
use crate::payload::Payload;
use crate::records;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not, and will not be: why.
    Refused(String),
    /// It is not, because too many deliveries are ended already while they wait: later it may be.
    Full(String),
    /// Nobody has said yet; it will be done when somebody owns the partition again.
    Pending,
}

/// The way of commands to the owners of partitions.
pub struct Commands {
    journal: Arc<dyn Journal>,
    attempts: String,
    commands: String,
    /// Made when first needed; one that has failed is replaced.
    appender: Mutex<Option<Arc<dyn Appender>>>,
}

impl Commands {
    /// Through this journal, with this prefix of topics.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, prefix: &str) -> Self {
        Self {
            journal,
            attempts: Topic::Attempts.name(prefix),
            commands: Topic::Commands.name(prefix),
            appender: Mutex::new(None),
        }
    }

    /// Gives a command to the owner of the partition `p` of `deliveries` and waits for its answer, `patience` at most.
    ///
    /// # Errors
    /// When the journal does not take it; whether it will be done is unknown then.
    pub async fn give(
        &self,
        p: u32,
        command: &wire::Command,
        patience: Duration,
    ) -> Result<Answer, JournalError> {
        // The answer stands behind what is there by now.
        let from = self.journal.end(&self.attempts, p).await?;
        let key = Some(command.webhook_uid.clone());
        let record = records::plain(key, command);
        let appender = self.appender().await?;
        let appended = append_and_wait(&*appender, &self.commands, p, record).await;
        if let Err(error) = &appended
            && !matches!(error, AppendError::TooLarge { .. })
        {
            *self.appender.lock().await = None;
        }
        let Some(offset) = appended?.offset else {
            return Ok(Answer::Pending);
        };
        let answer = answer(&*self.journal, &self.attempts, p, from, offset);
        let answer = tokio::time::timeout(patience, answer).await;
        answer.unwrap_or(Ok(Answer::Pending))
    }

    async fn appender(&self) -> Result<Arc<dyn Appender>, JournalError> {
        let mut kept = self.appender.lock().await;
        if let Some(appender) = &*kept {
            return Ok(Arc::clone(appender));
        }
        let appender = self.journal.appender("commands").await?;
        *kept = Some(Arc::clone(&appender));
        Ok(appender)
    }
}

async fn answer(
    journal: &dyn Journal,
    attempts: &str,
    p: u32,
    from: u64,
    offset: u64,
) -> Result<Answer, JournalError> {
    let budget = ReadBudget::of(256 * 1024);
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
                Some(done) if done.full => return Ok(Answer::Full(done.refused)),
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
pub(crate) fn replay(partition: &mut Partition<Payload>, ticket: Ticket, done: &wire::CommandDone) {
    take_note(partition, ticket, done);
    if let Some(send) = done.send.filter(|_| done.release) {
        partition.replay_released(send.into());
    }
}

/// See [`replay`]; without the release, which waits for what was begun to be read back.
pub(crate) fn take_note(
    partition: &mut Partition<Payload>,
    ticket: Ticket,
    done: &wire::CommandDone,
) {
    partition.command_done(done.offset);
    if done.starts {
        partition.starts(ticket, done.offset);
    }
    if let Some(delivery) = DeliveryId::from_slice(&done.ended) {
        let forgotten = Millis(done.at_ms).plus(ENDED_KEPT);
        partition.end_run(delivery, done.ended_run, forgotten);
    }
}

/// The runs ended, as the door asks for them.
pub(crate) fn ended(partition: &Partition<Payload>) -> Ended {
    partition.ended().keys().copied().collect()
}

/// The command at this place, for a new owner that begins its run again. `None`: it is deleted, and so its run was in the log for certain.
pub(crate) async fn read_back(
    journal: &dyn Journal,
    topic: &str,
    p: u32,
    offset: u64,
) -> Result<Option<wire::Command>, JournalError> {
    let budget = ReadBudget::of(2 * 1024 * 1024);
    let mut reader = journal.reader(topic, p, offset, budget).await?;
    loop {
        let batch = match reader.next(1).await {
            Ok(batch) => batch,
            Err(ReadError::Deleted { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(stored) = batch.records.first() {
            // It was read before, by whoever did it.
            return Ok((stored.offset == offset)
                .then(|| read(stored).ok())
                .flatten());
        }
        if batch.next > offset {
            return Ok(None);
        }
    }
}

/// The record of `deliveries` that begins the run which a command carries; `None` when it carries none.
pub(crate) fn run_begun(
    command: &wire::Command,
    offset: u64,
    generation: u32,
) -> Option<hookline_journal::Record> {
    let Some(wire::command::What::Start(start)) = &command.what else {
        return None;
    };
    let deliveries = wire::Deliveries {
        format: wire::FORMAT,
        source: Some(wire::Source {
            stream: Some(wire::source::Stream::Command(wire::FromCommand {
                offset,
                generation,
            })),
        }),
        event: start.event.clone(),
        sends: vec![wire::Send {
            webhook_uid: command.webhook_uid.clone(),
            webhook_epoch: start.webhook_epoch,
            delivery_id: command.delivery_id.clone(),
            ordered: start.ordered,
            ..wire::Send::default()
        }],
        registry_offset: start.registry_offset,
        accepted_at_ms: start.accepted_at_ms,
    };
    Some(records::plain(None, &deliveries))
}
