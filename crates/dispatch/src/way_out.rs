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

    /// Sends what `build` makes with the token that requests of this webhook carry, if they do, and learns from the answer. Returns what `build`
    /// tells of the request, too.
    pub(crate) async fn send<T>(
        &self,
        webhook: &Webhook,
        connector: Option<&ConnectorEntry>,
        build: impl FnOnce(Option<&Secret>) -> Result<(OutgoingRequest, T), Unbuilt>,
    ) -> Result<(Exchange, T), Unbuilt> {
        let connector = connector.filter(|_| webhook.connector.is_some());
        let (mut token, mut spent) = (None, Duration::ZERO);
        if let Some(connector) = connector {
            let begun = self.clock.boot();
            token = self.token(connector, webhook.deadline).await?;
            spent = self.clock.boot().saturating_sub(begun);
        }
        let (mut request, told) = build(token.as_ref())?;
        // One deadline for everything that an attempt waits for.
        request.deadline = request.deadline.saturating_sub(spent);
        let exchange = self.exchange(request).await;
        // A token that was refused is not used again.
        if let (Some(connector), Some(token), Answer::Status(401)) =
            (connector, &token, exchange.answer)
        {
            self.tokens.refused(connector, token);
        }
        Ok((exchange, told))
    }

    async fn token(
        &self,
        connector: &ConnectorEntry,
        deadline: Duration,
    ) -> Result<Option<Secret>, Unbuilt> {
        let token = self.tokens.of(self, connector, deadline).await;
        token.map_err(|why| {
            let name = &connector.name;
            (ErrorClass::AuthFailed, format!("connector {name}: {why}"))
        })
    }
}
