//! Bearer tokens (IUA ITI-72, RFC 7519) against the public keys of their issuer: what is the same wherever one is shown.
//! What a token's claims allow is for each server to say.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hyper::{HeaderMap, header};
use jiff::Timestamp;
use josekit::JoseError;
use josekit::jwk::JwkSet;
use josekit::jws::{
    ES256, ES384, JwsVerifier, PS256, RS256, RS384,
    alg::{ecdsa::EcdsaJwsAlgorithm, rsassa::RsassaJwsAlgorithm, rsassa_pss::RsassaPssJwsAlgorithm},
};
use josekit::jwt;
use serde_json::{Map, Value};

use crate::{FileStamp, file_stamp};

/// Longest token, bytes.
const LONGEST: usize = 16 << 10;
/// Clocks may differ by so much, seconds.
const SKEW: i64 = 60;
/// Longest text of a claim, bytes.
const TEXT: usize = 512;
/// What `typ` of an access token is (RFC 9068 4); other JWTs of the same issuer, as logout tokens, are none.
const TYPES: [&str; 2] = ["at+jwt", "application/at+jwt"];

/// Which tokens of an issuer are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Longest time from `iat` to `exp`.
    pub longest_life: Duration,
    /// Also tokens whose `typ` is absent or `JWT`, as issuers from before RFC 9068 write it.
    pub untyped: bool,
}

impl Default for Taken {
    /// Tokens of RFC 9068 that live a day at most.
    fn default() -> Self {
        Self { longest_life: Duration::from_secs(24 * 3600), untyped: false }
    }
}

/// The first check that does not hold. For the trail; a caller is told less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token, or one of no sensible length.
    #[error("token missing")]
    Missing,
    /// Not a JWT of the issuer: form, algorithm, key, signature.
    #[error("token signature, key or algorithm")]
    Signature,
    /// `typ`
    #[error("token is of another type than at+jwt")]
    Type,
    /// Issuer or audience.
    #[error("token is of another issuer or for another server")]
    Address,
    /// `exp`, `iat`, `nbf`.
    #[error("token is expired or not yet valid")]
    Time,
    /// A required claim.
    #[error("token lacks {0}")]
    Claim(&'static str),
}

/// The public keys of an issuer.
pub struct IssuerKeys {
    keys: Vec<Key>,
    taken: Taken,
}

struct Key {
    id: Option<String>,
    algorithm: &'static str,
    verifier: Box<dyn JwsVerifier + Send + Sync>,
}

type Made = Result<Box<dyn JwsVerifier + Send + Sync>, JoseError>;

