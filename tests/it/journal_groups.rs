//! Groups: they suggest who works on what, and keep positions. One suite for both engines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{
    Committed, Committer, GroupSpec, Journal, JournalError, Member, MemberEvent, TopicPartition,
};
use hookline_tests::program::Engine;
use hookline_tests::wait::eventually;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::journal::subject::Subject;

both_engines!(
    one_member_gets_everything,
    two_members_share_and_revoke_before_assign,
    a_member_that_leaves_gives_back,
    a_dropped_member_gives_back,
    positions_and_their_text_are_kept,
    a_commit_checks_no_partition,
    only_members_commit,
    a_commit_goes_through_while_a_revoke_waits,
    the_group_waits_for_a_revoke_to_be_done,
);

const SOON: Duration = Duration::from_secs(45);
const SESSION: Duration = Duration::from_secs(6);

fn group(name: &str, topic: &str, member: &str) -> GroupSpec {
    GroupSpec {
        group: name.to_owned(),
        topics: vec![topic.to_owned()],
        session_timeout: SESSION,
        member: member.to_owned(),
    }
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

fn position(offset: u64, metadata: &str) -> Committed {
    Committed {
        offset,
        metadata: metadata.to_owned(),
    }
}

/// Who holds what, as the members say.
#[derive(Default)]
struct Holders(Mutex<BTreeMap<TopicPartition, String>>);

impl Holders {
    fn of(&self, member: &str) -> BTreeSet<u32> {
        let holders = self.0.lock();
        let of = holders.iter().filter(|(_, holder)| *holder == member);
        of.map(|(place, _)| place.partition).collect()
    }

    fn take(&self, member: &str, places: Vec<TopicPartition>) {
        let mut holders = self.0.lock();
        for place in places {
            let before = holders.insert(place.clone(), member.to_owned());
            assert_eq!(
                before, None,
                "{place:?} was assigned to {member} before it was given back"
            );
        }
    }

    fn give(&self, places: &[TopicPartition]) {
        let mut holders = self.0.lock();
        for place in places {
            holders.remove(place);
        }
    }
}

/// A member driven by a task of its own, as a stage would.
struct Follower {
    name: String,
    committer: Arc<dyn Committer>,
    leave: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    async fn join(journal: &dyn Journal, group: GroupSpec, holders: &Arc<Holders>) -> Self {
        let name = group.member.clone();
        let member = journal.join(group).await.unwrap();
        let committer = member.committer();
        let (leave, left) = oneshot::channel();
        let task = tokio::spawn(follow(member, name.clone(), Arc::clone(holders), left));
        Self {
            name,
            committer,
            leave: Some(leave),
            task,
        }
    }

    async fn leave(&mut self) {
        drop(self.leave.take());
        let task = &mut self.task;
        timeout(SOON, task).await.expect("leaving ends").unwrap();
    }
}

async fn follow(
    mut member: Box<dyn Member>,
    name: String,
    holders: Arc<Holders>,
    mut left: oneshot::Receiver<()>,
) {
    loop {
        let event = tokio::select! {
            event = member.next() => event.unwrap(),
            // Also when the follower is dropped.
            _ = &mut left => break,
        };
        match event {
            MemberEvent::Assigned(places) => holders.take(&name, places),
            MemberEvent::Revoked(places, guard) => {
                holders.give(&places);
                guard.done();
            }
            MemberEvent::Lost(places) => holders.give(&places),
        }
    }
    holders.0.lock().retain(|_, holder| *holder != name);
    member.leave().await;
}

async fn holds(holders: &Holders, member: &str, within: Duration, count: usize) {
    let check = async || {
        let of = holders.of(member);
        if of.len() == count { Ok(()) } else { Err(of) }
    };
    eventually(&format!("{member} holds {count}"), within, check).await;
}

async fn one_member_gets_everything(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 4).await;
    let holders = Arc::new(Holders::default());
    let spec = group(&subject.name("one"), &topic, "a");
    let mut member = Follower::join(&*subject.journal, spec, &holders).await;
    holds(&holders, "a", SOON, 4).await;
    member.leave().await;
}

