//! Test plans: steps that send, what they expect, and what later steps take over from them.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;

use ncp_tests::pki::Error;
use ncp_xml::Element;

use super::table::Verdict;

/// Names of the definitions that begin so, in order.
pub(crate) fn tests(prefix: &str) -> Result<Vec<String>, Error> {
    let mut out: Vec<String> = std::fs::read_dir(super::testkit())?
        .filter_map(|e| e.ok().map(|e| e.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with(prefix))
        .collect();
    out.sort();
    Ok(out)
}

/// Sections of a definition: those that send first.
pub(crate) fn sections(folder: &Path) -> Result<Vec<String>, Error> {
    let mut out: Vec<String> = std::fs::read_dir(folder)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|path| path.join("testplan.xml").is_file())
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    out.sort_by_key(|name| (name.starts_with("Validate"), name.clone()));
    Ok(out)
}

/// The first element of that local name at or below.
pub(crate) fn find<'a>(element: &'a Element, local: &str) -> Option<&'a Element> {
    all(element, local).first().copied()
}

/// All elements of that local name at or below, in document order.
pub(crate) fn all<'a>(element: &'a Element, local: &str) -> Vec<&'a Element> {
    let mut out = Vec::new();
    if element.local() == local {
        out.push(element);
    }
    for child in element.elements() {
        out.extend(all(child, local));
    }
    out
}

/// Which transaction a step sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sends {
    /// A stored query.
    Query,
    /// A retrieve.
    Retrieve,
}

/// What came back of a step.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// `Success`, `PartialSuccess`, `Failure` or `Fault`.
    pub(crate) status: String,
    /// Codes of the error list; of a fault its subcode.
    pub(crate) codes: Vec<String>,
    /// The body.
    pub(crate) body: Option<Element>,
    /// uniqueId, media type and bytes of the documents.
    pub(crate) documents: Vec<(String, String, Vec<u8>)>,
}

/// Who sends a step's message to the gateway under test.
pub(crate) trait Sender {
    /// Sends a body.
    fn send(&self, sends: Sends, body: Element) -> impl Future<Output = Result<Outcome, Error>> + Send;
}

/// Values that steps take over: of data that was loaded, and of earlier steps.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// By (test, section, step, report).
    reports: BTreeMap<(String, String, String, String), String>,
    /// By (test/section, kind, object).
    ids: BTreeMap<(String, String, String), String>,
    /// Bytes of loaded documents by uniqueId.
    pub(crate) documents: BTreeMap<String, Vec<u8>>,
    /// What every `$testdata_home$` is that nobody reported.
    pub(crate) home: String,
}

impl Values {
    /// For tests of one community.
    pub(crate) fn of(home: &str) -> Self {
        Self { home: format!("urn:oid:{home}"), ..Self::default() }
    }

    /// A report of a step that is not run here.
    pub(crate) fn report(&mut self, at: (&str, &str, &str), name: &str, value: &str) {
        let (test, section, step) = at;
        self.reports.insert((test.into(), section.into(), step.into(), name.into()), value.into());
    }

    /// An identifier that loading assigned.
    pub(crate) fn id(&mut self, at: &str, kind: &str, object: &str, value: &str) {
        self.ids.insert((at.into(), kind.into(), object.into()), value.into());
    }
}

/// Runs a section: each step's verdict.
pub(crate) async fn run<S: Sender>(
    test: &str,
    section: &str,
    sender: &S,
    values: &mut Values,
) -> Result<Vec<(String, Verdict)>, Error> {
    let folder = super::testkit().join(test).join(section);
    let plan = super::read(&folder.join("testplan.xml"))?;
    let mut out = Vec::new();
    for step in plan.elements().filter(|e| e.local() == "TestStep") {
        let id = step.get("id").unwrap_or_default().to_owned();
        let verdict = one((test, section, &id), &folder, step, sender, values).await?;
        out.push((id, verdict));
    }
    Ok(out)
}

async fn one<S: Sender>(
    at: (&str, &str, &str),
    folder: &Path,
    step: &Element,
    sender: &S,
    values: &mut Values,
) -> Result<Verdict, Error> {
    let Some(transaction) = step.elements().find(|e| e.local().ends_with("Transaction")) else {
        return Ok(Verdict::Passed);
    };
    let names = substitutions(at, transaction, values)?;
    let sends = match transaction.local() {
        "XCQTransaction" | "IGQTransaction" => Sends::Query,
        "XCRTransaction" | "IGRTransaction" => Sends::Retrieve,
        _ => return judge(transaction, &Element::new("", "None"), &names),
    };
    let file = find(transaction, "MetadataFile").map(Element::trimmed).ok_or("no MetadataFile")?;
    let text = std::fs::read_to_string(folder.join(&file)).map_err(|e| format!("{file}: {e}"))?;
    let body = Element::parse(replaced(text.trim(), &names).as_bytes(), &ncp_xml::Limits::ANSWER)
        .map_err(|e| format!("{file}: {e}"))?;
    let outcome = sender.send(sends, body.clone()).await?;

    let expected = find(step, "ExpectedStatus").map(Element::trimmed).unwrap_or_default();
    if outcome.status != expected {
        return Ok(Verdict::Failed(format!("status {}, expected {expected}", outcome.status)));
    }
    // A fault has no error list; the code that some XUA definitions name beside it belongs to the test they were made of.
    if let Some(code) = find(step, "ExpectedErrorCode").map(Element::trimmed).filter(|_| expected != "Fault")
        && !outcome.codes.contains(&code)
    {
        return Ok(Verdict::Failed(format!("codes {}, expected {code}", outcome.codes.join(", "))));
    }
    if let Verdict::Failed(what) = documents(folder, transaction, &outcome, &names, values) {
        return Ok(Verdict::Failed(what));
    }
    let Some(result) = outcome.body else { return Ok(Verdict::Passed) };
    let container = |name: &str, inner: Element| {
        Element::new("", "TestResults")
            .with(Element::new("", transaction.local()).attr("step", at.2).with(Element::new("", name).with(inner)))
    };
    let results = container("Result", result);
    for report in all(transaction, "Report") {
        let name = report.get("name").unwrap_or_default();
        let source = if report.get("section") == Some("InputMetadata") {
            container("InputMetadata", body.clone())
        } else {
            results.clone()
        };
        let value = xpath(&source, &format!("string({})", report.trimmed()))?;
        values.report((at.0, at.1, at.2), name, &value);
    }
    judge(transaction, &results, &names)
}

