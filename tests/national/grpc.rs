//! The gateway's connector against the example service of `deploy/examples/national-service`.

use std::sync::Arc;

use ncp_example_national_service::{Holdings, Service, scan, serve};
use ncp_ihe::{
    DocumentRequest, HomeCommunityId, KosDialect, Manifest, ManifestInstance, ManifestSeries, PatientAnswer, Status,
};
use ncp_proto::national as pb;

use crate::harness::{HOME, World, codes, fetch, others_came, same_as_files};
use crate::{BIRTH_DATE, EXPLICIT_LE, LOCAL_ID, images, oid, patient, study, uid};

pub(crate) const LOCATION: &str = "2.999.47.21.7";

fn code(code: &str, system: &str) -> Option<pb::Code> {
    Some(pb::Code { code: code.into(), system: system.into(), display: code.into() })
}

pub(crate) fn entry(unique_id: &str, mime_type: &str, size: u64) -> pb::DocumentEntry {
    let id = patient();
    let id = Some(pb::PatientId { id: id.extension, authority: id.root.to_string() });
    pb::DocumentEntry {
        entry_uuid: format!("urn:uuid:00000000-0000-4000-8000-{:012}", size),
        unique_id: unique_id.into(),
        repository_unique_id: LOCATION.into(),
        availability: pb::Availability::Approved.into(),
        patient_id: id.clone(),
        source_patient_id: id,
        class_code: code("E00-1", "2.16.578.1.12.4.1.1.9602"),
        type_code: code("18748-4", "2.16.840.1.113883.6.1"),
        format_code: code("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1"),
        practice_setting: code("B", "2.16.578.1.12.4.1.1.8654"),
        facility_type: code("86.101", "2.16.578.1.12.4.1.1.1303"),
        confidentiality: code("N", "2.16.840.1.113883.5.25").into_iter().collect(),
        language: "nb-NO".into(),
        mime_type: mime_type.into(),
        title: "CT thorax".into(),
        creation_time: "20260102101500".into(),
        size,
        ..pb::DocumentEntry::default()
    }
}

/// The entry of a study's manifest, which tells what may be decided about its images.
pub(crate) fn naming(study: &ncp_tests::synth::Study, entry: pb::DocumentEntry) -> pb::DocumentEntry {
    let reference =
        pb::ReferenceId { id: study.uid(), authority: String::new(), kind: ncp_ihe::ReferenceId::STUDY.to_owned() };
    pb::DocumentEntry { reference_ids: vec![reference], ..entry }
}

/// What the example service holds: the patient, and one document of hers.
pub(crate) fn holdings(document: (pb::DocumentEntry, Vec<u8>)) -> Holdings {
    let id = patient();
    Holdings {
        patient: pb::Patient {
            id: Some(pb::PatientId { id: id.extension, authority: id.root.to_string() }),
            family: "Testesen".into(),
            given: vec!["Jon".into()],
            birth_date: BIRTH_DATE.into(),
            gender: "M".into(),
            ..pb::Patient::default()
        },
        local_ids: vec![LOCAL_ID.into()],
        documents: vec![document],
        files: Vec::new(),
        consent: pb::GetConsentResponse::default(),
    }
}

/// Serves it; the port.
pub(crate) async fn served(world: &World, holdings: Holdings) -> u16 {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = socket.local_addr().expect("bound").port();
    tokio::spawn(serve(Service(Arc::new(holdings)), socket, world.acceptor(b"\x02h2")));
    port
}

/// The connector to it, as the last section of a configuration.
pub(crate) fn connector(world: &World, port: u16) -> String {
    let tls = world.internal_tls();
    format!(
        r#"
[[national.connector]]
kind = "grpc"
name = "registers"
endpoint = "https://127.0.0.1:{port}"
server_name = "localhost"
{tls}
patients = true
repository_unique_ids = ["{LOCATION}"]
"#
    )
}

