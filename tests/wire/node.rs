//! A gateway of our own in this process, on ports that are free, over a folder that the test fills.

use std::path::{Path, PathBuf};

use ncp_tests::messages::Capture;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{CountryPki, Error};

/// What a gateway of a test is.
pub(crate) struct Setup<'a> {
    /// Its folder; `data/` is filled by the test.
    pub(crate) dir: &'a Path,
    /// Its PKI.
    pub(crate) pki: &'a CountryPki,
    /// Its homeCommunityId, bare.
    pub(crate) home: &'a str,
    /// National systems as TOML, `[national]` and below.
    pub(crate) national: String,
    /// The countries it knows, `[[peer]]` as TOML.
    pub(crate) peers: String,
    /// Lines of `[listener]`.
    pub(crate) listener: String,
    /// Sections besides, as `[client]`.
    pub(crate) more: String,
}

/// A running gateway; it ends when dropped.
pub(crate) struct Node {
    /// Where other countries reach it.
    pub(crate) port: u16,
    /// Its folder.
    pub(crate) dir: PathBuf,
    app: std::sync::Arc<ncp_gateway::app::App>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The project's folder.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Node {
    /// Writes the configuration and starts.
    pub(crate) async fn start(setup: &Setup<'_>) -> Result<Self, Error> {
        let country = &setup.pki.country;
        let pki = setup.pki.dir.display();
        let policies = sources().join("gateway/policies").join(country.to_lowercase());
        let text = format!(
            r#"[gateway]
country = "{country}"
home_community_id = "urn:oid:{home}"
name = "{country}"

[listener]
peers = "127.0.0.1:0"
admin = "127.0.0.1:0"
certificate = "{pki}/tls-server.pem"
key = "{pki}/tls-server.key"
{listener}

[seal]
certificate = "{pki}/seal.pem"
key = "{pki}/seal.key"
workers = 1

[audit]
spool_dir = "spool"
spool_key_file = "{pki}/spool.key"
spool_segment_bytes = 4194304
spool_reserve_bytes = 4194304
source = "test-{home}"
enterprise_site = "{country}"

[policy]
folder = "{policies}"
consent_file = "consent.toml"

{national}
{more}
{peers}
"#,
            home = setup.home,
            policies = policies.display(),
            listener = setup.listener,
            national = setup.national,
            more = setup.more,
            peers = setup.peers,
        );
        std::fs::create_dir_all(setup.dir)?;
        std::fs::write(setup.dir.join("consent.toml"), "")?;
        let path = setup.dir.join("gateway.toml");
        std::fs::write(&path, text)?;
        let config = ncp_gateway::config::load(&path)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let app = ncp_gateway::app::build(config).await.map_err(|problems| problems.join("; "))?;
        let bound = ncp_gateway::app::bind(app.clone()).await?;
        let port = bound.peers_address().ok_or("no address")?.port();
        let task = tokio::spawn(async move {
            if let Err(error) = bound.serve().await {
                println!("gateway ended: {error}");
            }
        });
        Ok(Self { port, dir: setup.dir.to_owned(), app, task })
    }

    /// A neighbour that asks this gateway.
    pub(crate) fn asked_by(
        &self,
        asking: &CountryPki,
        home: &str,
        own: &CountryPki,
        capture: Option<&Capture>,
    ) -> Result<Neighbour, Error> {
        let mut neighbour = Neighbour::new(asking, home, &own.path("anchors.pem"), "127.0.0.1", self.port)?;
        neighbour.capture = capture.cloned();
        Ok(neighbour)
    }

    /// The audit messages that it has written, without those of its own start.
    pub(crate) fn records(&self) -> Result<Vec<String>, Error> {
        let audit = &self.app.config.audit;
        let options = ncp_audit::SpoolOptions::new(
            audit.spool_dir.clone(),
            audit.spool_key_file.clone(),
            ncp_audit::Site::default(),
        );
        let content = ncp_audit::read_spool(&options).map_err(|e| e.to_string())?;
        Ok(content.records.into_iter().map(|(_, _, xml)| xml).collect())
    }
}

/// A `[[peer]]` that only asks.
pub(crate) fn asking_peer(pki: &CountryPki, home: &str, security_errors: &str) -> String {
    let anchors = pki.path("anchors.pem");
    format!(
        r#"[[peer]]
country = "{country}"
name = "{country}"
home_community_id = "urn:oid:{home}"
tls_anchors = "{anchors}"
seal_anchors = "{anchors}"
{pin}security_errors = "{security_errors}"
"#,
        pin = ncp_tests::pki::peer_pin(&pki.country),
        country = pki.country,
        anchors = anchors.display(),
    )
}
