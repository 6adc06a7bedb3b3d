//! A country that fails must not take the others with it: a circuit breaker for each country and transaction, and a
//! bulkhead for each country.
//!
//! What a circuit counts is the way to the country and its gateway: connection, TLS, no first byte, a 5xx. An answer that
//! breaks off, a country that is busy and says when to come back, and what fails behind the country's gateway are no
//! failures of the country: the others who ask it are served.
//!
//! A country that could not be reached is looked for in the background, so that its return is not told by the failure of
//! somebody's call, and costs nobody more than a second. While it is looked for no call probes it: who does would wait for
//! a way that is not there. It is looked for once for all transactions, less often after two minutes, and no longer when
//! nobody has asked it for some minutes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ncp_tls::{Country, Shares};
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
/// How long a country is looked for every second; each look is a connection, and a line in the country's log.
const OFTEN: Duration = Duration::from_secs(120);
/// How often it is looked for after that.
const SELDOM: Duration = Duration::from_secs(15);
/// A country that nobody has asked for this long is not looked for.
const WANTED: Duration = Duration::from_secs(300);

/// Of a country's permits one caller has at most this part.
const CALLERS: usize = 3;

/// The guards of all countries.
pub struct Guards {
    failures: u32,
    pause: Duration,
    share: usize,
    patience: Duration,
    look: Duration,
    metrics: Metrics,
    lanes: Mutex<BTreeMap<Country, Lane>>,
}

struct Lane {
    permits: Arc<Semaphore>,
    /// What each caller may have of them, a professional or a national consumer: who reads slowly, or asks much, leaves
    /// permits to the others.
    callers: Arc<Shares<String>>,
    /// Permits to wait: who waits for one country takes the time of a clinicians' permit, which all countries share.
    waiting: Arc<Semaphore>,
    circuits: BTreeMap<TransactionName, Circuit>,
    sought: Option<Sought>,
}

/// Transactions whose way is looked for, with what the last look found.
struct Sought {
    ways: BTreeMap<TransactionName, Found>,
    since: Instant,
    /// When it was asked last.
    asked: Instant,
}

impl Sought {
    /// The pause before the next look, which is `look` at first; none when nobody wants it any more.
    fn pause(&self, look: Duration, now: Instant) -> Option<Duration> {
        let is_wanted = now.duration_since(self.asked) < WANTED;
        is_wanted.then(|| if now.duration_since(self.since) < OFTEN { look } else { SELDOM })
    }
}

impl Lane {
    fn new(share: usize) -> Self {
        let (permits, waiting) = (Arc::new(Semaphore::new(share)), Arc::new(Semaphore::new(share.div_ceil(2))));
        let callers = Arc::new(Shares::new(share / CALLERS));
        Self { permits, callers, waiting, circuits: BTreeMap::new(), sought: None }
    }

    fn is_open(&self, transaction: TransactionName) -> bool {
        self.circuits.get(&transaction).is_some_and(Circuit::is_open)
    }

    /// How long no call may be made: where no way was found, or none looked for yet, until the next look has ended.
    fn closed_for(&mut self, transaction: TransactionName, look: Duration) -> Option<Duration> {
        let now = Instant::now();
        let closed_for = self.circuits.get(&transaction)?.closed_for(now);
        let is_open = self.is_open(transaction);
        let sought = self.sought.as_mut().filter(|sought| is_open && sought.ways.contains_key(&transaction));
        let Some(sought) = sought else { return closed_for };
        sought.asked = now;
        let until_found = sought.pause(look, now).unwrap_or(look) + look;
        match sought.ways.get(&transaction) {
            Some(Found::NotYet) => Some(until_found),
            _ => closed_for.map(|after| after.min(until_found)),
        }
    }
}

