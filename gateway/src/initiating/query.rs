//! Cross Gateway Query [ITI-38], initiating side (ITI TF-2: 3.38).

use std::collections::HashMap;

use ncp_ihe::{
    Coded, CrossGatewayQueryRequest, DocumentEntry, HomeCommunityId, MessageError, Oid, PatientId, QueryResponse,
    RegistryObjects, ReturnType, StoredQuery,
};
use ncp_xml::Element;

use super::told::Reports;
use super::{Call, PeerError, close};
use crate::audit_scope::Recorder;
use crate::bounds;
use crate::identity::TransactionName;
use crate::lists::Share;
use crate::outcome::{GatewayError, Indicator};

/// What a country listed.
#[derive(Debug, Default)]
pub struct Found {
    /// Objects of the patient asked for, and the associations.
    pub objects: RegistryObjects,
    /// References of a query for these alone.
    pub object_refs: Vec<(String, Option<HomeCommunityId>)>,
    /// Codes of the errors beside what was listed, whatever the status.
    pub incomplete: Vec<String>,
    /// Codes of its technical warnings.
    pub warnings: Vec<String>,
    /// The country shows nothing, or says that consent is wanting for a part: both are told by the same sentence.
    pub withheld: bool,
    /// Objects that could not be used: malformed, of another patient or another community, another one under a known id.
    pub unusable: usize,
    /// Objects that named no community.
    pub homeless: usize,
    /// Memory that the objects take.
    pub share: Option<Share>,
}

/// The documents of the patient.
///
/// # Errors
/// [`PeerError`]; the trail.
pub async fn query(call: &Call, query: StoredQuery) -> Result<Found, GatewayError> {
    // FindDocuments goes to the one community that knows the patient; other queries must name it (3.38.4.1.2.1).
    let home = Some(call.peer.home_community_id.clone());
    let request = CrossGatewayQueryRequest { home, return_type: ReturnType::LeafClass, query };
    let body = request.to_element();
    carry(call, &request, body).await
}

/// A national consumer's query in the form in which every community can be asked. It names the patient, so it has no `Debug`.
pub struct Forwarded {
    request: CrossGatewayQueryRequest,
    option: Option<Element>,
    adhoc: Element,
}

impl Forwarded {
    /// What the consumer asked; parameters that we do not know go on too (3.38.4.1.3), lists that are too long are divided.
    ///
    /// # Errors
    /// A Value is longer than rim.xsd allows, or the query longer than its record holds.
    pub fn new(request: CrossGatewayQueryRequest, asked: &Element) -> Result<Self, GatewayError> {
        let option = asked.child(ncp_ihe::ns::QUERY, "ResponseOption").cloned();
        let adhoc = asked.child(ncp_ihe::ns::RIM, "AdhocQuery").ok_or(MessageError::Malformed("AdhocQuery"))?;
        let out = Self { request, option, adhoc: CrossGatewayQueryRequest::fitting(adhoc)? };
        // Lists that were divided are longer than they were.
        bounds::check_own(&out.body(out.adhoc.clone()))?;
        Ok(out)
    }

    fn body(&self, adhoc: Element) -> Element {
        Element::new(ncp_ihe::ns::QUERY, "AdhocQueryRequest").with_all(self.option.clone()).with(adhoc)
    }

    /// What the country of the call lists.
    ///
    /// # Errors
    /// As [`query`].
    pub async fn ask(&self, call: &Call) -> Result<Found, GatewayError> {
        let mut adhoc = self.adhoc.clone();
        adhoc.set_attr("", "home", call.peer.home_community_id.to_string());
        carry(call, &self.request, self.body(adhoc)).await
    }
}

async fn carry(call: &Call, request: &CrossGatewayQueryRequest, body: Element) -> Result<Found, GatewayError> {
    let codes = call.peer.class_codes().into_iter().filter_map(|code| code.split_once("^^"));
    let codes: Vec<Coded> = codes.map(|(code, scheme)| Coded::new(code, scheme, None)).collect();
    let body = if codes.is_empty() { body } else { request.with_class_codes(body, &codes) };
    let trail = call.begin(TransactionName::Iti38, |trail| trail.stored_query(request, &body)).await?;
    let result = ask(call, body, &trail.recorder()).await;
    close(trail, result).await
}

