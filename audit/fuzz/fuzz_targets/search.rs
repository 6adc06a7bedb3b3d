#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ncp_audit_fuzz::search(data));
