//! What the `openssl` crate does not wrap.
#![allow(unsafe_code)]

use foreign_types::ForeignTypeRef;
use openssl::x509::X509Ref;

/// KU_DIGITAL_SIGNATURE of OpenSSL's x509v3.h.
pub(crate) const DIGITAL_SIGNATURE: u32 = 0x0080;
/// EXFLAG_CA of OpenSSL's x509v3.h.
const EXFLAG_CA: u32 = 0x0010;

unsafe extern "C" {
    fn X509_get_key_usage(x: *mut openssl_sys::X509) -> u32;
    fn X509_get_extension_flags(x: *mut openssl_sys::X509) -> u32;
}

/// Key usage bits (all set when the extension is absent) and whether it is a CA certificate.
pub(crate) fn key_use(certificate: &X509Ref) -> (u32, bool) {
    let pointer = certificate.as_ptr();
    // SAFETY: `pointer` is a live X509 for as long as the reference lives; both functions only read it and fill its
    // cached extension values under OpenSSL's own lock.
    unsafe { (X509_get_key_usage(pointer), X509_get_extension_flags(pointer) & EXFLAG_CA != 0) }
}
