//! `hookline publish`: one JSON document a line becomes one event.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookline_ingest::{Ack, Defaults, PublishError, Publisher};
use hookline_model::limits;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::open;
use crate::cli::PublishArgs;
use crate::output::{Chain, Exit, complain, say, say_json};

/// Events handed over and not yet acknowledged.
const UNDER_WAY_MAX: usize = 10_000;
/// Lines read ahead.
const LINES_AHEAD: usize = 256;
/// A line longer than this is no event; it is skipped without being held.
const LINE_BYTES_MAX: usize = limits::EVENT_BYTES_MAX + 64 * 1024;
/// How long the journal may acknowledge nothing before this gives up. A producer by itself goes on trying for ever.
const PROGRESS_WITHIN: Duration = Duration::from_secs(30);
/// Up to so many ids are printed for people.
const IDS_SHOWN: usize = 20;

/// Publishes every line and waits for all acknowledgements.
///
/// # Errors
/// When a line is no event (the others are published), or the journal does not take one.
pub(crate) async fn run(args: PublishArgs) -> Result<(), Exit> {
    let defaults = Defaults {
        project: args.project.clone(),
        event_type: args.event_type.clone(),
        key: args.key.clone(),
        source: args.source.clone(),
    };
    let file = args.file.clone().filter(|file| file != Path::new("-"));
    // Before anything is opened: a wrong file name is wrong usage.
    let input = input(file)?;
    let system = open(&args.config).await?;
    let prefix = &system.config.journal.prefix;
    let opened = Publisher::open(&system.journal(), prefix, system.clock.clone()).await;
    let done = match opened {
        Err(error) => Err(Exit::from_error(&error)),
        Ok(publisher) => {
            Publishing::new(args.output.json())
                .all(&publisher, input, defaults)
                .await
        }
    };
    system.opened.close().await;
    done
}

type Input = Box<dyn BufRead + Send>;

fn input(file: Option<PathBuf>) -> Result<Input, Exit> {
    let Some(file) = file else {
        return Ok(Box::new(io::BufReader::new(io::stdin())));
    };
    let opened = std::fs::File::open(&file)
        .map_err(|error| Exit::usage(format!("FILE: {}: {error}", file.display())))?;
    Ok(Box::new(io::BufReader::new(opened)))
}

/// A line of input.
enum Line {
    /// As it is, without its end.
    Read(Vec<u8>),
    /// It was too long.
    TooLong,
    /// Reading failed; nothing follows.
    Broken(io::Error),
}

/// Reads lines on a thread that may block, handing them over as they are wanted.
fn lines(mut input: Input) -> mpsc::Receiver<Line> {
    let (hand_over, lines) = mpsc::channel(LINES_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let line = match next_line(&mut input) {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(error) => Line::Broken(error),
            };
            let last = matches!(line, Line::Broken(_));
            if hand_over.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    lines
}

fn next_line(input: &mut Input) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    let read = input.by_ref().take(limit).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.len() <= LINE_BYTES_MAX || line.ends_with(b"\n") {
        return Ok(Some(Line::Read(line)));
    }
    while !line.is_empty() && !line.ends_with(b"\n") {
        line.clear();
        input.by_ref().take(limit).read_until(b'\n', &mut line)?;
    }
    Ok(Some(Line::TooLong))
}

/// What is under way and what came of the rest.
struct Publishing {
    json: bool,
    under_way: VecDeque<(u64, Ack)>,
    published: u64,
    wrong: u64,
    ids: Vec<String>,
}

impl Publishing {
    fn new(json: bool) -> Self {
        Self {
            json,
            under_way: VecDeque::new(),
            published: 0,
            wrong: 0,
            ids: Vec::new(),
        }
    }

