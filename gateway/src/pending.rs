//! Requests whose answers come over a connection of the other side (WS-Addressing asynchronous exchange).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use ncp_soap::{Envelope, Parts};
use ncp_tls::Country;
use tokio::sync::oneshot;

use crate::soap_client::CallError;

/// Requests that wait at once.
const MOST: usize = 4096;

/// The requests whose answers will come over another connection.
#[derive(Default)]
pub struct Pending(Mutex<HashMap<String, (Country, oneshot::Sender<Arrived>)>>);

/// An answer that came. Its connection is told that it was taken when `taken` is dropped.
pub(crate) struct Arrived {
    pub(crate) envelope: Envelope,
    pub(crate) parts: Parts<Incoming>,
    pub(crate) taken: oneshot::Sender<()>,
}

/// A request that waits; dropped, it waits no more.
pub(crate) struct Waiting {
    pending: Arc<Pending>,
    message_id: String,
    answer: oneshot::Receiver<Arrived>,
}

impl Pending {
    /// Begins to wait for the answer of a country to a message.
    ///
    /// # Errors
    /// [`CallError::Waiting`] when too many wait.
    pub(crate) fn expect(self: &Arc<Self>, message_id: &str, country: Country) -> Result<Waiting, CallError> {
        let (tell, answer) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(|p| p.into_inner());
        if waiting.len() >= MOST {
            return Err(CallError::Waiting);
        }
        waiting.insert(message_id.to_owned(), (country, tell));
        Ok(Waiting { pending: self.clone(), message_id: message_id.to_owned(), answer })
    }

    /// Who waits for that answer; another country's message takes nobody's place.
    pub(crate) fn take(&self, message_id: &str, country: Country) -> Option<oneshot::Sender<Arrived>> {
        let mut waiting = self.0.lock().unwrap_or_else(|p| p.into_inner());
        match waiting.entry(message_id.to_owned()) {
            Entry::Occupied(slot) if slot.get().0 == country => Some(slot.remove().1),
            _ => None,
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
        self.pending.0.lock().unwrap_or_else(|p| p.into_inner()).remove(&self.message_id);
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
        assert!(pending.take("urn:uuid:1", country("SE")).is_none());
        assert!(pending.take("urn:uuid:2", country("FI")).is_none());
        assert!(pending.take("urn:uuid:1", country("FI")).is_some());
        assert!(pending.take("urn:uuid:1", country("FI")).is_none());
        assert!(waiting.arrived().await.is_err(), "the sender was dropped");
    }

    #[test]
    fn who_waits_no_more_leaves_no_place_and_places_are_bounded() {
        let pending = Arc::new(Pending::default());
        let all: Vec<_> = (0..MOST).map(|n| pending.expect(&n.to_string(), country("FI")).expect("a place")).collect();
        assert!(matches!(pending.expect("one more", country("FI")), Err(CallError::Waiting)));
        drop(all);
        assert!(pending.expect("one more", country("FI")).is_ok());
        assert!(pending.0.lock().expect("lock").is_empty());
    }
}
