//! Consumer groups whose members live in this process.
//!
//! Cooperative: a partition is given to another only after who held it gave it back. Members of one process cannot fall silent unnoticed,
//! so a member lasts until it leaves, is dropped, keeps a revoked partition too long, or is expired by hand. Nobody runs
//! in the background: every member waits for its events, and who waits moves the group on.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::state::Shared;
use super::writer::Command;
use crate::{
    Committed, Committer, GroupSpec, JournalError, Member, MemberEvent, RevokeGuard, TopicPartition,
};

/// A member that keeps revoked partitions this long is out, as with Kafka's `max.poll.interval.ms`.
const REVOKE_WAIT_MAX: Duration = Duration::from_secs(300);
/// How often a revoked partition is looked after while somebody waits for it.
const REVOKE_LOOK_EVERY: Duration = Duration::from_millis(5);

/// A member's letter box.
#[derive(Default)]
struct Mailbox {
    events: Mutex<VecDeque<MemberEvent>>,
    filled: Notify,
}

impl Mailbox {
    fn put(&self, event: MemberEvent) {
        self.events.lock().push_back(event);
        self.filled.notify_one();
    }
}

/// Partitions on their way back.
struct Revoking {
    partitions: Vec<TopicPartition>,
    released: Receiver<()>,
    since: Duration,
}

struct MemberState {
    name: String,
    topics: BTreeSet<String>,
    owned: BTreeSet<TopicPartition>,
    revoking: Vec<Revoking>,
    mailbox: Arc<Mailbox>,
}

impl MemberState {
    /// Everything it may still be working on.
    fn holds(&self) -> impl Iterator<Item = &TopicPartition> {
        let back = self.revoking.iter().flat_map(|r| &r.partitions);
        self.owned.iter().chain(back)
    }
}

/// By the order of joining.
type Members = BTreeMap<u64, MemberState>;

#[derive(Default)]
struct State {
    groups: HashMap<String, Members>,
    next_id: u64,
}

/// All groups.
#[derive(Default)]
pub(super) struct Groups {
    state: Mutex<State>,
}

/// Partitions of a topic; none where it does not exist.
type CountOf<'a> = &'a dyn Fn(&str) -> u32;

impl Groups {
    fn join(&self, spec: &GroupSpec, count_of: CountOf<'_>, now: Duration) -> (u64, Arc<Mailbox>) {
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = state.next_id;
        let mailbox = Arc::new(Mailbox::default());
        let member = MemberState {
            name: spec.member.clone(),
            topics: spec.topics.iter().cloned().collect(),
            owned: BTreeSet::new(),
            revoking: Vec::new(),
            mailbox: mailbox.clone(),
        };
        let members = state.groups.entry(spec.group.clone()).or_default();
        members.insert(id, member);
        rebalance(members, count_of, now);
        (id, mailbox)
    }

    fn leave(&self, group: &str, id: u64, count_of: CountOf<'_>, now: Duration) {
        let mut state = self.state.lock();
        let Some(members) = state.groups.get_mut(group) else {
            return;
        };
        if members.remove(&id).is_some() {
            rebalance(members, count_of, now);
        }
        if members.is_empty() {
            state.groups.remove(group);
        }
    }

    /// Ends a member's session as if it had been silent too long; false where there is none of that name.
    pub(super) fn expire(
        &self,
        group: &str,
        member: &str,
        count_of: CountOf<'_>,
        now: Duration,
    ) -> bool {
        let mut state = self.state.lock();
        let Some(members) = state.groups.get_mut(group) else {
            return false;
        };
        let found = members
            .iter()
            .find(|(_, m)| m.name == member)
            .map(|(id, _)| *id);
        if let Some(id) = found {
            expel(members, id);
            rebalance(members, count_of, now);
        }
        found.is_some()
    }

