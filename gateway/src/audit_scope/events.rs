//! What an exchange's trail holds beside its own message: assertions that were checked, documents that were transcoded,
//! another country that could not be reached.

use ncp_audit::{AssertionKind, Event, HumanRequestor, PeerFacts, Role, Transcoding};
use ncp_ihe::DocumentRequest;

use super::Trail;
use crate::identity::Identity;
use crate::initiating::PeerError;
use crate::outcome::GatewayError;
use crate::responding::pivot;
use crate::translate::Transcoded;

impl Trail {
    /// The assertions that hold (EHDSI-91, 92, 96).
    pub(super) fn checked(&mut self, identity: &Identity) {
        let Some(user) = self.decision.user.clone() else { return };
        let patient = identity.trc_patient.as_ref().map(|id| id.to_cx()).unwrap_or_default();
        let held = [
            (AssertionKind::Hcp, Some(&identity.hcp_id), ""),
            (AssertionKind::Trc, identity.trc_id.as_ref(), patient.as_str()),
            (AssertionKind::Nok, identity.nok_id.as_ref(), patient.as_str()),
        ];
        for (kind, id, patient) in held {
            let Some(id) = id else { continue };
            self.alerts.push(Event::AssertionChecked {
                kind,
                user: user.clone(),
                assertion: id.clone(),
                patient: patient.to_owned(),
                peer: self.peer.clone(),
            });
        }
    }

    /// A document went through the terminology service (EHDSI-94): what went in, what came out, with which maps.
    pub fn transcoded(&mut self, wanted: &DocumentRequest, done: &Transcoded) {
        self.progress.snapshot(&done.snapshot);
        let original = pivot::split(&wanted.document).0;
        let patient = self.decision.patient.clone().unwrap_or_default();
        self.alerts.push(Event::Translated(transcoding(original, &wanted.document, patient, done)));
    }

    /// What a record needs to say that the answer did not reach the other country.
    pub fn way_back(&self) -> WayBack {
        WayBack {
            user: self.decision.user.clone(),
            patient: self.decision.patient.clone().unwrap_or_default(),
            peer: self.peer.clone(),
        }
    }

    /// The way to the other country failed (EHDSI-CF).
    pub(super) fn way_failed(&mut self, error: &GatewayError) {
        if let GatewayError::Peer(error) = error
            && error.is_of_the_way()
        {
            self.alerts.push(Event::CommunicationFailed {
                role: Role::Initiator,
                rule: error.to_string(),
                user: self.decision.user.clone(),
                patient: self.decision.patient.clone().unwrap_or_default(),
                peer: self.peer.clone(),
            });
        }
    }
}

/// For whom an asynchronous answer is, and where it goes.
pub struct WayBack {
    user: Option<HumanRequestor>,
    patient: String,
    peer: PeerFacts,
}

impl WayBack {
    /// The answer could not be delivered (EHDSI-CF).
    pub fn failed(self, error: &PeerError) -> Event {
        let rule = format!("answer could not be delivered: {error}");
        let Self { user, patient, peer } = self;
        Event::CommunicationFailed { role: Role::Responder, rule, user, patient, peer }
    }
}

/// A transcoding as the trail has it; its digests are those that the service and the gateway agree on.
pub fn transcoding(input: &str, output: &str, patient: String, done: &Transcoded) -> Transcoding {
    Transcoding {
        input: (input.to_owned(), hex::encode(&done.summary.sha256_in)),
        output: (output.to_owned(), hex::encode(&done.summary.sha256_out)),
        patient,
        maps: done.snapshot.clone(),
        unmapped: done.summary.unmapped.into(),
    }
}
