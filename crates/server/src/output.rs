//! What a person or a script sees: standard output, error lines, exit codes.
#![expect(
    clippy::print_stderr,
    reason = "this is the module that writes to the terminal"
)]

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// How a command ended without success.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Wrong usage or configuration (code 2): one line each.
    Usage(Vec<String>),
    /// It failed (code 1): one line each; none when everything has been said.
    Failed(Vec<String>),
    /// Nobody reads our output any more (`… | head`); not a failure.
    Unread,
}

impl Exit {
    /// A failure in one line.
    pub(crate) fn failed(line: impl Into<String>) -> Self {
        Self::Failed(vec![line.into()])
    }

    /// A failure told by an error and its causes.
    pub(crate) fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::failed(Chain(error).to_string())
    }

    /// Wrong usage in one line.
    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self::Usage(vec![line.into()])
    }

    /// Prints the lines to standard error and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, lines) = match self {
            Self::Usage(lines) => (2, lines),
            Self::Failed(lines) => (1, lines),
            Self::Unread => (0, Vec::new()),
        };
        for line in lines {
            complain(&format!("error: {line}"));
        }
        ExitCode::from(code)
    }
}

/// One line on standard error. Control characters of foreign text are escaped, so that nobody writes on the terminal through us.
pub(crate) fn complain(line: &str) {
    eprintln!("{}", Plain(line));
}

/// A line on standard error that the next one takes the place of; an empty one leaves nothing there. Only for terminals.
pub(crate) fn progress(line: &str) {
    eprint!("\r\u{1b}[K{}", Plain(line));
}

/// Signs of a whole bar.
const BAR: usize = 30;

/// `[######        ]  42 %  4200 of 10000 attempts`; without an end only how many.
pub(crate) fn bar(done: u64, of: Option<u64>, what: &str) -> String {
    let Some(of) = of else {
        return format!("{done} {what}");
    };
    // What came in since it was counted makes no bar longer.
    let share = |whole: u64| (done.min(of) * whole).checked_div(of).unwrap_or(whole);
    let full = usize::try_from(share(BAR as u64)).unwrap_or(BAR);
    let bar = "#".repeat(full.min(BAR));
    format!("[{bar:<BAR$}] {:>3} %  {done} of {of} {what}", share(100))
}

/// One line on standard output.
///
/// # Errors
/// [`Exit::Unread`] when the reader is gone.
pub(crate) fn say(line: impl fmt::Display) -> Result<(), Exit> {
    say_raw(&format!("{}\n", Plain(&line.to_string())))
}

/// Text on standard output as it is.
///
/// # Errors
/// [`Exit::Unread`] when the reader is gone.
pub(crate) fn say_raw(text: &str) -> Result<(), Exit> {
    say_bytes(text.as_bytes())
}

/// Bytes on standard output as they are.
///
/// # Errors
/// [`Exit::Unread`] when the reader is gone.
pub(crate) fn say_bytes(bytes: &[u8]) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::Unread,
            _ => Exit::failed(format!("standard output: {error}")),
        })
}

/// A JSON value on one line of standard output.
///
/// # Errors
/// [`Exit::Unread`] when the reader is gone.
pub(crate) fn say_json(value: &serde_json::Value) -> Result<(), Exit> {
    say_raw(&format!("{value}\n"))
}

/// An error and its causes, from the outside in, joined by ": ".
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// One line of text without control characters (they are shown escaped).
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() && c != '\t' {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_write_on_the_terminal() {
        assert_eq!(Plain("a\u{1b}[31mb\nc").to_string(), "a\\u{1b}[31mb\\nc");
    }

    #[test]
    fn a_bar_grows_to_its_end_and_no_further() {
        assert!(bar(0, Some(10), "rows").ends_with("]   0 %  0 of 10 rows"));
        assert!(bar(5, Some(10), "rows").starts_with("[###############               ]  50 %"));
        assert!(bar(12, Some(10), "rows").contains("#] 100 %  12 of 10"));
        assert!(bar(0, Some(0), "rows").contains("#] 100 %"));
        assert_eq!(bar(7, None, "rows"), "7 rows");
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        assert_eq!(Chain(&error).to_string(), "outer: inner");
    }
}
