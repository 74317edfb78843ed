//! `hookline export`: the delivery log as a file, read from the SQL store beside whoever writes it.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hookline_history::{AttemptFilter, Export, ExportFormat, Store};
use hookline_model::ids::Slug;
use hookline_model::time::Millis;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::{configure, open_with};
use crate::attempt_filter;
use crate::cli::ExportArgs;
use crate::config::Config;
use crate::output::{Exit, bar, progress, say, say_bytes, say_json};
use crate::signals::StopSignals;

/// Writes it.
///
/// # Errors
/// When it is not written; of a file nothing is left then.
pub(crate) async fn run(args: ExportArgs) -> Result<(), Exit> {
    let mut signals = StopSignals::new().map_err(|error| Exit::from_error(&error))?;
    // Wrong usage is told before anything is opened.
    let asked = Asked::new(&args)?;
    let config = configure(&args.config)?;
    let now = there_is(&config, &asked.project).await?;
    let store = Store::reader(&config.history.url);
    let store = Arc::new(store.map_err(|error| Exit::usage(error.to_string()))?);
    let target = Target::new(&args.output_file).await?;
    let shown = Shown {
        bar: std::io::stderr().is_terminal() && !args.output.json() && asked.bar,
        of: None,
    };
    let done = tokio::select! {
        done = write(store, &asked, target, now, shown) => done,
        signal = signals.next() => Err(Exit::failed(format!(
            "stopped by {signal}: the export is not the whole"
        ))),
    };
    if shown.bar {
        progress("");
    }
    let (attempts, bytes) = done?;
    let file = args.output_file.display().to_string();
    if to_stdout(&args.output_file) {
        Ok(())
    } else if args.output.json() {
        say_json(
            &json!({"file": file, "format": args.format, "attempts": attempts, "bytes": bytes}),
        )
    } else {
        say(format_args!("{attempts} attempts written to {file}"))
    }
}

fn to_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What the flags ask for.
struct Asked {
    project: Slug,
    filter: AttemptFilter,
    format: ExportFormat,
    /// Whether a bar would not be in the way of what is written.
    bar: bool,
}

impl Asked {
    fn new(args: &ExportArgs) -> Result<Self, Exit> {
        let project =
            Slug::new(&args.project).map_err(|error| Exit::usage(format!("--project: {error}")))?;
        let filter = attempt_filter::read(|name| args.filter.given(name)).map_err(|error| {
            let flag = error.field.replace('_', "-");
            Exit::usage(format!("--{flag}: {}", error.message))
        })?;
        let format = ExportFormat::from_word(&args.format).ok_or_else(|| {
            let words = ExportFormat::WORDS.join(", ");
            Exit::usage(format!("--format: must be one of: {words}"))
        })?;
        let on_terminal = to_stdout(&args.output_file) && std::io::stdout().is_terminal();
        if on_terminal && format == ExportFormat::Pdf {
            return Err(Exit::usage(
                "--output-file: pages are not for a terminal: name a file",
            ));
        }
        Ok(Self {
            project,
            filter,
            format,
            bar: !on_terminal,
        })
    }
}

/// Whether there is such a project; and what time it is. Nothing else is asked of the journal, and it is let go before the long work begins.
async fn there_is(config: &Arc<Config>, project: &Slug) -> Result<Millis, Exit> {
    let system = open_with(config).await?;
    let refreshed = system.registry.refresh().await;
    let now = system.clock.now();
    system.opened.close().await;
    let snapshot = refreshed.map_err(|error| Exit::from_error(&error))?;
    match snapshot.project(project.as_str()) {
        Some(_) => Ok(now),
        None => Err(Exit::failed(format!(
            "--project: there is no project {project}"
        ))),
    }
}

/// What is shown of how far it is.
#[derive(Clone, Copy)]
struct Shown {
    bar: bool,
    of: Option<u64>,
}

