//! What becomes of a record that has waited: pure.

use bytes::Bytes;
use hookline_journal::{Record, StoredRecord, TopicPartition};
use hookline_model::limits::TIERS;
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use hookline_model::wire;
use hookline_registry::Layout;
use prost::Message as _;

use crate::records;

/// Where a record goes next.
#[derive(Debug, PartialEq)]
pub(crate) struct Copy {
    pub(crate) topic: Topic,
    pub(crate) partition: u32,
    pub(crate) record: Record,
}

/// Why a record cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unusable {
    /// From the closed list of `rejected`.
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

fn unreadable<T>(detail: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable {
        reason: "unreadable",
        detail: detail.into(),
    })
}

/// The next step of a record that has waited in the tier with this index.
pub(crate) fn next(value: Option<&Bytes>, tier: usize, layout: &Layout) -> Result<Copy, Unusable> {
    let Some(value) = value else {
        return unreadable("the record has no value");
    };
    let mut waiting = match wire::Waiting::decode(value.clone()) {
        Ok(waiting) => waiting,
        Err(error) => return unreadable(format!("the record cannot be decoded: {error}")),
    };
    if !wire::readable(waiting.format) {
        return unreadable(format!("format {} is not known here", waiting.format));
    }
    let Some(source) = waiting.source.as_ref() else {
        return unreadable("the record does not say where it comes from");
    };
    let hop = waiting.hop as usize;
    let Some(&here) = source.path_ms.get(hop) else {
        return unreadable("the record is beyond the end of its path");
    };
    if tier_of(here) != Some(tier) {
        return unreadable("the record stands in another tier than its path says");
    }
    if source.ticket.is_none() || waiting.event.is_none() || waiting.send.is_none() {
        return unreadable("the record lacks its ticket, its event or its send");
    }
    if waiting.partition >= layout.partitions {
        return unreadable(format!(
            "there is no partition {} by the layout",
            waiting.partition
        ));
    }
    let Some(&following) = source.path_ms.get(hop + 1) else {
        return Ok(Copy {
            topic: Topic::Deliveries,
            partition: waiting.partition,
            record: records::plain(None, &returned(waiting)),
        });
    };
    let Some(topic) = tier_of(following).and_then(|t| u8::try_from(t).ok()) else {
        return unreadable(format!("there is no tier of {following} ms"));
    };
    waiting.hop += 1;
    Ok(Copy {
        topic: Topic::Retry(topic),
        partition: waiting.partition % layout.tier_partitions.max(1),
        record: records::plain(None, &waiting),
    })
}

fn tier_of(delay_ms: u64) -> Option<usize> {
    TIERS
        .iter()
        .position(|(_, delay)| delay.as_millis() == u128::from(delay_ms))
}

/// The send as it comes back: a record of its own, from the stream of its path.
fn returned(waiting: wire::Waiting) -> wire::Deliveries {
    wire::Deliveries {
        format: wire::FORMAT,
        source: Some(wire::Source {
            stream: waiting.source.map(wire::source::Stream::Retry),
        }),
        event: waiting.event,
        sends: waiting.send.into_iter().collect(),
        registry_offset: waiting.registry_offset,
        accepted_at_ms: waiting.accepted_at_ms,
    }
}

/// What nobody can copy, for `rejected`.
pub(crate) fn rejected(
    stored: &StoredRecord,
    from: &TopicPartition,
    why: &Unusable,
    now: Millis,
) -> Record {
    let why = (why.reason, why.detail.as_str());
    records::rejected(stored, &from.topic, from.partition, why, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            partitions: 8,
            tier_partitions: 4,
            generations: std::collections::BTreeMap::new(),
        }
    }

    fn waiting(path_ms: &[u64], hop: u32) -> wire::Waiting {
        wire::Waiting {
            format: wire::FORMAT,
            partition: 6,
            source: Some(wire::FromRetry {
                path_ms: path_ms.to_vec(),
                ticket: Some(wire::Position {
                    offset: 41,
                    index: 2,
                }),
            }),
            hop,
            event: Some(wire::Event::default()),
            send: Some(wire::Send {
                run: 3,
                ..wire::Send::default()
            }),
            registry_offset: 17,
            accepted_at_ms: 99,
        }
    }

    fn step(waiting: &wire::Waiting, tier: usize) -> Result<Copy, Unusable> {
        next(Some(&waiting.encode_to_vec().into()), tier, &layout())
    }

    #[test]
    fn along_its_path_and_back() {
        let on = waiting(&[5_000, 1_000], 0);
        let copy = step(&on, 1).expect("usable");
        assert_eq!((copy.topic, copy.partition), (Topic::Retry(0), 2));
        let value = copy.record.value.expect("value");
        let moved = wire::Waiting::decode(value.clone()).expect("decodes");
        assert_eq!(
            moved,
            wire::Waiting {
                hop: 1,
                ..on.clone()
            }
        );

        let copy = next(Some(&value), 0, &layout()).expect("usable");
        assert_eq!((copy.topic, copy.partition), (Topic::Deliveries, 6));
        let back = wire::Deliveries::decode(copy.record.value.expect("value")).expect("decodes");
        assert_eq!(back.sends, [on.send.clone().expect("send")]);
        assert_eq!((back.registry_offset, back.accepted_at_ms), (17, 99));
        assert_eq!(
            back.source.and_then(|s| s.stream),
            on.source.map(wire::source::Stream::Retry)
        );
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        assert!(next(None, 0, &layout()).is_err());
        assert!(next(Some(&Bytes::from_static(b"\xff\xff")), 0, &layout()).is_err());
        assert!(step(&waiting(&[1_000], 0), 1).is_err(), "another tier");
        assert!(step(&waiting(&[1_000], 1), 0).is_err(), "beyond its path");
        assert!(
            step(&waiting(&[1_000, 1_234], 0), 0).is_err(),
            "no such tier"
        );
        let changes: [fn(&mut wire::Waiting); 5] = [
            |w| w.format = 99,
            |w| w.partition = 8,
            |w| w.event = None,
            |w| w.send = None,
            |w| w.source = None,
        ];
        for change in changes {
            let mut bad = waiting(&[1_000], 0);
            change(&mut bad);
            assert!(step(&bad, 0).is_err(), "{bad:?}");
        }
    }
}
