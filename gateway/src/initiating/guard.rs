//! A country that fails must not take the others with it: a circuit breaker for each country and transaction, and a
//! bulkhead for each country.
//!
//! A circuit opens after so many failures in a row, or when half of the calls of the last 30 s failed. While it is open
//! nobody is kept waiting. After a pause one call probes; if it fails the pause doubles, up to five minutes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ncp_tls::Country;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PeerError;
use crate::config::Limits;
use crate::identity::TransactionName;
use crate::telemetry::{Metrics, PeerLabels};

/// What the share of failures is taken of.
const WINDOW: Duration = Duration::from_secs(30);
/// A share of fewer calls says nothing.
const CALLS: usize = 10;
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(300);

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
        let failed = answer.as_ref().err().is_some_and(PeerError::is_of_the_way);
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Failed,
    Abandoned,
}

const CLOSED: i64 = 0;
const HALF_OPEN: i64 = 1;
const OPEN: i64 = 2;

/// One circuit; it reads no clock.
struct Circuit {
    most: u32,
    first_pause: Duration,
    state: State,
}

enum State {
    Closed { in_a_row: u32, recent: VecDeque<(Instant, bool)> },
    Open { until: Instant, pause: Duration },
    HalfOpen { pause: Duration },
}

impl Circuit {
    fn new(most: u32, first_pause: Duration) -> Self {
        Self { most, first_pause, state: State::Closed { in_a_row: 0, recent: VecDeque::new() } }
    }

    fn allows(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, pause } if until <= now => {
                self.state = State::HalfOpen { pause };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    fn tell(&mut self, outcome: Outcome, now: Instant) {
        match (&mut self.state, outcome) {
            (State::Closed { .. }, Outcome::Abandoned) | (State::Open { .. }, _) => {}
            (State::Closed { in_a_row, recent }, _) => {
                let failed = outcome == Outcome::Failed;
                *in_a_row = if failed { *in_a_row + 1 } else { 0 };
                recent.push_back((now, failed));
                while recent.len() > 1000 || recent.front().is_some_and(|(at, _)| *at + WINDOW < now) {
                    recent.pop_front();
                }
                let failures = recent.iter().filter(|(_, failed)| *failed).count();
                if *in_a_row >= self.most || (recent.len() >= CALLS && failures * 2 >= recent.len()) {
                    self.state = State::Open { until: now + self.first_pause, pause: self.first_pause };
                }
            }
            (State::HalfOpen { .. }, Outcome::Answered) => *self = Self::new(self.most, self.first_pause),
            (State::HalfOpen { pause }, Outcome::Failed) => {
                let pause = (*pause * 2).min(LONGEST.max(self.first_pause));
                self.state = State::Open { until: now + pause, pause };
            }
            // The next call probes.
            (State::HalfOpen { pause }, Outcome::Abandoned) => self.state = State::Open { until: now, pause: *pause },
        }
    }

    /// As the metric says it.
    fn number(&self) -> i64 {
        match self.state {
            State::Closed { .. } => CLOSED,
            State::HalfOpen { .. } => HALF_OPEN,
            State::Open { .. } => OPEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(15);

    #[test]
    fn failures_in_a_row_open_a_circuit_and_a_probe_closes_it() {
        let (mut circuit, now) = (Circuit::new(5, PAUSE), Instant::now());
        for _ in 0..4 {
            circuit.tell(Outcome::Failed, now);
        }
        circuit.tell(Outcome::Answered, now);
        for _ in 0..4 {
            circuit.tell(Outcome::Failed, now);
            assert!(circuit.allows(now));
        }
        circuit.tell(Outcome::Failed, now);
        assert!(!circuit.allows(now) && !circuit.allows(now + PAUSE - Duration::from_secs(1)));
        assert!(circuit.allows(now + PAUSE), "one call probes");
        assert!(!circuit.allows(now + PAUSE), "one alone");
        circuit.tell(Outcome::Answered, now + PAUSE);
        assert_eq!(circuit.number(), CLOSED);
    }

    #[test]
    fn the_pause_doubles_up_to_its_end() {
        let (mut circuit, mut now) = (Circuit::new(1, PAUSE), Instant::now());
        circuit.tell(Outcome::Failed, now);
        let mut pause = PAUSE;
        for _ in 0..8 {
            assert!(!circuit.allows(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(circuit.allows(now));
            circuit.tell(Outcome::Failed, now);
            pause = (pause * 2).min(LONGEST);
        }
        assert_eq!(pause, LONGEST);
    }

    #[test]
    fn half_of_the_recent_calls_open_a_circuit() {
        let (mut circuit, now) = (Circuit::new(100, PAUSE), Instant::now());
        for _ in 0..5 {
            circuit.tell(Outcome::Answered, now);
        }
        for _ in 0..4 {
            circuit.tell(Outcome::Failed, now);
        }
        assert_eq!(circuit.number(), CLOSED, "nine calls say nothing");
        let later = now + WINDOW + Duration::from_secs(1);
        circuit.tell(Outcome::Failed, later);
        assert_eq!(circuit.number(), CLOSED, "old calls are forgotten");
        for _ in 0..9 {
            circuit.tell(Outcome::Failed, later);
        }
        assert_eq!(circuit.number(), OPEN);
    }

    #[test]
    fn a_probe_that_nobody_waited_for_is_made_again() {
        let (mut circuit, now) = (Circuit::new(1, PAUSE), Instant::now());
        circuit.tell(Outcome::Failed, now);
        assert!(circuit.allows(now + PAUSE));
        circuit.tell(Outcome::Abandoned, now + PAUSE);
        assert!(circuit.allows(now + PAUSE));
    }
}
