//! Each rule lets a good message pass and finds the broken one.

use std::path::Path;

use super::*;

const MANIFEST: &str = "dicom/study-b/MADO_KOS_B.dcm";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).expect("a fixture")
}

fn sample(name: &str) -> String {
    let text = String::from_utf8(fixture(&format!("ihe-samples/{name}.xml"))).expect("text");
    // The two samples of RAD-75 name different sources.
    if name == "rad75-response-partial" { text.replace("2.999.47.20.1", "2.999.47.21.1") } else { text }
}

/// Keeps messages and judges them.
fn judge(messages: &[(bool, String)]) -> Report {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = Capture::new(dir.path()).expect("a capture");
    for (xop, message) in messages {
        capture.envelope(*xop, Origin::Ours, message.as_bytes()).expect("kept");
    }
    check(dir.path()).expect("judged")
}

fn rules(report: &Report) -> Vec<u8> {
    report.findings.iter().map(|f| f.rule).collect()
}

#[test]
fn the_samples_are_clean() {
    for (xop, request, response) in [
        (false, "iti38-finddocuments-request", "iti38-response-kos-leafclass"),
        (true, "iti39-request", "iti39-response"),
        (true, "rad75-request", "rad75-response-partial"),
        (false, "iti55-request", "iti55-response-match"),
        (false, "iti55-request", "iti55-response-nomatch"),
        (false, "iti55-request", "iti55-response-more-attributes"),
        (false, "iti55-request", "iti55-response-error-answernotavailable"),
    ] {
        let report = judge(&[(xop, sample(request)), (xop, sample(response))]);
        assert_eq!(report.findings, [], "{response}");
        assert_eq!(report.messages, 2);
    }
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let error = "<rs:RegistryErrorList xmlns:rs=\"urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0\"><rs:RegistryError \
                 errorCode=\"XDSUnknownPatientId\" codeContext=\"x\" \
                 severity=\"urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error\"/></rs:RegistryErrorList>";
    let find = ("iti38-finddocuments-request", "iti38-response-kos-leafclass");
    let retrieve = ("iti39-request", "iti39-response");
    let images = ("rad75-request", "rad75-response-partial");
    let discover = ("iti55-request", "iti55-response-match");
    let home = "home=\"urn:oid:2.999.47\"";
    let homes = "<ihe:HomeCommunityId>urn:oid:2.999.47</ihe:HomeCommunityId>";
    let partial = "urn:ihe:iti:2007:ResponseStatusType:PartialSuccess";
    let success = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success";
    // Rule, request and response, whether the request is changed, what is replaced by what.
    let cases = [
        (1, find, false, home, ""),
        (2, images, true, homes, ""),
        (2, retrieve, true, homes, ""),
        (2, retrieve, false, homes, ""),
        (3, find, false, home, "home=\"urn:oid:2.999.1\""),
        (4, images, false, partial, success),
        (4, find, false, success, "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"),
        (6, find, false, "CrossGatewayQueryResponse", "CrossGatewayRetrieveResponse"),
        (6, find, false, " s:mustUnderstand=\"1\"", ""),
        (6, find, false, "<a:RelatesTo>urn:uuid:11111111-1111-4111-8111-111111111111</a:RelatesTo>", ""),
        (7, discover, false, "queryResponseCode code=\"OK\"", "queryResponseCode code=\"NF\""),
        (7, discover, false, "<livingSubjectId>", "<livingSubjectId xmlns:x=\"x\" x:y=\"z\">"),
        (11, find, false, "20260312091500", "20260312091500+0100"),
    ];
    for (rule, (request, response), in_request, from, to) in cases {
        let xop = response.starts_with("iti39") || response.starts_with("rad75");
        let (mut asked, mut answered) = (sample(request), sample(response));
        let changed = if in_request { &mut asked } else { &mut answered };
        assert!(changed.contains(from), "{request}, {response}: nothing like {from}");
        *changed = changed.replace(from, to);
        let report = judge(&[(xop, asked), (xop, answered)]);
        assert!(rules(&report).contains(&rule), "{response}, {from}: {:?}", report.findings);
    }
    let leak = sample(find.1)
        .replace("CrossGatewayQueryResponse", "RegistryStoredQueryResponse")
        .replace(success, partial)
        .replace("<rim:RegistryObjectList>", &format!("{error}<rim:RegistryObjectList>"));
    assert_eq!(rules(&judge(&[(false, leak)])), [5]);
    let packaged = judge(&[(true, sample(find.0)), (true, sample(find.1))]);
    assert_eq!(rules(&packaged), [6, 6]);
    let get = sample("iti38-getdocuments-request").replace(" home=\"urn:oid:2.999.47\"", "");
    let answer = sample(find.1).replace("11111111-1111-4111-8111-111111111111", "11111111-1111-4111-8111-111111111114");
    assert!(rules(&judge(&[(false, get), (false, answer)])).contains(&3));
}

