//! From a record of `attempts` to what it says.

use hookline_journal::StoredRecord;
use hookline_model::ids::Position;
use hookline_model::wire::{self, header};
use prost::Message as _;

use crate::AttemptLine;

/// What a record of `attempts` is.
pub(crate) enum Decoded {
    /// Attempts, and whether they count for nobody.
    Attempts {
        /// In the order of the record.
        attempts: Vec<wire::Attempt>,
        /// Made under a lower claim than one that stands before them.
        stray: bool,
    },
    /// Of another kind: it concerns the owner of the partition only.
    Other,
    /// An attempt that this build cannot read, and why.
    Unreadable(String),
}

/// Reads one record. `epoch` is the highest claim seen in the partition so far.
pub(crate) fn decode(record: &StoredRecord, epoch: &mut u64) -> Decoded {
    let value = record.value.as_deref().unwrap_or_default();
    let kind = record.header(header::KIND).map(|kind| &kind[..]);
    if kind == Some(header::KIND_CLAIM.as_bytes()) {
        // A claim nobody can read belongs to a newer build; it only serves to mark strays here.
        if let Ok(claim) = wire::Claim::decode(value) {
            *epoch = (*epoch).max(claim.epoch);
        }
        return Decoded::Other;
    }
    if kind != Some(header::KIND_ATTEMPT.as_bytes()) {
        return Decoded::Other;
    }
    match wire::Attempts::decode(value) {
        Ok(attempts) if wire::readable(attempts.format) => Decoded::Attempts {
            stray: attempts.epoch < *epoch,
            // Each delivery of a batch has a line of its own.
            attempts: attempts
                .attempts
                .into_iter()
                .flat_map(wire::Attempt::each)
                .collect(),
        },
        Ok(attempts) => Decoded::Unreadable(format!(
            "format {} is not known to this version",
            attempts.format
        )),
        Err(error) => Decoded::Unreadable(error.to_string()),
    }
}

/// The attempts of a record as people see them.
pub(crate) fn lines(
    attempts: Vec<wire::Attempt>,
    partition: u32,
    offset: u64,
    stray: bool,
) -> impl Iterator<Item = AttemptLine> {
    (0..).zip(attempts).map(move |(index, attempt)| {
        AttemptLine::new(attempt, partition, Position { offset, index }, stray)
    })
}
