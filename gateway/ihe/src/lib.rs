//! IHE transactions and their content as typed values: bodies in, bodies out; no sockets, no envelopes.
//!
//! * values: [`Oid`], [`HomeCommunityId`], [`Uid`], [`PatientId`], [`Coded`], [`Dtm`]
//! * `xds`: DocumentEntry and the ebRIM codec, stored queries, ITI-38, ITI-39, RAD-75
//! * `xcpd`: ITI-55
//! * `imaging`: the manifest and its forms (KOS, FHIR)
//! * `orcd`: what MyHealth@EU's CDA documents hold
//! * `cda`: whom a CDA document records
//! * `dicom`: the structure of DICOM objects, whose they are, and what stands in them

pub mod cda;
mod dicom;
mod error;
pub mod imaging;
pub mod orcd;
mod values;
pub mod xcpd;
pub mod xds;

pub use dicom::{DicomHeader, PatientClaim, Scanned, StructureScan, Unsound, for_parser, issuer_parts};
pub use error::MessageError;
pub use imaging::{
    IssuedId, KosDialect, MadoCodes, Manifest, ManifestError, ManifestForm, ManifestInstance, ManifestPatient,
    ManifestSeries,
};
pub use values::{Coded, Dtm, HomeCommunityId, Oid, PatientId, Uid};
pub use xcpd::{Address, PatientAnswer, PatientMatch, PatientQuery, PatientRecord, PatientResponse, PersonName};
pub use xds::{
    Association, Author, Availability, Content, ContentFilter, CrossGatewayQueryRequest, DocumentEntry,
    DocumentRequest, DocumentResponse, EntryType, Filtered, FindDocuments, FindFolders, FindSubmissionSets, Folder,
    Forms, GetAll, ImagingRequest, Line, ObjectIds, QueryResponse, ReferenceId, RegistryError, RegistryObjects,
    RetrieveRequest, RetrieveResponse, ReturnType, SeriesRequest, Severity, Status, StoredQuery, StudyRequest,
    SubmissionSet, TimeRange, like, within,
};

/// `wsa:Action` values.
pub mod actions {
    /// ITI-55 request.
    pub const ITI55_REQUEST: &str = "urn:hl7-org:v3:PRPA_IN201305UV02:CrossGatewayPatientDiscovery";
    /// ITI-55 response.
    pub const ITI55_RESPONSE: &str = "urn:hl7-org:v3:PRPA_IN201306UV02:CrossGatewayPatientDiscovery";
    /// ITI-55 request that asks for a deferred response.
    pub const ITI55_DEFERRED_REQUEST: &str = "urn:hl7-org:v3:PRPA_IN201305UV02:Deferred:CrossGatewayPatientDiscovery";
    /// Acknowledgement of a deferred ITI-55 request.
    pub const ITI55_DEFERRED_RESPONSE: &str = "urn:hl7-org:v3:MCCI_IN000002UV01";
    /// ITI-38 request.
    pub const ITI38_REQUEST: &str = "urn:ihe:iti:2007:CrossGatewayQuery";
    /// ITI-38 response.
    pub const ITI38_RESPONSE: &str = "urn:ihe:iti:2007:CrossGatewayQueryResponse";
    /// ITI-47 request.
    pub const ITI47_REQUEST: &str = "urn:hl7-org:v3:PRPA_IN201305UV02";
    /// ITI-47 response.
    pub const ITI47_RESPONSE: &str = "urn:hl7-org:v3:PRPA_IN201306UV02";
    /// ITI-47, the next page of an answer.
    pub const ITI47_CONTINUE: &str = "urn:hl7-org:v3:QUQI_IN000003UV01_Continue";
    /// ITI-47, no further page is wanted.
    pub const ITI47_CANCEL: &str = "urn:hl7-org:v3:QUQI_IN000003UV01_Cancel";
    /// ITI-39 request.
    pub const ITI39_REQUEST: &str = "urn:ihe:iti:2007:CrossGatewayRetrieve";
    /// ITI-39 response.
    pub const ITI39_RESPONSE: &str = "urn:ihe:iti:2007:CrossGatewayRetrieveResponse";
    /// ITI-18 request.
    pub const ITI18_REQUEST: &str = "urn:ihe:iti:2007:RegistryStoredQuery";
    /// ITI-18 response.
    pub const ITI18_RESPONSE: &str = "urn:ihe:iti:2007:RegistryStoredQueryResponse";
    /// ITI-43 request.
    pub const ITI43_REQUEST: &str = "urn:ihe:iti:2007:RetrieveDocumentSet";
    /// ITI-43 response; also that of RAD-69.
    pub const ITI43_RESPONSE: &str = "urn:ihe:iti:2007:RetrieveDocumentSetResponse";
    /// RAD-69 request.
    pub const RAD69_REQUEST: &str = "urn:ihe:rad:2009:RetrieveImagingDocumentSet";
    /// RAD-75 request.
    pub const RAD75_REQUEST: &str = "urn:ihe:rad:2011:CrossGatewayRetrieveImagingDocumentSet";
    /// RAD-75 response.
    pub const RAD75_RESPONSE: &str = "urn:ihe:rad:2011:CrossGatewayRetrieveImagingDocumentSetResponse";
}

/// Namespaces of the bodies.
pub mod ns {
    /// HL7 v3.
    pub const HL7V3: &str = "urn:hl7-org:v3";
    /// ebRS query.
    pub const QUERY: &str = "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0";
    /// ebRIM.
    pub const RIM: &str = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0";
    /// ebRS.
    pub const RS: &str = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0";
    /// XDS.b.
    pub const XDSB: &str = "urn:ihe:iti:xds-b:2007";
    /// XDS-I.b.
    pub const XDSI: &str = "urn:ihe:rad:xdsi-b:2009";
}
