//! A country that fails must not take the others with it: a circuit breaker for each country and transaction, and a
//! bulkhead for each country.
//!
//! What a circuit counts is the way to the country and its gateway: connection, TLS, no first byte, a 5xx. An answer that
//! breaks off, a country that is busy and says when to come back, and what fails behind the country's gateway are no
//! failures of the country: the others who ask it are served.
//!
//! A country that could not be reached is looked for in the background, so that its return is not told by the failure of
//! somebody's call, and costs nobody more than a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ncp_tls::Country;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PeerError;
use crate::circuit::{Circuit, OPEN, Outcome};
use crate::config::Limits;
use crate::identity::TransactionName;
use crate::telemetry::{Metrics, PeerLabels};

/// How long a call waits for its permit in the bulkhead of a country.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a country that could not be reached is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The guards of all countries.
pub struct Guards {
    failures: u32,
    pause: Duration,
    share: usize,
    patience: Duration,
    metrics: Metrics,
    lanes: Mutex<BTreeMap<Country, Lane>>,
}

struct Lane {
    permits: Arc<Semaphore>,
    /// Permits to wait: who waits for one country takes the time of a clinicians' permit, which all countries share.
    waiting: Arc<Semaphore>,
    circuits: BTreeMap<TransactionName, Circuit>,
    /// Transactions whose way is looked for.
    sought: BTreeSet<TransactionName>,
}

impl Lane {
    fn new(share: usize) -> Self {
        let (permits, waiting) = (Arc::new(Semaphore::new(share)), Arc::new(Semaphore::new(share.div_ceil(2))));
        Self { permits, waiting, circuits: BTreeMap::new(), sought: BTreeSet::new() }
    }

    fn is_unreachable(&self, transaction: TransactionName) -> bool {
        self.circuits.get(&transaction).is_some_and(Circuit::is_unreachable)
    }
}

impl Guards {
    /// Guards with the limits of the configuration.
    pub fn new(limits: &Limits, metrics: Metrics) -> Self {
        // A neighbour's gateway has as many permits for us. Ours are fewer, since it has one until the last byte of its
        // answer has gone, and so that a burst waits here and is not turned away there.
        let share = limits.concurrency * usize::from(limits.peer_share_percent) / 100 * 9 / 10;
        let (failures, pause) = (limits.circuit_failures, limits.circuit_pause);
        Self { failures, pause, share: share.max(1), patience: PATIENCE, metrics, lanes: Mutex::default() }
    }

    /// Takes a permit for one call, which waits for it a short time.
    ///
    /// # Errors
    /// [`PeerError::Busy`] when the country has as many calls as it may, [`PeerError::Open`] while its circuit is open.
    pub async fn enter(self: &Arc<Self>, country: Country, transaction: TransactionName) -> Result<Pass, PeerError> {
        let (permits, waiting) = {
            let mut lanes = self.lanes();
            let lane = lanes.entry(country).or_insert_with(|| Lane::new(self.share));
            let circuit = lane.circuits.get(&transaction);
            if let Some(refusal) = circuit.and_then(|circuit| self.refusal(country, transaction, circuit)) {
                return Err(refusal);
            }
            (lane.permits.clone(), lane.waiting.clone())
        };
        let place = match permits.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => match waiting.try_acquire_owned() {
                Ok(_waits) => {
                    tokio::time::timeout(self.patience, permits.acquire_owned()).await.ok().and_then(Result::ok)
                }
                Err(_) => None,
            },
        };
        let Some(place) = place else {
            self.metrics.call_refused(labels(country, transaction), "bulkhead");
            return Err(PeerError::Busy);
        };
        let mut lanes = self.lanes();
        let lane = lanes.entry(country).or_insert_with(|| Lane::new(self.share));
        let circuit = lane.circuits.entry(transaction).or_insert_with(|| Circuit::new(self.failures, self.pause));
        if let Some(refusal) = self.refusal(country, transaction, circuit) {
            return Err(refusal);
        }
        circuit.allows(Instant::now());
        self.metrics.circuit(labels(country, transaction), circuit.number());
        drop(lanes);
        Ok(Pass { guards: self.clone(), country, transaction, place: Some(place) })
    }

    /// How long no call may be made.
    fn refusal(&self, country: Country, transaction: TransactionName, circuit: &Circuit) -> Option<PeerError> {
        let after = circuit.closed_for(Instant::now())?;
        self.metrics.call_refused(labels(country, transaction), "circuit");
        // A country that is looked for is found soon after its return.
        Some(PeerError::Open(if circuit.is_unreachable() { after.min(LOOK * 2) } else { after }))
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<Country, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, country: Country, transaction: TransactionName, outcome: Outcome) {
        self.changed(country, transaction, |circuit| circuit.tell(outcome, Instant::now()));
    }

    fn changed(&self, country: Country, transaction: TransactionName, change: impl FnOnce(&mut Circuit)) {
        let mut lanes = self.lanes();
        let Some(circuit) = lanes.get_mut(&country).and_then(|lane| lane.circuits.get_mut(&transaction)) else {
            return;
        };
        let before = circuit.number();
        change(circuit);
        let after = circuit.number();
        self.metrics.circuit(labels(country, transaction), after);
        if after != before && after == OPEN {
            tracing::warn!(country = %country, ncp.transaction = transaction.as_str(), "circuit opened");
        }
    }

    /// Looks for a country that could not be reached until `look` finds it; one task for each country and transaction.
    pub(super) fn seek<Looking>(
        self: &Arc<Self>,
        country: Country,
        transaction: TransactionName,
        look: impl Fn() -> Looking + Send + Sync + 'static,
    ) where
        Looking: Future<Output = Found> + Send + 'static,
    {
        let begins = |lane: &mut Lane| lane.is_unreachable(transaction) && lane.sought.insert(transaction);
        if !self.lanes().get_mut(&country).is_some_and(begins) {
            return;
        }
        let guards = self.clone();
        tokio::spawn(async move {
            let mut found = Found::NotYet;
            while guards.still_sought(country, transaction, &found) {
                tokio::time::sleep(LOOK).await;
                found = look().await;
                if matches!(found, Found::There) {
                    guards.changed(country, transaction, Circuit::reached);
                }
            }
        });
    }

    fn still_sought(&self, country: Country, transaction: TransactionName, found: &Found) -> bool {
        let mut lanes = self.lanes();
        let Some(lane) = lanes.get_mut(&country) else { return false };
        let goes_on = matches!(found, Found::NotYet) && lane.is_unreachable(transaction);
        if !goes_on {
            lane.sought.remove(&transaction);
        }
        goes_on
    }
}

