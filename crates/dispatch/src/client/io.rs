//! The socket under a connection, encrypted or not, with a count of what was read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Bytes that one attempt may read: head, interim responses, body and all framing. The HTTP library bounds each part but not their number.
const READ_BYTES_MAX: usize = 256 * 1024;

/// What one attempt on a connection has used up. Shared with the connection's callbacks.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    read: AtomicUsize,
    interim: AtomicU32,
}

impl Meter {
    pub(crate) fn begin_attempt(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.interim.store(0, Ordering::Relaxed);
    }

    pub(crate) fn count_interim(&self) {
        self.interim.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn interim(&self) -> u32 {
        self.interim.load(Ordering::Relaxed)
    }
}

/// More was read than an attempt may.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {READ_BYTES_MAX} bytes of heads, framing and body")]
pub(crate) struct TooMuchRead;

/// The bytes below HTTP.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether both sides have agreed on HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// A stream that counts.
pub(crate) struct Metered {
    pub(crate) stream: Stream,
    pub(crate) meter: Arc<Meter>,
}

#[cfg(feature = "failpoints")]
impl Metered {
    /// Writes only half of what there is, for a test that ends the process in the middle of a request.
    fn write_half(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let half = all.get(..all.len() / 2).unwrap_or_default();
        match &mut self.stream {
            Stream::Plain(s) => drop(Pin::new(s).poll_write(cx, half)),
            Stream::Tls(s) => drop(Pin::new(s.as_mut()).poll_write(cx, half)),
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.stream {
            Stream::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        };
        let count = buf.filled().len() - before;
        if count > 0 && this.meter.read.fetch_add(count, Ordering::Relaxed) + count > READ_BYTES_MAX
        {
            return Poll::Ready(Err(io::Error::other(TooMuchRead)));
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        hookline_model::fail_point!("client-half-written", this.write_half(cx, bufs));
        match &mut this.stream {
            Stream::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Tls(s) => Pin::new(s.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(s) => s.is_write_vectored(),
            Stream::Tls(s) => s.is_write_vectored(),
        }
    }
}
