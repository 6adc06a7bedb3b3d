//! The connections of a listener. While nobody knows who is at the other end of one, nobody is kept waiting for it: a new
//! connection has its permit, and where there are too many the oldest of those ends that no authenticated caller has used, of
//! the network that has most of them. Only where authenticated callers have all permits, or all of the network, a new
//! connection is turned away.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::shares::network;

/// Lines of the log are so far apart at least.
const APART: Duration = Duration::from_secs(1);

static HALF_OPEN: AtomicU64 = AtomicU64::new(0);
static UNKNOWN: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// How many connections ended for the sake of others since this program started, all listeners together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GaveWay {
    /// Before their handshake was done.
    pub half_open: u64,
    /// Before they carried an authenticated request.
    pub unknown: u64,
    /// At once, since authenticated callers had all permits.
    pub refused: u64,
}

impl GaveWay {
    /// The counts from the start of this program until now.
    pub fn so_far() -> Self {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self { half_open: of(&HALF_OPEN), unknown: of(&UNKNOWN), refused: of(&REFUSED) }
    }
}

/// The connections of a listener, or those whose handshake is under way.
pub(crate) struct Connections {
    all: usize,
    of_network: usize,
    ended: &'static AtomicU64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: usize,
    last: u64,
    by_network: BTreeMap<IpAddr, Network>,
    told: Told,
}

/// Dropping a sender ends its connection.
#[derive(Default)]
struct Network {
    /// No authenticated caller has used them; oldest first.
    unknown: VecDeque<(u64, oneshot::Sender<()>)>,
    known: BTreeMap<u64, oneshot::Sender<()>>,
}

/// What the log has not been told yet, and when it was told last.
#[derive(Default)]
struct Told {
    ended: u64,
    refused: u64,
    last: Option<Instant>,
}

/// The permit of a connection; dropping it gives it back.
pub(crate) struct Permit {
    connection: OpenConnection,
    /// None once it has ended for the sake of another.
    goes_on: Option<oneshot::Receiver<()>>,
}

/// In the extensions of a request: the connection that carries it. Whoever authenticates the caller says so here, before
/// anything is waited for, since a connection that no authenticated caller has used gives way to new ones.
#[derive(Clone, Default)]
pub struct OpenConnection(Option<(Arc<Connections>, IpAddr, u64)>);

impl Connections {
    /// Half-open ones: so many at once, and at most so many of them of one network.
    pub(crate) fn half_open(all: usize, of_network: usize) -> Arc<Self> {
        Arc::new(Self { all, of_network: of_network.max(1), ended: &HALF_OPEN, open: Mutex::default() })
    }

    /// Those whose handshake is done.
    pub(crate) fn new(all: usize, of_network: usize) -> Arc<Self> {
        Arc::new(Self { all, of_network: of_network.max(1), ended: &UNKNOWN, open: Mutex::default() })
    }

    /// Counts a new connection; an older one that nobody has authenticated ends where there are too many.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        let network = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last += 1;
        open.count += 1;
        let (number, (sender, mut goes_on)) = (open.last, oneshot::channel());
        let own = open.by_network.entry(network).or_default();
        own.unknown.push_back((number, sender));
        if own.unknown.len() + own.known.len() > self.of_network {
            self.end_oldest(&mut open, network);
        } else if open.count > self.all {
            let oldest = |own: &Network| own.unknown.front().map(|(number, _)| std::cmp::Reverse(*number));
            let most = open.by_network.iter().max_by_key(|(_, own)| (own.unknown.len(), oldest(own)));
            let most = most.map_or(network, |(most, _)| *most);
            self.end_oldest(&mut open, most);
        }
        // The new one itself, where no other could give way.
        if matches!(goes_on.try_recv(), Err(oneshot::error::TryRecvError::Closed)) {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            open.told.refused += 1;
            open.told.tell();
            return None;
        }
        Some(Permit { connection: OpenConnection(Some((self.clone(), network, number))), goes_on: Some(goes_on) })
    }

    fn end_oldest(&self, open: &mut Open, network: IpAddr) {
        let oldest = open.by_network.get(&network).and_then(|own| own.unknown.front().map(|(oldest, _)| *oldest));
        let Some(oldest) = oldest else { return };
        open.remove(network, oldest);
        if oldest != open.last {
            self.ended.fetch_add(1, Ordering::Relaxed);
            open.told.ended += 1;
            open.told.tell();
        }
    }
}

impl Open {
    fn remove(&mut self, network: IpAddr, number: u64) {
        let Some(own) = self.by_network.get_mut(&network) else { return };
        let at = own.unknown.binary_search_by_key(&number, |(known, _)| *known);
        let is_removed = match at {
            Ok(at) => own.unknown.remove(at).is_some(),
            Err(_) => own.known.remove(&number).is_some(),
        };
        self.count -= usize::from(is_removed);
        if own.unknown.is_empty() && own.known.is_empty() {
            self.by_network.remove(&network);
        }
    }
}

impl Told {
    fn tell(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < APART) {
            return;
        }
        let (ended, refused) = (std::mem::take(&mut self.ended), std::mem::take(&mut self.refused));
        tracing::warn!(ended, refused, "connections without a known caller gave way, or found no permit");
        self.last = Some(Instant::now());
    }
}

impl Permit {
    /// Resolves when the connection has to end for the sake of a new one.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(goes_on) = &mut self.goes_on {
            // Nothing is ever sent: the sender is dropped.
            let _ = ready!(std::pin::Pin::new(goes_on).poll(cx));
            self.goes_on = None;
        }
        Poll::Ready(())
    }

    /// The connection, for its requests.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connection.clone()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let OpenConnection(Some((connections, network, number))) = &self.connection {
            connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(*network, *number);
        }
    }
}

