//! What an OpenNCP neighbour sends and needs: bodies of ITI-55, ITI-38, ITI-39.

use ncp_ihe::*;
use ncp_xml::{Element, Limits};

use super::body;

fn parse(xml: &str) -> Element {
    Element::parse(xml.as_bytes(), &Limits::REQUEST).expect("well-formed")
}

/// 3: OpenNCP 7 answers `AE` on a match and when there is none; only a subject decides.
#[test]
fn a_match_is_decided_by_its_subject() {
    let coded = |name: &str, code: &str| {
        let xml = body(name).to_xml();
        let changed: String = ["OK", "NF"].iter().fold(xml.clone(), |xml, right| {
            xml.replace(&format!("queryResponseCode code=\"{right}\""), &format!("queryResponseCode code=\"{code}\""))
        });
        assert_ne!(xml, changed, "{name}");
        PatientResponse::read(&parse(&changed)).expect("reads")
    };
    assert!(matches!(coded("iti55-response-match.xml", "AE"), PatientAnswer::Matches(all) if all.len() == 1));
    let none = "<PRPA_IN201306UV02 xmlns='urn:hl7-org:v3'><acknowledgement><typeCode code='AA'/><acknowledgementDetail>\
        <code code='ERROR_PI_NO_MATCH'/><text>No patient found.</text><location>NF</location></acknowledgementDetail>\
        </acknowledgement><controlActProcess><reasonOf><detectedIssueEvent><mitigatedBy><detectedIssueManagement>\
        <code code='AnswerNotAvailable' codeSystem='1.3.6.1.4.1.19376.1.2.27.3'/></detectedIssueManagement></mitigatedBy>\
        </detectedIssueEvent></reasonOf><queryAck><queryResponseCode code='AE'/></queryAck></controlActProcess></PRPA_IN201306UV02>";
    let none = PatientResponse::read(&parse(none)).expect("reads");
    assert_eq!(none, PatientAnswer::NoMatch { ehdsi_reason: true });
}

/// 3: OpenNCP's server follows `sender/device/asAgent/representedOrganization/id` without looking.
#[test]
fn requests_name_the_senders_organisation() {
    let oid = |text: &str| Oid::parse(text).expect("an OID");
    let id = PatientId::new("1", oid("2.999.47.1")).expect("an id");
    let query = PatientQuery::new(oid("2.999.246"), oid("2.999.47"), vec![id], None, None, None);
    let written = query.to_element(jiff::Timestamp::UNIX_EPOCH);
    for (party, own) in [("sender", "2.999.246"), ("receiver", "2.999.47")] {
        let device = written.path(ns::HL7V3, &[party, "device"]).expect("a device");
        for path in [&["id"][..], &["asAgent", "representedOrganization", "id"]] {
            assert_eq!(device.path(ns::HL7V3, path).and_then(|i| i.get("root")), Some(own), "{party} {path:?}");
        }
    }
}

/// 4: several class codes in one quoted string, and in the list that IHE prescribes; we send one Value.
#[test]
fn class_codes_have_two_spellings() {
    let request = |value: &str| {
        let slot = |name: &str, value: &str| {
            Element::new(ns::RIM, "Slot")
                .attr("name", name)
                .with(Element::new(ns::RIM, "ValueList").with(Element::new(ns::RIM, "Value").text(value)))
        };
        let adhoc = Element::new(ns::RIM, "AdhocQuery")
            .attr("id", "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d")
            .with(slot("$XDSDocumentEntryPatientId", "'1^^^&2.999.47.1&ISO'"))
            .with(slot("$XDSDocumentEntryStatus", "('urn:oasis:names:tc:ebxml-regrep:StatusType:Approved')"))
            .with(slot("$XDSDocumentEntryClassCode", value));
        let option = Element::new(ns::QUERY, "ResponseOption").attr("returnType", "LeafClass");
        let body = Element::new(ns::QUERY, "AdhocQueryRequest").with(option).with(adhoc);
        CrossGatewayQueryRequest::read(&body).expect("reads")
    };
    let openncp = request("('34105-7^^2.16.840.1.113883.6.1,18748-4^^2.16.840.1.113883.6.1')");
    let ihe = request("('34105-7^^2.16.840.1.113883.6.1','18748-4^^2.16.840.1.113883.6.1')");
    assert_eq!(openncp, ihe);
    let StoredQuery::FindDocuments(find) = &ihe.query else { panic!("FindDocuments") };
    let codes: Vec<&str> = find.class_codes.iter().map(|c| c.code.as_str()).collect();
    assert_eq!(codes, ["34105-7", "18748-4"]);

    let written = ihe.to_element();
    let adhoc = written.child(ns::RIM, "AdhocQuery").expect("the query");
    let values = |name: &str| {
        let slot = adhoc.all(ns::RIM, "Slot").find(|s| s.get("name") == Some(name)).expect("the slot");
        slot.path(ns::RIM, &["ValueList"]).expect("values").elements().map(Element::content).collect::<Vec<_>>()
    };
    assert_eq!(values("$XDSDocumentEntryPatientId"), ["'1^^^&2.999.47.1&ISO'"]);
    let one = "('34105-7^^2.16.840.1.113883.6.1','18748-4^^2.16.840.1.113883.6.1')";
    assert_eq!(values("$XDSDocumentEntryClassCode"), [one]);
}

