//! The Responding Gateway as its peers see it: every stored query, partial answers, faults where a peer wants them, and
//! the hazards of the threat table under their ids.
#![allow(clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod drawing;
mod hazards;
mod incumbent;
mod lists;
mod orcd;
mod pages;
mod pins;
mod replay;
mod stalled;
mod terminology;
mod trail;
mod transactions;
mod world;
