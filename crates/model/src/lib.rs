//! The words of hookline and its pure rules.
//!
//! Reading order: [`ids`], [`event`] and [`resource`] are the nouns; [`topics`] says what is stored where and [`limits`] how large
//! anything may get; [`wire`] are the stored forms. Then the rules: [`policy`] and [`path`] (when to try again), [`matching`] and [`filter`]
//! (who gets an event), [`catalog`] (what event types there are and what their data is), [`signature`], [`access`] (who may do what over the API), and [`core`] (who owns a partition, what is
//! settled in it, what to send next), [`job`] (what is started over by its thousands).
//!
//! Invariants stated as absences: no I/O, no clock (callers pass `now`), no runtime, no framework types.

pub mod access;
pub mod body;
pub mod catalog;
pub mod cloudevents;
pub mod core;
pub mod event;
mod failpoint;
pub mod filter;
pub mod ids;
pub mod job;
pub mod limits;
pub mod matching;
pub mod outcome;
pub mod path;
pub mod policy;
pub mod presets;
pub mod resource;
pub mod signature;
pub mod time;
pub mod topics;
pub mod units;
pub mod wire;
