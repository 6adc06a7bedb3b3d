//! What closes a study, and the files of a world in which it is closed in that way.

use std::path::Path;

use crate::world::{PATIENT, World};

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
        Self { name: "nothing", ..Self::default() }
    }

    fn block(name: &'static str, row: &str) -> Self {
        Self { name, consent: format!("[[block]]\npatient = \"{PATIENT}\"\n{row}\n"), ..Self::default() }
    }

    fn policy(name: &'static str, policy: &'static str) -> Self {
        Self { name, policy: Some(policy), ..Self::default() }
    }

    /// Whether the cause is a fact of the caller, which the answer may tell.
    pub(super) fn may_be_told(&self, of_images: bool) -> bool {
        matches!(self.who, Who::Weak | Who::Citizen) || (self.who == Who::Kin && of_images)
    }
}

/// Everything that closes: each kind of row of the consent file, each forbid of the shipped policies, and forbids that ask
/// for each further attribute.
pub(super) fn closings(manifest: &str) -> Vec<Closing> {
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
