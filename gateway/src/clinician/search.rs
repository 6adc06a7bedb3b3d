//! DocumentReference: what the countries that know the patient list, asked at once.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, header};
use ncp_ihe::{Availability, DocumentEntry, FindDocuments, StoredQuery, orcd};
use serde_json::{Value, json};

use super::documents::{binary_url, document_id, sealed_document};
use super::fhir::{answer, patient_id, patient_reference};
use super::prefer::Preferences;
use super::problem::{self, Problem};
use super::reader;
use super::resources::{self, Places};
use super::sealed::{Sealed, Treated, resource_id};
use super::token::Bearer;
use super::{Clinic, Context, bounded};
use crate::config::Peer;
use crate::initiating::ask_all;
use crate::initiating::query::{Found, query};
use crate::outcome::GatewayError;

/// Documents of one answer.
const DOCUMENTS: usize = 1000;

/// `GET /p/{confirmed}/fhir/DocumentReference` (ITI-67).
pub async fn search_documents(
    state: State<Arc<Clinic>>,
    context: Extension<Context>,
    Path(sealed): Path<String>,
    RawQuery(parameters): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bearer = bearer(&state, &context, &headers).await?;
    search(state, context, &bearer, &sealed, &parameters.unwrap_or_default(), &headers).await
}

/// `POST /p/{confirmed}/fhir/DocumentReference/_search`: the same, with the parameters in the body, the URL, or both.
pub async fn post_search(
    state: State<Arc<Clinic>>,
    context: Extension<Context>,
    Path(sealed): Path<String>,
    RawQuery(parameters): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bearer = bearer(&state, &context, &headers).await?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
        return Err(Problem::Request("form", "The body must be application/x-www-form-urlencoded."));
    }
    let body = String::from_utf8_lossy(&bounded::body(body).await?).replace('+', "%20");
    let all = format!("{}&{body}", parameters.unwrap_or_default());
    search(state, context, &bearer, &sealed, &all, &headers).await
}

async fn bearer(clinic: &Clinic, context: &Context, headers: &HeaderMap) -> Result<Bearer, Problem> {
    let covering = [("ITI-67", "DocumentReference")];
    clinic.bearer(context, headers, (&covering, 's'), "user/DocumentReference.rs").await
}

/// Every country for which the treatment was confirmed is asked, each
/// with its deadline; one that fails is an issue beside what the others list.
async fn search(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    bearer: &Bearer,
    sealed: &str,
    parameters: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let text = "Confirm the treatment relationship first: POST Patient/{id}/$confirm-treatment.";
    let Sealed::Confirmed(treated) = clinic.open(bearer, sealed)? else {
        return Err(Problem::Request("treatment-not-confirmed", text));
    };
    let preferences = Preferences::read(headers);
    let filter = Filter::read(parameters, &treated, preferences.strict)?;
    let relationships = treated.each();
    let mut calls = Vec::with_capacity(relationships.len());
    for one in &relationships {
        let mut call = clinic.treatment_call(bearer, one)?;
        call.wait = preferences.wait;
        calls.push(Arc::new(call));
    }
    let status = filter.status.clone();
    let answers = ask_all(calls, move |call| {
        let status = status.clone();
        async move {
            let patient = call.treatment.as_ref().map(|t| t.patient.clone());
            let patient = patient.ok_or(GatewayError::Internal("a search without a patient"))?;
            let find = FindDocuments { status, ..FindDocuments::of_patient(patient) };
            query(&call, StoredQuery::FindDocuments(find)).await
        }
    })
    .await;
    let mut listing = Listing::default();
    for (one, (call, result)) in relationships.into_iter().zip(answers) {
        match result {
            Ok(found) => listing.listed.push(Listed { peer: call.peer.clone(), treated: one, found }),
            Err(error) => {
                tracing::info!(country = %call.peer.country, reason = %error, ncp.reference = %context.reference, "country did not answer");
                listing.failed.push((call.peer.clone(), Problem::Country(call.peer.name.clone(), error)));
            }
        }
    }
    if listing.listed.is_empty() {
        return Err(problem::of_all(listing.failed.into_iter().map(|(_, problem)| problem).collect()));
    }
    let read = listing.listed.iter_mut().map(|listed| {
        let patient = listed.treated.person.patient.as_str();
        let own = reader::Own { clinic: &clinic, context: &context, headers, patient };
        let entries = &mut listed.found.objects.entries;
        async move { own.displays(entries).await }
    });
    listing.own_words = join_all(read).await.into_iter().all(|answered| answered);
    let base = clinic.base('p', sealed, "fhir");
    let mut response = listing.bundle(&clinic, bearer, &treated, &filter, &base, &context)?;
    let applied = HeaderName::from_static("preference-applied");
    response.headers_mut().extend(preferences.applied().map(|value| (applied, value)));
    Ok(response)
}

/// Values of all parameters that narrow a search.
const VALUES: usize = 100;
/// Entries of a page at most.
const PAGE: usize = 200;

