//! What ordered webhooks saw, lane by lane: a send starts only when the one before it is final, each key's events come in the order in which they
//! were published, and what came again was the head of its lane.

use std::collections::{BTreeMap, HashMap, HashSet};

use hookline_model::time::Millis;
use tokio::time::Instant;

use super::super::lives::Kind;
use super::super::{attempt_of, number_in};
use super::Judge;
use crate::receiver::Received;

/// A lane as its webhook names it: the webhook, as the oracle counts them, and `hookline-lane`.
type LaneName = (usize, String);

/// A request in a lane.
struct InLane<'a> {
    request: &'a Received,
    event: usize,
    sequence: u64,
}

/// A send as its lane saw it.
struct Seen {
    event: usize,
    /// When its last attempt was answered first.
    over: Option<Instant>,
}

impl<'a> Judge<'a> {
    /// The order that ordered webhooks saw.
    pub(super) fn order(&mut self) {
        let lanes = self.lanes();
        self.verdict.lanes = lanes.len();
        let repeats = self.verdict.repeats.iter();
        let stale: HashSet<_> = repeats.map(|r| (r.hook, r.event, r.arrived)).collect();
        let (mut of_event, mut of_key) = (HashMap::new(), HashMap::new());
        for (lane, requests) in &lanes {
            let sends = self.sends(lane, requests);
            self.each_after_the_one_before(lane, requests, &sends);
            self.heads_only(lane, requests, &stale);
            self.as_published(lane, &sends, &mut of_key);
            of_event.extend(sends.values().map(|send| ((lane.0, send.event), lane)));
        }
        self.one_repeat_a_lane(&of_event);
    }

    /// The requests of ordered webhooks by their lane, in order of arrival. What is in no order names no lane.
    fn lanes(&mut self) -> BTreeMap<LaneName, Vec<InLane<'a>>> {
        let mut lanes: BTreeMap<LaneName, Vec<InLane<'a>>> = BTreeMap::new();
        for request in self.evidence.requests {
            let hook = self.oracle.hook_at(&request.path);
            let Some((hook, event)) = hook.zip(number_in(&request.body)) else {
                continue;
            };
            let lane = request.header("hookline-lane").map(str::to_owned);
            let sequence = request.header("hookline-sequence");
            let sequence = sequence.and_then(|text| text.parse::<u64>().ok());
            match (self.oracle.hooks[hook].ordered, lane.zip(sequence)) {
                (Some(_), Some((lane, sequence))) => {
                    lanes.entry((hook, lane)).or_default().push(InLane {
                        request,
                        event,
                        sequence,
                    });
                }
                (None, None) => {}
                (ordered, named) => self.verdict.violation(format!(
                    "of an ordered webhook ({ordered:?}) a request names its lane and sequence, of others none ({named:?}): {request:?}"
                )),
            }
        }
        lanes
    }

    /// The sends of a lane by their sequence.
    fn sends(&mut self, lane: &LaneName, requests: &[InLane<'_>]) -> BTreeMap<u64, Seen> {
        let hook = &self.oracle.hooks[lane.0];
        let mut sends: BTreeMap<u64, Seen> = BTreeMap::new();
        for InLane {
            request,
            event,
            sequence,
        } in requests
        {
            let send = sends.entry(*sequence).or_insert(Seen {
                event: *event,
                over: None,
            });
            if send.event != *event {
                self.verdict.violation(format!(
                    "{}, {}: events {} and {event} have the sequence {sequence}",
                    hook.name, lane.1, send.event
                ));
            }
            let last = attempt_of(request) >= Some(hook.attempts_of(request.webhook_id()));
            if let Some(answered) = request.answered_at.filter(|_| last) {
                send.over = Some(send.over.map_or(answered, |over| over.min(answered)));
            }
        }
        sends
    }

    /// Whatever arrives, whoever sent it: all that stands before it in the lane had been answered for good.
    fn each_after_the_one_before(
        &mut self,
        lane: &LaneName,
        requests: &[InLane<'_>],
        sends: &BTreeMap<u64, Seen>,
    ) {
        for InLane {
            request, sequence, ..
        } in requests
        {
            let Some((before, send)) = sends.range(..sequence).next_back() else {
                continue;
            };
            if send.over.is_none_or(|over| over > request.at) {
                self.verdict.violation(format!(
                    "{}, {}: {sequence} came before {before} was final: {request:?}",
                    self.oracle.hooks[lane.0].name, lane.1
                ));
            }
        }
    }

    /// Without the requests that count for nobody, sequences never fall.
    fn heads_only(
        &mut self,
        lane: &LaneName,
        requests: &[InLane<'_>],
        stale: &HashSet<(usize, usize, Millis)>,
    ) {
        let counted = requests
            .iter()
            .filter(|r| !stale.contains(&(lane.0, r.event, r.request.wall)));
        let counted: Vec<_> = counted.collect();
        for pair in counted.windows(2) {
            let (before, then) = (pair[0].sequence, pair[1].sequence);
            if then < before {
                self.verdict.violation(format!(
                    "{}, {}: {then} came again after {before}: {:?}",
                    self.oracle.hooks[lane.0].name, lane.1, pair[1].request
                ));
            }
        }
    }

    /// The events of a key come in the order in which they were published, and by one lane only.
    fn as_published<'l>(
        &mut self,
        lane: &'l LaneName,
        sends: &BTreeMap<u64, Seen>,
        of_key: &mut HashMap<(usize, String), &'l LaneName>,
    ) {
        let mut last: HashMap<String, usize> = HashMap::new();
        for Seen { event, .. } in sends.values() {
            let key = self.oracle.event(*event).key;
            let other = *of_key.entry((lane.0, key.clone())).or_insert(lane);
            if other != lane {
                self.verdict.violation(format!(
                    "event {event} of key {key} comes in {lane:?}, others in {other:?}"
                ));
            }
            let before = last.insert(key, *event);
            if before.is_some_and(|before| before >= *event) {
                self.verdict.violation(format!(
                    "{lane:?}: event {event} comes after {before:?}, which was published later with its key"
                ));
            }
        }
    }

    /// Whatever happens to a process, of each lane at most one request is made again.
    fn one_repeat_a_lane(&mut self, of_event: &HashMap<(usize, usize), &LaneName>) {
        let mut counts: BTreeMap<(&LaneName, usize, Kind, Millis), usize> = BTreeMap::new();
        for repeat in &self.verdict.repeats {
            let Some(lane) = of_event.get(&(repeat.hook, repeat.event)) else {
                continue;
            };
            let key = (*lane, repeat.life, repeat.fault.kind, repeat.fault.from);
            *counts.entry(key).or_default() += 1;
        }
        let too_many: Vec<_> = counts.into_iter().filter(|(_, n)| *n > 1).collect();
        for ((lane, life, kind, at), count) in too_many {
            self.verdict.violation(format!(
                "{count} repeats in {lane:?} because {} was {kind:?} at {at}",
                self.lives[life].name
            ));
        }
    }
}
