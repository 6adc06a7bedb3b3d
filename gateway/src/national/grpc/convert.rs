//! Between the messages of `ncp.national.v1` and our own types. What a service sends is read as carefully as what a
//! peer sends: an entry without what identifies it is left out.

use std::collections::BTreeMap;

use ncp_ihe::{
    Address, Author, Availability, Coded, DocumentEntry, DocumentRequest, Dtm, EntryType, Oid, PatientId,
    PatientRecord, PersonName, ReferenceId, StudyRequest, Uid,
};
use ncp_proto::national as pb;

use super::missing;
use crate::identity::Identity;
use crate::national::{LocatedInstance, LocatedStudy, Missing};
use crate::patient_key::{PatientKey, Person};

pub(super) fn requestor(identity: &Identity) -> pb::Requestor {
    pb::Requestor {
        exchange_country: identity.country.to_string(),
        home_community_id: identity.home_community_id.to_string(),
        user: identity.user.clone(),
        user_name: identity.user_name.clone(),
        role_code: identity.role.clone(),
        role_display: identity.role_display.clone(),
        organisation: identity.organisation.clone().unwrap_or_default(),
        organisation_id: identity.organisation_id.clone().unwrap_or_default(),
        purpose: identity.purpose.clone(),
        hcp_assertion_id: identity.hcp_id.clone(),
        trc_assertion_id: identity.trc_id.clone().unwrap_or_default(),
    }
}

pub(super) fn patient_id(id: &PatientId) -> pb::PatientId {
    pb::PatientId { id: id.extension.clone(), authority: id.root.to_string() }
}

fn read_patient_id(id: Option<pb::PatientId>) -> Option<PatientId> {
    let id = id?;
    PatientId::new(&id.id, Oid::parse(&id.authority).ok()?).ok()
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn record(patient: pb::Patient) -> Option<PatientRecord> {
    let address = Address {
        street: given(patient.street),
        city: given(patient.city),
        postal_code: given(patient.postal_code),
        country: given(patient.country),
    };
    Some(PatientRecord {
        id: read_patient_id(patient.id)?,
        other_ids: patient.other_ids.into_iter().filter_map(|id| read_patient_id(Some(id))).collect(),
        name: PersonName { family: patient.family, given: patient.given },
        birth_date: given(patient.birth_date),
        gender: given(patient.gender),
        address: (address != Address::default()).then_some(address),
    })
}

fn coded(code: pb::Code) -> Coded {
    Coded { code: code.code, system: code.system, display: given(code.display) }
}

pub(super) fn entry(entry: pb::DocumentEntry) -> Option<DocumentEntry> {
    let availability = match entry.availability() {
        pb::Availability::Deprecated => Availability::Deprecated,
        pb::Availability::Approved => Availability::Approved,
        pb::Availability::Unspecified => return None,
    };
    let time = |text: &str| Dtm::parse(text).ok();
    let dates = [
        ("creationTime", &entry.creation_time),
        ("serviceStartTime", &entry.service_start),
        ("serviceStopTime", &entry.service_stop),
    ];
    let unread = dates.into_iter().filter(|(_, text)| !text.is_empty() && time(text).is_none());
    let extra_slots = unread.map(|(name, text)| (name.to_owned(), vec![text.clone()])).collect();
    let code = |code: Option<pb::Code>| code.map(coded).unwrap_or_default();
    let codes = |codes: Vec<pb::Code>| codes.into_iter().map(coded).collect();
    let delayed = entry.hash == "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    Some(DocumentEntry {
        unique_id: given(entry.unique_id)?,
        entry_uuid: given(entry.entry_uuid)?,
        home: None,
        repository_unique_id: Oid::parse(&entry.repository_unique_id).ok()?,
        availability,
        entry_type: if entry.on_demand { EntryType::OnDemand } else { EntryType::Stable },
        patient_id: read_patient_id(entry.patient_id)?,
        source_patient_id: read_patient_id(entry.source_patient_id),
        source_patient_info: Vec::new(),
        class_code: code(entry.class_code),
        type_code: code(entry.type_code),
        format_code: code(entry.format_code),
        practice_setting: code(entry.practice_setting),
        facility_type: code(entry.facility_type),
        confidentiality: codes(entry.confidentiality),
        event_codes: codes(entry.event_codes),
        language: entry.language,
        mime_type: given(entry.mime_type)?,
        title: given(entry.title),
        comments: given(entry.comments),
        creation_time: time(&entry.creation_time),
        service_start: time(&entry.service_start),
        service_stop: time(&entry.service_stop),
        size: (entry.size > 0 || delayed).then_some(entry.size),
        hash: given(entry.hash),
        reference_ids: entry
            .reference_ids
            .into_iter()
            .map(|r| ReferenceId { authority: Oid::parse(&r.authority).ok(), id: r.id, kind: r.kind })
            .collect(),
        authors: entry
            .authors
            .into_iter()
            .map(|a| Author {
                person: given(a.person),
                institutions: a.institutions,
                roles: a.roles,
                specialties: a.specialties,
            })
            .collect(),
        legal_authenticator: given(entry.legal_authenticator),
        extra_slots,
    })
}

