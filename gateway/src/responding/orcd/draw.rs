//! The drawing process: a DICOM object in, a PNG out, and nothing else.
//!
//! Decoders of pixels are where hostile objects do their work, so they run here, with limits on memory and time and
//! without anything to open. Sizes are multiplied checked before a decoder sees them.

use std::io::{Read, Write};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, FileDicomObject};
use dicom_pixeldata::{
    ConvertOptions, DecodedPixelData, PhotometricInterpretation, PixelDecoder, VoiLutOption, WindowLevel,
};
use rustix::process::{Resource, Rlimit, setrlimit};

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
const JPEG_2000: [&str; 2] = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"];
/// Bytes of a PNG.
pub const MOST_PNG: usize = 32 << 20;
/// Bytes of an object.
const MOST_OBJECT: u64 = 256 << 20;
/// Bytes of all decoded frames.
const MOST_PIXELS: u64 = 512 << 20;
/// Longer side of the picture.
const SIDE: usize = 2048;
const MEMORY: u64 = 2 << 30;
const SECONDS: u64 = 15;

/// Limits this process, reads the object from standard input and writes the picture to standard output.
///
/// # Errors
/// What is wrong with the object; no content of it.
pub fn run() -> Result<(), &'static str> {
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    for (resource, most) in
        [(Resource::As, MEMORY), (Resource::Cpu, SECONDS), (Resource::Core, 0), (Resource::Fsize, 0)]
    {
        limit(resource, most).map_err(|_| "limits cannot be set")?;
    }
    // What is open stays open; nothing can be opened any more.
    limit(Resource::Nofile, 0).map_err(|_| "limits cannot be set")?;
    let mut object = Vec::new();
    std::io::stdin().take(MOST_OBJECT + 1).read_to_end(&mut object).map_err(|_| "object cannot be read")?;
    let png = picture(&object)?;
    std::io::stdout().write_all(&png).map_err(|_| "picture cannot be written")
}

/// Draws the middle frame: grey by its window, colour as it is, larger than 2048 made smaller.
///
/// # Errors
/// What is wrong with the object.
pub fn picture(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    if bytes.len() as u64 > MOST_OBJECT {
        return Err("object is too large");
    }
    let sound = ncp_ihe::for_parser(bytes).map_err(|_| "not a sound object")?;
    let object = dicom_object::from_reader(&sound[128..]).map_err(|_| "not a DICOM object")?;
    drop(sound);
    let frames = check_size(&object)?;
    let decoded = object.decode_pixel_data_frame(frames / 2).map_err(|_| "pixels cannot be decoded")?;
    let (width, height) = (decoded.columns() as usize, decoded.rows() as usize);
    let (samples, colour) = samples(&decoded)?;
    let channels = if colour { 3 } else { 1 };
    if samples.len() != width * height * channels {
        return Err("pixels are fewer than their size says");
    }
    let factor = width.max(height).div_ceil(SIDE).max(1);
    let (small, width, height) = smaller(&samples, width, height, channels, factor);
    encode(&small, width, height, colour).ok_or("picture cannot be encoded")
}

