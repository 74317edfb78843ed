//! The catalogs of the platforms, against what their pages say; and how a project gets one.

mod pages;
mod schemas;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::parameters::{Parameter, parameters};
use super::*;
use crate::resource::{Resource, parse_documents};

fn slug(text: &str) -> Slug {
    Slug::new(text).expect("a slug")
}

/// The entry's example, and those in its schema.
fn examples(entry: &CatalogEntry) -> Vec<&Value> {
    let further = entry.schema.value().get("examples");
    let further = further.and_then(Value::as_array).into_iter().flatten();
    std::iter::once(&*entry.example).chain(further).collect()
}

/// The paths of everything in `data`, as the table of parameters writes them.
fn paths(data: &Value, path: &str, found: &mut BTreeSet<String>) {
    match data {
        Value::Object(map) => {
            for (name, value) in map {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                found.insert(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(list) => {
            for value in list {
                paths(value, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

fn all_entries() -> impl Iterator<Item = (Preset, &'static CatalogEntry)> {
    let all = Preset::ALL.iter();
    all.flat_map(|preset| preset.catalog().iter().map(|entry| (*preset, entry)))
}

#[test]
fn every_example_is_what_its_schema_says() {
    for (preset, entry) in all_entries() {
        let schema = Schema::new("schema", entry.schema.value().clone());
        let schema = schema.unwrap_or_else(|errors| panic!("{preset} {}: {errors:#?}", entry.name));
        for example in examples(entry) {
            let errors = schema.validate("example", example);
            assert!(errors.is_empty(), "{preset} {}: {errors:#?}", entry.name);
            let errors = entry.schema.validate("example", example);
            assert!(errors.is_empty(), "{preset} {}: {errors:#?}", entry.name);
        }
    }
}

#[test]
fn every_parameter_is_described_and_every_one_in_an_example_is_listed() {
    for (preset, entry) in all_entries() {
        let rows = parameters(entry.schema.value());
        assert!(rows.len() > 3, "{preset} {}", entry.name);
        for row in &rows {
            let Parameter {
                path,
                types,
                appears,
                ..
            } = row;
            let place = format!("{preset} {} {path}", entry.name);
            assert!(
                types != "any" && appears != "not always",
                "{place}: {row:?}"
            );
            let sentence = row.description.split(' ').count() > 1 && row.description.ends_with('.');
            assert!(sentence, "{place}: {row:?}");
        }
        let mut known: BTreeSet<_> = rows.into_iter().map(|row| row.path).collect();
        // Names that the publisher chooses.
        if known.contains("fields.*") {
            known.extend(["fields.name", "fields.seats", "fields.meals"].map(String::from));
        }
        for example in examples(entry) {
            let mut found = BTreeSet::new();
            paths(example, "", &mut found);
            let unknown: Vec<_> = found.difference(&known).collect();
            assert!(unknown.is_empty(), "{preset} {}: {unknown:?}", entry.name);
        }
    }
}

#[test]
fn names_are_event_types_and_headings_are_there() {
    for preset in Preset::ALL {
        let mut names = BTreeSet::new();
        for entry in preset.catalog() {
            check_name(&entry.name).expect("an event type");
            assert!(names.insert(&entry.name), "{preset} {} twice", entry.name);
            for text in [&entry.category, &entry.title, &entry.description] {
                assert!(!text.is_empty(), "{preset} {entry:?}");
            }
            assert!(entry.description.ends_with('.'), "{preset} {}", entry.name);
            assert_eq!(preset.event_type(&entry.name), Some(entry));
        }
    }
    for bad in ["", "*", "a.*", "a b", "a/b", "a..b"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

/// What a customer copies out of a preset is taken as it is.
#[test]
fn an_entry_is_an_event_type_that_stands_for_itself() {
    for preset in Preset::ALL {
        let documents: Vec<_> = specs(&slug("shop"), *preset)
            .map(|spec| {
                EventTypeSpec {
                    preset: None,
                    ..spec
                }
                .to_document()
            })
            .collect();
        if documents.is_empty() {
            continue;
        }
        let read = parse_documents(&Value::from(documents).to_string());
        let read = read.unwrap_or_else(|errors| panic!("{preset}: {errors:#?}"));
        for (resource, spec) in read.iter().zip(specs(&slug("shop"), *preset)) {
            let Resource::EventType(read) = resource else {
                panic!("{resource:?}");
            };
            assert_eq!(
                **read,
                EventTypeSpec {
                    preset: None,
                    ..spec
                }
            );
        }
    }
}

#[test]
fn what_came_from_a_preset_is_stored_as_what_differs() {
    for (preset, entry) in all_entries() {
        let spec = EventTypeSpec::of_preset(slug("shop"), preset, entry);
        let stored = serde_json::to_value(&spec).expect("stored");
        assert_eq!(
            stored,
            json!({"kind": "EventType", "project": "shop", "name": entry.name, "preset": preset})
        );
        let read: EventTypeSpec = serde_json::from_value(stored).expect("read");
        assert_eq!(read, spec);

        let changed = EventTypeSpec {
            title: "Ours".into(),
            group: String::new(),
            archived: true,
            ..spec
        };
        let stored = serde_json::to_value(&changed).expect("stored");
        assert_eq!(
            (&stored["title"], &stored["archived"]),
            (&json!("Ours"), &json!(true))
        );
        assert_eq!(stored.get("schema"), None);
        let read: EventTypeSpec = serde_json::from_value(stored).expect("read");
        assert_eq!(read, changed);
    }
}

#[test]
fn loading_writes_what_is_missing_and_leaves_alone_what_is_there() {
    let shop = slug("shop");
    let mut existing: Vec<_> = specs(&shop, Preset::SmsGateway).take(3).collect();
    existing[0].description = "Changed by hand".into();
    existing[1].archived = true;
    existing[1].title = "Answer".into();
    let steps = load(&shop, Preset::SmsGateway, |name| {
        existing.iter().find(|spec| spec.name == name)
    });
    let [
        Load::Keep,
        Load::Revive(revived),
        Load::Keep,
        Load::Create(made),
    ] = steps.as_slice()
    else {
        panic!("{steps:#?}");
    };
    assert_eq!((revived.archived, &*revived.title), (false, "Answer"));
    assert_eq!(
        (&*made.name, made.preset),
        ("url.click", Some(Preset::SmsGateway))
    );
    assert_eq!(made.project, shop);
    let none = load(&shop, Preset::Standard, |_| None);
    assert!(none.is_empty());
}

#[test]
fn the_reference_pages_are_up_to_date() {
    let pages = [
        (
            Preset::Vidcorp,
            include_str!("../../../../docs/catalog/vidcorp.md"),
        ),
        (
            Preset::SmsGateway,
            include_str!("../../../../docs/catalog/sms-gateway.md"),
        ),
        (
            Preset::Esputnik,
            include_str!("../../../../docs/catalog/esputnik.md"),
        ),
        (
            Preset::Wooxy,
            include_str!("../../../../docs/catalog/wooxy.md"),
        ),
        (
            Preset::Vidizmo,
            include_str!("../../../../docs/catalog/vidizmo.md"),
        ),
    ];
    for (preset, page) in pages {
        assert!(
            page == reference::of_preset(preset),
            "docs/catalog/{preset}.md is out of date: run `hookline preset show {preset} --reference > docs/catalog/{preset}.md`"
        );
        for entry in preset.catalog() {
            assert!(
                page.contains(&format!("\n### `{}`\n", entry.name)),
                "{}",
                entry.name
            );
        }
    }
}

#[test]
fn a_projects_own_catalog_renders_whatever_it_says() {
    let text = r##"
kind: EventType
project: shop
name: order.paid
title: "Paid <script>|"
description: "two\nlines & more"
schema:
  type: object
  required: [total]
  properties:
    total: {type: number, description: "In | euros <b>", minimum: 0}
    items:
      type: array
      items:
        required: [sku]
        properties:
          sku: {type: string, pattern: "^a|b$"}
          note: {}
    by: {oneOf: [{type: string}, {type: "null"}]}
    tags: {type: object, additionalProperties: {type: string}}
example: {total: 1.5}
---
{kind: EventType, project: shop, name: "list", schema: {type: array, items: {type: integer}}, archived: true}
---
{kind: EventType, project: shop, name: "bare"}
"##;
    let read = parse_documents(text).expect("sound");
    let specs = read.iter().map(|resource| match resource {
        Resource::EventType(spec) => &**spec,
        other => panic!("{other:?}"),
    });
    let page = reference::of_event_types("Shop", specs);
    for want in [
        "# Shop: data of events\n",
        "| `order.paid` | Paid &lt;script>\\| |  |\n",
        "**Paid &lt;script>|.** two lines &amp; more\n",
        "| `total` | number | always | In \\| euros &lt;b> At least 0. |\n",
        "| `items` | list of object | not always |  |\n",
        "| `items[].sku` | string | in each | Matches `^a\\|b$`. |\n",
        "| `items[].note` | any | not always |  |\n",
        "| `by` | any | not always | The schema has further conditions. |\n",
        "| `tags.*` | string | for each name |  |\n",
        "```json\n{\n  \"total\": 1.5\n}\n```\n",
        "Archived: not offered any more.\n",
        "| the data itself | list of integer | always |  |\n",
        "### `bare`\n",
    ] {
        assert!(page.contains(want), "{want}\nis not in\n{page}");
    }
    assert!(reference::of_event_types("None", []).contains("no event types"));
    // What a newer version may have stored: two more of itself on each level.
    let newer = json!({
        "kind": "EventType", "project": "shop", "name": "newer",
        "schema": {"allOf": [{"$ref": "#"}, {"$ref": "#"}], "properties": {"a": {"$ref": "#"}}},
    });
    let newer: EventTypeSpec = serde_json::from_value(newer).expect("stored");
    assert!(!reference::of_event_types("Newer", [&newer]).contains("| parameter |"));
}

#[test]
fn a_strict_project_takes_what_its_catalog_describes() {
    let mut specs: Vec<_> = specs(&slug("shop"), Preset::Esputnik).collect();
    specs[0].archived = true;
    specs[1].schema = None;
    let found = |name: &str| specs.iter().find(|spec| spec.name == name);
    let judge = |name: &str, data: Value| {
        let errors = refusals(name, found(name), &data);
        let mut errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        errors.sort();
        errors
    };
    let good = (*specs[0].example.clone().expect("an example")).clone();
    assert_eq!(judge("activity.delivered", good.clone()), [""; 0]);
    let mut bad = good;
    bad["contactId"] = json!("295953704");
    bad["activityStatus"] = json!("READ");
    assert_eq!(
        judge("activity.delivered", bad),
        [
            "data.activityStatus: must be \"DELIVERED\"",
            "data.contactId: must be integer",
        ]
    );
    assert_eq!(judge("activity.undelivered", json!(1)), [""; 0]);
    assert_eq!(
        judge("activity.opened", json!({})),
        ["type: \"activity.opened\" is no event type of this project's catalog"]
    );
}
