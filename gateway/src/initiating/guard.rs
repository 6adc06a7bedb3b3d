//! A country that fails must not take the others with it: a circuit breaker for each country and transaction, and a
//! bulkhead for each country.
//!
//! What a circuit counts is the way to the country and its gateway: connection, TLS, no first byte, a 5xx. An answer that
//! breaks off, a country that is busy and says when to come back, and what fails behind the country's gateway are no
//! failures of the country: the others who ask it are served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ncp_tls::Country;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PeerError;
use crate::circuit::{Circuit, OPEN, Outcome};
use crate::config::Limits;
use crate::identity::TransactionName;
use crate::telemetry::{Metrics, PeerLabels};

/// The guards of all countries.
pub struct Guards {
    failures: u32,
    pause: Duration,
    share: usize,
    metrics: Metrics,
    lanes: Mutex<BTreeMap<Country, Lane>>,
}

struct Lane {
    places: Arc<Semaphore>,
    circuits: BTreeMap<TransactionName, Circuit>,
}

impl Guards {
    /// Guards with the limits of the configuration.
    pub fn new(limits: &Limits, metrics: Metrics) -> Self {
        let share = (limits.concurrency * usize::from(limits.peer_share_percent) / 100).max(1);
        let (failures, pause) = (limits.circuit_failures, limits.circuit_pause);
        Self { failures, pause, share, metrics, lanes: Mutex::default() }
    }

    /// Takes a place for one call.
    ///
    /// # Errors
    /// [`PeerError::Busy`] when the country has as many calls as it may, [`PeerError::Open`] while its circuit is open.
    pub fn enter(self: &Arc<Self>, country: Country, transaction: TransactionName) -> Result<Pass, PeerError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(|p| p.into_inner());
        let lane = lanes
            .entry(country)
            .or_insert_with(|| Lane { places: Arc::new(Semaphore::new(self.share)), circuits: BTreeMap::new() });
        let Ok(place) = lane.places.clone().try_acquire_owned() else {
            self.metrics.call_refused(labels(country, transaction), "bulkhead");
            return Err(PeerError::Busy);
        };
        let circuit = lane.circuits.entry(transaction).or_insert_with(|| Circuit::new(self.failures, self.pause));
        let allowed = circuit.allows(Instant::now());
        self.metrics.circuit(labels(country, transaction), circuit.number());
        if !allowed {
            self.metrics.call_refused(labels(country, transaction), "circuit");
            return Err(PeerError::Open);
        }
        Ok(Pass { guards: self.clone(), country, transaction, place: Some(place) })
    }

    fn tell(&self, country: Country, transaction: TransactionName, outcome: Outcome) {
        let mut lanes = self.lanes.lock().unwrap_or_else(|p| p.into_inner());
        let Some(circuit) = lanes.get_mut(&country).and_then(|lane| lane.circuits.get_mut(&transaction)) else {
            return;
        };
        let before = circuit.number();
        circuit.tell(outcome, Instant::now());
        let after = circuit.number();
        self.metrics.circuit(labels(country, transaction), after);
        if after != before && after == OPEN {
            tracing::warn!(country = %country, ncp.transaction = transaction.as_str(), "circuit opened");
        }
    }
}

fn labels(country: Country, transaction: TransactionName) -> PeerLabels {
    PeerLabels { country: country.to_string(), transaction: transaction.as_str().to_owned() }
}

/// A call's place; dropped without a verdict it only frees the probe.
pub struct Pass {
    guards: Arc<Guards>,
    country: Country,
    transaction: TransactionName,
    place: Option<OwnedSemaphorePermit>,
}

/// What is held until the last byte of an answer.
pub type Place = Option<OwnedSemaphorePermit>;

impl Pass {
    /// The root of the answer was read, or why not. The place is kept for as long as the answer streams.
    pub fn answered<T>(mut self, answer: &Result<T, PeerError>) -> Place {
        let failed = answer.as_ref().err().is_some_and(PeerError::opens_a_circuit);
        let outcome = if failed { Outcome::Failed } else { Outcome::Answered };
        self.guards.tell(self.country, self.transaction, outcome);
        self.place.take()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.guards.tell(self.country, self.transaction, Outcome::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IM-11: of the ways in which a call can fail, those that say nothing of the country as a whole.
    #[test]
    fn im_11_what_fails_behind_a_country_is_not_charged_to_it() {
        let guards = Arc::new(Guards::new(&Limits::default(), Metrics::default()));
        let country = Country::parse("NO").expect("a country");
        let fails = |error: fn() -> PeerError, times: usize| {
            for _ in 0..times {
                if let Ok(pass) = guards.enter(country, TransactionName::Rad75) {
                    drop(pass.answered::<()>(&Err(error())));
                }
            }
            guards.enter(country, TransactionName::Rad75).is_ok()
        };
        let later = || PeerError::Later(Duration::from_secs(2));
        let refused = || PeerError::Refused("XDSRepositoryError".into());
        for error in [|| PeerError::BrokeOff, later, refused, || PeerError::Mismatch, || PeerError::Fault] {
            assert!(fails(error, 100), "{}", error());
        }
        assert!(!fails(|| PeerError::Http(503), 5), "a 503 that says no time is a failure");
    }
}
