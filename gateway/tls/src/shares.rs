//! Permits by key: nobody takes more than a share of what all callers have together, so that somebody is left in when one
//! caller takes all that one may.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Keys that are remembered before those without a permit are forgotten.
const KEYS: usize = 1024;

/// So many permits for each key.
pub struct Shares<K> {
    each: usize,
    by_key: Mutex<BTreeMap<K, Arc<Semaphore>>>,
}

impl<K: Ord> Shares<K> {
    /// Permits of each key, at least one.
    pub fn new(each: usize) -> Self {
        Self { each: each.max(1), by_key: Mutex::default() }
    }

    /// A permit, if the key has one left.
    pub fn take(&self, key: K) -> Option<OwnedSemaphorePermit> {
        self.of(key).try_acquire_owned().ok()
    }

    /// A permit as soon as the key has one left; whoever waits longest is the first.
    pub async fn wait(&self, key: K) -> Option<OwnedSemaphorePermit> {
        self.of(key).acquire_owned().await.ok()
    }

    fn of(&self, key: K) -> Arc<Semaphore> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if by_key.len() >= KEYS {
            // A permit, and whoever waits for one, holds the semaphore.
            by_key.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        by_key.entry(key).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
    }
}

/// What one host has for itself: an address of IPv4, 64 bits of IPv6 (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_caller() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn keys_without_a_permit_are_forgotten() {
        let shares = Shares::new(1);
        let held = shares.take(KEYS * 3);
        for key in 0..KEYS * 2 {
            assert!(shares.take(key).is_some());
        }
        assert!(held.is_some() && shares.take(KEYS * 3).is_none());
        assert!(shares.by_key.lock().expect("a lock").len() <= KEYS);
    }
}
