//! The nine XUA variants of three definitions. The Gazelle STS that issued their assertions by user name is not at hand:
//! each variant is issued here, by its name. The peer is configured for faults, as XUA asks (ITI TF-2: 3.40.4.1.3).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::PatientId;
use ncp_saml::{AUDIENCE, SignedAssertion, hcp_template, names};
use ncp_tests::asking;
use ncp_tests::messages::Origin;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::Error;
use ncp_xml::Element;

use super::ig::{self, Ig};
use super::plan::{self, Outcome, Sender, Sends, Values};
use super::table::Table;
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

/// Runs the variants of 12309 and 12312 against the Responding Gateway, those of 15808 against the Initiating Gateway.
pub(crate) async fn run(world: &World, table: &mut Table) -> Result<(), Error> {
    let dir = world.folder("xua");
    let mut responding = Values::of(rg::HOME);
    rg::load(&dir, &mut responding)?;
    let node = rg::gateway(world, &dir, "fault").await?;
    let mut neighbour = node.asked_by(&world.asking, ASKING, &world.own, Some(&world.capture))?;
    neighbour.origin = Origin::Given;
    let ig = Ig::start(world, "xua-ig").await?;
    let mut initiating = ig::load(&ig)?;
    for suffix in SUFFIXES {
        for base in ["12309", "12312", "15808"] {
            let test = format!("{base}_{suffix}");
            for section in plan::sections(&super::testkit().join(&test))? {
                let steps = if base == "15808" {
                    let sender = FromConsumer { ig: &ig, suffix, patient: ig::patient_of(base, &section)? };
                    plan::run(&test, &section, &sender, &mut initiating).await?
                } else {
                    plan::run(&test, &section, &FromNeighbour { neighbour: &neighbour, suffix }, &mut responding)
                        .await?
                };
                for (step, verdict) in steps {
                    table.add(SUITE, &test, &format!("{section} {step}"), verdict);
                }
            }
        }
    }
    Ok(())
}

/// Another country, with its HCP identity assertion.
struct FromNeighbour<'a> {
    neighbour: &'a Neighbour,
    suffix: &'static str,
}

impl Sender for FromNeighbour<'_> {
    async fn send(&self, sends: Sends, body: Element) -> Result<Outcome, Error> {
        let (neighbour, claims) = (self.neighbour, self.neighbour.claims());
        let id = format!("_{}", uuid::Uuid::new_v4());
        let template = hcp_template(&id, &claims, issued(self.suffix), Duration::from_secs(3600)).to_xml();
        let signed = neighbour.sign(&id, &variant(&template, self.suffix, AUDIENCE)).await?;
        let hcp = finished(signed, self.suffix);
        let trc = neighbour.trc(&hcp, &claims, &rg::patient_of("12309", "finddocs")?).await?;
        Ok(about_the_assertion(rg::ask(neighbour, sends, &[hcp, trc], body).await?))
    }
}

/// A national consumer, with its user's assertion.
struct FromConsumer<'a> {
    ig: &'a Ig,
    suffix: &'static str,
    patient: PatientId,
}

impl Sender for FromConsumer<'_> {
    async fn send(&self, sends: Sends, body: Element) -> Result<Outcome, Error> {
        let (consumer, claims) = (&self.ig.consumer, &self.ig.claims);
        let id = format!("_{}", uuid::Uuid::new_v4());
        let template = consumer.xua_template(&id, claims, Some(&self.patient), issued(self.suffix));
        let signed = consumer.sign(&id, &variant(&template, self.suffix, asking::AUDIENCE)).await?;
        let user = finished(signed, self.suffix);
        let trc = consumer.trc(&user, claims, &self.patient).await?;
        let answer = consumer.call(&[user, trc], body).await?;
        Ok(about_the_assertion(rg::outcome(answer, sends).await?))
    }
}

/// A fault for another reason than the assertion would prove nothing.
fn about_the_assertion(outcome: Outcome) -> Outcome {
    let about = outcome.codes.first().is_some_and(|subcode| subcode.starts_with("wsse:"));
    if outcome.status == "Fault" && !about {
        return Outcome { status: "Fault without a WS-Security subcode".into(), ..outcome };
    }
    outcome
}

fn issued(suffix: &str) -> Timestamp {
    let now = Timestamp::now();
    match suffix {
        "expired" => now - SignedDuration::from_hours(3),
        "notyetvalid" => now + SignedDuration::from_hours(3),
        _ => now,
    }
}

/// What a variant changes before the assertion is signed.
fn variant(template: &str, suffix: &str, audience: &str) -> String {
    match suffix {
        "unknownaudience" => template.replace(audience, "https://audience.example.org/unknown"),
        "invalidauthnstatement" => {
            let (start, end) = span(template, "AuthnContext");
            format!("{}{}", &template[..start], &template[end..])
        }
        "secondauthncontext" => {
            let (start, end) = span(template, "AuthnStatement");
            format!("{}{}{}", &template[..end], &template[start..end], &template[end..])
        }
        "secondpurposeofuse" => second_value(template, names::PURPOSE),
        "secondrole" => second_value(template, names::ROLE),
        "withauthzconsent" => {
            template.replace("</saml:AttributeStatement>", &format!("{}</saml:AttributeStatement>", consent()))
        }
        _ => template.to_owned(),
    }
}

/// What a variant changes afterwards.
fn finished(signed: SignedAssertion, suffix: &str) -> SignedAssertion {
    if suffix != "unsigned" {
        return signed;
    }
    let (start, end) = span(&signed.xml, "Signature");
    let xml = format!("{}{}", &signed.xml[..start], &signed.xml[end..]);
    SignedAssertion { xml, ..signed }
}

/// Where an element of that local name begins and ends in a text of ours.
fn span(xml: &str, local: &str) -> (usize, usize) {
    let named = |at: usize| xml[at + 1..].split([' ', '>', '/']).next().unwrap_or_default();
    let open = xml.match_indices('<').find(|(at, _)| named(*at).rsplit(':').next() == Some(local));
    let start = open.map_or(0, |(at, _)| at);
    let close = format!("</{}>", named(start));
    let end = xml[start..].find(&close).map_or(xml.len(), |at| start + at + close.len());
    (start, end)
}

/// The attribute of that name with its value a second time.
fn second_value(xml: &str, name: &str) -> String {
    let at = xml.find(&format!("Name=\"{name}\"")).unwrap_or_default();
    let (start, end) = span(&xml[at..], "AttributeValue");
    format!("{}{}{}", &xml[..at + end], &xml[at + start..at + end], &xml[at + end..])
}

/// Authz-Consent option: the consent document and the policy that the patient agreed to (ITI TF-2: 3.40.4.1.2.2).
fn consent() -> String {
    let attribute = |name: &str, value: &str| {
        format!("<saml:Attribute Name=\"{name}\"><saml:AttributeValue>{value}</saml:AttributeValue></saml:Attribute>")
    };
    attribute("urn:ihe:iti:bppc:2007:docid", "2.999.246.77.1")
        + &attribute("urn:ihe:iti:xua:2012:acp", "urn:oid:2.999.246.77.2")
}