/// What UseId and UseReport put in the place of their symbols.
fn substitutions(
    at: (&str, &str, &str),
    transaction: &Element,
    values: &Values,
) -> Result<Vec<(String, String)>, Error> {
    let mut out = Vec::new();
    for used in all(transaction, "UseId") {
        let get = |name: &str| used.get(name).unwrap_or_default().to_owned();
        let folder = get("testdir").trim_start_matches("../").to_owned();
        let value = values.ids.get(&(folder.clone(), get("section"), get("id")));
        out.push((get("symbol"), value.ok_or_else(|| format!("no {} of {folder}", get("section")))?.clone()));
    }
    for used in all(transaction, "UseReport") {
        let get = |name: &str| used.get(name).unwrap_or_default().to_owned();
        let section = if get("section") == "THIS" { at.1.to_owned() } else { get("section") };
        let test = if get("test").is_empty() { at.0.to_owned() } else { get("test") };
        let key = (test, section, get("step"), get("reportName"));
        let known = values.reports.get(&key).cloned();
        let value = known.or_else(|| (key.3 == "$testdata_home$").then(|| values.home.clone()));
        out.push((get("useAs"), value.ok_or_else(|| format!("no report {key:?}"))?));
    }
    // Some variants leave out where their symbols come from; they mean the first document of 12318.
    for (symbol, (test, section, step, report)) in [
        ("$repositoryuid$", ("12318", "query", "query", "repuid")),
        ("$docuid$", ("12318", "init", "init", "Document01_uid")),
    ] {
        let key = (test.to_owned(), section.to_owned(), step.to_owned(), report.to_owned());
        let value = values.reports.get(&key).filter(|_| out.iter().all(|(name, _)| name != symbol));
        out.extend(value.map(|value| (symbol.to_owned(), value.clone())));
    }
    // Longer names first: one may begin another.
    out.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    Ok(out)
}

fn replaced(text: &str, names: &[(String, String)]) -> String {
    let escape = |value: &str| value.replace('&', "&amp;").replace('<', "&lt;");
    names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name.as_str(), &escape(value)))
}

/// Media type and bytes of the documents that came.
fn documents(
    folder: &Path,
    transaction: &Element,
    outcome: &Outcome,
    names: &[(String, String)],
    values: &Values,
) -> Verdict {
    let Some(expected) = find(transaction, "ExpectedMimeType").map(Element::trimmed) else { return Verdict::Passed };
    for reference in all(transaction, "ReferenceDocument") {
        let uid = names.iter().fold(reference.get("uid").unwrap_or_default().to_owned(), |uid, (name, value)| {
            uid.replace(name.as_str(), value)
        });
        let Some((_, media_type, bytes)) = outcome.documents.iter().find(|(id, _, _)| *id == uid) else {
            return Verdict::Failed("a document did not come".into());
        };
        if values.documents.get(&uid).is_some_and(|loaded| loaded != bytes) {
            return Verdict::Failed("bytes are not those that were loaded".into());
        }
        let file: PathBuf = folder.join(reference.trimmed());
        if std::fs::read(&file).is_ok_and(|published| published != *bytes) {
            return Verdict::Failed(format!("bytes are not those of {}", reference.trimmed()));
        }
        if *media_type != expected {
            return Verdict::Failed(format!("mimeType {media_type}, expected {expected}"));
        }
    }
    Verdict::Passed
}

/// The XPath assertions of a step.
fn judge(transaction: &Element, results: &Element, names: &[(String, String)]) -> Result<Verdict, Error> {
    for assertion in all(transaction, "Assert") {
        let text = names.iter().fold(assertion.trimmed(), |text, (name, value)| text.replace(name.as_str(), value));
        if text.is_empty() {
            continue;
        }
        if xpath(results, &format!("boolean({text})"))? != "true" {
            return Ok(Verdict::Failed(format!("assertion {}", assertion.get("id").unwrap_or("without id"))));
        }
    }
    Ok(Verdict::Passed)
}

/// Evaluates an expression by libxml2.
fn xpath(document: &Element, expression: &str) -> Result<String, Error> {
    let file = std::env::temp_dir().join(format!("ncp-nist-{}.xml", uuid::Uuid::new_v4()));
    std::fs::write(&file, document.to_xml())?;
    let run = Command::new("xmllint").args(["--nonet", "--xpath", expression]).arg(&file).output();
    std::fs::remove_file(&file)?;
    let out = run.map_err(|e| format!("xmllint: {e}; install libxml2-utils"))?;
    if !out.status.success() {
        return Err(format!("{expression}: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
