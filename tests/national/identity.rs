//! A patient's id is one within its issuer, and a merged patient is one person, whatever an archive answers and by whichever
//! way its objects come.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use ncp_example_national_service::{Holdings, scan};
use ncp_ihe::{DocumentRequest, HomeCommunityId, Manifest, Status};
use ncp_tests::archive::{Archive, Asked};
use ncp_tests::synth::Study;
use serde_json::{Value, json};

use crate::harness::{Asker, HOME, World, dicomweb, fetch, others_came};
use crate::{BIRTH_DATE, LOCAL_ID, images, oid, patient};

const LOCATION: &str = "2.999.47.21.3";

fn study(number: u32) -> Study {
    Study { side: 32, ..crate::study(number, 3) }
}

fn connector(base: &str) -> String {
    dicomweb(base, LOCATION, "patient_id_authority = [\"HOSPITAL-A\", \"2.999.47.22\"]")
}

fn value(vr: &str, value: Value) -> Value {
    json!({ "vr": vr, "Value": [value] })
}

fn other_id(id: &str, issuer: &str) -> Value {
    value("SQ", json!({ "00100020": value("LO", json!(id)), "00100021": value("LO", json!(issuer)) }))
}

/// Items of (0010,0024).
fn qualifiers(universals: &[&str]) -> Value {
    let item = |universal: &&str| json!({ "00400032": value("UT", json!(universal)) });
    json!({ "vr": "SQ", "Value": universals.iter().map(item).collect::<Vec<_>>() })
}

/// An answer to a search for studies, of which the archive says this of each patient.
fn answer(asked: &Asked<'_>, studies: &[String], whose: impl Fn(&str) -> Value) -> Option<Response> {
    let told = |uid: &String| {
        let mut told = whose(uid);
        told["0020000D"] = value("UI", json!(uid));
        told["00201208"] = value("IS", json!(3));
        told
    };
    let all: Vec<Value> = studies.iter().map(told).collect();
    let body = Value::from(all).to_string();
    (asked.what == "studies").then(|| ([("content-type", "application/dicom+json")], body).into_response())
}

async fn listed(asker: &Asker) -> BTreeSet<String> {
    let found = asker.documents(&patient()).await.expect("ITI-38");
    found.objects.entries.iter().filter_map(|e| e.study_instance_uid()).map(|uid| uid.to_string()).collect()
}

/// IM-02: of two studies with the same id the one of another issuer is another hospital's patient's.
#[tokio::test]
async fn im_02_another_hospitals_patient_with_the_same_number_is_not_listed() {
    let world = World::new();
    let archive = Archive::default();
    (1..=2).for_each(|number| archive.hold(&study(number), world.dir.path()));
    let hers = study(1).uid();
    // By namespace, by universal id, and by sex and name where neither issuer nor birth date is said.
    let issuers = [
        (
            json!({ "00100021": value("LO", json!("HOSPITAL-A")) }),
            json!({ "00100021": value("LO", json!("HOSPITAL-B")) }),
        ),
        (
            json!({ "00100024": value("SQ", json!({ "00400032": value("UT", json!("2.999.47.22")) })) }),
            json!({ "00100024": value("SQ", json!({ "00400032": value("UT", json!("2.999.99")) })) }),
        ),
        // Another issuer behind the own one, in a second item or value; and one that stands where nobody reads it.
        (
            json!({ "00100024": qualifiers(&["2.999.47.22"]) }),
            json!({ "00100024": qualifiers(&["2.999.47.22", "2.999.99"]) }),
        ),
        (
            json!({ "00100021": { "vr": "LO", "Value": ["HOSPITAL-A", null] } }),
            json!({ "00100021": { "vr": "LO", "Value": ["HOSPITAL-A", "HOSPITAL-B"] } }),
        ),
        (
            json!({ "00100024": { "vr": "SQ", "Value": [] } }),
            json!({ "00100024": { "vr": "SQ", "BulkDataURI": "https://archive.example/issuers" } }),
        ),
        // The archive names another issuer of the same id among the other ids (0010,1002).
        (
            json!({ "00101002": other_id(LOCAL_ID, "HOSPITAL-A") }),
            json!({ "00101002": other_id(LOCAL_ID, "HOSPITAL-B") }),
        ),
        (json!({}), json!({})),
    ];
    for (own, other) in issuers {
        let hers = hers.clone();
        archive.habit(move |asked| {
            answer(asked, &asked.page, |uid| {
                let mut told = if uid == hers { own.clone() } else { other.clone() };
                told["00100020"] = value("LO", json!(LOCAL_ID));
                if uid == hers {
                    told["00100030"] = value("DA", json!(BIRTH_DATE));
                } else {
                    told["00100010"] = value("PN", json!({ "Alphabetic": "SMITH^Jane" }));
                    told["00100040"] = value("CS", json!("F"));
                }
                told
            })
        });
        let fresh = world.gateway(true, &connector(&archive.serve().await)).await;
        assert_eq!(listed(&fresh).await, BTreeSet::from([study(1).uid()]));
        let fetched = fetch(&fresh, &images(&study(1), LOCATION, 1..=3)).await;
        assert_eq!((fetched.response.status, fetched.instances.len()), (Status::Success, 3));
        let fetched = fetch(&fresh, &images(&study(2), LOCATION, 1..=3)).await;
        assert!(fetched.instances.is_empty(), "another patient's images");
    }
}

