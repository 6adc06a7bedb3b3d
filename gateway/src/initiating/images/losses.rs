//! What of a study does not come, and why: counted for the trail, told to whoever shows the study.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ncp_ihe::{DocumentRequest, RegistryError};

use super::PeerError;
use crate::audit_scope::Recorder;
use crate::instance::Foreign;
use crate::outcome::GatewayError;
use crate::retry_after;

/// Why an instance does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The country says that it has it not.
    NotAvailable,
    /// The country says that an archive behind it did not deliver it.
    NotDelivered,
    /// The country says that an archive behind it is busy, for so many seconds.
    Busy(u64),
    /// The country did not answer when it was asked for.
    NotAnswered,
    /// It was promised and did not come.
    NotSent,
    /// It broke off.
    BrokeOff,
    /// We had no memory for the answer.
    NoMemory,
    /// It came too slowly.
    Slow,
    /// It is another's, or not what it should be: the rule that was broken.
    Withheld(&'static str),
    /// The manifest names two objects by its UID (PS3.5 9).
    TwoObjects,
    /// It came, and its attributes cannot be read.
    Unreadable,
}

impl Why {
    /// What a country's error about an instance means.
    pub(super) fn told(error: &RegistryError) -> Self {
        match error.code.as_str() {
            "XDSRepositoryBusy" => {
                Self::Busy(retry_after::of_text(&error.context).unwrap_or(retry_after::UNSAID).as_secs())
            }
            "XDSRepositoryError" => Self::NotDelivered,
            _ => Self::NotAvailable,
        }
    }

    /// What an error of a whole call means for each instance that it asked for.
    pub(super) fn of(error: &GatewayError) -> Self {
        match error {
            GatewayError::Peer(PeerError::Later(after)) => Self::Busy(after.as_secs()),
            GatewayError::Peer(PeerError::Refused(code)) if code == "XDSRepositoryError" => Self::NotDelivered,
            GatewayError::Peer(PeerError::Refused(_)) => Self::NotAvailable,
            GatewayError::Peer(PeerError::BrokeOff) => Self::BrokeOff,
            GatewayError::Peer(PeerError::NoMemory) => Self::NoMemory,
            GatewayError::Peer(PeerError::Slow) => Self::Slow,
            _ => Self::NotAnswered,
        }
    }

    /// A code for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAvailable => "not-available",
            Self::NotDelivered => "not-delivered",
            Self::Busy(_) => "busy",
            Self::NotAnswered => "not-answered",
            Self::NotSent => "not-sent",
            Self::BrokeOff => "broke-off",
            Self::NoMemory => "no-memory",
            Self::Slow => "too-slow",
            Self::Withheld(_) => "withheld",
            Self::TwoObjects => "one-uid-two-objects",
            Self::Unreadable => "unreadable",
        }
    }

    /// A sentence for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotAvailable => "the country does not make the instance available",
            Self::NotDelivered => "the archive behind the country did not deliver the instance",
            Self::Busy(_) => "the archive behind the country is busy; ask again later",
            Self::NotAnswered => "the country did not answer",
            Self::NotSent => "the country announced the instance and did not send it",
            Self::BrokeOff => "the instance broke off",
            Self::NoMemory => "this gateway had no memory for the answer; ask again later",
            Self::Slow => "the instance came too slowly",
            Self::Withheld(rule) => rule,
            Self::TwoObjects => "not available: one UID, two objects",
            Self::Unreadable => "the attributes of the instance cannot be read",
        }
    }

    /// As the error of a call that brought nothing else.
    pub(super) fn error(self) -> PeerError {
        match self {
            Self::NotAvailable => PeerError::Refused("XDSDocumentUniqueIdError".into()),
            Self::NotDelivered => PeerError::Refused("XDSRepositoryError".into()),
            Self::Busy(seconds) => PeerError::Later(Duration::from_secs(seconds)),
            Self::NotAnswered | Self::NotSent | Self::BrokeOff => PeerError::BrokeOff,
            Self::NoMemory => PeerError::NoMemory,
            Self::Slow => PeerError::Slow,
            Self::Withheld(rule) => PeerError::Withheld(rule),
            Self::TwoObjects => PeerError::Withheld("one UID, two objects"),
            Self::Unreadable => PeerError::Malformed("attributes of an instance"),
        }
    }
}

impl From<Foreign> for Why {
    fn from(foreign: Foreign) -> Self {
        Self::Withheld(foreign.rule())
    }
}

/// Hears of each instance what became of it.
pub type Watch = Arc<dyn Fn(&str, Result<(), Why>) + Send + Sync>;

/// What was lost of a study so far.
#[derive(Clone)]
pub struct Losses(Arc<Inner>);

