//! What closes a study, and the files of a world in which it is closed in that way.

use std::path::Path;

use ncp_proto::national as pb;
use pb::get_consent_response::State;
use serde_json::{Value, json};

use crate::world::{PATIENT, World};

use super::sources::{Source, consent};
use super::study;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Who {
    /// A radiologist who logged in with two factors.
    #[default]
    Radiologist,
    /// The same on behalf of the patient's next of kin.
    Kin,
    /// The same after a login that is not two-factor.
    Weak,
    /// The patient, as a citizen.
    Citizen,
}

/// One thing that closes the study.
#[derive(Default)]
pub(super) struct Closing {
    pub(super) name: &'static str,
    pub(super) who: Who,
    /// Nothing is closed: the source is asked and says so.
    pub(super) opens: bool,
    /// Where it stands.
    pub(super) source: Source,
    /// The answer may tell it: a consent that is required and absent (4701), and a source that cannot say.
    said: bool,
    /// Rows of the consent file.
    consent: String,
    /// Confidentiality code of the manifests.
    manifest: Option<&'static str>,
    /// Confidentiality code of the report.
    report: Option<&'static str>,
    /// Who wrote the report.
    institution: Option<&'static str>,
    /// A policy beside the shipped ones.
    policy: Option<&'static str>,
}

impl Closing {
    /// A world in which nothing is closed.
    pub(super) fn nothing() -> Self {
        Self { name: "nothing", opens: true, ..Self::default() }
    }

    /// What the FHIR server says, in a Consent with these elements.
    fn fhir(name: &'static str, elements: Value) -> Self {
        Self { name, source: Source::Fhir(vec![consent(elements)], false), ..Self::default() }
    }

    /// The FHIR server permits in general and denies this.
    fn denied(name: &'static str, provision: Value) -> Self {
        let mut provision = provision;
        provision["type"] = json!("deny");
        Self::fhir(name, json!({ "policyRule": act("OPTIN"), "provision": provision }))
    }

    /// What the country's own service says.
    fn service(name: &'static str, state: State, blocked: &[&str]) -> Self {
        let blocked = blocked.iter().map(|unit| (*unit).to_owned()).collect();
        let says = pb::GetConsentResponse { state: state.into(), blocked };
        Self { name, source: Source::Service(says), ..Self::default() }
    }

    fn block(name: &'static str, row: &str) -> Self {
        Self { name, consent: format!("[[block]]\npatient = \"{PATIENT}\"\n{row}\n"), ..Self::default() }
    }

    fn policy(name: &'static str, policy: &'static str) -> Self {
        Self { name, policy: Some(policy), ..Self::default() }
    }

    /// Whether the cause is a fact of the caller, or of no unit of the patient, which the answer may tell.
    pub(super) fn may_be_told(&self, of_images: bool) -> bool {
        self.said || matches!(self.who, Who::Weak | Who::Citizen) || (self.who == Who::Kin && of_images)
    }
}

/// A code of HL7's acts, as a concept.
fn act(code: &str) -> Value {
    json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code }] })
}

/// Everything that closes, whatever it stands in: the consent file, a policy, a FHIR server, the country's own service.
pub(super) fn closings(manifest: &str) -> Vec<Closing> {
    let mut out = of_files(manifest);
    out.extend(of_fhir(manifest));
    out.extend(of_service(manifest));
    out
}

