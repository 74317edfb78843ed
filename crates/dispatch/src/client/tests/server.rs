//! A server that does what it is told, connection by connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A listening socket and what runs behind it; both end with it.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    _running: JoinSet<()>,
}

impl Server {
    /// Serves the connections in order with `each(number, stream)`, the first being 0.
    #[expect(clippy::disallowed_methods, reason = "a test owns what it starts")]
    pub(super) async fn start<F, R>(mut each: F) -> Self
    where
        F: FnMut(usize, TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("accept");
                stream.set_nodelay(true).expect("nodelay");
                connections.spawn(each(number, stream));
            }
        });
        Self {
            address,
            _running: running,
        }
    }

    /// Answers one request with these bytes and closes.
    pub(super) async fn saying_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await;
                drop(stream.write_all(&answer).await);
            }
        })
        .await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

/// One request with its body, as it came; `None` at the end of the connection.
pub(super) async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).map_or(0, |rest| {
                rest.lines().next().expect("line").parse().expect("length")
            });
            if all.len() >= end + 4 + length {
                return Some(all);
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Makes closing this stream a reset.
pub(super) fn reset(stream: TcpStream) {
    // Unread data at closing makes the kernel send a reset; a linger of zero does so always.
    stream.set_zero_linger().expect("linger");
    drop(stream);
}
