//! Pure: the records of `deliveries` that one event becomes.
//!
//! One record for each partition that has matching webhooks, with these in order of their uids; more than
//! [`SENDS_PER_RECORD_MAX`] of them take further records. Records are encoded by hand, field by field: the event is encoded once, however
//! many records carry it, and a send costs no allocation. A test holds this against the generated code.

use bytes::{BufMut as _, Bytes, BytesMut};
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::limits::SENDS_PER_RECORD_MAX;
use hookline_model::resource::Ordered;
use hookline_model::wire;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Field numbers, as `internal.proto` has them.
mod field {
    pub(super) const DELIVERIES_EVENT: u32 = 3;
    pub(super) const DELIVERIES_SENDS: u32 = 4;
    pub(super) const SEND_WEBHOOK_UID: u32 = 1;
    pub(super) const SEND_WEBHOOK_EPOCH: u32 = 2;
    pub(super) const SEND_DELIVERY_ID: u32 = 3;
    pub(super) const SEND_ORDERED: u32 = 7;
}

/// Bytes of a send with the longest epoch, and its frame.
const SEND_BYTES: usize = 54;

/// A webhook that gets the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) uid: WebhookUid,
    pub(crate) epoch: u64,
    pub(crate) partition: u32,
    /// The stamp: within what order holds, for all time.
    pub(crate) ordered: Ordered,
}

/// Where an event stands, and what it was decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) generation: u32,
    pub(crate) registry_offset: u64,
    pub(crate) accepted_at_ms: i64,
}

/// A record of `deliveries`, ready to be appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) partition: u32,
    pub(crate) sends: u32,
    pub(crate) value: Bytes,
}

/// Sends gathered for one partition.
#[derive(Debug, Default)]
struct Gathered {
    sends: Vec<u8>,
    count: usize,
}

/// Room for planning, used again for every event.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    gathered: Vec<Gathered>,
    /// Partitions that have something gathered, in the order they got it.
    touched: Vec<u32>,
    event: Vec<u8>,
    head: Vec<u8>,
}

impl Planner {
    /// The records for `event`, made as they are asked for: all matches are never held at once.
    pub(crate) fn plan<'a, I: Iterator<Item = Target>>(
        &'a mut self,
        event: &'a wire::Event,
        origin: Origin,
        targets: I,
    ) -> Plan<'a, I> {
        self.touched.clear();
        for gathered in &mut self.gathered {
            gathered.sends.clear();
            gathered.count = 0;
        }
        self.event.clear();
        self.head.clear();
        Plan {
            planner: self,
            event,
            origin,
            targets,
        }
    }

    /// Adds a send; says whether its partition's record is full.
    fn gather(&mut self, event: &wire::Event, target: Target) -> bool {
        let index = target.partition as usize;
        if self.gathered.len() <= index {
            self.gathered.resize_with(index + 1, Gathered::default);
        }
        let gathered = &mut self.gathered[index];
        if gathered.count == 0 {
            self.touched.push(target.partition);
        }
        gathered.count += 1;
        let id = DeliveryId::derive(&event.project, &event.source, &event.id, target.uid);
        put_send(&mut gathered.sends, target, id);
        gathered.count >= SENDS_PER_RECORD_MAX
    }

    fn record(&mut self, event: &wire::Event, origin: Origin, partition: u32) -> Planned {
        if self.head.is_empty() {
            put_head(&mut self.head, origin);
            // Writing to a vector does not fail: it grows.
            self.event.reserve(event.encoded_len());
            event.encode_raw(&mut self.event);
        }
        let gathered = &mut self.gathered[partition as usize];
        let size = self.head.len() + 16 + self.event.len() + gathered.sends.len();
        let mut value = BytesMut::with_capacity(size);
        value.put_slice(&self.head);
        put_bytes(&mut value, field::DELIVERIES_EVENT, &self.event);
        value.put_slice(&gathered.sends);
        let sends = u32::try_from(gathered.count).unwrap_or(u32::MAX);
        gathered.sends.clear();
        gathered.count = 0;
        Planned {
            partition,
            sends,
            value: value.freeze(),
        }
    }
}

/// See [`Planner::plan`].
pub(crate) struct Plan<'a, I> {
    planner: &'a mut Planner,
    event: &'a wire::Event,
    origin: Origin,
    targets: I,
}

impl<I: Iterator<Item = Target>> Iterator for Plan<'_, I> {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        for target in &mut self.targets {
            if self.planner.gather(self.event, target) {
                let full = target.partition;
                self.planner.touched.retain(|p| *p != full);
                return Some(self.planner.record(self.event, self.origin, full));
            }
        }
        let partition = self.planner.touched.pop()?;
        Some(self.planner.record(self.event, self.origin, partition))
    }
}

fn put_head(buffer: &mut Vec<u8>, origin: Origin) {
    let source = wire::FromEvents {
        partition: origin.partition,
        offset: origin.offset,
        generation: origin.generation,
    };
    wire::Deliveries {
        format: wire::FORMAT,
        source: Some(wire::Source {
            stream: Some(wire::source::Stream::Events(source)),
        }),
        event: None,
        sends: Vec::new(),
        registry_offset: origin.registry_offset,
        accepted_at_ms: origin.accepted_at_ms,
    }
    .encode_raw(buffer);
}

