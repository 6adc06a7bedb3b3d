//! ITI-18, ITI-43 and RAD-69 in, ITI-38, ITI-39 and RAD-75 out.

use bytes::Bytes;
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, Oid, QueryResponse, RetrieveRequest, RetrieveResponse, Status, actions,
};
use ncp_tests::country::Reaction;
use ncp_tests::neighbour::{Neighbour, retrieve_response};
use ncp_xml::Element;

use crate::{Held, Others, World, entry, failed, home, images, listed, parts, patient, second};

pub(crate) async fn ask(world: &World, body: ncp_xml::Element) -> ncp_tests::neighbour::Answer {
    let assertions = world.consumer.assertions(&world.claims, &patient()).await.expect("signs");
    world.consumer.call(&assertions, body).await.expect("answers")
}

#[tokio::test]
async fn rad69_goes_to_each_community_and_comes_back_as_one() {
    let (one, two) = (Held::new(1, "2.999.101", 2), Held::new(2, "2.999.102", 1));
    let (first, second) = (one.request(), two.request());
    let expected: Vec<Bytes> = one.files.iter().chain(&two.files).cloned().collect();
    let others = Others::none().with("AA", "2.999.101", move |_| one.sent()).await;
    let (world, countries) = others.with("BB", "2.999.102", move |_| two.sent()).await.world("").await;
    let request = images(vec![first.clone(), second.clone()]);
    let mut answer = ask(&world, request.to_element()).await;
    let response = retrieve_response(&answer.body).expect("a response");
    assert_eq!((response.status, response.documents.len()), (Status::Success, 3), "{:?}", answer.codes());
    assert_eq!(parts(&mut answer).await.expect("whole"), expected);
    for (country, portion) in countries.iter().zip([first, second]) {
        let asked = country.asked();
        assert_eq!(asked[0].action, actions::RAD75_REQUEST);
        let got = ncp_ihe::ImagingRequest::read(&asked[0].body).expect("a request");
        assert_eq!(got, images(vec![portion]));
        assert_eq!(asked.len(), 1);
    }
}

#[tokio::test]
async fn an_unknown_community_is_a_coded_error() {
    let held = Held::new(1, "2.999.101", 1);
    let (known, unknown) = (held.request(), Held::new(2, "2.999.109", 1).request());
    let (world, _countries) = Others::none().with("AA", "2.999.101", move |_| held.sent()).await.world("").await;
    let mut answer = ask(&world, images(vec![known, unknown.clone()]).to_element()).await;
    let response = retrieve_response(&answer.body).expect("a response");
    assert_eq!((response.status, response.documents.len()), (Status::PartialSuccess, 1));
    assert_eq!(answer.codes(), ["XDSUnknownCommunity"]);
    assert_eq!(parts(&mut answer).await.expect("whole").len(), 1);
    let answer = ask(&world, images(vec![unknown]).to_element()).await;
    let response = retrieve_response(&answer.body).expect("a response");
    assert_eq!((response.status, response.documents.len()), (Status::Failure, 0));
    assert_eq!(answer.codes(), ["XDSUnknownCommunity"]);
}

#[tokio::test]
async fn what_breaks_off_or_is_foreign_never_looks_whole() {
    let (short, swapped) = (Held::new(1, "2.999.101", 2), Held::new(2, "2.999.102", 1));
    let (cut, foreign) = (short.request(), swapped.request());
    let other = Held::new(3, "2.999.102", 1).files;
    let others = Others::none()
        .with("AA", "2.999.101", move |_| Reaction::Cut(Box::new(short.sent()), 200_000))
        .await
        .with("BB", "2.999.102", move |_| {
            let lying = Held { study: swapped.study.clone(), home: swapped.home.clone(), files: other.clone() };
            lying.sent()
        })
        .await;
    let (world, _countries) = others.world("").await;
    for study in [cut, foreign] {
        let assertions = world.consumer.assertions(&world.claims, &patient()).await.expect("signs");
        // The connection may end before the root was seen, or inside the parts.
        if let Ok(mut answer) = world.consumer.call(&assertions, images(vec![study]).to_element()).await {
            let told = retrieve_response(&answer.body).expect("a response").status != Status::Success;
            assert!(told || parts(&mut answer).await.is_none(), "a broken study looked whole");
        }
    }
}

