//! A schema as a table of parameters, for people.
//!
//! A value may be described in several places at once (`$ref`, `allOf` and beside them): its *layers*, the nearest last. What a layer says
//! is in force unless a nearer one says otherwise.

use serde_json::{Map, Value};

/// Levels of objects and lists, and rows, that are shown. Schemas that are taken have fewer levels.
const LEVELS_MAX: usize = 40;
const ROWS_MAX: usize = 1_000;
/// Values of an `enum` that are listed.
const OPTIONS_MAX: usize = 50;

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    /// `order.items[].price`; empty for the data itself.
    pub(super) path: String,
    /// In words.
    pub(super) types: String,
    /// When it is there, in words.
    pub(super) appears: String,
    /// What it is, with what its value may be.
    pub(super) description: String,
    /// Whether it is marked as taken from the platform's page.
    pub(super) of_page: bool,
}

/// The rows of a schema that was taken, objects before what is in them.
pub(super) fn parameters(schema: &Value) -> Vec<Parameter> {
    let table = Table { root: schema };
    let layers = table.layers(schema, 0);
    let mut rows = Vec::new();
    table.below(&layers, "", 0, &mut rows);
    if rows.is_empty() {
        rows.push(table.row(&layers, String::new(), "always".into()));
    }
    rows
}

type Layer<'a> = &'a Map<String, Value>;

struct Table<'a> {
    root: &'a Value,
}

impl<'a> Table<'a> {
    /// Everything that describes the same value.
    fn layers(&self, schema: &'a Value, level: usize) -> Vec<Layer<'a>> {
        let mut layers = Vec::new();
        let Value::Object(own) = schema else {
            return layers;
        };
        if level > LEVELS_MAX {
            return layers;
        }
        let target = own.get("$ref").and_then(Value::as_str);
        let target = target.and_then(|r| self.root.pointer(r.strip_prefix('#')?));
        let all = own.get("allOf").and_then(Value::as_array);
        for part in target.into_iter().chain(all.into_iter().flatten()) {
            layers.extend(self.layers(part, level + 1));
        }
        layers.push(own);
        layers
    }

    /// Rows for what is in an object or a list.
    fn below(&self, layers: &[Layer<'a>], path: &str, level: usize, rows: &mut Vec<Parameter>) {
        if level > LEVELS_MAX || rows.len() >= ROWS_MAX {
            return;
        }
        let mut names: Vec<&str> = Vec::new();
        for layer in layers {
            let named = layer.get("properties").and_then(Value::as_object);
            let new = named.into_iter().flat_map(Map::keys).map(String::as_str);
            names.extend(new);
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        for name in names {
            let parts = layers.iter().filter_map(|l| l.get("properties")?.get(name));
            let parts: Vec<_> = parts.flat_map(|part| self.layers(part, level)).collect();
            let full = match path {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            let required = layers.iter().filter_map(|l| l.get("required")?.as_array());
            let required = required.flatten().any(|r| r.as_str() == Some(name));
            rows.push(self.row(&parts, full.clone(), appears(&parts, required, path)));
            self.below(&parts, &full, level + 1, rows);
        }
        for (keyword, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
            let parts = layers.iter().filter_map(|layer| layer.get(keyword));
            let parts: Vec<_> = parts.flat_map(|part| self.layers(part, level)).collect();
            if parts.is_empty() {
                continue;
            }
            let path = format!("{path}{suffix}");
            if keyword == "additionalProperties" {
                let appears = "for each name".to_owned();
                rows.push(self.row(&parts, path.clone(), appears));
            }
            self.below(&parts, &path, level + 1, rows);
        }
    }

    fn row(&self, layers: &[Layer<'a>], path: String, appears: String) -> Parameter {
        let mut description = text(layers, "description").unwrap_or_default().to_owned();
        for note in notes(layers) {
            if !description.is_empty() {
                description.push(' ');
            }
            description.push_str(&note);
        }
        Parameter {
            path,
            types: self.types(layers, 0),
            appears,
            description,
            of_page: text(layers, "x-source") == Some("page"),
        }
    }

    fn types(&self, layers: &[Layer<'a>], level: usize) -> String {
        let named: Vec<&str> = match nearest(layers, "type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => implied(layers),
        };
        let named = named.into_iter().map(|word| {
            let items = layers.iter().filter_map(|layer| layer.get("items"));
            let items: Vec<_> = items.flat_map(|part| self.layers(part, level)).collect();
            match (word, text(layers, "format")) {
                ("array", _) if items.is_empty() || level > LEVELS_MAX => "list".to_owned(),
                ("array", _) => format!("list of {}", self.types(&items, level + 1)),
                ("string", Some(format)) => format!("string ({format})"),
                (word, _) => word.to_owned(),
            }
        });
        let named: Vec<_> = named.collect();
        match named.is_empty() {
            true => "any".into(),
            false => named.join(" or "),
        }
    }
}

/// What the nearest layer that says anything about a keyword says.
fn nearest<'a>(layers: &[Layer<'a>], key: &str) -> Option<&'a Value> {
    layers.iter().rev().find_map(|layer| layer.get(key))
}

fn text<'a>(layers: &[Layer<'a>], key: &str) -> Option<&'a str> {
    nearest(layers, key).and_then(Value::as_str)
}

