//! The rows of a peer as a national consumer sends them, and what a consumer alone can ask for: a treatment of the WS-Trust
//! endpoint.

use jiff::{SignedDuration, Timestamp};
use ncp_saml::{Code, HcpClaims, SignedAssertion};
use ncp_soap::{Envelope, ns};
use ncp_xml::Element;

use super::content::UNSEEN;
use super::{Attacker, INTEGRITY, MALFORMED, Message, Row, SERVED, Side};
use crate::consumer::{TOKENS, TRC, TRUST, treatment_request};
use crate::neighbour::{Answer, XCPD};
use crate::pki::Error;

const TOKEN: &str = "wsse:InvalidSecurityToken";
const CHECK: &str = "wsse:FailedCheck";
const LOGIN: &str = "wsse:FailedAuthentication";
const SECURITY: &str = "wsse:InvalidSecurity";

/// Rows with another answer than the fault for a peer's code.
const DIFFERS: [(&str, &str); 8] = [
    // `emergency_after_login` is off where nothing says otherwise.
    ("T-BND-6f", CHECK),
    ("T-CNS-7b", CHECK),
    // The gateway says its own community in what it issues.
    ("T-BND-15", SERVED),
    // The other country refuses, since what the user may not is not said of her there.
    ("T-ROL-4", "4703"),
    // Roles of the country are those that the configuration names, by their codes and whatever they are called.
    ("T-ROL-8", SERVED),
    ("T-ROL-9", SERVED),
    // A Value has at most 256 characters where it crosses a border.
    ("T-LOG-9b", MALFORMED),
    // Texts of a user are at most 512 bytes long.
    ("T-SAM-40", TOKEN),
];

/// A fault of WS-Security by its subcode, as consumers are told.
pub(super) fn verdict(answer: &Answer) -> String {
    match answer.fault().map(|fault| fault.subcode) {
        Some(subcode) if subcode.starts_with("wsse:") => subcode,
        _ => super::verdict(answer),
    }
}