async fn two_members_share_and_revoke_before_assign(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 4).await;
    let name = subject.name("share");
    let holders = Arc::new(Holders::default());
    let mut a = Follower::join(&*subject.journal, group(&name, &topic, "a"), &holders).await;
    holds(&holders, "a", SOON, 4).await;
    let mut b = Follower::join(&**subject.peer(), group(&name, &topic, "b"), &holders).await;
    holds(&holders, "b", SOON, 2).await;
    holds(&holders, "a", SOON, 2).await;
    a.leave().await;
    holds(&holders, &b.name, SOON, 4).await;
    b.leave().await;
}

async fn a_member_that_leaves_gives_back(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 2).await;
    let name = subject.name("leaves");
    let holders = Arc::new(Holders::default());
    let mut a = Follower::join(&*subject.journal, group(&name, &topic, "a"), &holders).await;
    holds(&holders, "a", SOON, 2).await;
    a.leave().await;
    let mut b = Follower::join(&**subject.peer(), group(&name, &topic, "b"), &holders).await;
    // It left: nobody waits for a session to run out.
    holds(&holders, "b", SESSION - Duration::from_secs(1), 2).await;
    b.leave().await;
}

async fn a_dropped_member_gives_back(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 2).await;
    let name = subject.name("dropped");
    let mut member = subject
        .journal
        .join(group(&name, &topic, "a"))
        .await
        .unwrap();
    wait_for_assignment(&mut *member).await;
    drop(member);
    let holders = Arc::new(Holders::default());
    let mut b = Follower::join(&**subject.peer(), group(&name, &topic, "b"), &holders).await;
    holds(&holders, "b", SOON, 2).await;
    b.leave().await;
}

async fn wait_for_assignment(member: &mut dyn Member) -> Vec<TopicPartition> {
    let waiting = async {
        loop {
            match member.next().await.unwrap() {
                MemberEvent::Assigned(places) if !places.is_empty() => return places,
                MemberEvent::Assigned(_) | MemberEvent::Lost(_) => {}
                MemberEvent::Revoked(_, guard) => guard.done(),
            }
        }
    };
    timeout(SOON, waiting).await.expect("something is assigned")
}

