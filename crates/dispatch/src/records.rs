//! Records as dispatch reads and writes them: decoding that never panics, and the one place where their frames are put together.

use std::sync::Arc;

use bytes::Bytes;
use hookline_journal::{Record, StoredRecord};
use hookline_model::core::claims::LogEntry;
use hookline_model::core::lane::{LaneKey, LaneKind};
use hookline_model::core::marks::{Stream, StreamPosition};
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
    let kind = match source.stream {
        Some(wire::source::Stream::Retry(_)) => LaneKind::Due,
        Some(wire::source::Stream::Job(_)) => LaneKind::Bulk,
        _ => LaneKind::Fresh,
    };
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
            lane: LaneKey { webhook, kind },
            stream,
            at,
            payload: Payload {
                record: record.clone(),
                index,
            },
            // Shared by its sends; what each adds is its own entry, and its share of what decoding takes beside the bytes.
            bytes: (bytes + 512) / count.max(1) as usize + 128,
        })
    };
    let placed: Result<Vec<_>, _> = (0..count)
        .zip(&record.deliveries.sends)
        .map(place)
        .collect();
    Ok((placed?, registry_offset))
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
        Some(kind) if kind == header::KIND_ATTEMPT.as_bytes() => {
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

/// The field of [`wire::Attempts`] that its elements stand in; a test holds it against the generated code.
const ATTEMPTS: u32 = 4;

/// An attempt as an element of [`wire::Attempts`].
pub(crate) fn attempt(attempt: &wire::Attempt) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(attempt.encoded_len() + 8);
    prost::encoding::message::encode(ATTEMPTS, attempt, &mut encoded);
    encoded
}

/// A record of attempts that are encoded already: elements of a repeated field may simply stand one after another.
pub(crate) fn attempts<'a>(
    epoch: u64,
    sequence: u64,
    encoded: impl Iterator<Item = &'a [u8]>,
    bytes: usize,
) -> Record {
    let head = wire::Attempts {
        format: wire::FORMAT,
        epoch,
        sequence,
        attempts: Vec::new(),
    };
    let mut value = Vec::with_capacity(head.encoded_len() + bytes);
    head.encode_raw(&mut value);
    encoded.for_each(|attempt| value.extend_from_slice(attempt));
    Record {
        key: None,
        value: Some(value.into()),
        headers: vec![kind(header::KIND_ATTEMPT)],
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
        let encoded: Vec<Vec<u8>> = (1..4).map(|n| attempt(&said(n))).collect();
        let bytes = encoded.iter().map(Vec::len).sum();
        let record = attempts(7, 9, encoded.iter().map(Vec::as_slice), bytes);
        let expected = wire::Attempts {
            format: wire::FORMAT,
            epoch: 7,
            sequence: 9,
            attempts: (1..4).map(said).collect(),
        };
        assert_eq!(
            wire::Attempts::decode(record.value.expect("a value")),
            Ok(expected)
        );
    }
}
