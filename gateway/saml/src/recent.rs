//! A bounded map that forgets its oldest entry first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

pub(crate) struct Recent<K, V> {
    bound: usize,
    known: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound, known: HashMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.known.get_mut(key)
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.known.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > self.bound
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut recent = Recent::new(2);
        for key in [1, 2, 2, 3] {
            recent.put(key, key * 10);
        }
        assert_eq!(recent.get_mut(&1), None);
        assert_eq!((recent.get_mut(&2).copied(), recent.get_mut(&3).copied()), (Some(20), Some(30)));
        assert_eq!((recent.known.len(), recent.order.len()), (2, 2));
    }
}
