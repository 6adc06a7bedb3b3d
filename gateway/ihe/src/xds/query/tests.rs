//! Every stored query: read back as written, and evaluated over one small registry.

use std::collections::BTreeSet;

use super::*;
use crate::xds::metadata::{Association, RegistryObjects};
use crate::{Oid, Uid};

fn patient() -> PatientId {
    PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX")
}

fn entry(name: &str) -> DocumentEntry {
    DocumentEntry {
        entry_uuid: name.into(),
        unique_id: format!("2.999.{name}"),
        home: None,
        repository_unique_id: Oid::parse("2.999.2").expect("an OID"),
        availability: Availability::Approved,
        entry_type: EntryType::Stable,
        patient_id: patient(),
        source_patient_id: None,
        source_patient_info: Vec::new(),
        class_code: Coded::new("18748-4", "2.16.840.1.113883.6.1", None),
        type_code: Coded::default(),
        format_code: Coded::new(name, "2.999.3", None),
        practice_setting: Coded::default(),
        facility_type: Coded::default(),
        confidentiality: vec![Coded::new("N", "2.16.840.1.113883.5.25", None)],
        event_codes: vec![Coded::new("CT", "1.2.840.10008.2.16.4", None), Coded::new(name, "2.999.4", None)],
        language: "nb".into(),
        mime_type: "text/xml".into(),
        title: None,
        comments: None,
        creation_time: Dtm::parse("20240201").ok(),
        service_start: None,
        service_stop: None,
        hash: None,
        size: Some(100),
        reference_ids: vec![ReferenceId::accession(name, Some(Oid::parse("2.999.5").expect("an OID")))],
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    }
}

fn link(uuid: &str, kind: &str, source: &str, target: &str) -> Association {
    let (uuid, source, target) = (uuid.into(), source.into(), target.into());
    Association { uuid, kind: kind.into(), source, target, submission_set_status: None }
}

/// `a` and `b` were submitted in `set`, `b` lies in `folder`; `b` replaced `old`; `late` is on demand and in no set.
fn registry() -> RegistryObjects {
    let member = Association::HAS_MEMBER;
    let set = SubmissionSet {
        entry_uuid: "set".into(),
        unique_id: "2.999.set".into(),
        home: None,
        availability: Availability::Approved,
        patient_id: patient(),
        source_id: "2.999.6".into(),
        content_type: Coded::new("x", "2.999.7", None),
        submission_time: Dtm::parse("20240202").ok(),
        intended_recipients: Vec::new(),
        title: None,
        comments: None,
        authors: Vec::new(),
        extra_slots: Vec::new(),
    };
    let folder = Folder {
        entry_uuid: "folder".into(),
        unique_id: "2.999.folder".into(),
        home: None,
        availability: Availability::Approved,
        patient_id: patient(),
        codes: vec![Coded::new("f", "2.999.8", None)],
        last_update: Dtm::parse("20240203").ok(),
        title: None,
        comments: None,
        extra_slots: Vec::new(),
    };
    RegistryObjects {
        entries: vec![
            entry("a"),
            entry("b"),
            DocumentEntry { availability: Availability::Deprecated, ..entry("old") },
            DocumentEntry { entry_type: EntryType::OnDemand, ..entry("late") },
        ],
        submission_sets: vec![set],
        folders: vec![folder],
        associations: vec![
            link("set-a", member, "set", "a"),
            link("set-b", member, "set", "b"),
            link("folder-b", member, "folder", "b"),
            link("set-folder-b", member, "set", "folder-b"),
            link("b-old", "urn:ihe:iti:2007:AssociationType:RPLC", "b", "old"),
        ],
    }
}

fn unique(name: &str) -> ObjectIds {
    ObjectIds::UniqueIds(vec![format!("2.999.{name}")])
}

fn find() -> FindDocuments {
    FindDocuments::of_patient(patient())
}

