//! Which schemas are taken: those that stand for themselves and are cheap to check data against, whatever the data.
//!
//! A schema may refer only to parts of itself, and never to a part that it stands in. So it is a tree when its references are written out,
//! and the size of that tree bounds how often each value of the data is looked at. Patterns are matched in time linear in the text and in
//! their own size (look-around and back-references are no part of them). Both sizes are the schema's [`Weight`], and what a schema of that
//! weight may be asked to check is bounded in turn.

use std::collections::HashMap;

use jsonschema::PatternOptions;
use serde_json::Value;

use crate::limits::{
    PATTERN_WEIGHTS, PATTERNS_MAX, SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX,
};
use crate::resource::FieldError;

/// The dialect, and the only value of `$schema`.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords that hold a schema.
const ONE: [&str; 11] = [
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
/// Keywords that hold a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords that hold schemas by name.
const NAMED: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
/// The same; these count only where they are referred to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// Keywords whose every entry is compared with.
const COMPARED: [&str; 2] = ["enum", "required"];
/// Other ways to name and to refer.
const REFUSED: [&str; 6] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
];

/// The weight of a schema, or everything that is wrong with it in these respects; `at` is where it stands.
pub(super) fn check(at: &str, schema: &Value) -> Result<Weight, Vec<FieldError>> {
    let one = |field: &str, message: String| Err(vec![FieldError::new(field, message)]);
    let Value::Object(map) = schema else {
        let message = "must be a JSON Schema: keys such as `type` and `properties`; {} takes all";
        return one(at, message.into());
    };
    if schema.to_string().len() > SCHEMA_BYTES_MAX {
        let message = format!("may have {} KiB as JSON", SCHEMA_BYTES_MAX / 1024);
        return one(at, message);
    }
    if let Some(dialect) = map.get("$schema")
        && dialect.as_str().map(|d| d.trim_end_matches('#')) != Some(DIALECT)
    {
        return one(
            &format!("{at}.$schema"),
            format!("must be {DIALECT}, or left out"),
        );
    }
    let mut walk = Walk {
        root: schema,
        at,
        weighed: HashMap::new(),
        patterns: HashMap::new(),
        too_deep: None,
        errors: Vec::new(),
    };
    let weight = walk.weigh(schema, at, 0);
    if weight.parts > SCHEMA_PARTS_MAX {
        let message = format!(
            "has more than {SCHEMA_PARTS_MAX} parts when its references are written out; make it smaller"
        );
        return one(at, message);
    }
    if walk.patterns.len() > PATTERNS_MAX {
        return one(at, format!("may have {PATTERNS_MAX} different patterns"));
    }
    if let Some(path) = walk.too_deep {
        let message = format!("is deeper than {SCHEMA_DEPTH_MAX} levels, references included");
        walk.errors.push(FieldError::new(path, message));
    }
    match walk.errors.is_empty() {
        true => Ok(weight),
        false => Err(walk.errors),
    }
}

/// What it costs to check against a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    /// Schemas in it, itself and those referred to included, and the entries that values are compared with: looks at each value, at most.
    pub(super) parts: u32,
    /// Patterns in it by their size: looks at each byte of text, at most.
    pub(super) patterns: u32,
    /// How many schemas stand in one another.
    depth: u32,
}

struct Walk<'a> {
    root: &'a Value,
    /// Where the root stands.
    at: &'a str,
    /// By address; `None` while it is being weighed.
    weighed: HashMap<*const Value, Option<Weight>>,
    /// The patterns met so far, one more than may be at most, with their weights.
    patterns: HashMap<&'a str, u32>,
    /// Where it first got too deep.
    too_deep: Option<String>,
    errors: Vec<FieldError>,
}

impl<'a> Walk<'a> {
    fn weigh(&mut self, schema: &'a Value, path: &str, level: u32) -> Weight {
        let alone = Weight {
            parts: 1,
            patterns: 0,
            depth: 1,
        };
        let Value::Object(map) = schema else {
            return alone;
        };
        let known = self.weighed.get(&std::ptr::from_ref(schema)).copied();
        let known = known.flatten();
        if level + known.map_or(1, |weight| weight.depth) > SCHEMA_DEPTH_MAX {
            self.too_deep.get_or_insert_with(|| path.to_owned());
            return alone;
        }
        if let Some(weight) = known {
            return weight;
        }
        self.weighed.insert(std::ptr::from_ref(schema), None);
        let mut weight = alone;
        for (key, value) in map {
            weight.parts = weight.parts.saturating_add(compared(key, value));
            weight.patterns = weight.patterns.saturating_add(self.patterns(key, value));
            for (part, path) in self.parts(key, value, path, level) {
                let part = self.weigh(part, &path, level + 1);
                if !DEFINITIONS.contains(&key.as_str()) {
                    weight.parts = weight.parts.saturating_add(part.parts);
                    weight.patterns = weight.patterns.saturating_add(part.patterns);
                    weight.depth = weight.depth.max(part.depth + 1);
                }
            }
        }
        self.weighed
            .insert(std::ptr::from_ref(schema), Some(weight));
        weight
    }

