//! SE-14: what a patient decides is in force within seconds in a gateway that runs, whatever else is wrong beside it; a rule
//! that could never hold is obeyed by what it means, or refused; and who runs the gateway is told.

use std::path::Path;
use std::time::{Duration, Instant};

use ncp_ihe::{
    DocumentRequest, HomeCommunityId, ImagingRequest, Oid, PatientId, SeriesRequest, Status, StudyRequest, Uid,
};
use ncp_tests::synth::Study;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Gateway, HOME, OTHER, PATIENT, REPOSITORY, World};

/// Longest time from the writing of the file until it is in force.
const SECONDS: Duration = Duration::from_secs(30);

fn patient(cx: &str) -> PatientId {
    PatientId::parse_cx(cx).expect("a CX")
}

fn study() -> Study {
    crate::world::study(1, 1)
}

/// What Finland sees of a patient: documents by ITI-38, and images by RAD-75.
async fn seen(world: &World, gateway: &Gateway, cx: &str) -> (usize, usize) {
    let neighbour = world.neighbour("fi", gateway);
    let listed = neighbour.documents(&patient(cx)).await.expect("ITI-38");
    assert_eq!(listed.status, Status::Success);
    let instance = DocumentRequest {
        home: HomeCommunityId::parse(HOME).ok(),
        repository: Oid::parse(REPOSITORY).expect("an OID"),
        document: study().instance(1),
    };
    let series = SeriesRequest { series: Uid::parse(&study().series()).expect("a UID"), instances: vec![instance] };
    let studies = vec![StudyRequest { study: Uid::parse(&study().uid()).expect("a UID"), series: vec![series] }];
    let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
    let request = ImagingRequest { studies, transfer_syntaxes };
    let (response, _answer) = neighbour.images(&patient(cx), &request).await.expect("RAD-75");
    (listed.objects.entries.len(), response.documents.len())
}

