//! An NCP-A with the manners of OpenNCP, asked by this gateway: its list, its documents and
//! its refusals arrive at the clinician's end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ncp_ihe::orcd::OrcdKind;
use ncp_ihe::{
    Association, Coded, Content, CrossGatewayQueryRequest, DocumentEntry, DocumentResponse, FindDocuments,
    QueryResponse, RegistryError, RegistryObjects, RetrieveRequest, RetrieveResponse, ReturnType, Severity, Status,
    StoredQuery, actions, ns,
};
use ncp_tests::country::{Asked, Reaction};
use ncp_xml::{Element, Limits};

use crate::clinicians::{call, knowing, sent};
use crate::consumers::ask;
use crate::told::{list, sweden};
use crate::{Others, entry, patient};

const SE: &str = "2.999.752";
const KIND: &str = "kind = \"openncp\"";

/// What its server says beside its lists and documents.
#[derive(Clone, Copy, Default)]
struct Manners {
    /// A code beside Success.
    error: Option<&'static str>,
    /// No document, and an answer without a status.
    no_status: bool,
    /// Documents are refused with this code in a PartialSuccess.
    refuses: Option<&'static str>,
    /// How long its first answer takes.
    first: Duration,
}

/// The values of the class code slot: its server reads the first `Value` alone.
fn class_codes(body: &Element) -> Vec<String> {
    let adhoc = body.child(ns::RIM, "AdhocQuery").expect("a query");
    let slot = adhoc.all(ns::RIM, "Slot").find(|s| s.get("name") == Some("$XDSDocumentEntryClassCode"));
    let values = slot.into_iter().flat_map(|slot| slot.all(ns::RIM, "ValueList"));
    values.flat_map(|list| list.all(ns::RIM, "Value").map(Element::trimmed)).collect()
}

fn document(kind: OrcdKind, number: u32) -> DocumentEntry {
    let (class_code, format_code) = (kind.class_code(), kind.format_code());
    DocumentEntry { type_code: class_code.clone(), class_code, format_code, ..entry(SE, number) }
}

fn openncp(manners: Manners) -> impl Fn(&Asked) -> Reaction {
    let first = AtomicBool::new(true);
    let matching = knowing(SE, "19800101", move |asked| match asked.action.as_str() {
        actions::ITI38_REQUEST => query(&asked.body, manners),
        _ => retrieve(&asked.body, manners),
    });
    move |asked| {
        let reaction = match matching(asked) {
            // Its queryResponseCode is AE whatever the answer is.
            Reaction::Simple(action, body) if action == actions::ITI55_RESPONSE => {
                let text = body.to_xml().replace("queryResponseCode code=\"OK\"", "queryResponseCode code=\"AE\"");
                Reaction::Simple(action, Element::parse(text.as_bytes(), &Limits::ANSWER).expect("XML"))
            }
            other => other,
        };
        if first.swap(false, Ordering::Relaxed) { Reaction::Late(manners.first, Box::new(reaction)) } else { reaction }
    }
}

fn query(body: &Element, manners: Manners) -> Reaction {
    let codes = class_codes(body);
    let Some(codes) = codes.first() else {
        // A null pointer of its server.
        return Reaction::Simple(ncp_soap::FAULT_ACTION, ncp_soap::Fault::receiver("null").to_element());
    };
    let kinds = [(OrcdKind::Report, 1), (OrcdKind::Picture, 2)];
    let of_class = kinds.into_iter().filter(|(kind, _)| codes.contains(&kind.class_code().code));
    let entries: Vec<DocumentEntry> = of_class.map(|(kind, number)| document(kind, number)).collect();
    // Each document is the transformation of itself.
    let associations = entries.iter().map(|entry| Association {
        uuid: uuid::Uuid::new_v4().urn().to_string(),
        kind: Association::XFRM.into(),
        source: entry.entry_uuid.clone(),
        target: entry.entry_uuid.clone(),
        submission_set_status: None,
    });
    let associations = associations.collect();
    let objects = RegistryObjects { entries, associations, ..RegistryObjects::default() };
    let told = |code: &str| RegistryError {
        code: code.into(),
        context: "java.lang.NullPointerException at Tolvan".into(),
        severity: Severity::Error,
        location: None,
    };
    let errors: Vec<RegistryError> = manners.error.iter().map(|code| told(code)).collect();
    let objects = if manners.no_status { RegistryObjects::default() } else { objects };
    let answer = QueryResponse { status: Status::Success, errors, objects, object_refs: Vec::new() };
    let mut text = answer.to_element().to_xml();
    // It never says which severity is the highest.
    if let (Some(from), Some(list)) = (text.find(" highestSeverity=\""), text.find("RegistryError ")) {
        let to = from + 18 + text[from + 18..].find('"').expect("a value") + 1;
        assert!(from < list);
        text.replace_range(from..to, "");
    }
    if manners.no_status {
        text = text.replace(&format!(" status=\"{}\"", Status::Success.urn()), "");
    }
    let body = Element::parse(text.as_bytes(), &Limits::ANSWER).expect("XML");
    Reaction::Simple(actions::ITI38_RESPONSE, body)
}

