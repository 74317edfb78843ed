//! Attempts as dispatch writes them: each is a function of its number, so that whoever asks for one later knows what to ask for.

use bytes::Bytes;
use hookline_journal::Record;
use hookline_model::wire::{self, header};
use prost::Message as _;

pub(super) const PROJECT: &str = "bench";
/// Partitions of `attempts`.
pub(super) const PARTITIONS: u32 = 4;
/// Attempts of a record, as while there is a backlog; whole rounds of [`ROUND`].
pub(super) const PER_RECORD: usize = 60;
/// In a round of so many attempts most deliver at once, one fails and is repeated, and one ends without success or goes on failing.
const ROUND: usize = 20;
/// Attempts a second, by what they say of themselves.
const RATE: usize = 2_000;
/// Webhooks: the first has a seventh of all attempts, the last a five-hundredth.
const WEBHOOKS: usize = 100;
/// Whom events are about; each has an event key, too.
const CONTACTS: u64 = 50_000;
const TYPES: [&str; 8] = [
    "order.created",
    "order.paid",
    "order.shipped",
    "order.cancelled",
    "message.sent",
    "message.delivered",
    "message.opened",
    "message.clicked",
];

/// The attempts of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) count: usize,
    /// When the first of them began.
    begins_ms: i64,
}

/// What may be asked for of an attempt.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) webhook: String,
    pub(super) url: String,
    pub(super) event_id: String,
    pub(super) event_type: &'static str,
    pub(super) key: String,
    pub(super) email: String,
}

impl Made {
    /// So many, the last of which began a moment ago; rounded up to whole records in each partition.
    pub(super) fn new(count: usize, now_ms: i64) -> Self {
        let count = count.next_multiple_of(PER_RECORD * PARTITIONS as usize);
        let span = i64::try_from(count * 1000 / RATE).expect("not many");
        Self {
            count,
            begins_ms: now_ms - span - 5_000,
        }
    }

    /// When an attempt began; this rises with its number.
    pub(super) fn started_ms(self, n: usize) -> i64 {
        self.begins_ms + i64::try_from(n * 1000 / RATE).expect("not many")
    }

    /// The records in the order in which partitions take turns.
    pub(super) fn records(self) -> impl Iterator<Item = Record> {
        (0..self.count / PER_RECORD).map(move |k| self.record(k))
    }

    fn record(self, k: usize) -> Record {
        let first = k * PER_RECORD;
        let attempts = wire::Attempts {
            format: wire::FORMAT,
            epoch: 1,
            sequence: (k / PARTITIONS as usize + 1) as u64,
            attempts: (first..first + PER_RECORD)
                .map(|n| self.attempt(n))
                .collect(),
            ..wire::Attempts::default()
        };
        Record {
            key: None,
            value: Some(attempts.encode_to_vec().into()),
            headers: vec![(
                header::KIND.into(),
                Bytes::from_static(header::KIND_ATTEMPT.as_bytes()),
            )],
        }
    }

