//! `hookline redrive` and `hookline replay`: a job is made, and followed to its end.
//!
//! It is run by a process with the role `jobs`; whoever follows it only looks.

use std::io::IsTerminal as _;
use std::time::Duration;

use hookline_history::RangesError;
use hookline_model::ids::Slug;
use hookline_model::job::{JobKind, JobSpec, JobStatus};
use hookline_registry::{JobEntry, WriteError};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::open;
use crate::cli::{FollowArgs, RedriveArgs, ReplayArgs};
use crate::engine::System;
use crate::jobs::{Maker, NotMade};
use crate::output::{Chain, Exit, bar, complain, progress, say, say_json};
use crate::shown;
use crate::signals::StopSignals;

/// How often it is looked how far the job is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A job that nobody has taken for so long is spoken of.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Starts deliveries over.
///
/// # Errors
/// When the job is not made, or does not end well.
pub(crate) async fn redrive(args: RedriveArgs) -> Result<(), Exit> {
    let filter = [
        ("event_type", args.event_type),
        ("event_id", args.event_id),
        ("outcome", args.outcome),
        ("error_class", args.error_class),
        ("status", args.status),
        ("from", args.from),
        ("to", args.to),
    ];
    let spec = spec(JobKind::Redrive, args.webhook, filter)?;
    run(&args.project, &spec, &args.follow).await
}

/// Sends events again.
///
/// # Errors
/// When the job is not made, or does not end well.
pub(crate) async fn replay(args: ReplayArgs) -> Result<(), Exit> {
    let filter = [
        ("event_type", args.event_type),
        ("event_id", args.event_id),
        ("from", args.from),
        ("to", args.to),
    ];
    let spec = spec(JobKind::Replay, Some(args.webhook), filter)?;
    run(&args.project, &spec, &args.follow).await
}

/// What the flags ask for, read as the API reads it.
fn spec<const N: usize>(
    kind: JobKind,
    webhook: Option<String>,
    filter: [(&str, Option<String>); N],
) -> Result<JobSpec, Exit> {
    let filter: Map<String, Value> = filter
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.into())))
        .collect();
    let mut document = Map::new();
    document.insert("kind".into(), kind.as_str().into());
    document.insert("webhook".into(), webhook.into());
    document.insert("filter".into(), filter.into());
    JobSpec::read(&document).map_err(|errors| {
        let lines = errors.into_iter().map(|error| {
            let field = error.field.trim_start_matches("filter.").replace('_', "-");
            format!("--{field}: {}", error.message)
        });
        Exit::Usage(lines.collect())
    })
}

async fn run(project: &str, spec: &JobSpec, follow: &FollowArgs) -> Result<(), Exit> {
    let mut signals = StopSignals::new().map_err(|error| Exit::from_error(&error))?;
    // Wrong usage is told before anything is opened.
    let project = Slug::new(project).map_err(|error| Exit::usage(format!("--project: {error}")))?;
    let system = open(&follow.config).await?;
    let done = match make(&system, &project, spec).await {
        Err(exit) => Err(exit),
        Ok(entry) if follow.detach => tell(&entry, follow.output.json()),
        Ok(entry) => tokio::select! {
            done = to_its_end(&system, entry.clone(), follow.output.json()) => done,
            _ = signals.next() => {
                if !follow.output.json() && std::io::stderr().is_terminal() {
                    progress("");
                }
                complain(&format!("the job {} goes on; `hookline get jobs {0}` shows it", entry.id));
                Ok(())
            }
        },
    };
    system.opened.close().await;
    done
}

async fn make(system: &System, project: &Slug, spec: &JobSpec) -> Result<JobEntry, Exit> {
    let refreshed = system.registry.refresh().await;
    let snapshot = refreshed.map_err(|error| Exit::from_error(&error))?;
    if snapshot.project(project.as_str()).is_none() {
        return Err(Exit::failed(format!(
            "--project: there is no project {project}"
        )));
    }
    let made = Maker::new(system).make(project, spec, &snapshot).await;
    made.map_err(|error| match error {
        NotMade::NoWebhook(_) | NotMade::Inactive(_) => Exit::failed(format!("--webhook: {error}")),
        NotMade::Ranges(RangesError::NotKept { .. }) => Exit::failed(format!("--from: {error}")),
        other => Exit::failed(Chain(&other).to_string()),
    })
}

