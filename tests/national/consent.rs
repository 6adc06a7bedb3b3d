//! Consent and blocks from the country's own service: what it says holds, and without it nothing is disclosed.

use std::sync::Arc;

use ncp_example_national_service::{Holdings, Service, serve};
use ncp_ihe::{DocumentRequest, HomeCommunityId, QueryResponse, Status};
use ncp_proto::national as pb;
use pb::get_consent_response::State;

use crate::grpc::{LOCATION, entry};
use crate::harness::{HOME, World};
use crate::{BIRTH_DATE, LOCAL_ID, oid, patient};

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
    let id = patient();
    let (state, blocked) = match consent {
        Consent::Says(state, blocked) => (state, blocked),
        _ => (State::Given, &[][..]),
    };
    let holdings = Holdings {
        patient: pb::Patient {
            id: Some(pb::PatientId { id: id.extension.clone(), authority: id.root.to_string() }),
            birth_date: BIRTH_DATE.into(),
            ..pb::Patient::default()
        },
        local_ids: vec![LOCAL_ID.into()],
        documents: vec![(entry(DOCUMENT, "text/xml", REPORT.len() as u64), REPORT.to_vec())],
        files: Vec::new(),
        consent: pb::GetConsentResponse {
            state: state.into(),
            blocked: blocked.iter().map(|id| (*id).to_owned()).collect(),
        },
    };
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = socket.local_addr().expect("bound").port();
    tokio::spawn(serve(Service(Arc::new(holdings)), socket, world.acceptor(b"\x02h2")));
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
    let asker = world
        .gateway(
            false,
            &format!(
                r#"
[policy.consent_service]
endpoint = "https://127.0.0.1:{consent_port}"
server_name = "localhost"
deadline = "1s"
{tls}
[[national.connector]]
kind = "grpc"
name = "registers"
endpoint = "https://127.0.0.1:{port}"
server_name = "localhost"
{tls}
patients = true
repository_unique_ids = ["{LOCATION}"]
"#
            ),
        )
        .await;
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
