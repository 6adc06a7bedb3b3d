//! What a listener carries at once, and whose part of it is how large.
//!
//! A permit is made from the proof that its caller is authenticated, so that nobody unknown takes what all share. An address
//! is no proof:
//!
//! ```compile_fail,E0277
//! async fn enters(capacity: &ncp_gateway::admission::Capacity, address: std::net::IpAddr) {
//!     capacity.enter(&address).await;
//! }
//! ```
//!
//! and the proof is made by whoever checked, alone:
//!
//! ```compile_fail,E0451
//! fn forged(address: std::net::SocketAddr) -> ncp_gateway::clinician::Authenticated {
//!     ncp_gateway::clinician::Authenticated { subject: "hpr-1".into(), address }
//! }
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ncp_tls::{Shares, network};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a call waits for a permit. A burst passes within that; who is told "busy" after it is not kept waiting for nothing.
const PATIENCE: Duration = Duration::from_secs(3);
/// When somebody whose call found no permit is told to come again.
pub const AGAIN: Duration = Duration::from_secs(5);

/// The proof that a caller is authenticated. Only what was checked has it: a connection whose certificate is good, a call
/// whose token is.
pub trait Authenticated {
    /// Under what the caller has its share.
    fn subject(&self) -> String;
    /// Where it calls from.
    fn address(&self) -> IpAddr;
}

/// The permits of a listener.
pub struct Capacity {
    all: Arc<Semaphore>,
    subjects: Shares<String>,
    networks: Shares<IpAddr>,
    patience: Duration,
}

/// A call's permit, kept until the last byte of its answer has gone.
pub struct Permit {
    _parts: [OwnedSemaphorePermit; 3],
}

impl Capacity {
    /// So many permits in all, for one caller, and for one network.
    pub fn new(all: usize, of_subject: usize, of_network: usize) -> Self {
        let (subjects, networks) = (Shares::new(of_subject), Shares::new(of_network));
        Self { all: Arc::new(Semaphore::new(all.max(1))), subjects, networks, patience: PATIENCE }
    }

    /// A permit, waited for a short time. What a caller may not take of all, it waits for alone.
    pub async fn enter(&self, caller: &impl Authenticated) -> Option<Permit> {
        let entering = async {
            let subject = self.subjects.wait(caller.subject()).await?;
            let network = self.networks.wait(network(caller.address())).await?;
            Some(Permit { _parts: [subject, network, self.all.clone().acquire_owned().await.ok()?] })
        };
        tokio::time::timeout(self.patience, entering).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Known(&'static str, u8);

    impl Authenticated for Known {
        fn subject(&self) -> String {
            self.0.into()
        }
        fn address(&self) -> IpAddr {
            IpAddr::from([192, 0, 2, self.1])
        }
    }

    async fn at_once(capacity: &Capacity, known: &Known) -> Option<Permit> {
        tokio::time::timeout(Duration::ZERO, capacity.enter(known)).await.ok().flatten()
    }

    proptest! {
        /// Whatever one subject and one network take, and wait for, another's call has its permit at once.
        #[test]
        fn se_04_a_share_leaves_others_their_own(calls in prop::collection::vec((0..3usize, 0..2u8), 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            runtime.block_on(async {
                let capacity = Arc::new(Capacity::new(40, 8, 16));
                let mut waiting = tokio::task::JoinSet::new();
                let (mut taken, mut of_host) = (Vec::new(), [0; 2]);
                for (subject, host) in calls {
                    let known = Known(["a", "b", "c"][subject], host);
                    match at_once(&capacity, &known).await {
                        Some(permit) => {
                            taken.push(permit);
                            of_host[usize::from(host)] += 1;
                        }
                        None => {
                            let capacity = capacity.clone();
                            waiting.spawn(async move { capacity.enter(&known).await });
                        }
                    }
                    tokio::task::yield_now().await;
                }
                assert!(taken.len() <= 24 && of_host.iter().all(|taken| *taken <= 16));
                assert!(at_once(&capacity, &Known("another", 9)).await.is_some());
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sk_06_a_permit_is_waited_for_and_not_for_ever() {
        let short = Capacity { patience: Duration::from_millis(20), ..Capacity::new(1, 1, 1) };
        let _taken = short.enter(&Known("a", 1)).await.expect("a permit");
        assert!(short.enter(&Known("b", 2)).await.is_none());

        let long = Arc::new(Capacity { patience: Duration::from_secs(600), ..Capacity::new(1, 1, 1) });
        let first = long.enter(&Known("a", 1)).await.expect("a permit");
        let waits = tokio::spawn({
            let long = long.clone();
            async move { long.enter(&Known("b", 2)).await.is_some() }
        });
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(599)).await;
        drop(first);
        assert!(waits.await.expect("ends"));
    }
}
