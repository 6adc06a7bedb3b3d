//! IPF as another country's gateways, asked by our Initiating Gateways: ITI-55 by ourselves; ITI-38, ITI-39 and RAD-75
//! on behalf of IPF as a national consumer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ncp_gateway::app::App;
use ncp_gateway::compare::Expected;
use ncp_gateway::initiating::discover::{Sought, discover};
use ncp_gateway::initiating::{Call, Caller, PeerError, Treatment, retrieve};
use ncp_gateway::outcome::GatewayError;
use ncp_ihe::{DocumentRequest, HomeCommunityId, Oid, PatientAnswer, PatientId, PatientMatch};
use ncp_tests::asking::{AUDIENCE, Asking, PATIENTS};
use ncp_tests::consumer::{self, Consumer};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::Error;

use super::{ASKING, Counterpart, HOME, LOCAL, REPORT, Served, World};
use super::{assert_legs, classpath, listed, person, properties, run, security};
use crate::node::sources;

/// ITI-18, ITI-43 and RAD-69 by IPF into our gateway, ITI-38, ITI-39 and RAD-75 out of it to IPF.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipf_asks_our_initiating_gateways_which_ask_ipf() {
    let Some(classpath) = classpath() else { return };
    let world = World::new().expect("PKI");
    let dir = world.dir.path().join("asking");
    std::fs::create_dir_all(&dir).expect("a folder");
    let asking = Asking::create(&dir).expect("a PKI");
    let images = world.dir.path().join("images");
    world.study.write(&images).expect("a study");
    let (counterpart, port) = finland(&world, &asking, &images, &classpath).await.expect("IPF starts");
    let app = initiating(&asking, port).await.expect("a gateway");
    let bound = ncp_gateway::app::bind(app).await.expect("binds");
    let consumers = bound.consumers_address().expect("an address").port();
    let serving = tokio::spawn(bound.serve());

    let client = consumer_settings(&world, &asking, consumers, &images).await.expect("settings");
    let legs = run(&classpath, "client", &client).await.expect("IPF runs");
    serving.abort();
    let judged = counterpart.legs().await;
    assert_legs(
        &legs,
        &[
            "ITI-18 FindDocuments",
            "ITI-18 GetDocuments",
            "ITI-18 without home",
            "ITI-43",
            "ITI-43 partial",
            "RAD-69",
            "RAD-69 partial",
        ],
    );
    assert_legs(&judged, &["iti38", "iti39", "rad75"]);
}

async fn consumer_settings(world: &World, asking: &Asking, port: u16, images: &Path) -> Result<PathBuf, Error> {
    let dir = world.dir.path();
    let anchors = asking.pki.path("anchors.pem");
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port)?;
    let claims = Neighbour::new(&asking.pki, HOME, &anchors, "localhost", port)?.claims();
    let patient = PatientId::new(LOCAL, Oid::parse(PATIENTS)?)?;
    let both = consumer.assertions(&claims, &patient).await?;
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let settings = [
        ("tls.certificate", asking.pki.path("consumer.pem").display().to_string()),
        ("tls.key", asking.pki.path("consumer.key").display().to_string()),
        ("tls.anchors", anchors.display().to_string()),
        ("security", security(&dir.join("consumer.xml"), &[&both[0], &both[1]])?.display().to_string()),
        ("iti18.url", url(consumer::REGISTRY)),
        ("iti43.url", url(consumer::REPOSITORY)),
        ("rad69.url", url(consumer::SOURCE)),
        ("home", format!("urn:oid:{ASKING}")),
        ("patient.id", LOCAL.into()),
        ("patient.authority", PATIENTS.into()),
        ("entries", "1".into()),
        ("repository", format!("{ASKING}.21.1")),
        ("location", format!("{ASKING}.21.1")),
        ("document", REPORT.into()),
        ("document.sha256", hex::encode(openssl::sha::sha256(b"report"))),
        ("study", world.study.uid()),
        ("images", listed(&world.study, images)?),
    ];
    properties(dir.join("consumer.properties"), &settings)
}

/// IPF as Finland.
async fn finland(world: &World, asking: &Asking, images: &Path, classpath: &str) -> Result<(Counterpart, u16), Error> {
    let pki = asking.other("FI")?;
    let (name, media_type, format) = Served::REPORT;
    let patient = PatientId::new(LOCAL, Oid::parse(PATIENTS)?)?;
    let home = HomeCommunityId::parse(ASKING)?;
    let found = PatientAnswer::Matches(vec![PatientMatch { record: person(patient), home: home.clone(), degree: 100 }]);
    let served = Served {
        tls: [pki.path("tls-server.pem"), pki.path("tls-server.key"), asking.pki.path("anchors.pem")],
        home: ASKING,
        repository: &format!("{ASKING}.21.1"),
        authority: PATIENTS,
        documents: vec![(name, media_type, format, REPORT, b"report".to_vec())],
        images,
        patients: Some(super::answers(found, &home.0)?),
    };
    served.start(classpath, world).await
}

