//! Scenarios over a journal in memory: several writers, lost acknowledgements, zombies, compaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hookline_journal::Journal;
use hookline_model::ids::{Slug, WebhookUid};
use hookline_model::resource::State;
use hookline_model::signature::{SigningKey, sign};
use hookline_model::time::Millis;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use crate::entry::SIGNING;
use crate::log::{Log, Name, Nonce, encode_key, encode_value};
use crate::testing::{MemoryJournal, TestClock, Weather, webhook};
use crate::*;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwg=";

async fn open_with(journal: &MemoryJournal, key: &str) -> Result<Registry, OpenError> {
    open_at(journal, key, Arc::default()).await
}

async fn open_at(
    journal: &MemoryJournal,
    key: &str,
    clock: Arc<TestClock>,
) -> Result<Registry, OpenError> {
    let kek = Kek::from_base64(key).expect("a key");
    let journal: Arc<dyn Journal> = Arc::new(journal.clone());
    let config = RegistryConfig::new("hookline.");
    Registry::open(journal, config, clock, Sealer::new(&kek)).await
}

async fn open(journal: &MemoryJournal) -> Registry {
    open_with(journal, KEY).await.expect("opens")
}

fn put(name: &str, events: &[&str]) -> PutWebhook {
    PutWebhook {
        project: Slug::new("shop").expect("slug"),
        name: Slug::new(name).expect("slug"),
        settings: webhook(name, events),
        keep_state: false,
        verified: None,
        make_project: true,
        if_match: None,
    }
}

fn signed(webhook: &WebhookEntry) -> String {
    sign(
        "id",
        1,
        b"body",
        &webhook.signing_keys(Millis(0)).expect("opens"),
    )
}

async fn body(registry: &Registry) -> (u64, Bytes) {
    registry.refresh().await.expect("refresh");
    let view = registry.follow.view.lock();
    let current = view.log.current(&Name::new("thing", "p", "n"));
    current.map_or((0, Bytes::new()), |c| (c.version, c.body.clone()))
}

