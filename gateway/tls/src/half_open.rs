//! Connections whose handshake is not done. Nobody knows who is at the other end, so nobody is kept waiting for another: a
//! new one always has its permit, and where there are too many the oldest of the network that has most of them ends.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::shares::network;

/// The half-open connections of a listener.
pub(crate) struct HalfOpen {
    all: usize,
    of_network: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: usize,
    last: u64,
    /// Oldest first; dropping the sender ends the handshake.
    by_network: BTreeMap<IpAddr, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// A handshake that is under way; dropping it gives its permit back.
pub(crate) struct UnderWay {
    half_open: Arc<HalfOpen>,
    network: IpAddr,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl HalfOpen {
    /// So many at once, and at most so many of them of one network.
    pub(crate) fn new(all: usize, of_network: usize) -> Arc<Self> {
        Arc::new(Self { all, of_network, open: Mutex::default() })
    }

    /// Counts a new connection; an older one ends where there are too many.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> UnderWay {
        let network = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last += 1;
        open.count += 1;
        let (number, (goes_on, ended)) = (open.last, oneshot::channel());
        let own = open.by_network.entry(network).or_default();
        own.push_back((number, goes_on));
        if own.len() > self.of_network {
            open.end_oldest(network);
        } else if open.count > self.all {
            let most = open.by_network.iter().max_by_key(|(_, own)| own.len());
            let most = most.map_or(network, |(most, _)| *most);
            open.end_oldest(most);
        }
        UnderWay { half_open: self.clone(), network, number, ended }
    }
}

impl Open {
    fn end_oldest(&mut self, network: IpAddr) {
        if let Some((oldest, _)) = self.by_network.get(&network).and_then(VecDeque::front) {
            self.remove(network, *oldest);
        }
    }

    fn remove(&mut self, network: IpAddr, number: u64) {
        let Some(own) = self.by_network.get_mut(&network) else { return };
        let Some(at) = own.iter().position(|(known, _)| *known == number) else { return };
        own.remove(at);
        self.count -= 1;
        if own.is_empty() {
            self.by_network.remove(&network);
        }
    }
}

impl UnderWay {
    /// Resolves when this one has to end for the sake of a new one.
    pub(crate) async fn ended(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.half_open.open.lock().unwrap_or_else(PoisonError::into_inner).remove(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One host that comes again and again among many.
    fn hosts() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0), 0..40u8]
    }

    proptest! {
        /// SE-17's property: whatever half-open connections come, the bounds hold, and one of a network that has no more than
        /// its part of the whole never ends for the sake of another network's.
        #[test]
        fn se_17_half_open_connections_end_by_network(hosts in prop::collection::vec(hosts(), 1..300)) {
            let (all, each) = (32, 12);
            let half_open = HalfOpen::new(all, each);
            let mut under_way: Vec<(u8, UnderWay)> = Vec::new();
            for host in hosts {
                let own = under_way.iter().filter(|(of, _)| *of == host).count();
                let networks = under_way.iter().map(|(of, _)| *of).chain([host]).collect::<std::collections::BTreeSet<_>>().len();
                under_way.push((host, half_open.enter(IpAddr::from([192, 0, 2, host]))));
                let before = under_way.len();
                let mut ended = Vec::new();
                under_way.retain_mut(|(of, one)| match one.ended.try_recv() {
                    Err(oneshot::error::TryRecvError::Closed) => { ended.push(*of); false }
                    _ => true,
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
    }
}