#[tokio::test]
async fn iti18_asks_all_that_know_the_patient_each_with_its_deadline() {
    let others = Others::none()
        .with("AA", "2.999.101", |_| listed(vec![entry("2.999.101", 1), entry("2.999.101", 2)]))
        .await
        .with("BB", "2.999.102", |_| failed("XDSUnknownPatientId"))
        .await
        .with("CC", "2.999.103", |_| Reaction::Late(second() * 20, Box::new(listed(Vec::new()))))
        .await
        .with("DD", "2.999.104", |_| listed(vec![entry("2.999.104", 1)]))
        .await;
    let (world, countries) = others.world("query = \"1s\"").await;
    let request = Neighbour::find_documents(&patient());
    let began = std::time::Instant::now();
    let answer = ask(&world, request.to_element()).await;
    assert!(began.elapsed() < second() * 15, "the slowest country was waited for");
    let (response, _) = QueryResponse::read(&answer.body).expect("a response");
    assert_eq!(response.status, Status::PartialSuccess);
    assert_eq!(answer.codes(), ["XDSUnavailableCommunity"]);
    assert_eq!(response.errors[0].location.as_deref(), Some("urn:oid:2.999.103"));
    let homes: Vec<String> =
        response.objects.entries.iter().filter_map(|e| e.home.as_ref().map(ToString::to_string)).collect();
    assert_eq!(homes, ["urn:oid:2.999.101", "urn:oid:2.999.101", "urn:oid:2.999.104"]);
    let sent = ncp_ihe::CrossGatewayQueryRequest::read(&countries[0].asked()[0].body).expect("a request");
    assert_eq!(sent.home, Some(home("2.999.101")));
    assert_eq!(sent.query, request.query);

    // One community alone, when the query names it.
    let named = ncp_ihe::CrossGatewayQueryRequest { home: Some(home("2.999.104")), ..request };
    let answer = ask(&world, named.to_element()).await;
    let (response, _) = QueryResponse::read(&answer.body).expect("a response");
    assert_eq!((response.status, response.objects.entries.len()), (Status::Success, 1));
    assert_eq!(countries[0].asked().len(), 1);
}

/// A Value has at most 256 characters in rim.xsd: a consumer's longer list is divided, its longer text is its own error, and
/// no country is asked with it.
#[tokio::test]
async fn a_long_value_is_the_consumers_error_before_anybody_is_asked() {
    let others = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await;
    let (world, countries) = others.with("BB", "2.999.102", |_| listed(Vec::new())).await.world("").await;
    let asked_with = async |value: String| {
        let rim = ncp_ihe::ns::RIM;
        let value = Element::new(rim, "Value").text(value);
        let slot = Element::new(rim, "Slot").attr("name", "$XDSDocumentEntryAuthorPerson");
        let slot = slot.with(Element::new(rim, "ValueList").with(value));
        let request = Neighbour::find_documents(&patient()).to_element();
        let query = request.child(rim, "AdhocQuery").cloned().expect("a query").with(slot);
        let option = request.child(ncp_ihe::ns::QUERY, "ResponseOption").cloned();
        let body = Element::new(ncp_ihe::ns::QUERY, "AdhocQueryRequest").with_all(option).with(query);
        ask(&world, body).await
    };
    let refused = asked_with("x".repeat(257)).await;
    assert_eq!((refused.status.as_u16(), refused.fault().map(|fault| fault.code)), (400, Some("Sender".into())));
    assert!(countries.iter().all(|country| country.asked().is_empty()));

    let names = (0..40).map(|n| format!("'%{n}^Hansen'")).collect::<Vec<_>>().join(",");
    let answer = asked_with(format!("({names})")).await;
    assert_eq!(QueryResponse::read(&answer.body).expect("a response").0.status, Status::Success);
    for country in &countries {
        let sent = country.asked().pop().expect("asked").body.to_xml();
        let values = sent.split("Value>").filter(|text| text.contains("Hansen"));
        let lengths: Vec<usize> = values.map(|text| text.trim_end_matches("</").chars().count()).collect();
        assert!(lengths.len() > 1 && lengths.iter().all(|length| *length <= 256), "{lengths:?}");
    }
}

