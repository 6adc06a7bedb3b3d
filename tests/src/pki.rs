//! A throw-away PKI per country: root and intermediate, leaves for TLS server, TLS client, seal and our own services.

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
use openssl::x509::{X509, X509NameBuilder};

/// What went wrong.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Which key a certificate gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, 2048 bits.
    Rsa2048,
    /// ECDSA on P-256.
    P256,
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

/// A country's PKI in a folder.
pub struct CountryPki {
    /// Folder.
    pub dir: PathBuf,
    /// Two letters.
    pub country: String,
    root: Authority,
    intermediate: Authority,
}

impl CountryPki {
    /// Makes root, intermediate and all leaves of a country.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn create(dir: &Path, country: &str, seal: Algorithm) -> Result<Self, Error> {
        std::fs::create_dir_all(dir)?;
        let root = authority(country, "root", None)?;
        let intermediate = authority(country, "intermediate", Some(&root))?;
        write(
            &dir.join("anchors.pem"),
            &[root.certificate.to_pem()?, intermediate.certificate.to_pem()?].concat(),
            0o644,
        )?;
        let pki = Self { dir: dir.to_owned(), country: country.to_owned(), root, intermediate };
        pki.leaf("tls-server", Use::Server, Algorithm::P256, 0, 90)?;
        pki.leaf("tls-client", Use::Client, Algorithm::P256, 0, 90)?;
        pki.leaf("seal", Use::Seal, seal, 0, 90)?;
        pki.leaf("internal-server", Use::Server, Algorithm::P256, 0, 90)?;
        pki.leaf("internal-client", Use::Client, Algorithm::P256, 0, 90)?;
        for name in ["spool.key", "audit.key", "sealing.key"] {
            let mut bytes = [0; 32];
            openssl::rand::rand_bytes(&mut bytes)?;
            write(&dir.join(name), hex::encode(bytes).as_bytes(), 0o600)?;
        }
        Ok(pki)
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
        let key = key(algorithm)?;
        let common = format!("{name}.ncp.{}", self.country.to_lowercase());
        let mut builder = begin(&self.country, &common, &key, Some(&self.intermediate), from_days, to_days)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        match usage {
            Use::Server => builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?,
            Use::Client => builder.append_extension(ExtendedKeyUsage::new().client_auth().build()?)?,
            Use::Seal => {}
        }
        let context = builder.x509v3_context(Some(&self.intermediate.certificate), None);
        let subject = SubjectKeyIdentifier::new().build(&context)?;
        let issuer = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        let names = SubjectAlternativeName::new().dns("localhost").ip("127.0.0.1").build(&context)?;
        builder.append_extension(subject)?;
        builder.append_extension(issuer)?;
        if usage == Use::Server {
            builder.append_extension(names)?;
        }
        builder.sign(&self.intermediate.key, MessageDigest::sha256())?;
        let chain = [builder.build().to_pem()?, self.intermediate.certificate.to_pem()?].concat();
        write(&self.dir.join(format!("{name}.pem")), &chain, 0o644)?;
        write(&self.dir.join(format!("{name}.key")), &key.private_key_to_pem_pkcs8()?, 0o600)
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The root, for tests that build odd chains.
    pub fn root(&self) -> &Authority {
        &self.root
    }
}

fn key(algorithm: Algorithm) -> Result<PKey<Private>, ErrorStack> {
    match algorithm {
        Algorithm::Rsa2048 => PKey::from_rsa(Rsa::generate(2048)?),
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
    let from = Asn1Time::from_unix(now - 3600 + from_days * 86_400)?;
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