    async fn all(
        mut self,
        publisher: &Publisher,
        input: Input,
        defaults: Defaults,
    ) -> Result<(), Exit> {
        let mut lines = lines(input);
        let mut number = 0;
        while let Some(line) = lines.recv().await {
            number += 1;
            let handed = match line {
                Line::Read(line) if line.trim_ascii().is_empty() => continue,
                Line::Read(line) => {
                    let handing = publisher.publish_line(&line, &defaults);
                    match timeout(PROGRESS_WITHIN, handing).await {
                        Ok(handed) => handed,
                        Err(_) => return Err(self.stuck(number)),
                    }
                }
                Line::TooLong => {
                    self.wrong(
                        number,
                        &format!(
                            "longer than {LINE_BYTES_MAX} bytes: an event is at most {} bytes",
                            limits::EVENT_BYTES_MAX
                        ),
                    );
                    continue;
                }
                Line::Broken(error) => {
                    self.wrong(number, &format!("the input cannot be read on: {error}"));
                    break;
                }
            };
            match handed {
                Ok(ack) => self.under_way.push_back((number, ack)),
                Err(error @ PublishError::Line(_)) => {
                    self.wrong(number, &Chain(&error).to_string())
                }
                Err(error) => {
                    // The journal takes no more; what was handed over still gets its answer.
                    self.wrong(number, &Chain(&error).to_string());
                    break;
                }
            }
            while self.under_way.len() > UNDER_WAY_MAX {
                self.acknowledge().await?;
            }
        }
        while !self.under_way.is_empty() {
            self.acknowledge().await?;
        }
        self.sum_up()
    }

    /// Waits for the oldest acknowledgement.
    async fn acknowledge(&mut self) -> Result<(), Exit> {
        let Some((number, ack)) = self.under_way.pop_front() else {
            return Ok(());
        };
        let Ok(acknowledged) = timeout(PROGRESS_WITHIN, ack).await else {
            return Err(self.stuck(number));
        };
        match acknowledged {
            Err(error) => self.wrong(number, &Chain(&error).to_string()),
            Ok(published) => {
                self.published += 1;
                if self.json {
                    return say_json(&json!({
                        "line": number, "id": published.id, "partition": published.partition, "offset": published.offset,
                    }));
                }
                if self.ids.len() <= IDS_SHOWN {
                    self.ids.push(published.id);
                }
            }
        }
        Ok(())
    }

    /// Nothing has been acknowledged for too long. What became of the lines from here on is not known.
    fn stuck(&self, number: u64) -> Exit {
        let seconds = PROGRESS_WITHIN.as_secs();
        let first = self
            .under_way
            .front()
            .map_or(number, |(first, _)| number.min(*first));
        Exit::failed(format!(
            "the journal has acknowledged nothing for {seconds} s, so this gives up: {} published, and from line {first} on it is not known; \
             publish those lines again when it answers, with ids of their own so that repeats are recognised",
            match self.published {
                1 => "1 event is".to_owned(),
                n => format!("{n} events are"),
            }
        ))
    }

    fn wrong(&mut self, number: u64, why: &str) {
        self.wrong += 1;
        complain(&format!("error: line {number}: {why}"));
    }

    fn sum_up(self) -> Result<(), Exit> {
        if !self.json {
            if self.ids.len() <= IDS_SHOWN {
                for id in &self.ids {
                    say(id)?;
                }
            }
            let s = if self.published == 1 { "" } else { "s" };
            say(format_args!("published {} event{s}", self.published))?;
        }
        match self.wrong {
            0 => Ok(()),
            1 => Err(Exit::failed("one line was not published")),
            n => Err(Exit::failed(format!("{n} lines were not published"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_one_is_read() {
        let mut text = vec![b'x'; 3 * LINE_BYTES_MAX];
        text.extend_from_slice(b"\nnext\nlast");
        let mut input: Input = Box::new(io::Cursor::new(text));
        let mut read = || next_line(&mut input).expect("memory");
        assert!(matches!(read(), Some(Line::TooLong)));
        assert!(matches!(read(), Some(Line::Read(line)) if line == b"next\n"));
        assert!(matches!(read(), Some(Line::Read(line)) if line == b"last"));
        assert!(read().is_none());
    }
}
