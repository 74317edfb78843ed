//! Order and batches: a lane goes on when what was sent of it is final, and what was sent together stays together.

use std::collections::{BTreeMap, BTreeSet};

use hookline_model::core::lane::{LaneKey, LaneKind};
use hookline_model::wire::next;

use super::super::book::{Attempt, Place, Sent};
use super::Case;

impl Case<'_> {
    /// The sends of each ordered lane, in order.
    fn lanes(&self) -> BTreeMap<(u32, LaneKey), Vec<&Sent>> {
        let mut lanes: BTreeMap<_, Vec<&Sent>> = BTreeMap::new();
        for sent in self.book.sends.values() {
            if sent.lane.kind.is_ordered() {
                let (partition, _) = sent.place;
                lanes.entry((partition, sent.lane)).or_default().push(sent);
            }
        }
        lanes
    }

    /// When each send became final where it stands.
    fn finals(&self) -> BTreeMap<Place, i64> {
        let attempts = self.book.attempts.values().flatten();
        let finals = attempts.filter(|attempt| attempt.outcome().is_final());
        finals.map(|a| (a.place(), a.stored_at)).collect()
    }

    /// Design section 2: send n + 1 does not start before send n is final, and that stands in the log.
    pub(super) fn one_is_final_before_the_next(&self) -> Result<(), String> {
        let finals = self.finals();
        // Of each send of an ordered lane: the one before it that became final last, and when.
        let mut before: BTreeMap<Place, (i64, &Sent)> = BTreeMap::new();
        for sends in self.lanes().values() {
            let mut last: Option<(i64, &Sent)> = None;
            for sent in sends {
                if let Some(last) = last {
                    before.insert(sent.place, last);
                }
                let at = finals.get(&sent.place).copied().unwrap_or(i64::MAX);
                if last.is_none_or(|(last, _)| at >= last) {
                    last = Some((at, sent));
                }
            }
        }
        for request in &self.requests {
            let sends = self.sends_of(request)?;
            if let Some((at, other)) = before.get(&sends[0].place)
                && *at > request.at
            {
                return Err(format!(
                    "{:?} of {:?} went out at {}, and {:?} before it was final at {at}",
                    sends[0].place, sends[0].lane, request.at, other.place
                ));
            }
        }
        Ok(())
    }

    /// What a receiver sees that looks at nothing but the sequences of a lane: what is new to it stands behind everything that it has seen, and what it has seen
    /// comes back, behind something later, only from somebody who stood still.
    pub(super) fn sequences_never_go_back(&self) -> Result<(), String> {
        let mut seen: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for request in &self.requests {
            let Some((lane, sequence)) = &request.order else {
                continue;
            };
            let seen = seen.entry(lane).or_default();
            let highest = seen.last().copied().unwrap_or(0);
            let new = seen.insert(*sequence);
            if *sequence < highest && (new || !self.zombie(request.life, request.at)) {
                return Err(format!(
                    "lane {lane} went back from {highest} to {sequence} at {}{}",
                    request.at,
                    if new { ", for the first time" } else { "" }
                ));
            }
        }
        Ok(())
    }

    /// Receivers are told where a send stands: the same on each attempt, and nothing where there is no order.
    pub(super) fn places_are_told(&self) -> Result<(), String> {
        for request in &self.requests {
            let first = self.sends_of(request)?[0];
            let webhook = first.lane.webhook;
            let lane = match first.lane.kind {
                LaneKind::Ordered => Some(webhook.to_string()),
                LaneKind::Key(key) => Some(format!("{webhook}/{key}")),
                _ => None,
            };
            let told = lane.map(|lane| (lane, first.place.1.sequence()));
            if told != request.order {
                return Err(format!(
                    "{} of {:?} told {:?} of its place, which is {told:?}",
                    request.id, first.lane, request.order
                ));
            }
        }
        Ok(())
    }

    /// In a lane, what was published in a partition of `events` comes in the order in which it was.
    pub(super) fn order_is_that_of_publication(&self) -> Result<(), String> {
        let published = self.first_of_each();
        let published: BTreeMap<&str, (u32, u64)> = published
            .map(|p| (p.event.id.as_str(), (p.partition, p.offset)))
            .collect();
        let mut last: BTreeMap<(LaneKey, u32), u64> = BTreeMap::new();
        let mut seen: BTreeSet<Place> = BTreeSet::new();
        for request in &self.requests {
            let sends = self.sends_of(request)?.into_iter();
            // What people begin anew comes behind.
            for sent in sends.filter(|s| s.lane.kind.is_ordered() && s.run.1 == 0) {
                if !seen.insert(sent.place) {
                    continue;
                }
                let Some((partition, offset)) = published.get(sent.event.as_str()).copied() else {
                    return Err(format!("nobody published {}", sent.event));
                };
                let before = last.insert((sent.lane, partition), offset);
                if before.is_some_and(|before| before >= offset) {
                    return Err(format!(
                        "in {:?} what stands at events[{partition}] {offset} came behind {before:?}",
                        sent.lane
                    ));
                }
            }
        }
        Ok(())
    }

    /// A batch is made of sends of one lane that stand one after another there, as many as its webhook takes, and no send is in two.
    pub(super) fn batches_are_begun_once(&self) -> Result<(), String> {
        let finals = self.finals();
        let lanes = self.lanes();
        let mut begun: BTreeSet<Place> = BTreeSet::new();
        for batch in &self.book.batches {
            let told = &batch.places;
            let sends: Vec<&Sent> = told
                .iter()
                .filter_map(|place| self.book.sends.get(place))
                .collect();
            let Some(first) = sends.first().filter(|_| sends.len() == told.len()) else {
                return Err(format!(
                    "a batch of {told:?} was begun, which no partition took"
                ));
            };
            if !told.is_sorted_by(|a, b| a < b) || sends.iter().any(|s| s.lane != first.lane) {
                return Err(format!(
                    "a batch of {told:?} was begun: that is no part of a lane"
                ));
            }
            if let Some(twice) = told.iter().find(|place| !begun.insert(**place)) {
                return Err(format!("what stands at {twice:?} was begun in two batches"));
            }
            let settings = self.webhooks.get(&first.lane.webhook).into_iter().flatten();
            let most = settings.filter_map(|w| w.batch).map(|b| b.max_events).max();
            if most.is_none_or(|most| told.len() > most as usize) {
                return Err(format!(
                    "a batch of {} was begun, of {most:?} at most",
                    told.len()
                ));
            }
            let last = told[told.len() - 1];
            let lane = lanes.get(&(last.0, first.lane)).into_iter().flatten();
            let between = lane.filter(|sent| (told[0]..last).contains(&sent.place));
            let mut left = between.filter(|sent| {
                let settled = finals
                    .get(&sent.place)
                    .is_some_and(|at| *at <= batch.stored_at);
                !told.contains(&sent.place) && !settled
            });
            if let Some(left) = left.next() {
                return Err(format!("a batch of {told:?} left {:?} behind", left.place));
            }
        }
        Ok(())
    }

    /// A batch is on the wire only as it was begun, once that stood in the log; and what was in one goes out by itself only after it was split.
    pub(super) fn batches_are_sent_as_begun(&self) -> Result<(), String> {
        let split = |attempt: &&Attempt| matches!(attempt.then(), Some(next::Kind::Split(_)));
        let mut parts: BTreeMap<Place, i64> = BTreeMap::new();
        for attempt in self.book.attempts.values().flatten().filter(split) {
            parts.insert(attempt.place(), attempt.stored_at);
        }
        let batches = self.book.batches.iter();
        let batched: BTreeSet<&Place> = batches.flat_map(|batch| &batch.places).collect();
        for request in &self.requests {
            let wire_id = request.wire_id();
            if request.id.starts_with("bat_") {
                let begun = self.book.by_wire.get(&wire_id);
                let begun = begun.map(|index| self.book.batches[*index].stored_at);
                if begun.is_none_or(|begun| begun > request.at) {
                    return Err(format!(
                        "{wire_id:?} went out at {}, and was begun at {begun:?}",
                        request.at
                    ));
                }
                continue;
            }
            let sent = self.sends_of(request)?[0];
            let free = parts.get(&sent.place).is_some_and(|at| *at <= request.at);
            if batched.contains(&sent.place) && !free {
                return Err(format!(
                    "{wire_id:?} went out by itself at {}, and is part of a batch",
                    request.at
                ));
            }
        }
        for attempt in self.book.attempts.values().flatten() {
            let Some(index) = self.book.by_wire.get(&attempt.unit) else {
                continue;
            };
            if !self.book.batches[*index].places.contains(&attempt.place()) {
                return Err(format!(
                    "an attempt of {:?} is said to be about what stands at {:?} too",
                    attempt.unit,
                    attempt.place()
                ));
            }
        }
        Ok(())
    }
}
