//! `[national]`: the systems behind NCP-A.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ncp_ihe::{HomeCommunityId, Oid};
use serde::Deserialize;

use super::values::{duration, oid, oids, optional_home, optional_oid};
use super::{Config, ConfigProblem, InternalTls};

/// `[national]`
#[derive(Debug, Clone, Deserialize)]
pub struct National {
    /// Patients with national and local ids (TOML), for connectors without an index of their own.
    pub patients_file: Option<PathBuf>,
    /// Time for a look-up in one system.
    #[serde(default = "eight_seconds", deserialize_with = "duration")]
    pub patience: Duration,
    /// Language of the national documents.
    #[serde(default = "english")]
    pub language: String,
    /// The organisation that keeps the country's documents, as documents made for OpenNCP neighbours name it.
    pub custodian: Option<String>,
    /// The systems, asked in this order.
    #[serde(default)]
    pub connector: Vec<NationalConnector>,
}

// A handful of them, read once: their size does not matter.
#[allow(clippy::large_enum_variant)]
/// `[[national.connector]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum NationalConnector {
    /// A folder of DICOM files and reports.
    Embedded(Embedded),
    /// An archive with QIDO-RS and WADO-RS.
    DicomWeb(DicomWeb),
    /// A country's own service.
    Grpc(Grpc),
    /// An XDS.b and XDS-I.b infrastructure.
    Xds(Xds),
}

impl NationalConnector {
    /// What people call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Embedded(Embedded { name, .. })
            | Self::DicomWeb(DicomWeb { name, .. })
            | Self::Grpc(Grpc { name, .. })
            | Self::Xds(Xds { name, .. }) => name,
        }
    }

    /// Host and port where images are fetched; none for a folder.
    pub fn host(&self) -> &str {
        let url = match self {
            Self::Embedded(_) => "",
            Self::DicomWeb(DicomWeb { url, .. }) => url,
            Self::Grpc(Grpc { endpoint, .. }) => endpoint,
            Self::Xds(Xds { registry, sources, .. }) => sources.first().map_or(registry, |source| &source.endpoint),
        };
        let host = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = host.split(['/', '?']).next().unwrap_or_default();
        // Whatever stands before an @ may be a password, and this is logged.
        authority.rsplit('@').next().unwrap_or_default()
    }
}

/// A national XDS.b and XDS-I.b infrastructure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xds {
    /// What people call it.
    pub name: String,
    /// Where ITI-18 is answered.
    pub registry: String,
    /// Where ITI-43 is answered, by RepositoryUniqueId.
    #[serde(default)]
    pub repositories: Vec<Addressed>,
    /// Where RAD-69 is answered, by Retrieve Location UID.
    #[serde(default)]
    pub sources: Vec<Addressed>,
    /// Where patients are looked up; none: in the patients file or another connector.
    pub patients: Option<XdsPatients>,
    /// Names of who issues the local ids of the patients file, as objects say them: (0010,0021), OIDs of (0010,0024).
    #[serde(default)]
    pub patient_id_authority: Vec<String>,
    /// Mutual TLS.
    pub tls: InternalTls,
    /// X-User Assertions; none are sent without it.
    pub xua: Option<Xua>,
    /// The community that ITI-18 and ITI-43 name, where the infrastructure is itself behind an XCA gateway.
    #[serde(default, deserialize_with = "optional_home")]
    pub home_community_id: Option<HomeCommunityId>,
    /// Time for a look-up.
    #[serde(default = "eight_seconds", deserialize_with = "duration")]
    pub deadline: Duration,
    /// Time until the root of a retrieve's answer has come, and the longest silence behind it.
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub first_byte: Duration,
}

/// Where something is answered for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addressed {
    /// RepositoryUniqueId or Retrieve Location UID.
    #[serde(deserialize_with = "oid")]
    pub id: Oid,
    /// `https://…`
    pub endpoint: String,
}

/// Patient look-up of an XDS infrastructure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdsPatients {
    /// Which transaction.
    pub transaction: PatientTransaction,
    /// Its address; for ITI-119 the FHIR base.
    pub endpoint: String,
    /// Assigning authority under which documents are registered, where that is not the one people are asked for by.
    #[serde(default, deserialize_with = "optional_oid")]
    pub domain: Option<Oid>,
    /// ITI-47: the supplier's device OID; ours when absent.
    #[serde(default, deserialize_with = "optional_oid")]
    pub receiver: Option<Oid>,
}

