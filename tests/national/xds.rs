//! The `xds` connector against a domain over real sockets.

use std::process::Command;

use ncp_ihe::{
    Association, Availability, Coded, ContentFilter, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, Dtm,
    EntryType, FindFolders, FindSubmissionSets, Folder, GetAll, HomeCommunityId, KosDialect, Manifest,
    ManifestInstance, ManifestSeries, ObjectIds, PatientAnswer, PatientRecord, PersonName, QueryResponse, ReferenceId,
    RegistryObjects, ReturnType, Status, StoredQuery, SubmissionSet, TimeRange, actions,
};
use ncp_tests::messages::{self, Capture, Origin};
use ncp_tests::neighbour::XCA;
use ncp_tests::synth::Study;

use crate::domain::{Domain, error};
use crate::harness::{Asker, HOME, World, codes, fetch, same_as_files};
use crate::{BIRTH_DATE, LOCAL_ID, images, oid, patient, study, uid};

pub(crate) const REPOSITORY: &str = "2.999.47.21.8";
const SOURCE: &str = "2.999.47.21.9";
pub(crate) const KOS: &str = "2.999.47.31.8";

pub(crate) fn entry(patient_id: ncp_ihe::PatientId, unique_id: &str, study: &Study) -> DocumentEntry {
    let national = |code: &str| Coded::new(code, "2.16.578.1.12.4.1.1.9602", Some(code));
    DocumentEntry {
        entry_uuid: format!("urn:uuid:00000000-0000-4000-8000-0000000{:05}", study.number),
        unique_id: unique_id.into(),
        home: None,
        repository_unique_id: oid(REPOSITORY),
        availability: Availability::Approved,
        entry_type: EntryType::Stable,
        source_patient_id: Some(patient_id.clone()),
        patient_id,
        source_patient_info: Vec::new(),
        class_code: national("E00-1"),
        type_code: national("E01-2"),
        format_code: Coded::new("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1", None),
        practice_setting: national("B"),
        facility_type: national("86.101"),
        confidentiality: vec![Coded::new("N", "2.16.840.1.113883.5.25", None)],
        event_codes: Vec::new(),
        language: "nb-NO".into(),
        mime_type: "application/dicom".into(),
        title: Some("CT thorax".into()),
        comments: None,
        creation_time: Dtm::parse("20260102").ok(),
        service_start: None,
        service_stop: None,
        hash: None,
        size: None,
        reference_ids: vec![ReferenceId::study(&uid(&study.uid()))],
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    }
}

fn kos(study: &Study) -> Vec<u8> {
    let mut series = ManifestSeries::new(uid(&study.series()));
    series.location = Some(oid(SOURCE));
    let ct = uid("1.2.840.10008.5.1.4.1.1.2");
    let instances = 1..=study.instances;
    series.instances = instances.map(|s| ManifestInstance::new(ct.clone(), uid(&study.instance(s)))).collect();
    let mut manifest = Manifest::new(uid(KOS), uid(&format!("{KOS}.1")), uid(&study.uid()));
    manifest.patient.ids = vec![ncp_ihe::IssuedId::new(&study.patient_id, None)];
    manifest.patient.birth_date = Some(study.birth_date.clone());
    manifest.series = vec![series];
    manifest.write_kos(KosDialect::XdsI).expect("writes")
}

/// A domain with one study of the patient, and the gateway in front of it.
pub(crate) async fn domain(world: &World, study: &Study, patients: &str) -> (Domain, Asker, Vec<std::path::PathBuf>) {
    domain_and_register(world, study, patients, false).await
}

