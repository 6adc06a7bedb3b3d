//! What a registry announced of a document, compared with what its repository sent: cases CO-01 at NCP-A.

use ncp_ihe::{DocumentEntry, DocumentRequest, HomeCommunityId, RetrieveRequest, RetrieveResponse, Status, actions};
use ncp_tests::neighbour::{XCA, retrieve_response};

use crate::grpc::{LOCATION, connector, entry as service_entry, holdings, served};
use crate::harness::{Asker, HOME, World};
use crate::xds::{REPOSITORY, domain, entry};
use crate::{oid, patient, study};

const ITI47: &str = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;
const WRONG: &str = "2.999.47.30.1";
const RIGHT: &str = "2.999.47.30.2";

/// A CDA of a person, filled up to a length.
fn cda(patient: &str, length: usize) -> Vec<u8> {
    let root = crate::patient().root;
    let head = format!(
        "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><recordTarget><patientRole><id root=\"{root}\" extension=\"{patient}\"/>\
         </patientRole></recordTarget><author/><title>"
    );
    let tail = "</title></ClinicalDocument>";
    let filler = "x".repeat(length - head.len() - tail.len());
    format!("{head}{filler}{tail}").into_bytes()
}

fn announcing(unique_id: &str, document: &[u8]) -> DocumentEntry {
    let mut entry = entry(patient(), unique_id, &study(8, 1));
    (entry.mime_type, entry.reference_ids) = ("text/xml".into(), Vec::new());
    entry.entry_uuid = uuid::Uuid::new_v4().urn().to_string();
    let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), document).expect("SHA-1");
    (entry.hash, entry.size) = (Some(hex::encode(digest)), Some(document.len() as u64));
    entry
}

/// ITI-39 of both documents: the root, the whole parts, and whether the message came to its end.
async fn both(asker: &Asker, repository: &str) -> (RetrieveResponse, Vec<Vec<u8>>, bool) {
    let wanted = |document: &str| DocumentRequest {
        home: Some(HomeCommunityId(oid(HOME))),
        repository: oid(repository),
        document: document.into(),
    };
    let request = RetrieveRequest { documents: vec![wanted(WRONG), wanted(RIGHT)] };
    let assertions = asker.assertions(&patient()).await.expect("signs");
    let mut answer = asker.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await.expect("a root");
    let response = retrieve_response(&answer.body).expect("a response");
    let mut parts = Vec::new();
    loop {
        match answer.parts.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return (response, parts, true),
            Err(_) => return (response, parts, false),
        }
        let mut bytes = Vec::new();
        loop {
            match answer.parts.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) => return (response, parts, false),
            }
        }
        parts.push(bytes);
    }
}

#[tokio::test]
async fn co_01_a_document_that_is_not_what_was_announced_is_a_failed_one() {
    let world = World::new();
    let (domain, neighbour, _) = domain(&world, &study(8, 1), ITI47).await;
    let own = patient().extension;
    let (right, other) = (cda(&own, 4000), cda(&own, 5000));
    for (what, sent) in [
        ("another person's, as long", cda("01827812345", 4000)),
        ("cut", right[..400].to_vec()),
        ("empty", Vec::new()),
        ("longer", [right.as_slice(), b"\n"].concat()),
    ] {
        {
            let mut holdings = domain.0.lock().expect("not poisoned");
            holdings.entries = vec![announcing(WRONG, &right), announcing(RIGHT, &other)];
            holdings.documents = [(WRONG.to_owned(), sent), (RIGHT.to_owned(), other.clone())].into();
        }
        let (response, parts, whole) = both(&neighbour, REPOSITORY).await;
        assert_eq!((response.status, whole), (Status::PartialSuccess, true), "{what}");
        assert_eq!((parts, response.errors[0].code.as_str()), (vec![other.clone()], "XDSRepositoryError"), "{what}");
        assert!(response.errors[0].location.as_deref().is_some_and(|at| at.starts_with(WRONG)), "{what}");
    }
    let trail = world.trail().await;
    for rule in ["another size", "another hash", "document is empty"] {
        assert!(trail.iter().any(|xml| xml.contains(rule)), "no alert: {rule}");
    }
}

/// What a CDA records is compared without any hash too: a register may have none.
#[tokio::test]
async fn co_01_a_document_of_another_patient_does_not_leave() {
    let world = World::new();
    let (domain, neighbour, _) = domain(&world, &study(8, 1), ITI47).await;
    let (own, other) = (cda(&patient().extension, 4000), cda("01827812345", 4000));
    {
        let mut holdings = domain.0.lock().expect("not poisoned");
        let silent = |id: &str| DocumentEntry { hash: None, size: None, ..announcing(id, b"x") };
        holdings.entries = vec![silent(WRONG), silent(RIGHT)];
        holdings.documents = [(WRONG.to_owned(), other), (RIGHT.to_owned(), own.clone())].into();
    }
    let (response, parts, whole) = both(&neighbour, REPOSITORY).await;
    assert_eq!((response.status, whole, parts), (Status::PartialSuccess, true, vec![own]));
    assert!(world.trail().await.iter().any(|xml| xml.contains("records another patient")), "an alert");
}

/// One that does not fit into the memory for comparing is broken off and never closed.
#[tokio::test]
async fn co_01_a_document_that_does_not_fit_is_broken_off() {
    let world = World::new();
    let limits = format!("{ITI47}\n[limits]\ncompare_bytes = \"8KiB\"");
    let (domain, neighbour, _) = domain(&world, &study(8, 1), &limits).await;
    let (right, other) = (cda(&patient().extension, 300_000), cda(&patient().extension, 5000));
    let mut wrong = right.clone();
    wrong[200_000] = b'y';
    for (sent, whole) in [(&wrong, false), (&right, true)] {
        {
            let mut holdings = domain.0.lock().expect("not poisoned");
            holdings.entries = vec![announcing(WRONG, &right), announcing(RIGHT, &other)];
            holdings.documents = [(WRONG.to_owned(), sent.clone()), (RIGHT.to_owned(), other.clone())].into();
        }
        let (response, parts, came_whole) = both(&neighbour, REPOSITORY).await;
        assert_eq!((response.status, came_whole), (Status::Success, whole));
        assert!(!parts.contains(&wrong), "the wrong document came whole");
        assert_eq!(parts.contains(&right), whole);
    }
}

#[tokio::test]
async fn co_01_a_document_of_a_grpc_service_is_compared() {
    let world = World::new();
    let document = service_entry(WRONG, "text/xml", 4000);
    let port = served(&world, holdings((document, cda(&patient().extension, 3900)))).await;
    let neighbour = world.gateway(false, &connector(&world, port)).await;
    let (response, parts, whole) = both(&neighbour, LOCATION).await;
    assert_eq!((response.status, parts.len(), whole), (Status::Failure, 0, true));
    assert_eq!(response.errors[0].code, "XDSRepositoryError");
}