async fn ask(call: &Call, body: Element, recorder: &Recorder) -> Result<Found, GatewayError> {
    let answer = call.send(TransactionName::Iti38, body, recorder).await?;
    let share = answer.listed.share.clone();
    let read = answer.listed.response(&answer.body).map_err(|_| PeerError::Malformed("AdhocQueryResponse"))?;
    let (QueryResponse { status, errors, objects, object_refs }, unusable) = read;
    let reports = Reports::read(status, &errors);
    call.reported(TransactionName::Iti38, &reports);
    if objects.is_empty() && object_refs.is_empty() && unusable == 0 {
        if let Some(refusal) = reports.refusal(status) {
            return Err(refusal.into());
        }
        if let Some((indicator, code)) = reports.outcome(status) {
            recorder.reported(indicator, code);
        }
        return Ok(Found { withheld: true, ..Found::default() });
    }
    let mut found = Found {
        objects,
        object_refs,
        incomplete: reports.errors(status),
        warnings: reports.warnings(),
        withheld: reports.withholds(),
        unusable,
        homeless: 0,
        share,
    };
    found.keep_what_was_asked_for(call, recorder);
    found.drop_unread_dates();
    found.keep_each_once();
    if let Some((indicator, code)) = reports.outcome(status) {
        recorder.reported(indicator, code);
    } else if found.unusable + found.homeless > 0 {
        recorder.reported(Indicator::Minor, "entries not usable");
    }
    Ok(found)
}

impl Found {
    /// Drops and counts what names another community, another patient, or no community at all (3.38.4.1.3).
    fn keep_what_was_asked_for(&mut self, call: &Call, recorder: &Recorder) {
        let patient = call.treatment.as_ref().map(|t| &t.patient);
        let (mut unusable, mut homeless) = (0, 0);
        let mut kept = |home: &Option<HomeCommunityId>, of: Option<&PatientId>| {
            let Some(home) = home else {
                homeless += 1;
                return false;
            };
            let rule = if !call.peer.is_known_as(home) {
                "peer listed an object of another community"
            } else if of.is_some_and(|of| Some(of) != patient) {
                "peer listed an object of another patient"
            } else {
                return true;
            };
            recorder.alert(rule);
            unusable += 1;
            false
        };
        self.objects.entries.retain(|entry| kept(&entry.home, Some(&entry.patient_id)));
        self.objects.submission_sets.retain(|set| kept(&set.home, Some(&set.patient_id)));
        self.objects.folders.retain(|folder| kept(&folder.home, Some(&folder.patient_id)));
        self.object_refs.retain(|(_, home)| kept(home, None));
        self.unusable += unusable;
        self.homeless += homeless;
    }

    /// A date that is no DTM is not passed on; the entry is shown without it, and that is said.
    fn drop_unread_dates(&mut self) {
        let mut dropped = false;
        for entry in &mut self.objects.entries {
            let slots = entry.extra_slots.len();
            entry.extra_slots.retain(|(name, _)| !DocumentEntry::DATES.contains(&name.as_str()));
            dropped |= entry.extra_slots.len() < slots;
        }
        if dropped {
            self.warnings.push("dates that cannot be read".into());
        }
    }

    /// A document that is listed twice is one document. Two that differ under one id cannot be told apart when they are
    /// retrieved, so the second is dropped and counted.
    fn keep_each_once(&mut self) {
        let mut known: HashMap<(&Oid, &str), &DocumentEntry> = HashMap::new();
        let mut same_as: HashMap<String, String> = HashMap::new();
        let mut kept = Vec::with_capacity(self.objects.entries.len());
        for entry in &self.objects.entries {
            let first = *known.entry((&entry.repository_unique_id, &entry.unique_id)).or_insert(entry);
            let is_first = std::ptr::eq(first, entry);
            kept.push(is_first);
            if is_first {
                continue;
            }
            if (DocumentEntry { entry_uuid: first.entry_uuid.clone(), ..entry.clone() }) == *first {
                same_as.insert(entry.entry_uuid.clone(), first.entry_uuid.clone());
            } else {
                self.unusable += 1;
            }
        }
        // In its place: a long list does not stand twice.
        let mut kept = kept.into_iter();
        self.objects.entries.retain(|_| kept.next().unwrap_or_default());
        for association in &mut self.objects.associations {
            for end in [&mut association.source, &mut association.target] {
                if let Some(first) = same_as.get(end) {
                    end.clone_from(first);
                }
            }
        }
    }

    /// Whether anything is missing of which the country, or this gateway, says so.
    pub fn is_whole(&self) -> bool {
        self.incomplete.is_empty() && self.unusable == 0 && self.homeless == 0
    }
}
