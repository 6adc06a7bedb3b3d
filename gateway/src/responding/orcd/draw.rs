//! The drawing process: it reads a DICOM object, writes a PNG, and does nothing else.
//!
//! Decoders of pixels are where hostile objects do their work, so they run in a process of their own that is confined (see
//! [`super::confined`]) before it reads anything. Sizes are multiplied with overflow checks before a decoder sees them.
//!
//! A picture that cannot be drawn rightly is refused with its reason: a black, white, inverted or wrongly coloured picture
//! would be taken for a finding.

use std::io::{Read, Write};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use dicom_pixeldata::PixelDecoder;

use super::confined::{Unconfined, confine};

mod colour;
mod grey;
mod lookup;
mod size;

/// Argument that makes the program draw.
pub const COMMAND: &str = "draw";
/// Transfer syntaxes that can be drawn: native ones, RLE, JPEG Baseline, Extended and Lossless, JPEG 2000.
pub const TRANSFER_SYNTAXES: [&str; 9] = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
];
/// Bytes of a PNG.
pub const MOST_PNG: usize = 32 << 20;
/// Bytes of an object.
const MOST_OBJECT: u64 = 256 << 20;
/// Longer side of the picture.
const SIDE: usize = 2048;

/// Why an object is not drawn. The reason goes to the peer, so the list is closed and holds nothing of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDrawn {
    /// Limits, pipes: not the object's fault.
    Process,
    /// It is no DICOM object, or one that is out of bounds.
    Unsound,
    /// Its transfer syntax is none of [`TRANSFER_SYNTAXES`].
    TransferSyntax,
    /// Rows, columns, frames, samples or bits contradict each other or the pixels.
    Size,
    /// The decoder refuses the pixels.
    Pixels,
    /// Samples of another kind: one bit, 32 bits, floating point.
    Samples,
    /// Photometric interpretation, or colours that the compressed stream says otherwise than the object.
    Colours,
    /// A look-up table that is not whole, or in a form that is not read.
    LookUpTable,
    /// Larger than a picture may be, or it took too long.
    TooLarge,
    /// The process could not be confined, so that it read nothing.
    Unconfined(Unconfined),
}

impl NotDrawn {
    /// All of them, in the order of their exit codes.
    const ALL: [Self; 11] = [
        Self::Process,
        Self::Unsound,
        Self::TransferSyntax,
        Self::Size,
        Self::Pixels,
        Self::Samples,
        Self::Colours,
        Self::LookUpTable,
        Self::TooLarge,
        Self::Unconfined(Unconfined::Root),
        Self::Unconfined(Unconfined::Refused),
    ];
    /// Exit code of the first; 1 and 2 are taken by the program itself, 101 by a panic.
    const FIRST: u8 = 10;

    /// What the peer is told of it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Process | Self::Unconfined(_) => "the drawing process failed",
            Self::Unsound => "the image is not a sound DICOM object",
            Self::TransferSyntax => "the image is stored in a compression that is not drawn",
            Self::Size => "the image's size and its pixels do not agree",
            Self::Pixels => "the image's pixels cannot be decoded",
            Self::Samples => "the image's samples are of a kind that is not drawn",
            Self::Colours => "the image's colours are of a kind that is not drawn",
            Self::LookUpTable => "the image's look-up table cannot be applied",
            Self::TooLarge => "the image is too large to be drawn",
        }
    }

    /// What the drawing process ends with.
    pub fn exit_code(self) -> u8 {
        let at = Self::ALL.iter().position(|reason| *reason == self).unwrap_or_default();
        Self::FIRST + at as u8
    }

    /// The reason behind an exit code; a code of nobody's is a failed process.
    pub fn of_exit_code(code: Option<i32>) -> Self {
        let at = code.and_then(|code| usize::try_from(code - i32::from(Self::FIRST)).ok());
        at.and_then(|at| Self::ALL.get(at).copied()).unwrap_or(Self::Process)
    }
}

/// Confines this process, reads the object from standard input and writes the picture to standard output.
///
/// # Errors
/// What is wrong with the object; no content of it.
pub fn run() -> Result<(), NotDrawn> {
    confine().map_err(NotDrawn::Unconfined)?;
    let mut object = Vec::new();
    std::io::stdin().take(MOST_OBJECT + 1).read_to_end(&mut object).map_err(|_| NotDrawn::Process)?;
    let png = picture(&object)?;
    std::io::stdout().write_all(&png).map_err(|_| NotDrawn::Process)
}

/// Eight-bit samples of one frame, row by row.
struct Frame {
    samples: Vec<u8>,
    width: usize,
    height: usize,
    /// 1: grey, 3: red, green, blue.
    channels: usize,
}