    /// The schemas that a keyword holds or refers to, with their places.
    fn parts(
        &mut self,
        key: &str,
        value: &'a Value,
        path: &str,
        level: u32,
    ) -> Vec<(&'a Value, String)> {
        let path = format!("{path}.{}", shown(key));
        match value {
            Value::Array(list) if LIST.contains(&key) => {
                let part = |(i, part)| (part, format!("{path}[{i}]"));
                list.iter().enumerate().map(part).collect()
            }
            Value::Object(all) if NAMED.contains(&key) || DEFINITIONS.contains(&key) => {
                let part = |(name, part): (&String, _)| (part, format!("{path}.{}", shown(name)));
                all.iter().map(part).collect()
            }
            _ if ONE.contains(&key) => vec![(value, path)],
            Value::String(reference) if key == "$ref" => {
                self.target(reference, &path).into_iter().collect()
            }
            _ if REFUSED.contains(&key) || (level > 0 && matches!(key, "$id" | "$schema")) => {
                let message = "is not supported here; refer to parts by `$ref: \"#/$defs/name\"`";
                self.errors.push(FieldError::new(path, message));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The weight of the patterns that a keyword has.
    fn patterns(&mut self, key: &str, value: &'a Value) -> u32 {
        let all: Vec<&'a str> = match value {
            Value::String(pattern) if key == "pattern" => vec![pattern],
            Value::Object(all) if key == "patternProperties" => {
                all.keys().map(String::as_str).collect()
            }
            _ => Vec::new(),
        };
        let mut sum: u32 = 0;
        for pattern in all {
            if self.patterns.len() > PATTERNS_MAX {
                break;
            }
            let weight = self.patterns.entry(pattern);
            let weight = weight.or_insert_with(|| pattern_weight(pattern));
            sum = sum.saturating_add(*weight);
        }
        sum
    }

    /// What a reference names, and where that stands.
    fn target(&mut self, reference: &str, path: &str) -> Option<(&'a Value, String)> {
        let named = reference.strip_prefix('#');
        let part = named.and_then(|pointer| self.root.pointer(pointer));
        let open = part.map(|part| self.weighed.get(&std::ptr::from_ref(part)));
        let message = match (named, part, open) {
            (None, ..) => "must begin with '#': a schema can only refer to its own parts",
            (_, None, _) => "names nothing in this schema",
            (_, _, Some(Some(None))) => {
                "refers to a part that it stands in; write out as many levels as there are, and `{}` below"
            }
            (Some(pointer), Some(part), _) => {
                return Some((
                    part,
                    format!("{}{}", self.at, shown(pointer).replace('/', ".")),
                ));
            }
        };
        self.errors.push(FieldError::new(path, message));
        None
    }
}

/// How many entries a keyword has values compared with.
fn compared(key: &str, value: &Value) -> u32 {
    let entries = match value {
        Value::Array(list) if COMPARED.contains(&key) => list.len(),
        Value::Object(lists) if key == "dependentRequired" => {
            let lists = lists.values().filter_map(Value::as_array);
            lists.map(|list| list.len() + 1).sum()
        }
        _ => 0,
    };
    u32::try_from(entries).unwrap_or(u32::MAX)
}

/// By the smallest size that it fits in when compiled. One that fits in none is refused later, with its place.
fn pattern_weight(pattern: &str) -> u32 {
    let schema = serde_json::json!({"pattern": pattern});
    let fits = |bytes: usize| {
        let options = PatternOptions::regex().size_limit(bytes);
        let options = jsonschema::options().with_pattern_options(options);
        options.build(&schema).is_ok()
    };
    let known = PATTERN_WEIGHTS.iter().find(|(bytes, _)| fits(*bytes));
    known.map_or(0, |(_, weight)| *weight)
}

/// A key in a path.
pub(super) fn shown(key: &str) -> String {
    key.chars().filter(|c| !c.is_control()).take(64).collect()
}