/// What a search narrows to; what is not known is ignored, as MHD says, or refused where the caller wants that.
#[derive(Default)]
struct Filter {
    types: Vec<String>,
    content_types: Vec<String>,
    study: Option<String>,
    status: Vec<Availability>,
    /// Entries of a page.
    count: Option<usize>,
    /// Entries of earlier pages, and the digest of the whole list that those were of.
    page: Option<(usize, String)>,
    /// The parameters that were used, as they came.
    used: Vec<String>,
}

impl Filter {
    fn read(query: &str, treated: &Treated, strict: bool) -> Result<Self, Problem> {
        let mut out = Self::default();
        let number = |text: &str| text.parse::<usize>().ok();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            bounded::texts(value.split(','))?;
            let mut used = true;
            match name {
                "_count" => {
                    let count = number(&value).filter(|n| *n > 0);
                    out.count = Some(count.ok_or(Problem::Request("count", "_count is a number from 1."))?.min(PAGE));
                    used = false;
                }
                "_page" => {
                    let page = value.split_once('.').and_then(|(skip, of)| Some((number(skip)?, of.to_owned())));
                    out.page = Some(page.ok_or(Problem::Request("page", "_page is not one of our links."))?);
                    used = false;
                }
                "patient" => {
                    let id = value.rsplit('/').next();
                    if !treated.each().iter().any(|one| id == Some(&patient_id(&one.person))) {
                        return Err(Problem::Request("patient", "patient is not the one of this base."));
                    }
                }
                "type" => out.types.extend(value.split(',').map(|v| v.rsplit('|').next().unwrap_or(v).to_owned())),
                "contenttype" => out.content_types.extend(value.split(',').map(ToOwned::to_owned)),
                "study-instance-uid" => out.study = Some(value.trim_start_matches("urn:oid:").to_owned()),
                "status" => {
                    for status in value.split(',') {
                        match status.rsplit('|').next() {
                            Some("current") => out.status.push(Availability::Approved),
                            Some("superseded") => out.status.push(Availability::Deprecated),
                            _ if strict => return Err(unsupported()),
                            _ => {}
                        }
                    }
                }
                "_format" => {}
                _ if strict => return Err(unsupported()),
                _ => used = false,
            }
            if used {
                out.used.push(pair.to_owned());
            }
        }
        if out.types.len() + out.content_types.len() + out.status.len() > VALUES {
            return Err(Problem::Request("values", "The parameters have too many values."));
        }
        bounded::each_once(&mut out.status);
        if out.status.is_empty() {
            out.status.push(Availability::Approved);
        }
        Ok(out)
    }

    fn takes(&self, entry: &DocumentEntry) -> bool {
        (self.types.is_empty() || self.types.contains(&entry.type_code.code))
            && (self.content_types.is_empty() || self.content_types.contains(&entry.mime_type))
            && self
                .study
                .as_ref()
                .is_none_or(|study| entry.study_instance_uid().is_some_and(|uid| uid.as_str() == study))
    }
}

fn unsupported() -> Problem {
    Problem::Request("not-supported", "A parameter or its value is not supported; handling=lenient ignores it.")
}

/// One country's documents.
struct Listed {
    peer: Arc<Peer>,
    treated: Treated,
    found: Found,
}

/// The answers of all countries.
#[derive(Default)]
struct Listing {
    listed: Vec<Listed>,
    failed: Vec<(Arc<Peer>, Problem)>,
    /// Names of codes are in the reader's words, where there are any.
    own_words: bool,
}

/// A line of one country's list.
struct Line<'a> {
    of: &'a Listed,
    shown: &'a DocumentEntry,
    original: Option<&'a DocumentEntry>,
}

/// The lines of one country's list that the search asks for.
fn lines<'a>(of: &'a Listed, filter: &Filter) -> impl Iterator<Item = Line<'a>> {
    let lines = of.found.objects.lines(|entry| filter.takes(entry)).into_iter();
    lines.map(move |ncp_ihe::Line { shown, original }| Line { of, shown, original })
}

