//! The `dicomweb` connector against an archive with the faults of the field.

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use ncp_ihe::{DocumentRequest, HomeCommunityId, Manifest, Status};
use ncp_tests::synth::Study;

use crate::harness::{Asker, Fetched, HOME, World, codes, dicomweb, fetch, others_came, same_as_files};
use crate::odd_archive::Archive;
use crate::{images, oid, patient, study};

const LOCATION: &str = "2.999.47.21.3";

fn connector(base: &str, location: &str) -> String {
    dicomweb(base, location, "first_byte = \"2s\"\nidle = \"2s\"\npage = 4")
}

async fn archive(world: &World, study: &Study) -> (Archive, Asker, Vec<std::path::PathBuf>) {
    let files = study.write(&world.dir.path().join("dicom")).expect("writes");
    let archive = Archive::default();
    {
        let mut faults = archive.faults();
        faults.study = Some(study.clone());
        faults.files = (1..).map(|s| study.instance(s)).zip(files.iter().cloned()).collect();
    }
    let base = archive.serve().await;
    let neighbour = world.gateway(true, &connector(&base, LOCATION)).await;
    (archive, neighbour, files)
}

fn all_came(fetched: &Fetched, files: &[std::path::PathBuf], study: &Study) {
    assert!(fetched.whole, "the message came to its end");
    assert_eq!((fetched.response.status, fetched.instances.len()), (Status::Success, files.len()));
    same_as_files(fetched, files, study);
}

/// The instances that the manifest of the one study names.
async fn listed(neighbour: &Asker) -> usize {
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, found.objects.entries.len()), (Status::Success, 1));
    let wanted = DocumentRequest {
        home: Some(HomeCommunityId(oid(HOME))),
        repository: oid(LOCATION),
        document: found.objects.entries[0].unique_id.clone(),
    };
    let (_, bytes) = neighbour.document(&patient(), &wanted).await.expect("ITI-39");
    Manifest::read_kos(&bytes).expect("a manifest").instance_count()
}

#[tokio::test]
async fn searches_go_on_page_by_page() {
    let world = World::new();
    let study = study(3, 11);
    let (archive, neighbour, files) = archive(&world, &study).await;
    assert_eq!(listed(&neighbour).await, 11, "pages of four");
    archive.faults().page = Some(3);
    assert_eq!(listed(&neighbour).await, 11, "an archive that sends less than was asked for");
    archive.faults().page = None;
    archive.faults().busy = 2;
    assert_eq!(listed(&neighbour).await, 11, "an archive that is busy twice");
    archive.faults().bare = true;
    assert_eq!(listed(&neighbour).await, 11, "searches that lack the SOP class");
    assert!(archive.faults().asked.iter().any(|a| a == "metadata"));
    archive.faults().bare = false;
    archive.faults().ignores_offset = true;
    // No more can be had of it than its first page; what is listed is served.
    assert_eq!(listed(&neighbour).await, 4, "an archive that knows no offset");
    archive.faults().ignores_offset = false;
    listed(&neighbour).await;
    all_came(&fetch(&neighbour, &images(&study, LOCATION, 1..=11)).await, &files, &study);
}

#[tokio::test]
async fn a_broken_instance_is_taken_up_where_it_broke() {
    let world = World::new();
    let study = study(3, 4);
    let (archive, neighbour, files) = archive(&world, &study).await;
    archive.faults().cut = [(study.instance(2), (2, 20_000)), (study.instance(3), (1, 300))].into();
    all_came(&fetch(&neighbour, &images(&study, LOCATION, 1..=4)).await, &files, &study);

    archive.faults().single_part = true;
    all_came(&fetch(&neighbour, &images(&study, LOCATION, 1..=4)).await, &files, &study);
    archive.faults().single_part = false;
    archive.faults().no_wildcard = true;
    all_came(&fetch(&neighbour, &images(&study, LOCATION, 1..=4)).await, &files, &study);
    archive.faults().no_wildcard = false;

    // Another object behind the same name is not spliced to the first.
    archive.faults().changes = true;
    archive.faults().cut = [(study.instance(2), (1, 20_000))].into();
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=4)).await;
    others_came(&fetched, &files, &study, 1..=4, 2);
    // The next asking hears of it and gets the rest.
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 2..=4)).await;
    assert!(fetched.whole && fetched.instances.len() == 2);
    assert_eq!((fetched.response.status, codes(&fetched)), (Status::PartialSuccess, vec!["XDSRepositoryError"]));
    same_as_files(&fetched, &files, &study);
}

