//! A circuit breaker: what fails again and again is not asked for a while, so that nobody is kept waiting for it.
//!
//! It opens after so many failures in a row, or when half of the calls of the last 30 s failed. After a pause one call
//! probes; if it fails the pause doubles, up to 15 s: a guard must not outlive its cause by more than that. Whoever could not
//! be reached and can be again is asked at once, by everybody.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the share of failures is taken of.
const WINDOW: Duration = Duration::from_secs(30);
/// A share of fewer calls says nothing.
const CALLS: usize = 10;
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(15);

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was an answer, whatever it says.
    Answered,
    /// There was no way to the system.
    Unreachable,
    /// The system itself failed.
    Failed,
    /// Nobody waited for the end.
    Abandoned,
}

/// Calls are made.
pub(crate) const CLOSED: i64 = 0;
const HALF_OPEN: i64 = 1;
/// No call is made.
pub(crate) const OPEN: i64 = 2;

/// One circuit; it reads no clock.
pub(crate) struct Circuit {
    most: u32,
    first_pause: Duration,
    state: State,
}

enum State {
    Closed { in_a_row: u32, recent: VecDeque<(Instant, bool)> },
    Open { until: Instant, pause: Duration, is_unreachable: bool },
    HalfOpen { pause: Duration },
}

impl Circuit {
    /// Opens after `most` failures in a row; the first pause.
    pub(crate) fn new(most: u32, first_pause: Duration) -> Self {
        Self { most, first_pause, state: State::Closed { in_a_row: 0, recent: VecDeque::new() } }
    }

    /// Whether a call may be made now.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, pause, .. } if until <= now => {
                self.state = State::HalfOpen { pause };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    /// How long no call may be made: the rest of the pause, or until the call that probes has ended.
    pub(crate) fn closed_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => until.checked_duration_since(now).filter(|left| !left.is_zero()),
            State::HalfOpen { pause } => Some(pause),
        }
    }

    /// Whether it is open because there was no way to the system.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self.state, State::Open { is_unreachable: true, .. })
    }

    /// Whether no call is made.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Nothing is there that could answer: what opened the circuit was no fault of one exchange.
    pub(crate) fn missed(&mut self) {
        if let State::Open { is_unreachable, .. } = &mut self.state {
            *is_unreachable = true;
        }
    }

    /// There is a way again: calls are made. The next failure opens the circuit again.
    pub(crate) fn reached(&mut self) {
        if self.is_unreachable() {
            self.state = State::Closed { in_a_row: self.most.saturating_sub(1), recent: VecDeque::new() };
        }
    }

    /// What became of a call.
    pub(crate) fn tell(&mut self, outcome: Outcome, now: Instant) {
        let is_unreachable = outcome == Outcome::Unreachable;
        match (&mut self.state, outcome) {
            (State::Closed { .. }, Outcome::Abandoned) | (State::Open { .. }, _) => {}
            (State::Closed { in_a_row, recent }, _) => {
                let failed = outcome != Outcome::Answered;
                *in_a_row = if failed { *in_a_row + 1 } else { 0 };
                recent.push_back((now, failed));
                while recent.len() > 1000 || recent.front().is_some_and(|(at, _)| *at + WINDOW < now) {
                    recent.pop_front();
                }
                let failures = recent.iter().filter(|(_, failed)| *failed).count();
                if *in_a_row >= self.most || (recent.len() >= CALLS && failures * 2 >= recent.len()) {
                    let pause = self.first_pause;
                    self.state = State::Open { until: now + pause, pause, is_unreachable };
                }
            }
            (State::HalfOpen { .. }, Outcome::Answered) => *self = Self::new(self.most, self.first_pause),
            (State::HalfOpen { pause }, Outcome::Failed | Outcome::Unreachable) => {
                let pause = (*pause * 2).min(LONGEST.max(self.first_pause));
                self.state = State::Open { until: now + pause, pause, is_unreachable };
            }
            // The next call probes.
            (State::HalfOpen { pause }, Outcome::Abandoned) => {
                self.state = State::Open { until: now, pause: *pause, is_unreachable };
            }
        }
    }

    /// As the metric says it.
    pub(crate) fn number(&self) -> i64 {
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
        let first = Duration::from_secs(2);
        let (mut circuit, mut now) = (Circuit::new(1, first), Instant::now());
        circuit.tell(Outcome::Failed, now);
        let mut pause = first;
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

    /// SK-03: who could not be reached is asked by everybody once there is a way again; who failed itself waits its pause.
    #[test]
    fn sk_03_a_way_that_is_there_again_closes_a_circuit() {
        let now = Instant::now();
        let mut circuit = Circuit::new(3, PAUSE);
        for _ in 0..3 {
            assert_eq!(circuit.closed_for(now), None);
            circuit.tell(Outcome::Unreachable, now);
        }
        assert_eq!(circuit.closed_for(now), Some(PAUSE));
        circuit.reached();
        assert!(circuit.allows(now) && circuit.allows(now), "not one alone");
        circuit.tell(Outcome::Unreachable, now);
        assert!(!circuit.allows(now), "one failure is enough after that");
        let mut circuit = Circuit::new(1, PAUSE);
        circuit.tell(Outcome::Failed, now);
        circuit.reached();
        assert!(!circuit.allows(now), "a system that was reached and failed");
    }
}
