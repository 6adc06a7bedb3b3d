//! Nothing leaves before the decision about it is on disk: seen in a copy of the spool that is made while the answer is
//! still on its way, and with a spool that cannot take the decision.

use std::path::Path;

use futures_util::StreamExt;
use ncp_audit::{AuditSink, SpoolOptions};
use ncp_gateway::audit_scope::Trail;
use ncp_gateway::identity::TransactionName;
use ncp_ihe::{
    DocumentRequest, HomeCommunityId, ImagingRequest, Oid, PatientId, RetrieveRequest, SeriesRequest, StudyRequest,
    Uid, actions,
};
use ncp_tests::attack::{SERVED, verdict};
use ncp_tests::neighbour::XCA;
use ncp_tests::synth::Study;

use crate::world::{Gateway, HOME, PATIENT, REPOSITORY, World};

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn request(document: &str) -> DocumentRequest {
    let home = HomeCommunityId::parse(HOME).ok();
    DocumentRequest { home, repository: Oid::parse(REPOSITORY).expect("an OID"), document: document.into() }
}

fn options(gateway: &Gateway) -> SpoolOptions {
    gateway.app.config.audit.spool_options("test".into())
}

/// The audit messages in the spool of a gateway, those that are due.
pub(crate) fn records(gateway: &Gateway) -> Vec<String> {
    let content = ncp_audit::read_spool(&options(gateway)).expect("reads");
    content.records.into_iter().map(|(_, _, xml)| xml).collect()
}

/// The records that a start after a crash at this moment would find or make of what is on disk.
async fn after_a_crash(gateway: &Gateway, to: &Path) -> Vec<String> {
    let from = options(gateway);
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(&from.dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "spool") {
            std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copies");
        }
    }
    let copy = SpoolOptions { dir: to.to_owned(), ..from };
    drop(AuditSink::open(&copy).await.expect("opens"));
    let content = ncp_audit::read_spool(&copy).expect("reads");
    content.records.into_iter().map(|(_, _, xml)| xml).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_is_on_disk_before_the_first_byte() {
    let world = World::new();
    // More than the buffers between the two ends hold, so that the answer is on its way when its root has come.
    let study = Study { side: 1536, ..crate::world::study(1, 12) };
    study.write(&world.path("data/dicom/1")).expect("a study");
    let gateway = world.start("trail", |text| text).await;
    let finland = world.neighbour("fi", &gateway);
    let instances = (1..=study.instances).map(|slice| request(&study.instance(slice))).collect();
    let series = vec![SeriesRequest { series: Uid::parse(&study.series()).expect("a UID"), instances }];
    let wanted = ImagingRequest {
        studies: vec![StudyRequest { study: Uid::parse(&study.uid()).expect("a UID"), series }],
        transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")],
    };
    let (response, mut answer) = finland.images(&patient(), &wanted).await.expect("an answer");
    assert_eq!(response.documents.len(), 12);
    let found = after_a_crash(&gateway, &world.path("copy-rad75")).await;
    let cut_off = |xml: &&String| xml.contains(&study.uid()) && xml.contains("EventOutcomeIndicator=\"12\"");
    assert!(found.iter().any(|xml| cut_off(&xml)), "no decision: {found:#?}");
    while answer.parts.next().await.expect("a part").is_some() {
        while answer.parts.chunk().await.expect("a piece").is_some() {}
    }
    gateway.stop().await;
}

/// Each transaction's record says about whom: that is of the decision.
#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_decides() {
    let world = World::new();
    let gateway = world.start("decides", |text| text).await;
    let finland = world.neighbour("fi", &gateway);
    let patient = patient();
    finland.find(&Oid::parse(HOME).expect("an OID"), &patient).await.expect("found");
    finland.documents(&patient).await.expect("listed");
    finland.document(&patient, &request("2.999.47.30.1")).await.expect("retrieved");
    let spool = options(&gateway);
    gateway.stop().await;
    let records = ncp_audit::read_spool(&spool).expect("reads").records;
    for transaction in ["ITI-55", "ITI-38", "ITI-39"] {
        let of = |xml: &&(u64, u64, String)| xml.2.contains(transaction) && xml.2.contains(&patient.extension);
        assert_eq!(records.iter().filter(of).count(), 1, "{transaction}: {records:#?}");
    }
}

/// The outcome is stored by a task of its own once an answer has ended: the gateway does not end before. One thread, so
/// that nothing runs between the answer's end and the look.
#[tokio::test]
async fn the_gateway_ends_after_the_outcome() {
    let world = World::new();
    let gateway = world.start("ends", |text| text).await;
    let spool = options(&gateway);
    let app = gateway.app.clone();
    let peer = app.snapshot.load().peers.iter().next().expect("a peer").clone();
    let asked = TransactionName::Rad75;
    let trail = Trail::initiating(&app, asked, &peer, "https://fi.example/").await.expect("an intent");
    let mut parts = trail.follow(Box::pin(futures_util::stream::empty()));
    assert!(parts.next().await.is_none());
    drop(parts);
    assert_eq!(app.drain.open(), 1, "the gateway could end now");
    gateway.stop().await;
    let records = ncp_audit::read_spool(&spool).expect("reads").records;
    let good = |xml: &str| xml.contains("RAD-75") && xml.contains("EventOutcomeIndicator=\"0\"");
    assert_eq!(records.iter().filter(|(_, _, xml)| good(xml)).count(), 1, "{records:#?}");
}

/// A spool of one segment, larger at each step: at some size the intent fits and the decision does not, and nothing leaves.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_decision_nothing_leaves() {
    let world = World::new();
    for bytes in (10_240..20_480).step_by(192) {
        let spool = format!("spool_segment_bytes = {bytes}\nspool_reserve_bytes = 0\nspool_bytes = {bytes}");
        let changed =
            |text: String| text.replace("spool_segment_bytes = 4194304\nspool_reserve_bytes = 4194304", &spool);
        let gateway = world.start(&format!("full-{bytes}"), changed).await;
        let finland = world.neighbour("fi", &gateway);
        let ask = async || {
            let body = RetrieveRequest { documents: vec![request("2.999.47.30.1")] }.to_element();
            let assertions = finland.assertions(&patient()).await.expect("signs");
            let mut answer = finland.call(actions::ITI39_REQUEST, XCA, &assertions, body).await.expect("an answer");
            let mut parts = 0;
            while answer.parts.next().await.expect("a part").is_some() {
                parts += 1;
                while answer.parts.chunk().await.expect("a piece").is_some() {}
            }
            (verdict(&answer), parts)
        };
        // Until the spool is full: each answer has its document, or says why not and has none.
        for _ in 0..8 {
            let (got, parts) = ask().await;
            match (got.as_str(), parts) {
                (SERVED, 1) => {}
                ("XDSRepositoryError", 0) => return,
                ("HTTP 503 Receiver", 0) => break,
                other => panic!("{other:?} with {bytes} bytes"),
            }
        }
        // A full spool takes no record of a stop either.
        drop(gateway);
    }
    panic!("no size at which the intent fits and the decision does not");
}
