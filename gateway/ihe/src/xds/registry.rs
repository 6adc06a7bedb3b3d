//! Registry responses: status, errors, and the answer of ITI-38 (ITI TF-3: 4.2.4).

use ncp_xml::Element;

use super::metadata::{DocumentEntry, RegistryObjects};
use super::{ebrim, packages};
use crate::ns::{QUERY, RIM, RS};
use crate::{HomeCommunityId, MessageError};

/// Status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Success,
    /// PartialSuccess.
    PartialSuccess,
    /// Failure.
    Failure,
    /// The answer carries no status, which OpenNCP does when a right is missing. It is read as a failure and never sent.
    Missing,
}

impl Status {
    /// The URN.
    pub fn urn(self) -> &'static str {
        match self {
            Self::Success => "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success",
            Self::PartialSuccess => "urn:ihe:iti:2007:ResponseStatusType:PartialSuccess",
            Self::Failure | Self::Missing => "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure",
        }
    }

    fn parse(urn: &str) -> Result<Self, MessageError> {
        match urn.rsplit(':').next() {
            Some("Success") => Ok(Self::Success),
            Some("PartialSuccess") => Ok(Self::PartialSuccess),
            Some("Failure") => Ok(Self::Failure),
            _ => Err(MessageError::Malformed("status")),
        }
    }
}

/// Severity of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Error.
    Error,
    /// Warning.
    Warning,
}

/// One RegistryError.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryError {
    /// errorCode.
    pub code: String,
    /// codeContext.
    pub context: String,
    /// severity.
    pub severity: Severity,
    /// location.
    pub location: Option<String>,
}

const SEVERITY: &str = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:";

pub(super) fn write_errors(errors: &[RegistryError]) -> Option<Element> {
    let write = |error: &RegistryError| {
        let severity = if error.severity == Severity::Error { "Error" } else { "Warning" };
        let mut out = Element::new(RS, "RegistryError")
            .attr("errorCode", error.code.as_str())
            .attr("codeContext", error.context.as_str())
            .attr("severity", format!("{SEVERITY}{severity}"));
        if let Some(location) = &error.location {
            out.set_attr("", "location", location.as_str());
        }
        out
    };
    // The severest of the list stands on it (ebRS 2.1.6.3); OpenNCP leaves it out.
    let highest = if errors.iter().any(|e| e.severity == Severity::Error) { "Error" } else { "Warning" };
    (!errors.is_empty()).then(|| {
        Element::new(RS, "RegistryErrorList")
            .attr("highestSeverity", format!("{SEVERITY}{highest}"))
            .with_all(errors.iter().map(write))
    })
}

pub(super) fn read_errors(holder: &Element) -> Vec<RegistryError> {
    let lists = holder.all(RS, "RegistryErrorList");
    lists
        .flat_map(|list| list.all(RS, "RegistryError"))
        .map(|error| RegistryError {
            code: error.get("errorCode").unwrap_or_default().to_owned(),
            context: error.get("codeContext").unwrap_or_default().to_owned(),
            severity: match error.get("severity") {
                Some(severity) if severity.ends_with("Warning") => Severity::Warning,
                _ => Severity::Error,
            },
            location: error.get("location").map(ToOwned::to_owned),
        })
        .collect()
}

pub(super) fn read_status(holder: &Element) -> Result<Status, MessageError> {
    holder.get("status").map_or(Ok(Status::Missing), Status::parse)
}

/// Answer of a stored query.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryResponse {
    /// Status.
    pub status: Status,
    /// Errors and warnings.
    pub errors: Vec<RegistryError>,
    /// Full objects (LeafClass).
    pub objects: RegistryObjects,
    /// ObjectRefs: entryUUID and home.
    pub object_refs: Vec<(String, Option<HomeCommunityId>)>,
}

impl QueryResponse {
    /// Writes an AdhocQueryResponse; the error list comes before the object list, which is always there.
    pub fn to_element(&self) -> Element {
        let references = self.object_refs.iter().map(write_reference);
        let objects = self.objects.to_element().with_all(references);
        Element::new(QUERY, "AdhocQueryResponse")
            .attr("status", self.status.urn())
            .with_all(write_errors(&self.errors))
            .with(objects)
    }

