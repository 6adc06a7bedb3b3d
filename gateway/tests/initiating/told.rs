//! What a country says of its own answer reaches the clinician: each entry, each error, each omission.

use ncp_ihe::{
    Association, Content, DocumentEntry, DocumentRequest, DocumentResponse, Oid, PatientAnswer, PatientQuery,
    PatientResponse, QueryResponse, RegistryError, RegistryObjects, RetrieveResponse, Severity, Status, actions,
};
use ncp_tests::asking::PATIENTS;
use ncp_tests::country::{Asked, Reaction};
use ncp_xml::{Element, Limits};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::clinicians::{base, call, code, confirm, knowing, matches, sent};
use crate::{Others, World, entry, home, patient};

const SE: &str = "2.999.752";

/// What the clinician got: status, unique ids of the lines, `total`, and the issues as detail code and text.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) status: u16,
    pub(crate) ids: Vec<String>,
    pub(crate) total: Option<u64>,
    pub(crate) issues: Vec<(String, String)>,
}

impl Shown {
    pub(crate) fn says(&self, detail: &str, text: &str) -> bool {
        self.issues.iter().any(|(code, said)| code == detail && said.contains(text))
    }

    fn of(status: u16, body: &Value) -> Self {
        let entries = body["entry"].as_array().cloned().unwrap_or_default();
        let unique = |e: &Value| Some(e["resource"]["masterIdentifier"]["value"].as_str()?.to_owned());
        let beside = entries.iter().map(|e| &e["resource"]).chain([body]);
        let issues = beside.filter_map(|r| r["issue"].as_array()).flatten();
        let said = |i: &Value| (code(i).to_owned(), i["details"]["text"].as_str().unwrap_or_default().to_owned());
        Self {
            status,
            ids: entries.iter().filter_map(unique).collect(),
            total: body["total"].as_u64(),
            issues: issues.map(said).collect(),
        }
    }
}

/// Sweden, whose patients the clinicians find and which answers everything else as told.
pub(crate) async fn sweden(lines: &str, react: impl Fn(&Asked) -> Reaction + Send + Sync + 'static) -> (World, String) {
    let country = Others::none().with("SE", SE, knowing(SE, "19800101", react)).await;
    let (world, countries) = country.clinicians().peers(0, lines.to_owned()).world("").await;
    // The country lives as long as the test.
    std::mem::forget(countries);
    let base = base(&confirm(&world, &matches(&world).await).await);
    (world, base)
}

pub(crate) async fn list(world: &World, base: &str) -> Shown {
    let (status, _, body) = call(world, &format!("{base}/DocumentReference"), "", None).await;
    Shown::of(status, &body)
}

/// A message of the case folder for the patient of these tests.
fn case(name: &str) -> Element {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/cases/foreign").join(name);
    let text = std::fs::read_to_string(path).expect("a case");
    let own = patient().to_cx().replace('&', "&amp;");
    let text = text.replace("191212121212^^^&amp;2.999.752.1&amp;ISO", &own);
    Element::parse(text.as_bytes(), &Limits::ANSWER).expect("XML")
}

fn simple(body: &Element) -> Reaction {
    Reaction::Simple(actions::ITI38_RESPONSE, body.clone())
}

fn answer(status: Status, errors: &[(&str, Severity)], objects: RegistryObjects) -> Element {
    let error = |(code, severity): &(&str, Severity)| RegistryError {
        code: (*code).into(),
        context: "Tolvan Exempel".into(),
        severity: *severity,
        location: None,
    };
    let errors = errors.iter().map(error).collect();
    QueryResponse { status, errors, objects, object_refs: Vec::new() }.to_element()
}

async fn shown(body: Element) -> (Shown, World) {
    let (world, base) = sweden("", move |_| simple(&body)).await;
    (list(&world, &base).await, world)
}