/// 4: OpenNCP's client finds identifiers by their names; its own lists hold associations of an entry with itself and, where
/// it dropped an image, an entry without anything.
#[test]
fn entries_are_named_and_odd_lists_are_read() {
    let element = body("iti38-response-kos-leafclass.xml");
    let (mut response, _) = QueryResponse::read(&element).expect("reads");
    let uuid = response.objects.entries[0].entry_uuid.clone();
    response.objects.associations.push(Association {
        uuid: "urn:uuid:00000000-0000-4000-8000-000000000001".into(),
        kind: Association::XFRM.into(),
        source: uuid.clone(),
        target: uuid,
        submission_set_status: None,
    });
    let written = response.to_element().to_xml();
    for name in ["XDSDocumentEntry.patientId", "XDSDocumentEntry.uniqueId"] {
        assert!(written.contains(&format!("value=\"{name}\"")), "{name}");
    }
    let (read, unusable) = QueryResponse::read(&parse(&written)).expect("reads");
    assert_eq!((read.objects.len(), unusable), (response.objects.len(), 0));
    let end = "</";
    let list = written.rfind("RegistryObjectList>").and_then(|at| written[..at].rfind(end)).expect("the list's end");
    let empty = "<x:ExtrinsicObject xmlns:x=\"urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0\"/>";
    let with_empty = format!("{}{empty}{}", &written[..list], &written[list..]);
    let (read, unusable) = QueryResponse::read(&parse(&with_empty)).expect("reads");
    assert_eq!((read.objects.len(), unusable), (response.objects.len(), 1));
}

/// 5: a partial success without a document is what OpenNCP answers when nothing can be had.
#[test]
fn a_partial_success_may_be_empty() {
    let xml = "<RetrieveDocumentSetResponse xmlns='urn:ihe:iti:xds-b:2007'><RegistryResponse \
        xmlns='urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0' status='urn:ihe:iti:2007:ResponseStatusType:PartialSuccess'>\
        <RegistryErrorList><RegistryError codeContext='ERROR_GENERIC_DOCUMENT_MISSING : gone' errorCode='XDSMissingDocument' \
        severity='urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error'/></RegistryErrorList></RegistryResponse>\
        </RetrieveDocumentSetResponse>";
    let read = RetrieveResponse::read(&parse(xml), |_| Err::<Content, ()>(())).expect("reads");
    assert_eq!((read.status, read.documents.len(), read.errors.len()), (Status::PartialSuccess, 0, 1));
    assert_eq!(read.errors[0].code, "XDSMissingDocument");
}

/// 8: severities are URNs, and the list says the highest.
#[test]
fn error_lists_say_their_highest_severity() {
    let error =
        |severity| RegistryError { code: "1104".into(), context: "no document".into(), severity, location: None };
    for (errors, highest) in
        [(vec![error(Severity::Warning)], "Warning"), (vec![error(Severity::Warning), error(Severity::Error)], "Error")]
    {
        let response = RetrieveResponse { status: Status::Failure, errors, documents: Vec::new() };
        let written = response.to_element();
        super::valid(&Element::new(ns::XDSB, "RetrieveDocumentSetResponse").with_all(written.elements().cloned()));
        let list = written.path(ns::RS, &["RegistryResponse", "RegistryErrorList"]).expect("the list");
        let urn = format!("urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:{highest}");
        assert_eq!(list.get("highestSeverity"), Some(urn.as_str()));
        assert!(list.elements().all(|e| e.get("severity").is_some_and(|s| s.starts_with("urn:oasis:"))));
    }
}
