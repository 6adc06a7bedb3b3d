//! Registry Stored Query [ITI-18] of a national consumer as Cross Gateway Query [ITI-38] to one community or to all that know
//! the patient, and their answers as one (ITI TF-2: 3.18, 3.38.4.1.3).

use std::collections::BTreeSet;
use std::sync::Arc;

use ncp_ihe::{
    CrossGatewayQueryRequest, HomeCommunityId, MessageError, PatientId, QueryResponse, RegistryError, Severity, Status,
};
use ncp_xml::Element;

use super::{Exchange, security};
use crate::audit_scope::Trail;
use crate::config::Peer;
use crate::identity::TransactionName;
use crate::initiating::ask_all;
use crate::initiating::query::{Forwarded, Found};
use crate::lists::Share;
use crate::outcome::{GatewayError, Indicator};
use crate::wire::{Answer, Listing, Request};

/// Stages 3 to 5.
pub(super) async fn respond(exchange: &Exchange, request: &Request, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let body = &request.envelope.body;
    let asked = CrossGatewayQueryRequest::read(body)?;
    trail.stored_query(&asked, body);
    trail.holds()?;
    let treating = security::authenticate(exchange, request, trail).await?;
    // Whichever stored query names a patient, it is the one under treatment.
    let named = asked.query.patient_id();
    if named.is_some_and(|patient| patient != treating.patient()) {
        return Err(GatewayError::PatientBinding);
    }
    let (peers, mut errors) = targets(exchange, &asked, body, named)?;
    let forwarded = Arc::new(Forwarded::new(asked, body)?);
    trail.decided().await?;

    let calls = peers.iter().map(|peer| treating.call(exchange, peer));
    let answers = ask_all(calls, |call| {
        let forwarded = forwarded.clone();
        async move { forwarded.ask(&call).await }
    })
    .await;
    let mut merged = Merged::default();
    for (call, answered) in answers {
        let home = call.peer.home_community_id.to_string();
        match answered {
            Ok(found) => {
                for entry in &found.objects.entries {
                    exchange.consumers.app.announced.keep(call.peer.country, entry);
                }
                merged.add(found, &home, &mut errors);
            }
            Err(error) => {
                tracing::info!(country = %call.peer.country, reason = %error, ncp.reference = %exchange.reference, "country did not answer");
                errors.push(error.registry_error(TransactionName::Iti38, Some(home), &exchange.reference));
            }
        }
    }
    let shares = std::mem::take(&mut merged.shares);
    let response = merged.response(errors);
    let failed = response.errors.iter().find(|e| e.severity == Severity::Error);
    let code = failed.map_or("no code", |error| error.code.as_str());
    match response.status {
        Status::Success => {}
        Status::PartialSuccess => trail.recorder().reported(Indicator::Minor, code),
        Status::Failure | Status::Missing => trail.recorder().reported(Indicator::Serious, code),
    }
    Ok(Answer::Listed(Listing { response, further: Box::new(std::iter::empty()), shares }))
}

/// Whom to ask: the community that the query names, its list of target communities, or all that know such identifiers.
fn targets(
    exchange: &Exchange,
    asked: &CrossGatewayQueryRequest,
    body: &Element,
    patient: Option<&PatientId>,
) -> Result<(Vec<Arc<Peer>>, Vec<RegistryError>), GatewayError> {
    let peers = &exchange.snapshot.peers;
    let mut homes: Vec<HomeCommunityId> = asked.home.iter().cloned().collect();
    if homes.is_empty() {
        homes = target_communities(body)?;
    }
    let (mut out, mut errors): (Vec<Arc<Peer>>, _) = (Vec::new(), Vec::new());
    for home in homes {
        match peers.by_home(&home) {
            Some(peer) if out.iter().any(|known| known.country == peer.country) => {}
            Some(peer) => out.push(peer.clone()),
            None => errors.push(super::retrieve::unknown_community(&home, None)),
        }
    }
    if out.is_empty() && errors.is_empty() {
        let patient = patient.ok_or(MessageError::HomeCommunityMissing)?;
        let knows = |peer: &&Arc<Peer>| peer.xca.is_some() && peer.patient_roots.contains(&patient.root);
        out.extend(peers.iter().filter(knows).cloned());
        if out.is_empty() {
            return Err(MessageError::HomeCommunityUnknown.into());
        }
    }
    Ok((out, errors))
}

