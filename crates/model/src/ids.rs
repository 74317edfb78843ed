//! Identities. Every id lives inside a project.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What is wrong with an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}")]
pub struct IdError {
    /// Which kind of id.
    pub what: &'static str,
    /// What was given, cut to 64 characters.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub problem: &'static str,
}

/// A slug: `[a-z0-9][a-z0-9-]*`, at most 63 characters. Names of projects, webhooks, connectors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slug(String);

impl Slug {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// When it is not a slug.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = text.as_bytes();
        if bytes.len() <= 63
            && bytes.first().is_some_and(|c| ok(*c))
            && bytes.iter().all(|c| ok(*c) || *c == b'-')
        {
            return Ok(Self(text));
        }
        Err(IdError {
            what: "name",
            value: text.chars().take(64).collect(),
            problem: "must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit",
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A webhook's system-made identity, never reused. Shown as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WebhookUid(pub uuid::Uuid);

impl WebhookUid {
    /// From the 16 bytes of a stored record.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        uuid::Uuid::from_slice(bytes).ok().map(Self)
    }

    /// The 16 bytes of the stored form; their order is the order of uids.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The partition of `deliveries`, `attempts`, `progress` … that this webhook belongs to.
    #[must_use]
    pub fn partition(&self, partitions: u32) -> u32 {
        stable_hash(self.as_bytes(), partitions)
    }
}

impl fmt::Debug for WebhookUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for WebhookUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for WebhookUid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid::Uuid::parse_str(text).map(Self).map_err(|_| IdError {
            what: "webhook uid",
            value: text.chars().take(64).collect(),
            problem: "must be a UUID",
        })
    }
}

/// `hash(bytes) mod partitions`, the same for ever and on every machine: the first eight bytes of SHA-256, big-endian.
#[must_use]
pub fn stable_hash(bytes: &[u8], partitions: u32) -> u32 {
    let digest = Sha256::digest(bytes);
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u32::try_from(u64::from_be_bytes(head) % u64::from(partitions.max(1))).unwrap_or(0)
}

/// One event for one webhook: a hash of (project, source, event id, webhook uid), so that making it twice gives the same id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub [u8; 16]);

impl DeliveryId {
    /// The id of the delivery of an event to a webhook.
    #[must_use]
    pub fn derive(project: &str, source: &str, event_id: &str, webhook: WebhookUid) -> Self {
        let mut hash = Sha256::new();
        for part in [
            project.as_bytes(),
            source.as_bytes(),
            event_id.as_bytes(),
            webhook.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self::from_digest(&hash.finalize())
    }

    fn from_digest(digest: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// From the 16 bytes of a stored record.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From its written form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text
            .strip_prefix("dlv_")
            .filter(|d| d.len() == 32 && d.is_ascii())?;
        let mut id = [0; 16];
        for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(id))
    }
}

/// What tells batches apart, the same on every attempt: a hash of the ids of its deliveries. Its form is that of `webhook-id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId(pub [u8; 16]);

impl BatchId {
    /// The id of the batch of these deliveries.
    #[must_use]
    pub fn derive<'a>(deliveries: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        deliveries.into_iter().for_each(|id| hash.update(id));
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bat_")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dlv_")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A send's place in its partition of `deliveries`: the record's offset, and which of its sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Offset of the record.
    pub offset: u64,
    /// Which of the record's sends, from 0.
    pub index: u32,
}

impl Position {
    /// The first position of the record at `offset`.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { offset, index: 0 }
    }

    /// What receivers see of it (`hookline-sequence`): a number below 2^63 that rises as positions do.
    #[must_use]
    pub fn sequence(self) -> u64 {
        const INDEX_BITS: u32 = 13;
        const _: () = assert!(crate::limits::SENDS_PER_RECORD_MAX < 1 << INDEX_BITS);
        (self.offset << INDEX_BITS | u64::from(self.index)) & (u64::MAX >> 1)
    }
}

impl From<Position> for crate::wire::Position {
    fn from(p: Position) -> Self {
        Self {
            offset: p.offset,
            index: p.index,
        }
    }
}

impl From<crate::wire::Position> for Position {
    fn from(p: crate::wire::Position) -> Self {
        Self {
            offset: p.offset,
            index: p.index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_id_is_stable_and_keeps_its_parts_apart() {
        let uid: WebhookUid = "01890a5d-ac96-774b-bcce-b302099a8057"
            .parse()
            .expect("uuid");
        let id = DeliveryId::derive("shop", "/a", "b", uid);
        assert_eq!(id, DeliveryId::derive("shop", "/a", "b", uid));
        assert_ne!(id, DeliveryId::derive("shop", "/", "ab", uid));
        assert_eq!(id.to_string().len(), 36);
        assert_eq!(DeliveryId::parse(&id.to_string()), Some(id));
        assert_eq!(DeliveryId::parse("dlv_00"), None);
        assert!(!id.to_string().contains('.'));
    }

    #[test]
    fn slugs() {
        assert!(Slug::new("crm-2").is_ok());
        for bad in ["", "-a", "A", "a_b", "a.b", &"a".repeat(64)] {
            assert!(Slug::new(bad).is_err(), "{bad}");
        }
    }
}
