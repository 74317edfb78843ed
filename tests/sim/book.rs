//! What the logs say of every delivery: what partitions took, what was begun, what became of it. Read on while a run goes on, and read by the judge.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hookline_journal::{StoredRecord, TopicPartition};
use hookline_model::core::claims::{ClaimReader, Counted, LogEntry};
use hookline_model::core::lane::{LaneKey, LaneKind};
use hookline_model::ids::{BatchId, DeliveryId, Position, WebhookUid};
use hookline_model::outcome::Outcome;
use hookline_model::topics::Topic;
use hookline_model::wire::{self, header, next, source::Stream};
use prost::Message as _;

use super::process::PREFIX;
use super::world::{World, place};

/// A run of a delivery.
pub(crate) type RunId = (String, u64);

/// Where a send stands: partition of `deliveries`, position.
pub(crate) type Place = (u32, Position);

/// What a request is known by: its `webhook-id` and, where it has a place in an order, `hookline-sequence`.
pub(crate) type WireId = (String, Option<u64>);

/// A send that its partition took.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) place: Place,
    pub(crate) run: RunId,
    pub(crate) lane: LaneKey,
    pub(crate) event: String,
}

/// A batch whose beginning counted.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) stored_at: i64,
    pub(crate) places: Vec<Place>,
}

/// An attempt that counted, as far as it is about one delivery.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) stored_at: i64,
    pub(crate) ticket: Position,
    pub(crate) partition: u32,
    /// What went out, or would have.
    pub(crate) unit: WireId,
    /// Where the first of that stands.
    pub(crate) first: Place,
    pub(crate) said: wire::Attempt,
}

