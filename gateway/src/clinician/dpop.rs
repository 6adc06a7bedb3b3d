//! Proof of possession (DPoP, RFC 9449): a token that names a key is taken only with a proof, made with that key, for this
//! very call.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use josekit::jwk::Jwk;
use josekit::jws::{ES256, ES384, JwsVerifier, PS256, RS256, RS384};
use josekit::jwt;
use openssl::sha::sha256;
use serde_json::{Value, json};

use super::token::TokenError;
use crate::responding::replay::{Once, ReplayError};

/// Longest proof, bytes.
const LONGEST: usize = 8 << 10;
/// A proof may be so old, and clocks differ by so much, seconds.
const LIFE: i64 = 60;
/// A proof is remembered for longer than one with a clock ahead of ours can live.
const REMEMBERED: Duration = Duration::from_secs(2 * LIFE as u64 + 1);
/// Memory for the proofs that are remembered, bytes: some 260,000.
const MEMORY: usize = 64 << 20;

/// The proofs of the last minutes: none is taken twice, by this process or by the one before it. No professional holds more
/// of the memory than what is free, whatever keys her tokens are bound to.
pub struct Proofs(Once);

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
    /// Takes up what the process before knew.
    ///
    /// # Errors
    /// The journal cannot be read, or another process has it.
    pub fn open(journal: &Path) -> Result<Self, String> {
        Ok(Self(Once::open(journal, MEMORY)?))
    }

    /// Checks a proof: form, algorithm, its own key is the token's, signature, method, address, token, time, and that it
    /// is new (RFC 9449 4.3).
    ///
    /// # Errors
    /// [`TokenError::Proof`] with the first check that does not hold; [`TokenError::Busy`] where the proof cannot be remembered.
    pub fn check(
        &self,
        proof: &str,
        (subject, thumbprint): (&str, &str),
        called: &Called<'_>,
        now: Timestamp,
    ) -> Result<(), TokenError> {
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
        let (issued, second) = (payload.claim("iat").and_then(Value::as_i64).ok_or(not("iat"))?, now.as_second());
        if issued.saturating_add(LIFE) < second || issued > second.saturating_add(LIFE) {
            return Err(not("time"));
        }
        let id = claim("jti").filter(|id| !id.is_empty() && id.len() <= 256).ok_or(not("jti"))?;
        match self.0.take(subject, &["proof", thumbprint, id], now + REMEMBERED, now) {
            Ok(()) => Ok(()),
            Err(ReplayError::DuplicateMessageId) => Err(not("used before")),
            Err(_) => Err(TokenError::Busy),
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

    /// Proofs in a folder of their own, which the caller keeps.
    fn proofs() -> (tempfile::TempDir, Proofs) {
        let folder = tempfile::tempdir().expect("a folder");
        let proofs = Proofs::open(&folder.path().join("proofs.journal")).expect("opens");
        (folder, proofs)
    }

    fn check(proofs: &Proofs, proof: &str, thumbprint: &str) -> Result<(), TokenError> {
        check_of(proofs, "hpr-1", proof, thumbprint)
    }

    fn check_of(proofs: &Proofs, subject: &str, proof: &str, thumbprint: &str) -> Result<(), TokenError> {
        let now = Timestamp::from_second(NOW).expect("a time");
        proofs.check(proof, (subject, thumbprint), &Called { method: "POST", url: URL, token: TOKEN }, now)
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
        let (key, (_folder, proofs)) = (key(), proofs());
        let public = key.to_public_key().expect("public");
        let thumbprint = thumbprint_of(&key).expect("a thumbprint");
        let good = proof(&key, &public, "dpop+jwt", &claims());
        assert_eq!(check(&proofs, &good, &thumbprint), Ok(()));
        assert_eq!(check(&proofs, &good, &thumbprint), Err(TokenError::Proof("used before")));
    }

    /// SE-12: a restart, or a process that is killed, forgets no proof; one that was not used is good after it.
    #[test]
    fn se_12_a_proof_is_good_once_over_a_restart() {
        let (key, folder) = (key(), tempfile::tempdir().expect("a folder"));
        let public = key.to_public_key().expect("public");
        let thumbprint = thumbprint_of(&key).expect("a thumbprint");
        // What is over is forgotten at the start by the clock of the machine.
        let now = Timestamp::now();
        let with = |jti: &str| {
            let mut claims = claims();
            (claims["jti"], claims["iat"]) = (json!(jti), json!(now.as_second()));
            proof(&key, &public, "dpop+jwt", &claims)
        };
        let (used, unused) = (with("used"), with("unused"));
        for (proof, told) in [(&used, Ok(())), (&used, Err(TokenError::Proof("used before"))), (&unused, Ok(()))] {
            let proofs = Proofs::open(&folder.path().join("proofs.journal")).expect("opens");
            let called = Called { method: "POST", url: URL, token: TOKEN };
            assert_eq!(proofs.check(proof, ("hpr-1", &thumbprint), &called, now), told);
        }
    }

    /// SE-13: who has taken her share is told that we are busy, whatever keys her tokens name, and nobody else is.
    #[test]
    fn se_13_one_professional_fills_her_share_of_the_proofs_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let proofs = Proofs(Once::with_capacity(&folder.path().join("proofs.journal"), 8).expect("opens"));
        let keys = [key(), key()];
        let told = |subject: &str, n: usize| {
            let key = &keys[n % 2];
            let mut claims = claims();
            claims["jti"] = json!(format!("{subject} {n}"));
            let made = proof(key, &key.to_public_key().expect("public"), "dpop+jwt", &claims);
            check_of(&proofs, subject, &made, &thumbprint_of(key).expect("a thumbprint"))
        };
        for n in 0..4 {
            assert_eq!(told("hpr-1", n), Ok(()));
        }
        assert_eq!((told("hpr-1", 4), told("hpr-1", 5)), (Err(TokenError::Busy), Err(TokenError::Busy)));
        assert_eq!((told("hpr-2", 0), told("hpr-2", 1)), (Ok(()), Ok(())));
        assert_eq!(told("hpr-3", 0), Ok(()), "whatever the others did");
    }

    #[test]
    fn what_is_no_proof_of_this_call() {
        let (_folder, proofs) = proofs();
        let (key, other) = (key(), key());
        let public = key.to_public_key().expect("public");
        let thumbprint = thumbprint_of(&key).expect("a thumbprint");
        let refused = |proof: &str, why: &'static str| {
            assert_eq!(check(&proofs, proof, &thumbprint), Err(TokenError::Proof(why)));
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
            assert!(check(&proofs, broken, &thumbprint).is_err());
        }
        refused(&"A".repeat(LONGEST + 1), "size");
    }
}
