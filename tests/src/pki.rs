//! A throw-away PKI per country: roots and intermediates, leaves for TLS server, TLS client, seal, our own services and a
//! reader of the trail.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509CrlBuilder, X509Extension, X509Name, X509NameBuilder, X509RevokedBuilder};

/// What went wrong.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Which key a certificate gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, 2048 bits.
    Rsa2048,
    /// ECDSA on P-256.
    P256,
    /// RSA, 1024 bits: too weak.
    Rsa1024,
    /// ECDSA on P-192: too weak.
    P192,
}

/// In what a leaf differs from what is right.
#[derive(Clone)]
pub struct Odd {
    /// First day of its life, from now.
    pub from_days: i64,
    /// Last day of its life, from now.
    pub to_days: u32,
    /// Seconds of its life from now, instead.
    pub to_seconds: Option<i64>,
    /// Another subject, DER of the name.
    pub subject: Option<Vec<u8>>,
    /// This key instead of a new one.
    pub key: Option<PKey<Private>>,
    /// Another public key than that of its key file.
    pub public_key: Option<PKey<openssl::pkey::Public>>,
    /// Signed by itself.
    pub self_signed: bool,
    /// A CA certificate.
    pub ca: bool,
    /// Without digitalSignature.
    pub no_digital_signature: bool,
    /// For another host.
    pub host: Option<String>,
    /// Promises a stapled answer.
    pub must_staple: bool,
}

impl Default for Odd {
    fn default() -> Self {
        Self {
            from_days: 0,
            to_days: 90,
            to_seconds: None,
            subject: None,
            key: None,
            public_key: None,
            self_signed: false,
            ca: false,
            no_digital_signature: false,
            host: None,
            must_staple: false,
        }
    }
}

/// What a leaf is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Signing assertions.
    Seal,
}

/// An authority with its key.
pub struct Authority {
    /// Certificate.
    pub certificate: X509,
    key: PKey<Private>,
}

/// What a certificate is for, each with a root of its own where a country keeps them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// TLS between countries.
    Tls,
    /// Assertions for other countries.
    Seal,
    /// Our own services and the readers of the trail.
    Internal,
    /// TLS of national consumers.
    Consumer,
    /// Assertions of national consumers.
    Assertion,
}

impl Task {
    const ALL: [Self; 5] = [Self::Tls, Self::Seal, Self::Internal, Self::Consumer, Self::Assertion];

    /// As in names of files: `tls-anchors.pem` and so on.
    fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Seal => "seal",
            Self::Internal => "internal",
            Self::Consumer => "consumer",
            Self::Assertion => "assertion",
        }
    }

    /// The task of a leaf by its name, else by its use.
    fn of(name: &str, usage: Use) -> Self {
        match (name, usage) {
            ("consumer", _) => Self::Consumer,
            ("xua", _) => Self::Assertion,
            (name, _) if name.starts_with("internal-") => Self::Internal,
            (_, Use::Seal) => Self::Seal,
            (_, Use::Client | Use::Server) => Self::Tls,
        }
    }
}

/// A root and the intermediate that it vouches for.
struct Hierarchy {
    root: Authority,
    intermediate: Authority,
}

impl Hierarchy {
    fn create(country: &str, prefix: &str) -> Result<Self, Error> {
        let root = authority(country, &format!("{prefix}root"), None)?;
        let intermediate = authority(country, &format!("{prefix}intermediate"), Some(&root))?;
        Ok(Self { root, intermediate })
    }

    fn pem(&self) -> Result<Vec<u8>, Error> {
        Ok([self.root.certificate.to_pem()?, self.intermediate.certificate.to_pem()?].concat())
    }

    fn file(dir: &Path, prefix: &str, name: &str, end: &str) -> PathBuf {
        dir.join("authority").join(format!("{prefix}{name}.{end}"))
    }

    fn write(&self, dir: &Path, prefix: &str) -> Result<(), Error> {
        for (name, authority) in [("root", &self.root), ("intermediate", &self.intermediate)] {
            write(&Self::file(dir, prefix, name, "pem"), &authority.certificate.to_pem()?, 0o644)?;
            write(&Self::file(dir, prefix, name, "key"), &authority.key.private_key_to_pem_pkcs8()?, 0o600)?;
        }
        Ok(())
    }

