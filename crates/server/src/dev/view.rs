//! The live view: one frame from one picture, and the terminal it is drawn on.
//!
//! A frame is drawn over the last one in place, each line cleared behind its text, so that nothing flickers and a resize needs no care.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Color, Print, ResetColor, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
    EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{Command, queue};
use hookline_history::AttemptLine;
use hookline_model::time::Millis;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use super::picture::{OUTCOMES, Picture, Row};

/// Rows of webhooks at most; what goes beyond is counted.
const WEBHOOKS_MAX: usize = 8;
/// Attempts shown even where there is no room for them.
const ATTEMPTS_MIN: usize = 3;

/// What stands beside the picture.
#[derive(Debug, Clone, Default)]
pub(super) struct Captions {
    /// Where the receiver is.
    pub(super) receiver: String,
    /// Where metrics are.
    pub(super) metrics: String,
    /// A key to the API.
    pub(super) key: String,
    /// Commands to try, by argument.
    pub(super) commands: Vec<Vec<String>>,
}

/// A piece of a line in one colour.
type Piece = (Option<Color>, String);

/// A line of the frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<Piece>);

impl Line {
    fn plain(text: impl Into<String>) -> Self {
        Self(vec![(None, text.into())])
    }

    fn dim(text: impl Into<String>) -> Self {
        Self::default().and(Color::DarkGrey, text)
    }

    fn then(mut self, text: impl Into<String>) -> Self {
        self.0.push((None, text.into()));
        self
    }

    fn and(mut self, colour: Color, text: impl Into<String>) -> Self {
        self.0.push((Some(colour), text.into()));
        self
    }

    /// The text alone, cut to `width`.
    #[cfg(test)]
    fn text(&self, width: usize) -> String {
        let all: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        all.chars().take(width).collect()
    }
}

fn colour_of(outcome: &str) -> Color {
    match outcome {
        "delivered" => Color::Green,
        "failed" => Color::Yellow,
        "cancelled" => Color::DarkGrey,
        _ => Color::Red,
    }
}

/// The frame for a terminal of `width` by `height`.
pub(super) fn frame(
    picture: &mut Picture,
    captions: &Captions,
    (width, height): (usize, usize),
    (now, up): (Millis, Duration),
) -> Vec<Line> {
    let mut lines = top(picture, width, now, up);
    lines.push(Line::default());
    webhooks(picture, &mut lines);
    let bottom = bottom(captions, width);
    lines.push(rule("last attempts", width));
    let room = height
        .saturating_sub(lines.len() + bottom.len())
        .max(ATTEMPTS_MIN);
    let mut attempts: Vec<_> = picture.recent.iter().take(room).map(attempt).collect();
    if attempts.is_empty() {
        attempts.push(Line::dim(" none yet"));
    }
    attempts.resize(room, Line::default());
    lines.extend(attempts);
    lines.extend(bottom);
    lines.truncate(height);
    lines
}

fn top(picture: &mut Picture, width: usize, now: Millis, up: Duration) -> Vec<Line> {
    let (waiting, next) = picture.retries();
    let numbers = &picture.numbers;
    let title = format!(" hookline {} dev", env!("CARGO_PKG_VERSION"));
    let end = format!("up {}  ctrl-c stops ", clock(up));
    let gap = width.saturating_sub(title.len() + end.len());
    let mut events = Line::plain(format!(
        " events     {:>8}  {:.1}/s",
        numbers.events,
        picture.rate()
    ));
    if numbers.unmatched > 0 {
        events = events.then(format!("   {} wanted by nobody", numbers.unmatched));
    }
    if numbers.rejected > 0 {
        events = events.and(Color::Red, format!("   {} rejected", numbers.rejected));
    }
    let mut attempts = Line::plain(format!(" attempts   {:>8}  ", numbers.attempts_all()));
    for (outcome, count) in OUTCOMES.iter().zip(numbers.attempts) {
        // The two that everybody looks for are always there.
        if count > 0 || matches!(*outcome, "delivered" | "failed") {
            attempts = attempts
                .and(colour_of(outcome), format!("{outcome} {count}"))
                .then("  ");
        }
    }
    let mut retries = Line::plain(format!(" retries    {waiting:>8}  waiting"));
    if let Some(due) = next {
        let wait = due.since(now);
        retries = retries.then(if wait.is_zero() {
            ", next due now".to_owned()
        } else {
            format!(", next due in {}", span(wait))
        });
    }
    let deliveries = Line::plain(format!(
        " deliveries {:>8}  {} in flight, {} lanes behind",
        numbers.deliveries, numbers.in_flight, numbers.lanes_behind
    ));
    let note = match &picture.note {
        Some(note) => Line::default().and(Color::Red, format!(" {note}")),
        None => Line::default(),
    };
    vec![
        Line::default()
            .and(Color::Cyan, title)
            .and(Color::DarkGrey, format!("{}{end}", " ".repeat(gap))),
        note,
        events,
        deliveries,
        attempts,
        retries,
    ]
}

