//! Events in every public form arrive; what cannot be read or placed stands in `rejected`, and the partition moves on.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{ReadBudget, Record, StoredRecord, append_and_wait, read_until};
use hookline_model::wire;
use hookline_tests::broker::{Broker, run_kcat};
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use prost::Message as _;

use super::{event, webhook};

both_engines!(
    structured_binary_and_protobuf_events_arrive,
    what_cannot_be_read_is_rejected_and_the_rest_goes_on,
    a_strict_project_takes_only_what_its_catalog_describes,
);

const WITHIN: Duration = Duration::from_secs(20);
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

fn record(headers: &[(&str, &str)], value: impl Into<Bytes>) -> Record {
    let owned = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned())));
    Record {
        key: Some(Bytes::from_static(b"key")),
        value: Some(value.into()),
        headers: owned.collect(),
    }
}

/// Puts records into partition 0 of `events`, past all of hookline's own producers.
async fn append(site: &Site, records: Vec<Record>) {
    let journal = site.journal().await;
    let appender = journal.appender("producer").await.unwrap();
    for record in records {
        append_and_wait(&*appender, &site.topic("events"), 0, record)
            .await
            .unwrap();
    }
}

fn binary_headers() -> Vec<(&'static str, &'static str)> {
    vec![
        ("ce_specversion", "1.0"),
        ("ce_id", "binary"),
        ("ce_source", "/tests"),
        ("ce_type", "order"),
        ("ce_project", "shop"),
        ("ce_partitionkey", "customer-7"),
        ("content-type", "application/json"),
    ]
}

fn protobuf() -> Vec<u8> {
    let event = wire::Event {
        id: "protobuf".into(),
        source: "/tests".into(),
        project: "shop".into(),
        r#type: "order".into(),
        data: br#"{"form":"protobuf"}"#.to_vec().into(),
        ..wire::Event::default()
    };
    event.encode_to_vec()
}

