//! NCP-A with a terminology service that answers, keeps silent, or is gone.

use std::collections::BTreeSet;

use ncp_ihe::{Coded, DocumentEntry, FindDocuments, QueryResponse, ReturnType, Severity, Status, StoredQuery};
use ncp_tests::pki::CountryPki;

use crate::common::terminology::{gone, serving, silent};
use crate::common::trail;
use crate::transactions::{home, named, query};
use crate::world::{World, patient};

const DCM: &str = "1.2.840.10008.2.16.4";
const SNOMED: &str = "2.16.840.1.113883.6.96";
const LOINC: &str = "2.16.840.1.113883.6.1";
const NCRP: &str = "2.16.578.1.12.4.1.1.7270";
/// The report in national codes, and its pivot.
const REPORT: [&str; 2] = ["2.999.47.30.1", "2.999.47.30.1^PIVOT"];

/// Documents with an event code among these, for each list.
async fn with_events(world: &World, events: &[&[(&str, &str)]]) -> QueryResponse {
    let list = |codes: &&[(&str, &str)]| codes.iter().map(|(code, system)| Coded::new(code, system, None)).collect();
    let event_codes = events.iter().map(list).collect();
    let find = FindDocuments { event_codes, ..FindDocuments::of_patient(patient()) };
    query(world, Some(home()), ReturnType::LeafClass, StoredQuery::FindDocuments(find)).await
}

fn manifests(answer: &QueryResponse) -> usize {
    answer.objects.entries.iter().filter(|e| e.mime_type == "application/dicom").count()
}

