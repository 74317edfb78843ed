use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::limits::{EVENT_BYTES_MAX, FILTER_LOOP_MAX};
use crate::wire;

fn event(data: &str) -> wire::Event {
    wire::Event {
        id: "e-1".into(),
        source: "/shop".into(),
        project: "shop".into(),
        r#type: "order.paid".into(),
        time: "2024-01-02T03:04:05Z".into(),
        key: "ann".into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        contact: Some(wire::Contact {
            email: "ann@example.com".into(),
            ..wire::Contact::default()
        }),
        extensions: [("traceparent".to_owned(), "00-abc".to_owned())].into(),
        ..wire::Event::default()
    }
}

const ORDER: &str = r#"{
    "amount": 150, "rate": 1.5, "big": 18446744073709551615, "paid": true, "note": "größer", "none": null,
    "tags": ["new", "vip"], "items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 3}], "nested": {"a": {"b": 1}}, "a b": 1, "empty": []
}"#;

fn asked(filter: &str, event: &wire::Event) -> Result<bool, String> {
    let filter = Filter::compile(filter).map_err(|error| format!("refused: {error}"))?;
    let data = EventData::of(event);
    let answer = filter.wants(&Subject::new(event, &data));
    answer.map_err(|failure| failure.to_string())
}

#[track_caller]
fn assert_wants(filters: &[&str]) {
    for filter in filters {
        assert_eq!(asked(filter, &event(ORDER)), Ok(true), "{filter}");
        let opposite = format!("!({filter})");
        assert_eq!(asked(&opposite, &event(ORDER)), Ok(false), "{opposite}");
    }
}

