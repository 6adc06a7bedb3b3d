//! Bearer tokens of patients (IUA ITI-72): whose trail may be read, checked against the national issuer's keys.

use std::path::Path;

use jiff::Timestamp;
use josekit::jwk::JwkSet;
use josekit::jws::{ES256, JwsVerifier, RS256};
use josekit::jwt::{self, JwtPayload};
use serde_json::Value;

/// Longest token, bytes.
const LONGEST: usize = 16 << 10;
/// Clocks may differ by so much, seconds.
const SKEW: i64 = 60;

/// Who issues tokens, and for whom they must be.
pub(super) struct Issuer {
    name: String,
    audience: String,
    keys: Vec<(Option<String>, &'static str, Box<dyn JwsVerifier + Send + Sync>)>,
}

impl Issuer {
    /// Reads the issuer's public keys: P-256 and RSA; symmetric ones are refused.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(super) fn load(name: &str, audience: &str, jwks: &Path) -> Result<Self, String> {
        let shown = jwks.display();
        let bytes = std::fs::read(jwks).map_err(|e| format!("cannot read {shown}: {e}"))?;
        let set = JwkSet::from_bytes(&bytes).map_err(|e| format!("{shown}: no JWKS: {e}"))?;
        let mut keys: Vec<(Option<String>, &'static str, Box<dyn JwsVerifier + Send + Sync>)> = Vec::new();
        for jwk in set.keys() {
            let id = jwk.key_id().map(ToOwned::to_owned);
            let unusable = |e| format!("{shown}: {e}");
            match (jwk.key_type(), jwk.curve()) {
                ("EC", Some("P-256")) => {
                    keys.push((id, "ES256", Box::new(ES256.verifier_from_jwk(jwk).map_err(unusable)?)));
                }
                ("RSA", _) => keys.push((id, "RS256", Box::new(RS256.verifier_from_jwk(jwk).map_err(unusable)?))),
                (kind, _) => return Err(format!("{shown}: key of type {kind} is not taken")),
            }
        }
        if keys.is_empty() {
            return Err(format!("{shown}: no key"));
        }
        Ok(Self { name: name.to_owned(), audience: audience.to_owned(), keys })
    }

    /// The patient (CX, claim `patient_id`) whose audit events the bearer may read.
    pub(super) fn patient(&self, header: &str, now: Timestamp) -> Option<String> {
        let token = header.strip_prefix("Bearer ")?.trim();
        if token.is_empty() || token.len() > LONGEST {
            return None;
        }
        let (payload, _) = jwt::decode_with_verifier_selector(token, |header| {
            let fits = |(id, algorithm, _): &&(Option<String>, &str, Box<dyn JwsVerifier + Send + Sync>)| {
                header.algorithm() == Some(algorithm) && (header.key_id().is_none() || header.key_id() == id.as_deref())
            };
            Ok(self.keys.iter().find(fits).map(|(.., verifier)| verifier.as_ref() as &dyn JwsVerifier))
        })
        .ok()?;
        self.holds(&payload, now.as_second())
    }

    fn holds(&self, payload: &JwtPayload, now: i64) -> Option<String> {
        let text = |name: &str| payload.claim(name).and_then(Value::as_str).filter(|t| !t.is_empty() && t.len() <= 512);
        let seconds = |name: &str| payload.claim(name).and_then(Value::as_i64);
        let addressed = match payload.claim("aud")? {
            Value::String(one) => *one == self.audience,
            Value::Array(several) => several.iter().any(|a| a.as_str() == Some(&self.audience)),
            _ => false,
        };
        let in_time = seconds("exp")?.saturating_add(SKEW) > now
            && seconds("iat")? <= now + SKEW
            && seconds("nbf").is_none_or(|nbf| nbf <= now + SKEW);
        let granted = text("scope")?.split(' ').any(reads_own);
        (text("iss")? == self.name && addressed && in_time && granted).then(|| text("patient_id").map(str::to_owned))?
    }
}

/// `patient/AuditEvent.rs`, `patient/*.read` and the like.
fn reads_own(scope: &str) -> bool {
    let Some((kind, rights)) = scope.strip_prefix("patient/").and_then(|what| what.split_once('.')) else {
        return false;
    };
    let rights = rights.split('?').next().unwrap_or_default();
    let reads = matches!(rights, "read" | "*") || (rights.contains('s') && rights.chars().all(|c| "cruds".contains(c)));
    matches!(kind, "AuditEvent" | "*") && reads
}

#[cfg(test)]
mod tests {
    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::{HS256, JwsHeader};
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_795_458_000;

    #[test]
    fn only_a_good_token_names_a_patient() {
        let key = Jwk::generate_ec_key(EcCurve::P256).expect("a key");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let keys = json!({ "keys": [key.to_public_key().expect("public")] });
        std::fs::write(file.path(), keys.to_string()).expect("writes");
        let issuer = Issuer::load("https://idp.example", "https://audit.example", file.path()).expect("loads");
        let now = Timestamp::from_second(NOW).expect("a time");
        let claims = |change: &dyn Fn(&mut Value)| {
            let mut claims = json!({
                "iss": "https://idp.example", "aud": "https://audit.example", "iat": NOW - 5, "exp": NOW + 600,
                "scope": "openid patient/AuditEvent.rs", "patient_id": "7^^^&1.2&ISO",
            });
            change(&mut claims);
            JwtPayload::from_map(claims.as_object().expect("an object").clone()).expect("claims")
        };
        let signed = |payload: &JwtPayload| {
            let signer = ES256.signer_from_jwk(&key).expect("a signer");
            let token = jwt::encode_with_signer(payload, &JwsHeader::new(), &signer).expect("signs");
            issuer.patient(&format!("Bearer {token}"), now)
        };
        assert_eq!(signed(&claims(&|_| ())).as_deref(), Some("7^^^&1.2&ISO"));
        let wrong: [(&str, Value); 8] = [
            ("iss", json!("https://other.example")),
            ("aud", json!(["https://other.example"])),
            ("exp", json!(NOW - 61)),
            ("iat", json!(NOW + 3600)),
            ("nbf", json!(NOW + 3600)),
            ("scope", json!("patient/Patient.rs user/AuditEvent.rs patient/AuditEvent.c")),
            ("patient_id", json!("")),
            ("patient_id", json!(["7^^^&1.2&ISO"])),
        ];
        for (name, value) in wrong {
            assert_eq!(signed(&claims(&|c| c[name] = value.clone())), None, "{name} {value}");
        }
        let secret = HS256.signer_from_bytes([7; 32]).expect("a signer");
        let forged = jwt::encode_with_signer(&claims(&|_| ()), &JwsHeader::new(), &secret).expect("signs");
        let unsigned = jwt::encode_unsecured(&claims(&|_| ()), &JwsHeader::new()).expect("writes");
        for bad in [forged, unsigned, "a.b.c".into(), String::new()] {
            assert_eq!(issuer.patient(&format!("Bearer {bad}"), now), None);
        }
    }
}
