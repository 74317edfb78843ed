//! The judge proves itself: it does not believe evidence that was tampered with, and finds out a program that breaks its promises.

use std::collections::{BTreeMap, BTreeSet};

use hookline_journal::{StoredRecord, TopicPartition};
use hookline_model::outcome::{Answer, Outcome};
use hookline_model::topics::Topic;
use hookline_model::wire;
use prost::Message as _;

use super::admin::Acknowledged;
use super::judge::{RULES, judge, judge_by};
use super::lies::Lie;
use super::process::PREFIX;
use super::receivers::Request;
use super::run::{Ended, Published};
use super::world::World;

/// Tampers with the evidence, if there is something of the kind.
type Tamper = fn(&mut Ended) -> bool;

/// What is not to be believed, by the rule that notices it.
const BREACHES: &[(&str, &str, Tamper)] = &[
    ("ends", "a final outcome is missing", |ended| {
        attempts(ended, |all| taken(&mut all.attempts, is_final).is_some())
    }),
    ("ends", "a final outcome stands there twice", |ended| {
        attempts(ended, |all| {
            let last = all.attempts.iter().find(|a| is_final(a)).cloned();
            last.map(|last| all.attempts.push(last)).is_some()
        })
    }),
    ("ends", "an attempt is left out", |ended| {
        attempts(ended, |all| {
            taken(&mut all.attempts, |a| a.attempt == 1 && !is_final(a)).is_some()
        })
    }),
    ("everybody", "what was delivered was not taken", |ended| {
        let ok = Answer::Status(200);
        requests(ended, |all| {
            let of = all.iter_mut().filter_map(|r| r.answered.as_mut());
            of.filter(|(_, answer)| *answer == ok)
                .map(|(_, answer)| *answer = Answer::Status(500))
                .count()
                > 0
        })
    }),
    ("wire", "a request never was", |ended| {
        requests(ended, |all| {
            let first = all.first().map(Request::wire_id);
            all.retain(|r| Some(r.wire_id()) != first);
            first.is_some()
        })
    }),
    ("wire", "nobody knows of a request", |ended| {
        requests(ended, |all| {
            all.first_mut().map(|r| r.id.push('0')).is_some()
        })
    }),
    ("bodies", "a batch goes again with other bytes", |ended| {
        requests(ended, |all| {
            let again = |r: &&mut Request| r.attempt > 1 && r.id.starts_with("bat_");
            let again = all.iter_mut().find(again);
            again.map(|r| r.body = shorter(r)).is_some()
        })
    }),
    ("bodies", "an event of a batch is missing", |ended| {
        requests(ended, |all| {
            let wire_id = all
                .iter()
                .find(|r| String::from_utf8_lossy(&r.body).contains("},{"))
                .map(Request::wire_id);
            let Some(wire_id) = wire_id else { return false };
            for request in all.iter_mut().filter(|r| r.wire_id() == wire_id) {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                let (_, rest) = text.split_once("},{").expect("it was found");
                request.body = format!("[{{{rest}").into();
            }
            true
        })
    }),
    ("repeats", "what had ended goes again", |ended| {
        requests(ended, |all| {
            let answered = all.iter().find(|r| r.answered.is_some()).cloned();
            let again = answered.map(|r| Request {
                at: r.at + 20_000,
                ..r
            });
            again.map(|again| all.push(again)).is_some()
        })
    }),
    ("repeats", "what is under way goes again", |ended| {
        requests(ended, |all| {
            let first = all.first().cloned();
            first.map(|first| all.push(first)).is_some()
        })
    }),
    ("early", "nobody waits before the next attempt", |ended| {
        requests(ended, |all| {
            let mut ends = BTreeMap::new();
            let mut changed = false;
            for request in all.iter_mut() {
                let before = ends.get(&(request.wire_id(), request.attempt - 1));
                if let Some(at) = before.copied() {
                    (request.at, changed) = (at, true);
                }
                if let Some((at, _)) = request.answered {
                    ends.insert((request.wire_id(), request.attempt), at);
                }
            }
            changed
        })
    }),
    ("batches begun", "a send is begun twice", |ended| {
        attempts(ended, |all| {
            let first = all.batches.first().cloned();
            first.map(|first| all.batches.push(first)).is_some()
        })
    }),
    (
        "batches begun",
        "a batch leaves out what stands in it",
        |ended| {
            attempts(ended, |all| {
                let longer = |batch: &&mut wire::BatchBegun| sends(batch).len() > 2;
                let Some(batch) = all.batches.iter_mut().find(longer) else {
                    return false;
                };
                let mut left = sends(batch);
                left.remove(1);
                batch.sends = Some(wire::Positions::of(&left));
                true
            })
        },
    ),
    (
        "batches sent",
        "a batch goes out before it is written",
        |ended| attempts(ended, |all| all.batches.pop().is_some()),
    ),
    (
        "batches sent",
        "a member of a batch goes out by itself",
        |ended| {
            let member = {
                let world = ended.world.lock();
                let book = super::book::Book::of(&world);
                let place = book.batches.first().map(|batch| batch.places[0]);
                place.map(|place| {
                    (
                        book.sends[&place].run.0.clone(),
                        book.sequence(Some(&place)),
                    )
                })
            };
            let Some((id, sequence)) = member else {
                return false;
            };
            requests(ended, |all| {
                let Some(mut request) = all.first().cloned() else {
                    return false;
                };
                request.order = sequence.map(|sequence| (String::new(), sequence));
                request.id = id;
                all.push(request);
                true
            })
        },
    ),
    ("order", "the next one starts too early", next_starts_early),
    ("sequences", "the next one comes first", next_starts_early),
    ("sequences", "a lane goes back", |ended| {
        requests(ended, |all| {
            let Some(first) = all.iter().find(|r| r.order.is_some()).cloned() else {
                return false;
            };
            let of_lane = |r: &&Request| lane(r) == lane(&first) && r.order > first.order;
            let Some(later) = all.iter().rev().find(of_lane) else {
                return false;
            };
            let again = Request {
                at: later.at + 100_000,
                ..first
            };
            all.push(again);
            true
        })
    }),
    ("places", "another lane is told", |ended| {
        requests(ended, |all| {
            let mut orders = all.iter_mut().filter_map(|r| r.order.as_mut());
            orders.next().map(|(lane, _)| lane.push('7')).is_some()
        })
    }),
    ("places", "no lane is told", |ended| {
        requests(ended, |all| {
            let ordered = |r: &&mut Request| r.order.is_some() && r.id.starts_with("dlv_");
            all.iter_mut()
                .find(ordered)
                .map(|r| r.order = None)
                .is_some()
        })
    }),
    (
        "published",
        "it was published the other way round",
        |ended| {
            ended
                .published
                .iter_mut()
                .for_each(|p| p.offset = u64::MAX - p.offset);
            requests(ended, |all| {
                let mut lanes = BTreeMap::new();
                for (lane, sequence) in all.iter().filter_map(|r| r.order.as_ref()) {
                    lanes
                        .entry(lane)
                        .or_insert_with(BTreeSet::new)
                        .insert(sequence);
                }
                lanes.values().any(|sequences| sequences.len() > 6)
            })
        },
    ),
    ("dead", "one of the dead is not kept", |ended| {
        log(ended, Topic::Dead, |all| all.pop().is_some())
    }),
    ("expired", "it had not waited for that long", |ended| {
        ended.plan.setup.old_end.max_hold *= 1_000;
        let mut found = false;
        attempts(ended, |all| {
            let early =
                |a: &wire::Attempt| a.outcome() == wire::Outcome::Expired && a.first_try_ms == 0;
            found |= all.attempts.iter().any(early);
            false
        });
        found
    }),
    ("commands", "a command is not done", |ended| {
        attempts(ended, |all| all.commands.pop().is_some())
    }),
    ("commands", "what was ended by hand went on", |ended| {
        let mut by_hand = BTreeSet::new();
        attempts(ended, |all| {
            let done = all
                .commands
                .iter()
                .filter(|d| d.refused.is_empty() && !d.release);
            by_hand.extend(done.filter_map(|d| d.send.map(|s| (s.offset, s.index))));
            false
        });
        attempts(ended, |all| {
            let cancelled = |a: &&mut wire::Attempt| {
                let ended = a
                    .send
                    .is_some_and(|s| by_hand.contains(&(s.offset, s.index)));
                ended && a.outcome() == wire::Outcome::Cancelled
            };
            let found = all.attempts.iter_mut().find(cancelled);
            found
                .map(|a| a.set_outcome(wire::Outcome::Delivered))
                .is_some()
        })
    }),
    ("rejected", "something was swallowed", |ended| {
        log(ended, Topic::Rejected, |all| all.pop().is_some())
    }),
    ("writes", "two were told the same", |ended| {
        let mut world = ended.world.lock();
        let first = world.writes.first().cloned();
        first.map(|first| world.writes.push(first)).is_some()
    }),
];

