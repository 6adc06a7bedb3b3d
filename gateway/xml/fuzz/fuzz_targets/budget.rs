#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ncp_xml_fuzz::budget(data));
