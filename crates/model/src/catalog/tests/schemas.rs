//! Which schemas are taken, and what they say of data.

use proptest::prelude::*;

use super::*;

fn schema(value: Value) -> Schema {
    Schema::new("schema", value.clone()).unwrap_or_else(|errors| panic!("{value}: {errors:#?}"))
}

/// What is wrong with a schema.
fn refused(value: Value) -> Vec<String> {
    let errors = Schema::new("schema", value.clone()).expect_err(&value.to_string());
    errors.iter().map(ToString::to_string).collect()
}

fn told(schema: &Schema, data: Value) -> Vec<String> {
    let errors = schema.validate("data", &data);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn everything_wrong_with_data_is_told_at_once_with_its_place() {
    let schema = schema(json!({
        "type": "object",
        "required": ["id", "lines"],
        "additionalProperties": false,
        "properties": {
            "id": {"type": "integer"},
            "state": {"enum": ["open", "paid"]},
            "kind": {"const": "order"},
            "at": {"type": "string", "format": "date-time"},
            "country": {"type": "string", "pattern": "^[A-Z]{2}$"},
            "lines": {"type": "array", "items": {"required": ["sku"], "properties": {"count": {"type": ["integer", "null"], "minimum": 1}}}},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
    }));
    assert_eq!(
        told(
            &schema,
            json!({"id": 1, "lines": [], "at": "2024-01-02T03:04:05Z", "either": 7})
        ),
        [""; 0]
    );
    let mut errors = told(
        &schema,
        json!({
            "state": "s3cret", "kind": 7, "at": "s3cret", "country": "s3cret", "other": "s3cret", "either": ["s3cret"],
            "lines": [{"sku": "a", "count": 0}, {"count": "s3cret"}],
        }),
    );
    errors.sort();
    assert_eq!(
        errors,
        [
            "data.at: must be of the format date-time",
            "data.country: must match ^[A-Z]{2}$",
            "data.either: must be what one of `anyOf` says",
            "data.id: is required",
            "data.kind: must be \"order\"",
            "data.lines[0].count: must be at least 1",
            "data.lines[1].count: must be null or integer",
            "data.lines[1].sku: is required",
            "data.other: is not in the schema",
            "data.state: must be one of \"open\", \"paid\"",
        ]
    );
    assert_eq!(told(&schema, json!(7)), ["data: must be object"]);
}

#[test]
fn a_schema_reaches_nowhere_outside_itself() {
    for reference in [
        "https://example.com/a.json",
        "file:///etc/passwd",
        "a.json",
        "//h/a#/b",
        "",
    ] {
        let found = refused(json!({"properties": {"a": {"$ref": reference}}}));
        assert_eq!(
            found,
            [
                "schema.properties.a.$ref: must begin with '#': a schema can only refer to its own parts"
            ]
        );
    }
    let found = refused(json!({"items": {"$ref": "#/$defs/none"}}));
    assert_eq!(found, ["schema.items.$ref: names nothing in this schema"]);
    for (key, value) in [
        ("$dynamicRef", "#a"),
        ("$anchor", "a"),
        ("$id", "https://example.com/b"),
    ] {
        let found = refused(json!({"properties": {"a": {key: value}}}));
        assert!(
            found[0].starts_with(&format!("schema.properties.a.{key}: is not supported here")),
            "{found:?}"
        );
    }
    let own = schema(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/order",
        "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#/definitions/b"}, "c": {"const": {"$ref": "no reference"}}},
        "$defs": {"a": {"type": "integer"}},
        "definitions": {"b": {"type": "string"}},
    }));
    assert_eq!(
        told(&own, json!({"a": "x", "b": 1})),
        ["data.a: must be integer", "data.b: must be string"]
    );
    let draft = refused(json!({"$schema": "http://json-schema.org/draft-07/schema#"}));
    assert!(
        draft[0]
            .starts_with("schema.$schema: must be https://json-schema.org/draft/2020-12/schema"),
        "{draft:?}"
    );
}

#[test]
fn an_invalid_schema_says_where() {
    assert_eq!(
        refused(
            json!({"properties": {"a": {"type": "int"}, "b": {"required": "a"}, "c": {"minLength": -1}}})
        ),
        [
            "schema.properties.a.type: must be what one of `anyOf` says",
            "schema.properties.b.required: must be array",
            "schema.properties.c.minLength: must be at least 0",
        ]
    );
    for pattern in ["(", "(?=a)b", "(a)\\1", "a{1000}{1000}"] {
        let found = refused(json!({"properties": {"a": {"pattern": pattern}}}));
        assert!(
            found.len() == 1 && found[0].contains("regular expression"),
            "{pattern}: {found:?}"
        );
    }
    for no_schema in [json!(true), json!(null), json!([]), json!("x")] {
        assert!(refused(no_schema)[0].starts_with("schema: must be a JSON Schema"));
    }
    assert_eq!(told(&schema(json!({})), json!([1, {"a": null}])), [""; 0]);
}

