//! Events in: what a producer that is part of hookline does.
//!
//! Comes in: one JSON document, a CloudEvent or bare data. Goes out: a record of `events`, acknowledged by the journal. The HTTP side of
//! ingest belongs here, too, beside [`Publisher`], and will hand its documents to it.
//!
//! What this crate does not know: who is subscribed, and whether the project exists. Fan-out decides that, and what it cannot place lands
//! in `rejected`.

mod line;
mod partition;
mod publisher;

pub use line::{Defaults, LineError, Prepared};
pub use partition::partition_of;
pub use publisher::{Ack, PublishError, Published, Publisher};
