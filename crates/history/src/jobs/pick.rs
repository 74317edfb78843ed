//! Pure: what a job wants of a record of its source, and the record of `deliveries` that it makes of it.

use bytes::Bytes;
use hookline_journal::{Record, StoredRecord};
use hookline_model::event::{self, Input};
use hookline_model::filter::{EventData, Subject};
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::job::{Final, Job, JobKind};
use hookline_model::limits::EVENT_BYTES_MAX;
use hookline_model::outcome::Outcome;
use hookline_model::resource::State;
use hookline_model::time::Millis;
use hookline_model::wire;
use hookline_registry::{Snapshot, WebhookEntry};
use prost::Message as _;

/// A delivery that a job wants to start over.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Picked {
    pub(crate) delivery: DeliveryId,
    pub(crate) webhook: WebhookUid,
    pub(crate) event: wire::Event,
    /// When the event was accepted, as far as that is known.
    pub(crate) accepted_at_ms: i64,
}

/// Where a new record comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) job: &'a str,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) registry_offset: u64,
}

/// What the job wants of a record, if anything; an error is what is wrong with the record.
pub(crate) fn pick(
    project: &str,
    job: &Job,
    record: &StoredRecord,
    snapshot: &Snapshot,
) -> Result<Option<Picked>, String> {
    match job.kind {
        JobKind::Redrive => redrive(project, job, record),
        // What fan-out could not read is in `rejected`, and nobody's.
        JobKind::Replay => Ok(replay(project, job, record, snapshot)),
    }
}

/// A delivery that ended without success.
fn redrive(project: &str, job: &Job, record: &StoredRecord) -> Result<Option<Picked>, String> {
    let Some(value) = record.value.clone() else {
        return Ok(None);
    };
    let dead = wire::DeadDelivery::decode(value).map_err(|error| error.to_string())?;
    if !wire::readable(dead.format) {
        return Err(format!(
            "format {} is not known to this version",
            dead.format
        ));
    }
    let (Some(event), Some(attempt)) = (dead.event, dead.attempt) else {
        return Err("it has no event or no attempt".into());
    };
    let webhook = WebhookUid::from_slice(&attempt.webhook_uid);
    let delivery = DeliveryId::from_slice(&attempt.delivery_id);
    let (Some(webhook), Some(delivery)) = (webhook, delivery) else {
        return Err("it has no webhook uid or no delivery id".into());
    };
    let at = match attempt.started_at_ms {
        0 => record.timestamp_ms,
        at => at,
    };
    let end = Final {
        event_type: &event.r#type,
        event_id: &event.id,
        outcome: Outcome::from_wire(attempt.outcome()),
        error_class: &attempt.error_class,
        status: attempt.status,
        at: Millis(at),
    };
    let meant = attempt.project == project
        && job.webhook.as_ref().is_none_or(|of| of.uid == webhook)
        && job.filter.wants_final(&end);
    Ok(meant.then_some(Picked {
        delivery,
        webhook,
        event,
        accepted_at_ms: accepted_at(dead.accepted_at_ms, &attempt, at),
    }))
}

/// When the event of a dead delivery was accepted: as its record says, else about when it was tried first, and never after its end at `at`.
pub(crate) fn accepted_at(said: i64, attempt: &wire::Attempt, at: i64) -> i64 {
    match (said, attempt.first_try_ms) {
        (0, 0) => at,
        (0, first) => first.min(at),
        (said, _) => said,
    }
}

