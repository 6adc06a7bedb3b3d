//! The Audit Record Repository: `RecordStore` (append-only, the truth) and `Index` (rebuilt from it), each on files or in
//! PostgreSQL; the acknowledged feed, syslog over TLS and FHIR in, gRPC and ITI-81 out.

mod access;
mod bundle;
mod config;
mod database;
mod fhir_api;
mod framing;
mod index;
mod iti81;
mod reader;
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

/// Reads the parameters of a search (ITI-81) and says which query its links name: what the repository does with any query.
///
/// # Errors
/// Why it is refused.
pub fn check_search(query: &str, patient: Option<&str>) -> Result<String, String> {
    let read = iti81::Parameters::read(query, patient).map_err(|error| error.to_string())?;
    let _ = (read.told(), read.search(&|cx| cx.to_owned()));
    Ok(read.link(0))
}

/// Reads a batch of the FHIR feed and refuses all of it: how many entries it has, and the answer. None where it is no batch,
/// or too long a one.
pub fn check_batch(bytes: &[u8]) -> Option<(usize, String)> {
    let entries = bundle::read(bytes).ok()?;
    let refused = |_: &Option<&str>| {
        let why = "The entry holds no resource.".to_owned();
        bundle::Told { status: 422, location: None, why }
    };
    Some((entries.len(), bundle::answer(entries.iter().map(refused))))
}
