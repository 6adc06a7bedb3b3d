//! A throw-away PKI, a throw-away PostgreSQL cluster, and a repository's configuration.
#![allow(dead_code, unreachable_pub, clippy::print_stdout)]

pub mod process;
pub mod receivers;
pub mod relay;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ncp_audit::server::{Config, Engine};
pub use ncp_tests::ports::free;
use ncp_tls::{Names, TlsFiles};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use process::Namespace;
use rustix::process::Signal;

/// One authority; its leaves are server and client at once.
pub struct Pki {
    pub dir: PathBuf,
    ca: (X509, PKey<Private>),
}

impl Pki {
    pub fn create(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let ca = certificate("test authority", None);
        std::fs::write(dir.join("ca.pem"), ca.0.to_pem().expect("pem")).expect("writes");
        Self { dir: dir.to_owned(), ca }
    }

    pub fn leaf(&self, name: &str) -> TlsFiles {
        let (leaf, key) = certificate(name, Some(&self.ca));
        let (chain, key_file) = (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        std::fs::write(&chain, leaf.to_pem().expect("pem")).expect("writes");
        std::fs::write(&key_file, key.private_key_to_pem_pkcs8().expect("pem")).expect("writes");
        TlsFiles { cert_chain: chain, key: key_file, anchors: self.dir.join("ca.pem"), crls: None }
    }
}

fn certificate(name: &str, issuer: Option<&(X509, PKey<Private>)>) -> (X509, PKey<Private>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("P-256");
    let key = PKey::from_ec_key(EcKey::generate(&group).expect("key")).expect("key");
    let mut subject = X509NameBuilder::new().expect("name");
    subject.append_entry_by_nid(Nid::COMMONNAME, name).expect("CN");
    let subject = subject.build();
    let mut builder = X509::builder().expect("builder");
    builder.set_version(2).expect("version");
    let mut serial = BigNum::new().expect("serial");
    serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).expect("serial");
    builder.set_serial_number(&serial.to_asn1_integer().expect("serial")).expect("serial");
    builder.set_subject_name(&subject).expect("subject");
    builder.set_issuer_name(issuer.map_or(&subject, |(ca, _)| ca.subject_name())).expect("issuer");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("time")).expect("time");
    builder.set_not_after(&Asn1Time::days_from_now(2).expect("time")).expect("time");
    builder.set_pubkey(&key).expect("key");
    if issuer.is_none() {
        builder.append_extension(BasicConstraints::new().critical().ca().build().expect("ca")).expect("ca");
        builder
            .append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().expect("usage"))
            .expect("usage");
    } else {
        let names = SubjectAlternativeName::new()
            .dns("localhost")
            .dns(name)
            .ip("127.0.0.1")
            .build(&builder.x509v3_context(None, None));
        builder.append_extension(names.expect("names")).expect("names");
        let usage = ExtendedKeyUsage::new().server_auth().client_auth().build().expect("usage");
        builder.append_extension(usage).expect("usage");
    }
    builder.sign(issuer.map_or(&key, |(_, key)| key), MessageDigest::sha256()).expect("signs");
    (builder.build(), key)
}

pub fn key_file(dir: &Path) -> PathBuf {
    secret(&dir.join("key"), &"ab".repeat(32))
}

pub fn secret(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("writes");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    path.to_owned()
}

