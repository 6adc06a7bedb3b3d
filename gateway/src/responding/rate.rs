//! How often somebody asks: bounded for a patient, a point of care, a professional and a country, and enforced.
//!
//! Two neighbouring windows weighed by their overlap with the last one (a sliding count), in this process.
//!
//! The counters are divided by country as the memory of bindings is (`replay/local.rs`): nobody holds more of them than what
//! is free. Nothing new is kept of a message that is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use jiff::Timestamp;
use openssl::sha::Sha256;

use crate::config::Rate;

/// Counters kept of all countries; about 48 bytes each.
const CAPACITY: usize = 200_000;

/// Who asks, and about whom.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Country.
    pub peer: &'a str,
    /// Locality of the HCP assertion.
    pub point_of_care: &'a str,
    /// NameID.
    pub professional: &'a str,
    /// CX.
    pub patient: Option<&'a str>,
}

/// Asked too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// About one patient.
    #[error("too many requests about one patient")]
    Patient,
    /// From one point of care.
    #[error("too many requests from one point of care")]
    PointOfCare,
    /// By one professional.
    #[error("too many requests of one professional")]
    Professional,
    /// From one country.
    #[error("too many requests of one country")]
    Peer,
}

impl RateError {
    /// The eHDSI code (OpenNCP's abuse detection names the same).
    pub fn code(self) -> &'static str {
        match self {
            Self::Patient => "WARNING_SEC_UNEXPECTED_NUMBER_OF_REQUESTS_FOR_UNIQUE_PATIENT",
            Self::PointOfCare => "WARNING_SEC_UNEXPECTED_NUMBER_OF_REQUESTS_FOR_UNIQUE_POINT_OF_CARE",
            Self::Professional | Self::Peer => "WARNING_SEC_UNEXPECTED_NUMBER_OF_REQUESTS",
        }
    }
}

/// The counters.
pub struct Limiter {
    rate: Rate,
    capacity: usize,
    tables: Mutex<Tables>,
}

/// Of all countries.
#[derive(Default)]
struct Tables {
    of: BTreeMap<String, Table>,
    /// Counters in all of them.
    entries: usize,
    /// Second in which the last sweep ran.
    swept: i64,
}

/// Of one country.
#[derive(Default)]
struct Table {
    all: Count,
    counts: HashMap<Key, Count>,
}

type Key = [u8; 16];

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    window: i64,
    now: u32,
    before: u32,
}

impl Count {
    /// One more, in its window.
    fn after(self, window: i64) -> Self {
        let count = match window - self.window {
            0 => self,
            1 => Self { window, now: 0, before: self.now },
            _ => Self { window, ..Self::default() },
        };
        Self { now: count.now.saturating_add(1), ..count }
    }
}

impl Tables {
    /// Forgets what counts no more.
    fn sweep(&mut self, window: i64, now: i64) {
        for table in self.of.values_mut() {
            table.counts.retain(|_, count| count.window + 1 >= window);
        }
        self.entries = self.of.values().map(|table| table.counts.len()).sum();
        self.swept = now;
    }

    /// Whether a country would hold more counters than are free, with so many more.
    fn is_over(&self, peer: &str, more: usize, capacity: usize) -> bool {
        let held = self.of.get(peer).map_or(0, |table| table.counts.len());
        held + more > capacity.saturating_sub(self.entries + more)
    }
}

impl Limiter {
    /// Empty.
    pub fn new(rate: &Rate) -> Self {
        Self::within(rate, CAPACITY)
    }

    fn within(rate: &Rate, capacity: usize) -> Self {
        Self { rate: rate.clone(), capacity, tables: Mutex::default() }
    }

    /// Counts a request, or refuses it. A refused one counts too, where it is known who asks and about whom: no counter is
    /// made for it.
    ///
    /// # Errors
    /// The first bound that is passed; that of the country, where it asks about, or for, more than its share of the counters.
    pub fn admit(&self, asked: &Asked<'_>, now: Timestamp) -> Result<(), RateError> {
        let Rate { patient, point_of_care, professional, peer, .. } = self.rate;
        let keys = [
            (asked.patient, patient, RateError::Patient),
            (Some(asked.professional), professional, RateError::Professional),
            (Some(asked.point_of_care), point_of_care, RateError::PointOfCare),
        ];
        let length = i64::try_from(self.rate.window.as_millis()).unwrap_or(i64::MAX).max(1);
        let (window, into) = (now.as_millisecond() / length, now.as_millisecond() % length);
        let passes = |count: &Count, bound: u32| {
            let weighed = i64::from(count.before) * (length - into) / length + i64::from(count.now);
            bound > 0 && weighed > i64::from(bound)
        };
        let mut tables = self.tables.lock().unwrap_or_else(|p| p.into_inner());
        if !tables.of.contains_key(asked.peer) {
            tables.of.insert(asked.peer.to_owned(), Table::default());
        }
        let Some(table) = tables.of.get_mut(asked.peer) else { return Err(RateError::Peer) };
        table.all = table.all.after(window);
        let of_peer = passes(&table.all, peer).then_some(RateError::Peer);
        let mut first = None;
        let mut new = Vec::new();
        for (key, bound, error) in keys {
            let Some(key) = key.filter(|_| bound > 0) else { continue };
            let key = digest(error, asked.peer, key);
            match table.counts.get_mut(&key) {
                Some(count) => {
                    *count = count.after(window);
                    first = first.or(passes(count, bound).then_some(error));
                }
                None => new.push(key),
            }
        }
        if let Some(error) = first.or(of_peer) {
            return Err(error);
        }
        if new.is_empty() {
            return Ok(());
        }
        let second = now.as_second();
        if tables.is_over(asked.peer, new.len(), self.capacity) && tables.swept != second {
            // At most once a second: refusing must stay cheap.
            tables.sweep(window, second);
        }
        if tables.is_over(asked.peer, new.len(), self.capacity) {
            return Err(RateError::Peer);
        }
        tables.entries += new.len();
        if let Some(table) = tables.of.get_mut(asked.peer) {
            table.counts.extend(new.into_iter().map(|key| (key, Count::default().after(window))));
        }
        Ok(())
    }
}