    fn open(dir: &Path, prefix: &str) -> Result<Self, Error> {
        let authority = |name: &str| -> Result<Authority, Error> {
            let read = |end: &str| std::fs::read(Self::file(dir, prefix, name, end));
            let key = PKey::private_key_from_pem(&read("key")?)?;
            Ok(Authority { certificate: X509::from_pem(&read("pem")?)?, key })
        };
        Ok(Self { root: authority("root")?, intermediate: authority("intermediate")? })
    }
}

/// A country's PKI in a folder.
pub struct CountryPki {
    /// Folder.
    pub dir: PathBuf,
    /// Two letters.
    pub country: String,
    /// One for each task, or one for all.
    hierarchies: Vec<Hierarchy>,
}

impl CountryPki {
    /// Makes root, intermediate and all leaves of a country: one root for everything, as only tests have it.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn create(dir: &Path, country: &str, seal: Algorithm) -> Result<Self, Error> {
        Self::with(dir, country, seal, vec![Hierarchy::create(country, "")?])
    }

    /// The same with a root of its own for each task.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn create_apart(dir: &Path, country: &str, seal: Algorithm) -> Result<Self, Error> {
        let one = |task: Task| Hierarchy::create(country, &format!("{} ", task.name()));
        Self::with(dir, country, seal, Task::ALL.into_iter().map(one).collect::<Result<_, _>>()?)
    }

    fn with(dir: &Path, country: &str, seal: Algorithm, hierarchies: Vec<Hierarchy>) -> Result<Self, Error> {
        std::fs::create_dir_all(dir.join("authority"))?;
        let pki = Self { dir: dir.to_owned(), country: country.to_owned(), hierarchies };
        let all = pki.hierarchies.iter().map(Hierarchy::pem).collect::<Result<Vec<_>, _>>()?;
        write(&dir.join("anchors.pem"), &all.concat(), 0o644)?;
        for task in Task::ALL {
            write(&dir.join(format!("{}-anchors.pem", task.name())), &pki.hierarchy(task).pem()?, 0o644)?;
            if pki.is_apart() {
                pki.hierarchy(task).write(dir, &format!("{}-", task.name()))?;
            }
        }
        if !pki.is_apart() {
            pki.hierarchy(Task::Tls).write(dir, "")?;
        }
        pki.leaf("tls-server", Use::Server, Algorithm::P256, 0, 90)?;
        pki.leaf("tls-client", Use::Client, Algorithm::P256, 0, 90)?;
        pki.leaf("seal", Use::Seal, seal, 0, 90)?;
        pki.leaf("internal-server", Use::Server, Algorithm::P256, 0, 90)?;
        pki.leaf("internal-client", Use::Client, Algorithm::P256, 0, 90)?;
        pki.reader("reader")?;
        for name in ["spool.key", "audit.key", "sealing.key"] {
            let mut bytes = [0; 32];
            openssl::rand::rand_bytes(&mut bytes)?;
            write(&dir.join(name), hex::encode(bytes).as_bytes(), 0o600)?;
        }
        Ok(pki)
    }

    /// Makes the certificate of a person who reads the trail; services have others and read nothing.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn reader(&self, name: &str) -> Result<(), Error> {
        self.issued(Task::Internal, name, Use::Client, Algorithm::P256, &Odd::default()).map(drop)
    }

    fn is_apart(&self) -> bool {
        self.hierarchies.len() > 1
    }

    /// Who issues the certificates of a task.
    fn hierarchy(&self, task: Task) -> &Hierarchy {
        let at = if self.is_apart() { Task::ALL.iter().position(|one| *one == task).unwrap_or_default() } else { 0 };
        &self.hierarchies[at]
    }

    /// Makes one leaf; its life begins and ends so many days from now.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn leaf(
        &self,
        name: &str,
        usage: Use,
        algorithm: Algorithm,
        from_days: i64,
        to_days: u32,
    ) -> Result<(), Error> {
        self.odd_leaf(name, usage, algorithm, &Odd { from_days, to_days, ..Odd::default() }).map(|_| ())
    }

    /// Makes a leaf that differs from what is right in what `odd` says.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn odd_leaf(&self, name: &str, usage: Use, algorithm: Algorithm, odd: &Odd) -> Result<X509, Error> {
        self.issued(Task::of(name, usage), name, usage, algorithm, odd)
    }

    fn issued(&self, task: Task, name: &str, usage: Use, algorithm: Algorithm, odd: &Odd) -> Result<X509, Error> {
        let intermediate = &self.hierarchy(task).intermediate;
        let key = odd.key.clone().map_or_else(|| key(algorithm), Ok)?;
        let common = format!("{name}.ncp.{}", self.country.to_lowercase());
        let issuer = (!odd.self_signed).then_some(intermediate);
        let mut builder = begin(&self.country, &common, &key, issuer, odd.from_days, odd.to_days)?;
        if let Some(seconds) = odd.to_seconds {
            builder.set_not_after(&*Asn1Time::from_unix(jiff::Timestamp::now().as_second() + seconds)?)?;
        }
        if let Some(der) = &odd.subject {
            let subject = X509Name::from_der(der)?;
            builder.set_subject_name(&subject)?;
            if odd.self_signed {
                builder.set_issuer_name(&subject)?;
            }
        }
        if let Some(public) = &odd.public_key {
            builder.set_pubkey(public)?;
        }
        let mut constraints = BasicConstraints::new();
        constraints.critical();
        if odd.ca {
            constraints.ca();
        }
        builder.append_extension(constraints.build()?)?;
        let mut key_usage = KeyUsage::new();
        key_usage.critical();
        match (odd.ca, odd.no_digital_signature) {
            (true, _) => drop(key_usage.digital_signature().key_cert_sign()),
            (false, true) => drop(key_usage.key_agreement()),
            (false, false) => drop(key_usage.digital_signature()),
        }
        builder.append_extension(key_usage.build()?)?;
        match usage {
            Use::Server => builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?,
            Use::Client => builder.append_extension(ExtendedKeyUsage::new().client_auth().build()?)?,
            Use::Seal => {}
        }
        let context = builder.x509v3_context(issuer.map(|i| i.certificate.as_ref()), None);
        let subject = SubjectKeyIdentifier::new().build(&context)?;
        let authority = issuer.map(|_| AuthorityKeyIdentifier::new().keyid(true).build(&context)).transpose()?;
        let host = odd.host.as_deref().unwrap_or("localhost");
        let mut names = SubjectAlternativeName::new();
        names.dns(host);
        if odd.host.is_none() {
            names.ip("127.0.0.1");
        }
        let names = names.build(&context)?;
        builder.append_extension(subject)?;
        if let Some(authority) = authority {
            builder.append_extension(authority)?;
        }
        if usage == Use::Server {
            builder.append_extension(names)?;
        }
        if odd.must_staple {
            // id-pe-tlsfeature: SEQUENCE { INTEGER 5 (status_request) } (RFC 7633).
            let oid = openssl::asn1::Asn1Object::from_str("1.3.6.1.5.5.7.1.24")?;
            let value = openssl::asn1::Asn1OctetString::new_from_bytes(&[0x30, 3, 2, 1, 5])?;
            builder.append_extension(X509Extension::new_from_der(&oid, false, &value)?)?;
        }
        builder.sign(issuer.map_or(&key, |i| &i.key), MessageDigest::sha256())?;
        let certificate = builder.build();
        let chain = [certificate.to_pem()?, intermediate.certificate.to_pem()?].concat();
        write(&self.dir.join(format!("{name}.pem")), &chain, 0o644)?;
        write(&self.dir.join(format!("{name}.key")), &key.private_key_to_pem_pkcs8()?, 0o600)?;
        Ok(certificate)
    }

    /// Writes the CRLs of all roots and intermediates into one file: revoked are leaves of the folder by name. They begin and
    /// end so many seconds from now.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn crl(&self, name: &str, revoked: &[&str], (from, to): (i64, i64)) -> Result<PathBuf, Error> {
        let now = jiff::Timestamp::now().as_second();
        let mut pem = Vec::new();
        for authority in self.hierarchies.iter().flat_map(|one| [&one.root, &one.intermediate]) {
            let mut builder = X509CrlBuilder::new()?;
            builder.set_issuer_name(authority.certificate.subject_name())?;
            builder.set_last_update(&*Asn1Time::from_unix(now + from)?)?;
            builder.set_next_update(&*Asn1Time::from_unix(now + to)?)?;
            for leaf in revoked {
                let certificate = X509::from_pem(&std::fs::read(self.path(&format!("{leaf}.pem")))?)?;
                if !certificate.issuer_name().try_cmp(authority.certificate.subject_name())?.is_eq() {
                    continue;
                }
                let mut entry = X509RevokedBuilder::new()?;
                entry.set_serial_number(certificate.serial_number())?;
                entry.set_revocation_date(&*Asn1Time::from_unix(now + from)?)?;
                builder.add_revoked(entry.build())?;
            }
            builder.sort()?;
            let certificate = X509::builder()?;
            let context = certificate.x509v3_context(Some(&authority.certificate), None);
            builder.append_extension(AuthorityKeyIdentifier::new().keyid(true).build(&context)?)?;
            let number = openssl::asn1::Asn1Object::from_str("2.5.29.20")?;
            let value = u32::try_from(now + from)?.to_be_bytes();
            let value = openssl::asn1::Asn1OctetString::new_from_bytes(&[&[2, 4], value.as_slice()].concat())?;
            builder.append_extension(X509Extension::new_from_der(&number, false, &value)?)?;
            builder.sign(&authority.key, MessageDigest::sha256())?;
            pem.extend(builder.build()?.to_pem()?);
        }
        let path = self.path(name);
        write(&path, &pem, 0o644)?;
        Ok(path)
    }

    /// Opens a folder that [`create`](Self::create) or [`create_apart`](Self::create_apart) made.
    ///
    /// # Errors
    /// Files.
    pub fn open(dir: &Path, country: &str) -> Result<Self, Error> {
        let hierarchies = match Hierarchy::file(dir, "", "root", "pem").is_file() {
            true => vec![Hierarchy::open(dir, "")?],
            false => {
                let one = |task: Task| Hierarchy::open(dir, &format!("{}-", task.name()));
                Task::ALL.into_iter().map(one).collect::<Result<_, _>>()?
            }
        };
        Ok(Self { dir: dir.to_owned(), country: country.to_owned(), hierarchies })
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The root, for tests that build odd chains.
    pub fn root(&self) -> &Authority {
        &self.hierarchy(Task::Tls).root
    }
}

