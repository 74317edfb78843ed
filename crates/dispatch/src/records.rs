//! Records as dispatch reads and writes them: decoding that never panics, and the one place where their frames are put together.

use std::sync::Arc;

use bytes::Bytes;
use hookline_journal::{Record, StoredRecord};
use hookline_model::core::claims::LogEntry;
use hookline_model::core::held::HeldRange;
use hookline_model::core::lane::{LaneKey, LaneKind};
use hookline_model::core::marks::{Stream, StreamPosition};
use hookline_model::core::partition::Read;
use hookline_model::ids::{Position, WebhookUid};
use hookline_model::time::Millis;
use hookline_model::wire::{self, header};
use prost::Message as _;

use crate::payload::{Delivered, Payload};

/// A send of a record, placed.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) position: Position,
    pub(crate) next: Position,
    pub(crate) lane: LaneKey,
    pub(crate) stream: Stream,
    pub(crate) at: StreamPosition,
    pub(crate) payload: Payload,
    pub(crate) bytes: usize,
    pub(crate) weight: usize,
}

impl Placed {
    /// As progress takes it.
    pub(crate) fn read(self) -> Read<Payload> {
        Read {
            position: self.position,
            next: self.next,
            lane: self.lane,
            payload: self.payload,
            bytes: self.bytes,
            weight: self.weight,
        }
    }
}

/// What is wrong with a record that cannot be used.
#[derive(Debug)]
pub(crate) struct Unusable(pub(crate) String);

/// The sends of a record of `deliveries`, and the registry offset they were decided at.
pub(crate) fn sends(stored: &StoredRecord) -> Result<(Vec<Placed>, u64), Unusable> {
    let value = stored
        .value
        .clone()
        .ok_or_else(|| Unusable("it has no value".into()))?;
    let bytes = value.len();
    let deliveries = wire::Deliveries::decode(value)
        .map_err(|error| Unusable(format!("it is no Deliveries record: {error}")))?;
    let registry_offset = deliveries.registry_offset;
    let there = There {
        offset: stored.offset,
        indexes: None,
        entered_at: Millis(stored.timestamp_ms),
        bytes,
    };
    Ok((placed(deliveries, &there)?, registry_offset))
}

/// A record of `held`.
pub(crate) struct Copied {
    /// The claim under which it was copied.
    pub(crate) epoch: u64,
    /// Where the record stood in `deliveries`.
    pub(crate) offset: u64,
    /// What it has of it.
    pub(crate) sends: Vec<Placed>,
}

/// What a record of `held` has of a record of `deliveries`.
pub(crate) fn copied(stored: &StoredRecord) -> Result<Copied, Unusable> {
    let value = stored
        .value
        .clone()
        .ok_or_else(|| Unusable("it has no value".into()))?;
    let bytes = value.len();
    let held = wire::HeldSends::decode(value)
        .map_err(|error| Unusable(format!("it is no copy of sends: {error}")))?;
    let deliveries = held
        .deliveries
        .filter(|d| d.sends.len() == held.indexes.len())
        .ok_or_else(|| Unusable("its sends and their places do not fit".into()))?;
    let there = There {
        offset: held.offset,
        indexes: Some(&held.indexes),
        entered_at: Millis(held.entered_at_ms),
        bytes,
    };
    Ok(Copied {
        epoch: held.epoch,
        offset: held.offset,
        sends: placed(deliveries, &there)?,
    })
}

/// A record of `held` with these sends of one record of `deliveries`.
pub(crate) fn held(epoch: u64, sends: &[Placed]) -> Option<Record> {
    let first = sends.first()?;
    let record = first.payload.record();
    let deliveries = wire::Deliveries {
        format: record.format,
        source: record.source.clone(),
        event: Some(first.payload.event().clone()),
        sends: sends.iter().map(|s| s.payload.send().clone()).collect(),
        registry_offset: record.registry_offset,
        accepted_at_ms: record.accepted_at_ms,
    };
    let held = wire::HeldSends {
        format: wire::FORMAT,
        epoch,
        offset: first.position.offset,
        indexes: sends.iter().map(|s| s.position.index).collect(),
        deliveries: Some(deliveries),
        entered_at_ms: first.payload.entered_at().0,
    };
    Some(plain(None, &held))
}

/// Where a record of `deliveries` stands.
struct There<'a> {
    offset: u64,
    /// Of each send, where not all of them are here.
    indexes: Option<&'a [u32]>,
    entered_at: Millis,
    bytes: usize,
}

