//! Names to addresses: within a budget of time, a few at a time, each name once for all who ask, and remembered for a short while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hookline_model::outcome::ErrorClass;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::classify::Failure;

/// How long a lookup may take, waiting for its turn included.
const BUDGET: Duration = Duration::from_secs(5);
/// Lookups at a time. Each holds a thread, also one that hangs beyond its budget.
const CONCURRENT_MAX: usize = 64;
/// How long an answer is used. Short, so that a name that moved is followed soon.
const FRESH_FOUND: Duration = Duration::from_secs(30);
/// How long a failure is used: enough to spare the resolver a burst, too short to delay a repair.
const FRESH_FAILED: Duration = Duration::from_secs(2);
/// Names remembered.
const NAMES_MAX: usize = 10_000;

/// Looks a name up, blocking.
pub(crate) type LookUp = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

type Found = Result<Arc<[IpAddr]>, Failure>;
type Flight = Shared<BoxFuture<'static, Found>>;

/// The system's resolver. The name is made absolute, so that no search list is applied to it.
pub(crate) fn system() -> LookUp {
    Arc::new(|name| {
        let absolute = format!("{name}.");
        Ok((absolute.as_str(), 0)
            .to_socket_addrs()?
            .map(|a| a.ip())
            .collect())
    })
}

/// See the module's documentation.
pub(crate) struct Resolver {
    look_up: LookUp,
    turns: Arc<Semaphore>,
    known: Mutex<HashMap<String, (Instant, Flight)>>,
}

impl Resolver {
    pub(crate) fn new(look_up: LookUp) -> Self {
        Self {
            look_up,
            turns: Arc::new(Semaphore::new(CONCURRENT_MAX)),
            known: Mutex::new(HashMap::new()),
        }
    }

    /// All addresses of a name, at least one.
    pub(crate) async fn addresses(&self, name: &str) -> Found {
        self.flight(name).await
    }

    fn flight(&self, name: &str) -> Flight {
        let now = Instant::now();
        let mut known = self.known.lock();
        if let Some((begun, flight)) = known.get(name)
            && fresh(now, *begun, flight)
        {
            return flight.clone();
        }
        if known.len() >= NAMES_MAX {
            known.retain(|_, (begun, flight)| fresh(now, *begun, flight));
            if known.len() >= NAMES_MAX {
                // Everything is fresh: forgetting costs a few lookups, growing would cost memory without end.
                known.clear();
            }
        }
        let flight = look_up(
            Arc::clone(&self.look_up),
            Arc::clone(&self.turns),
            name.to_owned(),
        )
        .boxed()
        .shared();
        known.insert(name.to_owned(), (now, flight.clone()));
        flight
    }
}

fn fresh(now: Instant, begun: Instant, flight: &Flight) -> bool {
    let age = now.saturating_duration_since(begun);
    match flight.peek() {
        Some(Ok(_)) => age < FRESH_FOUND,
        Some(Err(_)) => age < FRESH_FAILED,
        None => age < BUDGET,
    }
}

async fn look_up(look_up: LookUp, turns: Arc<Semaphore>, name: String) -> Found {
    let answer = async {
        let Ok(turn) = turns.acquire_owned().await else {
            return Err(io::Error::other("the resolver was closed"));
        };
        tokio::task::spawn_blocking(move || {
            // Held until the thread is really free, which may be long after we gave up waiting.
            let _turn = turn;
            look_up(&name)
        })
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
    };
    match tokio::time::timeout(BUDGET, answer).await {
        Err(_) => Err(Failure::new(
            ErrorClass::DnsTimeout,
            "the host name could not be looked up within 5 s",
        )),
        Ok(Ok(found)) if found.is_empty() => Err(not_found()),
        Ok(Ok(found)) => Ok(found.into()),
        Ok(Err(error)) => Err(failed(&error)),
    }
}

fn not_found() -> Failure {
    Failure::new(ErrorClass::DnsNotFound, "the host name has no address")
}

/// The standard library tells kinds of failure apart only in words: those of glibc and musl for a name that does not exist.
fn failed(error: &io::Error) -> Failure {
    let text = error.to_string();
    let absent = [
        "Name or service not known",
        "Name does not resolve",
        "No address associated with hostname",
        "Name has no usable address",
    ];
    if absent.iter().any(|a| text.contains(a)) {
        return not_found();
    }
    Failure::new(
        ErrorClass::DnsFailed,
        "the host name could not be looked up: its name servers did not answer properly",
    )
}
