//! A circuit breaker: what fails again and again is not asked for a while, so that nobody is kept waiting for it.
//!
//! It opens after so many failures in a row, or when half of the calls of the last 30 s failed. After a pause one call
//! probes; if it fails the pause doubles, up to five minutes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the share of failures is taken of.
const WINDOW: Duration = Duration::from_secs(30);
/// A share of fewer calls says nothing.
const CALLS: usize = 10;
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was an answer, whatever it says.
    Answered,
    /// The way or the system itself failed.
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
    Open { until: Instant, pause: Duration },
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
            State::Open { until, pause } if until <= now => {
                self.state = State::HalfOpen { pause };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    /// What became of a call.
    pub(crate) fn tell(&mut self, outcome: Outcome, now: Instant) {
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
