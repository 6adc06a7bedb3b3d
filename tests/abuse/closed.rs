//! One verdict over all paths: whatever closes a study, closes its manifest and its images however they are asked for.
//! The table "closed by × path" is printed and written beside the other reports.

use std::fmt::Write as _;
use std::path::Path;

use ncp_ihe::{
    Availability, ContentFilter, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, FindDocuments, GetAll,
    HomeCommunityId, ImagingRequest, ObjectIds, Oid, PatientId, ReferenceId, RetrieveRequest, ReturnType,
    SeriesRequest, StoredQuery, StudyRequest, Uid, actions,
};
use ncp_saml::{NextOfKin, NextOfKinClaims, SignedAssertion};
use ncp_tests::neighbour::{Neighbour, XCA, XCAI};
use ncp_tests::synth::Study;
use ncp_xml::Element;

use crate::world::{Gateway, HOME, PATIENT, REPOSITORY, World};

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn home() -> Option<HomeCommunityId> {
    HomeCommunityId::parse(HOME).ok()
}

/// The study that is closed; the report `rg.toml` of the demonstration names it.
fn study() -> Study {
    Study {
        number: 2,
        patient_id: "UV59569735".into(),
        patient_name: "Testesen^Jon".into(),
        birth_date: "19770530".into(),
        sex: "M".into(),
        description: "synthetic".into(),
        instances: 2,
        side: 16,
    }
}

/// What closes the study.
#[derive(Default)]
struct Closing {
    name: &'static str,
    /// Rows of the consent file, without the patient.
    consent: String,
    /// Confidentiality code of the manifests.
    manifest: Option<&'static str>,
    /// Confidentiality code of the report.
    report: Option<&'static str>,
    /// Who wrote the report.
    institution: Option<&'static str>,
    /// A policy beside the shipped ones.
    policy: Option<&'static str>,
    /// Asked as a next of kin.
    kin: bool,
}

impl Closing {
    fn block(name: &'static str, row: &str) -> Self {
        Self { name, consent: format!("[[block]]\npatient = \"{PATIENT}\"\n{row}\n"), ..Self::default() }
    }

    fn policy(name: &'static str, policy: &'static str) -> Self {
        Self { name, policy: Some(policy), ..Self::default() }
    }
}

fn closings(manifest: &str) -> Vec<Closing> {
    let block = Closing::block;
    let coded = |name, manifest, report| Closing { name, manifest, report, ..Closing::default() };
    let mut all = vec![
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
        coded("closed-confidentiality: manifest NORS", Some("NORS"), None),
        coded("closed-confidentiality: manifest R", Some("R"), None),
        coded("closed-confidentiality: manifest V", Some("V"), None),
        coded("closed-confidentiality: report NORS", None, Some("NORS")),
        Closing { name: "next-of-kin-no-images", kin: true, ..Closing::default() },
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
    ];
    let out = format!("[[opt_out]]\npatient = \"{PATIENT}\"\n");
    all.push(Closing { name: "opt-out", consent: out, ..Closing::default() });
    all
}

/// A world in which the study is closed in that way.
fn world(closing: &Closing) -> World {
    let world = World::new();
    study().write(&world.path("data/dicom/2")).expect("a study");
    std::fs::write(world.path("data/consent.toml"), &closing.consent).expect("writes");
    let edit = |name: &str, code: Option<&str>, more: &str| {
        let text = std::fs::read_to_string(world.path(name)).expect("reads");
        let text = match code {
            Some(code) => text.replace(
                "{ code = \"N\", system = \"2.16.840.1.113883.5.25\"",
                &format!("{{ code = \"{code}\", system = \"2.999.1\""),
            ),
            None => text,
        };
        std::fs::write(world.path(name), more.to_owned() + &text).expect("writes");
    };
    edit("data/manifest.toml", closing.manifest, "");
    let institution = closing.institution.map(|i| format!("institution = \"{i}\"\n")).unwrap_or_default();
    edit("data/reports/rg.toml", closing.report, &institution);
    let report = std::fs::read_to_string(world.path("data/reports/rg.toml")).expect("reads");
    let later = report.replace("2026-01-02T10:30:00Z", "2026-01-05T10:30:00Z");
    std::fs::write(world.path("data/reports/rg.toml"), later).expect("writes");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no/transactions.cedar");
    std::fs::create_dir(world.path("policies")).expect("a folder");
    std::fs::copy(shipped, world.path("policies/transactions.cedar")).expect("copies");
    std::fs::write(world.path("policies/zz.cedar"), closing.policy.unwrap_or_default()).expect("writes");
    world
}

