//! Stage 3: assertions, one identity, binding, replay. Nothing national is touched before all of it held.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use ncp_ihe::PatientId;
use ncp_saml::{AssertionError, SignerIdentity, SignerTrust, Verified};
use ncp_tls::{Anchors, CertificateFacts, Country, Freshness, TlsError};
use openssl::x509::{X509, X509Ref};

use super::pipeline::{Exchange, Message};
use super::rate::Asked;
use super::replay::{Claims, HcpClaim, Seen, TrcClaim};
use crate::config::Peer;
use crate::identity::{Identity, TransactionName};
use crate::outcome::GatewayError;
use crate::policy::Authenticated;

/// Signers that a message may have: of its HCP, its TRC and its next-of-kin assertion.
const SIGNERS: usize = 3;

/// Checks everything about who asks; the result is the only way into the next stage. Beside it, whether the message is
/// one that came before.
///
/// # Errors
/// The first check that does not hold.
pub async fn authenticate<T>(
    exchange: &Exchange,
    message: &Message,
    request: T,
) -> Result<(Authenticated<T>, Seen), GatewayError> {
    let peer = exchange.connection.peer.as_ref().ok_or_else(|| GatewayError::Identity("no configured peer".into()))?;
    let anchors = exchange.snapshot.seal_anchors.get(&peer.country).cloned();
    let anchors = anchors.ok_or_else(|| GatewayError::Identity("no seal anchors for the peer".into()))?;
    let now = Timestamp::now();
    let ours = vec![exchange.app.config.gateway.home_community_id.to_string()];
    let trust = Arc::new(CountryTrust {
        anchors,
        country: peer.country,
        audiences: ours,
        kin_by_reference: peer.next_of_kin_any_subject(),
        asked: Mutex::default(),
    });
    let mut asked = 0;
    let header = loop {
        match exchange.app.verifier.verify(message.request.bytes.clone(), trust.clone(), now).await {
            // A signer's path holds and its responder must be asked, which a verifying thread does not wait for.
            Err(AssertionError::Trust(_))
                if asked < SIGNERS
                    && let Some(signer) = trust.take_asked() =>
            {
                trust.anchors.ask(&signer, &[]).await.map_err(|e| AssertionError::Trust(e.to_string()))?;
                asked += 1;
            }
            other => break other?,
        }
    };
    let (hcp, trc, nok) = (header.hcp, header.trc, header.nok);
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
    // Who asks may name a patient besides; two facts about one thing are one.
    if let (Some(named), Some(patient)) = (&hcp.patient, &trc_patient)
        && PatientId::parse_cx(named).ok().as_ref() != Some(patient)
    {
        return Err(GatewayError::PatientBinding);
    }
    // Chosen for each patient, after the login: more specific is the policy's to judge, less specific is no purpose.
    let purpose = hcp.purpose.narrowed(trc.as_ref().and_then(|trc| trc.purpose));
    let purpose = purpose.ok_or(GatewayError::TrcBinding("another purpose"))?.as_str();
    let strongly_authenticated = hcp.strongly_authenticated || peer.authn_classes.contains(&hcp.authn_class);
    if !strongly_authenticated {
        tracing::warn!(ncp.authn_class = %hcp.authn_class, ncp.peer = %peer.name, "login class is none that is taken");
    }

    let country = peer.country.to_string();
    // One identity, and a TRC assertion is of its HCP assertion's country.
    let issuer = hcp.signer().country.to_string();
    let digest = hex::encode(openssl::sha::sha256(&message.request.bytes));
    let claims = Claims {
        peer: &country,
        hcp: HcpClaim {
            issuer: &issuer,
            id: &hcp.id,
            signer: &hcp.signer().fingerprint,
            subject: &hcp.name_id,
            issued: hcp.issued,
            expires: hcp.not_on_or_after,
            one_time: hcp.one_time,
        },
        trc: trc.as_ref().map(|trc| TrcClaim {
            issuer: &issuer,
            id: &trc.id,
            patient: &trc.patient,
            purpose,
            issued: trc.issued,
            expires: trc.not_on_or_after,
            one_time: trc.one_time,
        }),
        message: message.request.addressing.message_id.as_deref().map(|id| (id, digest.as_str())),
    };
    let asked = Asked {
        peer: &country,
        point_of_care: &hcp.locality,
        professional: &hcp.name_id,
        patient: trc.as_ref().map(|trc| trc.patient.as_str()),
    };
    // Of what comes too often nothing is remembered: the rate is what bounds a peer's share of the memory.
    exchange.app.rate.admit(&asked, now)?;
    let seen = exchange.app.replay.admit(&claims, now).await?;

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
        role_system: hcp.role.system.clone(),
        nok_id: nok.as_ref().map(|nok| nok.id.clone()),
        next_of_kin: nok.is_some(),
        revocation_stale: hcp.signer().stale || trc.as_ref().is_some_and(|trc| trc.signer().stale),
        organisation: hcp.organisation.clone(),
        organisation_id: hcp.organisation_id.clone(),
        locality: hcp.locality.clone(),
        purpose: purpose.to_owned(),
        login_purpose: hcp.purpose.as_str().to_owned(),
        permissions: hcp.permissions.clone(),
        strongly_authenticated,
    };
    Ok((Authenticated::after_security_checks(request, Arc::new(identity)), seen))
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
    kin_by_reference: bool,
    /// A signer whose status its responder must be asked for.
    asked: Mutex<Option<X509>>,
}

impl CountryTrust {
    fn take_asked(&self) -> Option<X509> {
        self.asked.lock().unwrap_or_else(|p| p.into_inner()).take()
    }
}

impl SignerTrust for CountryTrust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        let freshness = self.anchors.verify(certificate, &[]).map_err(|error| {
            if matches!(error, TlsError::StatusNeeded) {
                *self.asked.lock().unwrap_or_else(|p| p.into_inner()) = Some(certificate.to_owned());
            }
            error.to_string()
        })?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        match facts.country {
            Some(country) if country == self.country => Ok(SignerIdentity {
                country,
                fingerprint: facts.fingerprint,
                common_name: facts.common_name,
                stale: freshness == Freshness::Stale,
            }),
            Some(country) => Err(format!("signer is of {country}, peer is {}", self.country)),
            None => Err("signer's subject has not exactly one country".to_owned()),
        }
    }

    fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn kin_by_reference(&self) -> bool {
        self.kin_by_reference
    }
}
