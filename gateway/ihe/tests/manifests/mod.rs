//! Manifests of real systems: they read as `imaging-content.md` 2.4 says, and every form is written from each.

use std::collections::BTreeSet;

use ncp_ihe::imaging::{Difference, Field, ImageFacts, ManifestWarning};
use ncp_ihe::*;
use serde_json::Value;

use super::fixture;

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("fixture")
}

fn read(name: &str) -> (Manifest, ManifestForm) {
    Manifest::read(&bytes(name)).expect("a manifest")
}

fn listed(manifest: &Manifest) -> Vec<usize> {
    manifest.series.iter().map(|s| s.instances.len()).collect()
}

fn fields(differences: &[Difference]) -> BTreeSet<Field> {
    differences.iter().map(|d| d.field).collect()
}

fn via(manifest: &Manifest, form: ManifestForm) -> Manifest {
    let converted = manifest.convert(form, MadoCodes::default()).expect("converts");
    Manifest::read(&converted.bytes).expect("reads back").0
}

const MADO_A: &str = "manifests/mado/MADO_KOS_A.dcm";
const MADO_B: &str = "dicom/study-b/MADO_KOS_B.dcm";
const CONVERTER_B: &str = "manifests/mado/converter-kos-102.dcm";
const FHIR_A: &str = "manifests/mado/mado-1.2.250.1.59.40211.22756022.2.1.101-bundle.json";
const FHIR_B: &str = "manifests/mado/mado-1.2.250.1.59.40211.22756022.2.1.102-bundle.json";
const GRAZ: &str = "manifests/elga/1.3.12.2.1107.5.8.2.100041.2024082003211020554540005234.1.dcm";
const HELMTRAUT: &str = "manifests/elga/GK17285-KOS.dcm";
const ELGA_693076: &str = "manifests/elga/1.2.826.0.1.3680043.2.1043.693076.0.66982.83.3.1.dcm";
const NIST: [&str; 4] = [
    "dicom/nist/IDS-DEPT001-a-kos.dcm",
    "manifests/nist/IDS-DEPT002-a-kos.dcm",
    "manifests/nist/IDCDEPT001-kos.dcm",
    "manifests/nist/IDCDEPT002-kos.dcm",
];
const ALL: [&str; 14] = [
    MADO_A,
    MADO_B,
    CONVERTER_B,
    "manifests/mado/converter-kos-101.dcm",
    FHIR_A,
    FHIR_B,
    "manifests/mado/tryout-bundle.json",
    GRAZ,
    HELMTRAUT,
    ELGA_693076,
    NIST[0],
    NIST[1],
    NIST[2],
    NIST[3],
];

#[test]
fn mado_manifests_read_as_the_reference_says() {
    let (a, form) = read(MADO_A);
    assert_eq!((form, a.title.as_ref().map(|t| t.code.as_str())), (ManifestForm::Mado, Some("MADOTEMP001")));
    assert_eq!(listed(&a), [50, 36]);
    assert!(a.series.iter().all(|s| s.location.is_some() && s.retrieve_url.is_some()));
    // Accession number at the top and in the order.
    assert_eq!(a.accession.as_deref(), Some("1731954284869428"));
    assert_eq!(a.requests[0].accession.as_ref().map(|r| r.id.as_str()), a.accession.as_deref());
    assert_eq!(a.series[1].region.as_ref().map(|r| (r.code.as_str(), r.system.as_str())), Some(("67734004", "SCT")));
    assert!(a.warnings.contains(&ManifestWarning::RegionCode), "{:?}", a.warnings);
    assert_eq!(a.series[0].instances.iter().filter_map(|i| i.number).count(), 50);

    let (b, _) = read(MADO_B);
    assert_eq!(listed(&b), [20, 1]);
    // The group case: two accession numbers, none at the top.
    assert_eq!((b.accession.as_deref(), b.requests.len()), (None, 2));
    assert_eq!(b.patient.ids[0].oid().map(Oid::as_str), Some("1.3.6.1.4.1.19376.1.1.100.1"));
    assert!(b.viewer.as_deref().is_some_and(|v| v.starts_with("https://dicomviewer/")));
    let note = &b.series[1].instances[0];
    assert_eq!(note.key_title.as_ref().map(|t| t.code.as_str()), Some("113000"));
    assert_eq!(note.key_description.as_deref(), Some("Significant DICOM Instances"));
}

