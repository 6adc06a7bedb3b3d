//! The issuer of clinicians' tokens as a test has it, and the section of a gateway that trusts it.

use std::path::Path;

use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jws::{self, ES256, JwsHeader};
use serde_json::{Value, json};

use crate::pki::Error;

/// What clinicians' systems call; the socket is another.
pub const BASE: &str = "https://clinic.example";
/// `iss`
pub const ISSUER: &str = "https://idp.example";

/// The key of the issuer.
pub struct Issuer(Jwk);

impl Issuer {
    /// Makes the key, and writes `jwks.json` and `sealing.key` into the folder of the gateway's configuration.
    ///
    /// # Errors
    /// Files, OpenSSL.
    pub fn create(folder: &Path) -> Result<Self, Error> {
        let mut key = Jwk::generate_ec_key(EcCurve::P256)?;
        key.set_key_id("1");
        key.set_algorithm("ES256");
        let issuer = Self(key);
        std::fs::write(folder.join("jwks.json"), json!({ "keys": [issuer.public()?] }).to_string())?;
        let sealing = folder.join("sealing.key");
        std::fs::write(&sealing, "5a".repeat(32))?;
        std::fs::set_permissions(sealing, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(issuer)
    }

    /// An issuer whose key lies in a file, as a JWK.
    ///
    /// # Errors
    /// A file that holds none.
    pub fn open(key: &Path) -> Result<Self, Error> {
        let key = std::fs::read(key).map_err(|e| format!("{}: {e}", key.display()))?;
        Ok(Self(Jwk::from_bytes(key)?))
    }

    /// The key that verifies its tokens.
    ///
    /// # Errors
    /// OpenSSL.
    pub fn public(&self) -> Result<Jwk, Error> {
        let mut public = self.0.to_public_key()?;
        public.set_key_id(self.0.key_id().unwrap_or_default());
        public.set_algorithm("ES256");
        Ok(public)
    }

    /// `[clinician]`, with the certificates of a folder.
    pub fn section(pki: &str) -> String {
        format!(
            r#"
[clinician]
listen = "127.0.0.1:0"
base_url = "{BASE}"
certificate = "{pki}/tls-server.pem"
key = "{pki}/tls-server.key"
issuer = "{ISSUER}"
audience = "{BASE}"
jwks_file = "jwks.json"
client_anchors = "{pki}/anchors.pem"
sealing_key_file = "sealing.key"
organisation = {{ name = "University hospital", id = "urn:oid:2.999.47.10", locality = "Radiology" }}
acr = {{ two-factor = "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI" }}
[clinician.roles."221"]
code = "221"
display = "Medical Doctors"
permissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]
"#
        )
    }

    /// The claims of a good token of a radiologist, who logged in with two factors a minute ago.
    pub fn claims(subject: &str) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({
            "iss": ISSUER, "sub": subject, "client_id": "ris", "aud": BASE, "jti": uuid::Uuid::new_v4().to_string(),
            "iat": now - 10, "exp": now + 600, "auth_time": now - 60, "acr": "two-factor",
            "scope": "user/Patient.rs user/DocumentReference.rs user/Binary.r",
            "extensions": { "ihe_iua": {
                "subject_name": "Radiologist on duty",
                "subject_role": [{ "system": "urn:oid:2.16.840.1.113883.2.9.6.2.7", "code": "221" }],
                "purpose_of_use": [{ "code": "TREAT" }],
            } },
        })
    }

    /// A good token.
    ///
    /// # Errors
    /// OpenSSL.
    pub fn token(&self, subject: &str) -> Result<String, Error> {
        self.sign(&Self::claims(subject), Some("at+jwt"))
    }

    /// A token with these claims and this `typ`.
    ///
    /// # Errors
    /// OpenSSL.
    pub fn sign(&self, claims: &Value, typ: Option<&str>) -> Result<String, Error> {
        let mut header = JwsHeader::new();
        header.set_key_id(self.0.key_id().unwrap_or_default());
        if let Some(typ) = typ {
            header.set_token_type(typ);
        }
        Ok(jws::serialize_compact(claims.to_string().as_bytes(), &header, &ES256.signer_from_jwk(&self.0)?)?)
    }
}
