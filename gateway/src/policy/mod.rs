//! Policy: who may look up, what may be disclosed.
//!
//! Two decisions, two types (`decide.rs`): [`admit`](Policy::admit) opens look-ups, [`release`](Policy::release) opens
//! one document or study. Both ask Cedar with the country's own policies; consent and blocks come from a
//! [`ConsentSource`](consent::ConsentSource).

mod calendar;
pub mod cases;
pub mod consent;
pub mod decide;
pub mod engine;
pub mod facts;
pub mod roles;

pub use decide::{Authenticated, Authorised, Disclose, LookUp, Policy, PolicyError, Refusal, Resource};
pub use engine::PolicyEngine;
pub use facts::{Describing, Facts};

#[cfg(test)]
mod tests;
