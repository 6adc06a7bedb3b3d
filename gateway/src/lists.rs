//! Memory for lists of documents: what registries and other countries list of a patient is kept while an answer is made of it
//! and written, and grows with the patient's documents, not with the request. Each list takes from one budget as it grows.
//!
//! A list for which the budget has no memory waits for a short time; after that its caller is told that the gateway is busy.

use std::sync::Arc;
use std::time::Duration;

use ncp_ihe::DocumentEntry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit.
const UNIT: usize = 1 << 10;
/// The first bytes of a list take nothing from the budget: a list of some dozens of documents never waits for a long one.
const FREE: usize = 256 << 10;
/// How long a list waits for memory.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The budget of all lists.
#[derive(Debug, Clone)]
pub struct Lists {
    units: Arc<Semaphore>,
    patience: Duration,
}

/// The budget has no memory for this list now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Lists {
    /// A budget of so many bytes, for which a list waits so long.
    pub fn new(bytes: usize, patience: Duration) -> Self {
        Self { units: Arc::new(Semaphore::new((bytes / UNIT).min(Semaphore::MAX_PERMITS))), patience }
    }

    /// The share of a list that begins.
    pub fn begin(&self) -> Share {
        Share { of: Some(self.clone()), used: 0, taken: 0, permit: None }
    }
}

/// What one list has taken from the budget; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Share {
    of: Option<Lists>,
    /// Bytes that the list uses.
    used: usize,
    /// Permits.
    taken: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// What an entry takes while an answer is made of it: lists are moved, and for that time they stand twice.
    pub fn of(entry: &DocumentEntry) -> usize {
        entry.memory() + size_of::<DocumentEntry>()
    }

    /// Takes so many bytes more, at once.
    ///
    /// # Errors
    /// [`Busy`]: other lists have them.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Busy> {
        if let Some((lists, more)) = self.wanted(bytes)? {
            let permit = lists.units.try_acquire_many_owned(more).map_err(|_| Busy)?;
            self.add(permit, more);
        }
        Ok(())
    }

    /// Takes so many bytes more, and waits for them.
    ///
    /// # Errors
    /// [`Busy`]: other lists have them for longer than is waited.
    pub async fn grown(&mut self, bytes: usize) -> Result<(), Busy> {
        if let Some((lists, more)) = self.wanted(bytes)? {
            let waited = tokio::time::timeout(lists.patience, lists.units.acquire_many_owned(more));
            let permit = waited.await.map_err(|_| Busy)?.map_err(|_| Busy)?;
            self.add(permit, more);
        }
        Ok(())
    }

    /// Permits that are missing for so many bytes more.
    fn wanted(&mut self, bytes: usize) -> Result<Option<(Lists, u32)>, Busy> {
        let Some(of) = &self.of else { return Ok(None) };
        self.used = self.used.saturating_add(bytes);
        let more = self.used.saturating_sub(FREE).div_ceil(UNIT).saturating_sub(self.taken);
        let more = u32::try_from(more).map_err(|_| Busy)?;
        Ok((more > 0).then(|| (of.clone(), more)))
    }

    fn add(&mut self, permit: OwnedSemaphorePermit, more: u32) {
        self.taken += more as usize;
        match &mut self.permit {
            Some(known) => known.merge(permit),
            None => self.permit = Some(permit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sk_07_a_list_waits_for_memory_and_is_told_busy() {
        let lists = Lists::new(1 << 20, Duration::ZERO);
        let (mut one, mut other, mut small) = (lists.begin(), lists.begin(), lists.begin());
        assert_eq!(one.grown(FREE + (900 << 10)).await, Ok(()));
        assert_eq!((other.grow(FREE), other.grow(200 << 10)), (Ok(()), Err(Busy)));
        assert_eq!(small.grow(FREE), Ok(()), "a short list never waits");
        let mut third = lists.begin();
        assert_eq!(third.grown(FREE + (200 << 10)).await, Err(Busy), "nobody gave anything back");
        let mut fourth = Lists { patience: Duration::from_secs(600), ..lists.clone() }.begin();
        let waiting = tokio::spawn(async move { fourth.grown(FREE + (200 << 10)).await });
        tokio::task::yield_now().await;
        drop(one);
        assert_eq!(waiting.await.expect("ends"), Ok(()));
        drop((other, third, small));
        assert_eq!(lists.units.available_permits(), 1024, "all comes back");
        assert_eq!(lists.begin().grown(usize::MAX).await, Err(Busy));
    }
}