fn retrieve(body: &Element, manners: Manners) -> Reaction {
    let request = RetrieveRequest::read(body).expect("ITI-39").documents.remove(0);
    let (mut status, mut errors, mut documents) = (Status::Success, Vec::new(), Vec::new());
    if let Some(code) = manners.refuses {
        status = Status::PartialSuccess;
        let context = "InsufficientRights".into();
        errors.push(RegistryError { code: code.into(), context, severity: Severity::Error, location: None });
    } else {
        let content = Content::Inline(bytes::Bytes::from_static(b"<ClinicalDocument xmlns=\"urn:hl7-org:v3\"/>"));
        documents.push(DocumentResponse { request, new_document: None, media_type: "text/xml".into(), content });
    }
    let body = RetrieveResponse { status, errors, documents }.to_element();
    Reaction::Parts(actions::ITI39_RESPONSE, body, Vec::new())
}

#[tokio::test]
async fn on_02_on_03_the_incumbents_lists_and_documents_reach_the_clinician() {
    let (world, base) = sweden(KIND, openncp(Manners::default())).await;
    let shown = list(&world, &base).await;
    assert_eq!((shown.status, shown.ids.len(), shown.total), (200, 2, Some(2)), "{shown:?}");
    assert!(shown.issues.is_empty(), "{shown:?}");
    let (_, _, bundle) = call(&world, &format!("{base}/DocumentReference"), "", None).await;
    for line in bundle["entry"].as_array().expect("entries") {
        let url = line["resource"]["content"][0]["attachment"]["url"].as_str().expect("a URL");
        let (head, bytes) = sent(&world, url, ("accept", "text/xml"), None).await;
        assert_eq!(head.status.as_u16(), 200, "{}", String::from_utf8_lossy(&bytes));
        // Serialised again: neither hash nor size need fit.
        assert!(bytes.starts_with(b"<ClinicalDocument"));
    }
    // Without its kind the search names no class code, and its server fails.
    let (world, base) = sweden("", openncp(Manners::default())).await;
    assert_eq!(list(&world, &base).await.status, 502);
}

#[tokio::test]
async fn on_08_on_12_on_16_what_the_incumbent_refuses_is_told() {
    let of = |manners| sweden(KIND, openncp(manners));
    let (world, base) = of(Manners { error: Some("ERROR_ORCD_GENERIC"), ..Manners::default() }).await;
    let shown = list(&world, &base).await;
    assert_eq!((shown.status, shown.ids.len(), shown.total), (200, 2, None), "{shown:?}");
    assert!(shown.says("country-partial", "ERROR_ORCD_GENERIC") && !format!("{shown:?}").contains("Tolvan"));

    let (world, base) = of(Manners { no_status: true, ..Manners::default() }).await;
    let shown = list(&world, &base).await;
    assert!(shown.status == 502 && shown.says("country-error", "no status"), "{shown:?}");

    let (world, base) = of(Manners { refuses: Some("4703"), ..Manners::default() }).await;
    let (_, _, bundle) = call(&world, &format!("{base}/DocumentReference"), "", None).await;
    let url = bundle["entry"][0]["resource"]["content"][0]["attachment"]["url"].as_str().expect("a URL");
    let (head, body) = sent(&world, url, ("accept", "text/xml"), None).await;
    assert_eq!(head.status.as_u16(), 403);
    assert!(String::from_utf8_lossy(&body).contains("4703"));
}

/// ON-11: its first answer takes longer than the times in `[limits]`, which are short here.
#[tokio::test]
async fn on_11_a_just_started_incumbent_is_waited_for() {
    let late = || openncp(Manners { first: Duration::from_millis(2_500), ..Manners::default() });
    for (kind, expected) in [(KIND, 200), ("deadline = \"1s\"", 504)] {
        let country = Others::none().with("SE", SE, late()).await.clinicians().peers(0, kind.to_owned());
        let (world, _countries) = country.world("discovery = \"1s\"\nquery = \"1s\"").await;
        let identifier = serde_json::json!({
            "system": format!("urn:oid:{}", ncp_tests::asking::PATIENTS), "value": patient().extension,
        });
        let person = serde_json::json!({ "resourceType": "Patient", "identifier": [identifier] });
        let (status, _, body) = call(&world, "/fhir/Patient/$match", "", Some(&person)).await;
        assert_eq!(status, expected, "{body}");
    }
}

