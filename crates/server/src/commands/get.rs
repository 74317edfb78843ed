//! `hookline get`: what is registered. Secrets are never shown.

use hookline_model::ids::WebhookUid;
use hookline_model::time::Millis;
use hookline_registry::{ConnectorEntry, EventTypeEntry, Layout, Snapshot};
use serde_json::{Value, json};

use super::open;
use crate::cli::{GetArgs, GetKind};
use crate::output::{Exit, say, say_json};
use crate::shown;

/// Shows it.
///
/// # Errors
/// When there is no such thing.
pub(crate) async fn run(args: GetArgs) -> Result<(), Exit> {
    let system = open(&args.config).await?;
    let refreshed = system.registry.refresh().await;
    let shown = match refreshed {
        Ok(snapshot) => show(&args, &snapshot, system.clock.now()),
        Err(error) => Err(Exit::from_error(&error)),
    };
    system.opened.close().await;
    shown
}

fn show(args: &GetArgs, snapshot: &Snapshot, now: Millis) -> Result<(), Exit> {
    let (what, found) = match args.kind {
        GetKind::Projects => ("project", projects(args, snapshot)),
        GetKind::EventTypes => ("event type", event_types(args, snapshot)?),
        GetKind::Connectors => ("connector", connectors(args, snapshot)?),
        GetKind::Webhooks => ("webhook", webhooks(args, snapshot, now)?),
        GetKind::Jobs => ("job", jobs(args, snapshot)),
        GetKind::Layout => (
            "layout",
            snapshot.layout().map(|l| layout(l)).into_iter().collect(),
        ),
    };
    match (&args.name, found.as_slice()) {
        (Some(name), []) => {
            let project = args.project.as_deref();
            let place = project
                .map(|p| format!(" in project {p}"))
                .unwrap_or_default();
            Err(Exit::failed(format!("there is no {what} {name}{place}")))
        }
        (_, [one])
            if args.output.json() && (args.name.is_some() || args.kind == GetKind::Layout) =>
        {
            say_json(one)
        }
        _ if args.output.json() => say_json(&Value::from(found)),
        _ => table(&found),
    }
}

fn projects(args: &GetArgs, snapshot: &Snapshot) -> Vec<Value> {
    let wanted = args.name.as_ref().or(args.project.as_ref());
    let mut found: Vec<_> = snapshot
        .projects()
        .filter(|project| wanted.is_none_or(|id| *id == *project.id))
        .collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
        .into_iter()
        .map(|entry| shown::project(entry))
        .collect()
}

/// Those of that name; as with webhooks, a name alone must mean one.
fn named<'a, T: 'a, I: Iterator<Item = &'a T>>(
    args: &GetArgs,
    snapshot: &'a Snapshot,
    what: &str,
    of_project: impl Fn(&'a str) -> I,
    place: impl Fn(&'a T) -> (&'a str, &'a str),
) -> Result<Vec<&'a T>, Exit> {
    let mut projects: Vec<_> = snapshot.projects().map(|project| &*project.id).collect();
    projects.retain(|id| args.project.as_ref().is_none_or(|wanted| wanted == id));
    projects.sort_unstable();
    let all = projects.into_iter().flat_map(of_project);
    let found: Vec<_> = all
        .filter(|entry| args.name.as_ref().is_none_or(|name| name == place(entry).1))
        .collect();
    if let (Some(name), true) = (&args.name, found.len() > 1) {
        let projects: Vec<_> = found.iter().map(|entry| place(entry).0).collect();
        return Err(ambiguous(what, name, &projects));
    }
    Ok(found)
}

fn place_of_type(entry: &EventTypeEntry) -> (&str, &str) {
    let spec = &entry.settings;
    (spec.project.as_str(), spec.name.as_str())
}

fn place_of_connector(entry: &ConnectorEntry) -> (&str, &str) {
    (&entry.project, &entry.name)
}

