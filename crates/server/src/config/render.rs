//! The configuration in print: the effective one, and the reference page of all keys.

use hookline_model::units;

use super::keys::{Form, KAFKA, KEYS, Key, Preset, SECTIONS};
use super::load::Values;
use super::read::Value;

/// What is printed in place of a secret.
const REDACTED: &str = "[redacted]";

/// The effective configuration as TOML, secrets left out.
pub(crate) fn effective(values: &Values) -> String {
    let mut out = String::new();
    for (section, _) in SECTIONS {
        if !out.is_empty() {
            out.push('\n');
        }
        line(&mut out, format_args!("[{section}]"));
        if section == KAFKA {
            for (property, value) in &values.kafka {
                let value = if secret(property) { REDACTED } else { value };
                line(
                    &mut out,
                    format_args!("{} = {}", quoted(property), quoted(value)),
                );
            }
        }
        for key in KEYS.iter().filter(|key| key.section == section) {
            if let Some(value) = values.keys.get(&key.path()) {
                let danger = dangerous(key, value);
                line(
                    &mut out,
                    format_args!("{} = {}{danger}", key.name, written(key, value)),
                );
            }
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.push_str(&text.to_string());
    out.push('\n');
}

/// Whether a property of the Kafka client may hold a secret.
fn secret(property: &str) -> bool {
    let property = property.to_ascii_lowercase();
    [
        "password",
        "secret",
        "key.pem",
        "oauthbearer.config",
        "jaas",
        "assertion",
        "token",
    ]
    .iter()
    .any(|part| property.contains(part))
}

fn dangerous(key: &Key, value: &Value) -> &'static str {
    let on = match value {
        Value::Flag(on) => *on,
        Value::Networks(networks) => !networks.is_empty(),
        _ => false,
    };
    if on && key.about.starts_with("Dangerous") {
        "  # dangerous"
    } else {
        ""
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn written(key: &Key, value: &Value) -> String {
    match value {
        Value::Text(url) if matches!(key.form, Form::StoreUrl | Form::ProxyUrl) => {
            quoted(&without_password(url))
        }
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Span(span) => quoted(&units::format_duration(*span)),
        Value::Size(bytes) => quoted(&units::format_size(*bytes)),
        Value::Listen(address) => quoted(&address.to_string()),
        Value::Path(path) => quoted(&path.display().to_string()),
        Value::Networks(networks) => {
            let networks: Vec<_> = networks.iter().map(|n| quoted(&n.to_string())).collect();
            format!("[{}]", networks.join(", "))
        }
    }
}

/// A store's URL without what stands between ':' and '@' of its user, and without its query, which may hold a password, too.
fn without_password(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return REDACTED.into();
    };
    if scheme == "sqlite" {
        return url.to_owned();
    }
    let rest = match rest.split_once('?') {
        Some((before, _)) => format!("{before}?{REDACTED}"),
        None => rest.to_owned(),
    };
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = match user.split_once(':') {
                Some((name, _)) => format!("{name}:{REDACTED}"),
                None => user.to_owned(),
            };
            format!("{scheme}://{user}@{host}")
        }
        None => format!("{scheme}://{rest}"),
    }
}

/// The page `docs/configuration.md`.
pub(crate) fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for (section, about) in SECTIONS {
        line(&mut out, format_args!("\n## `[{section}]`\n\n{about}\n"));
        if section == KAFKA {
            out.push_str(KAFKA_NOTES);
            continue;
        }
        line(
            &mut out,
            format_args!("| key | value | default | environment |"),
        );
        line(&mut out, format_args!("|---|---|---|---|"));
        for key in KEYS.iter().filter(|key| key.section == section) {
            line(
                &mut out,
                format_args!(
                    "| `{}` | {} | `{}` | `{}` |",
                    key.name,
                    form(key.form),
                    default(key.preset),
                    key.variable()
                ),
            );
        }
        out.push('\n');
        for key in KEYS.iter().filter(|key| key.section == section) {
            line(&mut out, format_args!("- `{}`: {}", key.name, key.about));
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated by `hookline check-config --reference`; a test keeps it up to date. -->

One TOML file, given with `--config FILE` (or `HOOKLINE_CONFIG`; default `hookline.toml`). Every key has an environment twin, which wins over the
file. Unknown keys and variables are refused, and all errors are told at once, each with its key. Relative paths are relative to the directory of the
file. Durations are written `250ms`, `5s`, `1h`. Lists in variables are TOML lists, or separated by commas.

`hookline check-config --config FILE` prints what is in effect, without secrets, and names dangerous settings.
";

const KAFKA_NOTES: &str = "\
`\"bootstrap.servers\"` is needed with `engine = \"kafka\"`. In the environment write dots as single underscores:
`HOOKLINE_JOURNAL__KAFKA__BOOTSTRAP_SERVERS` is `bootstrap.servers`.
";

fn form(form: Form) -> String {
    match form {
        Form::Word(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(" or ")
        }
        Form::Number(min, max) => format!("{min} to {max}"),
        Form::Flag => "`true` or `false`".into(),
        Form::Span(min, max) => format!(
            "duration, {} to {}",
            units::format_duration(min),
            units::format_duration(max)
        ),
        Form::Size(min, max) => format!(
            "size, {} to {}",
            units::format_size(min),
            units::format_size(max)
        ),
        Form::Prefix => "letters, digits, `.`, `_`, `-`".into(),
        Form::Host => "host name".into(),
        Form::Listen => "address and port".into(),
        Form::Path => "path".into(),
        Form::PathOrNone => "path, or empty".into(),
        Form::Networks => "list of networks".into(),
        Form::StoreUrl => "URL".into(),
        Form::ProxyUrl => "URL, or empty".into(),
        Form::Filter => "log filter".into(),
    }
}

fn default(preset: Preset) -> String {
    match preset {
        Preset::Text(text) => quoted(text),
        Preset::Number(number) => number.to_string(),
        Preset::Flag(flag) => flag.to_string(),
        Preset::Span(span) => quoted(&units::format_duration(span)),
        Preset::Size(bytes) => quoted(&units::format_size(bytes)),
        Preset::Nothing => "[]".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::SECRETS_KEY;
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        assert_eq!(
            without_password("postgres://u:p@ss@host/db?password=x"),
            "postgres://u:[redacted]@host/db?[redacted]"
        );
        assert_eq!(without_password("postgres://host/db"), "postgres://host/db");
        for property in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
        ] {
            assert!(secret(property), "{property}");
        }
        assert!(!secret("bootstrap.servers") && !secret("ssl.key.location"));
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let there = std::fs::read_to_string(page).unwrap_or_default();
        assert!(
            there == reference(),
            "docs/configuration.md is out of date: run `hookline check-config --reference > docs/configuration.md`"
        );
    }

    #[test]
    fn the_secrets_key_is_mentioned() {
        assert!(reference().contains(SECRETS_KEY));
    }
}