async fn write(
    store: Arc<Store>,
    asked: &Asked,
    mut target: Target,
    now: Millis,
    mut shown: Shown,
) -> Result<(u64, u64), Exit> {
    let project = asked.project.as_str();
    if shown.bar {
        // Without it the bar has no end; the export itself tells what is wrong with the store.
        let summary = store.attempt_summary(project, &asked.filter).await;
        shown.of = summary.ok().map(|summary| summary.count);
    }
    let mut export = Export::new(store, project, asked.filter.clone(), asked.format, now);
    let mut bytes = 0;
    while let Some(part) = export
        .next()
        .await
        .map_err(|error| Exit::from_error(&error))?
    {
        bytes += part.len() as u64;
        target.write(part).await?;
        if shown.bar {
            progress(&bar(export.written(), shown.of, "attempts"));
        }
    }
    target.finish().await?;
    Ok((export.written(), bytes))
}

/// Where it is written to.
enum Target {
    Stdout,
    File(Written),
}

/// A file that takes its place when it is whole.
struct Written {
    file: File,
    path: PathBuf,
    /// Where it grows; `None`: what is there is no file (a device, a pipe) and is written to as it is.
    partial: Option<Partial>,
}

/// Removed when dropped, unless it has taken its place.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // It is gone already where it has taken its place.
        std::fs::remove_file(&self.0).ok();
    }
}

fn not_written(path: &Path, error: &std::io::Error) -> Exit {
    Exit::failed(format!(
        "--output-file: {} cannot be written: {error}",
        path.display()
    ))
}

impl Target {
    async fn new(path: &Path) -> Result<Self, Exit> {
        if to_stdout(path) {
            return Ok(Self::Stdout);
        }
        let refused = |error| not_written(path, &error);
        let there = tokio::fs::metadata(path).await.ok();
        if there.as_ref().is_some_and(|meta| !meta.is_file()) {
            // Of a directory the system says what it is.
            let opened = File::options().write(true).open(path).await;
            return Ok(Self::File(Written {
                file: opened.map_err(refused)?,
                path: path.to_owned(),
                partial: None,
            }));
        }
        // What a link leads to is replaced, not the link.
        let path = match there {
            Some(_) => tokio::fs::canonicalize(path).await.map_err(refused)?,
            None => path.to_owned(),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = File::create(&partial).await.map_err(refused)?;
        Ok(Self::File(Written {
            file,
            path,
            partial: Some(Partial(partial)),
        }))
    }

    async fn write(&mut self, part: Bytes) -> Result<(), Exit> {
        match self {
            Self::Stdout => {
                // Who reads may stop to read, and signals are to be noticed all the same.
                let said = tokio::task::spawn_blocking(move || say_bytes(&part)).await;
                said.unwrap_or_else(|error| Err(Exit::from_error(&error)))
            }
            Self::File(written) => {
                let done = written.file.write_all(&part).await;
                done.map_err(|error| not_written(&written.path, &error))
            }
        }
    }

    async fn finish(self) -> Result<(), Exit> {
        let Self::File(mut written) = self else {
            return Ok(());
        };
        let path = written.path;
        let done = async {
            written.file.flush().await?;
            let Some(partial) = &written.partial else {
                return Ok(());
            };
            written.file.sync_all().await?;
            tokio::fs::rename(&partial.0, &path).await
        };
        done.await.map_err(|error| not_written(&path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("it is there");
        let names = entries.map(|entry| entry.expect("read").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_file_takes_its_place_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "before").expect("written");
        let mut target = Target::new(&path).await.expect("opened");
        target.write("one".into()).await.expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"before");
        drop(target);
        assert_eq!(left(dir.path()), ["a.csv"]);
        let mut target = Target::new(&path).await.expect("opened");
        target.write("one ".into()).await.expect("written");
        target.write("two".into()).await.expect("written");
        target.finish().await.expect("finished");
        assert_eq!(std::fs::read(&path).expect("there"), b"one two");
        assert_eq!(left(dir.path()), ["a.csv"]);
        let Err(Exit::Failed(lines)) = Target::new(dir.path()).await else {
            panic!("a directory is no file");
        };
        assert!(lines[0].starts_with("--output-file: "), "{lines:?}");
        let absent = dir.path().join("no/such/dir.csv");
        assert!(Target::new(&absent).await.is_err());
        let mut null = Target::new(Path::new("/dev/null")).await.expect("opened");
        null.write("x".into()).await.expect("written");
        null.finish().await.expect("finished");
    }
}
