//! Norway's gateway in this process and Finland's NCP-B beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ncp_audit::{Site, SpoolLimits, SpoolOptions};
use ncp_gateway::{app, config, listener};
use ncp_ihe::{Content, ImagingRequest, RetrieveResponse, Status, actions};
use ncp_saml::SignedAssertion;
use ncp_tests::neighbour::{Answer, Neighbour, XCAI, retrieve_response};
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::{ClientAuth, Material};

use crate::patient;

pub(crate) const HOME: &str = "2.999.47";

/// A `dicomweb` connector with further lines; what it makes itself has UIDs below its location.
pub(crate) fn dicomweb(base: &str, location: &str, more: &str) -> String {
    format!(
        r#"
[[national.connector]]
kind = "dicomweb"
name = "archive {location}"
url = "{base}"
manifest_codes = "manifest.toml"
repository_unique_id = "{location}"
location_uids = ["{location}"]
uid_root = "{location}.1"
{more}
"#
    )
}

/// Norway with its national systems, and who asks it.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) no: CountryPki,
    pub(crate) fi: CountryPki,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let no = CountryPki::create(&dir.path().join("no"), "NO", Algorithm::P256).expect("a PKI");
        let fi = CountryPki::create(&dir.path().join("fi"), "FI", Algorithm::P256).expect("a PKI");
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/no");
        for file in ["patients.toml", "manifest.toml"] {
            std::fs::copy(data.join(file), dir.path().join(file)).expect("copies");
        }
        std::fs::write(dir.path().join("consent.toml"), "").expect("writes");
        Self { dir, no, fi }
    }

    /// The audit messages in the gateway's spool so far.
    pub(crate) async fn trail(&self) -> Vec<String> {
        // An exchange closes its record a moment after its last byte.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let limits = SpoolLimits { reserve: 0, ..SpoolLimits::default() };
        let (dir, key) = (self.dir.path().join("spool"), self.no.path("spool.key"));
        let options = SpoolOptions { limits, ..SpoolOptions::new(dir, key, Site::default()) };
        let content = ncp_audit::read_spool(&options).expect("reads");
        content.records.into_iter().map(|(_, _, xml)| xml).collect()
    }

    /// Where the national side finds its TLS material.
    pub(crate) fn internal_tls(&self) -> String {
        let path = |name: &str| self.no.path(name).display().to_string();
        format!(
            "tls = {{ certificate = \"{}\", key = \"{}\", anchors = \"{}\" }}",
            path("internal-client.pem"),
            path("internal-client.key"),
            path("anchors.pem")
        )
    }

    /// A mutual server context of a national system.
    pub(crate) fn acceptor(&self, alpn: &'static [u8]) -> ncp_tls::SslAcceptor {
        let material = Material::load(&self.no.path("internal-server.pem"), &self.no.path("internal-server.key"));
        material.expect("loads").acceptor(ClientAuth::Required, &[self.no.path("anchors.pem")], alpn).expect("tls")
    }

    /// Starts the gateway with these connectors and returns the neighbour that asks it.
    pub(crate) async fn gateway(&self, patients_file: bool, connectors: &str) -> Asker {
        self.gateway_for(patients_file, connectors, "").await
    }

    /// The same with more lines about the peer.
    pub(crate) async fn gateway_for(&self, patients_file: bool, connectors: &str, of_peer: &str) -> Asker {
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies");
        let folder = self.dir.path().join("policies");
        let _ = std::fs::create_dir(&folder);
        copy_policies(&policies, &folder);
        let file = if patients_file { "patients_file = \"patients.toml\"" } else { "" };
        let text = format!(
            r#"
[gateway]
country = "NO"
home_community_id = "urn:oid:{HOME}"
name = "Norway"
[listener]
peers = "127.0.0.1:0"
admin = "127.0.0.1:0"
certificate = "no/tls-server.pem"
key = "no/tls-server.key"
[seal]
certificate = "no/seal.pem"
key = "no/seal.key"
[audit]
spool_dir = "spool"
spool_key_file = "no/spool.key"
spool_segment_bytes = 4194304
spool_reserve_bytes = 4194304
source = "ncp-gateway-no"
enterprise_site = "NO"
[policy]
folder = "policies"
consent_file = "consent.toml"
[national]
{file}
language = "nb-NO"
patience = "5s"
{connectors}
[[peer]]
country = "FI"
name = "Finland"
home_community_id = "urn:oid:2.999.246"
tls_anchors = "fi/anchors.pem"
seal_anchors = "fi/anchors.pem"
{pin}{of_peer}"#,
            pin = ncp_tests::pki::peer_pin("FI"),
        );
        let path = self.dir.path().join("gateway.toml");
        std::fs::write(&path, text).expect("writes");
        let config = config::load(&path).unwrap_or_else(|e| panic!("{}", shown(&e)));
        let app = app::build(config).await.unwrap_or_else(|e| panic!("{}", shown(&e)));
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = socket.local_addr().expect("bound").port();
        tokio::spawn(listener::serve_peers(app, socket));
        let neighbour = Neighbour::new(&self.fi, "2.999.246", &self.no.path("anchors.pem"), "127.0.0.1", port);
        let neighbour = neighbour.expect("a neighbour");
        let assertions = neighbour.assertions(&patient()).await.expect("signs");
        Asker { neighbour, assertions }
    }
}

