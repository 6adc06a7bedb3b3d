//! The attack set as sent by those whom the gateway serves in its own country: national consumers and clinicians' systems.

use std::path::{Path, PathBuf};

use clap::Args;
use ncp_tests::attack::{Attacker, Clinician, Finding, Side, versions};
use ncp_tests::issuer::Issuer;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::CountryPki;

use crate::attack::{host_and_port, through_messages};
use crate::demo::{FINLAND, offset};
use crate::{Error, issuer};

/// Whom the gateway serves. They ask it for the patient and the documents of the options above, which lie in a community that
/// it asks for them: run the attack for them alone, with the options of that community.
#[derive(Args)]
pub(crate) struct Callers {
    /// The gateway's port for national consumers, `host:port`; in a demonstration Finland's, which asks Norway.
    #[arg(long, requires = "national_pki")]
    consumers: Option<String>,
    /// Folder with consumer.pem, xua.pem, their keys and the authority of a test PKI that the gateway has for its consumers.
    #[arg(long)]
    national_pki: Option<PathBuf>,
    /// Two letters of the gateway's own country; with --consumers.
    #[arg(long, default_value = "FI")]
    own_country: String,
    /// homeCommunityId of the gateway's own country; with --consumers.
    #[arg(long, default_value = FINLAND.home)]
    own_home: String,
    /// The gateway's base for clinicians' systems, `https://host:port`, which is the audience of its tokens.
    #[arg(long, requires_all = ["issuer", "issuer_key"])]
    clinicians: Option<String>,
    /// `iss` of a test issuer whose key the gateway takes; with --clinicians.
    #[arg(long)]
    issuer: Option<String>,
    /// Its private key as a JWK (P-256); with --clinicians.
    #[arg(long)]
    issuer_key: Option<PathBuf>,
    /// Anchors of the certificates of both ports, PEM.
    #[arg(long)]
    own_anchors: Option<PathBuf>,
}

impl Callers {
    /// Finland's of the demonstration, unless others are given.
    pub(crate) fn of_demo(self, dir: &Path) -> Self {
        if self.consumers.is_some() || self.clinicians.is_some() {
            return self;
        }
        let pki = dir.join(FINLAND.code).join("pki");
        Self {
            consumers: Some(format!("127.0.0.1:{}", offset(FINLAND.code) + 449)),
            clinicians: Some(issuer::audience(FINLAND.code)),
            issuer: Some(issuer::issuer(FINLAND.code)),
            issuer_key: Some(pki.join("issuer.jwk")),
            own_anchors: Some(pki.join("anchors.pem")),
            national_pki: Some(pki),
            ..self
        }
    }

    /// The rows of both, or a line that says which were not tried.
    pub(crate) async fn rows(self, of_peer: Attacker) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let patient = of_peer.patient.clone();
        match (&self.consumers, &self.national_pki) {
            (Some(address), Some(pki)) => {
                let (host, port) = host_and_port(address)?;
                let (side, pki) = (Side::Consumer, CountryPki::open(pki, &self.own_country)?);
                let anchors = self.anchors()?;
                let at = (host.as_str(), port);
                let neighbour = Neighbour::showing(&pki, &self.own_home, anchors, &host, port, side.certificates())?;
                let attacker = Attacker { side, neighbour, pki, ..of_peer };
                findings.extend(through_messages(&attacker, anchors, at).await?);
            }
            _ => println!("national consumers are not tried: give --consumers and --national-pki"),
        }
        match (&self.clinicians, &self.issuer, &self.issuer_key) {
            (Some(base), Some(issuer), Some(key)) => {
                let base = base.trim_end_matches('/');
                let address = base.strip_prefix("https://").ok_or("--clinicians begins with https://")?;
                let (host, port) = host_and_port(address).or_else(|_| host_and_port(&format!("{address}:443")))?;
                let (anchors, at) = (self.anchors()?, (host.as_str(), port));
                let key = Issuer::open(key)?;
                let clinician = Clinician::new(&key, (issuer, base), anchors, at, patient)?;
                findings.extend(versions(None, anchors, at).await?);
                for row in clinician.rows(&clinician.learn().await?)? {
                    findings.push(clinician.run(&row).await);
                }
            }
            _ => println!("clinicians' systems are not tried: give --clinicians, --issuer and --issuer-key"),
        }
        Ok(findings)
    }

    fn anchors(&self) -> Result<&Path, Error> {
        Ok(self.own_anchors.as_deref().ok_or("give --own-anchors with --consumers or --clinicians")?)
    }
}
