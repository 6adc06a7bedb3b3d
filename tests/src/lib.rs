//! Harness: a throw-away PKI, a neighbour that speaks SOAP to a gateway, synthetic studies.

pub mod neighbour;
pub mod pki;
pub mod synth;
