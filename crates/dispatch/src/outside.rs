//! Requests to an endpoint that are not deliveries: test sends, and the tries of an endpoint when its webhook is saved. They take the same
//! way out as deliveries do: the same guard, the same limits, the same client.

mod verify;

use std::sync::Arc;

use bytes::Bytes;
use hookline_model::outcome::Answer;
use hookline_model::resource::Webhook;
use hookline_model::time::{Clock, Millis};

use crate::attempt::failed;
use crate::guard::UrlPolicy;
use crate::request::{Draft, Unbuilt};
use crate::transport::{Exchange, OutgoingRequest, Transport};

pub use verify::{Asked, Findings};

/// What is shown in the place of a secret.
const MASKED: &[u8] = b"***";

/// The way out for requests that are not deliveries.
#[derive(Clone)]
pub struct Outside {
    transport: Arc<dyn Transport>,
    urls: Arc<UrlPolicy>,
    clock: Arc<dyn Clock>,
    /// Who is asking, as a host name, for handshakes.
    origin: Arc<str>,
}

/// What was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// Every header but those of the connection; names in lower case.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

/// A request and what came of it.
#[derive(Debug, Clone)]
pub struct Tried {
    /// What was sent; `None` when it could not be built.
    pub sent: Option<Sent>,
    /// What came of it.
    pub exchange: Exchange,
}

impl Tried {
    /// Whether this is a success by the webhook's own measure.
    #[must_use]
    pub fn delivered(&self, webhook: &Webhook) -> bool {
        match self.exchange.answer {
            Answer::Status(status) => webhook.retry.success.contains(status),
            Answer::Failed(_) => false,
        }
    }
}

impl Outside {
    /// By this transport, under this policy. `origin` is the host name that handshakes are asked for.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        urls: Arc<UrlPolicy>,
        clock: Arc<dyn Clock>,
        origin: &str,
    ) -> Self {
        Self {
            transport,
            urls,
            clock,
            origin: origin.into(),
        }
    }

    /// Sends an event to a webhook as a test: as its delivery would be, but marked, and recorded nowhere.
    pub async fn test(&self, webhook: &Webhook, asked: Asked<'_>) -> Tried {
        let now = self.clock.now();
        let built = draft(webhook, asked, now).with_event(&self.urls, asked.event, now);
        self.send(built.map(|(request, _)| request), &webhook.url)
            .await
    }

    async fn send(&self, built: Result<OutgoingRequest, Unbuilt>, url: &str) -> Tried {
        match built {
            Ok(request) => {
                let headers = request.headers.iter();
                let headers = headers.map(|(name, value)| {
                    let shown = match value.is_sensitive() {
                        true => MASKED,
                        false => value.as_bytes(),
                    };
                    (name.as_str().to_owned(), Bytes::copy_from_slice(shown))
                });
                let sent = Sent {
                    method: request.method.to_string(),
                    url: url.to_owned(),
                    headers: headers.collect(),
                    body: request.body.clone(),
                };
                Tried {
                    sent: Some(sent),
                    exchange: self.transport.exchange(request).await,
                }
            }
            Err((class, detail)) => Tried {
                sent: None,
                exchange: failed(self.clock.now(), class, detail),
            },
        }
    }
}

fn draft<'a>(webhook: &'a Webhook, asked: Asked<'a>, now: Millis) -> Draft<'a> {
    Draft {
        settings: webhook,
        id: asked.id,
        attempt: 1,
        now,
        keys: asked.keys,
        connector: asked.connector,
        test: true,
    }
}
