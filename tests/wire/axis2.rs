//! Apache Axis2, which OpenNCP is built on, asks a gateway that knows its country as OpenNCP: with its addressing module and
//! without. `tests/run.sh --interop` builds `tests/interop/axis2` and names its classes in `NCP_AXIS2_CLASSPATH`.

use std::time::Duration;

use ncp_ihe::{DocumentRequest, HomeCommunityId, Oid, PatientId, RetrieveRequest};
use ncp_tests::neighbour::{Neighbour, XCA};
use tokio::process::Command;

use crate::ipf::{ASKING, HOME, PATIENT, REPORT, REPOSITORY, World, assert_legs, lines, properties, security};
use crate::node::asking_peer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_04_axis2_asks_with_and_without_its_addressing_module() {
    let Ok(classpath) = std::env::var("NCP_AXIS2_CLASSPATH") else {
        println!("skipped: needs NCP_AXIS2_CLASSPATH (tests/run.sh --interop sets it)");
        return;
    };
    let world = World::new().expect("PKI");
    let peers = asking_peer(&world.asking, ASKING, "body") + "kind = \"openncp\"\n";
    let node = world.gateway_for("openncp", peers).await.expect("a gateway");
    let dir = world.dir.path();
    let neighbour = node.asked_by(&world.asking, ASKING, &world.own, None).expect("a neighbour");
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let wanted = DocumentRequest {
        home: HomeCommunityId::parse(HOME).ok(),
        repository: Oid::parse(REPOSITORY).expect("an OID"),
        document: REPORT.into(),
    };
    let retrieve = RetrieveRequest { documents: vec![wanted] }.to_element();
    let bodies = [("iti38", Neighbour::find_documents(&patient).to_element()), ("iti39", retrieve)];
    let mut settings = vec![
        ("tls.certificate", world.asking.path("tls-client.pem").display().to_string()),
        ("tls.key", world.asking.path("tls-client.key").display().to_string()),
        ("tls.algorithm", "EC".into()),
        ("tls.anchors", world.own.path("anchors.pem").display().to_string()),
        (
            "security",
            security(&dir.join("security.xml"), &[&assertions[0], &assertions[1]])
                .expect("writes")
                .display()
                .to_string(),
        ),
        ("url", format!("https://localhost:{}{XCA}", node.port)),
        // The report's view and the study's picture.
        ("entries", "2".into()),
        ("document.sha256", hex::encode(openssl::sha::sha256(b"report"))),
    ];
    for (name, body) in bodies {
        let file = dir.join(format!("{name}.xml"));
        std::fs::write(&file, body.to_xml()).expect("writes");
        settings.push((name, file.display().to_string()));
    }
    let settings = properties(dir.join("axis2.properties"), &settings).expect("writes");
    let run = Command::new("java")
        .args(["-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
        .arg(format!("-Djava.io.tmpdir={}", dir.display()))
        .args(["-cp", &classpath, "interop.Axis2"])
        .arg(settings)
        .kill_on_drop(true)
        .output();
    let out = tokio::time::timeout(Duration::from_secs(180), run).await.expect("ends").expect("runs");
    let legs = lines(&String::from_utf8_lossy(&out.stdout));
    assert!(!legs.is_empty(), "Axis2 said nothing: {}", String::from_utf8_lossy(&out.stderr));
    let ways = ["with addressing", "without addressing"];
    let expected: Vec<String> =
        ways.iter().flat_map(|way| [format!("ITI-38 {way}"), format!("ITI-39 {way}")]).collect();
    assert_legs(&legs, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}
