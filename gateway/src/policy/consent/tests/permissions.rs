//! FHIR Consent: the rows of SE-03, and what each of them becomes by one thing more that nobody understands.

use serde_json::{Value, json};

use super::*;

/// What a row comes to for a report that nothing else closes.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Seen {
    Open,
    Closed,
    Missing,
    Error,
}

fn case(number: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/cases/security/consent");
    let text = std::fs::read(format!("{folder}/SE-03-{number}.json")).expect("a case");
    serde_json::from_slice(&text).expect("JSON")
}

pub(super) fn patient() -> PatientId {
    PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO").expect("a CX")
}

fn seen_by(bundle: &Value, required: bool, identity: &Identity) -> Seen {
    let now: Timestamp = "2026-11-30T00:00:00Z".parse().expect("a time");
    let Ok(directives) = read_page(bundle.to_string().as_bytes(), &patient(), required) else { return Seen::Error };
    let (facts, keys) = report();
    let closed = directives.closes(&facts, &keys, identity, now);
    match directives.participation(identity, now) {
        ServiceConsent::MissingAndSaid => Seen::Missing,
        ServiceConsent::OptedOut => {
            assert!(closed, "who opted out has no documents");
            Seen::Closed
        }
        ServiceConsent::Given if closed => Seen::Closed,
        ServiceConsent::Given => Seen::Open,
    }
}

fn seen(bundle: &Value, required: bool) -> Seen {
    seen_by(bundle, required, &crate::policy::engine::tests::radiologist())
}

pub(super) fn bundle(consent: Value) -> Value {
    let mut consent = consent;
    let defaults = json!({ "resourceType": "Consent", "status": "active",
        "patient": { "reference": "Patient/1" } });
    for (name, value) in defaults.as_object().expect("an object") {
        consent.as_object_mut().expect("an object").entry(name).or_insert(value.clone());
    }
    json!({ "resourceType": "Bundle", "type": "searchset", "entry": [{ "resource": consent }] })
}

#[test]
fn se_03_the_table() {
    use Seen::{Closed, Error, Missing, Open};
    for (number, required, right) in [
        ("01", false, &[Open][..]),
        ("02", false, &[Closed]),
        ("03", false, &[Closed]),
        ("04", false, &[Closed]),
        ("05", false, &[Closed]),
        ("06", false, &[Closed, Error]),
        ("07", false, &[Closed]),
        ("08", false, &[Closed]),
        ("10", false, &[Closed, Error]),
        ("11", false, &[Closed, Error]),
        ("12", false, &[Closed]),
        ("14", false, &[Closed, Error]),
        ("16", false, &[Open]),
        ("17", false, &[Open]),
        ("18", false, &[Open]),
        ("20", true, &[Missing]),
        ("21", true, &[Closed]),
        ("23", true, &[Missing]),
        ("24", true, &[Missing]),
        ("25", true, &[Open]),
    ] {
        let got = seen(&case(number), required);
        assert!(right.contains(&got), "SE-03.{number}: {got:?}, expected {right:?}");
    }
}

