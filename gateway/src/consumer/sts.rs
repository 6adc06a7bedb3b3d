//! WS-Trust 1.3 as OpenNCP's TRC-STS offers it: RequestSecurityToken with the professional's HCP identity assertion in the
//! Security header, a TRC or a next-of-kin assertion in the answer. So a portal made for OpenNCP confirms a treatment here.
//!
//! OpenNCP's client sends no `wsa:Action`; the path alone says what is asked.

use std::sync::Arc;

use http::HeaderMap;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use ncp_audit::{Event, HumanRequestor, PeerFacts};
use ncp_ihe::{MessageError, PatientId};
use ncp_saml::{HcpAssertion, NextOfKin, NextOfKinClaims, Purpose, SignedAssertion, TrcClaims, Verified};
use ncp_soap::{Envelope, ns};
use ncp_xml::Element;

use super::Exchange;
use super::security::{NationalTrust, fresh_id, issuer, logged_in, treated_for};
use crate::bounds;
use crate::listener::Reply;
use crate::outcome::{Alert, GatewayError};
use crate::policy::PolicyError;
use crate::responding::replay::{Claims, HcpClaim};
use crate::wire;

const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
const TRC: &str = "https://ehdsi.eu/assertion/trc";
const NOK: &str = "https://ehdsi.eu/assertion/nok";
/// Longest value of a next of kin's detail, bytes.
const LONGEST: usize = 256;
const SAML_TOKEN: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const UTILITY: &str = ns::WSU;
const RESPONSE_ACTION: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512/RSTRC/IssueFinal";

/// Which assertion a path issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// Treatment relationship.
    Trc,
    /// Next of kin.
    Nok,
}

/// What is asked for.
enum Wanted {
    Trc(PatientId),
    /// Who asks for the patient, whom earlier clients do not name.
    Nok(Box<NextOfKin>, Option<PatientId>),
}

/// Carries one request from its headers to its reply.
pub(super) async fn respond(exchange: &Exchange, token: Token, headers: &HeaderMap, body: Incoming) -> Reply {
    let limits = &exchange.consumers.app.config.limits;
    let (bytes, envelope, _, _charge) = match wire::read_envelope(limits, &exchange.connection, headers, body).await {
        Ok(read) => read,
        Err(error) => return refused(exchange, &error, None).await,
    };
    let id = envelope.headers.iter().find(|h| h.is(ns::WSA, "MessageID")).map(Element::trimmed);
    let id = id.filter(|id| !id.is_empty() && id.len() <= 2048);
    match issue(exchange, token, bytes, &envelope, id.as_deref()).await {
        Ok(issued) => wire::simple(RESPONSE_ACTION, back(id.as_deref()), issued),
        Err(error) => refused(exchange, &error, id.as_deref()).await,
    }
}

fn back(id: Option<&str>) -> wire::Back<'_> {
    wire::Back { relates_to: id, ..wire::Back::default() }
}

/// A fault, and the alert that its row asks for.
async fn refused(exchange: &Exchange, error: &GatewayError, id: Option<&str>) -> Reply {
    tracing::info!(ncp.transaction = "TRC-STS", ncp.reference = %exchange.reference, reason = %error, "refused");
    let (rule, peer) = (error.to_string(), facts(exchange));
    let event = error.row().alert.map(|alert| match alert {
        Alert::UserAuthentication => Event::UserAuthenticationFailed { rule, peer },
        Alert::Security => Event::SecurityAlert { rule, peer },
        Alert::RestrictedFunction => Event::RestrictedFunction { rule, peer },
    });
    if let Some(event) = event
        && let Err(error) = exchange.consumers.app.audit.event(&event, &exchange.reference).await
    {
        tracing::error!(reason = %error, ncp.reference = %exchange.reference, "refusal not recorded");
    }
    wire::fault(error, back(id), &exchange.reference)
}

