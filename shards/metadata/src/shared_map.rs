//! An ordered map whose copies share all but the parts that changed.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

const CHUNK_ENTRIES_MAX: usize = 256;

/// A sorted sequence in reference-counted chunks. Cloning copies one pointer per chunk; changing a
/// copy clones the one chunk that holds the key.
///
/// Invariant: no chunk is empty, and keys ascend strictly through all chunks.
pub(crate) struct SharedMap<K, V> {
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap { chunks: Vec::new(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        SharedMap { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = search(chunk, key).ok()?;
        Some(&chunk[at].1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    /// The entries whose keys are `key` or greater, in order.
    pub(crate) fn iter_from<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let first = self.chunk_of(key);
        let within = self.chunks.get(first).map_or(0, |chunk| search(chunk, key).unwrap_or_else(|at| at));
        self.chunks
            .iter()
            .skip(first)
            .flat_map(|chunk| chunk.iter())
            .skip(within)
            .map(|(key, value)| (key, value))
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match search(chunk, &key) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK_ENTRIES_MAX {
                    let upper = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(index + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let at = search(self.chunks.get(index)?, key).ok()?;
        let (_, value) = Arc::make_mut(&mut self.chunks[index]).remove(at);
        self.len -= 1;
        self.join_small_chunk(index);
        Some(value)
    }

    /// Replaces every value by what `replace` makes of it.
    pub(crate) fn update_all(&mut self, mut replace: impl FnMut(&V) -> V) {
        for chunk in &mut self.chunks {
            for (_, value) in Arc::make_mut(chunk) {
                *value = replace(value);
            }
        }
    }

    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key).saturating_sub(1)
    }

    fn join_small_chunk(&mut self, index: usize) {
        if self.chunks[index].is_empty() {
            self.chunks.remove(index);
            return;
        }
        // With room to spare, so that alternating inserts and removes do not split and join each time.
        let next_len = self.chunks.get(index + 1).map_or(CHUNK_ENTRIES_MAX, |next| next.len());
        if self.chunks[index].len() + next_len <= CHUNK_ENTRIES_MAX / 2 {
            let next = self.chunks.remove(index + 1);
            Arc::make_mut(&mut self.chunks[index]).extend(next.iter().cloned());
        }
    }
}

fn search<K: Borrow<Q>, V, Q: Ord + ?Sized>(chunk: &[(K, V)], key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(candidate, _)| candidate.borrow().cmp(key))
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_an_ordered_map(
            operations in prop::collection::vec((any::<bool>(), 0u16..2_000), 0..3_000),
            from in 0u16..2_000,
        ) {
            let mut model = BTreeMap::new();
            let mut map = SharedMap::default();
            for (step, (insert, key)) in operations.iter().enumerate() {
                if *insert {
                    prop_assert_eq!(map.insert(*key, step), model.insert(*key, step));
                } else {
                    prop_assert_eq!(map.remove(key), model.remove(key));
                }
                prop_assert_eq!(map.get(key), model.get(key));
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(map.iter_from(&from).eq(model.range(from..)));
            prop_assert!(map.chunks.iter().all(|chunk| (1..=CHUNK_ENTRIES_MAX).contains(&chunk.len())));
        }
    }

    #[test]
    fn a_change_leaves_copies_alone_and_shares_the_rest() {
        let mut map = SharedMap::default();
        for key in 0..1_000 {
            map.insert(key, key);
        }
        let before = map.clone();
        map.insert(3, -1);
        map.remove(&4);
        assert_eq!((before.get(&3), before.get(&4)), (Some(&3), Some(&4)));
        assert_eq!((map.get(&3), map.get(&4)), (Some(&-1), None));
        let shared =
            map.chunks.iter().filter(|chunk| before.chunks.iter().any(|old| Arc::ptr_eq(chunk, old)));
        assert_eq!(shared.count(), before.chunks.len() - 1);
    }

    #[test]
    fn mass_removal_leaves_few_chunks() {
        let mut map = SharedMap::default();
        for key in 0..10_000 {
            map.insert(key, ());
        }
        for key in (0..10_000).rev().filter(|key| key % 100 != 0) {
            map.remove(&key);
        }
        assert_eq!(map.len(), 100);
        assert!(map.chunks.len() <= 4, "{} chunks", map.chunks.len());
    }
}
