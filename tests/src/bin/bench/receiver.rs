//! The receiver: a process of its own that answers as quickly as one core can, and counts.
//!
//! It reads just enough HTTP for one client that behaves: heads end with an empty line, bodies have a length. `/once…` answers 500 to the
//! first request of each `webhook-id`, `/slow/MS` takes so long, `/hang` never answers, `/drip` a byte every 100 ms, `/reset` breaks the
//! connection off, `/fail` answers 500; `/statistics` tells what came since the last time
//! it was asked; everything else is 200.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::process::{Spread, now_us};
use crate::say;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";

/// What came since the last time it was asked.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Statistics {
    /// Requests, other than for statistics.
    pub(crate) count: usize,
    /// When the first and the last of them came.
    pub(crate) first_us: u64,
    pub(crate) last_us: u64,
    /// From the `"t"` in the body (when it was published) to arrival.
    pub(crate) age: Spread,
    /// Of those that were answered with 200 at once: how many, and the same.
    pub(crate) healthy: usize,
    pub(crate) healthy_age: Spread,
    /// Events in the requests to `/batch`, and when the first and the last of these came.
    pub(crate) batched: usize,
    pub(crate) batched_us: (u64, u64),
    /// From the failed answer to a delivery to its next request.
    pub(crate) again: Spread,
    /// The shortest of those.
    pub(crate) again_min_us: u64,
    /// How many of those were shorter than a second.
    pub(crate) early: usize,
    /// Bytes of a whole request, as an example.
    pub(crate) example: String,
}

#[derive(Default)]
struct Seen {
    count: usize,
    first_us: u64,
    last_us: u64,
    ages: Vec<u64>,
    healthy: usize,
    healthy_ages: Vec<u64>,
    batched: usize,
    batched_us: (u64, u64),
    failed_at: HashMap<Vec<u8>, u64>,
    again: Vec<u64>,
    example: String,
}

/// Runs the receiver until its standard input is closed.
pub(crate) async fn serve() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    say(&address.to_string());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut connections = tokio::task::JoinSet::new();
    // Standard input ends with the benchmark, in whatever way that ends.
    let mut gone =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                while connections.try_join_next().is_some() {}
                start(&mut connections, answer(stream, Arc::clone(&seen)));
            }
            _ = &mut gone => return,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the set is owned by `serve`, which is the process"
)]
fn start(set: &mut tokio::task::JoinSet<()>, future: impl Future<Output = ()> + Send + 'static) {
    set.spawn(future);
}

async fn answer(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    drop(stream.set_nodelay(true));
    let mut buffer = Vec::with_capacity(8 * 1024);
    loop {
        let length = match request_length(&buffer) {
            Some(length) if buffer.len() >= length => length,
            _ => {
                match stream.read_buf(&mut buffer).await {
                    Ok(n) if n > 0 => {}
                    _ => return,
                }
                continue;
            }
        };
        let request = buffer.get(..length).unwrap_or_default();
        let reply = if request.starts_with(b"GET /statistics") {
            let body = serde_json::to_string(&take(&seen)).unwrap_or_default();
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        } else {
            let reply = note(request, &seen).to_vec();
            match trouble(request) {
                Trouble::None => {}
                Trouble::Slow(span) => tokio::time::sleep(span).await,
                // Until the other side has had enough.
                Trouble::Hangs => {
                    drop(stream.read(&mut [0]).await);
                    return;
                }
                Trouble::Drips => {
                    for byte in OK.iter().cycle() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        if stream.write_all(&[*byte]).await.is_err() {
                            return;
                        }
                    }
                }
                Trouble::Resets => {
                    drop(stream.set_zero_linger());
                    return;
                }
            }
            reply
        };
        buffer.drain(..length);
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// What comes before an answer.
enum Trouble {
    None,
    Slow(Duration),
    Hangs,
    Drips,
    Resets,
}

fn trouble(request: &[u8]) -> Trouble {
    if request.starts_with(b"POST /hang") {
        return Trouble::Hangs;
    }
    if request.starts_with(b"POST /drip") {
        return Trouble::Drips;
    }
    if request.starts_with(b"POST /reset") {
        return Trouble::Resets;
    }
    let Some(rest) = request.strip_prefix(b"POST /slow/") else {
        return Trouble::None;
    };
    let digits = rest
        .split(|b| !b.is_ascii_digit())
        .next()
        .unwrap_or_default();
    let ms = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok());
    Trouble::Slow(Duration::from_millis(ms.unwrap_or(0)))
}