impl IssuerKeys {
    /// Reads a JWKS file. Symmetric keys are refused: a server that could forge what it checks is no server.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn load(path: &Path, taken: Taken) -> Result<Self, String> {
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
        let set = JwkSet::from_bytes(&bytes).map_err(|e| format!("{shown}: no JWKS: {e}"))?;
        let mut keys = Vec::new();
        for jwk in set.keys() {
            let wanted = jwk.algorithm();
            let mut keep = |algorithm: &'static str, made: Made| {
                if wanted.is_none_or(|w| w == algorithm)
                    && let Ok(verifier) = made
                {
                    keys.push(Key { id: jwk.key_id().map(ToOwned::to_owned), algorithm, verifier });
                }
            };
            let ec = |a: &EcdsaJwsAlgorithm| -> Made { Ok(Box::new(a.verifier_from_jwk(jwk)?)) };
            let rsa = |a: &RsassaJwsAlgorithm| -> Made { Ok(Box::new(a.verifier_from_jwk(jwk)?)) };
            let pss = |a: &RsassaPssJwsAlgorithm| -> Made { Ok(Box::new(a.verifier_from_jwk(jwk)?)) };
            match (jwk.key_type(), jwk.curve()) {
                ("EC", Some("P-256")) => keep("ES256", ec(&ES256)),
                ("EC", Some("P-384")) => keep("ES384", ec(&ES384)),
                ("RSA", _) => {
                    keep("RS256", rsa(&RS256));
                    keep("RS384", rsa(&RS384));
                    keep("PS256", pss(&PS256));
                }
                (kind, _) => return Err(format!("{shown}: key of type {kind} is not taken")),
            }
        }
        if keys.is_empty() { Err(format!("{shown}: no usable key")) } else { Ok(Self { keys, taken }) }
    }

    /// The claims of a token that one of the keys signed, for this audience and at this time.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check(&self, token: &str, issuer: &str, audience: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.is_empty() || token.len() > LONGEST {
            return Err(TokenError::Missing);
        }
        let (payload, header) = jwt::decode_with_verifier_selector(token, |header| {
            let mut fitting = self.keys.iter().filter(|key| {
                Some(key.algorithm) == header.algorithm()
                    && (header.key_id().is_none() || header.key_id() == key.id.as_deref())
            });
            Ok(fitting.next().map(|key| key.verifier.as_ref() as &dyn JwsVerifier))
        })
        .map_err(|_| TokenError::Signature)?;
        if !self.taken.takes(header.claim("typ")) {
            return Err(TokenError::Type);
        }
        let claims = Claims(payload.claims_set().clone());
        let addressed = match claims.claim("aud").ok_or(TokenError::Claim("aud"))? {
            Value::String(one) => one == audience,
            Value::Array(several) => several.iter().any(|a| a.as_str() == Some(audience)),
            _ => return Err(TokenError::Claim("aud")),
        };
        if claims.text("iss")? != issuer || !addressed {
            return Err(TokenError::Address);
        }
        let now = now.as_second();
        let exp = claims.claim("exp").map(|at| numeric_date(at, f64::floor)).ok_or(TokenError::Claim("exp"))?;
        let exp = exp.ok_or(TokenError::Claim("exp"))?;
        let iat = claims.seconds("iat")?.ok_or(TokenError::Claim("iat"))?;
        let early = |at: i64| at > now.saturating_add(SKEW);
        if exp.saturating_add(SKEW) <= now || early(iat) || claims.seconds("nbf")?.is_some_and(early) {
            return Err(TokenError::Time);
        }
        if exp.saturating_sub(iat) > i64::try_from(self.taken.longest_life.as_secs()).unwrap_or(i64::MAX) {
            return Err(TokenError::Time);
        }
        Ok(claims)
    }
}

impl Taken {
    /// As a configuration says it: a day where it names no life.
    pub fn configured(longest_life_seconds: Option<u64>, untyped: bool) -> Self {
        let longest_life = longest_life_seconds.map_or(Self::default().longest_life, Duration::from_secs);
        Self { longest_life, untyped }
    }

    fn takes(&self, typ: Option<&Value>) -> bool {
        let is = |known: &str, typ: &str| known.eq_ignore_ascii_case(typ);
        match typ {
            None => self.untyped,
            Some(typ) => typ
                .as_str()
                .is_some_and(|typ| TYPES.iter().any(|known| is(known, typ)) || (self.untyped && is("JWT", typ))),
        }
    }
}

/// The issuer whose tokens a server takes. Its keys are read again when their file changes; a file that does not read
/// leaves them as they were.
pub struct TokenIssuer {
    name: String,
    audience: String,
    file: PathBuf,
    taken: Taken,
    keys: RwLock<(FileStamp, Arc<IssuerKeys>)>,
}

impl TokenIssuer {
    /// Tokens of this issuer (`iss`) for this server (`aud`).
    ///
    /// # Errors
    /// As [`IssuerKeys::load`].
    pub fn load(name: &str, audience: &str, file: &Path, taken: Taken) -> Result<Self, String> {
        let keys = RwLock::new((file_stamp(file), Arc::new(IssuerKeys::load(file, taken)?)));
        Ok(Self { name: name.to_owned(), audience: audience.to_owned(), file: file.to_owned(), taken, keys })
    }

    /// The claims of a token, as [`IssuerKeys::check`].
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        self.keys().check(token, &self.name, &self.audience, now)
    }

    fn keys(&self) -> Arc<IssuerKeys> {
        let seen = file_stamp(&self.file);
        let (held, keys) = self.keys.read().unwrap_or_else(|p| p.into_inner()).clone();
        if held == seen {
            return keys;
        }
        let read = match IssuerKeys::load(&self.file, self.taken) {
            Ok(read) => Arc::new(read),
            Err(reason) => {
                tracing::error!(reason, "the keys of the token issuer stay as they were");
                keys
            }
        };
        *self.keys.write().unwrap_or_else(|p| p.into_inner()) = (seen, read.clone());
        read
    }
}

