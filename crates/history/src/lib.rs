//! What became of the deliveries.
//!
//! Comes in: the public output of dispatch. Goes out: what people see of it. So far that is [`Tail`], attempts as they happen; the SQL
//! store, its queries and the export come beside it.
//!
//! What this crate does not know: how attempts are made. Delivery never waits for it.

mod attempt_line;
mod tail;

pub use attempt_line::{AttemptLine, HeaderView, PositionView, RequestView, ResponseView};
pub use tail::{Tail, TailError, TailFilter, TailFrom, TailItem};
