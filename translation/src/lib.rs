//! The terminology service: national codes to SNOMED CT and LOINC, single, in columns, and whole documents.
//!
//! `load` reads releases and national lists, `build` checks them and writes one deterministic snapshot named by its
//! digest (`format`), `snapshot` reads it from mapped memory. `translate` and `designation` answer for single codes,
//! `document` edits CDA and FHIR documents without touching anything but coded elements, `service` is the gRPC face and
//! `facade` the FHIR one.

pub mod build;
pub mod cache;
pub mod check_digit;
pub mod config;
pub mod counters;
pub mod coverage;
pub mod designation;
pub mod diff;
pub mod document;
pub mod expand;
pub mod facade;
pub mod format;
pub mod generate;
pub mod load;
mod mapped;
pub mod relationship;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod translate;
