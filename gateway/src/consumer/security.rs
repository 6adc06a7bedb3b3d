//! Stage 3: who asks, and that she treats the patient. Nothing is asked of another country before all of it held.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_audit::{Event, HumanRequestor, PeerFacts};
use ncp_ihe::PatientId;
use ncp_saml::{AssertionError, Code, HcpClaims, NationalHeader, Purpose, SignerIdentity, SignerTrust, XuaAssertion};
use ncp_tls::{Anchors, CertificateFacts, Country};
use openssl::x509::{X509, X509Ref};

use super::Exchange;
use crate::admission::Authenticated;
use crate::audit_scope::Trail;
use crate::config::{Confirmation, Consumer, Peer, Role};
use crate::initiating::{Call, Caller, Treatment};
use crate::outcome::GatewayError;
use crate::policy::PolicyError;
use crate::responding::replay::{Claims, HcpClaim, TrcClaim};
use crate::wire::Request;

/// Code system of roles across the border.
const ISCO: &str = "2.16.840.1.113883.2.9.6.2.7";

/// A user under whose treatment a patient is; only [`authenticate`] makes one.
pub(super) struct Treating {
    caller: Caller,
    treatment: Treatment,
}

impl Treating {
    /// The patient.
    pub(super) fn patient(&self) -> &PatientId {
        &self.treatment.patient
    }

    /// The exchange with one country.
    pub(super) fn call(&self, exchange: &Exchange, peer: &Arc<Peer>) -> Arc<Call> {
        Arc::new(Call {
            app: exchange.consumers.app.clone(),
            snapshot: exchange.snapshot.clone(),
            peer: peer.clone(),
            caller: self.caller.clone(),
            treatment: Some(self.treatment.clone()),
            wait: None,
        })
    }
}

/// Checks the assertions, binds them to the consumer, makes the claims that other countries are told.
///
/// # Errors
/// The first check that does not hold.
pub(super) async fn authenticate(
    exchange: &Exchange,
    request: &Request,
    trail: &mut Trail,
) -> Result<Treating, GatewayError> {
    let (app, config) = (&exchange.consumers.app, &exchange.consumers.config);
    let trust = Arc::new(NationalTrust::of(exchange)?);
    let now = Timestamp::now();
    let header = app.verifier.verify_national(request.bytes.clone(), trust, now).await?;
    let purpose = treated_for(
        config.emergency_after_login,
        header.user.purpose,
        header.trc.as_ref().and_then(|trc| trc.purpose),
    )?;
    logged_in(config, &header.user.authn_class, header.user.authn_instant, now)?;
    bind(exchange, request, &header, purpose, now).await?;

    let NationalHeader { user, trc } = header;
    let role = config.roles.get(&user.role.code);
    let role = role.ok_or_else(|| PolicyError::Forbidden("role is not configured for consumers".into()))?;
    let (patient, until) = match (&trc, config.confirmation, &user.patient) {
        (Some(trc), _, _) => (&trc.patient, trc.not_on_or_after),
        (None, Confirmation::ResourceId, Some(patient)) => (patient, user.not_on_or_after),
        (None, _, _) => return Err(AssertionError::NoTrc.into()),
    };
    let patient = PatientId::parse_cx(patient).map_err(|_| AssertionError::Content("patient"))?;
    // The user's assertion and the treatment's name one patient, or contradict each other (ITI TF-2: 3.40.4.1.2).
    if user.patient.as_ref().is_some_and(|named| PatientId::parse_cx(named).ok().as_ref() != Some(&patient)) {
        return Err(GatewayError::PatientBinding);
    }

    let claims = claims(exchange, &user, role, purpose)?;
    let share = format!("consumer {}", exchange.connection.subject());
    let caller = Caller { share, claims, hcp_id: fresh_id(), issued: now };
    let requestor = HumanRequestor {
        user_name: format!("{}<{}@{}>", user.alias.as_deref().unwrap_or_default(), user.name_id, user.issuer),
        ..caller.requestor()
    };
    trail.asked_by(requestor, caller.claims.purpose.as_str());
    trail.patient(&patient);
    let longest = now.checked_add(SignedDuration::try_from(config.treatment).unwrap_or(SignedDuration::ZERO));
    // Verified with skew: what ends now still serves this exchange.
    let least = now.checked_add(SignedDuration::try_from(LEAST).unwrap_or(SignedDuration::ZERO));
    let until = until.min(longest.unwrap_or(until)).max(least.unwrap_or(until));
    let treatment = Treatment { patient, trc_id: fresh_id(), issued: now, until };
    issued(exchange, &caller, &treatment).await?;
    Ok(Treating { caller, treatment })
}

