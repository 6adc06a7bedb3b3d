//! The folder connector over files as people meet them.

use std::fs;
use std::path::{Path, PathBuf};

use ncp_ihe::Manifest;
use tempfile::TempDir;

use super::*;
use crate::instance::{Expected, whole};
use crate::patient_key::{PatientKey, Person};

const NATIONAL: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";

/// A folder with a register, and what a scan of it says.
struct Folder {
    root: TempDir,
    authority: Vec<String>,
    metrics: Metrics,
}

impl Folder {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("dicom")).expect("a folder");
        let codes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/no/manifest.toml");
        fs::copy(codes, root.path().join("manifest.toml")).expect("codes");
        Self { root, authority: vec!["HOSPITAL-A".into(), "2.999.47.22".into()], metrics: Metrics::default() }
    }

    fn of_case(case: &str) -> Self {
        let folder = Self::new();
        for file in case_files(case) {
            fs::copy(&file, folder.dicom().join(file.file_name().expect("a name"))).expect("copies");
        }
        folder
    }

    fn dicom(&self) -> PathBuf {
        self.root.path().join("dicom")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dicom().join(name), bytes).expect("writes");
    }

    fn patients(&self, local_ids: &str) -> Arc<Patients> {
        let file = self.root.path().join("patients.toml");
        let text = format!(
            "[[patient]]\nnational_id = \"{NATIONAL}\"\nlocal_ids = [{local_ids}]\nfamily = \"Testesen\"\n\
             given = [\"Jon\"]\nbirth_date = \"19770530\"\nsex = \"M\"\n"
        );
        fs::write(&file, text).expect("writes");
        Arc::new(Patients::load(&file).expect("patients"))
    }

    fn scan(&self) -> EmbeddedSource {
        self.scan_with("\"UV59569735\", \"OLD-2\"")
    }

    fn scan_with(&self, local_ids: &str) -> EmbeddedSource {
        let oid = |text: &str| Oid::parse(text).expect("an OID");
        let config = Embedded {
            name: "archive".into(),
            folder: self.root.path().to_owned(),
            repository_unique_id: oid("2.999.47.21.1"),
            location_uids: vec![oid("2.999.47.21.1")],
            time_zone: "Europe/Oslo".into(),
            uid_root: oid("2.999.47.31"),
            patient_id_authority: self.authority.clone(),
        };
        EmbeddedSource::scan(&config, "nb-NO", self.patients(local_ids), &self.metrics).expect("scans")
    }
}

fn case_files(case: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/cases/imaging").join(case);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).expect("a case").map(|e| e.expect("a file").path()).collect();
    files.sort();
    files
}

/// The manifests of the patient's studies: instances listed, instances there are.
fn counts(source: &EmbeddedSource) -> Vec<(usize, usize)> {
    let national = PatientId::parse_cx(NATIONAL).expect("a CX");
    let index = source.index.load();
    let theirs = index.documents.iter().filter(|d| d.entry.patient_id == national);
    let manifests = theirs.map(|d| Manifest::read_kos(&d.bytes).expect("a manifest"));
    manifests.map(|m| (m.instance_count(), m.announced_count())).collect()
}

/// The files of a study as its manifest's reader checks them: what NCP-A releases NCP-B takes (P2).
fn released_are_taken(source: &EmbeddedSource) -> usize {
    let mut taken = 0;
    let index = source.index.load();
    for held in &index.documents {
        let manifest = Manifest::read_kos(&held.bytes).expect("a manifest");
        let study = &index.studies[&manifest.study];
        let expected = Expected {
            study: manifest.study.clone(),
            patient_ids: Some(PatientKey::told(&manifest.patient.ids)),
            person: Person { birth_date: Some("19770530".into()), ..Person::default() },
            transfer_syntaxes: Vec::new(),
        };
        for instance in study.instances.iter().filter(|i| !i.withheld) {
            let bytes = fs::read(&instance.file.as_ref().expect("a file").0).expect("reads");
            whole(bytes.into(), instance.sop_instance.as_str(), &expected).expect("NCP-B takes what NCP-A releases");
            taken += 1;
        }
    }
    taken
}

/// The counter of a reason.
fn left_out(folder: &Folder, reason: &str) -> usize {
    let label = format!("ncp_connector_left_out_total{{connector=\"archive\",reason=\"{reason}\"}} ");
    let rendered = folder.metrics.render();
    rendered.lines().find_map(|line| line.strip_prefix(&label)?.parse().ok()).unwrap_or(0)
}