fn webhooks(picture: &Picture, lines: &mut Vec<Line>) {
    lines.push(Line::dim(format!(
        " {:<16} {:<9} {:>9} {:>8} {:>8} {:>8}   {}",
        "webhook", "state", "delivered", "failed", "ended", "waiting", "last answer"
    )));
    for (name, row) in picture.rows.iter().take(WEBHOOKS_MAX) {
        lines.push(webhook(name, row));
    }
    if let Some(more) = picture.rows.len().checked_sub(WEBHOOKS_MAX + 1) {
        lines.push(Line::dim(format!(" and {} more", more + 1)));
    }
}

fn webhook(name: &str, row: &Row) -> Line {
    let state = if row.state == "active" {
        Color::Green
    } else {
        Color::Yellow
    };
    let line = Line::plain(format!(" {:<16} ", cut(name, 16)))
        .and(state, format!("{:<9} ", cut(&row.state, 9)))
        .then(format!(
            "{:>9} {:>8} {:>8} {:>8}   ",
            row.delivered, row.failed, row.ended, row.waiting
        ));
    match &row.last {
        Some((answer, took)) if answer.starts_with('2') => line
            .and(Color::Green, cut(answer, 18))
            .then(format!(" {took} ms")),
        Some((answer, took)) => line
            .and(Color::Yellow, cut(answer, 18))
            .then(format!(" {took} ms")),
        None => line,
    }
}

fn attempt(line: &AttemptLine) -> Line {
    let time = line.started_at.get(11..23).unwrap_or_default();
    let answer = match (&line.status, &line.error_class) {
        (Some(status), _) => status.to_string(),
        (None, Some(class)) => class.clone(),
        (None, None) => "-".to_owned(),
    };
    let mut text = format!(
        "{:<12} #{:<3} {:<6} {:>4} ms  {}",
        cut(&line.webhook, 12),
        line.attempt,
        cut(&answer, 18),
        line.duration_ms,
        cut(&line.event_type, 30),
    );
    if let Some(due) = line.due_ms {
        let ended = line.started_ms.saturating_add(line.duration_ms.into());
        let wait = Millis(due).since(Millis(ended));
        text.push_str(&format!("  again in {}", span(wait)));
    }
    Line::dim(format!(" {time}  "))
        .and(colour_of(line.outcome), format!("{:<9}  ", line.outcome))
        .then(text)
}

fn bottom(captions: &Captions, width: usize) -> Vec<Line> {
    let mut lines = vec![rule("try in another terminal", width)];
    for command in &captions.commands {
        lines.extend(wrap(command, width).into_iter().map(Line::plain));
    }
    lines.push(
        Line::dim(" receiver ")
            .then(&captions.receiver)
            .and(Color::DarkGrey, "   metrics ")
            .then(&captions.metrics),
    );
    lines.push(Line::dim(" API key ").then(&captions.key));
    lines
}

fn rule(caption: &str, width: usize) -> Line {
    let text = format!("── {caption} ");
    let rest = width.saturating_sub(text.chars().count());
    Line::dim(text + &"─".repeat(rest))
}

/// A command on as many lines as it takes, each but the last ending in a backslash, so that it can be copied as it stands.
pub(super) fn wrap(arguments: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for argument in arguments {
        match lines.last_mut() {
            // Two more for the backslash, in case another line follows.
            Some(line) if line.chars().count() + 1 + argument.chars().count() + 2 <= width => {
                line.push(' ');
                line.push_str(argument);
            }
            Some(line) => {
                line.push_str(" \\");
                lines.push(format!("   {argument}"));
            }
            None => lines.push(format!(" {argument}")),
        }
    }
    lines
}

/// At most `width` characters, none of which steers the terminal.
fn cut(text: &str, width: usize) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    if text.chars().count() <= width {
        return text.chars().map(clean).collect();
    }
    let head = text.chars().take(width.saturating_sub(1)).map(clean);
    head.chain(['…']).collect()
}

fn span(span: Duration) -> String {
    match span.as_secs() {
        0..120 => format!("{:.1} s", span.as_secs_f64()),
        120..7200 => format!("{} min", span.as_secs() / 60),
        _ => format!("{} h", span.as_secs() / 3600),
    }
}

