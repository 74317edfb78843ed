//! What the platforms' pages name, line by line.

use super::*;

fn rows(preset: Preset, name: &str) -> Vec<Parameter> {
    let entry = preset
        .event_type(name)
        .unwrap_or_else(|| panic!("{preset} has {name}"));
    parameters(entry.schema.value())
}

#[track_caller]
fn row(preset: Preset, name: &str, path: &str) -> Parameter {
    let found = rows(preset, name).into_iter().find(|row| row.path == path);
    found.unwrap_or_else(|| panic!("{preset} {name} has no {path}"))
}

/// Name, title, description as the catalog has them.
fn listed(preset: Preset) -> Vec<(&'static str, &'static str)> {
    let entry = |e: &'static CatalogEntry| (&*e.name, &*e.title);
    preset.catalog().iter().map(entry).collect()
}

/// The statuses, and the message parameters that each adds.
const ESPUTNIK: [(&str, &str, &[&str]); 7] = [
    ("activity.delivered", "DELIVERED", &[]),
    (
        "activity.undelivered",
        "UNDELIVERED",
        &["statusDescription", "hardBounce"],
    ),
    ("activity.read", "READ", &[]),
    ("activity.unsubscribed", "UNSUBSCRIBED", &[]),
    ("activity.clicked", "CLICKED", &["clickEventLink"]),
    ("activity.spam", "SPAM", &[]),
    (
        "activity.subscription_changed",
        "SUBSCRIPTION_CHANGED",
        &[
            "statusData",
            "statusData.subscription",
            "statusData.subscription.subscriptions",
        ],
    ),
];

#[test]
fn esputniks_table_of_parameters_is_complete() {
    // Name as the page's table spells it, our path, type.
    let table = [
        ("broadcastId", "broadcastId", "integer"),
        ("workflowId", "workflowId", "integer"),
        ("workflowBlockId", "workflowBlockId", "string"),
        ("sourceEventKey", "sourceEventKey", "string"),
        ("sourceEventTypeKey", "sourceEventTypeKey", "string"),
        ("iid", "iid", "string"),
        ("contactId", "contactId", "integer"),
        ("email", "email", "string"),
        ("activityStatus", "activityStatus", "string"),
        ("messageId", "messageId", "integer"),
        ("messageInstanceId", "messageInstanceId", "integer"),
        ("messageTag", "messageTag", "string"),
        ("activityDateTime", "activityDateTime", "string"),
        ("statusDescription", "statusDescription", "string"),
        ("viewMessageLink", "viewMessageLink", "string"),
        ("clickEventLink", "clickEventLink", "string"),
        ("hardBounce", "hardBounce", "boolean"),
        ("statusData", "statusData", "object"),
        ("subscripton", "statusData.subscription", "object"),
        (
            "subscriptons",
            "statusData.subscription.subscriptions",
            "list of string",
        ),
        // In its examples only.
        ("mediaType", "mediaType", "string"),
        ("sms", "sms", "string"),
    ];
    let all: Vec<_> = Preset::Esputnik.catalog().iter().collect();
    let all: Vec<_> = all
        .iter()
        .flat_map(|e| parameters(e.schema.value()))
        .collect();
    for (name, path, types) in table {
        let of_name: Vec<_> = all.iter().filter(|row| row.path == path).collect();
        assert!(!of_name.is_empty(), "{name}");
        assert!(
            of_name.iter().all(|row| row.types == types),
            "{name}: {of_name:?}"
        );
    }
    let known: BTreeSet<_> = table.iter().map(|(_, path, _)| *path).collect();
    assert!(
        all.iter().all(|row| known.contains(&*row.path)),
        "no other parameters"
    );
    assert!(
        Preset::Esputnik
            .catalog()
            .iter()
            .all(|e| e.source == Source::Page)
    );
}

#[test]
fn esputniks_parameters_come_with_the_statuses_that_the_page_says() {
    let particular: Vec<_> = ESPUTNIK.iter().flat_map(|(_, _, more)| *more).collect();
    for (name, status, more) in ESPUTNIK {
        let rows = rows(Preset::Esputnik, name);
        let here = rows.iter().filter(|row| particular.contains(&&&*row.path));
        let here: Vec<_> = here.map(|row| &*row.path).collect();
        assert_eq!(here, more, "{name}");
        let said = row(Preset::Esputnik, name, "activityStatus").description;
        assert!(said.contains(&format!("Always `{status}`.")), "{said}");
    }
    assert_eq!(listed(Preset::Esputnik).len(), ESPUTNIK.len());
}

