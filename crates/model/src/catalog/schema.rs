//! JSON Schemas (2020-12) for the data of events: which are taken, and what data they refuse.

use std::fmt;
use std::sync::{Arc, OnceLock};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde::Serialize;
use serde_json::Value;

use super::bounds;
use crate::limits::{PATTERN_BYTES_MAX, SCHEMA_ERRORS_MAX};
use crate::resource::FieldError;

/// Of data with more values than this it is only said that it does not match. Telling where takes memory for every value.
const EXPLAINED_VALUES_MAX: usize = 2_000;
/// Characters of a value in an error.
const SHOWN_CHARS_MAX: usize = 200;

/// A JSON Schema. Clones share it and its compiled form, which is made when first needed.
#[derive(Clone)]
pub struct Schema(Arc<Inner>);

struct Inner {
    value: Value,
    compiled: OnceLock<Result<Validator, Vec<FieldError>>>,
}

impl Schema {
    /// Checks and takes a schema; `at` is where it stands, for errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn new(at: &str, value: Value) -> Result<Self, Vec<FieldError>> {
        let validator = compile(at, &value)?;
        Ok(Self(Arc::new(Inner {
            value,
            compiled: OnceLock::from(Ok(validator)),
        })))
    }

    /// One that was checked before it was stored.
    pub(crate) fn stored(value: Value) -> Self {
        Self(Arc::new(Inner {
            value,
            compiled: OnceLock::new(),
        }))
    }

    /// The schema itself.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// Everything that keeps `data` from being what the schema says; `at` is where the data stands, for errors. They do not repeat the
    /// data. A schema that this build cannot read refuses all data.
    #[must_use]
    pub fn validate(&self, at: &str, data: &Value) -> Vec<FieldError> {
        let compile = || compile("schema", self.value());
        let validator = match self.0.compiled.get_or_init(compile) {
            Ok(validator) => validator,
            Err(errors) => {
                let why = errors.first().map(ToString::to_string).unwrap_or_default();
                let message = format!("cannot be checked: the schema is not usable: {why}");
                return vec![FieldError::new(at, message)];
            }
        };
        if validator.is_valid(data) {
            return Vec::new();
        }
        if room_left(data, EXPLAINED_VALUES_MAX).is_none() {
            let message = "is not what the schema says (it is too large to say where)";
            return vec![FieldError::new(at, message)];
        }
        told(at, validator.iter_errors(data))
    }
}

/// The compiled form, or everything that is wrong.
fn compile(at: &str, schema: &Value) -> Result<Validator, Vec<FieldError>> {
    let errors = bounds::check(at, schema);
    if !errors.is_empty() {
        return Err(errors);
    }
    let dialect = jsonschema::draft202012::meta::validator();
    let errors = told(at, dialect.iter_errors(schema));
    if !errors.is_empty() {
        return Err(errors);
    }
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
        .should_validate_formats(true)
        .offline()
        .build(schema)
        .map_err(|error| told(at, std::iter::once(error)))
}

/// What is left of `room` when every value in `data` has taken one; nothing if there are more.
fn room_left(data: &Value, room: usize) -> Option<usize> {
    let room = room.checked_sub(1)?;
    match data {
        Value::Array(list) => list.iter().try_fold(room, |room, v| room_left(v, room)),
        Value::Object(map) => map.values().try_fold(room, |room, v| room_left(v, room)),
        _ => Some(room),
    }
}

/// The library's errors in our words.
fn told<'a>(at: &str, errors: impl Iterator<Item = ValidationError<'a>>) -> Vec<FieldError> {
    let mut told = Vec::new();
    for error in errors {
        tell(at, &error, &mut told);
        if told.len() > SCHEMA_ERRORS_MAX {
            told.truncate(SCHEMA_ERRORS_MAX);
            told.push(FieldError::new(at, "has further errors, left out here"));
            break;
        }
    }
    told
}

fn tell(at: &str, error: &ValidationError<'_>, told: &mut Vec<FieldError>) {
    let place = place(at, error.instance_path());
    let below = |name: &str| format!("{place}.{}", bounds::shown(name));
    let message = match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            told.push(FieldError::new(below(name), "is required"));
            return;
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let unknown = |name: &String| FieldError::new(below(name), "is not in the schema");
            told.extend(unexpected.iter().map(unknown));
            return;
        }
        ValidationErrorKind::Type { kind } => format!("must be {}", types(kind)),
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().into_iter().flatten();
            let options: Vec<_> = options.map(ToString::to_string).collect();
            format!("must be one of {}", cut(&options.join(", ")))
        }
        ValidationErrorKind::Constant { expected_value } => {
            format!("must be {}", cut(&expected_value.to_string()))
        }
        ValidationErrorKind::Format { format } if format == "regex" => {
            "must be a regular expression, without look-around and back-references".into()
        }
        ValidationErrorKind::Format { format } => format!("must be of the format {format}"),
        ValidationErrorKind::Pattern { pattern } => format!("must match {}", cut(pattern)),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        ValidationErrorKind::FalseSchema => "must not be there".into(),
        ValidationErrorKind::AnyOf { .. } => "must be what one of `anyOf` says".into(),
        ValidationErrorKind::OneOfNotValid { .. } => "must be what one of `oneOf` says".into(),
        _ => cut(&error.masked_with("it").to_string()),
    };
    told.push(FieldError::new(place, message));
}

/// A place in the data as a path: `data.items[3].name`.
fn place(at: &str, location: &Location) -> String {
    let mut path = at.to_owned();
    for segment in location.segments() {
        match segment {
            LocationSegment::Property(name) => {
                path.push('.');
                path.push_str(&bounds::shown(&name));
            }
            LocationSegment::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => one.to_string(),
        TypeKind::Multiple(set) => {
            let all: Vec<_> = set.iter().map(|one| one.to_string()).collect();
            all.join(" or ")
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect(),
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.value() == other.value()
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

impl Serialize for Schema {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(to)
    }
}