#[test]
fn national_manifests_have_no_retrieve_url() {
    for (name, instances) in [(GRAZ, 2), (HELMTRAUT, 1), (ELGA_693076, 2)] {
        let (manifest, form) = read(name);
        assert_eq!((form, manifest.instance_count()), (ManifestForm::XdsI, instances), "{name}");
        for series in &manifest.series {
            assert!(series.location.is_some() && series.ae_title.is_some() && series.retrieve_url.is_none(), "{name}");
        }
        let titled = !manifest.warnings.contains(&ManifestWarning::Title);
        assert_eq!(titled, name != HELMTRAUT, "113000 is the title of a key object note");
        let issued = !manifest.warnings.contains(&ManifestWarning::PatientIdWithoutIssuer);
        assert_eq!(issued, name == GRAZ, "{name}");
    }
    let name = read(GRAZ).0.patient.name.expect("a name");
    assert!(name.starts_with("ALKMJansen"));
}

#[test]
fn nist_manifests_list_each_instance_once() {
    let all = NIST.map(|name| read(name).0);
    assert_eq!(all.each_ref().map(listed), [vec![1], vec![16, 20], vec![1], vec![20, 16]]);
    assert!(all.iter().flat_map(|m| &m.series).all(|s| s.location.is_some()));
    // Eighty references for twenty instances.
    let repeated = |m: &Manifest| m.warnings.iter().filter(|w| matches!(w, ManifestWarning::Repeated(_))).count();
    assert_eq!(all.each_ref().map(repeated), [0, 0, 0, 36]);
}

#[test]
fn fhir_manifests_read_as_the_reference_says() {
    let (a, form) = read(FHIR_A);
    assert_eq!((form, listed(&a)), (ManifestForm::MadoFhir, vec![50, 36]));
    let (b, _) = read(FHIR_B);
    assert_eq!(listed(&b), [20, 1]);
    assert_eq!(b.study.as_str(), "1.2.250.1.59.40211.22756022.2.1.102");
    assert_eq!((b.study_date.as_deref(), b.study_time.as_deref()), (Some("20220822"), Some("083117")));
    assert_eq!((b.timezone.as_deref(), b.patient.name.as_deref()), (Some("+0200"), Some("DOE^John")));
    assert_eq!(b.accession.as_deref(), Some("8529258169397744"));
    assert_eq!(b.regions.len(), 2);
    // `ACME` is no Retrieve Location UID, and the document is not called by its UID.
    assert!(b.series.iter().all(|s| s.location.is_none()));
    for warning in [ManifestWarning::IdentifierNotUid, ManifestWarning::LocationNotOid(b.series[0].series.clone())] {
        assert!(b.warnings.contains(&warning), "{warning}");
    }
    let (tryout, _) = read("manifests/mado/tryout-bundle.json");
    assert_eq!(tryout.series[0].instances[2].frames, Some(512));
    assert_eq!(tryout.requests[0].placer.as_ref().map(|p| p.id.as_str()), Some("ORD-78342"));
    assert!(tryout.series.iter().all(|s| s.location.is_some()), "of the study's cross-community endpoint");
}