/// The line of a `[[peer]]` that names the certificates of a country which [`CountryPki::create`] made.
pub fn peer_pin(country: &str) -> String {
    let country = country.to_lowercase();
    format!(
        "pin = {{ tls_client = [\"tls-client.ncp.{country}\"], tls_server = [\"tls-server.ncp.{country}\"], \
         seal = [\"seal.ncp.{country}\"] }}\n"
    )
}

fn key(algorithm: Algorithm) -> Result<PKey<Private>, ErrorStack> {
    match algorithm {
        Algorithm::Rsa2048 => PKey::from_rsa(Rsa::generate(2048)?),
        Algorithm::Rsa1024 => PKey::from_rsa(Rsa::generate(1024)?),
        Algorithm::P192 => PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME192V1)?)?),
        Algorithm::P256 => PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?),
    }
}

fn begin(
    country: &str,
    common: &str,
    key: &PKey<Private>,
    issuer: Option<&Authority>,
    from_days: i64,
    to_days: u32,
) -> Result<openssl::x509::X509Builder, Error> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COUNTRYNAME, country)?;
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Demonstration NCP")?;
    name.append_entry_by_nid(Nid::COMMONNAME, common)?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let now = jiff::Timestamp::now().as_second();
    let from = Asn1Time::from_unix(now - 7200 + from_days * 86_400)?;
    let to = Asn1Time::from_unix(now - 1800 + i64::from(to_days) * 86_400)?;
    let serial = serial.to_asn1_integer()?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(issuer.map_or(name.as_ref(), |i| i.certificate.subject_name()))?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&from)?;
    builder.set_not_after(&to)?;
    Ok(builder)
}

fn authority(country: &str, name: &str, issuer: Option<&Authority>) -> Result<Authority, Error> {
    let key = key(Algorithm::P256)?;
    let common = format!("Demonstration {name} {country}");
    let mut builder = begin(country, &common, &key, issuer, 0, 365)?;
    let mut constraints = BasicConstraints::new();
    constraints.critical().ca();
    if issuer.is_some() {
        constraints.pathlen(0);
    }
    builder.append_extension(constraints.build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let context = builder.x509v3_context(issuer.map(|i| i.certificate.as_ref()), None);
    let subject = SubjectKeyIdentifier::new().build(&context)?;
    let above = issuer.map(|_| AuthorityKeyIdentifier::new().keyid(true).build(&context)).transpose()?;
    builder.append_extension(subject)?;
    if let Some(above) = above {
        builder.append_extension(above)?;
    }
    builder.sign(issuer.map_or(&key, |i| &i.key), MessageDigest::sha256())?;
    Ok(Authority { certificate: builder.build(), key })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}
