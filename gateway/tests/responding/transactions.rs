//! ITI-55, ITI-38, ITI-39 and RAD-75: every case that has an answer of its own.

use ncp_ihe::{
    Association, ContentFilter, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, FindDocuments, FindFolders,
    FindSubmissionSets, GetAll, HomeCommunityId, ImagingRequest, ObjectIds, Oid, PatientAnswer, PatientQuery,
    PatientResponse, PersonName, QueryResponse, RegistryError, RetrieveRequest, ReturnType, SeriesRequest, Severity,
    Status, StoredQuery, StudyRequest, Uid, actions,
};
use ncp_tests::neighbour::{Neighbour, XCA, XCAI, XCPD, retrieve_response};
use ncp_xml::Element;

use crate::world::{HOME, SOURCES, World, other_patient, patient, study};

pub(crate) fn home() -> HomeCommunityId {
    HomeCommunityId::parse(HOME).expect("an OID")
}

fn codes(errors: &[RegistryError]) -> Vec<&str> {
    let mut codes: Vec<&str> = errors.iter().map(|e| e.code.as_str()).collect();
    codes.sort_unstable();
    codes
}

pub(crate) async fn query(
    world: &World,
    home: Option<HomeCommunityId>,
    return_type: ReturnType,
    query: StoredQuery,
) -> QueryResponse {
    let assertions = world.finland.assertions(&patient()).await.expect("signs");
    let request = CrossGatewayQueryRequest { home, return_type, query };
    let answer = world.finland.call(actions::ITI38_REQUEST, XCA, &assertions, request.to_element()).await;
    QueryResponse::read(&answer.expect("an answer").body).expect("an AdhocQueryResponse").0
}

async fn leaves(world: &World, asked: StoredQuery) -> QueryResponse {
    let answer = query(world, Some(home()), ReturnType::LeafClass, asked).await;
    assert_eq!((answer.status, answer.errors.len()), (Status::Success, 0), "{:?}", answer.errors);
    let entries = answer.objects.entries.iter().map(|e| &e.home);
    let sets = answer.objects.submission_sets.iter().map(|s| &s.home);
    let folders = answer.objects.folders.iter().map(|f| &f.home);
    assert!(entries.chain(sets).chain(folders).all(|h| *h == Some(home())), "home is on every object");
    answer
}

pub(crate) fn named(answer: &QueryResponse) -> Vec<&str> {
    let entries = answer.objects.entries.iter().map(|e| e.unique_id.as_str());
    let sets = answer.objects.submission_sets.iter().map(|s| s.unique_id.as_str());
    let folders = answer.objects.folders.iter().map(|f| f.unique_id.as_str());
    let mut all: Vec<&str> = entries.chain(sets).chain(folders).collect();
    all.sort_unstable();
    all
}

