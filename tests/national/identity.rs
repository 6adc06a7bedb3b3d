//! A patient's id is one within its issuer, and a merged patient is one person, whatever an archive answers.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use ncp_ihe::{DocumentRequest, HomeCommunityId, Manifest, Status};
use ncp_tests::archive::{Archive, Asked};
use ncp_tests::synth::Study;
use serde_json::{Value, json};

use crate::harness::{Asker, HOME, World, dicomweb, fetch};
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