/// The bytes of the first request in the buffer, head and body, once its head is complete.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let body = header(buffer.get(..head)?, b"content-length: ");
    let body = body.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse::<usize>().ok());
    Some(head + body.unwrap_or(0))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines
        .find(|line| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name))?;
    line.get(name.len()..)
}

fn note(request: &[u8], seen: &Mutex<Seen>) -> &'static [u8] {
    let now = now_us();
    let published = find(request, b"\"t\":").and_then(|at| {
        let digits = request.get(at + 4..)?;
        let digits = digits.split(|b| !b.is_ascii_digit()).next()?;
        std::str::from_utf8(digits).ok()?.parse::<u64>().ok()
    });
    let mut seen = seen.lock();
    if seen.count == 0 {
        seen.first_us = now;
        seen.example = String::from_utf8_lossy(request).into_owned();
    }
    seen.count += 1;
    seen.last_us = now;
    if let Some(published) = published {
        seen.ages.push(now.saturating_sub(published));
    }
    if request.starts_with(b"POST /hooks") {
        seen.healthy += 1;
        if let Some(published) = published {
            seen.healthy_ages.push(now.saturating_sub(published));
        }
    }
    if request.starts_with(b"POST /batch") {
        if seen.batched == 0 {
            seen.batched_us.0 = now;
        }
        let events = request.windows(4).filter(|window| *window == b"\"t\":");
        seen.batched += events.count();
        seen.batched_us.1 = now;
    }
    if request.starts_with(b"POST /fail") {
        return FAILED;
    }
    if !request.starts_with(b"POST /once") {
        return OK;
    }
    let id = header(request, b"webhook-id: ")
        .unwrap_or_default()
        .to_vec();
    match seen.failed_at.remove(&id) {
        Some(at) => {
            seen.again.push(now.saturating_sub(at));
            OK
        }
        None => {
            seen.failed_at.insert(id, now_us());
            FAILED
        }
    }
}

fn take(seen: &Mutex<Seen>) -> Statistics {
    let seen = std::mem::take(&mut *seen.lock());
    Statistics {
        count: seen.count,
        first_us: seen.first_us,
        last_us: seen.last_us,
        age: Spread::of(seen.ages),
        healthy: seen.healthy,
        healthy_age: Spread::of(seen.healthy_ages),
        batched: seen.batched,
        batched_us: seen.batched_us,
        again_min_us: seen.again.iter().copied().min().unwrap_or(0),
        early: seen.again.iter().filter(|span| **span < 1_000_000).count(),
        again: Spread::of(seen.again),
        example: seen.example,
    }
}

/// The receiver as its own process, seen from the benchmark.
pub(crate) struct ReceiverProcess {
    address: String,
    _child: Child,
}

impl ReceiverProcess {
    pub(crate) async fn start() -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(this)
            .arg("receive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program can be started again");
        let stdout = child.stdout.take().expect("stdout was piped");
        let address = BufReader::new(stdout).lines().next_line().await;
        let address = address
            .ok()
            .flatten()
            .expect("the receiver says where it is");
        Self {
            address,
            _child: child,
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What came since the last call.
    pub(crate) async fn statistics(&self) -> Statistics {
        let mut stream = TcpStream::connect(&self.address)
            .await
            .expect("the receiver listens");
        let request = b"GET /statistics HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.expect("the receiver reads");
        let mut buffer = Vec::new();
        loop {
            match request_length(&buffer) {
                Some(length) if buffer.len() >= length => break,
                _ => {
                    let n = stream
                        .read_buf(&mut buffer)
                        .await
                        .expect("the receiver answers");
                    assert!(n > 0, "the receiver answers whole");
                }
            }
        }
        let body = find(&buffer, b"\r\n\r\n").and_then(|at| buffer.get(at + 4..));
        serde_json::from_slice(body.unwrap_or_default()).expect("statistics are JSON")
    }
}
