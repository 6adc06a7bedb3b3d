//! What the replay memory of a gateway takes.

use ncp_ihe::actions;
use ncp_tests::neighbour::{Neighbour, XCA};

use crate::world::{World, patient};

/// SE-13: the rate bounds what a peer can put into the memory, so that nothing is remembered of what it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn se_13_nothing_is_remembered_of_what_comes_too_often() {
    let world = World::start_with(async |_| "\n[rate]\nwindow = \"1h\"\npatient = 2\n".to_owned()).await;
    let call = async || {
        let assertions = world.finland.assertions(&patient()).await.expect("signs");
        let body = Neighbour::find_documents(&patient()).to_element();
        let answer = world.finland.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
        (String::from_utf8_lossy(&answer.envelope).into_owned(), world.remembered())
    };
    let (first, before) = call().await;
    assert!(first.contains("ResponseStatusType:Success"), "{first}");
    let (_, after) = call().await;
    assert!(after > before && before > 0, "what is answered is remembered");
    for _ in 0..3 {
        let (refused, remembered) = call().await;
        assert!(refused.contains("WARNING_SEC_UNEXPECTED_NUMBER_OF_REQUESTS_FOR_UNIQUE_PATIENT"), "{refused}");
        assert_eq!(remembered, after, "new assertions and a new MessageID leave nothing");
    }
}
