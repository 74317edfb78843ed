//! `hookline apply`: projects, event types, connectors and webhooks from files into the registry. Everything is checked before anything is written.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use hookline_dispatch::guard::UrlPolicy;
use hookline_model::resource::{
    ConnectorSpec, EventTypeSpec, FieldError, ProjectSpec, Resource, Webhook, WebhookSpec,
    parse_documents,
};
use hookline_model::time::Clock;
use hookline_registry::{ConnectorEntry, PutWebhook, Registry, WriteError};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::configure;
use crate::cli::ApplyArgs;
use crate::clock::SystemClock;
use crate::endpoints::{Endpoints, Verdict};
use crate::engine::{self, Access, System};
use crate::output::{Chain, Exit, say, say_json};
use crate::{checks, shown};

/// The largest file of resources: a hundred thousand webhooks.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Endpoints that are tried at the same time.
const TRIES_AT_ONCE: usize = 16;

/// Writes all documents of all files.
///
/// # Errors
/// Everything that is wrong with the files; else the first write that failed.
pub(crate) async fn run(args: ApplyArgs) -> Result<(), Exit> {
    let config = configure(&args.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let way = engine::way_out(&config, &clock)?;
    let resources = check(&args, way.urls())?;
    let system = System::open(&config, Access::Command, clock).await?;
    let done = async {
        let endpoints = Endpoints::new(&config, &system.clock, way);
        let verified = verify_all(&system.registry, &endpoints, &resources).await?;
        write_all(&system.registry, resources, verified, args.output.json()).await
    };
    let done = done.await;
    system.opened.close().await;
    done
}

/// Reads and checks everything.
fn check(args: &ApplyArgs, urls: &UrlPolicy) -> Result<Vec<Resource>, Exit> {
    let mut resources = Vec::new();
    let mut errors = Vec::new();
    for file in &args.files {
        let name = if file == Path::new("-") {
            "standard input".to_owned()
        } else {
            file.display().to_string()
        };
        match read(file) {
            Err(error) => errors.push(format!("--file: {name}: {error}")),
            Ok(text) => match parse_documents(&text) {
                Ok(parsed) => {
                    errors.extend(
                        parsed
                            .iter()
                            .flat_map(|resource| refused(resource, urls))
                            .map(|error| format!("{name}: {error}")),
                    );
                    resources.extend(parsed);
                }
                Err(wrong) => errors.extend(wrong.iter().map(|error| format!("{name}: {error}"))),
            },
        }
    }
    if errors.is_empty() {
        // Projects first, then connectors, so that the rest finds them whatever the order of the files; event types last, so that what a file says of one
        // that a project's preset brings is what stays.
        resources.sort_by_key(|resource| match resource {
            Resource::Project(_) => 0,
            Resource::Connector(_) => 1,
            Resource::Webhook(_) => 2,
            Resource::EventType(_) => 3,
        });
        return Ok(resources);
    }
    errors.push("nothing was applied".into());
    Err(Exit::Usage(errors))
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The same judgement as before each attempt.
fn refused(resource: &Resource, urls: &UrlPolicy) -> Vec<String> {
    let (what, wrong) = match resource {
        Resource::Webhook(spec) => {
            let settings = &spec.settings;
            let what = format!("Webhook {}/{}", settings.project, settings.name);
            (what, checks::webhook(urls, settings))
        }
        Resource::Connector(spec) => {
            let what = format!("Connector {}/{}", spec.project, spec.name);
            (what, checks::connector(urls, spec).into_iter().collect())
        }
        Resource::Project(_) | Resource::EventType(_) => return Vec::new(),
    };
    let line = |error: &FieldError| format!("{what}: {error}");
    wrong.iter().map(line).collect()
}

/// Tries the endpoints of webhooks that ask for it, several at a time, before anything is written. In the order of the resources.
async fn verify_all(
    registry: &Registry,
    endpoints: &Endpoints,
    resources: &[Resource],
) -> Result<Vec<Option<Verdict>>, Exit> {
    let snapshot = registry
        .refresh()
        .await
        .map_err(|error| Exit::from_error(&error))?;
    let tries = resources.iter().map(|resource| async {
        let Resource::Webhook(spec) = resource else {
            return Ok(None);
        };
        let settings = &spec.settings;
        let saved = snapshot.by_name(settings.project.as_str(), settings.name.as_str());
        let unsaved = unsaved_connector(resources, settings);
        let connector = unsaved
            .as_ref()
            .or_else(|| snapshot.connector_of(settings).map(|found| &**found));
        let verdict = endpoints.verify(&snapshot, spec, saved, connector);
        let named = |why: String| format!("webhook {}/{}: {why}", settings.project, settings.name);
        match verdict.await.map_err(named)? {
            Some(Verdict {
                forbidden: Some(why),
                ..
            }) => Err(named(why)),
            verdict => Ok(verdict),
        }
    });
    let tried: Vec<_> = futures::stream::iter(tries)
        .buffered(TRIES_AT_ONCE)
        .collect()
        .await;
    let mut verdicts = Vec::with_capacity(tried.len());
    let mut errors = Vec::new();
    for verdict in tried {
        match verdict {
            Ok(verdict) => verdicts.push(verdict),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        return Ok(verdicts);
    }
    errors.push("nothing was applied".into());
    Err(Exit::Failed(errors))
}

/// The webhook's connector, where it is to be written, too.
fn unsaved_connector(resources: &[Resource], webhook: &Webhook) -> Option<ConnectorEntry> {
    let name = webhook.connector.as_ref()?;
    let found = resources.iter().find_map(|resource| match resource {
        Resource::Connector(spec) => {
            (spec.project == webhook.project && spec.name == *name).then_some(spec)
        }
        _ => None,
    });
    ConnectorEntry::unsaved(found?)
}

async fn write_all(
    registry: &Registry,
    resources: Vec<Resource>,
    verdicts: Vec<Option<Verdict>>,
    json: bool,
) -> Result<(), Exit> {
    for (resource, verdict) in resources.into_iter().zip(verdicts) {
        let (what, written) = match resource {
            Resource::Project(spec) => {
                let what = format!("project {}", spec.id);
                (what, project(registry, &spec).await)
            }
            Resource::EventType(spec) => {
                let what = format!("event type {}/{}", spec.project, spec.name);
                (what, event_type(registry, &spec).await)
            }
            Resource::Connector(spec) => {
                let what = format!("connector {}/{}", spec.project, spec.name);
                (what, connector(registry, &spec).await)
            }
            Resource::Webhook(spec) => {
                let settings = &spec.settings;
                let what = format!("webhook {}/{}", settings.project, settings.name);
                (what, webhook(registry, *spec, verdict).await)
            }
        };
        let line = written.map_err(|error| Exit::failed(format!("{what}: {}", Chain(&error))))?;
        if json {
            say_json(&line)?;
        } else {
            show(&what, &line)?;
        }
    }
    Ok(())
}

async fn project(registry: &Registry, spec: &ProjectSpec) -> Result<Value, WriteError> {
    let done = registry.put_project(spec, None).await?;
    let mut line = json!({
        "kind": "Project",
        "id": &*done.project.id,
        "result": result(done.created, done.written.changed),
        "version": done.written.version,
    });
    if let Some(loaded) = done.loaded {
        line["event_types_created"] = loaded.created.into();
    }
    Ok(line)
}

async fn event_type(registry: &Registry, spec: &EventTypeSpec) -> Result<Value, WriteError> {
    let done = registry.put_event_type(spec, true, None).await?;
    Ok(json!({
        "kind": "EventType",
        "project": spec.project,
        "name": spec.name,
        "result": result(done.created, done.written.changed),
        "version": done.written.version,
    }))
}

async fn connector(registry: &Registry, spec: &ConnectorSpec) -> Result<Value, WriteError> {
    let done = registry.put_connector(spec, true, None).await?;
    Ok(json!({
        "kind": "Connector",
        "project": spec.project,
        "name": spec.name,
        "result": result(done.created, done.written.changed),
        "version": done.written.version,
    }))
}

async fn webhook(
    registry: &Registry,
    spec: WebhookSpec,
    verdict: Option<Verdict>,
) -> Result<Value, WriteError> {
    let put = PutWebhook {
        project: spec.settings.project.clone(),
        name: spec.settings.name.clone(),
        keep_state: !spec.state_given,
        settings: spec.settings,
        verified: verdict.as_ref().and_then(|v| v.verified.clone()),
        make_project: true,
        if_match: None,
    };
    let done = registry.put_webhook(&put).await?;
    let mut line = json!({
        "kind": "Webhook",
        "project": &*done.webhook.project,
        "name": &*done.webhook.name,
        "result": result(done.created, done.written.changed),
        "uid": done.webhook.uid.to_string(),
        "version": done.written.version,
    });
    if let Some(secret) = &done.new_secret {
        line["secret"] = secret.expose_secret().into();
    }
    if let Some(secret) = done.webhook.secrets(SystemClock.now()).next()
        && let Some(key) = secret.public_key
    {
        line["public_key"] = key.into();
    }
    if let Some(verdict) = &verdict {
        line["verification_result"] = shown::verdict(&done.webhook.settings, verdict);
    }
    Ok(line)
}

fn result(created: bool, changed: bool) -> &'static str {
    match (created, changed) {
        (true, _) => "created",
        (false, true) => "updated",
        (false, false) => "unchanged",
    }
}

fn show(what: &str, line: &Value) -> Result<(), Exit> {
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let uid = match text("uid") {
        uid if uid.is_empty() => uid,
        uid => format!(" uid {uid}"),
    };
    let loaded = match line["event_types_created"].as_u64() {
        Some(created) if created > 0 => format!(", {created} event types of its preset"),
        _ => String::new(),
    };
    say(format_args!(
        "{} {what}{uid} version {}{loaded}",
        text("result"),
        line["version"]
    ))?;
    let verification = &line["verification_result"];
    if verification["passed"] == false {
        let kind = verification["verification"].as_str().unwrap_or_default();
        let detail = verification["detail"].as_str().unwrap_or_default();
        say(format_args!(
            "saved, but the verification ({kind}) failed: {detail}"
        ))?;
    }
    let key = text("public_key");
    if !key.is_empty() && line["result"] != "unchanged" {
        say(format_args!(
            "public key {key}   (receivers check signatures with it)"
        ))?;
    }
    match text("secret") {
        secret if secret.is_empty() => Ok(()),
        secret => say(format_args!(
            "secret {secret}   (shown this once; requests are signed with it)"
        )),
    }
}
