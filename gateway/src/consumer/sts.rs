//! WS-Trust 1.3 as OpenNCP's TRC-STS offers it: RequestSecurityToken with the professional's HCP identity assertion in the
//! Security header, a TRC assertion in the answer. So a portal made for OpenNCP confirms a treatment here.
//!
//! OpenNCP's client sends no `wsa:Action`; the path alone says what is asked.

use std::sync::Arc;

use http::HeaderMap;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use ncp_audit::{Event, HumanRequestor, PeerFacts};
use ncp_ihe::{MessageError, PatientId};
use ncp_saml::{AssertionError, HcpAssertion, Purpose, TrcClaims, Verified};
use ncp_soap::{Envelope, ns};
use ncp_xml::Element;

use super::Exchange;
use super::security::{NationalTrust, fresh_id};
use crate::listener::Reply;
use crate::outcome::{Alert, GatewayError};
use crate::policy::PolicyError;
use crate::responding::replay::{Claims, HcpClaim};
use crate::wire;

const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
const TRC: &str = "https://ehdsi.eu/assertion/trc";
const SAML_TOKEN: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const UTILITY: &str = ns::WSU;
const RESPONSE_ACTION: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512/RSTRC/IssueFinal";

/// What is asked for.
struct Wanted {
    patient: PatientId,
    purpose: Purpose,
}

/// Carries one request from its headers to its reply.
pub(super) async fn respond(exchange: &Exchange, headers: &HeaderMap, body: Incoming) -> Reply {
    let limits = &exchange.consumers.app.config.limits;
    let (bytes, envelope) = match wire::read_envelope(limits, headers, body).await {
        Ok(read) => read,
        Err(error) => return refused(exchange, &error.into(), None).await,
    };
    let id = envelope.headers.iter().find(|h| h.is(ns::WSA, "MessageID")).map(Element::trimmed);
    let id = id.filter(|id| !id.is_empty() && id.len() <= 2048);
    match issue(exchange, bytes, &envelope, id.as_deref()).await {
        Ok(token) => wire::simple(RESPONSE_ACTION, back(id.as_deref()), token),
        Err(error) => refused(exchange, &error, id.as_deref()).await,
    }
}

fn back(id: Option<&str>) -> wire::Back<'_> {
    wire::Back { relates_to: id, to: None }
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
    bytes: bytes::Bytes,
    envelope: &Envelope,
    id: Option<&str>,
) -> Result<Element, GatewayError> {
    let (app, config) = (&exchange.consumers.app, &exchange.consumers.config);
    let now = Timestamp::now();
    let trust = Arc::new(NationalTrust::of(exchange));
    let hcp = app.verifier.verify(bytes.clone(), trust, now).await?.hcp;
    let wanted = wanted(&envelope.body)?;
    if !hcp.strongly_authenticated {
        return Err(AssertionError::WeakAuthentication.into());
    }
    if !config.roles.contains_key(&hcp.role.code) {
        return Err(PolicyError::Forbidden("role is not configured for consumers".into()).into());
    }
    if wanted.purpose != hcp.purpose {
        return Err(GatewayError::TrcBinding("another purpose"));
    }
    let consumer = format!("consumer {}", exchange.connection.certificate.fingerprint);
    let digest = hex::encode(openssl::sha::sha256(&bytes));
    let claims = Claims {
        peer: &consumer,
        hcp: HcpClaim {
            id: &hcp.id,
            signer: &hcp.signer().fingerprint,
            subject: &hcp.name_id,
            issued: hcp.issued,
            expires: hcp.not_on_or_after,
        },
        trc: None,
        message: id.map(|id| (id, digest.as_str())),
    };
    app.replay.admit(&claims, now).await?;

    let longest = now.checked_add(SignedDuration::try_from(config.treatment).unwrap_or(SignedDuration::ZERO));
    let until = hcp.not_on_or_after.min(longest.unwrap_or(hcp.not_on_or_after));
    let trc = TrcClaims {
        country: app.config.gateway.country,
        name_id: hcp.name_id.clone(),
        hcp_id: hcp.id.clone(),
        patient: wanted.patient.to_cx(),
        purpose: wanted.purpose,
    };
    let signed = exchange.snapshot.signer.issue_trc(&fresh_id(), &trc, now, until).await?;
    // On the trail before it leaves.
    let event = Event::TrcIssued {
        user: requestor(&hcp),
        assertion: signed.id.clone(),
        patient: trc.patient,
        purpose: wanted.purpose.as_str().to_owned(),
        peer: facts(exchange),
    };
    app.audit.event(&event, &exchange.reference).await.map_err(|e| GatewayError::Audit(e.to_string()))?;
    Ok(response(signed.xml, now, until))
}

/// RequestSecurityToken with TRCParameters (`openncp-wire.md` 2.3). The patient is named by CX and nothing else.
fn wanted(body: &Element) -> Result<Wanted, GatewayError> {
    let malformed = |what| GatewayError::Message(MessageError::Malformed(what));
    fn one<'a>(parent: &'a Element, ns: &str, local: &'static str) -> Result<&'a Element, GatewayError> {
        let mut found = parent.elements().filter(|e| e.is(ns, local));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(GatewayError::Message(MessageError::Malformed(local))),
        }
    }
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
    let parameters = one(body, TRC, "TRCParameters")?;
    let purpose = one(parameters, TRC, "PurposeOfUse")?.trimmed();
    let patient = one(parameters, TRC, "PatientId")?.trimmed();
    Ok(Wanted {
        patient: PatientId::parse_cx(&patient).map_err(|_| malformed("PatientId"))?,
        purpose: Purpose::parse(&purpose).ok_or(malformed("PurposeOfUse"))?,
    })
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
