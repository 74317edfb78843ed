//! Collections whose copies share almost everything, so that a snapshot for each change costs little however many webhooks there are.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use hookline_model::ids::WebhookUid;

use crate::entry::WebhookEntry;

/// A part holds about so many before there are more parts: copying one takes microseconds, and so does copying the list of parts.
const SHARD: usize = 256;
/// How many parts there are after one was too full, for each one before.
const GROWTH: usize = 8;
/// No more parts than this: beyond some hundred thousand entries parts grow again.
const SHARDS_MAX: usize = 4096;

/// A hash map in parts; a change copies the part it falls into, once. A small one is one part.
#[derive(Debug, Clone)]
pub(crate) struct CowMap<K, V> {
    hasher: RandomState,
    shards: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The maps inside hash with keys of their own, so that one part's keys do not collide there.
        let hash = self.hasher.hash_one(key);
        usize::try_from(hash % self.shards.len().max(1) as u64).unwrap_or(0)
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(self.shard(key))?.get(key)
    }

    pub(crate) fn get_mut_or_insert(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.len >= self.shards.len() * SHARD && self.shards.len() < SHARDS_MAX {
            self.grow();
        }
        let shard = self.shard(&key);
        let shard = Arc::make_mut(&mut self.shards[shard]);
        let before = shard.len();
        if !shard.contains_key(&key) {
            shard.insert(key.clone(), make());
        }
        self.len += shard.len() - before;
        shard
            .get_mut(&key)
            .expect("it was there or was just inserted")
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let mut value = Some(value);
        let place = self.get_mut_or_insert(key, || value.take().expect("made once"));
        if let Some(value) = value {
            *place = value;
        }
    }

    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let shard = self.shard(key);
        let shard = self.shards.get_mut(shard)?;
        if !shard.contains_key(key) {
            return None;
        }
        Arc::make_mut(shard).get_mut(key)
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let shard = self.shard(key);
        let shard = self.shards.get_mut(shard)?;
        if !shard.contains_key(key) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(shard).remove(key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Spreads everything over more parts. Rare: each time there is several times as much as the last time.
    fn grow(&mut self) {
        let count = (self.shards.len() * GROWTH).clamp(1, SHARDS_MAX);
        let old = std::mem::replace(&mut self.shards, vec![Arc::default(); count]);
        for shard in old {
            for (key, value) in Arc::unwrap_or_clone(shard) {
                let at = self.shard(&key);
                Arc::make_mut(&mut self.shards[at]).insert(key, value);
            }
        }
    }
}

const CHUNK: usize = 128;

/// Webhooks in order of their uids, in chunks; a change copies one chunk and the list of chunks.
#[derive(Debug, Clone, Default)]
pub(crate) struct UidSet {
    /// None is empty.
    chunks: Vec<Arc<Vec<Arc<WebhookEntry>>>>,
}

impl UidSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<WebhookEntry>> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The chunk that holds `uid`, or would.
    fn chunk(&self, uid: WebhookUid) -> usize {
        self.chunks
            .partition_point(|c| c.last().is_some_and(|last| last.uid < uid))
    }

    /// Puts the webhook in its place, instead of one with the same uid.
    pub(crate) fn insert(&mut self, webhook: Arc<WebhookEntry>) {
        let mut at = self.chunk(webhook.uid);
        if at == self.chunks.len() {
            // Beyond all: uids rise with time, so this is the usual case; full chunks stay full.
            match self.chunks.last() {
                Some(last) if last.len() < CHUNK => at -= 1,
                _ => self.chunks.push(Arc::new(Vec::with_capacity(1))),
            }
        }
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        match chunk.binary_search_by_key(&webhook.uid, |w| w.uid) {
            Ok(place) => chunk[place] = webhook,
            Err(place) => chunk.insert(place, webhook),
        }
        if chunk.len() > CHUNK {
            let upper = chunk.split_off(CHUNK / 2);
            self.chunks.insert(at + 1, Arc::new(upper));
        }
    }

    pub(crate) fn remove(&mut self, uid: WebhookUid) {
        let at = self.chunk(uid);
        let Some(chunk) = self.chunks.get_mut(at) else {
            return;
        };
        let Ok(place) = chunk.binary_search_by_key(&uid, |w| w.uid) else {
            return;
        };
        let chunk = Arc::make_mut(chunk);
        chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_in_parts_is_a_map_and_its_copies_stay_as_they_were() {
        fastrand::seed(5);
        let mut map = CowMap::<u32, u32>::default();
        let mut plain = HashMap::new();
        let mut copies = Vec::new();
        for round in 0..20_000 {
            let key = fastrand::u32(..5_000);
            match fastrand::u8(..6) {
                0 => assert_eq!(map.remove(&key), plain.remove(&key)),
                1 => {
                    *map.get_mut_or_insert(key, || round) += 1;
                    *plain.entry(key).or_insert(round) += 1;
                }
                2 => assert_eq!(map.get_mut(&key), plain.get_mut(&key)),
                _ => {
                    map.insert(key, round);
                    plain.insert(key, round);
                }
            }
            assert_eq!(map.get(&key), plain.get(&key));
            assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
            if round % 5_000 == 17 {
                copies.push((map.clone(), plain.clone()));
            }
        }
        copies.push((map, plain));
        for (map, plain) in copies {
            assert_eq!(map.values().count(), plain.len());
            assert!(plain.iter().all(|(key, value)| map.get(key) == Some(value)));
        }
    }
}
