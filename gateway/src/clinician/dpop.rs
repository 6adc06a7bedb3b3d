//! Proof of possession (DPoP, RFC 9449): a token that names a key is taken only with a proof, made with that key, for this
//! very call.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use josekit::jwk::Jwk;
use josekit::jws::{ES256, ES384, JwsVerifier, PS256, RS256, RS384};
use josekit::jwt;
use openssl::sha::sha256;
use serde_json::{Value, json};

use super::token::TokenError;

/// Longest proof, bytes.
const LONGEST: usize = 8 << 10;
/// A proof may be so old, and clocks differ by so much, seconds.
const LIFE: i64 = 60;
/// Proofs that are remembered; beyond, calls with new ones are refused.
const CAPACITY: usize = 200_000;

/// The proofs of the last minutes: none is taken twice by this process.
#[derive(Default)]
pub struct Proofs(Mutex<HashMap<[u8; 32], i64>>);

/// The call that a proof is for.
pub struct Called<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Origin and path, without query.
    pub url: &'a str,
    /// The token that came with it.
    pub token: &'a str,
}

impl Proofs {
    /// Checks a proof: form, algorithm, its own key is the token's, signature, method, address, token, time, and that it
    /// is new (RFC 9449 4.3).
    ///
    /// # Errors
    /// [`TokenError::Proof`] with the first check that does not hold.
    pub fn check(&self, proof: &str, thumbprint: &str, called: &Called<'_>, now: Timestamp) -> Result<(), TokenError> {
        let not = TokenError::Proof;
        if proof.len() > LONGEST {
            return Err(not("size"));
        }
        let head = proof.split('.').next().unwrap_or_default();
        let head = URL_SAFE_NO_PAD.decode(head).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let head = head.ok_or(not("form"))?;
        let text = |name: &str| head.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("typ") != "dpop+jwt" {
            return Err(not("typ"));
        }
        let key = head.get("jwk").and_then(Value::as_object).ok_or(not("jwk"))?;
        if ["d", "p", "q", "k"].iter().any(|private| key.contains_key(*private)) {
            return Err(not("private key"));
        }
        let key = Jwk::from_map(key.clone()).map_err(|_| not("jwk"))?;
        if thumbprint_of(&key).as_deref() != Some(thumbprint) {
            return Err(not("another key than the token's"));
        }
        let verifier = verifier(text("alg"), &key).ok_or(not("algorithm"))?;
        let (payload, _) = jwt::decode_with_verifier(proof, verifier.as_ref()).map_err(|_| not("signature"))?;
        let claim = |name: &str| payload.claim(name).and_then(Value::as_str);
        if claim("htm") != Some(called.method) {
            return Err(not("method"));
        }
        if claim("htu").map(|url| url.split(['?', '#']).next().unwrap_or_default()) != Some(called.url) {
            return Err(not("address"));
        }
        if claim("ath") != Some(&URL_SAFE_NO_PAD.encode(sha256(called.token.as_bytes()))) {
            return Err(not("token"));
        }
        let (issued, now) = (payload.claim("iat").and_then(Value::as_i64).ok_or(not("iat"))?, now.as_second());
        if issued.saturating_add(LIFE) < now || issued > now.saturating_add(LIFE) {
            return Err(not("time"));
        }
        let id = claim("jti").filter(|id| !id.is_empty() && id.len() <= 256).ok_or(not("jti"))?;
        self.once(sha256(format!("{thumbprint} {id}").as_bytes()), now)
    }

    fn once(&self, id: [u8; 32], now: i64) -> Result<(), TokenError> {
        let mut seen = self.0.lock().unwrap_or_else(|p| p.into_inner());
        if seen.len() >= CAPACITY {
            seen.retain(|_, until| *until >= now);
            if seen.len() >= CAPACITY {
                return Err(TokenError::Proof("too many at once"));
            }
        }
        // Longer than a proof with a clock ahead of ours can live.
        match seen.insert(id, now + 2 * LIFE + 1) {
            Some(until) if until >= now => Err(TokenError::Proof("used before")),
            _ => Ok(()),
        }
    }
}

fn verifier(algorithm: &str, key: &Jwk) -> Option<Box<dyn JwsVerifier>> {
    Some(match algorithm {
        "ES256" => Box::new(ES256.verifier_from_jwk(key).ok()?),
        "ES384" => Box::new(ES384.verifier_from_jwk(key).ok()?),
        "RS256" => Box::new(RS256.verifier_from_jwk(key).ok()?),
        "RS384" => Box::new(RS384.verifier_from_jwk(key).ok()?),
        "PS256" => Box::new(PS256.verifier_from_jwk(key).ok()?),
        _ => return None,
    })
}

