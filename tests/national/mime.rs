//! Documents that a national repository sends in a transfer encoding, or in an empty part: cases WI-01 and WI-02 at NCP-A.

use ncp_ihe::{DocumentEntry, DocumentRequest, HomeCommunityId, Status};
use ncp_tests::cases::Recorded;

use crate::harness::{HOME, World};
use crate::xds::{KOS, REPOSITORY, domain, entry};
use crate::{oid, patient, study};

const ITI47: &str = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;

fn recorded(file: &str) -> Recorded {
    Recorded::load(&format!("wire/{file}"), None).with("@REPOSITORY@", REPOSITORY).with("@DOCUMENT@", KOS)
}

fn wanted() -> DocumentRequest {
    DocumentRequest { home: Some(HomeCommunityId(oid(HOME))), repository: oid(REPOSITORY), document: KOS.into() }
}

/// The entry of the document of the cases, with hash and size or without.
fn report(announced: bool) -> DocumentEntry {
    let document = Recorded::load("wire/WI-document.xml", Some("text/xml")).body;
    let mut entry = entry(patient(), KOS, &study(8, 1));
    (entry.mime_type, entry.reference_ids) = ("text/xml".into(), Vec::new());
    if announced {
        let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), &document).expect("SHA-1");
        (entry.hash, entry.size) = (Some(hex::encode(digest)), Some(document.len() as u64));
    }
    entry
}

#[tokio::test]
async fn wi_01_a_coded_document_of_the_repository_arrives_as_it_was() {
    let world = World::new();
    let (domain, neighbour, _) = domain(&world, &study(8, 1), ITI47).await;
    let document = Recorded::load("wire/WI-document.xml", Some("text/xml")).body;
    for announced in [true, false] {
        for file in ["WI-01-c-iti43-answer-base64.http", "WI-01-d-iti43-answer-quoted-printable.http"] {
            {
                let mut holdings = domain.0.lock().expect("not poisoned");
                (holdings.entries, holdings.recorded) = (vec![report(announced)], Some(recorded(file)));
            }
            let (response, bytes) = neighbour.document(&patient(), &wanted()).await.expect("ITI-39");
            assert_eq!((response.status, bytes == document), (Status::Success, true), "{file} announced {announced}");
        }
    }
}
