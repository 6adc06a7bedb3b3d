//! A reader's own words, with a terminology service that answers, keeps silent, or is gone.

use std::time::Instant;

use bytes::Bytes;
use ncp_ihe::{Coded, Content, DocumentRequest, DocumentResponse, Oid, RetrieveResponse, Status, actions};
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::neighbour::retrieve_response;
use serde_json::Value;

use crate::clinicians::{code, documents, knowing, sent};
use crate::common::terminology::{gone, serving, silent};
use crate::common::trail::detail;
use crate::consumers::ask;
use crate::{Held, Others, World, entry, home, images, listed, parts, patient, second};

const COUNTRY: &str = "2.999.101";
/// A report as another country's pivot: the European code, and no name that a Norwegian reads.
const REPORT: &str = r#"<ClinicalDocument xmlns="urn:hl7-org:v3"><component><section><entry><observation classCode="OBS" moodCode="EVN"><code code="169069000" codeSystem="2.16.840.1.113883.6.96" displayName="CT of chest"/></observation></entry></section></component></ClinicalDocument>"#;

/// A country with one report and one study.
fn holds(study: Held) -> impl Fn(&Asked) -> Reaction + Send + Sync {
    knowing(COUNTRY, "19800101", move |asked| match asked.action.as_str() {
        actions::ITI38_REQUEST => {
            let mut report = entry(COUNTRY, 1);
            report.event_codes = vec![Coded::new("169069000", "2.16.840.1.113883.6.96", Some("CT of chest"))];
            listed(vec![report])
        }
        actions::ITI39_REQUEST => {
            let request = DocumentRequest {
                home: Some(home(COUNTRY)),
                repository: Oid::parse(&format!("{COUNTRY}.21.1")).expect("oid"),
                document: format!("{COUNTRY}.30.1"),
            };
            let content = Content::Include("1@country".into());
            let document = DocumentResponse { request, new_document: None, media_type: "text/xml".into(), content };
            let response = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![document] };
            let part = ("1@country".to_owned(), "text/xml", Bytes::from_static(REPORT.as_bytes()));
            Reaction::Parts(actions::ITI39_RESPONSE, response.to_element(), vec![part])
        }
        _ => study.sent(),
    })
}

/// A reader's system in front of that country.
async fn world(section: impl AsyncFnOnce(&ncp_tests::pki::CountryPki) -> String) -> (World, Vec<Country>) {
    let others = Others::none().section(section).await.clinicians();
    others.with("AA", COUNTRY, holds(Held::new(1, COUNTRY, 3))).await.world("").await
}

fn report(bundle: &Value) -> &str {
    let url = bundle.pointer("/entry/0/resource/content/0/attachment/url").and_then(Value::as_str);
    url.unwrap_or_else(|| panic!("a document: {bundle}"))
}

#[tokio::test]
async fn names_and_reports_in_the_readers_words_are_on_the_trail() {
    let (world, _countries) = world(serving).await;
    let bundle = documents(&world, "nb").await;
    assert!(bundle.to_string().contains("CT toraks") || bundle.to_string().contains("CT thorax"), "{bundle}");
    let (head, bytes) = sent(&world, report(&bundle), ("accept-language", "nb"), None).await;
    assert_eq!(head.status.as_u16(), 200);
    let said = head.headers.get("x-ncp-translation").and_then(|v| v.to_str().ok()).expect("which maps");
    assert_ne!(bytes, REPORT.as_bytes());
    let trail = world.trail().ihe;
    let translated: Vec<_> = trail.iter().filter(|m| m.types[0].code == "EHDSI-94").collect();
    let [names, document] = &translated[..] else { panic!("{} records", translated.len()) };
    assert_eq!(detail(names, "ncp:document-entries").as_deref(), Some("1"));
    let maps = detail(names, "ncp:terminology-snapshot").expect("which maps");
    assert_eq!(detail(document, "ncp:terminology-snapshot").as_ref(), Some(&maps));
    assert!(said.contains(&format!("snapshot={maps}")), "{said}");
    assert!(translated.iter().all(|m| m.patient() == patient().to_cx()));
}

#[tokio::test]
async fn without_the_service_originals_come_with_a_warning_and_images_come_at_once() {
    for (world, countries) in [world(silent).await, world(gone).await] {
        let bundle = documents(&world, "nb").await;
        let entries = bundle["entry"].as_array().expect("entries");
        assert_eq!(
            code(&entries.last().expect("an outcome")["resource"]["issue"][0]),
            "names-untranslated",
            "{bundle}"
        );
        let began = Instant::now();
        let (head, bytes) = sent(&world, report(&bundle), ("accept-language", "nb"), None).await;
        assert!(began.elapsed() < second() * 5, "the service was waited for");
        assert_eq!((head.status.as_u16(), &bytes[..]), (200, REPORT.as_bytes()), "as it came");
        let warning = head.headers.get("x-ncp-warning").and_then(|v| v.to_str().ok());
        assert!(warning.is_some_and(|w| w.starts_with("not translated")), "{warning:?}");
        assert!(head.headers.get("x-ncp-translation").is_none());

        let held = Held::new(1, COUNTRY, 3);
        let began = Instant::now();
        let mut answer = ask(&world, images(vec![held.request()]).to_element()).await;
        assert_eq!(
            retrieve_response(&answer.body).expect("a response").status,
            Status::Success,
            "{:?}",
            answer.codes()
        );
        assert_eq!(parts(&mut answer).await.expect("whole").len(), held.files.len());
        assert!(began.elapsed() < second(), "images waited for the terminology service");
        assert!(world.trail().ihe.iter().all(|m| m.types[0].code != "EHDSI-94"), "nothing was translated");
        drop(countries);
    }
}
