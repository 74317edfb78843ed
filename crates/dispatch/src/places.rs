//! The worker's places for exchanges under way, shared so that healthy webhooks always find room: those that fail, or have not yet answered well,
//! may hold half of them together, and a quarter per project.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The places of a worker.
pub(crate) struct Places {
    all: usize,
    held: Mutex<Held>,
    freed: Notify,
    suspect_freed: Notify,
    /// How many places of suspects have been given back.
    given_back: AtomicU64,
}

/// What there is none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Every place is taken.
    Place,
    /// Suspects hold what they may hold together.
    SuspectPlace,
    /// Those of the project hold what they may hold together.
    Share,
}

#[derive(Default)]
struct Held {
    all: usize,
    suspect: usize,
    suspect_by_project: HashMap<Arc<str>, usize>,
}

/// One place; given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    suspect: Option<Arc<str>>,
}

impl Places {
    pub(crate) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            all: all.max(1),
            held: Mutex::new(Held::default()),
            freed: Notify::new(),
            suspect_freed: Notify::new(),
            given_back: AtomicU64::new(0),
        })
    }

    pub(crate) fn take(self: &Arc<Self>, project: &Arc<str>, suspect: bool) -> Result<Place, Lack> {
        let mut held = self.held.lock();
        if held.all >= self.all {
            return Err(Lack::Place);
        }
        if suspect {
            let of_project = held.suspect_by_project.get(project).copied().unwrap_or(0);
            if held.suspect >= (self.all / 2).max(1) {
                return Err(Lack::SuspectPlace);
            }
            if of_project >= (self.all / 4).max(1) {
                return Err(Lack::Share);
            }
            held.suspect += 1;
            *held.suspect_by_project.entry(project.clone()).or_default() += 1;
        }
        held.all += 1;
        Ok(Place {
            places: self.clone(),
            suspect: suspect.then(|| project.clone()),
        })
    }

    /// Whether every place is held.
    pub(crate) fn full(&self) -> bool {
        self.held.lock().all >= self.all
    }

    /// Resolves when a place may have come free.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Resolves when a suspect's place has come free. Those who wait for one have nothing from the places that the healthy give back all the time.
    pub(crate) async fn suspect_freed(&self) {
        self.suspect_freed.notified().await;
    }

    /// How many places of suspects have been given back so far.
    pub(crate) fn given_back(&self) -> u64 {
        self.given_back.load(Ordering::Relaxed)
    }

    /// Makes everybody who waits look again.
    pub(crate) fn wake(&self) {
        self.freed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock();
        held.all -= 1;
        if let Some(project) = &self.suspect {
            held.suspect -= 1;
            if let Some(count) = held.suspect_by_project.get_mut(project) {
                *count -= 1;
                if *count == 0 {
                    held.suspect_by_project.remove(project);
                }
            }
        }
        drop(held);
        self.places.freed.notify_waiters();
        if self.suspect.is_some() {
            self.places.given_back.fetch_add(1, Ordering::Relaxed);
            self.places.suspect_freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_leave_room_for_the_healthy() {
        let places = Places::new(8);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let held: Vec<_> = std::iter::from_fn(|| places.take(&a, true).ok()).collect();
        assert_eq!(held.len(), 2, "a quarter per project");
        assert_eq!(places.take(&a, true).err(), Some(Lack::Share));
        let more: Vec<_> = std::iter::from_fn(|| places.take(&b, true).ok()).collect();
        assert_eq!(held.len() + more.len(), 4, "half in all");
        assert_eq!(places.take(&a, true).err(), Some(Lack::SuspectPlace));
        let healthy: Vec<_> = std::iter::from_fn(|| places.take(&a, false).ok()).collect();
        assert_eq!(healthy.len(), 4);
        assert!(places.full());
        assert_eq!(places.take(&a, true).err(), Some(Lack::Place));
        drop(healthy);
        assert_eq!(places.given_back(), 0, "of no use to suspects");
        drop(held);
        assert_eq!(places.given_back(), 2);
        assert!(places.take(&a, true).is_ok());
    }
}
