//! Grey values: stored value, modality transformation, values of interest, display (PS3.3 C.11.1, C.11.2).

use dicom_core::Tag;
use dicom_core::header::HasLength;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::lookup::LookUpTable;
use super::size::Bits;
use super::{NotDrawn, functional_group};

/// Eight-bit grey samples of a frame. `inverted`: MONOCHROME1, where the lowest value is white.
pub(super) fn samples(
    object: &InMemDicomObject,
    frame: u32,
    stored: &[u16],
    bits: Bits,
    inverted: bool,
) -> Result<Vec<u8>, NotDrawn> {
    let modality = Modality::of(object, frame, bits)?;
    let padding = padding(object, bits);
    let range = || {
        let real = stored
            .iter()
            .map(|s| bits.value(*s))
            .filter(|v| !padding.is_some_and(|(low, high)| (low..=high).contains(v)));
        real.map(|v| modality.apply(v)).fold(None, |range: Option<(f64, f64)>, v| match range {
            None => Some((v, v)),
            Some((low, high)) => Some((low.min(v), high.max(v))),
        })
    };
    let interest = match Interest::of(object, frame, modality.signed(bits))? {
        Some(interest) => interest,
        // Without a window all values are shown, from the lowest to the highest.
        None => Interest::Range(range().unwrap_or_default()),
    };
    // Shape INVERSE says of MONOCHROME2 what the photometric interpretation says of MONOCHROME1 (PS3.3 C.11.6).
    let inverted = inverted || string(object, tags::PRESENTATION_LUT_SHAPE).as_deref() == Some("INVERSE");
    let byte = |sample: &u16| {
        let share = interest.share(modality.apply(bits.value(*sample))).clamp(0.0, 1.0);
        ((if inverted { 1.0 - share } else { share }) * 255.0).round() as u8
    };
    Ok(stored.iter().map(byte).collect())
}