impl std::fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenConnection")
    }
}

impl OpenConnection {
    /// The caller is authenticated: from here on the connection does not give way to others.
    pub fn authenticated(&self) {
        let Some((connections, network, number)) = &self.0 else { return };
        let mut open = connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = open.by_network.get_mut(network) else { return };
        // It is not there when it is known already, or has ended.
        let Ok(at) = own.unknown.binary_search_by_key(number, |(unknown, _)| *unknown) else { return };
        own.known.extend(own.unknown.remove(at));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// One host that comes again and again among many.
    fn hosts() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0), 0..40u8]
    }

    fn address(host: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, host])
    }

    fn has_ended(permit: &mut Permit) -> bool {
        permit.poll_ended(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    proptest! {
        /// SE-17's property: whatever half-open connections come, the bounds hold, and one of a network that has no more than
        /// its part of the whole never ends for the sake of another network's.
        #[test]
        fn se_17_half_open_connections_end_by_network(hosts in prop::collection::vec(hosts(), 1..300)) {
            let (all, each) = (32, 12);
            let half_open = Connections::half_open(all, each);
            let mut under_way: Vec<(u8, Permit)> = Vec::new();
            for host in hosts {
                let own = under_way.iter().filter(|(of, _)| *of == host).count();
                let networks = under_way.iter().map(|(of, _)| *of).chain([host]).collect::<BTreeSet<_>>().len();
                under_way.push((host, half_open.enter(address(host)).expect("a new one has its permit")));
                let before = under_way.len();
                let mut ended = Vec::new();
                under_way.retain_mut(|(of, one)| {
                    let is_over = has_ended(one);
                    ended.extend(is_over.then_some(*of));
                    !is_over
                });
                prop_assert!(before - under_way.len() <= 1);
                prop_assert!(under_way.len() <= all);
                prop_assert!(under_way.iter().filter(|(of, _)| *of == host).count() <= each);
                for of in ended {
                    let left = under_way.iter().filter(|(known, _)| *known == of).count();
                    prop_assert!(of == host && own >= each || left + 1 > all / networks, "{left} left of {networks}");
                }
                prop_assert_eq!(half_open.open.lock().expect("a lock").count, under_way.len());
            }
            drop(under_way);
            prop_assert!(half_open.open.lock().expect("a lock").by_network.is_empty());
        }

        /// SE-17's property: whatever authenticated callers take and give back, a network with none of its own finds a permit as
        /// long as the others together have not taken all; and nobody has more than its share.
        #[test]
        fn se_17_no_network_takes_anothers_share(steps in prop::collection::vec((0..4u8, any::<bool>()), 0..200)) {
            let connections = Connections::new(32, 8);
            let mut taken: Vec<Vec<Permit>> = (0..4).map(|_| Vec::new()).collect();
            for (host, takes) in steps {
                let own = &mut taken[usize::from(host)];
                match takes {
                    true => match connections.enter(address(host)) {
                        Some(permit) => {
                            permit.connection().authenticated();
                            own.push(permit);
                        }
                        None => prop_assert_eq!(own.len(), 8),
                    },
                    false => drop(own.pop()),
                }
                prop_assert!(own.len() <= 8);
            }
            let all: usize = taken.iter().map(Vec::len).sum();
            prop_assert_eq!(connections.enter(address(100)).is_some(), all < 32);
            prop_assert!(taken.iter_mut().flatten().all(|permit| !has_ended(permit)));
        }

        /// SE-04's property: any number of connections without a token leaves another caller's call good. Whatever strangers
        /// open, of whatever networks, the caller's own included, and whoever else was authenticated: a new connection has its
        /// permit, unless authenticated callers have all; and one that was authenticated ends for nobody.
        #[test]
        fn se_04_strangers_give_way_to_callers(
            before in prop::collection::vec((hosts(), any::<bool>()), 0..80),
            strangers in prop::collection::vec(hosts(), 0..200),
            caller in hosts(),
            after in prop::collection::vec(hosts(), 0..200),
        ) {
            let (all, each) = (32, 12);
            let connections = Connections::new(all, each);
            let (mut known, mut unknown) = (Vec::new(), Vec::new());
            for (host, is_known) in before {
                let permit = connections.enter(address(host));
                let Some(permit) = permit else { continue };
                if is_known {
                    permit.connection().authenticated();
                    known.push((host, permit));
                } else {
                    unknown.push(permit);
                }
            }
            let own = known.iter().filter(|(host, _)| *host == caller).count();
            unknown.extend(strangers.iter().filter_map(|host| connections.enter(address(*host))));
            let called = connections.enter(address(caller));
            prop_assert_eq!(called.is_some(), own < each && known.len() < all);
            if let Some(permit) = called {
                permit.connection().authenticated();
                // It is said again by each answer.
                permit.connection().authenticated();
                known.push((caller, permit));
            }
            unknown.extend(after.iter().filter_map(|host| connections.enter(address(*host))));
            prop_assert!(known.iter_mut().all(|(_, permit)| !has_ended(permit)));
            unknown.retain_mut(|permit| !has_ended(permit));
            prop_assert!(known.len() + unknown.len() <= all);
            prop_assert_eq!(connections.open.lock().expect("a lock").count, known.len() + unknown.len());
            let gone = known.first().map(|(_, permit)| permit.connection());
            drop((known, unknown));
            // Its connection is gone.
            gone.unwrap_or_default().authenticated();
            prop_assert!(connections.open.lock().expect("a lock").by_network.is_empty());
        }
    }
}