fn reports(answer: &QueryResponse) -> Vec<&str> {
    named(answer).into_iter().filter(|id| REPORT.contains(id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_in_european_codes_find_what_is_coded_nationally() {
    let world = World::start_with(serving).await;
    // Asked for; whether the report is found; how many manifests are, which carry a modality and no procedure.
    type Row<'a> = (&'a [&'a [(&'a str, &'a str)]], bool, usize);
    let table: [Row<'_>; 10] = [
        (&[], true, 2),
        (&[&[("SSC0AD", NCRP)]], true, 0),
        (&[&[("169069000", SNOMED)]], true, 0),
        (&[&[("24627-2", LOINC)]], true, 0),
        (&[&[("CT", DCM)]], true, 2),
        (&[&[("MR", DCM)]], false, 0),
        (&[&[("67734004", SNOMED)]], true, 0),
        (&[&[("774007", SNOMED)]], false, 0),
        (&[&[("CT", DCM)], &[("67734004", SNOMED)]], true, 0),
        // Nothing national is known of it: a code that fits nothing is not "no filter".
        (&[&[("99999-9", LOINC)]], false, 0),
    ];
    for (asked, report, count) in table {
        let answer = with_events(&world, asked).await;
        assert_eq!((answer.status, answer.errors.len()), (Status::Success, 0), "{asked:?}: {:?}", answer.errors);
        let expected: &[&str] = if report { &REPORT } else { &[] };
        assert_eq!((reports(&answer), manifests(&answer)), (expected.to_vec(), count), "{asked:?}");
    }
    let of_class = FindDocuments {
        class_codes: vec![Coded::new("18748-4", LOINC, None)],
        practice_settings: vec![Coded::new("394914008", SNOMED, None)],
        ..FindDocuments::of_patient(patient())
    };
    let answer = query(&world, Some(home()), ReturnType::LeafClass, StoredQuery::FindDocuments(of_class)).await;
    assert_eq!((reports(&answer), manifests(&answer)), (REPORT.to_vec(), 2));
    let entry =
        |id: &str| -> &DocumentEntry { answer.objects.entries.iter().find(|e| e.unique_id == id).expect("is found") };
    let report = entry(REPORT[0]);
    assert_eq!((report.class_code.code.as_str(), report.practice_setting.code.as_str()), ("18748-4", "394914008"));
    let slot = |name: &str| report.extra_slots.iter().find(|(n, _)| n == name).map(|(_, values)| values[0].clone());
    assert_eq!(slot("urn:ncp:national:classCode").as_deref(), Some("E00-1^^2.16.578.1.12.4.1.1.9602"));
    assert_eq!(slot("urn:ncp:terminology-snapshot").map(|digest| digest.len()), Some(64));
    // The trail names the maps that the answer was made with.
    let trail = world.trail();
    let last = trail.ihe.iter().rfind(|m| m.types[0].code == "ITI-38").expect("a record");
    assert_eq!(trail::detail(last, "ncp:terminology-snapshot"), slot("urn:ncp:terminology-snapshot"));
    let events: Vec<&str> = report.event_codes.iter().map(|c| c.code.as_str()).collect();
    assert!(events.contains(&"SSC0AD") && events.len() > 1, "the national code stays beside the European: {events:?}");
}

/// A report of a department, with event codes of its own.
fn of_department(pki: &CountryPki, number: u32, department: &str, event: &str) {
    let reports = pki.path("../data/reports");
    let text = std::fs::read_to_string(reports.join("ct.toml")).expect("a report");
    let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with("event") && !l.starts_with("study")).collect();
    let text = kept.join("\n").replace("2.999.47.30.1", &format!("2.999.47.30.{number}")).replace("B05", department);
    std::fs::write(reports.join(format!("{number}.toml")), format!("{text}\n{event}\n")).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_has_the_body_region_of_its_studys_report() {
    let world = World::start_with(async |pki| {
        let report = format!(
            "study = \"{}\"\nevent = [{{ code = \"SSC0AD\", system = \"{NCRP}\" }}]",
            crate::world::study(11).uid()
        );
        of_department(pki, 71, "B", &report);
        serving(pki).await
    })
    .await;
    let region = ("67734004", SNOMED);
    let answer = with_events(&world, &[&[region]]).await;
    assert_eq!((named(&answer).contains(&"2.999.47.30.71"), manifests(&answer)), (true, 1), "{:?}", named(&answer));
    let manifest = answer.objects.entries.iter().find(|e| e.is_manifest()).expect("the manifest of study 11");
    assert!(manifest.event_codes.iter().any(|c| (c.code.as_str(), c.system.as_str()) == region));
    assert!(manifest.event_codes.iter().any(|c| c.code == "CT"), "its modality stays: {:?}", manifest.event_codes);
    // With the modality it narrows; another region finds nothing of the kind.
    assert_eq!(manifests(&with_events(&world, &[&[region], &[("CT", DCM)]]).await), 1);
    assert_eq!(manifests(&with_events(&world, &[&[("774007", SNOMED)]]).await), 0);
    // Without a filter the other study has no region: nobody said one.
    let all = with_events(&world, &[]).await;
    let with_region = |e: &&DocumentEntry| e.is_manifest() && e.event_codes.iter().any(|c| c.code == "67734004");
    assert_eq!((manifests(&all), all.objects.entries.iter().filter(with_region).count()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_department_stands_for_its_modality_where_the_entry_names_none() {
    let world = World::start_with(async |pki| {
        of_department(pki, 71, "B02", "");
        of_department(pki, 72, "B05", "");
        of_department(pki, 73, "B05", "event = [{ code = \"MR\", system = \"1.2.840.10008.2.16.4\" }]");
        serving(pki).await
    })
    .await;
    for (asked, expected) in [("US", vec![71]), ("CT", vec![72]), ("MR", vec![73]), ("NM", vec![])] {
        let answer = with_events(&world, &[&[(asked, DCM)]]).await;
        let found: Vec<u32> = named(&answer)
            .iter()
            .filter_map(|id| id.strip_prefix("2.999.47.30.")?.parse().ok())
            .filter(|number| *number > 70)
            .collect();
        assert_eq!(found, expected, "{asked}: {:?}", named(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_originals_go_out_with_a_warning_and_no_filter_hides_what_it_cannot_read() {
    let worlds = [World::start_with(silent).await, World::start_with(gone).await];
    for world in worlds {
        for (asked, count) in [(&[][..], 2), (&[&[("CT", DCM)][..]][..], 2), (&[&[("MR", DCM)][..]][..], 0)] {
            let answer = with_events(&world, asked).await;
            assert_eq!(answer.status, Status::Success, "{asked:?}");
            assert!(answer.errors.iter().all(|e| e.severity == Severity::Warning), "{:?}", answer.errors);
            assert_eq!(answer.errors.len(), 1, "said so: {:?}", answer.errors);
            assert_eq!((reports(&answer), manifests(&answer)), (REPORT.to_vec(), count), "{asked:?}");
            let national = answer.objects.entries.iter().find(|e| e.unique_id == REPORT[0]).expect("the report");
            assert_eq!(national.class_code.code, "E00-1");
        }
        let records = world.trail().ihe;
        let queries: Vec<_> = records.iter().filter(|m| m.types[0].code == "ITI-38").collect();
        assert!(queries.len() >= 3 && queries.iter().all(|m| trail::detail(m, "ncp:terminology-snapshot").is_none()));
    }
}

/// The reports of TC-01 beside those that are there.
fn tc_01(pki: &CountryPki) {
    let from =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/cases/terminology/TC-01/no/reports");
    for file in std::fs::read_dir(from).expect("the case").filter_map(Result::ok) {
        std::fs::copy(file.path(), pki.path("../data/reports").join(file.file_name())).expect("copies");
    }
}

/// TC-01: a filter hides nothing that is not known to be something else, whether the service knows the codes, is gone or
/// keeps silent; and nothing that is found with it is missing without it.
#[tokio::test(flavor = "multi_thread")]
async fn tc_01_a_filter_finds_all_that_it_must() {
    let table = include_str!("../../../tests/fixtures/cases/terminology/TC-01/expected.tsv");
    let names = |column: &str| -> BTreeSet<String> {
        column.split(", ").filter(|name| *name != "-").map(ToOwned::to_owned).collect()
    };
    let mut with_service = Vec::new();
    for (how, service) in [("up", 0), ("gone", 1), ("silent", 2)] {
        let world = World::start_with(async |pki| {
            tc_01(pki);
            match service {
                0 => serving(pki).await,
                1 => gone(pki).await,
                _ => silent(pki).await,
            }
        })
        .await;
        for (index, row) in table.lines().skip(1).filter(|line| !line.is_empty()).enumerate() {
            let columns: Vec<&str> = row.split('\t').collect();
            let [filter, code, system, must, may, ..] = columns[..] else { panic!("{row}") };
            let asked = [(code, system)];
            let lists: &[&[(&str, &str)]] = if code.is_empty() { &[] } else { &[&asked] };
            let answer = with_events(&world, lists).await;
            assert_eq!(answer.status, Status::Success, "{how} {filter}: {:?}", answer.errors);
            let text = |e: &&DocumentEntry| e.mime_type == "text/xml";
            let found: BTreeSet<String> =
                answer.objects.entries.iter().filter(text).filter_map(|e| e.title.clone()).collect();
            assert!(found.is_superset(&names(must)), "{how} {filter}: {found:?}");
            assert!(!found.contains("RG toraks"), "{how} {filter}: what the patient closed stays closed");
            let beside: Vec<&String> =
                found.iter().filter(|t| !names(must).contains(*t) && !names(may).contains(*t)).collect();
            println!("{how:8} {filter:24} found {} of {}, beside {beside:?}", names(must).len(), names(must).len());
            match service {
                0 => with_service.push(found),
                _ => assert!(found.is_superset(&with_service[index]), "{how} {filter}: {found:?}"),
            }
        }
    }
    // What is known to be another modality or region is left out.
    assert!(!with_service[2].contains("CT toraks"), "MR: {:?}", with_service[2]);
}
