//! The Responding Gateway as its peers see it: every stored query, partial answers, faults where a peer wants them, and
//! the hazards of the threat table under their ids.
#![allow(clippy::print_stdout)]

mod hazards;
mod orcd;
mod terminology;
mod transactions;
mod world;