/// T-DCM-1, T-DCM-9 to T-DCM-11 and T-DCM-14, as a neighbour sees them: the object does not leave, the others do.
#[tokio::test]
async fn foreign_objects_are_withheld() {
    let world = World::new();
    let study = study(3, 6);
    let (archive, neighbour, files) = archive(&world, &study).await;
    let folder = world.dir.path();
    let other = |number: u32, patient: &str| Study { number, patient_id: patient.into(), ..study.clone() };
    let another_patient = other(3, "SOMEBODY").write(&folder.join("patient")).expect("writes");
    let another_study = other(4, &study.patient_id).write(&folder.join("study")).expect("writes");
    std::fs::write(folder.join("text"), vec![b'x'; 4096]).expect("writes");
    let mut issued = dicom_object::open_file(&files[4]).expect("reads");
    issued.put(DataElement::new(tags::ISSUER_OF_PATIENT_ID, VR::LO, PrimitiveValue::from("HOSPITAL-B")));
    issued.write_to_file(folder.join("issued")).expect("writes");
    let swapped = [
        (1, "T-DCM-1", folder.join("text")),
        (2, "T-DCM-9", another_patient[1].clone()),
        (3, "T-DCM-10", files[3].clone()),
        (4, "T-DCM-11", another_study[3].clone()),
        (5, "T-DCM-14: the same id of another issuer (IM-01)", folder.join("issued")),
    ];
    for (slice, id, file) in swapped {
        archive.faults().files.insert(study.instance(slice), file);
        let fetched = fetch(&neighbour, &images(&study, LOCATION, [slice])).await;
        assert!(fetched.whole && fetched.instances.is_empty(), "{id}");
        assert_eq!((fetched.response.status, codes(&fetched)), (Status::Failure, vec!["XDSDocumentUniqueIdError"]));
    }
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=6)).await;
    assert!(fetched.whole && fetched.response.status == Status::PartialSuccess);
    assert_eq!(codes(&fetched), ["XDSDocumentUniqueIdError"; 5]);
    assert_eq!(fetched.instances.len(), 1);
    same_as_files(&fetched, &files, &study);

    archive.faults().media_type = Some("text/html");
    let fetched = fetch(&neighbour, &images(&study, LOCATION, [6])).await;
    assert!(fetched.whole && fetched.instances.is_empty());
    assert_eq!(codes(&fetched), ["XDSRepositoryError"]);
}

#[tokio::test]
async fn one_archive_that_is_down_does_not_take_the_others_with_it() {
    let world = World::new();
    let study = study(3, 2);
    let files = study.write(&world.dir.path().join("dicom")).expect("writes");
    let (good, bad) = (Archive::default(), Archive::default());
    good.faults().study = Some(study.clone());
    good.faults().files = (1..).map(|s| study.instance(s)).zip(files.iter().cloned()).collect();
    bad.faults().down = true;
    let connectors = connector(&good.serve().await, LOCATION) + &connector(&bad.serve().await, "2.999.47.21.4");
    let neighbour = world.gateway(true, &connectors).await;
    for how in ["down", "silent"] {
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        assert_eq!((found.status, found.objects.entries.len()), (Status::PartialSuccess, 1), "{how}");
        assert_eq!(found.errors[0].code, "XDSRegistryError");
        all_came(&fetch(&neighbour, &images(&study, LOCATION, 1..=2)).await, &files, &study);
        *bad.faults() = crate::odd_archive::Faults { silent: true, ..Default::default() };
    }
    // All down: the query fails, with a code.
    good.faults().down = true;
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, found.objects.entries.len()), (Status::Failure, 0));
}
