#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ncp_ihe_fuzz::dicom(data));
