//! One value: from its written form to a checked [`Value`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookline_dispatch::client::EgressProxy;
use hookline_model::units;
use ipnet::IpNet;

use super::keys::{Form, Preset};

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// A flag.
    Flag(bool),
    /// A duration.
    Span(Duration),
    /// A size in bytes.
    Size(u64),
    /// An address and a port.
    Listen(SocketAddr),
    /// A file or directory.
    Path(PathBuf),
    /// Networks.
    Networks(Vec<IpNet>),
}

/// The text of an environment variable as the TOML value that would stand in the file.
pub(crate) fn from_env(form: Form, text: &str) -> Result<toml::Value, String> {
    let text = text.trim();
    Ok(match form {
        Form::Number(..) => toml::Value::Integer(
            text.parse()
                .map_err(|_| format!("{text:?} is not a whole number"))?,
        ),
        Form::Flag => toml::Value::Boolean(
            text.parse()
                .map_err(|_| format!("{text:?} is neither true nor false"))?,
        ),
        Form::Networks if text.starts_with('[') => {
            toml::from_str::<toml::Table>(&format!("v = {text}"))
                .ok()
                .and_then(|mut table| table.remove("v"))
                .ok_or_else(|| format!("{text:?} is not a list such as [\"10.0.0.0/8\"]"))?
        }
        Form::Networks => toml::Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(toml::Value::from)
                .collect(),
        ),
        _ => toml::Value::from(text),
    })
}

/// Checks a value. Relative paths are taken from `dir`.
pub(crate) fn check(form: Form, value: &toml::Value, dir: &Path) -> Result<Value, String> {
    match form {
        Form::Word(words) => word(words, text(value)?),
        Form::Number(min, max) => number(min, max, value),
        Form::Flag => value
            .as_bool()
            .map(Value::Flag)
            .ok_or_else(|| format!("must be true or false, not {}", kind(value))),
        Form::Span(min, max) => span(min, max, text(value)?),
        Form::Size(min, max) => size(min, max, text(value)?),
        Form::Prefix => prefix(text(value)?),
        Form::Host => host(text(value)?),
        Form::Listen => listen(text(value)?),
        Form::Path => path(text(value)?, dir),
        Form::PathOrNone => match text(value)? {
            "" => Ok(Value::Path(PathBuf::new())),
            given => path(given, dir),
        },
        Form::Networks => networks(value),
        Form::StoreUrl => store_url(text(value)?, dir),
        Form::ProxyUrl => match text(value)? {
            "" => Ok(Value::Text(String::new())),
            url => EgressProxy::parse(url, false).map(|_| Value::Text(url.to_owned())),
        },
        Form::Filter => filter(text(value)?),
    }
}

/// A default as a value.
pub(crate) fn preset(form: Form, preset: Preset, dir: &Path) -> Result<Value, String> {
    let written = match preset {
        Preset::Text(text) => toml::Value::from(text),
        Preset::Number(number) => toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
        Preset::Flag(flag) => toml::Value::Boolean(flag),
        Preset::Span(span) => return Ok(Value::Span(span)),
        Preset::Size(bytes) => return Ok(Value::Size(bytes)),
        Preset::Nothing => toml::Value::Array(Vec::new()),
    };
    check(form, &written, dir)
}

/// What kind of value it is, for people.
pub(crate) fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a text",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Float(_) => "a number with a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}

fn text(value: &toml::Value) -> Result<&str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("must be a text in quotes, not {}", kind(value)))
}

fn word(words: &[&str], text: &str) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    Err(format!("must be {}, not {text:?}", words.join(" or ")))
}

fn host(text: &str) -> Result<Value, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(Value::Text(text.to_owned()));
    }
    Err(format!(
        "must be a host name such as \"hooks.example.com\", not {text:?}"
    ))
}

fn number(min: u64, max: u64, value: &toml::Value) -> Result<Value, String> {
    let number = value
        .as_integer()
        .ok_or_else(|| format!("must be a whole number, not {}", kind(value)))?;
    u64::try_from(number)
        .ok()
        .filter(|number| (min..=max).contains(number))
        .map(Value::Number)
        .ok_or_else(|| format!("must be from {min} to {max}, not {number}"))
}

fn size(min: u64, max: u64, text: &str) -> Result<Value, String> {
    let bytes = units::parse_size(text).map_err(|error| error.to_string())?;
    if (min..=max).contains(&bytes) {
        return Ok(Value::Size(bytes));
    }
    Err(format!(
        "must be from {} to {}, not {text}",
        units::format_size(min),
        units::format_size(max)
    ))
}

fn span(min: Duration, max: Duration, text: &str) -> Result<Value, String> {
    let span = units::parse_duration(text).map_err(|error| error.to_string())?;
    if (min..=max).contains(&span) {
        return Ok(Value::Span(span));
    }
    Err(format!(
        "must be from {} to {}, not {text}",
        units::format_duration(min),
        units::format_duration(max)
    ))
}

/// Topic names have at most 249 characters; `retry.100s` and its like must fit behind the prefix.
const PREFIX_CHARS_MAX: usize = 200;

fn prefix(text: &str) -> Result<Value, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.chars().all(fits) && text.len() <= PREFIX_CHARS_MAX {
        return Ok(Value::Text(text.to_owned()));
    }
    Err(format!(
        "must be at most {PREFIX_CHARS_MAX} letters, digits, '.', '_' and '-', not {text:?}"
    ))
}

fn listen(text: &str) -> Result<Value, String> {
    text.parse().map(Value::Listen).map_err(|_| {
        format!("must be an address and a port such as 127.0.0.1:8080 or [::]:8080, not {text:?}")
    })
}

fn path(text: &str, dir: &Path) -> Result<Value, String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    Ok(Value::Path(dir.join(text)))
}

fn networks(value: &toml::Value) -> Result<Value, String> {
    let entries = value.as_array().ok_or_else(|| {
        format!(
            "must be a list such as [\"10.0.0.0/8\"], not {}",
            kind(value)
        )
    })?;
    let mut networks = Vec::with_capacity(entries.len());
    for entry in entries {
        let entry = text(entry)?;
        let network = entry
            .parse::<IpNet>()
            .or_else(|_| entry.parse::<std::net::IpAddr>().map(IpNet::from))
            .map_err(|_| format!("{entry:?} is not a network such as 10.0.0.0/8 or an address"))?;
        if network.prefix_len() == 0 {
            return Err(format!(
                "{entry:?} is everything: the guard would be off; name the networks you mean"
            ));
        }
        networks.push(network);
    }
    Ok(Value::Networks(networks))
}

fn store_url(text: &str, dir: &Path) -> Result<Value, String> {
    let problem = || "must be sqlite://FILE or postgres://USER@HOST/DATABASE".to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(problem)?;
    match scheme {
        "sqlite" if !rest.is_empty() => Ok(Value::Text(format!(
            "sqlite://{}",
            dir.join(rest).display()
        ))),
        "postgres" | "postgresql" if !rest.is_empty() && !rest.starts_with('/') => {
            Ok(Value::Text(text.to_owned()))
        }
        _ => Err(problem()),
    }
}

fn filter(text: &str) -> Result<Value, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| Value::Text(text.to_owned()))
        .map_err(|error| format!("{text:?} is not a log filter: {error}"))
}