/// IM-10: the archive says the new id, its objects still say the old one; the manifest tells both.
#[tokio::test]
async fn im_10_a_merged_patient_is_whole() {
    let world = World::new();
    let register = world.dir.path().join("patients.toml");
    let text = std::fs::read_to_string(&register).expect("a register");
    let merged = text.replace(&format!("[\"{LOCAL_ID}\"]"), &format!("[\"NEW-1\", \"{LOCAL_ID}\"]"));
    assert_ne!(merged, text);
    std::fs::write(&register, merged).expect("writes");
    let archive = Archive::default();
    archive.hold(&study(1), world.dir.path());
    // The archive finds what it holds by its database, not by what its objects say.
    archive.habit(|asked| {
        let found = asked.query.get("PatientID").is_none_or(|id| id == "NEW-1");
        let studies = if found { vec![study(1).uid()] } else { Vec::new() };
        answer(
            asked,
            &studies,
            |_| json!({ "00100020": value("LO", json!("NEW-1")), "00100030": value("DA", json!(BIRTH_DATE)) }),
        )
    });
    let neighbour = world.gateway(true, &connector(&archive.serve().await)).await;
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    let [entry] = found.objects.entries.as_slice() else { panic!("one study") };
    let home = Some(HomeCommunityId(oid(HOME)));
    let wanted = DocumentRequest { home, repository: oid(LOCATION), document: entry.unique_id.clone() };
    let (_, bytes) = neighbour.document(&patient(), &wanted).await.expect("ITI-39");
    let ids = Manifest::read_kos(&bytes).expect("a manifest").patient.ids;
    let ids: BTreeSet<&str> = ids.iter().map(|issued| issued.id.as_str()).collect();
    assert!(ids.contains("NEW-1") && ids.contains(LOCAL_ID));
    let fetched = fetch(&neighbour, &images(&study(1), LOCATION, 1..=3)).await;
    assert_eq!((fetched.response.status, fetched.instances.len()), (Status::Success, 3));
}

/// The file says that its patient's id is of another issuer.
fn issued_elsewhere(file: &std::path::Path) {
    let mut object = dicom_object::open_file(file).expect("reads");
    object.put(DataElement::new(tags::ISSUER_OF_PATIENT_ID, VR::LO, PrimitiveValue::from("HOSPITAL-B")));
    object.write_to_file(file).expect("writes");
}

/// P3 (IM-01, T-DCM-14): an object of another issuer leaves by no way: from a domain by RAD-69, from a service of the country over
/// gRPC, from an archive by WADO-RS. The folder is tested where it is read.
#[tokio::test]
async fn p_3_an_object_of_another_issuer_leaves_by_no_way() {
    let withheld = async |neighbour: &Asker, study: &Study, location: &str, files: &[std::path::PathBuf]| {
        let fetched = fetch(neighbour, &images(study, location, 1..=3)).await;
        others_came(&fetched, files, study, 1..=3, 2);
        assert!(fetched.response.errors.iter().all(|error| error.code == "XDSDocumentUniqueIdError"));
    };
    let world = World::new();
    let domain_study = crate::study(8, 3);
    let iti47 = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
    let (domain, neighbour, files) = crate::xds::domain_and_register(&world, &domain_study, iti47, true).await;
    issued_elsewhere(&files[1]);
    assert_eq!(domain.0.lock().expect("not poisoned").files.len(), 3);
    withheld(&neighbour, &domain_study, "2.999.47.21.9", &files).await;

    let world = World::new();
    let served_study = crate::study(7, 3);
    let files = served_study.write(&world.dir.path().join("dicom")).expect("writes");
    issued_elsewhere(&files[1]);
    let entry = crate::grpc::entry("2.999.47.31.7", "application/dicom", 1);
    let document = (crate::grpc::naming(&served_study, entry), b"x".to_vec());
    let holdings = Holdings { files: scan(&world.dir.path().join("dicom")), ..crate::grpc::holdings(document) };
    let port = crate::grpc::served(&world, holdings).await;
    let location = crate::grpc::LOCATION;
    let section = crate::grpc::connector(&world, port) + &format!("location_uids = [\"{location}\"]\n");
    let neighbour = world.gateway(true, &section).await;
    withheld(&neighbour, &served_study, location, &files).await;

    let world = World::new();
    let archive = Archive::default();
    archive.hold(&study(1), world.dir.path());
    let files: Vec<_> = (1..=3).map(|slice| world.dir.path().join("held-1").join(format!("{slice:06}.dcm"))).collect();
    issued_elsewhere(&files[1]);
    let neighbour = world.gateway(true, &connector(&archive.serve().await)).await;
    withheld(&neighbour, &study(1), LOCATION, &files).await;
}
