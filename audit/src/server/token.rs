//! Bearer tokens of patients (IUA ITI-72): whose trail may be read, checked against the national issuer's keys.

use std::path::Path;

use jiff::Timestamp;
use ncp_tls::{Taken, TokenIssuer, scope_covers};

/// Whose tokens are taken, and for whom they must be.
pub(super) struct Issuer(TokenIssuer);

impl Issuer {
    /// Reads the issuer's public keys.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(super) fn load(name: &str, audience: &str, jwks: &Path, taken: Taken) -> Result<Self, String> {
        TokenIssuer::load(name, audience, jwks, taken).map(Self)
    }

    /// The patient (CX, claim `patient_id`) whose audit events the bearer may read (`r`) or search (`s`).
    ///
    /// # Errors
    /// The token does not hold, or it does not grant that.
    pub(super) fn patient(&self, header: &str, right: char, now: Timestamp) -> Result<String, Refused> {
        let token = header.strip_prefix("Bearer ").ok_or(Refused::Token)?.trim();
        let claims = self.0.check(token, now).map_err(|_| Refused::Token)?;
        if claims.is_bound() {
            return Err(Refused::Token);
        }
        if !claims.scopes().any(|scope| scope_covers(scope, &["patient"], "AuditEvent", &[right])) {
            return Err(Refused::Scope);
        }
        claims.text("patient_id").map(str::to_owned).map_err(|_| Refused::Token)
    }
}

/// Why a token opens nothing (RFC 6750 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// `invalid_token`
    Token,
    /// `insufficient_scope`
    Scope,
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
        let (name, audience) = ("https://idp.example", "https://audit.example");
        let issuer = Issuer::load(name, audience, file.path(), Taken::default()).expect("loads");
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
            let mut header = JwsHeader::new();
            header.set_token_type("at+jwt");
            let token = jwt::encode_with_signer(payload, &header, &signer).expect("signs");
            ['r', 's'].map(|right| issuer.patient(&format!("Bearer {token}"), right, now))
        };
        let hers = || Ok("7^^^&1.2&ISO".to_owned());
        assert_eq!(signed(&claims(&|_| ())), [hers(), hers()]);
        // SE-16: what a scope does not say, or says in a way that is not read, is not granted.
        let (token, scope) = (|| Err(Refused::Token), || Err(Refused::Scope));
        for (granted, expected) in [
            ("patient/AuditEvent.r", [hers(), scope()]),
            ("patient/AuditEvent.s", [scope(), hers()]),
            ("patient/AuditEvent.s?outcome=8", [scope(), scope()]),
            ("patient/AuditEvent.rs?", [scope(), scope()]),
            ("patient/*.read", [hers(), hers()]),
            ("patient/Patient.rs user/AuditEvent.rs patient/AuditEvent.c", [scope(), scope()]),
            ("launch/patient openid", [scope(), scope()]),
        ] {
            assert_eq!(signed(&claims(&|c| c["scope"] = json!(granted))), expected, "{granted}");
        }
        let details = |c: &mut Value| c["authorization_details"] = json!([{ "type": "audit" }]);
        assert_eq!(signed(&claims(&details)), [scope(), scope()]);
        let wrong: [(&str, Value); 8] = [
            ("cnf", json!({ "jkt": "x" })),
            ("iss", json!("https://other.example")),
            ("aud", json!(["https://other.example"])),
            ("exp", json!(NOW - 61)),
            ("iat", json!(NOW + 3600)),
            ("nbf", json!(NOW + 3600)),
            ("patient_id", json!("")),
            ("patient_id", json!(["7^^^&1.2&ISO"])),
        ];
        for (name, value) in wrong {
            assert_eq!(signed(&claims(&|c| c[name] = value.clone())), [token(), token()], "{name} {value}");
        }
        let secret = HS256.signer_from_bytes([7; 32]).expect("a signer");
        let forged = jwt::encode_with_signer(&claims(&|_| ()), &JwsHeader::new(), &secret).expect("signs");
        let unsigned = jwt::encode_unsecured(&claims(&|_| ()), &JwsHeader::new()).expect("writes");
        for bad in [forged, unsigned, "a.b.c".into(), String::new()] {
            assert_eq!(issuer.patient(&format!("Bearer {bad}"), 's', now), token());
        }
    }
}