impl Side {
    /// The answers as this side is told them.
    pub(super) fn answers(self, expected: &[&'static str]) -> Vec<&'static str> {
        let fault = |code: &&'static str| match *code {
            INTEGRITY => TOKEN,
            UNSEEN | "1001" => SECURITY,
            "1002" | "4206" | "4703" => CHECK,
            "4702" => LOGIN,
            other => other,
        };
        match self {
            Self::Peer => expected.to_vec(),
            Self::Consumer => expected.iter().map(fault).collect(),
        }
    }
}

/// The rows of peers that a consumer can send (it finds nobody by ITI-55), and its own.
pub(super) async fn rows(attacker: &Attacker, of_peers: Vec<Row>) -> Result<Vec<Row>, Error> {
    let asks = |row: &Row| row.messages.iter().all(|message| message.path != XCPD);
    let mut out: Vec<Row> = of_peers.into_iter().filter(asks).collect();
    for row in &mut out {
        row.rule = "";
        row.expected = match DIFFERS.iter().find(|(id, _)| *id == row.id) {
            Some((_, expected)) => vec![*expected],
            None => attacker.side.answers(&row.expected),
        };
    }
    logins(attacker, &mut out).await?;
    tokens(attacker, &mut out).await?;
    Ok(out)
}

fn row(id: &str, input: &str, expected: &'static str, message: Message) -> Row {
    Row { id: id.into(), input: input.into(), expected: vec![expected], rule: "", messages: vec![message] }
}

/// Logins that no country takes are refused before any is asked (CO-12).
async fn logins(attacker: &Attacker, out: &mut Vec<Row>) -> Result<(), Error> {
    let neighbour = &attacker.neighbour;
    for (id, input, hours, expected) in [
        ("T-TIM-12", "login 25 hours ago", 25, TOKEN),
        ("T-TIM-12b", "login a month ago", 31 * 24, TOKEN),
        ("T-TIM-12c", "login in an hour", -1, TOKEN),
        ("T-TIM-12d", "login 23 hours ago", 23, SERVED),
    ] {
        let instant = Timestamp::now() - SignedDuration::from_hours(hours);
        let claims = HcpClaims { authn_instant: instant, ..neighbour.claims() };
        let hcp = neighbour.hcp(&claims, Timestamp::now()).await?;
        let trc = neighbour.trc(&hcp, &claims, &attacker.patient).await?;
        let message = attacker.changed(attacker.query(&[hcp.xml, trc.xml].concat()));
        out.push(row(id, input, expected, message));
    }
    Ok(())
}

/// Asks for a treatment as OpenNCP's portal does: no WS-Addressing but a MessageID.
fn asking(assertions: &[SignedAssertion], body: Element) -> Message {
    let id = Element::new(ns::WSA, "MessageID").text(uuid::Uuid::new_v4().urn().to_string());
    let security = assertions.iter().fold(Element::new(ns::WSSE, "Security"), |all, one| all.raw(one.xml.clone()));
    Message { bytes: Envelope { headers: vec![id, security], body }.write(), path: TOKENS, by_third: false }
}

/// What must not confirm a treatment.
async fn tokens(attacker: &Attacker, out: &mut Vec<Row>) -> Result<(), Error> {
    let neighbour = &attacker.neighbour;
    let (cx, now) = (attacker.patient.to_cx(), Timestamp::now());
    let good = neighbour.hcp(&neighbour.claims(), now).await?;
    let treatment = || treatment_request(&cx, "TREATMENT");
    let mut changed = good.clone();
    changed.xml = changed.xml.replace("Radiologist on duty", "Somebody else");
    let old = neighbour.hcp(&neighbour.claims(), now - SignedDuration::from_hours(5)).await?;
    let claims = neighbour.claims();
    let role = Code { code: "2221".into(), display: "Nursing professionals".into(), ..claims.role.clone() };
    let nurse = neighbour.hcp(&HcpClaims { role, ..claims.clone() }, now).await?;
    let password = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password".to_owned();
    let weak = neighbour.hcp(&HcpClaims { authn_context_class: password, ..claims.clone() }, now).await?;
    let instant = now - SignedDuration::from_hours(25);
    let late = neighbour.hcp(&HcpClaims { authn_instant: instant, ..claims }, now).await?;
    let second = neighbour.hcp(&neighbour.claims(), now).await?;
    for (id, input, assertions, expected) in [
        ("T-STS-1", "a treatment without an identity", vec![], SECURITY),
        ("T-STS-2", "name changed after signing", vec![changed], TOKEN),
        ("T-STS-2b", "identity that has expired", vec![old], TOKEN),
        ("T-STS-2c", "two identities", vec![good.clone(), second], TOKEN),
        ("T-STS-3", "a role that is not configured", vec![nurse], CHECK),
        ("T-STS-3b", "single-factor login", vec![weak], LOGIN),
        ("T-STS-3c", "login 25 hours ago", vec![late], TOKEN),
    ] {
        out.push(row(id, input, expected, asking(&assertions, treatment())));
    }
    let one = std::slice::from_ref(&good);
    let emergency = treatment_request(&cx, "EMERGENCY");
    out.push(row("T-STS-4", "an emergency after a login for treatment", CHECK, asking(one, emergency)));
    for (id, input, body) in [
        ("T-STS-5", "a patient without authority", treatment_request("4711", "TREATMENT")),
        ("T-STS-5b", "text behind the patient", treatment_request(&format!("{cx} or another"), "TREATMENT")),
        ("T-STS-5c", "a purpose that nobody knows", treatment_request(&cx, "CURIOSITY")),
        ("T-STS-5d", "parameters twice", treatment().with(Element::new(TRC, "TRCParameters"))),
        ("T-STS-5e", "no parameters", Element::new(TRUST, "RequestSecurityToken")),
        ("T-STS-5f", "another namespace", Element::new("urn:x", "RequestSecurityToken")),
    ] {
        out.push(row(id, input, MALFORMED, asking(one, body)));
    }
    let mut renew = asking(one, treatment());
    renew.bytes = String::from_utf8(renew.bytes)?.replace("/Issue", "/Renew").into_bytes();
    out.push(row("T-STS-6", "a renewal", MALFORMED, renew));
    let doctype = b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>".to_vec();
    let doctype = Message { bytes: doctype, path: TOKENS, by_third: false };
    out.push(row("T-STS-7", "DOCTYPE", MALFORMED, doctype));
    out.push(row("T-STS-good", "a treatment that is confirmed", SERVED, asking(one, treatment())));
    Ok(())
}
