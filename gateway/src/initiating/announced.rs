//! What other countries announced of the documents that national consumers were told of: at ITI-43 their hash and size are
//! compared, although the request does not repeat them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use ncp_ihe::{DocumentEntry, DocumentRequest};
use ncp_tls::Country;

use crate::compare::Announced;

/// Documents that are remembered; the oldest go.
const MOST: usize = 50_000;
/// Longest unique id.
const ID: usize = 256;

type Key = (Country, String, String);

/// Hash and size by country, repository and document.
#[derive(Default)]
pub struct Remembered(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_document: HashMap<Key, Announced>,
    order: VecDeque<Key>,
}

impl Remembered {
    /// Remembers what an entry of a country announced last.
    pub fn keep(&self, country: Country, entry: &DocumentEntry) {
        let announced = Announced::of(entry);
        if announced == Announced::default() || entry.unique_id.len() > ID {
            return;
        }
        let key = (country, entry.repository_unique_id.to_string(), entry.unique_id.clone());
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.by_document.insert(key.clone(), announced).is_none() {
            entries.order.push_back(key);
        }
        while entries.order.len() > MOST
            && let Some(oldest) = entries.order.pop_front()
        {
            entries.by_document.remove(&oldest);
        }
    }

    /// What a country announced of a document; nothing when it was not asked here.
    pub fn of(&self, country: Country, request: &DocumentRequest) -> Announced {
        let key = (country, request.repository.to_string(), request.document.clone());
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_document.get(&key).copied().unwrap_or_default()
    }
}
