//! Bearer tokens (IUA ITI-72): who calls, checked against the national issuer's keys.

use std::path::Path;

use jiff::Timestamp;
use ncp_saml::{Code, HcpClaims, Purpose};
use ncp_tls::{Claims, Country, IssuerKeys, Taken, TokenError as Wrong, scope_covers};
use serde_json::Value;

use crate::config::{Clinician, Gateway};

/// ISCO, the code system of roles between countries.
const ISCO: &str = "2.16.840.1.113883.2.9.6.2.7";
const UNSPECIFIED: &str = "urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified";

/// Why a call is not the call of somebody who may. For the trail; the caller is told less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token itself.
    #[error(transparent)]
    Token(#[from] Wrong),
    /// A token that is bound came as one that is not, or the other way round, or is bound in a way we do not check.
    #[error("token is bound and came as one that is not, or is not and should be")]
    Binding,
    /// The certificate that a token is bound to was not the one shown.
    #[error("token is bound to another certificate than the one shown")]
    Certificate,
    /// The proof that goes with a token bound to a key.
    #[error("proof of possession: {0}")]
    Proof(&'static str),
    /// The proof is good and cannot be remembered now: its sender has used as many of late as one may.
    #[error("proof of possession cannot be remembered now")]
    Busy,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// Issuer and subject: to whom sealed values are bound.
    pub subject: String,
    /// What the token is bound to.
    pub binding: Binding,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// What an HCP identity assertion will say; none when the role may not ask other countries.
    pub claims: Option<HcpClaims>,
}

/// What a token is bound to, by thumbprint: the call must show that its sender has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: whoever has it may use it.
    Free,
    /// A key (RFC 9449 6.1): a proof made with it.
    Key(String),
    /// A client certificate (RFC 8705 3.1): that of the connection.
    Certificate(String),
}

impl Bearer {
    /// Whether a scope gives a right (`r` or `s`) to a resource: IHE's transaction name, SMART `user/R.rs`, or
    /// `system/R.read`.
    pub fn may(&self, transaction: &str, resource: &str, right: char) -> bool {
        let covers =
            |scope: &String| scope == transaction || scope_covers(scope, &["user", "system"], resource, &[right]);
        self.scopes.iter().any(covers)
    }
}

/// Checks tokens.
pub struct Tokens(IssuerKeys);

impl Tokens {
    /// Reads the issuer's keys.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn load(path: &Path, taken: Taken) -> Result<Self, String> {
        IssuerKeys::load(path, taken).map(Self)
    }

    /// Checks the token of a call.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn check(
        &self,
        header: Option<&str>,
        config: &Clinician,
        gateway: &Gateway,
        now: Timestamp,
    ) -> Result<Bearer, TokenError> {
        let (token, proved) = presented(header).ok_or(TokenError::Token(Wrong::Missing))?;
        let claims = self.0.check(token, &config.issuer, &config.audience, now)?;
        let bearer = bearer(&claims, config, gateway)?;
        let fits = match &bearer.binding {
            Binding::Free => !proved && !config.sender_constrained,
            Binding::Key(_) => proved,
            Binding::Certificate(_) => !proved,
        };
        if fits { Ok(bearer) } else { Err(TokenError::Binding) }
    }
}

/// The token of an Authorization header, and whether it comes with a proof of a key.
pub fn presented(header: Option<&str>) -> Option<(&str, bool)> {
    let header = header?;
    let bearer = header.strip_prefix("Bearer ").map(|token| (token.trim(), false));
    bearer.or_else(|| header.strip_prefix("DPoP ").map(|token| (token.trim(), true)))
}

/// `cnf`: none, or the thumbprint of a key or of a certificate. A binding that we do not check is not passed over.
fn confirmation(payload: &Claims) -> Result<Binding, TokenError> {
    match payload.claim("cnf") {
        None => Ok(Binding::Free),
        Some(Value::Object(cnf)) if cnf.len() == 1 => {
            let of = |name: &str| cnf.get(name).and_then(Value::as_str).filter(|key| key.len() == 43);
            match (of("jkt"), of("x5t#S256")) {
                (Some(key), _) => Ok(Binding::Key(key.to_owned())),
                (None, Some(certificate)) => Ok(Binding::Certificate(certificate.to_owned())),
                (None, None) => Err(TokenError::Binding),
            }
        }
        Some(_) => Err(TokenError::Binding),
    }
}

