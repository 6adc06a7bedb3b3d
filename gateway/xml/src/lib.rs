//! Bounded XML reading and writing: no DTD, no entities beyond the five, limits counted before any tree is built and its
//! memory while it grows.
//!
//! * [`scan`] counts and refuses before another parser (libxml2) may see the bytes,
//! * [`Element`] is a small tree: read with [`Element::parse`], built with its builder, written with [`Element::to_xml`],
//! * a long list is read with [`Element::parse_lifting`] and written around with [`Element::to_xml_around`],
//! * [`Element::outline`] keeps one child of a document's element and shows the rest as it passes,
//! * [`Element::leading`] reads the beginning of a long document,
//! * [`extent`] tells where an element stands in the bytes,
//! * [`REQUESTS`] and [`ANSWERS`] are the memory of all messages that are being read,
//! * [`json`] reads JSON within the same bound,
//! * [`is_for_us`] tells whom a SOAP header block is for.

mod budget;
mod builder;
mod error;
mod extent;
pub mod json;
mod leading;
mod lifting;
mod outline;
mod reader;
mod role;
mod tree;
mod writer;

pub use budget::{ANSWERS, Busy, Charge, Held, InFlight, REQUESTS};
pub use error::XmlError;
pub use extent::{Extent, extent};
pub use leading::Leading;
pub use lifting::LiftError;
pub use reader::{Limits, scan};
pub use role::{is_for_us, must_be_understood};
pub use tree::{Attribute, Element, Node};
