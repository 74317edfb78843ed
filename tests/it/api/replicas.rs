//! Several API processes on one journal: the log decides, and one that dies takes nothing with it.

use std::collections::BTreeMap;

use hookline_tests::program::{Engine, Site, Start};
use serde_json::json;

use super::{shop, webhook};

/// Rounds of conflicting updates.
const ROUNDS: u64 = 25;

/// What one has answered for, the other knows at once: it has looked a moment ago, and looks again before it says no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_made_by_one_is_there_for_the_other() {
    let site = Site::new(Engine::Kafka).await;
    let first = site.start().await;
    let second = site
        .start_with(&Start::roles("api,ingest").named("second"))
        .await;
    let admin = shop(&site, &first).await;
    let other = admin.at(&second);
    for n in 0..10 {
        assert_eq!(other.ask("GET", "/v1/projects/shop").await.status, 200);
        let project = json!({"id": format!("p{n}")});
        let made = admin.send("POST", "/v1/projects", &project).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let path = format!("/v1/projects/p{n}/webhooks");
        let listed = other.ask("GET", &path).await;
        assert_eq!(listed.status, 200, "{}", listed.body);
        let event = json!({"type": "a.b", "data": n});
        let path = format!("/v1/projects/p{n}/events");
        let published = other.send("POST", &path, &event).await;
        assert_eq!(published.status, 202, "{}", published.body);
    }
    assert!(first.stop().await.success());
    assert!(second.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_conflicting_updates_exactly_one_wins_and_a_killed_replica_loses_nothing() {
    let site = Site::new(Engine::Kafka).await;
    let first = site.start().await;
    let second = site
        .start_with(&Start::roles("api,ingest").named("second"))
        .await;
    let admin = shop(&site, &first).await;
    let other = admin.at(&second);
    let one = "/v1/projects/shop/webhooks/crm";
    let made = admin
        .send("PUT", one, &webhook("crm", "https://crm.example.com/"))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);

    let mut version = 1;
    for round in 0..ROUNDS {
        let tag = format!("\"{version}\"");
        let (ours, theirs) = (
            json!({"title": format!("a{round}")}),
            json!({"title": format!("b{round}")}),
        );
        let (a, b) = tokio::join!(
            admin.send_if("PATCH", one, &tag, &ours),
            other.send_if("PATCH", one, &tag, &theirs),
        );
        let mut counts = BTreeMap::new();
        for answer in [&a, &b] {
            *counts.entry(answer.status).or_insert(0) += 1;
        }
        assert_eq!(
            counts,
            [(200, 1), (412, 1)].into(),
            "round {round}: {} {}",
            a.body,
            b.body
        );
        version += 1;
        let winner = if a.status == 200 { ours } else { theirs };
        for reader in [&admin, &other] {
            let read = reader.get(one).await;
            assert_eq!(
                (&read["title"], &read["version"]),
                (&winner["title"], &version.into())
            );
        }
    }

    // One is killed while both write; what was acknowledged is there, and the other goes on at once.
    let writing = async {
        let mut acknowledged = 0;
        loop {
            let path = format!("/v1/projects/shop/webhooks/w{acknowledged}");
            let body = webhook(&format!("w{acknowledged}"), "https://x.example.com/").to_string();
            match other.call("PUT", &path, &[], body).await {
                Ok(answer) if answer.status == 201 => acknowledged += 1,
                Ok(answer) => panic!("{}: {}", answer.status, answer.body),
                Err(_) => break acknowledged,
            }
        }
    };
    let killing = async {
        hookline_tests::wait::eventually(
            "some are written",
            std::time::Duration::from_secs(20),
            || async {
                match admin
                    .ask("GET", "/v1/projects/shop/webhooks/w5")
                    .await
                    .status
                {
                    200 => Ok(()),
                    other => Err(other),
                }
            },
        )
        .await;
        second.kill().await;
    };
    let (acknowledged, ()) = tokio::join!(writing, killing);
    assert!(acknowledged > 5, "{acknowledged}");
    for n in 0..acknowledged {
        admin.get(&format!("/v1/projects/shop/webhooks/w{n}")).await;
    }
    let after = admin.send("PATCH", one, &json!({"title": "goes on"})).await;
    assert_eq!(after.status, 200, "{}", after.body);
}