impl Guards {
    /// Guards with the limits of the configuration.
    pub fn new(limits: &Limits, metrics: Metrics) -> Self {
        // A neighbour's gateway has as many permits for us. Ours are fewer, since it has one until the last byte of its
        // answer has gone, and so that a burst waits here and is not turned away there.
        let share = limits.concurrency * usize::from(limits.peer_share_percent) / 100 * 9 / 10;
        let (failures, pause) = (limits.circuit_failures, limits.circuit_pause);
        let (patience, look) = (PATIENCE, LOOK);
        Self { failures, pause, share: share.max(1), patience, look, metrics, lanes: Mutex::default() }
    }

    /// Takes a permit for one call of a caller, which waits for it a short time; for what is beyond the caller's share it
    /// waits alone.
    ///
    /// # Errors
    /// [`PeerError::Busy`] when the country has as many calls as it may, [`PeerError::Open`] while its circuit is open.
    pub async fn enter(
        self: &Arc<Self>,
        country: Country,
        transaction: TransactionName,
        caller: &str,
    ) -> Result<Pass, PeerError> {
        let (permits, callers, waiting) = {
            let mut lanes = self.lanes();
            let lane = lanes.entry(country).or_insert_with(|| Lane::new(self.share));
            self.may_call(country, transaction, lane)?;
            (lane.permits.clone(), lane.callers.clone(), lane.waiting.clone())
        };
        let entering = async {
            let own = callers.wait(caller.to_owned()).await?;
            let of_country = match permits.clone().try_acquire_owned() {
                Ok(place) => place,
                Err(_) => {
                    let _waits = waiting.try_acquire_owned().ok()?;
                    permits.acquire_owned().await.ok()?
                }
            };
            Some([own, of_country])
        };
        let Some(place) = tokio::time::timeout(self.patience, entering).await.ok().flatten() else {
            self.metrics.call_refused(labels(country, transaction), "bulkhead");
            return Err(PeerError::Busy);
        };
        let mut lanes = self.lanes();
        let lane = lanes.entry(country).or_insert_with(|| Lane::new(self.share));
        self.may_call(country, transaction, lane)?;
        let circuit = lane.circuits.entry(transaction).or_insert_with(|| Circuit::new(self.failures, self.pause));
        circuit.allows(Instant::now());
        self.metrics.circuit(labels(country, transaction), circuit.number());
        drop(lanes);
        Ok(Pass { guards: self.clone(), country, transaction, place: Some(place) })
    }

    fn may_call(&self, country: Country, transaction: TransactionName, lane: &mut Lane) -> Result<(), PeerError> {
        let Some(after) = lane.closed_for(transaction, self.look) else { return Ok(()) };
        self.metrics.call_refused(labels(country, transaction), "circuit");
        Err(PeerError::Open(after))
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

    /// Looks for a country whose circuit is open, by the transactions that had no answer, until `look` finds it or nobody wants
    /// it any more. One task for each country. A country that was missing at a look is asked as soon as it is found; one
    /// that is there at the first look fails behind its gateway, and the pause of its circuit holds.
    pub(super) fn seek<Looking>(
        self: &Arc<Self>,
        country: Country,
        transaction: TransactionName,
        look: impl Fn(Vec<TransactionName>) -> Looking + Send + Sync + 'static,
    ) where
        Looking: Future<Output = Vec<(TransactionName, Found)>> + Send + 'static,
    {
        {
            let mut lanes = self.lanes();
            let Some(lane) = lanes.get_mut(&country).filter(|lane| lane.is_open(transaction)) else { return };
            let now = Instant::now();
            let is_sought = lane.sought.is_some();
            let sought = lane.sought.get_or_insert_with(|| Sought { ways: BTreeMap::new(), since: now, asked: now });
            sought.asked = now;
            sought.ways.entry(transaction).or_insert(Found::NotYet);
            if is_sought {
                return;
            }
        }
        let guards = self.clone();
        tokio::spawn(async move {
            while let Some((ways, pause)) = guards.sought(country) {
                tokio::time::sleep(pause).await;
                for (transaction, found) in look(ways).await {
                    guards.looked(country, transaction, found);
                }
            }
        });
    }

    /// What is looked for next, and when; nothing when all was found, or is not wanted.
    fn sought(&self, country: Country) -> Option<(Vec<TransactionName>, Duration)> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(&country)?;
        let mut sought = lane.sought.take()?;
        sought.ways.retain(|transaction, _| lane.is_open(*transaction));
        let pause = sought.pause(self.look, Instant::now()).filter(|_| !sought.ways.is_empty())?;
        let next = (sought.ways.keys().copied().collect(), pause);
        lane.sought = Some(sought);
        Some(next)
    }