/// R5 wraps codes in CodeableConcept and CodeableReference.
#[test]
fn r5_reads_as_r4() {
    fn wrap(value: &mut Value) {
        let Some(resources) = value["entry"].as_array_mut() else { panic!("a bundle") };
        for resource in resources.iter_mut().map(|e| &mut e["resource"]) {
            let concept = |v: &mut Value| *v = serde_json::json!({ "coding": [v.take()] });
            match resource["resourceType"].as_str() {
                Some("Endpoint") => {
                    concept(&mut resource["connectionType"]);
                    resource["connectionType"] = serde_json::json!([resource["connectionType"].take()]);
                }
                Some("ImagingStudy") => {
                    resource["modality"].as_array_mut().expect("modalities").iter_mut().for_each(concept);
                    let procedures = resource["procedureCode"].take();
                    let concepts = procedures.as_array().expect("procedures").iter();
                    resource["procedure"] = concepts.map(|c| serde_json::json!({ "concept": c })).collect();
                    for series in resource["series"].as_array_mut().expect("series") {
                        concept(&mut series["modality"]);
                        if series["bodySite"].is_object() {
                            concept(&mut series["bodySite"]);
                            series["bodySite"] = serde_json::json!({ "concept": series["bodySite"].take() });
                        }
                    }
                }
                _ => {}
            }
        }
    }
    let mut value: Value = serde_json::from_slice(&bytes(FHIR_B)).expect("JSON");
    wrap(&mut value);
    let r5 = Manifest::read(&serde_json::to_vec(&value).expect("JSON")).expect("a manifest").0;
    assert_eq!(read(FHIR_B).0.differences(&r5), []);
}

#[test]
fn every_form_is_written_from_every_manifest() {
    for name in ALL {
        let manifest = read(name).0;
        for form in ManifestForm::ALL {
            // Only MADO's KOS has two sets of codes.
            let codes = if form == ManifestForm::Mado {
                vec![MadoCodes::Temporary, MadoCodes::Final]
            } else {
                vec![MadoCodes::Final]
            };
            for codes in codes {
                let first = manifest.convert(form, codes).expect("converts");
                assert_eq!(first.bytes, manifest.convert(form, codes).expect("converts").bytes, "the same bytes");
                let (again, seen) = Manifest::read(&first.bytes).expect("reads back");
                // A series without descriptions looks as XDS-I writes it.
                assert!(seen == form || (seen, form) == (ManifestForm::XdsI, ManifestForm::XtEhr), "{name} {form:?}");
                let never = [Field::Study, Field::Series, Field::Instance, Field::SopClass, Field::LocationUid];
                assert!(first.losses.iter().all(|l| !never.contains(&l.field)), "{name} {form:?} {:?}", first.losses);
                assert_eq!(again.instance_count(), manifest.instance_count());
                // What was written can be written again without further loss.
                let second = again.convert(form, codes).expect("converts");
                assert!(second.losses.is_empty(), "{name} {form:?} {:?}", second.losses);
            }
        }
    }
}

#[test]
fn losses_are_those_of_the_form() {
    let b = read(MADO_B).0;
    let lost = |form| fields(&b.convert(form, MadoCodes::Temporary).expect("converts").losses);
    let set = |fields: &[Field]| fields.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(lost(ManifestForm::Mado), set(&[]));
    assert_eq!(lost(ManifestForm::MadoFhir), set(&[Field::OwnSeries]));
    let study =
        [Field::Region, Field::SeriesTotal, Field::Viewer, Field::BodySite, Field::InstanceTotal, Field::KeyTitle];
    assert_eq!(lost(ManifestForm::XtEhr), set(&study));
    let series = [Field::Modality, Field::SeriesNumber, Field::SeriesDescription, Field::SeriesDate, Field::SeriesTime];
    let instances = [Field::InstanceNumber, Field::KeyDescription];
    assert_eq!(lost(ManifestForm::XdsI), set(&[&study[..], &series, &instances].concat()));
}

/// IM-22: the instances of a series that is counted and not listed are counted, in whichever form the manifest travels.
#[test]
fn im_22_instances_of_a_series_that_is_not_listed_are_counted() {
    let mut b = read(MADO_B).0;
    let all = b.announced_count();
    b.series_total = Some(b.series.len() as u32);
    let away = b.series.remove(0).announced_count();
    assert!(away > 1 && b.announced_count() == all - away + 1, "one at least");
    b.instance_total = Some(all as u32);
    for form in [ManifestForm::Mado, ManifestForm::XtEhr, ManifestForm::XdsI, ManifestForm::MadoFhir] {
        let again = via(&b, form);
        assert_eq!((again.announced_count(), again.instance_total), (all, Some(all as u32)), "{form:?}");
    }
    // A count that says no more than the series do is none.
    b.instance_total = Some(1);
    assert_eq!(via(&b, ManifestForm::Mado).instance_total, None);
}

