//! JSON Schemas (2020-12) for the data of events: which are taken, and what data they refuse.

use std::fmt;
use std::sync::{Arc, OnceLock};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde::Serialize;
use serde_json::Value;

use super::bounds::{self, Weight};
use crate::limits::{CHECKED_TEXT, CHECKED_VALUES, PATTERN_BYTES_MAX, SCHEMA_ERRORS_MAX};
use crate::resource::FieldError;

/// Of data with more values than this it is only said that it does not match. Telling where takes memory for every value.
const EXPLAINED_VALUES_MAX: u64 = 2_000;
/// Characters of a value in an error.
const SHOWN_CHARS_MAX: usize = 200;

/// A JSON Schema. Clones share it and its compiled form, which is made when first needed.
#[derive(Clone)]
pub struct Schema(Arc<Inner>);

struct Inner {
    value: Value,
    compiled: OnceLock<Result<Compiled, Vec<FieldError>>>,
}

struct Compiled {
    validator: Validator,
    weight: Weight,
}

impl Schema {
    /// Checks and takes a schema; `at` is where it stands, for errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn new(at: &str, value: Value) -> Result<Self, Vec<FieldError>> {
        let compiled = compile(at, &value)?;
        Ok(Self(Arc::new(Inner {
            value,
            compiled: OnceLock::from(Ok(compiled)),
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

    /// The schema itself, if this build takes it, so that walking through it comes to an end.
    pub(super) fn taken(&self) -> Option<&Value> {
        self.compiled().as_ref().ok().map(|_| self.value())
    }

    fn compiled(&self) -> &Result<Compiled, Vec<FieldError>> {
        let compile = || compile("schema", self.value());
        self.0.compiled.get_or_init(compile)
    }

    /// Everything that keeps `data` from being what the schema says; `at` is where the data stands, for errors. They do not repeat the
    /// data. Data that would take too long to check, and all data where this build cannot read the schema, is refused.
    #[must_use]
    pub fn validate(&self, at: &str, data: &Value) -> Vec<FieldError> {
        let Compiled { validator, weight } = match self.compiled() {
            Ok(compiled) => compiled,
            Err(errors) => {
                let why = errors.first().map(ToString::to_string).unwrap_or_default();
                let message = format!("cannot be checked: the schema is not usable: {why}");
                return vec![FieldError::new(at, message)];
            }
        };
        let size = Size::of(data);
        if size.values * u64::from(weight.parts) > CHECKED_VALUES
            || size.text * u64::from(weight.patterns) > CHECKED_TEXT
        {
            let message = "is too large to be checked against a schema of this size";
            return vec![FieldError::new(at, message)];
        }
        if validator.is_valid(data) {
            return Vec::new();
        }
        if size.values > EXPLAINED_VALUES_MAX {
            let message = "is not what the schema says (it is too large to say where)";
            return vec![FieldError::new(at, message)];
        }
        told(at, validator.iter_errors(data))
    }
}

/// The compiled form, or everything that is wrong.
fn compile(at: &str, schema: &Value) -> Result<Compiled, Vec<FieldError>> {
    let weight = bounds::check(at, schema)?;
    let dialect = jsonschema::draft202012::meta::validator();
    let errors = told(at, dialect.iter_errors(schema));
    if !errors.is_empty() {
        return Err(errors);
    }
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
        .should_validate_formats(true)
        // Trying whether a text is a pattern may take long, and nobody asks that of the data of events.
        .with_format("regex", |_: &str| true)
        .offline()
        .build(schema)
        .map_err(|error| told(at, std::iter::once(error)))?;
    Ok(Compiled { validator, weight })
}

/// How much there is to look at in data.
#[derive(Default)]
struct Size {
    values: u64,
    /// Bytes of texts and of names.
    text: u64,
}

impl Size {
    fn of(data: &Value) -> Self {
        let mut size = Self::default();
        size.add(data);
        size
    }

    fn add(&mut self, data: &Value) {
        self.values += 1;
        match data {
            Value::String(text) => self.text += text.len() as u64,
            Value::Array(list) => list.iter().for_each(|value| self.add(value)),
            Value::Object(map) => {
                for (name, value) in map {
                    self.text += name.len() as u64;
                    self.add(value);
                }
            }
            _ => {}
        }
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
