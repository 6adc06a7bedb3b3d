//! What the target does with any bytes.

use ncp_xml::{Element, Limits, scan};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A document, as it is and repeated up to 64 KiB: what is held while it is read follows from its bytes, and
/// every reader takes what another takes, but for the memory.
pub fn budget(data: &[u8]) {
    read(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if !text.is_empty() && scan(format!("<r>{text}</r>").as_bytes(), &Limits::REQUEST).is_ok() {
        let many = format!("<r>{}</r>", text.repeat((64 << 10) / text.len()));
        read(many.as_bytes());
    }
}

fn read(document: &[u8]) {
    for limits in [Limits::REQUEST, Limits::ANSWER] {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let tree = Element::parse(document, &limits);
        let held = ALLOCATOR.peak_usage() - before;
        assert!(held <= 64_000_000 + 8 * document.len(), "{held} bytes held of {}", document.len());
        if tree.is_ok() {
            scan(document, &limits).expect("what has a tree is scanned");
            let outline = Element::outline(document, &limits, ("", "a"), &mut |_| ()).expect("and has an outline");
            assert_eq!(outline.elements().count(), tree.iter().flat_map(Element::elements).count());
        }
    }
}