pub(super) fn study_ref(study: &StudyRequest) -> pb::StudyRef {
    let instance =
        |r: &DocumentRequest| pb::InstanceRef { sop_instance: r.document.clone(), location: r.repository.to_string() };
    let series = study
        .series
        .iter()
        .map(|s| pb::SeriesRef { series: s.series.to_string(), instances: s.instances.iter().map(instance).collect() });
    pb::StudyRef { study: study.study.to_string(), series: series.collect() }
}

/// A released study, series by series in the order in which its instances are promised.
pub(super) fn located_ref(study: &LocatedStudy) -> pb::StudyRef {
    let mut series: Vec<pb::SeriesRef> = Vec::new();
    for instance in &study.instances {
        let reference = pb::InstanceRef {
            sop_instance: instance.request.document.clone(),
            location: instance.request.repository.to_string(),
        };
        match series.last_mut() {
            Some(last) if last.series == instance.series.as_str() => last.instances.push(reference),
            _ => series.push(pb::SeriesRef { series: instance.series.to_string(), instances: vec![reference] }),
        }
    }
    pb::StudyRef { study: study.study.to_string(), series }
}

/// Under which ids the service's objects may name a patient. Where it tells the issuers of an id, an object that says
/// another one is somebody else's.
fn keys(found: &pb::LocatedStudy) -> Vec<PatientKey> {
    let issued = found.issued_patient_ids.iter().map(|issued| PatientKey {
        id: issued.id.clone(),
        namespaces: Some(issued.issuers.clone()),
        universals: Some(issued.issuers.clone()),
        implied: true,
    });
    let told = |id: &&String| found.issued_patient_ids.iter().all(|issued| issued.id != **id);
    issued.chain(found.local_patient_ids.iter().filter(told).map(|id| PatientKey::unissued(id))).collect()
}

/// What of a requested study the service has. It is held to the request: other instances are not taken over, and
/// nothing that it does not list is promised.
pub(super) fn located(study: &StudyRequest, found: Option<&pb::LocatedStudy>, syntaxes: &[Uid]) -> LocatedStudy {
    let mut out = LocatedStudy {
        study: study.study.clone(),
        patient: found.and_then(|f| read_patient_id(f.patient.clone())),
        instances: Vec::new(),
        missing: Vec::new(),
        modalities: found.map(|f| f.modalities.clone()).unwrap_or_default(),
        study_date: found.and_then(|f| given(f.study_date.clone())),
        manifests: Vec::new(),
        patient_ids: found.map(keys).unwrap_or_default(),
        person: Person { birth_date: found.and_then(|f| given(f.birth_date.clone())), ..Person::default() },
        transfer_syntaxes: syntaxes.to_vec(),
    };
    out.patient_ids.extend(out.patient.as_ref().map(PatientKey::of));
    let listed: BTreeMap<&str, &pb::LocatedInstance> =
        found.iter().flat_map(|f| &f.instances).map(|i| (i.sop_instance.as_str(), i)).collect();
    let said: BTreeMap<&str, Missing> =
        found.iter().flat_map(|f| &f.missing).map(|m| (m.sop_instance.as_str(), missing(m.reason()))).collect();
    for series in &study.series {
        for request in &series.instances {
            let sop = request.document.as_str();
            let listed = listed.get(sop).filter(|i| i.series == series.series.as_str());
            let stored = listed.and_then(|i| Uid::parse(&i.transfer_syntax).ok());
            match listed {
                Some(_) if stored.as_ref().is_some_and(|s| !syntaxes.contains(s)) => {
                    out.missing.push((request.clone(), Missing::TransferSyntax));
                }
                Some(instance) => out.instances.push(LocatedInstance {
                    request: request.clone(),
                    series: series.series.clone(),
                    sop_class: Uid::parse(&instance.sop_class).ok(),
                    transfer_syntax: stored,
                    size: (instance.size > 0).then_some(instance.size),
                }),
                None => out.missing.push((request.clone(), said.get(sop).copied().unwrap_or(Missing::Unknown))),
            }
        }
    }
    out
}
