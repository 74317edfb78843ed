//! What hookline promises, through the real program and its outer interface only, on both engines.

mod backlog_written_once;
mod bounded_disk;
mod catalog_of_a_project;
mod cli;
mod everything_arrives_once;
mod filters;
mod graceful_restart_repeats_nothing;
mod in_order;
mod isolation;
mod old_end;
mod outcomes;
mod poison;
mod public_forms;
mod public_topics;
mod put_away;
mod schedule_honoured;
mod secrets_key_replaced;
mod settled_records_go;
mod signatures;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac as _};
use hookline_tests::receiver::Received;
use sha2::Sha256;

/// A structured CloudEvent of project `shop`, whose data is these bytes of JSON.
pub(crate) fn event(event_type: &str, id: &str, data: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","project":"shop","source":"/tests","id":"{id}","type":"{event_type}","data":{data}}}"#
    )
}

/// So many events of one type, with data `{"n": 0}`, `{"n": 1}`, … and ids made of the type and the number.
pub(crate) fn events(event_type: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| {
            event(
                event_type,
                &format!("{event_type}-{n}"),
                &format!("{{\"n\": {n}}}"),
            )
        })
        .collect()
}

/// A webhook of project `shop` for all events, with further lines of YAML.
pub(crate) fn webhook(name: &str, url: &str, more: &str) -> String {
    let events = if more.lines().any(|line| line.starts_with("events:")) {
        ""
    } else {
        "events: [\"*\"]\n"
    };
    format!("kind: Webhook\nproject: shop\nname: {name}\nurl: {url}\n{events}{more}\n---\n")
}

/// Text that nobody can compress.
pub(crate) fn noise(bytes: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric)
        .take(bytes)
        .collect()
}

/// How often each `webhook-id` came.
pub(crate) fn by_id(received: &[Received]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in received {
        *counts.entry(request.webhook_id().to_owned()).or_default() += 1;
    }
    counts
}

/// Asserts that so many deliveries came, each exactly once.
#[track_caller]
pub(crate) fn assert_each_once(received: &[Received], deliveries: usize) {
    let counts = by_id(received);
    let more: Vec<_> = counts.iter().filter(|(_, n)| **n > 1).collect();
    assert!(more.is_empty(), "came more than once: {more:?}");
    assert_eq!(counts.len(), deliveries, "deliveries that came");
}

/// The number in the data of the event, or of each event of the batch.
pub(crate) fn numbers(request: &Received) -> Vec<u64> {
    let body = request.json();
    let number = |data: &serde_json::Value| data["n"].as_u64().expect("a number");
    match body.as_array() {
        Some(batch) => batch.iter().map(number).collect(),
        None => vec![number(&body)],
    }
}

/// The lane of the request, and its place there.
pub(crate) fn place(request: &Received) -> (String, u64) {
    let lane = request.header("hookline-lane").expect("a lane");
    let sequence = request.header("hookline-sequence").expect("a sequence");
    (lane.to_owned(), sequence.parse().expect("a decimal number"))
}

/// Never faster than so many a second, over whatever span: where the next is sent only when the one before is answered, nothing can pile up on
/// the way.
#[track_caller]
pub(crate) fn assert_never_faster(requests: &[Received], rate: u32) {
    /// Begun tokens, and the grain of the clocks.
    const BURST: f64 = 3.0;
    for (nth, first) in requests.iter().enumerate() {
        for (count, last) in requests.iter().skip(nth).enumerate() {
            let allowed = (last.at - first.at).as_secs_f64() * f64::from(rate) * 1.02 + BURST;
            assert!(
                f64::from(u32::try_from(count).unwrap()) <= allowed,
                "{count} after the {nth}th within {:?}",
                last.at - first.at
            );
        }
    }
}

/// The secrets that `apply` printed, in order.
pub(crate) fn secrets(printed: &str) -> Vec<String> {
    let found = printed.match_indices("whsec_").map(|(at, _)| {
        let rest = printed.split_at(at).1;
        let secret = rest.chars();
        secret
            .take_while(|c| c.is_ascii_alphanumeric() || "_+/=".contains(*c))
            .collect::<String>()
    });
    found.collect()
}

/// Asserts that a request is signed with this secret, as Standard Webhooks says.
#[track_caller]
pub(crate) fn assert_signed(request: &Received, secret: &str) {
    let key = BASE64_STANDARD
        .decode(secret.trim_start_matches("whsec_"))
        .expect("the secret is base64 behind its prefix");
    assert!(
        (24..=64).contains(&key.len()),
        "a key of {} bytes",
        key.len()
    );
    let id = request.webhook_id();
    let timestamp = request.header("webhook-timestamp").expect("a timestamp");
    assert!(timestamp.parse::<u64>().is_ok(), "{timestamp}");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(&request.body);
    let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    let signatures = request.header("webhook-signature").expect("a signature");
    assert!(
        signatures.split(' ').any(|s| s == expected),
        "{signatures} does not hold {expected}"
    );
}
