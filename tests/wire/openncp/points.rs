//! Points 1, 6, 7 and 9 of what an OpenNCP neighbour needs; the others are shown by its own request
//! bodies, by the rules of the message checker and by `gateway/tests/responding/orcd.rs`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_gateway::{app, config};
use ncp_ihe::{
    Coded, CrossGatewayQueryRequest, DocumentRequest, FindDocuments, HomeCommunityId, Oid, PatientId, QueryResponse,
    ReturnType, Status, StoredQuery, actions,
};
use ncp_saml::{HcpClaims, TrcClaims};
use ncp_saml::{NextOfKin, NextOfKinClaims, SignedAssertion, hcp_template, nok_template, trc_template};
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS as ROOT};
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::{Answer, Neighbour, XCA, XCPD};
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::{ClientAuth, Material};
use ncp_xml::{Element, Limits};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::{ASKING, HOMES, PATIENTS, gateway};
use crate::node::{Node, sources};

const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const HL7: &str = "urn:hl7-org:v3";
const PERMISSIONS: [&str; 5] = ["PRD-003", "PRD-005", "PRD-006", "PRD-010", "PRD-016"];

/// A gateway that is asked and a neighbour that runs OpenNCP.
struct Two {
    node: Node,
    neighbour: Neighbour,
    _dir: tempfile::TempDir,
}

impl Two {
    async fn start(listener: &str, audit: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let own = CountryPki::create(&dir.path().join("own"), "NO", Algorithm::Rsa2048).expect("a PKI");
        let asking = CountryPki::create(&dir.path().join("asking"), "FI", Algorithm::Rsa2048).expect("a PKI");
        let audit = audit.replace("PKI", &own.dir.display().to_string());
        let node =
            gateway(&dir.path().join("node"), HOMES[0], (&own, &asking), listener, &audit).await.expect("starts");
        let neighbour = node.asked_by(&asking, ASKING, &own, None).expect("a neighbour");
        Self { node, neighbour, _dir: dir }
    }

    fn patient() -> PatientId {
        PatientId::parse_cx(PATIENTS[2]).expect("a CX")
    }

    async fn query(&self, assertions: &[SignedAssertion], request: &CrossGatewayQueryRequest) -> Answer {
        self.neighbour.call(actions::ITI38_REQUEST, XCA, assertions, request.to_element()).await.expect("an answer")
    }

    /// Whether a query with these assertions is answered.
    async fn served(&self, assertions: &[SignedAssertion]) -> Result<(), Vec<String>> {
        let answer = self.query(assertions, &Neighbour::find_documents(&Self::patient())).await;
        let codes = answer.codes();
        let read = QueryResponse::read(&answer.body).map(|(response, _)| response.objects.entries.len());
        if codes.is_empty() && read == Ok(1) { Ok(()) } else { Err(codes) }
    }
}