    fn looked(&self, country: Country, transaction: TransactionName, found: Found) {
        {
            let mut lanes = self.lanes();
            let Some(sought) = lanes.get_mut(&country).and_then(|lane| lane.sought.as_mut()) else { return };
            match found {
                Found::There | Found::NoLonger => drop(sought.ways.remove(&transaction)),
                Found::NotYet | Found::NobodyBehind => {
                    if let Some(way) = sought.ways.get_mut(&transaction) {
                        *way = found;
                    }
                }
            }
        }
        match found {
            Found::There => self.changed(country, transaction, Circuit::reached),
            Found::NotYet | Found::NobodyBehind => self.changed(country, transaction, Circuit::missed),
            Found::NoLonger => {}
        }
    }
}

/// What looking for a country found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Its gateway can be connected to.
    There,
    /// It cannot.
    NotYet,
    /// There is a way, and what answers says that no gateway is behind it. A call that probes is answered soon: it may, since
    /// what looks may be answered otherwise than what calls.
    NobodyBehind,
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
    place: Place,
}

/// What is held until the last byte of an answer: the caller's permit and the country's.
pub type Place = Option<[OwnedSemaphorePermit; 2]>;

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
    use proptest::prelude::*;
    use tokio::sync::{mpsc, watch};

    use super::*;

    /// IM-11: of the ways in which a call can fail, those that say nothing of the country as a whole.
    #[tokio::test]
    async fn im_11_what_fails_behind_a_country_is_not_charged_to_it() {
        let guards = Arc::new(Guards::new(&Limits::default(), Metrics::default()));
        let country = Country::parse("NO").expect("a country");
        let fails = async |error: fn() -> PeerError, times: usize| {
            for _ in 0..times {
                if let Ok(pass) = guards.enter(country, TransactionName::Rad75, "anna").await {
                    drop(pass.answered::<()>(&Err(error())));
                }
            }
            guards.enter(country, TransactionName::Rad75, "anna").await.is_ok()
        };
        let later = || PeerError::Later(Duration::from_secs(2));
        let refused = || PeerError::Refused("XDSRepositoryError".into());
        // WI-11: an error page is an answer of the gateway, as a fault is.
        let page = || PeerError::Http(500);
        for error in [|| PeerError::BrokeOff, later, refused, || PeerError::Mismatch, || PeerError::Fault, page] {
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
        for caller in ["anna", "berit", "carl"].repeat(3) {
            taken.push(guards.enter(country, TransactionName::Rad75, caller).await.expect("a permit"));
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
        for caller in 0..5 {
            let guards = guards.clone();
            waiting.spawn(
                async move { guards.enter(country, TransactionName::Iti38, &caller.to_string()).await.map(drop) },
            );
        }
        tokio::task::yield_now().await;
        let sixth = guards.enter(country, TransactionName::Iti38, "sixth");
        let sixth = tokio::time::timeout(Duration::from_secs(10), sixth).await;
        assert!(matches!(sixth, Ok(Err(PeerError::Busy))), "five wait already");
        let other = Country::parse("SE").expect("a country");
        assert!(guards.enter(other, TransactionName::Iti38, "anna").await.is_ok());
        taken.pop();
        while let Some(waited) = waiting.join_next().await {
            assert!(waited.expect("ends").is_ok(), "one after the other");
        }
    }

    proptest! {
        /// SE-11: with any number of stalled readers of one caller another caller's call is served at once, and what is beyond
        /// its share the caller waits for alone.
        #[test]
        fn se_11_a_caller_leaves_permits_of_a_country_to_others(stalled in 0..40usize, read in 0..40usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime").block_on(async {
                let (guards, country) = guards(Duration::from_secs(5));
                let mut held = Vec::new();
                for _ in 0..stalled {
                    held.extend(guards.enter(country, TransactionName::Rad75, "hospital").await.ok());
                }
                prop_assert_eq!(held.len(), stalled.min(3));
                let mut waiting = tokio::task::JoinSet::new();
                for _ in 0..stalled {
                    let guards = guards.clone();
                    waiting.spawn(async move { guards.enter(country, TransactionName::Rad75, "hospital").await.map(drop) });
                }
                tokio::task::yield_now().await;
                for caller in ["anna", "berit"] {
                    let call = guards.enter(country, TransactionName::Iti38, caller);
                    prop_assert!(matches!(tokio::time::timeout(Duration::ZERO, call).await, Ok(Ok(_))), "{}", caller);
                }
                held.truncate(held.len().saturating_sub(read));
                let is_free = held.len() < 3;
                while let Some(waited) = waiting.join_next().await {
                    prop_assert_eq!(waited.expect("ends").is_ok(), is_free);
                }
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn sk_06_a_country_is_not_waited_for_without_end() {
        let (guards, country) = guards(Duration::from_millis(20));
        let _taken = all_taken(&guards, country).await;
        assert!(matches!(guards.enter(country, TransactionName::Iti38, "dag").await, Err(PeerError::Busy)));
    }

    /// SK-03: while a country is away nobody waits for it, and all ask it once somebody who looks for it found it.
    #[tokio::test]
    async fn sk_03_a_country_is_found_when_it_is_back() {
        let (guards, country) = guards(PATIENCE);
        // The pause is longer than the test: what opens the circuit again is that the country was found.
        let guards =
            Arc::new(Guards { pause: Duration::from_secs(3600), ..Arc::try_unwrap(guards).ok().expect("one") });
        let (found, looked) = watch::channel(false);
        let asks = async || guards.enter(country, TransactionName::Iti55, "anna").await;
        for _ in 0..2 {
            drop(asks().await.expect("is tried").answered::<()>(&Err(PeerError::Unreachable("gone".into()))));
            let looked = looked.clone();
            guards.seek(country, TransactionName::Iti55, move |sought| {
                let found = if *looked.borrow() { Found::There } else { Found::NotYet };
                async move { sought.into_iter().map(|transaction| (transaction, found)).collect() }
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

    fn unreachable() -> PeerError {
        PeerError::Unreachable("gone".into())
    }

    /// A country whose circuits opened for these transactions by an error, and which is looked for: each look is told, and
    /// finds what `found` says.
    async fn away(
        transactions: &[TransactionName],
        error: fn() -> PeerError,
        found: &watch::Receiver<Found>,
    ) -> (Arc<Guards>, Country, mpsc::UnboundedReceiver<Vec<TransactionName>>) {
        let (guards, country) = guards(PATIENCE);
        // What keeps calls away is that the country is looked for, and no pause.
        let guards = Arc::try_unwrap(guards).ok().expect("one");
        let guards = Arc::new(Guards { pause: Duration::ZERO, look: Duration::from_millis(1), ..guards });
        let (looks, looked) = mpsc::unbounded_channel();
        for transaction in transactions {
            for _ in 0..2 {
                let pass = guards.enter(country, *transaction, "anna").await.expect("is tried");
                drop(pass.answered::<()>(&Err(error())));
            }
            let (looks, found) = (looks.clone(), found.clone());
            guards.seek(country, *transaction, move |sought| {
                let found = *found.borrow();
                // Nobody listens after the end of a test.
                let _ = looks.send(sought.clone());
                async move { sought.into_iter().map(|transaction| (transaction, found)).collect() }
            });
        }
        (guards, country, looked)
    }

    /// SK-03: no clinician waits for a way that is known not to be there, however long it is away, and all are served once it
    /// is.
    #[tokio::test]
    async fn sk_03_no_call_probes_a_country_that_is_looked_for() {
        for error in [unreachable, || PeerError::Timeout, || PeerError::Http(502)] {
            let (tell, found) = watch::channel(Found::NotYet);
            let (guards, country, mut looks) = away(&[TransactionName::Iti55], error, &found).await;
            let asks = async || guards.enter(country, TransactionName::Iti55, "anna").await;
            for _ in 0..20 {
                assert!(matches!(asks().await, Err(PeerError::Open(after)) if !after.is_zero()), "{}", error());
                looks.recv().await.expect("goes on");
            }
            tell.send_replace(Found::There);
            while looks.recv().await.is_some() {}
            let all = [asks().await, asks().await];
            assert!(all.iter().all(Result::is_ok), "{}: not one alone", error());
        }
    }

    /// SK-03: a country that does not answer in time although its gateway is there at the first look fails behind it: its
    /// circuit probes by one call, as before.
    #[tokio::test]
    async fn sk_03_a_country_that_fails_behind_its_gateway_is_probed_by_one_call() {
        let (_tell, found) = watch::channel(Found::There);
        let timeout = || PeerError::Timeout;
        let (guards, country, mut looks) = away(&[TransactionName::Iti55], timeout, &found).await;
        while looks.recv().await.is_some() {}
        let asks = async || guards.enter(country, TransactionName::Iti55, "anna").await;
        let _probe = asks().await.expect("the pause is over");
        assert!(asks().await.is_err(), "one alone");
    }

    /// SK-03: where somebody says that nobody is behind him, calls probe as for a country that failed: a look that is never
    /// answered as calls are shuts nobody out.
    #[tokio::test]
    async fn sk_03_a_call_probes_a_country_whose_way_is_there() {
        let (_tell, found) = watch::channel(Found::NobodyBehind);
        let (guards, country, mut looks) = away(&[TransactionName::Iti55], unreachable, &found).await;
        let asks = async || guards.enter(country, TransactionName::Iti55, "anna").await;
        assert!(asks().await.is_err(), "nothing was found yet");
        for _ in 0..2 {
            looks.recv().await.expect("goes on");
        }
        let pass = asks().await.expect("probes");
        assert!(asks().await.is_err(), "one alone");
        drop(pass.answered(&Ok(())));
        assert!(asks().await.is_ok());
    }

    /// SK-03: the looks are few: one for all transactions, seldom after two minutes, none for a country that nobody asks.
    #[tokio::test]
    async fn sk_03_a_country_is_looked_for_once_and_not_for_ever() {
        let (_tell, found) = watch::channel(Found::NotYet);
        let both = [TransactionName::Iti55, TransactionName::Rad75];
        let (_guards, _country, mut looks) = away(&both, unreachable, &found).await;
        for _ in 0..3 {
            assert_eq!(looks.recv().await.expect("goes on"), both);
        }
        let since = Instant::now();
        let after = |asked: u64, now: u64| {
            let at = |seconds| since + Duration::from_secs(seconds);
            Sought { ways: BTreeMap::new(), since, asked: at(asked) }.pause(LOOK, at(now))
        };
        assert_eq!((after(0, 0), after(0, 119)), (Some(LOOK), Some(LOOK)));
        assert_eq!((after(0, 120), after(3600, 3700)), (Some(SELDOM), Some(SELDOM)));
        assert_eq!((after(0, 300), after(3600, 3900)), (None, None));
    }
}
