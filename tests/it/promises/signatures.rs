//! Requests are signed so that receivers can check them, by the reference implementations of Standard Webhooks, also while keys change over.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::broker::installed;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::at_least;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::event;

both_engines!(the_reference_implementations_take_what_was_signed);

const WITHIN: Duration = Duration::from_secs(30);
const HOOK: &str = "/v1/projects/shop/webhooks/crm";
/// Not only ASCII, and with what JSON libraries write in other ways.
const DATA: &str = r#"{"é": "😀", "n": 1.50, "s": "a\/b"}"#;

async fn the_reference_implementations_take_what_was_signed(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = Api::with_role(&site, &program, "admin", None).await;
    let receiver = Receiver::start().await;
    let project = json!({"id": "shop"});
    drop(
        admin
            .send("POST", "/v1/projects", &project)
            .await
            .expect(201),
    );
    let document = json!({"name": "crm", "url": receiver.url("/ok/crm"), "events": ["*"]});
    let made = admin
        .send("POST", "/v1/projects/shop/webhooks", &document)
        .await
        .expect(201);
    let first = by_secret(&made);
    let request = sent(&site, &receiver, 1).await;
    assert_eq!(taken(&request, &first).await, [true, true]);
    let wrong = json!({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    assert_eq!(taken(&request, &wrong).await, [false, false]);
    let mut changed = request.clone();
    changed.body = [&request.body[..], b" "].concat().into();
    assert_eq!(taken(&changed, &first).await, [false, false]);

    // Both sign while a new secret takes over.
    let rotate = format!("{HOOK}:rotate-secret");
    let rotated = admin.send("POST", &rotate, &json!({"overlap": "1h"})).await;
    let second = by_secret(&rotated.expect(200));
    assert_ne!(first, second);
    let request = sent(&site, &receiver, 2).await;
    for secret in [&first, &second] {
        assert_eq!(taken(&request, secret).await, [true, true]);
    }

    // And while a key pair does.
    let change = json!({"signature": "v1a"});
    let pair = admin.send("PATCH", HOOK, &change).await.expect(200);
    assert_eq!(
        pair.get("secret"),
        None,
        "the private key is shown to nobody"
    );
    let public = json!({"public_key": pair["secrets"][0]["public_key"]});
    let request = sent(&site, &receiver, 3).await;
    assert_eq!(taken(&request, &second).await, [true, true]);
    assert_eq!(verified("node", &request, &public).await, "taken");
    let rotated = admin.send("POST", &rotate, &json!({"overlap": "0s"})).await;
    let rotated = rotated.expect(200);
    assert_eq!(rotated.get("secret"), None);
    let other = json!({"public_key": rotated["secrets"][0]["public_key"]});
    let request = sent(&site, &receiver, 4).await;
    assert_eq!(verified("node", &request, &other).await, "taken");
    for old in [&second, &public] {
        assert_ne!(
            verified("node", &request, old).await,
            "taken",
            "it has ended"
        );
    }
    assert!(program.stop().await.success());
}

fn by_secret(webhook: &Value) -> Value {
    let secret = webhook["secret"].as_str().expect("shown once");
    json!({"secret": secret})
}

/// Publishes an event and returns the request that it became, being the one of that number.
async fn sent(site: &Site, receiver: &Receiver, number: usize) -> Received {
    site.publish(&[event("order.paid", &number.to_string(), DATA)])
        .await;
    at_least("requests", number, WITHIN, || receiver.count("/ok/crm")).await;
    receiver.at("/ok/crm").pop().expect("it came")
}

/// Whether Python and JavaScript take it.
async fn taken(request: &Received, key: &Value) -> [bool; 2] {
    let (python, node) = (
        verified("python", request, key).await,
        verified("node", request, key).await,
    );
    [python, node].map(|said| said == "taken")
}

/// What an implementation says of a request: `taken`, or why not.
async fn verified(implementation: &str, request: &Received, key: &Value) -> String {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/signatures");
    let home = installed("standardwebhooks");
    let mut command = match implementation {
        "python" => {
            let mut command = Command::new(home.join("python/bin/python"));
            command.arg(tools.join("verify.py"));
            command
        }
        _ => {
            let mut command = Command::new("node");
            command.arg(tools.join("verify.js"));
            command.env("NODE_PATH", home.join("node/node_modules"));
            command
        }
    };
    let headers: serde_json::Map<_, _> = request
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let mut question = key.clone();
    question["headers"] = headers.into();
    question["body"] = String::from_utf8_lossy(&request.body).into_owned().into();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.expect("the implementation is there: run `make setup`");
    let mut stdin = child.stdin.take().expect("piped");
    let question = question.to_string();
    stdin.write_all(question.as_bytes()).await.expect("read");
    drop(stdin);
    let output = child.wait_with_output().await.expect("ends");
    assert!(output.status.success(), "{implementation} failed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
