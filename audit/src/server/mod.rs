//! The Audit Record Repository: `RecordStore` (append-only, the truth) and `Index` (rebuilt from it), each on files or in
//! PostgreSQL; the acknowledged feed, syslog over TLS and FHIR in, gRPC and ITI-81 out.

mod access;
mod config;
mod database;
mod fhir_api;
mod framing;
mod index;
mod iti81;
mod repository;
mod service;
mod store;
mod syslog;
mod token;

pub use config::{Config, Engine, load};
pub use database::{Database, Postgres, Sqlite, Value};
pub use index::{Entry, Index, Rejected, Search};
pub use repository::{Repository, engines};
pub use service::serve;
pub use store::{Place, RecordStore, Segments, Table};
