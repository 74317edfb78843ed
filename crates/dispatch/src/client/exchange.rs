//! One connection and what happens on it. The connection is driven by the exchange itself, not by a task of its own.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::Either;
use hookline_model::limits::{RESPONSE_BODY_READ, RESPONSE_HEAD_BYTES, RESPONSE_INTERIM};
use hookline_model::outcome::ErrorClass;
use http::{HeaderMap, HeaderValue, Method, Response, Version, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use super::Keep;
use super::classify::{self, Failure};
use super::io::{Meter, Metered, Stream};
use super::pool::{IDLE_DEFAULT, IDLE_MAX};
use crate::transport::{OutgoingRequest, Timings};

pub(crate) type Request = http::Request<Full<Bytes>>;

/// Where an exchange stands, for the words about a deadline.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Phase {
    #[default]
    Reusing,
    Resolving,
    Connecting,
    Handshake,
    Answer,
    Body,
}

impl Phase {
    fn doing(self) -> &'static str {
        match self {
            Self::Reusing => "taking up an open connection",
            Self::Resolving => "looking up the host name",
            Self::Connecting => "connecting",
            Self::Handshake => "negotiating TLS",
            Self::Answer => "waiting for the answer",
            Self::Body => "reading the answer's body",
        }
    }
}

/// What has been done so far, and since when.
#[derive(Default)]
pub(crate) struct Phases {
    now: Phase,
    since: Option<Instant>,
    spent: Timings,
}

impl Phases {
    pub(crate) fn enter(&mut self, phase: Phase) {
        let at = Instant::now();
        self.leave(at);
        (self.now, self.since) = (phase, Some(at));
    }

    fn leave(&mut self, at: Instant) {
        let Some(since) = self.since.take() else {
            return;
        };
        let spent = match self.now {
            Phase::Reusing => return,
            Phase::Resolving => &mut self.spent.resolve,
            Phase::Connecting => &mut self.spent.connect,
            Phase::Handshake => &mut self.spent.tls,
            Phase::Answer => &mut self.spent.answer,
            Phase::Body => &mut self.spent.body,
        };
        // A second try of the same exchange begins anew.
        *spent = Some(at.duration_since(since));
    }

    pub(crate) fn doing(&self) -> &'static str {
        self.now.doing()
    }

    /// What the time was spent on, up to now.
    pub(crate) fn spent(mut self) -> Timings {
        self.leave(Instant::now());
        self.spent
    }
}

/// What has been seen of the answer so far. Outlives an exchange that is dropped at its deadline.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) phases: Phases,
    pub(crate) status: Option<u16>,
    pub(crate) headers: Vec<(String, Bytes)>,
    pub(crate) retry_after: Option<Bytes>,
    pub(crate) body: Vec<u8>,
    pub(crate) body_truncated: bool,
    /// How long the server lets the connection lie idle; `None` when it may not be used again.
    idle_for: Option<Duration>,
}

/// Why there is no head.
pub(crate) enum SendError {
    /// The connection was closed before anything of the request was written.
    Unsent(Box<Request>),
    /// Something else.
    Failed(Failure),
}

/// An open connection. HTTP/2 is spoken as HTTP/1.1 is: one exchange at a time.
pub(crate) struct Connection {
    sender: Sender,
    driver: Driver,
    meter: Arc<Meter>,
    born: Instant,
    ended: bool,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and a connection lies in a box of its own already"
)]
enum Driver {
    Http1(http1::Connection<TokioIo<Metered>, Full<Bytes>>),
    Http2(http2::Connection<TokioIo<Metered>, Full<Bytes>, TokioExecutor>),
}

impl Sender {
    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }
}

impl Driver {
    /// Moves bytes; ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(driver) => Pin::new(driver).poll(cx).map(drop),
            Self::Http2(driver) => Pin::new(driver).poll(cx).map(drop),
        }
    }
}

/// A request for HTTP/2, where the host stands in the URL; and what it was for HTTP/1.1.
fn absolute(request: &mut Request) -> Option<(http::Uri, HeaderValue)> {
    let host = request.headers().get(header::HOST)?.clone();
    let path = request.uri().clone();
    let whole = http::Uri::builder()
        .scheme("https")
        .authority(host.as_bytes())
        .path_and_query(path.path_and_query()?.clone())
        .build();
    *request.uri_mut() = whole.ok()?;
    request.headers_mut().remove(header::HOST);
    Some((path, host))
}

