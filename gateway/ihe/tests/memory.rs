//! P7: the memory that a reader of DICOM uses follows from the bytes that it has read, never from what they declare. The
//! test is alone in its process, since it looks at the process.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ncp_ihe::imaging::{ImageFacts, MetadataView, PIXELS, header_end, metadata};
use ncp_ihe::orcd::{Report, ReportError, held as shown};
use ncp_ihe::{DicomHeader, Manifest, StructureScan, for_parser};
use ncp_xml::{ANSWERS, Busy};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

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
    se_07_memory_follows_from_the_bytes_in_every_shape();
    se_07_a_document_that_is_shown_takes_from_the_memory_of_all();
}

/// What the work held at its most, beside what was held before.
fn held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let out = work();
    (out, ALLOCATOR.peak_usage() - before)
}

/// A data set of Explicit VR Little Endian that repeats one thing up to so many bytes, in front of the patient of a sound
/// object.
fn repeated(file: &[u8], begin: &[u8], piece: &[u8], end: &[u8], bytes: usize) -> Vec<u8> {
    let at = file.windows(6).position(|w| w == b"\x10\x00\x10\x00PN").expect("the patient");
    let pieces = piece.repeat(bytes / piece.len());
    [&file[..at], begin, &pieces, end, &file[at..]].concat()
}

/// Every reader whose result follows from the tree or from the walk.
fn se_07_memory_follows_from_the_bytes_in_every_shape() {
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases/imaging/IM-03/good1.dcm");
    let file = std::fs::read(good).expect("a case");
    let sequence = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff";
    let private = b"\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff";
    let ends = b"\xfe\xff\xdd\xe0\0\0\0\0";
    let item = b"\xfe\xff\x00\xe0\0\0\0\0";
    let open = b"\xfe\xff\x00\xe0\xff\xff\xff\xff";
    let closed = b"\xfe\xff\x0d\xe0\0\0\0\0";
    let one = b"\xfe\xff\x00\xe0\x08\0\0\0\x08\x00\x50\x11UI\0\0";
    let deep: Vec<u8> = [&sequence[..], open].concat().repeat(60);
    let out: Vec<u8> = [&closed[..], ends].concat().repeat(60);
    let nested = [&deep[..], &out].concat();
    let within = |outer: &[u8]| [outer, &open[..]].concat();
    let after = [&closed[..], ends].concat();
    // A vector that has just doubled holds most beside the bytes that were read.
    for bytes in [1 << 20, 17 << 20] {
        for (shape, object) in [
            ("empty elements", repeated(&file, b"", b"\x08\x00\x80\x00LO\0\0", b"", bytes)),
            ("empty items", repeated(&file, sequence, item, ends, bytes)),
            ("items of one element", repeated(&file, sequence, one, ends, bytes)),
            ("empty elements in an item", repeated(&file, &within(sequence), b"\x08\x00\x50\x11UI\0\0", &after, bytes)),
            ("nested sequences", repeated(&file, b"", &nested, b"", bytes)),
            ("private UN of items", repeated(&file, private, item, ends, bytes)),
            ("private UN of elements", repeated(&file, &within(private), b"\x09\x00\x01\x10\0\0\0\0", &after, bytes)),
            ("private elements", repeated(&file, b"", b"\x09\x00\x01\x10LO\0\0", b"", bytes)),
        ] {
            let most = 64_000_000 + 8 * object.len();
            let check = |reader: &str, held: usize| assert!(held <= most, "{shape}, {reader}: {held} of {most}");
            check("header", held(|| DicomHeader::scan(&object, true)).1);
            check("facts", held(|| ImageFacts::read(&object[..])).1);
            check("manifest", held(|| Manifest::read(&object)).1);
            check("end", held(|| header_end(&object, PIXELS, true)).1);
            check("for a parser", held(|| for_parser(&object)).1);
            let scanned = held(|| {
                let mut scan = StructureScan::new(Some(object.len() as u64));
                scan.push(&object).and_then(|()| scan.finish())
            });
            assert!(scanned.1 < 1 << 20, "{shape}: a scan needs no memory");
            check("metadata", held(|| metadata(&object, &MetadataView { retrieve_url: None, patient_id: None })).1);
        }
    }
    for piece in [&b"\\"[..], b"a\\"] {
        let values = repeated(&file, b"\x08\x00\x62\x00UC\0\0\0\0\x40\0", piece, b"", 4 << 20);
        let told =
            held(|| metadata(&values, &MetadataView { retrieve_url: None, patient_id: None }).map(|text| text.len()));
        assert!(told.1 <= 64_000_000 + 8 * values.len(), "millions of values: {}", told.1);
    }
    // An object of four thousand frames, with functional groups of each.
    let frame = [&open[..], &b"\x18\x00\x60\x10FD\x08\0\0\0\0\0\0\0\x59\x40".repeat(24), closed].concat();
    let groups = repeated(&file, b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff", &frame, ends, 4_000 * frame.len());
    let told =
        held(|| metadata(&groups, &MetadataView { retrieve_url: None, patient_id: None }).map(|text| text.len()));
    assert!(told.1 <= 64_000_000 + 8 * groups.len(), "many frames: {}", told.1);
}

/// A CDA whose picture is taken out or whose text becomes pages is read within the memory of all that is being read; where others
/// have it, its reader is told so.
fn se_07_a_document_that_is_shown_takes_from_the_memory_of_all() {
    let cda = |body: &str| {
        format!("<ClinicalDocument xmlns='urn:hl7-org:v3'><component>{body}</component></ClinicalDocument>")
            .into_bytes()
    };
    let pdf = STANDARD.encode([&b"%PDF-1.7 "[..], &[0; 2 << 20]].concat());
    let scanned =
        cda(&format!("<nonXMLBody><text mediaType='application/pdf' representation='B64'>{pdf}</text></nonXMLBody>"));
    let section =
        format!("<section><title>Report</title><text>{}</text></section>", "<paragraph>a</paragraph>".repeat(10_000));
    let written = cda(&format!("<structuredBody><component>{section}</component></structuredBody>"));
    let both = || (shown(&scanned).map(|found| found.is_some()), Report::of_cda(&written).map(drop));
    assert_eq!(both(), (Ok(true), Ok(())));
    // Another sender has all but a megabyte.
    ANSWERS.set(33 << 20, 100);
    let mut other = ANSWERS.charge("SE");
    other.grow(32 << 20).expect("is free");
    assert_eq!(both(), (Err(Busy), Err(ReportError::Busy)));
    drop(other);
    assert_eq!((both(), ANSWERS.taken()), ((Ok(true), Ok(())), 0));
}