#[test]
fn every_query_selects_what_it_asks_for_and_reads_back() {
    use StoredQuery as Q;
    let any = ContentFilter { entry_types: vec![EntryType::Stable, EntryType::OnDemand], ..ContentFilter::default() };
    let format_a = ContentFilter { format_codes: vec![Coded::new("a", "2.999.3", None)], ..ContentFilter::default() };
    let both = vec![Availability::Approved, Availability::Deprecated];
    let approved = vec![Availability::Approved];
    let dtm = |text: &str| Dtm::parse(text).ok();
    let code = |code: &str, system: &str| Coded::new(code, system, None);
    let accession = |id: &str| ReferenceId::accession(id, Some(Oid::parse("2.999.5").expect("an OID")));
    let sets = FindSubmissionSets {
        patient_id: patient(),
        status: approved.clone(),
        source_ids: vec!["2.999.6".into()],
        submitted: TimeRange { from: dtm("20240202"), to: dtm("20240203") },
        author_person: Vec::new(),
        content_types: vec![code("x", "2.999.7"), code("y", "2.999.7")],
    };
    let folders = FindFolders {
        patient_id: patient(),
        status: approved.clone(),
        updated: TimeRange::default(),
        codes: vec![vec![code("f", "2.999.8")], vec![code("g", "2.999.8"), code("f", "2.999.8")]],
    };
    let all = GetAll {
        patient_id: patient(),
        document_status: both.clone(),
        set_status: approved.clone(),
        folder_status: approved,
        contents: ContentFilter::default(),
    };
    let event = |groups: &[&[&str]]| {
        let group = |names: &&[&str]| names.iter().map(|n| code(n, "2.999.4")).collect();
        FindDocuments { event_codes: groups.iter().map(group).collect(), ..find() }
    };
    let others = PatientId::parse_cx("2^^^&2.999.1&ISO").expect("a CX");
    let table: Vec<(StoredQuery, &[&str])> = vec![
        (Q::FindDocuments(find()), &["a", "b"]),
        (Q::FindDocuments(FindDocuments { status: both, ..find() }), &["a", "b", "old"]),
        (Q::FindDocuments(FindDocuments { entry_types: vec![EntryType::OnDemand], ..find() }), &["late"]),
        (Q::FindDocuments(event(&[&["a", "b"]])), &["a", "b"]),
        (Q::FindDocuments(event(&[&["a"], &["b"]])), &[]),
        (Q::FindDocuments(FindDocuments::of_patient(others)), &[]),
        (
            Q::FindDocuments(FindDocuments {
                creation: TimeRange { from: dtm("2024"), to: dtm("20240201") },
                ..find()
            }),
            &[],
        ),
        (Q::FindDocuments(FindDocuments { max_size: Some(99), ..find() }), &[]),
        (Q::FindDocuments(FindDocuments { created_after: "2024-02-01T00:00:00Z".parse().ok(), ..find() }), &[]),
        (
            Q::FindDocuments(FindDocuments { created_before: "2024-02-02T00:00:00Z".parse().ok(), ..find() }),
            &["a", "b"],
        ),
        (
            Q::FindDocuments(FindDocuments { reference_ids: vec![vec![accession("a"), accession("z")]], ..find() }),
            &["a"],
        ),
        (
            Q::FindDocuments(FindDocuments {
                reference_ids: vec![vec![ReferenceId::study(&Uid::parse("1.2.3").expect("a UID"))]],
                ..find()
            }),
            &[],
        ),
        (Q::FindSubmissionSets(sets.clone()), &["set"]),
        (Q::FindSubmissionSets(FindSubmissionSets { source_ids: vec!["2.999.7".into()], ..sets }), &[]),
        (Q::FindFolders(folders.clone()), &["folder"]),
        (Q::FindFolders(FindFolders { codes: vec![vec![code("g", "2.999.8")]], ..folders }), &[]),
        (Q::GetAll(all), &["a", "b", "old", "set", "folder", "set-a", "set-b", "folder-b", "set-folder-b", "b-old"]),
        (Q::GetDocuments(ObjectIds::EntryUuids(vec!["a".into(), "old".into()])), &["a", "old"]),
        (Q::GetDocuments(unique("late")), &["late"]),
        (Q::GetDocumentsAndAssociations(unique("b")), &["b", "set-b", "folder-b", "b-old"]),
        (
            Q::GetRelatedDocuments {
                document: unique("b"),
                association_types: vec!["urn:ihe:iti:2007:AssociationType:RPLC".into()],
                contents: any.clone(),
            },
            &["b", "b-old", "old"],
        ),
        (
            Q::GetRelatedDocuments {
                document: unique("a"),
                association_types: vec!["urn:ihe:iti:2007:AssociationType:RPLC".into()],
                contents: any.clone(),
            },
            &[],
        ),
        (Q::GetFoldersForDocument(unique("b")), &["folder"]),
        (Q::GetFoldersForDocument(unique("a")), &[]),
        (Q::GetFolders(ObjectIds::EntryUuids(vec!["folder".into()])), &["folder"]),
        (Q::GetFolderAndContents { folder: unique("folder"), contents: any.clone() }, &["folder", "folder-b", "b"]),
        (
            Q::GetSubmissionSetAndContents { set: unique("set"), contents: any },
            &["set", "set-a", "a", "set-b", "b", "set-folder-b", "folder-b"],
        ),
        (
            Q::GetSubmissionSetAndContents { set: unique("set"), contents: format_a },
            &["set", "set-a", "a", "set-folder-b", "folder-b"],
        ),
        (Q::GetSubmissionSets(vec!["a".into()]), &["set", "set-a"]),
        (Q::GetAssociations(vec!["folder".into(), "a".into()]), &["set-a", "folder-b"]),
    ];
    let registry = registry();
    let home = HomeCommunityId::parse("2.999.47").ok();
    for (query, expected) in table {
        let expected: BTreeSet<String> = expected.iter().map(|e| (*e).to_owned()).collect();
        assert_eq!(query.select(&registry), expected, "{query:?}");
        let request = CrossGatewayQueryRequest { home: home.clone(), return_type: ReturnType::ObjectRef, query };
        let read = CrossGatewayQueryRequest::read(&request.to_element()).expect("reads back");
        assert_eq!(read, request);
    }
}

