//! The attack set as sent by those whom the gateway serves in its own country: national consumers and clinicians' systems.

use std::path::{Path, PathBuf};

use clap::Args;
use ncp_ihe::PatientId;
use ncp_tests::attack::{Clinician, Finding, Side, versions};
use ncp_tests::issuer::Issuer;
use ncp_tests::pki::CountryPki;

use crate::attack::{Attack, host_and_port};
use crate::demo::{FINLAND, offset};
use crate::{Error, issuer};

/// Whom the gateway serves. They ask for the patient and the documents of the other options, which lie in a community that it
/// asks for them.
#[derive(Args)]
pub(crate) struct Callers {
    /// The gateway's port for national consumers, `host:port`; in a demonstration Finland's, which asks Norway.
    #[arg(long, requires_all = ["national_pki", "own_anchors"])]
    pub(crate) consumers: Option<String>,
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
    #[arg(long, requires_all = ["issuer", "issuer_key", "own_anchors"])]
    pub(crate) clinicians: Option<String>,
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
    /// Whether one of the two is attacked by the options.
    pub(crate) fn are_given(&self) -> bool {
        self.consumers.is_some() || self.clinicians.is_some()
    }

    /// Finland's of the demonstration.
    pub(crate) fn of_demo(dir: &Path) -> Self {
        let pki = dir.join(FINLAND.code).join("pki");
        Self {
            consumers: Some(format!("127.0.0.1:{}", offset(FINLAND.code) + 449)),
            own_country: FINLAND.code.to_uppercase(),
            own_home: FINLAND.home.into(),
            clinicians: Some(issuer::audience(FINLAND.code)),
            issuer: Some(issuer::issuer(FINLAND.code)),
            issuer_key: Some(pki.join("issuer.jwk")),
            own_anchors: Some(pki.join("anchors.pem")),
            national_pki: Some(pki),
        }
    }
}

impl Attack {
    pub(crate) async fn as_consumer(&self) -> Result<Vec<Finding>, Error> {
        let callers = &self.callers;
        let (Some(address), Some(pki), Some(anchors)) =
            (&callers.consumers, &callers.national_pki, &callers.own_anchors)
        else {
            return Ok(Vec::new());
        };
        let pki = CountryPki::open(pki, &callers.own_country)?;
        self.through_messages(Side::Consumer, (pki, &callers.own_home), anchors, address).await
    }

    pub(crate) async fn as_clinician(&self) -> Result<Vec<Finding>, Error> {
        let callers = &self.callers;
        let (Some(base), Some(issuer), Some(key), Some(anchors)) =
            (&callers.clinicians, &callers.issuer, &callers.issuer_key, &callers.own_anchors)
        else {
            return Ok(Vec::new());
        };
        let base = base.trim_end_matches('/');
        let address = base.strip_prefix("https://").ok_or("--clinicians begins with https://")?;
        let (host, port) = host_and_port(address).or_else(|_| host_and_port(&format!("{address}:443")))?;
        let (key, at) = (Issuer::open(key)?, (host.as_str(), port));
        let patient = PatientId::parse_cx(&self.patient)?;
        let clinician = Clinician::new(&key, (issuer, base), anchors, at, patient)?;
        let mut findings = versions(None, anchors, at).await?;
        for row in clinician.rows(&clinician.learn().await?)? {
            findings.push(clinician.run(&row).await);
        }
        Ok(findings)
    }
}