    fn attempt(self, n: usize) -> wire::Attempt {
        let place = n % ROUND;
        // What failed is repeated next.
        let delivery = if place == ROUND - 2 { n - 1 } else { n };
        let said = said(delivery);
        let (chance, webhook) = (mixed(delivery as u64), webhook(delivery));
        let (outcome, status, class, number) = match place {
            17 => match n / ROUND % 4 {
                0 => (wire::Outcome::Failed, 404, "status", 1),
                1 => (wire::Outcome::Failed, 503, "status", 1),
                2 => (wire::Outcome::Failed, 500, "status", 1),
                _ => (wire::Outcome::Failed, 0, "timeout", 1),
            },
            18 => (wire::Outcome::Delivered, 200, "", 2),
            19 => match n / ROUND % 10 {
                0 => (wire::Outcome::Exhausted, 500, "status", 10),
                1 => (wire::Outcome::Refused, 410, "status", 1),
                _ => (wire::Outcome::Failed, 0, "connect", 3),
            },
            _ => (wire::Outcome::Delivered, 200, "", 1),
        };
        let started_at_ms = self.started_ms(n);
        let again = outcome == wire::Outcome::Failed;
        let duration_ms = 5 + u32::try_from(chance % 200).expect("small");
        wire::Attempt {
            send: Some(wire::Position {
                offset: (n / PARTITIONS as usize) as u64,
                index: 0,
            }),
            delivery_id: id(delivery as u64).into(),
            attempt: number,
            project: PROJECT.into(),
            webhook_uid: id(1 << 40 | webhook as u64).into(),
            webhook: said.webhook,
            event_source: "/bench/shop".into(),
            event_id: said.event_id,
            event_type: said.event_type.into(),
            event_key: said.key,
            // Half of the events are about nobody.
            contact: has_contact(delivery).then(|| wire::Contact {
                id: (chance % CONTACTS).to_string(),
                email: said.email,
                phone: String::new(),
            }),
            outcome: outcome.into(),
            status,
            error_class: class.into(),
            error_detail: match class {
                "" => String::new(),
                class => format!("the endpoint did not take it: {class} {status}"),
            },
            started_at_ms,
            duration_ms,
            first_try_ms: started_at_ms,
            request: Some(wire::Request {
                method: "POST".into(),
                url: said.url,
                headers: headers(&[
                    ("content-type", "application/json"),
                    ("user-agent", "hookline/0.1"),
                    ("webhook-id", &format!("{chance:032x}")),
                    ("webhook-timestamp", &(started_at_ms / 1000).to_string()),
                    ("hookline-attempt", &number.to_string()),
                ]),
                body_bytes: 300 + chance % 500,
            }),
            response: (status > 0).then(|| wire::Response {
                headers: headers(&[
                    ("content-type", "application/json"),
                    ("date", "Sat, 28 Nov 2026 01:23:40 GMT"),
                    ("server", "nginx"),
                    ("content-length", "37"),
                ]),
                body: Bytes::from_static(br#"{"status":"seen","queue":"webhooks-1"}"#),
                body_truncated: false,
            }),
            next: again.then(|| wire::Next {
                kind: Some(wire::next::Kind::Retry(wire::next::Retry {
                    path_ms: vec![5_000],
                    due_ms: started_at_ms + 5_000,
                })),
                deactivate: false,
            }),
            ..wire::Attempt::default()
        }
    }
}

/// What an attempt of this delivery says.
pub(super) fn said(delivery: usize) -> Said {
    let (chance, webhook) = (mixed(delivery as u64), webhook(delivery));
    let contact = chance % CONTACTS;
    let kind = usize::try_from(chance >> 20).expect("64 bits") % TYPES.len();
    Said {
        webhook: name(webhook),
        url: format!("https://receiver-{webhook}.example.com/hooks/{webhook}?token=hidden"),
        event_id: format!("{:016x}-{delivery:08x}", mixed(chance)),
        event_type: TYPES[kind],
        key: format!("customer-{contact}"),
        email: format!("Person{contact}@example.com"),
    }
}

/// Whether its event is about a contact.
pub(super) fn has_contact(delivery: usize) -> bool {
    mixed(delivery as u64) >> 63 == 0
}

/// One of the webhooks with the fewest attempts.
pub(super) fn rare_webhook(n: usize) -> String {
    name(WEBHOOKS - 1 - n % 8)
}

fn name(webhook: usize) -> String {
    format!("receiver-{webhook}")
}

/// The webhook of a delivery: of those whose partition the record stands in, the earlier the likelier.
fn webhook(delivery: usize) -> usize {
    let partitions = PARTITIONS as usize;
    let share = (mixed(delivery as u64 ^ 0x5eed) >> 11) as f64 / (1_u64 << 53) as f64;
    let rank = (WEBHOOKS as f64).powf(share) as usize - 1;
    rank - rank % partitions + delivery / PER_RECORD % partitions
}

fn headers(of: &[(&str, &str)]) -> Vec<wire::Header> {
    let header = |(name, value): &(&str, &str)| wire::Header {
        name: (*name).to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    of.iter().map(header).collect()
}

/// Sixteen bytes that look like chance.
fn id(of: u64) -> Vec<u8> {
    let halves = [mixed(of), mixed(of ^ (1 << 63))];
    halves.iter().flat_map(|half| half.to_be_bytes()).collect()
}

/// A number that looks like chance, the same for the same one (the finisher of splitmix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
