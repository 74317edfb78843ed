//! What goes over the control socket: a length (4 bytes, big-endian) and a [`Request`] or a [`Reply`].
//!
//! A connection begins with a hello each way, in which the version must agree: both ends are the same program on the same machine, so there
//! is no older one to understand. Then it serves calls, or one appender, or one reader.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::failure::Failure;
use crate::embedded::store::{StoredBody, TopicMeta};
use crate::{AppendError, Appended, Batch, Committed, StoredRecord, TopicInfo, TopicPartition};

/// Raised whenever these forms change.
pub(super) const VERSION: u32 = 1;
/// No frame is longer: the largest record and what is around it, with much to spare.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long either end waits for a hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub(super) ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Ask {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Start(Place),
    #[prost(message, tag = "3")]
    End(Place),
    #[prost(message, tag = "4")]
    DeleteBefore(Place),
    #[prost(message, tag = "5")]
    Committed(CommittedAsk),
    #[prost(message, tag = "6")]
    CreateTopics(Specs),
    #[prost(message, tag = "7")]
    Topics(Nothing),
    #[prost(message, tag = "8")]
    Healthy(Nothing),
    /// The connection is an appender from here on; the text is its name.
    #[prost(string, tag = "9")]
    OpenAppender(String),
    #[prost(message, tag = "10")]
    Append(AppendAsk),
    /// The connection is a reader from here on.
    #[prost(message, tag = "11")]
    OpenReader(Place),
    /// So many more bytes may be sent to a reader.
    #[prost(uint64, tag = "12")]
    Credit(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Reply {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub(super) answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Answer {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Failed(Failure),
    #[prost(message, tag = "3")]
    Done(Nothing),
    #[prost(uint64, tag = "4")]
    Offset(u64),
    #[prost(bool, tag = "5")]
    Healthy(bool),
    #[prost(message, tag = "6")]
    Committed(CommittedAnswer),
    #[prost(message, tag = "7")]
    Topics(Topics),
    #[prost(message, tag = "8")]
    Appended(AppendedAnswer),
    #[prost(message, tag = "9")]
    Records(Records),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Nothing {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(uint32, tag = "2")]
    pub(super) pid: u32,
}

/// A partition, and an offset in it where one is asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Place {
    #[prost(string, tag = "1")]
    pub(super) topic: String,
    #[prost(uint32, tag = "2")]
    pub(super) partition: u32,
    #[prost(uint64, tag = "3")]
    pub(super) offset: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommittedAsk {
    #[prost(string, tag = "1")]
    pub(super) group: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) partitions: Vec<Place>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommittedAnswer {
    #[prost(message, repeated, tag = "1")]
    pub(super) positions: Vec<CommittedPosition>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommittedPosition {
    #[prost(bool, tag = "1")]
    pub(super) exists: bool,
    #[prost(uint64, tag = "2")]
    pub(super) offset: u64,
    #[prost(string, tag = "3")]
    pub(super) metadata: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Specs {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) topics: BTreeMap<String, TopicMeta>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Topics {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) topics: BTreeMap<String, TopicForm>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TopicForm {
    #[prost(uint32, tag = "1")]
    pub(super) partitions: u32,
    #[prost(uint32, tag = "2")]
    pub(super) replication: u32,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) settings: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AppendAsk {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(string, tag = "2")]
    pub(super) topic: String,
    #[prost(uint32, tag = "3")]
    pub(super) partition: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) body: Option<StoredBody>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AppendedAnswer {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(uint64, optional, tag = "2")]
    pub(super) offset: Option<u64>,
    #[prost(int64, optional, tag = "3")]
    pub(super) timestamp_ms: Option<i64>,
    #[prost(message, optional, tag = "4")]
    pub(super) failure: Option<Failure>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Records {
    #[prost(message, repeated, tag = "1")]
    pub(super) records: Vec<RecordForm>,
    #[prost(uint64, tag = "2")]
    pub(super) next: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RecordForm {
    #[prost(uint64, tag = "1")]
    pub(super) offset: u64,
    #[prost(int64, tag = "2")]
    pub(super) timestamp_ms: i64,
    #[prost(message, optional, tag = "3")]
    pub(super) body: Option<StoredBody>,
}

impl From<StoredRecord> for RecordForm {
    fn from(record: StoredRecord) -> Self {
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        let record = crate::Record {
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        Self {
            offset,
            timestamp_ms,
            body: Some(record.into()),
        }
    }
}

impl From<RecordForm> for StoredRecord {
    fn from(form: RecordForm) -> Self {
        let record = crate::Record::from(form.body.unwrap_or_default());
        Self {
            offset: form.offset,
            timestamp_ms: form.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }
    }
}

impl From<Batch> for Records {
    fn from(batch: Batch) -> Self {
        Self {
            records: batch.records.into_iter().map(Into::into).collect(),
            next: batch.next,
        }
    }
}

impl From<&TopicInfo> for TopicForm {
    fn from(info: &TopicInfo) -> Self {
        Self {
            partitions: info.partitions,
            replication: u32::from(info.replication),
            settings: info.settings.clone(),
        }
    }
}

impl From<TopicForm> for TopicInfo {
    fn from(form: TopicForm) -> Self {
        Self {
            partitions: form.partitions,
            replication: u16::try_from(form.replication).unwrap_or(u16::MAX),
            settings: form.settings,
        }
    }
}

impl From<&TopicPartition> for Place {
    fn from(at: &TopicPartition) -> Self {
        Self {
            topic: at.topic.clone(),
            partition: at.partition,
            offset: 0,
        }
    }
}

impl From<Option<Committed>> for CommittedPosition {
    fn from(committed: Option<Committed>) -> Self {
        let exists = committed.is_some();
        let Committed { offset, metadata } = committed.unwrap_or_default();
        Self {
            exists,
            offset,
            metadata,
        }
    }
}

impl From<CommittedPosition> for Option<Committed> {
    fn from(position: CommittedPosition) -> Self {
        position.exists.then_some(Committed {
            offset: position.offset,
            metadata: position.metadata,
        })
    }
}

impl Reply {
    pub(super) fn appended(number: u64, result: Result<Appended, AppendError>) -> Self {
        let mut answer = AppendedAnswer {
            number,
            ..AppendedAnswer::default()
        };
        match result {
            Ok(a) => (answer.offset, answer.timestamp_ms) = (a.offset, a.timestamp_ms),
            Err(error) => answer.failure = Some(error.into()),
        }
        Answer::Appended(answer).into()
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self {
            answer: Some(answer),
        }
    }
}

impl From<Ask> for Request {
    fn from(ask: Ask) -> Self {
        Self { ask: Some(ask) }
    }
}

pub(super) fn hello() -> Hello {
    Hello {
        version: VERSION,
        pid: std::process::id(),
    }
}

/// Adds a frame to what is to be written.
pub(super) fn put(out: &mut BytesMut, content: &impl Message) {
    let length = u32::try_from(content.encoded_len()).expect("no frame is near 4 GiB");
    out.put_u32(length);
    content.encode(out).expect("a buffer grows as needed");
}

/// Takes a whole frame off the front of `from`, if there is one.
pub(super) fn take<M: Message + Default>(from: &mut BytesMut) -> io::Result<Option<M>> {
    let Some(head) = from.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(invalid(format!("a frame of {length} bytes")));
    }
    if from.len() < 4 + length {
        from.reserve(4 + length - from.len());
        return Ok(None);
    }
    from.advance(4);
    let content = from.split_to(length).freeze();
    M::decode(content)
        .map(Some)
        .map_err(|e| invalid(e.to_string()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads the next frame; `None` when the other end has closed. Cancel safe: what was read stays in `buffer`.
pub(super) async fn read<M: Message + Default>(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Option<M>> {
    loop {
        if let Some(content) = take(buffer)? {
            return Ok(Some(content));
        }
        if from.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

/// Writes everything in `out`. Cancel safe: what was not written stays there.
pub(super) async fn flush(
    to: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
) -> io::Result<()> {
    while out.has_remaining() {
        if to.write_buf(out).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_however_they_arrive() {
        let request = Request::from(Ask::Credit(7));
        let mut wire = BytesMut::new();
        put(&mut wire, &request);
        put(&mut wire, &Request::from(Ask::Topics(Nothing {})));
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.put_u8(byte);
            found.extend(take::<Request>(&mut buffer).expect("valid"));
        }
        assert_eq!(found, [request, Ask::Topics(Nothing {}).into()]);
        let mut huge = BytesMut::from(&[255_u8; 8][..]);
        assert!(take::<Request>(&mut huge).is_err());
    }
}
