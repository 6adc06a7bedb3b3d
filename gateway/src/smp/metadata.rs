//! What service metadata say (OASIS BDXR SMP 1.0, 2.3), read from the digested bytes only.

use base64::Engine;
use jiff::Timestamp;
use ncp_saml::names::SMP;
use ncp_tls::{Anchors, Country};
use ncp_xml::{Element, Limits};
use openssl::x509::X509;

use super::{DOCUMENT_SCHEME, PARTICIPANT_SCHEME, SmpError};

/// Largest metadata of one service.
pub(super) const BYTES: usize = 1 << 20;

/// The address in force. The metadata must be of the participant and document asked for and name one endpoint in its
/// time, at an https address, with a certificate of the country that leads to that country's anchors.
pub(super) fn endpoint(
    digested: &[u8],
    participant: &str,
    document: &str,
    (country, anchors): (Country, &Anchors),
    now: Timestamp,
) -> Result<String, SmpError> {
    let content = SmpError::Content;
    let limits = Limits { bytes: BYTES, nodes: 20_000, ..Limits::REQUEST };
    let root = Element::parse(digested, &limits).map_err(|_| content("xml"))?;
    let metadata = one(&root, "ServiceMetadata")?;
    let information = metadata.child(SMP, "ServiceInformation").ok_or(content("redirect or no ServiceInformation"))?;
    if metadata.elements().count() != 1 {
        return Err(content("ServiceMetadata"));
    }
    for (local, scheme, value) in
        [("ParticipantIdentifier", PARTICIPANT_SCHEME, participant), ("DocumentIdentifier", DOCUMENT_SCHEME, document)]
    {
        let found = one(information, local)?;
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        if !same(found.get("scheme").unwrap_or_default(), scheme) || !same(&found.trimmed(), value) {
            return Err(SmpError::OfAnother(local));
        }
    }
    let processes = one(information, "ProcessList")?.all(SMP, "Process");
    let lists = processes.filter_map(|process| process.child(SMP, "ServiceEndpointList"));
    let mut open = Vec::new();
    for endpoint in lists.flat_map(|list| list.all(SMP, "Endpoint")) {
        let from = instant(endpoint, "ServiceActivationDate")?;
        let until = instant(endpoint, "ServiceExpirationDate")?;
        if from.is_none_or(|from| from <= now) && until.is_none_or(|until| now < until) {
            open.push(endpoint);
        }
    }
    let [endpoint] = open.as_slice() else {
        return Err(if open.is_empty() { SmpError::OutOfTime } else { content("several endpoints") });
    };
    certificate(endpoint, country, anchors)?;
    let address = one(endpoint, "EndpointURI")?.trimmed();
    let uri: http::Uri = address.parse().map_err(|_| content("EndpointURI"))?;
    let plain = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
    if uri.scheme_str() != Some("https") || !plain {
        return Err(content("EndpointURI"));
    }
    Ok(address)
}

fn one<'a>(parent: &'a Element, local: &'static str) -> Result<&'a Element, SmpError> {
    let mut found = parent.elements().filter(|e| e.is(SMP, local));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(SmpError::Content(local)),
    }
}

fn certificate(endpoint: &Element, country: Country, anchors: &Anchors) -> Result<(), SmpError> {
    let wrong = SmpError::Content("Certificate");
    let text: String = one(endpoint, "Certificate")?.content().split_ascii_whitespace().collect();
    let der = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| SmpError::Content("Certificate"))?;
    let certificate = X509::from_der(&der).map_err(|_| wrong)?;
    if Country::of_subject(&certificate).ok() != Some(country) {
        return Err(SmpError::OfAnother("Certificate"));
    }
    anchors.verify(&certificate, &[]).map(|_| ()).map_err(|e| SmpError::Certificate(e.to_string()))
}

/// An xs:dateTime; without an offset it is UTC.
fn instant(endpoint: &Element, local: &'static str) -> Result<Option<Timestamp>, SmpError> {
    let Some(element) = endpoint.child(SMP, local) else { return Ok(None) };
    let text = element.trimmed();
    let civil = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let read = text.parse::<Timestamp>().ok().or_else(|| civil().map(|zoned| zoned.timestamp()));
    read.map(Some).ok_or(SmpError::Content(local))
}
