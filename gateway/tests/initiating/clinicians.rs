//! A professional's system over FHIR: one patient in several countries, searched at once.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ncp_ihe::{PatientAnswer, PatientMatch, PatientQuery, PatientRecord, PatientResponse, PersonName, Status, actions};
use ncp_tests::asking::PATIENTS;
use ncp_tests::country::{Asked, Reaction};
use ncp_tests::issuer::{BASE, Issuer};
use serde_json::{Value, json};

use crate::{Others, World, answered, entry, failed, home, listed, patient, refusal, second};

/// A good token that is bound as `cnf` says.
pub(crate) fn bound(issuer: &Issuer, subject: &str, cnf: Option<Value>) -> String {
    let mut claims = Issuer::claims(subject);
    if let Some(cnf) = cnf {
        claims["cnf"] = cnf;
    }
    issuer.sign(&claims, Some("at+jwt")).expect("signs")
}

/// An answer: status, `Preference-Applied`, JSON.
pub(crate) type Answered = (u16, Option<String>, Value);

/// One call as the professional; `url` is ours or one that we handed out.
pub(crate) async fn call(world: &World, url: &str, prefer: &str, body: Option<&Value>) -> Answered {
    send(world, url, prefer, body.map(json_body)).await
}

fn json_body(body: &Value) -> (&'static str, String) {
    ("application/fhir+json", body.to_string())
}

/// The same with a body of any type.
pub(crate) async fn send(world: &World, url: &str, prefer: &str, body: Option<(&str, String)>) -> Answered {
    let (head, bytes) = raw(world, "hpr-1", url, ("prefer", prefer), body).await;
    let applied = head.headers.get("preference-applied").and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
    (head.status.as_u16(), applied, serde_json::from_slice(&bytes).expect("JSON"))
}

/// The same with any header, and the answer as it came.
pub(crate) async fn sent(
    world: &World,
    url: &str,
    header: (&str, &str),
    body: Option<&Value>,
) -> (http::response::Parts, Bytes) {
    sent_by(world, "hpr-1", url, header, body).await
}

/// The same by another professional.
pub(crate) async fn sent_by(
    world: &World,
    subject: &str,
    url: &str,
    header: (&str, &str),
    body: Option<&Value>,
) -> (http::response::Parts, Bytes) {
    raw(world, subject, url, header, body.map(json_body)).await
}

async fn raw(
    world: &World,
    subject: &str,
    url: &str,
    (name, value): (&str, &str),
    body: Option<(&str, String)>,
) -> (http::response::Parts, Bytes) {
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let path = url.strip_prefix(BASE).unwrap_or(url);
    let connector =
        ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1").expect("a connector");
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, second() * 10);
    let request = Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(format!("https://localhost:{}{path}", clinic.0.port()))
        .header("authorization", format!("Bearer {}", clinic.1.token(subject).expect("signs")))
        .header("content-type", body.as_ref().map_or("application/fhir+json", |(kind, _)| kind))
        .header(name, value)
        .body(Full::new(Bytes::from(body.map(|(_, text)| text).unwrap_or_default())))
        .expect("a request");
    let (head, body) = http.request(request).await.expect("answers").into_parts();
    (head, body.collect().await.expect("a body").to_bytes())
}

/// A country that knows the patient and answers ITI-38 as told.
pub(crate) fn knows(
    of: &'static str,
    birth_date: &'static str,
    query: impl Fn() -> Reaction,
) -> impl Fn(&Asked) -> Reaction {
    knowing(of, birth_date, move |_| query())
}

/// The same, answering everything else as told.
pub(crate) fn knowing(
    of: &'static str,
    birth_date: &'static str,
    other: impl Fn(&Asked) -> Reaction,
) -> impl Fn(&Asked) -> Reaction {
    move |asked| {
        if asked.action != actions::ITI55_REQUEST {
            return other(asked);
        }
        let query = PatientQuery::read(&asked.body).expect("ITI-55");
        let record = PatientRecord {
            id: patient(),
            other_ids: Vec::new(),
            name: PersonName { family: "B".into(), given: vec!["A".into()] },
            birth_date: Some(birth_date.into()),
            gender: Some("F".into()),
            address: None,
        };
        let found = PatientAnswer::Matches(vec![PatientMatch { record, home: home(of), degree: 100 }]);
        let body = PatientResponse::element(&query, &found, &home(of).0, jiff::Timestamp::now());
        Reaction::Simple(actions::ITI55_RESPONSE, body)
    }
}