/// Makes the HTTP request. What frames it and keeps the connection is ours, whatever the caller put there.
pub(crate) fn build(outgoing: OutgoingRequest, user_agent: &HeaderValue) -> Request {
    let length = outgoing.body.len();
    let mut request = http::Request::new(Full::new(outgoing.body));
    *request.method_mut() = outgoing.method;
    *request.uri_mut() = outgoing.target.path().clone();
    let mut headers = outgoing.headers;
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::ACCEPT_ENCODING,
    ] {
        headers.remove(name);
    }
    // The library says nothing about an empty body, but a POST without a length is refused by some servers.
    if length > 0 || !matches!(*request.method(), Method::GET | Method::HEAD) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    } else {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers.insert(header::HOST, outgoing.target.host_header().clone());
    headers.insert(header::USER_AGENT, user_agent.clone());
    *request.headers_mut() = headers;
    request
}

impl Connection {
    /// Speaks HTTP on this stream.
    pub(crate) async fn open(stream: Stream) -> Result<Box<Self>, Failure> {
        let meter = Arc::new(Meter::default());
        let io = TokioIo::new(Metered {
            stream,
            meter: Arc::clone(&meter),
        });
        if io.inner().stream.speaks_http2() {
            let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(RESPONSE_HEAD_BYTES as u32)
                .handshake(io)
                .await
                .map_err(|e| classify::of_hyper(&e))?;
            let (sender, driver) = (Sender::Http2(sender), Driver::Http2(driver));
            return Ok(Self::new(sender, driver, meter));
        }
        // The number of headers is left at the library's default, which is our limit: setting it would cost an allocation an answer.
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(RESPONSE_HEAD_BYTES)
            // The buffer's size is checked only when another read is needed; this one is exact.
            .max_header_size(RESPONSE_HEAD_BYTES)
            // A receiver's sloppy header does not undo its 200. What is skipped cannot frame the body: then the body ends with the connection.
            .ignore_invalid_headers_in_responses(true)
            .handshake(io)
            .await
            .map_err(|e| classify::of_hyper(&e))?;
        let (sender, driver) = (Sender::Http1(sender), Driver::Http1(driver));
        Ok(Self::new(sender, driver, meter))
    }

