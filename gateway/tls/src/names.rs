//! Certificates by name: who may use a port or sign, beside the authority that vouches for the name.

use std::fmt;
use std::str::FromStr;

use openssl::nid::Nid;
use openssl::x509::X509Ref;
use serde::{Deserialize, Deserializer};

use crate::CertificateFacts;

/// One certificate as a configuration names it.
///
/// * `ncp.fi` is the common name of the subject, which must have exactly one;
/// * `CN=ncp.fi,O=Agency,C=FI` is the whole subject, as `openssl x509 -noout -subject -nameopt RFC2253` prints it;
/// * `dns:ncp.fi` is a DNS name among the subject's alternative names;
/// * `sha256:` and 64 hexadecimal digits is the digest of the certificate (`openssl x509 -noout -fingerprint -sha256`,
///   colons may stay).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateName(Form);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Common(String),
    Subject(Vec<(String, String)>),
    Dns(String),
    Sha256(String),
}

/// Why a text names no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a common name, a whole subject as \"CN=…,O=…,C=…\", \"dns:…\", or \"sha256:\" and 64 hexadecimal digits"
)]
pub struct NameError;

impl FromStr for CertificateName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let blank = |text: &str| text.is_empty() || text.trim() != text || text.chars().any(char::is_control);
        if blank(text) {
            return Err(NameError);
        }
        if let Some(digest) = text.strip_prefix("sha256:") {
            let digest = digest.replace(':', "").to_ascii_lowercase();
            let whole = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
            return if whole { Ok(Self(Form::Sha256(digest))) } else { Err(NameError) };
        }
        if let Some(host) = text.strip_prefix("dns:") {
            return if blank(host) { Err(NameError) } else { Ok(Self(Form::Dns(host.to_ascii_lowercase()))) };
        }
        if text.contains('=') {
            return subject_of_text(text).map(|subject| Self(Form::Subject(subject))).ok_or(NameError);
        }
        // A prefix that is not known must not be taken for a common name that nobody has.
        if text.contains(':') { Err(NameError) } else { Ok(Self(Form::Common(text.to_owned()))) }
    }
}

impl<'de> Deserialize<'de> for CertificateName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("{error}, not {text:?}")))
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Common(name) => f.write_str(name),
            Form::Subject(subject) => {
                let parts: Vec<String> = subject.iter().map(|(kind, value)| format!("{kind}={value}")).collect();
                f.write_str(&parts.join(","))
            }
            Form::Dns(host) => write!(f, "dns:{host}"),
            Form::Sha256(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

impl CertificateName {
    /// Whether this is the common name `name`, alone or as part of a subject.
    pub fn is_common_name(&self, name: &str) -> bool {
        match &self.0 {
            Form::Common(common) => common == name,
            Form::Subject(subject) => subject.iter().any(|(kind, value)| kind == "CN" && value == name),
            Form::Dns(_) | Form::Sha256(_) => false,
        }
    }

    /// Whether certificates of two countries cannot both have this name: a digest, or a whole subject.
    pub fn is_of_one_country(&self) -> bool {
        matches!(self.0, Form::Subject(_) | Form::Sha256(_))
    }

    /// Whether the certificate has this name.
    pub fn names(&self, certificate: &CertificateFacts) -> bool {
        match &self.0 {
            Form::Common(name) => {
                let mut common = certificate.subject.iter().filter(|(kind, _)| kind == "CN");
                common.next().is_some_and(|(_, value)| value == name) && common.next().is_none()
            }
            Form::Subject(subject) => *subject == certificate.subject,
            Form::Dns(host) => certificate.dns_names.contains(host),
            Form::Sha256(digest) => *digest == certificate.fingerprint,
        }
    }
}

/// The certificates that a use admits: several, so that an old and a new one overlap when keys change. An empty list
/// admits nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Names(Vec<CertificateName>);

impl Names {
    /// Whether one of the names is the certificate's.
    pub fn admit(&self, certificate: &CertificateFacts) -> bool {
        self.0.iter().any(|name| name.names(certificate))
    }

    /// Whether the list admits nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &CertificateName> {
        self.0.iter()
    }
}

