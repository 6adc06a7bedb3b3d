//! What other countries announced of the documents that national consumers were told of: at ITI-43 their hash and size are
//! compared, although the request does not repeat them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use ncp_ihe::{DocumentEntry, DocumentRequest};
use ncp_tls::Country;

use crate::compare::Announced;

/// Documents that are remembered; the oldest go of the country that has most, so that none makes those of others unknown.
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
    order: BTreeMap<Country, VecDeque<Key>>,
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
            entries.order.entry(country).or_default().push_back(key);
        }
        while entries.by_document.len() > MOST
            && let Some(of_most) = entries.order.values_mut().max_by_key(|of_country| of_country.len())
            && let Some(oldest) = of_most.pop_front()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// SE-13: a country that lists more than is remembered makes its own documents unknown, and no other's: those are still
    /// compared.
    #[test]
    fn se_13_a_country_forgets_no_others_documents() {
        let remembered = Remembered::default();
        let [small, large] = ["SE", "FI"].map(|code| Country::parse(code).expect("a country"));
        let mut entry = crate::national::with_event(&ncp_ihe::Coded::new("1", "2.999.3", None));
        entry.size = Some(1);
        let mut keep = |country, number: usize| {
            entry.unique_id = number.to_string();
            remembered.keep(country, &entry);
        };
        (0..10).for_each(|number| keep(small, number));
        (0..MOST + 10).for_each(|number| keep(large, number));
        let known = |country, number: usize| {
            let entry = crate::national::with_event(&ncp_ihe::Coded::new("1", "2.999.3", None));
            let repository = entry.repository_unique_id;
            let request = DocumentRequest { home: None, repository, document: number.to_string() };
            remembered.of(country, &request) != Announced::default()
        };
        assert!((0..10).all(|number| known(small, number)));
        assert!(!known(large, 0) && known(large, MOST + 9));
        assert_eq!(remembered.0.lock().expect("a lock").by_document.len(), MOST);
    }
}