pub fn names(names: &[&str]) -> Names {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

/// A search of everything, with its reason.
pub fn search() -> ncp_audit::Filter {
    ncp_audit::Filter { reason: "review".into(), ..Default::default() }
}

/// The message of a retrieve of images by Finland, of the patient with this number.
pub fn message(source: &str, exchange: &str, patient: u64, study: &str, purpose: &str) -> Vec<u8> {
    format!(
        r#"<AuditMessage><EventIdentification EventActionCode="R" EventDateTime="2026-10-23T09:14:11Z" EventOutcomeIndicator="0"><EventID csd-code="110104" codeSystemName="DCM" originalText="DICOM Instances Transferred"/><EventTypeCode csd-code="RAD-75" codeSystemName="IHE Transactions" originalText="Cross Gateway Retrieve Imaging Document Set"/><PurposeOfUse csd-code="{purpose}" codeSystemName="urn:oasis:names:tc:xspa:1.0" originalText=""/></EventIdentification><ActiveParticipant UserID="u" UserIsRequestor="true"><RoleIDCode csd-code="221" codeSystemName="ISCO" originalText="Medical Doctors"/></ActiveParticipant><AuditSourceIdentification AuditSourceID="{source}"/><ParticipantObjectIdentification ParticipantObjectID="{patient}^^^&amp;2.999.1&amp;ISO" ParticipantObjectTypeCode="1" ParticipantObjectTypeCodeRole="1"><ParticipantObjectIDTypeCode csd-code="2" codeSystemName="RFC-3881" originalText="Patient Number"/></ParticipantObjectIdentification><ParticipantObjectIdentification ParticipantObjectID="{study}" ParticipantObjectTypeCode="2" ParticipantObjectTypeCodeRole="3"><ParticipantObjectIDTypeCode csd-code="110180" codeSystemName="DCM" originalText="Study Instance UID"/></ParticipantObjectIdentification><ParticipantObjectIdentification ParticipantObjectID="{exchange}" ParticipantObjectTypeCode="2" ParticipantObjectTypeCodeRole="26"><ParticipantObjectIDTypeCode csd-code="ncp-exchange" codeSystemName="NCP" originalText="Exchange id"/></ParticipantObjectIdentification></AuditMessage>"#
    )
    .into_bytes()
}

pub fn config(dir: &Path, pki: &Pki, engine: Engine) -> Config {
    let server = pki.leaf("ncp-audit");
    Config {
        feed: free(),
        query: free(),
        admin: free(),
        syslog: Some(free()),
        fhir: Some(free()),
        fhir_base: None,
        readers: names(&["auditor", "tool"]),
        writers: [("ncp-no".to_owned(), "ncp-no".to_owned())].into(),
        senders: names(&["opennc", "bad", "hospital", "hospital-relay"]),
        portals: names(&["portal"]),
        token_issuer: None,
        token_audience: None,
        jwks_file: None,
        token_life_seconds: None,
        untyped_tokens: false,
        certificate: server.cert_chain,
        key: server.key,
        anchors: server.anchors,
        crls: None,
        source_anchors: None,
        source_crls: None,
        data_dir: dir.join("data"),
        key_file: key_file(dir),
        postgres_url_file: None,
        engine,
        source: "ncp-audit".into(),
        enterprise_site: "NO".into(),
    }
}

/// A PostgreSQL server of its own in a temporary folder, run as the user that Debian's package makes; no TCP port.
pub struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
    /// The small disk that it has for itself.
    disk: Option<Namespace>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::on(None)
    }

    /// With its data on a small disk.
    pub fn on_disk(kib: u32) -> Self {
        Self::on(Some(kib))
    }

    fn on(kib: Option<u32>) -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed (tests/run.sh does)");
        let bin = versions.flatten().map(|e| e.path().join("bin")).max().expect("a version");
        let dir = tempfile::tempdir().expect("a folder");
        let for_all = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777));
        for_all(dir.path()).expect("chmod");
        let mount = dir.path().join("disk");
        let disk = kib.map(|kib| Namespace::with(&[(&mount, kib)]));
        disk.iter().for_each(|disk| for_all(&disk.path(&mount)).expect("chmod"));
        let cluster = Self { dir, bin, disk };
        let mut arguments = vec!["-D", "data", "-A", "trust", "-U", "postgres", "--no-instructions"];
        let data = cluster.data();
        arguments[1] = &data;
        // Segments that go with a small disk.
        arguments.extend(kib.map(|_| "--wal-segsize=1"));
        assert!(cluster.runs("initdb", &arguments), "initdb");
        cluster.control("start");
        cluster
    }

    fn data(&self) -> String {
        let folder = if self.disk.is_some() { "disk/data" } else { "data" };
        self.dir.path().join(folder).display().to_string()
    }

    fn runs(&self, program: &str, arguments: &[&str]) -> bool {
        let program = self.bin.join(program);
        // The server refuses to run as root.
        let (first, rest) = match rustix::process::getuid().is_root() {
            true => {
                (Path::new("runuser"), vec!["-u".as_ref(), "postgres".as_ref(), "--".as_ref(), program.as_os_str()])
            }
            false => (program.as_path(), vec![]),
        };
        let mut command = self.disk.as_ref().map_or_else(|| Command::new(first), |disk| disk.command(first));
        let command = command.args(rest).args(arguments).current_dir(self.dir.path());
        command.stdout(std::process::Stdio::null()).status().expect("runs").success()
    }

    fn controls(&self, what: &str) -> bool {
        let socket = self.dir.path().display().to_string();
        let small = if self.disk.is_some() { " -c min_wal_size=2MB -c max_wal_size=8MB" } else { "" };
        let options = format!("-c listen_addresses='' -c unix_socket_directories={socket}{small}");
        let log = self.dir.path().join("log").display().to_string();
        self.runs("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "-l", &log, "-o", &options, what])
    }

    pub fn control(&self, what: &str) {
        assert!(self.controls(what), "pg_ctl {what}");
    }

    /// Starts it again, however it ended; what is left of the last server may need a moment to go.
    pub fn again(&self) {
        process::until("PostgreSQL starts", 60, || self.controls("restart"));
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let file = PathBuf::from(self.data()).join("postmaster.pid");
        let file = self.disk.as_ref().map_or_else(|| file.clone(), |disk| disk.path(&file));
        let text = std::fs::read_to_string(file).expect("runs");
        process::send(text.lines().next().and_then(|id| id.parse().ok()).expect("a pid"), Signal::KILL);
    }

    /// Takes all of its disk; [`Self::free`] gives it back.
    pub fn fill(&self) {
        self.disk.as_ref().expect("a small disk").fill(&self.filler(), 0);
    }

    pub fn free(&self) {
        std::fs::remove_file(self.disk.as_ref().expect("a small disk").path(&self.filler())).expect("frees");
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("disk/filler")
    }

    pub fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.dir.path().display())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controls("stop");
    }
}