    fn new(sender: Sender, driver: Driver, meter: Arc<Meter>) -> Box<Self> {
        Box::new(Self {
            sender,
            driver,
            meter,
            born: Instant::now(),
            ended: false,
        })
    }

    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    /// Moves bytes. Errors show where the answer is awaited.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.ended && self.driver.poll(cx).is_ready() {
            self.ended = true;
        }
    }

    /// Whether a connection from the pool can still be used: not closed by the server, and no stray bytes on it.
    pub(crate) async fn still_open(&mut self) -> bool {
        self.meter.begin_attempt();
        self.is_ready().await
    }

    async fn is_ready(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(!self.ended && self.sender.is_ready())
        })
        .await
    }

    /// Sends the request and waits for the head of the answer.
    pub(crate) async fn head(
        &mut self,
        mut request: Request,
        seen: &mut Seen,
        keep: Keep,
    ) -> Result<Incoming, SendError> {
        seen.phases.enter(Phase::Answer);
        self.meter.begin_attempt();
        let meter = Arc::clone(&self.meter);
        hyper::ext::on_informational(&mut request, move |_| meter.count_interim());
        let mut was = None;
        let answer = match &mut self.sender {
            Sender::Http1(sender) => Either::Left(sender.try_send_request(request)),
            Sender::Http2(sender) => {
                was = absolute(&mut request);
                Either::Right(sender.try_send_request(request))
            }
        };
        let mut answer = pin!(answer);
        let answered = std::future::poll_fn(|cx| {
            if !self.ended && self.driver.poll(cx).is_ready() {
                self.ended = true;
            }
            if self.meter.interim() > RESPONSE_INTERIM {
                return Poll::Ready(Err(SendError::Failed(Failure::new(
                    ErrorClass::TooMany1xx,
                    format!("more than {RESPONSE_INTERIM} interim (1xx) responses came before the answer"),
                ))));
            }
            let polled = answer.as_mut().poll(cx);
            if polled.is_pending() {
                hookline_model::fail_point!("client-written");
            }
            polled.map_err(|mut error| {
                match error.take_message() {
                    Some(mut request) => {
                        // The next connection may speak otherwise.
                        if let Some((path, host)) = was.take() {
                            *request.uri_mut() = path;
                            request.headers_mut().insert(header::HOST, host);
                        }
                        SendError::Unsent(Box::new(request))
                    }
                    None => SendError::Failed(classify::of_hyper(error.error())),
                }
            })
        })
        .await?;
        let (head, body) = answered.into_parts();
        seen.take_head(&Response::from_parts(head, ()), keep);
        if self.meter.interim() > 0 {
            seen.idle_for = None;
        }
        Ok(body)
    }

    /// Keeps the beginning of the body. Answers whether the body was read to its end.
    pub(crate) async fn capture(
        &mut self,
        mut body: Incoming,
        seen: &mut Seen,
        keep: Keep,
    ) -> bool {
        seen.phases.enter(Phase::Body);
        // Until the end is seen it counts as cut: the deadline may end this at any moment.
        seen.body_truncated = !body.is_end_stream();
        let mut read = 0;
        // Reading on beyond what is kept only serves to use the connection again; for a body that is too large anyway it would be waste.
        let worth_reading = if body.size_hint().lower() > RESPONSE_BODY_READ as u64 {
            keep.body
        } else {
            RESPONSE_BODY_READ
        };
        while !body.is_end_stream() {
            let frame = std::future::poll_fn(|cx| {
                // Asking first tells the connection that the body is wanted; it then fills in what is there.
                if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                    return Poll::Ready(frame);
                }
                self.drive(cx);
                Pin::new(&mut body).poll_frame(cx)
            })
            .await;
            let frame = match frame {
                None => break,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => frame,
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            read += data.remaining();
            let room = keep.body.saturating_sub(seen.body.len());
            seen.body
                .extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            if read >= worth_reading && !body.is_end_stream() {
                return false;
            }
        }
        seen.body_truncated = read > seen.body.len();
        true
    }

    /// How long it may wait for another request; `None` when it may not be used again. The body must have been read to its end.
    pub(crate) fn reusable(&mut self, seen: &Seen) -> Option<Duration> {
        let idle_for = seen.idle_for?;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.drive(&mut cx);
        // Not ready: the request was not wholly written when the answer came, or the connection is closing.
        (!self.ended && self.sender.is_ready()).then_some(idle_for)
    }
}

impl Seen {
    fn take_head(&mut self, head: &Response<()>, keep: Keep) {
        self.status = Some(head.status().as_u16());
        let headers = head.headers();
        self.retry_after = headers
            .get(header::RETRY_AFTER)
            .map(|v| Bytes::copy_from_slice(v.as_bytes()));
        self.headers.reserve(headers.len());
        let mut room = keep.headers;
        for (name, value) in headers {
            let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else {
                break;
            };
            room = left;
            self.headers.push((
                name.as_str().to_owned(),
                Bytes::copy_from_slice(value.as_bytes()),
            ));
        }
        let keeps = matches!(head.version(), Version::HTTP_11 | Version::HTTP_2)
            && !head.status().is_informational()
            && has_one_length(headers);
        self.idle_for = keeps.then(|| promised_idle(headers)).flatten();
    }
}

/// Whether no more than one header says where the body ends. With two, the library and whatever else reads these bytes may disagree about it,
/// and then about which answer belongs to which request.
fn has_one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (Some(_), Some(_)) => false,
        (Some(length), None) => lengths.next().is_none() && !length.as_bytes().contains(&b','),
        (None, _) => codings.next().is_none(),
    }
}

/// From `keep-alive: timeout=5`: a second less than promised, as our clock starts later and our request takes its way.
fn promised_idle(headers: &HeaderMap) -> Option<Duration> {
    let Some(value) = headers.get("keep-alive") else {
        return Some(IDLE_DEFAULT);
    };
    let seconds = value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .find_map(|part| part.trim().strip_prefix("timeout="))
        .and_then(|n| n.trim().parse::<u64>().ok());
    match seconds {
        None => Some(IDLE_DEFAULT),
        Some(0 | 1) => None,
        Some(n) => Some(Duration::from_secs(n - 1).min(IDLE_MAX)),
    }
}