async fn start(world: &World) -> Gateway {
    world
        .start("closed", |text| {
            let mut out = String::new();
            for line in text.lines() {
                match line.starts_with("folder = ") && line.ends_with("policies/no\"") {
                    true => out.push_str("folder = \"policies\""),
                    false => out.push_str(line),
                }
                out.push('\n');
            }
            out.replace("country = \"FI\"\nname", "country = \"FI\"\norcd = true\nname")
        })
        .await
}

async fn assertions(neighbour: &Neighbour, kin: bool) -> Vec<SignedAssertion> {
    let mut assertions = neighbour.assertions(&patient()).await.expect("signs");
    if kin {
        let claims = neighbour.claims();
        let facts = NextOfKinClaims {
            country: neighbour.country,
            name_id: claims.name_id.clone(),
            hcp_id: assertions[0].id.clone(),
            kin: NextOfKin { id: "kin-1".into(), ..NextOfKin::default() },
        };
        let id = format!("_{}", uuid::Uuid::new_v4());
        let now = jiff::Timestamp::now();
        let until = now + jiff::SignedDuration::from_hours(2);
        let template = ncp_saml::nok_template(&id, &facts, now, until);
        let text = template.to_xml();
        assertions.insert(0, neighbour.sign(&id, &text).await.expect("signs"));
    }
    assertions
}

/// Every path on which the manifest or the images may be had.
fn paths(manifest: &DocumentEntry) -> Vec<(&'static str, &'static str, Element)> {
    use StoredQuery as Q;
    let all = || vec![Availability::Approved, Availability::Deprecated];
    let unique = || ObjectIds::UniqueIds(vec![manifest.unique_id.clone()]);
    let uuids = || ObjectIds::EntryUuids(vec![manifest.entry_uuid.clone()]);
    let by_reference = ncp_ihe::FindDocuments {
        reference_ids: vec![vec![ReferenceId::study(&Uid::parse(&study().uid()).expect("a UID"))]],
        ..FindDocuments::of_patient(patient())
    };
    let queries = [
        ("FindDocuments", Q::FindDocuments(FindDocuments::of_patient(patient()))),
        ("by study", Q::FindDocuments(by_reference)),
        (
            "GetAll",
            Q::GetAll(GetAll {
                patient_id: patient(),
                document_status: all(),
                set_status: all(),
                folder_status: all(),
                contents: ContentFilter::default(),
            }),
        ),
        ("GetDocuments", Q::GetDocuments(unique())),
        ("by UUID", Q::GetDocuments(uuids())),
        ("AndAssociations", Q::GetDocumentsAndAssociations(unique())),
    ];
    let mut out: Vec<(&str, &str, Element)> = queries
        .into_iter()
        .map(|(name, query)| {
            let request = CrossGatewayQueryRequest { home: home(), return_type: ReturnType::LeafClass, query };
            (name, actions::ITI38_REQUEST, request.to_element())
        })
        .collect();
    let repository = Oid::parse(REPOSITORY).expect("an OID");
    let document = |id: String| {
        let request = DocumentRequest { home: home(), repository: repository.clone(), document: id };
        RetrieveRequest { documents: vec![request] }.to_element()
    };
    out.push(("ITI-39", actions::ITI39_REQUEST, document(manifest.unique_id.clone())));
    out.push(("OrCD", actions::ITI39_REQUEST, document(format!("{}^ORCD", manifest.unique_id))));
    let images = |slices: std::ops::RangeInclusive<u32>| {
        let instances = slices.map(|slice| DocumentRequest {
            home: home(),
            repository: repository.clone(),
            document: study().instance(slice),
        });
        let series = Uid::parse(&study().series()).expect("a UID");
        let series = vec![SeriesRequest { series, instances: instances.collect() }];
        let study = StudyRequest { study: Uid::parse(&study().uid()).expect("a UID"), series };
        let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
        ImagingRequest { studies: vec![study], transfer_syntaxes }.to_element()
    };
    out.push(("RAD-75", actions::RAD75_REQUEST, images(1..=2)));
    out.push(("one image", actions::RAD75_REQUEST, images(1..=1)));
    out
}

