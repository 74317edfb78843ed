//! Who owns a partition, what is settled in it, and what to send next: the reasons hookline exists for, as pure state machines.
//!
//! | module | decides |
//! |---|---|
//! | [`claims`] | who owns a partition, and which of one's own records have certainly counted |
//! | [`marks`] | whether a send is a repeat, by where it came from |
//! | [`lane`] | what a webhook may send now, what waits in memory and what stays in the log |
//! | [`partition`] | what is settled: watermark and exceptions |
//! | [`held`] | where its old end stands, so that it keeps nobody else's records |
//! | [`checkpoint`] | how that is cached, and which cached state to believe |

pub mod checkpoint;
pub mod claims;
pub mod held;
pub mod lane;
pub mod marks;
mod mutation;
pub mod partition;

#[cfg(test)]
mod tests;