#[test]
fn the_schema_finds_what_it_knows() {
    if schema_path().is_none() {
        #[allow(clippy::print_stdout)]
        {
            println!("skipped: needs NCP_SHARED_DATA");
        }
        return;
    }
    let broken = sample("iti39-request").replace("RepositoryUniqueId>", "RepositoryId>");
    let report = judge(&[(true, broken)]);
    assert_eq!(rules(&report), [0], "{:?}", report.findings);
}

/// A retrieve whose document is the MADO manifest of study B, and a study whose instance is one of its slices.
#[test]
fn documents_and_instances_are_judged() {
    let kos = fixture(MANIFEST);
    let slice = fixture("dicom/study-b/Series_B_1/I0.dcm");
    let manifest = ncp_ihe::Manifest::read_kos(&kos).expect("a manifest");
    let object = super::content::dicom(&slice).expect("a slice");
    let uid = object.meta().media_storage_sop_instance_uid().trim_end_matches('\0').to_owned();
    let syntax = object.meta().transfer_syntax().trim_end_matches('\0').to_owned();
    let series = manifest.series.iter().find(|s| s.instances.iter().any(|i| i.sop_instance.as_str() == uid));
    let series = series.expect("the slice is in the manifest");
    let location = series.location.clone().expect("a location").to_string();
    let request = |repository: &str, document: &str| {
        sample("iti39-request").replace("2.999.47.20.1", repository).replace("2.999.47.99.1.500", document)
    };
    let response = |id: &str, repository: &str, document: &str| {
        let include = format!("<xop:Include xmlns:xop=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:{id}\"/>");
        sample("iti39-response")
            .replace("2.999.47.20.1", repository)
            .replace("2.999.47.99.1.500", document)
            .replace("RElDTQ==", &include)
    };
    let images = |syntax: &str, repository: &str| {
        format!(
            "<rad:RetrieveImagingDocumentSetRequest xmlns:rad=\"urn:ihe:rad:xdsi-b:2009\" xmlns:ihe=\"urn:ihe:iti:xds-b:2007\">\
             <rad:StudyRequest studyInstanceUID=\"{}\"><rad:SeriesRequest seriesInstanceUID=\"{}\"><ihe:DocumentRequest>\
             <ihe:HomeCommunityId>urn:oid:2.999.47</ihe:HomeCommunityId><ihe:RepositoryUniqueId>{repository}</ihe:RepositoryUniqueId>\
             <ihe:DocumentUniqueId>{uid}</ihe:DocumentUniqueId></ihe:DocumentRequest></rad:SeriesRequest></rad:StudyRequest>\
             <rad:TransferSyntaxUIDList><rad:TransferSyntaxUID>{syntax}</rad:TransferSyntaxUID></rad:TransferSyntaxUIDList>\
             </rad:RetrieveImagingDocumentSetRequest>",
            manifest.study, series.series
        )
    };
    let imaging = |message: String, syntax: &str, repository: &str| {
        let (start, rest) = message.split_once("<s:Body>").expect("a body");
        let end = rest.split_once("</s:Body>").expect("a body").1;
        let actions = start
            .replace("urn:ihe:iti:2007:CrossGatewayRetrieve", "urn:ihe:rad:2011:CrossGatewayRetrieveImagingDocumentSet")
            .replace("11111111-1111-4111-8111-111111111115", "11111111-1111-4111-8111-111111111199");
        format!("{actions}<s:Body>{}</s:Body>{end}", images(syntax, repository))
    };
    let study = |message: String| {
        message
            .replace("urn:ihe:iti:2007:CrossGatewayRetrieve", "urn:ihe:rad:2011:CrossGatewayRetrieveImagingDocumentSet")
            .replace("11111111-1111-4111-8111-111111111115", "11111111-1111-4111-8111-111111111199")
    };
    let hash = hex::encode(openssl::sha::sha1(&kos));
    // The manifest's local times are an hour ahead.
    let (created, started) = ("20260224235759", "20260224152310");
    let entries = |size: usize, created: &str| {
        sample("iti38-response-kos-leafclass")
            .replace("da39a3ee5e6b4b0d3255bfef95601890afd80709", &hash)
            .replace("<rim:Value>2468</rim:Value>", &format!("<rim:Value>{size}</rim:Value>"))
            .replace("20260312091500", created)
            .replace("20260312083000", started)
    };
    let envelope =
        ncp_soap::Envelope::read(entries(1, created).as_bytes(), &ncp_xml::Limits::ANSWER).expect("an envelope");
    let listed = ncp_ihe::QueryResponse::read(&envelope.body).expect("entries").0.objects.entries.remove(0);
    let (unique, repository) = (listed.unique_id, listed.repository_unique_id.to_string());
    let run_dated = |created: &str, size: usize, listed: &str, place: &str, bytes: &[u8]| {
        let dir = tempfile::tempdir().expect("a folder");
        let capture = Capture::new(dir.path()).expect("a capture");
        let keep = |xop, message: &str| capture.envelope(xop, Origin::Ours, message.as_bytes()).expect("kept");
        keep(false, &entries(size, created));
        keep(true, &request(&repository, &unique));
        let id = keep(true, &response("k@x", &repository, &unique));
        capture.part(&id, "k@x", bytes, true).expect("kept");
        keep(true, &imaging(request("1.2", "1.2"), listed, place));
        let id = keep(true, &study(response("i@x", place, &uid)));
        capture.part(&id, "i@x", &slice[..slice.len().min(HEAD)], false).expect("kept");
        let report = check(dir.path()).expect("judged");
        assert!([8, 10].iter().all(|r| report.judged.contains_key(r)), "{}", report.summary());
        report
    };
    let run = |size, listed: &str, place: &str, bytes: &[u8]| run_dated(created, size, listed, place, bytes);
    let good = run(kos.len(), &syntax, &location, &kos);
    assert_eq!(good.findings, []);
    assert!(good.judged.contains_key(&9));
    assert_eq!(rules(&run_dated("20260225005759", kos.len(), &syntax, &location, &kos)), [11]);
    assert_eq!(rules(&run(kos.len() + 1, &syntax, &location, &kos)), [10]);
    assert_eq!(rules(&run(kos.len(), "1.2.840.10008.1.2.4.50", &location, &kos)), [8]);
    assert_eq!(rules(&run(kos.len(), &syntax, "1.2.3", &kos)), [8]);
    let titled = {
        let at = kos.windows(11).position(|w| w == b"MADOTEMP001" || w.starts_with(b"113030")).expect("a title");
        let mut other = kos.clone();
        other[at] = b'9';
        other
    };
    assert!(rules(&run(kos.len(), &syntax, &location, &titled)).contains(&9));
}

