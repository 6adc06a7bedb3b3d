//! Fetches in the background: each has a task of its own, so that an address that does not answer holds back neither the
//! others nor a reload.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Fetches at once. Each may hold the bytes of a CRL.
const AT_ONCE: usize = 8;
/// The longest pause before what failed is fetched again.
const AGAIN: Duration = Duration::from_secs(60);

/// The fetch failed and has said why. What was fetched before stays.
pub(super) struct Failed;

/// What is fetched again and again, by its name.
pub(super) struct Fetching<T> {
    /// When each is due; none: it is being fetched.
    due: BTreeMap<String, Option<Instant>>,
    tasks: JoinSet<(String, Duration, Result<T, Failed>)>,
    turns: Arc<Semaphore>,
}

impl<T: Send + 'static> Fetching<T> {
    pub(super) fn new() -> Self {
        Self { due: BTreeMap::new(), tasks: JoinSet::new(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Begins a fetch that is due, and again `every` so often.
    pub(super) fn begin<F>(&mut self, what: String, every: Duration, fetch: impl FnOnce() -> F)
    where
        F: Future<Output = Result<T, Failed>> + Send + 'static,
    {
        if !self.is_due(&what) {
            return;
        }
        self.due.insert(what.clone(), None);
        let (turns, fetch) = (self.turns.clone(), fetch());
        self.tasks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            (what, every, fetch.await)
        });
    }

    /// Whether something that takes no time is due now; it is due again after `every`.
    pub(super) fn is_due_again(&mut self, what: &str, every: Duration) -> bool {
        let is_due = self.is_due(what);
        if is_due {
            self.due.insert(what.to_owned(), Some(Instant::now() + every));
        }
        is_due
    }

    fn is_due(&self, what: &str) -> bool {
        match self.due.get(what) {
            None => true,
            Some(due) => due.is_some_and(|due| due <= Instant::now()),
        }
    }

    /// What has come since the last call.
    pub(super) fn ended(&mut self) -> Vec<T> {
        let mut out = Vec::new();
        while let Some(ended) = self.tasks.try_join_next() {
            let Ok((what, every, fetched)) = ended else { continue };
            let pause = if fetched.is_ok() { every } else { every.min(AGAIN) };
            self.due.insert(what, Some(Instant::now() + pause.max(Duration::from_secs(1))));
            out.extend(fetched.ok());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settled<T: Send + 'static>(fetching: &mut Fetching<T>) -> Vec<T> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        fetching.ended()
    }

    /// SE-14: what does not answer holds nobody else back, and is not begun twice.
    #[tokio::test(start_paused = true)]
    async fn se_14_an_address_that_does_not_answer_holds_no_other_back() {
        let mut fetching = Fetching::new();
        let hour = Duration::from_secs(3600);
        for _ in 0..3 {
            for number in 0..AT_ONCE - 1 {
                fetching.begin(format!("hangs {number}"), hour, std::future::pending);
            }
            fetching.begin("answers".into(), hour, || async { Ok("answer") });
        }
        assert_eq!(settled(&mut fetching).await, ["answer"]);
        assert_eq!(fetching.tasks.len(), AT_ONCE - 1, "each is fetched once at a time");
        tokio::time::advance(hour).await;
        fetching.begin("answers".into(), hour, || async { Ok("again") });
        assert_eq!(settled(&mut fetching).await, ["again"]);
    }

    /// SE-14: a failure is tried again after a minute, whatever the pause between two that succeed.
    #[tokio::test(start_paused = true)]
    async fn se_14_what_failed_is_fetched_again_soon() {
        let mut fetching = Fetching::<()>::new();
        let begun = |fetching: &mut Fetching<()>| {
            fetching.begin("fails".into(), Duration::from_secs(3600), || async { Err(Failed) });
            fetching.tasks.len()
        };
        assert_eq!(begun(&mut fetching), 1);
        assert!(settled(&mut fetching).await.is_empty());
        assert_eq!(begun(&mut fetching), 0);
        tokio::time::advance(AGAIN).await;
        assert_eq!(begun(&mut fetching), 1);
    }
}
