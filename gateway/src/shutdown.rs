//! Stop order: readiness off, stop accepting, let what is open finish within the grace, flush the spool, close. Open are
//! connections until their last byte has gone and exchanges until their outcome is on the trail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Tells everybody that we stop, and counts what is still open.
#[derive(Clone)]
pub struct Drain {
    stop: watch::Sender<bool>,
    open: Arc<Open>,
    ready: Arc<AtomicBool>,
}

#[derive(Default)]
struct Open {
    count: AtomicUsize,
    none_left: Notify,
}

/// Something that is open; dropping it closes it.
pub struct Held(Arc<Open>);

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { stop: watch::Sender::new(false), open: Arc::default(), ready: Arc::default() }
    }
}

impl Drain {
    /// The end waits for the guard to be dropped.
    pub fn hold(&self) -> Held {
        self.open.count.fetch_add(1, Ordering::AcqRel);
        Held(self.open.clone())
    }

    /// Connections and exchanges open now.
    pub fn open(&self) -> usize {
        self.open.count.load(Ordering::Acquire)
    }

    /// Everything is wired and listening.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether a load balancer may send exchanges here.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !*self.stop.borrow()
    }

    /// Resolves when we stop.
    pub async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|stopping| *stopping).await;
    }

    /// Begins to stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for what is open, at most `grace`; true when none is left.
    pub async fn drained(&self, grace: Duration) -> bool {
        let wait = async {
            loop {
                let notified = self.open.none_left.notified();
                if self.open() == 0 {
                    return;
                }
                // A count that fell between the look and the wait is seen at the next tick.
                let _ = tokio::time::timeout(Duration::from_millis(100), notified).await;
            }
        };
        tokio::time::timeout(grace, wait).await.is_ok()
    }
}

/// Resolves at SIGTERM or SIGINT; both are caught from the call on.
///
/// # Errors
/// The operating system's.
pub fn signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_open_exchanges() {
        let drain = Drain::default();
        drain.set_ready();
        let open = drain.hold();
        assert!(drain.is_ready());
        drain.stop();
        assert!(!drain.is_ready());
        assert!(!drain.drained(Duration::from_millis(20)).await);
        drop(open);
        assert!(drain.drained(Duration::from_secs(2)).await);
    }
}
