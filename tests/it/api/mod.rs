//! The REST API, through the real program, on both engines.

mod connectors;
mod endpoints;
mod fuzz;
mod guarded;
mod publishing;
mod replicas;
mod resources;
mod roles;

use hookline_tests::api::Api;
use hookline_tests::program::{Program, Site};
use serde_json::{Value, json};

/// An administrator of a running site, with the project `shop` made.
async fn shop(site: &Site, program: &Program) -> Api {
    let admin = Api::with_role(site, program, "admin", None).await;
    let made = admin
        .send("POST", "/v1/projects", &json!({"id": "shop"}))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    admin
}

/// A webhook's document for all events.
fn webhook(name: &str, url: &str) -> Value {
    json!({"name": name, "url": url, "events": ["*"]})
}
