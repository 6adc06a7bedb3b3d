//! Documents that are made when they are retrieved, each offered as a DocumentEntry of its own beside its original: the
//! pivot (transcoded), and the OrCD view for OpenNCP neighbours.
//!
//! Their uniqueId is the original's with a fixed extension, their entryUUID is derived from that, their hash and size
//! are the delayed-assembly pair (ITI TF-2: 3.38). An association XFRM leads to a pivot from its original.

use ncp_ihe::{Association, DocumentEntry};

/// SHA-1 of nothing: hash of a document assembled at retrieval.
const DELAYED_HASH: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// What is made of an original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Its transcoded form.
    Pivot,
    /// Its OrCD view.
    Orcd,
}

impl Form {
    /// Extension that marks its uniqueId.
    fn extension(self) -> &'static str {
        match self {
            Self::Pivot => "PIVOT",
            Self::Orcd => "ORCD",
        }
    }

    /// The uniqueId of this form of an original.
    pub fn of(self, original: &str) -> String {
        let extension = self.extension();
        if original.contains('^') { format!("{original}-{extension}") } else { format!("{original}^{extension}") }
    }
}

/// Whether a transcoded form is offered: CDA documents that are no made ones themselves.
pub fn has_pivot(entry: &DocumentEntry) -> bool {
    entry.mime_type == "text/xml" && split(&entry.unique_id).1.is_none()
}

/// The original that a uniqueId names, and the form of it.
pub fn split(unique_id: &str) -> (&str, Option<Form>) {
    for form in [Form::Pivot, Form::Orcd] {
        let stem = unique_id.strip_suffix(form.extension());
        if let Some(original) = stem.and_then(|s| s.strip_suffix('^').or_else(|| s.strip_suffix('-'))) {
            return (original, Some(form));
        }
    }
    (unique_id, None)
}

/// The entry of a made document: the original's but for what identifies it and its bytes.
pub fn made_of(original: &DocumentEntry, form: Form) -> DocumentEntry {
    DocumentEntry {
        entry_uuid: uuid_of(original, form),
        unique_id: form.of(&original.unique_id),
        hash: Some(DELAYED_HASH.to_owned()),
        size: Some(0),
        ..original.clone()
    }
}

/// The association of a pivot with its original.
pub fn association_of(original: &DocumentEntry) -> Association {
    Association {
        uuid: derived_uuid(&[&original.entry_uuid, Association::XFRM]),
        kind: Association::XFRM.to_owned(),
        source: uuid_of(original, Form::Pivot),
        target: original.entry_uuid.clone(),
        submission_set_status: None,
    }
}

/// The entryUUID of a form of an original.
fn uuid_of(original: &DocumentEntry, form: Form) -> String {
    derived_uuid(&[&original.entry_uuid, &form.of(&original.unique_id)])
}

/// A UUID URN that is the same for the same parts at every call (version 8, RFC 9562).
fn derived_uuid(parts: &[&str]) -> String {
    let mut hasher = openssl::sha::Sha256::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let digest = hasher.finish();
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().urn().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_is_found_again() {
        for original in ["2.999.47.30.1", "2.999.47.30^12"] {
            for form in [Form::Pivot, Form::Orcd] {
                assert_eq!(split(&form.of(original)), (original, Some(form)));
            }
            assert_eq!(split(original), (original, None));
        }
    }

    #[test]
    fn derived_ids_are_stable_and_distinct() {
        assert_eq!(derived_uuid(&["a", "b"]), derived_uuid(&["a", "b"]));
        assert_ne!(derived_uuid(&["a", "b"]), derived_uuid(&["ab", ""]));
        assert!(derived_uuid(&["a"]).starts_with("urn:uuid:"));
    }
}