#[test]
fn registry_objects_read_back() {
    let mut written = registry();
    written.set_home(&HomeCommunityId::parse("2.999.47").expect("an OID"));
    written.associations[0].submission_set_status = Some("Original".into());
    let mut read = RegistryObjects::default();
    assert_eq!(read.read_list(&written.to_element()), 0);
    // Codes without a display come back with the code as display.
    read.entries.iter_mut().for_each(|e| e.clone_from(&written.entries[0]));
    written.entries.iter_mut().for_each(|e| *e = entry("a"));
    assert_eq!(read.submission_sets[0].unique_id, written.submission_sets[0].unique_id);
    assert_eq!(read.submission_sets[0].home, written.submission_sets[0].home);
    assert_eq!(read.submission_sets[0].submission_time, written.submission_sets[0].submission_time);
    assert_eq!(read.folders[0].unique_id, written.folders[0].unique_id);
    assert!(read.folders[0].codes[0].same(&written.folders[0].codes[0]));
    assert_eq!(read.associations, written.associations);
}

#[test]
fn bad_parameters_have_their_codes() {
    use MessageError as E;
    let slot = |name: &str, values: &[&str]| {
        let values = values.iter().map(|v| Element::new(RIM, "Value").text(*v));
        let list = Element::new(RIM, "ValueList").with_all(values);
        Element::new(RIM, "Slot").attr("name", name).with(list)
    };
    let read = |id: &str, slots: Vec<Element>| {
        let adhoc = Element::new(RIM, "AdhocQuery").attr("id", id).with_all(slots);
        parameters::read(&adhoc)
    };
    let status = "('urn:oasis:names:tc:ebxml-regrep:StatusType:Approved')";
    let good = || {
        vec![slot("$XDSDocumentEntryPatientId", &["'1^^^&2.999.1&ISO'"]), slot("$XDSDocumentEntryStatus", &[status])]
    };
    let with = |more: Vec<Element>| good().into_iter().chain(more).collect::<Vec<_>>();
    let find = parameters::FIND_DOCUMENTS;
    assert!(read(find, good()).is_ok());
    // A list split over Values, a single value in parentheses, an unknown status beside a known one, unknown slots.
    let spelled = vec![
        slot("$XDSDocumentEntryPatientId", &["('1^^^&2.999.1&ISO')"]),
        slot("$XDSDocumentEntryStatus", &["('urn:x:Unheard')", status]),
        slot("$MetadataLevel", &["1"]),
        slot("$XDSDocumentEntryClassCode", &["('a^^1.2')", "('b^^1.2','c^^1.2')"]),
    ];
    let Ok(StoredQuery::FindDocuments(read_back)) = read(find, spelled) else { panic!("legal") };
    assert_eq!(read_back.class_codes.len(), 3);
    for (id, slots, expected) in [
        ("urn:uuid:0", good(), E::QueryUnknown),
        (find, vec![good().remove(0)], E::QueryMissingParam("$XDSDocumentEntryStatus")),
        (find, vec![good().remove(1)], E::QueryMissingParam("$XDSDocumentEntryPatientId")),
        (find, with(vec![good().remove(0)]), E::QueryParamNumber("$XDSDocumentEntryPatientId")),
        (
            find,
            with(vec![slot("$XDSDocumentEntryClassCode", &["('18748-4')"])]),
            E::QueryParamInvalid("$XDSDocumentEntryClassCode"),
        ),
        (
            find,
            with(vec![slot("$XDSDocumentEntryCreationTimeFrom", &["2024-01-01"])]),
            E::QueryParamInvalid("$XDSDocumentEntryCreationTimeFrom"),
        ),
        (parameters::FIND_DOCUMENTS_BY_REFERENCE_ID, good(), E::QueryMissingParam("$XDSDocumentEntryReferenceIdList")),
        (parameters::GET_DOCUMENTS, Vec::new(), E::QueryMissingParam("$XDSDocumentEntryUniqueId")),
        (
            parameters::GET_DOCUMENTS,
            vec![slot("$XDSDocumentEntryUniqueId", &["('1')"]), slot("$XDSDocumentEntryEntryUUID", &["('2')"])],
            E::QueryParamNumber("$XDSDocumentEntryUniqueId"),
        ),
        (
            parameters::GET_RELATED_DOCUMENTS,
            vec![slot("$XDSDocumentEntryUniqueId", &["'1'"])],
            E::QueryMissingParam("$AssociationTypes"),
        ),
        (
            parameters::GET_FOLDERS_FOR_DOCUMENT,
            vec![slot("$XDSDocumentEntryUniqueId", &["('1','2')"])],
            E::QueryParamNumber("$XDSDocumentEntryUniqueId"),
        ),
        (parameters::GET_ASSOCIATIONS, Vec::new(), E::QueryMissingParam("$uuid")),
    ] {
        assert_eq!(read(id, slots), Err(expected), "{id}");
    }
}