/// Every stored query; the blocked report 2.999.47.30.2 and what is of it alone are in no answer.
#[tokio::test(flavor = "multi_thread")]
async fn every_stored_query() {
    use StoredQuery as Q;
    let world = World::start().await;
    let report = "2.999.47.30.1";
    let all = leaves(&world, Q::FindDocuments(FindDocuments::of_patient(patient()))).await;
    let entry = |id: &str| -> &DocumentEntry {
        all.objects.entries.iter().find(|e| e.unique_id == id).unwrap_or_else(|| panic!("{id} is found"))
    };
    assert_eq!(all.objects.entries.len(), 3, "one report and the manifests of two sources: {:?}", named(&all));
    let reference = entry(report).reference_ids[0].clone();
    let uuid = entry(report).entry_uuid.clone();
    let unique = |id: &str| ObjectIds::UniqueIds(vec![id.to_owned()]);
    let any = ContentFilter::default();
    let approved = vec![ncp_ihe::Availability::Approved];
    let (set, folder, blocked) = ("2.999.47.40.1", "2.999.47.41.1", "2.999.47.30.2");
    let sets = FindSubmissionSets {
        patient_id: patient(),
        status: approved.clone(),
        source_ids: Vec::new(),
        submitted: Default::default(),
        author_person: Vec::new(),
        content_types: Vec::new(),
    };
    let folders =
        FindFolders { patient_id: patient(), status: approved.clone(), updated: Default::default(), codes: Vec::new() };
    let everything = GetAll {
        patient_id: patient(),
        document_status: approved.clone(),
        set_status: approved.clone(),
        folder_status: approved,
        contents: any.clone(),
    };
    let by_reference = FindDocuments { reference_ids: vec![vec![reference]], ..FindDocuments::of_patient(patient()) };
    let table: Vec<(StoredQuery, Vec<&str>, usize)> = vec![
        (Q::FindDocuments(by_reference), vec![report], 0),
        (Q::FindSubmissionSets(sets), vec![set], 0),
        (Q::FindFolders(folders), vec![folder], 0),
        (Q::GetDocuments(unique(report)), vec![report], 0),
        (Q::GetDocuments(unique(blocked)), vec![], 0),
        (Q::GetDocuments(ObjectIds::EntryUuids(vec![uuid.clone()])), vec![report], 0),
        (Q::GetDocumentsAndAssociations(unique(report)), vec![report], 2),
        (
            Q::GetRelatedDocuments {
                document: unique(report),
                association_types: vec!["urn:ihe:iti:2007:AssociationType:APND".into()],
                contents: any.clone(),
            },
            vec![],
            0,
        ),
        (Q::GetFoldersForDocument(unique(report)), vec![folder], 0),
        (Q::GetFolders(unique(folder)), vec![folder], 0),
        (Q::GetFolderAndContents { folder: unique(folder), contents: any.clone() }, vec![report, folder], 1),
        (Q::GetSubmissionSetAndContents { set: unique(set), contents: any.clone() }, vec![report, set, folder], 2),
        (Q::GetSubmissionSetAndContents { set: unique("2.999.47.40.2"), contents: any }, vec![], 0),
        (Q::GetSubmissionSets(vec![uuid.clone()]), vec![set], 1),
        (Q::GetAssociations(vec![uuid]), vec![], 2),
    ];
    for (asked, expected, associations) in table {
        let answer = leaves(&world, asked.clone()).await;
        assert_eq!((named(&answer), answer.objects.associations.len()), (expected, associations), "{asked:?}");
        let refs = query(&world, Some(home()), ReturnType::ObjectRef, asked.clone()).await;
        assert!(refs.objects.is_empty(), "{asked:?}");
        assert_eq!(refs.object_refs.len(), answer.objects.len(), "{asked:?}");
        assert!(refs.object_refs.iter().all(|(_, h)| *h == Some(home())), "{asked:?}");
    }
    let answer = leaves(&world, Q::GetAll(everything)).await;
    assert_eq!(answer.objects.len(), 3 + 1 + 1 + 3, "{:?}", named(&answer));
    assert!(answer.objects.associations.iter().all(|a| a.is(Association::HAS_MEMBER)), "no link to the blocked report");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_refused_have_their_codes() {
    use StoredQuery as Q;
    let world = World::start().await;
    let get = || Q::GetDocuments(ObjectIds::UniqueIds(vec!["2.999.47.30.1".into()]));
    let elsewhere = HomeCommunityId::parse("2.999.99").ok();
    for (home, asked, code) in [
        // NIST 15815.
        (None, get(), "XDSMissingHomeCommunityId"),
        (elsewhere.clone(), get(), "XDSUnknownCommunity"),
        (elsewhere, Q::FindDocuments(FindDocuments::of_patient(patient())), "XDSUnknownCommunity"),
        (None, Q::FindDocuments(FindDocuments::of_patient(other_patient())), "4206"),
    ] {
        let answer = query(&world, home, ReturnType::LeafClass, asked.clone()).await;
        assert_eq!((answer.status, codes(&answer.errors)), (Status::Failure, vec![code]), "{asked:?}");
        assert!(answer.objects.is_empty() && answer.object_refs.is_empty());
        assert_eq!(answer.errors[0].location.as_deref(), Some("urn:oid:2.999.47"));
        assert_eq!(answer.errors[0].severity, Severity::Error);
    }
    let good = CrossGatewayQueryRequest {
        home: Some(home()),
        return_type: ReturnType::LeafClass,
        query: Q::FindDocuments(FindDocuments::of_patient(patient())),
    };
    let assertions = world.finland.assertions(&patient()).await.expect("signs");
    let text = good.to_element().to_xml();
    for (from, to, code) in [
        ("urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d", "urn:uuid:0", "XDSUnknownStoredQuery"),
        ("$XDSDocumentEntryStatus", "$Other", "XDSStoredQueryMissingParam"),
        ("$XDSDocumentEntryStatus", "$XDSDocumentEntryPatientId", "XDSStoredQueryParamNumber"),
        ("^^^&amp;2.16.578.1.12.4.1.4.1&amp;ISO", "", "XDSRegistryError"),
        ("returnType=\"LeafClass\"", "returnType=\"Other\"", "XDSRegistryError"),
    ] {
        let body = text.replace(from, to);
        assert_ne!(body, text);
        let body = Element::parse(body.as_bytes(), &ncp_xml::Limits::REQUEST).expect("well-formed");
        let answer = world.finland.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
        let answer = QueryResponse::read(&answer.body).expect("an AdhocQueryResponse").0;
        assert_eq!((answer.status, codes(&answer.errors)), (Status::Failure, vec![code]));
    }
}

fn wanted(home: &str, repository: &str, document: &str) -> DocumentRequest {
    DocumentRequest {
        home: HomeCommunityId::parse(home).ok(),
        repository: Oid::parse(repository).expect("an OID"),
        document: document.into(),
    }
}

/// Many documents in one request: each is answered for itself.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_fail_fail_alone() {
    let world = World::start().await;
    let all = leaves(&world, StoredQuery::FindDocuments(FindDocuments::of_patient(patient()))).await;
    let there = all.objects.entries.iter().map(|e| wanted(HOME, e.repository_unique_id.as_str(), &e.unique_id));
    let mut documents: Vec<DocumentRequest> = there.collect();
    let good = documents.len();
    // Twice is twice, each with a Content-ID of its own.
    documents.push(documents[0].clone());
    documents.push(wanted(HOME, SOURCES[0], "2.999.47.30.2"));
    documents.push(wanted(HOME, SOURCES[0], "2.999.47.30.9"));
    documents.push(wanted(HOME, "2.999.47.21.9", "2.999.47.30.1"));
    documents.push(wanted(HOME, SOURCES[1], "2.999.47.30.1"));
    documents.push(wanted("2.999.99", SOURCES[0], "2.999.47.30.1"));
    let assertions = world.finland.assertions(&patient()).await.expect("signs");
    let request = RetrieveRequest { documents };
    let mut answer =
        world.finland.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await.expect("an answer");
    let response = retrieve_response(&answer.body).expect("a RetrieveDocumentSetResponse");
    assert_eq!(response.status, Status::PartialSuccess);
    assert_eq!(response.documents.len(), good + 1);
    let absent = "XDSDocumentUniqueIdError";
    assert_eq!(
        codes(&response.errors),
        [absent, absent, absent, "XDSUnknownCommunity", "XDSUnknownRepositoryId"],
        "{:?}",
        response.errors
    );
    assert!(response.errors.iter().all(|e| e.location.as_ref().is_some_and(|l| l.contains("2.999.47.30."))));
    let mut parts = 0;
    while answer.parts.next().await.expect("whole parts").is_some() {
        parts += 1;
    }
    assert_eq!(parts, good + 1);
    for (document, code) in [
        (wanted("2.999.99", SOURCES[0], "1"), "XDSUnknownCommunity"),
        (wanted(HOME, "2.999.1", "1"), "XDSUnknownRepositoryId"),
    ] {
        let request = RetrieveRequest { documents: vec![document] };
        let answer = world.finland.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await;
        let response = retrieve_response(&answer.expect("an answer").body).expect("a response");
        assert_eq!((response.status, codes(&response.errors)), (Status::Failure, vec![code]));
    }
    let nowhere = RetrieveRequest {
        documents: vec![DocumentRequest { home: None, ..wanted(HOME, SOURCES[0], "2.999.47.30.1") }],
    };
    let answer = world.finland.call(actions::ITI39_REQUEST, XCA, &assertions, nowhere.to_element()).await;
    let response = retrieve_response(&answer.expect("an answer").body).expect("a response");
    assert_eq!((response.status, codes(&response.errors)), (Status::Failure, vec!["XDSMissingHomeCommunityId"]));
}