/// `$targetCommunityIdList` (ITI TF-1: 18.2.6).
fn target_communities(body: &Element) -> Result<Vec<HomeCommunityId>, GatewayError> {
    let rim = ncp_ihe::ns::RIM;
    let slots = body.all(rim, "AdhocQuery").flat_map(|query| query.all(rim, "Slot"));
    let lists = slots.filter(|slot| slot.get("name") == Some("$targetCommunityIdList"));
    let values = lists.flat_map(|slot| slot.all(rim, "ValueList")).flat_map(|list| list.all(rim, "Value"));
    let mut out = BTreeSet::new();
    for value in values.map(Element::trimmed) {
        for home in value.split(['(', ')', '\'', ',']).map(str::trim).filter(|home| !home.is_empty()) {
            out.insert(HomeCommunityId::parse(home).map_err(|_| MessageError::HomeCommunityUnknown)?);
        }
    }
    Ok(out.into_iter().collect())
}

/// The answers as one.
#[derive(Default)]
struct Merged {
    found: Found,
    known: BTreeSet<(String, String, String)>,
    answered: bool,
    /// Memory that the answers take.
    shares: Vec<Share>,
}

impl Merged {
    /// entryUUIDs and uniqueIds are unique within a community only, so entries are told apart with it.
    fn add(&mut self, found: Found, home: &str, errors: &mut Vec<RegistryError>) {
        self.answered = true;
        let Found { mut objects, object_refs, incomplete, warnings, unusable, homeless, share, .. } = found;
        self.shares.extend(share);
        objects.entries.retain(|entry| {
            let key = (home.to_owned(), entry.repository_unique_id.to_string(), entry.unique_id.clone());
            self.known.insert(key)
        });
        self.found.objects.extend(objects);
        self.found.object_refs.extend(object_refs);
        let mut say = |code: &str, context: String, severity| {
            let location = Some(home.to_owned());
            errors.push(RegistryError { code: code.to_owned(), context, severity, location });
        };
        if homeless > 0 {
            let text = format!("{homeless} objects without home were left out");
            say("XDSMissingHomeCommunityId", text, Severity::Error);
        }
        if unusable > 0 {
            say("XDSRegistryError", format!("{unusable} objects could not be used"), Severity::Error);
        }
        incomplete.iter().for_each(|code| say(code, "reported by the community".into(), Severity::Error));
        for code in &warnings {
            // What this gateway noticed itself is a text, not a code.
            match code.contains(' ') {
                true => say("XDSRegistryError", code.clone(), Severity::Warning),
                false => say(code, "reported by the community".into(), Severity::Warning),
            }
        }
    }

    fn response(self, errors: Vec<RegistryError>) -> QueryResponse {
        let failed = errors.iter().any(|e| e.severity == Severity::Error);
        let status = match (self.answered, failed) {
            (true, true) => Status::PartialSuccess,
            (false, true) => Status::Failure,
            (_, false) => Status::Success,
        };
        let Found { objects, object_refs, .. } = self.found;
        QueryResponse { status, errors, objects, object_refs }
    }
}

#[cfg(test)]
mod tests {
    use ncp_xml::Limits;

    use super::*;

    #[test]
    fn target_communities_are_read_from_their_slot_alone() {
        let text = format!(
            "<q:AdhocQueryRequest xmlns:q=\"{}\" xmlns=\"{}\"><AdhocQuery><Slot name=\"$other\"><ValueList><Value>'urn:oid:2.999.1'\
             </Value></ValueList></Slot><Slot name=\"$targetCommunityIdList\"><ValueList><Value>('urn:oid:2.999.47','urn:oid:2.999.246')\
             </Value></ValueList></Slot></AdhocQuery></q:AdhocQueryRequest>",
            ncp_ihe::ns::QUERY,
            ncp_ihe::ns::RIM
        );
        let body = Element::parse(text.as_bytes(), &Limits::REQUEST).expect("xml");
        let homes = target_communities(&body).expect("homes");
        assert_eq!(
            homes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["urn:oid:2.999.246", "urn:oid:2.999.47"]
        );
        let bad = text.replace("urn:oid:2.999.246", "urn:oid:x");
        assert!(target_communities(&Element::parse(bad.as_bytes(), &Limits::REQUEST).expect("xml")).is_err());
    }

    #[test]
    fn one_answer_and_one_failure_are_a_partial_success() {
        let error =
            || super::super::retrieve::unknown_community(&HomeCommunityId::parse("2.999.1").expect("oid"), None);
        let mut merged = Merged::default();
        let mut errors = vec![error()];
        merged.add(Found::default(), "urn:oid:2.999.47", &mut errors);
        assert_eq!(merged.response(errors).status, Status::PartialSuccess);
        assert_eq!(Merged::default().response(vec![error()]).status, Status::Failure);
        let mut merged = Merged::default();
        let mut errors = Vec::new();
        merged.add(Found::default(), "urn:oid:2.999.47", &mut errors);
        assert_eq!(merged.response(errors).status, Status::Success);
    }
}