/// An event that fan-out would give to the webhook as it is now.
fn replay(project: &str, job: &Job, record: &StoredRecord, snapshot: &Snapshot) -> Option<Picked> {
    let input = Input {
        key: record.key.as_deref(),
        value: record.value.as_ref(),
        headers: &record.headers,
    };
    if !job.filter.in_range(Millis(record.timestamp_ms)) {
        return None;
    }
    let event = event::parse(input, EVENT_BYTES_MAX).ok()?;
    let at = Millis(record.timestamp_ms);
    if event.project != project || !job.filter.wants_event(&event.r#type, &event.id, at) {
        return None;
    }
    let json = event::is_json(&event.data_content_type);
    let refusals = snapshot.refusals(project, &event.r#type, &event.data, json);
    let webhook = job.webhook.as_ref()?.uid;
    // Of one that is gone nobody knows what it would have got: all of it is shown as left out.
    let subscribed = snapshot
        .webhook(webhook)
        .is_none_or(|entry| subscribed(entry, &event));
    if !refusals.is_empty() || !subscribed {
        return None;
    }
    Some(Picked {
        delivery: DeliveryId::derive(project, &event.source, &event.id, webhook),
        webhook,
        event,
        accepted_at_ms: record.timestamp_ms,
    })
}

/// Whether a webhook would get the event: by its patterns, and by its filter, where no answer is no.
fn subscribed(webhook: &WebhookEntry, event: &wire::Event) -> bool {
    let patterns = &webhook.settings.events;
    if !patterns.iter().any(|p| p.matches(&event.r#type)) {
        return false;
    }
    match webhook.filter() {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(filter)) => {
            let data = EventData::of(event);
            filter.wants(&Subject::new(event, &data)).unwrap_or(false)
        }
    }
}

/// The webhook that a delivery goes to, unless that is gone or gets nothing now.
pub(crate) fn goes_to(snapshot: &Snapshot, webhook: WebhookUid) -> Option<&WebhookEntry> {
    let entry = snapshot.webhook(webhook)?;
    (entry.state() != State::Inactive).then_some(&**entry)
}

/// A record of `deliveries` that starts the delivery over.
pub(crate) fn started_over(picked: Picked, webhook: &WebhookEntry, origin: Origin<'_>) -> Record {
    let send = wire::Send {
        webhook_uid: Bytes::copy_from_slice(webhook.uid.as_bytes()),
        webhook_epoch: webhook.epoch,
        delivery_id: Bytes::copy_from_slice(&picked.delivery.0),
        // The record's own place, which its reader knows.
        run: 0,
        attempts: 0,
        first_try_ms: 0,
        ordered: webhook.settings.ordered.to_wire(),
    };
    let deliveries = wire::Deliveries {
        format: wire::FORMAT,
        source: Some(wire::Source {
            stream: Some(wire::source::Stream::Job(wire::FromJob {
                job: origin.job.to_owned(),
                partition: origin.partition,
                offset: origin.offset,
            })),
        }),
        event: Some(picked.event),
        sends: vec![send],
        registry_offset: origin.registry_offset,
        accepted_at_ms: picked.accepted_at_ms,
    };
    Record {
        key: None,
        value: Some(deliveries.encode_to_vec().into()),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use hookline_model::job::{JobSpec, JobWebhook};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::full;

    fn job(filter: Value, webhook: Option<u8>) -> Job {
        let document = json!({"kind": "redrive", "filter": filter});
        let spec = JobSpec::read(document.as_object().expect("an object")).expect("valid");
        let webhook = webhook.map(|n| JobWebhook {
            name: "crm".into(),
            uid: WebhookUid::from_slice(&[n; 16]).expect("16 bytes"),
        });
        Job::new(&spec, webhook, Vec::new(), Millis(0))
    }

    fn record(dead: &wire::DeadDelivery) -> StoredRecord {
        StoredRecord {
            offset: 7,
            timestamp_ms: 1_700_000_000_900,
            key: None,
            value: Some(dead.encode_to_vec().into()),
            headers: Vec::new(),
        }
    }

    fn dead() -> wire::DeadDelivery {
        wire::DeadDelivery {
            format: wire::FORMAT,
            event: Some(wire::Event {
                id: "e1".into(),
                r#type: "order.paid".into(),
                project: "shop".into(),
                ..wire::Event::default()
            }),
            attempt: Some(wire::Attempt {
                outcome: wire::Outcome::Exhausted.into(),
                status: 503,
                error_class: "status".into(),
                first_try_ms: 1_699_999_000_000,
                ..full()
            }),
            ticket: None,
            accepted_at_ms: 0,
        }
    }

    fn picks(project: &str, job: &Job) -> bool {
        let picked = redrive(project, job, &record(&dead()));
        picked.expect("it can be read").is_some()
    }

    #[test]
    fn a_dead_delivery_is_taken_whole_and_keeps_its_id() {
        let picked = redrive("shop", &job(json!({}), None), &record(&dead()));
        let picked = picked.expect("it can be read").expect("it is wanted");
        assert_eq!(picked.delivery, DeliveryId([0xab; 16]));
        assert_eq!(
            picked.webhook,
            WebhookUid::from_slice(&[1; 16]).expect("16 bytes")
        );
        assert_eq!(Some(picked.event), dead().event);
        assert_eq!(picked.accepted_at_ms, 1_699_999_000_000);
    }

    #[test]
    fn others_are_left_alone() {
        assert!(picks(
            "shop",
            &job(json!({"status": "5xx", "event_type": "order.*"}), Some(1))
        ));
        assert!(!picks("other", &job(json!({}), None)));
        assert!(!picks("shop", &job(json!({}), Some(2))));
        assert!(!picks("shop", &job(json!({"outcome": "refused"}), None)));
        // The range is that of the last attempt, as in the list of attempts, not of the record.
        assert!(picks(
            "shop",
            &job(json!({"to": "2023-11-14T22:13:20.001Z"}), None)
        ));
        assert!(!picks(
            "shop",
            &job(json!({"to": "2023-11-14T22:13:20Z"}), None)
        ));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_a_tombstone_is_nothing() {
        let wanted = job(json!({}), None);
        let mut newer = dead();
        newer.format = 99;
        assert!(redrive("shop", &wanted, &record(&newer)).is_err());
        let mut without = dead();
        without.attempt = None;
        assert!(redrive("shop", &wanted, &record(&without)).is_err());
        let tombstone = StoredRecord {
            value: None,
            ..record(&dead())
        };
        assert_eq!(redrive("shop", &wanted, &tombstone), Ok(None));
    }
}
