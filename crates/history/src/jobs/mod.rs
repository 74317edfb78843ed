//! The role `jobs`: deliveries started over by their thousands.
//!
//! In come jobs, from the registry, and records of `dead` (redrive) or `events` (replay); out go records of `deliveries`, one for each
//! delivery that is started over. Reading order: `ranges` (what a new job will read), `pick` (what it wants of a record, pure), `flight` (what
//! is on its way, pure), `runner` (one job), `stage` (who runs which).
//!
//! Invariants: a partition of the source is read in order, and what is made from it is appended in that order; how far a job is stands in the
//! registry only once everything made until there is acknowledged. So what a dead or stale runner repeats is recognised by its source, and the
//! job is done once. However much a job has to do, it holds a bounded number of records. What this module does not know: how anything is
//! delivered.

mod flight;
mod metrics;
mod pick;
mod ranges;
mod runner;
mod stage;
#[cfg(test)]
mod tests;

pub(crate) use pick::accepted_at;
pub use ranges::{RangesError, job_ranges};
pub use stage::{Jobs, JobsConfig, JobsError};