fn event_types(args: &GetArgs, snapshot: &Snapshot) -> Result<Vec<Value>, Exit> {
    let of_project = |id| snapshot.event_types(id).map(|entry| &**entry);
    let found = named(args, snapshot, "event type", of_project, place_of_type)?;
    Ok(found.into_iter().map(shown::event_type).collect())
}

fn connectors(args: &GetArgs, snapshot: &Snapshot) -> Result<Vec<Value>, Exit> {
    let of_project = |id| snapshot.connectors(id).map(|entry| &**entry);
    let found = named(args, snapshot, "connector", of_project, place_of_connector)?;
    Ok(found.into_iter().map(shown::connector).collect())
}

/// Their ids are nowhere else.
fn jobs(args: &GetArgs, snapshot: &Snapshot) -> Vec<Value> {
    let wanted = |of: &Option<String>, is: &str| of.as_ref().is_none_or(|of| *of == *is);
    let mut found: Vec<_> = snapshot
        .all_jobs()
        .filter(|job| wanted(&args.project, &job.project) && wanted(&args.name, &job.id))
        .collect();
    found.sort_by(|a, b| (&a.project, &a.id).cmp(&(&b.project, &b.id)));
    found.into_iter().map(|entry| shown::job(entry)).collect()
}

fn ambiguous(what: &str, name: &str, projects: &[&str]) -> Exit {
    let projects = projects.join(", ");
    Exit::usage(format!(
        "--project: {what} {name} exists in {projects}: say which one"
    ))
}

/// Those of that name or uid. A name that stands in several projects needs the project, so that nobody acts on the wrong one.
fn webhooks(args: &GetArgs, snapshot: &Snapshot, now: Millis) -> Result<Vec<Value>, Exit> {
    let uid = args
        .name
        .as_ref()
        .and_then(|name| name.parse::<WebhookUid>().ok());
    let mut found: Vec<_> = snapshot
        .webhooks()
        .filter(|w| args.project.as_ref().is_none_or(|p| *p == *w.project))
        .filter(|w| {
            args.name
                .as_ref()
                .is_none_or(|name| *name == *w.name || uid == Some(w.uid))
        })
        .collect();
    found.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    if let (Some(name), true) = (&args.name, found.len() > 1) {
        let projects: Vec<_> = found.iter().map(|w| &*w.project).collect();
        return Err(ambiguous("webhook", name, &projects));
    }
    Ok(found
        .into_iter()
        .map(|entry| shown::webhook(entry, now))
        .collect())
}

fn layout(layout: &Layout) -> Value {
    let mut shown = json!({"kind": "Layout"});
    merge(&mut shown, serde_json::to_value(layout));
    shown
}

/// Adds the fields of an object. Settings always serialise; if they ever do not, the rest is shown.
fn merge(shown: &mut Value, settings: serde_json::Result<Value>) {
    if let (Some(shown), Ok(Value::Object(settings))) = (shown.as_object_mut(), settings) {
        shown.extend(settings);
    }
}

/// Columns of a table for people.
const COLUMNS: [&str; 18] = [
    "project",
    "id",
    "status",
    "name",
    "type",
    "state",
    "url",
    "category",
    "group",
    "title",
    "role",
    "hint",
    "expires_at",
    "partitions",
    "tier_partitions",
    "uid",
    "archived",
    "version",
];

/// A table for people, of the columns that the rows have.
pub(super) fn table(rows: &[Value]) -> Result<(), Exit> {
    let columns: Vec<_> = COLUMNS
        .into_iter()
        .filter(|column| rows.iter().any(|row| row.get(column).is_some()))
        .collect();
    if columns.is_empty() {
        return say("none");
    }
    let mut lines = vec![columns.iter().map(|c| c.to_uppercase()).collect::<Vec<_>>()];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|c| cell(row.get(c))).collect()),
    );
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| {
            lines
                .iter()
                .map(|line| line[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        say(text.trim_end())?;
    }
    Ok(())
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
