//! The stored forms, generated from `proto/`. Versions live here and nowhere else.

#![allow(
    missing_docs,
    reason = "generated; the documentation stands in the proto files"
)]
#![allow(clippy::large_enum_variant, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/hookline.v1.rs"));

/// The `format` that this build writes. Readers take this and the one before.
pub const FORMAT: u32 = 1;

/// Names of record headers.
pub mod header {
    /// What a record of `attempts` is: [`KIND_ATTEMPT`] or [`KIND_CLAIM`]; readers skip what they do not know.
    pub const KIND: &str = "kind";
    /// A record of attempts.
    pub const KIND_ATTEMPT: &str = "attempt";
    /// A claim of ownership.
    pub const KIND_CLAIM: &str = "claim";
    /// The media type of a public record.
    pub const CONTENT_TYPE: &str = "content-type";
}

/// Whether a reader of this build understands a record of that `format`.
#[must_use]
pub fn readable(format: u32) -> bool {
    format == FORMAT
}