/// The services stand where OpenNCP looks for them, and under what the configuration adds; SOAP 1.2 with the actions of
/// the table. A message that is sent again after a fault is carried out again and recorded as a repeat (R-ID-1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_1_services_versions_and_actions() {
    let listener = format!("xcpd_paths = [\"{XCPD}\", \"/alias/xcpd\"]\nxca_paths = [\"{XCA}\"]");
    let two = Two::start(&listener, "").await;
    let patient = Two::patient();
    let receiver = Oid::parse(HOMES[0]).expect("an OID");
    let query = || {
        ncp_ihe::PatientQuery::new(
            Oid::parse(ASKING).expect("an OID"),
            receiver.clone(),
            vec![patient.clone()],
            None,
            None,
            None,
        )
        .to_element(Timestamp::now())
    };
    let hcp = two.neighbour.hcp(&two.neighbour.claims(), Timestamp::now()).await.expect("signs");
    for (path, found) in [(XCPD, true), ("/alias/xcpd", true), (XCA, false), ("/elsewhere", false)] {
        let answer = two.neighbour.call(actions::ITI55_REQUEST, path, std::slice::from_ref(&hcp), query()).await;
        let matched = answer.is_ok_and(|a| a.body.local() == "PRPA_IN201306UV02");
        assert_eq!(matched, found, "{path}");
    }
    let both = two.neighbour.assertions(&patient).await.expect("signs");
    let documents = Neighbour::find_documents(&patient).to_element();
    let wanted = DocumentRequest {
        home: Some(HomeCommunityId::parse(&format!("urn:oid:{}", HOMES[0])).expect("a home")),
        repository: Oid::parse("2.999.47.21.1").expect("an OID"),
        document: "2.999.47.71.1".into(),
    };
    let retrieve = ncp_ihe::RetrieveRequest { documents: vec![wanted] }.to_element();
    for (action, path, assertions, body, answered) in [
        (actions::ITI55_REQUEST, XCPD, &both[..1], query(), actions::ITI55_RESPONSE),
        (actions::ITI38_REQUEST, XCA, &both[..], documents, actions::ITI38_RESPONSE),
        (actions::ITI39_REQUEST, XCA, &both[..], retrieve, actions::ITI39_RESPONSE),
    ] {
        let answer = two.neighbour.call(action, path, assertions, body).await.expect("an answer");
        let envelope = Element::parse(&answer.envelope, &Limits::ANSWER).expect("XML");
        assert!(envelope.is(ncp_soap::ns::SOAP, "Envelope"), "SOAP 1.2");
        let header = envelope.child(ncp_soap::ns::SOAP, "Header").expect("a header");
        let text = |name| header.child(ncp_soap::ns::WSA, name).map(Element::trimmed).unwrap_or_default();
        assert_eq!(text("Action"), answered);
        assert!(text("RelatesTo").starts_with("urn:uuid:") && text("MessageID").starts_with("urn:uuid:"));
    }
    // OpenNCP's second sending: the same bytes.
    let message =
        two.neighbour.message(actions::ITI38_REQUEST, XCA, &both, Neighbour::find_documents(&patient).to_element());
    for _ in 0..2 {
        let answer = two.neighbour.post(XCA, "application/soap+xml; charset=UTF-8", message.clone()).await;
        let answer = answer.expect("an answer");
        assert_eq!(QueryResponse::read(&answer.body).map(|(r, _)| r.status), Ok(Status::Success));
    }
    // The version before: a fault of version mismatch or none of ours at all, never an answer.
    let old = String::from_utf8(message.clone())
        .expect("text")
        .replace("http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/");
    let refused = two.neighbour.post(XCA, "text/xml; charset=UTF-8", old.into_bytes()).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.fault().is_some()));

    let id = {
        let message = Element::parse(&message, &Limits::REQUEST).expect("XML");
        let header = message.child(ncp_soap::ns::SOAP, "Header").expect("a header");
        header.child(ncp_soap::ns::WSA, "MessageID").map(Element::trimmed).expect("a MessageID")
    };
    let records = two.node.records().expect("records");
    let encoded = openssl::base64::encode_block(id.as_bytes());
    let of_message: Vec<&String> = records.iter().filter(|r| r.contains(&encoded)).collect();
    let repeats = of_message.iter().filter(|r| r.contains("type=\"ncp:repeat\"")).count();
    assert_eq!((of_message.len(), repeats), (2, 1), "both are recorded, the second as a repeat");
}

/// An assertion as other software writes it.
async fn signed(
    neighbour: &Neighbour,
    id: &str,
    template: Element,
    change: impl Fn(String) -> String,
) -> SignedAssertion {
    let text = change(template.to_xml());
    neighbour.sign(id, &text).await.expect("signs")
}

fn trc_of(hcp: &SignedAssertion, claims: &HcpClaims, patient: &PatientId) -> TrcClaims {
    TrcClaims {
        country: claims.country,
        name_id: claims.name_id.clone(),
        hcp_id: hcp.id.clone(),
        patient: patient.to_cx(),
        purpose: claims.purpose,
    }
}

