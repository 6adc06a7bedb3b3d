//! What a consumer or a clinician asks oddly, and what a country answers for another unit than the one asked for.

use ncp_ihe::{
    Availability, ContentFilter, CrossGatewayQueryRequest, FindFolders, FindSubmissionSets, GetAll, ImagingRequest,
    PatientId, QueryResponse, RegistryObjects, RetrieveResponse, ReturnType, Severity, Status, StoredQuery, TimeRange,
    actions,
};
use ncp_tests::country::Reaction;
use ncp_tests::neighbour::{Neighbour, retrieve_response};
use serde_json::{Value, json};

use crate::clinicians::{call, code, knowing, sent};
use crate::consumers::ask;
use crate::told::{list, sweden};
use crate::{Held, Others, World, answered, entry, failed, home, images, listed, parts, patient, refusal};

const SE: &str = "2.999.752";

fn naming(patient_id: PatientId) -> Vec<StoredQuery> {
    let approved = || vec![Availability::Approved];
    vec![
        StoredQuery::FindSubmissionSets(FindSubmissionSets {
            patient_id: patient_id.clone(),
            status: approved(),
            source_ids: Vec::new(),
            submitted: TimeRange::default(),
            author_person: Vec::new(),
            content_types: Vec::new(),
        }),
        StoredQuery::FindFolders(FindFolders {
            patient_id: patient_id.clone(),
            status: approved(),
            updated: TimeRange::default(),
            codes: Vec::new(),
        }),
        StoredQuery::GetAll(GetAll {
            patient_id,
            document_status: approved(),
            set_status: approved(),
            folder_status: approved(),
            contents: ContentFilter::default(),
        }),
    ]
}

fn request(query: StoredQuery) -> ncp_xml::Element {
    CrossGatewayQueryRequest { home: None, return_type: ReturnType::LeafClass, query }.to_element()
}

/// CO-10: every stored query that names a patient names the one under treatment, and needs no community then.
#[tokio::test]
async fn co_10_the_patient_of_every_stored_query_is_compared() {
    let (world, countries) = Others::none().with("SE", SE, |_| listed(Vec::new())).await.world("").await;
    let other = PatientId::new("4712", patient().root).expect("an id");
    for query in naming(other) {
        let answer = ask(&world, request(query.clone())).await;
        assert!(
            answer.fault().is_some() || answer.codes().iter().any(|c| c == "4206"),
            "{query:?}: {:?}",
            answer.codes()
        );
    }
    assert!(countries[0].asked().is_empty(), "another patient's query left");
    for query in naming(patient()) {
        let answer = ask(&world, request(query.clone())).await;
        assert_eq!(QueryResponse::read(&answer.body).expect("a response").0.status, Status::Success, "{query:?}");
    }
    assert_eq!(countries[0].asked().len(), 3);
}

fn indicators(world: &World, transaction: &str) -> Vec<String> {
    let of = |xml: &&String| xml.contains(&format!("csd-code=\"{transaction}\""));
    let indicator = |xml: &String| xml.split("EventOutcomeIndicator=\"").nth(1)?.split('"').next().map(str::to_owned);
    world.records().iter().filter(of).filter_map(indicator).collect()
}

/// CO-11: what a consumer is answered in part, or not at all, is no success on the trail, at either side of this gateway.
#[tokio::test]
async fn co_11_a_partial_or_failed_answer_is_no_success_on_the_trail() {
    for (reaction, status, indicator) in [
        (answered as fn(_, _, _) -> _, Status::PartialSuccess, "4"),
        (|_, errors: Vec<ncp_ihe::RegistryError>, _| failed(&errors[0].code), Status::Failure, "8"),
    ] {
        let country = Others::none().with("SE", SE, move |_| {
            reaction(Status::PartialSuccess, vec![refusal("XDSRegistryBusy")], vec![entry(SE, 1)])
        });
        let (world, _countries) = country.await.world("").await;
        let answer = ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
        let (response, _) = QueryResponse::read(&answer.body).expect("a response");
        assert_eq!(response.status, status);
        assert_eq!(answer.codes(), ["XDSRegistryBusy"], "the country's own code");
        // The outcome is written after the last byte.
        let mut seen = (Vec::new(), Vec::new());
        for _ in 0..50 {
            seen = (indicators(&world, "ITI-18"), indicators(&world, "ITI-38"));
            if !seen.0.is_empty() && !seen.1.is_empty() {
                break;
            }
            tokio::time::sleep(crate::second() / 20).await;
        }
        assert_eq!(seen, (vec![indicator.to_owned()], vec![indicator.to_owned()]), "{status:?}");
    }
}

