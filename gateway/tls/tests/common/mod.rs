//! A small PKI in memory, and OCSP answers of every kind. Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::sync::atomic::{AtomicU32, Ordering};

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ocsp::{OcspCertId, OcspRequest};
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Crl, X509Extension, X509Name, X509NameBuilder};

/// A certificate with its key.
#[derive(Clone)]
pub struct Pair {
    pub certificate: X509,
    pub key: PKey<Private>,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Authority,
    Client,
    Server,
    /// A server that promises a stapled answer.
    Stapling,
    /// Who signs assertions.
    Seal,
}

pub fn key() -> PKey<Private> {
    key_on(Nid::X9_62_PRIME256V1)
}

pub fn key_on(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).expect("a curve");
    PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
}

fn name(common: &str) -> X509Name {
    let mut name = X509NameBuilder::new().expect("a name");
    name.append_entry_by_nid(Nid::COUNTRYNAME, "BE").expect("a name");
    name.append_entry_by_nid(Nid::COMMONNAME, common).expect("a name");
    name.build()
}

impl Pair {
    /// A root, or what `issuer` signs.
    pub fn new(common: &str, kind: Kind, issuer: Option<&Self>) -> Self {
        Self::with(common, kind, issuer, key(), 30)
    }

    /// The same with this key, and an end so many days from now.
    pub fn with(common: &str, kind: Kind, issuer: Option<&Self>, key: PKey<Private>, days: i64) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let mut made = X509::builder().expect("a builder");
        made.set_version(2).expect("a version");
        let serial = BigNum::from_u32(SERIAL.fetch_add(1, Ordering::Relaxed)).expect("a number");
        made.set_serial_number(&Asn1Integer::from_bn(&serial).expect("a number")).expect("a number");
        let subject = name(common);
        made.set_subject_name(&subject).expect("a subject");
        made.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name())).expect("an issuer");
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs()).expect("fits");
        made.set_not_before(&Asn1Time::from_unix(now - 90 * 86_400).expect("a time")).expect("a time");
        made.set_not_after(&Asn1Time::from_unix(now + days * 86_400).expect("a time")).expect("a time");
        made.set_pubkey(&key).expect("a key");
        let context = |made: &openssl::x509::X509Builder| -> Vec<X509Extension> {
            let context = made.x509v3_context(issuer.map(|issuer| &*issuer.certificate), None);
            let mut all = vec![SubjectKeyIdentifier::new().build(&context).expect("an extension")];
            if issuer.is_some() {
                all.push(AuthorityKeyIdentifier::new().keyid(true).build(&context).expect("an extension"));
            }
            if matches!(kind, Kind::Server | Kind::Stapling) {
                all.push(SubjectAlternativeName::new().dns("localhost").build(&context).expect("an extension"));
            }
            if kind == Kind::Stapling {
                #[allow(deprecated)]
                all.push(
                    X509Extension::new_nid(None, None, Nid::from_raw(1020), "status_request").expect("an extension"),
                );
            }
            all
        };
        let mut extensions = context(&made);
        if kind == Kind::Authority {
            extensions.push(BasicConstraints::new().critical().ca().build().expect("an extension"));
            extensions.push(KeyUsage::new().critical().key_cert_sign().crl_sign().build().expect("an extension"));
        } else {
            extensions.push(BasicConstraints::new().critical().build().expect("an extension"));
            extensions.push(KeyUsage::new().critical().digital_signature().build().expect("an extension"));
            let mut uses = ExtendedKeyUsage::new();
            match kind {
                Kind::Seal => {}
                Kind::Client => extensions.push(uses.client_auth().build().expect("an extension")),
                _ => extensions.push(uses.server_auth().build().expect("an extension")),
            }
        }
        for extension in extensions {
            made.append_extension(extension).expect("an extension");
        }
        made.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).expect("signs");
        Self { certificate: made.build(), key }
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("PEM")
    }
}

/// What a responder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Good,
    Revoked,
    /// What is no answer.
    Garbage,
    /// It does not answer.
    Nothing,
}