fn placed(mut deliveries: wire::Deliveries, there: &There<'_>) -> Result<Vec<Placed>, Unusable> {
    if !wire::readable(deliveries.format) {
        return Err(Unusable(format!(
            "its format is {}, this build reads {}",
            deliveries.format,
            wire::FORMAT
        )));
    }
    let source = deliveries
        .source
        .clone()
        .ok_or_else(|| Unusable("it does not say where it came from".into()))?;
    let event = deliveries
        .event
        .take()
        .ok_or_else(|| Unusable("it has no event".into()))?;
    if matches!(
        source.stream,
        Some(wire::source::Stream::Job(_) | wire::source::Stream::Command(_))
    ) {
        // It starts a run, whose number nobody can choose: its own place. (Zero is what fan-out starts.)
        for send in &mut deliveries.sends {
            send.run = there.offset + 1;
        }
    }
    let weight = event.data.len() + 1;
    let count = u32::try_from(deliveries.sends.len())
        .map_err(|_| Unusable("it has too many sends".into()))?;
    let record = Arc::new(Delivered::new(
        deliveries,
        event,
        there.entered_at,
        there.bytes,
    ));
    let place = |(at, send): (u32, &wire::Send)| {
        let webhook = WebhookUid::from_slice(&send.webhook_uid)
            .ok_or_else(|| Unusable(format!("send {at} has no webhook uid")))?;
        if send.delivery_id.len() != 16 {
            return Err(Unusable(format!("send {at} has no delivery id")));
        }
        let (stream, stream_at) = Stream::of(&source, webhook)
            .ok_or_else(|| Unusable("it does not say where it came from".into()))?;
        let index = there
            .indexes
            .and_then(|indexes| indexes.get(at as usize).copied())
            .unwrap_or(at);
        let next = if there.indexes.is_none() && index + 1 == count {
            Position::at(there.offset + 1)
        } else {
            Position {
                offset: there.offset,
                index: index + 1,
            }
        };
        Ok(Placed {
            position: Position {
                offset: there.offset,
                index,
            },
            next,
            lane: LaneKey {
                webhook,
                kind: lane_kind(&source, record.event(), send),
            },
            stream,
            at: stream_at,
            payload: Payload::new(&record, at),
            // Shared by its sends; what each adds is its own entry, and its share of what decoding takes beside the bytes.
            bytes: (there.bytes + 512) / count.max(1) as usize + 128,
            weight,
        })
    };
    (0..count).zip(record.sends()).map(place).collect()
}

/// Which of the webhook's lanes a send stands in: by the stamp that fan-out put on it, and by where it came from.
fn lane_kind(source: &wire::Source, event: &wire::Event, send: &wire::Send) -> LaneKind {
    use wire::source::Stream;
    let job = matches!(source.stream, Some(Stream::Job(_)));
    match (send.ordered, &source.stream) {
        (0, Some(Stream::Retry(_))) => LaneKind::Due,
        (0, _) if job => LaneKind::Bulk,
        (0, _) => LaneKind::Fresh,
        (_, _) if job => LaneKind::OrderedBulk,
        (1, _) => LaneKind::Ordered,
        // An event without a key has its project's.
        _ if event.key.is_empty() => LaneKind::of_key(&event.project),
        _ => LaneKind::of_key(&event.key),
    }
}

/// A record of `attempts`, as far as it is understood.
pub(crate) fn log_entry(stored: &StoredRecord) -> LogEntry<wire::Attempts> {
    let Some(value) = stored.value.clone() else {
        return LogEntry::Other;
    };
    match stored.header(header::KIND).map(Bytes::as_ref) {
        Some(kind) if kind == header::KIND_CLAIM.as_bytes() => match wire::Claim::decode(value) {
            Ok(claim) if wire::readable(claim.format) => LogEntry::Claim {
                epoch: claim.epoch,
                nonce: claim.nonce.to_vec(),
            },
            _ => LogEntry::Other,
        },
        Some(kind)
            if kind == header::KIND_ATTEMPT.as_bytes() || kind == header::KIND_NOTE.as_bytes() =>
        {
            match wire::Attempts::decode(value) {
                Ok(body) if wire::readable(body.format) => LogEntry::Written {
                    epoch: body.epoch,
                    sequence: body.sequence,
                    body,
                },
                _ => LogEntry::Other,
            }
        }
        _ => LogEntry::Other,
    }
}

fn kind(name: &'static str) -> (String, Bytes) {
    (header::KIND.to_owned(), Bytes::from_static(name.as_bytes()))
}

pub(crate) fn claim(claim: &wire::Claim) -> Record {
    Record {
        key: None,
        value: Some(claim.encode_to_vec().into()),
        headers: vec![kind(header::KIND_CLAIM)],
    }
}

/// The fields of [`wire::Attempts`] that its elements stand in; a test holds them against the generated code.
const ATTEMPTS: u32 = 4;
const BATCHES: u32 = 5;
const COMMANDS: u32 = 6;
const MOVED: u32 = 7;

