//! Resource files as people write them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::{Schedule, Success, Then, Times};

const MINIMAL: &str = "
kind: Webhook
project: shop
name: crm
url: https://crm.example.com/hooks
events: [user.signup, email.*]
";

const FULL: &str = r#"
kind: Webhook
project: shop
name: crm
title: "CRM, any symbols"
description: "two\nlines"
url: https://crm.example.com/hooks
events: ["user.signup", "email.*", "*"]
preset: standard
state: paused
method: PUT
headers: {X-Tenant: "42"}
connector: none
ordered: false
batch: none
body: cloudevents
success: [200, 202]
deadline: 10s
rate_limit: 50/s
verification: none
retry:
  schedule: {exponential: {initial: 1m, factor: 1.5, cap: 1h, times: 20}}
  jitter: 0.25
  rest: {after: 24h, cycles: unlimited}
  max_age: 14d
  permanent: [{match: [410, 3xx, 400-407, tls_expired], then: deactivate}, {match: [404], then: dead}]
  on_exhausted: deactivate
  retry_after: {honour: false, cap: 1h}
"#;

fn webhook(text: &str) -> WebhookSpec {
    match parse_documents(text).as_deref() {
        Ok([Resource::Webhook(spec)]) => (**spec).clone(),
        other => panic!("{other:#?}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    let errors = parse_documents(text).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

/// The one error of the minimal webhook with something more, without the name of the document.
fn error(more: &str) -> String {
    let errors = parse_documents(&format!("{MINIMAL}{more}")).expect_err(more);
    assert_eq!(errors.len(), 1, "{more}: {errors:#?}");
    assert_eq!(errors[0].document, "document 1, Webhook shop/crm");
    format!("{}: {}", errors[0].field, errors[0].message)
}

#[test]
fn what_is_left_out_is_the_presets() {
    let spec = webhook(MINIMAL);
    let settings = &spec.settings;
    assert!(!spec.state_given);
    assert_eq!(
        (settings.state, settings.method),
        (State::Active, Method::Post)
    );
    assert_eq!(settings.deadline, Duration::from_secs(15));
    assert_eq!(settings.rate_limit, None);
    let Schedule::List(waits) = &settings.retry.schedule else {
        panic!("{settings:?}");
    };
    assert_eq!(waits.len(), 9);
    assert_eq!(settings.retry.jitter.to_string(), "0.1");
    assert_eq!(settings.retry.permanent[0].then, Then::Deactivate);
    assert!(settings.subscribes("email.a.b") && !settings.subscribes("user.login"));

    let part = webhook(&format!(
        "{MINIMAL}retry: {{jitter: 0, rest: {{after: 1h, cycles: 1}}}}"
    ));
    let retry = part.settings.retry;
    assert_eq!(retry.jitter.to_string(), "0");
    assert_eq!(
        retry.schedule, settings.retry.schedule,
        "completed key by key"
    );
    assert!(webhook(&format!("{MINIMAL}state: inactive")).state_given);
    assert_eq!(
        webhook(&format!("{MINIMAL}state:\ntitle:")).settings,
        *settings
    );
}

#[test]
fn everything_that_can_be_said() {
    let settings = webhook(FULL).settings;
    assert_eq!(settings.headers.get("x-tenant"), Some("42"));
    assert_eq!(settings.retry.success, Success::Codes(vec![200, 202]));
    assert_eq!(
        settings.retry.max_age,
        Some(Duration::from_secs(14 * 86400))
    );
    assert_eq!(
        settings.retry.rest.map(|r| r.cycles),
        Some(Times::Unlimited)
    );
    assert_eq!(
        settings.rate_limit.map(|r| r.to_string()),
        Some("50/s".into())
    );
    let fixed = webhook(&format!(
        "{MINIMAL}retry: {{schedule: {{fixed: {{delay: 5s, times: unlimited}}}}}}"
    ));
    assert!(matches!(
        fixed.settings.retry.schedule,
        Schedule::Fixed {
            times: Times::Unlimited,
            ..
        }
    ));
    let get = webhook(&format!("{MINIMAL}method: GET\nbody: none"));
    assert_eq!(
        (get.settings.method, get.settings.body),
        (Method::Get, BodyForm::None)
    );
}

#[test]
fn settings_are_a_document_again_and_the_stored_form() {
    let esputnik = format!("{MINIMAL}preset: esputnik");
    let without = format!("{esputnik}\nordered: false\nbatch: none\nbody: data");
    for text in [MINIMAL, FULL, &esputnik, &without] {
        let settings = webhook(text).settings;
        let document = settings.to_document().to_string();
        assert_eq!(webhook(&document).settings, settings, "{document}");
        let stored: Webhook = serde_json::from_str(&document).expect("stored form");
        assert_eq!(stored, settings);
    }
    // Stored data outlives code: this text may gain keys, but what it says now must be read for ever.
    let stored = r#"{"uid":"01890a5d-ac96-774b-bcce-b302099a8057","epoch":3,"created_at_ms":1700000000000,"state_reason":"410","state_at_ms":1,"secrets":{"k":"sealed"},"settings":{"kind":"Webhook","project":"shop","name":"crm","title":"","description":"","url":"https://a.example.com/","events":["email.*"],"filter":"none","preset":"wooxy","state":"inactive","method":"POST","headers":{"x-a":"b"},"connector":"none","signature":"v1","trusted_ca":"none","ordered":false,"batch":"none","body":"standard","success":"2xx","deadline":"15s","rate_limit":"none","verification":"none","retry":{"schedule":{"list":["5s","5m"]},"jitter":0.1,"rest":"none","max_age":"none","permanent":[{"match":[410,"4xx"],"then":"deactivate"}],"on_exhausted":"dead","retry_after":{"honour":true,"cap":"24h"}}}}"#;
    let read: StoredWebhook = serde_json::from_str(stored).expect("stored");
    assert_eq!(serde_json::to_string(&read).expect("written"), stored);
    let older = stored
        .replace("\"filter\":\"none\",", "")
        .replace("\"connector\":\"none\",", "");
    assert_eq!(
        serde_json::from_str::<StoredWebhook>(&older).expect("older"),
        read
    );
    let newer = stored.replace("\"ordered\"", "\"new_key\":1,\"ordered\"");
    assert_eq!(
        serde_json::from_str::<StoredWebhook>(&newer).expect("newer"),
        read
    );
    let ordered = stored.replace("\"ordered\":false", "\"ordered\":\"key\"");
    let read: StoredWebhook = serde_json::from_str(&ordered).expect("ordered");
    assert_eq!(read.settings.ordered, Ordered::Key);
}

#[test]
fn files_of_several_documents_and_json() {
    let file =
        format!("# shop\nkind: Project\nid: shop\ntitle: Shop\npreset: wooxy\n---\n{MINIMAL}---\n");
    let read = parse_documents(&file).expect("two");
    assert_eq!(
        read.iter().map(Resource::kind).collect::<Vec<_>>(),
        ["Project", "Webhook"]
    );
    let Resource::Project(project) = &read[0] else {
        panic!("{read:?}")
    };
    assert_eq!(project.preset, Some(Preset::Wooxy));

    let json = webhook(MINIMAL).settings.to_document();
    let two = serde_json::json!([json, {"kind": "Project", "id": "x"}]);
    assert_eq!(parse_documents(&two.to_string()).expect("list").len(), 2);
    let pretty = "{\n\t\"kind\": \"Project\", \"id\": \"x\", \"title\": \"\\ud83d\\ude00\"}";
    let read = parse_documents(pretty).expect("JSON that is not YAML");
    let [Resource::Project(project)] = read.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!(project.title, "\u{1f600}");
}

#[test]
fn all_errors_at_once_with_their_place() {
    let text = "
kind: Webhook
project: Shop
name: crm
url: ftp://x
events: [a, '**', 7]
evnts: [a]
uid: x
deadline: 15
rate_limit: 0/s
headers: {Host: x, x-a: 5, x-b: y, X-B: z}
retry:
  schedule: {list: [5s, soon, 31d]}
  jitter: 2
  permanent: [{match: [999, nope], then: explode}]
  max_age: x
---
kind: Webhok
---
kind: Project
id: shop
";
    let want = [
        "document 1, Webhook Shop/crm: evnts: unknown key: did you mean `events`?",
        "document 1, Webhook Shop/crm: uid: unknown key: it is made by hookline; leave it out",
        "document 1, Webhook Shop/crm: project: name \"Shop\" must be",
        "document 1, Webhook Shop/crm: url: must begin with https://",
        "document 1, Webhook Shop/crm: events[1]: \"**\" may have '*' only",
        "document 1, Webhook Shop/crm: events[2]: must be text, not a number; put it in quotes",
        "document 1, Webhook Shop/crm: headers.Host: may not be set",
        "document 1, Webhook Shop/crm: headers.x-a: must be text",
        "document 1, Webhook Shop/crm: headers.X-B: stands here twice",
        "document 1, Webhook Shop/crm: deadline: a duration needs a unit: 15s",
        "document 1, Webhook Shop/crm: rate_limit: \"0/s\" is no rate",
        "document 1, Webhook Shop/crm: retry.schedule.list[1]: \"soon\" is no duration",
        "document 1, Webhook Shop/crm: retry.max_age: \"x\" is no duration",
        "document 1, Webhook Shop/crm: retry.permanent[0].match[0]: \"999\" matches nothing",
        "document 1, Webhook Shop/crm: retry.permanent[0].match[1]: \"nope\" matches nothing",
        "document 1, Webhook Shop/crm: retry.permanent[0].then: is no consequence",
        "document 2, Webhok: kind: \"Webhok\" is no kind; did you mean `Webhook`?",
    ];
    let found = errors(text);
    assert_eq!(found.len(), want.len(), "{found:#?}");
    for (found, want) in found.iter().zip(want) {
        assert!(found.starts_with(want), "{found}\n  is not\n{want}");
    }
}

#[test]
fn limits_of_a_policy_name_the_whole_path() {
    assert_eq!(
        error("retry: {schedule: {list: [5s, 31d]}}"),
        "retry.schedule.list[1]: must be from 10ms to 30d"
    );
    assert!(error("retry: {jitter: 0.6}").starts_with("retry.jitter: "));
    assert!(error("success: [302]").starts_with("success[0]: "));
    assert!(error("success: 200").starts_with("success: must be `2xx` or a list"));
    assert!(error("retry: {schedule: {list: [5s], fixed: {}}}").contains("exactly one"));
    assert!(
        error("retry: {schedule: {fixed: {delay: 5s}}}")
            .starts_with("retry.schedule.fixed.times: is required")
    );
    assert!(error("retry: {schedule: 5s}").starts_with("retry.schedule: must have keys"));
    assert!(error("retry: {shedule: {}}").contains("did you mean `schedule`?"));
    assert!(error("deadline: 31s").starts_with("deadline: must be from 100ms to 30s"));
    assert!(error("method: GET").contains("body: none"));
    assert!(error("method: DELETE").contains("POST, PUT, PATCH, GET"));
    assert!(
        error("preset: vidcop")
            .starts_with("preset: \"vidcop\" is no preset; it must be one of: standard, vidcorp")
    );
}

#[test]
fn a_filter_is_checked_when_it_is_written_and_taken_as_it_is_when_it_was_stored() {
    let document = |filter: &str| {
        let mut document = serde_json::json!({
            "kind": "Webhook", "project": "shop", "name": "crm", "url": "https://a.example.com/", "events": ["*"],
        });
        document["filter"] = filter.into();
        document
    };
    let read = |filter: &str| match document(filter) {
        Value::Object(map) => read_webhook(&map),
        _ => unreachable!("an object"),
    };
    let kept = read(" event.data.amount > 100\n").expect("right").settings;
    assert_eq!(kept.filter.as_deref(), Some("event.data.amount > 100"));
    assert_eq!(kept.to_document()["filter"], "event.data.amount > 100");
    let none = read("none").expect("right").settings;
    assert_eq!(none.filter, None);
    assert_eq!(none.to_document()["filter"], "none");
    let refused = read("event.data.amount > ").expect_err("wrong");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].field, "filter");
    assert!(refused[0].message.starts_with("column "), "{refused:?}");
    assert!(
        read("amount > 1").expect_err("wrong")[0]
            .message
            .contains("`amount`")
    );

    // A newer version may know more of the language.
    let mut stored = kept.to_document();
    stored["filter"] = "event.type.matches('a')".into();
    let stored: Webhook = serde_json::from_value(stored).expect("readable");
    assert_eq!(stored.filter.as_deref(), Some("event.type.matches('a')"));
}

#[test]
fn what_does_not_fit_or_comes_later_is_refused_by_name() {
    for (more, want) in [
        (
            "body: template",
            "body: `body: template` is not supported yet",
        ),
        (
            "ordered: keys",
            "ordered: says no order; did you mean `key`?",
        ),
        ("body: 7", "body: "),
        ("batch: {max_events: 100}", "batch: needs `body: array`"),
        (
            "body: array\nbatch: {max_events: 0}",
            "batch.max_events: must be from 1 to 1000",
        ),
        (
            "body: array\nbatch: {max_bytes: 5}",
            "batch.max_bytes: a size needs a unit",
        ),
        (
            "body: array\nbatch: {max_wait: 1h}",
            "batch.max_wait: must be from 0s to 5m",
        ),
        (
            "verification: heat",
            "verification: \"heat\" is no verification",
        ),
        (
            "retry: {on_exhausted: hold}",
            "retry.on_exhausted: `hold` needs order",
        ),
        (
            "retry: {permanent: [{match: [410], then: split}]}",
            "retry.permanent[0].then: `split` needs batches",
        ),
    ] {
        let found = error(more);
        assert!(found.starts_with(want), "{found}");
    }
}

#[test]
fn a_verification_holds_as_long_as_it_is_about_the_same() {
    let part = |more: &str| {
        let settings = webhook(&format!("{MINIMAL}verification: test\n{more}")).settings;
        settings.verified_part()
    };
    let passed = part("");
    for same in ["title: New", "state: paused", "rate_limit: 5/s"] {
        assert_eq!(part(same), passed, "{same}");
    }
    for other in ["method: PUT", "headers: {x-a: b}", "body: data"] {
        assert_ne!(part(other), passed, "{other}");
    }
}

#[test]
fn presets_are_whole_and_usable_as_far_as_they_can_be() {
    for name in ["wooxy", "standard", "vidcorp", "vidizmo", "sms-gateway"] {
        assert_eq!(
            webhook(&format!("{MINIMAL}preset: {name}"))
                .settings
                .preset
                .as_str(),
            name
        );
    }
    let vidcorp = webhook(&format!("{MINIMAL}preset: vidcorp")).settings;
    assert_eq!(vidcorp.verification, Verification::Head);
    let vidcorp = vidcorp.retry;
    assert_eq!(vidcorp.rest.map(|r| r.cycles), Some(Times::Unlimited));
    assert!(vidcorp.permanent.is_empty());
    let sms = webhook(&format!("{MINIMAL}preset: sms-gateway")).settings;
    assert_eq!(
        (sms.state, sms.verification),
        (State::Inactive, Verification::Test)
    );
    let wooxy = webhook(&format!("{MINIMAL}preset: wooxy")).settings.retry;
    assert_eq!(
        (wooxy.attempts_max(), wooxy.success.clone()),
        (Some(16), Success::Codes(vec![200]))
    );
    let vidizmo = webhook(&format!("{MINIMAL}preset: vidizmo")).settings.retry;
    let covered: Vec<u16> = (300..=499)
        .filter(|s| vidizmo.permanent[0].covers(crate::outcome::Answer::Status(*s)))
        .collect();
    let wanted: Vec<u16> = (300..=499)
        .filter(|s| ![408, 425, 429].contains(s))
        .collect();
    assert_eq!(covered, wanted);

    let esputnik = webhook(&format!("{MINIMAL}preset: esputnik")).settings;
    assert_eq!(esputnik.ordered, Ordered::Webhook);
    let batch = Batching {
        max_events: 100,
        max_bytes: 256 * 1024,
        max_wait: Duration::from_secs(30),
    };
    assert_eq!(esputnik.batch, Some(batch));
    assert_eq!(esputnik.body, BodyForm::Array);
    let minutes = [1, 2, 4, 8, 16, 32, 60, 60];
    for (attempt, wait) in (1..).zip(minutes) {
        let wait = Duration::from_secs(60 * wait);
        assert_eq!(esputnik.retry.wait_after(attempt), Some(wait), "{attempt}");
    }
}

#[test]
fn what_cannot_be_read_at_all() {
    for (text, want) in [
        ("", "there is no resource in it"),
        ("---\n---\n", "there is no resource in it"),
        ("kind: [", "document 1: cannot be read"),
        ("kind: Project\nid: a\nid: b", "duplicate"),
        (
            "{\"kind\":\"Project\",\"id\":\"a\",\"id\":\"b\"}",
            "duplicate",
        ),
        ("kind: Project\nid: a\n1: b", "is no text"),
        ("kind: Project\nid: !x a", "has a tag"),
        ("just text", "must have keys"),
        ("title: x", "kind: is required"),
        (
            "kind: Project\nid: a\n---\nkind: Project\nid: a",
            "more than once",
        ),
        (
            "kind: Webhook\nproject: a\nname: b\nurl: https://a.example.com\nevents: [a]\nretry: {jitter: .inf}",
            "must be a finite number",
        ),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]",
            "document 1",
        ),
    ] {
        let found = errors(text);
        assert!(found.iter().any(|e| e.contains(want)), "{text}: {found:#?}");
    }
    let deep = format!("kind: {}", "[".repeat(100_000));
    assert!(parse_documents(&deep).is_err());
}

