//! A national XDS.b and XDS-I.b domain over real sockets: Registry, Repository, Imaging Document Source, Patient
//! Demographics Supplier by ITI-47 and by ITI-119.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use ncp_ihe::ns::HL7V3;
use ncp_ihe::{
    Content, CrossGatewayQueryRequest, DocumentEntry, DocumentResponse, HomeCommunityId, ImagingRequest, PatientAnswer,
    PatientMatch, PatientQuery, PatientRecord, PatientResponse, QueryResponse, RegistryError, RegistryObjects,
    RetrieveRequest, RetrieveResponse, Severity, Status, StoredQuery, actions,
};
use ncp_soap::{Addressing, BoxError, Envelope, MessageLimits, OutPart, ns};
use ncp_tests::cases::Recorded;
use ncp_xml::{Element, Limits, REQUESTS};

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What the domain holds and how it misbehaves.
#[derive(Default)]
pub(crate) struct Holdings {
    pub(crate) record: Option<PatientRecord>,
    /// Persons that the supplier answers before `record`, a page of two at a time.
    pub(crate) others: Vec<PatientRecord>,
    /// What the supplier says of the person beside who it is: the status in ITI-47, members of the entry in ITI-119.
    pub(crate) status: Option<&'static str>,
    pub(crate) entry: serde_json::Value,
    /// ITI-119 is refused for overload, to be asked again after so many seconds.
    pub(crate) busy: Option<u32>,
    /// Submission sets, folders and associations.
    pub(crate) groups: RegistryObjects,
    pub(crate) entries: Vec<DocumentEntry>,
    pub(crate) documents: BTreeMap<String, Vec<u8>>,
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// The query whose answer comes in pages, and what of it is left.
    pub(crate) paged: Option<(PatientQuery, Vec<PatientRecord>)>,
    /// Errors of the registry beside what it answers.
    pub(crate) registry_errors: Vec<RegistryError>,
    /// SOP instances that the source refuses, with its code for it.
    pub(crate) refused: BTreeMap<String, &'static str>,
    /// What the repository answers of a document that it does not hold.
    pub(crate) recorded: Option<Recorded>,
    /// Bytes after which the source cuts a body.
    pub(crate) cut: Option<usize>,
    /// Envelopes that the supplier got.
    pub(crate) supplied: Vec<Bytes>,
    /// Actions that were asked, and the Security header of the last SOAP call.
    pub(crate) asked: Vec<String>,
    pub(crate) assertion: Option<String>,
    /// Communities that RAD-69 named.
    pub(crate) homes: Vec<Option<HomeCommunityId>>,
}

#[derive(Clone, Default)]
pub(crate) struct Domain(pub(crate) Arc<Mutex<Holdings>>);

pub(crate) fn error(code: &str, location: Option<&str>) -> RegistryError {
    RegistryError {
        code: code.into(),
        context: "text of the national system".into(),
        severity: Severity::Error,
        location: location.map(ToOwned::to_owned),
    }
}

