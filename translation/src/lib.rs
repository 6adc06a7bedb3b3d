//! The terminology service: national codes to SNOMED CT and LOINC, single, in columns, and whole documents.
//!
//! `maps.rs` holds the immutable, digest-named snapshot; `cda.rs` edits a CDA document without touching a byte outside
//! its coded elements; `service.rs` is the gRPC face.

pub mod cda;
pub mod config;
pub mod maps;
pub mod service;
