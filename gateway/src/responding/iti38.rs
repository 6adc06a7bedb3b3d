//! Cross Gateway Query [ITI-38], responding side (ITI TF-2: 3.38).
//!
//! One mechanism for every stored query: the registries answer all objects of the patient, what may be disclosed of them
//! is released, and [`ncp_ihe::StoredQuery::select`] says which of those are the answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use ncp_ihe::{
    Association, Availability, CrossGatewayQueryRequest, DocumentEntry, MessageError, ObjectIds, QueryResponse,
    RegistryError, RegistryObjects, ReturnType, Severity, Status, StoredQuery,
};
use ncp_xml::Element;
use tracing::Instrument;

use super::pipeline::{self, Answer, Exchange, Message};
use super::pivot::Form;
use super::widen::Widened;
use super::{orcd, pivot, registry};
use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::national::{NationalError, Omitted, PatientObjects, Registered};
use crate::outcome::{GatewayError, Indicator};
use crate::policy::{Authorised, Describing, LookUp, Refusal};

/// Stages 3 to 8.
pub async fn respond(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let request = CrossGatewayQueryRequest::read(&message.request.envelope.body)?;
    trail.stored_query(&request, &message.request.envelope.body);
    let request = pipeline::authenticate(exchange, message, request, trail).await?;
    check_home(exchange, request.body())?;

    let patient = request.identity().trc_patient.clone();
    if request.body().query.patient_id().is_some_and(|named| Some(named) != patient.as_ref()) {
        return Err(GatewayError::PatientBinding);
    }
    let policy = &exchange.snapshot.policy;
    let span = tracing::info_span!("policy", ncp.transaction = "ITI-38");
    let asked = policy.admit(request, TransactionName::Iti38, patient.as_ref()).instrument(span).await?;

    let span = tracing::info_span!("national", ncp.transaction = "ITI-38");
    let (held, documents, mut errors) = held(exchange, &asked, trail).instrument(span).await?;
    let mut national = registry::release(policy, &asked, held, &documents, trail).await;
    national.set_home(&exchange.app.config.gateway.home_community_id);
    let span = tracing::info_span!("translate", ncp.transaction = "ITI-38");
    let asked = asked.get();
    let translated = translate(exchange, &asked.query, &national, &mut errors).instrument(span).await;
    let Translated { objects: mut european, widened, snapshot } = translated;
    trail.metadata_translated(&snapshot);
    if exchange.app.translator.is_some() {
        add_pivots(&mut national);
        add_pivots(&mut european);
    }
    let peer = exchange.connection.peer.as_ref();
    let with_orcd = peer.is_some_and(|peer| peer.orcd());
    if with_orcd {
        european.entries.extend(orcd::views(&european.entries));
    }
    if peer.is_some_and(|peer| peer.orcd_only()) && asks_for_no_format(&asked.query) {
        keep_what_a_portal_shows(&mut european.entries);
    }

    // A filter holds when the national or the European form of an entry fits it, or may fit it by a code that stands for
    // an asked one; all forms have the same entryUUIDs.
    let mut chosen = asked.query.select(&national);
    chosen.extend(asked.query.select(&european));
    if let Some(widened) = widened {
        chosen.extend(widened.select(&national));
        chosen.extend(widened.select(&european));
    }
    european.retain(|uuid| chosen.contains(uuid));
    if with_orcd && european.entries.is_empty() {
        errors.extend(orcd::nothing_found(exchange, &asked.query));
    }
    if let Some(failed) = errors.iter().find(|e| e.severity == Severity::Error) {
        trail.recorder().reported(Indicator::Minor, &failed.code);
    }
    if with_orcd {
        european.entries.iter_mut().for_each(give_a_title);
    }
    if !european.entries.is_empty() && peer.is_some_and(|peer| peer.errors_as_warnings()) {
        errors.iter_mut().for_each(|error| error.severity = Severity::Warning);
    }
    let status =
        if errors.iter().any(|e| e.severity == Severity::Error) { Status::PartialSuccess } else { Status::Success };
    let mut answer = QueryResponse { status, errors, objects: RegistryObjects::default(), object_refs: Vec::new() };
    match asked.return_type {
        ReturnType::ObjectRef => {
            let home = &exchange.app.config.gateway.home_community_id;
            answer.object_refs = european.uuids().map(|uuid| (uuid.to_owned(), Some(home.clone()))).collect();
        }
        ReturnType::LeafClass if european.len() > exchange.app.config.limits.results => {
            return Err(NationalError::TooMany.into());
        }
        ReturnType::LeafClass => {
            if matches!(asked.query, StoredQuery::FindDocuments(_)) {
                european.associations = transformations(&national, &chosen);
            }
            answer.objects = european;
        }
    }
    trail.decided().await?;
    Ok(Answer::Listed(answer))
}

