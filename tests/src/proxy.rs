//! A network between a client and a server that a test can break: nothing passes, or every connection is cut.
//!
//! What a firewall that forgot its table does is the hardest of all: no packet passes, nobody is told, and connections that were there
//! before stay dead when the network is back. So does this one: only connections that begin after the silence work again. Those that were
//! begun meanwhile are accepted by the system on our behalf, and lead nowhere for ever.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Everything passes.
    Fine,
    /// Nothing passes, and nobody is told.
    Silent,
    /// Connections are cut, and new ones are refused at once.
    Cut,
}

/// One listening port in front of one server; dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<(Weather, u64)>,
    passed: Arc<AtomicU64>,
    _carrying: JoinSet<()>,
}

/// A port taken for a proxy before the server is there whose address has to be known.
#[derive(Debug)]
pub struct Reserved(TcpListener);

impl Reserved {
    /// Takes a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        Self(listener.expect("a free port"))
    }

    /// The port.
    ///
    /// # Panics
    /// Never: the socket is bound.
    #[must_use]
    pub fn port(&self) -> u16 {
        let address = self.0.local_addr();
        address.expect("a bound socket has an address").port()
    }
}

impl Proxy {
    /// Carries what comes in at the reserved port to `server` (`host:port`).
    ///
    /// # Panics
    /// When `server` is no address.
    #[must_use]
    pub fn start(reserved: Reserved, server: &str) -> Self {
        let port = reserved.port();
        let server: SocketAddr = server.parse().expect("an address with a port");
        // Counts the changes, so that a connection knows whether there was a silence since it began.
        let (weather, seen) = watch::channel((Weather::Fine, 0));
        let passed = Arc::new(AtomicU64::new(0));
        let mut carrying = JoinSet::new();
        start(
            &mut carrying,
            accept(reserved.0, server, seen, Arc::clone(&passed)),
        );
        Self {
            port,
            weather,
            passed,
            _carrying: carrying,
        }
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on nothing passes, and nobody is told.
    pub fn silence(&self) {
        self.turn(Weather::Silent);
    }

    /// From now on connections are cut, and new ones are cut at once.
    pub fn cut(&self) {
        self.turn(Weather::Cut);
    }

    /// From now on new connections work.
    pub fn mend(&self) {
        self.turn(Weather::Fine);
    }

    /// Bytes that passed, both ways together.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    fn turn(&self, weather: Weather) {
        self.weather
            .send_modify(|(now, changes)| (*now, *changes) = (weather, *changes + 1));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the set is owned by the proxy, which ends them when it is dropped"
)]
fn start(set: &mut JoinSet<()>, future: impl Future<Output = ()> + Send + 'static) {
    set.spawn(future);
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    mut weather: watch::Receiver<(Weather, u64)>,
    passed: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        // Without this, what passes would wait for the acknowledgement of what passed before.
        drop(client.set_nodelay(true));
        let now = *weather.borrow_and_update();
        match now.0 {
            Weather::Fine => start(
                &mut connections,
                carry(client, server, weather.clone(), now.1, Arc::clone(&passed)),
            ),
            // Kept open, and never read.
            Weather::Silent => start(&mut connections, async move {
                std::future::pending::<()>().await;
                drop(client);
            }),
            Weather::Cut => cut(&client),
        }
    }
}

/// The next packet from the other side will be answered with a reset.
fn cut(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

async fn carry(
    client: TcpStream,
    server: SocketAddr,
    mut weather: watch::Receiver<(Weather, u64)>,
    began: u64,
    passed: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(server).await else {
        return cut(&client);
    };
    drop(server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::join!(
            copy(from_client, to_server, &passed),
            copy(from_server, to_client, &passed)
        )
    };
    let mut both = std::pin::pin!(both);
    let changed = async {
        let changed = weather.wait_for(|(_, changes)| *changes != began).await;
        changed.map_or(Weather::Cut, |now| now.0)
    };
    let now = tokio::select! {
        // Before anything else: what comes after the change must not pass.
        biased;
        now = changed => now,
        _ = &mut both => return,
    };
    if now != Weather::Cut {
        // Not a byte more, whatever the weather will be.
        std::future::pending::<()>().await;
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passed: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                let (piece, _) = buffer.split_at(read);
                if to.write_all(piece).await.is_err() {
                    return;
                }
                passed.fetch_add(read as u64, Ordering::Relaxed);
            }
            _ => {
                drop(to.shutdown().await);
                return;
            }
        }
    }
}
