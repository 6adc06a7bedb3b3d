//! CO-04: a report on pages says what the CDA says, and each page whose it is. Read by pdftotext and pdfinfo (poppler).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use ncp_gateway::responding::orcd::page;
use ncp_ihe::orcd::Report;
use ncp_ihe::{Availability, Coded, DocumentEntry, Dtm, EntryType, Oid};

/// What a program of poppler says of a PDF.
fn said(program: &str, options: &[&str], pdf: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.pdf");
    std::fs::File::create(&file).and_then(|mut f| f.write_all(pdf)).expect("writes");
    let output = (program == "pdftotext").then_some("-");
    let out = Command::new(program).args(options).arg(&file).args(output).stderr(Stdio::inherit()).output();
    String::from_utf8(out.unwrap_or_else(|_| panic!("{program} is part of poppler-utils")).stdout).expect("UTF-8")
}

fn pages(cda: &[u8]) -> Vec<u8> {
    let entry = DocumentEntry {
        entry_uuid: "urn:uuid:00000000-0000-4000-8000-000000000004".into(),
        unique_id: "2.999.47.30.4".into(),
        home: None,
        repository_unique_id: Oid::parse("2.999.47.21.1").expect("an OID"),
        availability: Availability::Approved,
        entry_type: EntryType::Stable,
        patient_id: crate::world::patient(),
        source_patient_id: None,
        source_patient_info: Vec::new(),
        class_code: Coded::new("18748-4", "2.16.840.1.113883.6.1", None),
        type_code: Coded::default(),
        format_code: Coded::default(),
        practice_setting: Coded::default(),
        facility_type: Coded::default(),
        confidentiality: Vec::new(),
        event_codes: Vec::new(),
        language: "nb-NO".into(),
        mime_type: "text/xml".into(),
        title: Some("MR lever".into()),
        comments: None,
        creation_time: Dtm::parse("20260301091500").ok(),
        service_start: None,
        service_stop: None,
        hash: None,
        size: None,
        reference_ids: Vec::new(),
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    };
    page::pdf(&entry, &Report::of_cda(cda).expect("a report")).expect("pages")
}

#[test]
fn co_04_three_pages_say_what_the_report_says() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/cases/corners/CO-04-three-pages.xml");
    let pdf = pages(&std::fs::read(fixture).expect("the fixture"));
    if let Some(folder) = std::env::var_os("NCP_PICTURES") {
        std::fs::write(Path::new(&folder).join("CO-04.pdf"), &pdf).expect("writes");
    }
    let facts = said("pdfinfo", &[], &pdf);
    assert!(facts.contains("Tagged:          yes") && facts.contains("Pages:           3"), "{facts}");
    let text = said("pdftotext", &["-layout"], &pdf);
    let sheets: Vec<&str> = text.split('\u{C}').filter(|sheet| !sheet.trim().is_empty()).collect();
    for (number, sheet) in (1..).zip(&sheets) {
        for part in ["Jon Testesen", "30857710106", "born 1977-05-30", &format!("Page {number} of 3")] {
            assert!(sheet.contains(part), "page {number}: {part}");
        }
    }
    let first = sheets[0];
    for part in [
        "Author: Dr. Kari Eksempel, Eksempel sykehus",
        "Kept by: Eksempel HF",
        "normalt stor",
        "10\u{2079}/L",
        "T\u{2082}-vektede",
        "1. Segment IV",
        "2. Segment VII",
        "3. Usikker",
        "\u{2013} | 2025 | 2026",
        "Segment IV | \u{2013} | 4 mm",
        "Segment VII | aksial | koronal",
        "[A picture of the report is not shown here: pil i bilde 12]",
        "This section has no text.",
    ] {
        assert!(first.contains(part), "{part}\n{first}");
    }
    assert!(!text.contains("metastaser"), "deleted text is not printed");
    assert!(text.contains("Text that the author marked as deleted is not shown."));
}