/// An image marked by a note: only V7e says so.
#[test]
fn marks_travel_in_v7e() {
    let mut b = read(MADO_B).0;
    let note = b.series[1].instances[0].sop_instance.clone();
    b.series[0].instances[4].marked_by = vec![note];
    b.series[0].instances[5].frames = Some(12);
    let again = via(&b, ManifestForm::XtEhr);
    assert_eq!(again.series[0].instances[4], b.series[0].instances[4]);
    assert_eq!(again.series[0].instances[5], b.series[0].instances[5]);
    assert_eq!(again.series[1].instances[0].key_title, b.series[1].instances[0].key_title);
    let lost = b.convert(ManifestForm::Mado, MadoCodes::Final).expect("converts").losses;
    assert_eq!(fields(&lost), [Field::MarkedBy].into());
}

/// Study B as IHE publishes it: a FHIR document and a KOS, written by one converter from the same images.
#[test]
fn study_b_round_trips_to_the_published_pair() {
    let (kos, fhir) = (read(CONVERTER_B).0, read(FHIR_B).0);
    // Where the published pair does not agree with itself: the document is not called by the KOS's UID, the KOS has no
    // issuers, the other half of daylight saving, no instance numbers and no title of its key object note.
    let pair: BTreeSet<Field> = [
        Field::SopInstance,
        Field::OwnSeries,
        Field::PatientId,
        Field::PatientIdIssuer,
        Field::StudyTime,
        Field::Timezone,
        Field::Request,
        Field::Region,
        Field::Procedure,
        Field::Created,
        Field::SeriesTime,
        Field::InstanceNumber,
        Field::KeyTitle,
        Field::KeyDescription,
    ]
    .into();
    let mut expected = pair.clone();
    expected.insert(Field::InstitutionId);
    assert_eq!(fields(&via(&kos, ManifestForm::MadoFhir).differences(&fhir)), expected);
    let mut expected = pair;
    expected.insert(Field::RetrieveAeTitle);
    assert_eq!(fields(&via(&fhir, ManifestForm::Mado).differences(&kos)), expected);

    // Both ways, each comes back as it was but for what the other form has no place for.
    let there_and_back = |m: &Manifest, form, back| fields(&m.differences(&via(&via(m, form), back)));
    assert_eq!(there_and_back(&fhir, ManifestForm::Mado, ManifestForm::MadoFhir), [Field::InstitutionId].into());
    let b = read(MADO_B).0;
    assert_eq!(there_and_back(&b, ManifestForm::MadoFhir, ManifestForm::Mado), [Field::OwnSeries].into());
}

/// What the published resources say is in ours, at the same place in the JSON.
#[test]
fn study_b_has_the_published_resources() {
    let published: Value = serde_json::from_slice(&bytes(FHIR_B)).expect("JSON");
    let ours: Value = serde_json::from_slice(&read(FHIR_B).0.write_fhir().expect("writes")).expect("JSON");
    let mut missing = BTreeSet::new();
    for kind in ["ImagingStudy", "Patient", "Endpoint", "ServiceRequest", "Device", "Organization", "Composition"] {
        let of = |bundle: &Value| {
            let all = bundle["entry"].as_array().expect("entries").iter().map(|e| e["resource"].clone());
            all.filter(|r| r["resourceType"] == kind).collect::<Vec<_>>()
        };
        let (theirs, ours) = (of(&published), of(&ours));
        assert_eq!((theirs.len(), ours.len()), (1, 1), "{kind}");
        absent(kind, &theirs[0], &ours[0], &mut missing);
    }
    let differences = [
        // Names of resources, and what stands beside a reference for people.
        "ImagingStudy.basedOn.display",
        "ImagingStudy.series.endpoint.display",
        "ImagingStudy.subject.display",
        "ServiceRequest.subject.display",
        "Composition.author.display",
        "Composition.event.detail.display",
        "Composition.section.entry.display",
        "Composition.subject.display",
        "Device.owner.display",
        // The document is called by its UID; its title is the study's; the category has the newer address.
        "Composition.category.coding.system",
        "Composition.identifier.system",
        "Composition.identifier.value",
        "Composition.title",
        "Composition.type.coding.display",
        // No place in a manifest: when the converter was built, what kind of number the patient's is, an `ACME` that
        // is no UID, and what else the endpoint would send.
        "Device.manufactureDate",
        "Endpoint.extension",
        "Endpoint.name",
        "Endpoint.payloadMimeType",
        "Patient.identifier.type",
        "Patient.identifier.use",
    ];
    assert_eq!(missing.iter().map(String::as_str).collect::<Vec<_>>(), sorted(&differences));
}

