//! Pure: what the records of the registry's log mean. The order of the log decides; nobody is elected.
//!
//! Of each name the surviving record with the highest version is current; among equals the one with the lowest offset. So it does not
//! matter what lazy compaction has already removed, nor when a zombie's record arrives.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use hookline_model::wire;
use prost::Message as _;

/// What a record is about: the part of its key before the version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) kind: Arc<str>,
    pub(crate) project: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Name {
    pub(crate) fn new(kind: &str, project: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            project: project.into(),
            name: name.into(),
        }
    }
}

/// Tells the records of one version apart; drawn at random by the writer.
pub(crate) type Nonce = [u8; 16];

/// A surviving record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Its version, from 1.
    pub version: u64,
    /// Where it stands in the log.
    pub offset: u64,
    /// Whether this version is a deletion.
    pub deleted: bool,
    /// When it was written, by the writer's clock.
    pub written_at_ms: i64,
    /// The resource as JSON, secrets sealed.
    pub body: Bytes,
    pub(crate) nonce: Nonce,
}

/// What applying one record did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The nonce of the record (not for a tombstone), and whether it became current at its own offset.
    pub(crate) won: Option<(Nonce, bool)>,
    /// What this name means changed.
    pub(crate) changed: Option<Name>,
}

/// Why a record means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the key is not kind/project/name/version/nonce")]
    Key,
    #[error("the value is not a registry record, or says something else than the key")]
    Value,
    #[error("format {0} is newer than this build understands")]
    Format(u32),
}

/// The surviving records of every name.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Highest version first, then lowest offset: the first is current.
    names: HashMap<Name, Vec<Current>>,
    /// Names that have records besides the current one.
    crowded: BTreeSet<Name>,
    /// Kinds and projects of names: each is kept once.
    words: HashSet<Arc<str>>,
}

impl Log {
    pub(crate) fn current(&self, name: &Name) -> Option<&Current> {
        self.names.get(name).and_then(|records| records.first())
    }

    pub(crate) fn of_kind<'a>(
        &'a self,
        kind: &'a str,
        project: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a Current)> {
        self.names
            .iter()
            .filter(move |(name, _)| &*name.kind == kind && &*name.project == project)
            .filter_map(|(name, records)| Some((name, records.first()?)))
    }

    /// Takes the next record of the log.
    pub(crate) fn apply(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        offset: u64,
    ) -> Result<Applied, Unreadable> {
        let (mut name, version, nonce) = key.and_then(decode_key).ok_or(Unreadable::Key)?;
        for word in [&mut name.kind, &mut name.project] {
            match self.words.get(word) {
                Some(known) => *word = Arc::clone(known),
                None => drop(self.words.insert(Arc::clone(word))),
            }
        }
        match value {
            None => Ok(self.remove(name, version, nonce)),
            Some(value) => {
                let record = decode_value(&name, version, nonce, value, offset)?;
                Ok(self.insert(name, record))
            }
        }
    }

    fn insert(&mut self, name: Name, record: Current) -> Applied {
        let nonce = record.nonce;
        // Mostly there is one: room for more is made when it is needed.
        let records = self
            .names
            .entry(name.clone())
            .or_insert_with(|| Vec::with_capacity(1));
        // A record handed out twice (a reader made anew) stands at the same offset.
        records.retain(|r| r.offset != record.offset);
        let place = records.partition_point(|r| {
            (std::cmp::Reverse(r.version), r.offset)
                < (std::cmp::Reverse(record.version), record.offset)
        });
        records.insert(place, record);
        if records.len() > 1 {
            self.crowded.insert(name.clone());
        }
        let won = place == 0;
        Applied {
            won: Some((nonce, won)),
            changed: won.then_some(name),
        }
    }

    fn remove(&mut self, name: Name, version: u64, nonce: Nonce) -> Applied {
        let mut changed = None;
        if let Some(records) = self.names.get_mut(&name) {
            let before = records.first().map(|r| r.offset);
            records.retain(|r| (r.version, r.nonce) != (version, nonce));
            if records.len() < 2 {
                self.crowded.remove(&name);
            }
            if records.first().map(|r| r.offset) != before {
                changed = Some(name.clone());
            }
            if records.is_empty() {
                self.names.remove(&name);
            }
        }
        Applied { won: None, changed }
    }

    /// Keys of up to `max` records that are not current and stand below `before`: they may be tombstoned.
    pub(crate) fn superseded(&self, before: u64, max: usize) -> Vec<Bytes> {
        let rest = |name: &Name| self.names.get(name).map_or(&[][..], |r| &r[1..]).to_vec();
        self.crowded
            .iter()
            .flat_map(|name| rest(name).into_iter().map(move |r| (name, r)))
            .filter(|(_, record)| record.offset < before)
            .take(max)
            .map(|(name, record)| encode_key(name, record.version, &record.nonce))
            .collect()
    }
}

