//! What a later call needs travels sealed in the base URL that we handed out, so that nothing is kept here.
//!
//! A sealed value is `base64url(nonce ‖ AES-256-GCM(facts) ‖ tag)`. The token's subject is bound in as associated data:
//! in the hands of anybody else it opens no more than a forged one. Sealed are facts, never an assertion.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::symm::Cipher;
use serde::{Deserialize, Serialize};

/// Longest sealed value, characters.
const LONGEST: usize = 1024;
const NONCE: usize = 12;
const TAG: usize = 16;

/// The three kinds of base URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sealed {
    /// A person that `$match` found: no treatment yet.
    Unconfirmed(Person),
    /// A patient under treatment.
    Confirmed(Treated),
    /// One document of a patient under treatment; for a manifest, its study.
    Document(Treated, Document),
}

/// A person in a country.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Country of affiliation, two letters.
    pub country: String,
    /// CX.
    pub patient: String,
    /// `YYYYMMDD`.
    pub birth_date: Option<String>,
    /// The HCP identity assertion of the search.
    pub hcp: Hcp,
    /// Seconds since 1970.
    pub expires: i64,
}

impl std::fmt::Debug for Person {
    /// Never the person: values of this type may end up in debug output.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Person(… of {})", self.country)
    }
}

/// From what an HCP identity assertion is issued again, beside the token's claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hcp {
    /// Random part of its ID.
    pub id: [u8; 16],
    /// Its instant, seconds since 1970.
    pub issued: i64,
    /// When the professional logged in.
    pub login: i64,
    /// Emergency access.
    pub emergency: bool,
    /// Digest of the claims: other claims are another professional, or the same in another capacity.
    pub claims: [u8; 16],
}

/// A confirmed treatment relationship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Treated {
    /// Whom; its `expires` is the end of the relationship.
    pub person: Person,
    /// Random part of the TRC assertion's ID.
    pub trc: [u8; 16],
    /// Its instant, seconds since 1970.
    pub issued: i64,
    /// The same patient in further countries, with a relationship of her own in each.
    pub also: Vec<Also>,
}

/// A patient under treatment as one more country knows her.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Also {
    /// Country of affiliation, two letters.
    pub country: String,
    /// CX.
    pub patient: String,
    /// `YYYYMMDD`.
    pub birth_date: Option<String>,
    /// Random part of the TRC assertion's ID.
    pub trc: [u8; 16],
}

impl std::fmt::Debug for Also {
    /// Never the person.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Also(… of {})", self.country)
    }
}

impl Treated {
    /// The relationship with each country for itself, the first country first.
    pub fn each(&self) -> Vec<Self> {
        let alone = |person, trc| Self { person, trc, issued: self.issued, also: Vec::new() };
        let first = alone(self.person.clone(), self.trc);
        let others = self.also.iter().cloned().map(|Also { country, patient, birth_date, trc }| {
            alone(Person { country, patient, birth_date, ..self.person.clone() }, trc)
        });
        std::iter::once(first).chain(others).collect()
    }
}

impl std::fmt::Debug for Document {
    /// Never the ids: one of them is the patient's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({})", self.media_type)
    }
}

/// One document as its metadata described it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// RepositoryUniqueId.
    pub repository: String,
    /// uniqueId.
    pub unique_id: String,
    /// SHA-1 where announced.
    pub hash: Option<[u8; 20]>,
    /// Bytes where announced.
    pub size: Option<u64>,
    /// Media type.
    pub media_type: String,
    /// Language.
    pub language: String,
    /// Study Instance UID of a manifest.
    pub study: Option<String>,
    /// Local id of the patient at the source, CX.
    pub source_patient: Option<String>,
    /// For a translation: uniqueId, hash and size of its original.
    pub original: Option<Box<Document>>,
}

/// 32 bytes in hex.
///
/// # Errors
/// What is wrong with the file, for operators.
pub fn read_key(path: &Path) -> Result<[u8; 32], String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let bytes = hex::decode(text.trim()).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
    bytes.ok_or_else(|| format!("{}: expected 32 bytes in hex", path.display()))
}

/// Seals and opens.
pub struct Sealer {
    key: [u8; 32],
}

