//! What nobody could read or place, as it is kept for people.

use bytes::Bytes;
use hookline_journal::{Record, StoredRecord};
use hookline_model::limits::REJECTED_BYTES_KEPT;
use hookline_model::time::Millis;
use hookline_model::wire;
use prost::Message as _;

/// Headers kept of a rejected record; more say nothing more.
const HEADERS_KEPT: usize = 64;
/// Bytes kept of one header value.
const HEADER_BYTES_KEPT: usize = 1024;

/// Why, from a closed list, and what exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) word: &'static str,
    pub(crate) detail: String,
}

/// The record of `rejected` for one of `topic` that was read.
pub(crate) fn record(
    topic: &str,
    partition: u32,
    read: &StoredRecord,
    reason: Reason,
    now: Millis,
) -> Record {
    let cut = |bytes: &Bytes, max: usize| bytes.slice(..bytes.len().min(max));
    let key = read.key.clone().unwrap_or_default();
    let value = read.value.clone().unwrap_or_default();
    let headers = read.headers.iter().take(HEADERS_KEPT);
    let rejected = wire::Rejected {
        format: wire::FORMAT,
        topic: topic.into(),
        partition,
        offset: read.offset,
        reason: reason.word.into(),
        detail: reason.detail,
        key: cut(&key, REJECTED_BYTES_KEPT),
        value: cut(&value, REJECTED_BYTES_KEPT),
        value_bytes: value.len() as u64,
        headers: headers
            .map(|(name, value)| wire::Header {
                name: name.clone(),
                value: cut(value, HEADER_BYTES_KEPT),
            })
            .collect(),
        at_ms: now.0,
    };
    Record {
        key: read.key.as_ref().map(|key| cut(key, REJECTED_BYTES_KEPT)),
        value: Some(rejected.encode_to_vec().into()),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_record_says_where_it_stood_and_is_cut() {
        let read = StoredRecord {
            offset: 9,
            timestamp_ms: 1,
            key: Some(Bytes::from_static(b"k")),
            value: Some(vec![b'x'; REJECTED_BYTES_KEPT + 1].into()),
            headers: vec![("h".into(), Bytes::from_static(b"v"))],
        };
        let reason = Reason {
            word: "unreadable",
            detail: "why".into(),
        };
        let record = record("hookline.events", 3, &read, reason, Millis(5));
        assert_eq!(record.key, read.key);
        let rejected = wire::Rejected::decode(record.value.expect("a value")).expect("readable");
        assert_eq!(
            (rejected.partition, rejected.offset, rejected.at_ms),
            (3, 9, 5)
        );
        assert_eq!(rejected.value.len(), REJECTED_BYTES_KEPT);
        assert_eq!(rejected.value_bytes, REJECTED_BYTES_KEPT as u64 + 1);
        assert_eq!(
            (rejected.reason.as_str(), rejected.detail.as_str()),
            ("unreadable", "why")
        );
    }
}