/// The one `Authorization` of a request, which is no list (RFC 9110 11.6.2); none where there are several, so that nobody
/// reads another one than we.
pub fn authorization(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    }
}

/// What a token says, once its signature, issuer, audience and times hold.
#[derive(Debug, Clone)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Any claim.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A claim that is a text of sensible length.
    ///
    /// # Errors
    /// [`TokenError::Claim`].
    pub fn text(&self, name: &'static str) -> Result<&str, TokenError> {
        let text = self.claim(name).and_then(Value::as_str).filter(|t| !t.is_empty() && t.len() <= TEXT);
        text.ok_or(TokenError::Claim(name))
    }

    /// A time, seconds, rounded up: nothing begins early. `None` when the claim is absent.
    ///
    /// # Errors
    /// [`TokenError::Claim`] when it is there and is no NumericDate (RFC 7519 2).
    pub fn seconds(&self, name: &'static str) -> Result<Option<i64>, TokenError> {
        let read = |at| numeric_date(at, f64::ceil).ok_or(TokenError::Claim(name));
        self.claim(name).map(read).transpose()
    }

    /// What is granted; empty when nothing is. What `authorization_details` (RFC 9396) say is not read here, so that a
    /// token with them grants nothing.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let scopes = self.text("scope").ok().filter(|_| self.claim("authorization_details").is_none());
        scopes.unwrap_or_default().split(' ').filter(|scope| !scope.is_empty())
    }

    /// Bound to a key or certificate (`cnf`): worth nothing to a server that does not check that.
    pub fn is_bound(&self) -> bool {
        self.claim("cnf").is_some()
    }
}

/// Seconds since 1970; a fraction is allowed, and is rounded to the side that refuses.
fn numeric_date(at: &Value, round: fn(f64) -> f64) -> Option<i64> {
    /// Beyond it a double has no whole seconds any more; some 285 million years.
    const MOST: f64 = 9.0e15;
    match (at.as_i64(), at.as_f64()) {
        (Some(whole), _) => Some(whole),
        #[allow(clippy::cast_possible_truncation)]
        (None, Some(fraction)) if fraction.abs() < MOST => Some(round(fraction) as i64),
        _ => None,
    }
}

/// Whether a SMART scope (`user/R.rs`, `system/*.read`) of one of these levels gives one of these rights (`c`, `r`, `u`,
/// `d`, `s`) to a resource. A scope with a query (SMART 2) grants less than the resource, and which part of it is not read
/// here: it grants nothing.
pub fn scope_covers(scope: &str, levels: &[&str], resource: &str, rights: &[char]) -> bool {
    let Some((level, what)) = scope.split_once('/') else { return false };
    let Some((kind, given)) = what.split_once('.') else { return false };
    // SMART 1 and 2.
    let given = match given {
        "read" => "rs",
        // The form of HL7 Europe beside it.
        "search" => "s",
        "write" => "cud",
        "*" => "cruds",
        letters if in_order(letters) => letters,
        _ => return false,
    };
    levels.contains(&level) && (kind == resource || kind == "*") && given.contains(rights)
}

/// Rights of SMART 2: each at most once, in this order.
fn in_order(letters: &str) -> bool {
    let mut order = "cruds".chars();
    letters.chars().all(|letter| order.any(|known| known == letter))
}

#[cfg(test)]
mod tests {
    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::{ES256, JwsHeader};
    use josekit::jwt::{self, JwtPayload};
    use serde_json::json;

    use super::*;

