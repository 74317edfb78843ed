//! The one list of everything hookline stores: for each topic its key, value, partitioning, cleanup, writers and readers.
//!
//! | topic | key | value | partitions | kept | written by | read by |
//! |---|---|---|---|---|---|---|
//! | `events` | event key | public event forms | by key | 7 d | producers, ingest | fan-out, history, jobs |
//! | `deliveries` | – | [`Deliveries`](crate::wire::Deliveries) | p = hash(webhook uid) mod layout | until settled | fan-out, tiers, jobs, owner of p | dispatch |
//! | `attempts` | webhook uid or none | [`Attempts`](crate::wire::Attempts), [`Claim`](crate::wire::Claim), by header `kind` | same p | 90 d | owner of p | owner of p, history |
//! | `progress` | – | [`CheckpointChunk`](crate::wire::CheckpointChunk) | same p | until replaced | owner of p | owner of p |
//! | `commands` | webhook uid | [`Command`](crate::wire::Command) | same p | until done | API, CLI | owner of p |
//! | `held` | – | [`HeldSends`](crate::wire::HeldSends) | same p | until settled | owner of p | owner of p |
//! | `retry.<delay>` | – | [`Waiting`](crate::wire::Waiting) | p mod tier partitions | until moved on | owner of p, tiers | tiers |
//! | `dead` | webhook uid | [`DeadDelivery`](crate::wire::DeadDelivery) | same p | 90 d | dispatch | history, jobs |
//! | `responses` | event id | captured replies | by key | 7 d | dispatch | history |
//! | `contacts` | project/contact id | contacts | by key | compacted | producers | history |
//! | `registry` | kind/project/name/version/nonce | [`RegistryRecord`](crate::wire::RegistryRecord) | one | compacted | anyone, by the write protocol | everyone |
//! | `rejected` | as read | [`Rejected`](crate::wire::Rejected) | as `events` | 30 d | fan-out, any reader of ours | history |

use std::time::Duration;

use crate::limits;

/// A topic of the catalog. The name in the journal is the configured prefix and [`Topic::suffix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Public input: what happened.
    Events,
    /// What is to be sent to whom.
    Deliveries,
    /// Public output and the one log that decides.
    Attempts,
    /// A cache of how far a partition is.
    Progress,
    /// What people asked the owner of a partition to do.
    Commands,
    /// Unsettled sends moved out of the way of deletion.
    Held,
    /// A delay: every record in it waits the same time. The value indexes [`limits::TIERS`].
    Retry(u8),
    /// Public output: deliveries that ended without success.
    Dead,
    /// Public output: captured replies.
    Responses,
    /// Public input: contacts.
    Contacts,
    /// Projects, webhooks and everything else that is configured.
    Registry,
    /// Public output: what nobody could decode or place.
    Rejected,
}

/// How old records of a topic go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// By age.
    For(Duration),
    /// Their owner deletes them when they are no longer needed; no time or size limit may.
    UntilSettled,
    /// The last record of each key stays.
    Compacted,
}

/// How many partitions a topic has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitions {
    /// As many as the layout says for p.
    Layout,
    /// As many as the layout says for tiers.
    Tiers,
    /// One.
    One,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Topic {
    /// All topics, tiers included, in the order in which they are made.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::Registry,
            Self::Events,
            Self::Deliveries,
            Self::Attempts,
            Self::Progress,
            Self::Commands,
            Self::Held,
            Self::Dead,
            Self::Responses,
            Self::Contacts,
            Self::Rejected,
        ]
        .into_iter()
        .chain(Self::tiers())
    }

    /// The tiers, shortest first.
    pub fn tiers() -> impl Iterator<Item = Self> {
        (0..u8::try_from(limits::TIERS.len()).unwrap_or(u8::MAX)).map(Self::Retry)
    }

    /// The name without the prefix.
    #[must_use]
    pub fn suffix(self) -> String {
        match self {
            Self::Events => "events".into(),
            Self::Deliveries => "deliveries".into(),
            Self::Attempts => "attempts".into(),
            Self::Progress => "progress".into(),
            Self::Commands => "commands".into(),
            Self::Held => "held".into(),
            Self::Retry(tier) => format!(
                "retry.{}",
                limits::TIERS.get(usize::from(tier)).map_or("?", |t| t.0)
            ),
            Self::Dead => "dead".into(),
            Self::Responses => "responses".into(),
            Self::Contacts => "contacts".into(),
            Self::Registry => "registry".into(),
            Self::Rejected => "rejected".into(),
        }
    }

    /// The name in the journal.
    #[must_use]
    pub fn name(self, prefix: &str) -> String {
        format!("{prefix}{}", self.suffix())
    }

    /// How old records go away.
    #[must_use]
    pub fn kept(self) -> Kept {
        match self {
            Self::Events | Self::Responses => Kept::For(7 * DAY),
            Self::Attempts | Self::Dead => Kept::For(90 * DAY),
            Self::Rejected => Kept::For(30 * DAY),
            Self::Deliveries | Self::Progress | Self::Commands | Self::Held | Self::Retry(_) => {
                Kept::UntilSettled
            }
            Self::Registry | Self::Contacts => Kept::Compacted,
        }
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(self) -> Partitions {
        match self {
            Self::Registry => Partitions::One,
            Self::Retry(_) => Partitions::Tiers,
            _ => Partitions::Layout,
        }
    }

    /// Whether the time of a record is that of its append. Public inputs keep the producer's.
    #[must_use]
    pub fn append_time(self) -> bool {
        !matches!(self, Self::Contacts | Self::Events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_tiers_are_named_after_their_delay() {
        let names: std::collections::BTreeSet<_> =
            Topic::all().map(|t| t.name("hookline.")).collect();
        assert_eq!(names.len(), Topic::all().count());
        assert!(names.contains("hookline.retry.100s") && names.contains("hookline.retry.24h"));
    }
}
