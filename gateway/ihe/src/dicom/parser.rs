//! An object as a parser that trusts lengths may see it.

use std::borrow::Cow;
use std::ops::Range;

use dicom_core::VR;

use super::{Begun, Element, Flow, UNDEFINED, Unsound, Visitor};

/// The object without what dicom-rs reads otherwise than it is written: it finds the data set by the length of group 0002,
/// reads the items of UN as if they had value representations, and goes on in the middle of a value whose length is no
/// multiple of its unit. Elements that hold such a thing are left out, and so are private ones. All lengths lie within
/// the bytes, and at most 64 sequences are open at once.
///
/// # Errors
/// [`Unsound`]; a deflated object, which a parser would inflate without bounds.
pub fn for_parser(bytes: &[u8]) -> Result<Vec<u8>, Unsound> {
    let begun = Begun::read(bytes, true, 0)?.ok_or(Unsound::Ends)?;
    let Cow::Borrowed(data) = begun.data else { return Err(Unsound::Deflated) };
    let mut cuts = Cuts::default();
    begun.walk(&mut cuts)?;
    cuts.end(data.len() as u64);
    let mut out = Vec::with_capacity(bytes.len() + 12);
    out.extend_from_slice(&bytes[..132]);
    let meta = &bytes[132..begun.start];
    let meta = if meta.starts_with(&[2, 0, 0, 0]) { meta.get(12..).unwrap_or_default() } else { meta };
    out.extend_from_slice(&[2, 0, 0, 0, b'U', b'L', 4, 0]);
    out.extend_from_slice(&u32::try_from(meta.len()).map_err(|_| Unsound::Length)?.to_le_bytes());
    out.extend_from_slice(meta);
    let mut at = 0;
    for cut in cuts.ranges {
        let (Ok(start), Ok(end)) = (usize::try_from(cut.start), usize::try_from(cut.end)) else { continue };
        out.extend_from_slice(data.get(at..start).unwrap_or_default());
        at = end;
    }
    out.extend_from_slice(data.get(at..).unwrap_or_default());
    Ok(out)
}

/// The elements of the top level that are left out.
#[derive(Default)]
struct Cuts {
    ranges: Vec<Range<u64>>,
    /// Where the element of the top level begins, and whether it is left out.
    current: Option<(u64, bool)>,
}

impl Cuts {
    fn end(&mut self, at: u64) {
        match (self.current.take(), self.ranges.last_mut()) {
            (Some((start, true)), Some(last)) if last.end == start => last.end = at,
            (Some((start, true)), _) => self.ranges.push(start..at),
            _ => {}
        }
    }
}

impl Visitor for Cuts {
    fn element(&mut self, element: &Element, at: u64, depth: usize) -> Flow {
        if depth == 0 {
            self.end(at);
            self.current = Some((at, (element.tag >> 16) % 2 == 1));
        }
        let unknown = element.vr == Some(*b"UN") && element.length == UNDEFINED;
        let broken = element.length != UNDEFINED && !element.length.is_multiple_of(unit(element.vr()));
        if let Some((_, cut)) = &mut self.current {
            *cut |= unknown || broken;
        }
        Flow::Continue
    }
}

/// Bytes of one value, where values have a size.
pub(crate) fn unit(vr: VR) -> u32 {
    match vr {
        VR::US | VR::SS | VR::OW => 2,
        VR::UL | VR::SL | VR::FL | VR::AT | VR::OL | VR::OF => 4,
        VR::FD | VR::OD | VR::OV | VR::SV | VR::UV => 8,
        _ => 1,
    }
}
