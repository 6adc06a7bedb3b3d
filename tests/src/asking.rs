//! A gateway that only asks: its PKI, the countries that it knows, and the file that it is started with.

use std::path::{Path, PathBuf};

use crate::base::Base;
use crate::country::Country;
use crate::pki::{Algorithm, CountryPki, Error, Use};

/// The patients of every country that is asked carry identifiers of this authority.
pub const PATIENTS: &str = "2.999.7.1";
/// Name of the gateway in its users' assertions.
pub const AUDIENCE: &str = "https://ncp.example";

/// One country that is asked.
pub struct Known<'a> {
    /// Its certificates.
    pub pki: &'a CountryPki,
    /// homeCommunityId, bare.
    pub home: String,
    /// Where it answers.
    pub country: &'a Country,
    /// Further lines of its `[[peer]]`.
    pub lines: String,
}

/// The asking country, Norway.
pub struct Asking {
    /// Its folder.
    pub dir: PathBuf,
    /// Its certificates, with those of consumers (`consumer`) and of users' assertions (`xua`).
    pub pki: CountryPki,
}

impl Asking {
    /// Makes the PKI.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let pki = CountryPki::create_apart(&dir.join("pki"), "NO", Algorithm::P256)?;
        pki.leaf("consumer", Use::Client, Algorithm::P256, 0, 90)?;
        pki.leaf("xua", Use::Seal, Algorithm::P256, 0, 90)?;
        std::fs::write(dir.join("consent.toml"), "")?;
        Ok(Self { dir: dir.to_owned(), pki })
    }

    /// The PKI of a country that is asked.
    ///
    /// # Errors
    /// OpenSSL, files.
    pub fn other(&self, code: &str) -> Result<CountryPki, Error> {
        CountryPki::create_apart(&self.dir.join(code), code, Algorithm::P256)
    }

    /// Writes `gateway.toml`. `limits` are lines of that section, `policies` a folder of policies.
    ///
    /// # Errors
    /// Files.
    pub fn write(&self, ports: [u16; 3], limits: &str, policies: &Path, known: &[Known<'_>]) -> Result<PathBuf, Error> {
        let [peers, admin, consumers] = ports;
        let base = Base {
            country: "NO",
            home: "2.999.47",
            name: "Norway",
            ports: [peers, admin],
            pki: "pki",
            spool: "spool",
            source: "ncp-gateway-no",
            policies: &policies.display().to_string(),
            consent: "consent.toml",
        };
        let mut text = base.toml();
        text.push_str(&format!(
            r#"[limits]
{limits}

[consumer]
listen = "127.0.0.1:{consumers}"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"
tls_anchors = "pki/consumer-anchors.pem"
assertion_anchors = "pki/assertion-anchors.pem"
pin = {{ tls_client = ["consumer.ncp.no"], seal = ["xua.ncp.no"] }}
audiences = ["{AUDIENCE}"]
organisation = {{ name = "University hospital", id = "urn:oid:2.999.47.10", locality = "Radiology" }}

[consumer.roles."221"]
code = "221"
display = "Medical Doctors"
permissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]
"#
        ));
        for one in known {
            let Known { pki, home, country, lines } = one;
            text.push_str(&format!(
                r#"
[[peer]]
country = "{code}"
name = "{code}"
home_community_id = "urn:oid:{home}"
xcpd = "{xcpd}"
xca = "{xca}"
xcai = "{xcai}"
patient_roots = ["{PATIENTS}"]
tls_anchors = "{tls}"
seal_anchors = "{seal}"
{pin}{lines}
"#,
                code = pki.country,
                xcpd = country.url("/xcpd"),
                xca = country.url("/xca"),
                xcai = country.url("/xcai"),
                pin = crate::pki::peer_pin(&pki.country),
                tls = pki.path("tls-anchors.pem").display(),
                seal = pki.path("seal-anchors.pem").display(),
            ));
        }
        let path = self.dir.join("gateway.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }
}
