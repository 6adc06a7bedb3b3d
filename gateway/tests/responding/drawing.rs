//! CO-14: key images are drawn as PS3.3 says, or refused with their reason; never a wrong picture.

use dicom_core::value::{DataSetSequence, PixelFragmentSequence};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use ncp_gateway::responding::orcd::draw::{NotDrawn, picture};
use proptest::prelude::*;

const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const RLE: &str = "1.2.840.10008.1.2.5";

fn us(tag: Tag, value: u16) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, VR::US, PrimitiveValue::from(value))
}

fn text(tag: Tag, vr: VR, value: &str) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

fn words(tag: Tag, vr: VR, values: &[u16]) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, vr, PrimitiveValue::U16(values.into()))
}

fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

/// One row of 16-bit grey pixels.
struct Image {
    object: InMemDicomObject,
    syntax: &'static str,
}

impl Image {
    fn grey(pixels: &[u16], stored: u16, signed: bool) -> Self {
        let mut object = InMemDicomObject::new_empty();
        object.put(text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.7"));
        object.put(text(tags::SOP_INSTANCE_UID, VR::UI, "2.25.14"));
        object.put(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"));
        for (tag, value) in [
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::ROWS, 1),
            (tags::COLUMNS, pixels.len() as u16),
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, stored),
            (tags::HIGH_BIT, stored - 1),
            (tags::PIXEL_REPRESENTATION, u16::from(signed)),
        ] {
            object.put(us(tag, value));
        }
        object.put(words(tags::PIXEL_DATA, VR::OW, pixels));
        Self { object, syntax: EXPLICIT }
    }

    /// Three samples a pixel, eight bits.
    fn colour(samples: &[u8], photometric: &str) -> Self {
        let mut image = Self::grey(&[], 8, false);
        image.object.put(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric));
        for (tag, value) in [
            (tags::SAMPLES_PER_PIXEL, 3),
            (tags::PLANAR_CONFIGURATION, 0),
            (tags::COLUMNS, (samples.len() / 3) as u16),
            (tags::BITS_ALLOCATED, 8),
        ] {
            image.object.put(us(tag, value));
        }
        image.object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U8(samples.into())));
        image
    }

    fn with(mut self, element: DataElement<InMemDicomObject>) -> Self {
        self.object.put(element);
        self
    }

    fn rescaled(self, slope: &str, intercept: &str) -> Self {
        self.with(text(tags::RESCALE_SLOPE, VR::DS, slope)).with(text(tags::RESCALE_INTERCEPT, VR::DS, intercept))
    }

    fn window(self, centre: &str, width: &str) -> Self {
        self.with(text(tags::WINDOW_CENTER, VR::DS, centre)).with(text(tags::WINDOW_WIDTH, VR::DS, width))
    }

    fn bytes(self) -> Vec<u8> {
        let meta = FileMetaTableBuilder::new().transfer_syntax(self.syntax);
        let file = self.object.with_meta(meta).expect("a meta table");
        let mut out = Vec::new();
        file.write_all(&mut out).expect("writes");
        out
    }

    /// The drawn samples, row by row.
    fn drawn(self) -> Result<Vec<u8>, NotDrawn> {
        let png = picture(&self.bytes())?;
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("a PNG");
        let mut samples = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut samples).expect("a frame");
        samples.truncate(info.buffer_size());
        Ok(samples)
    }
}

fn table(first: i32, bits: u16, entries: &[u16], signed: bool) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    item.put(descriptor(tags::LUT_DESCRIPTOR, entries.len() as u16, first, bits, signed));
    item.put(words(tags::LUT_DATA, VR::OW, entries));
    item
}

fn descriptor(tag: Tag, count: u16, first: i32, bits: u16, signed: bool) -> DataElement<InMemDicomObject> {
    if signed {
        return DataElement::new(
            tag,
            VR::SS,
            PrimitiveValue::I16([count as i16, first as i16, bits as i16][..].into()),
        );
    }
    words(tag, VR::US, &[count, first as u16, bits])
}

fn minus(value: i16) -> u16 {
    value as u16
}

#[test]
fn co_14_a_signed_ct_without_a_window_shows_all_its_values() {
    let image = Image::grey(&[minus(-1000), 0, 1000, 3000], 16, true).rescaled("1", "0");
    assert_eq!(image.drawn(), Ok(vec![0, 64, 128, 255]));
    // Twelve bits, with an intercept: the same values.
    let image = Image::grey(&[0, 1000, 2000, 4000], 12, false).rescaled("1", "-1000");
    assert_eq!(image.drawn(), Ok(vec![0, 64, 128, 255]));
    // What is no part of the image does not stretch the range.
    let padded = Image::grey(&[minus(-2000), 0, 100, 200], 16, true).with(DataElement::new(
        tags::PIXEL_PADDING_VALUE,
        VR::SS,
        PrimitiveValue::from(-2000i16),
    ));
    assert_eq!(padded.drawn(), Ok(vec![0, 0, 128, 255]));
}

