//! The seam behind which the outside world stands: one HTTP exchange, whatever comes of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookline_model::outcome::Answer;
use hookline_model::resource::Secret;
use hookline_model::time::Millis;

use crate::guard::Target;

/// Makes outside HTTP requests: really, or by a script.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends one request and waits for what comes of it, no longer than its deadline. What the other side does wrong is a value; there is
    /// no error. Dropping the future ends the exchange and its connection.
    async fn exchange(&self, request: OutgoingRequest) -> Exchange;
}

/// A request to be sent, complete but for what belongs to the connection.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// The method.
    pub method: http::Method,
    /// Where to; only the guard makes these.
    pub target: Target,
    /// The headers. `host`, `content-length`, `user-agent` and everything that frames or keeps the connection are the transport's own.
    pub headers: http::HeaderMap,
    /// The body, sent byte for byte.
    pub body: Bytes,
    /// How long everything may take: resolving, connecting, TLS, writing, head and body.
    pub deadline: Duration,
    /// How TLS to this endpoint differs from what is usual.
    pub tls: TlsOwn,
}

/// What an endpoint has of its own in TLS. Connections are shared only among requests that have the same.
#[derive(Debug, Clone, Default)]
pub struct TlsOwn {
    /// Certificate authorities trusted beside the usual ones (PEM).
    pub authorities: Option<Arc<str>>,
    /// Who we are.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, and those that lead to its authority (PEM).
    pub certificate: Arc<str>,
    /// Its private key (PEM).
    pub private_key: Secret,
}

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// When it began.
    pub started_at: Millis,
    /// From the beginning to the end of the capture, or to the failure.
    pub duration: Duration,
    /// The status, or why there is none. A status counts as soon as the head is complete, whatever becomes of the body.
    pub answer: Answer,
    /// One sentence for people about a failure; empty with a status. Never an address inside the operator's network.
    pub detail: String,
    /// The headers of the response in order, up to the capture limit.
    pub headers: Vec<(String, Bytes)>,
    /// The beginning of the response's body, up to the capture limit.
    pub body: Bytes,
    /// The body went on beyond what was kept, or ended early.
    pub body_truncated: bool,
    /// The header `retry-after` as it came.
    pub retry_after: Option<Bytes>,
    /// What the time was spent on.
    pub timings: Timings,
}

/// Whether a header of a response may be recorded and shown. Cookies are credentials of somebody else's.
#[must_use]
pub fn kept(name: &str) -> bool {
    name != "set-cookie"
}

/// What the time of an exchange was spent on. A span is `None` where it was not come to; with a connection that was open already, everything
/// before `answer` is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Looking up the host name.
    pub resolve: Option<Duration>,
    /// Connecting.
    pub connect: Option<Duration>,
    /// Negotiating TLS.
    pub tls: Option<Duration>,
    /// From sending the request to the complete head of the answer.
    pub answer: Option<Duration>,
    /// Reading the body of the answer.
    pub body: Option<Duration>,
}
