//! The memory that reading takes: a bound for one document, counted while its tree grows, and one for all messages that
//! are being read at a time.
//!
//! What is counted is what is allocated, whatever it is for, so that nothing in a document is free: a bound on numbers of
//! things (elements, depth) bounds no memory when a thing may be made larger.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::XmlError;

/// How much memory the tree of one document may hold, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Of any document.
    pub base: usize,
    /// And for each byte that was read.
    pub per_byte: usize,
}

impl Held {
    pub(crate) fn most(self, read: usize) -> usize {
        self.base.saturating_add(self.per_byte.saturating_mul(read))
    }
}

/// Memory of all messages that are being read. A message takes from it as it grows and gives back when its [`Charge`] is
/// dropped.
#[derive(Debug)]
pub struct InFlight {
    most: AtomicUsize,
    taken: AtomicUsize,
}

/// The budget of this process.
pub static IN_FLIGHT: InFlight = InFlight::new(384 << 20);

/// There is no memory for this message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl From<Busy> for XmlError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl InFlight {
    /// A budget of so many bytes.
    pub const fn new(most: usize) -> Self {
        Self { most: AtomicUsize::new(most), taken: AtomicUsize::new(0) }
    }

    /// Sets how many bytes there are, from the configuration.
    pub fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// An empty charge of a message that begins.
    pub const fn charge(&'static self) -> Charge {
        Charge { of: self, taken: 0, used: 0 }
    }
}

/// What one message has taken from the budget.
#[derive(Debug)]
pub struct Charge {
    of: &'static InFlight,
    taken: usize,
    used: usize,
}

/// Bytes that a message takes at a time.
const STEP: usize = 64 << 10;

impl Charge {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`Busy`]: others have them. What was taken before stays taken until the charge is dropped.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Busy> {
        self.cover(self.used.saturating_add(bytes))
    }

    /// What the message uses now, all together.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Sets what the message uses now; what is taken never shrinks before the message ends.
    pub(crate) fn cover(&mut self, used: usize) -> Result<(), Busy> {
        self.used = used;
        if used <= self.taken {
            return Ok(());
        }
        let wanted = used.checked_next_multiple_of(STEP).ok_or(Busy)? - self.taken;
        let most = self.of.most.load(Ordering::Relaxed);
        let fits = |taken: usize| taken.checked_add(wanted).filter(|taken| *taken <= most);
        self.of.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|_| Busy)?;
        self.taken += wanted;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_with_the_charge() {
        static BUDGET: InFlight = InFlight::new(1 << 20);
        let (mut one, mut other) = (BUDGET.charge(), BUDGET.charge());
        assert_eq!(one.grow(700 << 10), Ok(()));
        assert_eq!(other.grow(400 << 10), Err(Busy));
        drop(other);
        assert_eq!(BUDGET.taken(), 704 << 10);
        let mut third = BUDGET.charge();
        assert_eq!(third.grow(300 << 10), Ok(()));
        drop(one);
        assert_eq!(third.grow(700 << 10), Ok(()));
        assert_eq!(third.grow(usize::MAX), Err(Busy));
        drop(third);
        assert_eq!(BUDGET.taken(), 0);
    }
}
