//! A receiver of webhooks that does what the path of a request says and remembers everything.
//!
//! `/ok/…` answers 200, `/status/N/…` answers N, `/slow/MS/…` answers 200 after so many milliseconds, `/hang/…` never answers,
//! `/flaky/N/…` answers 500 to the first N requests of each `webhook-id` and then 200, `/until/N/…` answers 500 to attempts below N as the
//! request counts them and 200 to the others, `/retry-after/S/…` answers 429 with that header the first time and then 200, `/echo/…` answers with
//! the body it got, `/allow/N/…` allows everybody to send N requests a minute (CloudEvents handshake), `/token/…` gives a new token to each
//! request (OAuth2), `/with-token/N/…` takes only the Nth of them and answers 401 to others, `/hiccup/N/…` answers 500 to the first attempt of
//! one `webhook-id` in N ([`stumbles`] says which) and 200 to the others, `/picky/N/…` answers N to a body with the word [`POISON`] in it and 200
//! to others, `/sink/…` answers 200 and forgets the body. What follows is free, so that each webhook of a test has a path of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hookline_model::time::{Clock as _, Millis};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::program::SystemClock;

/// Under this name stands the certificate of a client among the headers of its requests: base64 of its DER form.
pub const CLIENT_CERTIFICATE: &str = "tls-client-certificate";
/// What `/picky/…` does not take.
pub const POISON: &str = "poison";

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its head was read.
    pub at: Instant,
    /// The same by the wall clock, for comparing with the times of records.
    pub wall: Millis,
    /// The method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// Headers in order, names in lower case; with [`CLIENT_CERTIFICATE`] for a client that showed one.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// What was answered; 0 while there is no answer (yet).
    pub answered: u16,
    /// When that was about to be sent.
    pub answered_at: Option<Instant>,
}

impl Received {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The `webhook-id`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
            .expect("every request carries a webhook-id")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

#[derive(Debug, Default)]
struct Journal {
    requests: Mutex<Vec<Received>>,
    tries: Mutex<HashMap<(String, String), usize>>,
    /// Answers that replace what a path says, by prefix.
    overrides: Mutex<Vec<(String, u16)>>,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

/// A running receiver; dropping it stops it.
#[derive(Debug)]
pub struct Receiver {
    scheme: &'static str,
    address: SocketAddr,
    journal: Arc<Journal>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// Starts one that speaks TLS only.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::serve(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let journal = Arc::new(Journal::default());
        let mut serving = JoinSet::new();
        let scheme = if tls.is_some() { "https" } else { "http" };
        start(&mut serving, accept(listener, tls, Arc::clone(&journal)));
        Self {
            scheme,
            address,
            journal,
            _serving: serving,
        }
    }

    /// The URL of a path (which starts with `/`).
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Everything received so far, in order of arrival.
    #[must_use]
    pub fn all(&self) -> Vec<Received> {
        self.journal.requests.lock().clone()
    }

    /// Looks at everything received so far, without copying it.
    pub fn journal<T>(&self, look: impl FnOnce(&[Received]) -> T) -> T {
        look(&self.journal.requests.lock())
    }

    /// What arrived at paths that start so.
    #[must_use]
    pub fn at(&self, prefix: &str) -> Vec<Received> {
        let requests = self.journal.requests.lock();
        let there = requests.iter().filter(|r| r.path.starts_with(prefix));
        there.cloned().collect()
    }

    /// How many requests arrived at paths that start so.
    #[must_use]
    pub fn count(&self, prefix: &str) -> usize {
        let requests = self.journal.requests.lock();
        requests
            .iter()
            .filter(|r| r.path.starts_with(prefix))
            .count()
    }

    /// From now on paths that start so are answered with `status` at once.
    pub fn answer(&self, prefix: &str, status: u16) {
        let mut overrides = self.journal.overrides.lock();
        overrides.retain(|(p, _)| p != prefix);
        overrides.push((prefix.to_owned(), status));
    }

    /// From now on paths that start so are answered as they say again.
    pub fn as_it_says(&self, prefix: &str) {
        self.journal.overrides.lock().retain(|(p, _)| p != prefix);
    }

    /// The highest number of requests that were in progress at a time.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.journal.in_flight_max.load(Ordering::Relaxed)
    }

    /// How many requests are in progress now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.journal.in_flight.load(Ordering::Relaxed)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the set is owned by the receiver, which ends them when it is dropped"
)]
fn start(set: &mut JoinSet<()>, future: impl Future<Output = ()> + Send + 'static) {
    set.spawn(future);
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, journal: Arc<Journal>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Without this the end of an answer waits for the acknowledgement of its beginning.
        drop(stream.set_nodelay(true));
        while connections.try_join_next().is_some() {}
        let (tls, journal) = (tls.clone(), Arc::clone(&journal));
        start(&mut connections, async move {
            let Some(tls) = tls else {
                return converse(stream, None, &journal).await;
            };
            // Those who do not trust this receiver, or whom it does not, go away.
            if let Ok(stream) = tls.accept(stream).await {
                let peer = stream.get_ref().1.peer_certificates();
                let client = peer.and_then(|chain| chain.first());
                let client = client.map(|certificate| BASE64_STANDARD.encode(certificate));
                converse(stream, client, &journal).await;
            }
        });
    }
}

