//! What was on the wire: nothing that the log does not know, nothing twice without a reason, nothing early, and what was published.

use std::collections::BTreeMap;

use hookline_model::body::BodyForm;
use hookline_model::outcome::Outcome;
use hookline_model::wire::next;

use super::super::book::{Attempt, Sent, WireId};
use super::super::plan::{Event, Fault, Mix, WRONG_BY};
use super::super::receivers::Request;
use super::super::world::Life;
use super::Case;

impl Request {
    /// What it is known by.
    pub(crate) fn wire_id(&self) -> WireId {
        let sequence = self.order.as_ref().map(|(_, sequence)| *sequence);
        (self.id.clone(), sequence)
    }
}

impl<'a> Case<'a> {
    /// The sends that a request was about; somebody made a mistake where there are none.
    pub(super) fn sends_of(&self, request: &Request) -> Result<Vec<&Sent>, String> {
        let sends = self.book.sends_of(&request.wire_id());
        if sends.is_empty() {
            return Err(format!(
                "a request of {:?}, which no partition took, or began",
                request.wire_id()
            ));
        }
        Ok(sends)
    }

    /// What counts was on the wire, and what was on the wire belongs to a delivery.
    pub(super) fn the_wire_is_in_the_log(&self) -> Result<(), String> {
        for attempt in self.book.attempts.values().flatten() {
            let requests = self.by_wire.get(&attempt.unit);
            let there =
                requests.is_some_and(|all| all.iter().any(|r| r.attempt == attempt.said.attempt));
            if attempt.exchanged() && !there {
                return Err(format!(
                    "attempt {} of {:?} is in the log, but was never on the wire",
                    attempt.said.attempt, attempt.unit
                ));
            }
        }
        for request in &self.requests {
            self.sends_of(request)?;
        }
        Ok(())
    }

    /// A request carries the events of its deliveries as they were published, in their order; one that is sent again, the same bytes.
    pub(super) fn bodies_are_what_was_published(&self) -> Result<(), String> {
        let published: BTreeMap<&str, &Event> = self
            .first_of_each()
            .map(|published| (published.event.id.as_str(), &published.event))
            .collect();
        for (wire_id, requests) in &self.by_wire {
            let first = requests[0];
            if let Some(other) = requests.iter().find(|r| r.body != first.body) {
                return Err(format!(
                    "{wire_id:?} went out as {:?}, and then as {:?}",
                    first.body, other.body
                ));
            }
            let sends = self.sends_of(first)?;
            let events: Vec<&Event> = sends
                .iter()
                .filter_map(|sent| published.get(sent.event.as_str()).copied())
                .collect();
            let settings = self.webhooks.get(&sends[0].lane.webhook);
            let form = settings.and_then(|all| all.last()).map(|w| w.body);
            let text = String::from_utf8_lossy(&first.body);
            let sound = match form {
                _ if events.len() < sends.len() => false,
                Some(BodyForm::Array) => {
                    let data: Vec<&str> = events.iter().map(|e| e.data.as_str()).collect();
                    text == format!("[{}]", data.join(","))
                }
                Some(BodyForm::Ndjson) => {
                    text == events
                        .iter()
                        .map(|e| format!("{}\n", e.data))
                        .collect::<String>()
                }
                _ => {
                    let event = events[0];
                    events.len() == 1
                        && text
                            .starts_with(&format!("{{\"type\":\"{}\",\"timestamp\":\"", event.kind))
                        && text.ends_with(&format!(",\"data\":{}}}", event.data))
                }
            };
            if !sound {
                let ids: Vec<&str> = sends.iter().map(|sent| sent.event.as_str()).collect();
                return Err(format!(
                    "{wire_id:?} is about {ids:?}, and went out as {text}"
                ));
            }
        }
        Ok(())
    }

