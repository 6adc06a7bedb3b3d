//! How many records callers may cause who did not authenticate.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Records one after the other from one address, and from all.
const BURST: (u32, u32) = (20, 60);
/// After which one more is let through.
const REFILL: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(1));
/// Addresses remembered; with more, the rate of all holds for the rest.
const ADDRESSES: usize = 4096;

/// A bucket of tokens for each address and one for all.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Default)]
struct State {
    all: Option<Bucket>,
    by_address: BTreeMap<String, Bucket>,
    /// When addresses were forgotten last.
    swept: Option<Instant>,
    suppressed: Option<(u64, Timestamp)>,
}

struct Bucket {
    left: u32,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, burst: u32, refill: Duration, now: Instant) -> bool {
        let due = now.duration_since(self.filled).as_millis() / refill.as_millis().max(1);
        if due > 0 {
            self.left = self.left.saturating_add(u32::try_from(due).unwrap_or(u32::MAX)).min(burst);
            self.filled = now;
        }
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }
}

impl Throttle {
    /// Whether this one gets a record of its own; if not it is counted.
    pub(crate) fn admit(&self, address: &str) -> bool {
        self.admit_at(address, Instant::now())
    }

    fn admit_at(&self, address: &str, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(|p| p.into_inner());
        let due = state.swept.is_none_or(|swept| now.duration_since(swept) >= REFILL.0);
        if state.by_address.len() >= ADDRESSES && due {
            state.swept = Some(now);
            // Who was silent for long has a full bucket again and need not be remembered.
            let full = REFILL.0 * BURST.0;
            state.by_address.retain(|_, bucket| now.duration_since(bucket.filled) < full);
        }
        let known = state.by_address.len() < ADDRESSES || state.by_address.contains_key(address);
        let own = !known
            || state
                .by_address
                .entry(address.to_owned())
                .or_insert(Bucket { left: BURST.0, filled: now })
                .take(BURST.0, REFILL.0, now);
        let all = state.all.get_or_insert(Bucket { left: BURST.1, filled: now });
        if own && all.take(BURST.1, REFILL.1, now) {
            return true;
        }
        state.suppressed.get_or_insert((0, Timestamp::now())).0 += 1;
        false
    }

    /// How many were counted since when.
    pub(crate) fn take(&self) -> Option<(u64, Timestamp)> {
        self.0.lock().unwrap_or_else(|p| p.into_inner()).suppressed.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_and_all_addresses_are_bounded_and_counted() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admitted = (0..1000).filter(|_| throttle.admit_at("192.0.2.1", now)).count();
        assert_eq!(admitted, 20);
        let admitted = (0..100_000).filter(|n| throttle.admit_at(&format!("2001:db8::{n:x}"), now)).count();
        assert_eq!(admitted, 40, "sixty in all");
        assert!(throttle.0.lock().expect("no panic").by_address.len() <= ADDRESSES);
        assert_eq!(throttle.take().map(|(n, _)| n), Some(980 + 99_960));
        assert!(throttle.take().is_none());
        assert!(throttle.admit_at("192.0.2.1", now + REFILL.0), "one more after a while");
    }
}
