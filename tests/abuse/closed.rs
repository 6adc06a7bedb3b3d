//! One verdict over all paths: whatever closes a study, closes its manifest and its images however they are asked for.
//! The table "closed by × path" is printed and written beside the other reports.

use std::fmt::Write as _;

use ncp_tests::archive::Archive;
use ncp_tests::ports::free;
use ncp_tests::synth::Study;

use crate::treating::{Known, Treating};
use crate::world::{Gateway, HOME, REPOSITORY, World};

mod closings;
mod paths;
mod sources;

use closings::{Closing, Files, Who, closings};
use paths::{Cell, Target, Verdict};
use sources::Sources;

/// Where the images of the DICOMweb archive are.
const ARCHIVE: &str = "2.999.47.21.2";

/// The study that is closed; the report `rg.toml` of the demonstration names it.
fn study() -> Study {
    crate::world::study(2, 2)
}

/// Norway's gateway on a port that stays, with its policies in the world and further sections of its configuration.
async fn start(world: &World, port: u16, sections: &str) -> Gateway {
    world
        .start("closed", |text| {
            let mut out = String::new();
            for line in text.lines() {
                match line.starts_with("folder = ") && line.ends_with("policies/no\"") {
                    true => out.push_str("folder = \"policies\""),
                    false => out.push_str(line),
                }
                out.push('\n');
            }
            out.replacen("peers = \"127.0.0.1:0\"", &format!("peers = \"127.0.0.1:{port}\""), 1)
                .replacen("[[peer]]", &format!("{sections}[[peer]]"), 1)
                .replace("country = \"FI\"\nname", "country = \"FI\"\norcd = true\nname")
        })
        .await
}

/// One line of a table.
struct Line<'a> {
    closing: &'a Closing,
    cells: Vec<Cell>,
}