/// What looking for a country found.
pub(super) enum Found {
    /// Its gateway can be connected to.
    There,
    /// It cannot.
    NotYet,
    /// Nobody looks for it any more.
    NoLonger,
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
        let outcome = answer.as_ref().err().map_or(Outcome::Answered, PeerError::outcome);
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
    #[tokio::test]
    async fn im_11_what_fails_behind_a_country_is_not_charged_to_it() {
        let guards = Arc::new(Guards::new(&Limits::default(), Metrics::default()));
        let country = Country::parse("NO").expect("a country");
        let fails = async |error: fn() -> PeerError, times: usize| {
            for _ in 0..times {
                if let Ok(pass) = guards.enter(country, TransactionName::Rad75).await {
                    drop(pass.answered::<()>(&Err(error())));
                }
            }
            guards.enter(country, TransactionName::Rad75).await.is_ok()
        };
        let later = || PeerError::Later(Duration::from_secs(2));
        let refused = || PeerError::Refused("XDSRepositoryError".into());
        for error in [|| PeerError::BrokeOff, later, refused, || PeerError::Mismatch, || PeerError::Fault] {
            assert!(fails(error, 100).await, "{}", error());
        }
        assert!(!fails(|| PeerError::Http(503), 5).await, "a 503 that says no time is a failure");
    }

    fn guards(patience: Duration) -> (Arc<Guards>, Country) {
        let limits = Limits { concurrency: 20, peer_share_percent: 50, circuit_failures: 2, ..Limits::default() };
        let guards = Guards { patience, ..Guards::new(&limits, Metrics::default()) };
        (Arc::new(guards), Country::parse("NO").expect("a country"))
    }

    async fn all_taken(guards: &Arc<Guards>, country: Country) -> Vec<Pass> {
        let mut taken = Vec::new();
        for _ in 0..9 {
            taken.push(guards.enter(country, TransactionName::Rad75).await.expect("a permit"));
        }
        taken
    }

    /// SK-06: a permit of a country is waited for; who waits is counted, so that one country's callers do not take the time
    /// of all; and another country's is there at once.
    #[tokio::test]
    async fn sk_06_a_country_is_waited_for_by_a_few_and_no_other_waits() {
        let (guards, country) = guards(Duration::from_secs(600));
        let mut taken = all_taken(&guards, country).await;
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let guards = guards.clone();
            waiting.spawn(async move { guards.enter(country, TransactionName::Iti38).await.map(drop) });
        }
        tokio::task::yield_now().await;
        let sixth = tokio::time::timeout(Duration::from_secs(10), guards.enter(country, TransactionName::Iti38)).await;
        assert!(matches!(sixth, Ok(Err(PeerError::Busy))), "five wait already");
        let other = Country::parse("SE").expect("a country");
        assert!(guards.enter(other, TransactionName::Iti38).await.is_ok());
        taken.pop();
        while let Some(waited) = waiting.join_next().await {
            assert!(waited.expect("ends").is_ok(), "one after the other");
        }
    }

    #[tokio::test]
    async fn sk_06_a_country_is_not_waited_for_without_end() {
        let (guards, country) = guards(Duration::from_millis(20));
        let _taken = all_taken(&guards, country).await;
        assert!(matches!(guards.enter(country, TransactionName::Iti38).await, Err(PeerError::Busy)));
    }

    /// SK-03: while a country is away nobody waits for it, and all ask it once somebody who looks for it found it.
    #[tokio::test]
    async fn sk_03_a_country_is_found_when_it_is_back() {
        let (guards, country) = guards(PATIENCE);
        // The pause is longer than the test: what opens the circuit again is that the country was found.
        let guards =
            Arc::new(Guards { pause: Duration::from_secs(3600), ..Arc::try_unwrap(guards).ok().expect("one") });
        let (found, looked) = tokio::sync::watch::channel(false);
        let asks = async || guards.enter(country, TransactionName::Iti55).await;
        for _ in 0..2 {
            drop(asks().await.expect("is tried").answered::<()>(&Err(PeerError::Unreachable("gone".into()))));
            let looked = looked.clone();
            guards.seek(country, TransactionName::Iti55, move || {
                let is_back = *looked.borrow();
                async move { if is_back { Found::There } else { Found::NotYet } }
            });
        }
        let Err(PeerError::Open(after)) = asks().await else { panic!("is not tried") };
        assert!(after <= LOOK * 2, "{after:?}");
        found.send_replace(true);
        while asks().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(asks().await.is_ok(), "not one alone");
    }
}
