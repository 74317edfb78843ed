//! Resources as people and programs see them: the words of the resource file, and what the system added. Secrets are never shown.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hookline_dispatch::transport;
use hookline_model::outcome::Outcome;
use hookline_model::resource::Webhook;
use hookline_model::time::Millis;
use hookline_registry::{
    ConnectorEntry, DeletedWebhook, EventTypeEntry, JobEntry, KeyEntry, ProjectEntry, WebhookEntry,
};
use serde_json::{Value, json};

use crate::endpoints::{TestSend, Verdict};

/// What the system adds to resources. Documents that come back with these members are taken; they change nothing.
pub(crate) const READ_ONLY: [&str; 11] = [
    "uid",
    "version",
    "epoch",
    "created_at",
    "deleted_at",
    "state_reason",
    "state_at",
    "secrets",
    "secret",
    "secret_at",
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

/// A connector, without its secret.
pub(crate) fn connector(entry: &ConnectorEntry) -> Value {
    let mut shown = entry.settings.to_document();
    shown["version"] = entry.version.into();
    shown["created_at"] = entry.created_at.to_rfc3339().into();
    shown["secret_at"] = entry.secret_at.to_rfc3339().into();
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
    let secrets = entry.secrets(now).map(|secret| {
        let expires_at = secret.expires_at.map(Millis::to_rfc3339);
        let mut shown = json!({
            "created_at": secret.created_at.to_rfc3339(),
            "expires_at": expires_at,
        });
        if let Some(key) = secret.public_key {
            shown["public_key"] = key.into();
        }
        shown
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

/// A request to an endpoint and what came of it, with the fields of an item of `attempts`. It is recorded nowhere.
pub(crate) fn test(webhook: &Webhook, saved: Option<&Arc<WebhookEntry>>, test: &TestSend) -> Value {
    let TestSend { id, event, tried } = test;
    let exchange = &tried.exchange;
    let delivered = tried.delivered(webhook);
    let status = exchange.answer.status();
    let class = (!delivered).then(|| exchange.answer.error_class().as_str());
    let outcome = if delivered {
        Outcome::Delivered
    } else {
        Outcome::Failed
    };
    // Microseconds are as fine as it gets.
    let ms = |span: Option<Duration>| span.map(|span| (span.as_secs_f64() * 1e6).round() / 1e3);
    let timings = &exchange.timings;
    let request = tried.sent.as_ref().map(|sent| {
        let mut shown = json!({
            "method": sent.method,
            "url": sent.url,
            "headers": headers(&sent.headers),
            "body_bytes": sent.body.len(),
        });
        set_body(&mut shown, &sent.body);
        shown
    });
    let response = status.map(|status| {
        let kept = exchange
            .headers
            .iter()
            .filter(|(name, _)| transport::kept(name));
        let kept: Vec<_> = kept.cloned().collect();
        let mut shown = json!({
            "status": status,
            "headers": headers(&kept),
            "body_truncated": exchange.body_truncated,
        });
        set_body(&mut shown, &exchange.body);
        shown
    });
    json!({
        "test": true,
        "id": format!("{id}.0.1"),
        "delivery_id": id,
        "run": 0,
        "event_id": event.id,
        "event_type": event.r#type,
        "webhook": webhook.name,
        "webhook_uid": saved.map(|saved| saved.uid.to_string()),
        "attempt": 1,
        "outcome": outcome.as_str(),
        "status": status,
        "error_class": class,
        "error_detail": Some(&exchange.detail).filter(|detail| !detail.is_empty()),
        "started_at": exchange.started_at.to_rfc3339(),
        "duration_ms": u64::try_from(exchange.duration.as_millis()).unwrap_or(u64::MAX),
        "timings": {
            "resolve_ms": ms(timings.resolve),
            "connect_ms": ms(timings.connect),
            "tls_ms": ms(timings.tls),
            "answer_ms": ms(timings.answer),
            "body_ms": ms(timings.body),
        },
        "next_attempt_at": null,
        "url": webhook.url,
        "request": request,
        "response": response,
    })
}

/// What came of a verification.
pub(crate) fn verdict(webhook: &Webhook, verdict: &Verdict) -> Value {
    json!({
        "verification": webhook.verification.as_str(),
        "passed": verdict.passed,
        "detail": verdict.detail,
        "attempt": test(webhook, None, &verdict.test),
    })
}

fn headers(headers: &[(String, Bytes)]) -> Vec<Value> {
    let shown = headers
        .iter()
        .map(|(name, value)| json!({"name": name, "value": String::from_utf8_lossy(value)}));
    shown.collect()
}

/// As text where it is text, else as base64.
fn set_body(shown: &mut Value, body: &[u8]) {
    match std::str::from_utf8(body) {
        Ok(text) => shown["body"] = text.into(),
        Err(_) => {
            shown["body"] = Value::Null;
            shown["body_base64"] = STANDARD.encode(body).into();
        }
    }
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

/// A job, and how far it is.
pub(crate) fn job(entry: &JobEntry) -> Value {
    let job = &entry.job;
    let at = |ms: Option<i64>| ms.map(|ms| Millis(ms).to_rfc3339());
    let (read, of) = job.read_of();
    json!({
        "id": entry.id,
        "project": entry.project,
        "kind": job.kind,
        "webhook": job.webhook.as_ref().map(|webhook| &webhook.name),
        "webhook_uid": job.webhook.as_ref().map(|webhook| webhook.uid),
        "filter": job.filter,
        "status": job.status,
        "error": job.error,
        "worker": job.owner.as_ref().map(|owner| &owner.worker),
        "created_at": at(Some(job.created_at_ms)),
        "started_at": at(job.started_at_ms),
        "finished_at": at(job.finished_at_ms),
        "progress": {"read": read, "of": of, "partitions": job.partitions},
        "counts": job.counts,
        "version": entry.version,
    })
}