/// Draws the middle frame: grey by its look-up tables, colour as it is, larger than 2048 made smaller.
///
/// # Errors
/// Why it cannot be drawn rightly.
pub fn picture(bytes: &[u8]) -> Result<Vec<u8>, NotDrawn> {
    if bytes.len() as u64 > MOST_OBJECT {
        return Err(NotDrawn::TooLarge);
    }
    let sound = ncp_ihe::for_parser(bytes).map_err(|_| NotDrawn::Unsound)?;
    let object = dicom_object::from_reader(sound.get(128..).unwrap_or_default()).map_err(|_| NotDrawn::Unsound)?;
    drop(sound);
    if !TRANSFER_SYNTAXES.contains(&object.meta().transfer_syntax()) {
        return Err(NotDrawn::TransferSyntax);
    }
    let frame = drawn(&object)?;
    let factor = frame.width.max(frame.height).div_ceil(SIDE).max(1);
    encode(&smaller(frame, factor)).ok_or(NotDrawn::Process)
}

fn drawn(object: &DefaultDicomObject) -> Result<Frame, NotDrawn> {
    let frames = size::check(object)?;
    let at = frames / 2;
    let decoded = object.decode_pixel_data_frame(at).map_err(|_| NotDrawn::Pixels)?;
    let (width, height) = (decoded.columns() as usize, decoded.rows() as usize);
    let stored = if decoded.bits_allocated() == 16 {
        decoded.data_ow()
    } else {
        decoded.data().iter().map(|byte| u16::from(*byte)).collect()
    };
    let channels = usize::from(decoded.samples_per_pixel());
    if stored.len() != width * height * channels {
        return Err(NotDrawn::Size);
    }
    let bits = size::Bits::of(object)?;
    let text = object.element(tags::PHOTOMETRIC_INTERPRETATION).ok().and_then(|e| e.to_str().ok());
    let photometric = text.as_deref().map(|t| t.trim_end_matches(['\0', ' '])).unwrap_or_default();
    let (samples, channels) = match (channels, photometric) {
        (1, "MONOCHROME1" | "MONOCHROME2") => {
            (grey::samples(object, at, &stored, bits, photometric == "MONOCHROME1")?, 1)
        }
        (1, "PALETTE COLOR") => (colour::palette(object, &stored, bits)?, 3),
        (3, _) => (colour::samples(object, photometric, &stored, bits)?, 3),
        _ => return Err(NotDrawn::Colours),
    };
    Ok(Frame { samples, width, height, channels })
}

fn number(object: &InMemDicomObject, tag: Tag) -> Option<u64> {
    object.element_opt(tag).ok().flatten()?.to_int::<u64>().ok()
}

/// The item of a functional group macro that holds for a frame (PS3.3 C.7.6.16): the frame's own, else the shared one.
fn functional_group(object: &InMemDicomObject, frame: u32, macro_sequence: Tag) -> Option<&InMemDicomObject> {
    let item = |of: &'_ Tag, at: usize| object.element_opt(*of).ok().flatten()?.items()?.get(at);
    let frames = item(&tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, frame as usize);
    let shared = item(&tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, 0);
    let inside = |group: &'_ InMemDicomObject| group.element_opt(macro_sequence).ok().flatten().map(|_| ());
    let group = frames.filter(|g| inside(g).is_some()).or_else(|| shared.filter(|g| inside(g).is_some()))?;
    group.element_opt(macro_sequence).ok().flatten()?.items()?.first()
}

/// Each pixel becomes the mean of a square of `factor` by `factor` pixels.
fn smaller(frame: Frame, factor: usize) -> Frame {
    if factor == 1 {
        return frame;
    }
    let Frame { samples, width, height, channels } = frame;
    let (w, h) = ((width / factor).max(1), (height / factor).max(1));
    let mut out = Vec::with_capacity(w * h * channels);
    for y in 0..h {
        for x in 0..w {
            for channel in 0..channels {
                let rows = (y * factor..(y + 1) * factor).filter(|row| *row < height);
                let columns = (x * factor..(x + 1) * factor).filter(|column| *column < width);
                let (mut sum, mut count) = (0u64, 0u64);
                for row in rows {
                    for column in columns.clone() {
                        sum += u64::from(samples[(row * width + column) * channels + channel]);
                        count += 1;
                    }
                }
                out.push((sum / count.max(1)) as u8);
            }
        }
    }
    Frame { samples: out, width: w, height: h, channels }
}

fn encode(frame: &Frame) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (width, height) = (u32::try_from(frame.width).ok()?, u32::try_from(frame.height).ok()?);
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(if frame.channels == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&frame.samples).ok()?;
    writer.finish().ok()?;
    Some(out)
}
