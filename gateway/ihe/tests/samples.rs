//! The samples read to their values, and what we write validates against the schemas.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ncp_ihe::*;
use ncp_xml::{Element, Limits};

mod manifests;
mod objects;
mod openncp;
mod properties;

const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn body(name: &str) -> Element {
    let bytes = std::fs::read(fixture("ihe-samples").join(name)).expect("fixture");
    let envelope = Element::parse(&bytes, &Limits::REQUEST).expect("well-formed");
    envelope.child(SOAP, "Body").and_then(|b| b.elements().next()).expect("a body").clone()
}

/// Validates a body inside an envelope; the HL7 schemas may not be copied into the project.
fn valid(body: &Element) {
    let data = std::env::var_os("NCP_SHARED_DATA").map(PathBuf::from);
    let data = data.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"));
    let schema = data.join("ihe/xsd/envelope-all.xsd");
    if !schema.is_file() {
        println!("skipped: needs NCP_SHARED_DATA");
        return;
    }
    let envelope = Element::new(SOAP, "Envelope").with(Element::new(SOAP, "Body").with(body.clone()));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("message.xml");
    std::fs::write(&file, envelope.to_xml()).expect("writes");
    let out = Command::new("xmllint")
        .args(["--nonet", "--noout", "--schema"])
        .arg(schema)
        .arg(&file)
        .output()
        .expect("xmllint");
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), envelope.to_xml());
}

#[test]
fn iti55_request() {
    let query = PatientQuery::read(&body("iti55-request.xml")).expect("reads");
    assert_eq!(query.ids[0].to_cx(), "13116900216^^^&2.999.47.1&ISO");
    assert_eq!(query.birth_dates, ["19690113"]);
    let again = PatientQuery::new(
        query.sender.clone(),
        query.receiver.clone(),
        query.ids.clone(),
        query.names.first().cloned(),
        query.birth_dates.first().cloned(),
        Some("F".into()),
    );
    let written = again.to_element(jiff::Timestamp::now());
    valid(&written);
    let read = PatientQuery::read(&written).expect("reads back");
    assert_eq!((read.ids, read.names, read.sender), (query.ids, query.names, query.sender));
}

#[test]
fn iti55_answers_of_every_case() {
    let read = |name: &str| PatientResponse::read(&body(name)).expect("reads");
    let PatientAnswer::Matches(matches) = read("iti55-response-match.xml") else { panic!("a match") };
    assert_eq!(matches[0].record.id.extension, "13116900216");
    assert!(matches!(read("iti55-response-nomatch.xml"), PatientAnswer::NoMatch { .. }));
    let PatientAnswer::Refused(more) = read("iti55-response-more-attributes.xml") else { panic!("a refusal") };
    assert!(more.asks_for_more());
    let PatientAnswer::Refused(error) = read("iti55-response-error-answernotavailable.xml") else {
        panic!("a refusal")
    };
    assert_eq!(error.reason, "AnswerNotAvailable");

    let query = PatientQuery::read(&body("iti55-request.xml")).expect("reads");
    let own = Oid::parse("2.999.47").expect("an OID");
    let rights =
        PatientAnswer::refused("InsufficientRights", "1.3.6.1.4.1.12559.11.10.1.3.2.2.1", "ERROR_PI_GENERIC", "no");
    let ask = PatientAnswer::refused(
        "DemographicsQueryNotAllowed",
        "1.3.6.1.4.1.12559.11.10.1.3.2.2.1",
        "ERROR_PI_GENERIC",
        "id",
    );
    let more = xcpd::Refusal {
        reason: "AdditionalDemographicsRequested".into(),
        system: "1.3.6.1.4.1.12559.11.10.1.3.2.2.1".into(),
        detail: "ERROR_PI_MULTIPLE_MATCHES".into(),
        text: "more".into(),
        attributes: vec!["LivingSubjectAdministrativeGenderRequested".into()],
    };
    for answer in [
        PatientAnswer::Refused(more),
        PatientAnswer::Matches(matches),
        PatientAnswer::NoMatch { ehdsi_reason: true },
        PatientAnswer::NoMatch { ehdsi_reason: false },
        rights,
        ask,
    ] {
        let written = PatientResponse::element(&query, &answer, &own, jiff::Timestamp::now());
        valid(&written);
        let read = PatientResponse::read(&written).expect("reads back");
        assert_eq!(read, answer);
    }
    valid(&PatientResponse::deferred_refused(&query, &own, jiff::Timestamp::now()));
}

#[test]
fn iti38_requests_and_response() {
    for name in ["iti38-finddocuments-request.xml", "iti38-getdocuments-request.xml"] {
        let request = CrossGatewayQueryRequest::read(&body(name)).expect("reads");
        valid(&request.to_element());
        assert_eq!(CrossGatewayQueryRequest::read(&request.to_element()).expect("reads back"), request);
    }
    let (response, unusable) = QueryResponse::read(&body("iti38-response-kos-leafclass.xml")).expect("reads");
    assert_eq!(unusable, 0);
    let entry = &response.objects.entries[0];
    assert!(entry.is_manifest());
    assert!(entry.study_instance_uid().is_some());
    assert!(entry.home.is_some());
    valid(&response.to_element());
    let (again, _) = QueryResponse::read(&response.to_element()).expect("reads back");
    assert_eq!(again.objects.entries, response.objects.entries);
}