fn of_community(issue: &Value) -> &str {
    issue.pointer("/extension/0/valueOid").and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn code(issue: &Value) -> &str {
    issue.pointer("/details/coding/0/code").and_then(Value::as_str).unwrap_or_default()
}

/// Finds the patient in one country, confirms the treatment, and lists its documents.
pub(crate) async fn documents(world: &World, accept_language: &str) -> Value {
    let base = base(&confirm(world, &matches(world).await).await);
    let url = format!("{base}/DocumentReference");
    let (head, bytes) = sent(world, &url, ("accept-language", accept_language), None).await;
    assert_eq!(head.status.as_u16(), 200);
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The matches of all countries, by `fullUrl`.
pub(crate) async fn matches(world: &World) -> Vec<String> {
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] });
    let (status, _, bundle) = call(world, "/fhir/Patient/$match", "", Some(&person)).await;
    assert_eq!(status, 200, "{bundle}");
    let entries = bundle["entry"].as_array().expect("entries").iter();
    entries.filter_map(|e| e["fullUrl"].as_str().map(ToOwned::to_owned)).collect()
}

/// `$confirm-treatment` in the country of the first, and in those of the others.
pub(crate) async fn confirm(world: &World, urls: &[String]) -> Answered {
    let mut parameters = vec![
        json!({ "name": "purpose", "valueCoding": { "code": "TREAT" } }),
        json!({ "name": "relationship", "valueBoolean": true }),
    ];
    parameters.extend(urls[1..].iter().map(|url| json!({ "name": "also", "valueReference": { "reference": url } })));
    let body = json!({ "resourceType": "Parameters", "parameter": parameters });
    call(world, &format!("{}/$confirm-treatment", urls[0]), "", Some(&body)).await
}

/// The base that a confirmation answered.
pub(crate) fn base((status, _, body): &Answered) -> String {
    assert_eq!(*status, 200, "{body}");
    let reference = body.pointer("/parameter/0/valueReference/reference").and_then(Value::as_str).expect("a patient");
    reference.split_once("/Patient/").expect("a reference").0.to_owned()
}

