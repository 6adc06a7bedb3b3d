//! `audit.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
    /// Names in certificates that may search by FHIR.
    #[serde(default)]
    pub readers: Vec<String>,
    /// `iss` of patients' tokens, who may search their own trail by FHIR; with `token_audience` and `jwks_file`.
    pub token_issuer: Option<String>,
    /// Our name in their `aud`.
    pub token_audience: Option<String>,
    /// The issuer's public keys.
    pub jwks_file: Option<PathBuf>,
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Anchors of our own services.
    pub anchors: PathBuf,
    /// Anchors of who sends by syslog and FHIR; without it those of our own services.
    pub source_anchors: Option<PathBuf>,
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
const OPTIONAL: [&str; 8] = [
    "syslog",
    "fhir",
    "fhir_base",
    "source_anchors",
    "postgres_url_file",
    "token_issuer",
    "token_audience",
    "jwks_file",
];
const ADDRESSES: [&str; 5] = ["feed", "query", "admin", "syslog", "fhir"];

/// Reads the file; paths are relative to it.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![format!("cannot read {}: {e}", path.display())])?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| vec![e.message().to_owned()])?;
    let known = |name: &str| REQUIRED.contains(&name) || OPTIONAL.contains(&name) || name == "readers";
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
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut config: Config = table.try_into().map_err(|e: toml::de::Error| vec![e.message().to_owned()])?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let required =
        [&mut config.certificate, &mut config.key, &mut config.anchors, &mut config.data_dir, &mut config.key_file];
    let optional = [&mut config.source_anchors, &mut config.postgres_url_file, &mut config.jwks_file];
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
    ];
    let of_tokens = [config.token_issuer.is_some(), config.token_audience.is_some(), config.jwks_file.is_some()];
    if of_tokens.contains(&true) && of_tokens.contains(&false) {
        problems.push("token_issuer, token_audience, jwks_file: give all three or none".into());
    }
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
