//! WADO-RS under the sealed base of a study (RAD-107): the manifest by ITI-39, the instances by RAD-75, streamed. What is
//! asked for is a study, a series or an instance; its metadata are read from the instances as they pass.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ncp_ihe::imaging::{ManifestWarning, MetadataView, PIXELS, header_end, metadata as attributes};
use ncp_ihe::{Manifest, PatientId, Uid};
use ncp_soap::{BoxError, OutPart};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::documents::{fetch, warn};
use super::fhir::accepts;
use super::problem::Problem;
use super::sealed::{Document, Sealed, Treated};
use super::token::Bearer;
use super::{Clinic, Context};
use crate::initiating::PeerError;
use crate::initiating::images::{self, Images, Losses, Part};
use crate::instance;
use crate::listener::OutParts;
use crate::outcome::{GatewayError, NEWER};
use crate::passing::Data;
use crate::patient_key::{PatientKey, Person};

/// Bytes of one instance before its pixel data, tried first and at most.
const FIRST: usize = 16 << 10;
const MOST: usize = 4 << 20;
/// Metadata that are read before their answer begins, bytes, and the longest that this takes: who reads JSON waits for its end.
const READY: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const DICOM_JSON: &str = "application/dicom+json";

/// What a path names.
#[derive(Debug, Deserialize)]
pub struct Place {
    pub(super) sealed: String,
    pub(super) study: Option<String>,
    pub(super) series: Option<String>,
    instance: Option<String>,
}

/// A manifest from a moment ago, and how many instances its study has beside it by now.
pub(super) struct Shown {
    manifest: Arc<Manifest>,
    newer: u64,
}

/// What the country said beside a manifest, in our own words.
fn newer(reported: &[String]) -> u64 {
    reported.iter().find_map(|code| code.strip_prefix(NEWER)?.parse().ok()).unwrap_or_default()
}

/// A study that may be shown.
pub(super) struct Opened {
    bearer: Bearer,
    treated: Treated,
    document: Document,
    pub(super) manifest: Arc<Manifest>,
    /// Instances that came to the study since it was listed.
    pub(super) newer: u64,
    /// The base of its resources.
    pub(super) root: String,
}

