//! ITI-39 and RAD-75 bodies (ITI TF-2: 3.39, 3.43; RAD TF-2: 4.69, 4.75).

use bytes::Bytes;
use ncp_xml::Element;

use super::registry::{RegistryError, Status, read_errors, read_status, write_errors};
use crate::ns::{RS, XDSB, XDSI};
use crate::{HomeCommunityId, MessageError, Oid, Uid};

const XOP: &str = "http://www.w3.org/2004/08/xop/include";
/// Units in one request.
const MOST: usize = 100_000;

/// One document or instance asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentRequest {
    /// HomeCommunityId.
    pub home: Option<HomeCommunityId>,
    /// RepositoryUniqueId; for an instance the Retrieve Location UID.
    pub repository: Oid,
    /// DocumentUniqueId; for an instance the SOP Instance UID.
    pub document: String,
}

impl DocumentRequest {
    fn read(element: &Element) -> Result<Self, MessageError> {
        let text = |local: &str| element.child(XDSB, local).map(Element::trimmed).filter(|t| !t.is_empty());
        let home = match text("HomeCommunityId") {
            Some(home) => Some(HomeCommunityId::parse(&home).map_err(|_| MessageError::HomeCommunityUnknown)?),
            None => None,
        };
        let repository = text("RepositoryUniqueId").ok_or(MessageError::Malformed("RepositoryUniqueId"))?;
        let document = text("DocumentUniqueId").filter(|d| d.len() <= 256);
        Ok(Self {
            home,
            repository: Oid::parse(&repository).map_err(|_| MessageError::RepositoryUnknown)?,
            document: document.ok_or(MessageError::Malformed("DocumentUniqueId"))?,
        })
    }

    fn children(&self) -> Vec<Element> {
        let text = |local: &str, value: String| Element::new(XDSB, local).text(value);
        let home = self.home.as_ref().map(|h| text("HomeCommunityId", h.to_string()));
        let mut out: Vec<Element> = home.into_iter().collect();
        out.push(text("RepositoryUniqueId", self.repository.to_string()));
        out.push(text("DocumentUniqueId", self.document.clone()));
        out
    }

    fn to_element(&self) -> Element {
        Element::new(XDSB, "DocumentRequest").with_all(self.children())
    }
}

/// RetrieveDocumentSetRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrieveRequest {
    /// At least one.
    pub documents: Vec<DocumentRequest>,
}

impl RetrieveRequest {
    /// Reads the body of ITI-39.
    ///
    /// # Errors
    /// Malformed or empty.
    pub fn read(body: &Element) -> Result<Self, MessageError> {
        if !body.is(XDSB, "RetrieveDocumentSetRequest") {
            return Err(MessageError::Malformed("RetrieveDocumentSetRequest"));
        }
        let documents: Vec<_> =
            body.all(XDSB, "DocumentRequest").map(DocumentRequest::read).collect::<Result<_, _>>()?;
        if documents.is_empty() || documents.len() > 1000 {
            return Err(MessageError::Malformed("DocumentRequest"));
        }
        Ok(Self { documents })
    }

    /// Writes it.
    pub fn to_element(&self) -> Element {
        Element::new(XDSB, "RetrieveDocumentSetRequest")
            .with_all(self.documents.iter().map(DocumentRequest::to_element))
    }
}

/// RetrieveImagingDocumentSetRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagingRequest {
    /// Studies.
    pub studies: Vec<StudyRequest>,
    /// Transfer syntaxes that the requester takes; no order of preference.
    pub transfer_syntaxes: Vec<Uid>,
}

/// One study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyRequest {
    /// Study Instance UID.
    pub study: Uid,
    /// Series.
    pub series: Vec<SeriesRequest>,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesRequest {
    /// Series Instance UID.
    pub series: Uid,
    /// Instances.
    pub instances: Vec<DocumentRequest>,
}

impl ImagingRequest {
    /// Reads the body of RAD-69 and RAD-75.
    ///
    /// # Errors
    /// Malformed, empty at any level, or too many instances.
    pub fn read(body: &Element) -> Result<Self, MessageError> {
        if !body.is(XDSI, "RetrieveImagingDocumentSetRequest") {
            return Err(MessageError::Malformed("RetrieveImagingDocumentSetRequest"));
        }
        let mut count = 0;
        let mut studies = Vec::new();
        for study in body.all(XDSI, "StudyRequest") {
            let mut all = Vec::new();
            for series in study.all(XDSI, "SeriesRequest") {
                let mut instances: Vec<_> =
                    series.all(XDSB, "DocumentRequest").map(DocumentRequest::read).collect::<Result<_, _>>()?;
                count += instances.len();
                // What is asked for twice comes once: a part has one Content-ID.
                let mut seen = std::collections::HashSet::new();
                instances.retain(|i| seen.insert((i.repository.clone(), i.document.clone())));
                if instances.is_empty() || count > MOST {
                    return Err(MessageError::Malformed("DocumentRequest"));
                }
                if instances.iter().any(|i| Uid::parse(&i.document).is_err()) {
                    return Err(MessageError::Malformed("SOP Instance UID"));
                }
                let uid = series.get("seriesInstanceUID").ok_or(MessageError::Malformed("seriesInstanceUID"))?;
                all.push(SeriesRequest { series: Uid::parse(uid)?, instances });
            }
            let uid = study.get("studyInstanceUID").ok_or(MessageError::Malformed("studyInstanceUID"))?;
            if all.is_empty() {
                return Err(MessageError::Malformed("SeriesRequest"));
            }
            studies.push(StudyRequest { study: Uid::parse(uid)?, series: all });
        }
        let list = body.child(XDSI, "TransferSyntaxUIDList").ok_or(MessageError::Malformed("TransferSyntaxUIDList"))?;
        let syntaxes = list.all(XDSI, "TransferSyntaxUID").map(|t| Uid::parse(&t.trimmed()));
        let transfer_syntaxes: Vec<Uid> = syntaxes.collect::<Result<_, _>>()?;
        if studies.is_empty() || transfer_syntaxes.is_empty() || transfer_syntaxes.len() > 200 {
            return Err(MessageError::Malformed("StudyRequest"));
        }
        Ok(Self { studies, transfer_syntaxes })
    }

