//! The sample data: webhooks to begin with, and a stream of events made from real activity examples.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hookline_ingest::{Defaults, PublishError, Publisher};
use hookline_journal::Journal;
use hookline_model::time::{Clock, Millis};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::output::Chain;
use crate::receiver::told;
use crate::tasks::{Stop, TaskError};

/// The project that the samples live in.
pub(super) const PROJECT: &str = "demo";
/// Events published at once when the stream begins, so that there is something to see.
const FIRST: usize = 4;
/// Events on their way to the journal.
const IN_FLIGHT_MAX: usize = 256;
/// The pause before the journal is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

const ACTIVITIES: &str = include_str!("../../samples/esputnik-activities.json");
const WEBHOOKS: &str = include_str!("../../samples/webhooks.yaml");

/// The sample webhooks as a resource file, for a receiver at `base` (`http://127.0.0.1:40001`).
pub(super) fn webhooks(base: &str) -> String {
    WEBHOOKS.replace("{receiver}", base)
}

/// The parts of an activity that the event says outside its data.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Activity {
    contact_id: i64,
    activity_status: String,
    email: Option<String>,
    sms: Option<String>,
}

/// Sample events, one after another, for ever.
pub(super) struct Samples {
    activities: Vec<(Activity, Value)>,
    next: usize,
}

impl Samples {
    pub(super) fn new() -> Result<Self, serde_json::Error> {
        let values: Vec<Value> = serde_json::from_str(ACTIVITIES)?;
        let activities = values
            .into_iter()
            .map(|value| Ok((Activity::deserialize(&value)?, value)))
            .collect::<Result<_, serde_json::Error>>()?;
        Ok(Self {
            activities,
            next: 0,
        })
    }

    /// The next event as a CloudEvent.
    fn event(&mut self, now: Millis) -> Option<String> {
        let place = self.next % self.activities.len().max(1);
        self.next = self.next.wrapping_add(1);
        let (activity, data) = self.activities.get(place)?;
        let status = activity.activity_status.to_lowercase();
        let mut event = json!({
            "specversion": "1.0",
            "id": uuid::Uuid::now_v7().to_string(),
            "source": "/samples/esputnik",
            "type": format!("activity.{status}"),
            "time": now.to_rfc3339(),
            "project": PROJECT,
            "partitionkey": activity.contact_id.to_string(),
            "contactid": activity.contact_id.to_string(),
            "datacontenttype": "application/json",
        });
        for (name, value) in [
            ("contactemail", &activity.email),
            ("contactphone", &activity.sms),
        ] {
            if let Some(value) = value {
                event[name] = value.as_str().into();
            }
        }
        event["data"] = data.clone();
        Some(event.to_string())
    }
}

/// Where sample events go, and how many.
pub(super) struct Stream {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) prefix: String,
    pub(super) clock: Arc<dyn Clock>,
    /// Events per second; above zero.
    pub(super) rate: f64,
}

impl Stream {
    /// Publishes until told to stop. Trouble with the journal is waited out.
    ///
    /// # Errors
    /// When the samples themselves are broken.
    pub(super) async fn run(self, mut stop: Stop) -> Result<(), TaskError> {
        let mut samples = Samples::new()?;
        loop {
            let published = tokio::select! {
                () = told(&mut stop) => return Ok(()),
                ended = self.publish(&mut samples) => ended,
            };
            let Err(error) = published;
            tracing::warn!(error = %Chain(&error), "sample events are not published; trying again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn publish(&self, samples: &mut Samples) -> Result<Infallible, PublishError> {
        let clock = Arc::clone(&self.clock);
        let publisher = Publisher::open(&self.journal, &self.prefix, clock).await?;
        let defaults = Defaults::default();
        let mut acknowledged = FuturesUnordered::new();
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / self.rate));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = FIRST;
        loop {
            while due > 0 && acknowledged.len() < IN_FLIGHT_MAX {
                due -= 1;
                if let Some(event) = samples.event(self.clock.now()) {
                    let ack = publisher.publish_line(event.as_bytes(), &defaults).await?;
                    acknowledged.push(ack);
                }
            }
            tokio::select! {
                _ = tick.tick(), if due == 0 => due = 1,
                Some(ack) = acknowledged.next() => drop(ack?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_an_event_that_can_be_published() {
        let mut samples = Samples::new().expect("valid JSON");
        assert_eq!(samples.activities.len(), 8);
        let now = Millis(1_700_000_000_000);
        let mut types = Vec::new();
        for (_, given) in Samples::new().expect("valid JSON").activities {
            let text = samples.event(now).expect("there are some");
            let prepared = Defaults::default()
                .prepare(text.as_bytes(), now)
                .expect("valid");
            let event: Value = serde_json::from_slice(&prepared.value).expect("JSON");
            assert_eq!(event["data"], given, "the data is the example's");
            assert_eq!(prepared.project, PROJECT);
            assert_eq!(event["contactid"], prepared.key);
            types.push(event["type"].as_str().expect("text").to_owned());
        }
        assert!(types.contains(&"activity.subscription_changed".to_owned()));
        assert_eq!(
            types
                .iter()
                .filter(|t| *t == "activity.undelivered")
                .count(),
            2
        );
        let sms = samples.activities.iter().filter(|(a, _)| a.sms.is_some());
        assert_eq!(sms.count(), 1);
    }
}