struct Inner {
    study: String,
    /// Where an instance of it is.
    place: DocumentRequest,
    country: String,
    recorder: Recorder,
    watch: Watch,
    lost: Mutex<Lost>,
}

#[derive(Default)]
struct Lost {
    /// Why, and how many objects have the UID.
    by_instance: BTreeMap<String, (Why, usize)>,
    /// Those that came whole.
    came: BTreeSet<String>,
    /// Those whose attributes cannot be read, and that have not ended yet.
    odd: BTreeSet<String>,
    /// How many were named before the first byte.
    named: usize,
}

impl Lost {
    fn count(&self) -> usize {
        self.by_instance.values().map(|(_, times)| times).sum()
    }
}

impl Losses {
    /// Of a study with an instance at this place.
    pub(super) fn new(study: &str, place: DocumentRequest, country: &str, recorder: Recorder, watch: Watch) -> Self {
        let (study, country) = (study.to_owned(), country.to_owned());
        Self(Arc::new(Inner { study, place, country, recorder, watch, lost: Mutex::default() }))
    }

    /// An instance that does not come; the first reason stays.
    pub fn add(&self, request: &DocumentRequest, why: Why) {
        self.add_times(request, why, 1);
    }

    /// The same for a UID that the manifest has several times.
    pub(super) fn add_times(&self, request: &DocumentRequest, why: Why, times: usize) {
        let Inner { study, country, recorder, watch, lost, .. } = &*self.0;
        {
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            if lost.by_instance.contains_key(&request.document) {
                return;
            }
            lost.by_instance.insert(request.document.clone(), (why, times));
        }
        recorder.failed_objects(study, request, times);
        if let Why::Withheld(rule) = why {
            recorder.alert(rule);
        }
        let instance = crate::national::omitted::digest(&request.document);
        tracing::warn!(%country, %instance, reason = why.text(), "an instance is not available");
        watch(&request.document, Err(why));
    }

    /// None of these came: the call failed as a whole, which has a line of its own in the log.
    pub(super) fn all(&self, requests: impl Iterator<Item = DocumentRequest>, why: Why) {
        for request in requests.filter(|request| !self.is_settled(&request.document)) {
            self.0.recorder.failed_instance(&self.0.study, &request);
            (self.0.watch)(&request.document, Err(why));
            self.with(|lost| lost.by_instance.insert(request.document, (why, 1)));
        }
    }

    /// An instance that came whole.
    pub(super) fn came(&self, instance: &str) {
        let is_odd = self.with(|lost| {
            let odd = lost.odd.remove(instance);
            if !odd {
                lost.came.insert(instance.to_owned());
            }
            odd
        });
        match is_odd {
            true => self.left_out(instance),
            false => (self.0.watch)(instance, Ok(())),
        }
    }

    /// The attributes of an instance that came, or is about to end, cannot be read. What else was wrong with it counts first.
    pub fn unreadable(&self, instance: &str) {
        let came = self.with(|lost| {
            let came = lost.came.remove(instance);
            if !came && !lost.by_instance.contains_key(instance) {
                lost.odd.insert(instance.to_owned());
            }
            came
        });
        if came {
            self.left_out(instance);
        }
    }

    fn left_out(&self, instance: &str) {
        let request = DocumentRequest { document: instance.to_owned(), ..self.0.place.clone() };
        self.add(&request, Why::Unreadable);
    }

    /// Whether it is known what became of an instance.
    pub(super) fn is_settled(&self, instance: &str) -> bool {
        self.with(|lost| lost.came.contains(instance) || lost.by_instance.contains_key(instance))
    }

    /// Whether an instance is lost.
    pub fn has(&self, instance: &str) -> bool {
        self.with(|lost| lost.by_instance.contains_key(instance))
    }

    /// When those may be had that an archive is too busy for now, the longest of the times told.
    pub fn retry_after(&self) -> Option<u64> {
        let busy = |(why, _): &(Why, usize)| match why {
            Why::Busy(seconds) => Some(*seconds),
            _ => None,
        };
        self.with(|lost| lost.by_instance.values().filter_map(busy).max())
    }

    /// How many are lost so far.
    pub fn count(&self) -> usize {
        self.with(|lost| lost.count())
    }

    /// The error of a call that brought nothing, by the first that is lost.
    pub fn error(&self) -> Option<PeerError> {
        self.with(|lost| lost.by_instance.values().next().map(|(why, _)| why.error()))
    }

    /// All that are lost now are named beside the answer.
    pub(super) fn name_all(&self) {
        self.with(|lost| lost.named = lost.count());
    }

    /// How many were lost after the answer began.
    pub(super) fn unnamed(&self) -> usize {
        self.with(|lost| lost.count() - lost.named)
    }

    fn with<T>(&self, read: impl FnOnce(&mut Lost) -> T) -> T {
        read(&mut self.0.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