fn xfrm(source: &DocumentEntry, target: &DocumentEntry) -> Association {
    Association {
        uuid: uuid::Uuid::new_v4().urn().to_string(),
        kind: Association::XFRM.into(),
        source: source.entry_uuid.clone(),
        target: target.entry_uuid.clone(),
        submission_set_status: None,
    }
}

#[tokio::test]
async fn fo_01_on_03_an_association_of_an_entry_with_itself_hides_nothing() {
    let (shown, _) = shown(case("FO-01-iti38-self-association.xml")).await;
    assert_eq!((shown.status, shown.ids.len(), shown.total), (200, 2, Some(2)), "{shown:?}");
    assert!(shown.issues.is_empty(), "{shown:?}");
}

/// F1 at the clinician's end: rings, chains, a manifest as the transformation of a report, an original behind its translation.
#[tokio::test]
async fn fo_01_no_association_makes_a_document_vanish() {
    let all = || (1..=3).map(|n| entry(SE, n)).collect::<Vec<_>>();
    type Links = fn(&mut Vec<DocumentEntry>) -> Vec<Association>;
    let shapes: [(&str, Links, usize); 6] = [
        ("a ring of two", |e| vec![xfrm(&e[0], &e[1]), xfrm(&e[1], &e[0])], 3),
        ("a ring of three", |e| vec![xfrm(&e[0], &e[1]), xfrm(&e[1], &e[2]), xfrm(&e[2], &e[0])], 3),
        ("a chain", |e| vec![xfrm(&e[0], &e[1]), xfrm(&e[1], &e[2])], 2),
        (
            "a manifest",
            |e| {
                e[0].mime_type = "application/dicom".into();
                vec![xfrm(&e[0], &e[1]), xfrm(&e[2], &e[0])]
            },
            3,
        ),
        ("a translation", |e| vec![xfrm(&e[0], &e[1])], 2),
        (
            "a translation, and each entry with itself",
            |e| e.iter().map(|e| xfrm(e, e)).chain([xfrm(&e[0], &e[1])]).collect(),
            2,
        ),
    ];
    for (name, shape, expected) in shapes {
        let mut entries = all();
        let associations = shape(&mut entries);
        let objects = RegistryObjects { entries, associations, ..RegistryObjects::default() };
        let (shown, _) = shown(answer(Status::Success, &[], objects)).await;
        assert_eq!((shown.ids.len(), shown.total), (expected, Some(expected as u64)), "{name}: {shown:?}");
    }
}

#[tokio::test]
async fn fo_03_on_08_an_error_beside_success_is_told() {
    let (one, world) = shown(case("FO-03-iti38-success-error-one-of-two.xml")).await;
    assert_eq!((one.status, one.ids.len(), one.total), (200, 1, None), "{one:?}");
    assert!(one.says("country-partial", "ERROR_ORCD_GENERIC"), "{one:?}");
    assert!(!format!("{one:?}").contains("registry down"), "a country's text is not passed on");
    assert!(world.records().iter().any(|xml| xml.contains("ITI-38") && xml.contains("EventOutcomeIndicator=\"4\"")));
    for code in ["1002", "ERROR_GENERIC_SERVICE_SIGNIFIER_UNKNOWN", "ERROR_ORCD_GENERIC"] {
        let (none, world) = shown(case(&format!("FO-03-iti38-success-error-empty-{code}.xml"))).await;
        assert_eq!((none.status, none.total), (502, None), "{none:?}");
        assert!(none.says("country-error", code), "{none:?}");
        assert!(world.records().iter().any(|xml| xml.contains("EventOutcomeIndicator=\"8\"")), "{code}");
    }
    let (warned, _) = shown(case("FO-03-iti38-success-warning.xml")).await;
    assert_eq!((warned.status, warned.ids.len()), (200, 2), "{warned:?}");
    assert!(warned.says("country-warning", "WARNING_ORCD_GENERIC"), "{warned:?}");
}

