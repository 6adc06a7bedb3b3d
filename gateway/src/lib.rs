//! The gateway of a National Contact Point for eHealth: Responding and Initiating (Imaging) Gateway in one program.
//!
//! Read `responding/pipeline.rs` first: it is the life of a request that another country sends. `clinician/` is the
//! life of a request of our own users, which goes out through `initiating/`.

pub mod admission;
pub mod app;
pub mod audit_scope;
mod begun;
pub mod bounds;
mod circuit;
pub mod clinician;
pub mod compare;
pub mod config;
pub mod consumer;
pub mod health;
pub mod http_get;
pub mod identity;
pub mod initiating;
pub mod instance;
pub mod listener;
pub mod lists;
pub mod national;
pub mod orderly;
pub mod outcome;
pub mod passing;
pub mod patient_key;
pub mod pending;
pub mod policy;
mod recent;
mod recorded;
pub mod reload;
pub mod responding;
mod retry_after;
pub mod shutdown;
pub mod smp;
pub mod snapshot;
pub mod soap_client;
pub mod telemetry;
pub mod translate;
pub mod whole;
pub mod wire;
