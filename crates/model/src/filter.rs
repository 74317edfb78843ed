//! Filters: which of the events that a webhook subscribed to it wants, said in CEL, the [Common Expression Language](https://cel.dev).
//!
//! `text` looks at the tokens before anything else does, so that no input uses up the stack; `check` at what was parsed: names that nobody
//! knows are refused when the filter is saved, and so is what could cost more than a pass over the event. `values` shows an event to the
//! interpreter, borrowed and without copies.
//!
//! What is left out of the language, and why: regular expressions, `map` and `filter`, and loops within loops (cost); times and durations,
//! maps written out, messages, bytes (nothing in an event has such a type).

mod check;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::common::types::CelBool;
use cel::objects::ValueType;
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, Value};

pub use values::{EventData, Subject};

use crate::limits::{FILTER_BYTES_MAX, FILTER_NESTING_MAX};

/// The one variable.
const EVENT: &str = "event";

static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

/// What is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// Line and column, from 1; `None` where it concerns the whole.
    pub at: Option<(usize, usize)>,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl FilterError {
    fn whole(problem: impl Into<String>) -> Self {
        Self {
            at: None,
            problem: problem.into(),
        }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((1, column)) => write!(f, "column {column}: ")?,
            Some((line, column)) => write!(f, "line {line}, column {column}: ")?,
            None => {}
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for FilterError {}

/// Why a filter had no answer for an event. It tells types and names of the filter's own text, never what is in the event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterFailure(String);

/// A filter, ready to be asked.
#[derive(Clone)]
pub struct Filter {
    text: Arc<str>,
    expression: Arc<IdedExpr>,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// What is wrong with it and where: it cannot be read, names what there is not, or could cost too much.
    pub fn compile(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(FilterError::whole(format!(
                "is longer than {FILTER_BYTES_MAX} bytes"
            )));
        }
        let tokens = text::Tokens::read(text)?;
        // Every pair of brackets begins an expression within an expression.
        let depth = u16::try_from(FILTER_NESTING_MAX + 1).unwrap_or(u16::MAX);
        let parser = PrattParser::new().max_recursion_depth(depth);
        let mut expression = parser.parse(text).map_err(|errors| {
            let first = errors.errors.into_iter().next();
            first.map_or_else(
                || FilterError::whole("cannot be read"),
                |error| FilterError {
                    at: text::place(error.pos),
                    problem: error.msg,
                },
            )
        })?;
        check::check(&mut expression, &tokens)?;
        Ok(Self {
            text: text.into(),
            expression: Arc::new(expression),
        })
    }

    /// Whether it wants the event.
    ///
    /// # Errors
    /// When it has no answer: a field is missing, types do not fit together, or the result is neither true nor false.
    pub fn wants(&self, subject: &Subject<'_>) -> Result<bool, FilterFailure> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.add_variable_as_val(EVENT, subject.value());
        let result = Value::resolve_val(&self.expression, &context);
        let result = result.map_err(|error| self.failure(error))?;
        match result.downcast_ref::<CelBool>() {
            Some(answer) => Ok(*answer.inner()),
            None => Err(FilterFailure(format!(
                "the result is {} and not true or false",
                result.get_type().name()
            ))),
        }
    }

    /// An error of the interpreter without the values it carries.
    fn failure(&self, error: ExecutionError) -> FilterFailure {
        FilterFailure(match error {
            ExecutionError::NoSuchKey(name) if self.text.contains(name.as_str()) => {
                format!("the event has no `{name}`")
            }
            ExecutionError::NoSuchKey(_) => "the event has no such field".into(),
            ExecutionError::NoSuchOverload(call) => call.to_string(),
            ExecutionError::UnexpectedType { got, want } => {
                format!("there is {got} where {want} is needed")
            }
            ExecutionError::IndexOutOfBounds(_) => "a list has no such entry".into(),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
                "something is divided by zero".into()
            }
            ExecutionError::Overflow(..) => "a number is out of range".into(),
            ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
                let [left, right] = [left, right].map(|value| match value.type_of() {
                    ValueType::Float => "double".to_owned(),
                    other => other.to_string(),
                });
                format!("`{operator}` cannot join {left} and {right}")
            }
            _ => "it cannot be evaluated for this event".into(),
        })
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}
