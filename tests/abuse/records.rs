//! CO-16: what records say, field by field against what happened: for each transaction at both sides in both dialects.

use bytes::Bytes;
use ncp_audit::Message;
use ncp_gateway::{app, config};
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, HomeCommunityId, ImagingRequest, Oid, PatientId, QueryResponse,
    RegistryObjects, RetrieveRequest, RetrieveResponse, SeriesRequest, Status, StudyRequest, Uid, actions,
};
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::consumer::{Consumer, REGISTRY, REPOSITORY as REPOSITORY_PATH, SOURCE};
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::neighbour::{Answer, Neighbour, XCA, XCAI, XCPD};
use ncp_tests::synth::Study;

use crate::world::{HOME, PATIENT, REPOSITORY, World};

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
/// As long as that of CT, so that it takes its place in a file.
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";

/// A receiver of the other dialect that is not there: records are written in both.
fn ehdsi(folder: &str) -> String {
    format!(
        "\n[[audit.syslog]]\nname = \"openatna\"\nhost = \"127.0.0.1\"\nport = 9\nserver_name = \"localhost\"\ndialect = \"ehdsi\"\n\
         tls = {{ certificate = \"{folder}/tls-client.pem\", key = \"{folder}/tls-client.key\", anchors = \"{folder}/anchors.pem\" }}\n"
    )
}

fn study() -> Study {
    crate::world::study(1, 3)
}

/// Three instances, of which the last says that it is of another class.
fn files(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let paths = study().write(folder).expect("a study");
    let mut out = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let mut bytes = std::fs::read(path).expect("reads");
        if index == 2 {
            for at in 0..bytes.len() - CT.len() {
                let ends = |b: &[u8]| b.get(at + CT.len()).is_some_and(|next| *next == 0);
                if bytes[at..].starts_with(CT.as_bytes()) && ends(&bytes) {
                    bytes[at..at + CT.len()].copy_from_slice(MR.as_bytes());
                }
            }
            std::fs::write(path, &bytes).expect("writes");
        }
        out.push(bytes);
    }
    out
}

fn imaging(home: &str) -> ImagingRequest {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let instance = |n| DocumentRequest { document: study().instance(n), ..document(home, "") };
    let series = SeriesRequest { series: uid(&study().series()), instances: (1..=3).map(instance).collect() };
    let studies = vec![StudyRequest { study: uid(&study().uid()), series: vec![series] }];
    ImagingRequest { studies, transfer_syntaxes: vec![uid("1.2.840.10008.1.2.1")] }
}

fn document(home: &str, id: &str) -> DocumentRequest {
    let home = HomeCommunityId::parse(home).ok();
    DocumentRequest { home, repository: Oid::parse(REPOSITORY).expect("an OID"), document: id.into() }
}

async fn drained(answer: &mut Answer) {
    while answer.parts.next().await.expect("a part").is_some() {
        while answer.parts.chunk().await.expect("a piece").is_some() {}
    }
}

/// What a record must say.
struct Facts<'a> {
    code: &'a str,
    /// EventID and action in `ihe`, the same in `ehdsi`.
    events: [(&'a str, &'a str); 2],
    /// UserID of consumer and provider in `ihe`; in `ehdsi` the names in their certificates.
    ends: [(&'a str, &'a str); 2],
    /// NetworkAccessPointID of consumer and provider.
    addresses: (&'a str, &'a str),
    patient: Option<&'a str>,
    /// The communities that were asked, and no other.
    communities: &'a [&'a str],
    source: &'a str,
    /// SOP classes and how many of each passed.
    classes: &'a [(&'a str, u64)],
    document: Option<&'a str>,
}

/// The record of a transaction in each dialect.
fn records(spool: &ncp_audit::SpoolContent, code: &str) -> [Message; 2] {
    let of = |all: &mut dyn Iterator<Item = &String>| {
        let mut found = all.filter_map(|xml| Message::read(xml.as_bytes()).ok()).filter(|m| m.types[0].code == code);
        let one = found.next().unwrap_or_else(|| panic!("no record of {code}"));
        assert!(found.next().is_none(), "{code}: one record");
        one
    };
    [of(&mut spool.records.iter().map(|(_, _, xml)| xml)), of(&mut spool.ehdsi.iter())]
}