/// Pixel Padding Value and its Range Limit (PS3.3 C.7.5.1.1.2): values that are no part of the image.
fn padding(object: &InMemDicomObject, bits: Bits) -> Option<(i32, i32)> {
    let value = |tag| {
        let value = object.element_opt(tag).ok().flatten()?.to_int::<i32>().ok()?;
        Some(if bits.signed() { i32::from(value as u16 as i16) } else { value })
    };
    let one = value(tags::PIXEL_PADDING_VALUE)?;
    let other = value(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(one);
    Some((one.min(other), one.max(other)))
}

/// From stored values to those of the modality.
enum Modality {
    Rescale { slope: f64, intercept: f64 },
    Table(LookUpTable),
}

impl Modality {
    fn of(object: &InMemDicomObject, frame: u32, bits: Bits) -> Result<Self, NotDrawn> {
        if let Some(item) = first_item(object, tags::MODALITY_LUT_SEQUENCE)? {
            return LookUpTable::read(item, tags::LUT_DESCRIPTOR, tags::LUT_DATA, bits.signed()).map(Self::Table);
        }
        let holder = functional_group(object, frame, tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE).unwrap_or(object);
        let slope = decimals(holder, tags::RESCALE_SLOPE)?.first().copied();
        let intercept = decimals(holder, tags::RESCALE_INTERCEPT)?.first().copied();
        match slope {
            Some(0.0) => Err(NotDrawn::LookUpTable),
            slope => Ok(Self::Rescale { slope: slope.unwrap_or(1.0), intercept: intercept.unwrap_or(0.0) }),
        }
    }

    fn apply(&self, value: i32) -> f64 {
        match self {
            Self::Rescale { slope, intercept } => f64::from(value) * slope + intercept,
            Self::Table(table) => f64::from(table.entry(value)),
        }
    }

    /// Whether its values may be negative.
    fn signed(&self, bits: Bits) -> bool {
        match self {
            Self::Rescale { intercept, slope } => bits.signed() || *intercept < 0.0 || *slope < 0.0,
            Self::Table(_) => false,
        }
    }
}

/// Which values are shown, and how.
enum Interest {
    Table(LookUpTable),
    /// Function LINEAR (PS3.3 C.11.2.1.2.1).
    Linear {
        centre: f64,
        width: f64,
    },
    /// Function LINEAR_EXACT (C.11.2.1.3.2).
    Exact {
        centre: f64,
        width: f64,
    },
    /// Function SIGMOID (C.11.2.1.3.1).
    Sigmoid {
        centre: f64,
        width: f64,
    },
    /// From black to white.
    Range((f64, f64)),
}

impl Interest {
    /// The first table, else the first window; `None` where the object has neither.
    fn of(object: &InMemDicomObject, frame: u32, signed: bool) -> Result<Option<Self>, NotDrawn> {
        let holder = functional_group(object, frame, tags::FRAME_VOILUT_SEQUENCE).unwrap_or(object);
        if let Some(item) = first_item(holder, tags::VOILUT_SEQUENCE)? {
            return LookUpTable::read(item, tags::LUT_DESCRIPTOR, tags::LUT_DATA, signed).map(|t| Some(Self::Table(t)));
        }
        let centres = decimals(holder, tags::WINDOW_CENTER)?;
        let widths = decimals(holder, tags::WINDOW_WIDTH)?;
        let (Some(&centre), Some(&width)) = (centres.first(), widths.first()) else { return Ok(None) };
        match string(holder, tags::VOILUT_FUNCTION).as_deref() {
            None | Some("" | "LINEAR") if width >= 1.0 => Ok(Some(Self::Linear { centre, width })),
            Some("LINEAR_EXACT") if width > 0.0 => Ok(Some(Self::Exact { centre, width })),
            Some("SIGMOID") if width > 0.0 => Ok(Some(Self::Sigmoid { centre, width })),
            // A window without a width shows nothing; all values are shown instead.
            None | Some("" | "LINEAR" | "LINEAR_EXACT" | "SIGMOID") => Ok(None),
            Some(_) => Err(NotDrawn::LookUpTable),
        }
    }

    /// Between 0, black, and 1, white; outside of them it is cut off.
    fn share(&self, value: f64) -> f64 {
        match self {
            Self::Table(table) => table.share(value),
            Self::Linear { centre, width } if *width <= 1.0 => f64::from(u8::from(value > centre - 0.5)),
            Self::Linear { centre, width } => (value - (centre - 0.5)) / (width - 1.0) + 0.5,
            Self::Exact { centre, width } => (value - centre) / width + 0.5,
            Self::Sigmoid { centre, width } => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
            Self::Range((low, high)) if high > low => (value - low) / (high - low),
            Self::Range(_) => 0.0,
        }
    }
}

fn first_item(holder: &InMemDicomObject, tag: Tag) -> Result<Option<&InMemDicomObject>, NotDrawn> {
    match holder.element_opt(tag).map_err(|_| NotDrawn::LookUpTable)? {
        None => Ok(None),
        Some(sequence) => Ok(sequence.items().ok_or(NotDrawn::LookUpTable)?.first()),
    }
}

/// The decimal numbers of an element; none where it is absent or empty. What is there and cannot be read is an error.
fn decimals(holder: &InMemDicomObject, tag: Tag) -> Result<Vec<f64>, NotDrawn> {
    let Some(element) = holder.element_opt(tag).map_err(|_| NotDrawn::LookUpTable)? else { return Ok(Vec::new()) };
    if element.is_empty() || element.to_str().is_ok_and(|text| text.trim().is_empty()) {
        return Ok(Vec::new());
    }
    let numbers = element.to_multi_float64().map_err(|_| NotDrawn::LookUpTable)?;
    if numbers.iter().all(|n| n.is_finite()) { Ok(numbers) } else { Err(NotDrawn::LookUpTable) }
}

fn string(holder: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = holder.element_opt(tag).ok().flatten()?.to_str().ok()?.trim_matches(['\0', ' ']).to_owned();
    Some(text)
}