/// The same, with or without a national register beside it.
pub(crate) async fn domain_and_register(
    world: &World,
    study: &Study,
    patients: &str,
    register: bool,
) -> (Domain, Asker, Vec<std::path::PathBuf>) {
    let files = study.write(&world.dir.path().join("dicom")).expect("writes");
    let domain = Domain::default();
    {
        let mut holdings = domain.0.lock().expect("not poisoned");
        holdings.record = Some(PatientRecord {
            id: patient(),
            other_ids: Vec::new(),
            name: PersonName { family: "Testesen".into(), given: vec!["Jon".into()] },
            birth_date: Some(BIRTH_DATE.into()),
            gender: Some("M".into()),
            address: None,
        });
        holdings.entries = vec![entry(patient(), KOS, study)];
        holdings.documents.insert(KOS.into(), kos(study));
        holdings.files = (1..).map(|s| study.instance(s)).zip(files.iter().cloned()).collect();
    }
    let port = domain.serve(world.acceptor(b"\x08http/1.1")).await;
    let tls = world.internal_tls();
    let connector = format!(
        r#"
[[national.connector]]
kind = "xds"
name = "domain"
registry = "https://localhost:{port}/registry"
repositories = [{{ id = "{REPOSITORY}", endpoint = "https://localhost:{port}/repository" }}]
sources = [{{ id = "{SOURCE}", endpoint = "https://localhost:{port}/source" }}]
{tls}
xua = {{ issuer = "urn:oid:2.999.47", audience = "urn:oid:2.999.47.5" }}
patients = {}
"#,
        patients.replace("PORT", &port.to_string())
    );
    let neighbour = world.gateway(register, &connector).await;
    (domain, neighbour, files)
}

#[tokio::test]
async fn a_domain_answers_the_whole_story() {
    let world = World::new();
    let study = study(8, 4);
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    let (domain, neighbour, files) = domain(&world, &study, iti47).await;

    match neighbour.find(&oid(HOME), &patient()).await.expect("ITI-55") {
        PatientAnswer::Matches(found) => assert_eq!(found[0].record.id, patient()),
        other => panic!("{other:?}"),
    }
    let listed = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((listed.status, listed.objects.entries.len()), (Status::Success, 1));
    assert_eq!(listed.objects.entries[0].home, Some(HomeCommunityId(oid(HOME))));

    let wanted =
        DocumentRequest { home: Some(HomeCommunityId(oid(HOME))), repository: oid(REPOSITORY), document: KOS.into() };
    assert_eq!(neighbour.document(&patient(), &wanted).await.expect("ITI-39").1, kos(&study));

    let fetched = fetch(&neighbour, &images(&study, SOURCE, 1..=4)).await;
    assert!(fetched.whole && fetched.response.status == Status::Success);
    assert_eq!(fetched.instances.len(), 4);
    same_as_files(&fetched, &files, &study);

    let holdings = domain.0.lock().expect("not poisoned");
    for action in [actions::ITI47_REQUEST, actions::ITI18_REQUEST, actions::ITI43_REQUEST, actions::RAD69_REQUEST] {
        assert!(holdings.asked.iter().any(|a| a == action), "{action}");
    }
    assert!(holdings.homes.iter().all(|h| *h == Some(HomeCommunityId(oid(HOME)))));
    verified_by_xmlsec1(&world, holdings.assertion.as_deref().expect("an assertion"));
}

