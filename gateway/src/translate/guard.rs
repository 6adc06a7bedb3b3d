//! A terminology service that hangs must not cost every call its deadline: after a few calls that it did not answer it is
//! not asked, and looked for in the background, until it answers. What it was not asked goes on untranslated, said so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::Code;

use super::TranslationError;
use crate::circuit::{Circuit, Outcome};

/// Calls without an answer in a row.
const FAILURES: u32 = 3;
/// How often the service is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The circuit of the service.
pub(super) struct Guard {
    circuit: Mutex<Circuit>,
    look: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self::new(LOOK)
    }
}

impl Guard {
    /// Looks so often.
    fn new(look: Duration) -> Self {
        Self { circuit: Mutex::new(Circuit::new(FAILURES, look)), look }
    }

    /// Makes a call while the service answers. When it no longer does, `look` is made in the background until that is
    /// answered, and nobody waits for the service meanwhile.
    ///
    /// # Errors
    /// The call's; [`TranslationError::NotAsked`] while the service is looked for.
    pub(super) async fn call<T, Looking>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, TranslationError>>,
        look: impl Fn() -> Looking + Send + 'static,
    ) -> Result<T, TranslationError>
    where
        Looking: Future<Output = Result<(), TranslationError>> + Send + 'static,
    {
        if self.circuit().is_unreachable() {
            return Err(TranslationError::NotAsked);
        }
        let result = work.await;
        let outcome = outcome(&result);
        let mut circuit = self.circuit();
        let was_closed = !circuit.is_unreachable();
        circuit.tell(outcome, Instant::now());
        if was_closed && circuit.is_unreachable() {
            tracing::warn!("the terminology service does not answer: it is not asked until it does");
            tokio::spawn(self.clone().seek(look));
        }
        drop(circuit);
        result
    }

    async fn seek<Looking>(self: Arc<Self>, look: impl Fn() -> Looking)
    where
        Looking: Future<Output = Result<(), TranslationError>>,
    {
        loop {
            tokio::time::sleep(self.look).await;
            if outcome(&look().await) == Outcome::Answered {
                self.circuit().reached();
                tracing::info!("the terminology service answers again");
                return;
            }
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer, whatever it says, shows that the service is there.
fn outcome<T>(result: &Result<T, TranslationError>) -> Outcome {
    match result {
        Err(TranslationError::Deadline) => Outcome::Unreachable,
        Err(TranslationError::Status(Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)) => {
            Outcome::Unreachable
        }
        _ => Outcome::Answered,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    /// A service that may hang; calls and looks are counted apart.
    #[derive(Default)]
    struct Service {
        hangs: AtomicBool,
        calls: AtomicU32,
        looks: AtomicU32,
    }

    impl Service {
        async fn answer(&self, count: &AtomicU32) -> Result<(), TranslationError> {
            count.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) { Err(TranslationError::Deadline) } else { Ok(()) }
        }
    }

    async fn call(guard: &Arc<Guard>, service: &Arc<Service>) -> Result<(), TranslationError> {
        let looked_at = service.clone();
        let look = move || {
            let service = looked_at.clone();
            async move { service.answer(&service.looks).await }
        };
        guard.call(service.answer(&service.calls), look).await
    }

    #[tokio::test]
    async fn sk_11_a_service_that_hangs_is_skipped_and_looked_for() {
        let (guard, service) = (Arc::new(Guard::new(Duration::from_millis(1))), Arc::new(Service::default()));
        assert!(call(&guard, &service).await.is_ok());
        service.hangs.store(true, Ordering::SeqCst);
        for _ in 0..FAILURES {
            assert!(matches!(call(&guard, &service).await, Err(TranslationError::Deadline)));
        }
        let calls = service.calls.load(Ordering::SeqCst);
        // However often it was looked for in vain, no call pays for a look.
        while service.looks.load(Ordering::SeqCst) < 5 {
            assert!(matches!(call(&guard, &service).await, Err(TranslationError::NotAsked)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(service.calls.load(Ordering::SeqCst), calls);
        service.hangs.store(false, Ordering::SeqCst);
        while call(&guard, &service).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(call(&guard, &service).await.is_ok(), "by everybody");
        let looks = service.looks.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(service.looks.load(Ordering::SeqCst), looks, "and not looked for any more");
    }

    #[tokio::test]
    async fn sk_11_an_error_is_an_answer() {
        let guard = Arc::new(Guard::default());
        for _ in 0..100 {
            let refused = async { Err::<(), _>(TranslationError::Status(Code::InvalidArgument)) };
            let result = guard.call(refused, || async { Ok(()) }).await;
            assert!(matches!(result, Err(TranslationError::Status(_))));
        }
    }
}
