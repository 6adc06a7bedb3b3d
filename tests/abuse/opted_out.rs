//! Who opted out of the service is, for another country, a person who does not exist: every transaction answers one gateway's
//! neighbour as it would that of a gateway which has never heard of the person.

use jiff::Timestamp;
use ncp_ihe::{
    Availability, ContentFilter, CrossGatewayQueryRequest, DocumentRequest, FindDocuments, FindFolders,
    FindSubmissionSets, GetAll, HomeCommunityId, ImagingRequest, ObjectIds, Oid, PatientId, PatientQuery, PersonName,
    RetrieveRequest, ReturnType, SeriesRequest, StoredQuery, StudyRequest, TimeRange, Uid, actions,
};
use ncp_saml::Purpose;
use ncp_tests::attack::{Finding, report};
use ncp_tests::neighbour::{XCA, XCAI, XCPD};
use ncp_tests::synth::Study;
use ncp_xml::Element;

use crate::blocked::without_uuids;
use crate::trail::records;
use crate::world::{Gateway, HOME, OTHER, PATIENT, REPOSITORY, World};

/// A report of the patient.
const REPORT: &str = "2.999.47.30.1";

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn oid(text: &str) -> Oid {
    Oid::parse(text).expect("an OID")
}

fn study() -> Study {
    crate::world::study(1, 2)
}

/// A world in which the person has documents and images, and has decided this.
fn decided(consent: &str) -> World {
    let world = World::new();
    study().write(&world.path("data/dicom/1")).expect("a study");
    std::fs::write(world.path("data/consent.toml"), consent).expect("writes");
    world
}

/// A world that has never heard of the person.
fn unknown() -> World {
    let world = World::new();
    let register = std::fs::read_to_string(world.path("data/patients.toml")).expect("reads");
    let others: String = register.split_inclusive("\n\n").filter(|entry| !entry.contains(PATIENT)).collect();
    assert!(others.contains(OTHER) && !others.contains(PATIENT));
    std::fs::write(world.path("data/patients.toml"), others).expect("writes");
    for report in ["ct", "rg"] {
        std::fs::remove_file(world.path(&format!("data/reports/{report}.toml"))).expect("removes");
    }
    std::fs::write(world.path("data/consent.toml"), "").expect("writes");
    world
}

/// Every transaction about the person, each body the same for both gateways.
fn requests() -> Vec<(String, &'static str, Element)> {
    let mut out = Vec::new();
    let name = |family: &str| Some(PersonName { family: family.into(), given: vec!["Jon".into()] });
    let text = |text: &str| Some(text.to_owned());
    let known = |family, born, sex| (name(family), text(born), text(sex));
    for (what, (name, birth_date, gender)) in [
        ("by identifier", (None, None, None)),
        ("with her own demographics", known("Testesen", "19770530", "M")),
        ("with somebody else's", known("Nordmann", "19800101", "F")),
    ] {
        for ids in [vec![patient()], vec![patient(), PatientId::parse_cx("1^^^&2.999.9&ISO").expect("a CX")]] {
            let count = ids.len();
            let query =
                PatientQuery::new(oid("2.999.246"), oid(HOME), ids, name.clone(), birth_date.clone(), gender.clone());
            let body = query.to_element(Timestamp::now());
            out.push((format!("ITI-55 {what}, {count} identifiers"), actions::ITI55_REQUEST, body));
        }
    }
    for query in queries() {
        for return_type in [ReturnType::LeafClass, ReturnType::ObjectRef] {
            let home = HomeCommunityId::parse(HOME).ok();
            let request = CrossGatewayQueryRequest { home, return_type, query: query.clone() };
            let what = format!("ITI-38 {} {return_type:?}", query.id());
            out.push((what, actions::ITI38_REQUEST, request.to_element()));
        }
    }
    let unit = |id: String| DocumentRequest {
        home: HomeCommunityId::parse(HOME).ok(),
        repository: oid(REPOSITORY),
        document: id,
    };
    for id in [REPORT.to_owned(), format!("{REPORT}^PIVOT"), format!("{REPORT}^ORCD")] {
        let body = RetrieveRequest { documents: vec![unit(id.clone())] }.to_element();
        out.push((format!("ITI-39 {id}"), actions::ITI39_REQUEST, body));
    }
    for last in [1, 2] {
        let instances = (1..=last).map(|slice| unit(study().instance(slice))).collect();
        let series = vec![SeriesRequest { series: Uid::parse(&study().series()).expect("a UID"), instances }];
        let studies = vec![StudyRequest { study: Uid::parse(&study().uid()).expect("a UID"), series }];
        let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
        let body = ImagingRequest { studies, transfer_syntaxes }.to_element();
        out.push((format!("RAD-75 of {last}"), actions::RAD75_REQUEST, body));
    }
    out
}

