//! Finland's gateway asks Norway's for its own consumers and clinicians: every row that these can send, and a good one beside.

use ncp_ihe::PatientId;
use ncp_tests::attack::{self, Attacker, Clinician, Finding, Side};
use ncp_tests::issuer::{BASE, ISSUER};
use ncp_tests::neighbour::Neighbour;

use crate::treating::Treating;
use crate::world::{Gateway, PATIENT, World};

/// What a consumer of Finland knows of Norway.
pub(crate) fn consumer(world: &World, norway: &Gateway, port: u16) -> Attacker {
    let (side, pki) = (Side::Consumer, world.pki("fi"));
    let anchors = world.path("fi/anchors.pem");
    let neighbour = Neighbour::showing(&pki, "2.999.246", &anchors, "127.0.0.1", port, side.certificates());
    let neighbour = neighbour.expect("a consumer");
    Attacker { side, neighbour, third_neighbour: None, ..world.attacker(norway) }
}

fn conclude(name: &str, findings: &[Finding]) {
    let file = crate::report_folder().join(format!("abuse-{name}.md"));
    std::fs::write(&file, attack::report(&format!("initiating, {name}"), findings)).expect("writes");
    println!("{} rows, report in {}", findings.len(), file.display());
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_consumer() {
    let world = World::new();
    let norway = world.start("asked", |text| text).await;
    let treating = Treating::new(&world, norway.address.port());
    let asker = treating.start(&world).await;
    let at = ("127.0.0.1", asker.gateway.consumers.expect("a consumers' side").port());
    let attacker = consumer(&world, &norway, at.1);
    let mut findings = Vec::new();
    for row in attacker.rows().await.expect("rows") {
        findings.push(attacker.run(&row).await);
    }
    let anchors = world.path("fi/anchors.pem");
    findings.extend(attack::handshakes(&attacker, &anchors, at, None).await.expect("handshakes"));
    findings.extend(attack::other_names(&attacker, &anchors, at).await.expect("names"));
    conclude("consumers", &findings);
    asker.gateway.stop().await;
    norway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_clinicians_system() {
    let world = World::new();
    crate::world::study(1, 2).write(&world.path("data/dicom/1")).expect("a study");
    let norway = world.start("asked", |text| text).await;
    let treating = Treating::new(&world, norway.address.port());
    let asker = treating.start(&world).await;
    let at = ("localhost", asker.gateway.clinic.expect("a clinicians' side").port());
    let anchors = world.path("fi/anchors.pem");
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let clinician = Clinician::new(treating.issuer(), (ISSUER, BASE), &anchors, at, patient).expect("a system");
    let known = clinician.learn().await.expect("the good way");
    assert!(known.images.is_some(), "a study is listed");
    let mut findings = attack::versions(None, &anchors, at).await.expect("handshakes");
    for row in clinician.rows(&known).expect("rows") {
        findings.push(clinician.run(&row).await);
    }
    clinician.learn().await.expect("the good way again");
    conclude("clinicians", &findings);
    asker.gateway.stop().await;
    norway.stop().await;
}
