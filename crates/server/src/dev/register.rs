//! The sample webhooks in the registry, and the receiver they name.

use std::net::SocketAddr;
use std::sync::Arc;

use hookline_model::access;
use hookline_model::resource::{Resource, Webhook, parse_documents};
use hookline_model::signature::SigningKey;
use hookline_model::time::{Clock, Millis};
use hookline_registry::{NewKey, PutWebhook, Snapshot};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;

use super::home::Home;
use super::samples::{PROJECT, webhooks};
use crate::engine::System;
use crate::output::Exit;
use crate::receiver::Receiver;
use crate::tasks::{Stop, TaskError};

/// Signing keys that the receiver tries, at most.
const KEYS_MAX: usize = 1000;

/// Registers the sample webhooks where the project is not there yet. When the receiver at `base` was elsewhere `before`, webhooks of the
/// project that name the old place follow it.
///
/// # Errors
/// When the registry does not take one.
pub(super) async fn samples(
    system: &System,
    base: &str,
    before: Option<SocketAddr>,
) -> Result<(), Exit> {
    let snapshot = system.registry.snapshot();
    if snapshot.project(PROJECT).is_none() {
        return first(system, base).await;
    }
    let Some(before) = before.map(|address| format!("http://{address}")) else {
        return Ok(());
    };
    if before == base {
        return Ok(());
    }
    for webhook in snapshot.webhooks().filter(|w| &*w.project == PROJECT) {
        let Some(path) = path_at(&webhook.settings.url, &before) else {
            continue;
        };
        let mut settings = webhook.settings.clone();
        settings.url = format!("{base}{path}");
        put(system, settings).await?;
    }
    Ok(())
}

/// Registers all samples.
async fn first(system: &System, base: &str) -> Result<(), Exit> {
    let resources = parse_documents(&webhooks(base)).map_err(|errors| {
        Exit::Failed(errors.iter().map(|e| format!("the samples: {e}")).collect())
    })?;
    for resource in resources {
        match resource {
            Resource::Webhook(webhook) => put(system, webhook.settings).await?,
            Resource::EventType(event_type) => {
                let written = system
                    .registry
                    .put_event_type(&event_type, true, None)
                    .await;
                written.map_err(|error| Exit::from_error(&error))?;
            }
            Resource::Connector(connector) => {
                let written = system.registry.put_connector(&connector, true, None).await;
                written.map_err(|error| Exit::from_error(&error))?;
            }
            Resource::Project(project) => {
                let written = system.registry.put_project(&project, None).await;
                written.map_err(|error| Exit::from_error(&error))?;
            }
        }
    }
    Ok(())
}

async fn put(system: &System, settings: Webhook) -> Result<(), Exit> {
    let put = PutWebhook {
        project: settings.project.clone(),
        name: settings.name.clone(),
        settings,
        keep_state: true,
        verified: None,
        make_project: true,
        if_match: None,
    };
    let written = system.registry.put_webhook(&put).await;
    written.map_err(|error| Exit::from_error(&error))?;
    Ok(())
}

/// What follows `base` in `url`, where it is there.
fn path_at<'a>(url: &'a str, base: &str) -> Option<&'a str> {
    url.strip_prefix(base).filter(|path| path.starts_with('/'))
}

/// A key to the API that may do everything: the one of the last time, if it is still accepted.
///
/// # Errors
/// When none can be made or kept.
pub(super) async fn api_key(system: &System, home: &Home) -> Result<String, Exit> {
    let snapshot = system.registry.snapshot();
    let accepted = |text: &String| {
        let Ok(read) = access::read_key(text) else {
            return false;
        };
        let entry = snapshot.key(&read.id);
        entry.is_some_and(|e| e.key.hash.matches(&read.hash) && e.live(system.clock.now()))
    };
    if let Some(key) = home.key().filter(accepted) {
        return Ok(key);
    }
    let new = NewKey {
        project: None,
        role: access::Role::Admin,
        title: "made by hookline dev".into(),
        expires_at: None,
    };
    let made = system.registry.create_key(&new).await;
    let made = made.map_err(|error| Exit::from_error(&error))?;
    let key = made.text.expose_secret();
    home.remember_key(key)
        .map_err(|error| Exit::failed(format!("the key to the API cannot be kept: {error}")))?;
    Ok(key.to_owned())
}

/// The keys that webhooks at the receiver sign with.
pub(super) fn keys(snapshot: &Snapshot, base: &str, now: Millis) -> Vec<SigningKey> {
    let mut keys = Vec::new();
    for webhook in snapshot.webhooks() {
        if path_at(&webhook.settings.url, base).is_none() || keys.len() >= KEYS_MAX {
            continue;
        }
        match webhook.signing_keys(now) {
            Ok(of_webhook) => keys.extend(of_webhook.iter().cloned()),
            Err(error) => {
                tracing::warn!(%error, webhook.uid = %webhook.uid, "the receiver cannot check signatures");
            }
        }
    }
    keys
}

/// Runs the receiver and tells it of new keys.
pub(super) async fn receive(
    receiver: Arc<Receiver>,
    mut changes: watch::Receiver<Arc<Snapshot>>,
    base: String,
    clock: Arc<dyn Clock>,
    stop: Stop,
) -> Result<(), TaskError> {
    let follow = async {
        while changes.changed().await.is_ok() {
            let snapshot = Arc::clone(&changes.borrow_and_update());
            receiver.expect_keys(keys(&snapshot, &base, clock.now()));
        }
        // The registry has stopped: what is known stays.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = Arc::clone(&receiver).run(stop) => done,
        () = follow => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_resources_that_can_be_registered() {
        let resources = parse_documents(&webhooks("http://127.0.0.1:4000")).expect("valid");
        let urls: Vec<_> = resources
            .iter()
            .filter_map(|resource| match resource {
                Resource::Webhook(webhook) => Some(webhook.settings.url.as_str()),
                Resource::Project(project) => {
                    assert_eq!(project.id.as_str(), PROJECT);
                    None
                }
                Resource::EventType(_) | Resource::Connector(_) => None,
            })
            .collect();
        assert_eq!(
            urls,
            [
                "http://127.0.0.1:4000/ok",
                "http://127.0.0.1:4000/flaky",
                "http://127.0.0.1:4000/dead"
            ]
        );
    }

    #[test]
    fn a_url_is_at_the_receiver_only_by_its_whole_address() {
        let base = "http://127.0.0.1:4000";
        assert_eq!(path_at("http://127.0.0.1:4000/ok", base), Some("/ok"));
        assert_eq!(path_at("http://127.0.0.1:40001/ok", base), None);
        assert_eq!(path_at("https://example.com/ok", base), None);
    }
}