fn check(spool: &ncp_audit::SpoolContent, facts: &Facts<'_>) {
    let code = facts.code;
    for (index, message) in records(spool, code).iter().enumerate() {
        let dialect = ["ihe", "ehdsi"][index];
        let at = format!("{code} {dialect}");
        assert_eq!((message.event.code.as_str(), message.action.as_str()), facts.events[index], "{at}");
        assert_eq!(
            (message.outcome, message.source.as_str(), message.enterprise_site.as_str()),
            (0, facts.source, "NO"),
            "{at}"
        );
        assert!(message.at > jiff::Timestamp::now() - jiff::SignedDuration::from_mins(10), "{at}");
        let with = |role: &str| {
            let mut all = message.participants.iter().filter(|p| p.roles.iter().any(|r| r.code == role));
            let one = all.next().unwrap_or_else(|| panic!("{at}: no {role}"));
            assert!(all.next().is_none(), "{at}: one {role}");
            one
        };
        let (consumer, provider) = (with("ServiceConsumer"), with("ServiceProvider"));
        assert_eq!((consumer.user_id.as_str(), provider.user_id.as_str()), facts.ends[index], "{at}");
        assert_eq!((consumer.address.as_str(), provider.address.as_str()), facts.addresses, "{at}");
        assert!(consumer.requestor && !provider.requestor, "{at}");
        let human = message.participants.iter().find(|p| p.name.contains("hpr-9144889")).expect("the professional");
        assert_eq!(
            (human.user_id.as_str(), human.alternative.as_str()),
            ("hpr-9144889", "Radiologist on duty"),
            "{at}"
        );
        assert!(human.roles.iter().any(|r| r.code == "221"), "{at}: her role");
        assert!(message.participants.iter().any(|p| p.user_id == "University hospital"), "{at}: her organisation");
        assert_eq!(message.purposes.first().map(|p| p.code.as_str()), Some("TREATMENT"), "{at}");
        assert_eq!(Some(message.patient()).filter(|p| !p.is_empty()), facts.patient, "{at}");
        if dialect == "ehdsi" {
            assert!(!message.types[0].display.is_empty() && !message.event.display.is_empty(), "{at}: display names");
            assert!(
                message.objects.iter().all(|o| o.role.parse::<u8>().map_or(o.role.is_empty(), |r| r <= 24)),
                "{at}"
            );
        }
        let details = || message.objects.iter().flat_map(|o| &o.details);
        let homes: Vec<String> = details()
            .filter(|(kind, _)| kind.to_lowercase().ends_with("homecommunityid"))
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect();
        let asked = |home: &String| facts.communities.contains(&home.as_str());
        assert!(!homes.is_empty() && homes.iter().all(asked), "{at}: {homes:?}");
        let classes: Vec<(String, u64)> =
            message.objects.iter().filter_map(|o| o.dicom.as_ref()).flat_map(|d| d.sop_classes.clone()).collect();
        let expected: Vec<(String, u64)> = facts.classes.iter().map(|(uid, n)| ((*uid).to_owned(), *n)).collect();
        assert_eq!(classes, expected, "{at}");
        if let Some(document) = facts.document {
            assert!(message.objects.iter().any(|o| o.id == document), "{at}: {document}");
        }
    }
}

const QUERY: [(&str, &str); 2] = [("110112", "E"), ("110112", "E")];
const EXPORT: [(&str, &str); 2] = [("110106", "R"), ("110106", "R")];
const IMPORT: [(&str, &str); 2] = [("110107", "C"), ("110107", "C")];

#[tokio::test(flavor = "multi_thread")]
async fn co_16_records_of_the_responding_side_say_what_happened() {
    let world = World::new();
    files(&world.path("data/dicom/1"));
    let gateway = world.start("records", |text| text + &ehdsi("no")).await;
    let finland = world.neighbour("fi", &gateway);
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    finland.find(&Oid::parse(HOME).expect("an OID"), &patient).await.expect("found");
    finland.documents(&patient).await.expect("listed");
    finland.document(&patient, &document(HOME, "2.999.47.30.1")).await.expect("retrieved");
    let (response, mut answer) = finland.images(&patient, &imaging(HOME)).await.expect("an answer");
    assert_eq!(response.documents.len(), 3);
    drained(&mut answer).await;
    let spool = gateway.app.config.audit.spool_options("test".into());
    let port = gateway.address.port();
    gateway.stop().await;
    let spool = ncp_audit::read_spool(&spool).expect("reads");
    let at = |path: &str| format!("https://127.0.0.1:{port}{path}");
    let (xcpd, xca, xcai) = (at(XCPD), at(XCA), at(XCAI));
    for (code, path, events, classes, document) in [
        ("ITI-55", &xcpd, QUERY, &[][..], None),
        ("ITI-38", &xca, QUERY, &[], None),
        ("ITI-39", &xca, EXPORT, &[], Some("2.999.47.30.1")),
        ("RAD-75", &xcai, [("110104", "R"), ("110106", "R")], &[(CT, 2), (MR, 1)], Some(study().uid().as_str())),
    ] {
        let facts = Facts {
            code,
            events,
            ends: [("tls-client.ncp.fi", path), ("tls-client.ncp.fi", "tls-server.ncp.no")],
            addresses: ("127.0.0.1", "127.0.0.1"),
            patient: Some(PATIENT),
            communities: &["urn:oid:2.999.47"],
            source: "test",
            classes,
            document,
        };
        check(&spool, &facts);
    }
}