impl Listing {
    /// The searchset: newest first, then by community and id, so that the order is stable.
    fn bundle(
        &self,
        clinic: &Clinic,
        bearer: &Bearer,
        treated: &Treated,
        filter: &Filter,
        base: &str,
        context: &Context,
    ) -> Result<Response, Problem> {
        let mut lines: Vec<Line<'_>> = self.listed.iter().flat_map(|listed| lines(listed, filter)).collect();
        let truncated = lines.len() > DOCUMENTS;
        if truncated && filter.count.is_none() {
            return Err(Problem::TooLarge);
        }
        lines.sort_by(|a, b| {
            let key = |l: &Line<'_>| (l.of.peer.home_community_id.to_string(), l.shown.unique_id.clone());
            b.shown.service_start.cmp(&a.shown.service_start).then_with(|| key(a).cmp(&key(b)))
        });
        lines.truncate(DOCUMENTS);
        let digest = digest(&lines);
        let skip = match &filter.page {
            Some((_, of)) if *of != digest => return Err(Problem::Changed),
            Some((skip, _)) => *skip,
            None => 0,
        };
        let patient = patient_reference(clinic, bearer, treated)?;
        let own = format!("{base}/DocumentReference");
        let count = filter.count.unwrap_or(DOCUMENTS);
        let mut entries = Vec::with_capacity(lines.len().min(count));
        for line in lines.iter().skip(skip).take(count) {
            entries.push(entry(clinic, bearer, line, &patient, &own)?);
        }
        let mut issues = self.issues(&context.reference);
        if truncated {
            let text = format!("Only the newest {DOCUMENTS} documents are shown; narrow the search.");
            issues.push(problem::outcome_issue(
                "warning",
                "too-costly",
                "results-truncated",
                &text,
                &context.reference,
            ));
        }
        let link = |further: &[String]| {
            let all: Vec<&str> = filter.used.iter().chain(further).map(String::as_str).collect();
            if all.is_empty() { own.clone() } else { format!("{own}?{}", all.join("&")) }
        };
        let counted: Vec<String> = filter.count.map(|count| format!("_count={count}")).into_iter().collect();
        let mut links = vec![("self", link(&counted))];
        let next = skip.saturating_add(count);
        if next < lines.len() {
            links.push(("next", link(&[counted, vec![format!("_page={next}.{digest}")]].concat())));
        }
        Ok(answer(&resources::searchset(&links, lines.len(), entries, issues)))
    }

    /// What is missing, country by country.
    fn issues(&self, reference: &str) -> Vec<Value> {
        let mut out: Vec<Value> =
            self.failed.iter().map(|(peer, problem)| problem.warning(&peer.home_community_id, reference)).collect();
        if !self.own_words {
            let text = "Names of codes are as they came: the terminology service did not answer.";
            out.push(problem::outcome_issue("warning", "incomplete", "names-untranslated", text, reference));
        }
        for Listed { peer, found, .. } in &self.listed {
            let mut say = |severity, issue, detail, text: String| {
                let issue = problem::outcome_issue(severity, issue, detail, &text, reference);
                out.push(problem::of_community(issue, &peer.home_community_id));
            };
            if !found.incomplete.is_empty() {
                let caller = found.incomplete.iter().all(|code| matches!(code.as_str(), "4702" | "4703"));
                let (issue, detail) =
                    if caller { ("forbidden", "country-refuses-caller") } else { ("incomplete", "country-partial") };
                let text = format!("{} could not list everything ({}).", peer.name, found.incomplete.join(", "));
                say("warning", issue, detail, text);
            }
            if !found.warnings.is_empty() {
                let text = format!("{} lists its documents with a warning ({}).", peer.name, found.warnings.join(", "));
                say("warning", "informational", "country-warning", text);
            }
            let unusable = found.unusable + found.homeless;
            if unusable > 0 {
                let text = format!("{unusable} entries of {} could not be used.", peer.name);
                say("warning", "incomplete", "entries-unusable", text);
            }
            if found.withheld || (found.objects.entries.is_empty() && found.is_whole()) {
                say("information", "informational", "nothing-shown", problem::nothing_shown(&peer.name));
            }
        }
        out
    }
}

/// What a list is known by in the link to its next page: nothing is kept here, so that it is asked for again.
fn digest(lines: &[Line<'_>]) -> String {
    let mut ids = Vec::with_capacity(lines.len() * 2);
    for line in lines {
        ids.extend([line.of.peer.country.as_str(), &line.shown.unique_id]);
    }
    resource_id(&ids)
}

fn entry(clinic: &Clinic, bearer: &Bearer, line: &Line<'_>, patient: &str, own: &str) -> Result<Value, Problem> {
    let Line { of: Listed { peer, treated, .. }, shown, original } = line;
    // A CDA that stands alone came as a pivot; it is read in the reader's words, and as it came behind the link.
    let alone = shown.mime_type == "text/xml" && orcd::held_media_type(shown).is_none();
    let original_facts = original.or(alone.then_some(*shown)).map(|o| sealed_document(o, None));
    let original_url = match &original_facts {
        Some(facts) => Some(binary_url(clinic, bearer, treated, facts)?),
        None => None,
    };
    let facts = sealed_document(shown, original_facts.map(Box::new));
    let content = binary_url(clinic, bearer, treated, &facts)?;
    let study = match (&facts.study, shown.is_manifest()) {
        (Some(_), true) => {
            let sealed = clinic.seal(bearer, &Sealed::Document(treated.clone(), facts.clone()))?;
            Some(clinic.base('s', &sealed, "dicomweb"))
        }
        _ => None,
    };
    let id = document_id(treated, &facts);
    let places =
        Places { id: &id, patient, content: &content, original: original_url.as_deref(), dicomweb: study.as_deref() };
    Ok(json!({
        "fullUrl": format!("{own}/{id}"),
        "resource": resources::document_reference(shown, &peer.home_community_id, &places),
        "search": { "mode": "match" },
    }))
}