    #[test]
    fn one_authorization_is_read_and_two_are_none() {
        for (values, expected) in
            [(&[][..], None), (&["Bearer a"], Some("Bearer a")), (&["Bearer a", "Bearer b"], None)]
        {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(header::AUTHORIZATION, header::HeaderValue::from_static(value));
            });
            assert_eq!(authorization(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn keys_follow_their_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let [first, second] = [(), ()].map(|()| Jwk::generate_ec_key(EcCurve::P256).expect("a key"));
        let write = |keys: &[&Jwk]| {
            let keys: Vec<Jwk> = keys.iter().map(|key| key.to_public_key().expect("public")).collect();
            std::fs::write(file.path(), json!({ "keys": keys }).to_string()).expect("writes");
        };
        let now = Timestamp::now();
        let at = now.as_second();
        let claims = json!({ "iss": "https://idp.example", "aud": "ours", "iat": at, "exp": at + 60 });
        let payload = JwtPayload::from_map(claims.as_object().expect("claims").clone()).expect("claims");
        let token = |key: &Jwk| {
            let signer = ES256.signer_from_jwk(key).expect("a signer");
            let mut header = JwsHeader::new();
            header.set_token_type("at+jwt");
            jwt::encode_with_signer(&payload, &header, &signer).expect("signs")
        };
        write(&[&first]);
        let issuer = TokenIssuer::load("https://idp.example", "ours", file.path(), Taken::default()).expect("loads");
        let takes = || [&first, &second].map(|key| issuer.check(&token(key), now).is_ok());
        assert_eq!(takes(), [true, false]);
        write(&[&second]);
        assert_eq!(takes(), [false, true]);
        std::fs::write(file.path(), "{").expect("writes");
        assert_eq!(takes(), [false, true], "a file that does not read");
        std::fs::remove_file(file.path()).expect("removes");
        assert_eq!(takes(), [false, true], "no file");
        write(&[&first]);
        assert_eq!(takes(), [true, false]);
    }

    #[test]
    fn scopes_of_both_smart_versions() {
        let reads = |scope| scope_covers(scope, &["user", "system"], "CodeSystem", &['r', 's']);
        for good in ["user/CodeSystem.rs", "system/*.read", "user/CodeSystem.r", "system/CodeSystem.*", "user/*.cruds"]
        {
            assert!(reads(good), "{good}");
        }
        for bad in [
            "",
            "user",
            "user/CodeSystem",
            "patient/CodeSystem.rs",
            "user/ConceptMap.rs",
            "user/CodeSystem.cud",
            "user/CodeSystem.write",
            "user/CodeSystem.",
            "user/CodeSystem.rx",
            "user/CodeSystem.sr",
            "user/CodeSystem.rr",
            "user/*.cruds?x=y",
        ] {
            assert!(!reads(bad), "{bad}");
        }
    }

    /// Every scope of a grammar: what is granted is what the string says, or less.
    #[test]
    fn se_16_a_scope_grants_what_it_says() {
        let mut granted = 0;
        for level in ["user", "patient", "system", "User", ""] {
            for kind in ["AuditEvent", "Patient", "*", "Audit*", ""] {
                for rights in ["r", "s", "rs", "cruds", "cud", "read", "write", "*", "", "sr", "search", "x"] {
                    for restriction in ["", "?", "?_id=1", "?outcome=8", "?category=a|b", ".rs", " "] {
                        let scope = format!("{level}/{kind}.{rights}{restriction}");
                        let says = restriction.is_empty()
                            && level == "patient"
                            && ["AuditEvent", "*"].contains(&kind)
                            && ["s", "rs", "cruds", "read", "search", "*"].contains(&rights);
                        let given = scope_covers(&scope, &["patient"], "AuditEvent", &['s']);
                        assert!(!given || says, "{scope}");
                        granted += usize::from(given);
                    }
                }
            }
        }
        assert_eq!(granted, 12, "and what it says it grants");
    }

    /// The claims of a token of a new key with this `typ`, changed so; none where it is refused.
    fn checked(taken: Taken, typ: Option<&str>, change: &Value) -> Option<Claims> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let key = Jwk::generate_ec_key(EcCurve::P256).expect("a key");
        let public = key.to_public_key().expect("public");
        std::fs::write(file.path(), json!({ "keys": [public] }).to_string()).expect("writes");
        let keys = IssuerKeys::load(file.path(), taken).expect("loads");
        let now = Timestamp::now();
        let at = now.as_second();
        let mut claims = json!({ "iss": "https://idp.example", "aud": "ours", "iat": at, "exp": at + 60 });
        for (name, value) in change.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        let payload = JwtPayload::from_map(claims.as_object().expect("claims").clone()).ok()?;
        let mut header = JwsHeader::new();
        if let Some(typ) = typ {
            header.set_token_type(typ);
        }
        let signer = ES256.signer_from_jwk(&key).expect("a signer");
        let token = jwt::encode_with_signer(&payload, &header, &signer).expect("signs");
        keys.check(&token, "https://idp.example", "ours", now).ok()
    }

