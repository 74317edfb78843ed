//! The interface keeps to its own OpenAPI document, whatever is asked: schemathesis makes requests from the document, right ones and wrong
//! ones, and holds every answer against it.

use std::process::Stdio;
use std::time::Duration;

use hookline_tests::broker::installed;
use hookline_tests::program::{Engine, Site, free_port};
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use super::webhook;

/// What is held against the document.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance";
/// Repeats the run; the requests are the same as long as document and version of the tool are.
const SEED: &str = "1";
const WITHIN: Duration = Duration::from_secs(300);

#[tokio::test]
async fn no_request_gets_an_answer_that_the_document_does_not_know() {
    let site = Site::new(Engine::Embedded).await;
    let program = site.start().await;
    let key = site
        .succeed(&["keys", "create", "--role", "admin"], "")
        .await;
    let key = key.trim();
    let admin = hookline_tests::api::Api::new(&program, Some(key));
    // Something is there, under the names that a shrinking fuzzer likes best.
    let project = json!({"id": "0", "preset": "vidcorp"});
    let made = admin.send("POST", "/v1/projects", &project).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let made = admin
        .send("POST", "/v1/projects/0/webhooks", &webhook("0", &nobody))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let address = program.address();
    let run = Command::new(installed("schemathesis").join("bin/schemathesis"))
        .arg("run")
        .arg(format!("http://{address}/v1/openapi.json"))
        .args(["--url", &format!("http://{address}")])
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(["--checks", CHECKS, "--seed", SEED, "--max-examples", "20"])
        // One after the other: its generators do not stand threads.
        .args(["--phases", "examples,coverage,fuzzing", "--workers", "1"])
        .current_dir(site.dir())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(WITHIN, run).await.expect("ends in time");
    let output = output.expect("schemathesis can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains(" passed"), "{said}");
}