/// More forms, of R4 and R5, each with what it must come to without and with `required`.
fn forms() -> Vec<(&'static str, Value, Seen, Seen)> {
    use Seen::{Closed, Missing, Open};
    let act = |code: &str| json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code }] });
    let to = |country: &str| {
        json!([{
        "role": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP" }] },
        "reference": { "identifier": { "system": "urn:iso:std:iso:3166", "value": country } } }])
    };
    let purposes = |codes: &[&str]| -> Value {
        codes
            .iter()
            .map(|c| json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": c }))
            .collect()
    };
    let label =
        |code: &str| json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": code }]);
    vec![
        ("OPTIN alone", json!({ "policyRule": act("OPTIN") }), Open, Open),
        (
            "OPTOUT, permit for us",
            json!({ "policyRule": act("OPTOUT"), "provision": { "provision": [
            { "type": "permit", "actor": to("FIN") }] } }),
            Open,
            Open,
        ),
        (
            "OPTOUT, permit for us until yesterday",
            json!({ "policyRule": act("OPTOUT"), "provision": { "provision": [
            { "type": "permit", "actor": to("246"), "period": { "end": "2026-11-28" } }] } }),
            Closed,
            Closed,
        ),
        (
            "OPTOUT, permit for us in a scope that ended",
            json!({ "policyRule": act("OPTOUT"), "provision": {
            "period": { "end": "2020" }, "provision": [{ "type": "permit", "actor": to("FI") }] } }),
            Closed,
            Closed,
        ),
        (
            "IHE PCF dissent",
            json!({ "policy": [{ "uri": "urn:p" }], "provision": { "type": "deny",
            "purpose": purposes(&["TREAT", "HPAYMT", "HOPERAT"]) } }),
            Closed,
            Closed,
        ),
        (
            "IHE PCF permit",
            json!({ "policy": [{ "uri": "urn:p" }], "provision": { "type": "permit",
            "purpose": purposes(&["TREAT", "HPAYMT"]) } }),
            Open,
            Open,
        ),
        (
            "permit for research",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "permit",
            "purpose": purposes(&["HRESCH"]) } }),
            Open,
            Missing,
        ),
        (
            "deny, a country and our professional",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", "actor": [
            to("SE")[0], { "role": { "coding": [{ "code": "IRCP" }] },
              "reference": { "type": "Practitioner", "identifier": { "value": "u1" } } }] } }),
            Closed,
            Closed,
        ),
        (
            "deny R or lower",
            json!({ "policyRule": act("OPTIN"), "provision": { "provision": [
            { "type": "deny", "securityLabel": label("R") }] } }),
            Closed,
            Closed,
        ),
        (
            "deny M or lower",
            json!({ "policyRule": act("OPTIN"), "provision": { "provision": [
            { "type": "deny", "securityLabel": label("M") }] } }),
            Open,
            Open,
        ),
        (
            "permit L or lower",
            json!({ "policyRule": act("OPTOUT"), "provision": { "provision": [
            { "type": "permit", "securityLabel": label("L") }] } }),
            Closed,
            Closed,
        ),
        (
            "permit N or lower",
            json!({ "policyRule": act("OPTOUT"), "provision": { "provision": [
            { "type": "permit", "securityLabel": label("N") }] } }),
            Open,
            Open,
        ),
        (
            "deny by the author's organisation",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", "actor": [
            { "role": { "coding": [{ "code": "AUT" }] }, "reference": { "identifier": { "value": "2.999.9" } } }] } }),
            Closed,
            Closed,
        ),
        (
            "deny the data of a period",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny",
            "dataPeriod": { "start": "2026-01", "end": "2026" } } }),
            Closed,
            Closed,
        ),
        (
            "deny a document",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", "data": [
            { "meaning": "instance", "reference": { "identifier": { "value": "urn:oid:2.999.2" } } }] } }),
            Closed,
            Closed,
        ),
        (
            "deny collection",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", "action": [
            { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/consentaction", "code": "collect" }] }] } }),
            Open,
            Open,
        ),
        (
            "deny images",
            json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", "class": [
            { "system": "http://hl7.org/fhir/resource-types", "code": "ImagingStudy" }] } }),
            Closed,
            Closed,
        ),
        ("R5: permit", json!({ "decision": "permit", "subject": { "reference": "Patient/1" } }), Open, Open),
        (
            "R5: permit, except for us",
            json!({ "decision": "permit", "provision": [{ "actor": to("FI") }] }),
            Closed,
            Closed,
        ),
        ("R5: permit, except SE", json!({ "decision": "permit", "provision": [{ "actor": to("SE") }] }), Open, Open),
        ("R5: deny, except for us", json!({ "decision": "deny", "provision": [{ "actor": to("FI") }] }), Open, Open),
        (
            "R5: deny, except for us, except research",
            json!({ "decision": "deny", "provision": [
            { "actor": to("FI"), "provision": [{ "purpose": purposes(&["HRESCH"]) }] }] }),
            Open,
            Open,
        ),
        (
            "R5: deny, except for us, except treatment",
            json!({ "decision": "deny", "provision": [
            { "actor": to("FI"), "provision": [{ "purpose": purposes(&["TREAT"]) }] }] }),
            Closed,
            Closed,
        ),
        (
            "R5: permit until yesterday",
            json!({ "decision": "permit", "period": { "end": "2026-11-28" } }),
            Open,
            Missing,
        ),
        (
            "a consent to research",
            json!({ "policyRule": act("OPTIN"), "scope": { "coding": [
            { "system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "research" }] } }),
            Open,
            Missing,
        ),
    ]
}

#[test]
fn se_03_both_forms_and_both_versions() {
    for (name, consent, free, required) in forms() {
        let bundle = bundle(consent);
        let got = (seen(&bundle, false), seen(&bundle, true));
        assert_eq!(got, (free, required), "{name}");
    }
}

/// A unit of which a fact is unknown is closed wherever one with some value of that fact is, however provisions nest.
#[test]
fn se_02_an_unknown_fact_closes_in_every_nesting() {
    let act = |code: &str| json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code }] });
    let purpose = json!([{ "code": "TREAT" }]);
    let to_us = json!([{ "role": { "coding": [{ "code": "IRCP" }] },
        "reference": { "identifier": { "system": "urn:iso:std:iso:3166", "value": "FI" } } }]);
    let asks = [
        json!({ "securityLabel": [{ "code": "R" }] }),
        json!({ "documentType": [{ "system": "http://loinc.org", "code": "18748-4" }] }),
        json!({ "dataPeriod": { "start": "2026-01-01", "end": "2026-01-31" } }),
        json!({ "actor": [{ "role": { "coding": [{ "code": "AUT" }] }, "reference": { "identifier": { "value": "2.999.9" } } }] }),
    ];
    let identity = crate::policy::engine::tests::radiologist();
    let now: Timestamp = "2026-11-30T00:00:00Z".parse().expect("a time");
    let known = |code: &str, author: &str, class: &str, date: &str| Facts {
        kind: "document",
        confidentiality: Some(vec![code.into()]),
        author_organisations: Some(vec![author.into()]),
        descriptions: vec![Description {
            class_code: Some(class.into()),
            type_code: Some(class.into()),
            service_date: Some(date.into()),
        }],
        ..Facts::default()
    };
    let units = [known("N", "2.999.9", "18748-4", "20260102"), known("V", "2.999.8", "11502-2", "20250102")];
    let with = |base: &Value, kind: &str, inner: &Value| {
        let mut out = base.clone();
        out["type"] = json!(kind);
        out["provision"] = json!([inner]);
        out
    };
    let (mut tried, mut opened) = (0, 0);
    for asks in &asks {
        for innermost in [
            json!({ "type": "permit", "purpose": purpose }),
            json!({ "type": "deny", "actor": to_us }),
            json!({ "type": "permit", "actor": to_us, "provision": [{ "type": "deny", "purpose": purpose }] }),
        ] {
            for kind in ["permit", "deny"] {
                let asking = with(asks, kind, &innermost);
                for provision in [asking.clone(), json!({ "provision": [asking] })] {
                    for base in [Some("OPTIN"), Some("OPTOUT"), None] {
                        let mut consent = json!({ "provision": provision });
                        if let Some(base) = base {
                            consent["policyRule"] = act(base);
                        }
                        let bundle = bundle(consent).to_string();
                        for required in [false, true] {
                            let Ok(directives) = read_page(bundle.as_bytes(), &patient(), required) else {
                                continue;
                            };
                            let closes = |facts: &Facts| directives.closes(facts, &[], &identity, now);
                            let some_closed = units.iter().any(closes);
                            assert!(!some_closed || closes(&Facts::unknown("document")), "{bundle} {required}");
                            let incomplete = Facts { incomplete: true, ..units[0].clone() };
                            assert!(!some_closed || closes(&incomplete), "{bundle} {required}");
                            opened += usize::from(!closes(&units[0]));
                            tried += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(tried > 200 && opened > 20, "{tried} {opened}");
}

/// Whose Consents they are, what they are about, and what they name, each told in another of the ways that FHIR has.
#[test]
fn se_03_whose_about_what_and_what_it_names() {
    use Seen::{Closed, Error, Open};
    let act = |code: &str| json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code }] });
    let scope = |code: &str| json!({ "system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": code });
    let loinc = |code: &str| json!({ "coding": [{ "system": "http://loinc.org", "code": code }] });
    let contained = |value: &str| {
        json!({ "decision": "permit", "patient": { "reference": "#p" }, "contained": [{ "resourceType": "Patient",
            "id": "p", "identifier": [{ "system": "urn:oid:2.16.578.1.12.4.1.4.1", "value": value }] }] })
    };
    let denies =
        |name: &str, value: Value| json!({ "policyRule": act("OPTIN"), "provision": { "type": "deny", name: value } });
    let instance = |id: &str| json!([{ "meaning": "instance", "reference": { "identifier": { "value": id } } }]);
    for (consent, right) in [
        (contained("30857710106"), Open),
        (contained("1"), Error),
        (json!({ "decision": "permit", "patient": { "reference": "#q" } }), Error),
        (
            json!({ "policyRule": act("OPTOUT"), "scope": { "coding": [scope("patient-privacy"), scope("research")] } }),
            Error,
        ),
        (json!({ "policyRule": act("OPTOUT"), "category": [act("INFA"), act("RESEARCH")] }), Error),
        (
            json!({ "policyRule": act("OPTOUT"), "scope": { "coding": [scope("patient-privacy")] }, "category": [act("RESEARCH")] }),
            Error,
        ),
        (json!({ "policyRule": act("OPTOUT"), "category": [loinc("59284-0"), act("RESEARCH")] }), Open),
        (json!({ "policyRule": act("OPTOUT"), "category": [loinc("59284-0")] }), Closed),
        (denies("securityLabel", json!([{ "system": "urn:oid:2.16.840.1.113883.5.25", "code": "R" }])), Closed),
        (denies("data", instance("URN:OID:2.999.2")), Closed),
        (denies("data", instance("2.999.2^")), Error),
        (denies("data", instance("urn:uuid:report")), Error),
        (denies("data", instance(" 2.999.2")), Error),
        (
            denies(
                "actor",
                json!([{ "role": { "coding": [{ "code": "IRCP" }] }, "reference": { "identifier": { "value": "Hospital " } } }]),
            ),
            Error,
        ),
    ] {
        assert_eq!(seen(&bundle(consent.clone()), false), right, "{consent}");
    }
    let two = |one: &str, other: &str| {
        let consent = |reference: &str| {
            bundle(json!({ "decision": "permit", "patient": { "reference": reference } }))["entry"][0].clone()
        };
        let page = json!({ "resourceType": "Bundle", "type": "searchset", "entry": [consent(one), consent(other)] });
        seen(&page, false)
    };
    assert_eq!(two("Patient/1", "https://a.example/fhir/Patient/1/_history/2"), Open);
    assert_eq!(two("Patient/1", "Patient/2"), Error, "a server that does not know the parameter returns everybody's");
}

/// Elements of a provision are AND, values of one element OR.
#[test]
fn se_03_elements_narrow_each_other() {
    let identity = crate::policy::engine::tests::radiologist();
    let document = Facts {
        kind: "document",
        descriptions: vec![Description {
            class_code: Some("11502-2".into()),
            type_code: Some("11502-2".into()),
            service_date: None,
        }],
        ..Facts::default()
    };
    let open = |element: &str, code: &str| {
        let mut permit = json!({ "type": "permit", "class": [{ "code": "DocumentReference" }] });
        permit[element] = json!([{ "system": "http://loinc.org", "code": code }]);
        let consent = json!({ "policyRule": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
            "code": "OPTOUT" }] }, "provision": { "provision": [permit] } });
        let directives = read_page(bundle(consent).to_string().as_bytes(), &patient(), false).expect("understood");
        !directives.closes(&document, &[], &identity, "2026-11-30T00:00:00Z".parse().expect("a time"))
    };
    assert!(open("documentType", "11502-2"));
    assert!(!open("documentType", "60591-5"), "a permit for one class of documents is none for all");
}

