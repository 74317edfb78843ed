//! A receiver of webhooks that does what the path of a request says and remembers everything.
//!
//! `/ok/…` answers 200, `/status/N/…` answers N, `/slow/MS/…` answers 200 after so many milliseconds, `/hang/…` never answers,
//! `/flaky/N/…` answers 500 to the first N requests of each `webhook-id` and then 200, `/until/N/…` answers 500 to attempts below N as the
//! request counts them and 200 to the others, `/retry-after/S/…` answers 429 with that header the first time and then 200, `/echo/…` answers with
//! the body it got, `/allow/N/…` allows everybody to send N requests a minute (CloudEvents handshake). What follows is free, so that each webhook of a test has a path of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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

use crate::program::SystemClock;

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
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// What was answered; 0 while there is no answer (yet).
    pub answered: u16,
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let journal = Arc::new(Journal::default());
        let mut serving = JoinSet::new();
        start(&mut serving, accept(listener, Arc::clone(&journal)));
        Self {
            address,
            journal,
            _serving: serving,
        }
    }

    /// The URL of a path (which starts with `/`).
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
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

async fn accept(listener: TcpListener, journal: Arc<Journal>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Without this the end of an answer waits for the acknowledgement of its beginning.
        drop(stream.set_nodelay(true));
        while connections.try_join_next().is_some() {}
        let journal = Arc::clone(&journal);
        start(&mut connections, async move {
            let service = service_fn(|request| answer(request, &journal));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // Clients may go away at any time; that is not the receiver's trouble.
            drop(connection.await);
        });
    }
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
    let received = Received {
        at,
        wall,
        method: head.method.to_string(),
        path: path.clone(),
        headers: headers.collect(),
        body: body.to_bytes(),
        answered: 0,
    };
    let body = received.body.clone();
    let webhook_id = received.header("webhook-id").unwrap_or_default().to_owned();
    let attempt = received.header("hookline-attempt");
    let attempt = attempt.and_then(|n| n.parse().ok()).unwrap_or(0);
    let place = {
        let mut requests = journal.requests.lock();
        requests.push(received);
        requests.len() - 1
    };
    let mut response = behave(&path, webhook_id, attempt, journal).await;
    if path.starts_with("/echo/") {
        *response.body_mut() = Full::new(body);
    }
    if let Some(entry) = journal.requests.lock().get_mut(place) {
        entry.answered = response.status().as_u16();
    }
    Ok(response)
}

async fn behave(
    path: &str,
    webhook_id: String,
    attempt: u64,
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
