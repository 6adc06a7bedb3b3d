//! Norway's gateway in this process, Finland and Sweden as its peers: real configuration, real TLS, real trail.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ncp_gateway::app::{self, App};
use ncp_ihe::{HomeCommunityId, PatientId};
use ncp_tests::attack::{Attacker, Side};
use ncp_tests::base::Base;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki, Use};
use ncp_tests::synth::Study;
use tokio::sync::oneshot;

pub(crate) const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";
pub(crate) const OTHER: &str = "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO";
/// A person who opted out of the service, by the consent file that comes with a world.
const OPTED_OUT: &str = "01827854321^^^&2.16.578.1.12.4.1.4.1&ISO";
pub(crate) const REPOSITORY: &str = "2.999.47.21.1";
pub(crate) const HOME: &str = "2.999.47";

/// A small generated study of the patient.
pub(crate) fn study(number: u32, instances: u32) -> Study {
    Study {
        number,
        patient_id: "UV59569735".into(),
        patient_name: "Testesen^Jon".into(),
        birth_date: "19770530".into(),
        sex: "M".into(),
        description: "synthetic".into(),
        instances,
        side: 16,
    }
}

/// Three countries in one folder.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) no: CountryPki,
}

/// A country's section of the configuration. It names no certificate, so that each odd one is refused for what is odd about
/// it; that a certificate which is good in all else is refused for its name is seen in `gateway/tests/pins`.
pub(crate) fn peer(code: &str, country: &str, home: &str) -> String {
    format!(
        "[[peer]]\ncountry = \"{country}\"\nname = \"{country}\"\nhome_community_id = \"urn:oid:{home}\"\n\
         tls_anchors = \"{code}/anchors.pem\"\nseal_anchors = \"{code}/anchors.pem\"\ncrls = \"{code}/crls.pem\"\n\
         pin = \"anchor\"\n"
    )
}

