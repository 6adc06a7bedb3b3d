//! SOAP 1.2.