/// What comes: any prefix of Role and PurposeOfUse, any code system of the purpose, four and two hours, the next of kin
/// first. What is longer, or has no NCName for an id, is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_6_assertions_that_come() {
    let two = Two::start("", "").await;
    let (claims, patient, now) = (two.neighbour.claims(), Two::patient(), Timestamp::now());
    let hour = SignedDuration::from_hours(1);
    let prefixed = |text: String| {
        text.replace("<Role xmlns=\"urn:hl7-org:v3\"", "<hl7:Role xmlns:hl7=\"urn:hl7-org:v3\"")
            .replace("<PurposeOfUse xmlns=\"urn:hl7-org:v3\"", "<x:PurposeOfUse xmlns:x=\"urn:hl7-org:v3\"")
    };
    let danish = |text: String| {
        text.replace("3bc18518-d305-46c2-a8d6-94bd59856e9e", "2.16.840.1.113883.3.18.7.1")
            .replace("displayName=\"TREATMENT\"", "displayName=\"Treatment\"")
    };
    let same = |text: String| text;
    let hcp_of = async |hours: u64, change: &dyn Fn(String) -> String| {
        let id = format!("_{}", uuid::Uuid::new_v4());
        signed(&two.neighbour, &id, hcp_template(&id, &claims, now, Duration::from_secs(hours * 3600)), change).await
    };
    let trc_for = async |hcp: &SignedAssertion, until: Timestamp, change: &dyn Fn(String) -> String| {
        let id = format!("_{}", uuid::Uuid::new_v4());
        signed(&two.neighbour, &id, trc_template(&id, &trc_of(hcp, &claims, &patient), now, until), change).await
    };
    let (four, two_hours) = (4, now + hour * 2);
    for change in [&same as &dyn Fn(String) -> String, &prefixed, &danish] {
        let hcp = hcp_of(four, change).await;
        let trc = trc_for(&hcp, two_hours, change).await;
        assert_eq!(two.served(&[hcp, trc]).await, Ok(()));
    }
    let hcp = hcp_of(four, &same).await;
    let trc = trc_for(&hcp, two_hours, &same).await;
    let kin = NextOfKinClaims {
        country: claims.country,
        name_id: claims.name_id.clone(),
        hcp_id: hcp.id.clone(),
        kin: NextOfKin {
            id: "1^^^&2.999.1&ISO".into(),
            first_name: "G".into(),
            family_name: "F".into(),
            birth_date: "19500101".into(),
            ..NextOfKin::default()
        },
    };
    let id = format!("_{}", uuid::Uuid::new_v4());
    let kin = signed(&two.neighbour, &id, nok_template(&id, &kin, now, two_hours), same).await;
    assert_eq!(two.served(&[kin, hcp.clone(), trc.clone()]).await, Ok(()));

    let long = hcp_of(5, &same).await;
    let trc = trc_for(&long, two_hours, &same).await;
    assert!(two.served(&[long, trc]).await.is_err(), "an identity of five hours");
    let long = trc_for(&hcp, now + hour * 3, &same).await;
    assert!(two.served(&[hcp, long]).await.is_err(), "a treatment of three hours");
}

/// A national consumer asks; what its gateway sends to the other country.
async fn sent() -> (HcpClaims, Vec<Element>) {
    let dir = tempfile::tempdir().expect("a folder");
    let asking = Asking::create(dir.path()).expect("a PKI");
    let other = asking.other("DK").expect("a PKI");
    let anchors = asking.pki.path("anchors.pem");
    let answer = |_: &ncp_tests::country::Asked| {
        let none = QueryResponse {
            status: Status::Success,
            errors: Vec::new(),
            objects: ncp_ihe::RegistryObjects::default(),
            object_refs: Vec::new(),
        };
        Reaction::Simple(actions::ITI38_RESPONSE, none.to_element())
    };
    let country = Country::start(&other, &anchors, answer).await.expect("starts");
    let known = Known { pki: &other, home: "1.2.208".into(), country: &country, lines: String::new() };
    let path = asking.write([0; 3], "", &sources().join("gateway/policies/no"), &[known]).expect("writes");
    let config = config::load(&path).expect("a configuration");
    let bound = app::bind(app::build(config).await.expect("builds")).await.expect("binds");
    let port = bound.consumers_address().expect("an address").port();
    let task = tokio::spawn(bound.serve());
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port).expect("a consumer");
    let claims = Neighbour::new(&asking.pki, "2.999.47", &anchors, "localhost", port).expect("claims").claims();
    let patient = PatientId::parse_cx(&format!("1^^^&{ROOT}&ISO")).expect("a CX");
    let assertions = consumer.assertions(&claims, &patient).await.expect("signs");
    let body = Neighbour::find_documents(&patient).to_element();
    consumer.call(&assertions, body).await.expect("an answer");
    let asked = country.asked();
    task.abort();
    let envelope = Element::parse(&asked[0].envelope, &Limits::REQUEST).expect("XML");
    let header = envelope.child(ncp_soap::ns::SOAP, "Header").expect("a header");
    let security = header.child(ncp_soap::ns::WSSE, "Security").expect("assertions");
    assert_eq!(security.get_in(ncp_soap::ns::SOAP, "mustUnderstand"), None);
    (claims, security.elements().cloned().collect())
}