/// How patients are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum PatientTransaction {
    /// Patient Demographics Query HL7 V3.
    #[serde(rename = "ITI-47")]
    Iti47,
    /// Patient Demographics Match.
    #[serde(rename = "ITI-119")]
    Iti119,
}

/// X-User Assertions towards the national domain, issued with the seal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xua {
    /// Issuer.
    pub issuer: String,
    /// The X-Service Provider or its affinity domain.
    pub audience: String,
    /// AuthnContextClassRef.
    #[serde(default = "previous_session")]
    pub authn_context_class: String,
    /// Whether role and purpose carry `xsi:type="CE"`, for a registry that asks for it.
    #[serde(default)]
    pub typed_codes: bool,
}

/// A service that implements `proto/ncp/national/v1`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// What people call it.
    pub name: String,
    /// `https://host:port`.
    pub endpoint: String,
    /// Name in its certificate.
    pub server_name: String,
    /// Mutual TLS.
    pub tls: InternalTls,
    /// Whether it answers for patients.
    #[serde(default)]
    pub patients: bool,
    /// RepositoryUniqueIds whose documents it holds.
    #[serde(default, deserialize_with = "oids")]
    pub repository_unique_ids: Vec<Oid>,
    /// Retrieve Location UIDs it serves.
    #[serde(default, deserialize_with = "oids")]
    pub location_uids: Vec<Oid>,
    /// Time for a look-up, and until a retrieve begins.
    #[serde(default = "eight_seconds", deserialize_with = "duration")]
    pub deadline: Duration,
    /// The longest time that 64 KiB of a retrieve are waited for.
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub idle: Duration,
    /// Patients, entries or studies in one answer.
    #[serde(default = "ten_thousand")]
    pub results: usize,
}

/// A DICOMweb archive as Imaging Document Source, with manifests made on the fly.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DicomWeb {
    /// What people call it.
    pub name: String,
    /// Base of QIDO-RS and WADO-RS, `http(s)://host:port/path`.
    pub url: String,
    /// Anchors of its certificate, PEM; needed for https.
    pub anchors: Option<PathBuf>,
    /// User of HTTP basic authentication.
    pub user: Option<String>,
    /// File with the password, mode 0600.
    pub password_file: Option<PathBuf>,
    /// Codes of the manifests' entries (TOML).
    pub manifest_codes: PathBuf,
    /// repositoryUniqueId of the manifests made for it.
    #[serde(deserialize_with = "oid")]
    pub repository_unique_id: Oid,
    /// Retrieve Location UIDs it serves; the first goes into manifests made here.
    #[serde(deserialize_with = "oids")]
    pub location_uids: Vec<Oid>,
    /// Time zone of the archive (IANA).
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Root under which manifests made here get their UIDs.
    #[serde(deserialize_with = "oid")]
    pub uid_root: Oid,
    /// All names under which objects and answers may say who issues the patient ids of this archive: (0010,0021), and
    /// OIDs of (0010,0024). One that says another issuer is somebody else's, and without a name here every issuer is
    /// another.
    #[serde(default)]
    pub patient_id_authority: Vec<String>,
    /// Time until an answer begins.
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub first_byte: Duration,
    /// The longest time that 64 KiB of an answer are waited for.
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub idle: Duration,
    /// How long an archive that is busy and says for how long is waited for with one instance.
    #[serde(default = "twenty_seconds", deserialize_with = "duration")]
    pub wait: Duration,
    /// How often a search or an instance is asked for again when that may help.
    #[serde(default = "twice")]
    pub retries: u32,
    /// Requests at once for one study.
    #[serde(default = "four")]
    pub parallel: usize,
    /// Matches asked for in one search.
    #[serde(default = "thousand")]
    pub page: usize,
}

/// A folder as Document Registry, Document Repository and Imaging Document Source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// What people call it.
    pub name: String,
    /// Holds `dicom/` and `reports/`.
    pub folder: PathBuf,
    /// repositoryUniqueId of its documents.
    #[serde(deserialize_with = "oid")]
    pub repository_unique_id: Oid,
    /// Retrieve Location UIDs it serves; the first goes into manifests made here.
    #[serde(deserialize_with = "oids")]
    pub location_uids: Vec<Oid>,
    /// Time zone of the archive (IANA), for study dates without an offset.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Root under which manifests made here get their UIDs.
    #[serde(deserialize_with = "oid")]
    pub uid_root: Oid,
    /// All names under which objects and answers may say who issues the patient ids of this archive: (0010,0021), and
    /// OIDs of (0010,0024). One that says another issuer is somebody else's, and without a name here every issuer is
    /// another.
    #[serde(default)]
    pub patient_id_authority: Vec<String>,
}

