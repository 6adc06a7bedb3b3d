//! What is longer than a record of it may be, and texts that would be commands to who reads the trail (T-LOG).

use jiff::Timestamp;
use ncp_ihe::{
    DocumentRequest, HomeCommunityId, ImagingRequest, Oid, PatientQuery, RetrieveRequest, SeriesRequest, StudyRequest,
    Uid, actions,
};
use ncp_xml::Element;

use super::{Attacker, MALFORMED, Message, Row, SERVED};
use crate::neighbour::Neighbour;
use crate::pki::Error;

/// Refused by its size.
pub const TOO_LONG: &str = "HTTP 413 Sender";

pub(super) async fn rows(attacker: &Attacker) -> Result<Vec<Row>, Error> {
    let neighbour = &attacker.neighbour;
    let assertions = neighbour.assertions(&attacker.patient).await?;
    let mut out = Vec::new();
    let mut push = |id: &str, input: &str, expected: &[&'static str], message: Message| {
        let (id, input, expected) = (id.into(), input.into(), expected.to_vec());
        out.push(Row { id, input, expected, rule: "", messages: vec![message] });
    };
    for (id, input, name) in [
        (
            "T-LOG-1",
            "CR LF and a syslog line in the name of the user",
            "A\r\n<85>1 2026-01-01T00:00:00Z a b - c - forged",
        ),
        ("T-LOG-2", "ANSI and C1 codes in the name of the user", "A\u{9b}31mB\u{85}C"),
        ("T-LOG-3", "a mark that turns the direction of writing", "A\u{202e}nimda\u{202c}"),
    ] {
        let claims = ncp_saml::HcpClaims { subject_name: name.into(), ..neighbour.claims() };
        let hcp = neighbour.hcp(&claims, Timestamp::now()).await?;
        let trc = neighbour.trc(&hcp, &claims, &attacker.patient).await?;
        let body = Neighbour::find_documents(&attacker.patient).to_element();
        push(id, input, &[SERVED], attacker.signed_message(actions::ITI38_REQUEST, &[hcp, trc], body));
    }

    let query = |value: &str| with_slot(Neighbour::find_documents(&attacker.patient).to_element(), value);
    let list = |identifiers: usize| {
        let uuid = |n: usize| format!("'urn:uuid:6a3f2f6e-1f5e-4a4e-9d53-{n:012}'");
        format!("({})", (0..identifiers).map(uuid).collect::<Vec<_>>().join(","))
    };
    for (id, input, value, expected) in [
        ("T-LOG-7", "ITI-38 with 13 MiB in a slot", "x".repeat(13 << 20), TOO_LONG),
        ("T-LOG-8", "ITI-38 with a list of 7,000 identifiers", list(7000), TOO_LONG),
        ("T-LOG-8b", "ITI-38 with a list of 4,000 identifiers", list(4000), SERVED),
        ("T-LOG-9", "ITI-38 with a text of 4,097 bytes", "x".repeat(4097), TOO_LONG),
        ("T-LOG-9b", "ITI-38 with a text of 4,096 bytes", "x".repeat(4096), SERVED),
    ] {
        let message = attacker.signed_message(actions::ITI38_REQUEST, &assertions, query(&value));
        push(id, input, &[expected], message);
    }

    let ids = vec![attacker.patient.clone()];
    let sought = PatientQuery::new(neighbour.home.0.clone(), attacker.target.0.clone(), ids, None, None, None);
    let hcp = &assertions[..1];
    for (id, input, bytes) in
        [("T-LOG-10", "ITI-55 with a name of 5 KiB", 5 << 10), ("T-LOG-10b", "ITI-55 with a name of 1 MiB", 1 << 20)]
    {
        let mut body = sought.to_element(Timestamp::now());
        body.push(Element::new(ncp_ihe::ns::HL7V3, "name").text("x".repeat(bytes)));
        push(id, input, &[TOO_LONG], attacker.signed_message(actions::ITI55_REQUEST, hcp, body));
    }

    let home: Option<HomeCommunityId> = Some(attacker.target.clone());
    let repository = Oid::parse(&attacker.foreign_document.0)?;
    let document = |document: String| DocumentRequest { home: home.clone(), repository: repository.clone(), document };
    let documents =
        |ids: Vec<String>| RetrieveRequest { documents: ids.into_iter().map(document).collect() }.to_element();
    for (id, input, ids) in [
        ("T-LOG-11", "ITI-39 with an identifier of 5 KiB", vec!["1".repeat(5 << 10)]),
        ("T-LOG-12", "ITI-39 with 5,000 documents", (0..5000).map(|n| format!("2.999.404.{n}")).collect()),
    ] {
        let message = attacker.signed_message(actions::ITI39_REQUEST, &assertions, documents(ids));
        push(id, input, &[TOO_LONG, MALFORMED], message);
    }
    let study = |n: usize| -> Result<StudyRequest, Error> {
        let instances = vec![document(format!("2.999.404.{n}.1.1"))];
        let series = vec![SeriesRequest { series: Uid::parse(&format!("2.999.404.{n}.1"))?, instances }];
        Ok(StudyRequest { study: Uid::parse(&format!("2.999.404.{n}"))?, series })
    };
    let studies = (0..3000).map(study).collect::<Result<Vec<_>, _>>()?;
    let body = ImagingRequest { studies, transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1")?] }.to_element();
    let message = attacker.signed_message(actions::RAD75_REQUEST, &assertions, body);
    push("T-LOG-13", "RAD-75 with 3,000 studies", &[TOO_LONG], message);
    Ok(out)
}

/// A stored query with one more slot.
pub fn with_slot(request: Element, value: &str) -> Element {
    let rim = ncp_ihe::ns::RIM;
    let slot = Element::new(rim, "Slot").attr("name", "$x");
    let slot = slot.with(Element::new(rim, "ValueList").with(Element::new(rim, "Value").text(value)));
    let mut out = Element::new(request.ns(), request.local());
    for attribute in request.attributes() {
        out.set_attr(attribute.ns(), attribute.local(), attribute.value());
    }
    request.into_elements().fold(out, |out, child| match child.is(rim, "AdhocQuery") {
        true => out.with(child.with(slot.clone())),
        false => out.with(child),
    })
}