/// The X-User Assertion says who asks and for whom, and another implementation takes its signature.
fn verified_by_xmlsec1(world: &World, assertion: &str) {
    for said in ["hpr-9144889", "urn:oid:2.999.47.5", "urn:oid:2.999.246", "30857710106^^^&amp;2.16.578.1.12.4.1.4.1"] {
        assert!(assertion.contains(said), "{said} is not in {assertion}");
    }
    let file = world.dir.path().join("assertion.xml");
    std::fs::write(&file, assertion).expect("writes");
    let out = Command::new("xmlsec1")
        .args(["--verify", "--id-attr:ID", "urn:oasis:names:tc:SAML:2.0:assertion:Assertion", "--trusted-pem"])
        .arg(world.no.path("anchors.pem"))
        .arg("--pubkey-cert-pem")
        .arg(world.no.path("seal.pem"))
        .arg(&file)
        .output()
        .expect("xmlsec1 is installed");
    assert!(out.status.success(), "xmlsec1: {}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn partial_answers_and_refusals_are_passed_on() {
    let world = World::new();
    let study = study(8, 5);
    let iti119 = r#"{ transaction = "ITI-119", endpoint = "https://localhost:PORT/fhir", domain = "2.999.47.5" }"#;
    let (domain, neighbour, files) = domain(&world, &study, iti119).await;

    // The identifier of the affinity domain is the one under which documents are found.
    match neighbour.find(&oid(HOME), &patient()).await.expect("ITI-55") {
        PatientAnswer::Matches(found) => assert_eq!(found[0].record.id.to_cx(), "domain-1^^^&2.999.47.5&ISO"),
        other => panic!("{other:?}"),
    }

    domain.0.lock().expect("not poisoned").registry_errors = vec![error("XDSRegistryBusy", None)];
    let listed = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((listed.status, listed.objects.entries.len()), (Status::PartialSuccess, 1));
    assert_eq!(listed.errors[0].code, "XDSRegistryBusy");
    assert!(!listed.errors[0].context.contains("text of the national system"));
    domain.0.lock().expect("not poisoned").registry_errors = Vec::new();

    // dcm4chee's codes for an unknown instance, and for a transfer syntax that it cannot make.
    domain.0.lock().expect("not poisoned").refused =
        [(study.instance(1), "XDSMissingDocument"), (study.instance(2), "urn:dicom:wado:0007")].into();
    let fetched = fetch(&neighbour, &images(&study, SOURCE, 1..=3)).await;
    assert!(fetched.whole && fetched.response.status == Status::PartialSuccess);
    assert_eq!(codes(&fetched), ["XDSDocumentUniqueIdError", "XDSRepositoryError"]);
    same_as_files(&fetched, &files, &study);
    domain.0.lock().expect("not poisoned").refused.clear();

    // A source that breaks off ends the message without its closing boundary.
    domain.0.lock().expect("not poisoned").cut = Some(20_000);
    let fetched = fetch(&neighbour, &images(&study, SOURCE, 3..=5)).await;
    assert!(!fetched.whole && fetched.instances.len() <= 1, "the message breaks off");
    domain.0.lock().expect("not poisoned").cut = None;

    // An instance that no manifest lists, and a location of nobody.
    let fetched = fetch(&neighbour, &images(&study, SOURCE, [9])).await;
    assert_eq!((fetched.response.status, codes(&fetched)), (Status::Failure, vec!["XDSDocumentUniqueIdError"]));
    let fetched = fetch(&neighbour, &images(&study, "2.999.47.21.99", [1])).await;
    assert_eq!(fetched.response.status, Status::Failure);
}

/// T-DCM-9: the manifest names one patient, an object another; T-BND-9: the manifests are those of the treatment's
/// patient alone.
#[tokio::test]
async fn objects_of_somebody_else_do_not_leave() {
    let world = World::new();
    let study = study(8, 3);
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    let (domain, neighbour, files) = domain(&world, &study, iti47).await;
    let foreign = Study { patient_id: "SOMEBODY".into(), ..study.clone() };
    let other = foreign.write(&world.dir.path().join("other")).expect("writes");
    domain.0.lock().expect("not poisoned").files.insert(study.instance(2), other[1].clone());
    let fetched = fetch(&neighbour, &images(&study, SOURCE, 2..=2)).await;
    assert!(fetched.whole && fetched.instances.is_empty());
    assert_eq!(codes(&fetched), ["XDSDocumentUniqueIdError"]);
    // Whoever asks for all hears that it is not to be had, and gets the others.
    let fetched = fetch(&neighbour, &images(&study, SOURCE, 1..=3)).await;
    assert!(fetched.whole && fetched.response.status == Status::PartialSuccess);
    assert_eq!((fetched.instances.len(), codes(&fetched)), (2, vec!["XDSDocumentUniqueIdError"]));
    same_as_files(&fetched, &files, &study);
    assert_eq!(study.patient_id, LOCAL_ID);

    let mut somebody = patient();
    somebody.extension = "01827812345".into();
    {
        let mut holdings = domain.0.lock().expect("not poisoned");
        holdings.entries = vec![entry(somebody, KOS, &study)];
    }
    let study = Study { number: 9, ..study };
    let fetched = fetch(&neighbour, &images(&study, SOURCE, [1])).await;
    assert_eq!((fetched.response.status, codes(&fetched)), (Status::Failure, vec!["XDSDocumentUniqueIdError"]));
}

/// A supplier that answers in pages is asked until the person is found; one that never ends is told to stop.
#[tokio::test]
async fn a_supplier_that_answers_in_pages() {
    let world = World::new();
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    let (domain, neighbour, _) = domain(&world, &study(8, 1), iti47).await;
    let other = |number: usize| {
        let mut record = domain.0.lock().expect("not poisoned").record.clone().expect("a record");
        record.id.extension = format!("other-{number}");
        record
    };
    let others: Vec<PatientRecord> = (0..5).map(other).collect();
    domain.0.lock().expect("not poisoned").others = others;
    match neighbour.find(&oid(HOME), &patient()).await.expect("ITI-55") {
        PatientAnswer::Matches(found) => assert_eq!((found.len(), &found[0].record.id), (1, &patient())),
        other => panic!("{other:?}"),
    }
    let continued = |domain: &Domain, action: &str| {
        domain.0.lock().expect("not poisoned").asked.iter().filter(|a| *a == action).count()
    };
    assert_eq!((continued(&domain, actions::ITI47_CONTINUE), continued(&domain, actions::ITI47_CANCEL)), (2, 0));
    let many: Vec<PatientRecord> = (0..300).map(other).collect();
    domain.0.lock().expect("not poisoned").others = many;
    let answer = neighbour.find(&oid(HOME), &patient()).await.expect("ITI-55");
    assert!(matches!(answer, PatientAnswer::Refused(_)), "{answer:?}");
    assert_eq!(continued(&domain, actions::ITI47_CANCEL), 1);
    let capture = Capture::new(&world.dir.path().join("captured")).expect("a capture");
    for envelope in &domain.0.lock().expect("not poisoned").supplied {
        capture.envelope(false, Origin::Ours, envelope).expect("kept");
    }
    messages::assert_clean(&world.dir.path().join("captured"), 5);
}

fn set(number: u32) -> SubmissionSet {
    SubmissionSet {
        entry_uuid: format!("urn:uuid:00000000-0000-4000-8000-00000005{number:04}"),
        unique_id: format!("2.999.47.40.{number}"),
        home: None,
        availability: Availability::Approved,
        patient_id: patient(),
        source_id: "2.999.47.42".into(),
        content_type: Coded::new("18748-4", "2.16.840.1.113883.6.1", None),
        submission_time: Dtm::parse("20260103").ok(),
        intended_recipients: Vec::new(),
        title: None,
        comments: None,
        authors: Vec::new(),
        extra_slots: Vec::new(),
    }
}

fn folder(number: u32) -> Folder {
    Folder {
        entry_uuid: format!("urn:uuid:00000000-0000-4000-8000-00000006{number:04}"),
        unique_id: format!("2.999.47.41.{number}"),
        home: None,
        availability: Availability::Approved,
        patient_id: patient(),
        codes: vec![Coded::new("imaging", "2.999.47.50", None)],
        last_update: Dtm::parse("20260103").ok(),
        title: None,
        comments: None,
        extra_slots: Vec::new(),
    }
}

fn association(number: u32, kind: &str, source: &str, target: &str) -> Association {
    Association {
        uuid: format!("urn:uuid:00000000-0000-4000-8000-00000007{number:04}"),
        kind: kind.into(),
        source: source.into(),
        target: target.into(),
        submission_set_status: (kind == Association::HAS_MEMBER).then(|| "Original".into()),
    }
}

/// Two documents, the second with a set and a folder of its own, or the first alone.
fn holdings(with_second: bool) -> (Vec<DocumentEntry>, RegistryObjects) {
    let (first, second) = (entry(patient(), KOS, &study(8, 1)), entry(patient(), "2.999.47.31.9", &study(9, 1)));
    let member = Association::HAS_MEMBER;
    let mut groups = RegistryObjects {
        submission_sets: vec![set(1)],
        folders: vec![folder(1)],
        associations: vec![
            association(1, member, &set(1).entry_uuid, &first.entry_uuid),
            association(2, member, &folder(1).entry_uuid, &first.entry_uuid),
        ],
        ..RegistryObjects::default()
    };
    if !with_second {
        return (vec![first], groups);
    }
    groups.submission_sets.push(set(2));
    groups.folders.push(folder(2));
    groups.associations.extend([
        association(3, member, &set(2).entry_uuid, &second.entry_uuid),
        association(4, member, &folder(2).entry_uuid, &second.entry_uuid),
        association(5, member, &folder(1).entry_uuid, &second.entry_uuid),
        association(6, "urn:ihe:iti:2007:AssociationType:APND", &second.entry_uuid, &first.entry_uuid),
    ]);
    (vec![first, second], groups)
}

/// Every stored query that answers submission sets, folders or associations, with the number of objects that it finds.
fn group_queries() -> Vec<(StoredQuery, usize)> {
    let approved = || vec![Availability::Approved];
    let contents = || ContentFilter { entry_types: Vec::new(), ..ContentFilter::default() };
    let (first, _) = holdings(false);
    let document = || ObjectIds::EntryUuids(vec![first[0].entry_uuid.clone()]);
    let (set, folder) = (set(1).entry_uuid, folder(1).entry_uuid);
    let one = |uuid: &str| ObjectIds::EntryUuids(vec![uuid.to_owned()]);
    let all = GetAll {
        patient_id: patient(),
        document_status: approved(),
        set_status: approved(),
        folder_status: approved(),
        contents: contents(),
    };
    let find = FindSubmissionSets {
        patient_id: patient(),
        status: approved(),
        source_ids: Vec::new(),
        submitted: TimeRange::default(),
        author_person: Vec::new(),
        content_types: Vec::new(),
    };
    let folders =
        FindFolders { patient_id: patient(), status: approved(), updated: TimeRange::default(), codes: Vec::new() };
    let appended = vec!["urn:ihe:iti:2007:AssociationType:APND".to_owned()];
    vec![
        (StoredQuery::FindSubmissionSets(find), 1),
        (StoredQuery::FindFolders(folders), 1),
        (StoredQuery::GetAll(all), 5),
        (StoredQuery::GetFolders(one(&folder)), 1),
        (StoredQuery::GetFolderAndContents { folder: one(&folder), contents: contents() }, 3),
        (StoredQuery::GetSubmissionSetAndContents { set: one(&set), contents: contents() }, 3),
        (StoredQuery::GetSubmissionSets(vec![first[0].entry_uuid.clone()]), 2),
        (StoredQuery::GetAssociations(vec![first[0].entry_uuid.clone()]), 2),
        (StoredQuery::GetDocumentsAndAssociations(document()), 3),
        (StoredQuery::GetFoldersForDocument(document()), 1),
        (
            StoredQuery::GetRelatedDocuments {
                document: document(),
                association_types: appended,
                contents: contents(),
            },
            0,
        ),
    ]
}

/// Submission sets, folders and associations of the national registry are answered, and what belongs to a blocked document
/// as if it had never been registered.
#[tokio::test]
async fn groups_of_the_registry_are_answered_without_a_trace_of_what_is_blocked() {
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    let mut seen: Vec<Vec<String>> = Vec::new();
    for (with_second, blocked) in [(false, false), (true, true), (true, false)] {
        let world = World::new();
        if blocked {
            let block = format!("[[block]]\npatient = \"{}\"\ndocument = \"2.999.47.31.9\"\n", patient().to_cx());
            std::fs::write(world.dir.path().join("consent.toml"), block).expect("writes");
        }
        let (domain, neighbour, _) = domain(&world, &study(8, 1), iti47).await;
        {
            let mut held = domain.0.lock().expect("not poisoned");
            (held.entries, held.groups) = holdings(with_second);
        }
        let mut answers = Vec::new();
        for (query, expected) in group_queries() {
            let home = Some(HomeCommunityId(oid(HOME)));
            let id = query.id();
            let request = CrossGatewayQueryRequest { home, return_type: ReturnType::LeafClass, query };
            let assertions = neighbour.assertions(&patient()).await.expect("signs");
            let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, request.to_element()).await;
            let (answer, _) = QueryResponse::read(&answer.expect("an answer").body).expect("reads");
            assert_eq!(answer.status, Status::Success, "{id}");
            if !with_second {
                assert_eq!(answer.objects.len(), expected, "{id}");
            }
            answers.push(answer.to_element().to_xml());
        }
        seen.push(answers);
    }
    assert_eq!(seen[0], seen[1], "blocked equals absent");
    let differ = seen[0].iter().zip(&seen[2]).filter(|(a, b)| a != b).count();
    assert_eq!(differ, 7, "without the block the second document shows");
}

