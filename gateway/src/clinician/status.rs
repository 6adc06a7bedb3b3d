//! What of a study came and what did not, and why: told after the fact, because a loss that shows in the middle of
//! an answer cannot be told in its head.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::dicomweb::{Place, open};
use super::problem::Problem;
use super::{Clinic, Context};
use crate::initiating::images::{Watch, Why};

/// Studies, and instances of all of them, that are remembered.
const STUDIES: usize = 1000;
const INSTANCES: usize = 1_000_000;

/// What became of the instances of studies, by sealed base.
#[derive(Clone, Default)]
pub(super) struct Statuses(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    studies: VecDeque<(String, Study)>,
    hasher: RandomState,
}

#[derive(Default)]
struct Study {
    /// Digests of the UIDs that came.
    came: HashSet<u64>,
    missing: BTreeMap<String, Why>,
}

impl Statuses {
    /// Remembers for the study of a sealed base what became of its instances. The last answer counts.
    pub(super) fn watch(&self, sealed: &str) -> Watch {
        let (known, sealed) = (self.0.clone(), sealed.to_owned());
        Arc::new(move |instance, became| {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let digest = known.hasher.hash_one(instance);
            let study = known.study(&sealed);
            match became {
                Ok(()) => {
                    study.missing.remove(instance);
                    study.came.insert(digest);
                }
                Err(why) => {
                    study.came.remove(&digest);
                    study.missing.insert(instance.to_owned(), why);
                }
            }
            known.bound();
        })
    }

    /// How many came, and what did not.
    fn of(&self, sealed: &str) -> (usize, BTreeMap<String, Why>) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.studies.iter().find(|(of, _)| of == sealed);
        found.map(|(_, study)| (study.came.len(), study.missing.clone())).unwrap_or_default()
    }
}

impl Known {
    /// The study, which becomes the youngest.
    fn study(&mut self, sealed: &str) -> &mut Study {
        let at = self.studies.iter().rposition(|(of, _)| of == sealed);
        let entry = at.and_then(|at| self.studies.remove(at)).unwrap_or_else(|| (sealed.to_owned(), Study::default()));
        self.studies.push_back(entry);
        let last = self.studies.len() - 1;
        &mut self.studies[last].1
    }

    fn bound(&mut self) {
        let instances = |(_, study): &(String, Study)| study.came.len() + study.missing.len();
        while self.studies.len() > STUDIES
            || (self.studies.len() > 1 && self.studies.iter().map(instances).sum::<usize>() > INSTANCES)
        {
            self.studies.pop_front();
        }
    }
}

/// `GET {root}/status`
pub(super) async fn status(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path(place): Path<Place>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let types = ["application/json"];
    let opened = open(&clinic, &context, &place, &headers, ("RAD-129", &types)).await?;
    let (received, missing) = clinic.statuses.of(&place.sealed);
    let manifest = &opened.manifest;
    let of = |instance: &str| {
        let series = manifest.series.iter().find(|s| s.instances.iter().any(|i| i.sop_instance.as_str() == instance));
        series.map(|series| series.series.to_string())
    };
    let retry = |series: &str, instance: &str| {
        format!("{}/studies/{}/series/{series}/instances/{instance}", opened.root, manifest.study)
    };
    let missing: Vec<Value> = missing
        .iter()
        .map(|(instance, why)| {
            let series = of(instance).unwrap_or_default();
            json!({
                "series": series,
                "instance": instance,
                "reason": why.code(),
                "text": why.text(),
                "retry": retry(&series, instance),
            })
        })
        .collect();
    let mut body = json!({
        "country": opened.country(),
        "study": manifest.study.to_string(),
        "manifest": manifest.oddities(),
        "expected": manifest.instance_count(),
        "unlisted": manifest.announced_count() - manifest.instance_count(),
        "received": received,
        "missing": missing,
    });
    if let Some(text) = opened.arrived() {
        body["arrived"] = json!({ "instances": opened.newer, "text": text });
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(body.to_string())).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_and_the_oldest_study_goes() {
        let statuses = Statuses::default();
        let watch = statuses.watch("first");
        watch("1", Err(Why::NotSent));
        watch("2", Ok(()));
        watch("2", Ok(()));
        assert_eq!(statuses.of("first"), (1, [("1".to_owned(), Why::NotSent)].into()));
        watch("1", Ok(()));
        watch("2", Err(Why::BrokeOff));
        assert_eq!(statuses.of("first"), (1, [("2".to_owned(), Why::BrokeOff)].into()));
        for number in 0..STUDIES {
            statuses.watch(&number.to_string())("1", Ok(()));
        }
        assert_eq!(statuses.of("first"), (0, BTreeMap::new()));
        assert_eq!(statuses.of("0").0, 1);
    }
}
