//! A client with the manners of OpenNCP asks this gateway: without WS-Addressing, through a reader that throws at whatever
//! it does not expect, in a portal that shows its own formats alone.

use bytes::Bytes;
use ncp_ihe::{
    Coded, CrossGatewayQueryRequest, FindDocuments, QueryResponse, RetrieveRequest, ReturnType, Severity, Status,
    StoredQuery, actions, ns,
};
use ncp_saml::{HcpClaims, SignedAssertion};
use ncp_soap::Envelope;
use ncp_tests::neighbour::{Neighbour, XCA, XCPD, retrieve_response};
use ncp_tests::pki::CountryPki;
use ncp_xml::Element;

use crate::world::{World, other_patient, patient};

/// A message without any block of WS-Addressing.
fn bare(assertions: &[SignedAssertion], body: Element) -> Vec<u8> {
    let security = Element::new(ncp_soap::ns::WSSE, "Security");
    let security = assertions.iter().fold(security, |all, one| all.raw(one.xml.clone()));
    Envelope { headers: vec![security], body }.write()
}

/// A XOP package of one part.
fn package(root_type: &str, message: &[u8]) -> Bytes {
    let head = format!(
        "--MIMEBoundary\r\nContent-Type: {root_type}\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <0.urn:uuid:1@apache.org>\r\n\r\n"
    );
    [head.as_bytes(), message, b"\r\n--MIMEBoundary--\r\n"].concat().into()
}

const PACKAGE: &str = "multipart/related; boundary=MIMEBoundary; type=\"application/xop+xml\"; \
                       start=\"<0.urn:uuid:1@apache.org>\"; start-info=\"application/soap+xml\"";
const ROOT: &str = "application/xop+xml; charset=UTF-8; type=\"application/soap+xml\"";

fn listing(query: FindDocuments) -> Element {
    let query = StoredQuery::FindDocuments(query);
    CrossGatewayQueryRequest { home: None, return_type: ReturnType::LeafClass, query }.to_element()
}

async fn list(neighbour: &Neighbour, query: FindDocuments) -> QueryResponse {
    let patient = query.patient_id.clone();
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, listing(query)).await.expect("an answer");
    QueryResponse::read(&answer.body).expect("a response").0
}

/// ON-04: the action in the Content-Type of the package or of its root part, or nowhere; for a peer of that kind alone.
#[tokio::test(flavor = "multi_thread")]
async fn on_04_an_action_outside_the_header_is_read_for_the_incumbent() {
    let world = World::start().await;
    let view = list(&world.denmark, FindDocuments::of_patient(patient())).await.objects.entries.remove(0);
    let wanted = ncp_ihe::DocumentRequest {
        home: view.home.clone(),
        repository: view.repository_unique_id.clone(),
        document: view.unique_id.clone(),
    };
    let body = || RetrieveRequest { documents: vec![wanted.clone()] }.to_element();
    let action = actions::ITI39_REQUEST;
    let with = |holder: &str, action: &str| format!("{holder}; action=\"{action}\"");
    let inner =
        PACKAGE.replace("\"application/soap+xml\"", &format!("\"application/soap+xml; action=\\\"{action}\\\"\""));
    let shapes = [
        ("package", with(PACKAGE, action), ROOT.to_owned()),
        ("root part", PACKAGE.to_owned(), with(ROOT, action)),
        ("start-info", inner, ROOT.to_owned()),
        ("nowhere", PACKAGE.to_owned(), ROOT.to_owned()),
    ];
    for (name, content_type, root) in shapes {
        let post = async |neighbour: &Neighbour| {
            let assertions = neighbour.assertions(&patient()).await.expect("signs");
            let message = package(&root, &bare(&assertions, body()));
            neighbour.post(XCA, &content_type, message).await.expect("an answer")
        };
        let mut answer = post(&world.denmark).await;
        let response = retrieve_response(&answer.body).unwrap_or_else(|e| panic!("{name}: {e}: {:?}", answer.fault()));
        assert_eq!((response.status, response.documents.len()), (Status::Success, 1), "{name}");
        let envelope = String::from_utf8_lossy(&answer.envelope).into_owned();
        assert!(!envelope.contains(ncp_soap::ns::WSA), "{name}: a stack without addressing cannot read its blocks");
        while answer.parts.next().await.expect("whole").is_some() {}
        // Whoever is no such peer names the action where IHE wants it.
        assert!(post(&world.finland).await.fault().is_some(), "{name}");
    }
    // An action that is not the body's is refused, wherever it stands.
    let assertions = world.denmark.assertions(&patient()).await.expect("signs");
    let message = package(ROOT, &bare(&assertions, body()));
    let answer = world.denmark.post(XCA, &with(PACKAGE, actions::ITI38_REQUEST), message).await.expect("an answer");
    assert!(answer.fault().is_some());
    // Simple SOAP alike.
    let query = listing(FindDocuments::of_patient(patient()));
    for content_type in
        [with("application/soap+xml; charset=UTF-8", actions::ITI38_REQUEST), "application/soap+xml".into()]
    {
        let message = bare(&assertions, query.clone());
        let answer = world.denmark.post(XCA, &content_type, message).await.expect("an answer");
        assert_eq!(QueryResponse::read(&answer.body).expect("a response").0.status, Status::Success);
    }
    let answer = world.denmark.post(XCPD, "application/soap+xml", bare(&assertions, query)).await.expect("an answer");
    assert!(answer.fault().is_some(), "no transaction of that path has this body");
}

