//! The way out of a process: what everything that customers' URLs are asked has in common.

use std::sync::Arc;
use std::time::Duration;

use hookline_model::outcome::{Answer, ErrorClass};
use hookline_model::resource::{Secret, Webhook};
use hookline_model::time::Clock;
use hookline_registry::ConnectorEntry;

use crate::guard::UrlPolicy;
use crate::request::Unbuilt;
use crate::tokens::Tokens;
use crate::transport::{Exchange, OutgoingRequest, Transport};

/// One client, one policy and one store of tokens, for deliveries, tests and verification alike. Cheap to clone; make one per process.
#[derive(Clone)]
pub struct WayOut {
    transport: Arc<dyn Transport>,
    urls: Arc<UrlPolicy>,
    clock: Arc<dyn Clock>,
    tokens: Arc<Tokens>,
}

impl WayOut {
    /// By this transport, under this policy, which must be the one that the transport's guard has.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, urls: Arc<UrlPolicy>, clock: Arc<dyn Clock>) -> Self {
        Self {
            tokens: Arc::default(),
            transport,
            urls,
            clock,
        }
    }

    /// The judgement of URLs.
    #[must_use]
    pub fn urls(&self) -> &Arc<UrlPolicy> {
        &self.urls
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) async fn exchange(&self, request: OutgoingRequest) -> Exchange {
        self.transport.exchange(request).await
    }

    /// The token that requests of this webhook carry, and how long getting it took; nothing where its connector needs none.
    pub(crate) async fn token(
        &self,
        webhook: &Webhook,
        connector: Option<&ConnectorEntry>,
    ) -> Result<(Option<Secret>, Duration), Unbuilt> {
        let Some(connector) = connector.filter(|_| webhook.connector.is_some()) else {
            return Ok((None, Duration::ZERO));
        };
        let begun = self.clock.boot();
        let token = self.tokens.of(self, connector, webhook.deadline).await;
        let token = token.map_err(|why| {
            let name = &connector.name;
            (ErrorClass::AuthFailed, format!("connector {name}: {why}"))
        })?;
        Ok((token, self.clock.boot().saturating_sub(begun)))
    }

    /// Learns from the answer to a request that carried a token: one that was refused is not used again.
    pub(crate) fn learn(
        &self,
        connector: Option<&ConnectorEntry>,
        token: Option<&Secret>,
        answer: Answer,
    ) {
        if let (Some(connector), Some(token), Answer::Status(401)) = (connector, token, answer) {
            self.tokens.refused(connector, token);
        }
    }
}
