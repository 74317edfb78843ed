//! What follows from an attempt that has certainly counted: a retry, `dead`, a deactivation.

use std::time::Duration;

use hookline_journal::{AppendError, Appended, append_when_room};
use hookline_model::ids::Position;
use hookline_model::wire;

use super::{Mail, Worker, WorkerError};
use crate::payload::Payload;
use crate::records;

impl Worker {
    /// Writes the records that follow from an attempt, in the order of the attempts.
    pub(super) async fn follow(
        &mut self,
        ticket: Position,
        position: Position,
        attempt: wire::Attempt,
        payloads: &[Payload],
    ) -> Result<(), WorkerError> {
        let (Some(next), Some(first)) = (attempt.next.clone(), payloads.first()) else {
            return Ok(());
        };
        hookline_model::fail_point!("dispatch-following");
        let (topic, partition, records) = match next.kind {
            Some(wire::next::Kind::Retry(retry)) => {
                self.shared.metrics.retries.inc();
                let (topic, partition, record) = self.retry(ticket, retry, &attempt, first)?;
                (topic, partition, vec![record])
            }
            Some(wire::next::Kind::Dead(_)) => {
                let each = attempt.clone().each().zip(payloads);
                let records = each.map(|(attempt, payload)| dead(ticket, attempt, payload));
                (self.shared.names.dead.clone(), self.p, records.collect())
            }
            Some(
                wire::next::Kind::InPlace(_)
                | wire::next::Kind::Hold(_)
                | wire::next::Kind::Split(_),
            )
            | None => return Ok(()),
        };
        for record in records {
            let mailbox = self.mailbox.clone();
            let done = Box::new(move |result: Result<Appended, AppendError>| {
                hookline_model::fail_point!("dispatch-followed");
                mailbox.put(Mail::Followed {
                    position,
                    result: result.map(|_| ()),
                });
            });
            append_when_room(&*self.appender, &topic, partition, record, done).await?;
        }
        hookline_model::fail_point!("dispatch-follow-handed");
        if next.deactivate {
            self.deactivate(position, &attempt);
        }
        Ok(())
    }

    fn retry(
        &self,
        ticket: Position,
        retry: wire::next::Retry,
        attempt: &wire::Attempt,
        payload: &Payload,
    ) -> Result<(String, u32, hookline_journal::Record), WorkerError> {
        let lost = |reason: String| WorkerError::Lost {
            partition: self.p,
            reason,
        };
        let first = retry
            .path_ms
            .first()
            .ok_or_else(|| lost("a retry has an empty path".into()))?;
        let topic = self
            .shared
            .names
            .tiers
            .get(first)
            .ok_or_else(|| lost(format!("there is no tier of {first} ms")))?;
        let layout = self
            .snapshot
            .layout()
            .ok_or_else(|| lost("the registry has no layout".into()))?;
        let record = payload.record();
        let waiting = wire::Waiting {
            format: wire::FORMAT,
            partition: self.p,
            source: Some(wire::FromRetry {
                path_ms: retry.path_ms,
                ticket: Some(ticket.into()),
            }),
            hop: 0,
            event: Some(payload.event().clone()),
            send: Some(wire::Send {
                attempts: attempt.attempt,
                first_try_ms: attempt.first_try_ms,
                ..payload.send().clone()
            }),
            registry_offset: record.registry_offset,
            accepted_at_ms: record.accepted_at_ms,
        };
        Ok((
            topic.clone(),
            self.p % layout.tier_partitions.max(1),
            records::plain(None, &waiting),
        ))
    }

    /// Sets the webhook inactive, unless it has changed since: an attempt deactivates only the epoch it was sent under.
    fn deactivate(&mut self, position: Position, attempt: &wire::Attempt) {
        let (registry, mailbox) = (self.shared.registry.clone(), self.mailbox.clone());
        let Some(uid) = hookline_model::ids::WebhookUid::from_slice(&attempt.webhook_uid) else {
            return;
        };
        let epoch = attempt.webhook_epoch;
        let what = if attempt.status == 0 {
            attempt.error_class.clone()
        } else {
            format!("status {}", attempt.status)
        };
        let reason = format!(
            "deactivated by its retry policy: attempt {} of event {} ended with {what}",
            attempt.attempt, attempt.event_id
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "the set is this worker's own: it is reaped every turn and aborted with it"
        )]
        self.tasks.spawn(async move {
            hookline_model::fail_point!("dispatch-deactivating");
            while let Err(error) = registry.deactivate(uid, epoch, &reason).await {
                tracing::warn!(webhook.uid = %uid, %error, "deactivating a webhook is tried again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            mailbox.put(Mail::Followed {
                position,
                result: Ok(()),
            });
        });
    }
}

/// The whole delivery, so that it can be sent again; captured bodies stay in `attempts`.
fn dead(
    ticket: Position,
    mut attempt: wire::Attempt,
    payload: &Payload,
) -> hookline_journal::Record {
    if let Some(response) = attempt.response.as_mut() {
        response.body_truncated |= !response.body.is_empty();
        response.body.clear();
    }
    let key = attempt.webhook_uid.clone();
    let dead = wire::DeadDelivery {
        format: wire::FORMAT,
        event: Some(payload.event().clone()),
        attempt: Some(attempt),
        ticket: Some(ticket.into()),
        accepted_at_ms: payload.accepted_at().0,
    };
    records::plain(Some(key), &dead)
}
