//! Consumer groups: who is a member, who holds what. Partitions are taken back before they are given to somebody else, unless their holder has been silent
//! for too long; that one goes on until it learns of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use hookline_journal::{JournalError, MemberEvent, RevokeGuard, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::world::{Life, World};

/// Who keeps a revoked partition this long is out.
const REVOKE_MAX: i64 = 40_000;

/// A membership as its holder knows it.
#[derive(Default)]
pub(crate) struct Letters {
    pub(crate) events: Mutex<VecDeque<Result<MemberEvent, JournalError>>>,
    pub(crate) filled: Notify,
    /// Under which number the group knows it now; 0: not.
    pub(crate) id: Mutex<u64>,
    /// Its holder has let it go.
    pub(crate) gone: AtomicBool,
}

struct Holder {
    life: Life,
    topics: BTreeSet<String>,
    session: i64,
    heard: i64,
    owned: BTreeSet<TopicPartition>,
    revoking: Vec<(Vec<TopicPartition>, Receiver<()>, i64)>,
    letters: Arc<Letters>,
}

/// A group.
#[derive(Default)]
pub(crate) struct Group {
    members: BTreeMap<u64, Holder>,
    /// Put out, and not yet told: when, and what they had.
    out: Vec<(i64, Holder)>,
}

impl World {
    pub(crate) fn join(
        &mut self,
        group: &str,
        life: Life,
        topics: &[String],
        session: i64,
        letters: Arc<Letters>,
    ) {
        let id = self.number();
        *letters.id.lock() = id;
        let holder = Holder {
            life,
            topics: topics.iter().cloned().collect(),
            session,
            heard: self.now,
            owned: BTreeSet::new(),
            revoking: Vec::new(),
            letters,
        };
        self.groups
            .entry(group.to_owned())
            .or_default()
            .members
            .insert(id, holder);
        self.trace
            .line(self.now, format_args!("{group}: {life:?} joins as {id}"));
        self.rebalance(group);
    }

    pub(crate) fn leave(&mut self, group: &str, letters: &Letters) {
        let id = std::mem::take(&mut *letters.id.lock());
        if self
            .groups
            .get_mut(group)
            .is_some_and(|g| g.members.remove(&id).is_some())
        {
            self.trace
                .line(self.now, format_args!("{group}: {id} leaves"));
            self.rebalance(group);
        }
    }

    /// Whether a commit of this member is accepted. It renews the session.
    pub(crate) fn renew(&mut self, group: &str, letters: &Letters) -> bool {
        let untold = letters
            .events
            .lock()
            .iter()
            .any(|event| matches!(event, Ok(MemberEvent::Lost(_)) | Err(_)));
        if untold {
            return false;
        }
        let (now, id) = (self.now, *letters.id.lock());
        let member = self
            .groups
            .get_mut(group)
            .and_then(|g| g.members.get_mut(&id));
        member.map(|m| m.heard = now).is_some()
    }