fn put_send(buffer: &mut Vec<u8>, target: Target, id: DeliveryId) {
    let epoch = match target.epoch {
        0 => 0,
        epoch => 1 + encoded_len_varint(epoch),
    };
    let ordered = target.ordered.to_wire();
    let stamp = match ordered {
        0 => 0,
        ordered => 1 + encoded_len_varint(ordered.into()),
    };
    let size = 2 * (2 + 16) + epoch + stamp;
    buffer.reserve(SEND_BYTES);
    encode_key(field::DELIVERIES_SENDS, WireType::LengthDelimited, buffer);
    encode_varint(size as u64, buffer);
    put_bytes(buffer, field::SEND_WEBHOOK_UID, target.uid.as_bytes());
    if epoch > 0 {
        encode_key(field::SEND_WEBHOOK_EPOCH, WireType::Varint, buffer);
        encode_varint(target.epoch, buffer);
    }
    put_bytes(buffer, field::SEND_DELIVERY_ID, &id.0);
    if stamp > 0 {
        encode_key(field::SEND_ORDERED, WireType::Varint, buffer);
        encode_varint(ordered.into(), buffer);
    }
}

fn put_bytes(buffer: &mut impl bytes::BufMut, tag: u32, value: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(value.len() as u64, buffer);
    buffer.put_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u128) -> WebhookUid {
        WebhookUid::from_slice(&n.to_be_bytes()).expect("16 bytes")
    }

    fn event() -> wire::Event {
        wire::Event {
            id: "e1".into(),
            source: "/s".into(),
            project: "shop".into(),
            r#type: "user.signup".into(),
            data: Bytes::from_static(b"{\"a\":1}"),
            ..wire::Event::default()
        }
    }

    const ORIGIN: Origin = Origin {
        partition: 3,
        offset: 77,
        generation: 0,
        registry_offset: 12,
        accepted_at_ms: 1_700_000_000_000,
    };

    fn plan(targets: Vec<Target>) -> Vec<Planned> {
        let event = event();
        Planner::default()
            .plan(&event, ORIGIN, targets.into_iter())
            .collect()
    }

    #[test]
    fn a_record_says_what_the_generated_code_would_say() {
        let targets: Vec<_> = [
            (1, 0, Ordered::No),
            (2, 1, Ordered::Webhook),
            (3, u64::MAX, Ordered::Key),
        ]
        .map(|(n, epoch, ordered)| Target {
            uid: uid(n),
            epoch,
            partition: 0,
            ordered,
        })
        .into();
        let planned = plan(targets.clone());
        assert_eq!(planned.len(), 1);
        let sends = targets.iter().map(|t| wire::Send {
            webhook_uid: Bytes::copy_from_slice(t.uid.as_bytes()),
            webhook_epoch: t.epoch,
            delivery_id: Bytes::copy_from_slice(&DeliveryId::derive("shop", "/s", "e1", t.uid).0),
            ordered: t.ordered.to_wire(),
            ..wire::Send::default()
        });
        let expected = wire::Deliveries {
            format: wire::FORMAT,
            source: Some(wire::Source {
                stream: Some(wire::source::Stream::Events(wire::FromEvents {
                    partition: 3,
                    offset: 77,
                    generation: 0,
                })),
            }),
            event: Some(event()),
            sends: sends.collect(),
            registry_offset: 12,
            accepted_at_ms: 1_700_000_000_000,
        };
        let decoded = wire::Deliveries::decode(planned[0].value.clone());
        assert_eq!(decoded.expect("readable"), expected);
    }

    #[test]
    fn one_record_a_partition_in_uid_order_and_full_ones_go_first() {
        let many = SENDS_PER_RECORD_MAX as u128 * 2 + 10;
        let targets = (0..many).map(|n| Target {
            uid: uid(n),
            epoch: 1,
            partition: u32::from(n % 2 == 1),
            ordered: Ordered::No,
        });
        let planned = plan(targets.collect());
        let mut seen = [Vec::new(), Vec::new()];
        for record in &planned {
            let decoded = wire::Deliveries::decode(record.value.clone()).expect("readable");
            assert_eq!(decoded.sends.len(), record.sends as usize);
            assert!(decoded.sends.len() <= SENDS_PER_RECORD_MAX);
            assert_eq!(decoded.event, Some(event()));
            seen[record.partition as usize]
                .extend(decoded.sends.into_iter().map(|s| s.webhook_uid));
        }
        assert_eq!(planned.len(), 4);
        for (partition, uids) in seen.iter().enumerate() {
            let expected = (0..many)
                .filter(|n| n % 2 == partition as u128)
                .map(|n| Bytes::copy_from_slice(uid(n).as_bytes()));
            assert!(uids.iter().cloned().eq(expected), "partition {partition}");
        }
    }

    #[test]
    fn nobody_matches_and_the_room_is_used_again() {
        let mut planner = Planner::default();
        let event = event();
        let one = Target {
            uid: uid(1),
            epoch: 1,
            partition: 5,
            ordered: Ordered::No,
        };
        assert_eq!(planner.plan(&event, ORIGIN, std::iter::empty()).count(), 0);
        let first: Vec<_> = planner.plan(&event, ORIGIN, [one].into_iter()).collect();
        // An event given up half-way leaves nothing behind.
        drop(planner.plan(&event, ORIGIN, [one, one].into_iter()));
        let again: Vec<_> = planner.plan(&event, ORIGIN, [one].into_iter()).collect();
        assert_eq!(first, again);
    }
}
