//! Resource files: YAML documents, or JSON.

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::reader::{Object, Reader};
use super::{FieldError, ProjectSpec, Resource, connector, event_type, webhook};
use crate::ids::Slug;

const PROJECT_KEYS: [&str; 6] = ["kind", "id", "title", "preset", "strict", "rate_limit"];

/// Resources of one file.
const RESOURCES_MAX: usize = 10_000;
/// Bytes of one file.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Brackets that may be open at once. No resource needs ten; the YAML reader takes quadratic time over many.
const OPEN_MAX: u32 = 200;

/// Reads a resource file: YAML documents separated by `---`, or JSON (one object, or a list of them).
///
/// # Errors
/// Everything that is wrong in the whole file, each with document, field and remedy.
pub fn parse_documents(text: &str) -> Result<Vec<Resource>, Vec<FieldError>> {
    let documents = split(text).map_err(|error| vec![error])?;
    let mut resources = Vec::new();
    let mut errors = Vec::new();
    for (number, document) in &documents {
        match read_one(document) {
            Ok(resource) => resources.push(resource),
            Err(found) => {
                let label = label(*number, document);
                errors.extend(found.into_iter().map(|error| FieldError {
                    document: label.clone(),
                    ..error
                }));
            }
        }
    }
    if documents.is_empty() {
        errors.push(FieldError::new(
            "",
            "there is no resource in it; a document begins with `kind: Webhook`, `kind: Connector`, `kind: EventType` or `kind: Project`",
        ));
    }
    errors.extend(twice(&resources));
    if errors.is_empty() {
        Ok(resources)
    } else {
        Err(errors)
    }
}

/// Resources that stand in the file more than once: it would be chance which one stays.
fn twice(resources: &[Resource]) -> Vec<FieldError> {
    let mut seen = std::collections::BTreeSet::new();
    let mut errors = Vec::new();
    for resource in resources {
        let name = match resource {
            Resource::Project(project) => format!("Project {}", project.id),
            Resource::EventType(t) => format!("EventType {}/{}", t.project, t.name),
            Resource::Connector(c) => format!("Connector {}/{}", c.project, c.name),
            Resource::Webhook(w) => format!("Webhook {}/{}", w.settings.project, w.settings.name),
        };
        if !seen.insert(name.clone()) {
            errors.push(FieldError {
                document: name,
                field: String::new(),
                message: "stands in this file more than once; keep one".into(),
            });
        }
    }
    errors
}

/// What an error names the document by.
fn label(number: usize, document: &Value) -> String {
    let word = |key: &str| {
        let text = document.get(key)?.as_str()?;
        let shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
        (!shown.is_empty()).then_some(shown)
    };
    let mut label = format!("document {number}");
    let Some(kind) = word("kind") else {
        return label;
    };
    label.push_str(&format!(", {kind}"));
    match (word("project"), word("name").or_else(|| word("id"))) {
        (Some(project), Some(name)) => label.push_str(&format!(" {project}/{name}")),
        (None, Some(name)) => label.push_str(&format!(" {name}")),
        _ => {}
    }
    label
}

fn read_one(document: &Value) -> Result<Resource, Vec<FieldError>> {
    let one = |field: &str, message: String| Err(vec![FieldError::new(field, message)]);
    let Value::Object(map) = document else {
        return one("", "must have keys, beginning with `kind`".into());
    };
    match map.get("kind").and_then(Value::as_str) {
        Some("Project") => read_project(map).map(Resource::Project),
        Some("EventType") => event_type::read(map).map(|t| Resource::EventType(Box::new(t))),
        Some("Connector") => connector::read(map).map(|c| Resource::Connector(Box::new(c))),
        Some("Webhook") => webhook::read(map).map(|w| Resource::Webhook(Box::new(w))),
        Some(kind) => {
            let shown: String = kind.chars().take(64).collect();
            one(
                "kind",
                format!("{shown:?} is no kind; {}", webhook::kind_hint(kind)),
            )
        }
        None => one(
            "kind",
            "is required: Webhook, Connector, EventType or Project".into(),
        ),
    }
}

pub(super) fn read_project(map: &Map<String, Value>) -> Result<ProjectSpec, Vec<FieldError>> {
    let mut reader = Reader::new(true);
    let object = Object::of(map, "");
    reader.known(&object, &PROJECT_KEYS);
    let project = read_whole_project(&mut reader, &object);
    reader.finish(project)
}