    /// Puts a member out although it can be heard, as coordinators do when they move.
    pub(crate) fn forget_members(&mut self, life: Life) {
        let names: Vec<String> = self.groups.keys().cloned().collect();
        for name in names {
            let group = self.groups.get_mut(&name).expect("it is there");
            let ids: Vec<u64> = group
                .members
                .iter()
                .filter(|(_, m)| m.life == life)
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                self.put_out(&name, id);
            }
            self.rebalance(&name);
        }
    }

    fn put_out(&mut self, group: &str, id: u64) {
        let delay = self.random.i64(0..2_000);
        let at = self.now + delay;
        self.trace
            .line(self.now, format_args!("{group}: {id} is put out"));
        let group = self.groups.get_mut(group).expect("it is there");
        let holder = group.members.remove(&id).expect("it is there");
        *holder.letters.id.lock() = 0;
        group.out.push((at, holder));
    }

    /// Sessions end, what was given back goes to others, who was put out learns of it.
    pub(crate) fn look_after_groups(&mut self) {
        let names: Vec<String> = self.groups.keys().cloned().collect();
        for name in names {
            let now = self.now;
            let heard: Vec<(u64, bool)> = {
                let group = &self.groups[&name];
                group
                    .members
                    .iter()
                    .map(|(id, m)| (*id, self.reaches(m.life)))
                    .collect()
            };
            let broker_up = self.broker_down_until <= now;
            let group = self.groups.get_mut(&name).expect("it is there");
            let mut late = Vec::new();
            let mut changed = false;
            for (id, reaches) in heard {
                let member = group.members.get_mut(&id).expect("it is there");
                if reaches {
                    member.heard = now;
                }
                let before = member.revoking.len();
                member
                    .revoking
                    .retain(|(_, gone, _)| matches!(gone.try_recv(), Err(TryRecvError::Empty)));
                changed |= before != member.revoking.len();
                let keeps = member
                    .revoking
                    .iter()
                    .any(|(_, _, since)| now - since > REVOKE_MAX);
                // Brokers that are away look at no clock.
                if keeps || (broker_up && now - member.heard > member.session) {
                    late.push(id);
                }
            }
            for id in &late {
                self.put_out(&name, *id);
            }
            if changed || !late.is_empty() {
                self.rebalance(&name);
            }
            self.tell_who_is_out(&name);
        }
    }

    fn tell_who_is_out(&mut self, name: &str) {
        let now = self.now;
        let group = self.groups.get_mut(name).expect("it is there");
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut group.out)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        group.out = later;
        for (at, holder) in due {
            if !self.alive(holder.life) || holder.letters.gone.load(Ordering::Relaxed) {
                continue;
            }
            if !self.reaches(holder.life) {
                self.groups
                    .get_mut(name)
                    .expect("it is there")
                    .out
                    .push((at, holder));
                continue;
            }
            let lost: Vec<_> = holder
                .owned
                .iter()
                .chain(holder.revoking.iter().flat_map(|(places, ..)| places))
                .cloned()
                .collect();
            let for_good = self.random.u8(0..8) == 0;
            self.trace.line(
                now,
                format_args!(
                    "{name}: {:?} learns that it lost {}",
                    holder.life,
                    lost.len()
                ),
            );
            let event = if for_good {
                Err(JournalError::NotMember {
                    group: name.to_owned(),
                })
            } else {
                Ok(MemberEvent::Lost(lost))
            };
            holder.letters.put(event);
            if !for_good {
                let topics: Vec<_> = holder.topics.iter().cloned().collect();
                self.join(name, holder.life, &topics, holder.session, holder.letters);
            }
        }
    }

    /// Shares out what is free, and takes back what others should have.
    fn rebalance(&mut self, name: &str) {
        let Some(group) = self.groups.get(name) else {
            return;
        };
        let topics: BTreeSet<String> = group
            .members
            .values()
            .flat_map(|m| m.topics.iter().cloned())
            .collect();
        let all: Vec<TopicPartition> = self
            .logs
            .keys()
            .filter(|at| topics.contains(&at.topic))
            .cloned()
            .collect();
        let now = self.now;
        let group = self.groups.get_mut(name).expect("it is there");
        if group.members.is_empty() {
            return;
        }
        let quota = all.len().div_ceil(group.members.len());
        let mut target: BTreeMap<TopicPartition, u64> = BTreeMap::new();
        let mut load: BTreeMap<u64, usize> = BTreeMap::new();
        for (id, member) in &group.members {
            for place in member.owned.iter().take(quota) {
                target.insert(place.clone(), *id);
                *load.entry(*id).or_default() += 1;
            }
        }
        for place in &all {
            if !target.contains_key(place) {
                let id = group
                    .members
                    .keys()
                    .min_by_key(|id| (load.get(id).copied().unwrap_or(0), **id))
                    .copied()
                    .expect("not empty");
                target.insert(place.clone(), id);
                *load.entry(id).or_default() += 1;
            }
        }
        for (id, member) in &mut group.members {
            let gone: Vec<_> = member
                .owned
                .iter()
                .filter(|place| target.get(*place) != Some(id))
                .cloned()
                .collect();
            if gone.is_empty() {
                continue;
            }
            member.owned.retain(|place| !gone.contains(place));
            let (guard, released) = RevokeGuard::new();
            member
                .letters
                .put(Ok(MemberEvent::Revoked(gone.clone(), guard)));
            self.trace
                .line(now, format_args!("{name}: {id} gives back {}", gone.len()));
            member.revoking.push((gone, released, now));
        }
        let held: BTreeSet<TopicPartition> = group
            .members
            .values()
            .flat_map(|m| {
                m.owned
                    .iter()
                    .chain(m.revoking.iter().flat_map(|(places, ..)| places))
            })
            .cloned()
            .collect();
        let mut news: BTreeMap<u64, Vec<TopicPartition>> = BTreeMap::new();
        for (place, id) in target {
            if !held.contains(&place) {
                news.entry(id).or_default().push(place);
            }
        }
        for (id, places) in news {
            let member = group.members.get_mut(&id).expect("targets are members");
            member.owned.extend(places.iter().cloned());
            self.trace
                .line(now, format_args!("{name}: {id} is given {}", places.len()));
            member.letters.put(Ok(MemberEvent::Assigned(places)));
        }
        self.happened += 1;
    }
}

impl Letters {
    fn put(&self, event: Result<MemberEvent, JournalError>) {
        self.events.lock().push_back(event);
        self.filled.notify_one();
    }
}