impl FromIterator<CertificateName> for Names {
    fn from_iter<I: IntoIterator<Item = CertificateName>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// Attributes of a subject in a fixed order: RFC 4514 and the certificate itself write them in opposite ones.
pub(crate) fn subject_of(certificate: &X509Ref) -> Vec<(String, String)> {
    let attribute = |entry: &openssl::x509::X509NameEntryRef| {
        let kind = match entry.object().nid() {
            Nid::UNDEF => entry.object().to_string(),
            nid => nid.short_name().unwrap_or_default().to_owned(),
        };
        // A value that is no text must not equal one that is written in a configuration.
        let value = entry.data().to_string().unwrap_or_else(|_| "\0".into());
        (kind, value)
    };
    let mut subject: Vec<_> = certificate.subject_name().entries().map(attribute).collect();
    subject.sort();
    subject
}

/// DNS names of the certificate, lower case.
pub(crate) fn dns_names_of(certificate: &X509Ref) -> Vec<String> {
    let names = certificate.subject_alt_names().into_iter().flatten();
    names.filter_map(|name| name.dnsname().map(str::to_ascii_lowercase)).collect()
}

/// `CN=a,O=b\, c,C=FI` (RFC 4514, without hexadecimal values and multi-valued parts), sorted.
fn subject_of_text(text: &str) -> Option<Vec<(String, String)>> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next()?;
                parts.last_mut()?.push(escaped);
                if escaped.is_ascii_hexdigit() {
                    return None;
                }
            }
            ',' => parts.push(String::new()),
            '+' | ';' | '<' | '>' | '"' => return None,
            other => parts.last_mut()?.push(other),
        }
    }
    let attribute = |part: &String| {
        let (kind, value) = part.split_once('=')?;
        let (kind, value) = (kind.trim(), value.trim_end());
        (!kind.is_empty() && !value.is_empty()).then(|| (known(kind), value.to_owned()))
    };
    let mut subject = parts.iter().map(attribute).collect::<Option<Vec<_>>>()?;
    subject.sort();
    Some(subject)
}

/// OpenSSL's spelling of an attribute type, so that `cn` and `CN` are one.
fn known(kind: &str) -> String {
    const SPELT: [&str; 11] =
        ["CN", "C", "O", "OU", "L", "ST", "SN", "GN", "DC", "serialNumber", "organizationIdentifier"];
    let spelt = SPELT.iter().find(|spelt| spelt.eq_ignore_ascii_case(kind));
    spelt.map_or_else(|| kind.to_owned(), |spelt| (*spelt).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> CertificateFacts {
        let text = |(kind, value): (&str, &str)| (kind.to_owned(), value.to_owned());
        CertificateFacts {
            der: Vec::new(),
            fingerprint: "ab".repeat(32),
            common_name: "ncp.fi".into(),
            country: None,
            issuer: String::new(),
            subject: [("C", "FI"), ("CN", "ncp.fi"), ("O", "Agency, one")].map(text).to_vec(),
            dns_names: vec!["gate.ncp.fi".into()],
        }
    }

    #[test]
    fn each_form_names_its_certificate_and_no_other() {
        let named = |text: &str| text.parse::<CertificateName>().map(|name| name.names(&facts()));
        for good in [
            "ncp.fi".to_owned(),
            "CN=ncp.fi,O=Agency\\, one,C=FI".into(),
            "c=FI, o=Agency\\, one, cn=ncp.fi".into(),
            "dns:Gate.ncp.fi".into(),
            format!("sha256:{}", "AB:".repeat(32).trim_end_matches(':')),
        ] {
            assert_eq!(named(&good), Ok(true), "{good}");
        }
        for other in
            ["ncp.f", "NCP.FI", "CN=ncp.fi", "CN=ncp.fi,O=Agency\\, one,C=FI,C=FI", "dns:ncp.fi"].map(str::to_owned)
        {
            assert_eq!(named(&other), Ok(false), "{other}");
        }
        assert_eq!(named(&format!("sha256:{}", "ac".repeat(32))), Ok(false));
        for bad in ["", " ncp.fi", "sha256:ab", "sha1:ab", "dns:", "CN=", "CN=a+O=b", "a=b,c", "CN=a\\41", "ncp\n.fi"] {
            assert_eq!(named(bad), Err(NameError), "{bad:?}");
        }
        assert!(!Names::default().admit(&facts()), "an empty list admits nobody");
        let two = CertificateFacts {
            subject: [("CN", "a"), ("CN", "ncp.fi")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            ..facts()
        };
        assert!(!"ncp.fi".parse::<CertificateName>().is_ok_and(|name| name.names(&two)), "two common names are none");
    }
}
