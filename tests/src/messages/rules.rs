//! Rules that envelopes alone can show: 1 to 7 and 11 of `ihe-transactions.md` 14.

use std::collections::BTreeMap;

use ncp_ihe::ns::{HL7V3, QUERY, RIM, RS, XDSB, XDSI};
use ncp_soap::ns::{SOAP, WSA};
use ncp_xml::{Element, Node};

use super::load::TRANSACTIONS;
use super::{Message, Origin, Report};

const FIND: &[&str] = &[
    "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d",
    "urn:uuid:12941a89-e02e-4be5-967c-ce4bfc8fe492",
    "urn:uuid:f26abbcb-ac74-4422-8a30-edb644bbc1a9",
    "urn:uuid:958f3006-baad-4929-a4de-ff1114824431",
    "urn:uuid:10b545ea-725c-446d-9b95-8aeb444eddf3",
];
const GET: &[&str] = &[
    "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4",
    "urn:uuid:5737b14c-8a1a-4539-b659-e03a34a5e1e4",
    "urn:uuid:a7ae438b-4bc2-4642-93e9-be891f7bb155",
    "urn:uuid:bab9529a-4a10-40b3-a01f-f68a615d247a",
    "urn:uuid:51224314-5390-4169-9b91-b1980040715a",
    "urn:uuid:e8e3cb2c-e39c-46b9-99e4-c12f57260b83",
    "urn:uuid:b909a503-523d-4517-8acf-8e5834dfc4c7",
    "urn:uuid:10cae35a-c7f9-4cf5-b61e-fc3278ffb578",
    "urn:uuid:d90e5407-b356-4d91-a89f-873917b4b0e6",
];
const DATE_SLOTS: &[&str] = &["creationTime", "serviceStartTime", "serviceStopTime", "submissionTime"];

pub(super) fn check(messages: &[Message], report: &mut Report) {
    for message in messages.iter().filter(|m| m.origin != Origin::Given) {
        single(message, report);
    }
    for (request, response) in pairs(messages) {
        pair(request, response, report);
    }
}

/// Requests with their responses, by RelatesTo. A request that was sent again finds each of its answers.
pub(super) fn pairs(messages: &[Message]) -> Vec<(&Message, &Message)> {
    let mut requests: BTreeMap<String, &Message> = BTreeMap::new();
    for message in messages.iter().filter(|m| m.is_request()) {
        requests.extend(message.addressing("MessageID").map(|id| (id, message)));
    }
    messages
        .iter()
        .filter(|m| !m.is_request())
        .filter_map(|response| Some((*requests.get(&response.addressing("RelatesTo")?)?, response)))
        .collect()
}

fn single(message: &Message, report: &mut Report) {
    let body = &message.body;
    if body.is(QUERY, "AdhocQueryResponse") {
        // An ITI-18 answer needs the same of an Initiating Gateway.
        report.judge(1, message, homes_of_objects(body));
    }
    if body.is(XDSI, "RetrieveImagingDocumentSetRequest") || crosses(message, "ITI-39") {
        let without = descendants(body)
            .filter(|e| e.is(XDSB, "DocumentRequest"))
            .filter(|r| !r.child(XDSB, "HomeCommunityId").is_some_and(|h| is_home(&h.trimmed())))
            .count();
        report.judge(2, message, (without > 0).then(|| format!("{without} DocumentRequests without HomeCommunityId")));
    }
    if message.is_fault() {
        let code = body.path(SOAP, &["Code", "Value"]).map(Element::trimmed).unwrap_or_default();
        let fits = ["Sender", "Receiver", "MustUnderstand", "VersionMismatch", "DataEncodingUnknown"];
        let broken = !fits.iter().any(|c| code.ends_with(&format!(":{c}")));
        report.judge(6, message, broken.then(|| format!("fault code {code}")));
        return;
    }
    report.judge(6, message, addressing(message));
    if let Some((status, errors)) = registry_response(body) {
        report.judge(4, message, agreement(&status, errors, results(body)));
        let leaks = message.transaction.is_some_and(|t| t.name == "ITI-18")
            && errors_of(errors).any(|(code, _)| code == "XDSUnknownPatientId");
        report.judge(5, message, leaks.then(|| "XDSUnknownPatientId left an Initiating Gateway".into()));
    }
    if body.is(HL7V3, "PRPA_IN201306UV02") {
        report.judge(7, message, discovery(body));
    }
    let dates: Vec<String> = descendants(body)
        .filter(|e| e.is(RIM, "Slot") && e.get("name").is_some_and(is_date_slot))
        .flat_map(|slot| descendants(slot).filter(|e| e.is(RIM, "Value")).map(Element::trimmed).collect::<Vec<_>>())
        .collect();
    if !dates.is_empty() {
        let odd = dates.iter().filter(|d| !is_dtm(d)).count();
        report.judge(11, message, (odd > 0).then(|| format!("{odd} values are no UTC DTM")));
    }
}

