//! What is sent, as it is kept in memory: one send of a record of `deliveries`.

use std::sync::Arc;

use bytes::Bytes;
use hookline_model::core::partition::Sendable;
use hookline_model::ids::DeliveryId;
use hookline_model::time::Millis;
use hookline_model::wire;
use prost::Message as _;

/// What decoding and keeping a send takes beside its bytes, about.
const BESIDE: usize = 1024;

/// A record of `deliveries`, shared by its sends.
pub(crate) struct Delivered {
    deliveries: wire::Deliveries,
    event: wire::Event,
    /// When it came into `deliveries`.
    entered_at: Millis,
    bytes: usize,
    /// It has one send, and memory of its own.
    alone: bool,
}

impl Delivered {
    /// A record whose event was taken out of it; so many bytes were read.
    pub(crate) fn new(
        deliveries: wire::Deliveries,
        event: wire::Event,
        entered_at: Millis,
        bytes: usize,
    ) -> Self {
        Self {
            deliveries,
            event,
            entered_at,
            bytes,
            alone: false,
        }
    }

    pub(crate) fn event(&self) -> &wire::Event {
        &self.event
    }

    pub(crate) fn sends(&self) -> &[wire::Send] {
        &self.deliveries.sends
    }
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
    /// The send at this index of the record, which has it.
    pub(crate) fn new(record: &Arc<Delivered>, index: u32) -> Self {
        Self {
            record: Arc::clone(record),
            index,
        }
    }

    pub(crate) fn event(&self) -> &wire::Event {
        &self.record.event
    }

    pub(crate) fn send(&self) -> &wire::Send {
        // Whoever makes one hands out indexes of this very list.
        &self.record.deliveries.sends[self.index as usize]
    }

    pub(crate) fn record(&self) -> &wire::Deliveries {
        &self.record.deliveries
    }

    /// When it came into `deliveries`.
    pub(crate) fn entered_at(&self) -> Millis {
        self.record.entered_at
    }

    pub(crate) fn accepted_at(&self) -> Millis {
        Millis(self.record.deliveries.accepted_at_ms)
    }
}

/// What is known of a send without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Outline {
    pub(crate) delivery: DeliveryId,
    pub(crate) run: u64,
    pub(crate) webhook_epoch: u64,
    /// When the first attempt of the run began; zero: there was none.
    pub(crate) first_try: Millis,
    pub(crate) entered_at: Millis,
    pub(crate) accepted_at: Millis,
}

impl Sendable for Payload {
    type Outline = Outline;

    fn outline(&self) -> Outline {
        let send = self.send();
        Outline {
            // Of another length there is none: such records are refused.
            delivery: DeliveryId::from_slice(&send.delivery_id).unwrap_or(DeliveryId([0; 16])),
            run: send.run,
            webhook_epoch: send.webhook_epoch,
            first_try: Millis(send.first_try_ms),
            entered_at: self.entered_at(),
            accepted_at: self.accepted_at(),
        }
    }

    fn alone(&self) -> (Self, usize) {
        if self.record.alone {
            return (self.clone(), self.record.bytes + BESIDE);
        }
        let deliveries = wire::Deliveries {
            sends: vec![self.send().clone()],
            ..self.record.deliveries_but_sends()
        };
        let (Some(deliveries), Some(event)) = (copied(&deliveries), copied(self.event())) else {
            return (self.clone(), self.record.bytes + BESIDE);
        };
        let bytes = event.encoded_len() + deliveries.encoded_len();
        let record = Arc::new(Delivered {
            deliveries,
            event,
            entered_at: self.record.entered_at,
            bytes,
            alone: true,
        });
        (Self { record, index: 0 }, bytes + BESIDE)
    }
}

impl Delivered {
    fn deliveries_but_sends(&self) -> wire::Deliveries {
        let wire::Deliveries {
            format,
            source,
            registry_offset,
            accepted_at_ms,
            ..
        } = &self.deliveries;
        wire::Deliveries {
            format: *format,
            source: source.clone(),
            registry_offset: *registry_offset,
            accepted_at_ms: *accepted_at_ms,
            ..wire::Deliveries::default()
        }
    }
}

/// With memory of its own: fields of a decoded record are slices of what was read.
fn copied<M: prost::Message + Default>(message: &M) -> Option<M> {
    M::decode(Bytes::from(message.encode_to_vec())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_long_is_the_same_and_keeps_nothing_else() {
        let send = |n: u8| wire::Send {
            delivery_id: Bytes::from(vec![n; 16]),
            webhook_uid: Bytes::from(vec![n; 16]),
            run: u64::from(n),
            ..wire::Send::default()
        };
        let deliveries = wire::Deliveries {
            format: wire::FORMAT,
            sends: (0..200).map(send).collect(),
            accepted_at_ms: 7,
            registry_offset: 9,
            ..wire::Deliveries::default()
        };
        let event = wire::Event {
            id: "e".into(),
            data: Bytes::from(vec![b'x'; 1_000]),
            ..wire::Event::default()
        };
        let record = Arc::new(Delivered::new(deliveries, event, Millis(5), 9_000));
        let payload = Payload::new(&record, 150);
        let (alone, bytes) = payload.alone();
        assert_eq!(alone.outline(), payload.outline());
        assert_eq!(alone.outline().delivery, DeliveryId([150; 16]));
        assert_eq!(
            (alone.event(), alone.send()),
            (payload.event(), payload.send())
        );
        assert_eq!(alone.record().registry_offset, 9);
        assert!((1_000..3_000).contains(&bytes), "{bytes}");
        drop(payload);
        assert_eq!(Arc::strong_count(&record), 1);
        // And it is not done again and again.
        let (again, the_same) = alone.alone();
        assert!(Arc::ptr_eq(&again.record, &alone.record) && the_same == bytes);
    }
}