#[test]
fn co_14_what_lies_above_the_stored_bits_is_masked() {
    let image = Image::grey(&[0xF000, 0xF400, 0x0800, 0x0FFF], 12, false).window("2048", "4096");
    assert_eq!(image.drawn(), Ok(vec![0, 64, 128, 255]));
    // Values in the upper twelve bits, something else in the lower four.
    let upper = Image::grey(&[0x000F, 0x400F, 0x800F, 0xFFFF], 12, false).with(us(tags::HIGH_BIT, 15));
    assert_eq!(upper.window("2048", "4096").drawn(), Ok(vec![0, 64, 128, 255]));
    let impossible = Image::grey(&[0, 1], 12, false).with(us(tags::HIGH_BIT, 10));
    assert_eq!(impossible.drawn(), Err(NotDrawn::Size));
}

#[test]
fn co_14_a_fractional_slope_is_applied() {
    let image = Image::grey(&[0, 8_192, 16_384, 32_767], 16, true).rescaled("0.000152592", "0").window("2.5", "5");
    let values = [0.0, 8_192.0, 16_384.0, 32_767.0].map(|stored| stored * 0.000_152_592);
    assert_eq!(image.drawn(), Ok(linear(&values, 2.5, 5.0)));
    let unreadable = Image::grey(&[0, 1], 16, false).rescaled("one", "0");
    assert_eq!(unreadable.drawn(), Err(NotDrawn::LookUpTable));
}

/// PS3.3 C.11.2.1.2.1, as it is written there.
fn linear(values: &[f64], centre: f64, width: f64) -> Vec<u8> {
    let shown = |x: &f64| {
        if *x <= centre - 0.5 - (width - 1.0) / 2.0 {
            0.0
        } else if *x > centre - 0.5 + (width - 1.0) / 2.0 {
            255.0
        } else {
            ((x - (centre - 0.5)) / (width - 1.0) + 0.5) * 255.0
        }
    };
    values.iter().map(|x| shown(x).round() as u8).collect()
}

#[test]
fn co_14_look_up_tables_are_applied() {
    let modality = Image::grey(&[0, 1, 2, 3], 8, false)
        .with(sequence(tags::MODALITY_LUT_SEQUENCE, vec![table(0, 16, &[0, 10, 20, 40], false)]))
        .window("20.5", "41");
    assert_eq!(modality.drawn(), Ok(vec![0, 64, 128, 255]));
    let voi = Image::grey(&[minus(-2), minus(-1), 0, 9], 16, true)
        .with(sequence(tags::VOILUT_SEQUENCE, vec![table(-2, 8, &[255, 128, 0], true)]));
    assert_eq!(voi.drawn(), Ok(vec![255, 128, 0, 0]));
    let cut = Image::grey(&[0, 1], 8, false).with(sequence(
        tags::VOILUT_SEQUENCE,
        vec![{
            let mut item = table(0, 16, &[0, 1], false);
            item.put(words(tags::LUT_DESCRIPTOR, VR::US, &[9, 0, 16]));
            item
        }],
    ));
    assert_eq!(cut.drawn(), Err(NotDrawn::LookUpTable));
    let sigmoid = Image::grey(&[0, 100, 200], 16, false).window("100", "50");
    let sigmoid = sigmoid.with(text(tags::VOILUT_FUNCTION, VR::CS, "SIGMOID"));
    assert_eq!(sigmoid.drawn(), Ok(vec![0, 128, 255]));
    let unknown = Image::grey(&[0, 1], 16, false).window("1", "2").with(text(tags::VOILUT_FUNCTION, VR::CS, "CUBIC"));
    assert_eq!(unknown.drawn(), Err(NotDrawn::LookUpTable));
}