fn pair(request: &Message, response: &Message, report: &mut Report) {
    let Some(transaction) = request.transaction else { return };
    if response.is_fault() {
        return;
    }
    let same = response.transaction.is_some_and(|t| t.response == transaction.response);
    report.judge(6, response, (!same).then(|| format!("answers {} with another transaction", transaction.name)));
    report.judge(6, response, (request.xop != response.xop).then(|| "other packaging than the request".into()));
    match transaction.name {
        "ITI-18" | "ITI-38" => query_homes(request, response, report),
        "ITI-39" | "ITI-43" | "RAD-69" | "RAD-75" => echo(request, response, report),
        "ITI-55" => {
            let parameters =
                |m: &Message| m.body.path(HL7V3, &["controlActProcess", "queryByParameter"]).map(canonical);
            let echoed = parameters(request) == parameters(response);
            report.judge(7, response, (!echoed).then(|| "queryByParameter is not that of the request".into()));
        }
        _ => {}
    }
}

/// Rule 3: a Get… query without home, and one with a home that is not the answering community's.
fn query_homes(request: &Message, response: &Message, report: &mut Report) {
    let Some(query) = request.body.child(RIM, "AdhocQuery") else { return };
    let id = query.get("id").unwrap_or_default().to_ascii_lowercase();
    let codes: Vec<String> = registry_response(&response.body)
        .map(|(_, errors)| errors_of(errors).map(|(code, _)| code.to_owned()).collect())
        .unwrap_or_default();
    let has = |code: &str| codes.iter().any(|c| c == code);
    match query.get("home").filter(|home| !home.is_empty()) {
        None if GET.contains(&id.as_str()) => {
            let broken = !has("XDSMissingHomeCommunityId") && results(&response.body) > 0;
            report.judge(3, response, broken.then(|| "a Get query without home was answered".into()));
        }
        Some(home) if GET.contains(&id.as_str()) || FIND.contains(&id.as_str()) => {
            let other = descendants(&response.body)
                .filter(|e| e.ns() == RIM && matches!(e.local(), "ExtrinsicObject" | "ObjectRef" | "RegistryPackage"))
                .filter_map(|e| e.get("home"))
                .any(|h| !h.eq_ignore_ascii_case(home));
            report.judge(3, response, other.then(|| "objects of another community than the one asked".into()));
        }
        _ => {}
    }
}

/// Rule 2, second half: each DocumentResponse names one of the requests, its home included.
fn echo(request: &Message, response: &Message, report: &mut Report) {
    let triple = |e: &Element| {
        ["HomeCommunityId", "RepositoryUniqueId", "DocumentUniqueId"].map(|l| e.child(XDSB, l).map(Element::trimmed))
    };
    let asked: Vec<_> = descendants(&request.body).filter(|e| e.is(XDSB, "DocumentRequest")).map(triple).collect();
    let strange = response.body.all(XDSB, "DocumentResponse").map(triple).filter(|r| !asked.contains(r)).count();
    report.judge(2, response, (strange > 0).then(|| format!("{strange} DocumentResponses echo no request")));
}

fn crosses(message: &Message, name: &str) -> bool {
    message.is_request() && message.transaction.is_some_and(|t| t.name == name)
}

fn is_home(text: &str) -> bool {
    text.strip_prefix("urn:oid:").is_some_and(|oid| ncp_ihe::Oid::parse(oid).is_ok())
}

fn is_date_slot(name: &str) -> bool {
    DATE_SLOTS.contains(&name)
}

/// `YYYY[MM[DD[hh[mm[ss]]]]]`, no offset, no fraction.
fn is_dtm(text: &str) -> bool {
    (4..=14).contains(&text.len()) && text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_digit())
}

fn homes_of_objects(body: &Element) -> Option<String> {
    let list = body.child(RIM, "RegistryObjectList")?;
    let without = list
        .elements()
        .filter(|e| e.ns() == RIM && matches!(e.local(), "ExtrinsicObject" | "RegistryPackage" | "ObjectRef"))
        .filter(|e| !e.get("home").is_some_and(is_home))
        .count();
    (without > 0).then(|| format!("{without} objects without home"))
}

/// Rule 6 for one message: action, packaging, the headers each direction must have.
fn addressing(message: &Message) -> Option<String> {
    let Some(action) = message.headers.iter().find(|h| h.is(WSA, "Action")) else { return Some("no Action".into()) };
    let Some(transaction) = message.transaction else {
        let known = TRANSACTIONS
            .iter()
            .any(|t| message.body.is(t.asks.0, t.asks.1) || message.body.is(t.answers.0, t.answers.1));
        return known.then(|| format!("action {} does not fit its body", action.trimmed()));
    };
    if !matches!(action.get_in(SOAP, "mustUnderstand"), Some("1" | "true")) {
        return Some("Action without mustUnderstand".into());
    }
    if message.xop != transaction.xop {
        return Some(format!("{} in the wrong packaging", transaction.name));
    }
    let has = |local: &str| message.addressing(local).is_some_and(|text| !text.is_empty());
    let address = |header: &Element| header.child(WSA, "Address").is_some_and(|a| !a.trimmed().is_empty());
    if message.is_request() {
        let reply = message.headers.iter().find(|h| h.is(WSA, "ReplyTo")).is_some_and(address);
        let missing = if !has("MessageID") {
            "MessageID"
        } else if !reply {
            "ReplyTo"
        } else {
            return None;
        };
        return Some(format!("request without {missing}"));
    }
    (!has("RelatesTo")).then(|| "response without RelatesTo".into())
}