/// F3 in RAD-75 (FO-05, T-BND-18): an instance with another community, location or name is dropped, with an alert, and said.
#[tokio::test]
async fn fo_05_f3_an_instance_of_another_home_location_or_name_is_dropped() {
    let changes: [fn(&mut ncp_ihe::DocumentRequest); 4] = [
        |unit| unit.home = Some(home("2.999.99")),
        |unit| unit.home = None,
        |unit| unit.repository = ncp_ihe::Oid::parse("2.999.752.21.9").expect("oid"),
        |unit| unit.document = "2.999.1.2.3".into(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let held = Held::new(1, SE, 2);
        let (wanted, files) = (held.request(), held.files.clone());
        let country = Others::none().with("SE", SE, move |_| {
            let Reaction::Parts(action, body, parts) = held.sent() else { panic!("parts") };
            let mut response = retrieve_response(&body).expect("ours");
            change(&mut response.documents[0].request);
            Reaction::Parts(action, response.to_element(), parts)
        });
        let (world, _countries) = country.await.world("").await;
        let mut answer = ask(&world, images(vec![wanted.clone()]).to_element()).await;
        let response = retrieve_response(&answer.body).expect("a response");
        assert_eq!((response.status, response.documents.len()), (Status::PartialSuccess, 1), "{number}");
        let first = &wanted.series[0].instances[0].document;
        let location = response.errors[0].location.clone().unwrap_or_default();
        assert!(location.starts_with(first.as_str()), "the error names the instance: {location}");
        assert_eq!(parts(&mut answer).await.expect("whole"), [files[1].clone()], "{number}: the other one comes");
        assert!(alerted(&world).await, "{number}: an alert");
    }
}

async fn alerted(world: &World) -> bool {
    for _ in 0..50 {
        if world.records().iter().any(|xml| xml.contains("csd-code=\"110113\"")) {
            return true;
        }
        tokio::time::sleep(crate::second() / 20).await;
    }
    false
}

/// F3 in ITI-38: community and patient of an entry, one changed at a time.
#[tokio::test]
async fn fo_05_f3_an_entry_of_another_home_or_patient_is_dropped_and_said() {
    for change in [
        (|e| e.home = Some(home("2.999.99"))) as fn(&mut ncp_ihe::DocumentEntry),
        |e| e.patient_id = PatientId::new("4712", e.patient_id.root.clone()).expect("an id"),
        |e| e.patient_id = PatientId::new("4711", ncp_ihe::Oid::parse("2.999.99.1").expect("oid")).expect("an id"),
    ] {
        let mut wrong = entry(SE, 1);
        change(&mut wrong);
        let entries = vec![wrong, entry(SE, 2)];
        let (world, base) = sweden("", move |_| listed(entries.clone())).await;
        let shown = list(&world, &base).await;
        assert_eq!((shown.ids.len(), shown.total), (1, None), "{shown:?}");
        assert!(shown.says("entries-unusable", "1 entries"), "{shown:?}");
        assert!(alerted(&world).await);
    }
}

/// F3 in ITI-55: a person of another community is dropped beside one of the country's own, and said.
#[tokio::test]
async fn fo_05_f3_a_person_of_another_community_is_dropped_and_said() {
    let country = Others::none().with("SE", SE, |asked| {
        let Reaction::Simple(action, body) = knowing(SE, "19800101", |_| listed(Vec::new()))(asked) else {
            panic!("ITI-55");
        };
        // The same person once more, under another country's name, and an error beside both.
        let text = body.to_xml();
        let from = text.find("<subject ").or(text.find("<hl7:subject ")).expect("a subject");
        let to = text.rfind("subject>").expect("its end") + "subject>".len();
        let foreign = text[from..to].replace(SE, "2.999.99");
        let text = format!("{}{foreign}{}", &text[..to], &text[to..]);
        Reaction::Simple(action, ncp_xml::Element::parse(text.as_bytes(), &ncp_xml::Limits::ANSWER).expect("XML"))
    });
    let (world, _countries) = country.await.clinicians().world("").await;
    let identifier = json!({ "system": format!("urn:oid:{}", ncp_tests::asking::PATIENTS), "value": "4711" });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] });
    let (status, _, bundle) = call(&world, "/fhir/Patient/$match", "", Some(&person)).await;
    assert_eq!(status, 200, "{bundle}");
    let entries = bundle["entry"].as_array().expect("entries");
    assert_eq!(entries.iter().filter(|e| e["resource"]["resourceType"] == "Patient").count(), 1, "{bundle}");
    assert!(bundle.to_string().contains("entries-unusable"), "{bundle}");
    assert!(alerted(&world).await);
}

