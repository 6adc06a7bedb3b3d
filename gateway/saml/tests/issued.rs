//! What we issue, judged by the neighbours' measure: the SAML schemas alone (a receiver that validates each assertion with
//! them knows no type of HL7), and attribute by attribute against assertions that OpenNCP's neighbours exchange.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_saml::{
    Code, HcpClaims, NextOfKin, NextOfKinClaims, Purpose, SealKey, Signer, TrcClaims, XuaClaims, hcp_template,
    nok_template, trc_template, xua_template,
};
use ncp_tests::messages::shared_data;
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::Country;
use ncp_xml::{Element, Limits};

const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

fn country() -> Country {
    Country::parse("FI").expect("FI")
}

fn code(code: &str, system_name: &str) -> Code {
    Code { code: code.into(), system: "2.999.1".into(), system_name: system_name.into(), display: "Display".into() }
}

fn hcp_claims(purpose: Purpose, npi: Option<String>) -> HcpClaims {
    HcpClaims {
        country: country(),
        name_id: "hpr-9144889".into(),
        subject_name: "Å. Næss & <Sønn>".into(),
        role: code("221", "ISCO"),
        organisation: "University hospital".into(),
        organisation_id: "urn:oid:2.999.246.10".into(),
        facility_type: "Hospital".into(),
        purpose,
        locality: "Emergency department".into(),
        npi,
        home_community_id: "urn:oid:2.999.246".into(),
        permissions: ["PRD-006", "PRD-003"].map(Into::into).to_vec(),
        authn_context_class: "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI".into(),
        authn_instant: Timestamp::now(),
    }
}

fn trc_claims(purpose: Purpose) -> TrcClaims {
    TrcClaims {
        country: country(),
        name_id: "hpr-9144889".into(),
        hcp_id: "_hcp".into(),
        patient: "4711^^^&2.999.1&ISO".into(),
        purpose,
    }
}

fn nok_claims(kin: NextOfKin) -> NextOfKinClaims {
    NextOfKinClaims { country: country(), name_id: "hpr-9144889".into(), hcp_id: "_hcp".into(), kin }
}

fn kin() -> NextOfKin {
    NextOfKin {
        id: "2^^^&2.999.1&ISO".into(),
        first_name: "Kari".into(),
        family_name: "Testesen".into(),
        gender: "F".into(),
        birth_date: "19800229".into(),
        street: "Storgata 1".into(),
        city: "Oslo".into(),
        postal_code: "0155".into(),
        country: "NO".into(),
    }
}

fn xua_claims(typed_codes: bool, patient: Option<&str>) -> XuaClaims {
    XuaClaims {
        issuer: "urn:oid:2.999.47".into(),
        audience: "urn:oid:2.999.47.5".into(),
        name_id: "hpr-9144889".into(),
        subject_name: "Radiologist on duty".into(),
        role: code("221", "ISCO"),
        organisation: patient.map(|_| "University hospital".into()),
        organisation_id: patient.map(|_| "urn:oid:2.999.246.10".into()),
        home_community_id: "urn:oid:2.999.246".into(),
        purpose: code("TREAT", "PurposeOfUse"),
        patient: patient.map(Into::into),
        authn_context_class: "urn:oasis:names:tc:SAML:2.0:ac:classes:PreviousSession".into(),
        typed_codes,
    }
}

