//! `audit.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ncp_tls::{Names, TlsFiles};
use serde::Deserialize;

/// Where records and index lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Engine {
    /// Segment files and SQLite in `data_dir`.
    #[default]
    Files,
    /// PostgreSQL, by URL.
    Postgres(String),
}

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Feed of our own gateways, mutual TLS.
    pub feed: SocketAddr,
    /// Queries, mutual TLS.
    pub query: SocketAddr,
    /// Health, plain HTTP on loopback.
    pub admin: SocketAddr,
    /// Syslog over mutual TLS from any ATNA source.
    pub syslog: Option<SocketAddr>,
    /// FHIR feed and search, mutual TLS.
    pub fhir: Option<SocketAddr>,
    /// Under which the FHIR side is reached; without it `https://` and the address.
    pub fhir_base: Option<String>,
    /// Certificates that may search the trail, by gRPC and by FHIR: of persons, never of services.
    #[serde(default)]
    pub readers: Names,
    /// Common names of the certificates of our own gateways, which may use the feed, with the AuditSourceID of each.
    #[serde(default)]
    pub writers: BTreeMap<String, String>,
    /// Certificates that may send by syslog and FHIR.
    #[serde(default)]
    pub senders: Names,
    /// Certificates that may bring the tokens of patients.
    #[serde(default)]
    pub portals: Names,
    /// `iss` of patients' tokens, who may search their own trail by FHIR; with `token_audience` and `jwks_file`.
    pub token_issuer: Option<String>,
    /// Our name in their `aud`.
    pub token_audience: Option<String>,
    /// The issuer's public keys.
    pub jwks_file: Option<PathBuf>,
    /// Longest life of a token in seconds, from `iat` to `exp`; a day where it is not said.
    pub token_life_seconds: Option<u64>,
    /// Whether tokens are taken whose `typ` is absent or `JWT`; otherwise it is `at+jwt` (RFC 9068 4).
    #[serde(default)]
    pub untyped_tokens: bool,
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Anchors of our own services.
    pub anchors: PathBuf,
    /// CRLs of our own services and of readers, PEM; read again when the file changes.
    pub crls: Option<PathBuf>,
    /// Anchors of who sends by syslog and FHIR; without it those of our own services.
    pub source_anchors: Option<PathBuf>,
    /// CRLs of who sends by syslog and FHIR; without it `crls`, where there are no `source_anchors`.
    pub source_crls: Option<PathBuf>,
    /// Folder of records and index.
    pub data_dir: PathBuf,
    /// 32 bytes in hex, mode 0600: encrypts records, keys the patients' hashes.
    pub key_file: PathBuf,
    /// File, mode 0600, that holds the URL of a PostgreSQL database; without it files in `data_dir`.
    pub postgres_url_file: Option<PathBuf>,
    /// Made of the file above.
    #[serde(skip)]
    pub engine: Engine,
    /// AuditSourceID of the repository itself.
    pub source: String,
    /// AuditEnterpriseSiteID.
    pub enterprise_site: String,
}

const REQUIRED: [&str; 10] =
    ["feed", "query", "admin", "certificate", "key", "anchors", "data_dir", "key_file", "source", "enterprise_site"];
const OPTIONAL: [&str; 10] = [
    "crls",
    "source_crls",
    "syslog",
    "fhir",
    "fhir_base",
    "source_anchors",
    "postgres_url_file",
    "token_issuer",
    "token_audience",
    "jwks_file",
];
/// Who may do what.
const ACCESS: [&str; 4] = ["readers", "writers", "senders", "portals"];
/// Which tokens are taken.
const TAKEN: [&str; 2] = ["token_life_seconds", "untyped_tokens"];
const ADDRESSES: [&str; 5] = ["feed", "query", "admin", "syslog", "fhir"];

