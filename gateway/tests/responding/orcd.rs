//! OrCD views for an OpenNCP neighbour: listed, retrieved, the same at every call; nobody else is offered them.

use std::path::Path;
use std::process::{Command, Stdio};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use ncp_gateway::responding::orcd::draw;
use ncp_ihe::orcd::{held, held_media_type};
use ncp_ihe::{
    Coded, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, FindDocuments, KosDialect, Manifest,
    ManifestInstance, ManifestSeries, PatientId, QueryResponse, ReturnType, Severity, Status, StoredQuery, Uid,
    actions,
};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::synth::Study;

use crate::world::{MARKED, World, other_patient, patient, study};

const LOINC: &str = "2.16.840.1.113883.6.1";

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a UID")
}

/// Writes a key object note of a study that marks one slice.
pub(crate) fn note(study: &Study, slice: u32, like: &Path, file: &Path) {
    let (own, series) = (uid(&format!("{}.2.1", study.uid())), uid(&format!("{}.2", study.uid())));
    let marked = ManifestInstance::new(uid("1.2.840.10008.5.1.4.1.1.2"), uid(&study.instance(slice)));
    let manifest = Manifest {
        series: vec![ManifestSeries { instances: vec![marked], ..ManifestSeries::new(uid(&study.series())) }],
        ..Manifest::new(own, series, uid(&study.uid()))
    };
    let bytes = manifest.write_kos(KosDialect::XdsI).expect("writes");
    let mut note = dicom_object::from_reader(&bytes[128..]).expect("reads");
    let patient = dicom_object::open_file(like).expect("a slice");
    for tag in [tags::PATIENT_ID, tags::PATIENT_NAME, tags::PATIENT_BIRTH_DATE, tags::STUDY_DATE, tags::STUDY_TIME] {
        note.put(patient.element(tag).expect("an attribute").clone());
    }
    // 113000 "Of Interest": a note, and no manifest.
    let mut title = dicom_object::InMemDicomObject::new_empty();
    for (tag, vr, value) in [
        (tags::CODE_VALUE, VR::SH, "113000"),
        (tags::CODING_SCHEME_DESIGNATOR, VR::SH, "DCM"),
        (tags::CODE_MEANING, VR::LO, "Of Interest"),
    ] {
        title.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
    note.put(DataElement::new(
        tags::CONCEPT_NAME_CODE_SEQUENCE,
        VR::SQ,
        dicom_core::value::DataSetSequence::from(vec![title]),
    ));
    note.write_to_file(file).expect("writes");
}

async fn of_class(neighbour: &Neighbour, patient: &PatientId, class: &str) -> QueryResponse {
    let class_codes = vec![Coded::new(class, LOINC, None)];
    let query = StoredQuery::FindDocuments(FindDocuments { class_codes, ..FindDocuments::of_patient(patient.clone()) });
    let request = CrossGatewayQueryRequest { home: None, return_type: ReturnType::LeafClass, query };
    let assertions = neighbour.assertions(patient).await.expect("signs");
    let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, request.to_element()).await;
    QueryResponse::read(&answer.expect("an answer").body).expect("a response").0
}

fn wanted(entry: &DocumentEntry) -> DocumentRequest {
    DocumentRequest {
        home: entry.home.clone(),
        repository: entry.repository_unique_id.clone(),
        document: entry.unique_id.clone(),
    }
}

/// Retrieves twice; both answers have the same bytes.
async fn twice(neighbour: &Neighbour, entry: &DocumentEntry) -> Vec<u8> {
    let (response, first) = neighbour.document(&patient(), &wanted(entry)).await.expect("an answer");
    assert_eq!((response.status, response.errors.len()), (Status::Success, 0), "{:?}", response.errors);
    assert_eq!(response.documents[0].media_type, "text/xml");
    let (_, second) = neighbour.document(&patient(), &wanted(entry)).await.expect("an answer");
    assert_eq!(first, second, "the same bytes at every call");
    first
}

/// What any CDA of OpenNCP has: the patient as the register names her, whatever
/// the images say, and every element that OpenNCP's readers expect.
fn header(cda: &[u8], template: &str, class: &str) {
    let text = std::str::from_utf8(cda).expect("UTF-8");
    for part in [
        template,
        class,
        "30857710106",
        "<family>Testesen</family>",
        "<administrativeGenderCode code=\"M\"",
        "<birthTime value=\"19770530\"",
        "<name>Eksempel HF</name>",
        "<assignedAuthor><id nullFlavor=\"NI\"/><addr nullFlavor=\"UNK\"/>",
        "typeCode=\"XFRM\"",
        "representation=\"B64\"",
    ] {
        assert!(text.contains(part), "{part}\n{}", &text[..text.len().min(3000)]);
    }
    assert!(!text.contains("DOE"), "the name of the images");
}

