//! Instances that a source promised and did not deliver. Whoever asks again under the same treatment relationship hears
//! it beforehand, so that one broken object does not keep the rest of its study away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::{Instance, LocatedStudy, Missing, NationalError};
use crate::identity::Identity;
use crate::instance::Foreign;

/// How long such an instance is not promised again: longer than a large study takes.
const LIFE: Duration = Duration::from_secs(600);
/// Instances remembered.
const MOST: usize = 10_000;

/// By TRC assertion and SOP Instance UID.
type Failed = HashMap<(String, String), (Missing, Instant)>;

/// The memory.
#[derive(Clone, Default)]
pub(super) struct Setbacks(Arc<Mutex<Failed>>);

impl Setbacks {
    /// Moves what failed a moment ago from what a study promises to what it lacks.
    pub(super) fn apply(&self, asker: &Identity, study: &mut LocatedStudy) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return;
        }
        let Some(trc) = &asker.trc_id else { return };
        let now = Instant::now();
        let why = |sop: &str| {
            let found = known.get(&(trc.clone(), sop.to_owned()));
            found.filter(|(_, until)| *until > now).map(|(why, _)| *why)
        };
        let missing = &mut study.missing;
        study.instances.retain(|instance| match why(&instance.request.document) {
            Some(why) => {
                missing.push((instance.request.clone(), why));
                false
            }
            None => true,
        });
    }

    /// The instance, remembered when its content fails.
    pub(super) fn watch(&self, trc: &str, instance: Instance) -> Instance {
        let (setbacks, key) = (self.clone(), (trc.to_owned(), instance.request.document.clone()));
        let content = instance.content.inspect(move |chunk| {
            if let Err(error) = chunk {
                setbacks.note(key.clone(), error);
            }
        });
        Instance { content: Box::pin(content), ..instance }
    }

    fn note(&self, key: (String, String), error: &NationalError) {
        let why = match error {
            NationalError::Foreign(Foreign::OtherSyntax) | NationalError::TransferSyntax => Missing::TransferSyntax,
            NationalError::Foreign(_) => Missing::Mismatch,
            NationalError::UnknownDocument => Missing::Unknown,
            _ => Missing::Failed,
        };
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < MOST {
            known.insert(key, (why, now + LIFE));
        }
    }
}
