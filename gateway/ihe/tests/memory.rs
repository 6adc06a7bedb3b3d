//! P7: the memory that a reader of DICOM uses follows from the bytes that it has read, never from what they declare. The
//! test is alone in its process, since it looks at the process.

use std::path::Path;

use ncp_ihe::imaging::{ImageFacts, MetadataView, PIXELS, header_end, metadata};
use ncp_ihe::{DicomHeader, Manifest, StructureScan, for_parser};

/// The most memory that the process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn all_readers(bytes: &[u8]) {
    let _ = DicomHeader::scan(bytes, true);
    let _ = DicomHeader::scan(bytes, false);
    let _ = ImageFacts::read(bytes);
    let _ = header_end(bytes, PIXELS, false);
    let _ = metadata(bytes, &MetadataView { retrieve_url: None, patient_id: None });
    let _ = Manifest::read(bytes);
    let _ = for_parser(bytes);
    let mut scan = StructureScan::new(None);
    let _ = scan.push(bytes).and_then(|()| scan.finish());
}

#[test]
fn p7_im_03_fo_02_memory_follows_from_the_bytes_that_were_read() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases/imaging");
    let files: Vec<Vec<u8>> = ["IM-03/un.dcm", "IM-03/good1.dcm", "IM-06/wgl.dcm"]
        .into_iter()
        .map(|name| std::fs::read(cases.join(name)).expect("a case"))
        .collect();
    files.iter().for_each(|file| all_readers(file));
    let before = peak();
    for file in &files {
        // Wherever a length may stand.
        for at in 132..file.len() - 4 {
            for length in [0x4000_0000_u32, 0xFFFF_FFF0, u32::MAX, 0x1000_0000] {
                let mut odd = file.clone();
                odd[at..at + 4].copy_from_slice(&length.to_le_bytes());
                all_readers(&odd);
            }
        }
        let at = file.windows(6).position(|w| w == b"\x10\x00\x10\x00PN").expect("the patient");
        for depth in [64, 65, 20_000] {
            let begin = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff".repeat(depth);
            all_readers(&[&file[..at], &begin, &file[at..]].concat());
        }
    }
    let grown = peak() - before;
    assert!(grown < 16 << 10, "{grown} KiB");
}
