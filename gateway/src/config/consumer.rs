//! The SOAP side for national XDS consumers (NCP-B).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::initiating::{Organisation, Role, TREATMENT, a_day, misnamed, treatment};
use super::pin::{ConsumerNames, Pin};
use super::values::duration;
use super::{Config, ConfigProblem};

/// `[consumer]`: ITI-18, ITI-43 and RAD-69 for national consumers, carried on as ITI-38, ITI-39 and RAD-75.
#[derive(Debug, Clone, Deserialize)]
pub struct Consumer {
    /// Where we listen, mutual TLS.
    pub listen: SocketAddr,
    /// Server certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Anchors of the consumers' TLS certificates, PEM.
    pub tls_anchors: PathBuf,
    /// Anchors of those who sign XUA and TRC assertions, PEM.
    pub assertion_anchors: PathBuf,
    /// Which certificates under these anchors are the consumers' and the signers'.
    #[serde(default)]
    pub pin: Pin<ConsumerNames>,
    /// CRLs of both, PEM.
    pub crls: Option<PathBuf>,
    /// Our names in the assertions' audience, beside our homeCommunityId and that of the cross-border profile. One list
    /// for the WS-Trust endpoint and for the transactions.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// AuthnContext classes of users' logins that are taken besides the two-factor ones of SAML.
    #[serde(default)]
    pub authn_classes: Vec<String>,
    /// How long ago a user's login may be.
    #[serde(default = "a_day", deserialize_with = "duration")]
    pub login_age: Duration,
    /// Whether the purpose of a treatment may be EMERGENCY where that of the login is TREATMENT, as portals want that ask
    /// for it patient by patient.
    #[serde(default)]
    pub emergency_after_login: bool,
    /// Paths of ITI-18.
    #[serde(default = "query_paths")]
    pub query_paths: Vec<String>,
    /// Paths of ITI-43.
    #[serde(default = "retrieve_paths")]
    pub retrieve_paths: Vec<String>,
    /// Paths of RAD-69.
    #[serde(default = "imaging_paths")]
    pub imaging_paths: Vec<String>,
    /// Paths of the WS-Trust endpoint that issues TRC assertions.
    #[serde(default = "trc_paths")]
    pub trc_paths: Vec<String>,
    /// Paths of the one that issues next-of-kin assertions.
    #[serde(default = "nok_paths")]
    pub nok_paths: Vec<String>,
    /// What confirms the treatment relationship.
    #[serde(default)]
    pub confirmation: Confirmation,
    /// Longest life of a treatment relationship that goes out, at most 2 h.
    #[serde(default = "treatment", deserialize_with = "duration")]
    pub treatment: Duration,
    /// What an assertion does not say about the organisation.
    pub organisation: Organisation,
    /// Role code of the assertion to the role that other countries know; a role without a row may not ask.
    pub roles: BTreeMap<String, Role>,
}

/// What confirms that the user treats the patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirmation {
    /// A TRC assertion beside the XUA assertion.
    #[default]
    Trc,
    /// The consumers are bound to ask under treatment only: the XUA assertion's `resource-id` names the patient.
    ResourceId,
}

impl Config {
    pub(super) fn consumer_paths(consumer: &mut Option<Consumer>) -> Vec<&mut PathBuf> {
        let Some(c) = consumer else { return Vec::new() };
        let mut all = vec![&mut c.certificate, &mut c.key, &mut c.tls_anchors, &mut c.assertion_anchors];
        all.extend(c.crls.iter_mut());
        all
    }

    pub(super) fn check_consumer(&self) -> Vec<ConfigProblem> {
        let Some(c) = &self.consumer else { return Vec::new() };
        let mut problems = Vec::new();
        let mut say = |path: &str, what: String| problems.push(ConfigProblem::new(path, what));
        let files: [(&str, &Path); 4] = [
            ("consumer.certificate", &c.certificate),
            ("consumer.key", &c.key),
            ("consumer.tls_anchors", &c.tls_anchors),
            ("consumer.assertion_anchors", &c.assertion_anchors),
        ];
        for (key, path) in files {
            if !path.is_file() {
                say(key, format!("no such file: {}", path.display()));
            }
        }
        if let Some(what) = c.pin.problem() {
            say("consumer.pin", what);
        }
        if self.client.is_none() {
            say("client", "is missing: [consumer] asks other countries and needs a client certificate".into());
        }
        if c.treatment > TREATMENT || c.treatment < Duration::from_secs(60) {
            say("consumer.treatment", "between 1m and 2h".into());
        }
        if c.login_age < Duration::from_secs(60) || c.login_age > Duration::from_secs(31 * 24 * 3600) {
            say("consumer.login_age", "between 1m and 31d".into());
        }
        if c.roles.is_empty() {
            say("consumer.roles", "no role may ask: add a [consumer.roles.\"code\"]".into());
        }
        problems.extend(misnamed("consumer", &c.roles));
        problems
    }
}

fn query_paths() -> Vec<String> {
    vec!["/xds/registry".into()]
}
fn retrieve_paths() -> Vec<String> {
    vec!["/xds/repository".into()]
}
fn trc_paths() -> Vec<String> {
    vec!["/TRC-STS/SecurityTokenService".into()]
}
fn nok_paths() -> Vec<String> {
    vec!["/TRC-STS/NextOfKinTokenService".into()]
}
fn imaging_paths() -> Vec<String> {
    vec!["/xdsi/source".into()]
}