/// Shows how far the job is until it is over.
async fn to_its_end(system: &System, mut entry: JobEntry, json: bool) -> Result<(), Exit> {
    let bar = !json && std::io::stderr().is_terminal();
    if !json && !bar {
        say(format_args!("job {}", entry.id))?;
    }
    let began = Instant::now();
    let mut spoken = false;
    while !entry.job.status.is_final() {
        if bar {
            progress(&line(&entry));
        }
        if !spoken && entry.job.status == JobStatus::Pending && began.elapsed() > TAKEN_WITHIN {
            spoken = true;
            if bar {
                progress("");
            }
            complain("nobody runs the job yet: a process with the role `jobs` must be running");
        }
        sleep(LOOK_EVERY).await;
        let snapshot = system.registry.refresh().await;
        let snapshot = snapshot.map_err(|error| Exit::from_error(&error))?;
        match snapshot.job(&entry.project, &entry.id) {
            Some(now) => entry = JobEntry::clone(now),
            None => return Err(gone(&entry)),
        }
    }
    if bar {
        progress("");
    }
    tell(&entry, json)?;
    match (entry.job.status, &entry.job.error) {
        (JobStatus::Done, _) => Ok(()),
        (_, Some(error)) => Err(Exit::failed(format!("the job failed: {error}"))),
        (status, None) => Err(Exit::failed(format!("the job is {status}"))),
    }
}

fn gone(entry: &JobEntry) -> Exit {
    let error = WriteError::NotFound {
        kind: "job".into(),
        name: entry.id.to_string(),
    };
    Exit::from_error(&error)
}

fn tell(entry: &JobEntry, json: bool) -> Result<(), Exit> {
    if json {
        return say_json(&shown::job(entry));
    }
    if !entry.job.status.is_final() {
        return say(format_args!("job {} is {}", entry.id, entry.job.status));
    }
    let counts = entry.job.counts;
    let mut text = format!(
        "job {} is {}: {} started over",
        entry.id, entry.job.status, counts.written
    );
    for (count, what) in [
        (
            counts.skipped,
            "left out because their webhook is deleted or inactive",
        ),
        (counts.repeated, "left out because they had come before"),
        (counts.missed, "records could not be read"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    say(text)
}

/// `[######        ]  42 %  4200 of 10000 records, 3100 started over`
fn line(entry: &JobEntry) -> String {
    let (read, of) = entry.job.read_of();
    let state = match entry.job.status {
        JobStatus::Running => String::new(),
        other => format!(" ({other})"),
    };
    let bar = bar(read, Some(of), "records");
    format!("{bar}, {} started over{state}", entry.job.counts.written)
}

#[cfg(test)]
mod tests {
    use hookline_model::job::{Job, JobPartition};
    use hookline_model::time::Millis;

    use super::*;

    #[test]
    fn a_bar_grows_with_what_was_read() {
        let spec = spec(JobKind::Redrive, None, []).expect("valid");
        let part = JobPartition {
            partition: 0,
            start: 10,
            position: 10,
            end: 20,
        };
        let mut entry = JobEntry {
            project: "shop".into(),
            id: "1".into(),
            version: 1,
            job: Job::new(&spec, None, vec![part], Millis(0)),
        };
        assert!(
            line(&entry).starts_with("[                              ]   0 %  0 of 10 records")
        );
        assert!(line(&entry).ends_with("0 started over (pending)"));
        entry.job.status = JobStatus::Running;
        entry.job.partitions[0].position = 15;
        assert!(
            line(&entry).starts_with("[###############               ]  50 %  5 of 10 records")
        );
        entry.job.partitions.clear();
        assert!(line(&entry).contains("] 100 %  0 of 0 records"));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_flag() {
        let filter = [
            ("error_class", Some("bad".to_owned())),
            ("from", Some("soon".to_owned())),
        ];
        let Err(Exit::Usage(lines)) = spec(JobKind::Redrive, None, filter) else {
            panic!("it is wrong");
        };
        assert!(lines[0].starts_with("--error-class: ") && lines[1].starts_with("--from: "));
    }
}
