//! Results as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What may differ from a definition, and why: suite, test, step (empty: any), reason.
pub(crate) const DEVIATIONS: &[(&str, &str, &str, &str)] = &[
    ("RIG 2016", "rig_5426", "ValidateRad75Response", UNKNOWN_SOURCE),
    ("RIG 2018", "rig_2018-5424c", "ValidateRad75Response", UNKNOWN_SOURCE),
    (
        "RG",
        "12313",
        "retrieve_two retrieve_two",
        "12318 loads summary.xml (text/xml) as Document02, and 12312 expects it; this definition still names \
         my_document2.txt (text/plain) for the same document",
    ),
    (
        "XUA",
        "12309_withauthzconsent",
        "finddocs finddocs",
        "the assertion is valid and carries its consent, so the query is answered as 12309 and 15808_withauthzconsent are, \
         with Success; ITI TF-2: 3.40.4.1.2 knows no reason to fail it, and the definition names none",
    ),
];

const UNKNOWN_SOURCE: &str = "XDSIUnknownIdsUid stands in no Technical Framework; XDSUnknownRepositoryId is sent (ITI \
                              TF-3: table 4.2.4.1-2, \"repositoryUniqueId value could not be resolved\")";

/// What of other counterparts is set aside in the tests, and why: who, what, reason.
const SET_ASIDE: &[(&str, &str, &str)] = &[(
    "IPF 5.0.0 as client, ITI-39",
    "its check that `location` of an error is a homeCommunityId and nothing else",
    "ITI TF-2: 3.39.4.1.3 asks for the document's id beside the homeCommunityId and gives no format; we write both, with \
     one space between",
)];

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As the definition says.
    Passed,
    /// Otherwise.
    Failed(String),
    /// It tests what the gateway does not declare.
    NotDeclared(&'static str),
}

#[derive(Debug, Clone)]
struct Row {
    suite: &'static str,
    test: String,
    step: String,
    verdict: Verdict,
    note: String,
}

/// All rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a step.
    pub(crate) fn add(&mut self, suite: &'static str, test: &str, step: &str, verdict: Verdict) {
        self.note(suite, test, step, verdict, "");
    }

    /// Adds a step with a remark.
    pub(crate) fn note(&mut self, suite: &'static str, test: &str, step: &str, verdict: Verdict, note: &str) {
        let (test, step, note) = (test.to_owned(), step.to_owned(), note.to_owned());
        self.0.push(Row { suite, test, step, verdict, note });
    }

    fn deviation(row: &Row) -> Option<&'static str> {
        let fits = |(suite, test, step, _): &&(&str, &str, &str, &str)| {
            *suite == row.suite && *test == row.test && (step.is_empty() || *step == row.step)
        };
        DEVIATIONS.iter().find(fits).map(|(_, _, _, reason)| *reason)
    }

    /// The file's text.
    fn render(&self) -> String {
        let mut out = String::from(
            "# Conformance\n\nWritten by the test `the_nist_definitions_hold` (`tests/wire`); refresh it with \
             `NCP_UPDATE_CONFORMANCE=1 cargo test -p ncp-tests --test wire nist`. The definitions are those of the NIST XDS \
             Toolkit (`tests/fixtures/nist/SOURCE.md`), read as published. A definition passes when each of its steps does.\n\n\
             | Suite | Definitions | Passed | of them with a listed deviation | Not declared | Failed |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        let mut suites: Vec<&str> = Vec::new();
        for row in &self.0 {
            if !suites.contains(&row.suite) {
                suites.push(row.suite);
            }
        }
        for suite in &suites {
            let mut tests: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
            for row in self.0.iter().filter(|r| r.suite == *suite) {
                tests.entry(&row.test).or_default().push(row);
            }
            let (mut passed, mut deviating, mut not_declared, mut failed) = (0, 0, 0, 0);
            for rows in tests.values() {
                let deviates = rows.iter().any(|r| Self::deviation(r).is_some());
                let fails = |r: &&Row| matches!(r.verdict, Verdict::Failed(_)) && Self::deviation(r).is_none();
                if rows.iter().any(fails) {
                    failed += 1;
                } else if rows.iter().all(|r| matches!(r.verdict, Verdict::NotDeclared(_))) {
                    not_declared += 1;
                } else {
                    passed += 1;
                    deviating += usize::from(deviates);
                }
            }
            let _ = writeln!(out, "| {suite} | {} | {passed} | {deviating} | {not_declared} | {failed} |", tests.len());
        }
        out.push_str("\n## Other counterparts\n\nWhat their checks say and the tests set aside; all else passes.\n\n");
        out.push_str("| Counterpart | Set aside | Reason |\n| --- | --- | --- |\n");
        for (who, what, reason) in SET_ASIDE {
            let _ = writeln!(out, "| {who} | {what} | {reason} |");
        }
        for suite in &suites {
            let _ = write!(out, "\n## {suite}\n\n| Test | Step | Result |\n| --- | --- | --- |\n");
            for row in self.0.iter().filter(|r| r.suite == *suite) {
                let result = match (&row.verdict, Self::deviation(row)) {
                    (Verdict::Passed, None) => "passed".to_owned(),
                    (Verdict::Passed, Some(reason)) => format!("passed (listed deviation: {reason})"),
                    (Verdict::Failed(_), Some(reason)) => format!("listed deviation: {reason}"),
                    (Verdict::Failed(what), None) => format!("**failed**: {what}"),
                    (Verdict::NotDeclared(what), _) => format!("not declared: {what}"),
                };
                let note = if row.note.is_empty() { String::new() } else { format!("; {}", row.note) };
                let _ = writeln!(out, "| {} | {} | {}{note} |", row.test, row.step, result.replace('|', "\\|"));
            }
        }
        out
    }

    /// Fails on a step that failed without a listed reason, and when the committed file says something else.
    pub(crate) fn compare_with_file(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFORMANCE.md");
        let text = self.render();
        if std::env::var_os("NCP_UPDATE_CONFORMANCE").is_some() {
            std::fs::write(&path, &text).expect("CONFORMANCE.md is written");
        }
        let failed: Vec<String> = self
            .0
            .iter()
            .filter(|r| Self::deviation(r).is_none())
            .filter_map(|r| match &r.verdict {
                Verdict::Failed(what) => Some(format!("{} {} {}: {what}", r.suite, r.test, r.step)),
                _ => None,
            })
            .collect();
        assert!(failed.is_empty(), "{failed:#?}");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "tests/CONFORMANCE.md differs from this run; set NCP_UPDATE_CONFORMANCE=1 to refresh it"
        );
    }
}