    /// Moves the group on: takes what was given back, puts out who keeps too long. True while something is still on its way back.
    fn tick(&self, group: &str, count_of: CountOf<'_>, now: Duration) -> bool {
        let mut state = self.state.lock();
        let Some(members) = state.groups.get_mut(group) else {
            return false;
        };
        let (mut changed, mut late) = (false, Vec::new());
        for (id, member) in members.iter_mut() {
            let before = member.revoking.len();
            let given_back =
                |r: &Revoking| !matches!(r.released.try_recv(), Err(TryRecvError::Empty));
            member.revoking.retain(|r| !given_back(r));
            changed |= member.revoking.len() != before;
            let overdue = |r: &Revoking| now.saturating_sub(r.since) > REVOKE_WAIT_MAX;
            if member.revoking.iter().any(overdue) {
                late.push(*id);
            }
        }
        for id in &late {
            expel(members, *id);
        }
        if changed || !late.is_empty() {
            rebalance(members, count_of, now);
        }
        members.values().any(|m| !m.revoking.is_empty())
    }

    fn is_member(&self, group: &str, id: u64) -> bool {
        let state = self.state.lock();
        state.groups.get(group).is_some_and(|m| m.contains_key(&id))
    }

    /// Shares out topics that are new.
    pub(super) fn topics_changed(&self, count_of: CountOf<'_>, now: Duration) {
        for members in self.state.lock().groups.values_mut() {
            rebalance(members, count_of, now);
        }
    }
}

/// Takes everything from a member and forgets it.
fn expel(members: &mut Members, id: u64) {
    let Some(member) = members.remove(&id) else {
        return;
    };
    let lost: Vec<_> = member.holds().cloned().collect();
    tracing::warn!(
        member = member.name,
        partitions = lost.len(),
        "member put out of its group"
    );
    if !lost.is_empty() {
        member.mailbox.put(MemberEvent::Lost(lost));
    }
    // Wakes it even where it lost nothing, so that it learns that it is out.
    member.mailbox.filled.notify_one();
}

/// Who should have what: everybody keeps what balance allows.
fn targets(members: &Members, count_of: CountOf<'_>) -> BTreeMap<TopicPartition, u64> {
    let topics: BTreeSet<&String> = members.values().flat_map(|m| &m.topics).collect();
    let owners: HashMap<&TopicPartition, u64> = members
        .iter()
        .flat_map(|(id, m)| m.owned.iter().map(|at| (at, *id)))
        .collect();
    let mut load: BTreeMap<u64, usize> = members.keys().map(|id| (*id, 0)).collect();
    let eligible =
        |topic: &str, id: &u64| members.get(id).is_some_and(|m| m.topics.contains(topic));
    let (mut target, mut free) = (BTreeMap::new(), Vec::new());
    for topic in topics {
        for partition in 0..count_of(topic) {
            let topic = topic.clone();
            let at = TopicPartition { topic, partition };
            match owners.get(&at).filter(|id| eligible(&at.topic, id)) {
                Some(id) => {
                    load.entry(*id).and_modify(|n| *n += 1);
                    target.insert(at, *id);
                }
                None => free.push(at),
            }
        }
    }
    let least = |load: &BTreeMap<u64, usize>, topic: &str| {
        let able = load.iter().filter(|(id, _)| eligible(topic, id));
        able.min_by_key(|(id, n)| (**n, **id))
            .map(|(id, n)| (*id, *n))
    };
    for at in free {
        if let Some((id, _)) = least(&load, &at.topic) {
            load.entry(id).and_modify(|n| *n += 1);
            target.insert(at, id);
        }
    }
    // Each move makes the loads more even, so this ends.
    loop {
        let better = target.iter().find_map(|(at, id)| {
            let (to, less) = least(&load, &at.topic)?;
            (less + 1 < load.get(id).copied().unwrap_or(0)).then(|| (at.clone(), *id, to))
        });
        let Some((at, from, to)) = better else {
            return target;
        };
        load.entry(from).and_modify(|n| *n -= 1);
        load.entry(to).and_modify(|n| *n += 1);
        target.insert(at, to);
    }
}

