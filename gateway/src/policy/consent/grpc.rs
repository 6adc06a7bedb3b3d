//! Directives from a country's own service (`ncp.national.v1.ConsentSource`).

use std::time::Duration;

use ncp_ihe::PatientId;
use ncp_proto::national as pb;
use ncp_tls::Country;
use pb::consent_source_client::ConsentSourceClient;
use pb::get_consent_response::State;
use tonic::Request;
use tonic::transport::Channel;

use super::{Block, ConsentError, Directives, ServiceConsent};
use crate::config::ConsentService;

/// Units that one patient may have blocked one by one.
const UNITS: usize = 50_000;

/// The service.
pub struct GrpcConsent {
    channel: Channel,
    deadline: Duration,
}

impl GrpcConsent {
    /// Prepares the channel; it connects when a request comes.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn new(config: &ConsentService) -> Result<Self, ConsentError> {
        let wrong = |e: ncp_tls::TlsError| ConsentError::Server(e.to_string());
        let connector = config.tls.connector(b"\x02h2").map_err(wrong)?;
        let channel = ncp_tls::channel(&config.endpoint, &config.server_name, connector).map_err(wrong)?;
        Ok(Self { channel, deadline: config.deadline })
    }

    /// What it says of the patient. A status it does not name, and one we do not know, are no consent.
    pub(super) async fn directives(&self, patient: &PatientId, to: &Country) -> Result<Directives, ConsentError> {
        let id = pb::PatientId { id: patient.extension.clone(), authority: patient.root.to_string() };
        let mut request = Request::new(pb::GetConsentRequest { patient: Some(id), country: to.to_string() });
        request.set_timeout(self.deadline);
        let mut client = ConsentSourceClient::new(self.channel.clone())
            .max_decoding_message_size(pb::MESSAGE_BYTES)
            .max_encoding_message_size(pb::MESSAGE_BYTES);
        let answer = tokio::time::timeout(self.deadline, client.get_consent(request)).await;
        let answer = answer.map_err(|_| ConsentError::Server("no answer in time".into()))?;
        // The status' text stays out: it may name people.
        let answer = answer.map_err(|status| ConsentError::Server(format!("service answered {:?}", status.code())))?;
        read(answer.into_inner())
    }
}

fn read(answer: pb::GetConsentResponse) -> Result<Directives, ConsentError> {
    let service = match State::try_from(answer.state) {
        Ok(State::Given) => ServiceConsent::Given,
        Ok(State::OptedOut) => ServiceConsent::OptedOut,
        Ok(State::MissingAndSaid) => ServiceConsent::MissingAndSaid,
        Ok(State::Unspecified) | Err(_) => return Err(ConsentError::Server("no state is named".into())),
    };
    if answer.blocked.len() > UNITS {
        return Err(ConsentError::Server("more blocks than are read".into()));
    }
    // An empty id would close everything where something else was meant, and one with blanks around it nothing.
    if answer.blocked.iter().any(|unit| unit.is_empty() || unit.trim() != unit) {
        return Err(ConsentError::Server("a block without an id".into()));
    }
    let blocks = answer.blocked.into_iter().map(|unit| Block { unit: Some(unit), ..Block::default() }).collect();
    Ok(Directives { service, blocks, ..Directives::default() })
}
