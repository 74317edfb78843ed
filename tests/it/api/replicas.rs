//! Several API processes on one journal: the log decides, and one that dies takes nothing with it.

use std::collections::BTreeMap;

use hookline_tests::program::{Engine, Site, Start};
use serde_json::json;

use super::{shop, webhook};

/// Rounds of conflicting updates.
const ROUNDS: u64 = 25;

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
