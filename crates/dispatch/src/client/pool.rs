//! Idle connections, by scheme, host, port, and what an endpoint has of its own in TLS. Bounded in number, in time without use, and in age.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::exchange::Connection;

/// How long a connection may lie idle when the server says nothing. Many servers (Node.js, Apache, uvicorn) close after 5 s; staying below
/// that leaves no moment in which both act. A handshake now and then is cheaper than an attempt that fails for nothing.
pub(crate) const IDLE_DEFAULT: Duration = Duration::from_secs(4);
/// The longest idle time, whatever the server promises.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(20);
/// How old a connection may get, so that changes of names and policy take effect.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(300);
/// How often what went stale is closed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

struct Idle {
    connection: Box<Connection>,
    until: Instant,
}

#[derive(Default)]
struct Shelves {
    by_origin: HashMap<Arc<str>, Vec<Idle>>,
    count: usize,
    swept: bool,
}

/// See the module's documentation.
pub(crate) struct Pool {
    shelves: Mutex<Shelves>,
    per_origin: usize,
    total: usize,
}

impl Pool {
    pub(crate) fn new(per_origin: usize, total: usize) -> Self {
        Self {
            shelves: Mutex::default(),
            per_origin,
            total,
        }
    }

    /// The connection that was used last, if one is still young enough. Whether it is open is for the caller to see.
    pub(crate) fn take(&self, origin: &str) -> Option<Box<Connection>> {
        let now = Instant::now();
        loop {
            let idle = {
                let mut shelves = self.shelves.lock();
                let idle = shelves.by_origin.get_mut(origin)?.pop()?;
                shelves.count -= 1;
                idle
            };
            // Those below one that is over its time were put there earlier, but may have been promised longer.
            if idle.until > now {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection for a while, if there is room.
    pub(crate) fn put(
        pool: &Arc<Self>,
        origin: &Arc<str>,
        connection: Box<Connection>,
        idle_for: Duration,
    ) {
        let until = (Instant::now() + idle_for).min(connection.born() + AGE_MAX);
        let mut shelves = pool.shelves.lock();
        if shelves.count >= pool.total {
            return;
        }
        let shelf = if let Some(shelf) = shelves.by_origin.get_mut(origin) {
            shelf
        } else {
            shelves.by_origin.entry(Arc::clone(origin)).or_default()
        };
        if shelf.len() >= pool.per_origin {
            return;
        }
        shelf.push(Idle { connection, until });
        shelves.count += 1;
        if !shelves.swept {
            shelves.swept = true;
            drop(shelves);
            start_sweeping(Arc::downgrade(pool));
        }
    }

    /// How many lie idle.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        self.shelves.lock().count
    }

    /// Takes out what is over its time; whether anything is left.
    fn sweep(&self, now: Instant) -> (Vec<Idle>, bool) {
        let mut shelves = self.shelves.lock();
        let mut stale = Vec::new();
        shelves.by_origin.retain(|_, shelf| {
            stale.extend(shelf.extract_if(.., |idle| idle.until <= now));
            !shelf.is_empty()
        });
        shelves.count -= stale.len();
        shelves.swept = shelves.count > 0;
        (stale, shelves.swept)
    }
}

/// Closes stale connections until none is left or the pool is gone.
#[expect(
    clippy::disallowed_methods,
    reason = "ends by itself within seconds of the last use, and holds nothing that must be finished at shutdown"
)]
fn start_sweeping(pool: Weak<Pool>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let Some(pool) = pool.upgrade() else { return };
            // Closing sockets happens outside the lock.
            let (stale, more) = pool.sweep(Instant::now());
            drop(stale);
            if !more {
                return;
            }
        }
    });
}