    /// Writes it.
    pub fn to_element(&self) -> Element {
        let series = |s: &SeriesRequest| {
            Element::new(XDSI, "SeriesRequest")
                .attr("seriesInstanceUID", s.series.as_str())
                .with_all(s.instances.iter().map(DocumentRequest::to_element))
        };
        let study = |s: &StudyRequest| {
            Element::new(XDSI, "StudyRequest")
                .attr("studyInstanceUID", s.study.as_str())
                .with_all(s.series.iter().map(series))
        };
        let syntaxes = self.transfer_syntaxes.iter().map(|t| Element::new(XDSI, "TransferSyntaxUID").text(t.as_str()));
        Element::new(XDSI, "RetrieveImagingDocumentSetRequest")
            .declare("rad", XDSI)
            .declare("ihe", XDSB)
            .with_all(self.studies.iter().map(study))
            .with(Element::new(XDSI, "TransferSyntaxUIDList").with_all(syntaxes))
    }
}

/// RetrieveDocumentSetResponse: the root part only.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrieveResponse {
    /// Status.
    pub status: Status,
    /// Errors and warnings.
    pub errors: Vec<RegistryError>,
    /// What comes.
    pub documents: Vec<DocumentResponse>,
}

/// One document or instance that comes.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentResponse {
    /// Echo of the request.
    pub request: DocumentRequest,
    /// NewDocumentUniqueId.
    pub new_document: Option<String>,
    /// mimeType.
    pub media_type: String,
    /// Where its bytes are.
    pub content: Content,
}

/// Bytes by reference or in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Content-ID of a part.
    Include(String),
    /// base64 in the message, decoded.
    Inline(Bytes),
}

impl RetrieveResponse {
    /// Writes it; content by reference is written as an Include made by `include`.
    pub fn to_element_with(&self, include: impl Fn(&str) -> Element) -> Element {
        let document = |d: &DocumentResponse| {
            let holder = Element::new(XDSB, "Document");
            let holder = match &d.content {
                Content::Include(id) => holder.with(include(id)),
                Content::Inline(bytes) => holder.text(openssl::base64::encode_block(bytes)),
            };
            let new = d.new_document.as_ref().map(|n| Element::new(XDSB, "NewDocumentUniqueId").text(n.as_str()));
            Element::new(XDSB, "DocumentResponse")
                .with_all(d.request.children())
                .with_all(new)
                .with(Element::new(XDSB, "mimeType").text(d.media_type.as_str()))
                .with(holder)
        };
        let registry =
            Element::new(RS, "RegistryResponse").attr("status", self.status.urn()).with_all(write_errors(&self.errors));
        Element::new(XDSB, "RetrieveDocumentSetResponse").with(registry).with_all(self.documents.iter().map(document))
    }

    /// Writes it with XOP Includes.
    pub fn to_element(&self) -> Element {
        self.to_element_with(|id| {
            let href: String = percent_encoding::utf8_percent_encode(id, percent_encoding::CONTROLS).collect();
            Element::new(XOP, "Include").attr("href", format!("cid:{href}"))
        })
    }

    /// Reads it. `content` reads a Document element: an Include's Content-ID or inline bytes.
    ///
    /// # Errors
    /// Malformed.
    pub fn read<E>(body: &Element, content: impl Fn(&Element) -> Result<Content, E>) -> Result<Self, MessageError> {
        if !body.is(XDSB, "RetrieveDocumentSetResponse") {
            return Err(MessageError::Malformed("RetrieveDocumentSetResponse"));
        }
        let registry = body.child(RS, "RegistryResponse").ok_or(MessageError::Malformed("RegistryResponse"))?;
        let mut documents = Vec::new();
        for response in body.all(XDSB, "DocumentResponse") {
            let holder = response.child(XDSB, "Document").ok_or(MessageError::Malformed("Document"))?;
            documents.push(DocumentResponse {
                request: DocumentRequest::read(response)?,
                new_document: response.child(XDSB, "NewDocumentUniqueId").map(Element::trimmed),
                media_type: response.child(XDSB, "mimeType").map(Element::trimmed).unwrap_or_default(),
                content: content(holder).map_err(|_| MessageError::Malformed("Document"))?,
            });
        }
        Ok(Self { status: read_status(registry)?, errors: read_errors(registry), documents })
    }
}