fn sorted<'a>(all: &[&'a str]) -> Vec<&'a str> {
    all.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Paths of values in `theirs` that `ours` has not; ids, references and narratives aside, arrays as sets.
fn absent(path: &str, theirs: &Value, ours: &Value, out: &mut BTreeSet<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let named = |key: &&String| !matches!(key.as_str(), "id" | "reference" | "text" | "meta");
            for (key, value) in theirs.iter().filter(|(key, _)| named(key) || value_text(path, key)) {
                let path = format!("{path}.{key}");
                match ours.get(key) {
                    Some(ours) => absent(&path, value, ours, out),
                    None => _ = out.insert(path),
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            for value in theirs {
                let mut least: Option<BTreeSet<String>> = None;
                for candidate in ours {
                    let mut found = BTreeSet::new();
                    absent(path, value, candidate, &mut found);
                    if least.as_ref().is_none_or(|l| found.len() < l.len()) {
                        least = Some(found);
                    }
                }
                out.extend(least.unwrap_or_else(|| [path.to_owned()].into()));
            }
        }
        (theirs, ours) if theirs == ours => {}
        _ => _ = out.insert(path.to_owned()),
    }
}

/// Text that is a value and no narrative.
fn value_text(path: &str, key: &str) -> bool {
    key == "text" && (path.ends_with("procedureCode") || path.ends_with("name") || path.ends_with("payloadType"))
}

#[test]
fn images_that_disagree_are_reported() {
    let manifest = read(MADO_B).0;
    let mut images = Vec::new();
    for folder in ["dicom/study-b/Series_B_1", "dicom/study-b/Series_B_2"] {
        for file in std::fs::read_dir(fixture(folder)).expect("a folder") {
            let file = std::fs::File::open(file.expect("an entry").path()).expect("a file");
            images.extend(ImageFacts::read(file).expect("an image"));
        }
    }
    assert_eq!(images.len(), 21);
    let found = |images: &[ImageFacts]| {
        let all = manifest.compare_images(images);
        all.into_iter().map(|d| (d.field, d.manifest, d.images, d.instances.len())).collect::<Vec<_>>()
    };
    let say = |field, a: &str, b: &str, n| (field, Some(a.to_owned()), Some(b.to_owned()), n);
    let expected = vec![
        say(Field::StudyDate, "20260224", "20061026", 1),
        say(Field::StudyDate, "20260224", "20220822", 20),
        say(Field::SeriesNumber, "2", "59", 1),
        say(Field::SeriesDate, "20231018", "20220822", 20),
    ];
    assert_eq!(found(&images), expected);
    // One image is gone, another has come, a third is of somebody else.
    let mut other = images.clone();
    let gone = other.swap_remove(3);
    let stranger = ImageFacts { sop_instance: Uid::parse("2.999.1").expect("a UID"), ..gone };
    other.push(stranger);
    other[0].patient.id = "SOMEBODY".into();
    let found = found(&other);
    let has = |field, ours: Option<&str>| found.iter().any(|(f, m, ..)| *f == field && m.as_deref() == ours);
    assert!(
        has(Field::Instance, Some("listed")) && has(Field::Instance, None) && has(Field::PatientId, Some("UV59569735"))
    );
    let manifest = std::fs::File::open(fixture(MADO_B)).expect("a file");
    assert_eq!(ImageFacts::read(manifest), Ok(None), "a manifest is no image of its study");
}