pub(crate) fn instances(number: u32, location: &str, slices: &[u32]) -> StudyRequest {
    let study = study(number);
    let instances = slices.iter().map(|slice| wanted(HOME, location, &study.instance(*slice))).collect();
    let series = SeriesRequest { series: Uid::parse(&study.series()).expect("a UID"), instances };
    StudyRequest { study: Uid::parse(&study.uid()).expect("a UID"), series: vec![series] }
}

async fn images(neighbour: &Neighbour, studies: Vec<StudyRequest>, syntaxes: &[&str]) -> (Status, usize, Vec<String>) {
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let transfer_syntaxes = syntaxes.iter().map(|s| Uid::parse(s).expect("a UID")).collect();
    let request = ImagingRequest { studies, transfer_syntaxes };
    let mut answer =
        neighbour.call(actions::RAD75_REQUEST, XCAI, &assertions, request.to_element()).await.expect("an answer");
    let response = retrieve_response(&answer.body).expect("a RetrieveDocumentSetResponse");
    let mut parts = 0;
    while answer.parts.next().await.expect("whole parts").is_some() {
        parts += 1;
    }
    assert_eq!(parts, response.documents.len());
    let located = response.errors.iter().all(|e| e.location.as_ref().is_some_and(|l| l.ends_with("urn:oid:2.999.47")));
    assert!(located, "{:?}", response.errors);
    let mut codes: Vec<String> = response.errors.into_iter().map(|e| e.code).collect();
    codes.sort_unstable();
    (response.status, parts, codes)
}

