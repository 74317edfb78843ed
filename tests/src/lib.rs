//! What the whole-system tests and the benchmark stand on: a real broker, the real program, a receiver with a journal.
//!
//! Everything here works through the outer interface (commands, configuration file, HTTP, topics); nothing knows the program's inside.
//! Processes that are started here end with the process that started them, however that one ends.

pub mod api;
pub mod broker;
pub mod chaos;
pub mod oracle;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod publisher;
pub mod receiver;
pub mod tls;
pub mod wait;

/// Tells whoever looks at a failing test, or runs tests with `--nocapture`.
#[expect(
    clippy::print_stderr,
    reason = "seeds, figures, and what a program said before a test failed"
)]
pub fn say(text: &str) {
    eprintln!("{text}");
}