/// Rows, columns, frames and samples as they may be; the number of frames.
fn check_size(object: &DefaultDicomObject) -> Result<u32, &'static str> {
    let number = |tag: Tag| number(object, tag);
    let (rows, columns) = (number(tags::ROWS), number(tags::COLUMNS));
    let (Some(rows @ 1..=65_535), Some(columns @ 1..=65_535)) = (rows, columns) else {
        return Err("no rows or columns");
    };
    let (Some(samples @ (1 | 3)), Some(bits @ (8 | 16))) =
        (number(tags::SAMPLES_PER_PIXEL), number(tags::BITS_ALLOCATED))
    else {
        return Err("samples of another kind");
    };
    if !number(tags::BITS_STORED).is_some_and(|stored| (1..=bits).contains(&stored)) {
        return Err("bits stored beyond those allocated");
    }
    let frames = match object.element_opt(tags::NUMBER_OF_FRAMES).ok().flatten() {
        None => 1,
        Some(_) => number(tags::NUMBER_OF_FRAMES).filter(|n| *n >= 1).ok_or("no number of frames")?,
    };
    let all = [columns, samples, bits / 8, frames].into_iter().try_fold(rows, u64::checked_mul);
    let all = all.filter(|all| *all <= MOST_PIXELS).ok_or("too many pixels")?;
    let pixels = object.element(tags::PIXEL_DATA).map_err(|_| "no pixels")?;
    // Native pixels are there in full; encapsulated ones are counted when decoded.
    if let Some(there) = pixels.value().primitive().map(|value| value.calculate_byte_len() as u64)
        && there < all
    {
        return Err("pixels are fewer than their size says");
    }
    if JPEG_2000.contains(&object.meta().transfer_syntax()) {
        // A single frame may come in pieces; of several each is one.
        let fragments = pixels.value().fragments().unwrap_or_default();
        let whole = fragments.len() as u64 == frames;
        let begun = if frames == 1 { fragments.get(..1) } else { whole.then_some(fragments) };
        let stated = Some([columns, rows, samples]);
        if !begun.is_some_and(|begun| begun.iter().all(|fragment| codestream(fragment) == stated)) {
            return Err("codestreams of another size than the object says");
        }
    }
    u32::try_from(frames).map_err(|_| "too many frames")
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

fn number(object: &FileDicomObject<dicom_object::InMemDicomObject>, tag: Tag) -> Option<u64> {
    object.element_opt(tag).ok().flatten()?.to_int::<u64>().ok()
}

/// Eight-bit samples, grey or red-green-blue.
fn samples(decoded: &DecodedPixelData<'_>) -> Result<(Vec<u8>, bool), &'static str> {
    let wrong = |_| "pixels cannot be read";
    let voi = match decoded.window().map_err(wrong)? {
        Some([WindowLevel { width, .. }, ..]) if *width >= 1.0 => VoiLutOption::First,
        _ => VoiLutOption::Normalize,
    };
    let options = ConvertOptions::new().with_voi_lut(voi);
    let wide: Vec<u16> = decoded.to_vec_frame_with_options(0, &options).map_err(wrong)?;
    // A window fills the bits that the stored ones are rounded up to; colour has the bits that it has.
    let grey = decoded.photometric_interpretation().is_monochrome();
    let bits = if grey { decoded.bits_stored().next_power_of_two() } else { decoded.bits_allocated() };
    let most = (1u32 << bits.min(16)) - 1;
    let mut samples: Vec<u8> = wide.into_iter().map(|v| (u32::from(v).min(most) * 255 / most) as u8).collect();
    match decoded.photometric_interpretation() {
        PhotometricInterpretation::Monochrome1 => samples.iter_mut().for_each(|s| *s = u8::MAX - *s),
        PhotometricInterpretation::Monochrome2 | PhotometricInterpretation::Rgb => {}
        // A JPEG 2000 decoder undoes these itself.
        PhotometricInterpretation::YbrIct | PhotometricInterpretation::YbrRct => {}
        PhotometricInterpretation::YbrFull | PhotometricInterpretation::YbrFull422 => {
            samples.chunks_exact_mut(3).for_each(rgb);
        }
        _ => return Err("a photometric interpretation that is not drawn"),
    }
    Ok((samples, decoded.samples_per_pixel() == 3))
}

/// PS3.3 C.7.6.3.1.2, backwards.
fn rgb(pixel: &mut [u8]) {
    let [y, cb, cr] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
    let (cb, cr) = (cb - 128.0, cr - 128.0);
    let values = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    for (sample, value) in pixel.iter_mut().zip(values) {
        *sample = value.round().clamp(0.0, 255.0) as u8;
    }
}

/// The mean of squares of `factor` pixels.
fn smaller(samples: &[u8], width: usize, height: usize, channels: usize, factor: usize) -> (Vec<u8>, usize, usize) {
    if factor == 1 {
        return (samples.to_vec(), width, height);
    }
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
    (out, w, h)
}

fn encode(samples: &[u8], width: usize, height: usize, colour: bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    encoder.set_color(if colour { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(samples).ok()?;
    writer.finish().ok()?;
    Some(out)
}