/// The table of one side, with what is wrong in it.
fn table(title: &str, lines: &[Line<'_>]) -> (String, Vec<String>) {
    let mut text = format!("## {title}\n\n| closed by |");
    let paths = &lines[0].cells;
    for cell in paths {
        let _ = write!(text, " {} |", cell.path);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(paths.len()));
    let mut wrong = Vec::new();
    for Line { closing, cells } in lines {
        let _ = write!(text, "| {} |", closing.name);
        for cell in cells {
            let (shown, right) = match cell.verdict {
                // This program draws no pictures.
                Verdict::Open if closing.opens => ("open", true),
                _ if closing.opens => ("closed", cell.path == "OrCD"),
                Verdict::Closed => ("closed", true),
                Verdict::Refused if closing.may_be_told(cell.of_images) => ("closed (told)", true),
                Verdict::None if closing.who == Who::Kin => ("—", true),
                Verdict::None => ("—", false),
                Verdict::Refused => ("refused", false),
                Verdict::Open => ("open", false),
            };
            let _ = write!(text, " {shown} |");
            if !right {
                wrong.push(format!("{title}: {}: {}: {shown}", closing.name, cell.path));
            }
        }
        text.push('\n');
    }
    text.push('\n');
    (text, wrong)
}

/// The study lies in a folder of NCP-A. It is asked for at NCP-A as another country does, and at NCP-B on its national and on
/// its clinicians' side. NCP-B starts anew for each row, so that it has kept nothing from before.
#[tokio::test(flavor = "multi_thread")]
async fn se_02_closed_as_manifest_is_closed_as_images() {
    let (world, port) = (World::new(), free().port());
    study().write(&world.path("data/dicom/2")).expect("a study");
    let files = Files::of(&world);
    let open = Closing::nothing();
    files.write(&world, &open);
    let gateway = start(&world, port, "").await;
    let manifest = paths::manifest(&world, &world.neighbour("fi", &gateway)).await;
    gateway.stop().await;
    std::fs::write(world.path("data/registry.toml"), paths::registry(&manifest.unique_id)).expect("writes");
    let target = Target { manifest, location: REPOSITORY };
    let (treating, sources) = (Treating::new(&world, port), Sources::of(&world).await);
    let closings = closings(&target.manifest.unique_id);
    let mut known: Option<Known> = None;
    let (mut at_a, mut at_b, mut at_clinic) = (Vec::new(), Vec::new(), Vec::new());
    for closing in std::iter::once(&open).chain(&closings) {
        let who = closing.who;
        files.write(&world, closing);
        let gateway = start(&world, port, &sources.section(&closing.source).await).await;
        let asker = treating.start(&world).await;
        let neighbour = world.neighbour("fi", &gateway);
        if known.is_none() {
            let token = paths::token(treating.issuer(), Who::Radiologist);
            known = Some(asker.learn(&token, &target.manifest.unique_id).await);
        }
        let known = known.as_ref().expect("learnt");
        at_a.push(Line { closing, cells: paths::through_a(&neighbour, who, &target).await });
        at_b.push(Line { closing, cells: paths::through_b(&asker, &neighbour, who, &target).await });
        let cells = paths::through_clinic(&asker, treating.issuer(), who, known, &target).await;
        at_clinic.push(Line { closing, cells });
        asker.gateway.stop().await;
        gateway.stop().await;
    }
    let tables = [
        table("NCP-A: ITI-38, ITI-39, RAD-75", &at_a),
        table("NCP-B, national consumers: ITI-18, ITI-43, RAD-69", &at_b),
        table("NCP-B, clinicians: FHIR and DICOMweb", &at_clinic),
    ];
    report("closed-by-path.md", tables);
}

/// The same study in a DICOMweb archive behind NCP-A.
#[tokio::test(flavor = "multi_thread")]
async fn se_02_closed_in_an_archive_too() {
    let (world, port) = (World::new(), free().port());
    let archive = Archive::default();
    archive.hold(&study(), world.dir.path());
    archive.dated(study().number, "20260102");
    let connectors = format!(
        "[[national.connector]]\nkind = \"dicomweb\"\nname = \"hospital\"\nurl = \"{}\"\n\
         manifest_codes = \"data/manifest.toml\"\nrepository_unique_id = \"{ARCHIVE}\"\nlocation_uids = [\"{ARCHIVE}\"]\n\
         time_zone = \"Europe/Oslo\"\nuid_root = \"{HOME}.32\"\n",
        archive.serve().await
    );
    let files = Files::of(&world);
    let open = Closing::nothing();
    files.write(&world, &open);
    let gateway = start(&world, port, &connectors).await;
    let manifest = paths::manifest(&world, &world.neighbour("fi", &gateway)).await;
    gateway.stop().await;
    std::fs::write(world.path("data/registry.toml"), paths::registry(&manifest.unique_id)).expect("writes");
    let target = Target { manifest, location: ARCHIVE };
    let (closings, sources) = (closings(&target.manifest.unique_id), Sources::of(&world).await);
    let mut lines = Vec::new();
    for closing in std::iter::once(&open).chain(&closings) {
        files.write(&world, closing);
        let sections = connectors.clone() + &sources.section(&closing.source).await;
        let gateway = start(&world, port, &sections).await;
        let neighbour = world.neighbour("fi", &gateway);
        lines.push(Line { closing, cells: paths::through_a(&neighbour, closing.who, &target).await });
        gateway.stop().await;
    }
    // What the archive writes is no date: it may be any day, of which the report tells another.
    archive.dated(study().number, "2 Jan 2026");
    let undated = closings::undated();
    for closing in std::iter::once(&open).chain(&undated) {
        files.write(&world, closing);
        let sections = connectors.clone() + &sources.section(&closing.source).await;
        let gateway = start(&world, port, &sections).await;
        let neighbour = world.neighbour("fi", &gateway);
        lines.push(Line { closing, cells: paths::through_a(&neighbour, closing.who, &target).await });
        gateway.stop().await;
    }
    let title = "NCP-A with a DICOMweb archive: ITI-38, ITI-39, RAD-75";
    report("closed-by-path-archive.md", [table(title, &lines)]);
}

/// Prints and writes the tables; nothing in them may be wrong.
fn report<const N: usize>(file: &str, tables: [(String, Vec<String>); N]) {
    let text: String = tables.iter().map(|(text, _)| text.as_str()).collect();
    let wrong: Vec<&String> = tables.iter().flat_map(|(_, wrong)| wrong).collect();
    println!("{text}");
    std::fs::write(crate::report_folder().join(file), &text).expect("writes");
    assert!(wrong.is_empty(), "{text}\n{wrong:#?}");
}
