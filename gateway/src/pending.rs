//! Requests whose answers come over a connection of the other side (WS-Addressing asynchronous exchange).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use ncp_soap::{Envelope, Parts};
use ncp_tls::Country;
use tokio::sync::oneshot;

use crate::soap_client::{AnswerBody, CallError};

/// Requests that wait at once, and of those that do not wait any more the last ones that are known.
const MOST: usize = 4096;

/// The requests whose answers will come over another connection.
#[derive(Default)]
pub struct Pending(Mutex<Requests>);

#[derive(Default)]
struct Requests {
    waiting: HashMap<String, (Country, oneshot::Sender<Arrived>)>,
    /// Those that were answered or given up: a further answer to one of them comes late, and is no attack.
    over: HashMap<String, Country>,
    /// The same, oldest first.
    order: VecDeque<String>,
}

impl Requests {
    fn is_over(&mut self, message_id: &str, country: Country) {
        if self.over.insert(message_id.to_owned(), country).is_none() {
            self.order.push_back(message_id.to_owned());
        }
        while self.order.len() > MOST {
            self.order.pop_front().and_then(|oldest| self.over.remove(&oldest));
        }
    }
}

/// Who waits for an answer that came.
pub(crate) enum Receiver {
    /// A request of ours.
    Waits(oneshot::Sender<Arrived>),
    /// A request of ours did, and does not any more.
    Over,
    /// Nobody asked that country so.
    Nobody,
}

/// An answer that came. Its connection is told that it was taken when `taken` is dropped.
pub(crate) struct Arrived {
    pub(crate) envelope: Envelope,
    pub(crate) parts: Parts<AnswerBody>,
    pub(crate) taken: oneshot::Sender<()>,
}

/// A request that waits; dropped, it waits no more.
pub(crate) struct Waiting {
    pending: Arc<Pending>,
    message_id: String,
    country: Country,
    answer: oneshot::Receiver<Arrived>,
}

impl Pending {
    /// Begins to wait for the answer of a country to a message.
    ///
    /// # Errors
    /// [`CallError::Waiting`] when too many wait.
    pub(crate) fn expect(self: &Arc<Self>, message_id: &str, country: Country) -> Result<Waiting, CallError> {
        let (tell, answer) = oneshot::channel();
        let mut requests = self.0.lock().unwrap_or_else(|p| p.into_inner());
        if requests.waiting.len() >= MOST {
            return Err(CallError::Waiting);
        }
        requests.waiting.insert(message_id.to_owned(), (country, tell));
        Ok(Waiting { pending: self.clone(), message_id: message_id.to_owned(), country, answer })
    }

    /// Who waits for that answer; another country's message takes nobody's place.
    pub(crate) fn take(&self, message_id: &str, country: Country) -> Receiver {
        let mut requests = self.0.lock().unwrap_or_else(|p| p.into_inner());
        let is_over = requests.over.get(message_id) == Some(&country);
        match requests.waiting.entry(message_id.to_owned()) {
            Entry::Occupied(slot) if slot.get().0 == country => {
                let (_, tell) = slot.remove();
                requests.is_over(message_id, country);
                Receiver::Waits(tell)
            }
            _ if is_over => Receiver::Over,
            _ => Receiver::Nobody,
        }
    }
}

impl Waiting {
    /// The answer. The caller bounds the time.
    pub(crate) async fn arrived(mut self) -> Result<Arrived, CallError> {
        (&mut self.answer).await.map_err(|_| CallError::Timeout)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut requests = self.pending.0.lock().unwrap_or_else(|p| p.into_inner());
        requests.waiting.remove(&self.message_id);
        requests.is_over(&self.message_id, self.country);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn country(code: &str) -> Country {
        Country::parse(code).expect("a country")
    }

    #[tokio::test]
    async fn an_answer_is_taken_once_and_by_its_country_alone() {
        let pending = Arc::new(Pending::default());
        let waiting = pending.expect("urn:uuid:1", country("FI")).expect("a place");
        assert!(matches!(pending.take("urn:uuid:1", country("SE")), Receiver::Nobody));
        assert!(matches!(pending.take("urn:uuid:2", country("FI")), Receiver::Nobody));
        assert!(matches!(pending.take("urn:uuid:1", country("FI")), Receiver::Waits(_)));
        assert!(matches!(pending.take("urn:uuid:1", country("FI")), Receiver::Over));
        assert!(waiting.arrived().await.is_err(), "the sender was dropped");
    }

    #[test]
    fn who_waits_no_more_leaves_no_place_and_places_are_bounded() {
        let pending = Arc::new(Pending::default());
        let all: Vec<_> = (0..MOST).map(|n| pending.expect(&n.to_string(), country("FI")).expect("a place")).collect();
        assert!(matches!(pending.expect("one more", country("FI")), Err(CallError::Waiting)));
        drop(all);
        assert!(pending.expect("one more", country("FI")).is_ok());
        let requests = pending.0.lock().expect("lock");
        assert!(requests.waiting.is_empty());
        assert_eq!((requests.over.len(), requests.order.len()), (MOST, MOST), "the last ones alone are known");
    }

    /// CO-08.
    #[test]
    fn co_08_a_late_answer_is_known_by_its_own_country_alone() {
        let pending = Arc::new(Pending::default());
        drop(pending.expect("urn:uuid:1", country("FI")).expect("a place"));
        assert!(matches!(pending.take("urn:uuid:1", country("FI")), Receiver::Over));
        assert!(matches!(pending.take("urn:uuid:1", country("SE")), Receiver::Nobody));
        assert!(matches!(pending.take("urn:uuid:2", country("FI")), Receiver::Nobody));
    }
}