#[test]
fn secrets_in_the_wrong_place_are_not_repeated() {
    let found = errors(&format!(
        "{MINIMAL}headers: {{authorization: \"s3cret\\n\"}}"
    ))
    .join("\n");
    assert!(!found.contains("s3cret"), "{found}");
}

fn event_type(text: &str) -> EventTypeSpec {
    match parse_documents(text).as_deref() {
        Ok([Resource::EventType(spec)]) => (**spec).clone(),
        other => panic!("{other:#?}"),
    }
}

#[test]
fn an_event_type_is_what_it_says_and_the_rest_is_empty() {
    let least = event_type("kind: EventType\nproject: shop\nname: order.paid");
    assert_eq!(
        least.to_document(),
        serde_json::json!({
            "kind": "EventType", "project": "shop", "name": "order.paid",
            "category": "", "title": "", "description": "", "archived": false,
        })
    );
    let full = "
kind: EventType
project: shop
name: order.paid
category: Order
group: Money
title: Paid
description: \"two\\nlines\"
schema:
  required: [total]
  properties: {total: {type: number, minimum: 0}}
  examples: [{total: 2}]
example: {total: 1.5}
archived: true
";
    let spec = event_type(full);
    assert_eq!(spec.preset, None);
    assert!(spec.archived && spec.group == "Money" && spec.description == "two\nlines");
    for spec in [spec, least] {
        let document = spec.to_document().to_string();
        assert_eq!(event_type(&document), spec, "{document}");
        let stored = serde_json::to_string(&spec).expect("stored");
        assert_eq!(stored, document);
        let read: EventTypeSpec = serde_json::from_str(&stored).expect("read");
        assert_eq!(read, spec);
    }
    // Stored data outlives code: this text may gain keys, but what it says now must be read for ever.
    let stored = r#"{"kind":"EventType","project":"shop","name":"order.paid","category":"Order","group":"Money","title":"Paid","description":"","schema":{"type":"object"},"example":{"total":1.5},"archived":true}"#;
    let read: EventTypeSpec = serde_json::from_str(stored).expect("stored");
    assert_eq!(serde_json::to_string(&read).expect("written"), stored);
    let newer = stored.replace("\"title\"", "\"new_key\":1,\"title\"");
    let newer: EventTypeSpec = serde_json::from_str(&newer).expect("newer");
    assert_eq!(newer, read);
    let gone = r#"{"kind":"EventType","project":"shop","name":"sms.gone","preset":"wooxy","title":"Gone"}"#;
    let gone: EventTypeSpec =
        serde_json::from_str(gone).expect("an entry that a newer version has");
    assert_eq!((&*gone.title, gone.schema), ("Gone", None));
}