    /// Design section 5, exactly: an attempt is on the wire a second time only if nothing was recorded of the first when it began, and a claim stands between
    /// the two. An attempt n + 1 begins only after a recorded failure n. As many repeats as one worker may have in flight come of one claim at most, and of an
    /// ordered lane one; and none at all where nobody was harmed.
    pub(super) fn nothing_is_repeated_without_a_reason(&mut self) -> Result<(), String> {
        let mut repeats = 0;
        let mut by_claim: BTreeMap<(Life, u32, i64), u64> = BTreeMap::new();
        let mut by_lane: BTreeMap<(Life, &str, i64), u64> = BTreeMap::new();
        let mut before: BTreeMap<(WireId, u32), &Request> = BTreeMap::new();
        for request in self.requests.iter().copied() {
            let Request {
                id,
                attempt,
                life,
                at,
                ..
            } = request;
            let zombie = self.zombie(*life, *at);
            let sends = self.sends_of(request)?;
            for sent in &sends {
                self.comes_next(request, sent, zombie)?;
            }
            if let Some(last) = before.insert((request.wire_id(), *attempt), request) {
                repeats += 1;
                let (partition, _) = sends[0].place;
                let claim = self.book.claims.get(&partition).and_then(|claims| {
                    claims.iter().find(|claim| (last.at..=*at).contains(*claim))
                });
                let stray = zombie || self.zombie(last.life, last.at);
                let Some(claim) = claim.copied().or_else(|| stray.then_some(last.at)) else {
                    return Err(format!(
                        "attempt {attempt} of {id} went out at {} by {:?} and again at {at} by {life:?}, and nobody had claimed the partition in between",
                        last.at, last.life
                    ));
                };
                *by_claim.entry((last.life, partition, claim)).or_default() += 1;
                if let Some((lane, _)) = &request.order {
                    *by_lane.entry((last.life, lane, claim)).or_default() += 1;
                }
            }
        }
        self.figures.repeats = repeats;
        if matches!(self.ended.plan.mix, Mix::None | Mix::Graceful) && repeats > 0 {
            return Err(format!("{repeats} repeats, although nobody was harmed"));
        }
        if let Some(((life, lane, at), count)) = by_lane.iter().find(|(_, count)| **count > 1) {
            return Err(format!(
                "{count} repeats of what {life:?} had sent of lane {lane} before it was claimed at {at}, at most one may be"
            ));
        }
        let bound = self.ended.plan.setup.max_in_flight as u64;
        match by_claim.iter().find(|(_, count)| **count > bound) {
            Some(((life, partition, at), count)) => Err(format!(
                "{count} repeats of what {life:?} had sent before partition {partition} was claimed at {at}, at most {bound} may be"
            )),
            None => Ok(()),
        }
    }

    /// Of one of its deliveries: nothing is known of this attempt yet, and the one before has failed.
    fn comes_next(&self, request: &Request, sent: &Sent, zombie: bool) -> Result<(), String> {
        let Request {
            attempt, life, at, ..
        } = request;
        let known = self.book.attempts_of(&sent.run);
        let recorded = known
            .iter()
            .find(|a| a.exchanged() && a.said.attempt == *attempt && a.stored_at < *at);
        if let Some(recorded) = recorded.filter(|_| !zombie) {
            return Err(format!(
                "attempt {attempt} of {:?} went out at {at} by {life:?}, although its outcome stood in the log since {}",
                sent.run, recorded.stored_at
            ));
        }
        let failed_before = |a: &Attempt| {
            a.said.attempt + 1 == *attempt && a.outcome() == Outcome::Failed && a.stored_at <= *at
        };
        if *attempt > 1 && !zombie && !known.iter().any(failed_before) {
            return Err(format!(
                "attempt {attempt} of {:?} went out at {at} without a recorded failure of the one before",
                sent.run
            ));
        }
        Ok(())
    }

    /// Whether the life may start something that is not its own any more: it stood still between looking at its lease and the socket. After a group has
    /// forgotten a member, two may for a while believe in their leases; what they write still counts for one of them alone.
    pub(super) fn zombie(&self, life: Life, at: i64) -> bool {
        self.ended.done.iter().any(|done| match done.fault {
            Fault::Freeze { .. } => done.life == life && done.to <= at && at <= done.to + 1,
            Fault::Forget { .. } => done.from <= at && at <= done.from + 8_000,
            _ => false,
        })
    }

    /// By how much what is measured by several clocks may be wrong.
    pub(super) fn clocks_differ(&self) -> i64 {
        if self.ended.plan.mix == Mix::Clocks {
            2 * WRONG_BY * 12
        } else {
            1
        }
    }

    /// Attempt n + 1 begins no earlier after the end of n than the policy says, unless somebody wanted it to; clocks that are wrong may take their error off.
    pub(super) fn nothing_is_early(&self) -> Result<(), String> {
        let slack = self.clocks_differ();
        for attempts in self.book.attempts.values() {
            for pair in attempts.windows(2).filter(|pair| pair[1].exchanged()) {
                let n = pair[0].said.attempt;
                let asked = matches!(
                    pair[0].then(),
                    Some(next::Kind::Hold(_) | next::Kind::Split(_))
                );
                let sent = self.book.sends.get(&pair[0].place());
                let settings = sent.and_then(|sent| self.webhooks.get(&sent.lane.webhook));
                let wait = settings
                    .and_then(|all| all.last())
                    .and_then(|webhook| webhook.retry.wait_after(n));
                let Some(wait) = wait.filter(|_| !asked && !self.released.contains(&pair[0].first))
                else {
                    continue;
                };
                let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                let of = |attempt: &Attempt| {
                    let number = attempt.said.attempt;
                    let all = self.by_wire.get(&attempt.unit).into_iter().flatten();
                    all.filter(move |r| r.attempt == number)
                };
                let ended = of(&pair[0])
                    .filter_map(|r| r.answered)
                    .map(|(at, _)| at)
                    .min();
                let began = of(&pair[1]).map(|r| r.at).min();
                if let Some((ended, began)) = ended.zip(began)
                    && began + slack < ended + wait
                {
                    return Err(format!(
                        "attempt {} of {:?} began {} ms after the end of {n}, {wait} were to pass",
                        n + 1,
                        pair[1].unit,
                        began - ended
                    ));
                }
            }
        }
        Ok(())
    }
}