/// Prefixes of the formatCodes that the portals of MyHealth@EU show.
const PORTAL_FORMATS: [&str; 4] = ["urn:eHDSI:", "urn:epSOS:", "urn:epsos:", "urn:ihe:iti:xds-sd:pdf:"];

/// Whether a query lists documents and leaves it to us in which formats.
fn asks_for_no_format(query: &StoredQuery) -> bool {
    match query {
        StoredQuery::FindDocuments(find) => find.format_codes.is_empty(),
        StoredQuery::GetAll(all) => all.contents.format_codes.is_empty(),
        _ => false,
    }
}

/// Leaves the OrCD views, and of documents without a view those in a format that a portal shows. A manifest or a report
/// beside its view would be a line that cannot be opened.
fn keep_what_a_portal_shows(entries: &mut Vec<DocumentEntry>) {
    let views: BTreeSet<String> = entries
        .iter()
        .filter(|entry| pivot::split(&entry.unique_id).1 == Some(Form::Orcd))
        .map(|entry| pivot::split(&entry.unique_id).0.to_owned())
        .collect();
    entries.retain(|entry| match pivot::split(&entry.unique_id) {
        (_, Some(Form::Orcd)) => true,
        (original, _) => {
            let is_shown = PORTAL_FORMATS.iter().any(|prefix| entry.format_code.code.starts_with(prefix));
            is_shown && !views.contains(original)
        }
    });
}

/// OpenNCP's client reads the title of every entry. One without has the name of its type.
fn give_a_title(entry: &mut DocumentEntry) {
    let name = || entry.type_code.display.clone().unwrap_or_else(|| entry.type_code.code.clone());
    entry.title = Some(entry.title.take().unwrap_or_else(name));
}

/// Rules of ITI TF-2: 3.38.4.1.3 about homeCommunityId.
fn check_home(exchange: &Exchange, request: &CrossGatewayQueryRequest) -> Result<(), GatewayError> {
    match (&request.home, request.query.patient_id()) {
        (Some(home), _) if *home != exchange.app.config.gateway.home_community_id => {
            Err(MessageError::HomeCommunityUnknown.into())
        }
        (None, None) => Err(MessageError::HomeCommunityMissing.into()),
        _ => Ok(()),
    }
}

/// What the registries hold of the TRC's patient, the documents among it that describe studies, and an error for each
/// registry that did not answer while others did.
async fn held(
    exchange: &Exchange,
    asked: &Authorised<LookUp<CrossGatewayQueryRequest>>,
    trail: &mut Trail,
) -> Result<(RegistryObjects, Arc<Describing>, Vec<RegistryError>), GatewayError> {
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let Some(patient) = asked.identity().trc_patient.clone() else {
        return Err(GatewayError::Internal("admitted without a patient"));
    };
    let query = &asked.get().query;
    // Documents in force describe studies whatever statuses the query asks for; the query itself picks by status.
    let mut status = query.statuses();
    if !status.contains(&Availability::Approved) {
        status.push(Availability::Approved);
    }
    let of = PatientObjects { patient: patient.clone(), status, groups: query.concerns_groups() };
    // Nobody and nothing have one answer: Success with an empty list leaks least.
    let registered = national.registered(&asked.derive(of)).await?;
    let documents = national.describing_of(&patient, &registered);
    let Registered { objects: held, failed, omitted } = registered;
    if let Some(ids) = query.documents_named().and_then(|ids| not_among(&held, ids)) {
        // A document of somebody else answers as an absent one does, and is put on the trail.
        let found = national.entries(&asked.derive(ids)).await;
        found.iter().filter(|e| e.patient_id != patient).for_each(|_| trail.withheld(&Refusal::OtherPatient));
    }
    let location = exchange.app.config.gateway.home_community_id.to_string();
    let error = |failure| {
        GatewayError::from(failure).registry_error(TransactionName::Iti38, Some(location.clone()), &exchange.reference)
    };
    let policy = &exchange.snapshot.policy;
    let omitted = registry::may_be_named(policy, asked, &patient, omitted, &documents, trail).await;
    let failed = failed.into_iter().map(error);
    Ok((held, documents, failed.chain(omitted.iter().map(|omitted| left_out(exchange, omitted))).collect()))
}

