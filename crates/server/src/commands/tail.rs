//! `hookline tail`: attempts as they happen.

use std::io::IsTerminal as _;

use hookline_history::{Tail, TailFilter, TailFrom, TailItem};

use super::open;
use crate::cli::{Begin, TailArgs};
use crate::output::{Exit, complain, say_raw};
use crate::signals::StopSignals;

/// Follows until told to stop.
///
/// # Errors
/// When there is nothing to follow.
pub(crate) async fn run(args: TailArgs) -> Result<(), Exit> {
    let mut signals = StopSignals::new().map_err(|error| Exit::from_error(&error))?;
    let system = open(&args.config).await?;
    let from = match args.from {
        Begin::Start => TailFrom::Start,
        Begin::End => TailFrom::End,
    };
    let filter = TailFilter {
        project: args.project.clone(),
        webhook: args.webhook.clone(),
    };
    let journal = system.journal();
    let opened = Tail::open(&journal, &system.config.journal.prefix, from, filter).await;
    let done = match opened {
        Err(error) => Err(Exit::from_error(&error)),
        Ok(tail) => tokio::select! {
            done = follow(tail, args.output.json()) => done,
            _ = signals.next() => Ok(()),
        },
    };
    system.opened.close().await;
    done
}

async fn follow(mut tail: Tail, json: bool) -> Result<(), Exit> {
    let colour = !json && std::io::stdout().is_terminal();
    loop {
        match tail.next().await {
            Ok(TailItem::Attempt(attempt)) if json => say_raw(&format!("{}\n", attempt.to_json()))?,
            // The line escapes foreign text itself, and may hold colours.
            Ok(TailItem::Attempt(attempt)) => say_raw(&format!("{}\n", attempt.to_text(colour)))?,
            Ok(TailItem::Unreadable { at, offset, reason }) => complain(&format!(
                "warning: {}[{}] offset {offset} cannot be read: {reason}",
                at.topic, at.partition
            )),
            Ok(TailItem::Missed { at, from, to }) => complain(&format!(
                "warning: {}[{}]: records {from} to {to} were deleted before they were read",
                at.topic, at.partition
            )),
            // The other partitions could go on, but who follows wants to see everything.
            Err(error) => return Err(Exit::from_error(&error)),
        }
    }
}