/// Takes back what should be elsewhere, and gives out what nobody holds.
fn rebalance(members: &mut Members, count_of: CountOf<'_>, now: Duration) {
    let target = targets(members, count_of);
    for (id, member) in members.iter_mut() {
        let (keep, back): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(&mut member.owned)
            .into_iter()
            .partition(|at| target.get(at) == Some(id));
        member.owned = keep;
        if !back.is_empty() {
            let partitions: Vec<_> = back.into_iter().collect();
            let (guard, released) = RevokeGuard::new();
            member
                .mailbox
                .put(MemberEvent::Revoked(partitions.clone(), guard));
            member.revoking.push(Revoking {
                partitions,
                released,
                since: now,
            });
        }
    }
    let held: BTreeSet<TopicPartition> = members
        .values()
        .flat_map(MemberState::holds)
        .cloned()
        .collect();
    let mut given: BTreeMap<u64, Vec<TopicPartition>> = BTreeMap::new();
    for (at, id) in target {
        if !held.contains(&at) {
            given.entry(id).or_default().push(at);
        }
    }
    for (id, partitions) in given {
        if let Some(member) = members.get_mut(&id) {
            member.owned.extend(partitions.iter().cloned());
            member.mailbox.put(MemberEvent::Assigned(partitions));
        }
    }
    // Who waits for something on its way back has to look after it.
    members.values().for_each(|m| m.mailbox.filled.notify_one());
}

/// A member in this process. Dropping it gives everything back at once.
pub(super) struct EmbeddedMember {
    shared: Arc<Shared>,
    group: String,
    id: u64,
    mailbox: Arc<Mailbox>,
}

impl EmbeddedMember {
    pub(super) fn join(shared: Arc<Shared>, spec: &GroupSpec) -> Self {
        let (id, mailbox) = shared
            .groups
            .join(spec, &counts(&shared), shared.config.clock.boot());
        Self {
            group: spec.group.clone(),
            shared,
            id,
            mailbox,
        }
    }
}

/// Looks up how many partitions a topic has.
pub(super) fn counts(shared: &Shared) -> impl Fn(&str) -> u32 {
    |topic| {
        let topics = shared.topics.read();
        topics.get(topic).map_or(0, |t| t.meta.partitions)
    }
}

#[async_trait::async_trait]
impl Member for EmbeddedMember {
    async fn next(&mut self) -> Result<MemberEvent, JournalError> {
        let mut ended = self.shared.ended.subscribe();
        loop {
            let now = self.shared.config.clock.boot();
            let (groups, counts) = (&self.shared.groups, counts(&self.shared));
            let on_its_way = groups.tick(&self.group, &counts, now);
            if let Some(event) = self.mailbox.events.lock().pop_front() {
                return Ok(event);
            }
            if !groups.is_member(&self.group, self.id) {
                let group = self.group.clone();
                return Err(JournalError::NotMember { group });
            }
            if *ended.borrow_and_update() {
                return Err(self.shared.gone("wait for the group"));
            }
            tokio::select! {
                () = self.mailbox.filled.notified() => {}
                _ = ended.changed() => {}
                () = tokio::time::sleep(REVOKE_LOOK_EVERY), if on_its_way => {}
            }
        }
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(EmbeddedCommitter {
            shared: self.shared.clone(),
            group: self.group.clone(),
            id: self.id,
        })
    }

    async fn leave(self: Box<Self>) {}
}

impl Drop for EmbeddedMember {
    fn drop(&mut self) {
        let now = self.shared.config.clock.boot();
        self.shared
            .groups
            .leave(&self.group, self.id, &counts(&self.shared), now);
    }
}

struct EmbeddedCommitter {
    shared: Arc<Shared>,
    group: String,
    id: u64,
}

#[async_trait::async_trait]
impl Committer for EmbeddedCommitter {
    async fn commit(
        &self,
        positions: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), JournalError> {
        let group = self.group.clone();
        if !self.shared.groups.is_member(&group, self.id) {
            return Err(JournalError::NotMember { group });
        }
        self.shared
            .control("commit", |told| Command::Commit {
                group,
                positions,
                told,
            })
            .await
    }
}
