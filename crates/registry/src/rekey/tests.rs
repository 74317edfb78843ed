//! An old key goes: everything is sealed again, and nothing else changes.

use std::sync::Arc;

use hookline_journal::Journal;
use hookline_model::ids::Slug;
use hookline_model::signature::sign;
use tokio::sync::watch;

use super::*;
use crate::testing::{MemoryJournal, TestClock, webhook};
use crate::{Kek, PutWebhook, RegistryConfig, Sealer};

fn kek(first: u8) -> Kek {
    use base64::Engine as _;
    let bytes: [u8; 32] = std::array::from_fn(|n| first.wrapping_add(n as u8));
    let text = base64::prelude::BASE64_STANDARD.encode(bytes);
    Kek::from_base64(&text).expect("a key")
}

async fn open(journal: &MemoryJournal, keys: &[u8]) -> Result<Registry, OpenError> {
    let (first, others) = keys.split_first().expect("at least one");
    let others: Vec<_> = others.iter().map(|n| kek(*n)).collect();
    let sealer = Sealer::new(&kek(*first)).opening(&others);
    let journal: Arc<dyn Journal> = Arc::new(journal.clone());
    let config = RegistryConfig::new("hookline.");
    Registry::open(journal, config, Arc::new(TestClock::default()), sealer).await
}

async fn make(registry: &Registry, name: &str) {
    let put = PutWebhook {
        project: Slug::new("shop").expect("slug"),
        name: Slug::new(name).expect("slug"),
        settings: webhook(name, &["*"]),
        keep_state: false,
        verified: None,
        make_project: true,
        if_match: None,
    };
    registry.put_webhook(&put).await.expect("made");
}

/// The signatures of all webhooks, by name.
async fn signatures(registry: &Registry) -> Vec<(String, String)> {
    let snapshot = registry.refresh().await.expect("refresh");
    let mut signed: Vec<_> = snapshot
        .webhooks()
        .map(|webhook| {
            let keys = webhook.signing_keys(Millis(0)).expect("opens");
            (webhook.name.to_string(), sign("id", 1, b"body", &keys))
        })
        .collect();
    signed.sort();
    signed
}

/// Runs these until `done`.
async fn run(registries: &[&Registry], done: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(false);
    let all = registries.iter().map(|r| r.run(stopped.clone()));
    let until = async {
        done.await;
        stop.send_replace(true);
    };
    let (ended, ()) = tokio::join!(futures::future::join_all(all), until);
    ended.into_iter().for_each(|ended| ended.expect("graceful"));
}

