//! Lies of the journal to those who read it, each of which makes the program do what a mistake in it would.

use hookline_journal::StoredRecord;
use hookline_model::topics::Topic;
use hookline_model::wire::{self, header, next};
use prost::Message as _;

use super::process::PREFIX;

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Fan-out put no stamp of order on anything.
    NoOrder,
    /// Nobody ever began a batch.
    NoBatchBegun,
    /// Nothing that waits in its place was ever tried.
    NothingTried,
}

impl Lie {
    /// Makes of a record of this topic what it says.
    pub(crate) fn tell(self, topic: &str, record: &mut StoredRecord) {
        let Some(value) = record.value.clone() else {
            return;
        };
        if self == Self::NoOrder && topic == Topic::Deliveries.name(PREFIX) {
            let mut deliveries = wire::Deliveries::decode(value).expect("ours");
            deliveries
                .sends
                .iter_mut()
                .for_each(|send| send.ordered = 0);
            record.value = Some(deliveries.encode_to_vec().into());
        } else if topic == Topic::Attempts.name(PREFIX)
            && record
                .header(header::KIND)
                .is_some_and(|kind| kind != header::KIND_CLAIM)
        {
            let mut attempts = wire::Attempts::decode(value).expect("ours");
            match self {
                Self::NoOrder => {}
                Self::NoBatchBegun => attempts.batches.clear(),
                Self::NothingTried => attempts.attempts.retain(|attempt| {
                    let kind = attempt.next.as_ref().and_then(|next| next.kind.as_ref());
                    !matches!(kind, Some(next::Kind::InPlace(_)))
                }),
            }
            record.value = Some(attempts.encode_to_vec().into());
        }
    }
}
