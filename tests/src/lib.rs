//! Harness: a throw-away PKI, the attack set, neighbours that ask a gateway and countries that answer one, national
//! consumers and archives, issuers of tokens, synthetic studies, and what a process uses of the machine.

pub mod archive;
pub mod asking;
pub mod attack;
pub mod base;
pub mod cases;
pub mod consumer;
pub mod country;
pub mod issuer;
pub mod messages;
pub mod neighbour;
pub mod pki;
pub mod ports;
pub mod synth;
pub mod usage;