/// A DER element.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// The first element inside an element, as many levels deep.
fn inside(mut bytes: &[u8], levels: usize) -> &[u8] {
    for _ in 0..levels {
        let long = usize::from(bytes[1]).saturating_sub(0x80);
        bytes = &bytes[2 + long..];
    }
    let (head, length) = match bytes[1] {
        0x81 => (3, usize::from(bytes[2])),
        0x82 => (4, usize::from(bytes[2]) << 8 | usize::from(bytes[3])),
        short => (2, usize::from(short)),
    };
    &bytes[..head + length]
}

fn time(seconds_from_now: i64) -> Vec<u8> {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds_from_now);
    der(0x18, &[at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()])
}

const ECDSA_SHA256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";

/// The answer to a request (DER), signed by `signer`, that ends so many seconds from now.
pub fn answer(request: &[u8], signer: &Pair, says: Says, ends: Option<i64>) -> Vec<u8> {
    const BASIC: &[u8] = b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01";
    let status = match says {
        Says::Good => der(0x80, &[]),
        Says::Revoked => der(0xa1, &[&time(-3600)]),
        Says::Garbage | Says::Nothing => return Vec::new(),
    };
    let next = ends.map(|ends| der(0xa0, &[&time(ends)])).unwrap_or_default();
    let single = der(0x30, &[inside(request, 4), &status, &time(-3600), &next]);
    let responder = der(0xa1, &[&signer.certificate.subject_name().to_der().expect("DER")]);
    let data = der(0x30, &[&responder, &time(-3600), &der(0x30, &[&single])]);
    let mut signing = Signer::new(MessageDigest::sha256(), &signer.key).expect("a signer");
    let signature = signing.sign_oneshot_to_vec(&data).expect("signs");
    let basic = der(0x30, &[&data, &der(0x30, &[ECDSA_SHA256]), &der(0x03, &[b"\0", &signature])]);
    let bytes = der(0xa0, &[&der(0x30, &[BASIC, &der(0x04, &[&basic])])]);
    der(0x30, &[b"\x0a\x01\x00", &bytes])
}

/// A CRL (PEM, RFC 5280 5.1) that `issuer` issued, and that begins and ends so many seconds from now.
pub fn crl(issuer: &Pair, (issued, ends): (i64, i64), revoked: &[&Pair]) -> Vec<u8> {
    let algorithm = der(0x30, &[ECDSA_SHA256]);
    let name = issuer.certificate.subject_name().to_der().expect("DER");
    let entry = |pair: &&Pair| {
        let serial = pair.certificate.serial_number().to_bn().expect("a number").to_vec();
        // A number whose first bit is set would be negative.
        let sign: &[u8] = if serial[0] < 0x80 { b"" } else { b"\0" };
        der(0x30, &[&der(0x02, &[sign, &serial]), &time(issued)])
    };
    let entries: Vec<u8> = revoked.iter().flat_map(entry).collect();
    let list = if entries.is_empty() { Vec::new() } else { der(0x30, &[&entries]) };
    let data = der(0x30, &[b"\x02\x01\x01", &algorithm, &name, &time(issued), &time(ends), &list]);
    let mut signing = Signer::new(MessageDigest::sha256(), &issuer.key).expect("a signer");
    let signature = signing.sign_oneshot_to_vec(&data).expect("signs");
    let whole = der(0x30, &[&data, &algorithm, &der(0x03, &[b"\0", &signature])]);
    X509Crl::from_der(&whole).expect("a CRL").to_pem().expect("PEM")
}

/// The request about a certificate, DER.
pub fn request(leaf: &Pair, issuer: &Pair) -> Vec<u8> {
    let id = OcspCertId::from_cert(MessageDigest::sha1(), &leaf.certificate, &issuer.certificate).expect("an id");
    let mut request = OcspRequest::new().expect("a request");
    request.add_id(id).expect("an id");
    request.to_der().expect("DER")
}
