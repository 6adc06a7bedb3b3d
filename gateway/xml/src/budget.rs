//! The memory that reading takes: a bound for one document, counted while its tree grows, and one for all messages that
//! are being read at a time.
//!
//! What is counted is what is allocated, whatever it is for, so that nothing in a document is free: a bound on numbers of
//! things (elements, depth) bounds no memory when a thing may be made larger.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Memory of messages that are being read. A message takes from it as it grows and gives back when its [`Charge`] is
/// dropped. No sender has more than a share of it, so that others are read while one sends all that it may.
#[derive(Debug)]
pub struct InFlight {
    most: AtomicUsize,
    /// Per cent of it for one sender.
    share: AtomicUsize,
    taken: Mutex<Taken>,
}

/// What is taken now: of all senders, and of each that has some.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: BTreeMap<String, usize>,
}

/// The budget of what others ask of this process.
pub static REQUESTS: InFlight = InFlight::new(384 << 20, 40);
/// The budget of what others answer to it, apart: whoever asks much takes nothing from those who wait for answers.
pub static ANSWERS: InFlight = InFlight::new(384 << 20, 40);

/// There is no memory for this message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl From<Busy> for XmlError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl InFlight {
    /// A budget of so many bytes, with so many per cent of them for one sender.
    pub const fn new(most: usize, share: usize) -> Self {
        let taken = Mutex::new(Taken { all: 0, of: BTreeMap::new() });
        Self { most: AtomicUsize::new(most), share: AtomicUsize::new(share), taken }
    }

    /// Sets how many bytes there are, and the share of one sender, from the configuration.
    pub fn set(&self, most: usize, share: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.share.store(share, Ordering::Relaxed);
    }

    /// How many one sender may have.
    pub fn share(&self) -> usize {
        let (most, share) = (self.most.load(Ordering::Relaxed), self.share.load(Ordering::Relaxed));
        most / 100 * share + most % 100 * share / 100
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// An empty charge of a message that begins, for the share of its sender: a country, or a system.
    pub fn charge(&'static self, sender: &str) -> Charge {
        self.charge_each([sender.to_owned()])
    }

    /// An empty charge for the share of each of several: a country and a person, say.
    pub fn charge_each(&'static self, senders: impl Into<Box<[String]>>) -> Charge {
        Charge { of: self, senders: senders.into(), taken: 0, used: 0 }
    }

    fn take(&self, senders: &[String], wanted: usize) -> Result<(), Busy> {
        let (most, share) = (self.most.load(Ordering::Relaxed), self.share());
        let mut taken = self.lock();
        let fits = |taken: usize, most: usize| taken.checked_add(wanted).filter(|taken| *taken <= most).ok_or(Busy);
        let all = fits(taken.all, most)?;
        for sender in senders {
            fits(taken.of.get(sender).copied().unwrap_or_default(), share)?;
        }
        taken.all = all;
        for sender in senders {
            *taken.of.entry(sender.clone()).or_default() += wanted;
        }
        Ok(())
    }

    fn give_back(&self, senders: &[String], bytes: usize) {
        let mut taken = self.lock();
        taken.all = taken.all.saturating_sub(bytes);
        for sender in senders {
            if let Some(own) = taken.of.get_mut(sender) {
                *own = own.saturating_sub(bytes);
                if *own == 0 {
                    taken.of.remove(sender);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one message has taken from the budget, and from the share of its sender.
#[derive(Debug)]
pub struct Charge {
    of: &'static InFlight,
    senders: Box<[String]>,
    taken: usize,
    used: usize,
}

/// Bytes that a message takes at a time.
const STEP: usize = 64 << 10;

impl Charge {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`Busy`]: others have them, or other messages of the same sender. What was taken before stays taken until the charge is dropped.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Busy> {
        self.cover(self.used.saturating_add(bytes))
    }

    /// What the message uses now, all together.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Sets what is used from now on, of what was taken; the rest is given back.
    pub fn settle(&mut self, used: usize) {
        let kept = used.checked_next_multiple_of(STEP).unwrap_or(usize::MAX).min(self.taken);
        self.of.give_back(&self.senders, self.taken - kept);
        (self.taken, self.used) = (kept, used.min(kept));
    }

    /// Sets what the message uses now; what is taken never shrinks before the message ends.
    pub(crate) fn cover(&mut self, used: usize) -> Result<(), Busy> {
        if used > self.taken {
            let wanted = used.checked_next_multiple_of(STEP).ok_or(Busy)? - self.taken;
            self.of.take(&self.senders, wanted)?;
            self.taken += wanted;
        }
        self.used = used;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.give_back(&self.senders, self.taken);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_taken_comes_back_with_the_charge() {
        static BUDGET: InFlight = InFlight::new(1 << 20, 100);
        let (mut one, mut other) = (BUDGET.charge("a"), BUDGET.charge("b"));
        assert_eq!(one.grow(700 << 10), Ok(()));
        assert_eq!(other.grow(400 << 10), Err(Busy));
        drop(other);
        assert_eq!(BUDGET.taken(), 704 << 10);
        let mut third = BUDGET.charge("a");
        assert_eq!(third.grow(300 << 10), Ok(()));
        drop(one);
        assert_eq!(third.grow(700 << 10), Ok(()));
        assert_eq!(third.grow(usize::MAX), Err(Busy));
        drop(third);
        assert_eq!(BUDGET.taken(), 0);
        assert!(BUDGET.lock().of.is_empty(), "who has nothing is forgotten");
    }

    #[test]
    fn se_07_each_of_several_has_a_share() {
        static BUDGET: InFlight = InFlight::new(100 * STEP, 40);
        let of = |senders: [&str; 2]| BUDGET.charge_each(senders.map(str::to_owned));
        let (mut one, mut other, mut third) = (of(["SE", "NO anna"]), of(["FI", "NO anna"]), of(["FI", "NO berit"]));
        assert_eq!((one.grow(30 * STEP), other.grow(20 * STEP)), (Ok(()), Err(Busy)), "one person, two countries");
        assert_eq!(third.grow(40 * STEP), Ok(()), "nothing is left of what was refused");
        one.settle(STEP + 1);
        assert_eq!(BUDGET.taken(), 42 * STEP);
        drop((one, other, third));
        assert!(BUDGET.taken() == 0 && BUDGET.lock().of.is_empty());
    }

    proptest! {
        /// SE-07 and SK-06: whatever two senders take and give back, neither has more than its share, and a third finds as
        /// much as the budget is meant to leave.
        #[test]
        fn se_07_no_sender_takes_anothers_share(steps in prop::collection::vec((0..2usize, 1..9usize, any::<bool>()), 0..60)) {
            static BUDGET: InFlight = InFlight::new(100 * STEP, 40);
            let mut held: [Vec<Charge>; 2] = Default::default();
            for (of, steps, takes) in steps {
                let own = &mut held[of];
                let before: usize = own.iter().map(|charge| charge.taken).sum();
                if takes {
                    let mut charge = BUDGET.charge(["a", "b"][of]);
                    prop_assert_eq!(charge.grow(steps * STEP).is_ok(), before + steps * STEP <= 40 * STEP);
                    own.push(charge);
                } else {
                    own.pop();
                }
            }
            let mut third = BUDGET.charge("c");
            prop_assert_eq!(third.grow(20 * STEP), Ok(()));
            prop_assert_eq!(BUDGET.charge("c").grow(21 * STEP), Err(Busy));
        }
    }
}
