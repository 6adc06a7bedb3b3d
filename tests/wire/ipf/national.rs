//! IPF as the national systems behind our Responding Gateways: ITI-47, ITI-18, ITI-43 and RAD-69 by the `xds` connector.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ncp_ihe::{
    Content, DocumentRequest, HomeCommunityId, ImagingRequest, IssuedId, KosDialect, Manifest, ManifestInstance,
    ManifestSeries, Oid, PatientAnswer, PatientId, PatientMatch, RetrieveResponse, SeriesRequest, Status, StudyRequest,
    Uid,
};
use ncp_tests::neighbour::{Answer, Neighbour};
use ncp_tests::pki::Error;

use super::{ASKING, Counterpart, HOME, PATIENT, REPORT, REPOSITORY, Served, World};
use super::{answers, assert_legs, classpath, person};
use crate::node::{Node, Setup, asking_peer};

const SOURCE: &str = "2.999.47.21.9";
const KOS: &str = "2.999.47.31.9";

/// The manifest that the Registry lists; the last of its instances is gone at the source.
fn kos(world: &World) -> Result<Vec<u8>, Error> {
    let uid = |text: &str| Uid::parse(text);
    let study = &world.study;
    let mut series = ManifestSeries::new(uid(&study.series())?);
    series.location = Some(Oid::parse(SOURCE)?);
    for slice in 1..=study.instances + 1 {
        series.instances.push(ManifestInstance::new(uid("1.2.840.10008.5.1.4.1.1.2")?, uid(&study.instance(slice))?));
    }
    let mut manifest = Manifest::new(uid(KOS)?, uid(&format!("{KOS}.1"))?, uid(&study.uid())?);
    manifest.patient.ids = vec![IssuedId::new(&study.patient_id, None)];
    manifest.patient.birth_date = Some(study.birth_date.clone());
    manifest.series = vec![series];
    Ok(manifest.write_kos(KosDialect::XdsI)?)
}

/// IPF with a report, a manifest and its images.
async fn domain(world: &World, images: &Path, classpath: &str) -> Result<(Counterpart, u16), Error> {
    let home = HomeCommunityId::parse(HOME)?;
    let record = person(PatientId::parse_cx(PATIENT)?);
    let found = PatientAnswer::Matches(vec![PatientMatch { record, home: home.clone(), degree: 100 }]);
    let (name, media_type, format) = Served::REPORT;
    let pki = &world.own;
    let served = Served {
        tls: [pki.path("internal-server.pem"), pki.path("internal-server.key"), pki.path("anchors.pem")],
        home: HOME,
        repository: REPOSITORY,
        authority: "2.999.47.9",
        documents: vec![
            (name, media_type, format, REPORT, b"report".to_vec()),
            ("manifest", "application/dicom", "1.2.840.10008.5.1.4.1.1.88.59", KOS, kos(world)?),
        ],
        images,
        patients: Some(answers(found, &home.0)?),
    };
    served.start(classpath, world).await
}

