//! What people asked for: commands that are done, runs that begin, runs that are ended wherever they wait.

use std::collections::BTreeMap;

use super::{Partition, Sendable, Ticket};
use crate::ids::DeliveryId;
use crate::time::Millis;

impl<T: Sendable> Partition<T> {
    /// The record of `commands` at this offset is done, and so are all before it.
    pub fn command_done(&mut self, offset: u64) {
        self.commands = self.commands.max(offset + 1);
    }

    /// Records of `commands` below this are done.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// The record `ticket` says that the run which this command carries begins. It is written down again by a new owner until
    /// [`Self::started`].
    pub fn starts(&mut self, ticket: Ticket, command: u64) {
        if self.starting.insert(command, ticket).is_none() {
            *self.open.entry(ticket).or_default() += 1;
        }
    }

    /// That run stands in the log.
    pub fn started(&mut self, command: u64) {
        if let Some(ticket) = self.starting.remove(&command) {
            self.close(ticket);
        }
    }

    /// Records of `commands` below this are needed by nobody, once a checkpoint says what this one would.
    #[must_use]
    pub fn commands_over(&self) -> u64 {
        let starting = self.starting.keys().next().copied();
        starting.unwrap_or(self.commands).min(self.commands)
    }

    /// This run of the delivery is ended wherever it is met until then.
    pub fn end_run(&mut self, delivery: DeliveryId, run: u64, forgotten: Millis) {
        self.ended.insert((delivery, run), forgotten);
    }

    /// Runs ended that may still be met, and when they are forgotten.
    #[must_use]
    pub fn ended(&self) -> &BTreeMap<(DeliveryId, u64), Millis> {
        &self.ended
    }
}