/// A unit that is not in the answer, by its id where it has one, with the reason. One that is listed, and not all of it,
/// is a warning.
fn left_out(exchange: &Exchange, omitted: &Omitted) -> RegistryError {
    let home = &exchange.app.config.gateway.home_community_id;
    let (what, location) = match omitted.unit.id() {
        Some(id) => ("a document or study".into(), format!("{id} {home}")),
        None => (format!("{} documents or studies", omitted.unit.count()), home.to_string()),
    };
    RegistryError {
        code: "XDSRegistryError".into(),
        context: format!("{what} left out: {} (reference {})", omitted.reason, exchange.reference),
        severity: if omitted.reason.leaves_the_rest() { Severity::Warning } else { Severity::Error },
        location: Some(location),
    }
}

/// Originals that a query names and that are not held; `None` when all are.
fn not_among(held: &RegistryObjects, ids: ObjectIds) -> Option<ObjectIds> {
    let (uuids, ids) = match ids {
        ObjectIds::EntryUuids(ids) => (true, ids),
        ObjectIds::UniqueIds(ids) => (false, ids.iter().map(|id| pivot::split(id).0.to_owned()).collect()),
    };
    let known: BTreeSet<&str> =
        if uuids { held.uuids().collect() } else { held.entries.iter().map(|e| e.unique_id.as_str()).collect() };
    let left: Vec<String> = ids.into_iter().filter(|id| !known.contains(id.as_str())).collect();
    let wrap = if uuids { ObjectIds::EntryUuids } else { ObjectIds::UniqueIds };
    (!left.is_empty()).then(|| wrap(left))
}

/// What the terminology service made of an answer.
struct Translated {
    objects: RegistryObjects,
    widened: Option<Widened>,
    /// Digest of its maps, hex; empty when it did not answer.
    snapshot: String,
}

/// Metadata in European codes, and the query with the national codes that may stand for asked ones. Without the service
/// the national codes stand, with a warning, and no entry is left out because its codes could not be read.
async fn translate(
    exchange: &Exchange,
    query: &StoredQuery,
    national: &RegistryObjects,
    errors: &mut Vec<RegistryError>,
) -> Translated {
    let mut out = Translated { objects: national.clone(), widened: None, snapshot: String::new() };
    let Some(translator) = &exchange.app.translator else { return out };
    let (entries, alternatives) =
        tokio::join!(translator.entries_to_pivot(&national.entries), Widened::alternatives(translator, query));
    let entries = entries.map(|found| {
        (out.objects.entries, out.snapshot) = (found.entries, found.snapshot);
        found.known
    });
    let found = match (entries, alternatives) {
        (Ok(known), Ok(found)) => {
            let widened = found.map(|found| Widened::of(query, found, national, &known));
            return Translated { widened, ..out };
        }
        (Err(error), _) | (Ok(_), Err(error)) => error,
    };
    tracing::warn!(reason = %found, "metadata not translated");
    errors.push(RegistryError {
        code: "WARNING_ORCD_MISSING_MANDATORY_METADATA".into(),
        context: format!("codes are national ones, filters by code are wider (reference {})", exchange.reference),
        severity: Severity::Warning,
        location: Some(exchange.app.config.gateway.home_community_id.to_string()),
    });
    Translated { widened: Widened::without_service(query, national), ..out }
}

/// A transcoded form beside each document that has one.
fn add_pivots(objects: &mut RegistryObjects) {
    let pairs: Vec<_> = objects.entries.iter().filter(|e| pivot::has_pivot(e)).map(pivot::entry_of).collect();
    for (entry, association) in pairs {
        objects.entries.push(entry);
        objects.associations.push(association);
    }
}

/// OpenNCP pairs a document with its transformation by associations that come with FindDocuments.
fn transformations(objects: &RegistryObjects, chosen: &BTreeSet<String>) -> Vec<Association> {
    let both = |a: &&Association| chosen.contains(&a.source) && chosen.contains(&a.target);
    objects.associations.iter().filter(|a| a.is(Association::XFRM)).filter(both).cloned().collect()
}

/// The refusal in ITI-38's own form.
pub fn refusal(exchange: &Exchange, error: &GatewayError) -> Option<Element> {
    let location = Some(exchange.app.config.gateway.home_community_id.to_string());
    let answer = QueryResponse {
        status: Status::Failure,
        errors: vec![error.registry_error(TransactionName::Iti38, location, &exchange.reference)],
        objects: RegistryObjects::default(),
        object_refs: Vec::new(),
    };
    Some(answer.to_element())
}