fn next_starts_early(ended: &mut Ended) -> bool {
    requests(ended, |all| {
        let Some(first) = all.iter().find(|r| r.order.is_some()).cloned() else {
            return false;
        };
        let of_lane = |r: &&mut Request| lane(r) == lane(&first) && r.order > first.order;
        let later = all.iter_mut().find(of_lane);
        later.map(|later| later.at = first.at - 1).is_some()
    })
}

fn lane(request: &Request) -> Option<&str> {
    request.order.as_ref().map(|(lane, _)| lane.as_str())
}

fn shorter(request: &Request) -> bytes::Bytes {
    request.body.slice(..request.body.len() - 1)
}

fn sends(batch: &wire::BatchBegun) -> Vec<hookline_model::ids::Position> {
    batch
        .sends
        .as_ref()
        .map(wire::Positions::read)
        .unwrap_or_default()
}

fn is_final(attempt: &wire::Attempt) -> bool {
    Outcome::from_wire(attempt.outcome()).is_some_and(Outcome::is_final)
}

fn taken<T>(all: &mut Vec<T>, which: impl Fn(&T) -> bool) -> Option<T> {
    let at = all.iter().position(which)?;
    Some(all.remove(at))
}

fn requests(ended: &mut Ended, tamper: impl FnOnce(&mut Vec<Request>) -> bool) -> bool {
    tamper(&mut ended.world.lock().receivers.requests)
}

