//! Collections whose copies share almost everything, so that a snapshot for each change costs little however many webhooks there are.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use hookline_model::ids::WebhookUid;

use crate::entry::WebhookEntry;

/// So many that one part of 100,000 entries is copied in microseconds, so few that copying the list of parts is, too.
const SHARDS: usize = 256;

/// A hash map in parts; a change copies the part it falls into, once.
#[derive(Debug, Clone)]
pub(crate) struct CowMap<K, V> {
    hasher: RandomState,
    shards: Vec<Arc<HashMap<K, V>>>,
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: vec![Arc::default(); SHARDS],
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let hash = self.hasher.hash_one(key);
        usize::try_from(hash % SHARDS as u64).unwrap_or(0)
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.shard(key)].get(key)
    }

    pub(crate) fn get_mut_or_insert(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let shard = self.shard(&key);
        Arc::make_mut(&mut self.shards[shard])
            .entry(key)
            .or_insert_with(make)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard(&key);
        Arc::make_mut(&mut self.shards[shard]).insert(key, value);
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let shard = self.shard(key);
        if !self.shards[shard].contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.shards[shard]).remove(key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
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