#[test]
fn im_01_another_hospitals_patient_with_the_same_number_is_not_listed() {
    let folder = Folder::of_case("IM-01");
    let source = folder.scan();
    assert_eq!((counts(&source), left_out(&folder, "other-patient")), (vec![], 2));
    assert!(source.index.load().studies.is_empty());
    // With the issuer of the register's id they are another person's: hers.
    let source = folder.scan_with("{ id = \"UV59569735\", authority = \"HOSPITAL-B\" }");
    assert_eq!(counts(&source), [(2, 2)]);
    // Nobody said who issues the ids of this archive, so every issuer is another.
    let unnamed = Folder { authority: Vec::new(), ..Folder::of_case("IM-01") };
    assert_eq!(counts(&unnamed.scan()), []);
}

#[test]
fn im_03_a_private_sequence_under_un_is_read() {
    let folder = Folder::of_case("IM-03");
    let source = folder.scan();
    assert_eq!(counts(&source), [(3, 3)]);
    assert_eq!(released_are_taken(&source), 3);
}

/// FO-02: what declares more than it has, or nests too deep, is left out and named; the good ones stay.
#[test]
fn fo_02_one_bad_file_is_one_bad_file() {
    let good = fs::read(case_files("IM-03")[0].clone()).expect("reads");
    let at = good.windows(6).position(|w| w == b"\x10\x00\x10\x00PN").expect("the patient");
    let with = |blob: &[u8]| [&good[..at], blob, &good[at..]].concat();
    let nested = |depth: usize| {
        let begin = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff".repeat(depth);
        with(&[begin, b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0".repeat(depth)].concat())
    };
    let folder = Folder::of_case("IM-03");
    for length in [0x4000_0000_u32, 0xFFFF_FFF0] {
        let head = b"\x09\x00\x10\x00LO\x04\x00TEST\x09\x00\x01\x10OB\0\0";
        folder.put(&format!("declared-{length:x}"), &with(&[&head[..], &length.to_le_bytes()].concat()));
    }
    for depth in [65, 3000, 20_000] {
        folder.put(&format!("nested-{depth}"), &nested(depth));
    }
    assert_eq!(counts(&folder.scan()), [(3, 3)]);
    assert_eq!(left_out(&folder, "broken"), 5);
    // The same object as good1.dcm but for its depth: it would be a twin.
    let folder = Folder::new();
    folder.put("nested-64", &nested(64));
    assert_eq!(counts(&folder.scan()), [(1, 1)]);
}

#[test]
fn im_05_and_im_06_the_length_of_group_0002_adds_no_fact() {
    for case in ["IM-05", "IM-06"] {
        let folder = Folder::of_case(case);
        let source = folder.scan();
        assert_eq!((counts(&source), released_are_taken(&source)), (vec![(3, 3)], 3), "{case}");
    }
}

#[test]
fn im_07_what_is_dicom_is_said_by_its_bytes() {
    let folder = Folder::of_case("IM-07");
    folder.put("README.dcm", b"no object at all");
    assert_eq!(counts(&folder.scan()), [(4, 4)]);
    assert_eq!(left_out(&folder, "no-dicom"), 1);
}

/// IM-08: a study that lacks a file says so in its manifest.
#[test]
fn im_08_what_is_left_out_is_counted() {
    let whole = fs::read(case_files("IM-07")[1].clone()).expect("reads");
    // It ends inside its pixels, and inside the header of one more element.
    for damaged in [whole[..whole.len() - 3].to_vec(), [&whole[..], b"\xfc\xff\xfc\xff"].concat()] {
        let folder = Folder::of_case("IM-07");
        fs::remove_file(folder.dicom().join(case_files("IM-07")[1].file_name().expect("a name"))).expect("removes");
        folder.put("damaged", &damaged);
        let source = folder.scan();
        assert_eq!((counts(&source), left_out(&folder, "broken")), (vec![(3, 4)], 1));
        let fewer: Vec<_> = source.index.load().studies.values().filter_map(IndexedStudy::fewer).collect();
        assert_eq!(fewer, [Omission::Fewer { listed: 3, counted: 4 }]);
    }
}

#[test]
fn im_09_merged_ids_are_known_on_both_sides() {
    let folder = Folder::of_case("IM-09");
    let source = folder.scan();
    assert_eq!((counts(&source), released_are_taken(&source)), (vec![(3, 3)], 3));
    // An id that the register does not have stays another patient's.
    let folder = Folder::of_case("IM-09");
    let source = folder.scan_with("\"UV59569735\"");
    assert_eq!((counts(&source), left_out(&folder, "other-patient")), (vec![(2, 3)], 1));
}

#[test]
fn im_22_two_objects_under_one_uid_are_none() {
    let folder = Folder::of_case("IM-22");
    assert_eq!((counts(&folder.scan()), left_out(&folder, "two-under-one-id")), (vec![(1, 3)], 2));
    // A series of which nothing is available counts all that it has.
    let folder = Folder::of_case("IM-22");
    let other_series = fs::read(case_files("IM-22")[2].clone()).expect("reads");
    for number in 0..3 {
        folder.put(&format!("cut-{number}"), &other_series[..other_series.len() - 3]);
    }
    assert_eq!(counts(&folder.scan()), [(1, 6)]);
    // The same object twice is one.
    let folder = Folder::of_case("IM-03");
    fs::copy(case_files("IM-03")[0].clone(), folder.dicom().join("again")).expect("copies");
    assert_eq!(counts(&folder.scan()), [(3, 3)]);
}

#[test]
fn im_26_a_new_file_is_there_after_a_reload() {
    let folder = Folder::of_case("IM-05");
    let source = folder.scan();
    fs::remove_file(folder.dicom().join("good2.dcm")).expect("removes");
    for file in case_files("IM-07") {
        fs::copy(&file, folder.dicom().join(format!("new-{}", file.file_name().expect("a name").display())))
            .expect("copies");
    }
    assert_eq!(counts(&source), [(3, 3)]);
    source.rescan().expect("scans");
    assert_eq!(counts(&source), [(4, 4), (2, 2)]);
    // A folder that cannot be read leaves what was there.
    fs::rename(folder.dicom(), folder.root.path().join("away")).expect("renames");
    assert!(source.rescan().is_err());
    assert_eq!(counts(&source), [(4, 4), (2, 2)]);
}

/// P5: whatever becomes of one file, the others of its study and of other studies stay; P3: whatever issuer it says.
#[test]
fn p5_one_odd_file_changes_no_other() {
    let good = fs::read(case_files("IM-03")[0].clone()).expect("reads");
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..300 {
        let folder = Folder::of_case("IM-05");
        let mut odd = good.clone();
        for _ in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % odd.len() as u64).expect("small");
            match seed >> 61 {
                0 => odd.truncate(at.max(1)),
                1 => odd.insert(at, (seed >> 32) as u8),
                _ => odd[at] = (seed >> 32) as u8,
            }
        }
        folder.put("odd", &odd);
        let source = folder.scan();
        assert!(counts(&source).contains(&(3, 3)), "{}", hex::encode(&odd));
        released_are_taken(&source);
    }
}

