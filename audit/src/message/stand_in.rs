//! What a receiver gets in the place of a record that it does not take: who, whom and what, and of the record itself its
//! length and digest, so that no number is missing and the patient's trail shows that there was something.

use jiff::Timestamp;

use super::exchange::exchange_object;
use super::model::clean;
use super::{
    AuditRecord, Coded, Dialect, Message, Object, Participant, Site, application_server, point_of_care, purpose,
};
use crate::bounds::told_bytes;

impl AuditRecord {
    /// The record of this record, for a receiver that does not take it.
    pub(crate) fn stand_in(&self, site: &Site, reason: &str) -> Self {
        let original = told_bytes(self.xml.as_bytes());
        let alert = Object::new("2", "13", &self.exchange_id, Coded::new("12", "RFC-3881", "URI"))
            .detail("Alert Description", reason)
            .detail("ncp:record", &original)
            .detail("ncp:transaction", &self.transaction);
        let application = Participant {
            user_id: site.source.clone(),
            roles: vec![Coded::new("110150", "DCM", "Application")],
            ..Participant::default()
        };
        let user = (!self.user.is_empty()).then(|| Participant {
            user_id: self.user.clone(),
            name: self.user.clone(),
            requestor: true,
            ..Participant::default()
        });
        let patient = (!self.patient.is_empty()).then(|| Object::patient(&self.patient, "RFC-3881"));
        let exchange = (!self.exchange_id.is_empty()).then(|| exchange_object(&self.exchange_id));
        let message = Message {
            event: Coded::new("110113", "DCM", "Security Alert"),
            action: "E".into(),
            at: Timestamp::from_microsecond(self.event_time_us).unwrap_or(Timestamp::UNIX_EPOCH),
            outcome: self.outcome,
            types: vec![Coded::new("NCP-APART", "NCP", "Audit record set apart").shown("Audit record set apart")],
            description: format!("record of {} set apart: {reason}", self.transaction),
            purposes: purpose(&self.purpose).into_iter().collect(),
            participants: user.into_iter().chain(point_of_care(&self.organisation)).chain([application]).collect(),
            enterprise_site: site.enterprise_site.clone(),
            source: site.source.clone(),
            source_types: vec![application_server()],
            objects: patient.into_iter().chain([alert]).collect(),
        };
        let ehdsi = site.ehdsi.then(|| message.to_xml(Dialect::Ehdsi));
        let message = Message { objects: message.objects.into_iter().chain(exchange).collect(), ..message };
        Self {
            event_time_us: self.event_time_us,
            xml: message.to_xml(Dialect::Ihe),
            ehdsi,
            exchange_id: clean(&self.exchange_id),
            transaction: clean(&self.transaction),
            role: self.role.clone(),
            outcome: self.outcome,
            patient: clean(&self.patient),
            user: clean(&self.user),
            organisation: clean(&self.organisation),
            country: clean(&self.country),
            purpose: clean(&self.purpose),
            studies: Vec::new(),
        }
    }
}
