//! An event type's document, from words and to words.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::reader::{At, Object, Reader};
use super::{EventTypeSpec, FieldError};
use crate::catalog::{CatalogEntry, Schema, check_name};
use crate::ids::Slug;
use crate::limits::EXAMPLE_BYTES_MAX;
use crate::presets::Preset;

const KEYS: [&str; 11] = [
    "kind",
    "project",
    "name",
    "preset",
    "category",
    "group",
    "title",
    "description",
    "schema",
    "example",
    "archived",
];

const HEADING_CHARS_MAX: usize = 100;
const TITLE_CHARS_MAX: usize = 200;
const DESCRIPTION_CHARS_MAX: usize = 4000;

/// Reads a document as written.
pub(super) fn read(document: &Map<String, Value>) -> Result<EventTypeSpec, Vec<FieldError>> {
    read_by(Reader::new(true), document)
}

/// Reads what is stored: keys of newer versions are passed over, and what was checked is not checked again.
pub(super) fn read_stored(document: &Value) -> Result<EventTypeSpec, Vec<FieldError>> {
    match document {
        Value::Object(map) => read_by(Reader::new(false), map),
        _ => Err(vec![FieldError::new("", "an event type must be an object")]),
    }
}

fn read_by(
    mut reader: Reader,
    given: &Map<String, Value>,
) -> Result<EventTypeSpec, Vec<FieldError>> {
    let object = Object::of(given, "");
    reader.known(&object, &KEYS);
    let spec = read_whole(&mut reader, &object);
    reader.finish(spec)
}

fn read_whole(reader: &mut Reader, object: &Object<'_>) -> Option<EventTypeSpec> {
    let project = reader.required(object, "project").and_then(|at| {
        let text = reader.text(&at)?;
        reader.taken(&at, Slug::new(text))
    });
    let name = reader.required(object, "name").and_then(|at| {
        let name = reader.text(&at)?;
        reader.taken(&at, check_name(name)).map(|()| name)
    });
    let preset = match object.get("preset") {
        Some(at) => reader.parsed(&at).map(Some),
        None => Some(None),
    };
    let entry = match (preset.flatten(), name, object.get("preset")) {
        (Some(preset), Some(name), Some(at)) => entry(reader, preset, name, &at),
        _ => None,
    };
    let mut prose = |key: &str, chars_max, lines, preset: Option<&String>| match object.get(key) {
        Some(at) => reader.prose(&at, chars_max, lines),
        None => Some(preset.cloned().unwrap_or_default()),
    };
    let category = prose(
        "category",
        HEADING_CHARS_MAX,
        false,
        entry.map(|e| &e.category),
    );
    let group = prose("group", HEADING_CHARS_MAX, false, entry.map(|e| &e.group));
    let title = prose("title", TITLE_CHARS_MAX, false, entry.map(|e| &e.title));
    let description = entry.map(|e| &e.description);
    let description = prose("description", DESCRIPTION_CHARS_MAX, true, description);
    let schema = match object.get("schema") {
        Some(at) => read_schema(reader, &at).map(Some),
        None => Some(entry.map(|e| e.schema.clone())),
    };
    let example = match object.get("example") {
        Some(at) => read_example(reader, &at).map(Some),
        None => Some(entry.map(|e| Arc::clone(&e.example))),
    };
    let own = object.get("schema").is_some() || object.get("example").is_some();
    if let (Some(Some(schema)), Some(example), true) = (&schema, &example, own && reader.strict) {
        agree(reader, schema, example.as_deref());
    }
    let archived = match object.get("archived") {
        Some(at) => reader.truth(&at),
        None => Some(false),
    };
    Some(EventTypeSpec {
        project: project?,
        name: name?.to_owned(),
        preset: preset?,
        category: category?,
        group: group?,
        title: title?,
        description: description?,
        schema: schema?,
        example: example?,
        archived: archived?,
    })
}

/// The preset's entry of this name. A newer version may know one that this one does not; then what is stored stands alone.
fn entry(
    reader: &mut Reader,
    preset: Preset,
    name: &str,
    at: &At<'_>,
) -> Option<&'static CatalogEntry> {
    let entry = preset.event_type(name);
    if entry.is_none() && reader.strict {
        let message = format!(
            "`{preset}` has no event type of this name (`hookline preset show {preset}` lists them); leave `preset` out"
        );
        reader.error(&at.path, message);
    }
    entry
}

fn read_schema(reader: &mut Reader, at: &At<'_>) -> Option<Schema> {
    if !reader.strict {
        return Some(Schema::stored(at.value.clone()));
    }
    match Schema::new(&at.path, at.value.clone()) {
        Ok(schema) => Some(schema),
        Err(errors) => {
            reader.errors.extend(errors);
            None
        }
    }
}

fn read_example(reader: &mut Reader, at: &At<'_>) -> Option<Arc<Value>> {
    if at.value.to_string().len() > EXAMPLE_BYTES_MAX {
        let message = format!("may have {} KiB as JSON", EXAMPLE_BYTES_MAX / 1024);
        reader.error(&at.path, message);
        return None;
    }
    Some(Arc::new(at.value.clone()))
}

/// The example, and those in the schema, must be what the schema says.
fn agree(reader: &mut Reader, schema: &Schema, example: Option<&Value>) {
    let further = schema.value().get("examples").and_then(Value::as_array);
    let further = further.into_iter().flatten().enumerate();
    let further = further.map(|(i, data)| (format!("schema.examples[{i}]"), data));
    let all = example.map(|data| ("example".to_owned(), data));
    for (at, data) in all.into_iter().chain(further) {
        for error in schema.validate(&at, data) {
            let message = format!("{} (by the schema)", error.message);
            reader.error(error.field, message);
        }
    }
}

/// The event type as a complete document.
pub(super) fn write(spec: &EventTypeSpec) -> Value {
    write_over(spec, None)
}

/// The stored form: of one that follows a preset only what differs.
pub(super) fn write_stored(spec: &EventTypeSpec) -> Value {
    let entry = spec.preset.and_then(|preset| preset.event_type(&spec.name));
    write_over(spec, entry)
}

/// The document without what is the same in `entry`.
fn write_over(spec: &EventTypeSpec, entry: Option<&CatalogEntry>) -> Value {
    let mut document = json!({
        "kind": "EventType",
        "project": spec.project,
        "name": spec.name,
    });
    let mut put = |key: &str, value: Value, same: bool| {
        if !same {
            document[key] = value;
        }
    };
    put("preset", json!(spec.preset), spec.preset.is_none());
    let same = |text: &String, of: fn(&CatalogEntry) -> &String| match entry {
        Some(entry) => of(entry) == text,
        None => false,
    };
    let (category, title) = (&spec.category, &spec.title);
    put("category", json!(category), same(category, |e| &e.category));
    let group = &spec.group;
    let none = entry.is_none() && group.is_empty();
    put("group", json!(group), none || same(group, |e| &e.group));
    put("title", json!(title), same(title, |e| &e.title));
    let description = &spec.description;
    let same_description = same(description, |e| &e.description);
    put("description", json!(description), same_description);
    let same_schema = entry.map(|e| &e.schema) == spec.schema.as_ref();
    put("schema", json!(spec.schema), same_schema);
    let same_example = entry.map(|e| &e.example) == spec.example.as_ref();
    put("example", json!(spec.example), same_example);
    let same_archived = entry.is_some() && !spec.archived;
    put("archived", json!(spec.archived), same_archived);
    document
}
