//! Cross Gateway Patient Discovery [ITI-55], initiating side (ITI TF-2: 3.55).

use jiff::Timestamp;
use ncp_ihe::xcpd::Beside;
use ncp_ihe::{PatientAnswer, PatientId, PatientMatch, PatientQuery, PatientResponse, PersonName, Severity, Status};

use super::told::Reports;
use super::{Call, PeerError, close};
use crate::audit_scope::{Recorder, Trail};
use crate::identity::TransactionName;
use crate::outcome::{GatewayError, Indicator};
use crate::retry_after;

/// What is known of the person sought.
#[derive(Clone, Default)]
pub struct Sought {
    /// Identifiers; at least one.
    pub ids: Vec<PatientId>,
    /// Narrows.
    pub name: Option<PersonName>,
    /// `YYYYMMDD`.
    pub birth_date: Option<String>,
    /// `M`, `F`, `UN`.
    pub gender: Option<String>,
}

/// What a country answered.
#[derive(Debug, Default)]
pub struct Discovered {
    /// The persons that it names; none when it knows nobody or says so by a reason of its own.
    pub matches: Vec<PatientMatch>,
    /// Codes that it reported beside them.
    pub reported: Vec<String>,
    /// Persons that could not be used: malformed, or of another community.
    pub unusable: usize,
}

/// Asks the country for a person.
///
/// # Errors
/// [`PeerError`]; the trail.
pub async fn discover(call: &Call, sought: Sought) -> Result<Discovered, GatewayError> {
    let own = call.app.config.gateway.home_community_id.0.clone();
    let receiver = call.peer.home_community_id.0.clone();
    let Sought { ids, name, birth_date, gender } = sought;
    let query = PatientQuery::new(own, receiver, ids.clone(), name, birth_date, gender);
    // The message of ITI-55 omits the patient at NCP-B; the record's facts carry her for the index.
    let describe = |trail: &mut Trail| {
        trail.patient_query(&query);
        ids.first().into_iter().for_each(|id| trail.patient(id));
    };
    let trail = call.begin(TransactionName::Iti55, describe).await?;
    let result = ask(call, &query, &trail.recorder()).await;
    close(trail, result).await
}

async fn ask(call: &Call, query: &PatientQuery, recorder: &Recorder) -> Result<Discovered, GatewayError> {
    let answer = call.send(TransactionName::Iti55, query.to_element(Timestamp::now()), recorder).await?;
    match PatientResponse::read(&answer.body).map_err(|_| PeerError::Malformed("PRPA_IN201306UV02"))? {
        PatientAnswer::Matches(matches) => {
            let Beside { errors, warnings, unusable } = PatientResponse::beside(&answer.body);
            let mut reports = Reports::default();
            errors.iter().for_each(|code| reports.add(code, Severity::Error));
            warnings.iter().for_each(|code| reports.add(code, Severity::Warning));
            call.reported(TransactionName::Iti55, &reports);
            let peer = &call.peer;
            let (matches, foreign): (Vec<_>, Vec<_>) = matches.into_iter().partition(|m| peer.is_known_as(&m.home));
            if !foreign.is_empty() {
                recorder.alert("peer named a person of another community");
            }
            // A country speaks for its own community only.
            if matches.is_empty() {
                return Err(PeerError::Malformed("homeCommunityId of another country").into());
            }
            let unusable = unusable + foreign.len();
            if let Some((indicator, code)) = reports.outcome(Status::Success) {
                recorder.reported(indicator, code);
            } else if unusable > 0 {
                recorder.reported(Indicator::Minor, "persons not usable");
            }
            let reported = [reports.errors(Status::Success), reports.warnings()].concat();
            Ok(Discovered { matches, reported, unusable })
        }
        PatientAnswer::NoMatch { .. } => Ok(Discovered::default()),
        // Not telling more about a person is an answer, and the same as nobody.
        PatientAnswer::Refused(refusal) if refusal.asks_for_more() => Ok(Discovered::default()),
        PatientAnswer::Refused(refusal) => {
            let code = if refusal.detail.is_empty() { &refusal.reason } else { &refusal.detail };
            let mut reports = Reports::default();
            reports.add(code, Severity::Error);
            call.reported(TransactionName::Iti55, &reports);
            if refusal.is_busy() {
                return Err(PeerError::Later(retry_after::of_text(&refusal.text).unwrap_or(retry_after::UNSAID)).into());
            }
            Err(PeerError::Refused(super::peers::code_only(code)).into())
        }
    }
}