fn digest(kind: RateError, peer: &str, key: &str) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(&[kind as u8]);
    hasher.update(peer.as_bytes());
    hasher.update(key.as_bytes());
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finish()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// SE-13: whatever one country sends, within its rate or above it, another country's first good message is served;
        /// and nothing is kept of a message that is refused.
        #[test]
        fn se_13_no_country_takes_anothers_counters(
            sent in prop::collection::vec((0..3usize, 0..200u8, 0..200u8, 0..200u8, 0..3i64), 0..400),
        ) {
            let rate = Rate {
                window: Duration::from_secs(10), patient: 9, point_of_care: 20, professional: 20, peer: 300,
            };
            let limiter = Limiter::within(&rate, 90);
            let kept = || limiter.tables.lock().expect("a lock").of.values().map(|table| table.counts.len()).sum::<usize>();
            let mut millis = 1_700_000_000_000;
            for (country, ward, doctor, patient, pause) in sent {
                millis += pause * 400;
                let now = Timestamp::from_millisecond(millis).expect("in range");
                let (ward, doctor, patient) = (ward.to_string(), doctor.to_string(), patient.to_string());
                let asked = Asked {
                    peer: ["FI", "SE", "DE"][country], point_of_care: &ward, professional: &doctor, patient: Some(&patient),
                };
                let before = kept();
                if limiter.admit(&asked, now).is_err() {
                    prop_assert!(kept() <= before);
                }
                let counted = limiter.tables.lock().expect("a lock").entries;
                prop_assert!(counted <= 90 && counted == kept());
            }
            let now = Timestamp::from_millisecond(millis).expect("in range");
            let first = Asked { peer: "NO", point_of_care: "ward", professional: "u", patient: Some("1") };
            prop_assert_eq!(limiter.admit(&first, now), Ok(()));
        }
    }

    /// SE-13: 200,000 patients of one country leave another's newcomers alone, and are looked through once a second.
    #[test]
    fn se_13_a_country_that_fills_its_counters_is_the_one_that_is_refused() {
        let rate = Rate { window: Duration::from_secs(600), patient: 9, point_of_care: 0, professional: 9, peer: 0 };
        let limiter = Limiter::new(&rate);
        let now = Timestamp::from_second(1_700_000_400).expect("in range");
        let mut refused = 0;
        for n in 0..120_000 {
            let name = n.to_string();
            let asked = Asked { peer: "FI", point_of_care: "ward", professional: &name, patient: Some(&name) };
            refused += usize::from(limiter.admit(&asked, now) == Err(RateError::Peer));
        }
        assert_eq!(refused, 120_000 - CAPACITY / 4);
        let sweden = Asked { peer: "SE", point_of_care: "ward", professional: "u", patient: Some("1") };
        let known = Asked { peer: "FI", patient: Some("7"), professional: "7", ..sweden };
        assert_eq!((limiter.admit(&sweden, now), limiter.admit(&known, now)), (Ok(()), Ok(())));
        let later = Timestamp::from_second(1_700_000_400 + 1_200).expect("in range");
        let newcomer = Asked { patient: Some("new"), professional: "new", ..known };
        assert_eq!((limiter.admit(&newcomer, now), limiter.admit(&newcomer, later)), (Err(RateError::Peer), Ok(())));
        assert_eq!(limiter.tables.lock().expect("a lock").entries, 2, "what counts no more is forgotten");
    }

    #[test]
    fn each_bound_is_enforced_and_falls_again() {
        let rate = Rate { window: Duration::from_secs(10), patient: 2, point_of_care: 3, professional: 100, peer: 4 };
        let limiter = Limiter::new(&rate);
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).expect("in range");
        let asked = |patient| Asked { peer: "FI", point_of_care: "ward", professional: "u", patient: Some(patient) };
        assert_eq!(limiter.admit(&asked("1"), at(0)), Ok(()));
        assert_eq!(limiter.admit(&asked("1"), at(0)), Ok(()));
        assert_eq!(limiter.admit(&asked("1"), at(0)), Err(RateError::Patient));
        assert_eq!(limiter.admit(&asked("2"), at(0)), Err(RateError::PointOfCare));
        let elsewhere = Asked { point_of_care: "other", ..asked("3") };
        assert_eq!(limiter.admit(&elsewhere, at(0)), Err(RateError::Peer));
        let sweden = Asked { peer: "SE", ..asked("1") };
        assert_eq!(limiter.admit(&sweden, at(0)), Ok(()), "another country has counts of its own");
        assert_eq!(limiter.admit(&asked("1"), at(10)), Err(RateError::Patient), "the window slides");
        assert_eq!(limiter.admit(&asked("1"), at(40)), Ok(()));
    }
}
