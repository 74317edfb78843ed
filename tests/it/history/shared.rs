//! Several processes that fill one store: they share the events as they share the attempts, and one that was given up writes nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::postgres::Postgres;
use hookline_tests::program::{Engine, Program, Site, Start};
use hookline_tests::wait::eventually;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use super::{WITHIN, members};

both_engines!(a_zombie_among_several_processes_writes_no_event_twice);

/// Events of one call; some in each partition.
const AT_ONCE: usize = 10;

fn some_events(round: usize) -> Vec<String> {
    let one = |n: usize| {
        json!({
            "specversion": "1.0", "project": "shop", "source": "/tests", "id": format!("order-{round}-{n}"), "type": "order",
            "partitionkey": format!("key-{n}"), "data": {"n": n},
        })
        .to_string()
    };
    (0..AT_ONCE).map(one).collect()
}

/// Publishes until told to stop; answers how many there were.
async fn publish_until(site: &Site, stop: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        site.publish(&some_events(rounds)).await;
        rounds += 1;
    }
    rounds * AT_ONCE
}

/// Waits until a process has so many partitions of events.
async fn owns(program: &Program, partitions: f64) {
    let look = async || {
        let owned = program
            .metric("hookline_history_event_partitions_owned", "")
            .await;
        if owned == partitions {
            Ok(())
        } else {
            Err(owned)
        }
    };
    let what = format!("{} has {partitions} partitions of events", program.name());
    eventually(&what, WITHIN, look).await;
}

/// Events that a process put into the store: counted for each transaction, whether the events were there already or not.
async fn stored(program: &Program) -> f64 {
    program
        .metric("hookline_history_activities_total", "")
        .await
}

/// Everything that can be pulled, in the order in which it is given out.
async fn pulled(api: &Api) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/projects/shop/activities?limit=100{cursor}");
        let page = api.get(&path).await;
        let items = page["items"].as_array().unwrap();
        ids.extend(members(items, "id").iter().map(|id| (*id).to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) if !items.is_empty() => cursor = format!("&cursor={next}"),
            _ => return ids,
        }
    }
}

async fn a_zombie_among_several_processes_writes_no_event_twice(engine: Engine) {
    let Some(postgres) = Postgres::shared() else {
        return;
    };
    if engine == Engine::Embedded {
        // It has one process.
        return;
    }
    let store = format!("[history]\nurl = \"{}\"\n", postgres.database());
    let site = Site::with(engine, &store).await;
    site.apply("kind: Project\nid: shop\n").await;
    let first = site.start().await;
    let api = Api::with_role(&site, &first, "viewer", None).await;
    // Held up between reading and writing, so that it nearly always has something in hand when it is stopped: that is refused then.
    let slow = Start::roles("history")
        .named("second")
        .held_up_at("history-read", Duration::from_millis(300));
    let second = site.start_with(&slow).await;
    owns(&first, 1.0).await;
    owns(&second, 1.0).await;
    let stop = AtomicBool::new(false);
    let (published, ()) = tokio::join!(publish_until(&site, &stop), async {
        let look = async || {
            let stored = (stored(&first).await, stored(&second).await);
            if stored.0 > 0.0 && stored.1 > 0.0 {
                Ok(())
            } else {
                Err(stored)
            }
        };
        eventually("both put events in", WITHIN, look).await;
        kill(second.pid(), Signal::SIGSTOP).unwrap();
        // The first takes over what the second is silent about, and reads on from where the store stands.
        owns(&first, 2.0).await;
        let before = stored(&first).await;
        let look = async || {
            let now = stored(&first).await;
            if now > before + 50.0 {
                Ok(())
            } else {
                Err(now)
            }
        };
        eventually("the first goes on", WITHIN, look).await;
        kill(second.pid(), Signal::SIGCONT).unwrap();
        owns(&second, 1.0).await;
        owns(&first, 1.0).await;
        stop.store(true, Ordering::Relaxed);
    });
    let look = async || {
        let ids = pulled(&api).await;
        if ids.len() >= published {
            Ok(())
        } else {
            Err(ids.len())
        }
    };
    eventually("all can be pulled", WITHIN, look).await;
    let ids = pulled(&api).await;
    let different: BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (published, published));
    let written = stored(&first).await + stored(&second).await;
    assert_eq!(written, published as f64, "each was written once");
    assert!(second.stop().await.success());
    assert!(first.stop().await.success());
}
