//! XDS metadata and the XDS.b, XCA and XCA-I bodies.

mod ebrim;
mod lines;
mod metadata;
mod packages;
mod query;
mod registry;
mod retrieve;
mod within;

pub use lines::Line;
pub use metadata::{
    Association, Author, Availability, DocumentEntry, EntryType, Folder, ReferenceId, RegistryObjects, SubmissionSet,
};
pub use query::{
    ContentFilter, CrossGatewayQueryRequest, Filtered, FindDocuments, FindFolders, FindSubmissionSets, Forms, GetAll,
    ObjectIds, ReturnType, StoredQuery, TimeRange, like,
};
pub use registry::{QueryResponse, RegistryError, Severity, Status};
pub use retrieve::{
    Content, DocumentRequest, DocumentResponse, ImagingRequest, RetrieveRequest, RetrieveResponse, SeriesRequest,
    StudyRequest,
};
pub use within::within;
