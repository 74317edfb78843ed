//! Reading JSON values by hand, so that every error is found at once and says where it is.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::FieldError;
use crate::units;

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

/// An object whose keys are known, and where it stands.
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// Collects what is wrong.
pub(super) struct Reader {
    pub(super) errors: Vec<FieldError>,
    /// Whether keys that are not known are errors.
    pub(super) strict: bool,
}

/// What a key that people may know from elsewhere, or from answers, is here.
const HINTS: [(&str, &str); 8] = [
    ("uid", "it is made by hookline; leave it out"),
    ("version", "it is made by hookline; leave it out"),
    ("created_at", "it is made by hookline; leave it out"),
    ("state_reason", "it is made by hookline; leave it out"),
    (
        "secret",
        "it is made by hookline and shown once; leave it out",
    ),
    ("timeout", "did you mean `deadline`?"),
    ("event_types", "did you mean `events`?"),
    ("endpoint", "did you mean `url`?"),
];

impl<'a> At<'a> {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.value.as_str() == Some(word)
    }

    /// The entries of a list.
    fn entries(&self, list: &'a [Value]) -> impl Iterator<Item = At<'a>> {
        list.iter().enumerate().map(|(index, value)| At {
            value,
            path: format!("{}[{index}]", self.path),
        })
    }
}

impl<'a> Object<'a> {
    pub(super) fn of(map: &'a Map<String, Value>, path: &str) -> Self {
        Self {
            map,
            path: path.to_owned(),
        }
    }

    /// The value of a key; nothing is the same as null.
    pub(super) fn get(&self, key: &str) -> Option<At<'a>> {
        let value = self.map.get(key).filter(|v| !v.is_null())?;
        Some(At {
            value,
            path: self.at(key),
        })
    }

    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

impl Reader {
    pub(super) fn new(strict: bool) -> Self {
        Self {
            errors: Vec::new(),
            strict,
        }
    }

    pub(super) fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError::new(path, message));
    }

    /// The value if nothing was wrong, else everything that was.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }

    /// An object that has no other keys than these.
    pub(super) fn object<'a>(&mut self, at: &At<'a>, known: &[&str]) -> Option<Object<'a>> {
        let Value::Object(map) = at.value else {
            self.error(
                &at.path,
                format!(
                    "must have keys ({}), not be {}",
                    known.join(", "),
                    kind(at.value)
                ),
            );
            return None;
        };
        let object = Object::of(map, &at.path);
        self.known(&object, known);
        Some(object)
    }

    pub(super) fn known(&mut self, object: &Object<'_>, known: &[&str]) {
        if !self.strict {
            return;
        }
        for key in object.map.keys().filter(|k| !known.contains(&k.as_str())) {
            let shown: String = key.chars().take(64).collect();
            self.error(
                object.at(&shown),
                format!("unknown key: {}", hint(key, known)),
            );
        }
    }

    /// A required key.
    pub(super) fn required<'a>(&mut self, object: &Object<'a>, key: &str) -> Option<At<'a>> {
        let found = object.get(key);
        if found.is_none() {
            self.error(object.at(key), "is required");
        }
        found
    }

    pub(super) fn text<'a>(&mut self, at: &At<'a>) -> Option<&'a str> {
        let text = at.value.as_str();
        if text.is_none() {
            self.error(
                &at.path,
                format!("must be text, not {}; put it in quotes", kind(at.value)),
            );
        }
        text
    }

    /// Free text without control characters (line feeds pass where `lines`).
    pub(super) fn prose(&mut self, at: &At<'_>, chars_max: usize, lines: bool) -> Option<String> {
        let text = self.text(at)?;
        let odd = |c: char| c.is_control() && !(lines && matches!(c, '\n' | '\t'));
        if text.chars().count() > chars_max || text.chars().any(odd) {
            self.error(
                &at.path,
                format!("must have at most {chars_max} characters and no control characters"),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// Text that something can be read from; the error of that says what would be right.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, at: &At<'_>) -> Option<T> {
        let text = self.text(at)?;
        self.taken(at, text.parse())
    }

    pub(super) fn taken<T, E: Display>(&mut self, at: &At<'_>, taken: Result<T, E>) -> Option<T> {
        taken.map_err(|e| self.error(&at.path, e.to_string())).ok()
    }

    pub(super) fn duration(&mut self, at: &At<'_>) -> Option<Duration> {
        if at.value.is_number() {
            self.error(
                &at.path,
                format!("a duration needs a unit: {0}s or {0}ms", at.value),
            );
            return None;
        }
        let text = self.text(at)?;
        self.taken(at, units::parse_duration(text))
    }

    /// A duration, or the word `none`.
    pub(super) fn duration_or_none(&mut self, at: &At<'_>) -> Option<Option<Duration>> {
        if at.is_word("none") {
            return Some(None);
        }
        self.duration(at).map(Some)
    }

    pub(super) fn number(&mut self, at: &At<'_>) -> Option<f64> {
        let number = at.value.as_f64().filter(|n| n.is_finite());
        if number.is_none() {
            self.error(
                &at.path,
                format!("must be a number, not {}", kind(at.value)),
            );
        }
        number
    }

    pub(super) fn count(&mut self, at: &At<'_>) -> Option<u32> {
        let count = at.value.as_u64().and_then(|n| u32::try_from(n).ok());
        if count.is_none() {
            self.error(&at.path, "must be a whole number from 0");
        }
        count
    }

    pub(super) fn truth(&mut self, at: &At<'_>) -> Option<bool> {
        let truth = at.value.as_bool();
        if truth.is_none() {
            self.error(&at.path, "must be true or false");
        }
        truth
    }

    /// A list, each entry read by `read`.
    pub(super) fn list<'a, T>(
        &mut self,
        at: &At<'a>,
        mut read: impl FnMut(&mut Self, &At<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(list) = at.value else {
            self.error(
                &at.path,
                format!("must be a list, not {}; write [a, b]", kind(at.value)),
            );
            return None;
        };
        // Every entry is read, so that every error shows.
        let read: Vec<_> = at.entries(list).map(|entry| read(self, &entry)).collect();
        read.into_iter().collect()
    }
}

/// What a value is, for people. Never the value: it may be a secret in the wrong place.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a group of keys",
    }
}

/// What to do about a key or word that is not known.
pub(super) fn hint(key: &str, known: &[&str]) -> String {
    if let Some((_, hint)) = HINTS.iter().find(|(name, _)| *name == key) {
        return (*hint).to_owned();
    }
    let near = known
        .iter()
        .map(|name| (distance(key, name), *name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
        .min();
    match near {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!("known here are {}", known.join(", ")),
    }
}

/// How many letters must be changed, added or taken away to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
