//! Manifests that were listed, as they were: who was promised a study may open it, whatever arrives in the archive
//! meanwhile. A study that changed has a new manifest, which replaces the former; the former stays retrievable for as long
//! as a clinician's root lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ncp_ihe::Uid;

use super::listing::Listed;
use crate::national::manifests::entry_uuid;

/// Longer than a root lives (`clinician/sealed.rs`).
const LIFE: Duration = Duration::from_secs(3 * 3600);
/// Studies, forms of one study, and instances in all of them.
const STUDIES: usize = 4096;
const FORMS: usize = 4;
const UNITS: usize = 100_000;

/// One manifest that was listed.
#[derive(Clone)]
pub(super) struct Form {
    pub(super) unique_id: String,
    pub(super) listed: Arc<Listed>,
}

/// What was promised, by study: the forms of a study, the newest last.
#[derive(Default)]
pub(super) struct Promised(Mutex<Studies>);

type Studies = HashMap<Uid, (Instant, Vec<Form>)>;

impl Promised {
    /// Keeps what is listed now as the newest form of its study; the answer is the former ones, the newest last.
    pub(super) fn keep(&self, unique_id: &str, listed: &Arc<Listed>) -> Vec<Form> {
        let mut studies = self.studies();
        let study = &listed.study.study;
        let (_, mut forms) = studies.remove(study).unwrap_or((Instant::now(), Vec::new()));
        forms.retain(|form| form.unique_id != unique_id);
        if forms.len() >= FORMS {
            forms.remove(0);
        }
        let former = forms.clone();
        forms.push(Form { unique_id: unique_id.to_owned(), listed: listed.clone() });
        studies.insert(study.clone(), (Instant::now(), forms));
        forget(&mut studies);
        former
    }

    /// A form by its uniqueId or entryUUID.
    pub(super) fn find(&self, id: &str) -> Option<Form> {
        let studies = self.studies();
        let alive = studies.values().filter(|(at, _)| at.elapsed() < LIFE);
        let mut forms = alive.flat_map(|(_, forms)| forms);
        forms.find(|form| form.unique_id == id || entry_uuid(&form.unique_id) == id).cloned()
    }

    fn studies(&self) -> MutexGuard<'_, Studies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what is too old or too much, the oldest first.
fn forget(studies: &mut Studies) {
    studies.retain(|_, (at, _)| at.elapsed() < LIFE);
    let mut all: usize = studies.values().map(|(_, forms)| units(forms)).sum();
    while studies.len() > STUDIES || all > UNITS {
        let oldest = studies.iter().min_by_key(|(_, (at, _))| *at).map(|(uid, _)| uid.clone());
        let Some((_, forms)) = oldest.and_then(|uid| studies.remove(&uid)) else { return };
        all -= units(&forms);
    }
}

fn units(forms: &[Form]) -> usize {
    forms.iter().map(|form| form.listed.study.instances.len() + 1).sum()
}