fn queries() -> Vec<StoredQuery> {
    use StoredQuery as Q;
    let all = || vec![Availability::Approved, Availability::Deprecated];
    let named = || ObjectIds::UniqueIds(vec![REPORT.to_owned()]);
    vec![
        Q::FindDocuments(FindDocuments::of_patient(patient())),
        Q::FindSubmissionSets(FindSubmissionSets {
            patient_id: patient(),
            status: all(),
            source_ids: Vec::new(),
            submitted: TimeRange::default(),
            author_person: Vec::new(),
            content_types: Vec::new(),
        }),
        Q::FindFolders(FindFolders {
            patient_id: patient(),
            status: all(),
            updated: TimeRange::default(),
            codes: Vec::new(),
        }),
        Q::GetAll(GetAll {
            patient_id: patient(),
            document_status: all(),
            set_status: all(),
            folder_status: all(),
            contents: ContentFilter::default(),
        }),
        Q::GetDocuments(named()),
        Q::GetDocumentsAndAssociations(named()),
    ]
}

/// The answer on the wire, without what is random in it and the times at which it was made.
async fn seen(world: &World, gateway: &Gateway, purpose: Purpose, action: &str, body: Element) -> String {
    let neighbour = world.neighbour("fi", gateway);
    let claims = ncp_saml::HcpClaims { purpose, ..neighbour.claims() };
    let hcp = neighbour.hcp(&claims, Timestamp::now()).await.expect("signs");
    let assertions = match action {
        actions::ITI55_REQUEST => vec![hcp],
        _ => {
            let trc = neighbour.trc(&hcp, &claims, &patient()).await.expect("signs");
            vec![hcp, trc]
        }
    };
    let path = match action {
        actions::ITI55_REQUEST => XCPD,
        actions::RAD75_REQUEST => XCAI,
        _ => XCA,
    };
    let mut answer = neighbour.call(action, path, &assertions, body).await.expect("an answer");
    let root = without_times(&without_uuids(&String::from_utf8_lossy(&answer.envelope)));
    let mut out = format!("{}\n{root}\n", answer.status);
    while let Some(head) = answer.parts.next().await.expect("a part") {
        let mut bytes = 0;
        while let Some(chunk) = answer.parts.chunk().await.expect("a piece") {
            bytes += chunk.len();
        }
        out += &format!("{} {bytes}\n", without_uuids(&head.content_id));
    }
    out
}

/// Without the value of HL7's `creationTime`, the one time in these answers.
fn without_times(text: &str) -> String {
    let Some((before, rest)) = text.split_once("creationTime value=\"") else { return text.to_owned() };
    let after = rest.split_once('"').map_or("", |(_, after)| after);
    format!("{before}creationTime{after}")
}

