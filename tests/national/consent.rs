//! Consent and blocks from the country's own service: what it says holds, and without it nothing is disclosed.

use ncp_example_national_service::Holdings;
use ncp_ihe::{DocumentRequest, HomeCommunityId, QueryResponse, Status};
use ncp_proto::national as pb;
use pb::get_consent_response::State;

use crate::grpc::{LOCATION, connector, entry, holdings, served};
use crate::harness::{HOME, World};
use crate::{oid, patient};

const DOCUMENT: &str = "2.999.47.31.7";
const REPORT: &[u8] = b"<report/>";

/// The service that answers for consent.
enum Consent {
    /// The example service, which says this.
    Says(State, &'static [&'static str]),
    /// Takes connections and never answers.
    Silent,
    /// Nothing listens.
    Gone,
}

/// What the neighbour sees with such a service: the list, and whether the report can be had.
async fn seen(consent: Consent) -> (QueryResponse, bool) {
    let world = World::new();
    let (state, blocked) = match consent {
        Consent::Says(state, blocked) => (state, blocked),
        _ => (State::Given, &[][..]),
    };
    let document = (entry(DOCUMENT, "text/xml", REPORT.len() as u64), REPORT.to_vec());
    let blocked = blocked.iter().map(|id| (*id).to_owned()).collect();
    let consented = pb::GetConsentResponse { state: state.into(), blocked };
    let port = served(&world, Holdings { consent: consented, ..holdings(document) }).await;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mut consent_port = other.local_addr().expect("bound").port();
    let _silent = match consent {
        Consent::Says(..) => {
            consent_port = port;
            None
        }
        // The kernel takes connections that nobody serves.
        Consent::Silent => Some(other),
        Consent::Gone => {
            drop(other);
            None
        }
    };
    let tls = world.internal_tls();
    let section = format!(
        r#"
[policy.consent_service]
endpoint = "https://127.0.0.1:{consent_port}"
server_name = "localhost"
deadline = "1s"
{tls}
"#
    );
    let asker = world.gateway(false, &(section + &connector(&world, port))).await;
    let listed = asker.documents(&patient()).await.expect("ITI-38");
    let wanted = DocumentRequest {
        home: Some(HomeCommunityId(oid(HOME))),
        repository: oid(LOCATION),
        document: DOCUMENT.into(),
    };
    let had = asker.document(&patient(), &wanted).await;
    let bytes = had.map(|(_, bytes)| bytes).unwrap_or_default();
    assert!(bytes.is_empty() || bytes == REPORT);
    (listed, !bytes.is_empty())
}

fn codes(response: &QueryResponse) -> Vec<&str> {
    response.errors.iter().map(|e| e.code.as_str()).collect()
}

#[tokio::test]
async fn what_the_service_says_holds() {
    let (listed, had) = seen(Consent::Says(State::Given, &["2.999.47.31.99"])).await;
    assert_eq!((listed.status, listed.objects.entries.len(), had), (Status::Success, 1, true));
    let (blocked, had) = seen(Consent::Says(State::Given, &[DOCUMENT])).await;
    assert_eq!((blocked.status, blocked.objects.entries.len(), had), (Status::Success, 0, false));
    let (out, had) = seen(Consent::Says(State::OptedOut, &[])).await;
    assert_eq!((&out, had), (&blocked, false), "opted out and blocked differ");
    let (missing, had) = seen(Consent::Says(State::MissingAndSaid, &[])).await;
    assert_eq!((codes(&missing), missing.objects.entries.len(), had), (vec!["4701"], 0, false));
}

#[tokio::test]
async fn without_its_answer_nothing_is_disclosed() {
    for consent in
        [Consent::Silent, Consent::Gone, Consent::Says(State::Unspecified, &[]), Consent::Says(State::Given, &[""])]
    {
        let (listed, had) = seen(consent).await;
        assert_eq!((listed.status, listed.objects.entries.len(), had), (Status::Failure, 0, false));
        assert!(!codes(&listed).is_empty() && !codes(&listed).contains(&"4701"), "{:?}", codes(&listed));
    }
}
