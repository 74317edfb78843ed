//! Records as dispatch reads and writes them: decoding that never panics, and the one place where their frames are put together.

use std::sync::Arc;

use bytes::Bytes;
use hookline_journal::{Record, StoredRecord};
use hookline_model::core::claims::LogEntry;
use hookline_model::core::lane::{LaneKey, LaneKind};
use hookline_model::core::marks::{Stream, StreamPosition};
use hookline_model::core::partition::Read;
use hookline_model::ids::{Position, WebhookUid};
use hookline_model::time::Millis;
use hookline_model::wire::{self, header};
use prost::Message as _;

/// A record of `deliveries`, shared by its sends.
pub(crate) struct Delivered {
    pub(crate) deliveries: wire::Deliveries,
    pub(crate) event: wire::Event,
    pub(crate) bytes: usize,
}

/// One send of such a record.
#[derive(Clone)]
pub(crate) struct Payload {
    record: Arc<Delivered>,
    index: u32,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "send {} of {} bytes", self.index, self.record.bytes)
    }
}

impl Payload {
    pub(crate) fn event(&self) -> &wire::Event {
        &self.record.event
    }

    pub(crate) fn send(&self) -> &wire::Send {
        // The constructor below hands out indexes of this very list.
        &self.record.deliveries.sends[self.index as usize]
    }

    pub(crate) fn record(&self) -> &wire::Deliveries {
        &self.record.deliveries
    }

    pub(crate) fn accepted_at(&self) -> Millis {
        Millis(self.record.deliveries.accepted_at_ms)
    }
}

/// A send of a record, placed.
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
    let mut deliveries = wire::Deliveries::decode(value)
        .map_err(|error| Unusable(format!("it is no Deliveries record: {error}")))?;
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
            send.run = stored.offset + 1;
        }
    }
    let weight = event.data.len() + 1;
    let registry_offset = deliveries.registry_offset;
    let record = Arc::new(Delivered {
        deliveries,
        event,
        bytes,
    });
    let count = u32::try_from(record.deliveries.sends.len())
        .map_err(|_| Unusable("it has too many sends".into()))?;
    let place = |(index, send): (u32, &wire::Send)| {
        let webhook = WebhookUid::from_slice(&send.webhook_uid)
            .ok_or_else(|| Unusable(format!("send {index} has no webhook uid")))?;
        if send.delivery_id.len() != 16 {
            return Err(Unusable(format!("send {index} has no delivery id")));
        }
        let (stream, at) = Stream::of(&source, webhook)
            .ok_or_else(|| Unusable("it does not say where it came from".into()))?;
        let next = if index + 1 == count {
            Position::at(stored.offset + 1)
        } else {
            Position {
                offset: stored.offset,
                index: index + 1,
            }
        };
        Ok(Placed {
            position: Position {
                offset: stored.offset,
                index,
            },
            next,
            lane: LaneKey {
                webhook,
                kind: lane_kind(&source, &record.event, send),
            },
            stream,
            at,
            payload: Payload {
                record: record.clone(),
                index,
            },
            // Shared by its sends; what each adds is its own entry, and its share of what decoding takes beside the bytes.
            bytes: (bytes + 512) / count.max(1) as usize + 128,
            weight,
        })
    };
    let placed: Result<Vec<_>, _> = (0..count)
        .zip(&record.deliveries.sends)
        .map(place)
        .collect();
    Ok((placed?, registry_offset))
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
        };
        assert_eq!(
            wire::Attempts::decode(record.value.expect("a value")),
            Ok(expected)
        );
    }
}