fn element(field: u32, message: &impl prost::Message) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(message.encoded_len() + 8);
    prost::encoding::message::encode(field, message, &mut encoded);
    encoded
}

/// An attempt as an element of [`wire::Attempts`].
pub(crate) fn attempt(attempt: &wire::Attempt) -> Vec<u8> {
    element(ATTEMPTS, attempt)
}

/// The beginning of a batch as such an element.
pub(crate) fn batch_begun(webhook: WebhookUid, sends: &[Position]) -> Vec<u8> {
    let begun = wire::BatchBegun {
        webhook_uid: Bytes::copy_from_slice(webhook.as_bytes()),
        sends: Some(wire::Positions::of(sends)),
    };
    element(BATCHES, &begun)
}

/// A command that is done as such an element.
pub(crate) fn command_done(done: &wire::CommandDone) -> Vec<u8> {
    element(COMMANDS, done)
}

/// What was copied to `held` as such an element.
pub(crate) fn moved(range: HeldRange) -> Vec<u8> {
    element(MOVED, &wire::HeldRange::from(range))
}

/// A record of what is encoded already: elements of repeated fields may simply stand one after another. `kind` tells those who read attempts
/// alone whether there are any.
pub(crate) fn attempts<'a>(
    kind_of: &'static str,
    epoch: u64,
    sequence: u64,
    encoded: impl Iterator<Item = &'a [u8]>,
    bytes: usize,
) -> Record {
    let head = wire::Attempts {
        format: wire::FORMAT,
        epoch,
        sequence,
        ..wire::Attempts::default()
    };
    let mut value = Vec::with_capacity(head.encoded_len() + bytes);
    head.encode_raw(&mut value);
    encoded.for_each(|attempt| value.extend_from_slice(attempt));
    Record {
        key: None,
        value: Some(value.into()),
        headers: vec![kind(kind_of)],
    }
}

pub(crate) fn plain(key: Option<Bytes>, value: &impl prost::Message) -> Record {
    Record {
        key,
        value: Some(value.encode_to_vec().into()),
        headers: Vec::new(),
    }
}

/// What nobody could use, for `rejected`: why by a word of the closed list, and for people.
pub(crate) fn rejected(
    stored: &StoredRecord,
    topic: &str,
    partition: u32,
    (reason, detail): (&str, &str),
    now: Millis,
) -> Record {
    let value = stored.value.clone().unwrap_or_default();
    let kept = value.len().min(hookline_model::limits::REJECTED_BYTES_KEPT);
    let rejected = wire::Rejected {
        format: wire::FORMAT,
        topic: topic.to_owned(),
        partition,
        offset: stored.offset,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        key: stored.key.clone().unwrap_or_default(),
        value_bytes: value.len() as u64,
        value: value.slice(..kept),
        headers: stored
            .headers
            .iter()
            .map(|(name, value)| wire::Header {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        at_ms: now.0,
    };
    plain(stored.key.clone(), &rejected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_put_together_by_hand_read_as_the_generated_code_would_have_written_them() {
        let said = |n: u32| wire::Attempt {
            attempt: n,
            webhook: format!("w{n}"),
            ..wire::Attempt::default()
        };
        let mut encoded: Vec<Vec<u8>> = (1..4).map(|n| attempt(&said(n))).collect();
        let webhook = WebhookUid::from_slice(&[3; 16]).expect("16 bytes");
        let sends = [
            Position::at(4),
            Position {
                offset: 9,
                index: 2,
            },
        ];
        encoded.insert(1, batch_begun(webhook, &sends));
        let done = wire::CommandDone {
            offset: 5,
            ..wire::CommandDone::default()
        };
        encoded.insert(0, command_done(&done));
        let range = HeldRange {
            to: 8,
            end: 3,
            ..HeldRange::default()
        };
        encoded.insert(0, moved(range));
        let bytes = encoded.iter().map(Vec::len).sum();
        let record = attempts(
            header::KIND_ATTEMPT,
            7,
            9,
            encoded.iter().map(Vec::as_slice),
            bytes,
        );
        let expected = wire::Attempts {
            format: wire::FORMAT,
            epoch: 7,
            sequence: 9,
            attempts: (1..4).map(said).collect(),
            batches: vec![wire::BatchBegun {
                webhook_uid: Bytes::copy_from_slice(webhook.as_bytes()),
                sends: Some(wire::Positions::of(&sends)),
            }],
            commands: vec![done],
            moved: vec![range.into()],
        };
        assert_eq!(
            wire::Attempts::decode(record.value.expect("a value")),
            Ok(expected)
        );
    }
}