#[tokio::test]
async fn the_example_service_carries_the_whole_story() {
    let world = World::new();
    let study = study(7, 5);
    let files = study.write(&world.dir.path().join("dicom")).expect("writes");
    let mut series = ManifestSeries::new(uid(&study.series()));
    series.location = Some(oid(LOCATION));
    let ct = uid("1.2.840.10008.5.1.4.1.1.2");
    series.instances = (1..=5).map(|s| ManifestInstance::new(ct.clone(), uid(&study.instance(s)))).collect();
    let mut manifest = Manifest::new(uid("2.999.47.31.7"), uid("2.999.47.31.7.1"), uid(&study.uid()));
    manifest.series = vec![series];
    let kos = manifest.write_kos(KosDialect::XdsI).expect("writes");
    let document = (naming(&study, entry("2.999.47.31.7", "application/dicom", kos.len() as u64)), kos.clone());
    let holdings = Holdings { files: scan(&world.dir.path().join("dicom")), ..holdings(document) };
    let port = served(&world, holdings).await;
    let section = connector(&world, port) + &format!("location_uids = [\"{LOCATION}\"]\n");
    let neighbour = world.gateway(false, &section).await;

    match neighbour.find(&oid(HOME), &patient()).await.expect("ITI-55") {
        PatientAnswer::Matches(found) => assert_eq!(found[0].record.name.family, "Testesen"),
        other => panic!("{other:?}"),
    }
    let nobody = ncp_ihe::PatientId::parse_cx("1^^^&2.16.578.1.12.4.1.4.1&ISO").expect("a CX");
    assert!(matches!(neighbour.find(&oid(HOME), &nobody).await, Ok(PatientAnswer::NoMatch { .. })));

    let listed = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!(listed.status, Status::Success);
    assert_eq!(listed.objects.entries[0].unique_id, "2.999.47.31.7");
    assert!(neighbour.documents(&nobody).await.expect("ITI-38").objects.entries.is_empty());

    let wanted = DocumentRequest {
        home: Some(HomeCommunityId(oid(HOME))),
        repository: oid(LOCATION),
        document: "2.999.47.31.7".into(),
    };
    assert_eq!(neighbour.document(&patient(), &wanted).await.expect("ITI-39").1, kos);

    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=5)).await;
    assert!(fetched.whole && fetched.response.status == Status::Success, "{:?}", fetched.response.errors);
    assert_eq!(fetched.instances.len(), 5);
    same_as_files(&fetched, &files, &study);

    // What is not there, and what cannot be had in the form that is asked for.
    let fetched = fetch(&neighbour, &images(&study, LOCATION, [2, 9])).await;
    assert!(fetched.whole && fetched.instances.len() == 1);
    assert_eq!(codes(&fetched), ["XDSDocumentUniqueIdError"]);
    let mut other = images(&study, LOCATION, [1]);
    other.transfer_syntaxes = vec![uid("1.2.840.10008.1.2.4.70")];
    assert_ne!(other.transfer_syntaxes[0], uid(EXPLICIT_LE));
    let fetched = fetch(&neighbour, &other).await;
    assert_eq!((fetched.response.status, codes(&fetched)), (Status::Failure, vec!["XDSRepositoryError"]));

    // CO-18: a file that goes missing leaves the others, and who asks again hears of it.
    std::fs::remove_file(&files[1]).expect("removes");
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=3)).await;
    others_came(&fetched, &files, &study, [1, 3], 2);
    assert!(!fetched.whole);
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 2..=3)).await;
    assert!(fetched.whole && fetched.response.status == Status::PartialSuccess);
    assert!(fetched.instances.contains_key(&study.instance(3)));
}

/// CO-18: one instance that cannot be sent, the first: it is told with its reason, and the others come.
#[tokio::test]
async fn co_18_the_first_instance_that_fails_takes_no_other_along() {
    let world = World::new();
    let study = study(7, 4);
    let files = study.write(&world.dir.path().join("dicom")).expect("writes");
    let series = ManifestSeries {
        location: Some(oid(LOCATION)),
        instances: (1..=4)
            .map(|s| ManifestInstance::new(uid("1.2.840.10008.5.1.4.1.1.2"), uid(&study.instance(s))))
            .collect(),
        ..ManifestSeries::new(uid(&study.series()))
    };
    let manifest = Manifest {
        series: vec![series],
        ..Manifest::new(uid("2.999.47.31.7"), uid("2.999.47.31.7.1"), uid(&study.uid()))
    };
    let kos = manifest.write_kos(KosDialect::XdsI).expect("writes");
    let document = (naming(&study, entry("2.999.47.31.7", "application/dicom", kos.len() as u64)), kos);
    let holdings = Holdings { files: scan(&world.dir.path().join("dicom")), ..holdings(document) };
    let section = connector(&world, served(&world, holdings).await) + &format!("location_uids = [\"{LOCATION}\"]\n");
    let neighbour = world.gateway(false, &section).await;
    // The index has both; the first two files are gone.
    files[..2].iter().for_each(|file| std::fs::remove_file(file).expect("removes"));
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=4)).await;
    assert!(fetched.whole && fetched.response.status == Status::PartialSuccess);
    assert_eq!((fetched.instances.len(), codes(&fetched)), (2, vec!["XDSRepositoryError"; 2]));
    for slice in 3..=4 {
        let file = std::fs::read(&files[slice as usize - 1]).expect("reads");
        assert_eq!(fetched.instances[&study.instance(slice)], file);
    }
}

/// CO-13 behind a service of the country: what it lists and this gateway cannot answer is named with its id and is not in the
/// answer; what it lists twice is one line.
#[tokio::test]
async fn co_13_what_a_service_lists_and_cannot_be_answered_is_named() {
    let world = World::new();
    let of = |number: u32, change: fn(&mut pb::DocumentEntry)| {
        let mut one = entry(&format!("2.999.47.31.{number}"), "text/xml", u64::from(number));
        change(&mut one);
        (one, b"x".to_vec())
    };
    let documents = vec![
        of(7, |_| {}),
        of(7, |_| {}),
        of(21, |e| e.repository_unique_id = "2.999.47.21.77".into()),
        of(22, |e| e.creation_time = "20261341".into()),
        of(23, |e| e.entry_uuid = "x".into()),
        of(24, |_| {}),
        of(24, |e| e.title = "another object under one id".into()),
    ];
    let port = served(&world, Holdings { documents, ..holdings(of(7, |_| {})) }).await;
    let asker = world.gateway(false, &connector(&world, port)).await;
    let response = asker.documents(&patient()).await.expect("an answer");
    let ids: Vec<&str> = response.objects.entries.iter().map(|e| e.unique_id.as_str()).collect();
    assert_eq!(ids.iter().filter(|id| **id == "2.999.47.31.7").count(), 1, "{ids:?}");
    assert!(ids.iter().all(|id| id.starts_with("2.999.47.31.7")), "{ids:?}");
    assert_eq!(response.status, Status::PartialSuccess);
    for number in 21..=24 {
        let id = format!("2.999.47.31.{number}");
        let named = |e: &&ncp_ihe::RegistryError| {
            e.location.as_deref().is_some_and(|location| location.split(' ').next() == Some(&id))
        };
        assert!(response.errors.iter().any(|e| named(&e)), "{number}: {:?}", response.errors);
    }
}