/// Three countries are asked, of which one does not answer.
#[test]
fn records_are_counted_against_exchanges() {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = Capture::new(dir.path()).expect("a capture");
    let id = "11111111-1111-4111-8111-111111111111";
    for (home, message) in [("2.999.47", id), ("2.999.48", "2"), ("2.999.49", "3")] {
        let renamed = |text: String| text.replace("2.999.47", home).replace(id, message);
        capture
            .envelope(false, Origin::Given, renamed(sample("iti38-finddocuments-request")).as_bytes())
            .expect("kept");
        if home != "2.999.49" {
            let answer = renamed(sample("iti38-response-kos-leafclass"));
            capture.envelope(false, Origin::Given, answer.as_bytes()).expect("kept");
        }
    }
    let messages = load(dir.path()).expect("read");
    let encoded = |text: &str| openssl::base64::encode_block(text.as_bytes());
    let record = |(code, role, home, outcome): &(&str, &str, &str, u8), message: &str| {
        let (home, message) = (encoded(&format!("urn:oid:{home}")), encoded(message));
        format!(
            "<AuditMessage><EventIdentification EventActionCode=\"E\" EventDateTime=\"2026-01-02T10:00:00Z\" \
             EventOutcomeIndicator=\"{outcome}\"><EventID csd-code=\"110112\" codeSystemName=\"DCM\" originalText=\"Query\"/>\
             <EventTypeCode csd-code=\"{code}\" codeSystemName=\"IHE Transactions\" originalText=\"x\"/></EventIdentification>\
             <ActiveParticipant UserID=\"x\" AlternativeUserID=\"7\" UserIsRequestor=\"true\">\
             <RoleIDCode csd-code=\"{role}\" codeSystemName=\"eHealth DSI\" originalText=\"x\"/></ActiveParticipant>\
             <AuditSourceIdentification AuditSourceID=\"x\"/>\
             <ParticipantObjectIdentification ParticipantObjectID=\"{home}{message}{outcome}\" ParticipantObjectTypeCode=\"2\" \
             ParticipantObjectTypeCodeRole=\"26\"><ParticipantObjectIDTypeCode csd-code=\"ncp-exchange\" \
             codeSystemName=\"NCP\" originalText=\"x\"/><ParticipantObjectDetail type=\"ncp:community\" value=\"{home}\"/>\
             <ParticipantObjectDetail type=\"wsa:MessageID\" value=\"{message}\"/>\
             </ParticipantObjectIdentification></AuditMessage>"
        )
    };
    let (ours, theirs) = ("ServiceConsumer", "ServiceProvider");
    let good = [("ITI-38", ours, "2.999.47", 0), ("ITI-38", ours, "2.999.48", 0), ("ITI-38", ours, "2.999.49", 8)];
    let judge = |records: &[(&str, &str, &str, u8)]| {
        let mut report = Report::default();
        let records = records.iter().enumerate().map(|(at, one)| record(one, &at.to_string())).collect();
        check_asked(&messages, &Trail { home: "2.999.246".into(), records }, &mut report);
        rules(&report)
    };
    assert_eq!(judge(&good), [0u8; 0]);
    assert!(judge(&good[1..]).contains(&12));
    // A second record, another transaction, the other role, another community, a failure that is not recorded as one.
    for (at, other) in [
        (0, ("ITI-39", ours, "2.999.47", 0)),
        (0, ("ITI-38", theirs, "2.999.47", 0)),
        (0, ("ITI-38", ours, "2.999.48", 0)),
        (2, ("ITI-38", ours, "2.999.49", 0)),
    ] {
        let mut records = good;
        records[at] = other;
        assert!(judge(&records).contains(&12), "{other:?}");
    }
    assert!(judge(&[good[0], good[0], good[1], good[2]]).contains(&12));

    // The same messages at the sides that answered: who asked, and whose MessageID it was.
    let (asking, ids) = ("2.999.246", [("2.999.47", id), ("2.999.48", "2"), ("2.999.49", "3")]);
    let judge = |one: &(&str, &str, &str, u8), again: bool, message: &str| {
        let mut report = Report::default();
        let mut trails: Vec<Trail> = ids
            .iter()
            .map(|(home, id)| Trail {
                home: (*home).to_owned(),
                records: vec![record(&("ITI-38", theirs, asking, u8::from(*id == "3") * 8), &format!("urn:uuid:{id}"))],
            })
            .collect();
        let changed = record(one, message);
        if !again {
            trails[0].records.clear();
        }
        trails[0].records.push(changed);
        check_answered(&messages, &trails, &[asking], &mut report);
        rules(&report)
    };
    let right = format!("urn:uuid:{id}");
    assert_eq!(judge(&("ITI-38", theirs, asking, 0), false, &right), [0u8; 0]);
    assert!(judge(&("ITI-38", theirs, asking, 4), true, &right).contains(&12), "recorded twice");
    for (other, message) in [
        (("ITI-38", theirs, "2.999.47", 0), right.as_str()),
        (("ITI-38", theirs, "2.999.1", 0), &right),
        (("ITI-38", theirs, asking, 8), &right),
        (("ITI-55", theirs, asking, 0), &right),
        (("ITI-38", ours, asking, 0), &right),
        (("ITI-38", theirs, asking, 0), "urn:uuid:9"),
    ] {
        assert!(judge(&other, false, message).contains(&12), "{other:?}");
    }
}

/// A report in CDA whose effectiveTime is the local time of the entry's instant.
#[test]
fn a_document_says_what_its_entry_says_of_its_time() {
    let text = sample("iti38-response-kos-leafclass");
    let envelope = ncp_soap::Envelope::read(text.as_bytes(), &ncp_xml::Limits::ANSWER).expect("an envelope");
    let mut entry = ncp_ihe::QueryResponse::read(&envelope.body).expect("entries").0.objects.entries.remove(0);
    entry.creation_time = ncp_ihe::Dtm::parse("20260312081500").ok();
    let cda = |time: &str| {
        let text =
            format!("<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><effectiveTime value=\"{time}\"/></ClinicalDocument>");
        super::times::cda(text.as_bytes(), &entry).expect("a CDA").is_ok()
    };
    assert!(cda("20260312091500+0100"));
    assert!(!cda("20260312081500+0100"));
    let kos = super::content::dicom(&fixture(MANIFEST)).expect("a manifest");
    entry.service_start = None;
    assert!(super::times::manifest(&kos, &entry).is_err());
}