/// SE-22: one value once, too many are refused here, and header fields are bounded as everywhere.
#[tokio::test]
async fn se_22_odd_requests_end_here() {
    let country = Others::none().with("SE", SE, knowing(SE, "19800101", |_| listed(vec![entry(SE, 1)]))).await;
    let (world, countries) = country.clinicians().world("").await;
    let matched = crate::clinicians::matches(&world).await;
    let base = crate::clinicians::base(&crate::clinicians::confirm(&world, &matched).await);
    let url = format!("{base}/DocumentReference");
    let last = || countries[0].asked().last().expect("asked").clone();
    let few = call(&world, &format!("{url}?status={}", "current,".repeat(20)), "", None).await;
    assert_eq!(few.0, 200);
    let text = last().body.to_xml();
    assert_eq!(text.matches("StatusType:Approved").count(), 1, "{text}");
    let (asked, status) = (countries[0].asked().len(), format!("{url}?status={}", "current,".repeat(7_000)));
    assert_eq!(call(&world, &status, "", None).await.0, 400);
    assert_eq!(call(&world, &format!("{url}?{}", "status=current&".repeat(4_000)), "", None).await.0, 400);
    assert_eq!(countries[0].asked().len(), asked, "nothing left");
    let long = "x".repeat(70_000);
    let (head, body) = sent(&world, &url, ("x-odd", &long), None).await;
    assert_eq!(head.status.as_u16(), 431);
    assert_eq!(code(&serde_json::from_slice::<Value>(&body).expect("JSON")["issue"][0]), "headers-too-large");
    assert_eq!(sent(&world, &url, ("x-odd", &long[..20_000]), None).await.0.status.as_u16(), 200);
}

/// SE-22's property: beside what every message has, what leaves for a caller is at most four times what the caller sent, and
/// nothing that our own entry would refuse.
#[tokio::test]
async fn se_22_what_leaves_is_bounded_by_what_came() {
    let country = Others::none().with("SE", SE, knowing(SE, "19800101", |_| listed(Vec::new()))).await;
    let (world, countries) = country.clinicians().world("").await;
    let identifier =
        |value: &str| json!({ "system": format!("urn:oid:{}", ncp_tests::asking::PATIENTS), "value": value });
    let of = |ids: Vec<Value>, given: Vec<String>| json!({ "resourceType": "Patient", "identifier": ids, "name": [{ "family": "B", "given": given }] });
    let size = |n: usize| countries[0].asked()[n].body.to_xml().len();
    let plain = of(vec![identifier("4711")], Vec::new());
    assert_eq!(call(&world, "/fhir/Patient/$match", "", Some(&plain)).await.0, 200);
    let least = size(0);
    let many = |n: usize| (0..n).map(|i| identifier(&i.to_string())).collect::<Vec<_>>();
    let names = |n: usize| (0..n).map(|i| format!("N{i}")).collect::<Vec<_>>();
    for (person, expected) in [
        (of(many(16), Vec::new()), 200),
        (of(vec![identifier("4711"); 1000], Vec::new()), 200),
        (of(many(17), Vec::new()), 400),
        (of(vec![identifier("4711")], names(20)), 200),
        (of(vec![identifier("4711")], names(2_000)), 400),
        (of(vec![identifier(&"1".repeat(5_000))], Vec::new()), 413),
        (of(vec![identifier("4711")], vec!["&<\"".repeat(1_000)]), 200),
        (of(vec![identifier("4711")], vec!["&".repeat(5_000)]), 413),
    ] {
        let before = countries[0].asked().len();
        let (status, _, body) = call(&world, "/fhir/Patient/$match", "", Some(&person)).await;
        assert_eq!(status, expected, "{body}");
        let asked = countries[0].asked();
        assert_eq!(asked.len() - before, usize::from(expected == 200));
        if expected == 200 {
            let more = size(before).saturating_sub(least);
            assert!(more <= 4 * person.to_string().len(), "{more} bytes for {}", person.to_string().len());
            ncp_ihe::PatientQuery::read(&asked[before].body).expect("our own entry takes it");
        }
    }
}