/// RFC 7638, SHA-256.
fn thumbprint_of(key: &Jwk) -> Option<String> {
    let text = |name: &str| key.parameter(name).and_then(Value::as_str);
    // Members in the order of their names.
    let canonical = match key.key_type() {
        "EC" => json!({ "crv": text("crv")?, "kty": "EC", "x": text("x")?, "y": text("y")? }),
        "RSA" => json!({ "e": text("e")?, "kty": "RSA", "n": text("n")? }),
        _ => return None,
    };
    Some(URL_SAFE_NO_PAD.encode(sha256(canonical.to_string().as_bytes())))
}

#[cfg(test)]
mod tests {
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::JwsHeader;
    use josekit::jwt::JwtPayload;

    use super::*;

    const NOW: i64 = 1_795_458_000;
    const URL: &str = "https://ncp.example/fhir/Patient/$match";
    const TOKEN: &str = "a.b.c";

    fn key() -> Jwk {
        Jwk::generate_ec_key(EcCurve::P256).expect("a key")
    }

    fn proof(key: &Jwk, shown: &Jwk, typ: &str, claims: &Value) -> String {
        let mut header = JwsHeader::new();
        header.set_token_type(typ);
        header.set_jwk(shown.clone());
        let payload = JwtPayload::from_map(claims.as_object().expect("an object").clone()).expect("claims");
        jwt::encode_with_signer(&payload, &header, &ES256.signer_from_jwk(key).expect("a signer")).expect("signs")
    }

    fn claims() -> Value {
        let ath = URL_SAFE_NO_PAD.encode(sha256(TOKEN.as_bytes()));
        json!({ "jti": "1", "htm": "POST", "htu": URL, "iat": NOW, "ath": ath })
    }

    fn check(proofs: &Proofs, proof: &str, thumbprint: &str) -> Result<(), TokenError> {
        let now = Timestamp::from_second(NOW).expect("a time");
        proofs.check(proof, thumbprint, &Called { method: "POST", url: URL, token: TOKEN }, now)
    }

    /// The example of RFC 7638 3.1.
    #[test]
    fn a_thumbprint_is_that_of_the_rfc() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = json!({ "kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29" });
        let key = Jwk::from_map(key.as_object().expect("an object").clone()).expect("a key");
        assert_eq!(thumbprint_of(&key).as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
    }

    #[test]
    fn a_proof_is_good_once() {
        let (key, proofs) = (key(), Proofs::default());
        let public = key.to_public_key().expect("public");
        let thumbprint = thumbprint_of(&key).expect("a thumbprint");
        let good = proof(&key, &public, "dpop+jwt", &claims());
        assert_eq!(check(&proofs, &good, &thumbprint), Ok(()));
        assert_eq!(check(&proofs, &good, &thumbprint), Err(TokenError::Proof("used before")));
    }

    #[test]
    fn what_is_no_proof_of_this_call() {
        let (key, other) = (key(), key());
        let public = key.to_public_key().expect("public");
        let thumbprint = thumbprint_of(&key).expect("a thumbprint");
        let refused = |proof: &str, why: &'static str| {
            assert_eq!(check(&Proofs::default(), proof, &thumbprint), Err(TokenError::Proof(why)));
        };
        for (name, value, why) in [
            ("htm", json!("GET"), "method"),
            ("htu", json!("https://evil.example/fhir/Patient/$match"), "address"),
            ("htu", json!(null), "address"),
            ("ath", json!(URL_SAFE_NO_PAD.encode(sha256(b"another"))), "token"),
            ("iat", json!(NOW - LIFE - 1), "time"),
            ("iat", json!(NOW + LIFE + 1), "time"),
            ("jti", json!(""), "jti"),
        ] {
            let mut changed = claims();
            changed[name] = value;
            refused(&proof(&key, &public, "dpop+jwt", &changed), why);
        }
        refused(&proof(&key, &public, "JWT", &claims()), "typ");
        refused(&proof(&key, &key, "dpop+jwt", &claims()), "private key");
        let foreign = other.to_public_key().expect("public");
        refused(&proof(&other, &foreign, "dpop+jwt", &claims()), "another key than the token's");
        // Shows the right key, signed with another.
        refused(&proof(&other, &public, "dpop+jwt", &claims()), "signature");
        let good = proof(&key, &public, "dpop+jwt", &claims());
        let (head, rest) = good.split_once('.').expect("parts");
        let unsigned = String::from_utf8(URL_SAFE_NO_PAD.decode(head).expect("base64")).expect("text");
        let unsigned = URL_SAFE_NO_PAD.encode(unsigned.replace("ES256", "none"));
        refused(&format!("{unsigned}.{rest}"), "algorithm");
        for broken in ["", "a.b.c", "...", head] {
            assert!(check(&Proofs::default(), broken, &thumbprint).is_err());
        }
        refused(&"A".repeat(LONGEST + 1), "size");
    }
}
