//! What people want of single deliveries: records of `commands`, as the API would write them.

use hookline_journal::Record;
use hookline_model::topics::Topic;
use hookline_model::wire::{self, command::What, next};
use prost::Message as _;

use super::book::{Attempt, Book, Sent};
use super::process::PREFIX;
use super::world::{EPOCH_MS, World, place};

/// What they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The head of an ordered lane is passed over.
    Skip,
    /// It goes again at once.
    Release,
    /// The delivery ends.
    Cancel,
    /// It goes again: at once if it waits, else as a new run.
    Again,
}

impl Wish {
    pub(crate) const ALL: [Self; 4] = [Self::Skip, Self::Release, Self::Cancel, Self::Again];
}

/// Asks it of one of the deliveries of which it could be asked.
pub(crate) fn wish(world: &mut World, book: &Book, wish: Wish, pick: usize) {
    let ordered = |attempt: &&Attempt| attempt.unit.1.is_some();
    let failed = book.failed();
    let of: Vec<&Attempt> = match wish {
        Wish::Cancel => failed,
        Wish::Again if pick.is_multiple_of(2) => {
            let last = book.attempts.values().filter_map(|all| all.last());
            let over = last.filter(|attempt| attempt.outcome().is_final());
            over.filter(ordered).collect()
        }
        Wish::Skip | Wish::Release | Wish::Again => failed.into_iter().filter(ordered).collect(),
    };
    if !of.is_empty() {
        ask(world, book, wish, of[pick % of.len()]);
    }
}

/// Sees to it that nobody waits for people.
pub(crate) fn release_what_is_held(world: &mut World, book: &Book) {
    let held = |attempt: &&Attempt| matches!(attempt.then(), Some(next::Kind::Hold(_)));
    for attempt in book.failed().into_iter().filter(held) {
        let wish = [Wish::Skip, Wish::Release][usize::from(world.random.bool())];
        ask(world, book, wish, attempt);
    }
}

fn ask(world: &mut World, book: &Book, wish: Wish, attempt: &Attempt) {
    let Some(sent) = book.sends.get(&attempt.place()) else {
        return;
    };
    let what = match wish {
        Wish::Skip => What::Skip(wire::command::Skip {}),
        Wish::Release => What::Release(wire::command::Release {}),
        Wish::Cancel => What::Cancel(wire::command::Cancel {}),
        Wish::Again => What::Start(start(world, sent, !attempt.outcome().is_final())),
    };
    let command = wire::Command {
        format: wire::FORMAT,
        webhook_uid: attempt.said.webhook_uid.clone(),
        delivery_id: attempt.said.delivery_id.clone(),
        at_ms: EPOCH_MS + world.now,
        run: attempt.said.run,
        what: Some(what),
        ..wire::Command::default()
    };
    let now = world.now;
    world
        .trace
        .line(now, format_args!("{wish:?} {:?}", sent.run));
    let record = Record {
        key: Some(command.webhook_uid.clone()),
        value: Some(command.encode_to_vec().into()),
        headers: Vec::new(),
    };
    world.store(
        &place(&Topic::Commands.name(PREFIX), attempt.partition),
        record,
    );
}

/// Everything that a new run takes.
fn start(world: &World, sent: &Sent, ends_run: bool) -> wire::command::Start {
    let (partition, position) = sent.place;
    let log = &world.logs[&place(&Topic::Deliveries.name(PREFIX), partition)];
    let there = log
        .ever
        .iter()
        .find(|(_, record)| record.offset == position.offset);
    let value = there.and_then(|(_, record)| record.value.clone());
    let deliveries = wire::Deliveries::decode(value.unwrap_or_default()).expect("ours");
    let send = &deliveries.sends[position.index as usize];
    wire::command::Start {
        webhook_epoch: send.webhook_epoch,
        ordered: send.ordered,
        event: deliveries.event,
        accepted_at_ms: deliveries.accepted_at_ms,
        registry_offset: deliveries.registry_offset,
        ends_run,
    }
}