/// A neighbour under one treatment relationship.
pub(crate) struct Asker {
    neighbour: Neighbour,
    assertions: Vec<SignedAssertion>,
}

impl std::ops::Deref for Asker {
    type Target = Neighbour;
    fn deref(&self) -> &Neighbour {
        &self.neighbour
    }
}

fn shown<T: std::fmt::Display>(problems: &[T]) -> String {
    problems.iter().map(|p| format!("{p}\n")).collect()
}

fn copy_policies(from: &Path, to: &Path) {
    for folder in [from.to_owned(), from.join("no")] {
        for entry in std::fs::read_dir(folder).expect("policies").filter_map(Result::ok) {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
            }
        }
    }
}

/// What RAD-75 brought: the root, the whole instances by SOP Instance UID, and whether the message came to its end.
pub(crate) struct Fetched {
    pub(crate) response: RetrieveResponse,
    pub(crate) instances: BTreeMap<String, Vec<u8>>,
    pub(crate) whole: bool,
}

pub(crate) async fn fetch(asker: &Asker, request: &ImagingRequest) -> Fetched {
    let called = asker.call(actions::RAD75_REQUEST, XCAI, &asker.assertions, request.to_element()).await;
    let Ok(answer) = called else {
        // The message was aborted before its root could be read.
        let response = RetrieveResponse { status: Status::Failure, errors: Vec::new(), documents: Vec::new() };
        return Fetched { response, instances: BTreeMap::new(), whole: false };
    };
    let response = retrieve_response(&answer.body).expect("a response");
    let (instances, whole) = parts(&response, answer).await;
    Fetched { response, instances, whole }
}

async fn parts(response: &RetrieveResponse, mut answer: Answer) -> (BTreeMap<String, Vec<u8>>, bool) {
    let by_part: BTreeMap<&str, &str> = response
        .documents
        .iter()
        .filter_map(|d| match &d.content {
            Content::Include(id) => Some((id.as_str(), d.request.document.as_str())),
            Content::Inline(_) => None,
        })
        .collect();
    let mut out = BTreeMap::new();
    loop {
        let head = match answer.parts.next().await {
            Ok(Some(head)) => head,
            Ok(None) => return (out, true),
            Err(_) => return (out, false),
        };
        let mut bytes = Vec::new();
        loop {
            match answer.parts.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) => return (out, false),
            }
        }
        let sop = by_part.get(head.content_id.as_str()).expect("every part was announced");
        out.insert((*sop).to_owned(), bytes);
    }
}

/// The files of a study equal what came.
pub(crate) fn same_as_files(fetched: &Fetched, files: &[PathBuf], study: &ncp_tests::synth::Study) {
    for (index, file) in files.iter().enumerate() {
        let slice = u32::try_from(index).expect("few") + 1;
        if let Some(bytes) = fetched.instances.get(&study.instance(slice)) {
            assert_eq!(*bytes, std::fs::read(file).expect("reads"), "slice {slice}");
        }
    }
}

/// FO-08: what fails takes nothing else with it. The other slices came byte for byte, the lost one did not, and it is named in
/// the root or the message has no closing boundary.
pub(crate) fn others_came(
    fetched: &Fetched,
    files: &[PathBuf],
    study: &ncp_tests::synth::Study,
    asked: impl IntoIterator<Item = u32>,
    lost: u32,
) {
    for slice in asked {
        let file = std::fs::read(&files[slice as usize - 1]).unwrap_or_default();
        let came = fetched.instances.get(&study.instance(slice)) == Some(&file);
        assert_eq!(came, slice != lost, "slice {slice}");
    }
    let named =
        fetched.response.errors.iter().any(|e| {
            e.location.as_deref().is_some_and(|at| at.split(' ').next() == Some(study.instance(lost).as_str()))
        });
    assert_eq!(named, fetched.whole, "{:?}", fetched.response.errors);
}

pub(crate) fn codes(fetched: &Fetched) -> Vec<&str> {
    fetched.response.errors.iter().map(|e| e.code.as_str()).collect()
}

/// The end of a body that breaks, a moment after what came before it has left.
pub(crate) fn broken<E: From<std::io::Error>>() -> impl futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send {
    futures_util::stream::once(async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        Err(std::io::Error::other("cut").into())
    })
}