fn bearer(payload: &Claims, config: &Clinician, gateway: &Gateway) -> Result<Bearer, TokenError> {
    let (issuer, subject) = (payload.text("iss")?, payload.text("sub")?);
    for required in ["client_id", "jti", "scope"] {
        payload.text(required)?;
    }
    let scopes = payload.scopes().map(ToOwned::to_owned).collect();
    let login =
        payload.seconds("auth_time")?.or(payload.seconds("iat")?).ok_or(TokenError::Token(Wrong::Claim("iat")))?;
    let claims = professional(payload, subject, login, config, gateway);
    let binding = confirmation(payload)?;
    Ok(Bearer { subject: format!("{issuer}|{subject}"), binding, scopes, claims })
}

/// `extensions.ihe_iua` (IUA 3.71.4.2.2.1) to the HCP identity assertion; the configuration says what a token does not.
fn professional(
    payload: &Claims,
    subject: &str,
    login: i64,
    config: &Clinician,
    gateway: &Gateway,
) -> Option<HcpClaims> {
    let extensions = payload.claim("extensions")?;
    let iua = extensions.get("ihe_iua")?;
    // A token for one patient, or under a patient's privacy policy, grants less than these claims say.
    if iua.get("person_id").is_some() || extensions.get("ihe_bppc").is_some() {
        return None;
    }
    // What is there and cannot be read is no absent claim: such a token says nobody who may ask.
    let text = |name: &str| match iua.get(name) {
        None => Some(None),
        Some(value) => value.as_str().filter(|t| !t.is_empty() && t.len() <= 256).map(Some),
    };
    let code = |name: &str| match iua.get(name) {
        None => Some(Vec::new()),
        Some(value) => {
            let of = |value: &Value| value.get("code").and_then(Value::as_str).map(ToOwned::to_owned);
            value.as_array()?.iter().map(of).collect::<Option<Vec<_>>>()
        }
    };
    let role = code("subject_role")?.iter().find_map(|c| config.roles.get(c))?;
    // Every purpose is one that can be asked for: a token for research is not one for treatment.
    let purposes = code("purpose_of_use")?;
    if !purposes.iter().all(|c| c == "TREAT" || is_emergency(c)) {
        return None;
    }
    let emergency = purposes.iter().any(|c| is_emergency(c));
    let class = payload.claim("acr").and_then(Value::as_str).and_then(|acr| config.acr.get(acr));
    if payload.claim("acr").is_some_and(|acr| !acr.is_string()) {
        return None;
    }
    let country: Country = gateway.country;
    Some(HcpClaims {
        country,
        name_id: text("national_provider_identifier")?.unwrap_or(subject).to_owned(),
        subject_name: text("subject_name")??.to_owned(),
        role: Code {
            code: role.code.clone(),
            system: ISCO.into(),
            system_name: "ISCO".into(),
            display: role.display.clone(),
        },
        organisation: text("subject_organization")?.unwrap_or(&config.organisation.name).to_owned(),
        organisation_id: text("subject_organization_id")?.unwrap_or(&config.organisation.id).to_owned(),
        facility_type: config.organisation.facility_type.clone(),
        purpose: if emergency { Purpose::Emergency } else { Purpose::Treatment },
        locality: config.organisation.locality.clone(),
        npi: text("national_provider_identifier")?.map(ToOwned::to_owned),
        home_community_id: gateway.home_community_id.to_string(),
        permissions: role.permissions.clone(),
        authn_context_class: class.map_or(UNSPECIFIED, String::as_str).to_owned(),
        authn_instant: Timestamp::from_second(login).ok()?,
    })
}

