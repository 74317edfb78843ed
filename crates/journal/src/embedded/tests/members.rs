//! Groups: who gets what, when, and who may commit.

use std::collections::BTreeSet;

use super::*;

fn group(member: &str) -> GroupSpec {
    GroupSpec {
        group: "g".into(),
        topics: vec!["a".into(), "b".into()],
        session_timeout: Duration::from_secs(10),
        member: member.into(),
    }
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.into(),
        partition,
    }
}

async fn event(member: &mut Box<dyn Member>) -> MemberEvent {
    tokio::time::timeout(Duration::from_secs(10), member.next())
        .await
        .expect("an event in time")
        .expect("a member")
}

async fn assigned(member: &mut Box<dyn Member>) -> BTreeSet<TopicPartition> {
    match event(member).await {
        MemberEvent::Assigned(partitions) => partitions.into_iter().collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn partitions_are_given_back_before_they_are_given_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    journal
        .create_topics(&[spec("a", 3, FOREVER), spec("b", 3, FOREVER)])
        .await
        .expect("made");
    let mut one = journal.join(group("one")).await.expect("joined");
    let all = assigned(&mut one).await;
    assert_eq!(all.len(), 6);
    let mut two = journal.join(group("two")).await.expect("joined");
    let MemberEvent::Revoked(back, guard) = event(&mut one).await else {
        panic!("something else");
    };
    assert_eq!(back.len(), 3);
    // Nothing moves while it is held.
    let early = tokio::time::timeout(Duration::from_millis(50), two.next()).await;
    assert!(early.is_err(), "{early:?}");
    guard.done();
    let given = assigned(&mut two).await;
    assert_eq!(given, back.into_iter().collect());
    // Who leaves gives everything back at once.
    two.leave().await;
    assert_eq!(assigned(&mut one).await, given);
    // A topic that is new is shared out, too.
    let mut late = group("three");
    late.topics = vec!["new".into()];
    let mut three = journal.join(late).await.expect("joined");
    let (given, made) = tokio::join!(assigned(&mut three), async {
        journal.create_topics(&[spec("new", 2, FOREVER)]).await
    });
    made.expect("made");
    assert_eq!(given, [at("new", 0), at("new", 1)].into());
}

#[tokio::test]
async fn commits_come_from_members_only_and_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    journal
        .create_topics(&[spec("a", 1, FOREVER)])
        .await
        .expect("made");
    let mut one = journal.join(group("one")).await.expect("joined");
    assert_eq!(assigned(&mut one).await.len(), 1);
    let committer = one.committer();
    let committed = Committed {
        offset: 7,
        metadata: "due 5".into(),
    };
    // No partition is checked: neither that it is held nor that it exists.
    let positions = vec![
        (at("a", 0), committed.clone()),
        (at("zz", 9), committed.clone()),
    ];
    committer.commit(positions).await.expect("committed");
    assert!(journal.expire_member("g", "one"));
    assert!(matches!(event(&mut one).await, MemberEvent::Lost(lost) if lost == [at("a", 0)]));
    assert!(matches!(
        one.next().await,
        Err(JournalError::NotMember { .. })
    ));
    let late = committer
        .commit(vec![(at("a", 0), Committed::default())])
        .await;
    assert!(matches!(late, Err(JournalError::NotMember { .. })));
    assert!(!journal.expire_member("g", "one"));
    drop(one);
    journal.close().await;
    let journal = open(dir.path());
    let asked = [at("a", 0), at("a", 1), at("zz", 9)];
    let found = journal.committed("g", &asked).await.expect("asked");
    assert_eq!(found, [Some(committed.clone()), None, Some(committed)]);
    let other = journal.committed("other", &asked).await.expect("asked");
    assert_eq!(other, [None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn who_never_gives_back_is_put_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let time = clock();
    let journal = open_with(dir.path(), time.clone());
    journal
        .create_topics(&[spec("a", 2, FOREVER)])
        .await
        .expect("made");
    let mut one = journal.join(group("one")).await.expect("joined");
    assert_eq!(assigned(&mut one).await.len(), 2);
    let mut two = journal.join(group("two")).await.expect("joined");
    let MemberEvent::Revoked(_, _guard) = event(&mut one).await else {
        panic!("something else");
    };
    time.advance(Duration::from_secs(301));
    assert_eq!(assigned(&mut two).await.len(), 2);
    assert!(matches!(event(&mut one).await, MemberEvent::Lost(lost) if lost.len() == 2));
    assert!(matches!(
        one.next().await,
        Err(JournalError::NotMember { .. })
    ));
}
