//! WADO-RS of one study (RAD-107) under its sealed base: the manifest by ITI-39, the instances by RAD-75, streamed.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ncp_ihe::{Manifest, Uid};

use super::documents::fetch;
use super::fhir::accepts;
use super::problem::Problem;
use super::sealed::{Document, Sealed, Treated};
use super::{Clinic, Context};
use crate::initiating::PeerError;
use crate::initiating::images::{self, Images};
use crate::instance;
use crate::outcome::GatewayError;

/// `GET /s/{sealed}/dicomweb/studies/{study}`
pub async fn retrieve_study(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path((sealed, study)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let covering = [("RAD-107", "ImagingStudy"), ("ITI-68", "Binary")];
    let bearer = clinic.bearer(&context, &headers, &covering, "user/ImagingStudy.r").await?;
    let Sealed::Document(treated, document) = clinic.open(&bearer, &sealed)? else {
        return Err(Problem::NotFound);
    };
    let study = Uid::parse(&study).map_err(|_| Problem::NotFound)?;
    if document.study.as_deref() != Some(study.as_str()) {
        return Err(Problem::NotFound);
    }
    if !accepts(&headers, &["multipart/related", "application/dicom"]) {
        return Err(Problem::NotAcceptable);
    }
    let call = Arc::new(clinic.treatment_call(&bearer, &treated)?);
    let name = call.peer.name.clone();
    let failed = |error: GatewayError| Problem::Country(name.clone(), error);
    let kos = fetch(&call, &document).await.map_err(failed)?;
    let manifest = Manifest::read_kos(&kos.bytes).map_err(|_| failed(PeerError::Malformed("manifest").into()))?;
    let expected = expected(&manifest, &study, &treated, &document).ok_or_else(|| {
        tracing::warn!(ncp.reference = %context.reference, "manifest is of another study or patient");
        failed(PeerError::Mismatch.into())
    })?;
    let images = images::images(call, &manifest, expected).await.map_err(failed)?;
    Ok(multipart(images))
}

/// What instances must agree with; none when the manifest itself does not agree with what was sealed.
fn expected(manifest: &Manifest, study: &Uid, treated: &Treated, document: &Document) -> Option<instance::Expected> {
    if manifest.study != *study {
        return None;
    }
    let person = &treated.person;
    let own = ncp_ihe::PatientId::parse_cx(&person.patient).ok()?.extension;
    let known: Vec<String> = std::iter::once(own).chain(document.source_patient.clone()).collect();
    let ids = &manifest.patient.ids;
    let birth = manifest.patient.birth_date.as_ref();
    let same_person = ids.is_empty() || ids.iter().any(|i| known.contains(&i.id));
    let same_birth = person.birth_date.as_ref().zip(birth).is_none_or(|(a, b)| a == b);
    let patient_ids = known.iter().cloned().chain(ids.iter().map(|i| i.id.clone())).collect();
    (same_person && same_birth).then(|| instance::Expected {
        study: study.clone(),
        patient_ids: Some(patient_ids),
        birth_date: person.birth_date.clone(),
        transfer_syntaxes: Vec::new(),
    })
}

/// The parts in the form of PS3.18 8.7: whole, or without a closing boundary.
fn multipart(images: Images) -> Response {
    let boundary = ncp_soap::mime::boundary();
    let content_type = format!("multipart/related; type=\"application/dicom\"; boundary={boundary}");
    let body = ncp_soap::mime::write_multipart(&boundary, None, images.parts.boxed());
    let mut response = Body::new(body).into_response();
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(content_type).ok().map(|v| (header::CONTENT_TYPE, v)));
    let count = HeaderValue::from(images.total);
    headers.insert(HeaderName::from_static("x-ncp-instances"), count);
    if images.refused > 0 {
        let text = format!("299 ncp \"{} of {} instances not available\"", images.refused, images.total);
        headers.extend(HeaderValue::try_from(text).ok().map(|v| (header::WARNING, v)));
    }
    response
}
