//! Properties of the codecs: what is written comes back, and no bytes do harm.

use ncp_ihe::imaging::{Field, IssuedId, Issuer, ManifestRequest};
use ncp_ihe::*;
use ncp_xml::{Element, Limits};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{body, fixture};

/// Through bytes, as a peer would see it.
fn over_the_wire(element: &Element) -> Element {
    Element::parse(element.to_xml().as_bytes(), &Limits::REQUEST).expect("well-formed")
}

/// Text that XML can carry, with what needs escaping, without the blanks that the readers trim.
fn words() -> impl Strategy<Value = String> {
    "[a-zæøåÄ0-9<>&\"'äöü€-]{1,3}[ a-zæøå0-9<>&\"']{0,8}[a-zæøå0-9<&>\"']{1,3}"
}

/// `words` as a component of a CX, which cannot hold the separators.
fn component() -> impl Strategy<Value = String> {
    words()
        .prop_map(|w| w.replace(['^', '&'], "").trim().to_owned())
        .prop_filter("a component that says something", |w| !w.is_empty())
}

fn uid() -> impl Strategy<Value = Uid> {
    "[1-2]\\.[1-9][0-9]{0,6}(\\.[1-9][0-9]{0,8}){1,4}".prop_map(|t| Uid::parse(&t).expect("a UID"))
}

fn oid() -> impl Strategy<Value = Oid> {
    uid().prop_map(|u| Oid::parse(u.as_str()).expect("an OID"))
}

fn patient_id() -> impl Strategy<Value = PatientId> {
    ("[A-Za-z0-9æ. -]{1,3}[A-Za-z0-9]{1,20}", oid())
        .prop_filter_map("an id", |(ext, root)| PatientId::new(ext.trim(), root).ok())
}

fn code() -> impl Strategy<Value = Coded> {
    ("[A-Za-z0-9.-]{1,16}", prop_oneof![oid().prop_map(|o| o.to_string()), Just("DCM".to_owned())], words())
        .prop_map(|(code, system, display)| Coded { code, system, display: Some(display) })
}

fn day() -> impl Strategy<Value = String> {
    (1900u32..2100, 1u32..13, 1u32..29).prop_map(|(y, m, d)| format!("{y}{m:02}{d:02}"))
}

fn clock() -> impl Strategy<Value = String> {
    (0u32..24, 0u32..60, 0u32..60, option::of(1u32..999_999)).prop_map(|(h, m, s, f)| {
        let fraction = f.map(|f| format!(".{f:06}")).unwrap_or_default();
        format!("{h:02}{m:02}{s:02}{fraction}")
    })
}

fn request() -> impl Strategy<Value = DocumentRequest> {
    (option::of(oid().prop_map(HomeCommunityId)), oid(), uid())
        .prop_map(|(home, repository, document)| DocumentRequest { home, repository, document: document.to_string() })
}

prop_compose! {
    fn entry()(
        ids in (uid(), oid(), patient_id()),
        codes in (code(), code(), code(), code(), code()),
        lists in (vec(code(), 0..3), vec(code(), 0..4), vec((component(), option::of(oid())), 0..3)),
        texts in (option::of(words()), option::of(words()), option::of(words())),
        dates in (option::of(day()), option::of(day())),
        sizes in (option::of("[0-9a-f]{40}"), option::of(0u64..u64::MAX)),
        home in option::of(oid().prop_map(HomeCommunityId)),
        deprecated in any::<bool>(),
    ) -> DocumentEntry {
        let reference = |(id, authority): (String, Option<Oid>)| ReferenceId {
            id, authority, kind: ReferenceId::ACCESSION.into(),
        };
        DocumentEntry {
            entry_uuid: format!("urn:uuid:{}", uuid::Uuid::from_u128(7)),
            unique_id: ids.0.to_string(),
            home,
            repository_unique_id: ids.1,
            availability: if deprecated { Availability::Deprecated } else { Availability::Approved },
            entry_type: if deprecated { EntryType::OnDemand } else { EntryType::Stable },
            source_patient_id: Some(ids.2.clone()),
            patient_id: ids.2,
            source_patient_info: Vec::new(),
            class_code: codes.0,
            type_code: codes.1,
            format_code: codes.2,
            practice_setting: codes.3,
            facility_type: codes.4,
            confidentiality: lists.0,
            event_codes: lists.1,
            language: "nb-NO".into(),
            mime_type: "application/dicom".into(),
            title: texts.0,
            comments: texts.1,
            creation_time: dates.0.as_deref().and_then(|d| Dtm::parse(d).ok()),
            service_start: dates.1.as_deref().and_then(|d| Dtm::parse(d).ok()),
            service_stop: None,
            hash: sizes.0,
            size: sizes.1,
            reference_ids: lists.2.into_iter().map(reference).collect(),
            authors: texts.2.map(|t| Author { person: Some(t), ..Author::default() }).into_iter().collect(),
            legal_authenticator: None,
            extra_slots: Vec::new(),
        }
    }
}

