//! What the store has: everything once, whatever happens to it or to the process.

use std::collections::BTreeSet;
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::postgres::Postgres;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};

use nix::sys::signal::{Signal, kill};

use super::{WITHIN, attempts, members};
use crate::promises::{events, webhook};

both_engines!(
    a_killed_process_leaves_nothing_out_and_nothing_twice,
    a_deleted_store_comes_back,
    deliveries_go_on_without_the_store,
    several_processes_share_one_postgres,
);

async fn a_killed_process_leaves_nothing_out_and_nothing_twice(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("good", &receiver.url("/ok/good"), ""))
        .await;
    let mut program = site.start().await;
    for round in 0..3 {
        site.publish(&events(&format!("round{round}"), 100)).await;
        let expected = round * 100 + 30;
        at_least("some", expected, WITHIN, || receiver.count("/ok/good")).await;
        program.kill().await;
        program = site.start().await;
    }
    at_least("all", 300, WITHIN, || receiver.count("/ok/good")).await;
    let tail = site.tail();
    let api = Api::with_role(&site, &program, "viewer", None).await;
    let events_of = |items: &[serde_json::Value]| {
        let events = items.iter().filter_map(|i| i["event_id"].as_str());
        events.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let path = "/v1/projects/shop/attempts?limit=500";
    // A kill may repeat requests, never rows: what the store has is what the topic has.
    let same = async || {
        let page = api.get(path).await;
        let stored = page["items"].as_array().unwrap();
        let logged = tail.of("good");
        if events_of(stored).len() == 300 && stored.len() == logged.len() {
            Ok(())
        } else {
            Err((stored.len(), logged.len()))
        }
    };
    eventually("the store has what the topic has", WITHIN, same).await;
    let page = api.get(path).await;
    let stored = page["items"].as_array().unwrap();
    let places: BTreeSet<_> = stored.iter().map(|i| i["position"].to_string()).collect();
    assert_eq!(places.len(), stored.len());
    assert!(program.stop().await.success());
}

async fn a_deleted_store_comes_back(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("good", &receiver.url("/ok/good"), ""))
        .await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    site.publish(&events("order", 50)).await;
    let before = attempts(&api, "", 50).await;
    assert!(program.stop().await.success());
    for file in ["history.db", "history.db-wal", "history.db-shm"] {
        let file = site.dir().join(file);
        assert!(file.exists() || file.extension() != Some("db".as_ref()));
        drop(std::fs::remove_file(file));
    }
    let program = site.start().await;
    let api = api.at(&program);
    let after = attempts(&api, "", 50).await;
    assert_eq!(after, before);
    let lag = async || {
        let topic = format!("topic=\"{}\"", site.topic("attempts"));
        let lag = program
            .metric("hookline_journal_consumer_lag_records", &topic)
            .await;
        if lag == 0.0 { Ok(()) } else { Err(lag) }
    };
    eventually("it has caught up", WITHIN, lag).await;
    assert!(program.stop().await.success());
}

async fn deliveries_go_on_without_the_store(engine: Engine) {
    let receiver = Receiver::start().await;
    let nowhere = "[history]\nurl = \"sqlite://later/history.db\"\n";
    let site = Site::with(engine, nowhere).await;
    site.apply(&webhook("good", &receiver.url("/ok/good"), ""))
        .await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    site.publish(&events("order", 20)).await;
    at_least("all", 20, WITHIN, || receiver.count("/ok/good")).await;
    for path in [
        "attempts",
        "attempts/export",
        "activities",
        "activities?wait=20s",
        "statistics",
        "attempts/x.0.1",
        "deliveries/x",
    ] {
        let answer = api.ask("GET", &format!("/v1/projects/shop/{path}")).await;
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(program.metric("hookline_history_store_up", "").await, 0.0);
    std::fs::create_dir(site.dir().join("later")).unwrap();
    let items = attempts(&api, "", 20).await;
    assert!(members(&items, "outcome").iter().all(|o| *o == "delivered"));
    assert!(program.stop().await.success());
}

async fn several_processes_share_one_postgres(engine: Engine) {
    // The embedded engine has one process, and the store may still be a PostgreSQL.
    let Some(postgres) = Postgres::shared() else {
        return;
    };
    let receiver = Receiver::start().await;
    let store = format!("[history]\nurl = \"{}\"\n", postgres.database());
    let site = Site::with(engine, &store).await;
    site.apply(&webhook("good", &receiver.url("/ok/good"), ""))
        .await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    let mut readers = Vec::new();
    if engine == Engine::Kafka {
        use hookline_tests::program::Start;
        readers.push(
            site.start_with(&Start::roles("history").named("second"))
                .await,
        );
        let owned = async || {
            let second = readers[0].metric("hookline_history_partitions_owned", "");
            if second.await == 1.0 { Ok(()) } else { Err(()) }
        };
        eventually("each has a partition", WITHIN, owned).await;
    }
    site.publish(&events("order", 200)).await;
    attempts(&api, "", 200).await;
    // The other is silent for longer than its lease, and then goes on with what it had in hand.
    for reader in &readers {
        kill(reader.pid(), Signal::SIGSTOP).unwrap();
    }
    site.publish(&events("later", 200)).await;
    attempts(&api, "", 400).await;
    for reader in &readers {
        kill(reader.pid(), Signal::SIGCONT).unwrap();
    }
    site.publish(&events("last", 50)).await;
    attempts(&api, "", 450).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    attempts(&api, "", 450).await;
    // One that is killed gives nothing back; its lease ends by itself.
    for reader in readers {
        reader.kill().await;
    }
    site.publish(&events("end", 50)).await;
    attempts(&api, "", 500).await;
    assert!(program.stop().await.success());
}
