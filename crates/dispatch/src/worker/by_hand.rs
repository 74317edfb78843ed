//! Doing what people want of single deliveries. A command is done when a record of the owner's says so; what it does counts with that record.

use std::sync::Arc;

use hookline_journal::{
    AppendError, Appended, Batch, JournalError, ReadBudget, Reader, append_when_room,
};
use hookline_model::core::partition::{Made, Partition, Ticket};
use hookline_model::ids::{DeliveryId, Position};
use hookline_model::limits::ENDED_MAX;
use hookline_model::outcome::Outcome;
use hookline_model::time::Millis;
use hookline_model::wire::{self, command::What};

use super::{Mail, ToWrite, Worker, WorkerError, Written};
use crate::attempt::{self, Unit};
use crate::commands;
use crate::door::Ended;
use crate::payload::Payload;
use crate::shared::Shared;

const BUDGET: ReadBudget = ReadBudget::of(256 * 1024);

/// Commands taken at once.
const AT_ONCE: usize = 16;

/// A command that is done: what the log says of it, and the command itself where a run begins with it.
pub(crate) struct Done {
    pub(super) done: wire::CommandDone,
    pub(super) starts: Option<wire::Command>,
}

/// The partition's commands, and what is remembered of them.
pub(super) struct ByHand {
    reader: Box<dyn Reader>,
    /// Below this they are being done.
    taken: u64,
    ended: Arc<Ended>,
}

impl ByHand {
    pub(super) async fn open(
        shared: &Shared,
        p: u32,
        partition: &Partition<Payload>,
    ) -> Result<Self, JournalError> {
        let topic = &shared.names.commands;
        let start = shared.journal.start(topic, p).await?;
        let taken = partition.commands().max(start);
        Ok(Self {
            reader: shared.journal.reader(topic, p, taken, BUDGET).await?,
            taken,
            ended: Arc::new(commands::ended(partition)),
        })
    }

    /// Runs that were ended.
    pub(super) fn ended(&self) -> &Arc<Ended> {
        &self.ended
    }

    /// The next commands; cancel safe.
    pub(super) async fn next(&mut self) -> Result<Batch, JournalError> {
        self.reader.next(AT_ONCE).await.map_err(JournalError::from)
    }
}

impl Worker {
    /// Does what the records of `commands` want.
    pub(super) async fn commands(&mut self, batch: Batch) -> Result<(), WorkerError> {
        for stored in &batch.records {
            if stored.offset < self.by_hand.taken {
                continue;
            }
            self.by_hand.taken = stored.offset + 1;
            self.progress.changed();
            let now = self.shared.clock.now();
            let mut done = wire::CommandDone {
                offset: stored.offset,
                at_ms: now.0,
                ..wire::CommandDone::default()
            };
            let (command, refused) = match commands::read(stored) {
                Ok(command) => {
                    if let Some(position) = self.holding(&command, self.partition.resting_at()) {
                        self.fetch_now(position).await?;
                    }
                    let refused = self.command(&command, &mut done, now).err();
                    (Some(command), refused)
                }
                Err(why) => (None, Some(why)),
            };
            if let Some(why) = refused {
                tracing::warn!(partition = self.p, offset = stored.offset, reason = %why, "a command is not carried out");
                done.refused = why;
            }
            let starts = command.filter(|_| done.starts);
            self.to_write.push(ToWrite::done(Done { done, starts }));
        }
        Ok(())
    }

    /// What is to be done counts with `done`, which is written in the same record or a later one.
    fn command(
        &mut self,
        command: &wire::Command,
        done: &mut wire::CommandDone,
        now: Millis,
    ) -> Result<(), String> {
        let resting = self.resting(command);
        match command.what.as_ref().ok_or("it does not say what to do")? {
            What::Skip(_) => {
                let unit = self.head(resting)?;
                done.send = Some(unit.position.into());
                self.end_by_hand(&unit, now, "skipped by hand");
            }
            What::Release(_) => {
                let unit = self.head(resting)?;
                done.send = Some(unit.position.into());
                done.release = true;
            }
            What::Cancel(_) => match resting {
                Some(unit) if unit.batch => {
                    return Err("the delivery is part of a batch that was sent and failed, and goes again as it is: only the whole batch can be skipped".into());
                }
                Some(unit) => {
                    done.send = Some(unit.position.into());
                    self.end_by_hand(&unit, now, "cancelled by hand");
                }
                None if self.begun(command) == Some(true) => {
                    return Err("the delivery is being sent in a batch now".into());
                }
                None => self.end_waiting(command, done)?,
            },
            What::Start(start) => match resting {
                // What waits here goes out now, with all that goes with it; nothing else has to begin.
                Some(unit) => {
                    done.send = Some(unit.position.into());
                    done.release = true;
                }
                None if self.begun(command).is_some() => {
                    return Err("the delivery is being sent now".into());
                }
                // The first of an ordered lane waits where it is until it is final.
                None if start.ends_run && start.ordered != 0 => {
                    return Err(
                        "the delivery does not wait for its next attempt any more: look how it ended"
                            .into(),
                    );
                }
                None => {
                    if start.event.is_none() {
                        return Err("the command has no event".into());
                    }
                    if start.ends_run {
                        self.end_waiting(command, done)?;
                    }
                    done.starts = true;
                }
            },
        }
        Ok(())
    }

