//! The only outside HTTP: one request, one exchange, whatever comes of it.
//!
//! The address guard sits in [`connect`], after resolution: every address a name resolves to is judged, and only those are connected to.
//! Nothing here follows redirects, retries what may have reached the wire, decompresses, or reads proxies from the environment.
//!
//! A connection has no task of its own: the exchange that uses it drives it, so an answer costs one wake-up, and a connection taken from the
//! pool is looked at once before it is used. What remains is the moment in which the server closes an idle connection just as we write:
//! that is a failed attempt (`conn_closed`), since the server may have read it. To make it rare, idle connections are used again only
//! within [`pool::IDLE_DEFAULT`], less than the five seconds after which common servers close, or a second less than what the server's
//! `keep-alive` header promises.

mod classify;
mod connect;
mod exchange;
mod io;
mod pool;
mod proxy;
mod resolve;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookline_model::limits;
use hookline_model::outcome::{Answer, ErrorClass};
use hookline_model::time::Clock;
use http::HeaderValue;
use tokio::time::Instant;

use crate::guard::UrlPolicy;
use crate::transport::{Exchange, OutgoingRequest, Transport};
use classify::Failure;
use connect::Connector;
use exchange::{Connection, Seen};
use pool::Pool;
use resolve::{LookUp, Resolver};
use tls::Profiles;

pub use proxy::EgressProxy;
pub use tls::{check_authorities, check_identity};

/// The settings of the client.
#[derive(Clone)]
pub struct ClientConfig {
    /// Where requests may go.
    pub policy: UrlPolicy,
    /// Certificate authorities trusted beside the public ones (DER).
    pub extra_roots: Vec<rustls_pki_types::CertificateDer<'static>>,
    /// The proxy that all requests go through.
    pub proxy: Option<EgressProxy>,
    /// Servers that offer HTTP/2 are spoken to in it; else all are in HTTP/1.1.
    pub http2: bool,
    /// Bytes kept of a response's body.
    pub body_kept: usize,
    /// Bytes kept of a response's headers, names and values together.
    pub headers_kept: usize,
    /// Idle connections kept for one scheme, host and port.
    pub idle_per_origin: usize,
    /// Idle connections kept in all.
    pub idle_total: usize,
}