#[tokio::test(flavor = "multi_thread")]
async fn co_15_on_17_reports_and_key_images_are_offered_to_an_openncp_neighbour() {
    let world = World::start().await;
    let reports = of_class(&world.denmark, &patient(), "18748-4").await;
    assert_eq!((reports.status, reports.errors.len()), (Status::Success, 0), "{:?}", reports.errors);
    let [report] = reports.objects.entries.as_slice() else { panic!("{:?}", reports.objects.entries) };
    assert_eq!((report.class_code.code.as_str(), report.type_code.code.as_str()), ("18748-4", "18748-4"));
    assert_eq!((held_media_type(report), report.mime_type.as_str()), (Some("application/pdf"), "text/xml"));
    assert_eq!(report.unique_id, "2.999.47.30.1^ORCD");
    assert!(report.is_delayed_assembly() && report.home.is_some());
    let again = of_class(&world.denmark, &patient(), "18748-4").await.objects.entries;
    assert_eq!(again[0].entry_uuid, report.entry_uuid, "stable from query to query");

    let cda = twice(&world.denmark, report).await;
    header(&cda, "1.3.6.1.4.1.12559.11.10.1.3.1.1.10", "code=\"18748-4\"");
    let (media_type, pdf) = held(&cda).expect("memory").expect("a PDF inside");
    assert_eq!(media_type, "application/pdf");
    let words = String::from_utf8_lossy(&pdf);
    assert!(words.contains("pdfaid") && words.contains("CT toraks"), "PDF/A with the report's title");

    let pictures = of_class(&world.denmark, &patient(), "x-clinical-image").await.objects.entries;
    assert_eq!(pictures.len(), 2, "one for each study");
    for (number, folder, slice) in [(11, "data/dicom/11", MARKED), (12, "second/dicom/12", 2)] {
        let of_study = |e: &&DocumentEntry| e.study_instance_uid() == Some(uid(&study(number).uid()));
        let entry = pictures.iter().find(of_study).expect("a picture of the study");
        assert_eq!(held_media_type(entry), Some("image/png"));
        let cda = twice(&world.denmark, entry).await;
        header(&cda, "1.3.6.1.4.1.12559.11.10.1.3.1.1.11", "code=\"x-clinical-image\"");
        let (media_type, png) = held(&cda).expect("memory").expect("a picture inside");
        assert_eq!(media_type, "image/png");
        // The marked slice where a note marks one, else the middle one.
        assert_eq!(png, draw::picture(&world.slice(folder, slice)).expect("draws"), "study {number}");
    }

    // A neighbour without the switch is offered none and gets none.
    let found = of_class(&world.finland, &patient(), "x-clinical-image").await;
    assert_eq!((found.objects.entries.len(), found.errors.len()), (0, 0));
    let (refused, _) = world.finland.document(&patient(), &wanted(report)).await.expect("an answer");
    assert_eq!((refused.status, refused.errors[0].code.as_str()), (Status::Failure, "XDSDocumentUniqueIdError"));
    // The blocked report has no view either.
    let blocked = DocumentRequest { document: "2.999.47.30.2^ORCD".into(), ..wanted(report) };
    let (refused, _) = world.denmark.document(&patient(), &blocked).await.expect("an answer");
    assert_eq!((refused.status, refused.errors[0].code.as_str()), (Status::Failure, "XDSDocumentUniqueIdError"));

    // Nobody's pictures: Success with the warning that OpenNCP gives.
    let none = of_class(&world.denmark, &other_patient(), "x-clinical-image").await;
    assert_eq!((none.status, none.objects.entries.len()), (Status::Success, 0));
    let [warning] = none.errors.as_slice() else { panic!("{:?}", none.errors) };
    assert_eq!((warning.code.as_str(), warning.severity), ("1104", Severity::Warning));
}

/// An object that was altered, element by element.
fn altered(world: &World, alter: impl FnOnce(&mut dicom_object::DefaultDicomObject)) -> Vec<u8> {
    let mut object = dicom_object::from_reader(&world.slice("data/dicom/11", 1)[128..]).expect("reads");
    alter(&mut object);
    let mut out = Vec::new();
    object.write_all(&mut out).expect("writes");
    out
}

