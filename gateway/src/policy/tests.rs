//! The decision point as a whole: what fails is a refusal, and each unit is decided by what it is.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use ncp_ihe::xcpd::PersonName;
use ncp_ihe::{PatientId, PatientQuery, PatientRecord};

use super::consent::{Beside, ConsentSource, FhirConsent, KeptFile};
use super::engine::tests::{DEFAULT, radiologist};
use super::*;
use crate::config::ConsentServer;
use crate::identity::{Identity, TransactionName};

const PATIENT: &str = "1^^^&2.999.1&ISO";

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn file(text: &str) -> KeptFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("writes");
    KeptFile::open(file.path(), Duration::from_secs(60)).expect("reads")
}

fn by_file(text: &str) -> ConsentSource {
    ConsentSource::of(file(text), Beside::Nothing)
}

fn beside(server: Box<FhirConsent>, text: &str) -> ConsentSource {
    ConsentSource::of(file(text), Beside::Fhir(server))
}

fn policy(text: &str, consent: ConsentSource) -> Policy {
    Policy::new(PolicyEngine::parse(text).expect("valid policies"), consent)
}

/// A server at this address.
fn server(url: String) -> Box<FhirConsent> {
    let server = ConsentServer { url, anchors: None, token_file: None, required: false };
    Box::new(FhirConsent::new(&server).expect("a client"))
}

async fn admit<T>(policy: &Policy, body: T) -> Result<Authorised<LookUp<T>>, PolicyError> {
    let identity = Identity { trc_patient: Some(patient()), ..radiologist() };
    let request = Authenticated::after_security_checks(body, Arc::new(identity));
    policy.admit(request, TransactionName::Iti38, Some(&patient())).await
}

/// No document describes anything.
fn nothing() -> Describing {
    Describing::of([], true)
}

struct Unit(Facts);

impl Resource for Unit {
    fn patient(&self) -> Option<&PatientId> {
        static PATIENT_ID: std::sync::LazyLock<PatientId> = std::sync::LazyLock::new(patient);
        Some(&PATIENT_ID)
    }
    fn described(&self, _: &Describing) -> (Facts, Vec<String>) {
        (self.0.clone(), vec!["2.999.7".into()])
    }
}

fn unit(confidentiality: &str) -> Unit {
    Unit(Facts { kind: "document", confidentiality: Some(vec![confidentiality.into()]), ..Facts::default() })
}

/// Cedar skips a forbid that fails to evaluate, so that without our own rule this request would be permitted.
#[tokio::test]
async fn a_rule_that_fails_is_a_refusal() {
    let overflow = "forbid(principal, action, resource) when { 9223372036854775807 + 1 > 0 };";
    let open = "permit(principal, action, resource);";
    let failing = policy(&format!("{open}\n{overflow}"), by_file(""));
    assert!(matches!(admit(&failing, ()).await, Err(PolicyError::Failed(_))));
    assert!(admit(&policy(open, by_file("")), ()).await.is_ok());
}

#[tokio::test]
async fn a_consent_source_that_is_away_is_a_refusal() {
    let away = policy(DEFAULT, beside(server("http://127.0.0.1:1".into()), ""));
    assert!(matches!(admit(&away, ()).await, Err(PolicyError::Failed(_))));
}

/// Each document is decided by its own metadata, after the request was let in.
#[tokio::test]
async fn a_unit_is_released_by_what_it_is() {
    let policy = policy(DEFAULT, by_file(""));
    let asked = admit(&policy, ()).await.expect("a professional");
    let closed = policy.release(&asked, TransactionName::Iti38, unit("NORS"), &nothing()).await;
    assert!(matches!(closed, Err(Refusal::Forbidden(_))));
    assert!(policy.release(&asked, TransactionName::Iti38, unit("N"), &nothing()).await.is_ok());
}

/// What the law closes stays closed whatever the patient's server says.
#[tokio::test]
async fn the_file_closes_beside_the_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let bundle = r#"{"resourceType":"Bundle","type":"searchset"}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                bundle.len()
            );
            let _ = stream.write_all(format!("{head}{bundle}").as_bytes()).await;
        }
    });
    let released = async |law: &str| {
        let policy = policy(DEFAULT, beside(server(url.clone()), law));
        let asked = admit(&policy, ()).await.expect("a professional");
        policy.release(&asked, TransactionName::Iti38, unit("N"), &nothing()).await.is_ok()
    };
    assert!(released("").await);
    assert!(!released(&format!("[[block]]\npatient = \"{PATIENT}\"\ndocument = \"2.999.7\"\n")).await);
    assert!(!released(&format!("[[opt_out]]\npatient = \"{PATIENT}\"\n")).await);
}

