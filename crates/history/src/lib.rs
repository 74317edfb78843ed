//! What became of the deliveries.
//!
//! Comes in: the public output of dispatch. Goes out: what people see of it. [`Tail`] shows attempts as they happen; [`History`] puts them
//! into a [`Store`] that can be asked, page by page or as a whole ([`Export`]).
//!
//! What this crate does not know: how attempts are made. Delivery never waits for it.

mod attempt_line;
mod decode;
mod export;
mod metrics;
mod partition;
mod stage;
mod store;
mod tail;
#[cfg(test)]
mod testing;

pub use attempt_line::{
    AttemptLine, ContactView, HeaderView, OUTCOMES, PositionView, RequestView, ResponseView,
};
pub use export::{Export, ExportFormat};
pub use stage::{History, HistoryConfig, HistoryError};
pub use store::{
    AttemptFilter, AttemptPage, DeliveryView, Place, RunView, StatusFilter, Store, StoreError,
};
pub use tail::{Tail, TailError, TailFilter, TailFrom, TailItem};
