#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ncp_saml_fuzz::structure(data));
