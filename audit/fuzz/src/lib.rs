//! What the targets do with any bytes.

use ncp_audit::server::{check_batch, check_search};

/// The parameters of ITI-81, of an auditor and of a patient: what is taken names its other pages by a query that is taken.
pub fn search(data: &[u8]) {
    let query = String::from_utf8_lossy(data);
    for patient in [None, Some("1^^^&2.999.1&ISO")] {
        if let Ok(link) = check_search(&query, patient) {
            assert!(link.len() <= 64 << 10, "{} bytes", link.len());
            let again = check_search(&link, patient).expect("the link of a page can be read");
            assert_eq!(again, link);
        }
    }
}

/// A Bundle of the FHIR feed: each entry has its answer, and the answer does not outgrow what was sent.
pub fn batch(data: &[u8]) {
    let Some((entries, answer)) = check_batch(data) else { return };
    assert!(entries <= 1000 && answer.len() <= 4 * data.len() + (64 << 10), "{entries} entries, {} bytes", answer.len());
    assert_eq!(answer.matches("\"response\"").count(), entries);
}
