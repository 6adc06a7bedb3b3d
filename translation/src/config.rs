//! `translation.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// gRPC, mutual TLS.
    pub listen: SocketAddr,
    /// Health, plain HTTP on loopback.
    pub admin: SocketAddr,
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Anchors of our own services.
    pub anchors: PathBuf,
    /// Folder of FHIR R4 ConceptMaps (JSON) and `systems.toml`.
    pub maps: PathBuf,
}

/// Reads the file; paths are relative to it.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![format!("cannot read {}: {e}", path.display())])?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| vec![e.message().to_owned()])?;
    let known = ["listen", "admin", "certificate", "key", "anchors", "maps"];
    let mut problems: Vec<String> =
        table.keys().filter(|k| !known.contains(&k.as_str())).map(|k| format!("{k}: unknown key")).collect();
    for name in known {
        match table.get(name) {
            None => problems.push(format!("{name}: is missing")),
            Some(toml::Value::String(text)) => {
                if matches!(name, "listen" | "admin") && text.parse::<SocketAddr>().is_err() {
                    problems.push(format!("{name}: expected address:port, as \"127.0.0.1:47446\""));
                }
            }
            Some(_) => problems.push(format!("{name}: expected text")),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut config: Config = table.try_into().map_err(|e: toml::de::Error| vec![e.message().to_owned()])?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for path in [&mut config.certificate, &mut config.key, &mut config.anchors, &mut config.maps] {
        if path.is_relative() {
            *path = folder.join(&*path);
        }
    }
    for (name, path) in [("certificate", &config.certificate), ("key", &config.key), ("anchors", &config.anchors)] {
        if !path.is_file() {
            problems.push(format!("{name}: no such file: {}", path.display()));
        }
    }
    if !config.maps.is_dir() {
        problems.push(format!("maps: no such folder: {}", config.maps.display()));
    }
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