/// SE-05: a parameter has at most a thousand values in all its slots together, twenty lists, and 5,120 letters of patterns.
#[test]
fn se_05_a_query_has_bounds() {
    let slots = |name: &str, slots: usize, values: &[String]| {
        let request = CrossGatewayQueryRequest {
            home: None,
            return_type: ReturnType::LeafClass,
            query: StoredQuery::FindDocuments(find()),
        };
        let mut adhoc = request.to_element().child(RIM, "AdhocQuery").expect("a query").clone();
        for _ in 0..slots {
            let values = values.chunks(3).map(|some| format!("({})", some.join(",")));
            adhoc.push(crate::xds::ebrim::slot(name, values));
        }
        parameters::read(&adhoc)
    };
    let many = |count: usize, text: &str| (0..count).map(|n| format!("'{n}{text}'")).collect::<Vec<_>>();
    let events = "$XDSDocumentEntryEventCodeList";
    assert!(slots(events, 1, &many(1_000, "^^2.999.4")).is_ok());
    assert!(slots(events, 1, &many(1_001, "^^2.999.4")).is_err());
    assert!(slots(events, 20, &many(50, "^^2.999.4")).is_ok(), "twenty lists of fifty");
    assert!(slots(events, 20, &many(51, "^^2.999.4")).is_err(), "all lists together");
    assert!(slots(events, 21, &many(1, "^^2.999.4")).is_err());
    let authors = "$XDSDocumentEntryAuthorPerson";
    let long = "a".repeat(250);
    assert!(slots(authors, 1, &many(200, "%")).is_ok(), "many short ones");
    assert!(slots(authors, 1, &many(20, &long)).is_ok() && slots(authors, 1, &many(21, &long)).is_err());
    assert!(slots(authors, 1, &many(1, &"%a".repeat(200))).is_err(), "a long pattern");
    let twice = vec!["'CT^^2.999.4'".to_owned(); 900];
    let Ok(StoredQuery::FindDocuments(read)) = slots(events, 1, &twice) else { panic!("is read") };
    assert_eq!(read.event_codes, [vec![Coded::new("CT", "2.999.4", None)]]);
}