impl National {
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut all: Vec<&mut PathBuf> = self.patients_file.iter_mut().collect();
        for connector in &mut self.connector {
            match connector {
                NationalConnector::Embedded(connector) => all.push(&mut connector.folder),
                NationalConnector::Grpc(Grpc { tls, .. }) | NationalConnector::Xds(Xds { tls, .. }) => {
                    all.extend(tls.paths());
                }
                NationalConnector::DicomWeb(archive) => {
                    all.push(&mut archive.manifest_codes);
                    all.extend(archive.anchors.iter_mut().chain(&mut archive.password_file));
                }
            }
        }
        all
    }
}

impl Config {
    pub(super) fn check_national(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut say = |path: &str, what: String| problems.push(ConfigProblem::new(path, what));
        let file = |path: &Path| path.is_file();
        if let Some(national) = &self.national {
            if let Some(path) = &national.patients_file
                && !file(path)
            {
                say("national.patients_file", format!("no such file: {}", path.display()));
            }
            for (index, connector) in national.connector.iter().enumerate() {
                let at = |key: &str| format!("national.connector[{index}].{key}");
                let (locations, root) = match connector {
                    NationalConnector::Embedded(c) => {
                        if !c.folder.is_dir() {
                            say(&at("folder"), format!("no such folder: {}", c.folder.display()));
                        }
                        (&c.location_uids, &c.uid_root)
                    }
                    NationalConnector::DicomWeb(c) => {
                        let secret = c.url.starts_with("https://");
                        if !(secret || c.url.starts_with("http://")) || secret != c.anchors.is_some() {
                            say(&at("url"), "expected http://… without anchors, or https://… with anchors".into());
                        }
                        if c.retries > 10 || !(1..=32).contains(&c.parallel) || !(1..=10_000).contains(&c.page) {
                            say(&at("page"), "retries up to 10, parallel 1 to 32, page 1 to 10000".into());
                        }
                        if !file(&c.manifest_codes) {
                            say(&at("manifest_codes"), format!("no such file: {}", c.manifest_codes.display()));
                        }
                        (&c.location_uids, &c.uid_root)
                    }
                    NationalConnector::Grpc(c) => {
                        if !c.endpoint.starts_with("https://") {
                            say(&at("endpoint"), "expected an https address".into());
                        }
                        for (key, path) in c.tls.named() {
                            if !file(path) {
                                say(&at(&format!("tls.{key}")), format!("no such file: {}", path.display()));
                            }
                        }
                        continue;
                    }
                    NationalConnector::Xds(c) => {
                        let addresses = std::iter::once(&c.registry)
                            .chain(c.repositories.iter().chain(&c.sources).map(|a| &a.endpoint))
                            .chain(c.patients.iter().map(|p| &p.endpoint));
                        if addresses.into_iter().any(|a| !a.starts_with("https://")) {
                            say(&at("registry"), "all addresses of an XDS infrastructure are https".into());
                        }
                        for (key, path) in c.tls.named() {
                            if !file(path) {
                                say(&at(&format!("tls.{key}")), format!("no such file: {}", path.display()));
                            }
                        }
                        continue;
                    }
                };
                if locations.is_empty() {
                    say(&at("location_uids"), "at least one Retrieve Location UID".into());
                }
                if root.as_str().len() > 43 {
                    say(&at("uid_root"), "at most 43 characters, so that UIDs under it stay within 64".into());
                }
            }
        }
        problems
    }
}

fn previous_session() -> String {
    "urn:oasis:names:tc:SAML:2.0:ac:classes:PreviousSession".into()
}
fn eight_seconds() -> Duration {
    Duration::from_secs(8)
}
fn ten_thousand() -> usize {
    10_000
}
fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}
fn twenty_seconds() -> Duration {
    Duration::from_secs(20)
}
fn twice() -> u32 {
    2
}
fn four() -> usize {
    4
}
fn thousand() -> usize {
    1000
}
fn utc() -> String {
    "UTC".into()
}
fn english() -> String {
    "en".into()
}
