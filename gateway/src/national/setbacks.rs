//! Instances that a source did not deliver. What is known before the root of an answer is written is told there; what
//! fails later is told beforehand to whoever asks again under the same treatment relationship, so that one broken object
//! does not keep the rest of its study away. Each failure leaves a line with its connector and a count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ncp_ihe::{DocumentRequest, Uid};
use tokio::time::timeout_at;

use super::omitted::digest;
use super::{Instance, InstanceStream, LocatedStudy, Missing, NationalError};
use crate::identity::Identity;
use crate::telemetry::Metrics;

/// The longest that the root of an answer waits for the first instances.
const SETTLING: Duration = Duration::from_secs(5);
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

    /// Remembers what failed before it was promised, unless another attempt may bring it.
    pub(super) fn lasting(&self, trc: &str, request: &DocumentRequest, error: &NationalError) {
        if !error.may_pass() {
            self.note((trc.to_owned(), request.document.clone()), error);
        }
    }

    fn note(&self, key: (String, String), error: &NationalError) {
        let why = Missing::of(error);
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

/// Opens the first instances of a source, so many that are there, and says which fail.
pub(super) async fn settled(
    mut stream: InstanceStream,
    most: usize,
) -> (Vec<(DocumentRequest, NationalError)>, InstanceStream) {
    let until = tokio::time::Instant::now() + SETTLING;
    let (mut failed, mut opened) = (Vec::new(), Vec::new());
    while opened.len() < most {
        // What is slow stays promised.
        let Ok(Some(next)) = timeout_at(until, stream.next()).await else { break };
        let mut instance = match next {
            Ok(instance) => instance,
            Err(error) => {
                opened.push(Err(error));
                break;
            }
        };
        match instance.content.next().await {
            Some(Err(error)) => failed.push((instance.request, error)),
            first => {
                let content = futures_util::stream::iter(first).chain(instance.content);
                opened.push(Ok(Instance { content: Box::pin(content), ..instance }));
            }
        }
    }
    (failed, Box::pin(futures_util::stream::iter(opened).chain(stream)))
}

/// Tells the operator which instances of a connector fail.
#[derive(Clone)]
pub(super) struct Failures {
    pub(super) connector: String,
    pub(super) host: String,
    pub(super) study: Uid,
    pub(super) metrics: Metrics,
}

impl Failures {
    /// One that failed.
    pub(super) fn note(&self, request: &DocumentRequest, error: &NationalError) {
        let (study, instance) = (digest(self.study.as_str()), digest(&request.document));
        let Self { connector, host, .. } = self;
        tracing::warn!(%connector, %host, reason = %error, study, instance, "instance does not come");
        self.metrics.left_out(&self.connector, error.class(), 1);
    }

    /// The instance, noted when its content fails.
    pub(super) fn watch(&self, instance: Instance) -> Instance {
        let (failures, request) = (self.clone(), instance.request.clone());
        let content = instance.content.inspect(move |chunk| {
            if let Err(error) = chunk {
                failures.note(&request, error);
            }
        });
        Instance { content: Box::pin(content), ..instance }
    }
}