/// `open` when the manifest's entry or any part comes, else `closed`.
async fn verdict(
    neighbour: &Neighbour,
    assertions: &[SignedAssertion],
    manifest: &str,
    action: &str,
    body: Element,
) -> &'static str {
    let path = if action == actions::RAD75_REQUEST { XCAI } else { XCA };
    let mut answer = neighbour.call(action, path, assertions, body).await.expect("an answer");
    let mut parts = 0;
    while let Some(_head) = answer.parts.next().await.expect("a part") {
        while answer.parts.chunk().await.expect("a piece").is_some() {}
        parts += 1;
    }
    let listed = action == actions::ITI38_REQUEST
        && String::from_utf8_lossy(&answer.envelope).contains(&format!("\"{manifest}\""));
    match (parts > 0 || listed, action == actions::ITI38_REQUEST) {
        (true, _) => "open",
        // A query that names the id answers with an empty list; whatever is fetched does not exist.
        (false, true) => "closed",
        (false, false) if answer.codes().iter().all(|code| code == "XDSDocumentUniqueIdError") => "closed",
        (false, false) => "refused",
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout)]
async fn se_02_closed_as_manifest_is_closed_as_images() {
    let open = world(&Closing { name: "nothing", ..Closing::default() });
    let gateway = start(&open).await;
    let neighbour = open.neighbour("fi", &gateway);
    let listed = neighbour.documents(&patient()).await.expect("a list");
    let of_study = |e: &&DocumentEntry| {
        e.is_manifest()
            && !e.unique_id.contains('^')
            && e.study_instance_uid().is_some_and(|uid| uid.as_str() == study().uid())
    };
    let manifest = listed.objects.entries.iter().find(of_study).expect("a manifest").clone();
    let with = assertions(&neighbour, false).await;
    let mut table = String::from("| closed by |");
    for (name, ..) in paths(&manifest) {
        let _ = write!(table, " {name} |");
    }
    let _ = write!(table, "\n|---|{}\n| nothing |", "---|".repeat(paths(&manifest).len()));
    for (name, action, body) in paths(&manifest) {
        let got = verdict(&neighbour, &with, &manifest.unique_id, action, body).await;
        let _ = write!(table, " {got} |");
        // This program draws no pictures.
        assert!(got == "open" || name == "OrCD", "{name} is {got} although nothing is closed");
    }
    table.push('\n');
    gateway.stop().await;
    let mut wrong = Vec::new();
    for closing in closings(&manifest.unique_id) {
        let world = world(&closing);
        let gateway = start(&world).await;
        let neighbour = world.neighbour("fi", &gateway);
        let with = assertions(&neighbour, closing.kin).await;
        let _ = write!(table, "| {} |", closing.name);
        for (name, action, body) in paths(&manifest) {
            let got = verdict(&neighbour, &with, &manifest.unique_id, action, body).await;
            // Next of kin are told that their kind asks for no images at all.
            let told = closing.kin && action == actions::RAD75_REQUEST && got == "refused";
            if got != "closed" && !told {
                wrong.push(format!("{}: {name}: {got}", closing.name));
            }
            let _ = write!(table, " {} |", if told { "closed (told)" } else { got });
        }
        table.push('\n');
        gateway.stop().await;
    }
    println!("{table}");
    std::fs::write(crate::report_folder().join("closed-by-path.md"), &table).expect("writes");
    assert!(wrong.is_empty(), "{table}\n{wrong:#?}");
}