/// A country that has one document and one study.
fn has(asked: &Asked, files: &[Vec<u8>]) -> Reaction {
    let retrieved = |action, parts: Vec<(DocumentRequest, &[u8], &'static str)>| {
        let documents = parts.iter().enumerate().map(|(n, (request, _, media_type))| DocumentResponse {
            request: request.clone(),
            new_document: None,
            media_type: (*media_type).into(),
            content: Content::Include(format!("{n}@dk")),
        });
        let documents = documents.collect();
        let body = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents }.to_element();
        let parts = parts.iter().enumerate();
        let parts = parts.map(|(n, (_, bytes, kind))| (format!("{n}@dk"), *kind, Bytes::copy_from_slice(bytes)));
        Reaction::Parts(action, body, parts.collect())
    };
    match asked.action.as_str() {
        actions::ITI38_REQUEST => {
            let (status, objects) = (Status::Success, RegistryObjects::default());
            let found = QueryResponse { status, errors: Vec::new(), objects, object_refs: Vec::new() };
            Reaction::Simple(actions::ITI38_RESPONSE, found.to_element())
        }
        actions::ITI39_REQUEST => {
            retrieved(actions::ITI39_RESPONSE, vec![(document("2.999.45", "2.999.45.1"), b"<a/>", "text/xml")])
        }
        _ => {
            let instances = imaging("2.999.45").studies.remove(0).series.remove(0).instances;
            let parts = instances.into_iter().zip(files).map(|(i, bytes)| (i, bytes.as_slice(), "application/dicom"));
            retrieved(actions::RAD75_RESPONSE, parts.collect())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn co_16_records_of_the_initiating_side_say_what_happened() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = files(&dir.path().join("study"));
    let asking = Asking::create(dir.path()).expect("a PKI");
    let (other, anchors) = (asking.other("DK").expect("a PKI"), asking.pki.path("anchors.pem"));
    let country = Country::start(&other, &anchors, move |asked| has(asked, &files)).await.expect("starts");
    let known = Known { pki: &other, home: "2.999.45".into(), country: &country, lines: String::new() };
    let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no");
    let path = asking.write([0; 3], "", &policies, &[known]).expect("writes");
    let text = std::fs::read_to_string(&path).expect("reads") + &ehdsi("pki");
    std::fs::write(&path, text).expect("writes");
    let app = app::build(config::load(&path).expect("a configuration")).await.expect("builds");
    let bound = app::bind(app.clone()).await.expect("binds");
    let port = bound.consumers_address().expect("an address").port();
    let task = tokio::spawn(bound.serve());
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port).expect("a consumer");
    let claims = Neighbour::new(&asking.pki, HOME, &anchors, "localhost", port).expect("claims").claims();
    let treated = PatientId::parse_cx(&format!("1^^^&{PATIENTS}&ISO")).expect("a CX");
    let assertions = consumer.assertions(&claims, &treated).await.expect("signs");
    let retrieve = RetrieveRequest { documents: vec![document("2.999.45", "2.999.45.1")] };
    for body in
        [Neighbour::find_documents(&treated).to_element(), retrieve.to_element(), imaging("2.999.45").to_element()]
    {
        let mut answer = consumer.call(&assertions, body).await.expect("an answer");
        assert!(answer.fault().is_none(), "{:?}", answer.fault().map(|fault| fault.reason));
        drained(&mut answer).await;
    }
    let read = || ncp_audit::read_spool(&app.config.audit.spool_options("test".into())).expect("is read");
    for _ in 0..100 {
        // The outcome is written behind the last byte.
        if read().open == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    task.abort();
    let spool = read();
    let anonymous = "http://www.w3.org/2005/08/addressing/anonymous";
    let (xca, xcai) = (country.url("/xca"), country.url("/xcai"));
    let cx = treated.to_cx();
    for (code, endpoint, events, classes, document) in [
        ("ITI-38", &xca, QUERY, &[][..], None),
        ("ITI-39", &xca, IMPORT, &[], Some("2.999.45.1")),
        ("RAD-75", &xcai, [("110103", "C"), ("110107", "C")], &[(CT, 2), (MR, 1)], Some(study().uid().as_str())),
    ] {
        let facts = Facts {
            code,
            events,
            ends: [(anonymous, endpoint), ("tls-client.ncp.no", "tls-server.ncp.dk")],
            addresses: ("", "localhost"),
            patient: Some(&cx),
            communities: &["urn:oid:2.999.45"],
            source: "ncp-gateway-no",
            classes,
            document,
        };
        check(&spool, &facts);
    }
    // The same three as the national consumer asked them.
    let at = |path: &str| format!("https://127.0.0.1:{port}{path}");
    let (registry, repository, source) = (at(REGISTRY), at(REPOSITORY_PATH), at(SOURCE));
    for (code, address, events, classes, document) in [
        ("ITI-18", &registry, QUERY, &[][..], None),
        ("ITI-43", &repository, EXPORT, &[], Some("2.999.45.1")),
        ("RAD-69", &source, [("110104", "R"), ("110106", "R")], &[(CT, 2), (MR, 1)], Some(study().uid().as_str())),
    ] {
        let facts = Facts {
            code,
            events,
            ends: [("consumer.ncp.no", address), ("consumer.ncp.no", "tls-server.ncp.no")],
            addresses: ("127.0.0.1", "127.0.0.1"),
            patient: Some(&cx),
            // What is asked of our own country's gateway lies in another community.
            communities: &["urn:oid:2.999.45", "urn:oid:2.999.47"],
            source: "ncp-gateway-no",
            classes,
            document,
        };
        check(&spool, &facts);
    }
}
