//! What only a country of treatment (NCP-B) configures: its client certificate and the side of its own users.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::values::duration;
use super::{Config, ConfigProblem};
use crate::policy::roles::{ISCO, is_known};

/// Longest life of a treatment relationship.
pub(super) const TREATMENT: Duration = Duration::from_secs(2 * 3600);

/// `[client]`: how this gateway shows itself to other countries.
#[derive(Debug, Clone, Deserialize)]
pub struct Client {
    /// Client certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// `[clinician]`: the FHIR and DICOMweb side for the country's own health professionals.
#[derive(Debug, Clone, Deserialize)]
pub struct Clinician {
    /// Where we listen, TLS.
    pub listen: SocketAddr,
    /// The origin that clinicians' systems call, `https://…`, without a path.
    pub base_url: String,
    /// Server certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Issuer (`iss`) whose tokens are taken.
    pub issuer: String,
    /// Our name in `aud`.
    pub audience: String,
    /// JWKS of the issuer.
    pub jwks_file: PathBuf,
    /// Anchors of the client certificates that systems may show, PEM: tokens bound to one (RFC 8705) are taken with it.
    /// Without, no certificate is asked for.
    pub client_anchors: Option<PathBuf>,
    /// Whether only tokens bound to a key (DPoP, RFC 9449) or to a certificate are taken; those that are bound always need
    /// their proof.
    #[serde(default)]
    pub sender_constrained: bool,
    /// Longest life of a token, from `iat` to `exp`; one that lives longer is refused.
    #[serde(default = "a_day", deserialize_with = "duration")]
    pub token_life: Duration,
    /// Whether tokens are taken whose `typ` is absent or `JWT`; otherwise it is `at+jwt` (RFC 9068 4).
    #[serde(default)]
    pub untyped_tokens: bool,
    /// 32 bytes in hex, mode 0600: seals the base URLs that we hand out.
    pub sealing_key_file: PathBuf,
    /// Life of a confirmed treatment relationship, at most 2 h.
    #[serde(default = "treatment", deserialize_with = "duration")]
    pub treatment: Duration,
    /// What a token does not say about the organisation.
    pub organisation: Organisation,
    /// Role code of the token to the role that other countries know; a role without a row may not ask.
    pub roles: BTreeMap<String, Role>,
    /// `acr` of the token to AuthnContextClassRef; a login without a row goes out as `unspecified`, which neighbours
    /// refuse.
    #[serde(default)]
    pub acr: BTreeMap<String, String>,
}

/// `[clinician.organisation]`
#[derive(Debug, Clone, Deserialize)]
pub struct Organisation {
    /// Name.
    pub name: String,
    /// `urn:oid:…`
    pub id: String,
    /// Facility type as the assertion says it.
    #[serde(default = "hospital")]
    pub facility_type: String,
    /// Point of care.
    pub locality: String,
}

/// `[clinician.roles.…]`
#[derive(Debug, Clone, Deserialize)]
pub struct Role {
    /// ISCO code (2.16.840.1.113883.2.9.6.2.7).
    pub code: String,
    /// Its exact display.
    pub display: String,
    /// Permissions that the role has, last component of the code, as `PRD-006`.
    pub permissions: Vec<String>,
}

impl Config {
    pub(super) fn initiating_paths<'a>(
        client: &'a mut Option<Client>,
        clinician: &'a mut Option<Clinician>,
    ) -> Vec<&'a mut PathBuf> {
        let mut all = Vec::new();
        if let Some(client) = client {
            all.extend([&mut client.certificate, &mut client.key]);
        }
        if let Some(c) = clinician {
            all.extend([&mut c.certificate, &mut c.key, &mut c.jwks_file, &mut c.sealing_key_file]);
            all.extend(&mut c.client_anchors);
        }
        all
    }

    pub(super) fn check_initiating(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        if let Some(clinician) = &self.clinician {
            problems.extend(misnamed("clinician", &clinician.roles));
        }
        let mut say = |path: &str, what: String| problems.push(ConfigProblem::new(path, what));
        let mut files: Vec<(&str, &Path)> = Vec::new();
        if let Some(client) = &self.client {
            files.extend([("client.certificate", client.certificate.as_path()), ("client.key", &client.key)]);
        }
        if let Some(c) = &self.clinician {
            files.extend([
                ("clinician.certificate", c.certificate.as_path()),
                ("clinician.key", &c.key),
                ("clinician.jwks_file", &c.jwks_file),
                ("clinician.sealing_key_file", &c.sealing_key_file),
            ]);
            files.extend(c.client_anchors.as_deref().map(|file| ("clinician.client_anchors", file)));
            if self.client.is_none() {
                say("client", "is missing: [clinician] asks other countries and needs a client certificate".into());
            }
            let url = c.base_url.strip_prefix("https://");
            if url.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '?', '#'])) {
                say("clinician.base_url", "expected an origin, as \"https://ncp.example.org\", without a path".into());
            }
            if c.treatment > TREATMENT || c.treatment < Duration::from_secs(60) {
                say("clinician.treatment", "between 1m and 2h".into());
            }
            if c.token_life < Duration::from_secs(60) || c.token_life > Duration::from_secs(31 * 24 * 3600) {
                say("clinician.token_life", "between 1m and 31d".into());
            }
            if c.roles.is_empty() {
                say("clinician.roles", "no role may ask: add a [clinician.roles.\"code\"]".into());
            }
        }
        for (key, path) in files {
            if !path.is_file() {
                say(key, format!("no such file: {}", path.display()));
            }
        }
        for (index, peer) in self.peer.iter().enumerate() {
            let (own, theirs) =
                peer.asynchronous.as_ref().map_or((&None, &None), |a| (&a.own_reply_to, &a.peer_reply_to));
            if theirs.is_some() && self.client.is_none() {
                say("client", "is missing: answers to a reply address need a client certificate".into());
            }
            for (key, url) in [
                ("xcpd", &peer.xcpd),
                ("xca", &peer.xca),
                ("xcai", &peer.xcai),
                ("asynchronous.own_reply_to", own),
                ("asynchronous.peer_reply_to", theirs),
            ] {
                let read = url.as_ref().map(|url| url.parse::<http::Uri>());
                let good = |uri: &http::Uri| uri.scheme_str() == Some("https") && uri.host().is_some();
                if read.is_some_and(|uri| !uri.is_ok_and(|uri| good(&uri))) {
                    say(&format!("peer[{index}].{key}"), "expected an https address".into());
                }
            }
            if peer.batch == 0 || peer.batch > 1024 {
                say(&format!("peer[{index}].batch"), "between 1 and 1024".into());
            }
        }
        let listed = self.peer.iter().enumerate();
        problems.extend(listed.filter_map(|(i, peer)| peer.check_class_codes(&format!("peer[{i}].class_codes"))));
        problems
    }
}

/// Roles that no other country knows by that name.
pub(super) fn misnamed(section: &str, roles: &BTreeMap<String, Role>) -> Vec<ConfigProblem> {
    let known = |role: &Role| !role.display.is_empty() && is_known(ISCO, &role.code, &role.display);
    let wrong = roles.iter().filter(|(_, role)| !known(role));
    let what = "code and display are not those of a role of the eHDSI: other countries will refuse it";
    wrong.map(|(name, _)| ConfigProblem::new(&format!("{section}.roles.{name}"), what.into())).collect()
}

pub(super) fn a_day() -> Duration {
    Duration::from_secs(24 * 3600)
}

pub(super) fn treatment() -> Duration {
    TREATMENT
}

fn hospital() -> String {
    "Hospital".into()
}
