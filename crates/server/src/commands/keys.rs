//! `hookline keys`: keys to the API. The first one can only be made here.

use hookline_model::access::Role;
use hookline_model::ids::Slug;
use hookline_registry::{KeyEntry, NewKey};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::open;
use crate::cli::{KeysAction, KeysArgs, KeysCreateArgs, KeysListArgs, KeysRevokeArgs};
use crate::engine::System;
use crate::output::{Chain, Exit, say, say_json};
use crate::shown;

/// Does what was asked for.
///
/// # Errors
/// When the registry does not take it, or there is no such key or project.
pub(crate) async fn run(args: KeysArgs) -> Result<(), Exit> {
    match args.action {
        KeysAction::Create(args) => {
            // Wrong usage is told before anything is opened.
            let project = slug(args.project.as_deref())?;
            let system = open(&args.config).await?;
            let done = create(&system, &args, project).await;
            system.opened.close().await;
            done
        }
        KeysAction::List(args) => {
            let system = open(&args.config).await?;
            let done = list(&system, &args).await;
            system.opened.close().await;
            done
        }
        KeysAction::Revoke(args) => {
            let system = open(&args.config).await?;
            let done = revoke(&system, &args).await;
            system.opened.close().await;
            done
        }
    }
}

fn slug(project: Option<&str>) -> Result<Option<Slug>, Exit> {
    let read = project.map(Slug::new).transpose();
    read.map_err(|error| Exit::usage(format!("--project: {error}")))
}

async fn create(system: &System, args: &KeysCreateArgs, project: Option<Slug>) -> Result<(), Exit> {
    let expires_at = args.expires_in.map(|span| system.clock.now().plus(span));
    let new = NewKey {
        project,
        role: args.role,
        title: args.title.clone(),
        expires_at,
    };
    let made = system.registry.create_key(&new).await;
    let made = made.map_err(|error| match error {
        hookline_registry::WriteError::NotFound { .. } => {
            let project = args.project.as_deref().unwrap_or_default();
            Exit::failed(format!(
                "--project: there is no project {project}; `hookline apply` makes it"
            ))
        }
        other => Exit::failed(Chain(&other).to_string()),
    })?;
    if args.output.json() {
        let mut line = shown::key(&made.entry);
        line["key"] = made.text.expose_secret().into();
        return say_json(&line);
    }
    // Alone on standard output, so that a script can take it.
    say(made.text.expose_secret())
}

async fn list(system: &System, args: &KeysListArgs) -> Result<(), Exit> {
    let snapshot = system.registry.refresh().await;
    let snapshot = snapshot.map_err(|error| Exit::from_error(&error))?;
    let of = |entry: &&std::sync::Arc<KeyEntry>| {
        let project = entry.key.project.as_ref().map(Slug::as_str);
        args.project.is_none() || args.project.as_deref() == project
    };
    let mut found: Vec<_> = snapshot.keys().filter(of).collect();
    found.sort_by_key(|entry| (entry.key.project.clone(), entry.key.created_at_ms));
    let shown: Vec<Value> = found.iter().map(|entry| shown::key(entry)).collect();
    if args.output.json() {
        return say_json(&Value::from(shown));
    }
    super::get::table(&shown)
}

async fn revoke(system: &System, args: &KeysRevokeArgs) -> Result<(), Exit> {
    let snapshot = system.registry.refresh().await;
    let snapshot = snapshot.map_err(|error| Exit::from_error(&error))?;
    let Some(entry) = snapshot.key(&args.id) else {
        return Err(Exit::failed(format!(
            "there is no key {}; `hookline keys list` shows their ids",
            args.id
        )));
    };
    let project = entry.key.project.as_ref();
    let revoked = system.registry.revoke_key(project, &args.id, None).await;
    revoked.map_err(|error| Exit::failed(Chain(&error).to_string()))?;
    say(format_args!("revoked {}", args.id))
}

/// The role that a word names.
///
/// # Errors
/// For clap to print.
pub(crate) fn role(text: &str) -> Result<Role, String> {
    text.parse::<Role>().map_err(|error| error.to_string())
}
