//! Events in: what a producer that is part of hookline does.
//!
//! Comes in: one JSON document, a CloudEvent or bare data. Goes out: a record of `events`, acknowledged by the journal. What a
//! request over HTTP says is read here, too ([`PublishRequest`]); the server answers it.
//!
//! What this crate does not know: who is subscribed, and whether the project exists. Fan-out decides that, and what it cannot place lands
//! in `rejected`.

mod http;
mod line;
mod partition;
mod publisher;

pub use http::{BATCH_MEDIA_TYPE, Fault, PublishRequest, ReadEvents, RequestError};
pub use line::{Defaults, LineError, Prepared};
pub use partition::partition_of;
pub use publisher::{Ack, PublishError, Published, Publisher};
