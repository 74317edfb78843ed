//! What became of the deliveries.
//!
//! Comes in: the public output of dispatch, and the events themselves. Goes out: what people see of them. [`Tail`] shows attempts as they
//! happen; [`History`] puts both into a [`Store`] that can be asked, page by page or as a whole ([`Export`]); [`Jobs`] starts deliveries over
//! by their thousands.
//!
//! What this crate does not know: how attempts are made. Delivery never waits for it.

mod activity;
mod attempt_line;
mod decode;
mod export;
mod jobs;
mod kept;
mod metrics;
mod partition;
mod stage;
mod store;
mod tail;
#[cfg(test)]
mod testing;
mod upkeep;

pub use activity::{Activity, ActivityData};
pub use attempt_line::{
    AttemptLine, ContactView, HeaderView, OUTCOMES, PositionView, RequestView, ResponseView,
};
pub use export::{Export, ExportFormat};
pub use jobs::{Jobs, JobsConfig, JobsError, RangesError, job_ranges};
pub use kept::{KeptError, KeptEvent, kept_event};
pub use stage::{History, HistoryConfig, HistoryError};
pub use store::{
    ActivityEnd, ActivityFilter, ActivityPage, AttemptFilter, AttemptPage, AttemptSummary,
    DeliveryView, Figures, Interval, Latency, OutcomeCounts, Place, RunView, StatusFilter, Step,
    Store, StoreError, Wanted, WebhookStatistics,
};
pub use tail::{Tail, TailError, TailFilter, TailFrom, TailItem};
