//! Who owns the log and what has counted, against somebody who sees the whole log at once.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::config;
use crate::core::claims::{ClaimReader, Counted, LogEntry, OwnLog};

type Entry = LogEntry<u32>;

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// Reads the log to its end, to claim by it.
    Look(usize),
    /// Appends a claim by what it has seen, and reads up to it.
    Claim(usize),
    /// Hands a record to the journal.
    Append(usize),
    /// The journal stores the next record of this owner, former ones included.
    Store(usize),
    /// The next acknowledgement comes; whether it says where.
    Ack(usize, bool),
    /// Somebody else's record.
    Other,
}

pub(super) fn operations() -> impl Strategy<Value = Vec<Op>> {
    let who = 0_usize..3;
    let op = prop_oneof![
        2 => who.clone().prop_map(Op::Look),
        2 => who.clone().prop_map(Op::Claim),
        6 => who.clone().prop_map(Op::Append),
        6 => who.clone().prop_map(Op::Store),
        6 => (who, any::<bool>()).prop_map(|(who, told)| Op::Ack(who, told)),
        1 => Just(Op::Other),
    ];
    proptest::collection::vec(op, 0..80)
}

/// The reference: whether each record of the log counts, found out anew for each.
fn counts(log: &[Entry]) -> Vec<bool> {
    let highest = |before: &[Entry]| {
        let epochs = before.iter().map(|entry| match entry {
            LogEntry::Claim { epoch, .. } => *epoch,
            _ => 0,
        });
        epochs.max().unwrap_or(0)
    };
    let judged = log.iter().enumerate().map(|(at, entry)| match entry {
        LogEntry::Claim { epoch, .. } => *epoch > highest(&log[..at]),
        LogEntry::Written { epoch, .. } => *epoch == highest(&log[..at]),
        LogEntry::Other => false,
    });
    judged.collect()
}

struct Owner {
    own: OwnLog<u32>,
    claim: usize,
    under_way: VecDeque<(u64, Entry)>,
    stored: VecDeque<(u64, u64)>,
    confirmed: Vec<(u64, u32)>,
}

#[derive(Default)]
struct Member {
    seen: u64,
    owner: Option<Owner>,
    /// Of former lives: handed to the journal, and never acknowledged to anybody.
    late: VecDeque<Entry>,
}

impl Owner {
    /// Goes on as far as it may.
    fn confirm(&mut self, log: &[Entry]) -> Result<(), TestCaseError> {
        for _ in 0..100 {
            match self.own.confirm() {
                Ok(Some(confirmed)) => self.confirmed.push(confirmed),
                Ok(None) => return Ok(()),
                Err(gap) => {
                    let to = gap.to.unwrap_or(log.len() as u64);
                    for offset in gap.from..to {
                        self.own.inspect(offset, &log[offset as usize]);
                    }
                    self.own.inspected_to(to);
                }
            }
        }
        Err(TestCaseError::fail("it looks for its record for ever"))
    }

    /// Whatever has happened: it has acted on nothing that does not count, and has passed nothing that does.
    fn check(&self, log: &[Entry]) -> Result<(), TestCaseError> {
        let counts = counts(log);
        let behind = log.iter().enumerate().skip(self.claim + 1);
        let mut own = Vec::new();
        let mut higher = None;
        for (at, entry) in behind {
            match entry {
                LogEntry::Written { epoch, body, .. }
                    if *epoch == self.own.epoch() && counts[at] =>
                {
                    own.push((at as u64, *body));
                }
                LogEntry::Claim { epoch, .. } if *epoch > self.own.epoch() => {
                    higher = higher.or(Some(at as u64));
                }
                _ => {}
            }
        }
        prop_assert!(
            own.starts_with(&self.confirmed),
            "{:?} of {own:?}",
            self.confirmed
        );
        let next = own.get(self.confirmed.len()).map(|(at, _)| *at);
        let most = [next, higher].into_iter().flatten().min();
        prop_assert!(most.is_none_or(|most| self.own.inspected() <= most));
        prop_assert!(self.own.fenced_by().is_none() || higher.is_some());
        Ok(())
    }
}

