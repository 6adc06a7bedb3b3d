//! What another country sent, in the words of its reader. Codes stay as they came; their names are the reader's where the
//! terminology service has them. Without an answer in time everything goes on as it came, said so: nothing is held back.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use ncp_audit::Event;
use ncp_ihe::DocumentEntry;
use ncp_proto::translation::Direction;

use super::sealed::Document;
use super::{Clinic, Context};
use crate::audit_scope::transcoding;
use crate::translate;
use crate::whole::Holder;

/// A document as its reader gets it.
pub struct Read {
    /// Its bytes.
    pub bytes: Bytes,
    /// Languages asked for and the snapshot that answered.
    pub translation: Option<HeaderValue>,
    /// Why it is as it came.
    pub warning: Option<HeaderValue>,
}

/// Whose words.
pub struct Own<'a> {
    /// The program.
    pub clinic: &'a Clinic,
    /// The call.
    pub context: &'a Context,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// CX of the patient.
    pub patient: &'a str,
}

impl Own<'_> {
    /// A pivot with designations in the reader's language; an original, and anything that is no report, is never touched.
    /// What was translated is on the trail before it is read.
    pub async fn words(&self, document: &Document, bytes: Bytes, holder: &Holder) -> Read {
        let kept = |bytes, warning| Read { bytes, translation: None, warning };
        let translated = ["xml", "fhir+json"].iter().any(|kind| document.media_type.contains(kind));
        if document.original.is_none() || !translated {
            return kept(bytes, None);
        }
        let Some(translator) = &self.clinic.app.translator else {
            return kept(bytes, Some(HeaderValue::from_static("not translated: no terminology service")));
        };
        let languages = languages(self.clinic, self.headers);
        let direction = Direction::PivotToLanguage;
        let done = match translator.document(&document.media_type, bytes.clone(), direction, (&languages, holder)).await
        {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(reason = %error, "document not translated for its reader");
                let text = "not translated: the codes' own designations stand";
                return kept(bytes, Some(HeaderValue::from_static(text)));
            }
        };
        let id = &document.unique_id;
        let event = Event::Translated(transcoding(id, id, self.patient.to_owned(), &done));
        if self.clinic.record(&event, self.context).await.is_err() {
            return kept(bytes, Some(HeaderValue::from_static("not translated: the audit trail did not take it")));
        }
        let said = format!(
            "languages=\"{languages}\"; snapshot={}; seen={}; written={}; unmapped={}",
            done.snapshot,
            done.summary.seen,
            done.summary.mapped + done.summary.approximate,
            done.summary.unmapped
        );
        Read { bytes: done.bytes, translation: HeaderValue::try_from(said).ok(), warning: None }
    }

    /// Names of the codes of entries in the reader's language; false when the service did not answer. What was translated
    /// is on the trail before it is read.
    pub async fn displays(&self, entries: &mut [DocumentEntry]) -> bool {
        let Some(translator) = &self.clinic.app.translator else { return true };
        if entries.is_empty() {
            return true;
        }
        let names = match translator.names(entries, &languages(self.clinic, self.headers)).await {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(reason = %error, "metadata not translated for its reader");
                return false;
            }
        };
        let (patient, count) = (self.patient.to_owned(), entries.len() as u64);
        let event = Event::NamesTranslated { patient, entries: count, maps: names.snapshot().to_owned() };
        if self.clinic.record(&event, self.context).await.is_err() {
            return false;
        }
        names.give(entries);
        true
    }
}

fn languages(clinic: &Clinic, headers: &HeaderMap) -> String {
    let accept = headers.get(header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok());
    let own = clinic.app.config.translation.as_ref().map(|t| t.reader_language.as_str()).unwrap_or_default();
    translate::reader_languages(accept, own)
}