prop_compose! {
    fn instance()(uids in (uid(), uid()), number in option::of(0u32..100_000), frames in option::of(1u32..5000), note in option::of((code(), words())))
        -> ManifestInstance {
        let (key_title, key_description) = note.map(|(c, w)| (Some(Coded { system: "DCM".into(), ..c }), Some(w))).unwrap_or_default();
        ManifestInstance { number, frames, key_title, key_description, ..ManifestInstance::new(uids.0, uids.1) }
    }
}

prop_compose! {
    fn series()(
        own in uid(),
        texts in (option::of("[A-Z]{2}"), option::of(words()), option::of("https://[a-z]{1,8}\\.example/[a-z]{0,5}")),
        times in option::of((day(), clock())),
        number in option::of(0u32..10_000),
        location in option::of(oid()),
        region in option::of(code()),
        instances in vec(instance(), 1..4),
    ) -> ManifestSeries {
        let (date, time) = times.map(|(d, t)| (Some(d), Some(t))).unwrap_or_default();
        ManifestSeries {
            modality: Some(texts.0.unwrap_or_else(|| "CT".into())), description: texts.1, retrieve_url: texts.2, date, time, number, location,
            region: region.map(|r| Coded { system: "SCT".into(), ..r }), instances, ..ManifestSeries::new(own)
        }
    }
}

