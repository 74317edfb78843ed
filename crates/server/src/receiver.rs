//! A small HTTP receiver on loopback, for people who have no endpoint at hand.
//!
//! | path | answers |
//! |---|---|
//! | `/ok` | 200 |
//! | `/flaky` | 500 to the first two attempts of each `webhook-id`, then 200 |
//! | `/dead` | 500 |
//! | `/status/N` | N |
//! | `/slow/MS` | 200 after that many milliseconds |
//! | `GET /` | how many requests came in, and the last ones, as JSON |
//!
//! Once it knows signing secrets it answers 401 to a request that none of them signed. All it keeps is bounded.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookline_model::limits;
use hookline_model::signature::{self, SigningKey};
use hookline_model::time::{Clock, Millis};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::tasks::{Stop, TaskError};

/// Requests remembered for people.
const RECENT_MAX: usize = 100;
/// `webhook-id`s that `/flaky` remembers.
const FLAKY_MAX: usize = 10_000;
/// How many attempts `/flaky` refuses.
const FLAKY_REFUSALS: u32 = 2;
/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 512;
/// The longest wait that `/slow` takes on: longer than any deadline.
const SLOW_MAX: Duration = Duration::from_secs(60);
/// How far a request's timestamp may be off, as the Standard Webhooks page advises.
const TIMESTAMP_TOLERANCE: Duration = Duration::from_secs(300);
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What checking a request's signature said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Signature {
    /// One of the secrets made it.
    Valid,
    /// None did, or it is too old.
    Invalid,
    /// No secret is known.
    NotChecked,
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Seen {
    /// When, RFC 3339.
    at: String,
    /// The path.
    path: String,
    /// `webhook-id`.
    webhook_id: String,
    /// `hookline-attempt`.
    attempt: u32,
    /// What was answered.
    status: u16,
    /// What checking the signature said.
    signature: Signature,
    /// The body, cut to a few lines.
    body: String,
}

/// How many requests came in since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Totals {
    /// All of them.
    requests: u64,
    /// Those whose signature was right.
    signed: u64,
    /// Those whose signature was wrong.
    forged: u64,
}

#[derive(Default)]
struct State {
    recent: VecDeque<Seen>,
    totals: Totals,
    refused: HashMap<String, u32>,
    /// The ids of `refused` in order of arrival.
    refused_order: VecDeque<String>,
}

/// The receiver, bound to its port.
pub(crate) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    clock: Arc<dyn Clock>,
    keys: Mutex<Arc<Vec<SigningKey>>>,
    state: Mutex<State>,
}

impl Receiver {
    /// Binds `address`, which should be loopback; port 0 takes a free one.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) async fn bind(address: SocketAddr, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            clock,
            keys: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests must be signed with one of these; none: nothing is checked.
    pub(crate) fn expect_keys(&self, keys: Vec<SigningKey>) {
        *self.keys.lock() = Arc::new(keys);
    }