/// A permission that names the recipient is met by that recipient alone.
#[test]
fn se_03_required_is_met_by_a_permit_that_covers_who_asks() {
    let swede = Identity { country: se(), ..crate::policy::engine::tests::radiologist() };
    let (_, permit, ..) = forms().swap_remove(1);
    assert_eq!(seen_by(&bundle(permit), true, &swede), Seen::Closed);
    let other = json!({ "decision": "permit", "patient": { "identifier": {
        "system": "urn:oid:2.16.578.1.12.4.1.4.1", "value": "1" } } });
    assert_eq!(seen(&bundle(other), true), Seen::Error, "a permit of somebody else");
}

/// Every place of a JSON value: the object there with one element more, and each code and system there as another.
fn mutated(value: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    match value {
        Value::Object(members) => {
            for (name, more) in [
                ("unheardOf", json!({ "code": "x" })),
                ("modifierExtension", json!([{ "url": "urn:x", "valueBoolean": true }])),
                ("_type", json!({ "extension": [] })),
            ] {
                let mut members = members.clone();
                members.insert(name.into(), more);
                out.push(Value::Object(members));
            }
            for (name, inner) in members {
                let mut changed = mutated(inner);
                if matches!(
                    name.as_str(),
                    "code" | "system" | "type" | "meaning" | "decision" | "status" | "start" | "end"
                ) && inner.is_string()
                {
                    changed.push(json!("urn:unheard-of"));
                    changed.push(json!(7));
                }
                for inner in changed {
                    let mut members = members.clone();
                    members.insert(name.clone(), inner);
                    out.push(Value::Object(members));
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                for inner in mutated(item) {
                    let mut items = items.clone();
                    items[index] = inner;
                    out.push(Value::Array(items));
                }
            }
        }
        _ => {}
    }
    out
}

/// One unknown element or code, at each place of each example, never opens.
#[test]
fn se_03_what_is_not_understood_never_opens() {
    let numbers = ["02", "03", "04", "05", "06", "07", "08", "12", "14", "16", "18", "21", "23", "24", "25"];
    let mut examples: Vec<Value> = numbers.iter().map(|n| case(n)["entry"][0]["resource"].clone()).collect();
    examples.extend(forms().into_iter().map(|(_, consent, ..)| bundle(consent)["entry"][0]["resource"].clone()));
    let mut tried = 0;
    for example in &examples {
        for changed in mutated(example) {
            let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "entry": [{ "resource": changed }] });
            for required in [false, true] {
                let got = seen(&bundle, required);
                // A consent that is about something else is not read further.
                let elsewhere = example["scope"]["coding"][0]["code"] == "research" && got != Seen::Open;
                assert!(
                    got == Seen::Error || elsewhere || about_research(&changed),
                    "{got:?}, required {required}: {changed}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 2_000, "{tried}");
}

/// Whether a Consent says itself that it decides nothing here.
fn about_research(consent: &Value) -> bool {
    consent["scope"]["coding"][0]["code"] == "research"
}