prop_compose! {
    fn manifest()(
        uids in (uid(), uid(), uid()),
        patient in (vec((words(), option::of(oid())), 1..3), "[A-ZÆØa-z]{1,9}(\\^[A-Za-z]{1,9}(\\^[A-Z])?)?", day(), prop_oneof![Just("M"), Just("F"), Just("O")]),
        times in (day(), clock(), day(), clock()),
        texts in (option::of(words()), option::of(words())),
        requests in vec((words(), option::of(oid()), option::of(words())), 0..3),
        regions in vec(code(), 0..3),
        series in vec(series(), 1..4),
    ) -> Manifest {
        let mut out = Manifest::new(uids.0, uids.1, uids.2);
        out.patient = ManifestPatient {
            ids: patient.0.iter().map(|(id, by)| IssuedId::new(&id.replace('\\', ""), by.clone())).collect(),
            name: Some(patient.1), birth_date: Some(patient.2), sex: Some(patient.3.to_owned()),
        };
        (out.study_date, out.study_time, out.timezone) = (Some(times.0), Some(times.1), Some("+0200".into()));
        out.created = Some(times.2 + &times.3);
        (out.description, out.creator.manufacturer) = texts;
        out.requests = requests.into_iter().map(|(accession, by, placer)| ManifestRequest {
            accession: Some(IssuedId { issuer: by.map(Issuer::Oid), ..IssuedId::new(&accession, None) }),
            placer: placer.map(|p| IssuedId::new(&p, None)),
        }).collect();
        // As the readers see it: one accession number alone stands at the top.
        out.accession = match out.requests.as_slice() { [one] => one.accession.as_ref().map(|a| a.id.clone()), _ => None };
        out.regions = regions.into_iter().map(|r| Coded { system: "SCT".into(), ..r }).collect();
        let mut seen = std::collections::BTreeSet::new();
        out.series = series.into_iter().filter(|s| seen.insert(s.series.clone())).collect();
        for one in &mut out.series { one.instances.retain(|i| seen.insert(i.sop_instance.clone())); }
        out.series.retain(|s| !s.instances.is_empty());
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn metadata_comes_back(entries in vec(entry(), 0..4), objects in vec(uid(), 0..2)) {
        let response = QueryResponse {
            status: Status::Success, errors: Vec::new(), objects: RegistryObjects::of_entries(entries),
            object_refs: objects.iter().map(|u| (u.to_string(), None)).collect(),
        };
        let (again, unusable) = QueryResponse::read(&over_the_wire(&response.to_element())).expect("reads");
        prop_assert_eq!(unusable, 0);
        prop_assert_eq!(again, response);
    }

    #[test]
    fn errors_come_back(code in "[A-Za-z0-9_]{1,20}", context in words(), location in option::of(words()), warning in any::<bool>()) {
        let severity = if warning { Severity::Warning } else { Severity::Error };
        let errors = vec![RegistryError { code, context, severity, location }];
        let response = RetrieveResponse { status: Status::PartialSuccess, errors, documents: Vec::new() };
        let read = |e: &Element| RetrieveResponse::read(e, |_| Err::<Content, ()>(()));
        prop_assert_eq!(read(&over_the_wire(&response.to_element())).expect("reads"), response);
    }

    #[test]
    fn retrieve_requests_come_back(documents in vec(request(), 1..5), studies in vec((uid(), uid(), vec(request(), 1..4)), 1..3), syntaxes in vec(uid(), 1..4)) {
        let retrieve = RetrieveRequest { documents };
        prop_assert_eq!(RetrieveRequest::read(&over_the_wire(&retrieve.to_element())).expect("reads"), retrieve);
        let study = |(study, series, instances)| StudyRequest { study, series: vec![SeriesRequest { series, instances }] };
        let imaging = ImagingRequest { studies: studies.into_iter().map(study).collect(), transfer_syntaxes: syntaxes };
        prop_assert_eq!(ImagingRequest::read(&over_the_wire(&imaging.to_element())).expect("reads"), imaging);
    }

    #[test]
    fn queries_come_back(patient in patient_id(), class in vec(code(), 0..3), event in vec(vec(code(), 1..3), 0..3), from in option::of(day())) {
        let bare = |c: Coded| Coded { display: None, ..c };
        let mut find = FindDocuments::of_patient(patient);
        find.class_codes = class.into_iter().map(bare).collect();
        find.event_codes = event.into_iter().map(|any_of| any_of.into_iter().map(bare).collect()).collect();
        find.creation.from = from.as_deref().and_then(|d| Dtm::parse(d).ok());
        let request = CrossGatewayQueryRequest { home: None, return_type: ReturnType::LeafClass, query: StoredQuery::FindDocuments(find) };
        prop_assert_eq!(CrossGatewayQueryRequest::read(&over_the_wire(&request.to_element())).expect("reads"), request);
    }

    #[test]
    fn patient_queries_come_back(roots in (oid(), oid()), ids in vec(patient_id(), 1..3), family in words(), given in words(), birth in option::of(day())) {
        let name = PersonName { family, given: vec![given] };
        let query = PatientQuery::new(roots.0, roots.1, ids, Some(name), birth, Some("F".into()));
        let again = PatientQuery::read(&over_the_wire(&query.to_element(jiff::Timestamp::UNIX_EPOCH))).expect("reads");
        prop_assert_eq!((again.sender, again.receiver, again.ids, again.names), (query.sender, query.receiver, query.ids, query.names));
        prop_assert_eq!((again.birth_dates, again.genders, again.has_unreadable), (query.birth_dates, query.genders, false));
    }

    /// MADO loses nothing, FHIR the series of a KOS, the others what they have no place for; none an instance.
    #[test]
    fn manifests_come_back(manifest in manifest()) {
        for form in ManifestForm::ALL {
            let converted = manifest.convert(form, MadoCodes::Final).expect("converts");
            let lost: Vec<Field> = converted.losses.iter().map(|l| l.field).collect();
            match form {
                ManifestForm::Mado => prop_assert_eq!(lost, []),
                ManifestForm::MadoFhir => prop_assert_eq!(lost, [Field::OwnSeries]),
                _ => prop_assert!(!lost.iter().any(|f| matches!(f, Field::Study | Field::Series | Field::Instance | Field::SopClass
                    | Field::LocationUid | Field::RetrieveUrl | Field::Request | Field::PatientId)), "{form:?} {lost:?}"),
            }
            prop_assert_eq!(&converted.bytes, &manifest.convert(form, MadoCodes::Final).expect("converts").bytes);
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..600)) {
        let _ = Manifest::read(&bytes);
        let mut object = [&[0; 128][..], b"DICM"].concat();
        object.extend_from_slice(&bytes);
        let _ = Manifest::read(&object);
        let _ = imaging::ImageFacts::read(&object[..]);
    }

    /// A real manifest with some bytes changed, taken away or put in.
    #[test]
    fn no_broken_manifest_does_harm(changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..12), fhir in any::<bool>()) {
        let name = if fhir { "manifests/mado/mado-1.2.250.1.59.40211.22756022.2.1.102-bundle.json" } else { "dicom/study-b/MADO_KOS_B.dcm" };
        let mut bytes = std::fs::read(fixture(name)).expect("fixture");
        for (at, value, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => _ = bytes.remove(at),
                _ => bytes.insert(at, value),
            }
        }
        if let Ok((manifest, _)) = Manifest::read(&bytes) {
            for form in ManifestForm::ALL {
                let _ = manifest.convert(form, MadoCodes::Temporary);
            }
        }
    }

    /// A real message with elements renamed, repeated and emptied.
    #[test]
    fn no_broken_message_does_harm(which in 0usize..8, from in any::<prop::sample::Index>(), length in 1usize..60, to in any::<prop::sample::Index>()) {
        let names = ["iti38-finddocuments-request.xml", "iti38-getdocuments-request.xml", "iti38-response-kos-leafclass.xml", "iti39-request.xml",
            "iti39-response.xml", "iti55-request.xml", "iti55-response-match.xml", "rad75-request.xml"];
        let xml = body(names[which]).to_xml();
        let chars: Vec<char> = xml.chars().collect();
        let (from, to) = (from.index(chars.len()), to.index(chars.len()));
        let piece: Vec<char> = chars.iter().skip(from).take(length).copied().collect();
        let broken: String = [&chars[..to], &piece[..], &chars[(to + length).min(chars.len())..]].concat().into_iter().collect();
        if let Ok(element) = Element::parse(broken.as_bytes(), &Limits::REQUEST) {
            let _ = (CrossGatewayQueryRequest::read(&element), RetrieveRequest::read(&element), ImagingRequest::read(&element));
            let _ = (PatientQuery::read(&element), PatientResponse::read(&element), QueryResponse::read(&element));
            let _ = RetrieveResponse::read(&element, |_| Err::<Content, ()>(()));
        }
    }
}

