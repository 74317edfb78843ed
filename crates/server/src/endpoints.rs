//! Trying a webhook's endpoint: test sends, and the verification that a webhook asks for before it is saved. One way for the API and for
//! `hookline apply`.

use std::sync::Arc;

use bytes::Bytes;
use hookline_dispatch::WayOut;
use hookline_dispatch::outside::{Asked, Outside, Tried};
use hookline_ingest::{PublishRequest, RequestError};
use hookline_model::event::{self, Input};
use hookline_model::limits::EVENT_BYTES_MAX;
use hookline_model::matching::TypePattern;
use hookline_model::resource::{State, Verification, Verified, Webhook, WebhookSpec};
use hookline_model::signature::SigningKey;
use hookline_model::time::Clock;
use hookline_model::units::Rate;
use hookline_model::wire;
use hookline_registry::{ConnectorEntry, Snapshot, WebhookEntry};
use serde_json::{Value, json};

use crate::config::Config;

/// The event type of a test of a webhook that subscribes to none by name.
const TEST_TYPE: &str = "hookline.test";
/// Where test events come from.
const SOURCE: &str = "hookline/test";

/// The way to endpoints.
pub(crate) struct Endpoints {
    outside: Outside,
    clock: Arc<dyn Clock>,
}

/// A request to an endpoint and what came of it.
pub(crate) struct TestSend {
    /// The `webhook-id` of the request.
    pub(crate) id: String,
    /// The event that was sent, where one was.
    pub(crate) event: wire::Event,
    /// The request and its answer.
    pub(crate) tried: Tried,
}

/// What came of a webhook's verification.
pub(crate) struct Verdict {
    /// Whether the endpoint passed.
    pub(crate) passed: bool,
    /// Why not, for people; empty when it passed.
    pub(crate) detail: String,
    /// Why the webhook may not be saved; `None` when it may.
    pub(crate) forbidden: Option<String>,
    /// What to remember.
    pub(crate) verified: Option<Verified>,
    /// The request that was made for it.
    pub(crate) test: TestSend,
}

impl Endpoints {
    /// By the process's way out.
    pub(crate) fn new(config: &Config, clock: &Arc<dyn Clock>, way: WayOut) -> Self {
        let clock = Arc::clone(clock);
        let outside = Outside::new(way, &config.outgoing.origin);
        Self { outside, clock }
    }

    /// Sends an event as a test. A webhook that is not saved has no secret; its test is signed with one that nobody knows.
    pub(crate) async fn test(
        &self,
        snapshot: &Snapshot,
        webhook: &Webhook,
        saved: Option<&Arc<WebhookEntry>>,
        event: wire::Event,
    ) -> Result<TestSend, String> {
        let keys = self.keys(saved)?;
        let id = test_id();
        let asked = Asked {
            keys: &keys,
            connector: snapshot.connector_of(webhook).map(|connector| &**connector),
            event: &event,
            id: &id,
        };
        let tried = self.outside.test(webhook, asked).await;
        Ok(TestSend { id, event, tried })
    }

    /// Verifies a webhook that is to be saved as `spec` says, over `saved`, with the credentials of `connector`. `None` where there is nothing to verify: it asks for nothing, has
    /// passed as it is, or is inactive and needs to pass only before it goes live.
    pub(crate) async fn verify(
        &self,
        snapshot: &Snapshot,
        spec: &WebhookSpec,
        saved: Option<&Arc<WebhookEntry>>,
        connector: Option<&ConnectorEntry>,
    ) -> Result<Option<Verdict>, String> {
        let webhook = &spec.settings;
        let kind = webhook.verification;
        let kept = saved.filter(|_| !spec.state_given);
        let state = kept.map_or(webhook.state, |saved| saved.state());
        let later = kind == Verification::Test && state == State::Inactive;
        if later || saved.is_some_and(|saved| passed(saved, webhook)) {
            return Ok(None);
        }
        let keys = self.keys(saved)?;
        let event = self.sample(snapshot, webhook, None);
        let id = test_id();
        let asked = Asked {
            keys: &keys,
            connector,
            event: &event,
            id: &id,
        };
        let Some(findings) = self.outside.verify(webhook, asked).await else {
            return Ok(None);
        };
        let forbidden = findings.forbid(kind).then(|| {
            format!(
                "the endpoint did not pass its verification ({kind}): {}",
                findings.detail
            )
        });
        let verified = self.verified(findings.passed, webhook, findings.rate);
        Ok(Some(Verdict {
            passed: findings.passed,
            detail: findings.detail,
            forbidden,
            verified,
            test: TestSend {
                id,
                event,
                tried: findings.tried,
            },
        }))
    }

