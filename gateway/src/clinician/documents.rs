//! Binary: one document of the patient's country.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ncp_ihe::{DocumentEntry, DocumentRequest, HomeCommunityId, Oid, PatientId};
use serde_json::json;

use super::fhir::accepts;
use super::problem::Problem;
use super::reader;
use super::sealed::{Document, Sealed, Treated, resource_id};
use super::token::Bearer;
use super::{Clinic, Context, FHIR_JSON};
use crate::compare::{Announced, Expected};
use crate::initiating::Call;
use crate::initiating::retrieve::{Retrieved, Wanted, is_patient, retrieve};
use crate::outcome::GatewayError;

/// Bytes that are encoded at once: whole groups of base64.
const PIECE: usize = 48 << 10;
/// What OrCD documents hold.
const HELD: [&str; 3] = ["application/pdf", "image/png", "image/jpeg"];

pub(super) fn sealed_document(entry: &DocumentEntry, original: Option<Box<Document>>) -> Document {
    let announced = !entry.is_delayed_assembly();
    let hash = entry.hash.as_deref().and_then(|h| hex::decode(h).ok()).and_then(|h| <[u8; 20]>::try_from(h).ok());
    Document {
        repository: entry.repository_unique_id.to_string(),
        unique_id: entry.unique_id.clone(),
        hash: hash.filter(|_| announced),
        size: entry.size.filter(|_| announced),
        media_type: entry.mime_type.clone(),
        language: entry.language.clone(),
        study: entry.study_instance_uid().map(|uid| uid.to_string()),
        source_patient: entry.source_patient_id.as_ref().map(PatientId::to_cx),
        original,
    }
}

pub(super) fn document_id(treated: &Treated, document: &Document) -> String {
    resource_id(&[&treated.person.country, &document.repository, &document.unique_id])
}

pub(super) fn binary_url(
    clinic: &Clinic,
    bearer: &Bearer,
    treated: &Treated,
    document: &Document,
) -> Result<String, Problem> {
    let sealed = clinic.seal(bearer, &Sealed::Document(treated.clone(), document.clone()))?;
    Ok(format!("{}/Binary/{}", clinic.base('p', &sealed, "fhir"), document_id(treated, document)))
}