/// Each element by which a Consent of FHIR can close, in both versions.
fn of_fhir(manifest: &str) -> Vec<Closing> {
    let (fhir, denied) = (Closing::fhir, Closing::denied);
    let actor = |role: &str, kind: Option<&str>, system: Option<&str>, value: &str| {
        let mut reference = json!({ "identifier": { "value": value } });
        if let Some(kind) = kind {
            reference["type"] = json!(kind);
        }
        if let Some(system) = system {
            reference["identifier"]["system"] = json!(system);
        }
        json!([{ "role": { "coding": [{ "code": role }] }, "reference": reference }])
    };
    let country = |code: &str| actor("IRCP", None, Some("urn:iso:std:iso:3166"), code);
    let unit = |id: &str| json!([{ "meaning": "instance", "reference": { "identifier": { "value": id } } }]);
    let of_day = |day: &str| json!({ "dataPeriod": { "start": day, "end": day } });
    let missing = Source::Fhir(Vec::new(), true);
    let unread = json!({ "policyRule": act("OPTIN"), "provision": { "modifierExtension": [{ "url": "urn:x" }] } });
    vec![
        Closing { name: "FHIR: no Consent", source: Source::Fhir(Vec::new(), false), ..Closing::nothing() },
        Closing { opens: true, ..denied("FHIR: deny to another country", json!({ "actor": country("SE") })) },
        fhir("FHIR: opt-out", json!({ "policyRule": act("OPTOUT") })),
        fhir("FHIR: deny, without a base", json!({ "provision": { "type": "deny" } })),
        fhir(
            "FHIR: permit to another country alone",
            json!({ "provision": { "type": "permit", "actor": country("SWE") } }),
        ),
        denied("FHIR: a country", json!({ "actor": country("FIN") })),
        denied(
            "FHIR: an organisation",
            json!({ "actor": actor("IRCP", Some("Organization"), None, "University hospital") }),
        ),
        denied("FHIR: a professional", json!({ "actor": actor("IRCP", Some("Practitioner"), None, "hpr-9144889") })),
        denied("FHIR: the manifest", json!({ "data": unit(&format!("urn:oid:{manifest}")) })),
        denied("FHIR: the study", json!({ "data": unit(&study().uid()) })),
        denied("FHIR: images", json!({ "class": [{ "code": "ImagingStudy" }] })),
        denied("FHIR: type that may be a national code's", json!({ "documentType": [{ "code": "11502-2" }] })),
        denied("FHIR: confidentiality up to N", json!({ "securityLabel": [{ "code": "N" }] })),
        Closing {
            institution: Some("Clinic^^^^^^^^^2.999.47.7"),
            ..denied("FHIR: author of the report", json!({ "actor": actor("AUT", None, None, "2.999.47.7") }))
        },
        denied("FHIR: author, and nobody told one", json!({ "actor": actor("AUT", None, None, "2.999.47.8") })),
        denied("FHIR: period of the report", of_day("2026-01-05")),
        denied("FHIR: period of the study", of_day("2026-01-02")),
        denied("FHIR: for a time", json!({ "period": { "start": "2020", "end": "2098-12-31" } })),
        denied("FHIR: treatment", json!({ "purpose": [{ "code": "TREAT" }] })),
        denied("FHIR: disclosure", json!({ "action": [{ "coding": [{ "code": "disclose" }] }] })),
        fhir("FHIR R5: deny", json!({ "decision": "deny" })),
        fhir(
            "FHIR R5: permit, except to a country",
            json!({ "decision": "permit", "provision": [{ "actor": country("FI") }] }),
        ),
        fhir(
            "FHIR R5: permit, except images",
            json!({ "decision": "permit", "provision": [{ "resourceType": [{ "code": "ImagingStudy" }] }] }),
        ),
        Closing { name: "FHIR: required, and none", said: true, source: missing, ..Closing::default() },
        Closing { said: true, ..fhir("FHIR: a Consent that is not understood", unread) },
    ]
}

/// Each answer by which the country's own service closes.
fn of_service(manifest: &str) -> Vec<Closing> {
    let service = Closing::service;
    let study = study().uid();
    vec![
        Closing { opens: true, ..service("service: given", State::Given, &["2.999.47.1"]) },
        service("service: opted out", State::OptedOut, &[]),
        service("service: the manifest", State::Given, &[manifest]),
        service("service: the study", State::Given, &[study.as_str()]),
        Closing { said: true, ..service("service: required, and none", State::MissingAndSaid, &[]) },
        Closing { said: true, ..service("service: no state", State::Unspecified, &[]) },
    ]
}

/// What asks for the day of a study, which its archive does not tell in a form that can be read.
pub(super) fn undated() -> Vec<Closing> {
    vec![
        Closing::block("block: a day, and the archive's cannot be read", "from = \"20300101\"\nto = \"20300101\""),
        Closing::denied(
            "FHIR: a day, and the archive's cannot be read",
            json!({ "dataPeriod": { "start": "2030-01-01", "end": "2030-01-01" } }),
        ),
        Closing::policy(
            "forbid: a day, and the archive's cannot be read",
            "forbid(principal, action, resource) when { context.stage == \"disclose\" && resource.serviceDate like \"2030*\" };",
        ),
    ]
}