/// Our gateway in front of it; `registry` is where it sends ITI-18.
async fn gateway(world: &World, name: &str, port: u16, registry: &str) -> Result<(Node, Neighbour), Error> {
    let at = |service: &str| format!("https://localhost:{port}/services/{service}");
    let path = |name: &str| world.own.path(name).display().to_string();
    // IPF compiles its schemas at the first request.
    let national = format!(
        r#"[national]
patience = "60s"
[[national.connector]]
kind = "xds"
name = "domain"
registry = "{registry}"
repositories = [{{ id = "{REPOSITORY}", endpoint = "{repository}" }}]
sources = [{{ id = "{SOURCE}", endpoint = "{source}" }}]
tls = {{ certificate = "{certificate}", key = "{key}", anchors = "{anchors}" }}
xua = {{ issuer = "urn:oid:{HOME}", audience = "urn:oid:{HOME}.5" }}
deadline = "60s"
patients = {{ transaction = "ITI-47", endpoint = "{patients}" }}
"#,
        registry = at(registry),
        repository = at("iti43"),
        source = at("rad69"),
        patients = at("iti47"),
        certificate = path("internal-client.pem"),
        key = path("internal-client.key"),
        anchors = path("anchors.pem"),
    );
    let dir = world.dir.path().join(name);
    let peers = asking_peer(&world.asking, ASKING, "body");
    let setup =
        Setup { dir: &dir, pki: &world.own, home: HOME, national, peers, listener: String::new(), more: String::new() };
    let node = Node::start(&setup).await?;
    let neighbour = node.asked_by(&world.asking, ASKING, &world.own, None)?;
    Ok((node, neighbour))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_xds_connector_asks_ipf() {
    let Some(classpath) = classpath() else { return };
    let world = World::new().expect("PKI");
    let images = world.dir.path().join("images");
    let files = world.study.write(&images).expect("a study");
    let (counterpart, port) = domain(&world, &images, &classpath).await.expect("IPF starts");
    let (node, neighbour) = gateway(&world, "national", port, "iti18").await.expect("a gateway");
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let home = HomeCommunityId::parse(HOME).expect("an OID");

    match neighbour.find(&home.0, &patient).await.expect("ITI-55") {
        PatientAnswer::Matches(found) => assert_eq!(found[0].record.id, patient),
        other => panic!("{other:?}"),
    }
    let nobody = PatientId::new("IPF404", patient.root.clone()).expect("an identifier");
    let nobody = neighbour.find(&home.0, &nobody).await.expect("ITI-55");
    assert!(matches!(nobody, PatientAnswer::NoMatch { .. }), "{nobody:?}");

    let listed = neighbour.documents(&patient).await.expect("ITI-38");
    let mut ids: Vec<_> = listed.objects.entries.iter().map(|e| e.unique_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!((listed.status, ids), (Status::Success, vec![KOS, REPORT]));

    let repository = Oid::parse(REPOSITORY).expect("an OID");
    let document = |id: &str| DocumentRequest {
        home: Some(home.clone()),
        repository: repository.clone(),
        document: id.to_owned(),
    };
    let (response, bytes) = neighbour.document(&patient, &document(REPORT)).await.expect("ITI-39");
    assert_eq!((response.status, bytes.as_slice()), (Status::Success, b"report".as_slice()));
    let (response, _) = neighbour.document(&patient, &document("2.999.404")).await.expect("ITI-39");
    assert_eq!(response.errors.first().map(|e| e.code.as_str()), Some("XDSDocumentUniqueIdError"));

    // Three instances that IPF has; then one of them is gone at the source.
    let request = imaging(&world, &home, world.study.instances).expect("a request");
    let (response, answer) = neighbour.images(&patient, &request).await.expect("RAD-75");
    assert_eq!(response.status, Status::Success);
    same(&world, &files, instances(&response, answer).await.expect("RAD-75"));
    let request = imaging(&world, &home, world.study.instances + 1).expect("a request");
    let (response, answer) = neighbour.images(&patient, &request).await.expect("RAD-75");
    let codes: Vec<_> = response.errors.iter().map(|e| e.code.as_str()).collect();
    assert_eq!((response.status, codes), (Status::PartialSuccess, vec!["XDSDocumentUniqueIdError"]));
    same(&world, &files, instances(&response, answer).await.expect("RAD-75"));
    drop(node);

    // A SOAP fault of the national side, and an address that nobody answers at.
    for (name, registry) in [("fault", "iti43"), ("nowhere", "none")] {
        let (node, neighbour) = gateway(&world, name, port, registry).await.expect("a gateway");
        let listed = neighbour.documents(&patient).await.expect("ITI-38");
        assert_eq!((listed.status, listed.objects.entries.len()), (Status::Failure, 0), "{name}");
        assert_eq!(listed.errors.first().map(|e| e.code.as_str()), Some("XDSRegistryError"), "{name}");
        drop(node);
    }
    assert_legs(&counterpart.legs().await, &["iti47", "iti18", "iti43", "rad69"]);
}

/// RAD-75 of the first slices.
fn imaging(world: &World, home: &HomeCommunityId, slices: u32) -> Result<ImagingRequest, Error> {
    let location = Oid::parse(SOURCE)?;
    let request = |slice| DocumentRequest {
        home: Some(home.clone()),
        repository: location.clone(),
        document: world.study.instance(slice),
    };
    let series =
        SeriesRequest { series: Uid::parse(&world.study.series())?, instances: (1..=slices).map(request).collect() };
    Ok(ImagingRequest {
        studies: vec![StudyRequest { study: Uid::parse(&world.study.uid())?, series: vec![series] }],
        transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1")?],
    })
}

/// The parts of an answer by SOP Instance UID; the message must come to its end.
async fn instances(response: &RetrieveResponse, mut answer: Answer) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut out = BTreeMap::new();
    while let Some(head) = answer.parts.next().await? {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.parts.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let named = response
            .documents
            .iter()
            .find(|d| matches!(&d.content, Content::Include(id) if *id == head.content_id))
            .ok_or("a part that was not announced")?;
        out.insert(named.request.document.clone(), bytes);
    }
    Ok(out)
}

fn same(world: &World, files: &[PathBuf], came: BTreeMap<String, Vec<u8>>) {
    assert_eq!(came.len(), files.len());
    for (slice, file) in (1..).zip(files) {
        assert_eq!(came.get(&world.study.instance(slice)), Some(&std::fs::read(file).expect("reads")), "slice {slice}");
    }
}