#[test]
fn what_is_no_manifest_is_refused() {
    assert_eq!(Manifest::read(b"nothing"), Err(ManifestError::UnknownForm));
    assert_eq!(Manifest::read(b"{}"), Err(ManifestError::UnknownForm));
    assert_eq!(Manifest::read(br#"{"resourceType":"Bundle","entry":[]}"#), Err(ManifestError::UnknownForm));
    let deep = format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    assert_eq!(Manifest::read(deep.as_bytes()), Err(ManifestError::UnknownForm));
    let image = bytes("dicom/study-b/Series_B_1/I0.dcm");
    assert_eq!(Manifest::read(&image), Err(ManifestError::NotKos));
    let kos = bytes(MADO_B);
    for cut in [133, 200, 1000, kos.len() - 1] {
        assert!(Manifest::read(&kos[..cut]).is_err(), "cut at {cut}");
    }
}

/// T-KOS-1 and T-KOS-2: an address in a manifest is text. Whatever it names, what is asked for is the Retrieve Location
/// UID; a series without one cannot be asked for.
#[test]
fn t_kos_1_2_addresses_are_never_a_way_to_images() {
    let addresses = [
        "https://elsewhere.example/wado",
        "http://169.254.169.254/latest/meta-data/",
        "https://user:secret@ncp.example.org/wado",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
    ];
    for address in addresses {
        for form in ManifestForm::ALL {
            let mut manifest = read(MADO_B).0;
            let location = manifest.series[0].location.clone();
            manifest.series[0].retrieve_url = Some(address.into());
            manifest.series[1].retrieve_url = Some(address.into());
            manifest.series[1].location = None;
            let Ok(converted) = manifest.convert(form, MadoCodes::default()) else { continue };
            let again = Manifest::read(&converted.bytes).expect("reads back").0;
            assert_eq!(again.series[0].location, location, "{address} {form:?}");
            assert_eq!(again.series[1].location, None, "{address} {form:?}");
        }
    }
}

/// T-KOS-3: more references than the limit are refused, as many as the limit are read.
#[test]
fn t_kos_3_references_are_counted() {
    let mut manifest = read(MADO_B).0;
    let class = manifest.series[0].instances[0].sop_class.clone();
    let numbered = |n: usize| ManifestInstance::new(class.clone(), Uid::parse(&format!("2.999.{n}")).expect("a UID"));
    manifest.series.truncate(1);
    for (count, refused) in [(imaging::MOST_REFERENCES, false), (imaging::MOST_REFERENCES + 1, true)] {
        manifest.series[0].instances = (1..=count).map(numbered).collect();
        let bytes = manifest.write_kos(KosDialect::XdsI).expect("writes");
        let read = Manifest::read(&bytes).map(|(read, _)| read.instance_count());
        assert_eq!(read, if refused { Err(ManifestError::TooMany) } else { Ok(count) });
    }
}

/// T-KOS-4: a manifest that lists itself, notes that mark each other: read in one pass, nothing is followed.
#[test]
fn t_kos_4_references_in_a_circle_are_not_followed() {
    let mut manifest = read(MADO_B).0;
    let class = Uid::parse("1.2.840.10008.5.1.4.1.1.88.59").expect("a UID");
    let (own, note) = (manifest.sop_instance.clone(), manifest.series[1].instances[0].sop_instance.clone());
    let mut itself = ManifestInstance::new(class, own.clone());
    itself.marked_by = vec![note.clone(), own.clone()];
    manifest.series[1].instances[0].marked_by = vec![own, note];
    manifest.series[1].instances.push(itself);
    let count = manifest.instance_count();
    for form in ManifestForm::ALL {
        let converted = manifest.convert(form, MadoCodes::default()).expect("converts");
        assert_eq!(Manifest::read(&converted.bytes).expect("reads").0.instance_count(), count, "{form:?}");
    }
}