/// Associations between entries of a list, of any kind and with any ends: themselves, each other in a ring, nobody.
fn graph() -> impl Strategy<Value = RegistryObjects> {
    let kinds = prop_oneof![
        6 => Just(Association::XFRM), 1 => Just("XFRM"), 1 => Just(Association::HAS_MEMBER),
        1 => Just("urn:ihe:iti:2007:AssociationType:RPLC"),
    ];
    let entries = vec((entry(), 0u8..9, prop_oneof![4 => Just("text/xml"), 1 => Just("application/dicom")]), 0..8);
    (entries, vec((kinds, 0u8..10, 0u8..10), 0..14)).prop_map(|(entries, links)| {
        let uuid = |number: u8| format!("urn:uuid:{}", uuid::Uuid::from_u128(number.into()));
        let of = |(at, (entry, number, mime)): (usize, (DocumentEntry, u8, &str))| DocumentEntry {
            // Now and then one entryUUID stands for two documents.
            entry_uuid: uuid(if number == 8 { 0 } else { u8::try_from(at).expect("few") }),
            unique_id: format!("2.999.{at}"),
            mime_type: mime.into(),
            ..entry
        };
        let associations = links.into_iter().map(|(kind, source, target)| Association {
            uuid: String::new(),
            kind: kind.into(),
            source: uuid(source),
            target: uuid(target),
            submission_set_status: None,
        });
        RegistryObjects {
            entries: entries.into_iter().enumerate().map(of).collect(),
            associations: associations.collect(),
            ..RegistryObjects::default()
        }
    })
}

proptest! {
    /// F1: whatever associations a country sends, each entry that is wanted has a line or is the original of one.
    #[test]
    fn fo_01_on_03_every_entry_has_a_line_or_is_reached_from_one(objects in graph(), rare in 0u8..4) {
        let wanted = |entry: &DocumentEntry| rare > 0 || entry.mime_type == "text/xml";
        let lines = objects.lines(wanted);
        let count = |entry: &DocumentEntry| lines.iter().filter(|l| l.shown.unique_id == entry.unique_id).count();
        for entry in &objects.entries {
            let behind = lines.iter().any(|l| l.original.is_some_and(|o| o.unique_id == entry.unique_id));
            prop_assert!(count(entry) <= 1);
            prop_assert!(!wanted(entry) || count(entry) == 1 || behind, "{} is lost", entry.unique_id);
            prop_assert!(wanted(entry) || count(entry) == 0, "{} was not asked for", entry.unique_id);
        }
        for line in &lines {
            prop_assert!(line.original.is_none_or(|o| o.unique_id != line.shown.unique_id));
            let manifest = line.shown.is_manifest() || line.original.is_some_and(DocumentEntry::is_manifest);
            prop_assert!(line.original.is_none() || !manifest, "a manifest is no form of a report");
        }
    }
}
