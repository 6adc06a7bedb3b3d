//! Cross Gateway Query [ITI-38], responding side (ITI TF-2: 3.38).
//!
//! One mechanism for every stored query: the registries answer all objects of the patient, what may be disclosed of them
//! is released, and [`ncp_ihe::StoredQuery::select_forms`] says which of those are the answer. It is counted before it is
//! made, and its entries are made when they are written.

use std::collections::BTreeSet;
use std::sync::Arc;

use ncp_ihe::{
    Association, Availability, CrossGatewayQueryRequest, MessageError, ObjectIds, QueryResponse, RegistryError,
    RegistryObjects, ReturnType, Severity, Status, StoredQuery,
};
use ncp_xml::Element;
use tracing::Instrument;

use super::forms::{Forms, Listed};
use super::pipeline::{self, Answer, Exchange, Message};
use super::widen::Widened;
use super::{orcd, pivot, registry};
use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::lists::{LISTS, Share};
use crate::national::{NationalError, Omitted, PatientObjects, Registered};
use crate::outcome::{GatewayError, Indicator};
use crate::policy::{Authorised, Describing, LookUp, Refusal};
use crate::translate::Pivot;
use crate::wire::Listing;

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
    let Held { objects, share, documents, mut errors } = held(exchange, &asked, trail).instrument(span).await?;
    let mut national = registry::release(policy, &asked, objects, &documents, trail).await;
    national.set_home(&exchange.app.config.gateway.home_community_id);
    let asked = asked.get();
    let peer = exchange.connection.peer.as_ref();
    let views = peer.is_some_and(|peer| peer.orcd());
    let portal = peer.is_some_and(|peer| peer.orcd_only()) && asks_for_no_format(&asked.query);
    let pivots = exchange.app.translator.is_some();
    if pivots {
        let pairs = national.entries.iter().filter(|entry| pivot::has_pivot(entry)).map(pivot::association_of);
        national.associations.extend(pairs.collect::<Vec<_>>());
    }
    let mut forms = Forms { codes: None, pivots, views, portal };
    // A query without filters by code has as many answers in any codes: too many are refused before anything is made of them.
    if national.entries.len() > exchange.app.config.limits.results && asked.query.clone().filters_mut().is_empty() {
        let chosen = Chosen::of(&asked.query, None, national, forms).await?;
        chosen.count(exchange, asked.return_type)?;
        (national, forms) = (chosen.national, chosen.forms);
    }
    let span = tracing::info_span!("translate", ncp.transaction = "ITI-38");
    let (codes, widened) = translate(exchange, &asked.query, &national, &mut errors).instrument(span).await;
    trail.metadata_translated(codes.as_ref().map_or("", Pivot::snapshot));
    forms.codes = codes;

    let chosen = Chosen::of(&asked.query, widened, national, forms).await?;
    chosen.count(exchange, asked.return_type)?;
    let is_empty = chosen.listed.uuids.is_empty();
    if views && is_empty {
        errors.extend(orcd::nothing_found(exchange, &asked.query));
    }
    if let Some(failed) = errors.iter().find(|e| e.severity == Severity::Error) {
        trail.recorder().reported(Indicator::Minor, &failed.code);
    }
    if !is_empty && peer.is_some_and(|peer| peer.errors_as_warnings()) {
        errors.iter_mut().for_each(|error| error.severity = Severity::Warning);
    }
    let status =
        if errors.iter().any(|e| e.severity == Severity::Error) { Status::PartialSuccess } else { Status::Success };
    let answer = answer(exchange, asked, chosen, (status, errors), share);
    trail.decided().await?;
    Ok(Answer::Listed(answer))
}

/// Released objects, and which of them are the answer.
struct Chosen {
    national: RegistryObjects,
    forms: Forms,
    uuids: BTreeSet<String>,
    listed: Listed,
}

impl Chosen {
    /// Chooses; among many objects where no thread of the runtime is held, so that other exchanges go on.
    async fn of(
        query: &StoredQuery,
        widened: Option<Widened>,
        national: RegistryObjects,
        forms: Forms,
    ) -> Result<Self, GatewayError> {
        const MANY: usize = 500;
        let (query, many) = (query.clone(), national.entries.len() > MANY);
        let choose = move || {
            let uuids = forms.chosen(&query, widened.as_ref(), &national);
            let listed = forms.listed(&national.entries, &uuids);
            Self { national, forms, uuids, listed }
        };
        if !many {
            return Ok(choose());
        }
        tokio::task::spawn_blocking(choose).await.map_err(|_| GatewayError::Internal("no objects could be chosen"))
    }

