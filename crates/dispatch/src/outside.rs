//! Requests to an endpoint that are not deliveries: test sends, and the tries of an endpoint when its webhook is saved. They take the same
//! way out as deliveries do: the same guard, the same limits, the same client.

mod verify;

use std::sync::Arc;

use bytes::Bytes;
use hookline_model::outcome::Answer;
use hookline_model::resource::{Secret, Webhook};
use hookline_model::time::Millis;

use crate::attempt::failed;
use crate::request::{Draft, Unbuilt};
use crate::transport::{Exchange, OutgoingRequest};
use crate::way_out::WayOut;

pub use verify::{Asked, Findings};

/// What is shown in the place of a secret.
const MASKED: &[u8] = b"***";

/// The way out for requests that are not deliveries.
#[derive(Clone)]
pub struct Outside {
    way: WayOut,
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
    /// By the process's way out. `origin` is the host name that handshakes are asked for.
    #[must_use]
    pub fn new(way: WayOut, origin: &str) -> Self {
        Self {
            way,
            origin: origin.into(),
        }
    }

    /// Sends an event to a webhook as a test: as its delivery would be, but marked, and recorded nowhere.
    pub async fn test(&self, webhook: &Webhook, asked: Asked<'_>) -> Tried {
        self.send(webhook, asked, |draft| {
            let event = draft.with_event(self.way.urls(), asked.event, draft.now);
            event.map(|(request, _)| request)
        })
        .await
    }

    /// Sends what `build` makes of a draft, with what the webhook's connector brings.
    async fn send(
        &self,
        webhook: &Webhook,
        asked: Asked<'_>,
        build: impl FnOnce(&Draft<'_>) -> Result<OutgoingRequest, Unbuilt>,
    ) -> Tried {
        let sent = self.way.send(webhook, asked.connector, |token| {
            let now = self.way.clock().now();
            let request = build(&draft(webhook, asked, now, token))?;
            let shown = shown(&request, webhook);
            Ok((request, shown))
        });
        match sent.await {
            Ok((exchange, sent)) => Tried {
                sent: Some(sent),
                exchange,
            },
            Err((class, detail)) => Tried {
                sent: None,
                exchange: failed(self.way.clock().now(), class, detail),
            },
        }
    }
}

/// A request as it may be shown: without what is marked as a secret.
fn shown(request: &OutgoingRequest, webhook: &Webhook) -> Sent {
    let headers = request.headers.iter();
    let headers = headers.map(|(name, value)| {
        let shown = match value.is_sensitive() {
            true => MASKED,
            false => value.as_bytes(),
        };
        (name.as_str().to_owned(), Bytes::copy_from_slice(shown))
    });
    Sent {
        method: request.method.to_string(),
        url: webhook.url.clone(),
        headers: headers.collect(),
        body: request.body.clone(),
    }
}

fn draft<'a>(
    webhook: &'a Webhook,
    asked: Asked<'a>,
    now: Millis,
    token: Option<&'a Secret>,
) -> Draft<'a> {
    Draft {
        settings: webhook,
        id: asked.id,
        attempt: 1,
        now,
        keys: asked.keys,
        connector: asked.connector,
        token,
        order: None,
        test: true,
    }
}