/// The key of a record.
pub(crate) fn encode_key(name: &Name, version: u64, nonce: &Nonce) -> Bytes {
    let mut key = format!("{}/{}/{}/{version}/", name.kind, name.project, name.name);
    for byte in nonce {
        key.push_str(&format!("{byte:02x}"));
    }
    key.into()
}

fn decode_key(key: &[u8]) -> Option<(Name, u64, Nonce)> {
    let mut parts = std::str::from_utf8(key).ok()?.split('/');
    let mut part = || parts.next();
    let (kind, project, name, version, nonce) = (part()?, part()?, part()?, part()?, part()?);
    if parts.next().is_some() || nonce.len() != 32 || !nonce.is_ascii() {
        return None;
    }
    let mut bytes = Nonce::default();
    for (byte, digits) in bytes.iter_mut().zip(nonce.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some((Name::new(kind, project, name), version.parse().ok()?, bytes))
}

/// The value of a record.
pub(crate) fn encode_value(name: &Name, record: &Current) -> Bytes {
    wire::RegistryRecord {
        format: wire::FORMAT,
        kind: name.kind.to_string(),
        project: name.project.to_string(),
        name: name.name.to_string(),
        version: record.version,
        nonce: Bytes::copy_from_slice(&record.nonce),
        deleted: record.deleted,
        written_at_ms: record.written_at_ms,
        body: record.body.clone(),
    }
    .encode_to_vec()
    .into()
}

fn decode_value(
    name: &Name,
    version: u64,
    nonce: Nonce,
    value: &[u8],
    offset: u64,
) -> Result<Current, Unreadable> {
    let record = wire::RegistryRecord::decode(value).map_err(|_| Unreadable::Value)?;
    if !wire::readable(record.format) {
        return Err(Unreadable::Format(record.format));
    }
    let same = *record.kind == *name.kind
        && *record.project == *name.project
        && *record.name == *name.name
        && record.version == version
        && *record.nonce == nonce;
    if !same {
        return Err(Unreadable::Value);
    }
    Ok(Current {
        version,
        offset,
        deleted: record.deleted,
        written_at_ms: record.written_at_ms,
        body: record.body,
        nonce,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::new("webhook", "shop", "crm")
    }

    fn put(log: &mut Log, version: u64, nonce: u8, offset: u64) -> bool {
        let record = Current {
            version,
            offset,
            deleted: false,
            written_at_ms: 0,
            body: Bytes::from(vec![nonce]),
            nonce: [nonce; 16],
        };
        let key = encode_key(&name(), version, &record.nonce);
        let value = encode_value(&name(), &record);
        let applied = log
            .apply(Some(&key), Some(&value), offset)
            .expect("readable");
        applied.won.expect("not a tombstone").1
    }

    #[test]
    fn the_highest_version_wins_and_among_equals_the_first() {
        let mut log = Log::default();
        assert!(put(&mut log, 1, 1, 0));
        assert!(put(&mut log, 2, 2, 1));
        assert!(!put(&mut log, 2, 3, 2), "same version, later");
        assert!(!put(&mut log, 1, 4, 3), "a zombie of an earlier version");
        let current = log.current(&name()).expect("current");
        assert_eq!((current.version, current.offset), (2, 1));
        assert_eq!(log.superseded(10, 10).len(), 3);
        assert_eq!(log.superseded(2, 10).len(), 1, "only those below");
        for key in log.superseded(10, 10) {
            let applied = log.apply(Some(&key), None, 9).expect("tombstone");
            assert_eq!(applied.changed, None);
        }
        assert!(log.superseded(10, 10).is_empty());
        assert_eq!(log.current(&name()).map(|c| c.version), Some(2));
    }

    #[test]
    fn keys_round_trip_and_nonsense_is_named() {
        let key = encode_key(&name(), 7, &[0xab; 16]);
        assert_eq!(decode_key(&key), Some((name(), 7, [0xab; 16])));
        let mut log = Log::default();
        for bad in [
            &b""[..],
            b"a/b/c/1",
            b"a/b/c/x/00",
            b"\xff",
            b"a/b/c/1/zz/y",
        ] {
            assert_eq!(log.apply(Some(bad), None, 0), Err(Unreadable::Key));
        }
        assert_eq!(
            log.apply(Some(&key), Some(b"\xff"), 0),
            Err(Unreadable::Value)
        );
        assert_eq!(log.apply(None, None, 0), Err(Unreadable::Key));
    }
}