#[test]
fn every_example_of_esputniks_page_is_in_the_catalog() {
    let page: Vec<Value> = serde_json::from_str(include_str!("esputnik.json")).expect("JSON");
    assert_eq!(page.len(), 8);
    for example in &page {
        let status = example["activityStatus"].as_str();
        let (name, ..) = ESPUTNIK
            .iter()
            .find(|(_, s, _)| Some(*s) == status)
            .expect("a status");
        let entry = Preset::Esputnik.event_type(name).expect("there");
        assert!(examples(entry).contains(&example), "{example:#}");
    }
    let ours: usize = Preset::Esputnik
        .catalog()
        .iter()
        .map(|e| examples(e).len())
        .sum();
    assert_eq!(ours, page.len());
    let path = Preset::Esputnik.definition().status_path.as_deref();
    assert_eq!(path, Some("data.activityStatus"));
}

#[test]
fn vidcorps_sixteen_types_say_what_the_page_says() {
    let table = [
        ("message_polling", "processed and is ready to send"),
        ("message_pushed", "was sent"),
        ("message_delivered", "successfully delivered"),
        ("message_delivery_error", "not delivered"),
        ("message_received", "response to your message was received"),
        ("message_received_mms", "inbound MMS message was received"),
        (
            "message_opened",
            "email message was opened by its recipient",
        ),
        (
            "impression",
            "landing page was viewed (from a link in the sent message)",
        ),
        ("unsubscribe", "opted out of future campaigns"),
        ("unsubscribe_track", "clicked on the unsubscribe link"),
        ("clicktrack", "clicked on a link (not an unsubscribe link)"),
        ("form_submission", "form was submitted on a landing page"),
        ("video_play", "video was played on a landing page"),
        ("video_complete", "watched right to the end"),
        (
            "scratchie_initiated",
            "scratchie has been rendered on a landing page",
        ),
        ("scratchie_interact", "interacted with the scratchie"),
    ];
    assert_eq!(Preset::Vidcorp.catalog().len(), table.len());
    for ((name, says), entry) in table.into_iter().zip(Preset::Vidcorp.catalog()) {
        assert_eq!(entry.name, name);
        assert!(
            entry.description.contains(says),
            "{name}: {}",
            entry.description
        );
        // A test send has "a test message and the event type": so has every event.
        let kind = row(Preset::Vidcorp, name, "eventType");
        assert!(kind.description.contains(&format!("Always `{name}`.")) && kind.of_page);
    }
    for name in [
        "impression",
        "form_submission",
        "video_play",
        "video_complete",
    ] {
        assert_eq!(
            row(Preset::Vidcorp, name, "landingPageID").appears,
            "always"
        );
    }
}

#[test]
fn the_sms_gateway_tells_receipts_replies_previews_and_clicks() {
    let preset = Preset::SmsGateway;
    let names: Vec<_> = listed(preset).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "sms.delivery_receipt",
            "sms.reply",
            "url.preview",
            "url.click"
        ]
    );
    // "an EventID" answers the request to send; what comes later refers to it.
    for name in names {
        let id = row(preset, name, "event_id");
        assert!(id.of_page && id.description.contains("EventID"), "{name}");
    }
    let status = row(preset, "sms.delivery_receipt", "status").description;
    for word in ["delivered", "undelivered", "expired", "rejected"] {
        assert!(status.contains(&format!("`{word}`")), "{status}");
    }
    let to = row(preset, "sms.reply", "to_type").description;
    assert!(to.contains("`number`, `short_code`"), "{to}");
    assert_eq!(row(preset, "sms.reply", "opt_out").appears, "always");
    let reply = preset.event_type("sms.reply").expect("there");
    let of = |field: &str, value: Value| {
        let all = examples(reply);
        all.iter().filter(|example| example[field] == value).count()
    };
    assert_eq!(of("to_type", json!("short_code")), 2);
    assert_eq!(
        (of("opt_out", json!(true)), of("opt_out", json!(false))),
        (1, 2)
    );
    for name in ["url.preview", "url.click"] {
        assert_eq!(row(preset, name, "url").appears, "always");
        assert_eq!(row(preset, name, "to").appears, "always");
    }
}

/// Channel, category, and the titles under each of the page's three headings.
const WOOXY: [(&str, &str, [&[&str]; 3]); 5] = [
    (
        "email",
        "Email",
        [
            &[
                "Message is delivered",
                "Message is rejected",
                "Message is bounced",
            ],
            &[
                "Contact subscribes to Email",
                "Contact unsubscribes from Email",
                "Contact activated",
                "Contact deactivated",
                "Contact unsubscribes using List-Unsubscribe technology",
            ],
            &[
                "Message is read",
                "Message is clicked",
                "Message is marked as spam",
            ],
        ],
    ),
    (
        "sms",
        "SMS",
        [
            &["SMS is delivered"],
            &["Contact subscribes to SMS", "Contact unsubscribes from SMS"],
            &["SMS is clicked"],
        ],
    ),
    (
        "webpush",
        "WebPush",
        [
            &[
                "Notification is delivered",
                "Notification undelivered",
                "Notification is expired by TTL",
            ],
            &[
                "Desktop WebPush permission is declined",
                "Desktop WebPush permission is granted",
                "Contact unsubscribed from Desktop WebPush",
                "Mobile WebPush permission is declined",
                "Mobile WebPush permission is granted",
                "Contact unsubscribes from Mobile WebPush",
            ],
            &[
                "Notification is clicked",
                "Notification is displayed",
                "Notification is closed by user",
            ],
        ],
    ),
    (
        "telegram",
        "Telegram",
        [
            &["Message is delivered", "Message is failed"],
            &[
                "Contact subscribed to Telegram bot",
                "Contact unsubscribed from Telegram bot",
                "Contact subscribed to Telegram",
                "Contact unsubscribed from Telegram",
            ],
            &["Message is viewed", "Message is clicked"],
        ],
    ),
    (
        "viber",
        "Viber",
        [
            &[
                "Message is delivered",
                "Message is failed",
                "Message is expired by TTL",
                "Message is rejected",
            ],
            &[
                "Contact subscribed to Viber",
                "Contact unsubscribed from Viber",
            ],
            &["Message is viewed", "Message is clicked"],
        ],
    ),
];