/// T-DCM-9: where the national register says under which ids archives know a person, a manifest cannot add another.
#[tokio::test]
async fn a_manifest_does_not_outweigh_the_register() {
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    for (patient_id, register, served) in
        [(LOCAL_ID, true, true), ("IIG-DEPT1011", true, false), ("IIG-DEPT1011", false, true)]
    {
        let world = World::new();
        let study = Study { patient_id: patient_id.into(), ..study(8, 1) };
        let (_domain, neighbour, files) = domain_and_register(&world, &study, iti47, register).await;
        let fetched = fetch(&neighbour, &images(&study, SOURCE, [1])).await;
        assert_eq!((fetched.whole, fetched.instances.len()), (true, usize::from(served)), "{patient_id} {register}");
        assert_eq!(fetched.response.status == Status::Success, served, "{patient_id} {register}");
        same_as_files(&fetched, &files, &study);
    }
}

/// CO-13: what the registry lists and this gateway cannot answer is named with its id and is not in the answer; what it lists
/// twice is one line.
#[tokio::test]
async fn co_13_what_a_registry_lists_and_cannot_be_answered_is_named() {
    let world = World::new();
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    let (domain, asker, _) = domain(&world, &study(8, 1), iti47).await;
    let of = |number: u32, change: fn(&mut DocumentEntry)| {
        let mut entry = entry(patient(), &format!("2.999.47.31.{number}"), &study(number, 1));
        change(&mut entry);
        entry
    };
    let good = entry(patient(), KOS, &study(8, 1));
    domain.0.lock().expect("not poisoned").entries = vec![
        good.clone(),
        good.clone(),
        of(21, |e| e.repository_unique_id = oid("2.999.47.21.77")),
        of(22, |e| e.extra_slots = vec![("serviceStartTime".into(), vec!["20261341".into()])]),
        of(23, |e| e.entry_uuid = "x".into()),
        of(24, |_| {}),
        of(24, |e| e.confidentiality[0].code = "R".into()),
    ];
    let response = asker.documents(&patient()).await.expect("an answer");
    let ids: std::collections::BTreeSet<&str> = response.objects.entries.iter().map(|e| e.unique_id.as_str()).collect();
    assert!(ids.contains(KOS) && ids.iter().all(|id| id.starts_with(KOS)), "{ids:?}");
    assert_eq!(response.objects.entries.iter().filter(|e| e.unique_id == KOS).count(), 1, "one line");
    assert_eq!(response.status, Status::PartialSuccess);
    for number in 21..=24 {
        let named = |e: &&ncp_ihe::RegistryError| {
            e.location.as_deref().is_some_and(|l| l.split(' ').next() == Some(&format!("2.999.47.31.{number}")))
        };
        assert!(response.errors.iter().any(|e| named(&e)), "{number}: {:?}", response.errors);
    }
}
