//! The demonstration's token issuer: what a country's identity provider does, with a key of its own.

use std::path::Path;

use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jws::{ES256, JwsHeader};
use josekit::jwt::{self, JwtPayload};
use serde_json::json;

use crate::Error;

const KEY_ID: &str = "demo-1";
/// The back-end system that is registered, and the name of its key.
pub(crate) const CLIENT: &str = "ris-demo";
/// Everything that the clinicians' side serves.
pub(crate) const SCOPES: &str = "user/Patient.rs user/DocumentReference.rs user/Binary.r user/ImagingStudy.r";

/// `iss` of a country's tokens.
pub(crate) fn issuer(country: &str) -> String {
    format!("https://idp.{country}.example")
}

/// Makes the key and its JWKS beside the country's PKI, and the key of the back-end system that is registered.
pub(crate) fn create(pki: &Path) -> Result<(), Error> {
    let mut key = Jwk::generate_ec_key(EcCurve::P256)?;
    key.set_key_id(KEY_ID);
    key.set_algorithm("ES256");
    // The public part is made without these.
    let mut public = key.to_public_key()?;
    public.set_key_id(KEY_ID);
    public.set_algorithm("ES256");
    std::fs::write(pki.join("issuer.jwk"), serde_json::to_vec(&key)?)?;
    std::fs::write(pki.join("jwks.json"), serde_json::to_vec_pretty(&json!({ "keys": [public] }))?)?;
    let mut client = Jwk::generate_ec_key(EcCurve::P256)?;
    client.set_key_id(CLIENT);
    let mut registered = client.to_public_key()?;
    registered.set_key_id(CLIENT);
    std::fs::write(pki.join("client.jwk"), serde_json::to_vec(&client)?)?;
    std::fs::write(pki.join("clients.json"), serde_json::to_vec_pretty(&json!({ CLIENT: registered }))?)?;
    Ok(())
}

/// What a token says beside the fixed facts of the demonstration.
pub(crate) struct Token<'a> {
    /// `sub`
    pub(crate) subject: &'a str,
    /// `client_id`
    pub(crate) client: &'a str,
    /// `scope`
    pub(crate) scope: &'a str,
    /// Seconds from now until it ends; may lie in the past.
    pub(crate) life: i64,
}

impl Default for Token<'_> {
    fn default() -> Self {
        Self { subject: "hpr-9144889", client: CLIENT, scope: SCOPES, life: 3600 }
    }
}

/// Signs a token for the country's gateway.
pub(crate) fn token(pki: &Path, country: &str, token: &Token<'_>) -> Result<String, Error> {
    let bytes = std::fs::read(pki.join("issuer.jwk"))
        .map_err(|e| format!("{e}: no token issuer in {}; is the demonstration running?", pki.display()))?;
    let key = Jwk::from_bytes(&bytes)?;
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({
        "iss": issuer(country),
        "sub": token.subject,
        "client_id": token.client,
        "aud": audience(country),
        "jti": uuid::Uuid::new_v4().to_string(),
        "iat": now + token.life.min(0) - 60,
        "exp": now + token.life,
        "auth_time": now - 120,
        "acr": "two-factor",
        "scope": token.scope,
        "extensions": { "ihe_iua": {
            "subject_name": "Radiologist on duty",
            "subject_organization": "University hospital",
            "subject_organization_id": "urn:oid:2.999.10",
            "subject_role": [{ "system": "urn:oid:2.16.840.1.113883.2.9.6.2.7", "code": "221", "display": "Medical Doctors" }],
            "purpose_of_use": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT" }],
        } },
    });
    let serde_json::Value::Object(claims) = claims else { return Err("claims".into()) };
    let mut header = JwsHeader::new();
    header.set_token_type("at+jwt");
    header.set_key_id(KEY_ID);
    Ok(jwt::encode_with_signer(&JwtPayload::from_map(claims)?, &header, &ES256.signer_from_jwk(&key)?)?)
}

/// Our name in `aud`.
pub(crate) fn audience(country: &str) -> String {
    format!("https://localhost:{}", crate::demo::offset(country) + 444)
}
