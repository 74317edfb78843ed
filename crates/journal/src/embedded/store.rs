//! What lies on disk: two keyspaces, their keys and values. Everything stored is described here and nowhere else.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `records` | topic id (4), partition (4), offset (8), big-endian | append time (8), [`StoredBody`] |
//! | `meta` | `t`, topic name | [`TopicMeta`] |
//! | `meta` | `p`, topic id (4), partition (4) | [`PartitionMeta`] |
//! | `meta` | `c`, length of the group's name (2), group, partition (4), topic name | [`CommittedMeta`] |

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use prost::Message;

use crate::{Cleanup, Committed, Record, StoredRecord, TopicInfo, TopicPartition, TopicSpec};

/// Memory that records may take before they are sorted to disk.
const RECORDS_MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// The same for topics, positions and marks, which are small and overwritten often.
const META_MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;
/// The engine's log is kept until what it holds is sorted to disk, at most this much.
const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Records are read in runs: larger blocks than for single keys.
const BLOCK_BYTES: u32 = 16 * 1024;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// One may sort while the other merges.
const STORE_THREADS: usize = 2;

/// Bytes of the append time in front of a stored body.
pub(super) const TIME_BYTES: usize = 8;

/// Key, value and headers of a stored record.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredBody {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) value: Option<Bytes>,
    #[prost(message, repeated, tag = "3")]
    pub(super) headers: Vec<StoredHeader>,
}

/// A header of a stored record.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredHeader {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

impl From<Record> for StoredBody {
    fn from(record: Record) -> Self {
        let headers = record.headers.into_iter();
        Self {
            key: record.key,
            value: record.value,
            headers: headers
                .map(|(name, value)| StoredHeader { name, value })
                .collect(),
        }
    }
}

impl From<StoredBody> for Record {
    fn from(body: StoredBody) -> Self {
        Self {
            key: body.key,
            value: body.value,
            headers: body
                .headers
                .into_iter()
                .map(|h| (h.name, h.value))
                .collect(),
        }
    }
}

/// A topic as it was made.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TopicMeta {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(uint32, tag = "2")]
    pub(super) partitions: u32,
    #[prost(uint32, tag = "3")]
    pub(super) replication: u32,
    #[prost(bool, tag = "4")]
    pub(super) compact: bool,
    #[prost(uint64, optional, tag = "5")]
    pub(super) retention_ms: Option<u64>,
    #[prost(bool, tag = "6")]
    pub(super) append_time: bool,
    #[prost(uint64, tag = "7")]
    pub(super) max_record_bytes: u64,
    #[prost(btree_map = "string, string", tag = "8")]
    pub(super) settings: BTreeMap<String, String>,
}

/// Marks of a partition. Changed by the writer only.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartitionMeta {
    /// The first offset that is not deleted.
    #[prost(uint64, tag = "1")]
    pub(super) start: u64,
    /// Everything below is gone from the disk, too.
    #[prost(uint64, tag = "2")]
    pub(super) freed: u64,
    /// Offsets below were given out, even where no record is left to show it.
    #[prost(uint64, tag = "3")]
    pub(super) high: u64,
    /// Below, only the last record of a key is left.
    #[prost(uint64, tag = "4")]
    pub(super) cleaned: u64,
}

/// A committed position.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommittedMeta {
    #[prost(uint64, tag = "1")]
    pub(super) offset: u64,
    #[prost(string, tag = "2")]
    pub(super) metadata: String,
}

impl TopicMeta {
    pub(super) fn from_spec(id: u32, spec: &TopicSpec) -> Self {
        let (compact, retention) = match spec.cleanup {
            Cleanup::Compact => (true, None),
            Cleanup::Delete { retention } => (false, retention),
        };
        Self {
            id,
            partitions: spec.partitions,
            replication: u32::from(spec.replication),
            compact,
            retention_ms: retention.map(|r| u64::try_from(r.as_millis()).unwrap_or(u64::MAX)),
            append_time: spec.append_time,
            max_record_bytes: spec.max_record_bytes as u64,
            settings: spec.settings.clone(),
        }
    }

    pub(super) fn retention(&self) -> Option<Duration> {
        self.retention_ms.map(Duration::from_millis)
    }