async fn positions_and_their_text_are_kept(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 3).await;
    let name = subject.name("kept");
    let holders = Arc::new(Holders::default());
    let places = [at(&topic, 0), at(&topic, 1), at(&topic, 2)];
    let before = subject.journal.committed(&name, &places).await.unwrap();
    assert_eq!(before, [None, None, None]);
    let mut a = Follower::join(&*subject.journal, group(&name, &topic, "a"), &holders).await;
    holds(&holders, "a", SOON, 3).await;
    let commits = vec![
        (at(&topic, 0), position(0, "")),
        (at(&topic, 2), position(7, r#"{"previous_due": 1234}"#)),
    ];
    a.committer.commit(commits).await.unwrap();
    let read = subject.other.committed(&name, &places).await.unwrap();
    let expected = [
        Some(position(0, "")),
        None,
        Some(position(7, r#"{"previous_due": 1234}"#)),
    ];
    assert_eq!(read, expected);
    // The same again, then another text, then a step back: each is accepted, the last counts.
    for (offset, metadata) in [(7, "same"), (7, "same"), (9, "on"), (5, "back")] {
        let commit = vec![(at(&topic, 2), position(offset, metadata))];
        a.committer.commit(commit).await.unwrap();
        let read = subject.other.committed(&name, &places).await.unwrap();
        assert_eq!(read[2], Some(position(offset, metadata)));
    }
    a.leave().await;
    let read = subject.other.committed(&name, &places).await.unwrap();
    assert_eq!(
        read[2],
        Some(position(5, "back")),
        "positions outlive members"
    );
}

async fn a_commit_checks_no_partition(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 2).await;
    let name = subject.name("unchecked");
    let holders = Arc::new(Holders::default());
    let mut a = Follower::join(&*subject.journal, group(&name, &topic, "a"), &holders).await;
    let mut b = Follower::join(&**subject.peer(), group(&name, &topic, "b"), &holders).await;
    holds(&holders, "a", SOON, 1).await;
    holds(&holders, "b", SOON, 1).await;
    let theirs = holders.of("b").into_iter().next().unwrap();
    let committing = async || {
        // While the group is still settling, a commit may be refused for a moment.
        let commit = vec![(at(&topic, theirs), position(3, "a's"))];
        a.committer.commit(commit).await.map_err(|e| e.to_string())
    };
    eventually("a member commits what another holds", SOON, committing).await;
    let read = subject
        .journal
        .committed(&name, &[at(&topic, theirs)])
        .await
        .unwrap();
    assert_eq!(read, [Some(position(3, "a's"))]);
    a.leave().await;
    b.leave().await;
}

async fn only_members_commit(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 1).await;
    let name = subject.name("members");
    let holders = Arc::new(Holders::default());
    let mut a = Follower::join(&*subject.journal, group(&name, &topic, "a"), &holders).await;
    holds(&holders, "a", SOON, 1).await;
    let committer = Arc::clone(&a.committer);
    committer
        .commit(vec![(at(&topic, 0), position(1, "in"))])
        .await
        .unwrap();
    a.leave().await;
    let late = committer
        .commit(vec![(at(&topic, 0), position(2, "out"))])
        .await;
    assert!(
        matches!(late, Err(JournalError::NotMember { .. })),
        "{late:?}"
    );
    let read = subject
        .journal
        .committed(&name, &[at(&topic, 0)])
        .await
        .unwrap();
    assert_eq!(read, [Some(position(1, "in"))]);
}

/// What a member that does not let go at once saw.
struct Slow {
    revoked: mpsc::Receiver<(Vec<TopicPartition>, hookline_journal::RevokeGuard)>,
    committer: Arc<dyn Committer>,
    task: tokio::task::JoinHandle<()>,
}

/// A member that hands each revoke to the test.
async fn slow_member(journal: &dyn Journal, spec: GroupSpec) -> Slow {
    let mut member = journal.join(spec).await.unwrap();
    let committer = member.committer();
    wait_for_assignment(&mut *member).await;
    let (tell, revoked) = mpsc::channel(4);
    let task = tokio::spawn(async move {
        while let Ok(event) = member.next().await {
            if let MemberEvent::Revoked(places, guard) = event
                && tell.send((places, guard)).await.is_err()
            {
                return;
            }
        }
    });
    Slow {
        revoked,
        committer,
        task,
    }
}

async fn a_commit_goes_through_while_a_revoke_waits(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 2).await;
    let name = subject.name("during");
    let mut slow = slow_member(&*subject.journal, group(&name, &topic, "slow")).await;
    let holders = Arc::new(Holders::default());
    let mut b = Follower::join(&**subject.peer(), group(&name, &topic, "b"), &holders).await;
    let revoked = timeout(SOON, slow.revoked.recv())
        .await
        .expect("a revoke comes");
    let (places, guard) = revoked.unwrap();
    let place = places[0].clone();
    let commit = vec![(place.clone(), position(42, "while revoking"))];
    slow.committer.commit(commit).await.unwrap();
    guard.done();
    holds(&holders, "b", SOON, 1).await;
    let read = subject.other.committed(&name, &[place]).await.unwrap();
    assert_eq!(read, [Some(position(42, "while revoking"))]);
    slow.task.abort();
    b.leave().await;
}

async fn the_group_waits_for_a_revoke_to_be_done(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("g", 2).await;
    let name = subject.name("waits");
    let mut slow = slow_member(&*subject.journal, group(&name, &topic, "slow")).await;
    let holders = Arc::new(Holders::default());
    let mut b = Follower::join(&**subject.peer(), group(&name, &topic, "b"), &holders).await;
    let revoked = timeout(SOON, slow.revoked.recv())
        .await
        .expect("a revoke comes");
    let (places, guard) = revoked.unwrap();
    // An absence can only be watched for a while.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for place in &places {
        assert!(
            !holders.of("b").contains(&place.partition),
            "{place:?} is still being given back"
        );
    }
    drop(guard);
    holds(&holders, "b", SOON, 1).await;
    slow.task.abort();
    b.leave().await;
}
