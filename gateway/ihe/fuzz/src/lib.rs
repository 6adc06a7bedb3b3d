//! What the targets do with any bytes: read them, write what was read, and find it again.

use ncp_ihe::imaging::{ImageFacts, MetadataView, PIXELS, header_end, metadata};
use ncp_ihe::*;
use ncp_xml::{Element, Limits};

fn parse(data: &[u8]) -> Option<Element> {
    Element::parse(data, &Limits::REQUEST).ok()
}

fn again(element: &Element) -> Element {
    Element::parse(element.to_xml().as_bytes(), &Limits::REQUEST).expect("what was written can be read")
}

/// Bodies of ITI-38, ITI-39 and RAD-75.
pub fn ebrim(data: &[u8]) {
    let Some(body) = parse(data) else { return };
    let content = |_: &Element| Err::<Content, ()>(());
    if let Ok(request) = CrossGatewayQueryRequest::read(&body) {
        let _ = CrossGatewayQueryRequest::read(&again(&request.to_element()));
    }
    if let Ok(request) = RetrieveRequest::read(&body) {
        assert_eq!(RetrieveRequest::read(&again(&request.to_element())).as_ref(), Ok(&request));
    }
    if let Ok(request) = ImagingRequest::read(&body) {
        assert_eq!(ImagingRequest::read(&again(&request.to_element())).as_ref(), Ok(&request));
    }
    if let Ok((response, _)) = QueryResponse::read(&body) {
        let (read, unusable) = QueryResponse::read(&again(&response.to_element())).expect("reads back");
        assert_eq!((read.objects.len(), unusable), (response.objects.len(), 0));
    }
    let _ = RetrieveResponse::read(&body, content);
}

/// Bodies of ITI-55.
pub fn hl7v3(data: &[u8]) {
    let Some(body) = parse(data) else { return };
    let own = Oid::parse("2.999.1").expect("an OID");
    let query = PatientQuery::read(&body).ok();
    if let Some(query) = &query {
        let _ = PatientQuery::read(&again(&query.to_element(jiff::Timestamp::UNIX_EPOCH)));
    }
    let _ = PatientResponse::remaining(&body);
    if let Ok(answer) = PatientResponse::read(&body) {
        let asked = PatientQuery::new(own.clone(), own.clone(), Vec::new(), None, None, None);
        let written = PatientResponse::element(query.as_ref().unwrap_or(&asked), &answer, &own, jiff::Timestamp::UNIX_EPOCH);
        let _ = PatientResponse::read(&again(&written));
    }
}

/// An object as an archive or a peer sends it: every reader, and no two of them with two notions of what can be read. A
/// private sequence under UN is put in front of the patient, where there is one.
pub fn dicom(data: &[u8]) {
    read_object(data);
    if let Some(at) = data.windows(6).position(|window| window == b"\x10\x00\x10\x00PN") {
        let private = b"\x09\x00\x10\x00LO\x04\x00TEST\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\x0c\0\0\0\x09\x00\x01\x10\x04\0\0\0ABCD\xfe\xff\xdd\xe0\0\0\0\0";
        read_object(&[&data[..at], private, &data[at..]].concat());
    }
}

fn read_object(data: &[u8]) {
    let verdict = |size: usize, known: Option<u64>| {
        let mut scan = StructureScan::new(known);
        data.chunks(size).try_for_each(|piece| scan.push(piece)).and_then(|()| scan.finish())
    };
    let sound = verdict(data.len().max(1), Some(data.len() as u64)).is_ok();
    assert_eq!(verdict(7, None).is_ok(), sound);
    let mut scan = StructureScan::new(None);
    let _ = scan.push(data);
    // Of a deflated object no more is inflated than a header has at most.
    let deflated = scan.transfer_syntax().is_some_and(|syntax| !syntax.starts_with("1.2.840.10008.1.2.1") || syntax.ends_with("99"));
    let identified = matches!(DicomHeader::scan(data, true), Scanned::Header(_));
    let view = MetadataView { retrieve_url: None, patient_id: None };
    let told = metadata(data, &view).is_ok();
    // What is delivered has its element in the metadata (P1), and is known to the folder's scan.
    if sound && identified && !deflated {
        assert!(told);
        assert!(header_end(data, PIXELS, true).is_ok());
        assert!(!matches!(ImageFacts::read(data), Err(ManifestError::Unbounded(_))));
    }
    let _ = for_parser(data);
}

/// Manifests of every form: what one says in MADO's KOS comes back. And the metadata of any object.
pub fn manifest(data: &[u8]) {
    let _ = ImageFacts::read(data);
    let view = MetadataView { retrieve_url: None, patient_id: None };
    if let Ok(Some(end)) = header_end(data, PIXELS, false) {
        let _ = metadata(&data[..end], &view);
    }
    let _ = metadata(data, &view);
    let Ok((manifest, _)) = Manifest::read(data) else { return };
    for form in ManifestForm::ALL {
        if let Ok(converted) = manifest.convert(form, MadoCodes::Final) {
            let (read, _) = Manifest::read(&converted.bytes).expect("what was written can be read");
            assert_eq!(read.instance_count(), manifest.instance_count());
        }
    }
}

/// A report's narrative: any CDA, and any text between the tags of a section. What is shown is bounded.
pub fn narrative(data: &[u8]) {
    let _ = orcd::Report::of_cda(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let cda = format!(
        "<ClinicalDocument xmlns='urn:hl7-org:v3'><component><structuredBody><component><section><title>t</title>\
         <text>{text}</text></section></component></structuredBody></component></ClinicalDocument>"
    );
    if let Ok(report) = orcd::Report::of_cda(cda.as_bytes()) {
        assert!(report.lines.len() <= 20_002);
        let deleted = "<content revised=\"delete\">";
        // Text of a document that is deleted as a whole is not shown.
        let closed = cda.replace("<text>", &format!("<text>{deleted}")).replace("</text>", "</content></text>");
        if let Ok(closed) = orcd::Report::of_cda(closed.as_bytes())
            && !text.contains("text>")
        {
            assert!(closed.lines.iter().all(|line| line.heading > 0 || line.runs.iter().all(|run| run.italic)));
        }
    }
}