/// Norway's gateway with Finland at the port of IPF.
async fn initiating(asking: &Asking, port: u16) -> Result<Arc<App>, Error> {
    // IPF compiles its schemas at the first request.
    let path = asking.write([0; 3], "discovery = \"60s\"", &sources().join("gateway/policies/no"), &[])?;
    let peer = format!(
        r#"
[[peer]]
country = "FI"
name = "Finland"
home_community_id = "urn:oid:{ASKING}"
xcpd = "https://localhost:{port}/services/iti55"
xca = "https://localhost:{port}/xca"
xcai = "https://localhost:{port}/services/rad75"
patient_roots = ["{PATIENTS}"]
tls_anchors = "{anchors}"
seal_anchors = "{anchors}"
{pin}"#,
        pin = ncp_tests::pki::peer_pin("FI"),
        anchors = asking.dir.join("FI/anchors.pem").display()
    );
    std::fs::write(&path, std::fs::read_to_string(&path)? + &peer)?;
    let config = ncp_gateway::config::load(&path).map_err(|problems| format!("{problems:?}"))?;
    Ok(ncp_gateway::app::build(config).await.map_err(|problems| problems.join("; "))?)
}

/// One exchange of a radiologist with Finland; with a treatment of the patient where one is named.
fn call(app: &Arc<App>, claims: ncp_saml::HcpClaims, patient: Option<PatientId>) -> Call {
    let snapshot = app.snapshot.load_full();
    let peer = snapshot.peers.iter().next().expect("Finland").clone();
    let now = Timestamp::now();
    let id = || format!("_{}", uuid::Uuid::new_v4());
    let until = now + SignedDuration::from_hours(1);
    let treatment = patient.map(|patient| Treatment { patient, trc_id: id(), issued: now, until });
    Call {
        app: app.clone(),
        snapshot,
        peer,
        caller: Caller { share: "ipf".into(), claims, hcp_id: id(), issued: now },
        treatment,
        wait: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_initiating_gateway_discovers_patients_at_ipf() {
    let Some(classpath) = classpath() else { return };
    let world = World::new().expect("PKI");
    let asking = Asking::create(&world.dir.path().join("asking")).expect("a PKI");
    let images = world.dir.path().join("images");
    let (counterpart, port) = finland(&world, &asking, &images, &classpath).await.expect("IPF starts");
    let app = initiating(&asking, port).await.expect("a gateway");
    let claims = Neighbour::new(&asking.pki, HOME, &asking.pki.path("anchors.pem"), "localhost", port)
        .expect("a neighbour")
        .claims();
    let authority = Oid::parse(PATIENTS).expect("an OID");
    let of = |id: &str| PatientId::new(id, authority.clone()).expect("an identifier");
    let sought = |id: &str| Sought { ids: vec![of(id)], ..Sought::default() };

    let found = discover(&call(&app, claims.clone(), None), sought(LOCAL)).await.expect("ITI-55").matches;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].record.id, found[0].degree), (&of(LOCAL), 100));
    assert_eq!(found[0].record.birth_date.as_deref(), Some("19800101"));
    let nobody = discover(&call(&app, claims.clone(), None), sought("IPF404")).await.expect("ITI-55").matches;
    assert!(nobody.is_empty());

    // What a repository has not, and a port that knows no ITI-55: an error of the transaction and a SOAP fault.
    let wanted = retrieve::Wanted {
        request: DocumentRequest {
            home: HomeCommunityId::parse(ASKING).ok(),
            repository: Oid::parse(&format!("{ASKING}.21.1")).expect("an OID"),
            document: "2.999.404".into(),
        },
        expected: Expected::default(),
    };
    match retrieve::retrieve(&call(&app, claims.clone(), Some(of(LOCAL))), &wanted).await.map(|_| ()) {
        Err(GatewayError::Peer(PeerError::Refused(code))) => assert_eq!(code, "XDSDocumentUniqueIdError"),
        other => panic!("{other:?}"),
    }
    let mut elsewhere = call(&app, claims, None);
    let mut peer = (*elsewhere.peer).clone();
    peer.xcpd = Some(format!("https://localhost:{port}/services/iti43"));
    elsewhere.peer = Arc::new(peer);
    match discover(&elsewhere, sought(LOCAL)).await {
        Err(GatewayError::Peer(PeerError::Fault)) => {}
        other => panic!("{other:?}"),
    }
    assert_legs(&counterpart.legs().await, &["iti55", "iti39"]);
}