proptest::proptest! {
    /// SE-05: what a query costs follows from the objects and from its values, not from their product: twice the values of a list
    /// cost nothing more for each object, twice the objects at most twice as much.
    #[test]
    fn se_05_the_cost_of_a_query_is_linear(
        kind in 0usize..6, values in 1usize..400, objects in 1usize..60,
    ) {
        let codes = |count: usize| -> Vec<Coded> { (0..count).map(|n| Coded::new(&format!("c{n}"), "2.999.4", None)).collect() };
        let names = |count: usize| -> Vec<String> { (0..count).map(|n| format!("x{n}")).collect() };
        let query = |values: usize| match kind {
            0 => StoredQuery::FindDocuments(FindDocuments { class_codes: codes(values), ..find() }),
            1 => StoredQuery::FindDocuments(FindDocuments { event_codes: vec![codes(values)], ..find() }),
            2 => {
                let ids = names(values).iter().map(|name| ReferenceId::accession(name, None)).collect();
                StoredQuery::FindDocuments(FindDocuments { reference_ids: vec![ids], ..find() })
            }
            3 => StoredQuery::GetDocuments(ObjectIds::EntryUuids(names(values))),
            4 => StoredQuery::GetDocumentsAndAssociations(ObjectIds::UniqueIds(names(values))),
            _ => StoredQuery::GetFolders(ObjectIds::UniqueIds(names(values))),
        };
        let cost = |values: usize, objects: usize| {
            let all = registry();
            let entries = (0..objects).map(|n| entry(&n.to_string())).collect();
            let folders = (0..objects).flat_map(|_| all.folders.clone()).collect();
            let before = select::LOOKED.with(std::cell::Cell::get);
            query(values).select(&RegistryObjects { entries, folders, ..all });
            select::LOOKED.with(std::cell::Cell::get) - before
        };
        let one = cost(values, objects);
        proptest::prop_assert!(cost(2 * values, objects) <= one, "more values");
        proptest::prop_assert!(cost(values, 2 * objects) <= 2 * one, "more objects");
        proptest::prop_assert!(one <= 4 * objects, "{} for {} objects", one, objects);
    }
}
