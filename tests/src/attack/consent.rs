//! Rows about what a patient decided: asked for with everything that a country can say truthfully, it stays as if it did not
//! exist.

use jiff::Timestamp;
use ncp_ihe::{DocumentRequest, Oid, PatientId, PatientQuery, RetrieveRequest, actions};
use ncp_saml::{HcpClaims, Purpose, SignedAssertion};

use super::requests::ABSENT;
use super::{Attacker, Message, Row, SERVED};
use crate::neighbour::Neighbour;
use crate::pki::Error;

/// ITI-55 finds nobody.
const NOBODY: &str = "AnswerNotAvailable+ERROR_PI_NO_MATCH";

pub(super) async fn rows(attacker: &Attacker) -> Result<Vec<Row>, Error> {
    let mut out = Vec::new();
    let mut push = |id: &str, input: &str, expected: &'static str, message: Message| {
        let (id, input, expected) = (id.into(), input.into(), vec![expected]);
        out.push(Row { id, input, expected, rule: "", messages: vec![message] });
    };
    if let Some(person) = &attacker.opted_out {
        let unknown = PatientId::new(&format!("{}9", person.extension), person.root.clone())?;
        for (id, input, sought, purpose) in [
            ("T-CNS-5", "search for a person who opted out", person, Purpose::Treatment),
            ("T-CNS-5b", "the same in an emergency", person, Purpose::Emergency),
            ("T-CNS-5c", "search for a person who is not known", &unknown, Purpose::Treatment),
        ] {
            push(id, input, NOBODY, search(attacker, sought, purpose).await?);
        }
        for (id, input, purpose) in [
            ("T-CNS-6", "query for the documents of a person who opted out", Purpose::Treatment),
            ("T-CNS-6b", "the same in an emergency", Purpose::Emergency),
        ] {
            let with = assertions(attacker, person, (purpose, purpose)).await?;
            let body = Neighbour::find_documents(person).to_element();
            // An empty list: a code would tell.
            push(id, input, SERVED, attacker.signed_message(actions::ITI38_REQUEST, &with, body));
        }
    }
    if let Some((repository, document)) = &attacker.blocked_document {
        for (id, input, purposes) in [
            ("T-CNS-7", "retrieve of a blocked document in an emergency", (Purpose::Emergency, Purpose::Emergency)),
            (
                "T-CNS-7b",
                "the same where the treatment alone is an emergency",
                (Purpose::Treatment, Purpose::Emergency),
            ),
        ] {
            let with = assertions(attacker, &attacker.patient, purposes).await?;
            let wanted = DocumentRequest {
                home: Some(attacker.target.clone()),
                repository: Oid::parse(repository)?,
                document: document.clone(),
            };
            let body = RetrieveRequest { documents: vec![wanted] }.to_element();
            push(id, input, ABSENT, attacker.signed_message(actions::ITI39_REQUEST, &with, body));
        }
    }
    Ok(out)
}

async fn search(attacker: &Attacker, person: &PatientId, purpose: Purpose) -> Result<Message, Error> {
    let neighbour = &attacker.neighbour;
    let claims = HcpClaims { purpose, ..neighbour.claims() };
    let hcp = neighbour.hcp(&claims, Timestamp::now()).await?;
    let (own, target) = (neighbour.home.0.clone(), attacker.target.0.clone());
    let query = PatientQuery::new(own, target, vec![person.clone()], None, None, None);
    Ok(attacker.signed_message(actions::ITI55_REQUEST, &[hcp], query.to_element(Timestamp::now())))
}

/// Assertions with the purpose of the login and that of the treatment.
async fn assertions(
    attacker: &Attacker,
    patient: &PatientId,
    (login, treatment): (Purpose, Purpose),
) -> Result<Vec<SignedAssertion>, Error> {
    let claims = HcpClaims { purpose: login, ..attacker.neighbour.claims() };
    let hcp = attacker.neighbour.hcp(&claims, Timestamp::now()).await?;
    let of_treatment = HcpClaims { purpose: treatment, ..claims };
    let trc = attacker.neighbour.trc(&hcp, &of_treatment, patient).await?;
    Ok(vec![hcp, trc])
}