fn clock(up: Duration) -> String {
    let seconds = up.as_secs();
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Turns a frame into what is written to the terminal.
pub(super) fn draw(lines: &[Line], width: usize) -> String {
    let mut out = String::with_capacity(8 * 1024);
    ansi(&mut out, BeginSynchronizedUpdate);
    for (row, line) in (0..).zip(lines) {
        ansi(&mut out, MoveTo(0, row));
        let mut room = width;
        for (colour, text) in &line.0 {
            let text: String = text.chars().take(room).collect();
            room -= text.chars().count();
            if let Some(colour) = colour {
                ansi(&mut out, SetForegroundColor(*colour));
                ansi(&mut out, Print(text));
                ansi(&mut out, ResetColor);
            } else {
                out.push_str(&text);
            }
        }
        // At the last column some terminals would take away the character just written.
        if room > 0 {
            ansi(&mut out, Clear(ClearType::UntilNewLine));
        }
    }
    ansi(&mut out, Clear(ClearType::FromCursorDown));
    ansi(&mut out, EndSynchronizedUpdate);
    out
}

fn ansi(out: &mut String, command: impl Command) {
    command
        .write_ansi(out)
        .expect("writing to a string cannot fail");
}

/// The terminal while the view has it; dropping it gives it back, also when the thread panics.
pub(super) struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// Takes the terminal: another screen, no cursor, and what is typed is not shown.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn take() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd()).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            // Only the echo: ctrl-c still is a signal.
            quiet.local_flags.remove(LocalFlags::ECHO);
            set(&quiet);
        }
        let screen = Self { before };
        queue!(
            io::stdout(),
            EnterAlternateScreen,
            Hide,
            DisableLineWrap,
            Clear(ClearType::All)
        )?;
        io::Write::flush(&mut io::stdout())?;
        Ok(screen)
    }

    /// Width and height now.
    pub(super) fn size() -> (usize, usize) {
        match crossterm::terminal::size() {
            Ok((width, height)) if width > 0 && height > 0 => (width.into(), height.into()),
            _ => (80, 24),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let left = queue!(io::stdout(), EnableLineWrap, Show, LeaveAlternateScreen)
            .and_then(|()| io::Write::flush(&mut io::stdout()));
        if let Some(before) = &self.before {
            set(before);
        }
        if let Err(error) = left {
            tracing::warn!(%error, "the terminal could not be given back");
        }
    }
}

/// Trouble with this spoils the looks, nothing else.
fn set(attributes: &Termios) {
    if let Err(error) = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, attributes) {
        tracing::debug!(%error, "the terminal's attributes could not be set");
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::line;
    use super::*;

    fn captions() -> Captions {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        Captions {
            receiver: "http://127.0.0.1:40001/".into(),
            metrics: "http://127.0.0.1:8080/metrics".into(),
            key: "hk_0123".into(),
            commands: vec![
                words("target/release/hookline tail --config data/hookline.toml"),
                words(
                    "target/release/hookline publish --config data/hookline.toml --project demo --type demo.hello",
                ),
                words("target/release/hookline get webhooks --config data/hookline.toml"),
            ],
        }
    }

    fn picture() -> Picture {
        let mut picture = Picture::new(Millis(0));
        picture.registered(
            ["healthy", "flaky", "dead"]
                .map(|name| (name.to_owned(), "active".to_owned()))
                .into(),
        );
        for n in 0..40_i64 {
            let due = (n % 3 == 0).then_some(n * 1000 + 5000);
            let outcome = if due.is_some() { "failed" } else { "delivered" };
            picture.attempted(line("flaky", &n.to_string(), outcome, n * 1000, due));
        }
        picture
    }

    fn shown(width: usize, height: usize) -> Vec<String> {
        let up = Duration::from_secs(83);
        frame(
            &mut picture(),
            &captions(),
            (width, height),
            (Millis(40_000), up),
        )
        .iter()
        .map(|line| line.text(width))
        .collect()
    }

    #[test]
    fn a_frame_fits_a_small_terminal_and_fills_a_large_one() {
        for (width, height) in [(80, 24), (120, 40), (200, 50), (40, 10), (1, 1)] {
            let lines = shown(width, height);
            assert_eq!(lines.len(), height, "{width}x{height}");
            assert!(lines.iter().all(|l| l.chars().count() <= width));
        }
        let small = shown(80, 24).join("\n");
        for needed in [
            "events",
            "deliveries",
            "attempts",
            "retries",
            "healthy",
            "flaky",
            "dead",
            "0:01:23",
            "40001",
            "8080/metrics",
            "hookline tail",
            "publish",
            "get webhooks",
            "next due now",
        ] {
            assert!(small.contains(needed), "{needed}:\n{small}");
        }
        assert!(small.matches("delivered  flaky").count() >= 3, "{small}");
    }

    #[test]
    fn commands_can_be_copied_as_they_stand() {
        let lines = wrap(&captions().commands[1], 80);
        assert!(lines.len() == 2 && lines[0].ends_with(" \\"), "{lines:?}");
        assert!(lines.iter().all(|line| line.len() <= 80));
        let joined = lines.join("\n").replace("\\\n", "");
        let words: Vec<_> = joined.split_whitespace().collect();
        assert_eq!(words, captions().commands[1]);
    }

    #[test]
    fn foreign_text_is_cut_and_cannot_steer() {
        assert_eq!(cut("a\u{1b}[2Jb", 10), "a?[2Jb");
        assert_eq!(cut("abcdef", 4), "abc…");
        let drawn = draw(&[Line::plain("abc"), Line::dim("de")], 2);
        assert!(drawn.contains("ab") && !drawn.contains("abc"));
    }
}
