//! Stage 3: assertions, one identity, binding, replay. Nothing national is touched before all of it held.

use std::sync::Arc;

use jiff::Timestamp;
use ncp_ihe::PatientId;
use ncp_saml::{AssertionError, SignerIdentity, SignerTrust, Verified};
use ncp_tls::{Anchors, CertificateFacts, Country};
use openssl::x509::X509Ref;

use super::pipeline::{Exchange, Message};
use super::replay::{HcpBinding, TrcBinding};
use crate::config::Peer;
use crate::identity::{Identity, TransactionName};
use crate::outcome::GatewayError;
use crate::policy::Authenticated;

/// Checks everything about who asks; the result is the only way into the next stage.
///
/// # Errors
/// The first check that does not hold.
pub async fn authenticate<T>(
    exchange: &Exchange,
    message: &Message,
    request: T,
) -> Result<Authenticated<T>, GatewayError> {
    let peer = exchange.connection.peer.as_ref().ok_or_else(|| GatewayError::Identity("no configured peer".into()))?;
    let anchors = exchange.snapshot.seal_anchors.get(&peer.country).cloned();
    let anchors = anchors.ok_or_else(|| GatewayError::Identity("no seal anchors for the peer".into()))?;
    let now = Timestamp::now();
    let ours = vec![exchange.app.config.gateway.home_community_id.to_string()];
    let trust = Arc::new(CountryTrust { anchors, country: peer.country, audiences: ours });
    let header = exchange.app.verifier.verify(message.bytes.clone(), trust, now).await?;
    let (hcp, trc) = (header.hcp, header.trc);
    one_identity(peer, exchange, hcp.signer(), hcp.home_community_id.as_deref())?;

    let needs_trc = message.transaction != TransactionName::Iti55;
    let trc = match trc {
        None if needs_trc => return Err(AssertionError::NoTrc.into()),
        other => other.filter(|_| needs_trc),
    };
    let trc_patient = match &trc {
        Some(trc) => Some(PatientId::parse_cx(&trc.patient).map_err(|_| AssertionError::Content("patient"))?),
        None => None,
    };
    if let Some(purpose) = trc.as_ref().and_then(|trc| trc.purpose)
        && purpose != hcp.purpose
    {
        return Err(GatewayError::TrcBinding("another purpose"));
    }

    let replay = &exchange.app.replay;
    let country = peer.country.to_string();
    let facts = HcpBinding { peer: &country, signer: &hcp.signer().fingerprint, subject: &hcp.name_id };
    replay.bind_hcp(&hcp.id, &facts, hcp.not_on_or_after, now).await?;
    if let Some(trc) = &trc {
        let facts =
            TrcBinding { peer: &country, hcp_id: &hcp.id, patient: &trc.patient, purpose: hcp.purpose.as_str() };
        replay.bind_trc(&trc.id, &facts, trc.not_on_or_after, now).await?;
    }
    if let Some(id) = &message.addressing.message_id {
        let digest = hex::encode(openssl::sha::sha256(&message.bytes));
        replay.message(&country, id, &digest, now).await?;
    }

    let identity = Identity {
        country: peer.country,
        home_community_id: peer.home_community_id.clone(),
        peer_name: peer.name.clone(),
        hcp_id: hcp.id.clone(),
        trc_id: trc.as_ref().map(|trc| trc.id.clone()),
        trc_patient,
        user: hcp.name_id.clone(),
        user_name: user_name(&hcp),
        subject_name: hcp.subject_name.clone(),
        role: hcp.role.code.clone(),
        role_display: hcp.role.display.clone(),
        organisation: hcp.organisation.clone(),
        organisation_id: hcp.organisation_id.clone(),
        locality: hcp.locality.clone(),
        purpose: hcp.purpose.as_str().to_owned(),
        permissions: hcp.permissions.clone(),
        strongly_authenticated: hcp.strongly_authenticated,
    };
    Ok(Authenticated::after_security_checks(request, Arc::new(identity)))
}

/// Country of TLS = country of the signer = country of the registration; homeCommunityId is the peer's or an alias. The
/// Issuer text was compared with the signer's country when the assertion was read.
fn one_identity(
    peer: &Peer,
    exchange: &Exchange,
    signer: &SignerIdentity,
    home: Option<&str>,
) -> Result<(), GatewayError> {
    if exchange.connection.certificate.country != Some(peer.country) || signer.country != peer.country {
        return Err(GatewayError::Identity(format!("signer is of {}, peer is {}", signer.country, peer.country)));
    }
    let Some(home) = home else { return Ok(()) };
    let known = ncp_ihe::HomeCommunityId::parse(home)
        .is_ok_and(|home| home == peer.home_community_id || peer.aliases.contains(&home));
    if known { Ok(()) } else { Err(GatewayError::Identity("home community id is not the peer's".into())) }
}

/// `alias<user@issuer>` of ITI TF-2: 3.40.4.2.
fn user_name(hcp: &Verified<ncp_saml::HcpAssertion>) -> String {
    format!("{}<{}@{}>", hcp.alias.as_deref().unwrap_or_default(), hcp.name_id, hcp.issuer)
}

/// Trust in the seals of one country.
struct CountryTrust {
    anchors: Arc<Anchors>,
    country: Country,
    audiences: Vec<String>,
}

impl SignerTrust for CountryTrust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.anchors.verify(certificate, &[]).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        match facts.country {
            Some(country) if country == self.country => {
                Ok(SignerIdentity { country, fingerprint: facts.fingerprint, common_name: facts.common_name })
            }
            Some(country) => Err(format!("signer is of {country}, peer is {}", self.country)),
            None => Err("signer's subject has not exactly one country".to_owned()),
        }
    }

    fn audiences(&self) -> &[String] {
        &self.audiences
    }
}