#[test]
fn a_schema_that_stands_in_itself_is_refused() {
    for value in [
        json!({"$ref": "#"}),
        json!({"properties": {"child": {"$ref": "#"}}}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}),
        json!({"$defs": {"unused": {"items": {"$ref": "#/$defs/unused"}}}}),
        json!({"properties": {"a": {"items": {"$ref": "#/properties/a"}}}}),
    ] {
        let found = refused(value);
        assert!(
            found
                .iter()
                .all(|e| e.contains("refers to a part that it stands in")),
            "{found:?}"
        );
    }
    // The same part twice is no circle.
    let twice = json!({"items": {"$ref": "#/$defs/a"}, "contains": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "integer"}}});
    assert_eq!(told(&schema(twice), json!([1])), [""; 0]);
}

#[test]
fn what_a_check_may_cost_is_bounded() {
    // Each level doubles the next: small to write, endless to check.
    let mut defs = json!({"d0": {"type": "integer"}});
    for level in 1..16 {
        let below = json!({"$ref": format!("#/$defs/d{}", level - 1)});
        defs[format!("d{level}")] = json!({"allOf": [below, below]});
    }
    let found = refused(json!({"$ref": "#/$defs/d15", "$defs": defs}));
    assert!(found[0].contains("has more than 2000 parts"), "{found:?}");
    let small = json!({"$ref": "#/$defs/d8", "$defs": defs});
    assert_eq!(told(&schema(small), json!(1)), [""; 0]);

    let mut chain = json!({"d0": {}});
    for level in 1..50 {
        chain[format!("d{level}")] = json!({"items": {"$ref": format!("#/$defs/d{}", level - 1)}});
    }
    let found = refused(json!({"$defs": chain}));
    assert!(
        found.iter().any(|e| e.contains("is deeper than 40 levels")),
        "{found:?}"
    );

    let mut deep = json!({});
    for _ in 0..50 {
        deep = json!({"items": deep});
    }
    let found = refused(deep);
    assert!(found[0].contains("is deeper than 40 levels"), "{found:?}");

    let many = json!({"enum": (0..3_000).collect::<Vec<_>>()});
    assert!(refused(many)[0].contains("has more than 2000 parts"));

    let patterns: Vec<_> = (0..201)
        .map(|n| json!({"pattern": format!("^{n}$")}))
        .collect();
    let found = refused(json!({"anyOf": patterns}));
    assert_eq!(found, ["schema: may have 200 different patterns"]);

    let long = json!({"description": "x".repeat(crate::limits::SCHEMA_BYTES_MAX)});
    assert_eq!(refused(long), ["schema: may have 64 KiB as JSON"]);
}

#[test]
fn data_that_would_take_long_to_check_is_refused() {
    let too_large = ["data: is too large to be checked against a schema of this size"];
    let parts: Vec<_> = (0..100).map(|n| json!({"minimum": -n})).collect();
    let wide = schema(json!({"items": {"allOf": parts}}));
    assert_eq!(told(&wide, Value::from(vec![1; 150_000])), [""; 0]);
    assert_eq!(told(&wide, Value::from(vec![1; 250_000])), too_large);

    // A pattern whose matching takes a state for each of its letters, and one that takes few, on a text of half a megabyte.
    let text = json!("ab".repeat(256 * 1024));
    let heavy = schema(json!({"pattern": "^[ab]*a[ab]{400}c$"}));
    assert_eq!(told(&heavy, text.clone()), too_large);
    assert_eq!(
        told(&heavy, json!("ab")),
        ["data: must match ^[ab]*a[ab]{400}c$"]
    );
    let light = schema(json!({"pattern": "^[ab]+$"}));
    assert_eq!(told(&light, text.clone()), [""; 0]);
    let lights: Vec<_> = (1..10)
        .map(|n| json!({"patternProperties": {format!("^[ab]{{{n}}}"): {}}}))
        .collect();
    let lights = schema(json!({"allOf": lights}));
    assert_eq!(told(&lights, json!({"a": text})), too_large);
    assert_eq!(told(&lights, json!({"a": "text"})), [""; 0]);
}

