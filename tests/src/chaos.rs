//! Receivers that misbehave, byte by byte. Each has a port of its own, follows a script, and notes what reaches it.
//!
//! What a script holds is said in raw bytes, so that also what no HTTP library would send can be sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub mod tls;

/// No request of these tests is larger.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long one that closes still reads what comes, so that its closing does not overtake its answer as a reset.
const LINGER: Duration = Duration::from_millis(500);
/// How long a connection may take until it counts as not accepted.
const FULL_AFTER: Duration = Duration::from_millis(300);

/// What is done with a connection.
#[derive(Debug, Clone)]
pub enum Script {
    /// Nobody listens: connecting is refused.
    Refuse,
    /// Nobody accepts, and the queue of those to be accepted is full: connecting goes on for ever.
    Blackhole,
    /// Follows these steps without having read anything.
    AtOnce(Vec<Step>),
    /// Reads the head of a request, follows these steps, and never reads its body.
    AfterHead(Vec<Step>),
    /// Reads a request and follows the steps of its place on the connection; the last ones count for all that follow.
    Requests(Vec<Vec<Step>>),
    /// Negotiates TLS with this certificate, which nobody trusts. Notes a request only if the other side goes on all the same.
    Tls(tls::Certificate),
}

/// One thing that is done.
#[derive(Debug, Clone)]
pub enum Step {
    /// Writes these bytes.
    Say(Vec<u8>),
    /// Writes what is made of the request.
    Answer(fn(&Wire) -> Vec<u8>),
    /// Writes these bytes one by one, with a pause before each, again and again until the other side goes away.
    Drip(Vec<u8>, Duration),
    /// Writes these bytes again and again until the other side goes away.
    Flood(Vec<u8>),
    /// Does nothing for so long.
    Pause(Duration),
    /// Does nothing until the other side goes away.
    Hang,
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub struct Wire {
    /// When its head was complete.
    pub at: Instant,
    /// On which connection, from 0.
    pub connection: usize,
    /// Its head, as text.
    pub head: String,
    /// Its body, as far as it was read.
    pub body: Vec<u8>,
}

impl Wire {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1);
        lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The `webhook-id` and the number of the attempt, which together no two requests may share.
    #[must_use]
    pub fn attempt(&self) -> (String, String) {
        let text = |name| self.header(name).unwrap_or_default().to_owned();
        (text("webhook-id"), text("hookline-attempt"))
    }
}

#[derive(Debug, Default)]
struct Notes {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Wire>>,
}

/// A running receiver; dropping it stops it.
#[derive(Debug)]
pub struct Chaos {
    address: SocketAddr,
    secure: bool,
    notes: Arc<Notes>,
    /// What only has to be held: a port that refuses, or one that is full.
    _held: (Option<TcpSocket>, Option<TcpListener>, Vec<TcpStream>),
    _serving: JoinSet<()>,
}

impl Chaos {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(script: Script) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(any).expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let notes = Arc::new(Notes::default());
        let mut serving = JoinSet::new();
        let mut held = (None, None, Vec::new());
        let secure = matches!(script, Script::Tls(_));
        match script {
            Script::Refuse => held.0 = Some(socket),
            Script::Blackhole => {
                held.1 = Some(socket.listen(1).expect("a bound socket listens"));
                held.2 = fill(address).await;
            }
            script => {
                let listener = socket.listen(1024).expect("a bound socket listens");
                let script = Arc::new(script);
                start(&mut serving, accept(listener, script, Arc::clone(&notes)));
            }
        }
        Self {
            address,
            secure,
            notes,
            _held: held,
            _serving: serving,
        }
    }

    /// The URL of a path (which starts with `/`).
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The same for TLS, whatever the script says.
    #[must_use]
    pub fn secure_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// Every request whose head came, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Wire> {
        self.notes.requests.lock().clone()
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.notes.connections.load(Ordering::Relaxed)
    }

    /// How many of them the other side has not closed.
    #[must_use]
    pub fn open(&self) -> usize {
        self.notes.open.load(Ordering::Relaxed)
    }
}

/// Connects until nobody is let in any more.
async fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(FULL_AFTER, TcpStream::connect(address)).await {
        waiting.push(stream);
        assert!(waiting.len() < 64, "the queue of a listener is never full");
    }
    waiting
}

#[expect(
    clippy::disallowed_methods,
    reason = "the set is owned by the receiver, which ends them when it is dropped"
)]
fn start(set: &mut JoinSet<()>, future: impl Future<Output = ()> + Send + 'static) {
    set.spawn(future);
}