    /// Answers requests until told to stop.
    ///
    /// # Errors
    /// Never; trouble with single connections is passed over.
    pub(crate) async fn run(self: Arc<Self>, mut stop: Stop) -> Result<(), TaskError> {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            tokio::select! {
                biased;
                () = told(&mut stop) => return Ok(()),
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let connection = Arc::clone(&self).serve(stream);
                        #[expect(clippy::disallowed_methods, reason = "the set is owned and dropped, which aborts, by this function")]
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the receiver could not accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        drop(stream.set_nodelay(true));
        let answer = service_fn(move |request| {
            let receiver = Arc::clone(&self);
            async move { Ok::<_, Infallible>(receiver.answer(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the receiver ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if head.method == Method::GET && path == "/" {
            return self.list();
        }
        let Ok(body) = Limited::new(body, limits::RECORD_BYTES_MAX).collect().await else {
            return reply(StatusCode::PAYLOAD_TOO_LARGE, "cannot read the body\n");
        };
        let body = body.to_bytes();
        let signature = self.check(&head.headers, &body);
        let (status, wait) = match signature {
            Signature::Invalid => (StatusCode::UNAUTHORIZED, Duration::ZERO),
            Signature::Valid | Signature::NotChecked => self.verdict(&path, &head.headers),
        };
        self.remember(path, &head.headers, status, signature, &body);
        // `/slow`: the whole point is that the answer comes late.
        tokio::time::sleep(wait).await;
        let text = match signature {
            Signature::Invalid => "the signature is wrong\n",
            _ if status.is_success() => "thanks\n",
            _ => "not today\n",
        };
        reply(status, text)
    }

    /// What a path answers, and after how long.
    fn verdict(&self, path: &str, headers: &HeaderMap) -> (StatusCode, Duration) {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let status = match (parts.next(), parts.next()) {
            (Some("ok"), None) => StatusCode::OK,
            (Some("dead"), None) => StatusCode::INTERNAL_SERVER_ERROR,
            (Some("flaky"), None) if self.refuses(headers) => StatusCode::INTERNAL_SERVER_ERROR,
            (Some("flaky"), None) => StatusCode::OK,
            (Some("status"), Some(code)) => code
                .parse::<u16>()
                .ok()
                .filter(|code| (200..600).contains(code))
                .and_then(|code| StatusCode::from_u16(code).ok())
                .unwrap_or(StatusCode::NOT_FOUND),
            (Some("slow"), Some(ms)) => match ms.parse() {
                Ok(ms) => return (StatusCode::OK, Duration::from_millis(ms).min(SLOW_MAX)),
                Err(_) => StatusCode::NOT_FOUND,
            },
            _ => StatusCode::NOT_FOUND,
        };
        (status, Duration::ZERO)
    }

    /// Whether `/flaky` refuses this attempt. The sender's count serves, too, so that a restart of the receiver begins nothing anew.
    fn refuses(&self, headers: &HeaderMap) -> bool {
        let id = header(headers, "webhook-id");
        let mut state = self.state.lock();
        let before = state.refused.get(id).copied().unwrap_or(0);
        let attempt = attempt(headers).max(before.saturating_add(1));
        if attempt > FLAKY_REFUSALS {
            // Its place in the order is given up when its turn comes.
            state.refused.remove(id);
            return false;
        }
        if state.refused.insert(id.to_owned(), attempt).is_none() {
            state.refused_order.push_back(id.to_owned());
        }
        while state.refused_order.len() > FLAKY_MAX {
            if let Some(oldest) = state.refused_order.pop_front() {
                state.refused.remove(&oldest);
            }
        }
        true
    }

    fn check(&self, headers: &HeaderMap, body: &[u8]) -> Signature {
        let keys = Arc::clone(&self.keys.lock());
        if keys.is_empty() {
            return Signature::NotChecked;
        }
        let id = header(headers, "webhook-id");
        let Ok(timestamp) = header(headers, "webhook-timestamp").parse::<i64>() else {
            return Signature::Invalid;
        };
        let now = self.clock.now();
        let made = Millis(timestamp.saturating_mul(1000));
        if now.since(made).max(made.since(now)) > TIMESTAMP_TOLERANCE {
            return Signature::Invalid;
        }
        let given = header(headers, "webhook-signature");
        // Not in constant time: whoever can reach this receiver gains nothing by a forged signature.
        let made_by = |key| {
            let right = signature::sign(id, timestamp, body, std::slice::from_ref(key));
            given.split(' ').any(|one| one == right)
        };
        if keys.iter().any(made_by) {
            Signature::Valid
        } else {
            Signature::Invalid
        }
    }

    fn remember(
        &self,
        path: String,
        headers: &HeaderMap,
        status: StatusCode,
        signature: Signature,
        body: &[u8],
    ) {
        let seen = Seen {
            at: self.clock.now().to_rfc3339(),
            path,
            webhook_id: header(headers, "webhook-id").to_owned(),
            attempt: attempt(headers),
            status: status.as_u16(),
            signature,
            body: String::from_utf8_lossy(body.get(..1024).unwrap_or(body)).into_owned(),
        };
        let mut state = self.state.lock();
        state.totals.requests += 1;
        match signature {
            Signature::Valid => state.totals.signed += 1,
            Signature::Invalid => state.totals.forged += 1,
            Signature::NotChecked => {}
        }
        state.recent.push_front(seen);
        state.recent.truncate(RECENT_MAX);
    }

    fn list(&self) -> Response<Full<Bytes>> {
        let page = {
            let state = self.state.lock();
            serde_json::json!({ "totals": state.totals, "recent": state.recent })
        };
        let text = format!("{page:#}");
        let mut response = reply(StatusCode::OK, text + "\n");
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        response
    }
}

/// Resolves when a task shall stop, or when nobody is left to tell it.
pub(crate) async fn told(stop: &mut Stop) {
    // What it gives is a lock, which must not be held across what a caller awaits next.
    drop(stop.wait_for(|stop| *stop).await);
}

fn attempt(headers: &HeaderMap) -> u32 {
    header(headers, "hookline-attempt").parse().unwrap_or(0)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn reply(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn receiver() -> Arc<Receiver> {
        let clock = Arc::new(crate::clock::SystemClock);
        let address = ([127, 0, 0, 1], 0).into();
        Arc::new(Receiver::bind(address, clock).await.unwrap())
    }

    async fn post(to: SocketAddr, path: &str, headers: &str, body: &str) -> u16 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.get(9..12).unwrap().parse().unwrap()
    }

    /// Runs the receiver beside the test and stops it at the end.
    async fn with(receiver: &Arc<Receiver>, test: impl Future<Output = ()>) {
        let (tell, stop) = tokio::sync::watch::channel(false);
        tokio::select! {
            _ = Arc::clone(receiver).run(stop) => panic!("it must go on"),
            () = test => {}
        }
        drop(tell);
    }

    #[tokio::test]
    async fn each_path_answers_as_it_says() {
        let receiver = receiver().await;
        let to = receiver.address();
        with(&receiver, async {
            assert_eq!(post(to, "/ok", "", "1").await, 200);
            assert_eq!(post(to, "/dead", "", "1").await, 500);
            assert_eq!(post(to, "/status/418", "", "1").await, 418);
            assert_eq!(post(to, "/status/99", "", "1").await, 404);
            assert_eq!(post(to, "/slow/5", "", "1").await, 200);
            assert_eq!(post(to, "/nothing", "", "1").await, 404);
        })
        .await;
        assert_eq!(receiver.state.lock().totals.requests, 6);
    }

    #[tokio::test]
    async fn flaky_refuses_twice_by_either_count() {
        let receiver = receiver().await;
        let to = receiver.address();
        with(&receiver, async {
            for expected in [500, 500, 200] {
                assert_eq!(post(to, "/flaky", "webhook-id: a\r\n", "").await, expected);
            }
            // A third attempt of an id it has never seen: the refusals were before a restart.
            let third = "webhook-id: b\r\nhookline-attempt: 3\r\n";
            assert_eq!(post(to, "/flaky", third, "").await, 200);
        })
        .await;
        let mut headers = HeaderMap::new();
        for n in 0..FLAKY_MAX + 10 {
            headers.insert("webhook-id", n.to_string().parse().unwrap());
            assert!(receiver.refuses(&headers));
        }
        assert!(receiver.state.lock().refused.len() <= FLAKY_MAX);
        assert!(receiver.state.lock().refused_order.len() <= FLAKY_MAX);
        assert!(receiver.state.lock().recent.len() <= RECENT_MAX);
    }

    #[tokio::test]
    async fn a_wrong_signature_is_refused_once_secrets_are_known() {
        let receiver = receiver().await;
        let to = receiver.address();
        let key = SigningKey::from_bytes(&[7; 32]).unwrap();
        let other = SigningKey::from_bytes(&[8; 32]).unwrap();
        receiver.expect_keys(vec![other, key.clone()]);
        let now = receiver.clock.now().0 / 1000;
        let sign = |at: i64| {
            let made = signature::sign("a", at, b"{}", std::slice::from_ref(&key));
            format!("webhook-id: a\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {made}\r\n")
        };
        with(&receiver, async {
            assert_eq!(post(to, "/ok", &sign(now), "{}").await, 200);
            assert_eq!(post(to, "/ok", &sign(now), "{ }").await, 401);
            assert_eq!(post(to, "/ok", &sign(now - 1000), "{}").await, 401);
            assert_eq!(post(to, "/ok", "", "{}").await, 401);
        })
        .await;
        let totals = receiver.state.lock().totals;
        assert_eq!((totals.signed, totals.forged), (1, 3));
    }
}