/// Want of consent, nobody, nothing: one sentence. What is the caller's own fault, or technical, is told with its code.
#[tokio::test]
async fn fo_03_one_sentence_for_all_that_a_country_does_not_show() {
    let nothing = || RegistryObjects::default();
    let mut sentences = std::collections::BTreeSet::new();
    for (status, errors) in [
        (Status::Success, vec![]),
        (Status::Failure, vec![("4701", Severity::Error)]),
        (Status::Success, vec![("4701", Severity::Error)]),
        (Status::PartialSuccess, vec![("4701", Severity::Error)]),
        (Status::Failure, vec![("XDSUnknownPatientId", Severity::Error)]),
        (Status::Success, vec![("1104", Severity::Warning)]),
        (Status::Failure, vec![("1101", Severity::Warning)]),
    ] {
        let (shown, _) = shown(answer(status, &errors, nothing())).await;
        assert_eq!((shown.status, shown.total), (200, Some(0)), "{errors:?} {shown:?}");
        sentences.insert(format!("{:?}", shown.issues));
    }
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(sentences.iter().all(|s| s.contains("no documents that this country shows")), "{sentences:?}");
    for code in ["4702", "4703"] {
        for status in [Status::Success, Status::PartialSuccess, Status::Failure] {
            let (refused, _) = shown(answer(status, &[(code, Severity::Error)], nothing())).await;
            assert_eq!(refused.status, 403, "{refused:?}");
            assert!(refused.says("country-refuses-caller", code), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn on_12_an_answer_without_status_is_a_refusal() {
    let body = answer(Status::Success, &[], RegistryObjects::default()).to_xml();
    let body = body.replace(&format!("status=\"{}\"", Status::Success.urn()), "");
    let body = Element::parse(body.as_bytes(), &Limits::ANSWER).expect("XML");
    let (shown, _) = shown(body).await;
    assert_eq!(shown.status, 502, "{shown:?}");
    assert!(shown.says("country-error", "no status"), "{shown:?}");
}

/// A country that is busy when it is asked for a person: the clinician hears when to ask again, as it says itself or not.
#[tokio::test]
async fn im_18_a_country_that_is_busy_says_when_to_ask_again() {
    for (text, after) in [("busy, try again in 600 s (reference 1)", "600"), ("Tolvan Exempel", "30")] {
        let busy = move |asked: &Asked| {
            let query = PatientQuery::read(&asked.body).expect("ITI-55");
            let answer =
                PatientAnswer::refused("ResponderBusy", "1.3.6.1.4.1.19376.1.2.27.3", "ERROR_PI_GENERIC", text);
            let body = PatientResponse::element(&query, &answer, &home(SE).0, jiff::Timestamp::now());
            Reaction::Simple(actions::ITI55_RESPONSE, body)
        };
        let (world, _countries) = Others::none().with("SE", SE, busy).await.clinicians().world("").await;
        let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
        let person = json!({ "resourceType": "Patient", "identifier": [identifier] });
        let (head, body) = sent(&world, "/fhir/Patient/$match", ("prefer", ""), Some(&person)).await;
        let told = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
        assert_eq!((head.status.as_u16(), told), (503, Some(after)));
        assert!(!String::from_utf8_lossy(&body).contains("Tolvan"), "a country's text is not passed on");
    }
}

/// FO-05: an entry without a community is dropped and said, one that is listed twice is one line, and two documents under
/// one id are said.
#[tokio::test]
async fn fo_05_entries_without_home_or_listed_twice() {
    let mut homeless = entry(SE, 1);
    homeless.home = None;
    let again = DocumentEntry { entry_uuid: uuid::Uuid::new_v4().urn().to_string(), ..entry(SE, 2) };
    let other = DocumentEntry { size: Some(7), ..entry(SE, 3) };
    let entries = vec![homeless, entry(SE, 2), again, entry(SE, 3), other];
    let (shown, _) = shown(answer(Status::Success, &[], RegistryObjects::of_entries(entries))).await;
    assert_eq!((shown.ids.len(), shown.total), (2, None), "{shown:?}");
    assert!(shown.says("entries-unusable", "2 entries"), "{shown:?}");
    let (twice, _) = self::shown(answer(
        Status::Success,
        &[],
        RegistryObjects::of_entries(vec![
            entry(SE, 2),
            DocumentEntry { entry_uuid: uuid::Uuid::new_v4().urn().to_string(), ..entry(SE, 2) },
        ]),
    ))
    .await;
    assert_eq!((twice.ids.len(), twice.total, twice.issues.len()), (1, Some(1), 0), "{twice:?}");
}

fn document(home_of: &str, repository: &str, document: &str) -> DocumentResponse {
    DocumentResponse {
        request: DocumentRequest {
            home: home(home_of).into(),
            repository: Oid::parse(repository).expect("oid"),
            document: document.into(),
        },
        new_document: None,
        media_type: "text/xml".into(),
        content: Content::Inline(bytes::Bytes::from_static(b"<ClinicalDocument/>")),
    }
}

/// The list of one document, and its retrieval answered with these.
async fn retrieved(
    status: Status,
    errors: Vec<RegistryError>,
    documents: Vec<DocumentResponse>,
) -> (u16, String, World) {
    let (world, base) = sweden("verify_hash = false", move |asked| {
        if asked.action == actions::ITI38_REQUEST {
            return simple(&answer(Status::Success, &[], RegistryObjects::of_entries(vec![entry(SE, 1)])));
        }
        let (errors, documents) = (errors.clone(), documents.clone());
        let body = RetrieveResponse { status, errors, documents }.to_element();
        Reaction::Parts(actions::ITI39_RESPONSE, body, Vec::new())
    })
    .await;
    let (_, _, bundle) = call(&world, &format!("{base}/DocumentReference"), "", None).await;
    let url = bundle["entry"][0]["resource"]["content"][0]["attachment"]["url"].as_str().expect("a URL").to_owned();
    let (head, bytes) = sent(&world, &url, ("accept", "text/xml"), None).await;
    let warning = head.headers.get("warning").and_then(|w| w.to_str().ok()).unwrap_or_default();
    (head.status.as_u16(), format!("{warning} {}", String::from_utf8_lossy(&bytes)), world)
}

fn told(code: &str, severity: Severity) -> RegistryError {
    RegistryError { code: code.into(), context: "Tolvan Exempel".into(), severity, location: None }
}

/// T-BND-18 in ITI-39 (FO-05): community, repository and document are compared, one changed at a time.
#[tokio::test]
async fn fo_05_f3_a_document_of_another_home_repository_or_id_is_dropped() {
    let right = (SE, "2.999.752.21.1", "2.999.752.30.1");
    let good = document(right.0, right.1, right.2);
    let (status, _, _) = retrieved(Status::Success, Vec::new(), vec![good.clone()]).await;
    assert_eq!(status, 200);
    for wrong in [
        document("2.999.99", right.1, right.2),
        document(right.0, "2.999.752.21.2", right.2),
        document(right.0, right.1, "2.999.752.30.2"),
        DocumentResponse { request: DocumentRequest { home: None, ..good.request.clone() }, ..good.clone() },
    ] {
        let (status, said, world) = retrieved(Status::Success, Vec::new(), vec![wrong.clone()]).await;
        assert_eq!(status, 502, "{:?}: {said}", wrong.request);
        assert!(!said.contains("ClinicalDocument"));
        assert!(world.records().iter().any(|xml| xml.contains("110113")), "an alert: {:?}", wrong.request);
        // The right one beside it comes.
        let (status, _, _) = retrieved(Status::Success, Vec::new(), vec![wrong, good.clone()]).await;
        assert_eq!(status, 200);
    }
    let foreign = RetrieveResponse::read(&case("FO-05-iti39-other-home.xml"), |_| {
        Ok::<_, ()>(Content::Inline(bytes::Bytes::from_static(b"<ClinicalDocument/>")))
    });
    let mut foreign = foreign.expect("the case").documents;
    foreign[0].request.repository = good.request.repository.clone();
    assert_eq!(retrieved(Status::Success, Vec::new(), foreign).await.0, 502);
}

/// ON-16 and FO-03 in ITI-39: why there is no document is read before the documents.
#[tokio::test]
async fn on_16_a_retrieval_without_document_tells_the_countrys_code() {
    for status in [Status::PartialSuccess, Status::Success, Status::Failure] {
        for (code, expected, word) in [
            ("4703", 403, "4703"),
            ("1002", 502, "1002"),
            ("ERROR_SEC_GENERIC", 502, "ERROR_SEC_GENERIC"),
            ("XDSMissingDocument", 404, "not-found"),
            ("4701", 404, "not-found"),
        ] {
            let (got, said, _) = retrieved(status, vec![told(code, Severity::Error)], Vec::new()).await;
            assert_eq!(got, expected, "{status:?} {code}: {said}");
            assert!(said.contains(word) && !said.contains("Tolvan"), "{said}");
        }
    }
    let good = document(SE, "2.999.752.21.1", "2.999.752.30.1");
    let beside = vec![told("4502", Severity::Error), told("2507", Severity::Warning)];
    let (status, said, _) = retrieved(Status::PartialSuccess, beside, vec![good]).await;
    assert_eq!(status, 200);
    assert!(said.contains("4502") && said.contains("2507") && said.contains("ClinicalDocument"), "{said}");
}

/// F2: for every status, list of codes and number of documents, a technical error is visible; an answer without an issue and
/// with `total` means that the country reported none.
#[test]
fn fo_03_f2_what_a_country_reports_is_visible() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let told: std::sync::Arc<std::sync::Mutex<Element>> =
        std::sync::Arc::new(std::sync::Mutex::new(answer(Status::Success, &[], RegistryObjects::default())));
    let says = told.clone();
    let (world, base) = runtime.block_on(sweden("", move |_| simple(&says.lock().expect("not poisoned"))));
    let codes = prop::sample::select(vec![
        "1002",
        "4701",
        "4702",
        "4703",
        "1104",
        "XDSRegistryError",
        "ERROR_ORCD_GENERIC",
        "XDSUnknownCommunity",
        "nobody's",
    ]);
    let severity = prop_oneof![Just(Severity::Error), Just(Severity::Warning)];
    let status = prop_oneof![Just(Status::Success), Just(Status::PartialSuccess), Just(Status::Failure)];
    let all = (status, prop::collection::vec((codes, severity), 0..4), 0u32..3);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
    let verdict = runner.run(&all, |(status, errors, documents)| {
        let entries = (1..=documents).map(|n| entry(SE, n)).collect();
        *told.lock().expect("not poisoned") = answer(status, &errors, RegistryObjects::of_entries(entries));
        let shown = runtime.block_on(list(&world, &base));
        let technical: Vec<&str> = errors
            .iter()
            .filter(|(code, severity)| *severity == Severity::Error && !["4701", "1104"].contains(code))
            .map(|(code, _)| *code)
            .collect();
        let said = format!("{:?}", shown.issues);
        if documents > 0 {
            prop_assert_eq!(shown.ids.len(), documents as usize, "{:?}", &shown);
            for code in &technical {
                let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
                prop_assert!(said.replace('_', "").contains(&plain), "{code} in {said}");
            }
        } else if !technical.is_empty() {
            prop_assert!(matches!(shown.status, 403 | 502), "{:?}", &shown);
        }
        if shown.issues.is_empty() && shown.total.is_some() {
            prop_assert!(status == Status::Success && !errors.iter().any(|(_, severity)| *severity == Severity::Error));
        }
        Ok(())
    });
    verdict.expect("F2");
}