#[track_caller]
fn refusal(filter: &str) -> String {
    match Filter::compile(filter) {
        Ok(_) => panic!("accepted: {filter}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn attributes_and_data_are_there() {
    assert_wants(&[
        "event.id == 'e-1' && event.source == '/shop' && event.project == 'shop' && event.key == 'ann'",
        "event.type.startsWith('order.') && event.type.endsWith('.paid') && event.type.contains('er.p')",
        "event.time > '2024-01-01T00:00:00Z'",
        "event.contact.email == 'ann@example.com' && !has(event.contact.phone)",
        "event.traceparent == '00-abc' && event['traceparent'] == '00-abc'",
        "!has(event.subject) && has(event.data) && has(event.data.nested.a) && !has(event.data.nested.c)",
        "event.data.nested.a.b == 1 && event.data['a b'] == 1 && event.data.items[1].sku == 'b'",
        "event.data.none == null && event.data.paid && event.data.note == 'größer' && size(event.data.note) == 6",
        "size(event.data.tags) == 2 && event.data.tags.size() == 2 && size(event.data.empty) == 0",
        "event.data.amount > 100 ? event.data.paid : false",
        "'paid' in event.data && !('x' in event.data)",
        "string(event.data.amount) + '!' == '150!' && int('7') == 7 && double(event.data.amount) == 150.0",
        "event.data.amount - 100 == 50 && event.data.amount * 2 == 300 && event.data.amount / 7 == 21 && event.data.amount % 7 == 3 && -event.data.amount < 0",
        "// what is worth it\nevent.data.amount >= 150",
    ]);
}

#[test]
fn whole_and_other_numbers_compare_as_numbers() {
    assert_wants(&[
        "event.data.amount > 100",
        "event.data.amount > 149.5",
        "event.data.amount == 150.0",
        "event.data.rate > 1",
        "event.data.rate < 2",
        "event.data.rate != 1",
        "event.data.big > 9223372036854775807",
        "event.data.big > event.data.rate",
        "event.data.amount in [1.0, 150.0]",
    ]);
}

#[test]
fn lists_compare_whoever_wrote_them() {
    assert_wants(&[
        "event.data.tags == ['new', 'vip']",
        "['new', 'vip'] == event.data.tags",
        "['new'] != event.data.tags",
        "event.data.tags == event.data.tags",
        "event.data.items[0] == event.data.items[0] && event.data.items[0] != event.data.items[1]",
        "'vip' in event.data.tags && !('old' in event.data.tags)",
        "event.type in ['order.paid', 'order.sent']",
        "[1, 2] == [1, 2]",
    ]);
}

#[test]
fn loops_go_over_lists() {
    assert_wants(&[
        "event.data.items.exists(i, i.sku == 'b' && i.n > 2)",
        "event.data.items.all(i, i.n > 0)",
        "event.data.items.exists_one(i, i.sku in ['a', 'x'])",
        "['order.', 'invoice.'].exists(p, event.type.startsWith(p))",
        "['vip', 'gold'].exists(t, t in event.data.tags)",
        "event.data.nested.all(name, name == 'a')",
        // One entry is no text; another decides all the same.
        "event.data.items.exists(i, i.sku == 'a' || i.missing)",
    ]);
}

#[test]
fn what_has_no_answer_says_why_and_nothing_of_the_event() {
    let cases = [
        ("event.data.missing > 1", "the event has no `missing`"),
        ("event.data.tags[7] == 'x'", "a list has no such entry"),
        (
            "event.data[event.data.note] == 1",
            "the event has no such field",
        ),
        (
            "event.data.amount",
            "the result is int and not true or false",
        ),
        (
            "event.data.amount + 1.5 > 1.0",
            "`add` cannot join int and double",
        ),
        ("event.data.amount / 0 == 1", "something is divided by zero"),
        (
            "event.data.note > 5",
            "found no matching overload for '_>_' applied to '(string, int)'",
        ),
        (
            "event.data.paid.exists(x, x)",
            "there is bool where iterable is needed",
        ),
        (
            "event.data.amount * 9223372036854775807 > 0",
            "a number is out of range",
        ),
    ];
    for (filter, expected) in cases {
        let answer = asked(filter, &event(ORDER));
        assert_eq!(answer, Err(expected.to_owned()), "{filter}");
        assert!(!expected.contains("größer"));
    }
}

#[test]
fn data_that_is_not_json_is_not_there() {
    for (data, media) in [("<a/>", "text/xml"), ("", ""), ("{\"a\":1e999}", "")] {
        let event = wire::Event {
            data_content_type: media.into(),
            ..event(data)
        };
        assert_eq!(asked("has(event.data)", &event), Ok(false), "{data}");
        let missing = Err("the event has no `data`".to_owned());
        assert_eq!(asked("event.data.a == 1", &event), missing);
    }
    let scalar = event("7");
    assert_eq!(asked("event.data == 7", &scalar), Ok(true));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (filter, expected) in [
        ("", "is empty"),
        (" // nothing\n", "is empty"),
        ("event.data.amount >", "column 20: "),
        ("event.data.amount > 100)", "column 24: "),
        ("event.type == 'order", "column 15: "),
        ("event.type == \"a\" &\nx", "column 19: "),
        (
            "true &&\n  amount > 1",
            "line 2, column 3: there is no variable `amount`",
        ),
        (
            "data.amount > 1",
            "column 1: there is no variable `data`; everything is in `event`",
        ),
        (
            "event.type.lower() == 'x'",
            "column 12: there is no function `lower`; there are size, ",
        ),
        ("now() > 1", "column 1: there is no function `now`"),
        (
            "timestamp(event.time) > 1",
            "column 1: there is no function `timestamp`",
        ),
        (
            "event.type.matches('a.*')",
            "column 12: there are no regular expressions",
        ),
        (
            "event.data.items.all(i)",
            "column 18: `all` is written `list.all(x, condition)`",
        ),
        ("event.data.items.map(i, i.n) == [1]", "there is no `map`"),
        (
            "size(event.data.items.filter(i, i.n > 1)) > 1",
            "there is no `map` and no `filter`",
        ),
        (
            "event.a.exists(i, event.b.exists(j, i == j))",
            "cannot stand within another",
        ),
        (
            "event.a.exists(i, i.exists(j, j > 1))",
            "cannot stand within another",
        ),
        (
            "event.a.exists(i, i in event.a)",
            "`event` cannot be looked at for every entry",
        ),
        (
            "event.a.exists(event, event > 1)",
            "cannot be called `event`",
        ),
        (
            "event.a.exists(i, true) && i > 1",
            "there is no variable `i`",
        ),
        ("{'a': 1} == event.data", "`{ }` has no use"),
        ("Thing{a: 1} == event.data", "`{ }` has no use"),
        ("[[1]] == event.data", "a list may stand"),
        ("size([1]) == 1", "a list may stand"),
        ("event.?a == 1", "unsupported syntax"),
        ("int == 1", "there is no variable `int`"),
        ("event.data.x == 99999999999999999999", "column 17: "),
    ] {
        let told = refusal(filter);
        assert!(told.contains(expected), "{filter}: {told}");
    }
    let unknown = format!("{}(1)", "f".repeat(1000));
    assert!(
        refusal(&unknown).len() < 300,
        "what was written is told in short"
    );
}

/// What would use up the stack of a thread, or the time of everybody else, if it were let through.
fn hostile() -> Vec<String> {
    let mut filters = Vec::new();
    for (open, inner, close) in [
        ("(", "true", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("!(", "true", ")"),
        ("-(", "1", ")"),
        ("size(", "event", ")"),
        ("event[", "1", "]"),
        ("event.a.all(x,", "true", ")"),
        ("true?", "true", ":true"),
        ("true?true:", "true", ""),
        ("!-", "1", ""),
        ("!", "true", ""),
        ("1+", "1", ""),
        ("1-", "1", ""),
        ("true&&", "true", ""),
        ("true||", "true", ""),
        ("1<", "1", ""),
        ("'('+", "'('", ""),
        ("\"\\\"(", "", ""),
        ("/*(", "", ""),
        ("//(\n(", "", ""),
        ("'''(", "", "'''"),
        ("r'\\'(", "", ""),
        ("`", "(", "`"),
        ("T{a:", "1", "}"),
        ("a.", "a", ""),
        ("event", ".a", ""),
        ("event", ".a()", ""),
        ("event", "[0]", ""),
        ("1,", "1", ""),
        ("1 in ", "[1]", ""),
        ("((((", "", "?"),
    ] {
        for count in [20, 100, 1000, 4000] {
            filters.push([&*open.repeat(count), inner, &*close.repeat(count)].concat());
            filters.push([open, &*inner.repeat(count), close].concat());
        }
    }
    filters
}

#[test]
fn no_nesting_uses_up_the_stack() {
    // As small a stack as any thread has that could come here, and less.
    let asked = std::thread::Builder::new()
        .stack_size(1024 * 1024)
        .spawn(|| {
            let event = event(ORDER);
            let data = EventData::of(&event);
            let subject = Subject::new(&event, &data);
            let mut accepted = 0;
            for filter in hostile() {
                if let Ok(filter) = Filter::compile(&filter) {
                    accepted += 1;
                    let answer = filter.wants(&subject);
                    assert_eq!(answer, filter.wants(&subject), "{filter:?}");
                }
            }
            accepted
        });
    let accepted = asked.expect("a thread").join().expect("no panic");
    assert!(accepted > 10, "some are harmless: {accepted}");
    // The longest that there may be are still answered.
    let deep = format!("{}true{}", "(".repeat(24), ")".repeat(24));
    assert!(Filter::compile(&deep).is_ok());
    let flat = format!("true{}", " && true".repeat(450));
    assert!(Filter::compile(&flat).is_ok());
}

#[test]
fn the_most_costly_filter_on_the_largest_event_takes_a_moment() {
    let entries = EVENT_BYTES_MAX / 2 - 20;
    let list = format!("{{\"l\":[{}1]}}", "1,".repeat(entries));
    let event = event(&list);
    let data = EventData::of(&event);
    let subject = Subject::new(&event, &data);
    // All that a loop may do, for every entry.
    let body = vec!["x"; FILTER_LOOP_MAX - 10].join(",");
    let looped = format!("event.data.l.all(x, 1 in [2, {body}])");
    let searched = vec!["2 in event.data.l"; 70].join(" || ");
    for filter in [looped, searched] {
        let filter = Filter::compile(&filter).expect("accepted");
        let begun = started();
        assert!(filter.wants(&subject).is_ok());
        let took = begun.elapsed();
        // A loop within a loop would take an hour; this much is for a machine that has other things to do.
        assert!(took < Duration::from_secs(60), "{filter:?} took {took:?}");
    }
    let more = format!("event.data.l.all(x, 1 in [2, {body}{}])", ", x".repeat(10));
    assert!(refusal(&more).contains("all loops"));
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long a computation takes"
)]
fn started() -> Instant {
    Instant::now()
}

/// Pieces of filters, put together at random.
fn pieces() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "event",
        ".data",
        ".type",
        ".amount",
        ".tags",
        ".items",
        "[0]",
        "['a b']",
        ".exists(x, ",
        ".all(i, ",
        "x",
        "i",
        "has(",
        "size(",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "?",
        ":",
        ",",
        " && ",
        " || ",
        " == ",
        " != ",
        " < ",
        " >= ",
        " + ",
        " - ",
        " * ",
        " / ",
        " % ",
        "!",
        "-",
        " in ",
        "'a'",
        "\"é\"",
        "1",
        "2.5",
        "3u",
        "-9223372036854775808",
        "1e400",
        "null",
        "true",
        "false",
        "b'x'",
        "r'\\'",
        "'''",
        "//",
        "\n",
        "\\",
        "`",
        "@",
        "é",
        "\u{0}",
        ".map(x, ",
        ".exists_one(y, ",
        "T{",
        ".startsWith('n')",
        "string(",
        "int(",
        "double(",
        "bool(",
    ]);
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let event = event(ORDER);
        let first = asked(&text, &event);
        prop_assert_eq!(first, asked(&text, &event));
    }

    #[test]
    fn no_pieces_panic(text in pieces()) {
        let event = event(ORDER);
        let first = asked(&text, &event);
        prop_assert_eq!(first, asked(&text, &event));
    }

    #[test]
    fn numbers_of_events_compare_as_numbers(a in any::<i32>(), b in any::<f32>()) {
        let event = event(&format!("{{\"a\": {a}, \"b\": {}}}", f64::from(b)));
        prop_assert_eq!(asked("event.data.a < event.data.b", &event), Ok(f64::from(a) < f64::from(b)));
    }
}