/// Each way to be out of the service, against a gateway that has never heard of the person.
#[tokio::test(flavor = "multi_thread")]
async fn se_18_who_opted_out_is_a_person_who_does_not_exist() {
    let never = unknown();
    let absent = never.start("absent", |text| text).await;
    let row = |section: &str, more: &str| format!("[[{section}]]\npatient = \"{PATIENT}\"\n{more}\n");
    let mut findings = Vec::new();
    for (way, consent) in [
        ("opt-out", row("opt_out", "")),
        ("opt-out for the country, in another code", row("opt_out", "countries = [\"246\"]")),
        ("a block of everything", row("block", "")),
        ("a block of everything for the country", row("block", "countries = [\"FI\"]")),
    ] {
        let world = decided(&consent);
        let gateway = world.start("out", |text| text).await;
        for (name, action, body) in requests() {
            for purpose in [Purpose::Treatment, Purpose::Emergency] {
                let one = seen(&world, &gateway, purpose, action, body.clone()).await;
                let other = seen(&never, &absent, purpose, action, body.clone()).await;
                let got = if one == other { "as unknown".to_owned() } else { format!("told apart:\n{one}\n{other}") };
                findings.push(Finding::new("T-CNS-5", &format!("{way}: {name} {purpose:?}"), &["as unknown"], got));
            }
        }
        let alerts = records(&gateway).into_iter().filter(|xml| xml.contains("opted out of the service"));
        assert!(alerts.count() > 0, "{way}: the attempt is on the trail");
        gateway.stop().await;
    }
    let alerts = records(&absent).into_iter().filter(|xml| xml.contains("opted out of the service"));
    assert_eq!(alerts.count(), 0, "nobody opted out there");
    absent.stop().await;
    std::fs::write(crate::report_folder().join("abuse-opted-out.md"), report("opted out", &findings)).expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The shipped example, over the wire: found in an emergency and in nothing else, and no document is open.
#[tokio::test(flavor = "multi_thread")]
async fn se_18_found_in_an_emergency_where_a_policy_says_so() {
    let world = decided(&format!("[[opt_out]]\npatient = \"{PATIENT}\"\n"));
    let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies");
    std::fs::create_dir(world.path("policies")).expect("a folder");
    for file in ["no/transactions.cedar", "examples/opted-out-in-an-emergency/opted-out.cedar"] {
        let name = std::path::Path::new(file).file_name().expect("a name");
        std::fs::copy(policies.join(file), world.path("policies").join(name)).expect("copies");
    }
    let gateway = world
        .start("emergency", |text| {
            let line = text.lines().find(|line| line.starts_with("folder = ") && line.ends_with("policies/no\""));
            text.replace(line.expect("a folder"), "folder = \"policies\"")
        })
        .await;
    let by_id = || PatientQuery::new(oid("2.999.246"), oid(HOME), vec![patient()], None, None, None);
    let find = |purpose| seen(&world, &gateway, purpose, actions::ITI55_REQUEST, by_id().to_element(Timestamp::now()));
    assert!(!find(Purpose::Treatment).await.contains("Testesen"));
    assert!(find(Purpose::Emergency).await.contains("Testesen"), "a policy says so");
    for (name, action, body) in requests().into_iter().filter(|(_, action, _)| *action != actions::ITI55_REQUEST) {
        let got = seen(&world, &gateway, Purpose::Emergency, action, body).await;
        assert!(!got.contains("ExtrinsicObject") && !got.contains("DocumentResponse>"), "{name}: {got}");
    }
    gateway.stop().await;
}

/// As much is decided for a person who opted out as for one who is not known.
#[tokio::test(flavor = "multi_thread")]
async fn se_18_as_much_is_decided() {
    let world = decided(&format!("[[opt_out]]\npatient = \"{PATIENT}\"\n"));
    let gateway = world.start("out", |text| text).await;
    let nobody = PatientId::parse_cx(&PATIENT.replacen("30857710106", "30857710199", 1)).expect("a CX");
    let mut made = Vec::new();
    for id in [patient(), nobody] {
        let query = PatientQuery::new(oid("2.999.246"), oid(HOME), vec![id], None, None, None);
        // A reload in between begins to count anew.
        made.push(loop {
            let snapshot = gateway.app.snapshot.load_full();
            let before = snapshot.policy.engine().decisions();
            let body = query.to_element(Timestamp::now());
            seen(&world, &gateway, Purpose::Treatment, actions::ITI55_REQUEST, body).await;
            if gateway.app.snapshot.load().generation == snapshot.generation {
                break snapshot.policy.engine().decisions() - before;
            }
        });
    }
    assert!(made[0] > 1 && made[0] == made[1], "decisions for opted out and for unknown: {made:?}");
    gateway.stop().await;
}
