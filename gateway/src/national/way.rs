//! The way to one national system: its circuit, so that a system that is gone keeps nobody waiting and no other system
//! from answering.
//!
//! One odd unit must not close the way to the others: what fails again and again for the same unit (a study, a document, a
//! patient) counts once, until it was answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{NationalError, Omission};
use crate::circuit::{Circuit, OPEN, Outcome};
use crate::config::Limits;
use crate::telemetry::Metrics;

/// Failing units that are told apart.
const UNITS: usize = 256;

/// What all calls to one system share.
#[derive(Clone)]
pub(super) struct Way(Arc<Shared>);

struct Shared {
    /// The connector, as the configuration names it.
    connector: String,
    metrics: Metrics,
    /// Failures in a row and pause, as configured.
    first: (u32, Duration),
    state: Mutex<State>,
}

struct State {
    circuit: Circuit,
    /// Units whose failure was counted; oldest first.
    failing: VecDeque<String>,
}

impl Way {
    /// The way to a system that nobody asked yet.
    pub(super) fn new(connector: &str, limits: &Limits, metrics: Metrics) -> Self {
        Self::of(connector, (limits.circuit_failures, limits.circuit_pause), metrics)
    }

    fn of(connector: &str, first: (u32, Duration), metrics: Metrics) -> Self {
        let state = Mutex::new(State { circuit: Circuit::new(first.0, first.1), failing: VecDeque::new() });
        Self(Arc::new(Shared { connector: connector.to_owned(), metrics, first, state }))
    }

    /// The way to another address of the same connector.
    pub(super) fn apart(&self) -> Self {
        let Shared { connector, metrics, first, .. } = &*self.0;
        Self::of(connector, *first, metrics.clone())
    }

    /// Counts a unit that is left out of a list.
    pub(super) fn left_out(&self, reason: Omission) {
        self.0.metrics.left_out(&self.0.connector, reason.class(), 1);
    }

    /// The connector's name.
    pub(super) fn connector(&self) -> &str {
        &self.0.connector
    }

    /// Begins a call about a unit; `None` while the circuit is open.
    pub(super) fn enter(&self, unit: &str) -> Option<Going> {
        let mut state = self.state();
        let allowed = state.circuit.allows(Instant::now());
        self.0.metrics.connector_circuit(&self.0.connector, state.circuit.number());
        allowed.then(|| Going { way: self.clone(), unit: unit.to_owned(), told: false })
    }

    /// A call about a unit whose own result says how the way is.
    ///
    /// # Errors
    /// The call's; that the system is not asked.
    pub(super) async fn call<T>(
        &self,
        unit: &str,
        call: impl Future<Output = Result<T, NationalError>>,
    ) -> Result<T, NationalError> {
        let resting = || NationalError::down("system is not asked for a while after its failures");
        let going = self.enter(unit).ok_or_else(resting)?;
        let result = call.await;
        going.tell(!matches!(result, Err(NationalError::Down { retry: true, .. })));
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, unit: &str, outcome: Outcome) {
        let mut state = self.state();
        let before = state.circuit.number();
        match outcome {
            Outcome::Answered => state.failing.retain(|known| known != unit),
            Outcome::Failed if before == crate::circuit::CLOSED => {
                if state.failing.iter().any(|known| known == unit) {
                    return;
                }
                state.failing.push_back(unit.to_owned());
                if state.failing.len() > UNITS {
                    state.failing.pop_front();
                }
            }
            _ => {}
        }
        state.circuit.tell(outcome, Instant::now());
        let after = state.circuit.number();
        self.0.metrics.connector_circuit(&self.0.connector, after);
        if after == OPEN && before != OPEN {
            tracing::warn!(connector = %self.0.connector, "circuit opened: the system is not asked for a while");
        }
    }
}

/// A call on its way; dropped without a verdict it only frees the probe.
pub(super) struct Going {
    way: Way,
    unit: String,
    told: bool,
}

impl Going {
    /// Whether the system answered, whatever it said.
    pub(super) fn tell(mut self, answered: bool) {
        self.told = true;
        self.way.tell(&self.unit, if answered { Outcome::Answered } else { Outcome::Failed });
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if !self.told {
            self.way.tell(&self.unit, Outcome::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        let limits = Limits { circuit_failures: 3, ..Limits::default() };
        Way::new("archive", &limits, Metrics::default())
    }

    fn fails(way: &Way, unit: &str) {
        if let Some(going) = way.enter(unit) {
            going.tell(false);
        }
    }

    #[test]
    fn im_11_one_odd_unit_never_closes_the_way_to_the_others() {
        let way = way();
        for _ in 0..100 {
            fails(&way, "odd");
            fails(&way, "odd too");
        }
        assert!(way.enter("another").is_some());
    }

    #[test]
    fn im_11_a_system_that_is_gone_is_not_asked_for_a_while() {
        let (way, other) = (way(), way());
        for unit in ["a", "b", "c"] {
            fails(&way, unit);
        }
        assert!(way.enter("d").is_none());
        assert!(other.enter("d").is_some(), "another system has a circuit of its own");
    }

    #[test]
    fn answers_between_failures_keep_the_way_open() {
        let way = way();
        for unit in ["a", "b", "c", "d"] {
            fails(&way, unit);
            if let Some(going) = way.enter("well") {
                going.tell(true);
            }
        }
        assert!(way.enter("e").is_some());
    }
}
