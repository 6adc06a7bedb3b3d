//! IPF as client of our Responding Gateways: ITI-55, ITI-38, ITI-39, RAD-75.

use std::path::PathBuf;

use jiff::Timestamp;
use ncp_ihe::{Oid, PatientId, PatientQuery};
use ncp_saml::SignedAssertion;
use ncp_tests::pki::Error;

use super::{ASKING, HOME, LOCAL, PATIENT, REPORT, REPOSITORY, World};
use super::{assert_legs, classpath, listed, properties, run, security};
use crate::node::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipf_asks_our_responding_gateways() {
    let Some(classpath) = classpath() else { return };
    let world = World::new().expect("PKI");
    let node = world.gateway("body", "body").await.expect("a gateway");
    let strict = world.gateway("fault", "fault").await.expect("a gateway");
    let settings = settings(&world, &node, &strict).await.expect("settings");
    let legs = run(&classpath, "client", &settings).await.expect("IPF runs");
    assert_legs(
        &legs,
        &[
            "ITI-55",
            "ITI-38 FindDocuments",
            "ITI-38 GetDocuments",
            "ITI-38 without home",
            "ITI-39",
            "ITI-39 partial",
            "RAD-75",
            "RAD-75 partial",
            "fault",
        ],
    );
}

async fn settings(world: &World, node: &Node, strict: &Node) -> Result<PathBuf, Error> {
    let dir = world.dir.path();
    let neighbour = node.asked_by(&world.asking, ASKING, &world.own, None)?;
    let patient = PatientId::parse_cx(PATIENT)?;
    let both = neighbour.assertions(&patient).await?;
    let query = PatientQuery::new(Oid::parse(ASKING)?, Oid::parse(HOME)?, vec![patient], None, None, None);
    let request = dir.join("iti55-request.xml");
    std::fs::write(&request, query.to_element(Timestamp::now()).to_xml())?;
    let unsigned = {
        let (before, rest) = both[0].xml.split_once("<ds:Signature").ok_or("no signature")?;
        let (_, after) = rest.split_once("</ds:Signature>").ok_or("no signature")?;
        SignedAssertion { id: both[0].id.clone(), xml: format!("{before}{after}") }
    };
    let url = |node: &Node, path: &str| format!("https://localhost:{}{path}", node.port);
    let xca = url(node, ncp_tests::neighbour::XCA);
    let settings = [
        ("tls.certificate", world.asking.path("tls-client.pem").display().to_string()),
        ("tls.key", world.asking.path("tls-client.key").display().to_string()),
        ("tls.anchors", world.own.path("anchors.pem").display().to_string()),
        ("security", security(&dir.join("security.xml"), &[&both[0], &both[1]])?.display().to_string()),
        ("iti55.security", security(&dir.join("hcp.xml"), &[&both[0]])?.display().to_string()),
        ("iti55.url", url(node, ncp_tests::neighbour::XCPD)),
        ("iti55.request", request.display().to_string()),
        ("iti38.url", xca.clone()),
        ("iti39.url", xca),
        ("rad75.url", url(node, ncp_tests::neighbour::XCAI)),
        ("fault.url", url(strict, ncp_tests::neighbour::XCA)),
        ("fault.security", security(&dir.join("unsigned.xml"), &[&unsigned, &both[1]])?.display().to_string()),
        ("home", format!("urn:oid:{HOME}")),
        ("patient.id", LOCAL.into()),
        ("patient.authority", "2.999.47.9".into()),
        ("entries", "2".into()),
        ("repository", REPOSITORY.into()),
        ("location", REPOSITORY.into()),
        ("document", REPORT.into()),
        ("document.sha256", hex::encode(openssl::sha::sha256(b"report"))),
        ("study", world.study.uid()),
        ("images", listed(&world.study, &node.dir.join("data/dicom"))?),
    ];
    properties(dir.join("client.properties"), &settings)
}