/// What people write for dates, numbers, names and addresses is no burden.
#[test]
fn usual_patterns_and_formats_are_taken() {
    for (pattern, good, bad) in [
        (
            r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}$",
            "2024-01-02T03:04:05",
            "2024-01-02",
        ),
        (
            r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$",
            "0bb5e1dc-0d1b-4deb-948f-8cea4d8ef738",
            "0bb5e1dc",
        ),
        (r"^\+[1-9]\d{6,14}$", "+12025550143", "2025550143"),
        (r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$", "jane@example.com", "jane@"),
        (r"^\p{L}+$", "Žofie", "x1"),
        (
            r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9a-zA-Z.-]+)?$",
            "1.20.3-rc.1",
            "1.2",
        ),
    ] {
        let schema = schema(json!({"pattern": pattern}));
        assert_eq!(told(&schema, json!(good)), [""; 0], "{pattern}");
        assert_eq!(told(&schema, json!(bad)).len(), 1, "{pattern}");
    }
    for (format, good, bad) in [
        ("date-time", "2024-01-02T03:04:05Z", "2024-01-02 03:04"),
        ("date", "2024-02-29", "2023-02-29"),
        ("email", "jane@example.com", "jane"),
        ("uri", "https://example.com/a?b#c", "/a"),
        ("uuid", "0bb5e1dc-0d1b-4deb-948f-8cea4d8ef738", "0bb5"),
        ("ipv4", "203.0.113.7", "203.0.113"),
    ] {
        let schema = schema(json!({"format": format}));
        assert_eq!(told(&schema, json!(good)), [""; 0], "{format}");
        assert_eq!(
            told(&schema, json!(bad)),
            [format!("data: must be of the format {format}")]
        );
    }
    let regex = schema(json!({"format": "regex"}));
    assert_eq!(told(&regex, json!("(")), [""; 0], "not tried");
    assert_eq!(
        told(&schema(json!({"format": "int64"})), json!("x")),
        [""; 0],
        "nobody's format"
    );
}

#[test]
fn many_errors_are_not_all_told() {
    let schema = schema(json!({"type": "array", "items": {"type": "string"}}));
    let errors = told(&schema, Value::from(vec![1; 100]));
    assert_eq!(errors.len(), crate::limits::SCHEMA_ERRORS_MAX + 1);
    assert_eq!(errors[0], "data[0]: must be string");
    assert_eq!(
        errors.last().map(String::as_str),
        Some("data: has further errors, left out here")
    );
    let errors = told(&schema, Value::from(vec![1; 100_000]));
    assert_eq!(
        errors,
        ["data: is not what the schema says (it is too large to say where)"]
    );
    assert_eq!(told(&schema, Value::from(vec!["x"; 100_000])), [""; 0]);
}

/// A newer version may have stored what this one does not take.
#[test]
fn a_stored_schema_that_cannot_be_used_refuses_data_and_says_why() {
    let stored: EventTypeSpec = serde_json::from_value(json!({
        "kind": "EventType", "project": "shop", "name": "a", "new_key": 1,
        "schema": {"$ref": "https://example.com/a.json"},
    }))
    .expect("stored");
    let schema = stored.schema.expect("a schema");
    let found = told(&schema, json!(1));
    assert!(
        found.len() == 1
            && found[0]
                .starts_with("data: cannot be checked: the schema is not usable: schema.$ref"),
        "{found:?}"
    );
}

/// Keywords with values that fit them and values that do not, in one another.
fn any_schema() -> impl Strategy<Value = Value> {
    let keyword = proptest::sample::select(vec![
        "type",
        "properties",
        "items",
        "allOf",
        "anyOf",
        "not",
        "if",
        "$ref",
        "$defs",
        "enum",
        "const",
        "pattern",
        "format",
        "required",
        "minimum",
        "maxLength",
        "patternProperties",
        "additionalProperties",
        "unevaluatedProperties",
        "dependentRequired",
        "uniqueItems",
        "contains",
        "minContains",
        "prefixItems",
        "propertyNames",
        "examples",
        "x-when",
    ]);
    let leaf = proptest::sample::select(vec![
        json!("string"),
        json!("#"),
        json!("#/$defs/a"),
        json!("#/properties/a"),
        json!(["a", "b"]),
        json!(-1),
        json!(1.5),
        json!(true),
        json!(null),
        json!({}),
        json!([{}]),
        json!({"a": {}}),
        json!("[a"),
        json!("^a+$"),
        json!("date-time"),
        json!({"a": ["b"]}),
    ]);
    let leaf = leaf.boxed();
    leaf.prop_recursive(4, 40, 4, move |inner| {
        let entries = proptest::collection::vec((keyword.clone(), inner.clone()), 0..5);
        let object = entries.prop_map(|entries| {
            let entry = |(key, value): (&str, Value)| (key.to_owned(), value);
            Value::Object(entries.into_iter().map(entry).collect())
        });
        let named = inner.clone().prop_map(|value| json!({"a": value}));
        let list = proptest::collection::vec(inner, 0..3).prop_map(Value::from);
        prop_oneof![4 => object, 2 => named, 1 => list]
    })
}

proptest! {
    #[test]
    fn whatever_stands_in_a_schema_it_is_taken_or_refused_with_a_place(value in any_schema(), data in any_schema()) {
        match Schema::new("schema", value.clone()) {
            Ok(taken) => {
                let errors = taken.validate("data", &data);
                prop_assert!(errors.iter().all(|error| error.field.starts_with("data")));
                prop_assert!(!parameters(&value).is_empty());
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().all(|error| error.field.starts_with("schema")));
            }
        }
        // One that was stored by another version may be anything.
        let stored = Schema::stored(value);
        prop_assert!(stored.validate("data", &data).iter().all(|error| error.field.starts_with("data")));
    }
}
