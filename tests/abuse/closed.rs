//! One verdict over all paths: whatever closes a study, closes its manifest and its images however they are asked for.
//! The table "closed by × path" is printed and written beside the other reports.

use std::fmt::Write as _;

use ncp_tests::archive::Archive;
use ncp_tests::synth::Study;

use crate::treating::{Known, Treating};
use crate::world::{Gateway, HOME, REPOSITORY, World};

mod closings;
mod paths;

use closings::{Closing, Files, Who, closings};
use paths::{Cell, Target, Verdict};

/// Where the images of the DICOMweb archive are.
const ARCHIVE: &str = "2.999.47.21.2";

/// The study that is closed; the report `rg.toml` of the demonstration names it.
fn study() -> Study {
    crate::world::study(2, 2)
}

/// Norway's gateway on a port that stays, with its policies in the world and further connectors.
async fn start(world: &World, port: u16, connectors: &str) -> Gateway {
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
                .replacen("[[peer]]", &format!("{connectors}[[peer]]"), 1)
                .replace("country = \"FI\"\nname", "country = \"FI\"\norcd = true\nname")
        })
        .await
}

/// One line of a table.
struct Line {
    name: &'static str,
    cells: Vec<Cell>,
}

/// The table of one side, with what is wrong in it; its first line is of a world in which nothing is closed.
fn table(title: &str, lines: &[Line], closings: &[Closing]) -> (String, Vec<String>) {
    let mut text = format!("## {title}\n\n| closed by |");
    let paths = &lines[0].cells;
    for cell in paths {
        let _ = write!(text, " {} |", cell.path);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(paths.len()));
    let mut wrong = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let _ = write!(text, "| {} |", line.name);
        let closing = number.checked_sub(1).map(|at| &closings[at]);
        for cell in &line.cells {
            let told = closing.is_some_and(|closing| closing.may_be_told(cell.of_images));
            let (shown, right) = match (cell.verdict, closing) {
                // This program draws no pictures.
                (Verdict::Open, None) => ("open", true),
                (_, None) => ("closed", cell.path == "OrCD"),
                (Verdict::Closed, _) => ("closed", true),
                (Verdict::Refused, _) if told => ("closed (told)", true),
                (Verdict::None, Some(closing)) if closing.who == Who::Kin => ("—", true),
                (Verdict::None, _) => ("—", false),
                (Verdict::Refused, _) => ("refused", false),
                (Verdict::Open, _) => ("open", false),
            };
            let _ = write!(text, " {shown} |");
            if !right {
                wrong.push(format!("{title}: {}: {}: {shown}", line.name, cell.path));
            }
        }
        text.push('\n');
    }
    text.push('\n');
    (text, wrong)
}

/// A port that nobody has.
fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

/// The study lies in a folder of NCP-A. It is asked for at NCP-A as another country does, and at NCP-B on its national and on
/// its clinicians' side. NCP-B starts anew for each row, so that it has kept nothing from before.
#[tokio::test(flavor = "multi_thread")]
async fn se_02_closed_as_manifest_is_closed_as_images() {
    let (world, port) = (World::new(), free());
    study().write(&world.path("data/dicom/2")).expect("a study");
    let files = Files::of(&world);
    let open = Closing::nothing();
    files.write(&world, &open);
    let gateway = start(&world, port, "").await;
    let manifest = paths::manifest(&world, &world.neighbour("fi", &gateway)).await;
    gateway.stop().await;
    std::fs::write(world.path("data/registry.toml"), paths::registry(&manifest.unique_id)).expect("writes");
    let target = Target { manifest, location: REPOSITORY };
    let treating = Treating::new(&world, port);
    let closings = closings(&target.manifest.unique_id);
    let mut known: Option<Known> = None;
    let (mut at_a, mut at_b, mut at_clinic) = (Vec::new(), Vec::new(), Vec::new());
    for closing in std::iter::once(&open).chain(&closings) {
        let (name, who) = (closing.name, closing.who);
        files.write(&world, closing);
        let gateway = start(&world, port, "").await;
        let asker = treating.start(&world).await;
        let neighbour = world.neighbour("fi", &gateway);
        if known.is_none() {
            let token = paths::token(treating.issuer(), Who::Radiologist);
            known = Some(asker.learn(&token, &target.manifest.unique_id).await);
        }
        let known = known.as_ref().expect("learnt");
        at_a.push(Line { name, cells: paths::through_a(&neighbour, who, &target).await });
        at_b.push(Line { name, cells: paths::through_b(&asker, &neighbour, who, &target).await });
        let cells = paths::through_clinic(&asker, treating.issuer(), who, known, &target).await;
        at_clinic.push(Line { name, cells });
        asker.gateway.stop().await;
        gateway.stop().await;
    }
    let tables = [
        table("NCP-A: ITI-38, ITI-39, RAD-75", &at_a, &closings),
        table("NCP-B, national consumers: ITI-18, ITI-43, RAD-69", &at_b, &closings),
        table("NCP-B, clinicians: FHIR and DICOMweb", &at_clinic, &closings),
    ];
    report("closed-by-path.md", tables);
}

/// The same study in a DICOMweb archive behind NCP-A.
#[tokio::test(flavor = "multi_thread")]
async fn se_02_closed_in_an_archive_too() {
    let (world, port) = (World::new(), free());
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
    let closings = closings(&target.manifest.unique_id);
    let mut lines = Vec::new();
    for closing in std::iter::once(&open).chain(&closings) {
        files.write(&world, closing);
        let gateway = start(&world, port, &connectors).await;
        let neighbour = world.neighbour("fi", &gateway);
        lines.push(Line { name: closing.name, cells: paths::through_a(&neighbour, closing.who, &target).await });
        gateway.stop().await;
    }
    let title = "NCP-A with a DICOMweb archive: ITI-38, ITI-39, RAD-75";
    report("closed-by-path-archive.md", [table(title, &lines, &closings)]);
}

/// Prints and writes the tables; nothing in them may be wrong.
fn report<const N: usize>(file: &str, tables: [(String, Vec<String>); N]) {
    let text: String = tables.iter().map(|(text, _)| text.as_str()).collect();
    let wrong: Vec<&String> = tables.iter().flat_map(|(_, wrong)| wrong).collect();
    println!("{text}");
    std::fs::write(crate::report_folder().join(file), &text).expect("writes");
    assert!(wrong.is_empty(), "{text}\n{wrong:#?}");
}