/// The study of a sealed base, its manifest from a moment ago or by ITI-39.
///
/// # Errors
/// As the caller is told.
pub(super) async fn open(
    clinic: &Clinic,
    context: &Context,
    place: &Place,
    headers: &HeaderMap,
    (transaction, types): (&'static str, &[&str]),
) -> Result<Opened, Problem> {
    let covering = [(transaction, "ImagingStudy"), ("ITI-68", "Binary")];
    let bearer = clinic.bearer(context, headers, (&covering, 'r'), "user/ImagingStudy.r").await?;
    let Sealed::Document(treated, document) = clinic.open(&bearer, &place.sealed)? else {
        return Err(Problem::NotFound);
    };
    for uid in [&place.study, &place.series, &place.instance].into_iter().flatten() {
        Uid::parse(uid).map_err(|_| Problem::Request("uid", "A path names what is no UID."))?;
    }
    let study = document.study.as_deref().and_then(|s| Uid::parse(s).ok()).ok_or(Problem::NotFound)?;
    if place.study.as_deref().is_some_and(|named| named != study.as_str()) {
        return Err(Problem::NotFound);
    }
    if !accepts(headers, types) {
        return Err(Problem::NotAcceptable);
    }
    let root = clinic.base('s', &place.sealed, "dicomweb");
    let shown = match clinic.manifests.get(&place.sealed) {
        Some(shown) => shown,
        None => {
            let call = clinic.treatment_call(&bearer, &treated)?;
            let failed = |error: GatewayError| Problem::Country(call.peer.name.clone(), error);
            let kos = fetch(&call, &treated, &document).await.map_err(failed)?;
            let manifest =
                Manifest::read_kos(&kos.bytes).map_err(|_| failed(PeerError::Malformed("manifest").into()))?;
            if expected(&manifest, &study, &treated, &document).is_none() {
                tracing::warn!(ncp.reference = %context.reference, "manifest is of another study or patient");
                return Err(failed(PeerError::Mismatch.into()));
            }
            if !manifest.warnings.is_empty() {
                let (country, odd) = (&call.peer.country, manifest.odd());
                tracing::warn!(ncp.reference = %context.reference, %country, odd, "manifest is odd");
            }
            let count = manifest.instance_count();
            let shown = Arc::new(Shown { manifest: Arc::new(manifest), newer: newer(&kos.reported) });
            clinic.manifests.put(place.sealed.clone(), shown.clone(), count);
            shown
        }
    };
    let (manifest, newer) = (shown.manifest.clone(), shown.newer);
    Ok(Opened { bearer, treated, document, manifest, newer, root })
}

impl Opened {
    /// Says what the manifest leaves out, and that the study has more by now than this root shows.
    pub(super) fn warn(&self, response: &mut Response) {
        if self.manifest.warnings.iter().any(ManifestWarning::leaves_out) {
            let text = HeaderValue::from_static("299 ncp \"the manifest does not list all of the study\"");
            response.headers_mut().append(header::WARNING, text);
        }
        if let Some(text) = self.arrived()
            && let Ok(value) = HeaderValue::try_from(format!("299 ncp \"{text}\""))
        {
            response.headers_mut().append(header::WARNING, value);
        }
    }

    /// The country whose study it is.
    pub(super) fn country(&self) -> &str {
        &self.treated.person.country
    }

    /// What came to the study since it was listed, in words.
    pub(super) fn arrived(&self) -> Option<String> {
        (self.newer > 0).then(|| format!("{} more instances arrived: search again", self.newer))
    }

    /// The instances that a path names, on their way.
    async fn images(&self, clinic: &Clinic, place: &Place) -> Result<(Images, String), Problem> {
        let part = Part { series: place.series.as_deref(), instance: place.instance.as_deref() };
        if !part.is_in(&self.manifest) {
            return Err(Problem::NotFound);
        }
        let call = Arc::new(clinic.treatment_call(&self.bearer, &self.treated)?);
        let name = call.peer.name.clone();
        let failed = |error: GatewayError| Problem::Country(name.clone(), error);
        let expected = expected(&self.manifest, &self.manifest.study, &self.treated, &self.document);
        let expected = expected.ok_or_else(|| failed(PeerError::Mismatch.into()))?;
        let watch = clinic.statuses.watch(&place.sealed);
        let images = images::images(call, &self.manifest, part, expected, watch).await.map_err(failed)?;
        Ok((images, name))
    }
}

/// `GET …/studies/{study}[/series/{series}[/instances/{instance}]]`
pub async fn retrieve(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path(place): Path<Place>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let types = ["multipart/related", "application/dicom"];
    let opened = open(&clinic, &context, &place, &headers, ("RAD-107", &types)).await?;
    let (images, _) = opened.images(&clinic, &place).await?;
    let alone = place.instance.is_some() && !accepts(&headers, &types[..1]);
    let mut response = if alone { single(images, &opened.root) } else { multipart(images, &opened.root) };
    opened.warn(&mut response);
    Ok(response)
}

/// `GET …/metadata`: an element for each instance that came. One that cannot be had is left out and named: by a Warning when
/// that is known before the first byte, and by the status resource in any case.
pub async fn metadata(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path(place): Path<Place>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let types = [DICOM_JSON, "application/json"];
    let opened = open(&clinic, &context, &place, &headers, ("RAD-107", &types)).await?;
    let (Images { total, unlisted, losses, reported, parts }, name) = opened.images(&clinic, &place).await?;
    let mut elements = Box::pin(elements(parts, losses.clone(), opened.manifest.clone(), opened.root.clone()));
    let (mut ready, mut length, mut ended) = (Vec::new(), 0, false);
    let until = Instant::now() + PATIENCE;
    while length < READY {
        match timeout_at(until, elements.next()).await {
            Ok(Some(element)) => {
                length += element.len();
                ready.push(element);
            }
            Ok(None) => {
                ended = true;
                break;
            }
            Err(_) => break,
        }
    }
    let lost = losses.count();
    if ended && ready.is_empty() {
        tracing::warn!(ncp.reference = %context.reference, lost, "no instance has metadata");
        let why = losses.error().unwrap_or(PeerError::BrokeOff);
        return Err(Problem::Country(name, why.into()));
    }
    let mut elements = futures_util::stream::iter(ready).chain(elements);
    let body: Data = Box::pin(async_stream::stream! {
        let mut before = "[";
        while let Some(element) = elements.next().await {
            yield Ok::<_, BoxError>(Bytes::from_static(std::mem::replace(&mut before, ",").as_bytes()));
            yield Ok(element);
        }
        yield Ok(Bytes::from_static(if before == "[" { b"[]" } else { b"]" }));
    });
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(DICOM_JSON));
    let lost = (lost + unlisted, losses.retry_after());
    counted(&mut response, total + unlisted, lost, &opened.root);
    warn(&mut response, &reported);
    opened.warn(&mut response);
    Ok(response)
}

/// The attributes of each instance as JSON, once it has come whole; of one instance no more than its header is held.
fn elements(
    mut parts: OutParts,
    losses: Losses,
    manifest: Arc<Manifest>,
    root: String,
) -> impl Stream<Item = Bytes> + Send {
    async_stream::stream! {
        let mut read: Option<(String, Bytes)> = None;
        loop {
            // How an instance ended is known when the next is asked for.
            let next = parts.next().await;
            if let Some((instance, element)) = read.take()
                && !losses.has(&instance)
            {
                yield element;
            }
            // An error comes after all others and says no more than the losses do.
            let Some(Ok(part)) = next else { break };
            let instance = part.content_id.clone();
            let header = header_of(part).await;
            match header.ok().and_then(|header| element(&header, &manifest, &root)) {
                Some(element) => read = Some((instance, element)),
                None => losses.unreadable(&instance),
            }
        }
    }
}