/// A FHIR server that answers every search with these Consents.
async fn consents(consents: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let bundle = format!(r#"{{"resourceType":"Bundle","type":"searchset","entry":[{consents}]}}"#);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                bundle.len()
            );
            let _ = stream.write_all(format!("{head}{bundle}").as_bytes()).await;
        }
    });
    url
}

/// `[[consent_required]]` of the file holds beside a server, and is met by a permit there.
#[tokio::test]
async fn se_03_26_the_file_asks_for_consent_beside_a_server() {
    let required = format!("[[consent_required]]\npatient = \"{PATIENT}\"\n");
    let nothing = policy(DEFAULT, beside(server(consents("").await), &required));
    assert!(matches!(admit(&nothing, ()).await, Err(PolicyError::NoConsent)));
    let permit = r#"{"resource":{"resourceType":"Consent","status":"active","decision":"permit","subject":{"reference":"Patient/1"}}}"#;
    let permitted = policy(DEFAULT, beside(server(consents(permit).await), &required));
    assert!(admit(&permitted, ()).await.is_ok());
}

/// Who opted out is not found; in an emergency only where a policy says so.
#[tokio::test]
async fn se_18_who_opted_out_of_the_service_is_not_found() {
    let out = format!("[[opt_out]]\npatient = \"{PATIENT}\"\n");
    let block = format!("[[block]]\npatient = \"{PATIENT}\"\ncountries = [\"FI\"]\n");
    let elsewhere = format!("[[opt_out]]\npatient = \"{PATIENT}\"\ncountries = [\"SE\"]\n");
    let opens = format!(
        "{DEFAULT}\n@opens(\"opted-out\")\npermit (principal, action == Action::\"ITI-55\", resource) \
         when {{ context.emergency && principal.permissions.contains(\"PRD-006\") }};"
    );
    let found = async |text: &str, consent: &str, purpose: &str| {
        let policy = policy(text, by_file(consent));
        let oid = |text: &str| ncp_ihe::Oid::parse(text).expect("an OID");
        let query = PatientQuery::new(oid("2.999.246"), oid("2.999.47"), vec![patient()], None, None, None);
        let identity = Identity { purpose: purpose.into(), ..radiologist() };
        let request = Authenticated::after_security_checks(query, Arc::new(identity));
        let asked = policy.admit(request, TransactionName::Iti55, None).await.expect("a professional");
        let record = PatientRecord {
            id: patient(),
            other_ids: Vec::new(),
            name: PersonName::default(),
            birth_date: None,
            gender: None,
            address: None,
        };
        match policy.release_identity(&asked, record).await {
            Ok(_) => true,
            Err(Refusal::OptedOut) => false,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(found(DEFAULT, "", "TREATMENT").await && found(DEFAULT, &elsewhere, "TREATMENT").await);
    for consent in [&out, &block] {
        for purpose in ["TREATMENT", "EMERGENCY"] {
            assert!(!found(DEFAULT, consent, purpose).await, "{purpose}");
        }
        assert!(!found(&opens, consent, "TREATMENT").await);
        assert!(found(&opens, consent, "EMERGENCY").await, "a policy says so");
    }
}

/// ITI-55 names nobody whose identifier was not in the query.
#[tokio::test]
async fn a_person_is_named_by_what_was_asked() {
    let policy = policy(DEFAULT, by_file(""));
    let oid = |text: &str| ncp_ihe::Oid::parse(text).expect("an OID");
    let query = PatientQuery::new(oid("2.999.246"), oid("2.999.47"), vec![patient()], None, None, None);
    let request = Authenticated::after_security_checks(query, Arc::new(radiologist()));
    let asked = policy.admit(request, TransactionName::Iti55, None).await.expect("a professional");
    let record = |id: &str| PatientRecord {
        id: PatientId::parse_cx(id).expect("a CX"),
        other_ids: Vec::new(),
        name: PersonName::default(),
        birth_date: None,
        gender: None,
        address: None,
    };
    assert!(policy.release_identity(&asked, record(PATIENT)).await.is_ok());
    let other = policy.release_identity(&asked, record("2^^^&2.999.1&ISO")).await;
    assert!(matches!(other, Err(Refusal::OtherPatient)));
}

/// A document of nobody, or of somebody else, is not released.
#[tokio::test]
async fn a_unit_is_the_patients_of_the_treatment() {
    struct Nobodys;
    impl Resource for Nobodys {
        fn patient(&self) -> Option<&PatientId> {
            None
        }
        fn described(&self, _: &Describing) -> (Facts, Vec<String>) {
            (Facts::default(), Vec::new())
        }
    }
    let policy = policy("permit(principal, action, resource);", by_file(""));
    let asked = admit(&policy, ()).await.expect("a professional");
    assert!(matches!(
        policy.release(&asked, TransactionName::Iti39, Nobodys, &nothing()).await,
        Err(Refusal::OtherPatient)
    ));
}