/// T-DCM-13: sizes that overflow, of the wrong VR, above the data. The drawing process refuses; nothing is multiplied
/// unchecked.
#[tokio::test(flavor = "multi_thread")]
async fn t_dcm_13_sizes_that_lie_are_not_drawn() {
    let world = World::start().await;
    let us = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let table: Vec<(&str, Vec<u8>)> = vec![
        (
            "rows x columns overflow",
            altered(&world, |o| {
                o.put(us(tags::ROWS, u16::MAX));
                o.put(us(tags::COLUMNS, u16::MAX));
            }),
        ),
        (
            "UL instead of US",
            altered(&world, |o| {
                _ = o.put(DataElement::new(tags::ROWS, VR::UL, PrimitiveValue::from(u32::MAX)));
            }),
        ),
        (
            "frames above the data",
            altered(&world, |o| {
                _ = o.put(DataElement::new(tags::NUMBER_OF_FRAMES, VR::IS, PrimitiveValue::from("2147483647")));
            }),
        ),
        (
            "negative frames",
            altered(&world, |o| {
                _ = o.put(DataElement::new(tags::NUMBER_OF_FRAMES, VR::IS, PrimitiveValue::from("-1")));
            }),
        ),
        ("bits stored", altered(&world, |o| _ = o.put(us(tags::BITS_STORED, u16::MAX)))),
        ("no rows", altered(&world, |o| _ = o.put(us(tags::ROWS, 0)))),
        ("64 bits", altered(&world, |o| _ = o.put(us(tags::BITS_ALLOCATED, 64)))),
        ("65535 samples", altered(&world, |o| _ = o.put(us(tags::SAMPLES_PER_PIXEL, u16::MAX)))),
        (
            "pixels cut",
            altered(&world, |o| {
                _ = o.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U8(vec![0; 8].into())));
            }),
        ),
        ("no object", b"DICM".repeat(64)),
        ("nothing", Vec::new()),
    ];
    for (what, object) in &table {
        assert!(drawn(object).is_none(), "{what}");
    }
    let good = world.slice("data/dicom/11", 1);
    let png = draw::picture(&good).expect("a good one is drawn");
    assert_eq!(drawn(&good).as_ref(), Some(&png), "a good one after the bad ones");
    // IHDR: 16 by 16, eight bits, grey.
    assert_eq!(png[16..26], [0, 0, 0, 16, 0, 0, 0, 16, 8, 0]);
    assert_ne!(png, draw::picture(&world.slice("data/dicom/11", 2)).expect("draws"), "slices differ");
}

/// What another program compressed without loss is drawn as the original is, whatever it calls the colours inside.
#[test]
fn jpeg_2000_is_drawn_as_its_original() {
    let read = |file: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/dicom").join(file)).expect("a file")
    };
    let original = "nist/iig-5402/1.3.6.1.4.1.21367.201599.3.201606010958036.1.dcm";
    for (compressed, native) in [("jpeg2000/grey.dcm", original), ("jpeg2000/rgb.dcm", "jpeg2000/rgb-native.dcm")] {
        let png = draw::picture(&read(native)).expect("draws");
        assert_eq!(drawn(&read(compressed)).as_ref(), Some(&png), "{compressed}");
    }
    let mut object = dicom_object::from_reader(&read("jpeg2000/rgb.dcm")[128..]).expect("reads");
    let coloured = DataElement::new(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, PrimitiveValue::from("YBR_RCT"));
    object.put(coloured);
    let mut bytes = Vec::new();
    object.write_all(&mut bytes).expect("writes");
    assert_eq!(drawn(&bytes), drawn(&read("jpeg2000/rgb.dcm")));
    let mut cut = read("jpeg2000/grey.dcm");
    cut.truncate(cut.len() / 2);
    assert!(drawn(&cut).is_none(), "half of it");
    // The codestream says another size than the object: SIZ begins with SOC and its own marker.
    for (at, value) in [(8, 65u32), (12, 9_999), (40, 0x0004_0707)] {
        let mut lies = read("jpeg2000/rgb.dcm");
        let begin = lies.windows(4).position(|w| w == [0xFF, 0x4F, 0xFF, 0x51]).expect("a codestream");
        lies[begin + at..begin + at + 4].copy_from_slice(&value.to_be_bytes());
        assert!(drawn(&lies).is_none(), "at {at}");
    }
}

/// What the drawing process makes of an object; `None` when it refuses with its own exit code, which no signal has.
fn drawn(object: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_ncp-gateway"))
        .arg(draw::COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let _ = child.stdin.take().expect("a pipe").write_all(object);
    let out = child.wait_with_output().expect("ends");
    match out.status.code() {
        Some(0) => Some(out.stdout),
        code => {
            let reason = draw::NotDrawn::of_exit_code(code);
            assert_ne!(reason, draw::NotDrawn::Process, "a reason, no crash: {code:?}");
            None
        }
    }
}