/// FO-03 in RAD-69: an error of no instance in particular is told with the instances.
#[tokio::test]
async fn fo_03_an_error_beside_images_is_told() {
    let held = Held::new(1, SE, 1);
    let wanted = held.request();
    let country = Others::none().with("SE", SE, move |_| {
        let Reaction::Parts(action, body, parts) = held.sent() else { panic!("parts") };
        let response = retrieve_response(&body).expect("ours");
        let beside = RetrieveResponse { errors: vec![refusal("XDSRepositoryBusy")], ..response };
        Reaction::Parts(action, beside.to_element(), parts)
    });
    let (world, _countries) = country.await.world("").await;
    let mut answer = ask(&world, images(vec![wanted]).to_element()).await;
    let response = retrieve_response(&answer.body).expect("a response");
    assert_eq!((response.status, response.documents.len()), (Status::PartialSuccess, 1));
    assert_eq!(answer.codes(), ["XDSRepositoryBusy"]);
    assert_eq!(parts(&mut answer).await.map(|p| p.len()), Some(1));
}

/// ON-16 in RAD-75: PartialSuccess without any instance is told with the country's code.
#[tokio::test]
async fn on_16_a_study_without_instances_tells_the_countrys_code() {
    for code in ["4703", "1002"] {
        let wanted = Held::new(1, SE, 1).request();
        let country = Others::none().with("SE", SE, move |_| {
            let errors = vec![refusal(code)];
            let body = RetrieveResponse { status: Status::PartialSuccess, errors, documents: Vec::new() }.to_element();
            Reaction::Parts(actions::RAD75_RESPONSE, body, Vec::new())
        });
        let (world, _countries) = country.await.world("").await;
        let request: ImagingRequest = images(vec![wanted]);
        let answer = ask(&world, request.to_element()).await;
        assert!(answer.codes().iter().any(|told| told == code), "{:?}", answer.codes());
    }
}

/// An entry that a country cannot date is shown without the date, and that is said; nothing invalid goes on to a consumer.
#[tokio::test]
async fn co_13_a_date_that_is_none_goes_nowhere() {
    let undated = || {
        let mut undated = entry(SE, 1);
        undated.extra_slots = vec![("creationTime".into(), vec!["20261341".into()])];
        RegistryObjects::of_entries(vec![undated])
    };
    let country = Others::none().with("SE", SE, move |_| {
        let answer =
            QueryResponse { status: Status::Success, errors: Vec::new(), objects: undated(), object_refs: Vec::new() };
        Reaction::Simple(actions::ITI38_RESPONSE, answer.to_element())
    });
    let (world, _countries) = country.await.world("").await;
    let answer = ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
    let (response, _) = QueryResponse::read(&answer.body).expect("a response");
    assert_eq!((response.status, response.objects.entries.len()), (Status::Success, 1));
    assert!(response.errors.iter().any(|e| e.severity == Severity::Warning), "{:?}", response.errors);
    assert!(!String::from_utf8_lossy(&answer.envelope).contains("20261341"));
}