    /// An event to test with: of this type, or of the first that the webhook subscribes to; with the catalog's example, if there is one.
    pub(crate) fn sample(
        &self,
        snapshot: &Snapshot,
        webhook: &Webhook,
        event_type: Option<&str>,
    ) -> wire::Event {
        let project = webhook.project.as_str();
        let name = match event_type {
            Some(name) => name.to_owned(),
            None => first_type(snapshot, webhook).unwrap_or_else(|| TEST_TYPE.into()),
        };
        let own = snapshot.event_type(project, &name);
        let own = own.and_then(|entry| entry.settings.example.clone());
        let example = own.or_else(|| {
            let entry = webhook.preset.event_type(&name)?;
            Some(Arc::clone(&entry.example))
        });
        let now = self.clock.now();
        let data = example.map_or_else(
            || json!({"message": "This is a test message."}),
            |example| Value::clone(&example),
        );
        wire::Event {
            id: format!("test-{}", uuid::Uuid::new_v4().simple()),
            source: SOURCE.into(),
            project: project.to_owned(),
            r#type: name,
            key: project.to_owned(),
            time: now.to_rfc3339(),
            data: data.to_string().into(),
            ..wire::Event::default()
        }
    }

    /// The event of a request, in any form that publishing takes.
    pub(crate) fn given(
        &self,
        project: &str,
        event: &Value,
    ) -> Result<wire::Event, Vec<RequestError>> {
        let body = Bytes::from(event.to_string());
        let request = PublishRequest {
            project,
            content_type: "application/json",
            attributes: &[],
            idempotency_key: None,
            body: &body,
        };
        let read = request.read(self.clock.now())?;
        let value = read.events.first().map(|event| &event.value);
        let input = Input {
            key: None,
            value,
            headers: &[],
        };
        event::parse(input, EVENT_BYTES_MAX).map_err(|error| {
            vec![RequestError {
                fault: hookline_ingest::Fault::Invalid,
                field: String::new(),
                message: error.to_string(),
            }]
        })
    }

    /// What a passed test says of a webhook that goes live only after one.
    pub(crate) fn passed_test(&self, webhook: &Webhook, test: &TestSend) -> Option<Verified> {
        let counts = webhook.verification == Verification::Test && test.tried.delivered(webhook);
        self.verified(counts, webhook, None)
    }

    fn verified(&self, passed: bool, webhook: &Webhook, rate: Option<Rate>) -> Option<Verified> {
        passed.then(|| Verified {
            part: webhook.verified_part(),
            at_ms: self.clock.now().0,
            rate,
        })
    }

    fn keys(&self, saved: Option<&Arc<WebhookEntry>>) -> Result<Arc<[SigningKey]>, String> {
        match saved {
            Some(saved) => saved
                .signing_keys(self.clock.now())
                .map_err(|error| error.to_string()),
            None => {
                let secret = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
                let secret = secret.map(uuid::Uuid::into_bytes).concat();
                let key = SigningKey::from_bytes(&secret).map_err(|error| error.to_string())?;
                Ok(Arc::new([key]))
            }
        }
    }
}

/// Whether what a webhook is to be has passed already.
pub(crate) fn passed(saved: &WebhookEntry, webhook: &Webhook) -> bool {
    let verified = saved.verified.as_ref();
    verified.is_some_and(|verified| verified.part == webhook.verified_part())
}

/// Names one test, and cannot be guessed.
fn test_id() -> String {
    format!("test_{}", uuid::Uuid::new_v4().simple())
}

/// The first event type that a webhook gets, by the project's catalog and then by its preset's.
fn first_type(snapshot: &Snapshot, webhook: &Webhook) -> Option<String> {
    let pattern = webhook.events.first()?;
    if let TypePattern::Exact(name) = pattern {
        return Some(name.to_string());
    }
    let own = snapshot.event_types(webhook.project.as_str());
    let own = own.filter(|entry| !entry.settings.archived);
    let of_preset = webhook.preset.catalog().iter().map(|entry| &entry.name);
    let mut names = own.map(|entry| &entry.settings.name).chain(of_preset);
    names.find(|name| pattern.matches(name)).cloned()
}
