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
    /// What a record of `attempts` is: [`KIND_ATTEMPT`], [`KIND_NOTE`] or [`KIND_CLAIM`]; readers skip what they do not know.
    pub const KIND: &str = "kind";
    /// A record of attempts.
    pub const KIND_ATTEMPT: &str = "attempt";
    /// What the owner of the partition wrote down for itself: batches that begin, commands that are done.
    pub const KIND_NOTE: &str = "note";
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

impl Positions {
    /// The stored form of positions in rising order.
    #[must_use]
    pub fn of(positions: &[crate::ids::Position]) -> Self {
        let mut before = 0;
        let step = |position: &crate::ids::Position| {
            let step = position.offset.wrapping_sub(before);
            before = position.offset;
            step
        };
        Self {
            steps: positions.iter().map(step).collect(),
            indexes: positions.iter().map(|position| position.index).collect(),
        }
    }

    /// The positions.
    #[must_use]
    pub fn read(&self) -> Vec<crate::ids::Position> {
        let mut offset = 0_u64;
        let place = |(step, index): (&u64, &u32)| {
            offset = offset.wrapping_add(*step);
            crate::ids::Position {
                offset,
                index: *index,
            }
        };
        self.steps.iter().zip(&self.indexes).map(place).collect()
    }
}

impl Attempt {
    /// The sends that it was about, in order.
    #[must_use]
    pub fn sends(&self) -> Vec<crate::ids::Position> {
        let others = self.others.iter().map(|other| other.send);
        [self.send]
            .into_iter()
            .chain(others)
            .flatten()
            .map(Into::into)
            .collect()
    }

    /// The same said of each delivery of a batch by itself; of one that is no batch, itself.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let mut of = self;
        let others = std::mem::take(&mut of.others);
        let rest = of.clone();
        let members = others.into_iter().map(move |member| Self {
            send: member.send,
            delivery_id: member.delivery_id,
            run: member.run,
            webhook_epoch: member.webhook_epoch,
            event_source: member.event_source,
            event_id: member.event_id,
            event_type: member.event_type,
            event_key: member.event_key,
            contact: member.contact,
            ..rest.clone()
        });
        [of].into_iter().chain(members)
    }
}
