//! Bulk jobs through the real program, on both engines: what is started over is started over once, whatever happens on the way.

mod by_hand;
mod redrive;
mod replay;

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::Site;
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::eventually;
use serde_json::Value;

use crate::promises::{events, webhook};

/// How long anything may take: the lease of a killed process and a busy machine included.
const WITHIN: Duration = Duration::from_secs(60);

/// A short schedule, after which a delivery is dead, for events of that type and of type `live`.
fn short(event_type: &str) -> String {
    format!("events: [{event_type}, live]\nretry: {{jitter: 0, schedule: {{list: [100ms]}}}}")
}

const JOBS: &str = "/v1/projects/shop/jobs";

/// Registers a webhook at `/ok/{name}` whose receiver is broken, and publishes that many events of its name: all end exhausted. The receiver is
/// repaired then.
async fn exhausted(site: &Site, receiver: &Receiver, name: &str, count: usize) {
    let path = format!("/ok/{name}");
    receiver.answer(&path, 500);
    site.apply(&webhook(name, &receiver.url(&path), &short(name)))
        .await;
    let before = dead(site).await;
    site.publish(&events(name, count)).await;
    let all = async || {
        let there = dead(site).await - before;
        if there >= count as u64 {
            Ok(())
        } else {
            Err(there)
        }
    };
    eventually("all are dead", WITHIN, all).await;
    assert_eq!(receiver.count(&path), 2 * count);
    receiver.answer(&path, 200);
}

/// Records of `dead`.
async fn dead(site: &Site) -> u64 {
    let (journal, topic) = (site.journal().await, site.topic("dead"));
    let ends = [
        journal.end(&topic, 0).await.unwrap(),
        journal.end(&topic, 1).await.unwrap(),
    ];
    ends.iter().sum()
}

/// Makes a job and returns its id.
async fn made(api: &Api, body: &Value) -> String {
    let job = api.send("POST", JOBS, body).await.expect(201);
    job["id"].as_str().unwrap().to_owned()
}

/// Waits until a job has that status, and returns it.
async fn comes_to(api: &Api, id: &str, status: &str) -> Value {
    let path = format!("{JOBS}/{id}");
    let look = async || match api.call("GET", &path, &[], "").await {
        Ok(answer) if answer.body["status"] == status => Ok(()),
        seen => Err(seen),
    };
    eventually(&format!("the job is {status}"), WITHIN, look).await;
    api.get(&path).await
}

/// What was started over.
fn written(job: &Value) -> u64 {
    job["counts"]["written"].as_u64().unwrap()
}

/// The requests at a path that were answered with 200.
fn taken(receiver: &Receiver, path: &str) -> Vec<hookline_tests::receiver::Received> {
    let all = receiver.at(path);
    all.into_iter().filter(|r| r.answered == 200).collect()
}