#[test]
fn what_an_event_type_leaves_out_is_its_presets() {
    let name = "kind: EventType\nproject: shop\nname: email.bounced\npreset: wooxy\n";
    let entry = Preset::Wooxy.event_type("email.bounced").expect("there");
    let project = Slug::new("shop").expect("slug");
    let whole = EventTypeSpec::of_preset(project, Preset::Wooxy, entry);
    assert_eq!(event_type(name), whole);
    let changed = event_type(&format!(
        "{name}title: Hard bounce\nexample: {{}}\nschema: {{}}"
    ));
    assert_eq!(
        (&*changed.title, &changed.category),
        ("Hard bounce", &whole.category)
    );
    assert_ne!(
        (changed.schema, changed.example),
        (whole.schema, whole.example)
    );
    let own_example = errors(&format!("{name}example: {{bounce: {{}}}}"));
    assert!(
        own_example
            .iter()
            .any(|e| e.contains("example.bounce.code: is required (by the schema)")),
        "{own_example:?}"
    );
}

#[test]
fn everything_wrong_with_an_event_type_is_told_at_once() {
    let found = errors(
        "
kind: EventType
project: Shop
name: order.*
preset: wooxi
categry: Order
title: [a]
archived: maybe
schema:
  type: objekt
  properties: {total: {$ref: 'https://example.com/a'}}
example: {total: x}
---
kind: EventType
project: shop
name: order.paid
schema:
  required: [id]
  properties: {total: {type: number}}
  examples: [{id: 1, total: a}]
example: {total: b}
---
kind: EventType
project: shop
name: order.paid
preset: wooxy
---
kind: EventType
project: shop
name: order.paid
schema: {type: objekt}
---
{kind: EventType, project: shop, name: x}
---
{kind: EventType, project: shop, name: x}
",
    );
    let want = [
        "document 1, EventType Shop/order.*: categry: unknown key: did you mean `category`?",
        "document 1, EventType Shop/order.*: project: name \"Shop\" must be",
        "document 1, EventType Shop/order.*: name: must be one event type",
        "document 1, EventType Shop/order.*: preset: \"wooxi\" is no preset; it must be one of: standard, vidcorp",
        "document 1, EventType Shop/order.*: title: must be text",
        "document 1, EventType Shop/order.*: schema.properties.total.$ref: must begin with '#'",
        "document 1, EventType Shop/order.*: archived: must be true or false",
        "document 2, EventType shop/order.paid: example.id: is required (by the schema)",
        "document 2, EventType shop/order.paid: example.total: must be number (by the schema)",
        "document 2, EventType shop/order.paid: schema.examples[0].total: must be number (by the schema)",
        "document 3, EventType shop/order.paid: preset: `wooxy` has no event type of this name",
        "document 4, EventType shop/order.paid: schema.type: must be what one of `anyOf` says",
        "EventType shop/x: stands in this file more than once; keep one",
    ];
    let mut found = found;
    for want in want {
        let at = found.iter().position(|found| found.starts_with(want));
        let at = at.unwrap_or_else(|| panic!("{want}\nis not in\n{found:#?}"));
        found.remove(at);
    }
    assert_eq!(found, [""; 0]);
    let long = "x".repeat(crate::limits::EXAMPLE_BYTES_MAX);
    let found = errors(&format!(
        "kind: EventType\nproject: shop\nname: a\nexample: {long}"
    ));
    assert_eq!(
        found,
        ["document 1, EventType shop/a: example: may have 64 KiB as JSON"]
    );
}

/// What matters is that the call came back.
fn survives<T>(_: T) {}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,60}", tail in "[a-z0-9:\\[\\]{}, \n\"'-]{0,80}") {
        survives(parse_documents(&text));
        survives(parse_documents(&format!("{MINIMAL}{tail}")));
    }

    #[test]
    fn any_key_may_have_any_value(key in proptest::sample::select(vec!["kind", "project", "name", "title", "url", "events", "filter", "preset", "state", "method", "headers", "connector", "signature", "trusted_ca", "ordered", "batch", "body", "success", "deadline", "rate_limit", "verification", "retry"]), value in proptest::sample::select(vec!["7", "-1", "1.5", "true", "[]", "{}", "[[1]]", "{a: {b: 1}}", "x", "\"\"", "1e999", "99999999999999999999"])) {
        let lines: Vec<_> = MINIMAL.lines().filter(|l| !l.starts_with(&format!("{key}:"))).collect();
        survives(parse_documents(&format!("{}\n{key}: {value}\n", lines.join("\n"))));
        survives(parse_documents(&format!("{MINIMAL}\nretry: {{schedule: {value}, jitter: {value}, rest: {value}, permanent: [{value}]}}\n")));
    }
}