    /// The message in two: an AdhocQueryResponse whose list has a gap, and the elements that stand there, each made when
    /// it is asked for. A long answer is written without being held.
    pub fn into_listing(self) -> (Element, impl Iterator<Item = Element> + Send) {
        self.into_listing_with(std::iter::empty())
    }

    /// The same, with further entries that are made when they are written.
    pub fn into_listing_with(
        self,
        further: impl Iterator<Item = DocumentEntry> + Send,
    ) -> (Element, impl Iterator<Item = Element> + Send) {
        let Self { status, errors, objects, object_refs } = self;
        let RegistryObjects { entries, submission_sets, folders, associations } = objects;
        let shell = Element::new(QUERY, "AdhocQueryResponse")
            .attr("status", status.urn())
            .with_all(write_errors(&errors))
            .with(list().gap());
        let objects = entries.into_iter().chain(further).map(|entry| ebrim::write_entry(&entry));
        let objects = objects.chain(submission_sets.into_iter().map(|set| packages::write_set(&set)));
        let objects = objects.chain(folders.into_iter().map(|folder| packages::write_folder(&folder)));
        let objects = objects.chain(associations.into_iter().map(|association| ebrim::write_association(&association)));
        (shell, objects.chain(object_refs.into_iter().map(|reference| write_reference(&reference))))
    }

    /// Reads an AdhocQueryResponse. Entries that cannot be used are left out and counted.
    ///
    /// # Errors
    /// Another element, or no status.
    pub fn read(body: &Element) -> Result<(Self, usize), MessageError> {
        if !body.is(QUERY, "AdhocQueryResponse") {
            return Err(MessageError::Malformed("AdhocQueryResponse"));
        }
        let mut out = Self {
            status: read_status(body)?,
            errors: read_errors(body),
            objects: RegistryObjects::default(),
            object_refs: Vec::new(),
        };
        let mut unusable = 0;
        for list in body.all(RIM, "RegistryObjectList") {
            unusable += out.objects.read_list(list);
            for reference in list.all(RIM, "ObjectRef") {
                let home = reference.get("home").and_then(|h| HomeCommunityId::parse(h).ok());
                out.object_refs.extend(reference.get("id").map(|id| (id.to_owned(), home)));
            }
        }
        Ok((out, unusable))
    }
}

fn list() -> Element {
    Element::new(RIM, "RegistryObjectList").declare("rim", RIM)
}

fn write_reference((id, home): &(String, Option<HomeCommunityId>)) -> Element {
    let reference = Element::new(RIM, "ObjectRef").attr("id", id.as_str());
    match home {
        Some(home) => reference.attr("home", home.to_string()),
        None => reference,
    }
}

impl RegistryObjects {
    /// The elements that a long answer is read apart by: one for each DocumentEntry.
    pub const LISTED: (&str, &str) = (RIM, "ExtrinsicObject");

    /// Adds a DocumentEntry that was read apart.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn read_listed(&mut self, object: &Element) -> Result<(), MessageError> {
        self.entries.push(ebrim::read_entry(object)?);
        Ok(())
    }

    /// Writes a RegistryObjectList.
    pub fn to_element(&self) -> Element {
        list()
            .with_all(self.entries.iter().map(ebrim::write_entry))
            .with_all(self.submission_sets.iter().map(packages::write_set))
            .with_all(self.folders.iter().map(packages::write_folder))
            .with_all(self.associations.iter().map(ebrim::write_association))
    }

    /// Adds what a RegistryObjectList holds; the answer is how many objects could not be used.
    pub fn read_list(&mut self, list: &Element) -> usize {
        let beside: Vec<&Element> = list.all(RIM, "Classification").collect();
        let mut unusable = 0;
        for object in list.elements() {
            let read = match object.local() {
                "ExtrinsicObject" => ebrim::read_entry(object).map(|entry| self.entries.push(entry)),
                "RegistryPackage" => packages::read_package(object, &beside, self),
                "Association" => {
                    self.associations.extend(ebrim::read_association(object));
                    Ok(())
                }
                _ => Ok(()),
            };
            unusable += usize::from(read.is_err());
        }
        unusable
    }
}