    /// Notes that a run is ended wherever it is met.
    fn end_waiting(
        &self,
        command: &wire::Command,
        done: &mut wire::CommandDone,
    ) -> Result<(), String> {
        // Those that are being written down count already.
        let being_written = self
            .to_write
            .iter()
            .filter(|w| matches!(&w.what, Written::Done(d) if !d.done.ended.is_empty()));
        if self.partition.ended().len() + being_written.count() >= ENDED_MAX {
            done.full = true;
            return Err(format!(
                "{ENDED_MAX} deliveries of this partition are ended already while they wait; try again later"
            ));
        }
        done.ended = command.delivery_id.clone();
        done.ended_run = command.run;
        Ok(())
    }

    /// The unit that waits in place and holds the delivery; it is in memory.
    fn resting(&self, command: &wire::Command) -> Option<Unit> {
        let position = self.holding(command, self.partition.resting_at())?;
        self.unit(position)
    }

    /// Whether a unit that was begun, whatever it does now, and holds the delivery is a batch. `None`: there is none.
    fn begun(&self, command: &wire::Command) -> Option<bool> {
        let position = self.holding(command, self.partition.begun_at())?;
        Some(self.partition.single(position)?.batch)
    }

    /// Of these units the one that holds the delivery.
    fn holding(
        &self,
        command: &wire::Command,
        mut units: impl Iterator<Item = Position>,
    ) -> Option<Position> {
        // The delivery is of one webhook, and of no other.
        let delivery = DeliveryId::from_slice(&command.delivery_id)?;
        units.find(|position| {
            let mut sends = self.partition.outlines(*position);
            sends.any(|send| send.delivery == delivery)
        })
    }

    /// A unit that was begun, as it would go out.
    fn unit(&self, position: Position) -> Option<Unit> {
        let (batch, mut sends) = self.partition.unit(position)?;
        let first = sends.next()?;
        Some(Unit {
            position,
            lane: first.lane,
            batch,
            payload: first.payload.clone(),
            others: sends
                .map(|queued| (queued.position, queued.payload.clone()))
                .collect(),
        })
    }

    fn head(&self, resting: Option<Unit>) -> Result<Unit, String> {
        resting
            .filter(|unit| unit.lane.kind.is_ordered())
            .ok_or_else(|| {
                "the delivery does not wait at the head of an ordered lane now: it is being sent, waits behind another, or is final".into()
            })
    }

    fn end_by_hand(&mut self, unit: &Unit, now: Millis, why: &str) {
        let webhook = self.snapshot.webhook(unit.lane.webhook).cloned();
        let made = self.partition.single(unit.position);
        let made = made.map_or_else(Made::default, |single| Made {
            attempts: single.attempts,
            first_try: single.first_try,
        });
        // Until that counts, it goes out no more.
        self.partition.ends(unit.position);
        let judged =
            attempt::without_exchange(unit, webhook.as_deref(), Outcome::Cancelled, made, now, why);
        self.to_write.push(ToWrite::judged(judged));
    }

    /// It has certainly counted.
    pub(super) async fn command_done(
        &mut self,
        ticket: Ticket,
        done: Done,
    ) -> Result<(), WorkerError> {
        let Done { done, starts } = done;
        commands::take_note(&mut self.partition, ticket, &done);
        if let Some(send) = done.send.filter(|_| done.release) {
            self.partition.release(send.into());
        }
        if !done.ended.is_empty() {
            self.by_hand.ended = Arc::new(commands::ended(&self.partition));
            self.ask_resting = true;
        }
        self.progress.changed();
        match starts {
            Some(command) => self.begin_run(done.offset, &command).await,
            None => Ok(()),
        }
    }

    /// Appends the run that the command at `offset` carries. Doing it again is harmless: who reads it knows where it came from.
    pub(super) async fn begin_run(
        &mut self,
        offset: u64,
        command: &wire::Command,
    ) -> Result<(), WorkerError> {
        let layout = self.snapshot.layout();
        let generation = layout.map_or(0, |layout| layout.generation("commands"));
        let Some(record) = commands::run_begun(command, offset, generation) else {
            self.partition.started(offset);
            return Ok(());
        };
        hookline_model::fail_point!("dispatch-run-begins");
        let mailbox = self.mailbox.clone();
        let done = Box::new(move |result: Result<Appended, AppendError>| {
            if result.is_ok() {
                hookline_model::fail_point!("dispatch-run-begun");
            }
            let result = result.map(|_| ());
            mailbox.put(Mail::Started { offset, result });
        });
        let deliveries = &self.shared.names.deliveries;
        append_when_room(&*self.appender, deliveries, self.p, record, done).await?;
        Ok(())
    }
}
