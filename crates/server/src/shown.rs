//! Resources as people and programs see them: the words of the resource file, and what the system added. Secrets are never shown.

use hookline_model::resource::Webhook;
use hookline_model::time::Millis;
use hookline_registry::{DeletedWebhook, EventTypeEntry, KeyEntry, ProjectEntry, WebhookEntry};
use serde_json::{Value, json};

/// What the system adds to resources. Documents that come back with these members are taken; they change nothing.
pub(crate) const READ_ONLY: [&str; 10] = [
    "uid",
    "version",
    "epoch",
    "created_at",
    "deleted_at",
    "state_reason",
    "state_at",
    "secrets",
    "secret",
    "verification_result",
];

/// A project.
pub(crate) fn project(entry: &ProjectEntry) -> Value {
    let mut shown = entry.settings.to_document();
    shown["version"] = entry.version.into();
    shown
}

/// An event type.
pub(crate) fn event_type(entry: &EventTypeEntry) -> Value {
    let mut shown = entry.settings.to_document();
    shown["version"] = entry.version.into();
    shown
}

/// A webhook.
pub(crate) fn webhook(entry: &WebhookEntry, now: Millis) -> Value {
    let mut shown = settings(&entry.settings);
    shown["uid"] = entry.uid.to_string().into();
    shown["version"] = entry.version.into();
    shown["epoch"] = entry.epoch.into();
    shown["created_at"] = entry.created_at.to_rfc3339().into();
    shown["state_reason"] = entry.state_reason.clone().into();
    shown["state_at"] = entry.state_at.to_rfc3339().into();
    let secrets = entry.secrets(now).map(|(created_at, expires_at)| {
        let expires_at = expires_at.map(Millis::to_rfc3339);
        json!({"created_at": created_at.to_rfc3339(), "expires_at": expires_at})
    });
    shown["secrets"] = secrets.collect();
    shown
}

/// A webhook that was deleted.
pub(crate) fn deleted_webhook(deleted: &DeletedWebhook) -> Value {
    let mut shown = settings(&deleted.settings);
    shown["uid"] = deleted.uid.to_string().into();
    shown["created_at"] = deleted.created_at.to_rfc3339().into();
    shown["deleted_at"] = deleted.deleted_at.to_rfc3339().into();
    shown
}

fn settings(settings: &Webhook) -> Value {
    settings.to_document()
}

/// A key, but for its text.
pub(crate) fn key(entry: &KeyEntry) -> Value {
    let key = &entry.key;
    json!({
        "id": key.id,
        "project": key.project,
        "role": key.role,
        "title": key.title,
        "hint": key.hint,
        "created_at": Millis(key.created_at_ms).to_rfc3339(),
        "expires_at": key.expires_at_ms.map(|at| Millis(at).to_rfc3339()),
        "version": entry.version,
    })
}
