//! What NCP-A's trail keeps for proof.

use ncp_ihe::{FindDocuments, ReturnType, StoredQuery};
use ncp_tests::neighbour::{Neighbour, XCA};

use crate::common::trail::{ehdsi_receiver, evidence};
use crate::transactions::{home, query};
use crate::world::{World, patient};

#[tokio::test(flavor = "multi_thread")]
async fn request_and_response_leave_their_headers_where_a_receiver_takes_them() {
    let world = World::start_with(async |pki| ehdsi_receiver(pki)).await;
    let find = StoredQuery::FindDocuments(FindDocuments::of_patient(patient()));
    query(&world, Some(home()), ReturnType::LeafClass, find).await;
    // A refusal is answered too.
    let refused = world.finland.call(
        ncp_ihe::actions::ITI38_REQUEST,
        XCA,
        &[],
        Neighbour::find_documents(&patient()).to_element(),
    );
    let refused = refused.await.expect("an answer");
    let trail = world.trail();
    let of: Vec<_> = trail.ehdsi.iter().filter(|m| m.types[0].code == "ITI-38").collect();
    assert_eq!(of.len(), 2);
    for message in &of {
        let (requests, responses) = (evidence(message, "req"), evidence(message, "rsp"));
        assert_eq!((requests.len(), responses.len()), (1, 1));
        let (id, header) = &responses[0];
        assert!(header.contains(id.as_str()) && header.contains(&requests[0].0), "it relates to the request: {header}");
    }
    assert!(evidence(of[0], "req")[0].1.contains("Assertion"), "both assertions as they came");
    let (id, _) = &evidence(of[1], "rsp")[0];
    let told = String::from_utf8_lossy(&refused.envelope).into_owned();
    assert!(told.contains(id.as_str()), "the MessageID that the neighbour got: {told}");
    assert!(trail.ihe.iter().all(|m| evidence(m, "req").is_empty() && evidence(m, "rsp").is_empty()));
}