impl ClientConfig {
    /// The defaults under this policy.
    #[must_use]
    pub fn new(policy: UrlPolicy) -> Self {
        Self {
            policy,
            extra_roots: Vec::new(),
            proxy: None,
            http2: false,
            body_kept: limits::RESPONSE_BODY_KEPT,
            headers_kept: 16 * 1024,
            // Many webhooks may live at one origin; a steady stream to them must not open connections again and again.
            idle_per_origin: 1024,
            idle_total: 2048,
        }
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// One of the extra certificate authorities cannot be used.
    #[error(
        "extra certificate authority {index} cannot be used; it must be a DER certificate of an authority"
    )]
    Root {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The TLS library refuses the settings.
    #[error("the TLS settings are refused")]
    Tls(#[source] rustls::Error),
}

/// The real transport. Cheap to share; make one per process.
pub struct HttpClient {
    connector: Connector,
    tls: Profiles,
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
    user_agent: HeaderValue,
    keep: Keep,
}

/// How much of a response is kept.
#[derive(Clone, Copy)]
pub(crate) struct Keep {
    body: usize,
    headers: usize,
}

impl HttpClient {
    /// A client with these settings.
    ///
    /// # Errors
    /// When the certificate authorities or the TLS settings are refused.
    pub fn new(config: ClientConfig, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        Self::with_look_up(config, clock, resolve::system())
    }

    fn with_look_up(
        config: ClientConfig,
        clock: Arc<dyn Clock>,
        look_up: LookUp,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            tls: Profiles::new(&config.extra_roots, config.http2)?,
            connector: Connector::new(config.policy, Resolver::new(look_up), config.proxy),
            pool: Arc::new(Pool::new(config.idle_per_origin, config.idle_total)),
            clock,
            user_agent: HeaderValue::from_static(concat!("hookline/", env!("CARGO_PKG_VERSION"))),
            keep: Keep {
                body: config.body_kept,
                headers: config.headers_kept,
            },
        })
    }

    /// Everything up to the end of the capture. What was seen by then is in `seen`, also when this is dropped at the deadline.
    async fn attempt(&self, request: OutgoingRequest, seen: &mut Seen) -> Result<(), Failure> {
        let target = request.target.clone();
        let own = self.tls.of(&request.tls)?;
        let (tls, shelf) = match &own {
            None => (self.tls.usual(), Arc::clone(target.origin())),
            Some(own) => (&own.config, own.shelf(target.origin())),
        };
        let mut request = exchange::build(request, &self.user_agent);
        let mut connection = None;
        while let Some(mut idle) = self.pool.take(&shelf) {
            if idle.still_open().await {
                connection = Some(idle);
                break;
            }
        }
        if let Some(connection) = connection {
            match self.send(connection, request, &shelf, seen).await? {
                None => return Ok(()),
                // It was closed before anything of the request was written: nobody can have seen it, so this is still the first try.
                Some(unsent) => request = unsent,
            }
        }
        let connection = self
            .connector
            .connect(&target, tls, &mut seen.phases)
            .await?;
        hookline_model::fail_point!("client-connected");
        match self.send(connection, request, &shelf, seen).await? {
            None => Ok(()),
            Some(_) => Err(Failure::new(
                ErrorClass::ConnClosed,
                "the connection was closed before the request could be sent",
            )),
        }
    }

    /// Sends and captures on this connection, and keeps it if it can be used again. Gives the request back when nothing of it was written.
    async fn send(
        &self,
        mut connection: Box<Connection>,
        request: exchange::Request,
        shelf: &Arc<str>,
        seen: &mut Seen,
    ) -> Result<Option<exchange::Request>, Failure> {
        let body = match connection.head(request, seen, self.keep).await {
            Ok(body) => body,
            Err(exchange::SendError::Unsent(request)) => return Ok(Some(*request)),
            Err(exchange::SendError::Failed(failure)) => return Err(failure),
        };
        hookline_model::fail_point!("client-head-read");
        if connection.capture(body, seen, self.keep).await
            && let Some(idle_for) = connection.reusable(seen)
        {
            Pool::put(&self.pool, shelf, connection, idle_for);
        }
        Ok(None)
    }
}

#[async_trait]
impl Transport for HttpClient {
    async fn exchange(&self, request: OutgoingRequest) -> Exchange {
        let started_at = self.clock.now();
        let begun = Instant::now();
        let deadline = request.deadline;
        let mut seen = Seen::default();
        let ended =
            tokio::time::timeout_at(begun + deadline, self.attempt(request, &mut seen)).await;
        let failure = match ended {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(Failure::new(
                ErrorClass::Timeout,
                format!(
                    "no answer within {}: the time ran out while {}",
                    in_words(deadline),
                    seen.phases.doing()
                ),
            )),
        };
        let (answer, detail) = match (seen.status, failure) {
            (Some(status), _) => (Answer::Status(status), String::new()),
            (None, Some(failure)) => (Answer::Failed(failure.class), failure.detail.into_owned()),
            (None, None) => (
                Answer::Failed(ErrorClass::Internal),
                "the exchange ended without a status or a reason".into(),
            ),
        };
        Exchange {
            started_at,
            duration: begun.elapsed(),
            answer,
            detail,
            headers: seen.headers,
            body: Bytes::from(seen.body),
            body_truncated: seen.body_truncated,
            retry_after: seen.retry_after,
            timings: seen.phases.spent(),
        }
    }
}

fn in_words(span: Duration) -> String {
    if span.subsec_millis() == 0 {
        format!("{} s", span.as_secs())
    } else {
        format!("{} ms", span.as_millis())
    }
}
