//! `deliveries` → attempts. What comes in: sends, one event for the webhooks of a partition. What goes out: HTTP requests, and for each the record in
//! `attempts` that decides, with what follows from it: retries into the tiers, `dead`, deactivations.
//!
//! Reading order: [`stage`](Dispatch) joins the group and keeps the lease; `takeover` makes a worker the owner of a partition; `worker` is the owner at
//! work, over the pure state machines of `hookline_model::core`; `door` says who may send now; `attempt` is one exchange, judged; `commands`
//! is what people want of single deliveries; `scan` catches up lanes that are behind; `progress` stores checkpoints. [`transport`], [`client`]
//! and [`guard`] are the only way out; [`tiers`] are the delay topics.
//!
//! Invariants:
//! - nothing is started without the lease, and nothing that was recorded is acted upon before it has certainly counted;
//! - what follows from an attempt is decided before it is written, so that a new owner can write it again;
//! - no lane waits for another.
//!
//! What it does not know: what fan-out matched and why, and where history keeps its rows.

mod attempt;
pub mod client;
pub mod commands;
mod config;
mod credentials;
mod door;
pub mod guard;
mod lease;
mod mailbox;
mod metrics;
pub mod outside;
mod payload;
mod places;
mod progress;
mod records;
mod request;
mod scan;
mod shared;
mod stage;
mod takeover;
pub mod tiers;
mod tokens;
pub mod transport;
mod way_out;
mod worker;

pub use config::DispatchConfig;
pub use stage::{Dispatch, DispatchError};
pub use way_out::WayOut;
