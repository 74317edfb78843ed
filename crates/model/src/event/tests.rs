//! All public forms, what is refused and why, and that nothing panics.

use proptest::prelude::*;

use super::*;
use crate::cloudevents::to_cloudevent_json;
use crate::limits::EVENT_BYTES_MAX;

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Bytes)> {
    let pair = |(n, v): &(&str, &str)| ((*n).to_owned(), Bytes::copy_from_slice(v.as_bytes()));
    pairs.iter().map(pair).collect()
}

fn read(pairs: &[(&str, &str)], value: impl Into<Bytes>) -> Result<wire::Event, Unreadable> {
    let (headers, value) = (headers(pairs), value.into());
    let input = Input {
        key: None,
        value: Some(&value),
        headers: &headers,
    };
    parse(input, EVENT_BYTES_MAX)
}

fn bare(value: &str) -> Result<wire::Event, Unreadable> {
    read(&[], value.as_bytes().to_vec())
}

fn reason_of(value: &str) -> &'static str {
    bare(value).expect_err(value).reason
}

/// A sound event with more members.
fn with(more: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"a.b","project":"shop"{more}}}"#)
}

#[test]
fn structured_json_and_its_data_byte_for_byte() {
    let value = Bytes::from(with(
        r#", "data" : {"n": 1.00, "n":1e400 ,"s":"\u00e9"} , "time":"2024-01-02T03:04:05.678+01:00","partitionkey":42,"contactid":687266822,"contactemail":"a@b.c","Extra":true,"none":null"#,
    ));
    for media in [
        &[][..],
        &[(
            "content-type",
            "application/cloudevents+json; charset=UTF-8",
        )],
        &[("Content-Type", "APPLICATION/CloudEvents+JSON")],
        &[("content-type", "application/json")],
    ] {
        let event = read(media, value.clone()).expect("event");
        assert_eq!(event.data, r#"{"n": 1.00, "n":1e400 ,"s":"\u00e9"}"#);
        let inside = value.as_ptr_range().contains(&event.data.as_ptr());
        assert!(inside, "data is not copied");
        assert_eq!((event.key.as_str(), event.project.as_str()), ("42", "shop"));
        assert_eq!(event.time, "2024-01-02T03:04:05.678+01:00");
        let contact = event.contact.expect("contact");
        assert_eq!(
            (contact.id.as_str(), contact.email.as_str()),
            ("687266822", "a@b.c")
        );
        let extensions: Vec<_> = event.extensions.into_iter().collect();
        assert_eq!(extensions, [("Extra".to_owned(), "true".to_owned())]);
    }
}

#[test]
fn the_key_is_partitionkey_else_record_key_else_project() {
    let value = Bytes::from(with(""));
    let key = |key: Option<&[u8]>, value: &Bytes| {
        let input = Input {
            key,
            value: Some(value),
            headers: &[],
        };
        parse(input, EVENT_BYTES_MAX).expect("event").key
    };
    assert_eq!(key(None, &value), "shop");
    assert_eq!(key(Some(b""), &value), "shop");
    assert_eq!(key(Some(b"k"), &value), "k");
    assert_eq!(key(Some(b"\xff"), &value), "/w==");
    let own = Bytes::from(with(r#","partitionkey":"own""#));
    assert_eq!(key(Some(b"k"), &own), "own");
}

#[test]
fn binary_mode() {
    let attributes = [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("CE_Source", "/s"),
        ("ce_type", "a.b"),
        ("ce_project", "shop"),
        ("ce_traceparent", "00-x"),
        ("other", "ignored"),
        ("content-type", "application/json"),
    ];
    let event = read(&attributes, "{\"a\": 1}\n").expect("event");
    assert_eq!(
        (&event.data[..], event.data_content_type.as_str()),
        (&b"{\"a\": 1}\n"[..], "application/json")
    );
    assert_eq!(event.extensions["traceparent"], "00-x");
    let broken = read(&attributes, "{").expect_err("not JSON");
    assert_eq!(broken.reason, reason::INVALID);

    let untyped = &attributes[..7];
    assert_eq!(read(untyped, "{}").expect("event").data_content_type, "");
    let bytes = read(untyped, &b"\xff"[..]).expect("event");
    assert_eq!(bytes.data_content_type, "application/octet-stream");
    assert!(read(untyped, "").expect("no data").data.is_empty());

    let protobuf_data = [untyped, &[("content-type", "application/x-protobuf")]].concat();
    let event = read(&protobuf_data, &b"\x08\x01"[..]).expect("event");
    assert_eq!(
        event.data_content_type, "application/x-protobuf",
        "the type of the data"
    );
    let twice = [&attributes[..], &[("ce_id", "2")]].concat();
    assert!(
        read(&twice, "{}")
            .expect_err("twice")
            .detail
            .contains("twice")
    );
    let old = [("ce_specversion", "0.3"), ("ce_id", "1")];
    assert!(
        read(&old, "{}")
            .expect_err("old")
            .detail
            .contains("specversion")
    );
}

#[test]
fn protobuf() {
    let event = wire::Event {
        id: "1".into(),
        source: "/s".into(),
        project: "shop".into(),
        r#type: "a.b".into(),
        data: Bytes::from_static(b"{\"a\":1}"),
        ..wire::Event::default()
    };
    for media in [
        "application/x-protobuf",
        "application/x-protobuf; proto=hookline.v1.Event",
        "application/protobuf; charset=x; messageType=\"hookline.v1.Event\"",
    ] {
        let read = read(&[("content-type", media)], event.encode_to_vec()).expect(media);
        assert_eq!((read.key.as_str(), &read.data), ("shop", &event.data));
    }
    let refused = |media, value: Vec<u8>| {
        read(&[("content-type", media)], value)
            .expect_err(media)
            .reason
    };
    assert_eq!(
        refused(
            "application/x-protobuf; proto=other.Event",
            event.encode_to_vec()
        ),
        reason::UNKNOWN_FORMAT
    );
    assert_eq!(
        refused("application/x-protobuf", b"\xff\xff".to_vec()),
        reason::UNREADABLE
    );
    let nameless = wire::Event {
        id: String::new(),
        ..event.clone()
    };
    assert_eq!(
        refused("application/x-protobuf", nameless.encode_to_vec()),
        reason::INVALID
    );
    let wrong = wire::Event {
        data: Bytes::from_static(b"{"),
        data_content_type: "application/json".into(),
        ..event
    };
    assert_eq!(
        refused("application/x-protobuf", wrong.encode_to_vec()),
        reason::INVALID
    );
}

#[test]
fn data_of_other_types() {
    let xml = r#","datacontenttype":"text/xml","data":"<a>\n\"é\"</a>""#;
    let text = bare(&with(xml)).expect("event");
    assert_eq!(text.data, "<a>\n\"é\"</a>");
    let string = bare(&with(r#","data":"plain""#)).expect("event");
    assert_eq!(string.data, "\"plain\"", "a JSON string is JSON");
    let bytes = bare(&with(
        r#","datacontenttype":"image/png","data_base64":"\/wA=""#,
    ))
    .expect("event");
    assert_eq!(&bytes.data[..], b"\xff\0");
    let json = bare(&with(r#","data_base64":"eyJhIjoxfQ==""#)).expect("event");
    assert_eq!(
        (&json.data[..], json.data_content_type.as_str()),
        (&b"{\"a\":1}"[..], "")
    );
    assert!(bare(&with("")).expect("no data").data.is_empty());
    assert_eq!(
        bare(&with(r#","data":false"#)).expect("event").data,
        "false"
    );
}

#[test]
fn what_is_refused_and_why() {
    assert_eq!(reason_of(""), reason::EMPTY);
    let none = Input {
        key: None,
        value: None,
        headers: &[],
    };
    assert_eq!(parse(none, 10).expect_err("nothing").reason, reason::EMPTY);
    for value in [
        "{",
        "nope",
        "NaN",
        "\u{feff}{}",
        &with(r#","data":NaN"#),
        &with(r#","data":{"a":}"#),
        &format!("{} 1", with("")),
        "[1]",
        "7",
        "\"text\"",
    ] {
        assert_eq!(reason_of(value), reason::UNREADABLE, "{value}");
    }
    let not_utf8 = read(&[], &b"{\"id\":\"\xff\"}"[..]).expect_err("not UTF-8");
    assert_eq!(not_utf8.reason, reason::UNREADABLE);
    for value in [
        "{}",
        r#"{"specversion":"0.3","id":"1"}"#,
        r#"{"specversion":1.0,"id":"1"}"#,
        &with("").replace("\"1\"", "\"\""),
        &with("").replace("\"1\"", "1"),
        &with("").replace("\"1\"", "null"),
        &with("").replace("\"id\"", "\"iid\""),
        &with("").replace("\"shop\"", "\"\""),
        &with("").replace("\"a.b\"", "\"a\\nb\""),
        &with("").replace("\"1\"", &format!("\"{}\"", "x".repeat(257))),
        &with("").replace("\"1\"", "\"a\u{85}b\""),
        &with(r#","id":"2""#),
        &with(r#","data":1,"data":2"#),
        &with(r#","data":1,"data_base64":"AA==""#),
        &with(r#","data_base64":"A""#),
        &with(r#","data_base64":7"#),
        &with(r#","time":"yesterday""#),
        &with(r#","time":"2024-13-01T00:00:00Z""#),
        &with(r#","time":"2024-01-01T00:00:00""#),
        &with(r#","time":"2024-01-01T00:00:00+01:00[Europe/Kyiv]""#),
        &with(r#","extra":{"a":1}"#),
        &with(r#","extra":[1]"#),
        &with(r#","a b":"c""#),
        &with(r#","datacontenttype":"a\r\nb: c""#),
        &with(&(0..65).map(|n| format!(",\"x{n}\":1")).collect::<String>()),
    ] {
        let error = bare(value).expect_err(value);
        assert_eq!(error.reason, reason::INVALID, "{value}: {}", error.detail);
    }
    for media in [
        "application/cloudevents-batch+json",
        "application/avro",
        "text/plain",
        "é",
    ] {
        let error = read(&[("content-type", media)], "{}").expect_err(media);
        assert_eq!(error.reason, reason::UNKNOWN_FORMAT);
    }
}

#[test]
fn size_counts_with_headers() {
    let value = Bytes::from(with(""));
    let headers = headers(&[("a", "12345")]);
    let input = Input {
        key: None,
        value: Some(&value),
        headers: &headers,
    };
    assert!(parse(input, value.len() + 6).is_ok());
    let error = parse(input, value.len() + 5).expect_err("too large");
    assert_eq!(error.reason, reason::TOO_LARGE);
}

#[test]
fn depth_costs_nothing() {
    let deep = 10_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let data = format!("{}1{}", open.repeat(deep), close.repeat(deep));
        let event = bare(&with(&format!(",\"data\":{data}"))).expect("deep data is data");
        assert_eq!(event.data, data);
        assert_eq!(
            reason_of(&with(&format!(",\"extra\":{data}"))),
            reason::INVALID
        );
        assert_eq!(reason_of(&open.repeat(deep)), reason::UNREADABLE);
    }
    let number = format!("1{}", "0".repeat(100_000));
    assert_eq!(
        bare(&with(&format!(",\"data\":{number}")))
            .expect("digits")
            .data,
        number
    );
}

#[test]
fn media_types_that_are_json() {
    for yes in [
        "",
        "application/json",
        "text/json; charset=utf-8",
        "application/vnd.x+JSON",
    ] {
        assert!(is_json(yes), "{yes}");
    }
    for no in [
        "text/plain",
        "json",
        "application/jsonl",
        "application/xml",
        ";",
    ] {
        assert!(!is_json(no), "{no}");
    }
}

fn any_event() -> impl Strategy<Value = wire::Event> {
    let text = "[^\\p{Cc}]{1,20}";
    let data = prop_oneof![
        Just((Vec::new(), String::new())),
        "[a-z\"\\\\\n é]{1,20}"
            .prop_map(|t| (serde_json::to_vec(&t).expect("text"), String::new())),
        "[a-z\"\\\\\n é]{1,20}".prop_map(|t| (t.into_bytes(), "text/plain".to_owned())),
        proptest::collection::vec(any::<u8>(), 1..20).prop_map(|b| (b, "image/png".to_owned())),
    ];
    let names = (text, text, text, text, text, "[^\\p{Cc}]{0,9}");
    let extensions = proptest::collection::btree_map("x[a-z0-9]{1,9}", "\\PC{0,9}", 0..3);
    (
        names,
        data,
        proptest::option::of(("[0-9]{1,5}", "\\PC{0,9}")),
        extensions,
    )
        .prop_map(
            |((id, source, project, kind, key, subject), (data, media), contact, extensions)| {
                wire::Event {
                    id,
                    source,
                    project,
                    r#type: kind,
                    time: "2024-01-02T03:04:05Z".into(),
                    key,
                    data: data.into(),
                    data_content_type: media,
                    subject,
                    contact: contact.map(|(id, phone)| wire::Contact {
                        id,
                        phone,
                        email: String::new(),
                    }),
                    extensions: extensions
                        .into_iter()
                        .filter(|(_, v)| !v.is_empty())
                        .collect(),
                    ..wire::Event::default()
                }
            },
        )
}

/// What matters is that the call came back.
fn survives<T>(_: T) {}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(event in any_event()) {
        let json = to_cloudevent_json(&event);
        prop_assert_eq!(read(&[], json), Ok(event.clone()));
        let media = [("content-type", "application/x-protobuf")];
        prop_assert_eq!(read(&media, event.encode_to_vec()), Ok(event));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        media in proptest::option::of("[a-z/+;= ]{0,40}|application/x-protobuf|application/cloudevents\\+json"),
        binary in any::<bool>(),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
    ) {
        let mut headers = headers(if binary { &[("ce_specversion", "1.0")] } else { &[] });
        headers.extend(media.map(|m| ("content-type".to_owned(), Bytes::from(m))));
        headers.push(("ce_id".into(), Bytes::from(bytes.clone())));
        let value = Bytes::from(bytes);
        survives(parse(Input { key: key.as_deref(), value: Some(&value), headers: &headers }, 10_000));
    }

    #[test]
    fn damaged_events_never_panic(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
        let mut value = with(r#","data":{"a":[1,2,"\u00e9\ud83d\ude00"]},"time":"2024-01-02T03:04:05Z","contactid":7,"extra":"x""#).into_bytes();
        if let Some(place) = value.get_mut(at) {
            *place = byte;
        }
        value.truncate(cut.max(1));
        survives(read(&[], value));
    }
}

#[test]
fn the_text_at_a_path_is_found_and_nothing_else_is() {
    let event = |data: &'static str, media: &str| wire::Event {
        data: Bytes::from_static(data.as_bytes()),
        data_content_type: media.into(),
        ..wire::Event::default()
    };
    let activity = event(
        r#"{"activityStatus":"READ","n":7,"yes":true,"deep":{"a b":{"c":"x\u00e9"}},"list":["a"],"none":null}"#,
        "",
    );
    for (path, expected) in [
        ("data.activityStatus", Some("READ")),
        ("data.n", Some("7")),
        ("data.yes", Some("true")),
        ("data.deep.a b.c", Some("xé")),
        ("data.deep", None),
        ("data.deep.a b.c.d", None),
        ("data.list", None),
        ("data.list.0", None),
        ("data.none", None),
        ("data.missing", None),
        ("data.", None),
        ("data", None),
        ("type", None),
    ] {
        assert_eq!(text_at(&activity, path).as_deref(), expected, "{path}");
    }
    let others = [
        event(r#"{"a":"b"}"#, "text/plain"),
        event("[1]", ""),
        event("", ""),
    ];
    for other in others {
        assert_eq!(text_at(&other, "data.a"), None);
    }
}