/// v3-ActReason codes of emergency access.
pub fn is_emergency(code: &str) -> bool {
    matches!(code, "ETREAT" | "BTG")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::{ES256, HS256, JwsHeader};
    use josekit::jwt::{self, JwtPayload};
    use serde_json::json;

    use super::*;
    use crate::config::{Organisation, Role};

    const NOW: i64 = 1_795_458_000;

    fn key() -> Jwk {
        let mut key = Jwk::generate_ec_key(EcCurve::P256).expect("a key");
        key.set_key_id("1");
        key
    }

    fn tokens(key: &Jwk) -> Tokens {
        let mut public = key.to_public_key().expect("public");
        public.set_key_id("1");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), json!({ "keys": [public] }).to_string()).expect("writes");
        Tokens::load(file.path(), Taken::default()).expect("a key set")
    }

    fn config() -> (Clinician, Gateway) {
        let roles = [("221", "Medical Doctors")].map(|(code, display)| {
            (code.to_owned(), Role { code: code.into(), display: display.into(), permissions: vec!["PRD-006".into()] })
        });
        let clinician = Clinician {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            base_url: "https://ncp.example".into(),
            certificate: "c".into(),
            key: "k".into(),
            issuer: "https://idp.example".into(),
            audience: "https://ncp.example".into(),
            jwks_file: "j".into(),
            client_anchors: None,
            sender_constrained: false,
            token_life: std::time::Duration::from_secs(24 * 3600),
            untyped_tokens: false,
            sealing_key_file: "s".into(),
            treatment: std::time::Duration::from_secs(60),
            organisation: Organisation {
                name: "Hospital".into(),
                id: "urn:oid:2.999.1".into(),
                facility_type: "Hospital".into(),
                locality: "Ward".into(),
            },
            roles: BTreeMap::from(roles),
            acr: BTreeMap::new(),
        };
        let gateway = Gateway {
            country: Country::parse("FI").expect("a country"),
            home_community_id: ncp_ihe::HomeCommunityId::parse("urn:oid:2.999.246").expect("a home"),
            name: "Finland".into(),
            shutdown_grace: std::time::Duration::from_secs(1),
        };
        (clinician, gateway)
    }

    fn payload(change: impl FnOnce(&mut Value)) -> JwtPayload {
        let mut claims = json!({
            "iss": "https://idp.example", "sub": "hpr-1", "client_id": "ris", "aud": ["https://ncp.example"], "jti": "1",
            "iat": NOW - 10, "exp": NOW + 600, "scope": "user/Patient.rs ITI-67",
            "extensions": { "ihe_iua": { "subject_name": "A. Doctor", "subject_role": [{ "code": "221" }] } },
        });
        change(&mut claims);
        JwtPayload::from_map(claims.as_object().expect("an object").clone()).expect("claims")
    }

    fn check(tokens: &Tokens, token: &str) -> Result<Bearer, TokenError> {
        let (clinician, gateway) = config();
        let now = Timestamp::from_second(NOW).expect("a time");
        tokens.check(Some(&format!("Bearer {token}")), &clinician, &gateway, now)
    }

    fn signed(key: &Jwk, payload: &JwtPayload) -> String {
        let mut header = JwsHeader::new();
        header.set_key_id("1");
        header.set_token_type("at+jwt");
        jwt::encode_with_signer(payload, &header, &ES256.signer_from_jwk(key).expect("a signer")).expect("signs")
    }

    #[test]
    fn a_good_token_names_the_professional() {
        let key = key();
        let bearer = check(&tokens(&key), &signed(&key, &payload(|_| ()))).expect("good");
        assert_eq!(bearer.subject, "https://idp.example|hpr-1");
        assert!(bearer.may("ITI-119", "Patient", 's') && bearer.may("ITI-67", "DocumentReference", 's'));
        assert!(!bearer.may("ITI-68", "Binary", 'r'));
        assert_eq!(bearer.claims.expect("claims").role.code, "221");
    }

    #[test]
    fn claims_that_do_not_hold_are_refused() {
        let key = key();
        let tokens = tokens(&key);
        let cases: [(&str, Value, TokenError); 8] = [
            ("exp", json!(NOW - 61), TokenError::Token(Wrong::Time)),
            ("iat", json!(NOW + 61), TokenError::Token(Wrong::Time)),
            ("nbf", json!(NOW + 61), TokenError::Token(Wrong::Time)),
            ("aud", json!("https://other.example"), TokenError::Token(Wrong::Address)),
            ("iss", json!("https://other.example"), TokenError::Token(Wrong::Address)),
            ("jti", json!(""), TokenError::Token(Wrong::Claim("jti"))),
            ("client_id", json!(null), TokenError::Token(Wrong::Claim("client_id"))),
            ("scope", json!(7), TokenError::Token(Wrong::Claim("scope"))),
        ];
        for (name, value, expected) in cases {
            let changed = payload(|claims| claims[name] = value);
            assert_eq!(check(&tokens, &signed(&key, &changed)).err(), Some(expected), "{name}");
        }
    }

    /// A token that is bound to a key is no bearer token, and a bearer token is not bound.
    #[test]
    fn a_bound_token_comes_with_its_proof() {
        let key = key();
        let (tokens, (mut clinician, gateway)) = (tokens(&key), config());
        let now = Timestamp::from_second(NOW).expect("a time");
        let thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
        let free = signed(&key, &payload(|_| ()));
        let bound = signed(&key, &payload(|claims| claims["cnf"] = json!({ "jkt": thumbprint })));
        let by_certificate = signed(&key, &payload(|claims| claims["cnf"] = json!({ "x5t#S256": thumbprint })));
        let odd = signed(&key, &payload(|claims| claims["cnf"] = json!("none")));
        let check = |clinician: &Clinician, scheme: &str, token: &str| {
            tokens.check(Some(&format!("{scheme} {token}")), clinician, &gateway, now).map(|bearer| bearer.binding)
        };
        let (of_key, of_certificate) = (Binding::Key(thumbprint.into()), Binding::Certificate(thumbprint.into()));
        assert_eq!(check(&clinician, "Bearer", &free), Ok(Binding::Free));
        assert_eq!(check(&clinician, "DPoP", &bound), Ok(of_key.clone()));
        assert_eq!(check(&clinician, "Bearer", &by_certificate), Ok(of_certificate.clone()));
        for (scheme, token) in [("Bearer", &bound), ("DPoP", &free), ("DPoP", &by_certificate), ("DPoP", &odd)] {
            assert_eq!(check(&clinician, scheme, token), Err(TokenError::Binding));
        }
        clinician.sender_constrained = true;
        assert_eq!(check(&clinician, "Bearer", &free), Err(TokenError::Binding));
        assert_eq!(check(&clinician, "DPoP", &bound), Ok(of_key));
        assert_eq!(check(&clinician, "Bearer", &by_certificate), Ok(of_certificate));
    }

    /// Forged with another key, without a signature, and with the public key as an HMAC secret.
    #[test]
    fn forged_tokens_are_refused() {
        let issuer = key();
        let tokens = tokens(&issuer);
        let payload = payload(|_| ());
        assert_eq!(check(&tokens, &signed(&key(), &payload)).err(), Some(TokenError::Token(Wrong::Signature)));
        let unsigned = jwt::encode_unsecured(&payload, &JwsHeader::new()).expect("encodes");
        assert_eq!(check(&tokens, &unsigned).err(), Some(TokenError::Token(Wrong::Signature)));
        let secret = issuer.to_public_key().expect("public").to_string();
        let mut header = JwsHeader::new();
        header.set_key_id("1");
        let hmac = HS256.signer_from_bytes(secret.as_bytes()).expect("a signer");
        let confused = jwt::encode_with_signer(&payload, &header, &hmac).expect("signs");
        assert_eq!(check(&tokens, &confused).err(), Some(TokenError::Token(Wrong::Signature)));
        let good = signed(&issuer, &payload);
        let cut = good.rsplit_once('.').expect("three parts").0;
        for broken in ["", "a.b.c", "....", cut, &good[1..], &"A".repeat((16 << 10) + 1)] {
            assert!(check(&tokens, broken).is_err(), "{}", broken.len());
        }
    }

    #[test]
    fn a_role_that_is_not_configured_may_not_ask() {
        let key = key();
        let other = payload(|claims| claims["extensions"]["ihe_iua"]["subject_role"] = json!([{ "code": "5111" }]));
        assert!(check(&tokens(&key), &signed(&key, &other)).expect("a token").claims.is_none());
    }

    /// What narrows a token in a way that is not read here closes it: such a bearer may ask no other country.
    #[test]
    fn se_16_a_token_that_is_narrowed_asks_nothing() {
        let key = key();
        let tokens = tokens(&key);
        let asks = |change: &dyn Fn(&mut Value)| {
            check(&tokens, &signed(&key, &payload(change))).expect("a token").claims.map(|claims| claims.purpose)
        };
        let purposes = |codes: Value| asks(&|claims| claims["extensions"]["ihe_iua"]["purpose_of_use"] = codes.clone());
        let code = |code: &str| json!({ "code": code });
        assert_eq!(asks(&|_| ()), Some(Purpose::Treatment));
        assert_eq!(purposes(json!([code("TREAT")])), Some(Purpose::Treatment));
        assert_eq!(purposes(json!([code("TREAT"), code("BTG")])), Some(Purpose::Emergency));
        for other in [
            json!([code("HRESCH")]),
            json!([code("TREAT"), code("HRESCH")]),
            json!([code("treat")]),
            json!([{}]),
            json!(["TREAT"]),
            json!("TREAT"),
            json!({ "code": "TREAT" }),
            json!(null),
        ] {
            assert_eq!(purposes(other.clone()), None, "{other}");
        }
        assert_eq!(asks(&|claims| claims["extensions"]["ihe_iua"]["person_id"] = json!("7^^^&2.999.1&ISO")), None);
        assert_eq!(asks(&|claims| claims["extensions"]["ihe_bppc"] = json!({ "acp": "urn:oid:2.999.2" })), None);
        assert_eq!(asks(&|claims| claims["acr"] = json!(["two-factor"])), None);
    }

    #[test]
    fn symmetric_keys_are_no_keys_of_an_issuer() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#).expect("writes");
        assert!(Tokens::load(file.path(), Taken::default()).is_err());
    }
}
