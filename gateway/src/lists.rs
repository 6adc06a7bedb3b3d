//! Memory for lists of documents: what registries and other countries list of a patient is kept while an answer is made of it
//! and written, and grows with the patient's documents, not with the request. Each list takes from one budget as it grows, those
//! of one country a share of it at most.
//!
//! A list that begins may wait for a short time; after that its caller is told that the gateway is busy. Who holds memory never
//! waits for more, so that no two lists wait for each other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ncp_ihe::DocumentEntry;
use ncp_tls::Country;
use ncp_xml::{Charge, InFlight};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The first bytes of a list take nothing from the budget: a list of some dozens of documents never waits for a long one.
const FREE: usize = 256 << 10;
/// How long a list waits for memory.
const PATIENCE: Duration = Duration::from_secs(3);

/// The budget of all lists.
pub static LISTS: Lists = Lists::new(128 << 20, 40);

/// A budget of lists.
#[derive(Debug)]
pub struct Lists {
    memory: InFlight,
    freed: Notify,
}

/// There is no memory for a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Now: other lists have it.
    Busy,
    /// Never: the list is longer than one country's share.
    TooLong,
}

impl Lists {
    /// So many bytes, with so many per cent of them for the lists of one country.
    pub const fn new(bytes: usize, share: usize) -> Self {
        Self { memory: InFlight::new(bytes, share), freed: Notify::const_new() }
    }

    /// Sets both from the configuration.
    pub fn set(&self, bytes: usize, share: usize) {
        self.memory.set(bytes, share);
    }

    /// What this country's own registries list because another country asks.
    pub fn for_country(&'static self, country: Country) -> Share {
        self.begin(&format!("for {country}"))
    }

    /// What another country lists because somebody here asks. It takes nothing from what that country asks here.
    pub fn of_country(&'static self, country: Country) -> Share {
        self.begin(&format!("of {country}"))
    }

    fn begin(&'static self, sender: &str) -> Share {
        let list = List { used: 0, charge: self.memory.charge(sender) };
        Share(Arc::new(Taken { of: self, list: Mutex::new(list), _given_back: GivenBack(self) }))
    }
}

/// What the lists of one exchange have taken from the budget; given back with the last clone.
#[derive(Debug, Clone)]
pub struct Share(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    of: &'static Lists,
    list: Mutex<List>,
    /// Behind the list, since fields are dropped in their order: who is woken finds the memory.
    _given_back: GivenBack,
}

#[derive(Debug)]
struct List {
    /// Bytes that the lists use.
    used: usize,
    charge: Charge,
}

#[derive(Debug)]
struct GivenBack(&'static Lists);

impl Drop for GivenBack {
    fn drop(&mut self) {
        self.0.freed.notify_waiters();
    }
}

impl Share {
    /// What an entry takes while an answer is made of it: lists are moved, and for that time they stand twice.
    pub fn of(entry: &DocumentEntry) -> usize {
        entry.memory() + size_of::<DocumentEntry>()
    }

    /// Takes so many bytes more, at once.
    ///
    /// # Errors
    /// [`NoRoom`]
    pub fn grow(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut list = self.0.list.lock().unwrap_or_else(PoisonError::into_inner);
        let used = list.used.saturating_add(bytes);
        let beyond = used.saturating_sub(FREE);
        if beyond > self.0.of.memory.share() {
            return Err(NoRoom::TooLong);
        }
        let more = beyond - list.used.saturating_sub(FREE);
        list.charge.grow(more).map_err(|_| NoRoom::Busy)?;
        list.used = used;
        Ok(())
    }

    /// Takes so many bytes more, and waits for them unless it has some.
    ///
    /// # Errors
    /// [`NoRoom`]
    pub async fn grown(&self, bytes: usize) -> Result<(), NoRoom> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut freed = std::pin::pin!(self.0.of.freed.notified());
            // From here on nothing that is given back is missed.
            freed.as_mut().enable();
            match self.grow(bytes) {
                Err(NoRoom::Busy) if !self.holds() => {}
                told => return told,
            }
            timeout_at(end, freed).await.map_err(|_| NoRoom::Busy)?;
        }
    }

    fn holds(&self) -> bool {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner).charge.used() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn country(code: &str) -> Country {
        Country::parse(code).expect("a country")
    }

    #[tokio::test(start_paused = true)]
    async fn sk_07_a_list_waits_for_memory_and_is_told_busy() {
        static LISTS: Lists = Lists::new(1 << 20, 100);
        let [mut one, other, small, third] = ["FI", "SE", "DK", "SE"].map(|code| LISTS.for_country(country(code)));
        assert_eq!(one.grown(FREE + 896 * KIB).await, Ok(()));
        assert_eq!((other.grow(FREE), other.grow(200 * KIB)), (Ok(()), Err(NoRoom::Busy)));
        assert_eq!(small.grow(FREE), Ok(()), "a short list never waits");
        let began = Instant::now();
        assert_eq!(third.grown(FREE + 200 * KIB).await, Err(NoRoom::Busy), "nobody gave anything back");
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        let waiting = tokio::spawn(async move { third.grown(FREE + 200 * KIB).await });
        tokio::task::yield_now().await;
        one = LISTS.for_country(country("FI"));
        assert_eq!(waiting.await.expect("ends"), Ok(()));
        drop((one, other, small));
        assert_eq!(LISTS.memory.taken(), 0, "all comes back");
        let long = LISTS.for_country(country("FI"));
        assert_eq!(long.grown(2 << 20).await, Err(NoRoom::TooLong), "a list that never fits is not told to come again");
    }

    /// SK-07: who holds memory is told at once, so that two exchanges with two lists each end.
    #[tokio::test(start_paused = true)]
    async fn sk_07_who_holds_memory_does_not_wait_for_more() {
        static LISTS: Lists = Lists::new(1 << 20, 100);
        let [one, other] = ["FI", "SE"].map(|code| LISTS.for_country(country(code)));
        let began = Instant::now();
        for share in [&one, &other] {
            assert_eq!(share.clone().grown(FREE + 448 * KIB).await, Ok(()));
        }
        let told = tokio::join!(one.grown(256 * KIB), other.grown(256 * KIB));
        assert_eq!(told, (Err(NoRoom::Busy), Err(NoRoom::Busy)));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// SK-07: one country, asking or asked, leaves the others their part.
    #[test]
    fn sk_07_a_country_has_a_share_of_the_memory() {
        static LISTS: Lists = Lists::new(1 << 20, 40);
        let fi: Vec<Share> = (0..8).map(|_| LISTS.for_country(country("FI"))).collect();
        let whole = fi.iter().filter(|share| share.grow(FREE + 128 * KIB).is_ok()).count();
        assert_eq!(whole, 3, "three times 128 of 409 KiB");
        for share in [LISTS.of_country(country("FI")), LISTS.for_country(country("SE"))] {
            assert_eq!(share.grow(FREE + 256 * KIB), Ok(()));
        }
    }
}