/// Name, what is asked for and in which transfer syntaxes; status, instances and codes of the answer.
type ImagingCase<'a> = (&'a str, Vec<StudyRequest>, &'a [&'a str], Status, usize, Vec<&'a str>);

/// The cases of NIST rig 5420 to 5430.
#[tokio::test(flavor = "multi_thread")]
async fn images_of_several_studies_and_sources() {
    const EXPLICIT: &str = "1.2.840.10008.1.2.1";
    const JPEG: &str = "1.2.840.10008.1.2.4.70";
    let world = World::start().await;
    let finland = &world.finland;
    let (absent, unknown, failed) = ("XDSDocumentUniqueIdError", "XDSUnknownRepositoryId", "XDSRepositoryError");
    let (a, b) = (SOURCES[0], SOURCES[1]);
    let nobody = "2.999.47.21.9";
    let table: Vec<ImagingCase<'_>> = vec![
        ("one image", vec![instances(11, a, &[1])], &[EXPLICIT], Status::Success, 1, vec![]),
        (
            "two studies of two sources, several syntaxes",
            vec![instances(11, a, &[1, 2, 3]), instances(12, b, &[1, 2])],
            &[JPEG, EXPLICIT],
            Status::Success,
            5,
            vec![],
        ),
        ("asked twice", vec![instances(11, a, &[1, 1])], &[EXPLICIT], Status::Success, 1, vec![]),
        ("no offered syntax", vec![instances(11, a, &[1])], &[JPEG], Status::Failure, 0, vec![failed]),
        ("unknown instance", vec![instances(11, a, &[9])], &[EXPLICIT], Status::Failure, 0, vec![absent]),
        ("unknown study", vec![instances(13, a, &[1])], &[EXPLICIT], Status::Failure, 0, vec![absent]),
        ("study of the other source", vec![instances(12, a, &[1])], &[EXPLICIT], Status::Failure, 0, vec![absent]),
        ("unknown source", vec![instances(11, nobody, &[1])], &[EXPLICIT], Status::Failure, 0, vec![unknown]),
        ("partly", vec![instances(11, a, &[1, 9])], &[EXPLICIT], Status::PartialSuccess, 1, vec![absent]),
        (
            "two sources, each partly, and one that is not known",
            vec![instances(11, a, &[1, 9]), instances(12, b, &[2, 9]), instances(14, nobody, &[1])],
            &[EXPLICIT],
            Status::PartialSuccess,
            2,
            vec![absent, absent, unknown],
        ),
    ];
    for (name, studies, syntaxes, status, parts, codes) in table {
        let expected = (status, parts, codes.into_iter().map(String::from).collect());
        assert_eq!(images(finland, studies, syntaxes).await, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patient_discovery_of_every_case() {
    let world = World::start().await;
    let own = Oid::parse(HOME).expect("an OID");
    let hcp = || async { world.finland.hcp(&world.finland.claims(), jiff::Timestamp::now()).await.expect("signs") };
    let ask = async |ids: Vec<ncp_ihe::PatientId>, receiver: &str, birth: Option<&str>, action: &str| {
        let receiver = Oid::parse(receiver).expect("an OID");
        let query =
            PatientQuery::new(world.finland.home.0.clone(), receiver, ids, None, birth.map(ToOwned::to_owned), None);
        let body = query.to_element(jiff::Timestamp::now());
        world.finland.call(action, XCPD, &[hcp().await], body).await.expect("an answer").body
    };
    let read = |body: &Element| PatientResponse::read(body).expect("a PRPA_IN201306UV02");
    let one = read(&ask(vec![patient()], HOME, Some("19770530"), actions::ITI55_REQUEST).await);
    let PatientAnswer::Matches(found) = one else { panic!("{one:?}") };
    assert_eq!((found.len(), &found[0].record.id, &found[0].home.0), (1, &patient(), &own));
    // WI-05: alternatives, in either order.
    let named = |family: &str| PersonName { family: family.into(), given: Vec::new() };
    for (families, is_found) in
        [(["Pike", "Testesen"], true), (["Testesen", "Pike"], true), (["Pike", "Nordmann"], false)]
    {
        let finland = world.finland.home.0.clone();
        let plain =
            PatientQuery::new(finland.clone(), own.clone(), vec![patient()], Some(named(families[0])), None, None);
        let other = PatientQuery::new(finland, own.clone(), Vec::new(), Some(named(families[1])), None, None);
        let parameter = |query: &PatientQuery| {
            let list = query.query.child(ncp_ihe::ns::HL7V3, "parameterList").expect("a list");
            list.elements().find(|e| e.local() == "livingSubjectName").expect("a name").to_xml()
        };
        let body = plain.to_element(jiff::Timestamp::now()).to_xml();
        let body = body.replace("</parameterList>", &format!("{}</parameterList>", parameter(&other)));
        let body = Element::parse(body.as_bytes(), &ncp_xml::Limits::REQUEST).expect("XML");
        let answer = world.finland.call(actions::ITI55_REQUEST, XCPD, &[hcp().await], body).await.expect("an answer");
        let found = matches!(read(&answer.body), PatientAnswer::Matches(_));
        assert_eq!(found, is_found, "{families:?}");
    }
    let none = read(&ask(vec![patient()], HOME, Some("19990101"), actions::ITI55_REQUEST).await);
    assert!(matches!(none, PatientAnswer::NoMatch { .. }), "{none:?}");
    let (several, generic) = ("ERROR_PI_MULTIPLE_MATCHES", "ERROR_PI_GENERIC");
    for (ids, receiver, reason, detail, attributes, text) in [
        (vec![], HOME, "DemographicsQueryNotAllowed", generic, 0, "a patient identifier is required"),
        (vec![patient()], "2.999.99", "AnswerNotAvailable", generic, 0, "homeCommunityId is not ours"),
        (
            vec![patient(), other_patient()],
            HOME,
            "AdditionalDemographicsRequested",
            several,
            1,
            "more than one patient fits",
        ),
    ] {
        let answer = read(&ask(ids, receiver, None, actions::ITI55_REQUEST).await);
        let PatientAnswer::Refused(refusal) = answer else { panic!("{answer:?}") };
        assert_eq!((refusal.reason.as_str(), refusal.detail.as_str()), (reason, detail));
        assert_eq!(refusal.attributes.len(), attributes);
        assert!(refusal.text.starts_with(&format!("{text} (reference ")), "the table's text: {}", refusal.text);
    }
    let deferred = ask(vec![patient()], HOME, None, actions::ITI55_DEFERRED_REQUEST).await;
    assert!(deferred.is(ncp_ihe::ns::HL7V3, "MCCI_IN000002UV01") && deferred.to_xml().contains("NS250"));
}

/// A peer with `security_errors = "fault"` gets WS-Security faults for what another gets in the body.
#[tokio::test(flavor = "multi_thread")]
async fn security_refusals_are_faults_where_the_peer_wants_them() {
    let world = World::start().await;
    let find = Neighbour::find_documents(&patient()).to_element();
    let retrieve = RetrieveRequest { documents: vec![wanted(HOME, SOURCES[0], "2.999.47.30.1")] }.to_element();
    let images = ImagingRequest {
        studies: vec![instances(11, SOURCES[0], &[1])],
        transfer_syntaxes: vec![Uid::parse("1.2").expect("a UID")],
    };
    let calls = [
        (actions::ITI38_REQUEST, XCA, find),
        (actions::ITI39_REQUEST, XCA, retrieve),
        (actions::RAD75_REQUEST, XCAI, images.to_element()),
    ];
    for (action, path, body) in calls {
        let assertions = world.sweden.assertions(&patient()).await.expect("signs");
        let mut tampered = assertions.clone();
        tampered[0].xml = tampered[0].xml.replace("Radiologist on duty", "Somebody else");
        for (sent, subcode, text) in [
            (Vec::new(), "wsse:InvalidSecurity", "no identity assertion of the health professional"),
            (vec![assertions[0].clone()], "wsse:InvalidSecurity", "no treatment relationship assertion"),
            (tampered.clone(), "wsse:InvalidSecurityToken", "the assertions could not be verified"),
        ] {
            let answer = world.sweden.call(action, path, &sent, body.clone()).await.expect("an answer");
            let fault = answer.fault().unwrap_or_else(|| panic!("no fault: {}", answer.body.to_xml()));
            assert_eq!((answer.status.as_u16(), fault.code.as_str(), fault.subcode.as_str()), (400, "Sender", subcode));
            assert!(fault.reason.starts_with(&format!("{text} (reference ")), "the table's text: {}", fault.reason);
        }
        let answer = world.sweden.call(action, path, &assertions, body.clone()).await.expect("an answer");
        assert!(answer.fault().is_none(), "good assertions are served: {}", answer.body.to_xml());
        let in_body = world.finland.call(action, path, &[], body).await.expect("an answer");
        assert_eq!(in_body.status.as_u16(), 200);
        assert_eq!(in_body.codes(), ["ERROR_HPI_AUTHENTICATION_NOT_RECEIVED"]);
    }
}
