//! What is looked up segment by segment is the list that a look at all attempts would give.

use super::*;
use crate::AttemptLine;

/// What attempts say is drawn from few, so that they meet.
fn drawn(offset: u64) -> AttemptLine {
    let few = |of: u64| fastrand::u64(..of);
    let mut line = testing::said(offset);
    line.event_id = format!("e{}", few(30));
    line.event_key = format!("k{}", few(3));
    line.delivery_id = format!("d{}", few(20));
    line.webhook = format!("w{}", few(2));
    if let Some(contact) = &mut line.contact {
        contact.id = Some(format!("c{}", few(4)));
        contact.email = Some(format!("C{}", few(4)));
        contact.phone = (few(2) == 0).then(|| format!("c{}", few(4)));
    }
    line
}

/// Stores attempts of a partition in many segments, each of which has times that others have, too.
async fn filled(store: &Store) -> Vec<AttemptLine> {
    let mut lease = lease(store, "one").await;
    let mut all = Vec::new();
    for step in 0..40_u64 {
        let next = lease.next.unwrap_or(0);
        let lines: Vec<_> = (next..next + fastrand::u64(1..12))
            .map(|offset| {
                let mut line = drawn(offset);
                // Many at the same moment, and some late.
                line.started_ms = i64::try_from(step * 5 + fastrand::u64(..20)).unwrap();
                line
            })
            .collect();
        let end = next + lines.len() as u64;
        store
            .write(&store.turn().await, &batch(&lease, &lines, end))
            .await
            .unwrap();
        lease.next = Some(end);
        all.extend(lines);
        if fastrand::u64(..3) > 0 {
            // As if it were full.
            let full = sqlx::query("UPDATE segments SET attempts = 1000000");
            full.execute(store.pool().await.unwrap()).await.unwrap();
        }
    }
    all.sort_by_key(|line| std::cmp::Reverse(Place::of(line)));
    all
}

/// Whether a filter takes it.
fn takes(filter: &AttemptFilter, line: &AttemptLine) -> bool {
    let same = |wanted: &Option<String>, said: &str| wanted.as_ref().is_none_or(|w| w == said);
    let of_contact = |wanted: &String| {
        let contact = line.contact.as_ref();
        contact.is_some_and(|c| {
            let email = c.email.as_deref().map(str::to_lowercase);
            c.id.as_ref() == Some(wanted)
                || c.phone.as_ref() == Some(wanted)
                || email.is_some_and(|email| email == wanted.to_lowercase())
        })
    };
    same(&filter.event_id, &line.event_id)
        && same(&filter.key, &line.event_key)
        && same(&filter.delivery, &line.delivery_id)
        && same(&filter.webhook, &line.webhook)
        && filter.contact.as_ref().is_none_or(of_contact)
        && filter.from.is_none_or(|from| line.started_ms >= from.0)
        && filter.to.is_none_or(|to| line.started_ms < to.0)
}

async fn what_is_looked_up_is_found_in_all_segments(store: Store) {
    let seed = std::env::var("SEED").map_or(2, |seed| seed.parse().unwrap());
    fastrand::seed(seed);
    let all = filled(&store).await;
    for _ in 0..60 {
        let some = |n: u64| (fastrand::u64(..n) == 0).then_some(());
        let filter = AttemptFilter {
            event_id: some(3).map(|()| format!("e{}", fastrand::u64(..32))),
            key: some(2).map(|()| format!("k{}", fastrand::u64(..3))),
            delivery: some(4).map(|()| format!("d{}", fastrand::u64(..20))),
            contact: some(2).map(|()| format!("c{}", fastrand::u64(..5))),
            webhook: some(3).map(|()| format!("w{}", fastrand::u64(..2))),
            from: some(3).map(|()| Millis(fastrand::i64(..200))),
            to: some(3).map(|()| Millis(fastrand::i64(..230))),
            ..AttemptFilter::default()
        };
        let expected: Vec<_> = all.iter().filter(|line| takes(&filter, line)).collect();
        let (mut found, mut after) = (Vec::new(), None);
        let limit = fastrand::usize(1..8);
        loop {
            let page = store.attempts("shop", &filter, after, limit).await.unwrap();
            assert!(page.items.len() == limit || page.next.is_none());
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let found: Vec<_> = found.iter().map(Place::of).collect();
        let expected: Vec<_> = expected.into_iter().map(Place::of).collect();
        assert_eq!(found, expected, "seed {seed}: {filter:?}");
        let summary = store.attempt_summary("shop", &filter).await.unwrap();
        assert_eq!(summary.count, expected.len() as u64, "seed {seed}");
    }
    let segments = sqlx::query("SELECT segment FROM segments");
    let segments = segments.fetch_all(store.pool().await.unwrap()).await;
    assert!(segments.unwrap().len() > 10);
    store.close().await;
}

async fn segments_go_with_what_was_in_them(store: Store) {
    fastrand::seed(3);
    let all = filled(&store).await;
    let middle = Millis(all[all.len() / 2].started_ms);
    while store.delete_older(middle, 7).await.unwrap() > 0 {}
    let left = sqlx::query("SELECT COUNT(*), MIN(last_ms) FROM segments");
    let left = left.fetch_one(store.pool().await.unwrap()).await.unwrap();
    assert!(sqlx::Row::get::<i64, _>(&left, 1) >= middle.0);
    let key = AttemptFilter {
        key: Some("k1".into()),
        ..AttemptFilter::default()
    };
    let page = store.attempts("shop", &key, None, 1_000).await.unwrap();
    let expected = all
        .iter()
        .filter(|l| takes(&key, l) && l.started_ms >= middle.0);
    assert_eq!(page.items.len(), expected.count());
    while store.delete_older(Millis(1_000), 7).await.unwrap() > 0 {}
    let left = sqlx::query("SELECT segment FROM segments");
    let left = left.fetch_all(store.pool().await.unwrap()).await.unwrap();
    assert_eq!(left.len(), 0);
    store.close().await;
}

both_stores!(
    what_is_looked_up_is_found_in_all_segments,
    segments_go_with_what_was_in_them,
);