async fn structured_binary_and_protobuf_events_arrive(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("all", &receiver.url("/ok/all"), ""))
        .await;
    let program = site.start().await;
    let of_form = |form: &str| format!("{{\"form\":\"{form}\"}}");
    let records = vec![
        record(
            &[STRUCTURED],
            event("order", "structured", &of_form("structured")),
        ),
        record(
            &[(
                "content-type",
                "application/cloudevents+json; charset=utf-8",
            )],
            event("order", "charset", &of_form("charset")),
        ),
        record(&binary_headers(), of_form("binary")),
        record(
            &[(
                "content-type",
                "application/x-protobuf; proto=hookline.v1.Event",
            )],
            protobuf(),
        ),
        record(&[], event("order", "bare", &of_form("bare"))),
    ];
    append(&site, records).await;
    at_least("all forms", 5, WITHIN, || receiver.count("/ok/all")).await;
    let mut forms: Vec<_> = receiver
        .at("/ok/all")
        .iter()
        .map(|r| {
            r.json()["data"]["form"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    forms.sort();
    assert_eq!(
        forms,
        ["bare", "binary", "charset", "protobuf", "structured"]
    );
    assert!(program.stop().await.success());
}

/// Everything in `rejected`.
async fn rejected(site: &Site) -> Vec<wire::Rejected> {
    let journal = site.journal().await;
    let topic = site.topic("rejected");
    let topics = journal.topics().await.unwrap();
    let mut found = Vec::new();
    for partition in 0..topics.get(&topic).map_or(0, |t| t.partitions) {
        let end = journal.end(&topic, partition).await.unwrap();
        let budget = ReadBudget::of(1 << 20);
        let mut reader = journal.reader(&topic, partition, 0, budget).await.unwrap();
        let take = |record: StoredRecord| {
            let value = record.value.expect("rejected holds no tombstones");
            found.push(wire::Rejected::decode(value).expect("a Rejected"));
        };
        read_until(&mut *reader, end, take).await.unwrap();
    }
    found.sort_by_key(|r| r.offset);
    found
}

async fn what_cannot_be_read_is_rejected_and_the_rest_goes_on(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    site.apply(&webhook("all", &receiver.url("/ok/all"), ""))
        .await;
    let program = site.start().await;
    let elsewhere = event("order", "x", "{}").replace("shop", "no-such-project");
    let records = vec![
        record(&[STRUCTURED], "{ this is not JSON"),
        record(&[STRUCTURED], event("order", "first", "{}")),
        record(
            &[],
            r#"{"specversion":"1.0","id":"no-type","source":"/t","project":"shop"}"#,
        ),
        record(&[], elsewhere),
        record(
            &[("content-type", "application/x-protobuf")],
            vec![0xff; 40],
        ),
        record(&[("content-type", "text/plain")], "what is this"),
        record(
            &[],
            event(
                "order",
                "too-large",
                &format!("\"{}\"", "x".repeat(800 << 10)),
            ),
        ),
        record(&[STRUCTURED], event("order", "last", "{}")),
    ];
    append(&site, records).await;
    at_least("the good ones", 2, WITHIN, || receiver.count("/ok/all")).await;
    let six = async || {
        let found = rejected(&site).await;
        if found.len() == 6 {
            Ok(())
        } else {
            Err(found.len())
        }
    };
    eventually("six are rejected", WITHIN, six).await;
    let found = rejected(&site).await;
    let offsets: Vec<_> = found.iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [0, 2, 3, 4, 5, 6], "where each stood");
    for one in &found {
        assert_eq!(
            (one.topic.clone(), one.partition),
            (site.topic("events"), 0)
        );
        assert!(!one.reason.is_empty() && !one.detail.is_empty(), "{one:?}");
        assert_eq!(one.key, "key");
    }
    assert_eq!(found[2].reason, "unknown_project");
    assert_eq!(found[5].reason, "too_large");
    assert!(found[5].value_bytes > 800 << 10 && found[5].value.len() < 128 << 10);
    assert_eq!(found[0].value, "{ this is not JSON");
    assert_eq!(receiver.count("/ok/all"), 2);
    let counted = program
        .metric("hookline_fanout_events_total", "rejected")
        .await;
    assert!((counted - 6.0).abs() < 0.5, "{counted} rejected");
    assert!(program.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_publishes_in_every_form() {
    let receiver = Receiver::start().await;
    let site = Site::new(Engine::Kafka).await;
    site.apply(&webhook("all", &receiver.url("/ok/all"), ""))
        .await;
    let program = site.start().await;
    let topic = site.topic("events");
    let produce = ["-P", "-b", Broker::shared().address(), "-t", &topic];
    let kcat = |more: &[&str], input: &str| {
        let arguments: Vec<_> = produce.iter().chain(more).copied().collect();
        let printed = run_kcat(&arguments, input.as_bytes());
        assert!(printed.is_empty(), "{}", String::from_utf8_lossy(&printed));
    };
    // Bare lines, as a person would pipe them in.
    let lines = event("order", "bare-1", "1") + "\n" + &event("order", "bare-2", "2") + "\n";
    kcat(&[], &lines);
    kcat(
        &["-k", "k", "-H", "content-type=application/cloudevents+json"],
        &event("order", "s", "3"),
    );
    let headers: Vec<_> = binary_headers()
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    let headers: Vec<&str> = headers.iter().flat_map(|h| ["-H", h]).collect();
    kcat(&headers, "4");
    let file = site.dir().join("event.pb");
    fs::write(&file, protobuf()).unwrap();
    let kind = "content-type=application/x-protobuf; proto=hookline.v1.Event";
    kcat(&["-H", kind, file.to_str().unwrap()], "");
    at_least("all forms", 5, WITHIN, || receiver.count("/ok/all")).await;
    let mut data: Vec<_> = receiver
        .at("/ok/all")
        .iter()
        .map(|r| r.json()["data"].to_string())
        .collect();
    data.sort();
    assert_eq!(data, ["1", "2", "3", "4", r#"{"form":"protobuf"}"#]);
    assert!(program.stop().await.success());
}

async fn a_strict_project_takes_only_what_its_catalog_describes(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let catalog = "kind: Project
id: shop
strict: true
---
kind: EventType
project: shop
name: order.paid
category: order
title: Paid
schema: {type: object, required: [total], properties: {total: {type: number}}}
---
";
    let hook = webhook("all", &receiver.url("/ok/all"), "");
    site.apply(&format!("{catalog}{hook}")).await;
    let program = site.start().await;
    // Past the command line, which could refuse them: whoever has the topic can write into it.
    let events = [
        event("order.paid", "wrong", r#"{"total": "much"}"#),
        event("order.sent", "unknown", "{}"),
        event("order.paid", "right", r#"{"total": 7}"#),
    ];
    append(&site, events.map(|e| record(&[STRUCTURED], e)).into()).await;
    at_least("requests", 1, WITHIN, || receiver.count("/ok/all")).await;
    let rejected = rejected(&site).await;
    let reasons: Vec<_> = rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(reasons, ["not_described"; 2], "{rejected:?}");
    assert!(
        rejected[0].detail.contains("total"),
        "{}",
        rejected[0].detail
    );
    assert!(
        rejected[1].detail.contains("order.sent"),
        "{}",
        rejected[1].detail
    );
    assert_eq!(receiver.all().len(), 1);
    assert!(program.stop().await.success());
}
