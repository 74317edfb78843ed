//! What became of events, as the history shows it: through the real program, on both engines and both databases.

mod asked;
mod exported;
mod pulled;
mod shared;
mod stored;

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::wait::eventually;
use serde_json::Value;

/// How long it may take until the store has what happened.
const WITHIN: Duration = Duration::from_secs(60);

/// Waits until the project has exactly so many attempts, and returns them, the latest first.
async fn attempts(api: &Api, query: &str, count: usize) -> Vec<Value> {
    let path = format!("/v1/projects/shop/attempts?limit=500{query}");
    let look = async || {
        let answer = api.ask("GET", &path).await;
        let items = answer.body["items"].as_array().map_or(0, Vec::len);
        if items >= count { Ok(()) } else { Err(answer) }
    };
    eventually(&format!("{count} attempts are shown"), WITHIN, look).await;
    let page = api.get(&path).await;
    let items = page["items"].as_array().unwrap().clone();
    assert_eq!(items.len(), count, "{page}");
    items
}

/// These members of the attempts, in order.
fn members<'a>(items: &'a [Value], name: &str) -> Vec<&'a str> {
    items.iter().map(|i| i[name].as_str().unwrap()).collect()
}