/// T-DCM-1 to T-DCM-8 from whoever can put a file into the folder: it is left out and counted, and nothing else changes.
#[test]
fn t_dcm_1_to_8_a_bad_file_in_the_folder_changes_nothing_else() {
    let good = fs::read(case_files("IM-03")[0].clone()).expect("reads");
    type Change = fn(&mut Vec<u8>);
    let rows: [(&str, Change); 9] = [
        ("T-DCM-1: no DICM", |f| f[128..132].copy_from_slice(b"NONE")),
        ("T-DCM-1: a page", |f| *f = b"<script>alert(1)</script>".to_vec()),
        ("T-DCM-2: truncated", |f| f.truncate(f.len() - 3)),
        ("T-DCM-3: group length past the end", |f| f[140..144].copy_from_slice(&0x7000_0000_u32.to_le_bytes())),
        ("T-DCM-4: an element of 4 GB", |f| f.extend_from_slice(b"\xff\x7f\x10\0OB\0\0\xf0\xff\xff\xff")),
        ("T-DCM-5: 20,000 nested sequences", |f| {
            for _ in 0..20_000 {
                f.extend_from_slice(b"\xff\x7f\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff");
            }
        }),
        ("T-DCM-6: an odd end", |f| f.push(b'x')),
        ("T-DCM-7: a deflate bomb", |f| *f = ncp_tests::synth::bomb(f)),
        ("T-DCM-8: a length that runs over its end", |f| {
            f.extend_from_slice(b"\xff\x7f\x10\x10UT\0\0\x10\0\0\0abc");
        }),
    ];
    for (row, change) in rows {
        let folder = Folder::of_case("IM-05");
        let mut odd = good.clone();
        change(&mut odd);
        folder.put("odd", &odd);
        let source = folder.scan();
        assert!(counts(&source).contains(&(3, 3)), "{row}: {:?}", counts(&source));
        assert_eq!(released_are_taken(&source), 3, "{row}");
        assert_eq!(left_out(&folder, "broken") + left_out(&folder, "no-dicom"), 1, "{row}");
    }
}