async fn issue(
    exchange: &Exchange,
    token: Token,
    bytes: bytes::Bytes,
    envelope: &Envelope,
    id: Option<&str>,
) -> Result<Element, GatewayError> {
    bounds::check(&envelope.body, &bytes)?;
    let (app, config) = (&exchange.consumers.app, &exchange.consumers.config);
    let now = Timestamp::now();
    let trust = Arc::new(NationalTrust::of(exchange)?);
    let hcp = app.verifier.verify(bytes.clone(), trust, now).await?.hcp;
    let (wanted, purpose) = wanted(&envelope.body, token)?;
    logged_in(config, &hcp.authn_class, hcp.authn_instant, now)?;
    if !config.roles.contains_key(&hcp.role.code) {
        return Err(PolicyError::Forbidden("role is not configured for consumers".into()).into());
    }
    let purpose = treated_for(config.emergency_after_login, hcp.purpose, Some(purpose))?;
    let consumer = format!("consumer {}", exchange.connection.certificate.fingerprint);
    let issuer = issuer(hcp.signer());
    let digest = hex::encode(openssl::sha::sha256(&bytes));
    let claims = Claims {
        peer: &consumer,
        hcp: HcpClaim {
            issuer: &issuer,
            id: &hcp.id,
            signer: &hcp.signer().fingerprint,
            subject: &hcp.name_id,
            issued: hcp.issued,
            expires: hcp.not_on_or_after,
            one_time: hcp.one_time,
        },
        trc: None,
        message: id.map(|id| (id, digest.as_str())),
    };
    app.replay.admit(&claims, now).await?;

    let longest = now.checked_add(SignedDuration::try_from(config.treatment).unwrap_or(SignedDuration::ZERO));
    let until = hcp.not_on_or_after.min(longest.unwrap_or(hcp.not_on_or_after));
    let (signed, event) = match wanted {
        Wanted::Trc(patient) => treatment(exchange, &hcp, patient, purpose, (now, until)).await?,
        Wanted::Nok(kin, patient) => next_of_kin(exchange, &hcp, *kin, patient, (now, until)).await?,
    };
    // On the trail before it leaves.
    app.audit.event(&event, &exchange.reference).await.map_err(|e| GatewayError::Audit(e.to_string()))?;
    Ok(response(signed.xml, now, until))
}

async fn treatment(
    exchange: &Exchange,
    hcp: &Verified<HcpAssertion>,
    patient: PatientId,
    purpose: Purpose,
    (from, until): (Timestamp, Timestamp),
) -> Result<(SignedAssertion, Event), GatewayError> {
    let claims = TrcClaims {
        country: exchange.consumers.app.config.gateway.country,
        name_id: hcp.name_id.clone(),
        hcp_id: hcp.id.clone(),
        patient: patient.to_cx(),
        purpose,
    };
    let signed = exchange.snapshot.signer.issue_trc(&fresh_id(), &claims, from, until).await?;
    let event = Event::TrcIssued {
        user: requestor(hcp),
        assertion: signed.id.clone(),
        patient: claims.patient,
        purpose: purpose.as_str().to_owned(),
        peer: facts(exchange),
    };
    Ok((signed, event))
}

async fn next_of_kin(
    exchange: &Exchange,
    hcp: &Verified<HcpAssertion>,
    kin: NextOfKin,
    patient: Option<PatientId>,
    (from, until): (Timestamp, Timestamp),
) -> Result<(SignedAssertion, Event), GatewayError> {
    let claims = NextOfKinClaims {
        country: exchange.consumers.app.config.gateway.country,
        name_id: hcp.name_id.clone(),
        hcp_id: hcp.id.clone(),
        kin,
    };
    let signed = exchange.snapshot.signer.issue_nok(&fresh_id(), &claims, from, until).await?;
    let event = Event::NokIssued {
        user: requestor(hcp),
        assertion: signed.id.clone(),
        patient: patient.map(|patient| patient.to_cx()).unwrap_or_default(),
        guarantor: claims.kin.id,
        peer: facts(exchange),
    };
    Ok((signed, event))
}

fn malformed(what: &'static str) -> GatewayError {
    GatewayError::Message(MessageError::Malformed(what))
}

/// The one child of this name; `None` when there is none.
fn at_most_one<'a>(parent: &'a Element, ns: &str, local: &'static str) -> Result<Option<&'a Element>, GatewayError> {
    let mut found = parent.elements().filter(|e| e.is(ns, local));
    match (found.next(), found.next()) {
        (only, None) => Ok(only),
        _ => Err(malformed(local)),
    }
}

fn one<'a>(parent: &'a Element, ns: &str, local: &'static str) -> Result<&'a Element, GatewayError> {
    at_most_one(parent, ns, local)?.ok_or(malformed(local))
}

