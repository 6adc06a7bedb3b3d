//! `translation.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ncp_tls::{Names, TlsFiles};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// gRPC, mutual TLS.
    pub listen: SocketAddr,
    /// Health and the coverage page, plain HTTP on loopback.
    pub admin: SocketAddr,
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Anchors of our own services.
    pub anchors: PathBuf,
    /// Certificates that may call, by gRPC and by the FHIR façade.
    pub clients: Names,
    /// CRLs of the callers, PEM; read again when the file changes.
    pub crls: Option<PathBuf>,
    /// Anchors of the callers of the FHIR façade; without it those of our own services.
    pub fhir_anchors: Option<PathBuf>,
    /// CRLs of these callers; without it `crls`, where there are no `fhir_anchors`.
    pub fhir_crls: Option<PathBuf>,
    /// Folder of sources, built into a snapshot at start: FHIR resources, releases, `systems.toml`.
    pub maps: Option<PathBuf>,
    /// Folder of built snapshots; the one named in its file `current` serves. Looked at again every few seconds.
    pub snapshots: Option<PathBuf>,
    /// The FHIR façade: mutual TLS as for gRPC, or plain HTTP on loopback.
    pub fhir: Option<SocketAddr>,
    /// The façade takes plain HTTP; on loopback only, for a proxy there that authenticates.
    #[serde(default)]
    pub fhir_plain: bool,
    /// `iss` of tokens by which callers without certificate may use the façade; with `token_audience` and `jwks_file`.
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
    /// Folder of lists of coded elements, for kinds of documents beside those that come with the program.
    pub profiles: Option<PathBuf>,
    /// Folder for counts of codes without a target.
    pub state_dir: Option<PathBuf>,
    /// Cache of translated documents.
    pub redis: Option<Redis>,
    /// Server reflection.
    #[serde(default = "yes")]
    pub reflection: bool,
}

fn yes() -> bool {
    true
}

impl Config {
    /// Our key, and whose certificates are taken.
    pub fn tls(&self) -> TlsFiles {
        TlsFiles {
            cert_chain: self.certificate.clone(),
            key: self.key.clone(),
            anchors: self.anchors.clone(),
            crls: self.crls.clone(),
        }
    }

    /// Our key, and whose certificates are taken by the FHIR façade.
    pub fn fhir_tls(&self) -> TlsFiles {
        match &self.fhir_anchors {
            None => TlsFiles { crls: self.fhir_crls.clone().or_else(|| self.crls.clone()), ..self.tls() },
            Some(anchors) => TlsFiles { anchors: anchors.clone(), crls: self.fhir_crls.clone(), ..self.tls() },
        }
    }

    /// What is allowed and still worth a second look: a root that vouches for our own services and for callers of the FHIR
    /// façade too.
    pub fn warnings(&self) -> Vec<String> {
        let own = ("our own services".to_owned(), self.anchors.as_path());
        let by_fhir = self.fhir.is_some() && !self.fhir_plain;
        let anchors = self.fhir_anchors.as_deref().unwrap_or(&self.anchors);
        let callers = by_fhir.then(|| ("callers of the FHIR façade".to_owned(), anchors));
        ncp_tls::shared_roots([own].into_iter().chain(callers))
    }

    /// Lists of coded elements by kind of document.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn profiles(&self) -> Result<crate::document::profile::Profiles, Vec<String>> {
        self.profiles.as_deref().map_or_else(|| Ok(Default::default()), crate::document::profile::Profiles::load)
    }

    /// Who may come with a token.
    ///
    /// # Errors
    /// The issuer's keys.
    pub fn bearers(&self) -> Result<Option<crate::facade::Bearers>, String> {
        match (&self.token_issuer, &self.token_audience, &self.jwks_file) {
            (Some(issuer), Some(audience), Some(file)) => {
                let taken = ncp_tls::Taken::configured(self.token_life_seconds, self.untyped_tokens);
                crate::facade::Bearers::load(issuer, audience, file, taken)
                    .map(Some)
                    .map_err(|e| format!("jwks_file: {e}"))
            }
            _ => Ok(None),
        }
    }
}

/// `[redis]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port/db`
    pub url: String,
    /// 32 bytes that encrypt what is kept; a file that only this service reads.
    pub key: PathBuf,
    /// Seconds an answer is kept.
    #[serde(default = "life")]
    pub seconds: u64,
}

fn life() -> u64 {
    300
}

impl Redis {
    /// The cache.
    ///
    /// # Errors
    /// A key that is not 32 bytes, an address that cannot be read.
    pub fn cache(&self) -> Result<crate::cache::Cache, String> {
        let bytes = std::fs::read(&self.key).map_err(|e| format!("redis.key: {e}"))?;
        let key = bytes.try_into().map_err(|_| "redis.key: expected 32 bytes".to_owned())?;
        crate::cache::Cache::redis(&self.url, key, Duration::from_secs(self.seconds))
            .map_err(|e| format!("redis.url: {e}"))
    }
}