/// The purpose of a treatment: that of the login, or EMERGENCY where the configuration lets a treatment be one after it.
pub(super) fn treated_for(
    after_login: bool,
    login: Purpose,
    treatment: Option<Purpose>,
) -> Result<Purpose, GatewayError> {
    let purpose = login.narrowed(treatment).filter(|purpose| *purpose == login || after_login);
    purpose.ok_or(GatewayError::TrcBinding("another purpose"))
}

/// Whether a login may go across the border: other countries take none that is weak, so nothing is asked of them with it;
/// one that is long ago says little of who sits there now.
pub(super) fn logged_in(config: &Consumer, class: &str, at: Timestamp, now: Timestamp) -> Result<(), GatewayError> {
    if !ncp_saml::is_strong(class) && !config.authn_classes.iter().any(|taken| taken == class) {
        return Err(AssertionError::WeakAuthentication.into());
    }
    let longest = SignedDuration::try_from(config.login_age).unwrap_or(SignedDuration::ZERO);
    if now.duration_since(at) > longest {
        return Err(AssertionError::Time("login is too long ago").into());
    }
    Ok(())
}

/// Shortest life of a TRC assertion that goes out.
const LEAST: Duration = Duration::from_secs(60);

/// An assertion belongs to the consumer that first showed it, a MessageID to its message.
async fn bind(
    exchange: &Exchange,
    request: &Request,
    header: &NationalHeader,
    purpose: Purpose,
    now: Timestamp,
) -> Result<(), GatewayError> {
    let replay = &exchange.consumers.app.replay;
    let consumer = format!("consumer {}", exchange.connection.certificate.fingerprint);
    let NationalHeader { user, trc } = header;
    let issuer = issuer(user.signer());
    let of_treatment = trc.as_ref().map(|trc| self::issuer(trc.signer())).unwrap_or_default();
    let digest = hex::encode(openssl::sha::sha256(&request.bytes));
    let claims = Claims {
        peer: &consumer,
        hcp: HcpClaim {
            issuer: &issuer,
            id: &user.id,
            signer: &user.signer().fingerprint,
            subject: &user.name_id,
            issued: user.issued,
            expires: user.not_on_or_after,
            one_time: user.one_time,
        },
        trc: trc.as_ref().map(|trc| TrcClaim {
            issuer: &of_treatment,
            id: &trc.id,
            patient: &trc.patient,
            purpose: purpose.as_str(),
            issued: trc.issued,
            expires: trc.not_on_or_after,
            one_time: trc.one_time,
        }),
        message: request.addressing.message_id.as_deref().map(|id| (id, digest.as_str())),
    };
    replay.admit(&claims, now).await?;
    Ok(())
}

/// A national issuer as the replay memory knows it: by the name that the anchors vouch for. What the assertion calls its
/// issuer is compared with no certificate.
pub(super) fn issuer(signer: &SignerIdentity) -> String {
    format!("national {}", signer.common_name)
}

/// The XUA assertion to the HCP identity assertion; the configuration says what it does not.
fn claims(exchange: &Exchange, user: &XuaAssertion, role: &Role, purpose: Purpose) -> Result<HcpClaims, GatewayError> {
    let gateway = &exchange.consumers.app.config.gateway;
    let organisation = &exchange.consumers.config.organisation;
    let or = |said: &Option<String>, otherwise: &String| said.as_ref().unwrap_or(otherwise).clone();
    Ok(HcpClaims {
        country: gateway.country,
        name_id: user.name_id.clone(),
        subject_name: user.subject_name.clone(),
        role: Code {
            code: role.code.clone(),
            system: ISCO.into(),
            system_name: "ISCO".into(),
            display: role.display.clone(),
        },
        organisation: or(&user.organisation, &organisation.name),
        organisation_id: or(&user.organisation_id, &organisation.id),
        facility_type: organisation.facility_type.clone(),
        purpose,
        locality: or(&user.locality, &organisation.locality),
        npi: user.npi.clone(),
        home_community_id: gateway.home_community_id.to_string(),
        permissions: permissions(user.permissions.as_deref(), role)?,
        authn_context_class: user.authn_class.clone(),
        authn_instant: user.authn_instant,
    })
}