/// The types of a schema that names none.
fn implied<'a>(layers: &[Layer<'a>]) -> Vec<&'a str> {
    let listed = nearest(layers, "enum").and_then(Value::as_array);
    let values = nearest(layers, "const").into_iter();
    let values: Vec<_> = values.chain(listed.into_iter().flatten()).collect();
    let mut types: Vec<&str> = values.into_iter().map(type_of).collect();
    types.dedup();
    if types.is_empty() && layers.iter().any(|layer| layer.contains_key("properties")) {
        types.push("object");
    }
    types
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn appears(layers: &[Layer<'_>], required: bool, parent: &str) -> String {
    match (required, text(layers, "x-when")) {
        (true, _) if parent.is_empty() => "always".into(),
        (true, _) if parent.ends_with("[]") => "in each".into(),
        (true, _) => format!("with `{parent}`"),
        (false, Some(when)) => format!("when {when}"),
        (false, None) => "not always".into(),
    }
}

/// What the value may be, in sentences.
fn notes(layers: &[Layer<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    let options = nearest(layers, "enum").and_then(Value::as_array);
    if let Some(only) = nearest(layers, "const") {
        notes.push(format!("Always {}.", code(only)));
    } else if let Some(options) = options {
        let shown: Vec<_> = options.iter().take(OPTIONS_MAX).map(code).collect();
        let more = match options.len() > OPTIONS_MAX {
            true => ", …",
            false => "",
        };
        notes.push(format!("One of {}{more}.", shown.join(", ")));
    }
    match (nearest(layers, "minimum"), nearest(layers, "maximum")) {
        (Some(min), Some(max)) => notes.push(format!("From {min} to {max}.")),
        (Some(min), None) => notes.push(format!("At least {min}.")),
        (None, Some(max)) => notes.push(format!("At most {max}.")),
        (None, None) => {}
    }
    if let Some(pattern) = nearest(layers, "pattern") {
        notes.push(format!("Matches {}.", code(pattern)));
    }
    if nearest(layers, "deprecated") == Some(&Value::Bool(true)) {
        notes.push("Deprecated.".into());
    }
    let conditions = ["anyOf", "oneOf", "not", "if", "dependentSchemas"];
    let conditions = conditions.iter().any(|key| nearest(layers, key).is_some());
    if conditions {
        notes.push("The schema has further conditions.".into());
    }
    notes
}

/// A value as code.
fn code(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("`{}`", text.replace('`', "'"))
}