/// Reads the file; paths are relative to it.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![format!("cannot read {}: {e}", path.display())])?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| vec![e.message().to_owned()])?;
    let required = ["listen", "admin", "certificate", "key", "anchors"];
    let tokens = ["token_issuer", "token_audience", "jwks_file"];
    let optional = [
        "clients",
        "crls",
        "maps",
        "snapshots",
        "fhir",
        "fhir_plain",
        "fhir_anchors",
        "fhir_crls",
        "state_dir",
        "profiles",
        "redis",
        "reflection",
    ];
    let taken = ["token_life_seconds", "untyped_tokens"];
    let lists: [&[&str]; 4] = [&required, &optional, &tokens, &taken];
    let known = |k: &String| lists.iter().any(|list| list.contains(&k.as_str()));
    let mut problems: Vec<String> = table.keys().filter(|k| !known(k)).map(|k| format!("{k}: unknown key")).collect();
    for name in required {
        match table.get(name) {
            None => problems.push(format!("{name}: is missing")),
            Some(toml::Value::String(text)) => {
                if matches!(name, "listen" | "admin") && text.parse::<SocketAddr>().is_err() {
                    problems.push(format!("{name}: expected address:port, as \"127.0.0.1:27446\""));
                }
            }
            Some(_) => problems.push(format!("{name}: expected text")),
        }
    }
    if table.get("token_life_seconds").is_some_and(|life| life.as_integer().is_none_or(|seconds| seconds <= 0)) {
        problems.push("token_life_seconds: expected a number of seconds, as 86400".into());
    }
    if table.get("untyped_tokens").is_some_and(|value| !value.is_bool()) {
        problems.push("untyped_tokens: expected true or false".into());
    }
    if !table.contains_key("clients") {
        let line = "clients = [\"ncp-gateway.example\"]";
        problems.push(format!("clients: is missing: names of the certificates that may call, as {line}"));
    }
    if table.contains_key("maps") == table.contains_key("snapshots") {
        problems.push("maps, snapshots: give one of them".to_owned());
    }
    let given = tokens.iter().filter(|name| table.contains_key(**name)).count();
    if given != 0 && (given != tokens.len() || table.get("fhir_plain").and_then(toml::Value::as_bool) == Some(true)) {
        problems
            .push("token_issuer, token_audience, jwks_file: give all three, without fhir_plain, or none".to_owned());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut config: Config = table.try_into().map_err(|e: toml::de::Error| vec![e.message().to_owned()])?;
    if let Some(address) = config.fhir.filter(|a| config.fhir_plain && !a.ip().is_loopback()) {
        problems.push(format!("fhir_plain: {address} is not on loopback"));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let paths = [Some(&mut config.certificate), Some(&mut config.key), Some(&mut config.anchors)];
    let optional = [
        config.maps.as_mut(),
        config.snapshots.as_mut(),
        config.state_dir.as_mut(),
        config.jwks_file.as_mut(),
        config.profiles.as_mut(),
        config.crls.as_mut(),
        config.fhir_anchors.as_mut(),
        config.fhir_crls.as_mut(),
    ];
    let redis = config.redis.as_mut().map(|r| &mut r.key);
    for path in paths.into_iter().chain(optional).chain([redis]).flatten() {
        if path.is_relative() {
            *path = folder.join(&*path);
        }
    }
    let files = [
        ("certificate", Some(&config.certificate)),
        ("key", Some(&config.key)),
        ("anchors", Some(&config.anchors)),
        ("crls", config.crls.as_ref()),
        ("fhir_anchors", config.fhir_anchors.as_ref()),
        ("fhir_crls", config.fhir_crls.as_ref()),
    ];
    for (name, path) in files {
        if let Some(path) = path.filter(|path| !path.is_file()) {
            problems.push(format!("{name}: no such file: {}", path.display()));
        }
    }
    for (name, path) in [("maps", &config.maps), ("snapshots", &config.snapshots)] {
        if let Some(path) = path
            && !path.is_dir()
        {
            problems.push(format!("{name}: no such folder: {}", path.display()));
        }
    }
    problems.extend(config.bearers().err());
    problems.extend(config.profiles().err().unwrap_or_default());
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    /// Only what it names is not there; keys and values are those of the code.
    #[test]
    fn the_example_configuration_reads() {
        let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/translation.toml");
        let problems = super::load(&example).err().unwrap_or_default();
        assert!(problems.iter().all(|p| p.contains("no such")), "{problems:?}");
    }
}
