//! How often somebody asks: bounded for a patient, a point of care, a professional and a country, and enforced.
//!
//! Two neighbouring windows weighed by their overlap with the last one (a sliding count), in this process.

use std::collections::HashMap;
use std::sync::Mutex;

use jiff::Timestamp;
use openssl::sha::Sha256;

use crate::config::Rate;

/// Counters kept; about 48 bytes each.
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
    counts: Mutex<HashMap<[u8; 16], Count>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    window: i64,
    now: u32,
    before: u32,
}

impl Limiter {
    /// Empty.
    pub fn new(rate: &Rate) -> Self {
        Self { rate: rate.clone(), counts: Mutex::default() }
    }

    /// Counts a request, or refuses it. A refused one counts too.
    ///
    /// # Errors
    /// The first bound that is passed.
    pub fn admit(&self, asked: &Asked<'_>, now: Timestamp) -> Result<(), RateError> {
        let Rate { patient, point_of_care, professional, peer, .. } = self.rate;
        let keys = [
            (asked.patient, patient, RateError::Patient),
            (Some(asked.professional), professional, RateError::Professional),
            (Some(asked.point_of_care), point_of_care, RateError::PointOfCare),
            (Some(""), peer, RateError::Peer),
        ];
        let length = i64::try_from(self.rate.window.as_millis()).unwrap_or(i64::MAX).max(1);
        let (window, into) = (now.as_millisecond() / length, now.as_millisecond() % length);
        let mut counts = self.counts.lock().unwrap_or_else(|p| p.into_inner());
        if counts.len() + keys.len() > CAPACITY {
            counts.retain(|_, count| count.window + 1 >= window);
        }
        let full = counts.len() + keys.len() > CAPACITY;
        let mut first = None;
        for (key, bound, error) in keys {
            let Some(key) = key.filter(|_| bound > 0) else { continue };
            let key = digest(error, asked.peer, key);
            if full && !counts.contains_key(&key) {
                first = first.or(Some(error));
                continue;
            }
            let count = counts.entry(key).or_default();
            *count = match window - count.window {
                0 => *count,
                1 => Count { window, now: 0, before: count.now },
                _ => Count { window, ..Count::default() },
            };
            count.now = count.now.saturating_add(1);
            let weighed = i64::from(count.before) * (length - into) / length + i64::from(count.now);
            if weighed > i64::from(bound) {
                first = first.or(Some(error));
            }
        }
        first.map_or(Ok(()), Err)
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

    use super::*;

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
