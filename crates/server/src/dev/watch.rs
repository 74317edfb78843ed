//! Keeps a picture up to date and shows it: on a terminal as a live view, else as lines.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hookline_history::{AttemptLine, Tail, TailError, TailItem};
use hookline_model::time::Clock;
use hookline_registry::Registry;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::picture::{Numbers, OUTCOMES, Picture};
use super::samples::PROJECT;
use super::view::{Captions, Screen, draw, frame};
use crate::metrics::Metrics;
use crate::output::{Chain, Exit, say};
use crate::receiver::told;
use crate::signals::StopSignals;
use crate::tasks::{Stop, TaskError};

/// How often the view is drawn.
const FRAME_EVERY: Duration = Duration::from_millis(250);
/// How often the plain form sums up.
const SUMMARY_EVERY: Duration = Duration::from_secs(5);
/// Lines of attempts per second in the plain form; what goes beyond is counted.
const LINES_PER_SECOND: u32 = 5;

/// Where the picture comes from: what every user has, too.
pub(super) struct Watch {
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: Registry,
    pub(super) tail: Tail,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) captions: Captions,
    /// The view listens itself, so that the terminal is given back before anything can end the process at once.
    pub(super) signals: StopSignals,
}

/// A tail that ends with its first failure, which becomes a note.
struct Follow {
    tail: Tail,
    failed: bool,
}

impl Follow {
    /// The next item. Cancel safe.
    async fn next(&mut self) -> Result<TailItem, TailError> {
        if self.failed {
            return std::future::pending().await;
        }
        let item = self.tail.next().await;
        self.failed = item.is_err();
        item
    }
}

