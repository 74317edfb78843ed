//! Catalogs: the event types of a project, with what the data of their events is.
//!
//! Every event type may have a JSON [`Schema`] and an example. The presets bring the catalogs of the five platforms; a project gets one by
//! [`load`]. [`reference`] renders a catalog as the data-format reference that receivers read.

mod bounds;
mod parameters;
pub mod reference;
mod schema;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use schema::Schema;

use crate::ids::Slug;
use crate::matching::TypePattern;
use crate::presets::Preset;
use crate::resource::{EventTypeSpec, FieldError};

/// Where the data of an event type is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Parameters and examples stand on the platform's page.
    Page,
    /// The page names the type only; the data is made up by us, plausible and complete.
    Ours,
}

/// An event type of a preset's catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogEntry {
    /// Its name.
    pub name: String,
    /// Under which heading it stands.
    pub category: String,
    /// Under which heading within the category, if the platform has such.
    pub group: String,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// Where schema and example are taken from.
    pub source: Source,
    /// What the data of its events is.
    pub schema: Schema,
    /// Such data.
    pub example: Arc<Value>,
}

/// A catalog as it stands in a preset's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What several schemas have in common.
    #[serde(rename = "$defs", default)]
    defs: Map<String, Value>,
    event_types: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    name: String,
    category: String,
    #[serde(default)]
    group: String,
    title: String,
    description: String,
    source: Source,
    schema: Map<String, Value>,
    example: Value,
}

/// Reads the catalog of a preset's file. Every schema gets those definitions that it refers to, so that each stands for itself.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn read_file(text: &str) -> Result<Vec<CatalogEntry>, serde_yaml_ng::Error> {
    let file: File = serde_yaml_ng::from_str(text)?;
    let entry = |entry: FileEntry| CatalogEntry {
        schema: Schema::stored(Value::Object(complete(entry.schema, &file.defs))),
        example: Arc::new(entry.example),
        name: entry.name,
        category: entry.category,
        group: entry.group,
        title: entry.title,
        description: entry.description,
        source: entry.source,
    };
    Ok(file.event_types.into_iter().map(entry).collect())
}

/// The schema with the definitions it refers to, those they refer to included.
fn complete(mut schema: Map<String, Value>, defs: &Map<String, Value>) -> Map<String, Value> {
    let mut named = Vec::new();
    schema.values().for_each(|value| collect(value, &mut named));
    let mut at = 0;
    while let Some(name) = named.get(at) {
        at += 1;
        if let Some(definition) = defs.get(name) {
            collect(definition, &mut named);
        }
    }
    let used = defs.iter().filter(|(name, _)| named.contains(*name));
    let used: Map<_, _> = used.map(|(n, d)| (n.clone(), d.clone())).collect();
    if !used.is_empty() {
        schema.insert("$defs".into(), Value::Object(used));
    }
    schema
}

/// The names of definitions referred to, each once.
fn collect(value: &Value, named: &mut Vec<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| collect(value, named)),
        Value::Object(map) => {
            for (key, value) in map {
                let name = value.as_str().filter(|_| key == "$ref");
                match name.and_then(|reference| reference.strip_prefix("#/$defs/")) {
                    Some(name) if !named.iter().any(|n| n == name) => named.push(name.to_owned()),
                    _ => collect(value, named),
                }
            }
        }
        _ => {}
    }
}

/// Whether a catalog may have an event type of this name.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    match name.parse::<TypePattern>() {
        Err(error) => Err(error.to_string()),
        Ok(TypePattern::All | TypePattern::Below(_)) => {
            Err("must be one event type; patterns are for webhooks".into())
        }
        // It stands in paths.
        Ok(TypePattern::Exact(_)) if name.contains('/') => Err("must not contain '/'".into()),
        Ok(TypePattern::Exact(_)) => Ok(()),
    }
}

/// A preset's catalog as event types of a project.
pub fn specs(project: &Slug, preset: Preset) -> impl Iterator<Item = EventTypeSpec> {
    let spec = move |entry: &CatalogEntry| EventTypeSpec::of_preset(project.clone(), preset, entry);
    preset.catalog().iter().map(spec)
}

/// What loading a preset does with one of its event types.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// There is none of this name: this one is to be written.
    Create(EventTypeSpec),
    /// There is one that was archived: it is to be written as it is here, no longer archived and else unchanged.
    Revive(EventTypeSpec),
    /// There is one: it is left alone, whatever it says. One that came from the preset and was not changed follows the preset anyway.
    Keep,
}

/// What loading a preset's catalog into a project does, in the order of the catalog; `existing` says what the project has.
pub fn load<'a>(
    project: &Slug,
    preset: Preset,
    existing: impl Fn(&str) -> Option<&'a EventTypeSpec>,
) -> Vec<Load> {
    let step = |spec: EventTypeSpec| match existing(&spec.name) {
        None => Load::Create(spec),
        Some(found) if found.archived => Load::Revive(EventTypeSpec {
            archived: false,
            ..found.clone()
        }),
        Some(_) => Load::Keep,
    };
    specs(project, preset).map(step).collect()
}

/// What stands against an event in a project that takes only what its catalog describes; `found` is the event type in that catalog. An
/// archived one counts: its producers may still be running.
#[must_use]
pub fn refusals(event_type: &str, found: Option<&EventTypeSpec>, data: &Value) -> Vec<FieldError> {
    let Some(found) = found else {
        let shown: String = event_type.chars().take(64).collect();
        let message = format!("{shown:?} is no event type of this project's catalog");
        return vec![FieldError::new("type", message)];
    };
    match &found.schema {
        Some(schema) => schema.validate("data", data),
        None => Vec::new(),
    }
}