/// One of each that we issue, in every form that its facts give it, by name.
fn templates() -> Vec<(String, Element)> {
    let now = Timestamp::now();
    let (hour, until) = (Duration::from_secs(3600), now + SignedDuration::from_hours(1));
    let mut out = Vec::new();
    for purpose in [Purpose::Treatment, Purpose::Emergency] {
        let name = purpose.as_str();
        for npi in [None, Some("hpr-9144889".to_owned())] {
            let name = format!("hcp-{name}{}", if npi.is_some() { "-npi" } else { "" });
            out.push((name, hcp_template("_hcp", &hcp_claims(purpose, npi), now, hour)));
        }
        out.push((format!("trc-{name}"), trc_template("_trc", &trc_claims(purpose), now, until)));
    }
    let short = NextOfKin { id: kin().id, ..NextOfKin::default() };
    out.push(("nok".into(), nok_template("_nok", &nok_claims(kin()), now, until)));
    out.push(("nok-short".into(), nok_template("_nok", &nok_claims(short), now, until)));
    for patient in [None, Some("4711^^^&2.999.1&ISO")] {
        let name = format!("xua{}", if patient.is_some() { "-patient" } else { "" });
        out.push((name, xua_template("_xua", &xua_claims(false, patient), now, hour)));
    }
    out
}

async fn sign(folder: &Path, templates: Vec<(String, Element)>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for algorithm in [Algorithm::Rsa2048, Algorithm::P256] {
        let name = format!("{algorithm:?}");
        let pki = CountryPki::create(&folder.join(&name), "FI", algorithm).expect("a PKI");
        let seal = SealKey::load(&pki.path("seal.pem"), &pki.path("seal.key")).expect("a seal");
        let signer = Signer::start(seal, 1).expect("starts");
        for (of, template) in &templates {
            let id = template.get("ID").expect("an ID");
            let signed = signer.sign(id, template.clone()).await.expect("signs");
            out.push((format!("{of}-{name}"), signed.xml));
        }
    }
    out
}

/// The SAML schema with what it imports and nothing else, where it is at hand.
fn saml_schema() -> Option<PathBuf> {
    let schema = shared_data().map(|data| data.join("ihe/xsd/saml20-xacml20/sstc-saml-schema-assertion-2.0.xsd"));
    schema.filter(|schema| schema.is_file())
}

/// What the schema says against a document; nothing: it is valid.
fn invalid(schema: &Path, file: &Path) -> Option<String> {
    let run = Command::new("xmllint").args(["--nonet", "--noout", "--schema"]).arg(schema).arg(file).output();
    let out = run.expect("xmllint is installed (libxml2-utils)");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() && said.contains(" validates") { None } else { Some(said) }
}

