//! What the `openssl` crate does not wrap.
#![allow(unsafe_code)]

use foreign_types::ForeignTypeRef;
use openssl::asn1::{Asn1GeneralizedTimeRef, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::SslRef;
use openssl::x509::store::X509StoreBuilderRef;
use openssl::x509::{X509CrlRef, X509Ref};

/// KU_DIGITAL_SIGNATURE of OpenSSL's x509v3.h.
pub(crate) const DIGITAL_SIGNATURE: u32 = 0x0080;
/// EXFLAG_CA of OpenSSL's x509v3.h.
const EXFLAG_CA: u32 = 0x0010;

/// XKU_SSL_SERVER and XKU_SSL_CLIENT.
const TLS_USES: u32 = 0x1 | 0x2;

unsafe extern "C" {
    fn X509_get_key_usage(x: *mut openssl_sys::X509) -> u32;
    fn X509_get_extended_key_usage(x: *mut openssl_sys::X509) -> u32;
    fn X509_get_extension_flags(x: *mut openssl_sys::X509) -> u32;
    fn X509_STORE_add_crl(store: *mut openssl_sys::X509_STORE, crl: *mut openssl_sys::X509_CRL) -> std::ffi::c_int;
}

/// Whether the certificate has extended uses and they are those of TLS alone.
pub(crate) fn tls_only(certificate: &X509Ref) -> bool {
    // SAFETY: as in `key_use`; all bits are set when the extension is absent.
    let usage = unsafe { X509_get_extended_key_usage(certificate.as_ptr()) };
    usage != u32::MAX && usage & TLS_USES != 0 && usage & !TLS_USES == 0
}

/// NID_tlsfeature of OpenSSL's obj_mac.h: id-pe-tlsfeature (RFC 7633).
const TLS_FEATURE: std::ffi::c_int = 1020;

/// Whether the certificate carries the TLS feature extension ("must staple").
pub(crate) fn must_staple(certificate: &X509Ref) -> bool {
    // SAFETY: the pointer is a live X509 for as long as the reference lives; the function only reads it.
    unsafe { openssl_sys::X509_get_ext_by_NID(certificate.as_ptr(), TLS_FEATURE, -1) >= 0 }
}

/// The value of the first extension of a kind that a CRL has, DER.
pub(crate) fn crl_extension(crl: &X509CrlRef, kind: Nid) -> Option<Vec<u8>> {
    let pointer = crl.as_ptr();
    // SAFETY: `pointer` is a live X509_CRL for as long as the reference lives, and everything read here belongs to it: the
    // place is one that OpenSSL gave, the extension there and its value are not null, and the bytes are copied.
    unsafe {
        let place = openssl_sys::X509_CRL_get_ext_by_NID(pointer, kind.as_raw(), -1);
        if place < 0 {
            return None;
        }
        let value = openssl_sys::X509_EXTENSION_get_data(openssl_sys::X509_CRL_get_ext(pointer, place)).cast();
        let length = usize::try_from(openssl_sys::ASN1_STRING_length(value)).ok()?;
        Some(std::slice::from_raw_parts(openssl_sys::ASN1_STRING_get0_data(value), length).to_vec())
    }
}

/// A time of an OCSP answer as a time that can be compared.
pub(crate) fn time(time: &Asn1GeneralizedTimeRef) -> &Asn1TimeRef {
    // SAFETY: both are an ASN1_STRING (asn1.h); OpenSSL's functions on ASN1_TIME accept the type GeneralizedTime. The
    // result borrows from the argument and is only read.
    unsafe { Asn1TimeRef::from_ptr(time.as_ptr().cast()) }
}

/// SSL_RECEIVED_SHUTDOWN of OpenSSL's ssl.h.
const RECEIVED_SHUTDOWN: std::ffi::c_int = 2;

/// Whether the other end sent `close_notify`.
pub(crate) fn ended_by_peer(ssl: &SslRef) -> bool {
    // SAFETY: the pointer is a live SSL for as long as the reference lives; the function only reads it.
    unsafe { openssl_sys::SSL_get_shutdown(ssl.as_ptr()) & RECEIVED_SHUTDOWN != 0 }
}

/// Adds a CRL to a store that is being built.
pub(crate) fn add_crl(store: &mut X509StoreBuilderRef, crl: &X509CrlRef) -> Result<(), ErrorStack> {
    // SAFETY: both pointers are live for the call; the store takes a reference of its own to the CRL.
    let added = unsafe { X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) };
    if added == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Key usage bits (all set when the extension is absent) and whether it is a CA certificate.
pub(crate) fn key_use(certificate: &X509Ref) -> (u32, bool) {
    let pointer = certificate.as_ptr();
    // SAFETY: `pointer` is a live X509 for as long as the reference lives; both functions only read it and fill its
    // cached extension values under OpenSSL's own lock.
    unsafe { (X509_get_key_usage(pointer), X509_get_extension_flags(pointer) & EXFLAG_CA != 0) }
}

/// Offers a session in the handshake that follows, as clients do that resume (tests alone).
#[cfg(test)]
pub(crate) fn offer(ssl: &mut SslRef, session: &openssl::ssl::SslSessionRef) -> Result<(), ErrorStack> {
    // SAFETY: `set_session` asks that the session be of the context of `ssl`. Otherwise OpenSSL would mix methods of two
    // contexts; the tests keep the sessions of one connector and offer them to that connector's connections.
    unsafe { ssl.set_session(session) }
}