/// `GET /p/{document}/fhir/Binary/{id}` (ITI-68): one document by ITI-39.
pub async fn read_binary(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path((sealed, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bearer = clinic.bearer(&context, &headers, (&[("ITI-68", "Binary")], 'r'), "user/Binary.r").await?;
    let Sealed::Document(treated, document) = clinic.open(&bearer, &sealed)? else {
        return Err(Problem::NotFound);
    };
    if document_id(&treated, &document) != id {
        return Err(Problem::NotFound);
    }
    let as_resource = headers.get(header::ACCEPT).is_some_and(|v| v.as_bytes().starts_with(b"application/fhir+json"));
    let as_it_is = accepts(&headers, &[&document.media_type]);
    // A neighbour's picture or PDF inside a CDA, for readers that show those (OrCD).
    let as_held = !as_it_is && document.media_type == "text/xml" && accepts(&headers, &HELD);
    if !as_resource && !as_it_is && !as_held {
        return Err(Problem::NotAcceptable);
    }
    let call = clinic.treatment_call(&bearer, &treated)?;
    let fetched =
        fetch(&call, &treated, &document).await.map_err(|error| Problem::Country(call.peer.name.clone(), error))?;
    let own = reader::Own { clinic: &clinic, context: &context, headers: &headers, patient: &treated.person.patient };
    if as_held {
        let inside = call.holder().inside(&fetched.bytes).map_err(|_| Problem::Busy)?;
        let (_, media_type, bytes) = inside.ok_or(Problem::NotAcceptable)?;
        if !accepts(&headers, &[media_type]) {
            return Err(Problem::NotAcceptable);
        }
        let whole = binary_url(&clinic, &bearer, &treated, &document)?;
        let mut response = content(media_type, &document.language, bytes, Some(&whole));
        warn(&mut response, &fetched.reported);
        return Ok(response);
    }
    let read = own.words(&document, fetched.bytes, &call.holder()).await;
    if as_resource {
        let mut response = resource(&id, &document.media_type, read.bytes);
        warn(&mut response, &fetched.reported);
        return Ok(response);
    }
    let original = match &document.original {
        Some(original) => Some(binary_url(&clinic, &bearer, &treated, original)?),
        None => None,
    };
    let mut response = content(&document.media_type, &document.language, read.bytes, original.as_deref());
    warn(&mut response, &fetched.reported);
    for (name, value) in [("x-ncp-translation", read.translation), ("x-ncp-warning", read.warning)] {
        response.headers_mut().extend(value.map(|v| (HeaderName::from_static(name), v)));
    }
    Ok(response)
}

/// The document by ITI-39, checked against what was sealed of its metadata and of its patient.
pub(super) async fn fetch(call: &Call, treated: &Treated, document: &Document) -> Result<Retrieved, GatewayError> {
    let source = document.source_patient.as_deref().and_then(|cx| PatientId::parse_cx(cx).ok());
    let wanted = Wanted {
        request: DocumentRequest {
            home: Some(HomeCommunityId(call.peer.home_community_id.0.clone())),
            repository: Oid::parse(&document.repository)?,
            document: document.unique_id.clone(),
        },
        expected: Expected {
            announced: Announced { hash: document.hash, size: document.size },
            is_patient: is_patient(call, source.as_ref(), treated.person.birth_date.clone()),
        },
    };
    retrieve(call, &wanted).await
}

/// A document as FHIR Binary, written piece by piece: no second one stands in memory.
fn resource(id: &str, media_type: &str, bytes: Bytes) -> Response {
    let head = format!(r#"{{"resourceType":"Binary","id":{},"contentType":{},"data":""#, json!(id), json!(media_type));
    let tail = "\"}";
    let length = head.len() + bytes.len().div_ceil(3) * 4 + tail.len();
    let data = stream::unfold(bytes, |mut left| async move {
        let piece = left.split_to(left.len().min(PIECE));
        let encoded = Bytes::from(base64::engine::general_purpose::STANDARD.encode(&piece));
        (!piece.is_empty()).then_some((encoded, left))
    });
    let pieces =
        stream::iter([Bytes::from(head)]).chain(data).chain(stream::iter([Bytes::from_static(tail.as_bytes())]));
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, FHIR_JSON.to_owned()), (header::CONTENT_LENGTH, length.to_string())], body).into_response()
}

/// What the country reported beside what it sent.
pub(super) fn warn(response: &mut Response, reported: &[String]) {
    if !reported.is_empty() {
        let text = format!("299 ncp \"the country reported {}\"", reported.join(", "));
        let value = HeaderValue::try_from(text).ok();
        if let Some(value) = value {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// A document as an answer: never run by a browser, with its digest, with the way to its original.
fn content(media_type: &str, language: &str, bytes: Bytes, original: Option<&str>) -> Response {
    let digest = openssl::sha::sha256(&bytes);
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: String| {
        headers.extend(HeaderValue::try_from(value).ok().map(|v| (HeaderName::from_static(name), v)));
    };
    set("content-type", media_type.to_owned());
    set("content-language", language.to_owned());
    set("repr-digest", format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest)));
    match original {
        Some(url) => set("link", format!("<{url}>; rel=\"original\"")),
        None => set("x-ncp-original-digest", hex::encode(digest)),
    }
    set("content-security-policy", "sandbox".into());
    // No media type is safe to be shown by a browser in our origin: a PDF may act when it is opened.
    set("content-disposition", format!("attachment; filename=\"document.{}\"", extension(media_type)));
    response
}

/// A file name extension of our own choice: nothing of the document's metadata names a file.
fn extension(media_type: &str) -> &'static str {
    match media_type.split(';').next().unwrap_or_default().trim() {
        "application/pdf" => "pdf",
        "text/xml" | "application/xml" | "application/hl7-v3+xml" => "xml",
        "application/fhir+json" | "application/json" => "json",
        "application/dicom" => "dcm",
        "text/plain" => "txt",
        "image/png" => "png",
        "image/jpeg" => "jpg",
        _ => "bin",
    }
}
