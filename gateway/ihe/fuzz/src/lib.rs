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
