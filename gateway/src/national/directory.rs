//! The national connectors of this country and how a request finds its connector.
//!
//! `National` routes by RepositoryUniqueId (documents) and by Retrieve Location UID (images), asks the patient index
//! for persons, and merges registry answers of all connectors. It implements the four actor traits itself, so that the
//! pipeline sees one Responding side; each connector is an enum variant (`Embedded`, `DicomWeb`), so the traits stay
//! plain `async fn` without boxing.