#[test]
fn wooxys_five_channels_have_all_their_types_in_the_pages_order() {
    let groups = ["Message status", "Contact event", "Message event"];
    let mut entries = Preset::Wooxy.catalog().iter();
    for (channel, category, headings) in WOOXY {
        for (group, titles) in groups.into_iter().zip(headings) {
            for title in titles {
                let entry = entries.next().expect("as many as on the page");
                assert_eq!(
                    (&*entry.category, &*entry.group, &*entry.title),
                    (category, group, *title)
                );
                let event = entry.name.strip_prefix(&format!("{channel}."));
                let event = event.unwrap_or_else(|| panic!("{} is below {channel}", entry.name));
                let (ours, said) = (&entry.example["channel"], &entry.example["event"]);
                assert_eq!(
                    (ours, said),
                    (&json!(channel), &json!(event)),
                    "{}",
                    entry.name
                );
            }
        }
    }
    assert_eq!(entries.next(), None);
    let of = |channel: &str| {
        let below: crate::matching::TypePattern = format!("{channel}.*").parse().expect("pattern");
        let all = Preset::Wooxy.catalog().iter();
        all.filter(|entry| below.matches(&entry.name)).count()
    };
    let counts: Vec<_> = WOOXY.iter().map(|(channel, ..)| of(channel)).collect();
    assert_eq!(
        counts,
        [11, 4, 12, 8, 8],
        "what \"select all\" of a channel selects"
    );
}

#[test]
fn wooxy_tells_of_bounces_reads_and_clicks_what_the_page_promises() {
    let preset = Preset::Wooxy;
    for path in ["bounce.time", "bounce.code"] {
        let row = row(preset, "email.bounced", path);
        assert!(row.of_page && row.appears == "with `bounce`", "{row:?}");
    }
    for name in ["email.bounced", "email.list_unsubscribed"] {
        assert_eq!(row(preset, name, "blackListed").types, "boolean");
    }
    let read = row(preset, "email.read", "read");
    assert!(read.of_page && read.appears == "always");
    for name in [
        "email.clicked",
        "sms.clicked",
        "webpush.clicked",
        "telegram.clicked",
        "viber.clicked",
    ] {
        let click = row(preset, name, "click");
        assert!(click.of_page && click.appears == "always", "{name}");
        assert_eq!(row(preset, name, "click.url").types, "string (uri)");
    }
    for (name, command) in [
        ("telegram.bot_subscribed", "/start"),
        ("telegram.bot_unsubscribed", "/end"),
    ] {
        assert!(
            row(preset, name, "command")
                .description
                .contains(&format!("`{command}`"))
        );
    }
    for name in ["webpush.expired", "viber.expired"] {
        assert_eq!(row(preset, name, "ttl").types, "integer");
    }
    for name in [
        "email.rejected",
        "webpush.undelivered",
        "telegram.failed",
        "viber.failed",
        "viber.rejected",
    ] {
        assert_eq!(row(preset, name, "reason").appears, "always", "{name}");
    }
}

#[test]
fn vidizmos_types_are_those_that_the_page_names() {
    let preset = Preset::Vidizmo;
    let groups = preset
        .catalog()
        .iter()
        .map(|e| (&*e.name, &*e.category, &*e.group));
    assert_eq!(
        groups.collect::<Vec<_>>(),
        [
            ("media.updated", "Media", "Media updated"),
            ("media.metadata", "Media", "Media metadata"),
            ("media.published", "Media", "Media actions"),
            ("media.watched", "Media", "Media actions"),
            ("live.session", "Live session", ""),
            ("workflow.started", "Workflow", ""),
        ]
    );
    let state = row(preset, "live.session", "session.state").description;
    assert!(
        state.contains("`started`") && state.contains("`ended`"),
        "{state}"
    );
    for (name, path) in [
        ("media.updated", "changes[].property"),
        ("media.metadata", "metadata.kind"),
        ("media.published", "publishing.url"),
        ("media.watched", "watching.percent"),
        ("workflow.started", "workflow.name"),
    ] {
        row(preset, name, path);
    }
}