fn log(
    ended: &mut Ended,
    topic: Topic,
    tamper: impl FnMut(&mut Vec<(i64, StoredRecord)>) -> bool,
) -> bool {
    let mut world = ended.world.lock();
    let name = topic.name(PREFIX);
    let logs = world.logs.iter_mut().filter(|(at, _)| at.topic == name);
    logs.map(|(_, log)| &mut log.ever).any(tamper)
}

/// Tampers with the first record of attempts that it can be done to.
fn attempts(ended: &mut Ended, mut tamper: impl FnMut(&mut wire::Attempts) -> bool) -> bool {
    log(ended, Topic::Attempts, |all| {
        all.iter_mut().any(|(_, record)| {
            let claim = wire::header::KIND_CLAIM;
            if record
                .header(wire::header::KIND)
                .is_some_and(|kind| kind == claim)
            {
                return false;
            }
            let value = record.value.clone().unwrap_or_default();
            let mut said = wire::Attempts::decode(value).expect("ours");
            let tampered = tamper(&mut said);
            record.value = Some(said.encode_to_vec().into());
            tampered
        })
    })
}

/// What can be tampered with.
struct Evidence {
    requests: Vec<Request>,
    logs: BTreeMap<TopicPartition, Vec<(i64, StoredRecord)>>,
    writes: Vec<Acknowledged>,
    published: Vec<Published>,
    setup: super::process::Setup,
}

impl Evidence {
    fn of(ended: &Ended) -> Self {
        let world: &World = &ended.world.lock();
        let logs = world.logs.iter();
        Self {
            requests: world.receivers.requests.clone(),
            logs: logs
                .map(|(at, log)| (at.clone(), log.ever.clone()))
                .collect(),
            writes: world.writes.clone(),
            published: ended.published.clone(),
            setup: ended.plan.setup,
        }
    }

    fn restore(&self, ended: &mut Ended) {
        ended.published.clone_from(&self.published);
        ended.plan.setup = self.setup;
        let mut world = ended.world.lock();
        world.receivers.requests.clone_from(&self.requests);
        world.writes.clone_from(&self.writes);
        for (at, ever) in &self.logs {
            world.log(at).ever.clone_from(ever);
        }
    }
}

#[test]
fn evidence_that_was_tampered_with_is_not_believed() {
    let mut shown = BTreeSet::new();
    for seed in 0..200 {
        if shown.len() == BREACHES.len() {
            break;
        }
        let mut ended = super::ended(seed, None).expect("it ends");
        judge(&ended).expect("nothing is wrong");
        let evidence = Evidence::of(&ended);
        for (index, (rule, what, tamper)) in BREACHES.iter().enumerate() {
            if shown.contains(&index) {
                continue;
            }
            if tamper(&mut ended) {
                let judged = judge_by(&ended, |name| name == *rule);
                assert!(
                    judged.is_err(),
                    "seed {seed}: {what}, and {rule} does not mind"
                );
                assert!(judge(&ended).is_err(), "seed {seed}: {what}");
                shown.insert(index);
            }
            evidence.restore(&mut ended);
        }
        judge(&ended).expect("all is as it was");
    }
    let missing = BREACHES
        .iter()
        .enumerate()
        .filter(|(index, _)| !shown.contains(index));
    let missing: Vec<_> = missing.map(|(_, (_, what, _))| what).collect();
    assert!(missing.is_empty(), "no run to show it with: {missing:?}");
    for (rule, _) in RULES {
        let shown = BREACHES.iter().any(|(of, _, _)| *of == rule);
        assert!(shown, "nothing shows that {rule} notices anything");
    }
}

#[test]
fn a_program_that_is_lied_to_is_found_out() {
    for (lie, rule) in [
        (Lie::NoOrder, "order"),
        (Lie::NoOrder, "places"),
        (Lie::NoBatchBegun, "batches begun"),
        (Lie::NothingTried, "repeats"),
    ] {
        // Those in which processes are killed: lies are told to who takes over.
        let found = (0..100).find(|n| {
            // Not to come to rest is found out too, but by nobody's rule.
            let ended = super::ended(8 * n + 2, Some(lie)).ok();
            ended.is_some_and(|ended| judge_by(&ended, |name| name == rule).is_err())
        });
        assert!(found.is_some(), "{lie:?} is not found out by {rule}");
    }
}
