//! SOAP 1.2, WS-Addressing 1.0 and MTOM/XOP. Messages are small and bounded; the parts behind them are streams.
//!
//! * [`Envelope`], [`Addressing`], [`Fault`]: the XML of a message,
//! * [`mime`]: multipart/related read and written as chunks with back-pressure, also for DICOMweb,
//! * [`read_message`], [`read_lifting`], [`mtom_response`]: XOP packages in and out.

mod addressing;
mod coding;
mod envelope;
mod error;
mod fault;
pub mod mime;
mod mtom;
mod pace;
mod references;

pub use addressing::Addressing;
pub use envelope::Envelope;
pub use error::{BoxError, SizeLimit, SoapError};
pub use fault::{FAULT_ACTION, Fault};
pub use mtom::{
    IncomingMessage, MessageLimits, OutPart, PartHead, Parts, include, included, inline_content, mtom_request,
    mtom_response, read_lifting, read_message, read_root, soap_content_type,
};
pub use pace::Pace;

/// Namespaces of the envelope and its headers.
pub mod ns {
    /// SOAP 1.2.
    pub const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
    /// SOAP 1.1, recognised to be refused.
    pub const SOAP11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
    /// WS-Addressing 1.0.
    pub const WSA: &str = "http://www.w3.org/2005/08/addressing";
    /// WS-Security secext 1.0.
    pub const WSSE: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
    /// WS-Security utility 1.0.
    pub const WSU: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
    /// XDS.b, whose Document alone may be a part of a package.
    pub const XDSB: &str = "urn:ihe:iti:xds-b:2007";
    /// XOP.
    pub const XOP: &str = "http://www.w3.org/2004/08/xop/include";
}