/// Waits until Finland sees nothing of a patient any more; how long that took.
async fn closed(world: &World, gateway: &Gateway, cx: &str) -> Duration {
    let began = Instant::now();
    while seen(world, gateway, cx).await != (0, 0) {
        assert!(began.elapsed() < SECONDS, "still open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    began.elapsed()
}

/// An answer of the admin listener.
async fn admin(gateway: &Gateway, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(gateway.admin).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("reads");
    text
}

/// The value of a series in `/metrics`.
async fn metric(gateway: &Gateway, name: &str) -> Option<f64> {
    let text = admin(gateway, "/metrics").await;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn opt_out(cx: &str) -> String {
    format!("[[opt_out]]\npatient = \"{cx}\"\n")
}

fn world() -> World {
    let world = World::new();
    study().write(&world.path("data/dicom/1")).expect("a study");
    std::fs::write(world.path("data/consent.toml"), "").expect("writes");
    world
}

/// A correct new opt-out counts although another row has a slip, a peer's CRL is broken and a policy does not parse.
#[tokio::test(flavor = "multi_thread")]
async fn se_14_10_a_new_opt_out_is_in_force_within_seconds_whatever_else_is_wrong() {
    let world = world();
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no/transactions.cedar");
    std::fs::create_dir(world.path("policies")).expect("a folder");
    std::fs::copy(policies, world.path("policies/transactions.cedar")).expect("copies");
    let gateway = world
        .start("directives", |text| {
            let line = text.lines().find(|line| line.starts_with("folder = ") && line.ends_with("policies/no\""));
            text.replace(line.expect("a folder"), "folder = \"policies\"")
        })
        .await;
    assert_eq!(seen(&world, &gateway, PATIENT).await, (3, 1), "two reports and a manifest are open before");
    assert_eq!(seen(&world, &gateway, OTHER).await.0, 1);
    assert_eq!(metric(&gateway, "ncp_consent_wrong_rows ").await, Some(0.0));

    // Slips: a country that is none, and a row without a patient.
    let slips = format!("{}countries = [\"Sverige\"]\n[[block]]\nimaging = true\n", opt_out(OTHER));
    std::fs::write(world.path("se/crls.pem"), "no CRL").expect("writes");
    std::fs::write(world.path("policies/zz.cedar"), "forbid (").expect("writes");
    std::fs::write(world.path("data/consent.toml"), opt_out(PATIENT) + &slips).expect("writes");
    closed(&world, &gateway, PATIENT).await;
    assert_eq!(seen(&world, &gateway, OTHER).await.0, 0, "a row that cannot be read closes its patient");
    assert_eq!(metric(&gateway, "ncp_consent_wrong_rows ").await, Some(2.0));
    let age = metric(&gateway, "ncp_consent_age_seconds ").await.expect("an age");
    assert!(age < 60.0, "{age}");
    assert!(admin(&gateway, "/readyz").await.starts_with("HTTP/1.1 200"));

    // The next correct file opens again whom it does not close.
    std::fs::write(world.path("data/consent.toml"), opt_out(OTHER)).expect("writes");
    let began = Instant::now();
    while seen(&world, &gateway, PATIENT).await.0 != 3 {
        assert!(began.elapsed() < SECONDS, "still closed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(seen(&world, &gateway, OTHER).await.0, 0);
    assert_eq!(metric(&gateway, "ncp_consent_wrong_rows ").await, Some(0.0));
    gateway.stop().await;
}

/// A file that cannot be read any more keeps what it said for a while, and then closes everybody. The metric tells it.
#[tokio::test(flavor = "multi_thread")]
async fn se_14_10_a_file_that_is_gone_for_too_long_closes() {
    let world = world();
    let change = |text: String| text.replacen("[policy]\n", "[policy]\nconsent_max_age = \"3s\"\n", 1);
    let gateway = world.start("gone", change).await;
    assert_eq!(seen(&world, &gateway, PATIENT).await.0, 3);
    std::fs::remove_file(world.path("data/consent.toml")).expect("removes");
    let neighbour = world.neighbour("fi", &gateway);
    let began = Instant::now();
    loop {
        let answer = neighbour.documents(&patient(PATIENT)).await.expect("ITI-38");
        if answer.status == Status::Failure {
            assert!(answer.objects.entries.is_empty());
            break;
        }
        assert!(began.elapsed() < SECONDS, "still open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(metric(&gateway, "ncp_consent_age_seconds ").await.expect("an age") >= 3.0);
    std::fs::write(world.path("data/consent.toml"), "").expect("writes");
    let began = Instant::now();
    while neighbour.documents(&patient(PATIENT)).await.expect("ITI-38").status != Status::Success {
        assert!(began.elapsed() < SECONDS, "still closed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    gateway.stop().await;
}

/// Each row of the case alone: obeyed by what it means, or the start refuses.
#[tokio::test(flavor = "multi_thread")]
async fn se_14_each_row_is_obeyed_or_refused() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/security/SE-14-consent-rows.toml");
    let text = std::fs::read_to_string(file).expect("the case");
    let rows: Vec<&str> = text.split("# ").filter(|part| part.contains("[[")).collect();
    assert_eq!(rows.len(), 4);
    for (number, row) in (1..).zip(rows) {
        let row = row.split_once('\n').expect("a number").1;
        let world = world();
        std::fs::write(world.path("data/consent.toml"), row).expect("writes");
        let config = world.config("row", |text| text);
        let loaded = ncp_gateway::config::load(&config).expect("a configuration");
        match ncp_gateway::app::build(loaded).await {
            Ok(app) => {
                assert!(number <= 2, "row {number} is taken");
                drop(app);
                let gateway = Gateway::start(world.config("obeyed", |text| text)).await;
                assert_eq!(seen(&world, &gateway, PATIENT).await, (0, 0), "row {number}");
                gateway.stop().await;
            }
            Err(problems) => {
                assert!(number > 2, "row {number}: {problems:?}");
                let said = problems.join("\n");
                assert!(said.contains("consent.toml") && !said.contains("30857710106"), "{said}");
            }
        }
    }
}

/// Each metric that an alerting rule names is one of a running gateway.
#[tokio::test(flavor = "multi_thread")]
async fn se_14_alerts_name_metrics_that_exist() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/alerts.yaml");
    let rules = std::fs::read_to_string(rules).expect("the rules");
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names: Vec<&str> =
        expressions.flat_map(|e| e.split(|c| !is_name(c))).filter(|word| word.starts_with("ncp_")).collect();
    assert!(names.contains(&"ncp_consent_age_seconds") && names.contains(&"ncp_consent_wrong_rows"), "{names:?}");
    let world = world();
    // Receivers have series of their own; this one is never there.
    let feed = "[audit.feed]\nendpoint = \"https://127.0.0.1:1\"\nserver_name = \"localhost\"\n\
                tls = { certificate = \"no/internal-client.pem\", key = \"no/internal-client.key\", \
                anchors = \"no/anchors.pem\" }\n";
    let gateway = world.start("alerts", |text| text.replacen("[policy]\n", &format!("{feed}[policy]\n"), 1)).await;
    let told = admin(&gateway, "/metrics").await;
    for name in names {
        // A counter is described without its ending.
        let base = name.strip_suffix("_total").unwrap_or(name);
        assert!(told.contains(&format!("# TYPE {base} ")), "{name} is none:\n{told}");
    }
    gateway.stop().await;
}
