//! The worker's places for exchanges under way, shared so that healthy webhooks always find room: those that fail, or have not yet answered well,
//! may hold half of them together, and a quarter per project. And so that nobody is flooded through us: one destination gets a bounded number at a
//! time, however many webhooks lead there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The places of a worker.
pub(crate) struct Places {
    all: usize,
    per_destination: usize,
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
    /// Those of the project, or all that lead to the same destination, hold what they may hold together.
    Share,
}

#[derive(Default)]
struct Held {
    all: usize,
    suspect: usize,
    suspect_by_project: HashMap<Arc<str>, usize>,
    by_destination: HashMap<Arc<str>, usize>,
}

/// One place; given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    suspect: Option<Arc<str>>,
    destination: Option<Arc<str>>,
}

impl Places {
    pub(crate) fn new(all: usize, per_destination: usize) -> Arc<Self> {
        Arc::new(Self {
            all: all.max(1),
            per_destination: per_destination.max(1),
            held: Mutex::new(Held::default()),
            freed: Notify::new(),
            suspect_freed: Notify::new(),
            given_back: AtomicU64::new(0),
        })
    }

    /// A place for a webhook of this project that leads to this destination; `None` for one that needs no protection.
    pub(crate) fn take(
        self: &Arc<Self>,
        project: &Arc<str>,
        destination: Option<&Arc<str>>,
        suspect: bool,
    ) -> Result<Place, Lack> {
        let mut held = self.held.lock();
        if held.all >= self.all {
            return Err(Lack::Place);
        }
        let count = |of: &HashMap<Arc<str>, usize>, key| of.get(key).copied().unwrap_or(0);
        if destination.is_some_and(|d| count(&held.by_destination, d) >= self.per_destination) {
            return Err(Lack::Share);
        }
        if suspect {
            if held.suspect >= (self.all / 2).max(1) {
                return Err(Lack::SuspectPlace);
            }
            if count(&held.suspect_by_project, project) >= (self.all / 4).max(1) {
                return Err(Lack::Share);
            }
            held.suspect += 1;
            *held.suspect_by_project.entry(project.clone()).or_default() += 1;
        }
        if let Some(destination) = destination {
            *held.by_destination.entry(destination.clone()).or_default() += 1;
        }
        held.all += 1;
        Ok(Place {
            places: self.clone(),
            suspect: suspect.then(|| project.clone()),
            destination: destination.cloned(),
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

/// Takes one off; how many there were.
fn take_off(of: &mut HashMap<Arc<str>, usize>, key: &Arc<str>) -> usize {
    let Some(count) = of.get_mut(key) else {
        return 0;
    };
    let before = *count;
    *count -= 1;
    if *count == 0 {
        of.remove(key);
    }
    before
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock();
        held.all -= 1;
        let mut awaited = self.suspect.is_some();
        if let Some(project) = &self.suspect {
            held.suspect -= 1;
            take_off(&mut held.suspect_by_project, project);
        }
        if let Some(destination) = &self.destination {
            let before = take_off(&mut held.by_destination, destination);
            awaited |= before >= self.places.per_destination;
        }
        drop(held);
        self.places.freed.notify_waiters();
        if awaited {
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
        let places = Places::new(8, 8);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let held: Vec<_> = std::iter::from_fn(|| places.take(&a, None, true).ok()).collect();
        assert_eq!(held.len(), 2, "a quarter per project");
        assert_eq!(places.take(&a, None, true).err(), Some(Lack::Share));
        let more: Vec<_> = std::iter::from_fn(|| places.take(&b, None, true).ok()).collect();
        assert_eq!(held.len() + more.len(), 4, "half in all");
        assert_eq!(places.take(&a, None, true).err(), Some(Lack::SuspectPlace));
        let healthy: Vec<_> = std::iter::from_fn(|| places.take(&a, None, false).ok()).collect();
        assert_eq!(healthy.len(), 4);
        assert!(places.full());
        assert_eq!(places.take(&a, None, true).err(), Some(Lack::Place));
        drop(healthy);
        assert_eq!(places.given_back(), 0, "of no use to suspects");
        drop(held);
        assert_eq!(places.given_back(), 2);
        assert!(places.take(&a, None, true).is_ok());
    }

    #[test]
    fn a_destination_gets_a_bounded_number_whoever_leads_there() {
        let places = Places::new(100, 3);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (here, there): (Arc<str>, Arc<str>) = ("https://x:443".into(), "https://y:443".into());
        let mut held: Vec<_> = [&a, &b, &a]
            .map(|project| places.take(project, Some(&here), false).expect("room"))
            .into();
        assert_eq!(places.take(&b, Some(&here), false).err(), Some(Lack::Share));
        assert_eq!(places.take(&b, Some(&here), true).err(), Some(Lack::Share));
        let other = places.take(&b, Some(&there), false).expect("room");
        let exempt: Vec<_> = (0..10).map(|_| places.take(&b, None, false)).collect();
        assert!(exempt.iter().all(Result::is_ok));
        drop((other, exempt));
        assert_eq!(places.given_back(), 0, "nobody waits for these");
        held.pop();
        assert_eq!(places.given_back(), 1);
        assert!(places.take(&b, Some(&here), true).is_ok());
        drop(held);
        assert!(places.held.lock().by_destination.is_empty());
    }
}