/// Reads the file; paths are relative to it.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![format!("cannot read {}: {e}", path.display())])?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| vec![e.message().to_owned()])?;
    let lists: [&[&str]; 4] = [&REQUIRED, &OPTIONAL, &ACCESS, &TAKEN];
    let known = |name: &str| lists.iter().any(|list| list.contains(&name));
    let mut problems: Vec<String> = table.keys().filter(|k| !known(k)).map(|k| format!("{k}: unknown key")).collect();
    for name in REQUIRED.into_iter().chain(OPTIONAL) {
        match table.get(name) {
            None if REQUIRED.contains(&name) => problems.push(format!("{name}: is missing")),
            None => {}
            Some(toml::Value::String(text)) if ADDRESSES.contains(&name) && text.parse::<SocketAddr>().is_err() => {
                problems.push(format!("{name}: expected address:port, as \"127.0.0.1:27447\""));
            }
            Some(toml::Value::String(_)) => {}
            Some(_) => problems.push(format!("{name}: expected text")),
        }
    }
    if table.get("token_life_seconds").is_some_and(|life| life.as_integer().is_none_or(|seconds| seconds <= 0)) {
        problems.push("token_life_seconds: expected a number of seconds, as 86400".into());
    }
    if table.get("untyped_tokens").is_some_and(|value| !value.is_bool()) {
        problems.push("untyped_tokens: expected true or false".into());
    }
    problems.extend(unnamed(&table));
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut config: Config = table.try_into().map_err(|e: toml::de::Error| vec![e.message().to_owned()])?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let required =
        [&mut config.certificate, &mut config.key, &mut config.anchors, &mut config.data_dir, &mut config.key_file];
    let optional = [
        &mut config.source_anchors,
        &mut config.postgres_url_file,
        &mut config.jwks_file,
        &mut config.crls,
        &mut config.source_crls,
    ];
    for path in required.into_iter().chain(optional.into_iter().flatten()) {
        if path.is_relative() {
            *path = folder.join(&*path);
        }
    }
    let files = [
        ("certificate", Some(&config.certificate)),
        ("key", Some(&config.key)),
        ("anchors", Some(&config.anchors)),
        ("key_file", Some(&config.key_file)),
        ("source_anchors", config.source_anchors.as_ref()),
        ("postgres_url_file", config.postgres_url_file.as_ref()),
        ("jwks_file", config.jwks_file.as_ref()),
        ("crls", config.crls.as_ref()),
        ("source_crls", config.source_crls.as_ref()),
    ];
    let of_tokens = [config.token_issuer.is_some(), config.token_audience.is_some(), config.jwks_file.is_some()];
    if of_tokens.contains(&true) && of_tokens.contains(&false) {
        problems.push("token_issuer, token_audience, jwks_file: give all three or none".into());
    }
    problems.extend(config.two_roles());
    for (name, path) in files {
        if let Some(path) = path.filter(|path| !path.is_file()) {
            problems.push(format!("{name}: no such file: {}", path.display()));
        }
    }
    if let Some(file) = &config.postgres_url_file {
        use std::os::unix::fs::PermissionsExt;
        if std::fs::metadata(file).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
            problems.push("postgres_url_file: is readable for others: chmod 600".into());
        }
        config.engine = Engine::Postgres(std::fs::read_to_string(file).unwrap_or_default().trim().to_owned());
    }
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// The lists of names that a port needs, each with the line that is missing: a configuration of before certificates were
/// named says by this what to add.
fn unnamed(table: &toml::Table) -> Vec<String> {
    let needs = |ports: &[&str], list: &str, who: &str, line: &str| {
        let served = ports.is_empty() || ports.iter().any(|port| table.contains_key(*port));
        (served && !table.contains_key(list)).then(|| format!("{list}: is missing: {who}, as {line}"))
    };
    [
        needs(
            &[],
            "writers",
            "common names of the certificates of the gateways that use the feed, and their audit.source",
            "writers = { \"ncp-gateway.example\" = \"ncp-gateway-no\" }",
        ),
        needs(
            &["syslog", "fhir"],
            "senders",
            "names of the certificates that send by syslog and fhir, [] for none",
            "senders = [\"hospital.example\"]",
        ),
        needs(
            &["token_issuer"],
            "portals",
            "names of the certificates that bring the tokens of patients",
            "portals = [\"portal.example\"]",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Config {
    /// Our key, and the anchors and CRLs of our own services.
    pub(super) fn tls(&self) -> TlsFiles {
        TlsFiles {
            cert_chain: self.certificate.clone(),
            key: self.key.clone(),
            anchors: self.anchors.clone(),
            crls: self.crls.clone(),
        }
    }

    /// Our key, and the anchors and CRLs of who sends by syslog and FHIR.
    pub(super) fn source_tls(&self) -> TlsFiles {
        match &self.source_anchors {
            None => TlsFiles { crls: self.source_crls.clone().or_else(|| self.crls.clone()), ..self.tls() },
            Some(anchors) => TlsFiles { anchors: anchors.clone(), crls: self.source_crls.clone(), ..self.tls() },
        }
    }

    /// What is allowed and still worth a second look: a root that vouches for our own services and for senders too.
    pub fn warnings(&self) -> Vec<String> {
        let own = ("our own services and readers".to_owned(), self.anchors.as_path());
        let foreign = !(self.senders.is_empty() && self.portals.is_empty());
        let anchors = self.source_anchors.as_deref().unwrap_or(&self.anchors);
        let senders = foreign.then(|| ("senders and portals".to_owned(), anchors));
        ncp_tls::shared_roots([own].into_iter().chain(senders))
    }

    /// A service does not read the trail, and nobody else's records stand under the name of one of our own programs.
    fn two_roles(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for writer in self.writers.keys() {
            for (list, names) in [("readers", &self.readers), ("senders", &self.senders), ("portals", &self.portals)] {
                if names.iter().any(|name| name.is_common_name(writer)) {
                    problems
                        .push(format!("{list}: {writer:?} is one of the writers; give each a certificate of its own"));
                }
            }
        }
        problems
    }
}