#[tokio::test]
async fn on_01_what_we_issue_is_valid_by_the_saml_schemas_alone() {
    let Some(schema) = saml_schema() else {
        println!("skipped: needs NCP_SHARED_DATA");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let issued = sign(dir.path(), templates()).await;
    assert!(issued.len() >= 20, "{}", issued.len());
    for (name, xml) in &issued {
        let file = dir.path().join(format!("{name}.xml"));
        std::fs::write(&file, xml).expect("writes");
        assert_eq!(invalid(&schema, &file), None, "{name}");
    }

    // The judge is strict: what a registry may ask for (CO-20) does not pass it.
    let typed = xua_template("_xua", &xua_claims(true, None), Timestamp::now(), Duration::from_secs(300));
    for (name, xml) in sign(dir.path().join("typed").as_path(), vec![("typed".into(), typed)]).await {
        let file = dir.path().join(format!("{name}.xml"));
        std::fs::write(&file, &xml).expect("writes");
        let said = invalid(&schema, &file).expect("no type CE in SAML");
        assert!(said.contains("'CE'") || said.contains("CE"), "{said}");
    }
}

/// CO-20: only a registry that asks for it gets a type of HL7; ON-01: nothing that crosses a border has one.
#[test]
fn co_20_types_of_hl7_are_written_where_asked_for_only() {
    let typed = |element: &Element| {
        let mut stack = vec![element];
        let mut found = Vec::new();
        while let Some(element) = stack.pop() {
            let value = element.get_in(XSI, "type").filter(|_| element.ns() != SAML);
            found.extend(value.map(ToOwned::to_owned));
            stack.extend(element.elements());
        }
        found
    };
    for (name, template) in templates() {
        assert_eq!(typed(&template), Vec::<String>::new(), "{name}");
    }
    let asked = xua_template("_xua", &xua_claims(true, None), Timestamp::now(), Duration::from_secs(300));
    assert_eq!(typed(&asked), ["CE", "CE"]);
}

/// What an assertion is made of, without its values: each element by its path with its attributes, each SAML attribute by
/// its names and the form of its values. Signature and the types of plain texts are left out.
fn shape(assertion: &Element) -> BTreeSet<String> {
    fn walk(element: &Element, path: &str, out: &mut BTreeSet<String>) {
        if element.ns() == DSIG {
            return;
        }
        let mut path = format!("{path}/{}", element.local());
        if element.is(SAML, "Attribute") {
            path = format!("{path}[{}]", element.get("Name").unwrap_or_default());
            for name in ["FriendlyName", "NameFormat"] {
                out.insert(format!("{path}@{name}={}", element.get(name).unwrap_or_default()));
            }
        } else {
            out.insert(path.clone());
            for attribute in element.attributes().iter().filter(|a| a.ns() != XSI || element.ns() != SAML) {
                out.insert(format!("{path}@{}{}", attribute.ns(), attribute.local()));
            }
        }
        for child in element.elements() {
            walk(child, &path, out);
        }
    }
    let mut out = BTreeSet::new();
    walk(assertion, "", &mut out);
    out
}

/// The assertions of a captured header, by what they are.
fn golden() -> Option<(Element, Element)> {
    let file = shared_data()?.join("openncp/saml/openncp_soap_header.xml");
    let header = Element::parse(&std::fs::read(file).ok()?, &Limits::REQUEST).expect("XML");
    let security = header.elements().find(|e| e.local() == "Security").expect("a Security header");
    let mut assertions = security.all(SAML, "Assertion").cloned();
    assertions.next().zip(assertions.next())
}

#[test]
fn on_01_what_we_issue_has_the_shape_of_the_golden_assertions() {
    let Some((hcp, trc)) = golden() else {
        println!("skipped: needs NCP_SHARED_DATA");
        return;
    };
    for (name, template) in templates() {
        let theirs = match name.split('-').next() {
            Some("hcp") => shape(&hcp),
            Some("trc") => shape(&trc),
            _ => continue,
        };
        let ours = shape(&template);
        // The professional's number is said where it is known.
        let absent: Vec<&String> =
            theirs.difference(&ours).filter(|of| name.ends_with("-npi") || !of.contains("subject:npi")).collect();
        assert!(absent.is_empty(), "{name} lacks {absent:#?}");
        let more: Vec<&String> = ours.difference(&theirs).collect();
        assert!(more.is_empty(), "{name} has besides {more:#?}");
    }
}

/// No capture has a next-of-kin assertion; it is a TRC assertion with other attributes.
#[test]
fn on_01_a_next_of_kin_has_the_shape_of_a_treatment() {
    let Some((_, trc)) = golden() else {
        println!("skipped: needs NCP_SHARED_DATA");
        return;
    };
    let plain = |shape: BTreeSet<String>| -> BTreeSet<String> {
        shape.into_iter().filter(|of| !of.contains("/Attribute[")).collect()
    };
    let (_, nok) = templates().into_iter().find(|(name, _)| name == "nok").expect("one");
    let ours = shape(&nok);
    let names: BTreeSet<String> = ours
        .iter()
        .filter_map(|of| of.split_once("/Attribute[urn:ehdsi:names:subject:nextofkin:"))
        .filter_map(|(_, of)| of.split_once(']').map(|(name, _)| name.to_owned()))
        .collect();
    let expected = [
        "id",
        "firstname",
        "familyname",
        "gender",
        "birthdate",
        "address:street",
        "address:city",
        "address:postalcode",
        "address:country",
    ];
    assert_eq!(names, expected.map(ToOwned::to_owned).into());
    assert_eq!(plain(ours), plain(shape(&trc)));
}