pub(super) fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut log: Vec<Entry> = Vec::new();
    let mut members: [Member; 3] = Default::default();
    for (number, op) in (0..).zip(ops) {
        match op {
            Op::Look(who) => members[who].seen = log.len() as u64,
            Op::Claim(who) => {
                let member = &mut members[who];
                if let Some(former) = member.owner.take() {
                    member
                        .late
                        .extend(former.under_way.into_iter().map(|(_, entry)| entry));
                }
                let mut reader = ClaimReader::new(0);
                for entry in &log[..member.seen as usize] {
                    reader.read(entry.clone());
                }
                let epoch = reader.highest() + 1;
                let nonce = vec![number];
                log.push(LogEntry::Claim {
                    epoch,
                    nonce: nonce.clone(),
                });
                let mut took = None;
                for (at, entry) in log.iter().enumerate().skip(member.seen as usize) {
                    if reader.read(entry.clone())
                        == (Counted::Claimed {
                            epoch,
                            nonce: nonce.clone(),
                        })
                    {
                        took = Some(at);
                    }
                }
                member.seen = log.len() as u64;
                prop_assert_eq!(took.is_some(), counts(&log)[log.len() - 1]);
                member.owner = took.map(|claim| Owner {
                    own: OwnLog::new(epoch, claim as u64),
                    claim,
                    under_way: VecDeque::new(),
                    stored: VecDeque::new(),
                    confirmed: Vec::new(),
                });
            }
            Op::Append(who) => {
                if let Some(owner) = &mut members[who].owner
                    && owner.own.fenced_by().is_none()
                {
                    let body = u32::from(number);
                    let sequence = owner.own.appended(body);
                    let epoch = owner.own.epoch();
                    owner.under_way.push_back((
                        sequence,
                        LogEntry::Written {
                            epoch,
                            sequence,
                            body,
                        },
                    ));
                }
            }
            Op::Store(who) => {
                if let Some(late) = members[who].late.pop_front() {
                    log.push(late);
                } else if let Some(owner) = &mut members[who].owner
                    && let Some((sequence, entry)) = owner.under_way.pop_front()
                {
                    owner.stored.push_back((sequence, log.len() as u64));
                    log.push(entry);
                }
            }
            Op::Ack(who, told) => {
                if let Some(owner) = &mut members[who].owner
                    && let Some((sequence, offset)) = owner.stored.pop_front()
                {
                    owner.own.acked(sequence, told.then_some(offset));
                    owner.confirm(&log)?;
                }
            }
            Op::Other => log.push(LogEntry::Other),
        }
        for owner in members.iter().filter_map(|m| m.owner.as_ref()) {
            owner.check(&log)?;
        }
    }
    // Everything that is under way arrives: who is not stopped by a higher claim has confirmed all it wrote.
    for member in &mut members {
        let Some(owner) = &mut member.owner else {
            continue;
        };
        while let Some((sequence, entry)) = owner.under_way.pop_front() {
            owner.stored.push_back((sequence, log.len() as u64));
            log.push(entry);
        }
        while let Some((sequence, offset)) = owner.stored.pop_front() {
            owner
                .own
                .acked(sequence, (sequence % 2 == 0).then_some(offset));
            owner.confirm(&log)?;
        }
        owner.check(&log)?;
        prop_assert!(owner.own.fenced_by().is_some() || owner.own.pending() == 0);
    }
    // Whoever reads the log, from wherever, agrees on what counts.
    let counts = counts(&log);
    for from in 0..=log.len() {
        let mut reader = ClaimReader::new(0);
        for entry in &log[..from] {
            reader.read(entry.clone());
        }
        let mut reader = ClaimReader::new(reader.highest());
        for (entry, counts) in log[from..].iter().zip(&counts[from..]) {
            prop_assert_eq!(reader.read(entry.clone()) != Counted::Nothing, *counts);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_owner_acts_on_exactly_those_of_its_records_that_count(ops in operations()) {
        run(ops)?;
    }
}
