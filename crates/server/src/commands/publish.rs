//! `hookline publish`: one JSON document a line becomes one event.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use hookline_ingest::{Ack, Defaults, PublishError, Published, Publisher};
use hookline_model::limits;
use serde_json::json;
use tokio::sync::mpsc;

use super::open;
use crate::cli::PublishArgs;
use crate::output::{Chain, Exit, complain, say, say_json};

/// Events handed over and not yet acknowledged.
const UNDER_WAY_MAX: usize = 10_000;
/// Lines read ahead.
const LINES_AHEAD: usize = 256;
/// A line longer than this is no event; it is skipped without being held.
const LINE_BYTES_MAX: usize = limits::EVENT_BYTES_MAX + 64 * 1024;
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

/// A line handed over, whose acknowledgement is awaited.
struct Handed {
    number: u64,
    at: Instant,
    ack: Ack,
}

/// Waits for the fate of the oldest line under way; for ever when there is none. None: it did not come in time after the one before. Cancel
/// safe.
async fn fate(
    under_way: &mut VecDeque<Handed>,
    answered: Option<Instant>,
) -> Option<Result<Published, PublishError>> {
    let Some(Handed { at, ack, .. }) = under_way.front_mut() else {
        return std::future::pending().await;
    };
    let deadline = answered.map_or(*at, |answered| answered.max(*at)) + ANSWER_WITHIN;
    timeout_at(deadline, ack).await.ok()
}

/// What is under way and what came of the rest.
struct Publishing {
    json: bool,
    under_way: VecDeque<Handed>,
    published: u64,
    wrong: u64,
    ids: Vec<String>,
    /// When the last acknowledgement came.
    answered: Option<Instant>,
    /// The journal has not answered in time; nothing more is waited for.
    silent: bool,
}

impl Publishing {
    fn new(json: bool) -> Self {
        Self {
            json,
            under_way: VecDeque::new(),
            published: 0,
            wrong: 0,
            ids: Vec::new(),
            answered: None,
            silent: false,
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
        while !self.silent {
            // What was acknowledged is told also while the next line is waited for.
            let line = tokio::select! {
                biased;
                line = lines.recv(), if self.under_way.len() <= UNDER_WAY_MAX => line,
                fate = fate(&mut self.under_way, self.answered) => {
                    self.told(fate)?;
                    continue;
                }
            };
            let Some(line) = line else { break };
            number += 1;
            if !self.hand_over(publisher, number, line, &defaults).await {
                break;
            }
        }
        while !self.under_way.is_empty() {
            let fate = if self.silent {
                None
            } else {
                fate(&mut self.under_way, self.answered).await
            };
            self.told(fate)?;
        }
        self.sum_up()
    }

    /// Hands a line over. False: nothing more can be.
    async fn hand_over(
        &mut self,
        publisher: &Publisher,
        number: u64,
        line: Line,
        defaults: &Defaults,
    ) -> bool {
        let line = match line {
            Line::Read(line) if line.trim_ascii().is_empty() => return true,
            Line::Read(line) => line,
            Line::TooLong => {
                let max = limits::EVENT_BYTES_MAX;
                let why =
                    format!("longer than {LINE_BYTES_MAX} bytes: an event is at most {max} bytes");
                self.wrong(number, &why);
                return true;
            }
            Line::Broken(error) => {
                self.wrong(number, &format!("the input cannot be read on: {error}"));
                return false;
            }
        };
        let handing = publisher.publish_line(&line, defaults);
        match timeout(ANSWER_WITHIN, handing).await {
            Ok(Ok(ack)) => {
                let at = Instant::now();
                self.under_way.push_back(Handed { number, at, ack });
                true
            }
            Ok(Err(error @ PublishError::Line(_))) => {
                self.wrong(number, &Chain(&error).to_string());
                true
            }
            Ok(Err(error)) => {
                // The journal takes no more; what was handed over still gets its answer.
                self.wrong(number, &Chain(&error).to_string());
                false
            }
            Err(_) => {
                self.silent = true;
                let why =
                    format!("not published: the journal had no room within {ANSWER_WITHIN:?}");
                self.wrong(number, &why);
                false
            }
        }
    }

    /// Takes the fate of the oldest line under way; none came in time.
    fn told(&mut self, fate: Option<Result<Published, PublishError>>) -> Result<(), Exit> {
        let Some(Handed { number, .. }) = self.under_way.pop_front() else {
            return Ok(());
        };
        match fate {
            None => {
                self.silent = true;
                let why = format!(
                    "not acknowledged within {ANSWER_WITHIN:?}: whether it was stored is not known"
                );
                self.wrong(number, &why);
            }
            Some(Err(error)) => self.wrong(number, &Chain(&error).to_string()),
            Some(Ok(published)) => {
                self.answered = Some(Instant::now());
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
