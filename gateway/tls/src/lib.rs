//! TLS over OpenSSL.
