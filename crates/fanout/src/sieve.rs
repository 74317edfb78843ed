//! Which of the webhooks that subscribed to an event want it: their filters, asked in turn.

use std::sync::OnceLock;
use std::time::Duration;

use hookline_model::filter::{EventData, Subject};
use hookline_model::wire;
use hookline_registry::WebhookEntry;
use parking_lot::Mutex;

use crate::stage::Shared;

/// How often filters without an answer are spoken of: each event may bring thousands.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Asks filters about one event. Its data is read when the first filter is asked, and once.
pub(crate) struct Sieve<'a> {
    shared: &'a Shared,
    event: &'a wire::Event,
    data: &'a OnceLock<EventData>,
    subject: OnceLock<Subject<'a>>,
}

impl<'a> Sieve<'a> {
    /// Nobody asked yet; `data` is the place for what is read then.
    pub(crate) fn new(
        shared: &'a Shared,
        event: &'a wire::Event,
        data: &'a OnceLock<EventData>,
    ) -> Self {
        Self {
            shared,
            event,
            data,
            subject: OnceLock::new(),
        }
    }

    /// Whether the webhook wants the event. A filter without an answer counts as no.
    pub(crate) fn wants(&self, webhook: &WebhookEntry) -> bool {
        let Some(filter) = webhook.filter() else {
            return true;
        };
        let answer = match filter {
            Ok(filter) => {
                let subject = self.subject.get_or_init(|| {
                    let data = self.data.get_or_init(|| EventData::of(self.event));
                    Subject::new(self.event, data)
                });
                filter.wants(subject).map_err(|failure| failure.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        let metrics = &self.shared.metrics;
        let wants = answer.unwrap_or_else(|problem| {
            metrics.filter_errors.inc();
            self.shared.unanswered.tell(self.shared, webhook, &problem);
            false
        });
        if !wants {
            metrics.filtered.inc();
        }
        wants
    }
}

/// When filters without an answer were spoken of last, and how many there were since.
#[derive(Debug, Default)]
pub(crate) struct Unanswered(Mutex<(Option<Duration>, u64)>);

impl Unanswered {
    fn tell(&self, shared: &Shared, webhook: &WebhookEntry, problem: &str) {
        let now = shared.clock.boot();
        let more = {
            let mut state = self.0.lock();
            let (told, since) = &mut *state;
            if told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY) {
                *since += 1;
                return;
            }
            *told = Some(now);
            std::mem::take(since)
        };
        tracing::warn!(
            webhook.uid = %webhook.uid,
            webhook.project = &*webhook.project,
            webhook.name = &*webhook.name,
            problem,
            more,
            "a filter had no answer for an event, so it did not match"
        );
    }
}