/// The permissions of the role, of which the user has those alone that her assertion names where it names any.
fn permissions(of_user: Option<&[String]>, role: &Role) -> Result<Vec<String>, GatewayError> {
    let granted = |permission: &&String| of_user.is_none_or(|named| named.contains(permission));
    let permissions: Vec<String> = role.permissions.iter().filter(granted).cloned().collect();
    if permissions.is_empty() && of_user.is_some() {
        return Err(PolicyError::Forbidden("the user's assertion names no permission of her role".into()).into());
    }
    Ok(permissions)
}

/// Assertions that go out are on the trail before they do (ITI-40, EHDSI-92).
async fn issued(exchange: &Exchange, caller: &Caller, treatment: &Treatment) -> Result<(), GatewayError> {
    let audit = &exchange.consumers.app.audit;
    let user = caller.requestor();
    let peer = PeerFacts {
        country: caller.claims.country.to_string(),
        certificate_name: exchange.connection.certificate.common_name.clone(),
        address: exchange.connection.address.ip().to_string(),
        ..PeerFacts::default()
    };
    let hcp = Event::HcpIssued { user: user.clone(), assertion: caller.hcp_id.clone() };
    let trc = Event::TrcIssued {
        user,
        assertion: treatment.trc_id.clone(),
        patient: treatment.patient.to_cx(),
        purpose: caller.claims.purpose.as_str().to_owned(),
        peer,
    };
    for event in [hcp, trc] {
        audit.event(&event, &exchange.reference).await.map_err(|e| GatewayError::Audit(e.to_string()))?;
    }
    Ok(())
}

pub(super) fn fresh_id() -> String {
    format!("_{}", uuid::Uuid::new_v4())
}

/// Trust in the country's own issuers of user assertions.
pub(super) struct NationalTrust {
    anchors: Arc<Anchors>,
    country: Country,
    audiences: Vec<String>,
}

impl NationalTrust {
    /// What the configuration says.
    ///
    /// # Errors
    /// A reload took the consumers out.
    pub(super) fn of(exchange: &Exchange) -> Result<Self, GatewayError> {
        let trust = exchange.snapshot.consumers.as_ref();
        let trust = trust.ok_or_else(|| GatewayError::Identity("no consumers are configured".into()))?;
        let (consumers, gateway) = (&exchange.consumers, &exchange.consumers.app.config.gateway);
        let mut audiences = vec![gateway.home_community_id.to_string()];
        audiences.extend(consumers.config.audiences.iter().cloned());
        Ok(Self { anchors: trust.assertions.clone(), country: gateway.country, audiences })
    }
}

impl SignerTrust for NationalTrust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.signer_among(certificate, &[])
    }

    fn is_national(&self) -> bool {
        true
    }

    fn signer_among(&self, certificate: &X509Ref, others: &[X509]) -> Result<SignerIdentity, String> {
        self.anchors.verify(certificate, others).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        // The anchors are national: they vouch for the country, whatever the subject says.
        Ok(SignerIdentity {
            country: self.country,
            fingerprint: facts.fingerprint,
            common_name: facts.common_name,
            stale: false,
        })
    }

    fn audiences(&self) -> &[String] {
        &self.audiences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_06_a_treatment_is_never_less_specific_than_the_login() {
        use Purpose::{Emergency, Treatment};
        for (after_login, login, treatment, expected) in [
            (false, Treatment, None, Some(Treatment)),
            (false, Treatment, Some(Treatment), Some(Treatment)),
            (false, Treatment, Some(Emergency), None),
            (true, Treatment, Some(Emergency), Some(Emergency)),
            (true, Emergency, Some(Treatment), None),
            (true, Emergency, None, Some(Emergency)),
            (false, Emergency, Some(Emergency), Some(Emergency)),
        ] {
            let got = treated_for(after_login, login, treatment).ok();
            assert_eq!(got, expected, "{after_login} {login:?} {treatment:?}");
        }
    }
}