impl Sealer {
    /// Reads the key: 32 bytes in hex.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn load(path: &Path) -> Result<Self, String> {
        Ok(Self { key: read_key(path)? })
    }

    /// Seals for the subject of a token. `None` when it would be longer than URLs may be, or without randomness.
    pub fn seal(&self, subject: &str, facts: &Sealed) -> Option<String> {
        let plain = postcard::to_stdvec(facts).ok()?;
        let mut out = [0u8; NONCE].to_vec();
        openssl::rand::rand_bytes(&mut out).ok()?;
        let mut tag = [0u8; TAG];
        let nonce = out.clone();
        let aad = associated(subject);
        let sealed =
            openssl::symm::encrypt_aead(Cipher::aes_256_gcm(), &self.key, Some(&nonce), &aad, &plain, &mut tag).ok()?;
        out.extend_from_slice(&sealed);
        out.extend_from_slice(&tag);
        let text = URL_SAFE_NO_PAD.encode(out);
        (text.len() <= LONGEST).then_some(text)
    }

    /// Opens for the subject of a token. `None` for anything that was not sealed by us for that subject.
    pub fn open(&self, subject: &str, text: &str) -> Option<Sealed> {
        if text.len() > LONGEST {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, rest) = bytes.split_at_checked(NONCE)?;
        let (sealed, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let aad = associated(subject);
        let cipher = Cipher::aes_256_gcm();
        let plain = openssl::symm::decrypt_aead(cipher, &self.key, Some(nonce), &aad, sealed, tag).ok()?;
        let (facts, left) = postcard::take_from_bytes(&plain).ok()?;
        left.is_empty().then_some(facts)
    }
}

fn associated(subject: &str) -> Vec<u8> {
    [b"ncp-sealed-1\0".as_slice(), subject.as_bytes()].concat()
}

/// The id of a resource: 43 characters that say nothing, since a FHIR id holds 64.
pub fn resource_id(parts: &[&str]) -> String {
    let mut hasher = openssl::sha::Sha256::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Sealed {
        let hcp = Hcp { id: [7; 16], issued: 1_795_000_000, login: 1_794_999_000, emergency: false, claims: [3; 16] };
        let person = Person {
            country: "NO".into(),
            patient: "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO".into(),
            birth_date: Some("19770530".into()),
            hcp,
            expires: 1_795_007_200,
        };
        let treated = Treated { person, trc: [9; 16], issued: 1_795_000_001, also: Vec::new() };
        let document = Document {
            repository: "2.999.47.21.1".into(),
            unique_id: "1.2.276.0.7230010.3.1.4.8323329.12345.1700000000.123456^PIVOT".into(),
            hash: Some([1; 20]),
            size: Some(12_345_678),
            media_type: "text/xml".into(),
            language: "nb-NO".into(),
            study: Some("1.3.6.1.4.1.14519.5.2.1.1706.8374.643249677828306008300337414785".into()),
            source_patient: Some("UV59569735^^^&2.999.1&ISO".into()),
            original: None,
        };
        let original = Some(Box::new(document.clone()));
        Sealed::Document(treated, Document { original, ..document })
    }

    #[test]
    fn opens_for_its_subject_alone() {
        let sealer = Sealer { key: [5; 32] };
        let text = sealer.seal("https://idp.example|a", &facts()).expect("sealed");
        assert!(text.len() < 900, "{} characters", text.len());
        assert_eq!(sealer.open("https://idp.example|a", &text), Some(facts()));
        assert_eq!(sealer.open("https://idp.example|b", &text), None);
        assert_eq!(Sealer { key: [6; 32] }.open("https://idp.example|a", &text), None);
    }

    #[test]
    fn a_patient_of_five_countries_fits_into_a_url() {
        let Sealed::Document(treated, _) = facts() else { panic!("a document") };
        let also = ["FI", "SE", "DK", "PT"].map(|country| Also {
            country: country.into(),
            patient: treated.person.patient.clone(),
            birth_date: treated.person.birth_date.clone(),
            trc: [1; 16],
        });
        let treated = Treated { also: also.to_vec(), ..treated };
        let countries: Vec<_> = treated.each().into_iter().map(|one| one.person.country).collect();
        assert_eq!(countries, ["NO", "FI", "SE", "DK", "PT"]);
        assert!(treated.each().iter().all(|one| one.also.is_empty() && one.person.hcp == treated.person.hcp));
        assert!(Sealer { key: [5; 32] }.seal("https://idp.example|a", &Sealed::Confirmed(treated)).is_some());
    }

    #[test]
    fn one_bit_is_enough_to_close_it() {
        let sealer = Sealer { key: [5; 32] };
        let text = sealer.seal("s", &facts()).expect("sealed");
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("text");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(sealer.open("s", &URL_SAFE_NO_PAD.encode(changed)), None, "byte {at}");
        }
        for short in ["", "AAAA", "====", &text[..20]] {
            assert_eq!(sealer.open("s", short), None);
        }
    }

    #[test]
    fn resource_ids_fit_and_differ() {
        assert_eq!(resource_id(&["a"]).len(), 43);
        assert_ne!(resource_id(&["a", "b"]), resource_id(&["ab", ""]));
    }
}
