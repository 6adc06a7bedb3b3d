//! The wire judged by material that others wrote: the NIST definitions (results in `tests/CONFORMANCE.md`), request
//! bodies and a captured header of OpenNCP, and IPF and Python clients that `tests/run.sh --interop` drives.
#![allow(clippy::print_stdout)]

mod axis2;
mod ipf;
mod nist;
mod node;
mod openncp;
mod peers;
