//! The Audit Record Repository: `RecordStore` (append-only segment files, the truth) and `Index` (SQLite, rebuilt from
//! it), the acknowledged feed and the query.

mod config;
mod index;
mod service;
mod store;

pub use config::{Config, load};
pub use index::Index;
pub use service::serve;
pub use store::{RecordStore, Stored};