    /// Whether it is not too much to be listed. What is made of a document counts with it, and so do their associations.
    fn count(&self, exchange: &Exchange, return_type: ReturnType) -> Result<(), GatewayError> {
        let groups = self.national.submission_sets.iter().map(|set| &set.entry_uuid);
        let groups = groups.chain(self.national.folders.iter().map(|folder| &folder.entry_uuid));
        let associations = self.national.associations.iter().filter(|a| !a.is(Association::XFRM)).map(|a| &a.uuid);
        let beside = groups.chain(associations).filter(|uuid| self.uuids.contains(*uuid)).count();
        let too_many = self.listed.documents + beside > exchange.app.config.limits.results;
        match return_type {
            ReturnType::LeafClass if too_many => Err(NationalError::TooMany.into()),
            ReturnType::LeafClass | ReturnType::ObjectRef => Ok(()),
        }
    }
}

/// The answer. Its entries are made when they are written.
fn answer(
    exchange: &Exchange,
    asked: &CrossGatewayQueryRequest,
    chosen: Chosen,
    (status, errors): (Status, Vec<RegistryError>),
    share: Share,
) -> Listing {
    let Chosen { mut national, forms, uuids, listed } = chosen;
    let mut response = QueryResponse { status, errors, objects: RegistryObjects::default(), object_refs: Vec::new() };
    let entries = std::mem::take(&mut national.entries);
    let associations = match asked.query {
        StoredQuery::FindDocuments(_) => transformations(&national, &uuids),
        _ => Vec::new(),
    };
    national.retain(|uuid| uuids.contains(uuid));
    if asked.return_type == ReturnType::ObjectRef {
        let home = &exchange.app.config.gateway.home_community_id;
        let all = listed.uuids.into_iter().chain(national.uuids().map(ToOwned::to_owned));
        response.object_refs = all.map(|uuid| (uuid, Some(home.clone()))).collect();
        return Listing { response, further: Box::new(std::iter::empty()), shares: vec![share] };
    }
    if matches!(asked.query, StoredQuery::FindDocuments(_)) {
        national.associations = associations;
    }
    response.objects = national;
    let further = entries.into_iter().flat_map(move |entry| {
        let mut made = forms.european(&entry);
        made.retain(|form| uuids.contains(&form.entry_uuid));
        made
    });
    Listing { response, further: Box::new(further), shares: vec![share] }
}

/// Whether a query lists documents and leaves it to us in which formats.
fn asks_for_no_format(query: &StoredQuery) -> bool {
    match query {
        StoredQuery::FindDocuments(find) => find.format_codes.is_empty(),
        StoredQuery::GetAll(all) => all.contents.format_codes.is_empty(),
        _ => false,
    }
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

/// What the registries hold of the TRC's patient.
struct Held {
    objects: RegistryObjects,
    /// Memory that the objects take.
    share: Share,
    /// The documents among them that describe studies.
    documents: Arc<Describing>,
    /// One for each registry that did not answer while others did.
    errors: Vec<RegistryError>,
}

async fn held(
    exchange: &Exchange,
    asked: &Authorised<LookUp<CrossGatewayQueryRequest>>,
    trail: &mut Trail,
) -> Result<Held, GatewayError> {
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
    let share = LISTS.for_country(asked.identity().country);
    let of = PatientObjects { patient: patient.clone(), status, groups: query.concerns_groups(), share: share.clone() };
    // Nobody and nothing have one answer: Success with an empty list leaks least.
    let registered = national.registered(&asked.derive(of)).await?;
    let documents = national.describing_of(&patient, &registered);
    let Registered { objects, failed, omitted } = registered;
    if let Some(ids) = query.documents_named().and_then(|ids| not_among(&objects, ids)) {
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
    let errors = failed.chain(omitted.iter().map(|omitted| left_out(exchange, omitted))).collect();
    Ok(Held { objects, share, documents, errors })
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

/// What the terminology service says of the codes of an answer, and the query with the national codes that may stand for asked
/// ones. Without the service the national codes stand, with a warning, and no entry is left out because its codes could not
/// be read.
async fn translate(
    exchange: &Exchange,
    query: &StoredQuery,
    national: &RegistryObjects,
    errors: &mut Vec<RegistryError>,
) -> (Option<Pivot>, Option<Widened>) {
    let Some(translator) = &exchange.app.translator else { return (None, None) };
    let (pivot, alternatives) =
        tokio::join!(translator.to_pivot(&national.entries), Widened::alternatives(translator, query));
    let (pivot, error) = match (pivot, alternatives) {
        (Ok(pivot), Ok(found)) => {
            let widened = found.map(|found| Widened::of(query, found, national, &pivot.known));
            return (Some(pivot), widened);
        }
        (pivot, Err(error)) => (pivot.ok(), error),
        (Err(error), Ok(_)) => (None, error),
    };
    tracing::warn!(reason = %error, "metadata not translated");
    errors.push(RegistryError {
        code: "WARNING_ORCD_MISSING_MANDATORY_METADATA".into(),
        context: format!("codes are national ones, filters by code are wider (reference {})", exchange.reference),
        severity: Severity::Warning,
        location: Some(exchange.app.config.gateway.home_community_id.to_string()),
    });
    (pivot, Widened::without_service(query, national))
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
