//! Cross Gateway Patient Discovery [ITI-55], responding side (ITI TF-2: 3.55).

use ncp_ihe::{MessageError, PatientAnswer, PatientMatch, PatientQuery, PatientResponse};
use ncp_xml::Element;

use super::pipeline::{self, Answer, Exchange, Message};
use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::national::{NationalError, PatientDemographicsSupplier, narrow};
use crate::outcome::GatewayError;
use crate::policy::{PolicyError, Refusal};

/// Stages 3 to 8.
pub async fn respond(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let query = PatientQuery::read(&message.request.envelope.body)?;
    trail.patient_query(&query);
    if is_deferred(message) {
        return Err(MessageError::DeferredUnsupported.into());
    }
    let request = pipeline::authenticate(exchange, message, query, trail).await?;
    let query = request.body().clone();
    if query.receiver != exchange.app.config.gateway.home_community_id.0 {
        return Err(MessageError::HomeCommunityUnknown.into());
    }
    if query.ids.is_empty() {
        return Err(MessageError::DemographicsOnly.into());
    }

    let asked = exchange.snapshot.policy.admit(request, TransactionName::Iti55, None).await?;
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let found = match national.find(&asked).await {
        Ok(found) => found,
        Err(NationalError::NoPatient) => Vec::new(),
        Err(error) => return Err(error.into()),
    };

    let policy = &exchange.snapshot.policy;
    if found.is_empty() {
        policy.absent_person(&asked).await.map_err(unsaid)?;
    }
    let mut matches = Vec::new();
    for record in found {
        // What policy withholds here is, for the outside, a person who is not known.
        match policy.release_identity(&asked, record).await {
            Ok(released) => matches.push(released),
            Err(refusal @ Refusal::Failed(_)) => return Err(unsaid(refusal)),
            Err(refusal) => trail.withheld(&refusal),
        }
    }
    if matches.len() > 1 {
        return Err(NationalError::Ambiguous.into());
    }
    let home = exchange.app.config.gateway.home_community_id.clone();
    let matches: Vec<PatientMatch> = matches
        .into_iter()
        .filter_map(|released| {
            let record = released.into_inner();
            let degree = narrow::degree(&query, &record)?;
            Some(PatientMatch { record, home: home.clone(), degree })
        })
        .collect();
    for found in &matches {
        trail.found_patient(&found.record.id);
    }
    trail.decided().await?;

    let answer = if matches.is_empty() {
        PatientAnswer::NoMatch { ehdsi_reason: true }
    } else {
        PatientAnswer::Matches(matches)
    };
    Ok(Answer::Simple(response(exchange, &query, &answer)))
}

/// Consent that cannot be looked up is a passing error, whether the person is known or not.
fn unsaid(refusal: Refusal) -> GatewayError {
    match refusal {
        Refusal::Failed(why) => PolicyError::Failed(why).into(),
        _ => NationalError::NoPatient.into(),
    }
}

/// The refusal in ITI-55's own form; `None` when the request could not even be read.
pub fn refusal(exchange: &Exchange, message: &Message, error: &GatewayError) -> Option<Element> {
    let query = PatientQuery::read(&message.request.envelope.body).ok()?;
    if is_deferred(message) {
        let own = &exchange.app.config.gateway.home_community_id.0;
        return Some(PatientResponse::deferred_refused(&query, own, jiff::Timestamp::now()));
    }
    let answer = refusal_answer(error, &query, &exchange.reference);
    Some(response(exchange, &query, &answer))
}

/// Whether the request asks for its response later, by a message of its own.
pub fn is_deferred(message: &Message) -> bool {
    message.request.addressing.action == ncp_ihe::actions::ITI55_DEFERRED_REQUEST
}

fn refusal_answer(error: &GatewayError, query: &PatientQuery, reference: &str) -> PatientAnswer {
    let row = error.row();
    let (reason, system) = row.xcpd_reason;
    // Gender is what narrows here and was not said; a birth date and a family name are in every search mask.
    let ambiguous = matches!(error, GatewayError::National(NationalError::Ambiguous));
    let gender =
        (ambiguous && query.genders.is_empty()).then(|| "LivingSubjectAdministrativeGenderRequested".to_owned());
    match error {
        GatewayError::National(NationalError::NoPatient) => PatientAnswer::NoMatch { ehdsi_reason: true },
        _ => PatientAnswer::Refused(ncp_ihe::xcpd::Refusal {
            reason: reason.to_owned(),
            system: system.to_owned(),
            detail: row.xcpd_detail.to_owned(),
            text: format!("{} (reference {reference})", error.told()),
            attributes: gender.into_iter().collect(),
        }),
    }
}

fn response(exchange: &Exchange, query: &PatientQuery, answer: &PatientAnswer) -> Element {
    PatientResponse::element(query, answer, &exchange.app.config.gateway.home_community_id.0, jiff::Timestamp::now())
}