/// A consumer's query goes out with class codes in one Value, its own where it names any.
#[tokio::test]
async fn on_02_a_consumers_query_goes_out_with_class_codes_in_one_value() {
    let country = Others::none().with("SE", SE, openncp(Manners::default())).await.peers(0, KIND.to_owned());
    let (world, countries) = country.world("").await;
    let of = |class_codes: Vec<Coded>| {
        let query = StoredQuery::FindDocuments(FindDocuments { class_codes, ..FindDocuments::of_patient(patient()) });
        CrossGatewayQueryRequest { home: None, return_type: ReturnType::LeafClass, query }.to_element()
    };
    let loinc = |code: &str| Coded::new(code, "2.16.840.1.113883.6.1", None);
    let many: Vec<Coded> = (0..20).map(|n| loinc(&format!("{n}-4"))).collect();
    for (body, first, last) in [
        (of(Vec::new()), "18748-4", "x-clinical-image"),
        (of(vec![loinc("60591-5")]), "60591-5", "60591-5"),
        (of(many), "0-4", "19-4"),
    ] {
        ask(&world, body).await;
        let asked = countries[0].asked();
        let codes = class_codes(&asked.last().expect("asked").body);
        assert_eq!(codes.len(), 1, "{codes:?}");
        assert!(codes[0].starts_with(&format!("('{first}^^")) && codes[0].contains(&format!("'{last}^^")), "{codes:?}");
    }
}

/// F5: what the reader of `gateway/ihe/tests/openncp` takes, seen at the clinician's end: nobody under `AE`, and a list with
/// an entry without anything, where an image of no known type was dropped.
#[tokio::test]
async fn fo_01_f5_odd_answers_of_the_incumbent_at_the_clinicians_end() {
    let nobody = "<PRPA_IN201306UV02 xmlns='urn:hl7-org:v3'><acknowledgement><typeCode code='AA'/><acknowledgementDetail>\
        <code code='ERROR_PI_NO_MATCH'/><text>No patient found.</text><location>NF</location></acknowledgementDetail>\
        </acknowledgement><controlActProcess><reasonOf><detectedIssueEvent><mitigatedBy><detectedIssueManagement>\
        <code code='AnswerNotAvailable' codeSystem='1.3.6.1.4.1.19376.1.2.27.3'/></detectedIssueManagement></mitigatedBy>\
        </detectedIssueEvent></reasonOf><queryAck><queryResponseCode code='AE'/></queryAck></controlActProcess></PRPA_IN201306UV02>";
    let nobody = Element::parse(nobody.as_bytes(), &Limits::ANSWER).expect("XML");
    let country =
        Others::none().with("SE", SE, move |_| Reaction::Simple(actions::ITI55_RESPONSE, nobody.clone())).await;
    let (world, _countries) = country.clinicians().peers(0, KIND.to_owned()).world("").await;
    let identifier = serde_json::json!({
        "system": format!("urn:oid:{}", ncp_tests::asking::PATIENTS), "value": patient().extension,
    });
    let person = serde_json::json!({ "resourceType": "Patient", "identifier": [identifier] });
    let (status, _, bundle) = call(&world, "/fhir/Patient/$match", "", Some(&person)).await;
    assert_eq!((status, bundle["total"].as_u64()), (200, Some(0)), "{bundle}");

    let (world, base) = sweden(KIND, |asked| {
        let Reaction::Simple(action, body) = query(&asked.body, Manners::default()) else { panic!("a list") };
        let text = body.to_xml();
        let end = text.rfind("RegistryObjectList>").and_then(|at| text[..at].rfind("</")).expect("the list's end");
        let empty = format!("<x:ExtrinsicObject xmlns:x=\"{}\"/>", ns::RIM);
        let text = format!("{}{empty}{}", &text[..end], &text[end..]);
        Reaction::Simple(action, Element::parse(text.as_bytes(), &Limits::ANSWER).expect("XML"))
    })
    .await;
    let shown = list(&world, &base).await;
    assert_eq!((shown.ids.len(), shown.total), (2, None), "{shown:?}");
    assert!(shown.says("entries-unusable", "1 entries"), "{shown:?}");
}
