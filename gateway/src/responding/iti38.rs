//! Cross Gateway Query [ITI-38], responding side (ITI TF-2: 3.38).

use ncp_ihe::{
    Availability, CrossGatewayQueryRequest, DocumentEntry, DocumentIds, GetDocuments, MessageError, QueryResponse,
    RegistryObjects, ReturnType, Status, StoredQuery,
};
use ncp_xml::Element;
use tracing::Instrument;

use super::pipeline::{self, Answer, Exchange, Message};
use super::pivot;
use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::national::{DocumentRegistry, NationalError, PatientObjects, Registered};
use crate::outcome::GatewayError;
use crate::policy::{Authorised, LookUp, Refusal};

/// Stages 3 to 8.
pub async fn respond(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let request = CrossGatewayQueryRequest::read(&message.envelope.body)?;
    trail.stored_query(&request, &message.envelope.body);
    let request = pipeline::authenticate(exchange, message, request, trail).await?;
    check_home(exchange, request.body())?;

    let patient = request.identity().trc_patient.clone();
    if let StoredQuery::FindDocuments(find) = &request.body().query
        && Some(&find.patient_id) != patient.as_ref()
    {
        return Err(GatewayError::PatientBinding);
    }
    let return_type = request.body().return_type;
    let policy = &exchange.snapshot.policy;
    let span = tracing::info_span!("policy", ncp.transaction = "ITI-38");
    let asked = policy.admit(request, TransactionName::Iti38, patient.as_ref()).instrument(span).await?;

    let Registered { objects, failed } = candidates(exchange, &asked, trail).await?;
    let mut released = Vec::new();
    for entry in objects.entries {
        match policy.release(&asked, TransactionName::Iti38, entry).await {
            Ok(entry) => released.push(entry),
            Err(refusal) => trail.withheld(&refusal),
        }
    }
    if released.len() > exchange.app.config.limits.results {
        return Err(NationalError::TooMany.into());
    }

    let mut answer = QueryResponse {
        status: Status::Success,
        errors: Vec::new(),
        objects: RegistryObjects::default(),
        object_refs: Vec::new(),
    };
    let home = exchange.app.config.gateway.home_community_id.clone();
    // What a national system could not answer for is said; what the others have is sent.
    for error in failed {
        answer.status = Status::PartialSuccess;
        let error = GatewayError::from(error);
        answer.errors.push(error.registry_error(TransactionName::Iti38, Some(home.to_string()), &exchange.reference));
    }
    let originals: Vec<DocumentEntry> =
        released.into_iter().map(|entry| DocumentEntry { home: Some(home.clone()), ..entry.into_inner() }).collect();
    let span = tracing::info_span!("translate", ncp.transaction = "ITI-38");
    let translated = translate(exchange, originals, &mut answer).instrument(span).await;
    for entry in translated {
        add(exchange, &asked.get().query, entry, &mut answer);
    }
    if return_type == ReturnType::ObjectRef {
        answer.object_refs = answer.objects.entries.drain(..).map(|e| (e.entry_uuid, e.home)).collect();
        answer.objects.associations.clear();
    }
    trail.decided().await?;
    Ok(Answer::Simple(answer.to_element()))
}

/// Rules of ITI TF-2: 3.38.4.1.3 about homeCommunityId.
fn check_home(exchange: &Exchange, request: &CrossGatewayQueryRequest) -> Result<(), GatewayError> {
    match (&request.home, &request.query) {
        (Some(home), _) if *home != exchange.app.config.gateway.home_community_id => {
            Err(MessageError::HomeCommunityUnknown.into())
        }
        (None, StoredQuery::GetDocuments(_)) => Err(MessageError::HomeCommunityMissing.into()),
        _ => Ok(()),
    }
}

/// Asks the registry wider than the query where codes would have to be known in national form; filters come after.
async fn candidates(
    exchange: &Exchange,
    asked: &Authorised<LookUp<CrossGatewayQueryRequest>>,
    trail: &mut Trail,
) -> Result<Registered, GatewayError> {
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let Some(patient) = asked.identity().trc_patient.clone() else {
        return Err(GatewayError::Internal("admitted without a patient"));
    };
    let span = tracing::info_span!("national", ncp.transaction = "ITI-38");
    async {
        if let StoredQuery::GetDocuments(get) = &asked.get().query {
            // A document of somebody else answers as an absent one does, and is put on the trail.
            let named = asked.derive(originals_of(get));
            for entry in national.entries(&named).await? {
                if entry.patient_id != patient {
                    trail.withheld(&Refusal::OtherPatient);
                }
            }
        }
        let status = match &asked.get().query {
            StoredQuery::FindDocuments(find) => find.status.clone(),
            _ => vec![Availability::Approved, Availability::Deprecated],
        };
        match national.registered(&asked.derive(PatientObjects { patient, status })).await {
            // One answer for "nothing" and "nobody": Success with an empty list leaks least.
            Err(NationalError::NoPatient) => Ok(Registered::default()),
            other => Ok(other?),
        }
    }
    .instrument(span)
    .await
}

fn originals_of(get: &GetDocuments) -> DocumentIds {
    match &get.ids {
        DocumentIds::UniqueIds(ids) => {
            DocumentIds::UniqueIds(ids.iter().map(|id| pivot::original_of(id).unwrap_or(id).to_owned()).collect())
        }
        other => other.clone(),
    }
}

/// Metadata in European codes; without the service the national ones stand, with a warning.
async fn translate(
    exchange: &Exchange,
    entries: Vec<DocumentEntry>,
    answer: &mut QueryResponse,
) -> Vec<(DocumentEntry, DocumentEntry)> {
    let Some(translator) = &exchange.app.translator else {
        return entries.into_iter().map(|e| (e.clone(), e)).collect();
    };
    match translator.entries_to_pivot(&entries).await {
        Ok(translated) => entries.into_iter().zip(translated).collect(),
        Err(error) => {
            tracing::warn!(reason = %error, "metadata not translated");
            answer.errors.push(ncp_ihe::RegistryError {
                code: "WARNING_ORCD_MISSING_MANDATORY_METADATA".into(),
                context: format!("metadata codes are national ones (reference {})", exchange.reference),
                severity: ncp_ihe::Severity::Warning,
                location: Some(exchange.app.config.gateway.home_community_id.to_string()),
            });
            entries.into_iter().map(|e| (e.clone(), e)).collect()
        }
    }
}

/// Adds what the query asked for: a filter holds when the national or the European form of the entry fits it.
fn add(
    exchange: &Exchange,
    query: &StoredQuery,
    (national, european): (DocumentEntry, DocumentEntry),
    answer: &mut QueryResponse,
) {
    let offers_pivot = exchange.app.translator.is_some() && pivot::has_pivot(&national);
    let pair = offers_pivot.then(|| pivot::entry_of(&european, &european.language));
    match query {
        StoredQuery::FindDocuments(find) => {
            if !(find.matches(&european) || find.matches(&national)) {
                return;
            }
            answer.objects.entries.push(european);
            if let Some((pivot, association)) = pair {
                answer.objects.entries.push(pivot);
                answer.objects.associations.push(association);
            }
        }
        StoredQuery::GetDocuments(get) => {
            if get.names(&european) {
                answer.objects.entries.push(european);
            }
            if let Some((pivot, _)) = pair.filter(|(pivot, _)| get.names(pivot)) {
                answer.objects.entries.push(pivot);
            }
        }
        _ => {}
    }
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