/// The values of an attribute of an assertion.
fn values<'a>(assertion: &'a Element, name: &str) -> Vec<&'a Element> {
    let attributes = assertion.child(SAML, "AttributeStatement").expect("attributes");
    let found = attributes.all(SAML, "Attribute").find(|a| a.get("Name") == Some(name));
    found.map(|a| a.all(SAML, "AttributeValue").collect()).unwrap_or_default()
}

/// What goes: HCP before TRC, ids that are NCNames, one certificate, a PrefixList, Role and PurposeOfUse without prefix,
/// the role by its exact name, at most four and two hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_6_assertions_that_go() {
    let (_, assertions) = sent().await;
    let kinds: Vec<&str> = assertions.iter().filter_map(|a| a.child(SAML, "Issuer")?.get("NameQualifier")).collect();
    assert_eq!(kinds, ["urn:ehdsi:assertions:hcp", "urn:ehdsi:assertions:trc"]);
    for (assertion, hours) in assertions.iter().zip([4, 2]) {
        let id = assertion.get("ID").expect("an ID");
        assert!(id.starts_with('_') && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)), "{id}");
        let text = assertion.to_xml();
        assert_eq!(text.matches("X509Certificate>").count(), 2, "one certificate");
        assert!(text.contains("PrefixList=\"xs\""));
        // OpenNCP looks the two up by their qualified names.
        assert!(text.contains("<PurposeOfUse ") && !text.contains(":PurposeOfUse") && !text.contains(":Role "));
        let conditions = assertion.child(SAML, "Conditions").expect("conditions");
        let at = |name| conditions.get(name).and_then(|t| t.parse::<Timestamp>().ok()).expect("an instant");
        let span = at("NotOnOrAfter").duration_since(at("NotBefore"));
        assert!(span <= SignedDuration::from_hours(hours), "{span:?}");
    }
    let role = values(&assertions[0], "urn:oasis:names:tc:xacml:2.0:subject:role");
    let role = role[0].child(HL7, "Role").expect("a role");
    assert_eq!((role.get("code"), role.get("displayName")), (Some("221"), Some("Medical Doctors")));
    let advice = assertions[1].path(SAML, &["Advice", "AssertionIDRef"]).map(Element::trimmed);
    assert_eq!(advice.as_deref(), assertions[0].get("ID"), "the treatment refers to the identity");
}

/// The whole permission set of an imaging user goes with the identity, also as the example configuration has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_7_permissions() {
    let (_, assertions) = sent().await;
    let sent = values(&assertions[0], "urn:oasis:names:tc:xspa:1.0:subject:hl7:permission");
    let sent: Vec<String> = sent.into_iter().map(Element::trimmed).collect();
    for permission in PERMISSIONS {
        let full = format!("urn:oasis:names:tc:xspa:1.0:subject:hl7:permission:{permission}");
        assert!(sent.contains(&full), "{permission} of {sent:?}");
    }
    let text = std::fs::read_to_string(sources().join("deploy/config/gateway.toml")).expect("the example");
    let example: toml::Value = toml::from_str(&text).expect("TOML");
    for side in ["clinician", "consumer"] {
        let roles = example[side]["roles"].as_table().expect("roles");
        for (name, role) in roles {
            let has: Vec<&str> =
                role["permissions"].as_array().into_iter().flatten().filter_map(|p| p.as_str()).collect();
            assert!(PERMISSIONS.iter().all(|p| has.contains(p)), "{side} {name}");
        }
    }
}

/// Everything that came to a repository which reads OpenNCP's dialect, over syslog and TLS.
async fn repository(pki: &CountryPki) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let material = Material::load(&pki.path("tls-server.pem"), &pki.path("tls-server.key")).expect("a certificate");
    let acceptor = material.acceptor(ClientAuth::Required, &[pki.path("anchors.pem")], b"").expect("TLS");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let into = heard.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(10)).await else { continue };
            let into = into.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    into.lock().expect("not poisoned").extend_from_slice(&buffer[..read]);
                }
            });
        }
    });
    (port, heard)
}

