//! `/v1/presets`: what webhooks are when their documents leave things out.

use axum::Json;
use axum::extract::Path;
use hookline_model::presets::Preset;
use serde_json::{Value, json};

use super::Problem;
use super::caller::{Caller, Read};

/// `GET /v1/presets`.
pub(super) async fn list(_: Caller<Read>) -> Result<Json<Value>, Problem> {
    let items: Vec<_> = Preset::ALL
        .iter()
        .map(|preset| shown(*preset, false))
        .collect();
    Ok(Json(json!({"items": items, "next_cursor": null})))
}

/// `GET /v1/presets/{preset}`: with its event types.
pub(super) async fn show(
    _: Caller<Read>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let preset = name.parse::<Preset>();
    let preset = preset.map_err(|error| Problem::not_found(error.to_string()))?;
    Ok(Json(shown(preset, true)))
}

fn shown(preset: Preset, whole: bool) -> Value {
    let definition = preset.definition();
    let mut shown = json!({
        "name": preset,
        "title": definition.title,
        "description": definition.description,
        "status_path": definition.status_path,
        "webhook": definition.webhook,
    });
    let types = preset.catalog().iter();
    shown["event_types"] = if whole {
        types
            .map(|entry| {
                json!({
                    "name": entry.name,
                    "category": entry.category,
                    "group": entry.group,
                    "title": entry.title,
                    "description": entry.description,
                    "schema": entry.schema,
                    "example": entry.example,
                })
            })
            .collect()
    } else {
        types
            .map(|entry| Value::from(entry.name.as_str()))
            .collect()
    };
    shown
}
