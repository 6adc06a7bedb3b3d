//! Colours: palettes, and what three samples of a pixel mean (PS3.3 C.7.6.3.1.2, C.7.6.3.1.5).

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};

use super::lookup::LookUpTable;
use super::size::Bits;
use super::{NotDrawn, number};

/// JPEG Baseline and Extended, whose decoder may have changed the colours already.
const JPEG: [&str; 2] = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"];
/// Lossless JPEG: its decoder leaves the samples as they are.
const JPEG_LOSSLESS: [&str; 2] = ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];
const RLE: &str = "1.2.840.10008.1.2.5";

/// Red, green and blue of palette colour.
pub(super) fn palette(object: &InMemDicomObject, stored: &[u16], bits: Bits) -> Result<Vec<u8>, NotDrawn> {
    let table = |descriptor, data| LookUpTable::read(object, descriptor, data, bits.signed());
    // A segmented palette has other data elements, so that these are absent and it is refused.
    let tables = [
        table(tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA)?,
        table(tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA)?,
        table(tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA)?,
    ];
    Ok(stored.iter().flat_map(|sample| tables.each_ref().map(|table| table.byte(bits.value(*sample)))).collect())
}

/// Red, green and blue of three samples a pixel.
pub(super) fn samples(
    object: &DefaultDicomObject,
    photometric: &str,
    stored: &[u16],
    bits: Bits,
) -> Result<Vec<u8>, NotDrawn> {
    let syntax = object.meta().transfer_syntax();
    let lossy_jpeg = JPEG.contains(&syntax);
    // Only these leave the three samples of native pixels by plane; decoders interleave them.
    let native = object.element(tags::PIXEL_DATA).is_ok_and(|pixels| pixels.value().primitive().is_some());
    let by_plane = native && number(object, tags::PLANAR_CONFIGURATION) == Some(1);
    let most = bits.most();
    let byte = |sample: u16| (bits.value(sample).max(0) * 255 / most) as u8;
    let mut out: Vec<u8> = if by_plane {
        let plane = stored.len() / 3;
        (0..plane).flat_map(|at| [at, plane + at, 2 * plane + at]).map(|at| byte(stored[at])).collect()
    } else {
        stored.iter().map(|sample| byte(*sample)).collect()
    };
    let luminance = match photometric {
        "RGB" => false,
        "YBR_FULL" => true,
        // Native pixels of this kind have half of the colour samples; a JPEG stream says so itself.
        "YBR_FULL_422" if lossy_jpeg => true,
        // A JPEG 2000 decoder undoes these itself.
        "YBR_ICT" | "YBR_RCT" if !native && !lossy_jpeg => false,
        _ => return Err(NotDrawn::Colours),
    };
    let decoded_to_rgb = lossy_jpeg && jpeg_changes_colours(object)?;
    match (luminance, decoded_to_rgb) {
        (false, false) | (true, true) => {}
        (true, false) if native || lossy_jpeg || syntax == RLE || JPEG_LOSSLESS.contains(&syntax) => {
            out.chunks_exact_mut(3).for_each(rgb);
        }
        // The stream and the object contradict each other: one of them would give wrong colours.
        _ => return Err(NotDrawn::Colours),
    }
    Ok(out)
}

/// Whether the JPEG decoder turns luminance and colour differences into red, green and blue. It goes by the numbers of
/// the stream's components, then by the JFIF and Adobe markers.
fn jpeg_changes_colours(object: &InMemDicomObject) -> Result<bool, NotDrawn> {
    let pixels = object.element(tags::PIXEL_DATA).map_err(|_| NotDrawn::Pixels)?;
    let stream = pixels.value().fragments().and_then(|f| f.first()).ok_or(NotDrawn::Pixels)?;
    let (mut jfif, mut adobe, mut at) = (false, None, 2);
    loop {
        let [0xFF, marker, high, low] = *stream.get(at..at + 4).ok_or(NotDrawn::Pixels)? else {
            return Err(NotDrawn::Pixels);
        };
        if marker == 0xFF {
            at += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([high, low])).max(2);
        let segment = stream.get(at + 4..at + 2 + length).ok_or(NotDrawn::Pixels)?;
        match marker {
            0xE0 if segment.starts_with(b"JFIF\0") => jfif = true,
            0xEE if segment.starts_with(b"Adobe") => adobe = segment.get(11).copied(),
            // Start of frame: precision, rows, columns, then for each component its number, sampling and table.
            0xC0..=0xC2 => {
                let number = |of: usize| segment.get(6 + 3 * of).copied();
                return match [number(0), number(1), number(2)] {
                    [Some(1), Some(2), Some(3)] => Ok(true),
                    [Some(b'R'), Some(b'G'), Some(b'B')] => Ok(false),
                    _ if jfif => Ok(true),
                    _ => Ok(adobe != Some(0)),
                };
            }
            0xDA => return Err(NotDrawn::Pixels),
            _ => {}
        }
        at += 2 + length;
    }
}

/// From luminance and colour differences to red, green and blue (PS3.3 C.7.6.3.1.2, backwards).
fn rgb(pixel: &mut [u8]) {
    let [y, cb, cr] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
    let (cb, cr) = (cb - 128.0, cr - 128.0);
    let values = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    for (sample, value) in pixel.iter_mut().zip(values) {
        *sample = value.round().clamp(0.0, 255.0) as u8;
    }
}