    /// In Kafka's words, so that whoever checks a topic need not know the engine.
    pub(super) fn info(&self) -> TopicInfo {
        let mut settings = self.settings.clone();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        set(
            "cleanup.policy",
            if self.compact { "compact" } else { "delete" }.to_owned(),
        );
        set(
            "retention.ms",
            self.retention_ms
                .map_or_else(|| "-1".to_owned(), |ms| ms.to_string()),
        );
        set("retention.bytes", "-1".to_owned());
        set(
            "message.timestamp.type",
            if self.append_time {
                "LogAppendTime"
            } else {
                "CreateTime"
            }
            .to_owned(),
        );
        set("max.message.bytes", self.max_record_bytes.to_string());
        TopicInfo {
            partitions: self.partitions,
            replication: u16::try_from(self.replication).unwrap_or(u16::MAX),
            settings,
        }
    }
}

/// What a record weighs against a topic's limit: key, value and headers.
pub(super) fn record_bytes(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    record.key.as_ref().map_or(0, Bytes::len)
        + record.value.as_ref().map_or(0, Bytes::len)
        + headers
}

/// The stored form, with room for the append time in front.
pub(super) fn encode(record: Record) -> Vec<u8> {
    let body = StoredBody::from(record);
    let mut stored = Vec::with_capacity(TIME_BYTES + body.encoded_len());
    stored.extend_from_slice(&[0; TIME_BYTES]);
    body.encode(&mut stored).expect("a vector grows as needed");
    stored
}

/// The append time of a stored record.
pub(super) fn decode_time(stored: &[u8]) -> Result<i64, String> {
    stored
        .first_chunk::<TIME_BYTES>()
        .map(|b| i64::from_be_bytes(*b))
        .ok_or_else(|| "a stored record is too short".to_owned())
}

/// A stored record. Its bytes are copied, so that holding it pins no block of the store.
pub(super) fn decode(offset: u64, stored: &[u8]) -> Result<StoredRecord, String> {
    let timestamp_ms = decode_time(stored)?;
    let body = Bytes::copy_from_slice(stored.get(TIME_BYTES..).unwrap_or_default());
    let body = StoredBody::decode(body).map_err(|e| format!("record {offset}: {e}"))?;
    Ok(StoredRecord {
        offset,
        timestamp_ms,
        key: body.key,
        value: body.value,
        headers: body
            .headers
            .into_iter()
            .map(|h| (h.name, h.value))
            .collect(),
    })
}