impl Watch {
    /// The live view, until told to stop.
    ///
    /// # Errors
    /// When the terminal cannot be written.
    pub(super) async fn live(mut self, mut stop: Stop) -> Result<(), TaskError> {
        let began = Instant::now();
        let mut picture = Picture::new(self.clock.now());
        let mut tail = Follow {
            tail: self.tail,
            failed: false,
        };
        let mut tick = interval(FRAME_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let screen = Screen::take()?;
        loop {
            tokio::select! {
                () = told(&mut stop) => return Ok(()),
                _ = self.signals.next() => break,
                _ = tick.tick() => {
                    let up = began.elapsed();
                    measure(&mut picture, &self.metrics, &self.registry, up);
                    let size = Screen::size();
                    let lines = frame(&mut picture, &self.captions, size, (self.clock.now(), up));
                    show(draw(&lines, size.0)).await?;
                }
                item = tail.next() => match note_of(&item) {
                    Some(note) => picture.note = Some(note),
                    None => if let Ok(TailItem::Attempt(line)) = item {
                        picture.attempted(*line);
                    },
                },
            }
        }
        drop(screen);
        line("stopping: attempts in flight are finished; ctrl-c again stops at once")?;
        told(&mut stop).await;
        Ok(())
    }

    /// Lines, until told to stop.
    ///
    /// # Errors
    /// When nobody reads them any more.
    pub(super) async fn plain(self, mut stop: Stop) -> Result<(), TaskError> {
        let began = Instant::now();
        let mut picture = Picture::new(self.clock.now());
        let mut states = BTreeMap::new();
        let mut tail = Follow {
            tail: self.tail,
            failed: false,
        };
        let mut second = interval(Duration::from_secs(1));
        let mut summary = interval(SUMMARY_EVERY);
        summary.tick().await;
        let (mut room, mut unsaid) = (LINES_PER_SECOND, 0_u32);
        loop {
            tokio::select! {
                () = told(&mut stop) => return Ok(()),
                _ = second.tick() => {
                    if unsaid > 0 {
                        line(format!("… and {unsaid} more like these"))?;
                    }
                    (room, unsaid) = (LINES_PER_SECOND, 0);
                    measure(&mut picture, &self.metrics, &self.registry, began.elapsed());
                    changes(&picture, &mut states)?;
                }
                _ = summary.tick() => line(sum_up(&mut picture, self.clock.as_ref()))?,
                item = tail.next() => match note_of(&item) {
                    Some(note) => line(note)?,
                    None => if let Ok(TailItem::Attempt(attempt)) = item {
                        if !of_note(&attempt, picture.started_ms()) {
                        } else if room > 0 {
                            room -= 1;
                            line(attempt.to_text(false))?;
                        } else {
                            unsaid += 1;
                        }
                        picture.attempted(*attempt);
                    },
                },
            }
        }
    }
}

/// Writing may block for as long as somebody holds the terminal, so no thread of the runtime does it.
async fn show(text: String) -> Result<(), TaskError> {
    let write = move || {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    Ok(tokio::task::spawn_blocking(write).await??)
}

fn line(text: impl std::fmt::Display) -> Result<(), TaskError> {
    match say(text) {
        Ok(()) => Ok(()),
        Err(Exit::Unread) => Err("nobody reads the output".into()),
        Err(_) => Err("standard output cannot be written".into()),
    }
}

fn measure(picture: &mut Picture, metrics: &Metrics, registry: &Registry, up: Duration) {
    picture.measured(Numbers::read(&metrics.gather()), up);
    let snapshot = registry.snapshot();
    let webhooks = snapshot
        .webhooks()
        .filter(|webhook| &*webhook.project == PROJECT)
        .map(|webhook| (webhook.name.to_string(), webhook.state().to_string()))
        .collect();
    picture.registered(webhooks);
}

/// What a person should know about the tail, besides attempts.
fn note_of(item: &Result<TailItem, TailError>) -> Option<String> {
    match item {
        Ok(TailItem::Attempt(_)) => None,
        Ok(TailItem::Unreadable { at, offset, reason }) => Some(format!(
            "{}[{}] at {offset} cannot be read: {reason}",
            at.topic, at.partition
        )),
        Ok(TailItem::Missed { at, from, to }) => Some(format!(
            "{}[{}]: {from} to {to} were deleted unseen",
            at.topic, at.partition
        )),
        Err(error) => Some(format!("attempts are no longer shown: {}", Chain(error))),
    }
}

/// First failures, retries that succeeded, and ends: neither what goes as it should at once, nor what failed before and fails again, nor
/// what happened before the start.
fn of_note(attempt: &AttemptLine, started_ms: i64) -> bool {
    let note = match attempt.outcome {
        "delivered" => attempt.attempt > 1,
        "failed" => attempt.attempt == 1,
        _ => true,
    };
    note && attempt.started_ms >= started_ms
}

/// A line for each webhook that came, went or changed its state.
fn changes(picture: &Picture, before: &mut BTreeMap<String, String>) -> Result<(), TaskError> {
    for (name, row) in &picture.rows {
        if before.get(name) != Some(&row.state) {
            line(format!("webhook {name} is {}", row.state))?;
        }
    }
    for name in before
        .keys()
        .filter(|name| !picture.rows.contains_key(*name))
    {
        line(format!("webhook {name} is gone"))?;
    }
    let now = picture.rows.iter();
    *before = now
        .map(|(name, row)| (name.clone(), row.state.clone()))
        .collect();
    Ok(())
}

fn sum_up(picture: &mut Picture, clock: &dyn Clock) -> String {
    let (waiting, next) = picture.retries();
    let numbers = &picture.numbers;
    let mut text = format!(
        "{} events, {} deliveries, {} attempts:",
        numbers.events,
        numbers.deliveries,
        numbers.attempts_all()
    );
    for (outcome, count) in OUTCOMES.iter().zip(numbers.attempts) {
        if count > 0 {
            text.push_str(&format!(" {count} {outcome},"));
        }
    }
    text.push_str(&format!(" {waiting} retries waiting"));
    if let Some(due) = next {
        let wait = due.since(clock.now()).as_secs_f64();
        text.push_str(&format!(", next due in {wait:.1} s"));
    }
    text
}