    /// Times that are there and cannot be read refuse; a fraction is a time.
    #[test]
    fn se_20_a_time_that_cannot_be_read_refuses() {
        let taken = |change: &Value| checked(Taken::default(), Some("at+jwt"), change).is_some();
        let at = Timestamp::now().as_second();
        let fraction = |after: i64| at as f64 + after as f64 + 0.5;
        for good in [
            json!({}),
            json!({ "nbf": at }),
            json!({ "nbf": fraction(-1) }),
            json!({ "exp": fraction(600) }),
            json!({ "iat": fraction(-10) }),
        ] {
            assert!(taken(&good), "{good}");
        }
        for bad in [
            json!({ "nbf": fraction(3600) }),
            json!({ "nbf": "soon" }),
            json!({ "nbf": null }),
            json!({ "nbf": 1e300 }),
            json!({ "exp": fraction(-3600) }),
            json!({ "exp": "later" }),
            json!({ "iat": fraction(3600) }),
            json!({ "iat": [at] }),
        ] {
            assert!(!taken(&bad), "{bad}");
        }
    }

    /// An access token is of its type, and lives as long as the server allows.
    #[test]
    fn se_20_types_and_lives_are_those_that_are_configured() {
        let strict = Taken::default();
        let old = Taken { untyped: true, ..strict };
        let taken = |taken: Taken, typ: Option<&str>| checked(taken, typ, &json!({})).is_some();
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
            assert!(taken(strict, Some(typ)) && taken(old, Some(typ)), "{typ}");
        }
        for typ in [None, Some("JWT"), Some("jwt")] {
            assert!(!taken(strict, typ) && taken(old, typ), "{typ:?}");
        }
        for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", ""] {
            assert!(!taken(strict, Some(typ)) && !taken(old, Some(typ)), "{typ}");
        }
        let at = Timestamp::now().as_second();
        let hours = |hours: u64| Taken { longest_life: Duration::from_secs(hours * 3600), ..strict };
        let lives = |taken: Taken, hours: i64| {
            checked(taken, Some("at+jwt"), &json!({ "iat": at, "exp": at + hours * 3600 })).is_some()
        };
        assert!(lives(strict, 24) && !lives(strict, 25));
        assert!(lives(hours(48), 25) && lives(hours(1), 1) && !lives(hours(1), 2));
    }

    /// What a token restricts in a way that is not read leaves nothing of what it grants.
    #[test]
    fn se_16_authorization_details_that_are_not_read_grant_nothing() {
        let scopes = |more: Value| {
            let mut claims = json!({ "scope": "launch/patient user/Patient.rs  ITI-67" });
            claims.as_object_mut().expect("claims").extend(more.as_object().expect("claims").clone());
            let claims = checked(Taken::default(), Some("at+jwt"), &claims).expect("a token");
            claims.scopes().map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(scopes(json!({})), ["launch/patient", "user/Patient.rs", "ITI-67"]);
        for details in [json!([]), json!([{ "type": "patient_record" }]), json!({}), json!("x"), json!(null)] {
            assert!(scopes(json!({ "authorization_details": details })).is_empty());
        }
        for launch in ["launch", "launch/patient", "launch/encounter", "openid", "fhirUser", "offline_access"] {
            assert!(
                !scope_covers(launch, &["user", "system", "patient", "launch"], "Patient", &['r', 's']),
                "{launch}"
            );
        }
    }

    /// Reading and searching are two rights.
    #[test]
    fn se_16_reading_is_not_searching() {
        let covers = |scope: &str, right: char| scope_covers(scope, &["user"], "Patient", &[right]);
        for (scope, reads, searches) in [
            ("user/Patient.r", true, false),
            ("user/Patient.s", false, true),
            ("user/Patient.rs", true, true),
            ("user/Patient.read", true, true),
            ("user/Patient.search", false, true),
            ("user/*.*", true, true),
            ("user/Patient.cud", false, false),
        ] {
            assert_eq!((covers(scope, 'r'), covers(scope, 's')), (reads, searches), "{scope}");
        }
    }
}