#[test]
fn co_14_the_lowest_value_is_white_where_the_object_says_so() {
    let one = Image::grey(&[0, 255], 8, false).with(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1"));
    assert_eq!(one.drawn(), Ok(vec![255, 0]));
    let shape = Image::grey(&[0, 255], 8, false).with(text(tags::PRESENTATION_LUT_SHAPE, VR::CS, "INVERSE"));
    assert_eq!(shape.drawn(), Ok(vec![255, 0]));
}

#[test]
fn co_14_an_enhanced_object_has_its_tables_by_frame() {
    let mut rescale = InMemDicomObject::new_empty();
    rescale.put(text(tags::RESCALE_SLOPE, VR::DS, "2"));
    rescale.put(text(tags::RESCALE_INTERCEPT, VR::DS, "-100"));
    let mut window = InMemDicomObject::new_empty();
    window.put(text(tags::WINDOW_CENTER, VR::DS, "0"));
    window.put(text(tags::WINDOW_WIDTH, VR::DS, "201"));
    let mut group = InMemDicomObject::new_empty();
    group.put(sequence(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, vec![rescale]));
    group.put(sequence(tags::FRAME_VOILUT_SEQUENCE, vec![window]));
    let image =
        Image::grey(&[0, 50, 100], 16, false).with(sequence(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![group]));
    assert_eq!(image.drawn(), Ok(linear(&[-100.0, 0.0, 100.0], 0.0, 201.0)));
}

fn palette(pixels: &[u16]) -> Image {
    let mut image = Image::grey(pixels, 8, false);
    image.object.put(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "PALETTE COLOR"));
    for (described, data, entries) in [
        (tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA, [0u16, 0xFFFF, 0]),
        (
            tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
            tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            [0, 0x8000, 0],
        ),
        (tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA, [0, 0, 0xFFFF]),
    ] {
        image.object.put(descriptor(described, 3, 1, 16, false));
        image.object.put(words(data, VR::OW, &entries));
    }
    image
}

#[test]
fn co_14_palette_colour_is_drawn() {
    assert_eq!(palette(&[0, 1, 2, 3]).drawn(), Ok(vec![0, 0, 0, 0, 0, 0, 255, 128, 0, 0, 0, 255]));
    let mut without = palette(&[0, 1]);
    without.object.remove_element(tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA);
    assert_eq!(without.drawn(), Err(NotDrawn::LookUpTable), "a segmented palette has other elements");
}

#[test]
fn co_14_colours_are_what_the_object_says() {
    let red = [255, 0, 0];
    assert_eq!(Image::colour(&red, "RGB").drawn(), Ok(red.to_vec()));
    let planes = Image::colour(&[255, 1, 0, 2, 0, 3], "RGB").with(us(tags::PLANAR_CONFIGURATION, 1));
    assert_eq!(planes.drawn(), Ok(vec![255, 0, 0, 1, 2, 3]));
    let red_as_luminance = [76, 85, 255];
    assert_eq!(Image::colour(&red_as_luminance, "YBR_FULL").drawn(), Ok(vec![254, 0, 0]));
    assert_eq!(Image::colour(&red_as_luminance, "YBR_PARTIAL_422").drawn(), Err(NotDrawn::Colours));
    assert_eq!(Image::colour(&red_as_luminance, "CIELAB").drawn(), Err(NotDrawn::Colours));
    // RLE keeps luminance and colour differences: three segments of one literal run each.
    let mut frame = vec![0u8; 64];
    frame[..16].copy_from_slice(&[3, 0, 0, 0, 64, 0, 0, 0, 66, 0, 0, 0, 68, 0, 0, 0]);
    frame.extend([0, 76, 0, 85, 0, 255]);
    let mut rle = Image::colour(&red_as_luminance, "YBR_FULL");
    rle.syntax = RLE;
    let fragments = PixelFragmentSequence::new(vec![0u32], vec![frame]);
    rle.object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, fragments));
    assert_eq!(rle.drawn(), Ok(vec![254, 0, 0]));
}

#[test]
fn co_14_what_is_not_drawn_has_its_reason() {
    let mut jpeg_ls = Image::grey(&[0, 1], 8, false);
    jpeg_ls.syntax = "1.2.840.10008.1.2.4.80";
    let fragments = PixelFragmentSequence::new(vec![0u32], vec![vec![0xFFu8, 0xD8]]);
    jpeg_ls.object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, fragments));
    assert_eq!(jpeg_ls.drawn(), Err(NotDrawn::TransferSyntax));
    let float = Image::grey(&[0, 1], 16, false).with(us(tags::BITS_ALLOCATED, 32));
    assert_eq!(float.drawn(), Err(NotDrawn::Samples));
    for reason in [NotDrawn::TransferSyntax, NotDrawn::Colours, NotDrawn::TooLarge, NotDrawn::Process] {
        assert_eq!(NotDrawn::of_exit_code(Some(i32::from(reason.exit_code()))), reason);
    }
    assert_eq!(NotDrawn::of_exit_code(None), NotDrawn::Process, "ended by a signal");
    assert_eq!(NotDrawn::of_exit_code(Some(101)), NotDrawn::Process, "a panic");
}

const SIDE: u16 = 96;

/// A disc on a ramp: levels between 0 and 255, row by row.
fn scene() -> Vec<u16> {
    let level = |x: i32, y: i32| {
        let (dx, dy) = (x - 48, y - 40);
        if dx * dx + dy * dy < 500 { 255 - (x * 2) as u16 } else { (x * 255 / 95) as u16 }
    };
    (0..i32::from(SIDE)).flat_map(|y| (0..i32::from(SIDE)).map(move |x| level(x, y))).collect()
}