fn element(header: &[u8], manifest: &Manifest, root: &str) -> Option<Bytes> {
    let ncp_ihe::Scanned::Header(ids) = ncp_ihe::DicomHeader::scan(header, true) else { return None };
    let series =
        manifest.series.iter().find(|s| s.instances.iter().any(|i| i.sop_instance.as_str() == ids.sop_instance))?;
    let url = format!("{root}/studies/{}/series/{}/instances/{}", manifest.study, series.series, ids.sop_instance);
    let patient_id = manifest.patient.ids.first().map(|issued| issued.id.as_str());
    attributes(header, &MetadataView { retrieve_url: Some(&url), patient_id }).ok().map(Bytes::from)
}

/// The bytes before the pixel data; what follows is read to its end and forgotten.
async fn header_of(mut part: OutPart) -> Result<Bytes, BoxError> {
    let mut held = BytesMut::new();
    let mut enough = FIRST;
    loop {
        let mut ended = false;
        while held.len() < enough {
            match part.data.next().await.transpose()? {
                Some(chunk) => held.extend_from_slice(&chunk),
                None => {
                    ended = true;
                    break;
                }
            }
        }
        if let Some(end) = header_end(&held, PIXELS, ended)? {
            held.truncate(end);
            break;
        }
        if ended {
            break;
        }
        if held.len() >= MOST {
            Err("an instance's attributes are too long")?;
        }
        enough = (held.len() * 2).min(MOST);
    }
    while part.data.next().await.transpose()?.is_some() {}
    Ok(held.freeze())
}

/// What instances must agree with; none when the manifest itself does not agree with what was sealed.
fn expected(manifest: &Manifest, study: &Uid, treated: &Treated, document: &Document) -> Option<instance::Expected> {
    if manifest.study != *study {
        return None;
    }
    let person = &treated.person;
    let own = PatientId::parse_cx(&person.patient).ok()?;
    let source = document.source_patient.as_deref().and_then(|cx| PatientId::parse_cx(cx).ok());
    let known: Vec<PatientKey> = std::iter::once(&own).chain(&source).map(PatientKey::of).collect();
    let ids = &manifest.patient.ids;
    let birth = manifest.patient.birth_date.as_ref();
    let same_person = ids.is_empty() || ids.iter().any(|issued| known.iter().any(|key| key.is(issued)));
    let same_birth = person.birth_date.as_ref().zip(birth).is_none_or(|(a, b)| a == b);
    // What the manifest tells of an id is more than what is known without it.
    let mut patient_ids = PatientKey::told(ids);
    patient_ids.extend(known.into_iter().filter(|key| ids.iter().all(|issued| issued.id != key.id)));
    (same_person && same_birth).then(|| instance::Expected {
        study: study.clone(),
        patient_ids: Some(patient_ids),
        person: Person { birth_date: person.birth_date.clone(), ..Person::default() },
        transfer_syntaxes: images::ANY_SYNTAX.map(ToOwned::to_owned).to_vec(),
    })
}

/// The parts in the form of PS3.18 8.7: whole, or without a closing boundary.
fn multipart(images: Images, root: &str) -> Response {
    let boundary = ncp_soap::mime::boundary();
    let content_type = format!("multipart/related; type=\"application/dicom\"; boundary={boundary}");
    let lost = (images.losses.count() + images.unlisted, images.losses.retry_after());
    let parts = images.parts.map(|part| part.map(|part| OutPart { content_id: String::new(), ..part }));
    let body = ncp_soap::mime::write_multipart(&boundary, None, parts);
    let mut response = Body::new(body).into_response();
    response.headers_mut().extend(HeaderValue::try_from(content_type).ok().map(|v| (header::CONTENT_TYPE, v)));
    counted(&mut response, images.total + images.unlisted, lost, root);
    warn(&mut response, &images.reported);
    response
}

/// One instance as it is.
fn single(Images { total, losses, reported, mut parts, .. }: Images, root: &str) -> Response {
    let lost = (losses.count(), losses.retry_after());
    let body: Data = Box::pin(async_stream::try_stream! {
        while let Some(part) = parts.next().await {
            let mut part: OutPart = part?;
            while let Some(chunk) = part.data.next().await {
                yield chunk?;
            }
        }
    });
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/dicom"));
    counted(&mut response, total, lost, root);
    warn(&mut response, &reported);
    response
}

/// How many instances there are, how many of them will not come, when they may (RFC 9110 10.2.3), and where it is told which;
/// and never shown by a browser.
fn counted(response: &mut Response, total: usize, (lost, later): (usize, Option<u64>), root: &str) {
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-ncp-instances"), HeaderValue::from(total));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    let status = format!("<{root}/status>; rel=\"status\"");
    headers.extend(HeaderValue::try_from(status).ok().map(|v| (header::LINK, v)));
    headers.extend(later.map(|seconds| (header::RETRY_AFTER, HeaderValue::from(seconds))));
    if lost > 0 {
        let text = format!("299 ncp \"{lost} of {total} instances not available\"");
        headers.extend(HeaderValue::try_from(text).ok().map(|v| (header::WARNING, v)));
    }
}