async fn write(
    registry: &Registry,
    if_match: Option<u64>,
    body: &'static str,
) -> Result<Written, WriteError> {
    let change = Change::Put(Bytes::from(body));
    registry
        .write("thing", "p", "n", if_match, |_| Ok(change.clone()))
        .await
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_made_with_a_secret_changed_and_left_alone() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    let made = a
        .put_webhook(&put("crm", &["user.signup"]))
        .await
        .expect("made");
    assert!(made.created && made.written.changed);
    assert_eq!((made.webhook.version, made.webhook.epoch), (1, 1));
    let secret = made.new_secret.expect("a new secret");
    let secret = secret.expose_secret();
    assert!(
        secret.starts_with("whsec_") && secret.len() == 50,
        "{}",
        secret.len()
    );
    assert!(
        !journal.text().contains(secret.trim_start_matches("whsec_")),
        "stored sealed only"
    );

    let seen = b.refresh().await.expect("refresh");
    let seen = seen.by_name("shop", "crm").expect("there").clone();
    assert_eq!(seen.uid, made.webhook.uid);
    assert_eq!(seen.uid.0.get_version_num(), 7);
    let shown = [SigningKey::parse(secret).expect("a signing secret")];
    let signature = sign("id", 1, b"body", &shown);
    assert_eq!(signed(&seen), signature);
    assert!(b.snapshot().project("shop").is_some());

    let before = journal.appended();
    let same = b
        .put_webhook(&put("crm", &["user.signup"]))
        .await
        .expect("same");
    assert!(!same.created && !same.written.changed && same.new_secret.is_none());
    assert_eq!(same.webhook.version, 1);
    assert_eq!(journal.appended(), before, "nothing was written");

    let changed = b.put_webhook(&put("crm", &["*"])).await.expect("changed");
    assert_eq!((changed.webhook.version, changed.webhook.epoch), (2, 1));
    assert!(!changed.created && changed.written.changed && changed.new_secret.is_none());
    assert_eq!(changed.webhook.uid, made.webhook.uid);
    assert_eq!(signed(&changed.webhook), signature);
    assert_eq!(SIGNING, "signing", "part of what is stored");
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_with_the_same_version_exactly_one_wins() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    for version in 0..20 {
        let (x, y) = tokio::join!(write(&a, Some(version), "a"), write(&b, Some(version), "b"));
        let wins = [&x, &y].iter().filter(|r| r.is_ok()).count();
        assert_eq!(wins, 1, "{x:?} {y:?}");
        let lost = x.err().or(y.err()).expect("one lost");
        assert!(matches!(lost, WriteError::Conflict { .. }), "{lost}");
        assert_eq!(body(&a).await, body(&b).await);
        assert_eq!(body(&a).await.0, version + 1);
    }
    // Without a version both get through, one after the other.
    let (x, y) = tokio::join!(write(&a, None, "a"), write(&b, None, "b"));
    let mut versions = [x.expect("wins").version, y.expect("wins").version];
    versions.sort_unstable();
    assert_eq!(versions, [21, 22]);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_behind_another_write_wins_nothing() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    journal.forecast([Weather::Late]);
    let zombie = write(&a, Some(0), "zombie").await;
    assert!(
        matches!(zombie, Err(WriteError::OutcomeUnknown { .. })),
        "{zombie:?}"
    );
    assert_eq!(write(&b, Some(0), "b").await.expect("wins").version, 1);
    journal.land();
    for registry in [&a, &b, &open(&journal).await] {
        assert_eq!(body(registry).await, (1, Bytes::from("b")));
    }
    assert_eq!(
        write(&a, Some(1), "next").await.expect("goes on").version,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_zombie_before_all_others_is_current_and_the_others_notice() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    journal.forecast([Weather::Late]);
    write(&a, Some(0), "zombie").await.expect_err("not known");
    journal.land();
    let refused = write(&b, Some(0), "b").await;
    assert!(
        matches!(refused, Err(WriteError::Conflict { version: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(body(&b).await, (1, Bytes::from("zombie")));
}

/// The loser of a version is suspended before it sees so. Meanwhile the winner is superseded, tombstoned and compacted away, while the
/// loser's own record is still there: now it looks like the winner.
#[tokio::test(start_paused = true)]
async fn a_writer_that_slept_until_what_it_lost_to_was_compacted_away_does_not_claim_to_have_won() {
    let journal = MemoryJournal::new();
    let (there, clock) = (journal.elsewhere(), Arc::new(TestClock::default()));
    let sleeper = open_at(&there, KEY, clock.clone()).await.expect("opens");
    let others = open(&journal).await;
    assert_eq!(write(&others, Some(0), "1").await.expect("won").version, 1);
    body(&sleeper).await;

    // It has read version 1 and appended; its record is on its way, and it falls asleep.
    journal.forecast([Weather::Late]);
    let mut losing = Box::pin(write(&sleeper, Some(1), "loser"));
    let appended = journal.appended();
    there.sleep(true);
    assert!(go_on(&mut losing).await.is_none());
    let before = offsets(&journal);
    assert_eq!(write(&others, Some(1), "2").await.expect("won").version, 2);
    let winner = new_offset(&journal, &before);
    let before = offsets(&journal);
    journal.land();
    assert_eq!(journal.appended(), appended + 2);
    let loser = new_offset(&journal, &before);
    assert_eq!(write(&others, Some(2), "3").await.expect("won").version, 3);
    let end = others.refresh().await.expect("refresh").offset;
    let tombstoned = others.write.tidy(&others.follow, end, 10).await;
    assert_eq!(tombstoned.expect("tidied"), 3);
    clock.suspend(TIDY_EVERY);
    journal.compact_away(winner);
    assert!(offsets(&journal).contains(&loser));

    there.sleep(false);
    let told = losing.await;
    assert!(
        matches!(told, Err(WriteError::OutcomeUnknown { .. })),
        "{told:?}"
    );
    assert_eq!(body(&sleeper).await, (3, Bytes::from("3")));
}

fn offsets(journal: &MemoryJournal) -> Vec<u64> {
    journal.offsets().into_iter().map(|(o, _)| o).collect()
}

/// The one record that is there and was not before.
fn new_offset(journal: &MemoryJournal, before: &[u64]) -> u64 {
    let mut new = offsets(journal);
    new.retain(|offset| !before.contains(offset));
    assert_eq!(new.len(), 1, "{new:?}");
    new[0]
}

/// Goes on with a future as far as it gets without time passing.
async fn go_on<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    for _ in 0..50 {
        if let std::task::Poll::Ready(done) = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))
        })
        .await
        {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_is_made_up_for_by_reading() {
    let journal = MemoryJournal::new();
    let a = open(&journal).await;
    journal.forecast([Weather::AckLost, Weather::Lost]);
    assert_eq!(write(&a, Some(0), "seen").await.expect("won").version, 1);
    let lost = write(&a, Some(1), "never stored").await;
    assert!(
        matches!(lost, Err(WriteError::OutcomeUnknown { .. })),
        "{lost:?}"
    );
    assert_eq!(write(&a, Some(1), "stored").await.expect("won").version, 2);
    assert!(a.follow.view.lock().awaited.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_seen_in_time_is_unknown_and_not_lost() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    journal.hide(true);
    let unknown = write(&a, Some(0), "x").await;
    assert!(
        matches!(unknown, Err(WriteError::OutcomeUnknown { .. })),
        "{unknown:?}"
    );
    journal.hide(false);
    assert_eq!(body(&b).await, (1, Bytes::from("x")));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_name_is_free_and_the_deleted_webhook_can_come_back() {
    let journal = MemoryJournal::new();
    let a = open(&journal).await;
    let first = a
        .put_webhook(&put("crm", &["*"]))
        .await
        .expect("made")
        .webhook;
    a.delete_webhook("shop", "crm", Some(1))
        .await
        .expect("deleted");
    let gone = a.delete_webhook("shop", "crm", None).await;
    assert!(matches!(gone, Err(WriteError::NotFound { .. })), "{gone:?}");
    assert!(a.snapshot().webhook(first.uid).is_none());
    assert_eq!(a.snapshot().matching("shop", "x").count(), 0);

    // Straight back under its own name.
    let back = a
        .restore_webhook("shop", first.uid)
        .await
        .expect("restored");
    assert_eq!((back.uid, back.epoch, back.version), (first.uid, 2, 3));
    assert_eq!(signed(&back), signed(&first));
    a.delete_webhook("shop", "crm", None)
        .await
        .expect("deleted");

    // Another one takes the name: versions go on, the uid is new.
    let mut second = put("crm", &["*"]);
    second.if_match = Some(0);
    let second = a
        .put_webhook(&second)
        .await
        .expect("a deletion counts as none");
    assert!(second.created && second.new_secret.is_some());
    assert_eq!(second.webhook.version, 5);
    assert_ne!(second.webhook.uid, first.uid);
    let taken = a.restore_webhook("shop", first.uid).await;
    assert!(
        matches!(taken, Err(WriteError::NameTaken { .. })),
        "{taken:?}"
    );

    a.delete_webhook("shop", "crm", None)
        .await
        .expect("deleted");
    let back = a
        .restore_webhook("shop", first.uid)
        .await
        .expect("restored");
    assert_eq!((back.uid, back.epoch), (first.uid, 3));
    // The second one was put out of the way and can come back later.
    a.delete_webhook("shop", "crm", None)
        .await
        .expect("deleted");
    let uid = second.webhook.uid;
    let back = a.restore_webhook("shop", uid).await.expect("restored");
    assert_eq!((back.uid, back.epoch), (uid, 2));
    let fresh = open(&journal).await;
    assert!(fresh.snapshot().webhook(uid).is_some());
    assert!(fresh.snapshot().webhook(first.uid).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_deactivates_only_the_epoch_it_was_sent_under() {
    let journal = MemoryJournal::new();
    let a = open(&journal).await;
    let made = a
        .put_webhook(&put("crm", &["*"]))
        .await
        .expect("made")
        .webhook;
    assert!(
        !a.deactivate(made.uid, 2, "gone")
            .await
            .expect("another epoch")
    );
    assert!(a.deactivate(made.uid, 1, "gone").await.expect("its epoch"));
    assert!(!a.deactivate(made.uid, 1, "gone").await.expect("once"));
    assert!(
        !a.deactivate(made.uid, 2, "gone")
            .await
            .expect("inactive already")
    );
    let now = a.snapshot().webhook(made.uid).expect("there").clone();
    assert_eq!((now.state(), now.epoch), (State::Inactive, 2));
    assert_eq!(now.state_reason.as_deref(), Some("gone"));
    assert_eq!(a.snapshot().matching("shop", "x").count(), 0);

    // The file says nothing about the state: it stays. It says active: it is, and the epoch stays raised.
    let mut quiet = put("crm", &["*"]);
    quiet.keep_state = true;
    let quiet = a.put_webhook(&quiet).await.expect("unchanged");
    assert!(!quiet.written.changed && quiet.webhook.state() == State::Inactive);
    let active = a.put_webhook(&put("crm", &["*"])).await.expect("active");
    assert_eq!(
        (active.webhook.state(), active.webhook.epoch),
        (State::Active, 2)
    );
    a.set_state("shop", "crm", State::Paused, None, None)
        .await
        .expect("paused");
    assert_eq!(
        a.snapshot().matching("shop", "x").count(),
        1,
        "paused ones get events"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_noticed_at_once() {
    let journal = MemoryJournal::new();
    open(&journal).await;
    let other = "AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwg=";
    let refused = open_with(&journal, other).await.map(drop);
    assert!(
        matches!(refused, Err(OpenError::WrongKey { .. })),
        "{refused:?}"
    );
    open(&journal).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_is_told_of_changes_and_stops_when_asked() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    let (stop, stopped) = watch::channel(false);
    let mut changes = b.changes();
    let follow = async {
        let made = a
            .put_webhook(&put("crm", &["*"]))
            .await
            .expect("made")
            .webhook;
        let seen = changes.wait_for(|s| s.webhook(made.uid).is_some()).await;
        assert!(seen.is_ok());
        stop.send_replace(true);
    };
    let (ended, ()) = tokio::join!(b.run(stopped), follow);
    ended.expect("graceful");
}

#[tokio::test(start_paused = true)]
async fn the_layout_is_laid_down_once() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    let layout = |partitions| Layout {
        partitions,
        tier_partitions: 4,
        generations: BTreeMap::new(),
    };
    let (four, eight) = (layout(4), layout(8));
    let (x, y) = tokio::join!(a.ensure_layout(&four), b.ensure_layout(&eight));
    assert_eq!(
        x.expect("there"),
        y.expect("there"),
        "both get the one that was first"
    );
    assert!(a.put_layout(&layout(0), None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn tidying_and_compaction_in_any_order_change_nothing() {
    let seed = 7;
    fastrand::seed(seed);
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    for round in 0..300 {
        let name = ["crm", "erp", "mail"][fastrand::usize(..3)];
        let registry = if fastrand::bool() { &a } else { &b };
        if fastrand::u8(..10) == 0 {
            journal.forecast([Weather::AckLost]);
        }
        let event = format!("type-{}", fastrand::u8(..5));
        match fastrand::u8(..8) {
            0 => drop(registry.delete_webhook("shop", name, None).await),
            1 => drop(
                registry
                    .set_state("shop", name, State::Inactive, None, None)
                    .await,
            ),
            2 => {
                let offset = registry.snapshot().offset;
                drop(registry.write.tidy(&registry.follow, offset, 5).await);
            }
            3 => journal.compact(),
            _ => {
                let (one, two) = (put(name, &[&event]), put(name, &["*"]));
                let (x, y) = tokio::join!(a.put_webhook(&one), b.put_webhook(&two));
                assert!(
                    x.is_ok() && y.is_ok(),
                    "round {round}, seed {seed}: {x:?} {y:?}"
                );
            }
        }
        let fresh = open(&journal).await;
        a.refresh().await.expect("refresh");
        b.refresh().await.expect("refresh");
        assert_eq!(content(&a), content(&b), "round {round}, seed {seed}");
        assert_eq!(content(&a), content(&fresh), "round {round}, seed {seed}");
    }
}

fn content(registry: &Registry) -> BTreeMap<WebhookUid, String> {
    let snapshot = registry.snapshot();
    let mut content = BTreeMap::new();
    for webhook in snapshot.webhooks() {
        let indexed = ["type-0", "type-1", "type-2", "type-3", "type-4", "other"]
            .map(|t| snapshot.matching("shop", t).any(|w| w.uid == webhook.uid));
        content.insert(webhook.uid, format!("{webhook:?} {indexed:?}"));
    }
    content
}

#[tokio::test(start_paused = true)]
async fn matching_agrees_with_asking_everybody() {
    fastrand::seed(11);
    let journal = MemoryJournal::new();
    let a = open(&journal).await;
    let patterns = ["*", "a.*", "a.b.*", "a.b.c", "a.b", "a", "b", "ab.*"];
    for round in 0..400 {
        let name = format!("w{}", fastrand::u32(..300));
        if fastrand::u8(..5) == 0 {
            drop(a.delete_webhook("shop", &name, None).await);
            continue;
        }
        let mut chosen = patterns.to_vec();
        fastrand::shuffle(&mut chosen);
        chosen.truncate(1 + fastrand::usize(..3));
        let made = a.put_webhook(&put(&name, &chosen)).await;
        assert!(made.is_ok(), "round {round}: {made:?}");
    }
    let snapshot = a.snapshot();
    for event_type in [
        "a", "a.b", "a.b.c", "a.b.c.d", "a.", "b", "ab", "ab.c", "", ".",
    ] {
        let found: Vec<_> = snapshot
            .matching("shop", event_type)
            .map(|w| w.uid)
            .collect();
        assert!(found.is_sorted_by(|x, y| x < y), "in order, each once");
        let mut asked: Vec<_> = snapshot
            .webhooks()
            .filter(|w| w.settings.events.iter().any(|p| p.matches(event_type)))
            .map(|w| w.uid)
            .collect();
        asked.sort_unstable();
        assert_eq!(found, asked, "{event_type}");
    }
    assert_eq!(snapshot.matching("other", "a").count(), 0);
}

/// One step of one of a few writers, each with its own idea of how far the log goes.
#[derive(Debug, Clone)]
enum Step {
    /// Reads to the end and decides what to append.
    Read(usize),
    /// What it decided is appended now, however late.
    Append(usize),
    /// A reader tombstones what it knows to be superseded.
    Tidy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3_u8, 0..4_usize).prop_map(|(what, who)| match what {
        0 => Step::Read(who),
        1 => Step::Append(who),
        _ => Step::Tidy,
    });
    proptest::collection::vec(step, 1..200)
}

type Stored = (Bytes, Option<Bytes>);

fn replay(records: &[(u64, Stored)]) -> Log {
    let mut log = Log::default();
    for (offset, (key, value)) in records {
        log.apply(Some(key), value.as_deref(), *offset)
            .expect("readable");
    }
    log
}

proptest! {
    #[test]
    fn however_writers_interleave_each_version_is_won_once(steps in steps(), seed in any::<u64>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let name = Name::new("thing", "p", "n");
        let mut records: Vec<(u64, Stored)> = Vec::new();
        let mut decided: [Option<Stored>; 4] = Default::default();
        let mut nonce = 0_u8;
        let mut won: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Read(who) => {
                    let version = replay(&records).current(&name).map_or(0, |c| c.version) + 1;
                    nonce = nonce.wrapping_add(1);
                    let nonce: Nonce = [nonce; 16];
                    let record = Current {
                        version, offset: 0, deleted: false, written_at_ms: 0, body: Bytes::new(), nonce,
                    };
                    decided[who] = Some((encode_key(&name, version, &nonce), Some(encode_value(&name, &record))));
                }
                Step::Append(who) => if let Some(record) = decided[who].take() {
                    let offset = records.len() as u64;
                    let mut log = replay(&records);
                    let applied = log.apply(Some(&record.0), record.1.as_deref(), offset).expect("readable");
                    if let Some((_, true)) = applied.won {
                        won.push(log.current(&name).expect("current").version);
                    }
                    records.push((offset, record));
                },
                Step::Tidy => {
                    let seen = random.usize(..=records.len());
                    for key in replay(&records[..seen]).superseded(u64::MAX, 3) {
                        records.push((records.len() as u64, (key, None)));
                    }
                }
            }
            // Whatever of the records that are not the last of their key is gone: the same is current.
            let last: BTreeMap<_, _> = records.iter().map(|(o, (k, _))| (k.clone(), *o)).collect();
            let mut left = records.clone();
            left.retain(|(offset, (key, _))| last[key] == *offset || random.bool());
            let (whole, compacted) = (replay(&records), replay(&left));
            prop_assert_eq!(whole.current(&name), compacted.current(&name));
        }
        prop_assert!(won.is_sorted_by(|a, b| a < b), "won: {:?}", won);
    }
}