/// The same scene in each form that the field stores it in: every picture is the same, to two levels.
#[test]
fn co_14_one_scene_in_every_form_is_one_picture() {
    let square = |mut image: Image| {
        image.object.put(us(tags::ROWS, SIDE));
        image.object.put(us(tags::COLUMNS, SIDE));
        image
    };
    let of = |stored: u16, signed: bool, pixel: &dyn Fn(u16) -> u16| {
        square(Image::grey(&scene().into_iter().map(pixel).collect::<Vec<u16>>(), stored, signed))
    };
    let identity: Vec<u16> = (0..=255).collect();
    let palette = |mut image: Image| {
        image.object.put(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "PALETTE COLOR"));
        let entries: Vec<u16> = identity.iter().map(|v| v * 257).collect();
        for (described, data) in [
            (tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA),
            (tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA),
            (tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA),
        ] {
            image.object.put(descriptor(described, 256, 0, 16, false));
            image.object.put(words(data, VR::OW, &entries));
        }
        image
    };
    let signed = |level: u16| minus(i16::try_from(level).expect("small") * 4 - 1000);
    let forms: Vec<(&str, Image)> = vec![
        ("plain", of(8, false, &|v| v)),
        ("signed CT without a window", of(16, true, &signed).rescaled("1", "0")),
        ("12 of 16 bits with data above", of(12, false, &|v| (v * 16) | 0xA000).window("2040.5", "4081")),
        ("PET with a fractional slope", of(16, false, &|v| v * 100).rescaled("0.0004", "0").window("5.6", "11.2")),
        (
            "modality table",
            of(8, false, &|v| 255 - v).with(sequence(
                tags::MODALITY_LUT_SEQUENCE,
                vec![table(0, 16, &identity.iter().rev().copied().collect::<Vec<_>>(), false)],
            )),
        ),
        (
            "table of values of interest",
            of(8, false, &|v| 255 - v).with(sequence(
                tags::VOILUT_SEQUENCE,
                vec![table(0, 8, &identity.iter().rev().copied().collect::<Vec<_>>(), false)],
            )),
        ),
        ("lowest value is white", {
            of(8, false, &|v| 255 - v).with(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1"))
        }),
        ("palette colour", palette(of(8, false, &|v| v))),
    ];
    for (number, (form, image)) in forms.into_iter().enumerate() {
        let channels = if form == "palette colour" { 3 } else { 1 };
        if let Some(folder) = std::env::var_os("NCP_PICTURES") {
            let object = Image { object: image.object.clone(), syntax: image.syntax };
            let file = std::path::Path::new(&folder).join(format!("CO-14-{number}.png"));
            std::fs::write(file, picture(&object.bytes()).expect("draws")).expect("writes");
        }
        // The window of the PET is narrower than one unit at both ends (PS3.3 C.11.2.1.2.1): a little more is cut.
        let most = if form.starts_with("PET") { 13 } else { 2 };
        let drawn = image.drawn().expect("draws");
        assert_eq!(drawn.len(), scene().len() * channels, "{form}");
        for (got, right) in drawn.iter().step_by(channels).zip(scene()) {
            assert!(u16::from(*got).abs_diff(right) <= most, "{form}: {got} {right}");
        }
    }
}

proptest! {
    /// For every width, sign, rescale and window: what is drawn is PS3.3's formula over the values, whatever the bits
    /// around them hold.
    #[test]
    fn co_14_every_grey_picture_is_the_formula(
        pixels in proptest::collection::vec(any::<u16>(), 1..20),
        stored in 1u16..=16,
        signed: bool,
        slope in prop_oneof![Just(1.0), Just(0.000_5), Just(2.5), Just(-1.0)],
        intercept in prop_oneof![Just(0.0), Just(-1024.0), Just(0.25)],
        centre in -2000.0f64..2000.0,
        width in 1.5f64..4000.0,
    ) {
        let value = |p: &u16| {
            let low = i64::from(*p) & ((1 << stored) - 1);
            let value = if signed && low >= 1 << (stored - 1) { low - (1 << stored) } else { low };
            value as f64 * slope + intercept
        };
        let values: Vec<f64> = pixels.iter().map(value).collect();
        // DS has sixteen characters.
        let (centre, width) = ((centre * 10.0).round() / 10.0, (width * 10.0).round() / 10.0);
        let image = Image::grey(&pixels, stored, signed)
            .rescaled(&slope.to_string(), &intercept.to_string())
            .window(&centre.to_string(), &width.to_string());
        let drawn = image.drawn().expect("draws");
        for (got, right) in drawn.iter().zip(linear(&values, centre, width)) {
            prop_assert!(got.abs_diff(right) <= 1, "{got} {right}");
        }
    }
}
