//! Sizes and bits of an image, checked before anything is decoded (PS3.3 C.7.6.3, PS3.5 8.1.1).

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};

use super::{NotDrawn, number};

/// Bytes of all decoded frames.
const MOST_PIXELS: u64 = 512 << 20;
const JPEG_2000: [&str; 2] = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"];

/// Checks rows, columns, frames and samples against each other and against the pixels; returns the number of frames.
pub(super) fn check(object: &DefaultDicomObject) -> Result<u32, NotDrawn> {
    let number = |tag| number(object, tag);
    let (rows, columns) = (number(tags::ROWS), number(tags::COLUMNS));
    let (Some(rows @ 1..=65_535), Some(columns @ 1..=65_535)) = (rows, columns) else {
        return Err(NotDrawn::Size);
    };
    let (Some(samples @ (1 | 3)), Some(bits @ (8 | 16))) =
        (number(tags::SAMPLES_PER_PIXEL), number(tags::BITS_ALLOCATED))
    else {
        return Err(NotDrawn::Samples);
    };
    let frames = match object.element_opt(tags::NUMBER_OF_FRAMES).ok().flatten() {
        None => 1,
        Some(_) => number(tags::NUMBER_OF_FRAMES).filter(|n| *n >= 1).ok_or(NotDrawn::Size)?,
    };
    let all = [columns, samples, bits / 8, frames].into_iter().try_fold(rows, u64::checked_mul);
    let all = all.filter(|all| *all <= MOST_PIXELS).ok_or(NotDrawn::TooLarge)?;
    let pixels = object.element(tags::PIXEL_DATA).map_err(|_| NotDrawn::Pixels)?;
    // Native pixels are there in full; encapsulated ones are counted when decoded.
    if let Some(there) = pixels.value().primitive().map(|value| value.calculate_byte_len() as u64)
        && there < all
    {
        return Err(NotDrawn::Size);
    }
    if JPEG_2000.contains(&object.meta().transfer_syntax()) {
        // A single frame may come in several fragments; with several frames each is one fragment.
        let fragments = pixels.value().fragments().unwrap_or_default();
        let whole = fragments.len() as u64 == frames;
        let begun = if frames == 1 { fragments.get(..1) } else { whole.then_some(fragments) };
        let stated = Some([columns, rows, samples]);
        if !begun.is_some_and(|begun| begun.iter().all(|fragment| codestream(fragment) == stated)) {
            return Err(NotDrawn::Size);
        }
    }
    u32::try_from(frames).map_err(|_| NotDrawn::TooLarge)
}

/// Width, height and components that a JPEG 2000 codestream begins with (ISO/IEC 15444-1 A.5.1).
fn codestream(fragment: &[u8]) -> Option<[u64; 3]> {
    let size = fragment.strip_prefix(&[0xFF, 0x4F, 0xFF, 0x51])?;
    let word = |at: usize| Some(u64::from(u32::from_be_bytes(size.get(at..at + 4)?.try_into().ok()?)));
    let components = u16::from_be_bytes(size.get(36..38)?.try_into().ok()?);
    let side = |end: usize, begin: usize| word(end)?.checked_sub(word(begin)?);
    // One sample of each component for each point: XRsiz and YRsiz are 1.
    let plain = size.get(38..38 + 3 * usize::from(components))?.chunks(3).all(|one| one[1..] == [1, 1]);
    plain.then_some([side(4, 12)?, side(8, 16)?, u64::from(components)])
}

/// Where the value lies in a sample (PS3.5 8.1.1): bits outside it may hold anything and are masked out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits {
    stored: u32,
    shift: u32,
    signed: bool,
}

impl Bits {
    pub(super) fn of(object: &InMemDicomObject) -> Result<Self, NotDrawn> {
        let allocated = number(object, tags::BITS_ALLOCATED).unwrap_or_default();
        let stored = number(object, tags::BITS_STORED).filter(|s| (1..=allocated.min(16)).contains(s));
        let stored = stored.ok_or(NotDrawn::Size)?;
        let high = match object.element_opt(tags::HIGH_BIT).ok().flatten() {
            None => stored - 1,
            Some(_) => number(object, tags::HIGH_BIT).ok_or(NotDrawn::Size)?,
        };
        if high + 1 < stored || high >= allocated {
            return Err(NotDrawn::Size);
        }
        let signed = match object.element_opt(tags::PIXEL_REPRESENTATION).ok().flatten() {
            None => false,
            Some(_) => match number(object, tags::PIXEL_REPRESENTATION) {
                Some(0) => false,
                Some(1) => true,
                _ => return Err(NotDrawn::Samples),
            },
        };
        Ok(Self { stored: stored as u32, shift: (high + 1 - stored) as u32, signed })
    }

    /// Whether the samples are two's complement.
    pub(super) fn signed(self) -> bool {
        self.signed
    }

    /// The largest value of an unsigned sample.
    pub(super) fn most(self) -> i32 {
        (1 << self.stored) - 1
    }

    /// The value of a sample.
    pub(super) fn value(self, sample: u16) -> i32 {
        let value = (i32::from(sample) >> self.shift) & self.most();
        let negative = self.signed && value >> (self.stored - 1) == 1;
        if negative { value - (1 << self.stored) } else { value }
    }
}