#[tokio::test]
async fn a_search_asks_every_country_of_the_treatment() {
    let dated = |of: &str, number, at: &str| {
        let mut entry = entry(of, number);
        entry.service_start = ncp_ihe::Dtm::parse(at).ok();
        entry
    };
    let first = vec![dated("2.999.101", 1, "20240101"), dated("2.999.101", 2, "20260101")];
    let last = vec![dated("2.999.104", 1, "20250101")];
    let silent = || Reaction::Late(second() * 20, Box::new(listed(Vec::new())));
    let others = Others::none()
        .with("AA", "2.999.101", knows("2.999.101", "19800101", move || listed(first.clone())))
        .await
        .with("BB", "2.999.102", knows("2.999.102", "19800101", || failed("XDSRegistryError")))
        .await
        .with("CC", "2.999.103", knows("2.999.103", "19800101", silent))
        .await
        .with(
            "DD",
            "2.999.104",
            knows("2.999.104", "19800101", move || {
                answered(Status::PartialSuccess, vec![refusal("XDSRegistryBusy")], last.clone())
            }),
        )
        .await
        .with("EE", "2.999.105", knows("2.999.105", "19900101", || listed(Vec::new())))
        .await;
    let (world, countries) = others.clinicians().world("").await;
    let found = matches(&world).await;
    assert_eq!(found.len(), 5);

    // The fifth is somebody else: the professional cannot make two persons one.
    let (status, _, body) = confirm(&world, &found).await;
    assert_eq!((status, code(&body["issue"][0])), (400, "also-other-person"));
    let twice = [found[0].clone(), found[1].clone(), found[1].clone()];
    assert_eq!(code(&confirm(&world, &twice).await.2["issue"][0]), "also-same-country");
    let foreign = [found[0].clone(), format!("https://elsewhere.example/p/x/fhir/Patient/{}", "y".repeat(43))];
    assert_eq!(confirm(&world, &foreign).await.0, 404);

    let base = base(&confirm(&world, &found[..4]).await);
    let began = std::time::Instant::now();
    let (status, applied, bundle) = call(&world, &format!("{base}/DocumentReference"), "wait=1", None).await;
    assert!(began.elapsed() < second() * 15, "the silent country was waited for");
    assert_eq!((status, applied.as_deref()), (200, Some("wait=1")), "{bundle}");
    assert!(bundle.get("total").is_none(), "something is missing");
    let entries = bundle["entry"].as_array().expect("entries");
    let (shown, outcome) = entries.split_at(entries.len() - 1);
    let ids: Vec<_> = shown.iter().filter_map(|e| e["resource"]["masterIdentifier"]["value"].as_str()).collect();
    assert_eq!(ids, ["urn:oid:2.999.101.30.2", "urn:oid:2.999.104.30.1", "urn:oid:2.999.101.30.1"]);
    let homes: Vec<_> = shown.iter().map(|e| of_community(&e["resource"])).collect();
    assert_eq!(homes, ["urn:oid:2.999.101", "urn:oid:2.999.104", "urn:oid:2.999.101"]);
    let subjects: std::collections::BTreeSet<_> =
        shown.iter().filter_map(|e| e["resource"]["subject"]["reference"].as_str()?.rsplit('/').next()).collect();
    assert_eq!(subjects.len(), 1, "one patient");
    assert_eq!(outcome[0]["search"]["mode"], "outcome");
    let issues = outcome[0]["resource"]["issue"].as_array().expect("issues");
    let said: Vec<_> = issues.iter().map(|i| (of_community(i), i["severity"].as_str(), code(i))).collect();
    assert_eq!(
        said,
        [
            ("urn:oid:2.999.102", Some("warning"), "country-error"),
            ("urn:oid:2.999.103", Some("warning"), "country-timeout"),
            ("urn:oid:2.999.104", Some("warning"), "country-partial"),
        ]
    );
    // One query each, and none to the country that was not confirmed.
    let queries = |at: usize| countries[at].asked().iter().filter(|a| a.action == actions::ITI38_REQUEST).count();
    assert_eq!((0..5).map(queries).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
    // Every country was shown a TRC assertion of its own.
    let trc = |at: usize| {
        let asked = countries[at].asked();
        let text = String::from_utf8_lossy(&asked.last().expect("asked").envelope).into_owned();
        let last = text.split(":Assertion ").last().and_then(|t| t.split(" ID=\"").nth(1).or(t.strip_prefix("ID=\"")));
        last.and_then(|t| t.split('"').next()).map(ToOwned::to_owned)
    };
    assert!(trc(0).is_some() && trc(0) != trc(3));
}

#[tokio::test]
async fn when_every_country_fails_there_is_no_bundle() {
    let silent = || Reaction::Late(second() * 20, Box::new(listed(Vec::new())));
    let others = Others::none()
        .with("AA", "2.999.101", knows("2.999.101", "19800101", silent))
        .await
        .with("BB", "2.999.102", knows("2.999.102", "19800101", || failed("XDSRegistryError")))
        .await
        .with("CC", "2.999.103", knows("2.999.103", "19800101", || failed("XDSUnknownPatientId")))
        .await;
    let (world, _countries) = others.clinicians().world("query = \"1s\"").await;
    let found = matches(&world).await;
    let search = async |urls: &[String], rest: &str, prefer: &str| {
        let base = base(&confirm(&world, urls).await);
        let (status, _, body) = call(&world, &format!("{base}/DocumentReference{rest}"), prefer, None).await;
        (status, code(&body["issue"][0]).to_owned(), body)
    };
    let late = search(&found[..1], "", "").await;
    assert_eq!((late.0, late.1.as_str()), (504, "country-timeout"));
    let both = search(&found[..2], "", "").await;
    assert_eq!((both.0, both.1.as_str()), (502, "country-error"));
    // A country that knows nothing has answered.
    let (status, _, bundle) = search(&found[2..], "", "").await;
    assert_eq!((status, &bundle["total"]), (200, &json!(0)));
    // What it says does not tell nobody from nothing.
    let said: Vec<&str> =
        bundle["entry"][0]["resource"]["issue"].as_array().expect("issues").iter().map(code).collect();
    assert_eq!(said, ["nothing-shown"]);
    let strict = search(&found[2..], "?surprise=1", "handling=strict").await;
    assert_eq!((strict.0, strict.1.as_str()), (400, "not-supported"));
    assert_eq!(search(&found[2..], "?surprise=1", "handling=lenient").await.0, 200);
    assert_eq!(search(&found[2..], "?patient=somebody", "").await.0, 400);
}

/// POST finds what GET finds. Pages are disjoint and whole, and a list that changed between two of them is told from one that
/// did not.
#[tokio::test]
async fn a_search_by_post_and_in_pages() {
    let listing: std::sync::Arc<std::sync::atomic::AtomicU32> = std::sync::Arc::new(3.into());
    let documents = listing.clone();
    let list = move || {
        listed((1..=documents.load(std::sync::atomic::Ordering::Relaxed)).map(|n| entry("2.999.101", n)).collect())
    };
    let (world, _countries) =
        Others::none().with("AA", "2.999.101", knows("2.999.101", "19800101", list)).await.clinicians().world("").await;
    let base = base(&confirm(&world, &matches(&world).await).await);
    let url = format!("{base}/DocumentReference");
    let ids = |bundle: &Value| -> Vec<String> {
        let entries = bundle["entry"].as_array().expect("entries").iter();
        entries.filter_map(|e| e["resource"]["masterIdentifier"]["value"].as_str().map(ToOwned::to_owned)).collect()
    };
    let link = |bundle: &Value, relation: &str| {
        let links = bundle["link"].as_array().expect("links").iter();
        links.filter(|l| l["relation"] == relation).find_map(|l| l["url"].as_str().map(ToOwned::to_owned))
    };
    let (status, _, whole) = call(&world, &format!("{url}?status=current"), "", None).await;
    assert_eq!((status, ids(&whole).len(), link(&whole, "next")), (200, 3, None));
    assert_eq!(link(&whole, "self"), Some(format!("{url}?status=current")));

    let form = |kind: &'static str, text: &str| Some((kind, text.to_owned()));
    let search = format!("{url}/_search");
    let kind = "application/x-www-form-urlencoded; charset=UTF-8";
    let (status, _, posted) = send(&world, &search, "", form(kind, "status=current")).await;
    assert_eq!((status, ids(&posted)), (200, ids(&whole)));
    let both = format!("{search}?contenttype=text%2Fnothing");
    assert_eq!(send(&world, &both, "", form(kind, "status=current")).await.2["total"], 0);
    assert_eq!(send(&world, &search, "", form("application/json", "{}")).await.0, 400);
    assert_eq!(send(&world, &search, "handling=strict", form(kind, "surprise=1")).await.0, 400);

    let mut next = Some(format!("{url}?status=current&_count=1"));
    let mut paged = Vec::new();
    while let Some(page) = next {
        let (status, _, bundle) = call(&world, &page, "", None).await;
        assert_eq!((status, &bundle["total"], ids(&bundle).len()), (200, &json!(3), 1), "{page}");
        paged.extend(ids(&bundle));
        next = link(&bundle, "next");
    }
    assert_eq!(paged, ids(&whole));

    let first = call(&world, &format!("{url}?_count=2"), "", None).await.2;
    listing.store(4, std::sync::atomic::Ordering::Relaxed);
    let (status, _, body) = call(&world, &link(&first, "next").expect("a next page"), "", None).await;
    assert_eq!((status, code(&body["issue"][0])), (410, "results-changed"));
    for bad in ["_count=0", "_count=x", "_page=1", "_page=x.y"] {
        assert_eq!(call(&world, &format!("{url}?{bad}"), "", None).await.0, 400, "{bad}");
    }
    // Beyond a thousand the newest are shown, in pages alone.
    listing.store(1_050, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(call(&world, &url, "", None).await.0, 413);
    let (_, _, many) = call(&world, &format!("{url}?_count=500"), "", None).await;
    let outcome = many["entry"].as_array().and_then(|e| e.last()).expect("an outcome");
    assert_eq!((ids(&many).len(), code(&outcome["resource"]["issue"][0])), (200, "results-truncated"));
}

/// T-FHR-1 to T-FHR-7: bodies and searches that would lead elsewhere or never end.
#[tokio::test]
async fn fhir_that_leads_elsewhere_or_never_ends() {
    let (world, countries) = Others::none()
        .with("AA", "2.999.101", knows("2.999.101", "19800101", || listed(vec![entry("2.999.101", 1)])))
        .await
        .clinicians()
        .world("")
        .await;
    let known = world.clinician().learn().await.expect("the good way");
    let asked = countries[0].asked().len();
    world.holds(&known, &["T-FHR-1", "T-FHR-2", "T-FHR-5", "T-FHR-7"]).await;
    assert_eq!(countries[0].asked().len(), asked, "nothing was asked");
    world.holds(&known, &["T-FHR-3", "T-FHR-4", "T-FHR-6"]).await;
    // Includes are not supported: ignored, or refused where the caller wants that.
    let storm = "_include=DocumentReference:subject&_revinclude=*&".repeat(200);
    let (status, _, bundle) = call(&world, &format!("{}/DocumentReference?{storm}", known.base), "", None).await;
    assert_eq!((status, &bundle["total"]), (200, &json!(1)), "T-FHR-4");
}

/// The trail of a country that asks names each message that it sent, a repetition too, whether or not a receiver wants the
/// headers as evidence: the country that answers has the same MessageIDs, so that the two can compare.
#[tokio::test]
async fn the_record_of_who_asks_names_the_messages_that_were_sent() {
    let busy = std::sync::atomic::AtomicBool::new(true);
    let knows = knows("2.999.101", "19800101", || listed(Vec::new()));
    let react = move |asked: &Asked| match busy.swap(false, std::sync::atomic::Ordering::AcqRel) {
        true => Reaction::Busy(0),
        false => knows(asked),
    };
    let (world, countries) = Others::none().with("AA", "2.999.101", react).await.clinicians().world("").await;
    matches(&world).await;
    let asked: Vec<String> = countries[0].asked().iter().filter_map(|asked| asked.message_id.clone()).collect();
    assert_eq!(asked.len(), 2, "busy, then answered");
    let trail = world.trail();
    let record = trail.ihe.iter().find(|message| message.types[0].code == "ITI-55").expect("a record");
    let details = record.objects.iter().flat_map(|object| &object.details);
    let named: Vec<_> = details.filter(|(kind, _)| kind == "wsa:MessageID").map(|(_, id)| &id[..]).collect();
    assert!(asked.iter().all(|id| named.contains(&id.as_bytes())), "{asked:?}");
}

/// CO-16: the record of ITI-55 at the country that asks, field by field, in both dialects.
#[tokio::test]
async fn co_16_the_record_of_a_discovery_says_what_happened() {
    let others = Others::none().section(async |pki| crate::common::trail::ehdsi_receiver(pki)).await;
    let others = others.with("AA", "2.999.101", knows("2.999.101", "19800101", || listed(Vec::new()))).await;
    let (world, countries) = others.clinicians().world("").await;
    matches(&world).await;
    let trail = world.trail();
    let anonymous = "http://www.w3.org/2005/08/addressing/anonymous";
    let address = countries[0].url("/xcpd");
    for (dialect, messages, consumer, provider) in [
        ("ihe", &trail.ihe, anonymous, address.as_str()),
        ("ehdsi", &trail.ehdsi, "tls-client.ncp.no", "tls-server.ncp.aa"),
    ] {
        let found: Vec<_> = messages.iter().filter(|m| m.types[0].code == "ITI-55").collect();
        let [message] = found[..] else { panic!("{dialect}: {} records", found.len()) };
        assert_eq!((message.event.code.as_str(), message.action.as_str(), message.outcome), ("110112", "E", 0));
        let with = |role: &str| message.participants.iter().find(|p| p.roles.iter().any(|r| r.code == role));
        let ends = ["ServiceConsumer", "ServiceProvider"].map(|role| with(role).expect("both ends"));
        assert_eq!((ends[0].user_id.as_str(), ends[1].user_id.as_str()), (consumer, provider), "{dialect}");
        assert_eq!((ends[0].requestor, ends[1].requestor), (true, false), "{dialect}");
        assert_eq!(ends[1].address, "localhost", "{dialect}");
        let human = message.participants.iter().find(|p| p.name.contains("hpr-1")).expect("the professional");
        assert!(human.roles.iter().any(|r| r.code == "221"), "{dialect}: her role");
        assert!(message.participants.iter().any(|p| p.user_id == "University hospital"), "{dialect}");
        assert_eq!(message.purposes.first().map(|p| p.code.as_str()), Some("TREATMENT"), "{dialect}");
        // The patient stands in the record of the country that answers, and here in that of OpenNCP's dialect at most.
        assert!(dialect == "ehdsi" || message.patient().is_empty());
        let query = message.objects.iter().find(|o| o.kind == "2" && o.role == "24").expect("the query");
        let sent = String::from_utf8_lossy(&countries[0].asked()[0].envelope).into_owned();
        let recorded = String::from_utf8_lossy(query.query.as_deref().unwrap_or_default()).into_owned();
        assert!(recorded.contains("4711") && sent.contains("4711"), "{dialect}: what was asked");
        let home = query.details.iter().find(|(kind, _)| kind.to_lowercase().ends_with("homecommunityid"));
        assert_eq!(home.map(|(_, home)| &home[..]), Some(&b"urn:oid:2.999.101"[..]), "{dialect}: who was asked");
    }
}