impl Domain {
    /// Serves until the test ends; the port.
    pub(crate) async fn serve(&self, acceptor: ncp_tls::SslAcceptor) -> u16 {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = socket.local_addr().expect("bound").port();
        let domain = self.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = socket.accept().await {
                let (domain, acceptor) = (domain.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(5)).await else { return };
                    let answer = service_fn(move |request| {
                        let domain = domain.clone();
                        async move { Ok::<_, Infallible>(domain.answer(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        port
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == "/fhir/Patient/$match" {
            return self.matched(request).await;
        }
        let (head, body) = request.into_parts();
        let message = ncp_soap::read_message(&head.headers, body, &MessageLimits::default(), REQUESTS.charge(""))
            .await
            .expect("a message");
        let packed = head.headers[header::CONTENT_TYPE].to_str().expect("text").starts_with("multipart/related");
        let envelope = Envelope::read(&message.root, &Limits::REQUEST).expect("an envelope");
        let addressing = Addressing::read(&envelope).expect("addressing");
        {
            let mut holdings = self.0.lock().expect("not poisoned");
            holdings.asked.push(addressing.action.clone());
            if head.uri.path() == "/pdq" {
                holdings.supplied.push(message.root.clone());
            }
            let text = String::from_utf8(message.root.to_vec()).expect("UTF-8");
            let start = text.find("<saml:Assertion");
            let end = text.find("</saml:Assertion>").map(|at| at + "</saml:Assertion>".len());
            holdings.assertion = start.zip(end).map(|(a, b)| text[a..b].to_owned());
            assert_eq!(envelope.headers.iter().any(|h| h.is(ns::WSSE, "Security")), holdings.assertion.is_some());
        }
        let related = addressing.message_id.as_deref();
        let simple = |action: &str, body: Element| {
            let headers = Addressing::response(action, related).to_headers();
            let bytes = Envelope { headers, body }.write();
            Response::builder()
                .header(header::CONTENT_TYPE, ncp_soap::soap_content_type(action))
                .body(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync())
                .expect("a response")
        };
        match (head.uri.path(), addressing.action.as_str()) {
            ("/registry", actions::ITI18_REQUEST) => simple(actions::ITI18_RESPONSE, self.queried(&envelope.body)),
            ("/pdq", actions::ITI47_REQUEST) => simple(actions::ITI47_RESPONSE, self.found(&envelope.body)),
            ("/pdq", actions::ITI47_CONTINUE) => simple(actions::ITI47_RESPONSE, self.continued(&envelope.body)),
            ("/pdq", actions::ITI47_CANCEL) => {
                simple("urn:hl7-org:v3:MCCI_IN000002UV01", Element::new(HL7V3, "MCCI_IN000002UV01"))
            }
            ("/repository", actions::ITI43_REQUEST) if packed => self.retrieved(&envelope.body, related),
            ("/source", actions::RAD69_REQUEST) if packed => self.imaged(&envelope.body, related),
            other => panic!("{other:?}"),
        }
    }

    fn queried(&self, body: &Element) -> Element {
        let request = CrossGatewayQueryRequest::read(body).expect("a stored query");
        let holdings = self.0.lock().expect("not poisoned");
        let wanted = |e: &&DocumentEntry| match &request.query {
            StoredQuery::FindDocuments(find) => find.matches(e),
            StoredQuery::GetDocuments(ids) => ids.name(e),
            other => panic!("{other:?}"),
        };
        let objects = match &request.query {
            StoredQuery::GetAll(get) => {
                assert_eq!(get.contents.entry_types.len(), 2);
                let mut all = holdings.groups.clone();
                all.entries.clone_from(&holdings.entries);
                let chosen = request.query.select(&all);
                all.retain(|uuid| chosen.contains(uuid));
                all
            }
            _ => RegistryObjects::of_entries(holdings.entries.iter().filter(wanted).cloned().collect()),
        };
        let errors = holdings.registry_errors.clone();
        let status = if errors.is_empty() { Status::Success } else { Status::PartialSuccess };
        QueryResponse { status, errors, objects, object_refs: Vec::new() }.to_element()
    }

    fn found(&self, body: &Element) -> Element {
        let query = PatientQuery::read(body).expect("ITI-47");
        let home = HomeCommunityId(query.receiver.clone());
        let mut holdings = self.0.lock().expect("not poisoned");
        let record = holdings.record.clone().filter(|r| query.ids.contains(&r.id));
        let mut all: Vec<PatientRecord> = holdings.others.iter().cloned().chain(record).collect();
        let rest = all.split_off(all.len().min(if holdings.others.is_empty() { 1 } else { 2 }));
        let page = page(&query, home, all, rest.len());
        holdings.paged = Some((query, rest));
        match holdings.status {
            None => page,
            Some(status) => {
                let text = page.to_xml();
                let (before, after) = text.split_once("<patient ").expect("a person");
                let after = after.replacen("<statusCode code=\"active\"", &format!("<statusCode code=\"{status}\""), 1);
                Element::parse(format!("{before}<patient {after}").as_bytes(), &Limits::ANSWER).expect("XML")
            }
        }
    }

    /// The next page of the query that is open.
    fn continued(&self, body: &Element) -> Element {
        let mut holdings = self.0.lock().expect("not poisoned");
        let (query, mut rest) = holdings.paged.take().expect("an open query");
        let continuation = body.path(HL7V3, &["controlActProcess", "queryContinuation"]).expect("a continuation");
        let value = |local: &str, name: &str| {
            continuation.child(HL7V3, local).and_then(|e| e.get(name)).expect("a value").to_owned()
        };
        assert_eq!(value("statusCode", "code"), "waitContinuedQueryResponse");
        let own = query.query.child(HL7V3, "queryId").and_then(|id| id.get("root"));
        assert_eq!(own, Some(value("queryId", "root").as_str()));
        assert_eq!(value("startResultNumber", "value"), (holdings.others.len() + 2 - rest.len()).to_string());
        assert!(value("continuationQuantity", "value").parse::<usize>().expect("a number") <= rest.len());
        let left = rest.split_off(rest.len().min(2));
        let page = page(&query, HomeCommunityId(query.receiver.clone()), rest, left.len());
        holdings.paged = Some((query, left));
        page
    }

    async fn matched(&self, request: Request<Incoming>) -> Response<Body> {
        if let Some(after) = self.0.lock().expect("not poisoned").busy {
            let busy = Response::builder().status(503).header(header::RETRY_AFTER, after);
            return busy.body(Full::default().map_err(|never| match never {}).boxed_unsync()).expect("a response");
        }
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let parameters: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let asked = &parameters["parameter"][0]["resource"]["identifier"][0];
        let (record, said) = {
            let holdings = self.0.lock().expect("not poisoned");
            (holdings.record.clone(), holdings.entry.clone())
        };
        let fits = |r: &PatientRecord| asked["system"] == r.id.root.urn() && asked["value"] == r.id.extension.as_str();
        let entries: Vec<_> = record
            .filter(fits)
            .map(|r| {
                let mut entry = serde_json::json!({ "resource": {
                    "resourceType": "Patient",
                    "identifier": [
                        { "system": "http://example.org/local", "value": "not an OID" },
                        { "system": r.id.root.urn(), "value": r.id.extension },
                        { "system": "urn:oid:2.999.47.5", "value": "domain-1" },
                    ],
                    "name": [{ "family": r.name.family, "given": r.name.given }],
                    "birthDate": "1977-05-30",
                    "gender": "male",
                }});
                merge(&mut entry, &said);
                entry
            })
            .into_iter()
            .collect();
        let bundle = serde_json::json!({ "resourceType": "Bundle", "type": "searchset", "entry": entries });
        Response::builder()
            .header(header::CONTENT_TYPE, "application/fhir+json")
            .body(Full::new(Bytes::from(bundle.to_string())).map_err(|never| match never {}).boxed_unsync())
            .expect("a response")
    }

    fn retrieved(&self, body: &Element, related: Option<&str>) -> Response<Body> {
        let request = RetrieveRequest::read(body).expect("ITI-43");
        let holdings = self.0.lock().expect("not poisoned");
        let held = request.documents.iter().any(|wanted| holdings.documents.contains_key(&wanted.document));
        if let Some(recorded) = holdings.recorded.as_ref().filter(|_| !held) {
            let Recorded { content_type, body } = recorded.clone().relating_to(related.unwrap_or_default());
            let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
            return Response::builder().header(header::CONTENT_TYPE, content_type).body(body).expect("a response");
        }
        let (mut documents, mut errors, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for wanted in request.documents {
            match holdings.documents.get(&wanted.document) {
                None => errors.push(error("XDSDocumentUniqueIdError", Some(&wanted.document))),
                Some(bytes) => {
                    let id = format!("{}@repository", wanted.document);
                    parts.push((id.clone(), Bytes::from(bytes.clone())));
                    documents.push(response(wanted, "application/dicom", id));
                }
            }
        }
        packed(actions::ITI43_RESPONSE, related, documents, errors, parts, None)
    }

    fn imaged(&self, body: &Element, related: Option<&str>) -> Response<Body> {
        let request = ImagingRequest::read(body).expect("RAD-69");
        let mut holdings = self.0.lock().expect("not poisoned");
        let (mut documents, mut errors, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for wanted in request.studies.into_iter().flat_map(|s| s.series).flat_map(|s| s.instances) {
            holdings.homes.push(wanted.home.clone());
            if let Some(code) = holdings.refused.get(&wanted.document) {
                errors.push(error(code, Some(&wanted.document)));
                continue;
            }
            let file = holdings.files.get(&wanted.document).expect("a file");
            let id = format!("{}@source", wanted.document);
            // The order of parts is free.
            parts.insert(0, (id.clone(), Bytes::from(std::fs::read(file).expect("reads"))));
            documents.push(response(wanted, "application/dicom", id));
        }
        packed(actions::ITI43_RESPONSE, related, documents, errors, parts, holdings.cut)
    }
}

/// Puts the members of one object into another.
fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    for (name, value) in from.as_object().into_iter().flatten() {
        match into.get_mut(name) {
            Some(inner) if inner.is_object() && value.is_object() => merge(inner, value),
            _ => into[name.as_str()] = value.clone(),
        }
    }
}

/// An answer of ITI-47 that holds so many results back.
fn page(query: &PatientQuery, home: HomeCommunityId, records: Vec<PatientRecord>, left: usize) -> Element {
    let matched = |record| PatientMatch { record, home: home.clone(), degree: 100 };
    let answer = match records.is_empty() {
        true => PatientAnswer::NoMatch { ehdsi_reason: false },
        false => PatientAnswer::Matches(records.into_iter().map(matched).collect()),
    };
    let body = PatientResponse::element(query, &answer, &query.receiver, Timestamp::now());
    let held = format!("<resultRemainingQuantity value=\"{left}\"/></queryAck>");
    let text = body.to_xml().replacen("</queryAck>", &held, 1);
    Element::parse(text.as_bytes(), &Limits::ANSWER).expect("XML")
}

fn response(request: ncp_ihe::DocumentRequest, media_type: &str, id: String) -> DocumentResponse {
    DocumentResponse { request, new_document: None, media_type: media_type.into(), content: Content::Include(id) }
}

fn packed(
    action: &str,
    related: Option<&str>,
    documents: Vec<DocumentResponse>,
    errors: Vec<RegistryError>,
    parts: Vec<(String, Bytes)>,
    cut: Option<usize>,
) -> Response<Body> {
    let status = match (documents.is_empty(), errors.is_empty()) {
        (_, true) => Status::Success,
        (true, false) => Status::Failure,
        (false, false) => Status::PartialSuccess,
    };
    let body = RetrieveResponse { status, errors, documents }.to_element();
    let headers = Addressing::response(action, related).to_headers();
    let root = Envelope { headers, body }.write();
    let parts = parts.into_iter().enumerate().map(move |(index, (content_id, bytes))| {
        let whole = cut.filter(|_| index == 1).is_none();
        let first = bytes.slice(..cut.filter(|_| !whole).unwrap_or(bytes.len()));
        let first = futures_util::stream::once(async { Ok::<_, BoxError>(first) });
        let data: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>> =
            if whole { Box::pin(first) } else { Box::pin(first.chain(crate::harness::broken())) };
        Ok(OutPart { content_id, media_type: "application/dicom".into(), data })
    });
    let (content_type, body) = ncp_soap::mtom_response(root, futures_util::stream::iter(parts.collect::<Vec<_>>()));
    Response::builder().header(header::CONTENT_TYPE, content_type).body(body).expect("a response")
}
