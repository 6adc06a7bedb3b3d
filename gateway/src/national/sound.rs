//! Every instance of a source is looked at while it leaves: its structure, and the size that was named for it.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use ncp_ihe::DocumentRequest;

use super::{Instance, InstanceStream, LocatedStudy, NationalError};
use crate::instance::{Foreign, sound};

/// The sizes that a source named when the study was looked up (CO-02: a named size is a fact).
#[derive(Clone, Default)]
pub(super) struct Named(BTreeMap<DocumentRequest, u64>);

impl Named {
    pub(super) fn of(study: &LocatedStudy) -> Self {
        let sizes = study.instances.iter().filter_map(|i| Some((i.request.clone(), i.size.filter(|size| *size > 0)?)));
        Self(sizes.collect())
    }

    /// The instances, each ending with an error where it is not sound or not as long as was named.
    pub(super) fn check(self, instances: InstanceStream) -> InstanceStream {
        Box::pin(instances.map(move |instance| instance.map(|instance| self.checked(instance))))
    }

    fn checked(&self, instance: Instance) -> Instance {
        let Instance { request, size, content } = instance;
        let named = self.0.get(&request).copied();
        if named.zip(size).is_some_and(|(named, size)| named != size) {
            let content = super::incoming::failing(NationalError::Foreign(Foreign::OtherSize));
            return Instance { request, size, content };
        }
        let content = Box::pin(sound(content, named.or(size), NationalError::Foreign));
        Instance { request, size: named.or(size), content }
    }
}