/// RequestSecurityToken with TRCParameters or NoKParameters, and the purpose. The patient is named
/// by CX and nothing else.
fn wanted(body: &Element, token: Token) -> Result<(Wanted, Purpose), GatewayError> {
    if !body.is(TRUST, "RequestSecurityToken") {
        return Err(malformed("RequestSecurityToken"));
    }
    let kind = one(body, TRUST, "RequestType")?.trimmed();
    if kind.trim_end_matches('/') != format!("{TRUST}/Issue") {
        return Err(malformed("RequestType"));
    }
    if one(body, TRUST, "TokenType")?.trimmed() != SAML_TOKEN {
        return Err(malformed("TokenType"));
    }
    let (ns, name) = match token {
        Token::Trc => (TRC, "TRCParameters"),
        Token::Nok => (NOK, "NoKParameters"),
    };
    let parameters = one(body, ns, name)?;
    let purpose = one(parameters, ns, "PurposeOfUse")?.trimmed();
    let purpose = Purpose::parse(&purpose).ok_or(malformed("PurposeOfUse"))?;
    let patient = at_most_one(parameters, ns, "PatientId")?.map(|e| PatientId::parse_cx(&e.trimmed()));
    let patient = patient.transpose().map_err(|_| malformed("PatientId"))?;
    let wanted = match token {
        Token::Trc => Wanted::Trc(patient.ok_or(malformed("PatientId"))?),
        Token::Nok => Wanted::Nok(Box::new(kin(parameters)?), patient),
    };
    Ok((wanted, purpose))
}

/// What a portal says of a next of kin. Who they are must be said: the trail names them.
fn kin(parameters: &Element) -> Result<NextOfKin, GatewayError> {
    let text = |name: &'static str| {
        let text = at_most_one(parameters, NOK, name)?.map(Element::trimmed).unwrap_or_default();
        if text.len() > LONGEST { Err(malformed(name)) } else { Ok(text) }
    };
    let id = text("NextOfKinId")?;
    if id.is_empty() {
        return Err(malformed("NextOfKinId"));
    }
    // OpenNCP's client and its service call the postal code by two names.
    let postal_code = match text("NextOfKinAddressPostalCode")? {
        none if none.is_empty() => text("NextOfKinPostalCode")?,
        code => code,
    };
    Ok(NextOfKin {
        id,
        first_name: text("NextOfKinFirstName")?,
        family_name: text("NextOfKinFamilyName")?,
        gender: text("NextOfKinGender")?,
        birth_date: birth_date(&text("NextOfKinBirthDate")?)?,
        street: text("NextOfKinAddressStreet")?,
        city: text("NextOfKinAddressCity")?,
        postal_code,
        country: text("NextOfKinAddressCountry")?,
    })
}

/// OpenNCP's clients write the year first or last.
fn birth_date(text: &str) -> Result<String, GatewayError> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let read = |form| jiff::civil::Date::strptime(form, text).ok();
    let date = ["%Y-%m-%d", "%d-%m-%Y", "%Y%m%d"].into_iter().find_map(read);
    date.map(|date| date.strftime("%Y%m%d").to_string()).ok_or(malformed("NextOfKinBirthDate"))
}

fn response(assertion: String, from: Timestamp, until: Timestamp) -> Element {
    let trust = |local: &str| Element::new(TRUST, local);
    let instant = |local: &str, at: Timestamp| {
        Element::new(UTILITY, local).text(at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
    };
    let lifetime = trust("Lifetime").with(instant("Created", from)).with(instant("Expires", until));
    trust("RequestSecurityTokenResponseCollection").with(
        trust("RequestSecurityTokenResponse")
            .with(trust("TokenType").text(SAML_TOKEN))
            .with(trust("RequestedSecurityToken").raw(assertion))
            .with(lifetime),
    )
}

fn facts(exchange: &Exchange) -> PeerFacts {
    PeerFacts {
        country: exchange.consumers.app.config.gateway.country.to_string(),
        certificate_name: exchange.connection.certificate.common_name.clone(),
        address: exchange.connection.address.ip().to_string(),
        ..PeerFacts::default()
    }
}

fn requestor(hcp: &Verified<HcpAssertion>) -> HumanRequestor {
    HumanRequestor {
        user_name: format!("{}<{}@{}>", hcp.alias.as_deref().unwrap_or_default(), hcp.name_id, hcp.issuer),
        display: hcp.subject_name.clone(),
        role: (hcp.role.code.clone(), hcp.role.system.clone(), hcp.role.display.clone()),
        organisation: hcp.organisation.clone().unwrap_or_default(),
    }
}