async fn none_under_old_keys(registry: &Registry) {
    while registry.under_old_keys() > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Longer than several rounds take.
const ROUNDS: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn everything_is_sealed_again_and_signs_the_same() {
    let journal = MemoryJournal::new();
    let old = open(&journal, &[1]).await.expect("opens");
    for name in ["a", "b", "gone", "reused"] {
        make(&old, name).await;
    }
    let day = Duration::from_secs(24 * 3600);
    let rotated = old.rotate_secret("shop", "b", day, None).await;
    rotated.expect("a second secret");
    for name in ["gone", "reused"] {
        old.delete_webhook("shop", name, None)
            .await
            .expect("deleted");
    }
    make(&old, "reused").await;
    let signed = signatures(&old).await;
    let deleted = old.list_deleted("shop").await.expect("listed");
    assert_eq!((signed.len(), deleted.len()), (3, 2));
    assert_eq!(old.under_old_keys(), 0);

    // With the new key alone nobody starts, neither now nor half-way.
    let early = open(&journal, &[2]).await.map(drop);
    assert!(
        matches!(early, Err(OpenError::WrongKey { .. })),
        "{early:?}"
    );
    let new = open(&journal, &[2, 1]).await.expect("opens");
    assert_eq!(new.under_old_keys(), 5, "three live, two deleted");
    assert_eq!(signatures(&new).await, signed);
    let half = async {
        while new.under_old_keys() == 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    run(&[&new], half).await;
    let half = open(&journal, &[2]).await.map(drop);
    let Err(OpenError::MissingKey { count, .. }) = half else {
        panic!("{half:?}")
    };
    assert!((1..5).contains(&count), "{count}");

    run(&[&new], none_under_old_keys(&new)).await;
    let alone = open(&journal, &[2])
        .await
        .expect("the old key is not needed");
    assert_eq!(signatures(&alone).await, signed);
    assert_eq!(alone.list_deleted("shop").await.expect("listed"), deleted);
    for gone in &deleted {
        let name = gone.name.as_str();
        if name == "gone" {
            alone.restore_webhook("shop", gone.uid).await.expect("back");
        }
    }
    assert_eq!(signatures(&alone).await.len(), 4);
    let late = open(&journal, &[1]).await.map(drop);
    assert!(matches!(late, Err(OpenError::WrongKey { .. })), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn processes_that_change_over_one_after_the_other_do_not_undo_each_other() {
    let journal = MemoryJournal::new();
    let first = open(&journal, &[1, 2]).await.expect("opens");
    for name in ["a", "b", "c"] {
        make(&first, name).await;
    }
    let signed = signatures(&first).await;
    // One has changed over, the other two have not; both kinds write.
    let (changed, behind) = (
        open(&journal, &[2, 1]).await.expect("opens"),
        open(&journal, &[1, 2]).await.expect("opens"),
    );
    let all = [&first, &changed, &behind];
    run(&all, none_under_old_keys(&changed)).await;
    make(&behind, "d").await;
    run(&all, none_under_old_keys(&changed)).await;
    let versions = |registry: &Registry| {
        let snapshot = registry.snapshot();
        let mut all: Vec<_> = snapshot.webhooks().map(|w| (w.uid, w.version)).collect();
        all.sort_unstable();
        all
    };
    changed.refresh().await.expect("refresh");
    let settled = versions(&changed);
    run(&all, tokio::time::sleep(ROUNDS)).await;
    changed.refresh().await.expect("refresh");
    assert_eq!(versions(&changed), settled, "nobody goes on sealing");
    let now = signatures(&changed).await;
    assert_eq!(now.len(), 4);
    assert_eq!(now[..3], signed);
    // A process that comes back with the order of before is let in, and leaves all as it is.
    let back = open(&journal, &[1, 2]).await.expect("opens");
    run(&[&back, &changed], tokio::time::sleep(ROUNDS)).await;
    changed.refresh().await.expect("refresh");
    assert_eq!(versions(&changed), settled);
    open(&journal, &[2])
        .await
        .expect("the old key is not needed");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_keeps_no_other_waiting() {
    let journal = MemoryJournal::new();
    let old = open(&journal, &[1]).await.expect("opens");
    for name in ["a", "b"] {
        make(&old, name).await;
    }
    // The secret of one moved to the other: it does not open there.
    let (mut bodies, mut sealed) = (Vec::new(), Vec::new());
    {
        let view = old.follow.view.lock();
        let made = KINDS.iter().flat_map(|kind| view.log.of_kind(kind, "shop"));
        for (name, current) in made {
            let body: Value = serde_json::from_slice(&current.body).expect("JSON");
            sealed.push(body["secrets"].clone());
            bodies.push((name.clone(), body));
        }
    }
    let (name, mut body) = bodies.swap_remove(0);
    body["secrets"] = sealed[1].clone();
    let put = Change::Put(body.to_string().into());
    let written = old.write(&name.kind, &name.project, &name.name, None, |_| {
        Ok(put.clone())
    });
    written.await.expect("written");

    let new = open(&journal, &[2, 1]).await.expect("opens");
    assert_eq!(new.under_old_keys(), 2);
    let done = async {
        while new.under_old_keys() > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    run(&[&new], done).await;
    run(&[&new], tokio::time::sleep(ROUNDS)).await;
    assert_eq!(new.under_old_keys(), 1, "the damaged one is still told of");
}