/// The messages of a transaction that have come whole.
fn messages(heard: &Mutex<Vec<u8>>, transaction: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&heard.lock().expect("not poisoned")).into_owned();
    let whole = text.split("<AuditMessage").skip(1).filter_map(|rest| rest.split_once("</AuditMessage>"));
    whole.map(|(inside, _)| inside.to_owned()).filter(|m| m.contains(&format!("csd-code=\"{transaction}\""))).collect()
}

/// The trail in OpenNCP's dialect: `csd-code`, the event codes of the original clinical documents, the whole request
/// header as evidence; and what OpenNCP leaves out: the role, real addresses, every class code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_9_audit() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiving = CountryPki::create(dir.path(), "NO", Algorithm::P256).expect("a PKI");
    let (port, heard) = repository(&receiving).await;
    let pki = receiving.dir.display();
    let audit = format!(
        "[[audit.syslog]]\nname = \"openatna\"\nhost = \"127.0.0.1\"\nport = {port}\nserver_name = \"localhost\"\n\
         dialect = \"ehdsi\"\ntls = {{ certificate = \"{pki}/tls-client.pem\", key = \"{pki}/tls-client.key\", anchors = \"{pki}/anchors.pem\" }}\n"
    );
    let two = Two::start("", &audit).await;
    let patient = Two::patient();
    let assertions = two.neighbour.assertions(&patient).await.expect("signs");
    let class = |code| Coded::new(code, "2.16.840.1.113883.6.1", None);
    let mut find = FindDocuments::of_patient(patient.clone());
    find.class_codes = vec![class("18748-4"), class("x-clinical-image")];
    let request = CrossGatewayQueryRequest {
        home: None,
        return_type: ReturnType::LeafClass,
        query: StoredQuery::FindDocuments(find),
    };
    let message = two.neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, request.to_element());
    let answer = two.neighbour.post(XCA, "application/soap+xml; charset=UTF-8", message.clone()).await;
    assert_eq!(answer.expect("an answer").codes(), [""; 0]);
    let wanted = DocumentRequest {
        home: Some(HomeCommunityId::parse(&format!("urn:oid:{}", HOMES[0])).expect("a home")),
        repository: Oid::parse("2.999.47.21.1").expect("an OID"),
        document: "2.999.47.71.1".into(),
    };
    let (retrieved, _) = two.neighbour.document(&patient, &wanted).await.expect("a document");
    assert_eq!(retrieved.status, Status::Success);
    for _ in 0..200 {
        if !messages(&heard, "ITI-39").is_empty() && !messages(&heard, "ITI-38").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let encoded = |text: &str| openssl::base64::encode_block(text.as_bytes());
    let message = String::from_utf8(message).expect("text");
    let header = &message[message.find("<s:Header>").expect("a header")..message.find("<s:Body>").expect("a body")];
    let (listed, retrieved) = (messages(&heard, "ITI-38"), messages(&heard, "ITI-39"));
    assert_eq!((listed.len(), retrieved.len()), (1, 1));
    for (record, event, display) in
        [(&listed[0], "110112", "OrCDService::List"), (&retrieved[0], "110106", "OrCDService::Retrieve")]
    {
        assert!(record.contains(&format!("<EventID csd-code=\"{event}\"")), "{record}");
        assert!(record.contains(&format!("displayName=\"{display}\"")), "{record}");
        assert!(record.contains("csd-code=\"221\"") && record.contains("originalText=\"Medical Doctors\""), "{record}");
        assert!(record.contains("NetworkAccessPointID=\"127.0.0.1\""), "{record}");
        assert!(record.contains("csd-code=\"req\"") && record.contains("type=\"securityheader\""), "{record}");
    }
    assert!(listed[0].contains(&encoded(header.trim_end())), "the header byte for byte");
    for code in ["18748-4", "x-clinical-image"] {
        assert!(listed[0].contains(&encoded(&format!("{code}^^2.16.840.1.113883.6.1"))), "{code}");
    }
    assert!(retrieved[0].contains("2.999.47.71.1"));
}
