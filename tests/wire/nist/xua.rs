//! The nine XUA variants of three definitions. The Gazelle STS that issued their assertions by user name is not at hand:
//! each variant is issued here, by its name. The peer is configured for faults, as XUA asks (ITI TF-2: 3.40.4.1.3).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_saml::{AUDIENCE, SignedAssertion, hcp_template, names};
use ncp_tests::messages::Origin;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::Error;
use ncp_xml::Element;

use super::plan::{self, Outcome, Sender, Sends, Values};
use super::table::{Table, Verdict};
use super::{ASKING, World, rg};

const SUITE: &str = "XUA";
const SUFFIXES: [&str; 9] = [
    "expired",
    "notyetvalid",
    "unsigned",
    "unknownaudience",
    "invalidauthnstatement",
    "secondauthncontext",
    "secondpurposeofuse",
    "secondrole",
    "withauthzconsent",
];

/// Runs the variants of 12309 and 12312 against the Responding Gateway.
pub(crate) async fn run(world: &World, table: &mut Table) -> Result<(), Error> {
    let dir = world.folder("xua");
    let mut values = Values::of(rg::HOME);
    rg::load(&dir, &mut values)?;
    let node = rg::gateway(world, &dir, "fault").await?;
    let mut neighbour = node.asked_by(&world.asking, ASKING, &world.own, Some(&world.capture))?;
    neighbour.origin = Origin::Given;
    for suffix in SUFFIXES {
        for base in ["12309", "12312"] {
            let test = format!("{base}_{suffix}");
            for section in plan::sections(&super::testkit().join(&test))? {
                let xua = Xua { neighbour: &neighbour, suffix };
                for (step, verdict) in plan::run(&test, &section, &xua, &mut values).await? {
                    table.add(SUITE, &test, &format!("{section} {step}"), verdict);
                }
            }
        }
        let test = format!("15808_{suffix}");
        for section in plan::sections(&super::testkit().join(&test))? {
            table.add(SUITE, &test, &section, Verdict::Open("needs ITI-18 for national consumers"));
        }
    }
    Ok(())
}

struct Xua<'a> {
    neighbour: &'a Neighbour,
    suffix: &'static str,
}

impl Sender for Xua<'_> {
    async fn send(&self, sends: Sends, body: Element) -> Result<Outcome, Error> {
        let hcp = variant(self.neighbour, self.suffix).await?;
        let patient = rg::patient_of("12309", "finddocs")?;
        let trc = self.neighbour.trc(&hcp, &self.neighbour.claims(), &patient).await?;
        let outcome = rg::ask(self.neighbour, sends, &[hcp, trc], body).await?;
        // A fault for another reason than the assertion would prove nothing.
        let about = outcome.codes.first().is_some_and(|subcode| subcode.starts_with("wsse:"));
        if outcome.status == "Fault" && !about {
            return Ok(Outcome { status: "Fault without a WS-Security subcode".into(), ..outcome });
        }
        Ok(outcome)
    }
}

/// The identity assertion of a variant.
async fn variant(neighbour: &Neighbour, suffix: &str) -> Result<SignedAssertion, Error> {
    let claims = neighbour.claims();
    let id = format!("_{}", uuid::Uuid::new_v4());
    let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
    let issued = match suffix {
        "expired" => now - SignedDuration::from_hours(3),
        "notyetvalid" => now + SignedDuration::from_hours(3),
        _ => now,
    };
    let template = hcp_template(&id, &claims, issued, hour);
    let changed = match suffix {
        "unknownaudience" => {
            edited(&template, "Conditions", |xml| xml.replace(AUDIENCE, "https://audience.example.org/unknown"))
        }
        "invalidauthnstatement" => edited(&template, "AuthnStatement", |xml| without(&xml, "AuthnContext")),
        "secondauthncontext" => edited(&template, "AuthnStatement", |xml| format!("{xml}{xml}")),
        "secondpurposeofuse" => edited(&template, "AttributeStatement", |xml| second_value(&xml, names::PURPOSE)),
        "secondrole" => edited(&template, "AttributeStatement", |xml| second_value(&xml, names::ROLE)),
        "withauthzconsent" => template.clone().with(consent()),
        _ => template,
    };
    let mut signed = neighbour.sign(&id, changed).await?;
    if suffix == "unsigned" {
        let (before, rest) = signed.xml.split_once("<ds:Signature").ok_or("no signature")?;
        let (_, after) = rest.split_once("</ds:Signature>").ok_or("no signature")?;
        signed.xml = format!("{before}{after}");
    }
    Ok(signed)
}

/// The assertion with the text of one child changed.
fn edited(template: &Element, local: &str, change: impl Fn(String) -> String) -> Element {
    let mut out = Element::new(names::SAML, "Assertion")
        .declare("saml", names::SAML)
        .declare("xs", "http://www.w3.org/2001/XMLSchema")
        .declare("xsi", "http://www.w3.org/2001/XMLSchema-instance");
    for attribute in template.attributes() {
        out.set_attr(attribute.ns(), attribute.local(), attribute.value());
    }
    for child in template.elements() {
        out = if child.local() == local { out.raw(change(child.to_xml())) } else { out.with(child.clone()) };
    }
    out
}

/// Where an element of that local name begins and ends in a text of ours.
fn span(xml: &str, local: &str) -> (usize, usize) {
    let open = xml.match_indices('<').find(|(at, _)| {
        let name = xml[at + 1..].split([' ', '>', '/']).next().unwrap_or_default();
        name.rsplit(':').next() == Some(local)
    });
    let start = open.map_or(0, |(at, _)| at);
    let name = xml[start + 1..].split([' ', '>', '/']).next().unwrap_or_default().to_owned();
    let close = format!("</{name}>");
    let end = xml[start..].find(&close).map_or(xml.len(), |at| start + at + close.len());
    (start, end)
}

fn without(xml: &str, local: &str) -> String {
    let (start, end) = span(xml, local);
    format!("{}{}", &xml[..start], &xml[end..])
}

/// The attribute of that name with its value a second time.
fn second_value(xml: &str, name: &str) -> String {
    let at = xml.find(&format!("Name=\"{name}\"")).unwrap_or_default();
    let (start, end) = span(&xml[at..], "AttributeValue");
    let value = &xml[at + start..at + end];
    format!("{}{value}{}", &xml[..at + end], &xml[at + end..])
}

/// Authz-Consent option: the consent document and the policy that the patient agreed to (ITI TF-2: 3.40.4.1.2.2).
fn consent() -> Element {
    let attribute = |name: &str, value: &str| {
        Element::new(names::SAML, "Attribute")
            .attr("Name", name)
            .attr("NameFormat", "urn:oasis:names:tc:SAML:2.0:attrname-format:uri")
            .with(Element::new(names::SAML, "AttributeValue").text(value))
    };
    Element::new(names::SAML, "AttributeStatement")
        .with(attribute("urn:ihe:iti:bppc:2007:docid", "2.999.246.77.1"))
        .with(attribute("urn:ihe:iti:xua:2012:acp", "urn:oid:2.999.246.77.2"))
}