/// Each kind of row of the consent file, each forbid of the shipped policies, and forbids that ask for each further
/// attribute.
fn of_files(manifest: &str) -> Vec<Closing> {
    let block = Closing::block;
    let coded = |name, manifest, report| Closing { name, manifest, report, ..Closing::default() };
    vec![
        block("block: the manifest", &format!("document = \"{manifest}\"")),
        block("block: the study", &format!("study = \"{}\"", study().uid())),
        block("block: confidentiality of the manifest", "confidentiality = \"N\""),
        Closing { report: Some("U"), ..block("block: confidentiality of the report", "confidentiality = \"U\"") },
        Closing {
            institution: Some("Clinic^^^^^^^^^2.999.47.7"),
            ..block("block: author of the report", "author_organisation = \"2.999.47.7\"")
        },
        block("block: author, and nobody told one", "author_organisation = \"2.999.47.8\""),
        block("block: period of the report", "from = \"20260105\"\nto = \"20260105\""),
        block("block: period of the study", "from = \"20260102\"\nto = \"20260102\""),
        block("block: images", "imaging = true"),
        block("block: a country", "countries = [\"FI\"]"),
        block("block: an organisation", "requesters = [\"University hospital\"]"),
        block("block: a professional", "professionals = [\"hpr-9144889\"]"),
        block("block: for a time", "valid_from = \"2020-01-01T00:00:00Z\"\nvalid_until = \"2099-01-01T00:00:00Z\""),
        Closing { name: "opt-out", consent: format!("[[opt_out]]\npatient = \"{PATIENT}\"\n"), ..Closing::default() },
        Closing {
            name: "opt-out: a country",
            consent: format!("[[opt_out]]\npatient = \"{PATIENT}\"\ncountries = [\"FIN\"]\n"),
            ..Closing::default()
        },
        coded("closed-confidentiality: manifest NORS", Some("NORS"), None),
        coded("closed-confidentiality: manifest R", Some("R"), None),
        coded("closed-confidentiality: manifest V", Some("V"), None),
        coded("closed-confidentiality: report NORS", None, Some("NORS")),
        Closing { name: "next-of-kin-no-images", who: Who::Kin, ..Closing::default() },
        Closing { name: "weak-login", who: Who::Weak, ..Closing::default() },
        Closing { who: Who::Citizen, ..coded("citizen-deferred-or-refused: asked as a citizen", Some("NORU"), None) },
        Closing {
            // No message across the border can say that a citizen asks; the rule's facts are those of this one.
            policy: Some(
                "@id(\"deferred-or-refused-for-doctors\") forbid(principal, action, resource) when \
                 { context.stage == \"disclose\" && principal.role == \"221\" && \
                 resource.confidentiality.containsAny([\"NORU\", \"NORN_ALL\"]) };",
            ),
            ..coded("citizen-deferred-or-refused: its codes, of the report", None, Some("NORU"))
        },
        Closing::policy(
            "forbid: class of the report or manifest",
            "forbid(principal, action, resource) when { context.stage == \"disclose\" && resource.classCode == \"E00-1\" };",
        ),
        Closing::policy(
            "forbid: type of the report",
            "forbid(principal, action, resource) when { context.stage == \"disclose\" && resource.typeCode == \"E01-2\" };",
        ),
        Closing::policy(
            "forbid: modality",
            "forbid(principal, action, resource) when { resource.modalities.contains(\"CT\") };",
        ),
        Closing::policy(
            "forbid: date",
            "forbid(principal, action, resource) when { resource.serviceDate like \"2026*\" };",
        ),
        Closing::policy(
            "forbid: author, and nobody told one",
            "forbid(principal, action, resource) when { context.stage == \"disclose\" &&\
             resource.authorOrganisations.contains(\"2.999.47.8\") };",
        ),
    ]
}

/// The files that closings change, as they are before.
pub(super) struct Files {
    manifest: String,
    report: String,
}

impl Files {
    /// Reads them, and puts the shipped policies into a folder of the world.
    pub(super) fn of(world: &World) -> Self {
        let read = |name: &str| std::fs::read_to_string(world.path(name)).expect("reads");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no/transactions.cedar");
        std::fs::create_dir(world.path("policies")).expect("a folder");
        std::fs::copy(shipped, world.path("policies/transactions.cedar")).expect("copies");
        let report = read("data/reports/rg.toml").replace("2026-01-02T10:30:00Z", "2026-01-05T10:30:00Z");
        Self { manifest: read("data/manifest.toml"), report }
    }

    /// Writes what the closing is made of.
    pub(super) fn write(&self, world: &World, closing: &Closing) {
        let write = |name: &str, text: &str| std::fs::write(world.path(name), text).expect("writes");
        let coded = |text: &str, code: Option<&str>| match code {
            Some(code) => {
                let normal = "{ code = \"N\", system = \"2.16.840.1.113883.5.25\"";
                assert!(text.contains(normal));
                text.replace(normal, &format!("{{ code = \"{code}\", system = \"2.999.1\""))
            }
            None => text.to_owned(),
        };
        let institution = closing.institution.map(|i| format!("institution = \"{i}\"\n")).unwrap_or_default();
        write("data/consent.toml", &closing.consent);
        write("data/manifest.toml", &coded(&self.manifest, closing.manifest));
        write("data/reports/rg.toml", &(institution + &coded(&self.report, closing.report)));
        write("policies/zz.cedar", closing.policy.unwrap_or_default());
    }
}
