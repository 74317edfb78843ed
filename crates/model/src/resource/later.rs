//! What the words of the resource file already say but this version does not do. It is refused, so that nothing is silently ignored. Presets
//! are complete all the same; one whose values need such a part is usable as far as its document overrides them.
//!
//! This file is the one list. When a part is built, its line goes.

use serde_json::{Map, Value};

use super::reader::{At, Object, Reader, hint};

/// Keys that come later, the words they know (empty: any value), and the words that already work.
const KEYS: [(&str, &[&str], &[&str]); 3] = [
    ("ordered", &["webhook", "key"], &["false"]),
    ("batch", &[], &["none"]),
    (
        "body",
        &["array", "ndjson", "template"],
        &["standard", "cloudevents", "data", "none"],
    ),
];

/// What follows from an outcome, later.
const THEN: [&str; 2] = ["hold", "split"];

/// Refuses what comes later in a whole document; `given` is what it says itself, the rest are values of `preset`.
pub(super) fn refuse(
    reader: &mut Reader,
    whole: &Object<'_>,
    given: &Map<String, Value>,
    preset: &str,
) {
    for (key, later, now) in KEYS {
        let Some(at) = whole.get(key) else { continue };
        let word = match at.value {
            Value::Bool(true) if key == "ordered" => "webhook".to_owned(),
            Value::Bool(false) => "false".to_owned(),
            Value::String(word) => word.clone(),
            _ => String::new(),
        };
        if now.contains(&word.as_str()) {
            continue;
        }
        if !later.is_empty() && !later.contains(&word.as_str()) {
            let known: Vec<_> = later.iter().chain(now).copied().collect();
            let shown: String = word.chars().take(64).collect();
            let what = if shown.is_empty() {
                "this".into()
            } else {
                format!("{shown:?}")
            };
            let hint = hint(&word, &known);
            reader.error(&at.path, format!("{what} is no word for it; {hint}"));
            continue;
        }
        let from = if given.get(key).is_none_or(Value::is_null) {
            format!(" (preset `{preset}` asks for it)")
        } else {
            String::new()
        };
        let word = if later.is_empty() {
            String::new()
        } else {
            format!(": {word}")
        };
        let works = now.join(", ");
        reader.error(
            &at.path,
            format!("`{key}{word}` is not supported yet{from}; what works is `{key}`: {works}"),
        );
    }
}

/// Refuses consequences that come later. Returns whether it did.
pub(super) fn refuse_then(reader: &mut Reader, at: &At<'_>) -> bool {
    let later = THEN.iter().find(|word| at.is_word(word));
    if let Some(word) = later {
        reader.error(
            &at.path,
            format!("`{word}` is not supported yet; what works is dead, deactivate"),
        );
    }
    later.is_some()
}