impl Attempt {
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::from_wire(self.said.outcome()).expect("a known outcome")
    }

    /// Whether there was a request, or would have been.
    pub(crate) fn exchanged(&self) -> bool {
        self.said.request.is_some()
    }

    pub(crate) fn then(&self) -> Option<&next::Kind> {
        self.said.next.as_ref()?.kind.as_ref()
    }

    /// Where the send stands that it was about.
    pub(crate) fn place(&self) -> Place {
        let position = self.said.send.expect("a send").into();
        (self.partition, position)
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Book {
    /// How many records of each log have been read.
    read: BTreeMap<TopicPartition, usize>,
    readers: BTreeMap<u32, ClaimReader>,
    /// By partition and stream: the highest that was taken.
    marks: BTreeMap<(u32, StreamKey), StreamPlace>,
    pub(crate) sends: BTreeMap<Place, Sent>,
    pub(crate) of_run: BTreeMap<RunId, Vec<Place>>,
    pub(crate) of_delivery: BTreeMap<String, Vec<Place>>,
    /// In the order of the log.
    pub(crate) attempts: BTreeMap<RunId, Vec<Attempt>>,
    pub(crate) batches: Vec<Batch>,
    /// Which of them, by what its requests are known by.
    pub(crate) by_wire: BTreeMap<WireId, usize>,
    /// Runs without a final outcome.
    pub(crate) open: BTreeSet<RunId>,
    /// By partition and offset of `commands`: when that was done, and how.
    pub(crate) commands: BTreeMap<(u32, u64), (i64, wire::CommandDone)>,
    /// By partition: when claims took effect.
    pub(crate) claims: BTreeMap<u32, Vec<i64>>,
    pub(crate) moved: u64,
    /// Records of attempts that counted for nobody.
    pub(crate) strays: u64,
    /// Sends that were dropped as repeats.
    pub(crate) dropped: u64,
}

type StreamKey = (u8, Vec<u64>);
type StreamPlace = (u64, u32, Bytes);

impl Book {
    /// Of all that ever stood there.
    pub(crate) fn of(world: &World) -> Self {
        let mut book = Self::default();
        book.read_on(world);
        book
    }

    /// Reads what has come since.
    pub(crate) fn read_on(&mut self, world: &World) {
        for topic in [Topic::Deliveries, Topic::Attempts] {
            for partition in 0.. {
                let at = place(&topic.name(PREFIX), partition);
                let Some(log) = world.logs.get(&at) else {
                    break;
                };
                let read = self.read.entry(at).or_default();
                let new = &log.ever[*read..];
                *read = log.ever.len();
                for (stored_at, record) in new {
                    match topic {
                        Topic::Deliveries => self.deliveries(partition, record),
                        _ => self.attempts(partition, *stored_at, record),
                    }
                }
            }
        }
    }

    fn deliveries(&mut self, partition: u32, record: &StoredRecord) {
        let value = record.value.clone().unwrap_or_default();
        let deliveries = wire::Deliveries::decode(value).expect("ours");
        let (stream, event) = (
            deliveries.source.and_then(|source| source.stream),
            deliveries.event.unwrap_or_default(),
        );
        let stream = stream.expect("it says where it came from");
        for (index, send) in (0..).zip(&deliveries.sends) {
            let (key, at) = source(&stream, send);
            // A partition takes of each stream only what lies above everything before. A fan-out that goes back may decide otherwise than before, by a
            // newer registry; the first decision stands.
            let mark = self.marks.get(&(partition, key.clone()));
            if mark.is_some_and(|mark| at <= *mark) {
                self.dropped += 1;
                continue;
            }
            self.marks.insert((partition, key), at);
            let place = (
                partition,
                Position {
                    offset: record.offset,
                    index,
                },
            );
            let begins = matches!(stream, Stream::Command(_) | Stream::Job(_));
            let run = if begins { record.offset + 1 } else { send.run };
            let run = (id(&send.delivery_id), run);
            let sent = Sent {
                place,
                run: run.clone(),
                lane: LaneKey {
                    webhook: WebhookUid::from_slice(&send.webhook_uid).expect("a uid"),
                    kind: kind(&stream, &event, send.ordered),
                },
                event: event.id.clone(),
            };
            if !matches!(stream, Stream::Retry(_)) {
                self.open.insert(run.clone());
            }
            self.of_delivery
                .entry(run.0.clone())
                .or_default()
                .push(place);
            self.of_run.entry(run).or_default().push(place);
            self.sends.insert(place, sent);
        }
    }

    fn attempts(&mut self, partition: u32, stored_at: i64, record: &StoredRecord) {
        let claims = self
            .readers
            .entry(partition)
            .or_insert_with(|| ClaimReader::new(0));
        let attempts = match claims.read(entry(record)) {
            Counted::Claimed { .. } => {
                self.claims.entry(partition).or_default().push(stored_at);
                return;
            }
            Counted::Nothing => {
                self.strays += 1;
                return;
            }
            Counted::Written(attempts) => attempts,
        };
        for begun in &attempts.batches {
            let places = begun.sends.as_ref().map(wire::Positions::read);
            let places = places.unwrap_or_default().into_iter();
            let places: Vec<Place> = places.map(|position| (partition, position)).collect();
            let ids = places
                .iter()
                .filter_map(|place| DeliveryId::parse(&self.sends.get(place)?.run.0));
            let ids: Vec<DeliveryId> = ids.collect();
            let id = BatchId::derive(ids.iter().map(|id| &id.0[..])).to_string();
            let wire_id = (id, self.sequence(places.first()));
            self.by_wire.insert(wire_id, self.batches.len());
            self.batches.push(Batch { stored_at, places });
        }
        for done in attempts.commands {
            self.commands
                .insert((partition, done.offset), (stored_at, done));
        }
        self.moved += attempts.moved.len() as u64;
        for (index, said) in (0..).zip(attempts.attempts) {
            let ticket = Position {
                offset: record.offset,
                index,
            };
            let first = (partition, said.send.expect("a send").into());
            let name = match <[u8; 16]>::try_from(&said.batch_id[..]) {
                Ok(bytes) => BatchId(bytes).to_string(),
                Err(_) => id(&said.delivery_id),
            };
            let unit = (name, self.sequence(Some(&first)));
            for said in said.each() {
                let attempt = Attempt {
                    stored_at,
                    ticket,
                    partition,
                    unit: unit.clone(),
                    first,
                    said,
                };
                let run = (id(&attempt.said.delivery_id), attempt.said.run);
                if attempt.outcome().is_final() {
                    self.open.remove(&run);
                }
                self.attempts.entry(run).or_default().push(attempt);
            }
        }
    }

    /// What is told of the place of a send, where it is in an order.
    pub(crate) fn sequence(&self, place: Option<&Place>) -> Option<u64> {
        let sent = self.sends.get(place?)?;
        sent.lane.kind.is_ordered().then(|| sent.place.1.sequence())
    }

    /// The sends that a request was about, in order; none if nobody knows it.
    pub(crate) fn sends_of(&self, wire_id: &WireId) -> Vec<&Sent> {
        let (id, sequence) = wire_id;
        let batch = self.by_wire.get(wire_id).map(|index| &self.batches[*index]);
        if let Some(batch) = batch {
            let sends = batch.places.iter();
            return sends.filter_map(|place| self.sends.get(place)).collect();
        }
        let places = self.of_delivery.get(id).map_or(&[][..], Vec::as_slice);
        let there = |place: &&Place| sequence.is_none_or(|s| place.1.sequence() == s);
        let place = places.iter().find(there);
        place
            .and_then(|place| self.sends.get(place))
            .into_iter()
            .collect()
    }

    /// Attempts of a run, in the order of the log.
    pub(crate) fn attempts_of(&self, run: &RunId) -> &[Attempt] {
        self.attempts.get(run).map_or(&[], Vec::as_slice)
    }

    /// The last of runs that failed, and are not final, in the order of the log.
    pub(crate) fn failed(&self) -> Vec<&Attempt> {
        let last = |run| self.attempts_of(run).last();
        let mut failed: Vec<&Attempt> = self.open.iter().filter_map(last).collect();
        failed.sort_by_key(|attempt| (attempt.partition, attempt.ticket, attempt.place()));
        failed
    }
}

/// The stream a send came by, and where it stands there.
fn source(stream: &Stream, send: &wire::Send) -> (StreamKey, StreamPlace) {
    let uid = send.webhook_uid.clone();
    match stream {
        Stream::Events(from) => ((0, vec![u64::from(from.partition)]), (from.offset, 0, uid)),
        Stream::Retry(from) => {
            let ticket = from.ticket.unwrap_or_default();
            (
                (1, from.path_ms.clone()),
                (ticket.offset, ticket.index, Bytes::new()),
            )
        }
        Stream::Command(from) => ((2, Vec::new()), (from.offset, 0, Bytes::new())),
        Stream::Job(_) => panic!("nobody runs jobs here"),
    }
}

/// In which of its webhook's lanes a send stands.
fn kind(stream: &Stream, event: &wire::Event, ordered: u32) -> LaneKind {
    match (ordered, stream) {
        (0, Stream::Retry(_)) => LaneKind::Due,
        (0, _) => LaneKind::Fresh,
        (1, _) => LaneKind::Ordered,
        _ if event.key.is_empty() => LaneKind::of_key(&event.project),
        _ => LaneKind::of_key(&event.key),
    }
}

pub(crate) fn id(bytes: &[u8]) -> String {
    DeliveryId::from_slice(bytes).expect("16 bytes").to_string()
}

fn entry(record: &StoredRecord) -> LogEntry<wire::Attempts> {
    let value = record.value.clone().unwrap_or_default();
    match record.header(header::KIND).map(Bytes::as_ref) {
        Some(kind) if kind == header::KIND_CLAIM.as_bytes() => {
            let claim = wire::Claim::decode(value).expect("ours");
            LogEntry::Claim {
                epoch: claim.epoch,
                nonce: claim.nonce.to_vec(),
            }
        }
        _ => {
            let body = wire::Attempts::decode(value).expect("ours");
            LogEntry::Written {
                epoch: body.epoch,
                sequence: body.sequence,
                body,
            }
        }
    }
}
