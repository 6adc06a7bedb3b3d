//! Bearer tokens of patients (IUA ITI-72): whose trail may be read, checked against the national issuer's keys.

use std::path::Path;

use jiff::Timestamp;
use ncp_tls::{TokenIssuer, scope_covers};

/// Whose tokens are taken, and for whom they must be.
pub(super) struct Issuer(TokenIssuer);

impl Issuer {
    /// Reads the issuer's public keys.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(super) fn load(name: &str, audience: &str, jwks: &Path) -> Result<Self, String> {
        TokenIssuer::load(name, audience, jwks).map(Self)
    }

    /// The patient (CX, claim `patient_id`) whose audit events the bearer may read.
    pub(super) fn patient(&self, header: &str, now: Timestamp) -> Option<String> {
        let token = header.strip_prefix("Bearer ")?.trim();
        let claims = self.0.check(token, now).ok()?;
        let granted = claims.scopes().any(|scope| scope_covers(scope, &["patient"], "AuditEvent", &['s']));
        (granted && !claims.is_bound()).then(|| claims.text("patient_id").ok().map(str::to_owned))?
    }
}

#[cfg(test)]
mod tests {
    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::{ES256, HS256, JwsHeader};
    use josekit::jwt::{self, JwtPayload};
    use serde_json::{Value, json};

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
        let wrong: [(&str, Value); 9] = [
            ("cnf", json!({ "jkt": "x" })),
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
