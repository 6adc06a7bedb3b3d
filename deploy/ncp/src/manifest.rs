//! `ncp manifest`: what an imaging manifest says, whether images fit it, and the same in another form.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ncp_ihe::imaging::{Difference, Field, ImageFacts, IssuedId, Issuer};
use ncp_ihe::{Coded, MadoCodes, Manifest, ManifestForm};
use serde_json::{Value, json};

use crate::Error;

/// Images that are compared at once.
const MOST_IMAGES: usize = 200_000;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prints what a manifest says, and what is odd about it.
    ///
    /// Reads the KOS of XDS-I.b, of Xt-EHR V7e and of MADO, and MADO's FHIR document (R4 or R5); which it is, is found
    /// out. Warnings go to standard error. With --images, the folder's DICOM files are compared with the manifest: what
    /// is listed and not there, there and not listed, and what differs; then the command fails if anything does.
    ///
    /// Examples:
    ///   ncp manifest show manifest.dcm
    ///   ncp manifest show manifest.dcm --images study/
    ///   ncp manifest show bundle.json --json | jq .series
    #[command(verbatim_doc_comment)]
    Show {
        /// The manifest; - for standard input.
        file: PathBuf,
        /// Folder of the study's DICOM files, searched to the bottom.
        #[arg(long)]
        images: Option<PathBuf>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes a manifest in another form, and tells on standard error what that form cannot say.
    ///
    /// The same manifest gives the same bytes. The loss report is found by reading back what was written; UIDs of
    /// study, series and instances are never lost.
    ///
    /// Examples:
    ///   ncp manifest convert manifest.dcm --to mado-fhir -o manifest.json
    ///   ncp manifest convert manifest.json --to xds-i > manifest.dcm
    #[command(verbatim_doc_comment)]
    Convert {
        /// The manifest; - for standard input.
        file: PathBuf,
        /// xds-i: KOS, evidence only. xt-ehr: KOS, descriptions in the evidence (V7e). mado: KOS, descriptions as SR
        /// content. mado-fhir: FHIR R4 document.
        #[arg(long)]
        to: ManifestForm,
        /// MADO's codes while DICOM CP-2595 is open: those of the trial implementation text, or the final-looking ones
        /// of its mapping page. Both are read.
        #[arg(long, value_enum, default_value = "final")]
        codes: Codes,
        /// Where it is written; default standard output.
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Codes {
    Temporary,
    Final,
}

pub(crate) fn run(command: Command) -> Result<bool, Error> {
    match command {
        Command::Show { file, images, json } => show(&file, images.as_deref(), json),
        Command::Convert { file, to, codes, out } => {
            let codes = match codes {
                Codes::Temporary => MadoCodes::Temporary,
                Codes::Final => MadoCodes::Final,
            };
            convert(&file, to, codes, out.as_deref()).map(|()| true)
        }
    }
}

fn read(file: &Path) -> Result<(Manifest, ManifestForm), Error> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::copy(&mut std::io::stdin().lock(), &mut bytes)?;
    } else {
        bytes = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let (manifest, form) = Manifest::read(&bytes).map_err(|e| format!("{}: {e}", file.display()))?;
    for warning in &manifest.warnings {
        eprintln!("warning: {warning}");
    }
    Ok((manifest, form))
}

fn show(file: &Path, images: Option<&Path>, as_json: bool) -> Result<bool, Error> {
    let (manifest, form) = read(file)?;
    let disagreements = match images {
        Some(folder) => manifest.compare_images(&facts(folder)?),
        None => Vec::new(),
    };
    let mut out = std::io::stdout().lock();
    if as_json {
        let mut value = to_json(&manifest, form);
        if images.is_some() {
            value["disagreements"] = disagreements
                .iter()
                .map(|d| {
                    json!({ "what": d.field.as_str(), "manifest": d.manifest, "images": d.images,
                    "instances": d.instances.iter().map(|i| i.as_str()).collect::<Vec<_>>() })
                })
                .collect();
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(disagreements.is_empty());
    }
    print(&mut out, &manifest, form)?;
    for d in &disagreements {
        let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        writeln!(out, "disagreement: {d}; manifest: {}, images: {}", said(&d.manifest), said(&d.images))?;
    }
    if images.is_some() && disagreements.is_empty() {
        writeln!(out, "images and manifest agree")?;
    }
    Ok(disagreements.is_empty())
}

fn convert(file: &Path, to: ManifestForm, codes: MadoCodes, out: Option<&Path>) -> Result<(), Error> {
    let (manifest, _) = read(file)?;
    let converted = manifest.convert(to, codes)?;
    match out {
        Some(path) => std::fs::write(path, &converted.bytes).map_err(|e| format!("{}: {e}", path.display()))?,
        None => std::io::stdout().lock().write_all(&converted.bytes)?,
    }
    for line in losses(&converted.losses) {
        eprintln!("{line}");
    }
    Ok(())
}

/// One line a field: what is lost in every instance is told once.
fn losses(losses: &[Difference]) -> Vec<String> {
    let mut by_field: BTreeMap<Field, Vec<&Difference>> = BTreeMap::new();
    for loss in losses {
        by_field.entry(loss.field).or_default().push(loss);
    }
    let line = |(field, all): (Field, Vec<&Difference>)| match all.as_slice() {
        [one] => format!("loss: {one}"),
        all => {
            let of_instances = all.iter().any(|d| d.place.instance.is_some());
            let what = if of_instances { "instances" } else { "series" };
            format!("loss: {} in {} {what}", field.as_str(), all.len())
        }
    };
    by_field.into_iter().map(line).collect()
}

/// What the DICOM files of a folder say of themselves; each other file is passed over with its reason.
fn facts(folder: &Path) -> Result<Vec<ImageFacts>, Error> {
    let mut out = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        match ImageFacts::read(File::open(entry.path())?) {
            Ok(found) => out.extend(found),
            Err(reason) => eprintln!("warning: {}: left out: {reason}", entry.path().display()),
        }
        if out.len() > MOST_IMAGES {
            return Err(format!("{}: more than {MOST_IMAGES} images", folder.display()).into());
        }
    }
    Ok(out)
}

fn print(out: &mut impl Write, manifest: &Manifest, form: ManifestForm) -> std::io::Result<()> {
    let mut line = |name: &str, value: Option<String>| match value {
        Some(value) if !value.is_empty() => writeln!(out, "{name:<12} {value}"),
        _ => Ok(()),
    };
    line("form", Some(form.as_str().into()))?;
    line("title", manifest.title.as_ref().map(coded))?;
    line("document", Some(manifest.sop_instance.to_string()))?;
    line("created", manifest.created.clone())?;
    let creator = &manifest.creator;
    let institution = creator.institution.as_ref().map(|i| i.name.as_str());
    let made_by = [institution, creator.manufacturer.as_deref(), creator.model.as_deref()];
    line("made by", Some(made_by.into_iter().flatten().collect::<Vec<_>>().join(", ")))?;
    line("patient", manifest.patient.name.clone())?;
    for id in &manifest.patient.ids {
        line("patient id", Some(issued(id)))?;
    }
    line("born", manifest.patient.birth_date.clone())?;
    line("sex", manifest.patient.sex.clone())?;
    line("study", Some(manifest.study.to_string()))?;
    line("description", manifest.description.clone())?;
    let when = [&manifest.study_date, &manifest.study_time, &manifest.timezone];
    line("started", Some(when.into_iter().flatten().cloned().collect::<Vec<_>>().join(" ")))?;
    for request in &manifest.requests {
        line("accession", request.accession.as_ref().map(issued))?;
        line("placer", request.placer.as_ref().map(issued))?;
    }
    manifest.regions.iter().try_for_each(|r| line("region", Some(coded(r))))?;
    manifest.procedures.iter().try_for_each(|p| line("procedure", Some(coded(p))))?;
    line("viewer", manifest.viewer.clone())?;
    line("images", Some(format!("{} in {} series", manifest.instance_count(), manifest.series.len())))?;
    for series in &manifest.series {
        let number = series.number.map(|n| n.to_string()).unwrap_or_else(|| "-".into());
        let modality = series.modality.as_deref().unwrap_or("-");
        let words = series.description.as_deref().unwrap_or_default();
        let count = series.instances.len();
        let of = series.total.filter(|n| *n as usize != count).map(|n| format!(" of {n}")).unwrap_or_default();
        writeln!(out, "series {number:>4}  {modality:<4} {count:>5}{of} instances  {words}")?;
        writeln!(out, "  uid        {}", series.series)?;
        let told = [
            ("location", series.location.as_ref().map(ToString::to_string)),
            ("url", series.retrieve_url.clone()),
            ("ae title", series.ae_title.clone()),
            ("region", series.region.as_ref().map(coded)),
        ];
        for (name, value) in told {
            if let Some(value) = value {
                writeln!(out, "  {name:<10} {value}")?;
            }
        }
        for note in series.instances.iter().filter(|i| i.key_title.is_some() || i.key_description.is_some()) {
            let title = note.key_title.as_ref().map(coded).unwrap_or_default();
            writeln!(out, "  note       {title} {}", note.key_description.as_deref().unwrap_or_default())?;
        }
    }
    Ok(())
}

fn coded(code: &Coded) -> String {
    match (&code.display, code.code.is_empty()) {
        (Some(words), true) => words.clone(),
        (Some(words), false) => format!("{words} ({}, {})", code.code, code.system),
        (None, _) => format!("({}, {})", code.code, code.system),
    }
}

fn issued(id: &IssuedId) -> String {
    match (&id.issuer, &id.label) {
        (Some(Issuer::Oid(oid)), _) => format!("{} of {oid}", id.id),
        (Some(Issuer::Uri(uri)), _) => format!("{} of {uri}", id.id),
        (None, Some(label)) => format!("{} of {label}", id.id),
        (None, None) => id.id.clone(),
    }
}

fn to_json(manifest: &Manifest, form: ManifestForm) -> Value {
    let code = |c: &Coded| json!({ "code": c.code, "system": c.system, "display": c.display });
    let series: Vec<Value> = manifest
        .series
        .iter()
        .map(|s| {
            let instances: Vec<Value> = s
                .instances
                .iter()
                .map(|i| json!({ "uid": i.sop_instance.as_str(), "class": i.sop_class.as_str(), "number": i.number,
                    "frames": i.frames, "key_title": i.key_title.as_ref().map(code), "key_description": i.key_description }))
                .collect();
            json!({ "uid": s.series.as_str(), "modality": s.modality, "number": s.number, "description": s.description,
                "date": s.date, "time": s.time, "region": s.region.as_ref().map(code), "total": s.total,
                "location": s.location.as_ref().map(ToString::to_string), "retrieve_url": s.retrieve_url,
                "ae_title": s.ae_title, "instances": instances })
        })
        .collect();
    let requests: Vec<Value> = manifest
        .requests
        .iter()
        .map(|r| json!({ "accession": r.accession.as_ref().map(issued), "placer": r.placer.as_ref().map(issued) }))
        .collect();
    json!({
        "form": form.as_str(),
        "document": manifest.sop_instance.as_str(),
        "title": manifest.title.as_ref().map(code),
        "created": manifest.created,
        "patient": {
            "ids": manifest.patient.ids.iter().map(issued).collect::<Vec<_>>(), "name": manifest.patient.name,
            "birth_date": manifest.patient.birth_date, "sex": manifest.patient.sex,
        },
        "study": manifest.study.as_str(),
        "description": manifest.description,
        "study_date": manifest.study_date,
        "study_time": manifest.study_time,
        "timezone": manifest.timezone,
        "requests": requests,
        "regions": manifest.regions.iter().map(code).collect::<Vec<_>>(),
        "procedures": manifest.procedures.iter().map(code).collect::<Vec<_>>(),
        "viewer": manifest.viewer,
        "series": series,
        "warnings": manifest.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
    }

    #[test]
    fn a_manifest_is_shown_converted_and_compared() {
        let folder = tempfile::tempdir().expect("a folder");
        let (kos, fhir) = (fixture("dicom/study-b/MADO_KOS_B.dcm"), folder.path().join("b.json"));
        convert(&kos, ManifestForm::MadoFhir, MadoCodes::Final, Some(&fhir)).expect("converts");
        let (manifest, form) = read(&fhir).expect("reads");
        assert_eq!((form, manifest.instance_count()), (ManifestForm::MadoFhir, 21));
        let mut text = Vec::new();
        print(&mut text, &manifest, form).expect("prints");
        let text = String::from_utf8(text).expect("UTF-8");
        for part in ["Series B1", "1.3.6.1.4.1.19376.1.1.202.1", "Of Interest", "8529258169397744", "21 in 2 series"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // The published manifest names another study date than the images; a folder that agrees succeeds.
        assert!(!show(&kos, Some(&fixture("dicom/study-b")), true).expect("shows"));
        assert!(read(&fixture("dicom/study-b/Series_B_1/I0.dcm")).is_err());
    }

    #[test]
    fn what_is_lost_everywhere_is_told_once() {
        let (manifest, _) = read(&fixture("dicom/study-b/MADO_KOS_B.dcm")).expect("reads");
        let lost = manifest.convert(ManifestForm::XdsI, MadoCodes::Final).expect("converts").losses;
        let lines = losses(&lost);
        assert!(lines.contains(&"loss: instance number in 20 instances".to_owned()), "{lines:?}");
        assert!(lines.contains(&"loss: viewer address lost".to_owned()), "{lines:?}");
        assert!(lines.len() < 15);
    }
}