/// A gateway that runs until it is dropped.
pub(crate) struct Gateway {
    pub(crate) app: Arc<App>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where clinicians' systems reach it, if it serves any.
    pub(crate) clinic: Option<SocketAddr>,
    /// Where national consumers reach it, if it serves any.
    pub(crate) consumers: Option<SocketAddr>,
    pub(crate) config: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<Result<(), String>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let no = CountryPki::create(&dir.path().join("no"), "NO", Algorithm::Rsa2048).expect("a PKI");
        for (code, country, algorithm) in [("fi", "FI", Algorithm::P256), ("se", "SE", Algorithm::Rsa2048)] {
            let pki = CountryPki::create(&dir.path().join(code), country, algorithm).expect("a PKI");
            pki.leaf("revoked-seal", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
            pki.leaf("revoked-client", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
            pki.leaf("revoked-server", Use::Server, Algorithm::P256, 0, 90).expect("a leaf");
            pki.crl("crls.pem", &["revoked-seal", "revoked-client", "revoked-server"], (-60, 3600)).expect("CRLs");
        }
        data(&dir.path().join("data"));
        Self { dir, no }
    }

    pub(crate) fn pki(&self, code: &str) -> CountryPki {
        CountryPki::open(&self.dir.path().join(code), &code.to_uppercase()).expect("a PKI")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration with its own spool; `change` edits its text.
    pub(crate) fn config(&self, name: &str, change: impl FnOnce(String) -> String) -> PathBuf {
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no");
        let base = Base {
            country: "NO",
            home: HOME,
            name: "Norway",
            ports: [0, 0],
            pki: "no",
            spool: &format!("spool-{name}"),
            source: "test",
            policies: &policies.display().to_string(),
            consent: "data/consent.toml",
        };
        let text = base.toml()
            + &format!(
                r#"[national]
patients_file = "data/patients.toml"
language = "nb-NO"
[[national.connector]]
kind = "embedded"
name = "archive"
folder = "data"
repository_unique_id = "{REPOSITORY}"
location_uids = ["{REPOSITORY}"]
time_zone = "Europe/Oslo"
uid_root = "{HOME}.31"
{}{}"#,
                peer("fi", "FI", "2.999.246"),
                peer("se", "SE", "2.999.752"),
            );
        let path = self.path(&format!("{name}.toml"));
        std::fs::write(&path, change(text)).expect("writes");
        path
    }

    /// Starts a gateway.
    pub(crate) async fn start(&self, name: &str, change: impl FnOnce(String) -> String) -> Gateway {
        Gateway::start(self.config(name, change)).await
    }

    /// What an attacker from Finland knows, with Sweden as the third country.
    pub(crate) fn attacker(&self, gateway: &Gateway) -> Attacker {
        self.attacker_of(gateway.address.port())
    }

    /// The same of a gateway at a port.
    pub(crate) fn attacker_of(&self, port: u16) -> Attacker {
        let third = self.pki("se");
        Attacker {
            side: Side::Peer,
            neighbour: self.neighbour_of("fi", port),
            third_neighbour: Some(self.neighbour_of("se", port)),
            pki: self.pki("fi"),
            third: Some(third),
            target: HomeCommunityId::parse(HOME).expect("a home"),
            patient: PatientId::parse_cx(PATIENT).expect("a CX"),
            other: PatientId::parse_cx(OTHER).expect("a CX"),
            foreign_document: (REPOSITORY.into(), "2.999.47.30.8".into()),
            blocked_document: Some((REPOSITORY.into(), "2.999.47.30.2".into())),
            opted_out: PatientId::parse_cx(OPTED_OUT).ok(),
        }
    }

    pub(crate) fn neighbour(&self, code: &str, gateway: &Gateway) -> Neighbour {
        self.neighbour_of(code, gateway.address.port())
    }

    /// The same towards a gateway at a port.
    pub(crate) fn neighbour_of(&self, code: &str, port: u16) -> Neighbour {
        let home = match code {
            "fi" => "2.999.246",
            "dk" => "2.999.208",
            _ => "2.999.752",
        };
        let anchors = self.no.path("anchors.pem");
        Neighbour::new(&self.pki(code), home, &anchors, "127.0.0.1", port).expect("a neighbour")
    }
}

impl Gateway {
    pub(crate) async fn start(config: PathBuf) -> Self {
        let loaded = ncp_gateway::config::load(&config);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{}: {problems:?}", config.display()));
        let app = app::build(loaded).await.unwrap_or_else(|problems| panic!("{problems:?}"));
        let bound = app::bind(app.clone()).await.expect("binds");
        let address = bound.peers_address().expect("an address");
        let admin = bound.admin_address().expect("an address");
        let clinic = bound.clinicians_address();
        let consumers = bound.consumers_address();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(bound.serve_until(async {
            let _ = stopped.await;
        }));
        Self { app, address, admin, clinic, consumers, config, stop: Some(stop), served: Some(served) }
    }

    /// Stops and waits, so that its spool can be opened again.
    pub(crate) async fn stop(mut self) -> PathBuf {
        drop(self.stop.take());
        if let Some(served) = self.served.take() {
            served.await.expect("ends").expect("drains");
        }
        self.config.clone()
    }
}

/// Patients, reports and directives of the demonstration, and a report of another patient.
fn data(folder: &Path) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/no");
    std::fs::create_dir_all(folder.join("reports")).expect("a folder");
    std::fs::create_dir_all(folder.join("dicom")).expect("a folder");
    for file in ["patients.toml", "consent.toml", "manifest.toml"] {
        std::fs::copy(demo.join(file), folder.join(file)).expect("copies");
    }
    for file in ["ct.toml", "ct.xml", "rg.toml", "rg.xml"] {
        std::fs::copy(demo.join("reports").join(file), folder.join("reports").join(file)).expect("copies");
    }
    let mut directives = std::fs::read_to_string(demo.join("consent.toml")).expect("reads");
    directives += &format!("[[opt_out]]\npatient = \"{OPTED_OUT}\"\n");
    std::fs::write(folder.join("consent.toml"), directives).expect("writes");
    let other = std::fs::read_to_string(demo.join("reports/ct.toml")).expect("reads");
    let other = other.replace(PATIENT, OTHER).replace("2.999.47.30.1", "2.999.47.30.8");
    std::fs::write(folder.join("reports/other.toml"), other).expect("writes");
}