async fn converse<S>(stream: S, client: Option<String>, journal: &Journal)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = service_fn(|request| answer(request, client.as_deref(), journal));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Clients may go away at any time; that is not the receiver's trouble.
    drop(connection.await);
}

/// Counts a request while it is in progress, also when its connection ends before it is answered.
struct InProgress<'a>(&'a Journal);

impl<'a> InProgress<'a> {
    fn begin(journal: &'a Journal) -> Self {
        let now = journal.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        journal.in_flight_max.fetch_max(now, Ordering::Relaxed);
        Self(journal)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    request: Request<Incoming>,
    client: Option<&str>,
    journal: &Journal,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (at, wall) = (Instant::now(), SystemClock.now());
    let _in_progress = InProgress::begin(journal);
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(with_status(400));
    };
    let path = head
        .uri
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let client = client.map(|known| (CLIENT_CERTIFICATE.to_owned(), known.to_owned()));
    let mut received = Received {
        at,
        wall,
        method: head.method.to_string(),
        path: path.clone(),
        headers: headers.chain(client).collect(),
        body: body.to_bytes(),
        answered: 0,
        answered_at: None,
    };
    let body = received.body.clone();
    if path.starts_with("/sink/") {
        received.body = Bytes::new();
    }
    let webhook_id = received.header("webhook-id").unwrap_or_default().to_owned();
    let attempt = received.header("hookline-attempt");
    let attempt = attempt.and_then(|n| n.parse().ok()).unwrap_or(0);
    let place = {
        let mut requests = journal.requests.lock();
        requests.push(received);
        requests.len() - 1
    };
    let bearer = received_token(&journal.requests.lock()[place]);
    let mut response = match path.strip_prefix("/picky/") {
        Some(status) if contains(&body, POISON) => {
            let status = status.split('/').next().and_then(|n| n.parse().ok());
            with_status(status.unwrap_or(400))
        }
        _ => behave(&path, webhook_id, attempt, &bearer, journal).await,
    };
    if path.starts_with("/echo/") {
        *response.body_mut() = Full::new(body);
    }
    if let Some(entry) = journal.requests.lock().get_mut(place) {
        entry.answered = response.status().as_u16();
        entry.answered_at = Some(Instant::now());
    }
    Ok(response)
}

async fn behave(
    path: &str,
    webhook_id: String,
    attempt: u64,
    bearer: &str,
    journal: &Journal,
) -> Response<Full<Bytes>> {
    let replaced = {
        let overrides = journal.overrides.lock();
        let found = overrides.iter().find(|(p, _)| path.starts_with(p.as_str()));
        found.map(|(_, status)| *status)
    };
    if let Some(status) = replaced {
        return with_status(status);
    }
    let mut parts = path.trim_start_matches('/').split('/');
    let verb = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|n| n.parse::<u64>().ok());
    match (verb, number) {
        ("status", Some(status)) => with_status(u16::try_from(status).unwrap_or(200)),
        ("slow", Some(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            with_status(200)
        }
        ("hang", _) => std::future::pending().await,
        ("until", Some(n)) => with_status(if attempt < n { 500 } else { 200 }),
        ("hiccup", Some(n)) => {
            let stumbles = attempt < 2 && stumbles(&webhook_id, n);
            with_status(if stumbles { 500 } else { 200 })
        }
        ("flaky", Some(n)) => {
            let before = try_of(journal, path, webhook_id);
            with_status(if (before as u64) < n { 500 } else { 200 })
        }
        ("retry-after", Some(seconds)) => {
            if try_of(journal, path, webhook_id) > 0 {
                return with_status(200);
            }
            let mut response = with_status(429);
            response
                .headers_mut()
                .insert("retry-after", HeaderValue::from(seconds));
            response
        }
        ("token", _) => {
            let token = format!("token-{}", try_of(journal, "/token", String::new()) + 1);
            let granted = serde_json::json!({
                "access_token": token, "token_type": "Bearer", "expires_in": 3600,
            });
            Response::new(Full::from(granted.to_string()))
        }
        ("with-token", Some(n)) => with_status(if bearer == format!("token-{n}") {
            200
        } else {
            401
        }),
        ("allow", Some(a_minute)) => {
            let mut response = with_status(200);
            let headers = response.headers_mut();
            headers.insert("webhook-allowed-origin", HeaderValue::from_static("*"));
            headers.insert("webhook-allowed-rate", HeaderValue::from(a_minute));
            response
        }
        _ => with_status(200),
    }
}

/// Whether this is the one `webhook-id` in so many whose first attempt `/hiccup/…` does not take.
#[must_use]
pub fn stumbles(webhook_id: &str, one_in: u64) -> bool {
    let sum = webhook_id.bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    sum.is_multiple_of(one_in)
}

fn contains(body: &[u8], word: &str) -> bool {
    body.windows(word.len()).any(|w| w == word.as_bytes())
}

fn received_token(request: &Received) -> String {
    let authorization = request.header("authorization").unwrap_or_default();
    let token = authorization.strip_prefix("Bearer ");
    token.unwrap_or_default().to_owned()
}

/// How many requests of this webhook-id came to this path before.
fn try_of(journal: &Journal, path: &str, webhook_id: String) -> usize {
    let mut tries = journal.tries.lock();
    let count = tries.entry((path.to_owned(), webhook_id)).or_default();
    *count += 1;
    *count - 1
}

fn with_status(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    response
}