/// The status of a registry response and what holds its errors.
pub(super) fn registry_response(body: &Element) -> Option<(String, &Element)> {
    let holder = if body.is(XDSB, "RetrieveDocumentSetResponse") { body.child(RS, "RegistryResponse")? } else { body };
    let known = holder.is(RS, "RegistryResponse") || holder.is(QUERY, "AdhocQueryResponse");
    known.then(|| (holder.get("status").unwrap_or_default().to_owned(), holder))
}

fn errors_of(holder: &Element) -> impl Iterator<Item = (&str, &str)> {
    let errors = holder.all(RS, "RegistryErrorList").flat_map(|list| list.all(RS, "RegistryError"));
    errors.map(|e| (e.get("errorCode").unwrap_or_default(), e.get("severity").unwrap_or_default()))
}

/// Objects or documents that a response carries.
fn results(body: &Element) -> usize {
    body.child(RIM, "RegistryObjectList").map_or(0, |list| list.elements().count())
        + body.all(XDSB, "DocumentResponse").count()
}

/// Rule 4 (ITI TF-3: 4.2.4).
fn agreement(status: &str, holder: &Element, results: usize) -> Option<String> {
    let errors = errors_of(holder).filter(|(_, severity)| severity.ends_with(":Error")).count();
    let broken = match status {
        "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success" => errors > 0,
        "urn:ihe:iti:2007:ResponseStatusType:PartialSuccess" => errors == 0,
        "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure" => errors == 0 || results > 0,
        _ => true,
    };
    broken.then(|| format!("status {status} with {errors} errors and {results} results"))
}

/// Rule 7 (ITI TF-2: 3.55.4.2): the five cases.
fn discovery(body: &Element) -> Option<String> {
    let act = body.child(HL7V3, "controlActProcess")?;
    let code = |path: &[&str], holder: &Element| {
        holder.path(HL7V3, path).and_then(|e| e.get("code")).unwrap_or_default().to_owned()
    };
    let acknowledged = code(&["acknowledgement", "typeCode"], body);
    let answered = code(&["queryAck", "queryResponseCode"], act);
    let subjects: Vec<&Element> = act.all(HL7V3, "subject").collect();
    let asks_more = descendants(act).any(|e| e.is(HL7V3, "actOrderRequired"));
    let fits = match (acknowledged.as_str(), answered.as_str()) {
        ("AA", "OK") => subjects.is_empty() == asks_more,
        ("AA", "NF") => subjects.is_empty() && !asks_more,
        ("AE", "AE") => subjects.is_empty() && act.child(HL7V3, "reasonOf").is_some(),
        _ => false,
    };
    if !fits {
        return Some(format!("{acknowledged}, {answered} with {} subjects", subjects.len()));
    }
    if descendants(act).any(|e| e.local().starts_with("result") && e.local().ends_with("Quantity")) {
        return Some("a quantity is populated".into());
    }
    let custodian = ["registrationEvent", "custodian", "assignedEntity", "id"];
    let homeless = subjects.iter().filter(|s| {
        s.path(HL7V3, &custodian).and_then(|id| id.get("root")).is_none_or(|root| ncp_ihe::Oid::parse(root).is_err())
    });
    match homeless.count() {
        0 => None,
        count => Some(format!("{count} events without homeCommunityId")),
    }
}

/// Every element below and including this one.
pub(super) fn descendants(element: &Element) -> impl Iterator<Item = &Element> {
    let mut stack = vec![element];
    std::iter::from_fn(move || {
        let next = stack.pop()?;
        let children: Vec<&Element> = next.elements().collect();
        stack.extend(children.into_iter().rev());
        Some(next)
    })
}

/// The meaning of an element: names, sorted attributes, text without the white space of its layout.
fn canonical(element: &Element) -> String {
    let mut attributes: Vec<String> =
        element.attributes().iter().map(|a| format!("{{{}}}{}={:?}", a.ns(), a.local(), a.value())).collect();
    attributes.sort();
    let mut out = format!("<{{{}}}{} {}>", element.ns(), element.local(), attributes.join(" "));
    for child in element.children() {
        match child {
            Node::Element(child) => out.push_str(&canonical(child)),
            Node::Text(text) | Node::Raw(text) => out.push_str(text.trim()),
            Node::Gap => {}
        }
    }
    out.push_str("</>");
    out
}