/// What OpenNCP's client does with a list: it throws at any severity Error, at an entry without a name, at a classification
/// without a slot, at a slot without a list of values.
fn strictly_read(body: &Element) -> Result<usize, String> {
    let mut open = vec![body];
    let mut entries = 0;
    while let Some(element) = open.pop() {
        let has = |local: &str| element.child(ns::RIM, local).is_some();
        match element.local() {
            "RegistryError" if element.get("severity").is_none_or(|s| s.ends_with("Error")) => {
                return Err(format!("error {:?}", element.get("errorCode")));
            }
            "ExtrinsicObject" if !has("Name") => return Err("an entry without a name".into()),
            "Classification" if !has("Slot") => return Err("a classification without a slot".into()),
            "Slot" if !has("ValueList") => return Err("a slot without values".into()),
            "ExtrinsicObject" => entries += 1,
            _ => {}
        }
        open.extend(element.elements());
    }
    Ok(entries)
}

/// A registry that nobody reaches.
async fn silent_registry(_: &CountryPki) -> String {
    r#"
[[national.connector]]
kind = "xds"
name = "silent"
registry = "https://127.0.0.1:1/registry"
tls = { certificate = "pki/tls-client.pem", key = "pki/tls-client.key", anchors = "pki/anchors.pem" }
"#
    .to_owned()
}

/// ON-07: one registry is down. The incumbent reads the documents of the others with a warning, a peer after the profiles
/// gets PartialSuccess; a list without any document keeps its error.
#[tokio::test(flavor = "multi_thread")]
async fn on_07_a_strict_reader_keeps_the_documents_of_a_partial_answer() {
    let world = World::start_with(silent_registry).await;
    let assertions = world.denmark.assertions(&patient()).await.expect("signs");
    let body = listing(FindDocuments::of_patient(patient()));
    let answer = world.denmark.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
    let read = strictly_read(&answer.body);
    assert!(read.as_ref().is_ok_and(|entries| *entries > 0), "{read:?}");
    let (response, _) = QueryResponse::read(&answer.body).expect("a response");
    assert_eq!(response.status, Status::Success);
    assert!(response.errors.iter().any(|e| e.severity == Severity::Warning && e.code.starts_with("XDS")));

    let other = list(&world.finland, FindDocuments::of_patient(patient())).await;
    assert_eq!(other.status, Status::PartialSuccess);
    assert!(other.errors.iter().any(|e| e.severity == Severity::Error));
    let none = list(&world.denmark, FindDocuments::of_patient(other_patient())).await;
    assert!(none.objects.entries.is_empty() && none.errors.iter().any(|e| e.severity == Severity::Error));
}

/// ON-09 and ON-10: formats that its portal shows, within the size that it asks for.
#[tokio::test(flavor = "multi_thread")]
async fn on_09_on_10_the_incumbent_is_offered_what_it_can_open() {
    let world = World::start().await;
    let all = FindDocuments::of_patient(patient());
    let offered = list(&world.denmark, all.clone()).await.objects.entries;
    assert!(!offered.is_empty());
    assert!(offered.iter().all(|e| e.format_code.code.starts_with("urn:eHDSI:orcd:")), "{offered:#?}");
    let kos = vec![Coded::new("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1", None)];
    let manifests = list(&world.denmark, FindDocuments { format_codes: kos, ..all.clone() }).await.objects.entries;
    assert!(!manifests.is_empty() && manifests.iter().all(ncp_ihe::DocumentEntry::is_manifest), "asked for by name");
    let finnish = list(&world.finland, all.clone()).await.objects.entries;
    assert!(finnish.iter().any(ncp_ihe::DocumentEntry::is_manifest));
    for (max_size, expected) in [(20_000, 0), (100_000_000, 0)] {
        let small = list(&world.denmark, FindDocuments { max_size: Some(max_size), ..all.clone() }).await;
        assert_eq!(small.objects.entries.len(), expected, "views are made at retrieval: their size is not known");
    }
    let assertions = world.denmark.assertions(&patient()).await.expect("signs");
    let answer = world.denmark.call(actions::ITI38_REQUEST, XCA, &assertions, listing(all)).await.expect("an answer");
    assert_eq!(strictly_read(&answer.body), Ok(offered.len()));
}

/// ON-15: an assertion that names another homeCommunityId than the peer's is refused, unless the configuration lists that one as
/// an alias of the peer.
#[tokio::test(flavor = "multi_thread")]
async fn on_15_another_home_community_of_a_peer_needs_an_alias() {
    for (lines, served) in [("", false), ("aliases = [\"urn:oid:2.999.208.9\"]\n", true)] {
        // Denmark stands last in the configuration.
        let world = World::start_with(async |_| lines.to_owned()).await;
        let denmark = &world.denmark;
        for (home, served) in
            [("urn:oid:2.999.208", true), ("urn:oid:2.999.208.9", served), ("urn:oid:2.999.99", false)]
        {
            let claims = HcpClaims { home_community_id: home.into(), ..denmark.claims() };
            let hcp = denmark.hcp(&claims, jiff::Timestamp::now()).await.expect("signs");
            let trc = denmark.trc(&hcp, &claims, &patient()).await.expect("signs");
            let body = listing(FindDocuments::of_patient(patient()));
            let answer = denmark.call(actions::ITI38_REQUEST, XCA, &[hcp, trc], body).await.expect("an answer");
            let listed = QueryResponse::read(&answer.body).map(|(response, _)| response.objects.entries.len());
            assert_eq!(listed.is_ok_and(|count| count > 0), served, "{home} {lines:?}: {:?}", answer.codes());
            if !served {
                assert_eq!(answer.codes(), ["ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED"], "{home}");
            }
        }
    }
}