fn read_whole_project(reader: &mut Reader, object: &Object<'_>) -> Option<ProjectSpec> {
    let id = reader.required(object, "id").and_then(|at| {
        let text = reader.text(&at)?;
        reader.taken(&at, Slug::new(text))
    });
    let title = object
        .get("title")
        .map_or(Some(String::new()), |at| reader.prose(&at, 200, false));
    let preset = object
        .get("preset")
        .map_or(Some(None), |at| reader.parsed(&at).map(Some));
    let strict = object
        .get("strict")
        .map_or(Some(false), |at| reader.truth(&at));
    let rate_limit = object
        .get("rate_limit")
        .filter(|at| !at.is_word("none"))
        .map_or(Some(None), |at| reader.parsed(&at).map(Some));
    Some(ProjectSpec {
        id: id?,
        title: title?,
        preset: preset?,
        strict: strict?,
        rate_limit: rate_limit?,
    })
}

/// The documents with their numbers, lists taken apart.
fn split(text: &str) -> Result<Vec<(usize, Value)>, FieldError> {
    let text = text.trim_start_matches('\u{feff}');
    if text.len() > BYTES_MAX {
        return Err(FieldError::new("", "a file may have 16 MiB; split it"));
    }
    if open_brackets(text) > OPEN_MAX {
        return Err(FieldError::new(
            "",
            format!(
                "more than {OPEN_MAX} brackets are open at once; one is not closed, or it is no resource file"
            ),
        ));
    }
    let documents = match yaml(text) {
        Ok(documents) => documents,
        // Nearly all JSON is YAML. What is not (tabs, pairs of \u escapes) is read as JSON, unless a key stands twice, which JSON would
        // take.
        Err(error) => match serde_json::from_str(text) {
            Ok(value) if !error.message.contains("duplicate") => vec![value],
            _ => return Err(error),
        },
    };
    let mut all = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Array(list) => all.extend(list),
            other => all.push(other),
        }
    }
    if all.len() > RESOURCES_MAX {
        return Err(FieldError::new(
            "",
            format!("a file may have {RESOURCES_MAX} resources; split it"),
        ));
    }
    Ok((1..).zip(all).collect())
}

/// The most brackets open at once, those in text and comments counted too: an estimate to guard against accidents, made in one pass.
fn open_brackets(text: &str) -> u32 {
    let (mut open, mut most) = (0u32, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

fn yaml(text: &str) -> Result<Vec<Value>, FieldError> {
    let mut documents = Vec::new();
    for (number, document) in (1..).zip(serde_yaml_ng::Deserializer::from_str(text)) {
        let read = serde_yaml_ng::Value::deserialize(document)
            .map_err(|error| error.to_string())
            .and_then(|value| to_json(value, ""));
        match read {
            Ok(value) => documents.push(value),
            Err(message) => {
                return Err(FieldError {
                    document: format!("document {number}"),
                    field: String::new(),
                    message: format!("cannot be read as YAML or JSON: {message}"),
                });
            }
        }
    }
    Ok(documents)
}

/// YAML's values as JSON's. What JSON has not (keys that are no text, tags, infinity) is refused with its place.
fn to_json(value: serde_yaml_ng::Value, path: &str) -> Result<Value, String> {
    use serde_yaml_ng::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(truth) => Value::Bool(truth),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => {
            let whole = number.as_u64().map(Into::into);
            let whole = whole.or_else(|| number.as_i64().map(Into::into));
            let any = whole.or_else(|| serde_json::Number::from_f64(number.as_f64()?));
            Value::Number(any.ok_or_else(|| format!("`{path}` must be a finite number"))?)
        }
        Yaml::Sequence(list) => {
            let entry = |(index, value)| to_json(value, &format!("{path}[{index}]"));
            Value::Array(
                list.into_iter()
                    .enumerate()
                    .map(entry)
                    .collect::<Result<_, _>>()?,
            )
        }
        Yaml::Mapping(map) => {
            let mut object = Map::new();
            for (key, value) in map {
                let Yaml::String(key) = key else {
                    return Err(format!("a key in `{path}` is no text; put it in quotes"));
                };
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                object.insert(key, to_json(value, &below)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(_) => return Err(format!("`{path}` has a tag (!…); leave it out")),
    })
}