async fn accept(listener: TcpListener, script: Arc<Script>, notes: Arc<Notes>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        drop(stream.set_nodelay(true));
        while connections.try_join_next().is_some() {}
        let number = notes.connections.fetch_add(1, Ordering::Relaxed);
        let (script, notes) = (Arc::clone(&script), Arc::clone(&notes));
        start(&mut connections, async move {
            notes.open.fetch_add(1, Ordering::Relaxed);
            // Whatever ends it, the client going away included, is no trouble of the receiver's.
            drop(serve(stream, number, &script, &notes).await);
            notes.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// The other side has gone, or the script has closed the connection.
struct Ended;

impl From<std::io::Error> for Ended {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

async fn serve(
    stream: TcpStream,
    number: usize,
    script: &Script,
    notes: &Notes,
) -> Result<(), Ended> {
    let mut line = Line {
        stream,
        number,
        read: Vec::new(),
    };
    match script {
        Script::Refuse | Script::Blackhole => Ok(()),
        Script::AtOnce(steps) => {
            line.follow(steps, None).await?;
            line.hang().await
        }
        Script::AfterHead(steps) => {
            let wire = line.request(notes, false).await?;
            line.follow(steps, Some(&wire)).await?;
            line.hang().await
        }
        Script::Requests(all) => {
            for nth in 0.. {
                let wire = line.request(notes, true).await?;
                let steps = all.get(nth).or(all.last()).map_or(&[][..], Vec::as_slice);
                line.follow(steps, Some(&wire)).await?;
            }
            Ok(())
        }
        Script::Tls(certificate) => {
            let mut stream = certificate.accept(line.stream).await?;
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await?;
            if count > 0 {
                notes.requests.lock().push(Wire {
                    at: Instant::now(),
                    connection: number,
                    head: String::from_utf8_lossy(&some).into_owned(),
                    body: Vec::new(),
                });
            }
            Ok(())
        }
    }
}

/// A connection and what was read of it, but not used yet.
struct Line {
    stream: TcpStream,
    number: usize,
    read: Vec<u8>,
}

impl Line {
    /// The next request, noted as soon as its head is complete.
    async fn request(&mut self, notes: &Notes, with_body: bool) -> Result<Wire, Ended> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let mut wire = Wire {
            at: Instant::now(),
            connection: self.number,
            head: String::from_utf8_lossy(&head).into_owned(),
            body: Vec::new(),
        };
        notes.requests.lock().push(wire.clone());
        if with_body {
            let length = wire.header("content-length").unwrap_or("0").parse();
            let length = length.unwrap_or(0).min(REQUEST_BYTES_MAX);
            while self.read.len() < length {
                self.more().await?;
            }
            wire.body = self.read.drain(..length).collect();
        }
        Ok(wire)
    }

    async fn more(&mut self) -> Result<(), Ended> {
        let mut some = [0; 4096];
        let count = self.stream.read(&mut some).await?;
        if count == 0 {
            return Err(Ended);
        }
        self.read
            .extend_from_slice(some.get(..count).unwrap_or_default());
        Ok(())
    }

    async fn follow(&mut self, steps: &[Step], wire: Option<&Wire>) -> Result<(), Ended> {
        for step in steps {
            match step {
                Step::Say(bytes) => self.stream.write_all(bytes).await?,
                Step::Answer(made) => {
                    let bytes = wire.map(made).unwrap_or_default();
                    self.stream.write_all(&bytes).await?;
                }
                Step::Drip(bytes, pause) => {
                    for byte in bytes.iter().cycle() {
                        sleep(*pause).await;
                        self.stream.write_all(&[*byte]).await?;
                    }
                }
                Step::Flood(bytes) => loop {
                    self.stream.write_all(bytes).await?;
                },
                Step::Pause(span) => sleep(*span).await,
                Step::Hang => self.hang().await?,
                Step::Close => {
                    self.stream.shutdown().await?;
                    drop(timeout(LINGER, self.hang()).await);
                    return Err(Ended);
                }
                Step::Reset => {
                    self.stream.set_zero_linger()?;
                    return Err(Ended);
                }
            }
        }
        Ok(())
    }

    /// Reads until the other side goes away.
    async fn hang(&mut self) -> Result<(), Ended> {
        let mut some = [0; 4096];
        while self.stream.read(&mut some).await? > 0 {}
        Err(Ended)
    }
}