#[tokio::test]
async fn iti43_passes_documents_on_and_names_what_is_missing() {
    let document = |number: u32| DocumentRequest {
        home: Some(home("2.999.101")),
        repository: Oid::parse("2.999.101.21.1").expect("oid"),
        document: format!("2.999.101.30.{number}"),
    };
    let has = document(1);
    let others = Others::none().with("AA", "2.999.101", move |_| {
        let document = DocumentResponse {
            request: has.clone(),
            new_document: None,
            media_type: "text/xml".into(),
            content: Content::Inline(Bytes::from_static(b"<report/>")),
        };
        let body =
            RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![document] }.to_element();
        Reaction::Parts(actions::ITI39_RESPONSE, body, Vec::new())
    });
    let (world, _countries) = others.await.world("").await;
    let request = RetrieveRequest { documents: vec![document(1), document(2)] };
    let mut answer = ask(&world, request.to_element()).await;
    let response = retrieve_response(&answer.body).expect("a response");
    assert_eq!((response.status, response.documents.len()), (Status::PartialSuccess, 1));
    assert_eq!(answer.codes(), ["XDSDocumentUniqueIdError"]);
    assert_eq!(parts(&mut answer).await.expect("whole"), [Bytes::from_static(b"<report/>")]);
}

#[tokio::test]
async fn who_asks_and_for_whom_must_be_proved() {
    let others = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await;
    let (world, countries) = others.world("").await;
    let query = || Neighbour::find_documents(&patient()).to_element();
    let subcode = |answer: &ncp_tests::neighbour::Answer| answer.fault().map(|f| f.subcode).unwrap_or_default();
    let consumer = &world.consumer;

    let without = consumer.call(&[], query()).await.expect("answers");
    assert_eq!(subcode(&without), "wsse:InvalidSecurity");
    let user = consumer.xua(&world.claims, Some(&patient())).await.expect("signs");
    let unconfirmed = consumer.call(std::slice::from_ref(&user), query()).await.expect("answers");
    assert_eq!(subcode(&unconfirmed), "wsse:InvalidSecurity");
    let other = ncp_ihe::PatientId::new("4712", patient().root).expect("an id");
    let for_other = consumer.assertions(&world.claims, &other).await.expect("signs");
    assert_eq!(subcode(&consumer.call(&for_other, query()).await.expect("answers")), "wsse:FailedCheck");
    let nurse = ncp_saml::HcpClaims {
        role: ncp_saml::Code { code: "2221".into(), ..world.claims.role.clone() },
        ..world.claims.clone()
    };
    let role = consumer.assertions(&nurse, &patient()).await.expect("signs");
    assert_eq!(subcode(&consumer.call(&role, query()).await.expect("answers")), "wsse:FailedCheck");
    let mut changed = consumer.assertions(&world.claims, &patient()).await.expect("signs");
    changed[0].xml = changed[0].xml.replace("Radiologist on duty", "Somebody else");
    assert_eq!(subcode(&consumer.call(&changed, query()).await.expect("answers")), "wsse:InvalidSecurityToken");
    assert!(countries[0].asked().is_empty(), "a country was asked for somebody who may not");

    let good = consumer.assertions(&world.claims, &patient()).await.expect("signs");
    let answer = consumer.call(&good, query()).await.expect("answers");
    assert_eq!(QueryResponse::read(&answer.body).expect("a response").0.status, Status::Success);
}

#[tokio::test]
async fn a_country_that_fails_is_not_asked_for_a_while() {
    let others = Others::none()
        .with("AA", "2.999.101", |_| Reaction::Status(502))
        .await
        .with("BB", "2.999.102", |_| listed(vec![entry("2.999.102", 1)]))
        .await;
    let (world, countries) = others.world("circuit_failures = 2\ncircuit_pause = \"1h\"").await;
    let request = Neighbour::find_documents(&patient());
    for _ in 0..4 {
        let answer = ask(&world, request.to_element()).await;
        let (response, _) = QueryResponse::read(&answer.body).expect("a response");
        assert_eq!((response.status, response.objects.entries.len()), (Status::PartialSuccess, 1));
        assert_eq!(answer.codes(), ["XDSUnavailableCommunity"]);
    }
    assert_eq!((countries[0].asked().len(), countries[1].asked().len()), (2, 4));
}

/// Anchors of consumers are read again while we run: whoever is of none any more is refused.
#[tokio::test]
async fn a_consumer_whose_anchor_goes_is_refused() {
    let (world, _countries) = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await.world("").await;
    let asked = async || {
        let assertions = world.consumer.assertions(&world.claims, &patient()).await.expect("signs");
        let request = Neighbour::find_documents(&patient());
        world.consumer.call(&assertions, request.to_element()).await.is_ok()
    };
    assert!(asked().await);
    let of_consumers = world.anchors.with_file_name("consumer-anchors.pem");
    std::fs::copy(world.others[0].path("consumer-anchors.pem"), of_consumers).expect("writes");
    for _ in 0..60 {
        if !asked().await {
            return;
        }
        tokio::time::sleep(second() / 4).await;
    }
    panic!("the consumer is still served");
}
