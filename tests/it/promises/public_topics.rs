//! What `attempts`, `dead` and `rejected` hold, as somebody else's programs read it: kcat, and a library that knows the proto files alone.

use std::path::Path;
use std::time::Duration;

use hookline_tests::broker::{Broker, installed, run_kcat};
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::eventually;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{event, webhook};

const WITHIN: Duration = Duration::from_secs(30);

/// The records of a topic that hold such a message.
async fn read(site: &Site, topic: &str, message: &str, kind: &str) -> Vec<Value> {
    let topic = site.topic(topic);
    let consume = ["-C", "-q", "-e", "-o", "beginning", "-f", "%h\\t%S\\n%s"];
    let from = ["-b", Broker::shared().address(), "-t", &topic];
    let records = run_kcat(&[&consume[..], &from].concat(), b"");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut reader = Command::new("node")
        .arg(tests.join("tools/topics/read.js"))
        .arg(tests.join("../proto"))
        .args([message, kind])
        .env("NODE_PATH", installed("protobufjs").join("node_modules"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node is there: run `make setup`");
    let mut stdin = reader.stdin.take().expect("piped");
    stdin.write_all(&records).await.expect("read");
    drop(stdin);
    let output = reader.wait_with_output().await.expect("ends");
    assert!(output.status.success(), "{topic} cannot be read");
    let lines = String::from_utf8(output.stdout).expect("JSON is text");
    let value = |line: &str| serde_json::from_str(line).expect("a line of JSON");
    lines.lines().map(value).collect()
}

/// Sixteen bytes in the JSON of protobuf, as they stand in a header.
fn hex(base64: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(base64.as_str().expect("bytes are a text"))
        .expect("in base64");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_reads_what_became_of_events() {
    let receiver = Receiver::start().await;
    receiver.answer("/ok/bad", 500);
    let site = Site::new(Engine::Kafka).await;
    let short = "events: [bad]\nretry: {jitter: 0, schedule: {list: [200ms]}}";
    let good = webhook("good", &receiver.url("/ok/good"), "events: [good]");
    let bad = webhook("bad", &receiver.url("/ok/bad"), short);
    site.apply(&(good + &bad)).await;
    let program = site.start().await;
    let events = [event("good", "e1", "1"), event("bad", "e2", r#"{"n": 2}"#)];
    site.publish(&events).await;
    let topic = site.topic("events");
    let produce = ["-P", "-b", Broker::shared().address(), "-t", &topic];
    assert!(run_kcat(&produce, b"this is no event\n").is_empty());
    let attempts = async || {
        let records = read(&site, "attempts", "hookline.v1.Attempts", "attempt").await;
        let attempts = records.iter().flat_map(|record| {
            assert_eq!(record["format"], 1, "{record}");
            record["attempts"].as_array().cloned().unwrap_or_default()
        });
        attempts.collect::<Vec<_>>()
    };
    let all = async || match attempts().await {
        all if all.len() == 3 => Ok(()),
        all => Err(all.len()),
    };
    eventually("three attempts", WITHIN, all).await;
    let all = attempts().await;
    let of = |event: &str| -> Vec<&Value> {
        let of_it = |one: &&Value| one["event_id"] == event;
        all.iter().filter(of_it).collect()
    };
    let delivered = of("e1").pop().expect("it was tried");
    for (word, value) in [
        ("project", json!("shop")),
        ("webhook", json!("good")),
        ("event_type", json!("good")),
        ("attempt", json!(1)),
        ("outcome", json!("OUTCOME_DELIVERED")),
        ("status", json!(200)),
    ] {
        assert_eq!(delivered[word], value, "{word}: {delivered}");
    }
    let request = receiver.at("/ok/good").pop().expect("it came");
    let id = format!("dlv_{}", hex(&delivered["delivery_id"]));
    assert_eq!(request.webhook_id(), id);
    let outcomes: Vec<_> = of("e2").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["OUTCOME_FAILED", "OUTCOME_EXHAUSTED"]);
    let dead = async || match read(&site, "dead", "hookline.v1.DeadDelivery", "").await {
        dead if dead.len() == 1 => Ok(()),
        dead => Err(dead.len()),
    };
    eventually("one dead delivery", WITHIN, dead).await;
    let dead = read(&site, "dead", "hookline.v1.DeadDelivery", "").await;
    assert_eq!(dead[0]["event"]["id"], "e2", "{dead:?}");
    assert_eq!(dead[0]["attempt"]["outcome"], "OUTCOME_EXHAUSTED");
    let rejected = async || match read(&site, "rejected", "hookline.v1.Rejected", "").await {
        all if all.len() == 1 => Ok(()),
        all => Err(all.len()),
    };
    eventually("one rejected record", WITHIN, rejected).await;
    assert!(program.stop().await.success());
}
