//! The pivot of a document: its transcoded form, offered as a DocumentEntry of its own beside the original.
//!
//! The pivot's uniqueId is the original's with a fixed extension, its entryUUID is derived from that, its hash and size
//! are the delayed-assembly pair (ITI TF-2: 3.38), and an association XFRM leads to it from the original.

use ncp_ihe::{Association, DocumentEntry};

/// Extension that marks a pivot's uniqueId.
const EXTENSION: &str = "PIVOT";
/// SHA-1 of nothing: hash of a document assembled at retrieval.
const DELAYED_HASH: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// Whether a transcoded form is offered: CDA documents that are no pivot themselves.
pub fn has_pivot(entry: &DocumentEntry) -> bool {
    entry.mime_type == "text/xml" && original_of(&entry.unique_id).is_none()
}

/// The uniqueId of the pivot of an original.
pub fn unique_id_of(original: &str) -> String {
    if original.contains('^') { format!("{original}-{EXTENSION}") } else { format!("{original}^{EXTENSION}") }
}

/// The original that a pivot's uniqueId names; `None` when it names no pivot.
pub fn original_of(unique_id: &str) -> Option<&str> {
    let stem = unique_id.strip_suffix(EXTENSION)?;
    stem.strip_suffix('^').or_else(|| stem.strip_suffix('-'))
}

/// The pivot's entry and its association, from the translated entry of the original.
pub fn entry_of(original: &DocumentEntry, language: &str) -> (DocumentEntry, Association) {
    let unique_id = unique_id_of(&original.unique_id);
    let entry_uuid = derived_uuid(&[&original.entry_uuid, &unique_id]);
    let pivot = DocumentEntry {
        entry_uuid: entry_uuid.clone(),
        hash: Some(DELAYED_HASH.to_owned()),
        size: Some(0),
        language: language.to_owned(),
        unique_id,
        ..original.clone()
    };
    let association = Association {
        uuid: derived_uuid(&[&original.entry_uuid, Association::XFRM]),
        kind: Association::XFRM.to_owned(),
        source: entry_uuid,
        target: original.entry_uuid.clone(),
        submission_set_status: None,
    };
    (pivot, association)
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
            let pivot = unique_id_of(original);
            assert_eq!(original_of(&pivot), Some(original));
            assert_eq!(original_of(original), None);
        }
    }

    #[test]
    fn derived_ids_are_stable_and_distinct() {
        assert_eq!(derived_uuid(&["a", "b"]), derived_uuid(&["a", "b"]));
        assert_ne!(derived_uuid(&["a", "b"]), derived_uuid(&["ab", ""]));
        assert!(derived_uuid(&["a"]).starts_with("urn:uuid:"));
    }
}