/// Submission sets, folders and associations as we write them: the set of the RAD-68 sample and a folder that holds it.
#[test]
fn registry_packages() {
    let submitted = body("rad68-request.xml");
    let lists = submitted.path("urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0", &["SubmitObjectsRequest"]);
    let list = lists.and_then(|s| s.child(ns::RIM, "RegistryObjectList")).expect("a list");
    let mut objects = RegistryObjects::default();
    assert_eq!(objects.read_list(list), 1, "an entry in a submission has no repository yet");
    let set = objects.submission_sets[0].clone();
    assert_eq!((set.unique_id.as_str(), set.source_id.as_str()), ("2.999.47.70.1", "2.999.47.71"));
    assert_eq!(objects.associations[0].submission_set_status.as_deref(), Some("Original"));
    objects.folders.push(Folder {
        entry_uuid: "urn:uuid:7b0c1a52-6c1f-4c0e-9d0a-000000000001".into(),
        unique_id: "2.999.47.72.1".into(),
        home: None,
        availability: Availability::Approved,
        patient_id: set.patient_id.clone(),
        codes: vec![set.content_type.clone()],
        last_update: set.submission_time.clone(),
        title: Some("Imaging".into()),
        comments: Some("of one treatment".into()),
        extra_slots: vec![("urn:example:slot".into(), vec!["1".into()])],
    });
    objects.set_home(&HomeCommunityId::parse("2.999.47").expect("an OID"));
    let response = QueryResponse { status: Status::Success, errors: Vec::new(), objects, object_refs: Vec::new() };
    valid(&response.to_element());
    let (again, unusable) = QueryResponse::read(&response.to_element()).expect("reads back");
    assert_eq!((again.objects, unusable), (response.objects, 0));
}

#[test]
fn a_get_without_home_and_opencp_lists() {
    let slot = |name: &str, value: &str| {
        let rim = |l: &str| Element::new(ns::RIM, l);
        rim("Slot").attr("name", name).with(rim("ValueList").with(rim("Value").text(value)))
    };
    let request = Element::new(ns::QUERY, "AdhocQueryRequest")
        .with(Element::new(ns::QUERY, "ResponseOption").attr("returnType", "LeafClass"))
        .with(
            Element::new(ns::RIM, "AdhocQuery")
                .attr("id", "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d")
                .with(slot("$XDSDocumentEntryPatientId", "'1^^^&2.999.1&ISO'"))
                .with(slot("$XDSDocumentEntryStatus", "('urn:oasis:names:tc:ebxml-regrep:StatusType:Approved')"))
                .with(slot(
                    "$XDSDocumentEntryClassCode",
                    "('34105-7^^2.16.840.1.113883.6.1,18748-4^^2.16.840.1.113883.6.1')",
                )),
        );
    let read = CrossGatewayQueryRequest::read(&request).expect("reads");
    let StoredQuery::FindDocuments(find) = read.query else { panic!("FindDocuments") };
    assert_eq!(find.class_codes.iter().map(|c| c.code.as_str()).collect::<Vec<_>>(), ["34105-7", "18748-4"]);
}

#[test]
fn iti39_and_rad75() {
    let request = RetrieveRequest::read(&body("iti39-request.xml")).expect("reads");
    valid(&request.to_element());
    let imaging = ImagingRequest::read(&body("rad75-request.xml")).expect("reads");
    valid(&imaging.to_element());
    assert_eq!(ImagingRequest::read(&imaging.to_element()).expect("reads back"), imaging);
    let inline = |e: &Element| Ok::<_, MessageError>(Content::Inline(e.trimmed().into_bytes().into()));
    let partial = RetrieveResponse::read(&body("rad75-response-partial.xml"), inline).expect("reads");
    assert_eq!(partial.status, Status::PartialSuccess);
    assert!(!partial.errors.is_empty() && !partial.documents.is_empty());
    valid(&partial.to_element());
}

#[test]
fn real_manifests_of_two_dialects() {
    let read =
        |name: &str| Manifest::read_kos(&std::fs::read(fixture("dicom").join(name)).expect("fixture")).expect("a KOS");
    let mado = read("study-b/MADO_KOS_B.dcm");
    assert_eq!((mado.series.len(), mado.instance_count()), (2, 21));
    assert!(mado.series.iter().all(|s| s.location.is_some()));
    let nist = read("nist/IDS-DEPT001-a-kos.dcm");
    assert!(nist.instance_count() > 0);
    for dialect in [KosDialect::Mado(MadoCodes::Final), KosDialect::XtEhr] {
        let bytes = mado.write_kos(dialect).expect("writes");
        assert_eq!(bytes, mado.write_kos(dialect).expect("writes"), "the same manifest gives the same bytes");
        let again = Manifest::read_kos(&bytes).expect("reads back");
        assert_eq!((again.instance_count(), &again.study, &again.patient), (21, &mado.study, &mado.patient));
        assert_eq!(again.series[0].modality, mado.series[0].modality);
    }
    assert_eq!(Manifest::read_kos(b"nothing"), Err(ManifestError::NotDicom));
    for cut in [140, 400, 1000] {
        assert!(
            Manifest::read_kos(&mado.write_kos(KosDialect::Mado(MadoCodes::Final)).expect("writes")[..cut]).is_err()
        );
    }
}