/// The key of a record.
pub(super) fn record_key(topic: u32, partition: u32, offset: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&topic.to_be_bytes());
    key[4..8].copy_from_slice(&partition.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset in the key of a record.
pub(super) fn offset_of(key: &[u8]) -> Result<u64, String> {
    key.last_chunk::<8>()
        .filter(|_| key.len() == 16)
        .map(|b| u64::from_be_bytes(*b))
        .ok_or_else(|| "a record's key has the wrong length".to_owned())
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    [b"t", name.as_bytes()].concat()
}

pub(super) fn partition_key(topic: u32, partition: u32) -> Vec<u8> {
    [
        b"p".as_slice(),
        &topic.to_be_bytes(),
        &partition.to_be_bytes(),
    ]
    .concat()
}

pub(super) fn committed_key(group: &str, at: &TopicPartition) -> Vec<u8> {
    let length = u16::try_from(group.len()).unwrap_or(u16::MAX);
    [
        b"c".as_slice(),
        &length.to_be_bytes(),
        group.as_bytes(),
        &at.partition.to_be_bytes(),
        at.topic.as_bytes(),
    ]
    .concat()
}

fn parse_committed_key(key: &[u8]) -> Option<(String, TopicPartition)> {
    let (length, rest) = key.get(1..)?.split_first_chunk::<2>()?;
    let (group, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (partition, topic) = rest.split_first_chunk::<4>()?;
    let topic = String::from_utf8(topic.to_vec()).ok()?;
    let partition = u32::from_be_bytes(*partition);
    Some((
        String::from_utf8(group.to_vec()).ok()?,
        TopicPartition { topic, partition },
    ))
}

/// Positions by group.
pub(super) type CommittedByGroup = HashMap<String, HashMap<TopicPartition, Committed>>;

/// What `meta` holds when the directory is opened.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) topics: BTreeMap<String, TopicMeta>,
    pub(super) partitions: HashMap<(u32, u32), PartitionMeta>,
    pub(super) committed: CommittedByGroup,
}

/// The open storage engine.
pub(super) struct Store {
    pub(super) db: Database,
    pub(super) records: Keyspace,
    pub(super) meta: Keyspace,
}

impl Store {
    /// Opens what is in `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, fjall::Error> {
        let db = Database::builder(path)
            .worker_threads(STORE_THREADS)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(LOG_BYTES_MAX)
            // The tail of the log must be judged before the engine reads it: plain bytes are easier to judge.
            .journal_compression(CompressionType::None)
            .open()?;
        let records = db.keyspace("records", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(RECORDS_MEMTABLE_BYTES)
                .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
                // Records are found by range, never by key.
                .filter_policy(FilterPolicy::disabled())
        })?;
        let meta = db.keyspace("meta", || {
            KeyspaceCreateOptions::default().max_memtable_size(META_MEMTABLE_BYTES)
        })?;
        Ok(Self { db, records, meta })
    }

    /// Reads all of `meta`.
    pub(super) fn load(&self) -> Result<Loaded, String> {
        let mut loaded = Loaded::default();
        for entry in self.meta.iter() {
            let (key, value) = entry.into_inner().map_err(|e| e.to_string())?;
            let damaged = || format!("an entry of the store cannot be read: {:02x?}", &*key);
            match key.split_first() {
                Some((b't', name)) => {
                    let name = String::from_utf8(name.to_vec()).map_err(|_| damaged())?;
                    let meta = TopicMeta::decode(&*value).map_err(|_| damaged())?;
                    loaded.topics.insert(name, meta);
                }
                Some((b'p', rest)) => {
                    let at = rest
                        .split_first_chunk::<4>()
                        .and_then(|(t, p)| Some((*t, *p.first_chunk::<4>()?)))
                        .map(|(t, p)| (u32::from_be_bytes(t), u32::from_be_bytes(p)))
                        .ok_or_else(damaged)?;
                    let meta = PartitionMeta::decode(&*value).map_err(|_| damaged())?;
                    loaded.partitions.insert(at, meta);
                }
                Some((b'c', _)) => {
                    let (group, at) = parse_committed_key(&key).ok_or_else(damaged)?;
                    let c = CommittedMeta::decode(&*value).map_err(|_| damaged())?;
                    let (offset, metadata) = (c.offset, c.metadata);
                    loaded
                        .committed
                        .entry(group)
                        .or_default()
                        .insert(at, Committed { offset, metadata });
                }
                _ => return Err(damaged()),
            }
        }
        Ok(loaded)
    }

    /// The offset of the last record of a partition at or above `from`.
    pub(super) fn last_offset(
        &self,
        topic: u32,
        partition: u32,
        from: u64,
    ) -> Result<Option<u64>, String> {
        self.scan(topic, partition, from, u64::MAX)
            .next_back()
            .map(|last| offset_of(&last.key().map_err(|e| e.to_string())?))
            .transpose()
    }

    /// The records of a partition from `from` to before `to`, as they are now.
    pub(super) fn scan(&self, topic: u32, partition: u32, from: u64, to: u64) -> fjall::Iter {
        let from = record_key(topic, partition, from);
        let to = record_key(topic, partition, to);
        // A range that is upside down would be a panic in the engine.
        self.records.range(from..to.max(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_forms_come_back() {
        let record = Record {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::new()),
            headers: vec![("a".into(), Bytes::from_static(b"1")); 2],
        };
        assert_eq!(record_bytes(&record), 5);
        let mut stored = encode(record.clone());
        stored[..TIME_BYTES].copy_from_slice(&77_i64.to_be_bytes());
        let back = decode(9, &stored).expect("decodes");
        assert_eq!((back.offset, back.timestamp_ms), (9, 77));
        assert_eq!(
            (back.key, back.value, back.headers),
            (record.key, record.value, record.headers)
        );
        let tombstone = decode(0, &encode(Record::default())).expect("decodes");
        assert_eq!((tombstone.key, tombstone.value), (None, None));
        assert!(decode(0, b"short").is_err());
    }

    #[test]
    fn keys_keep_their_parts_apart() {
        let at = TopicPartition {
            topic: "a.b".into(),
            partition: 7,
        };
        let key = committed_key("group", &at);
        assert_eq!(parse_committed_key(&key), Some(("group".into(), at)));
        assert_eq!(offset_of(&record_key(1, 2, 3)), Ok(3));
        assert!(record_key(1, 2, u64::MAX) < record_key(1, 3, 0));
        assert_eq!(parse_committed_key(b"c\xff\xff"), None);
    }
}
