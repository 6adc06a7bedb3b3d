//! What a kind of document asks of its coded elements: which must arrive, which take an exact target only, which stay as
//! they are. A list in TOML, so that another kind of document needs no other program:
//!
//! ```toml
//! others = "keep"                 # elements that are not listed; "translate" by default
//! [[element]]
//! path = "**/observation/value"   # element names from the root; ** any number, * one; without / at the beginning: the end
//! required = true                 # without a target the task says what happens
//! exact = true                    # no wider target
//! [[element]]
//! path = "/ClinicalDocument/recordTarget/**"
//! keep = true                     # never translated
//! ```
//! The first that fits counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

/// Rules of one profile at most, and steps of one path.
const MOST: usize = 256;

/// A list of coded elements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    #[serde(default)]
    others: Others,
    #[serde(default, rename = "element")]
    elements: Vec<Rule>,
}

/// What happens to elements that are not listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Others {
    #[default]
    Translate,
    Keep,
}

/// What is asked of one element.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    path: String,
    /// It must have a target.
    #[serde(default)]
    pub required: bool,
    /// A target must be equivalent.
    #[serde(default)]
    pub exact: bool,
    /// It stays as it is.
    #[serde(default)]
    pub keep: bool,
}

impl Profile {
    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn read(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        let wrong = |rule: &&Rule| rule.path.trim_matches(['/', '*']).is_empty() || rule.path.split('/').count() > MOST;
        if profile.elements.len() > MOST {
            return Err(format!("more than {MOST} elements"));
        }
        if let Some(rule) = profile.elements.iter().find(wrong) {
            return Err(format!("path \"{}\" names no element", rule.path));
        }
        if let Some(rule) = profile.elements.iter().find(|r| r.keep && (r.required || r.exact)) {
            return Err(format!("path \"{}\": what is kept has no target", rule.path));
        }
        Ok(profile)
    }

    /// What is asked of an element.
    pub(super) fn rule(&self, path: &str) -> Rule {
        let found = self.elements.iter().find(|rule| fits(&rule.path, path)).cloned();
        found.unwrap_or_else(|| Rule { keep: self.others == Others::Keep, ..Rule::default() })
    }
}

/// As a glob over steps; the last `**` alone is tried again, so that the time is bounded by the product of both lengths.
fn fits(pattern: &str, path: &str) -> bool {
    let end = (!pattern.starts_with('/')).then_some("**");
    let pattern: Vec<&str> = end.into_iter().chain(pattern.split('/')).collect();
    let path: Vec<&str> = path.split('/').collect();
    let (mut p, mut at, mut again) = (0, 0, None);
    while at < path.len() {
        match pattern.get(p) {
            Some(&"**") => {
                again = Some((p, at));
                p += 1;
            }
            Some(step) if *step == "*" || *step == path[at] => {
                p += 1;
                at += 1;
            }
            _ => match again {
                Some((star, from)) => {
                    again = Some((star, from + 1));
                    p = star + 1;
                    at = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|step| *step == "**")
}

/// The profiles of a service, by name.
#[derive(Debug, Clone)]
pub struct Profiles(Arc<BTreeMap<String, Arc<Profile>>>);

impl Default for Profiles {
    /// Those that come with the program.
    fn default() -> Self {
        let imaging = Profile::read(include_str!("../../profiles/imaging-report.toml")).unwrap_or_default();
        Self(Arc::new(BTreeMap::from([("imaging-report".to_owned(), Arc::new(imaging))])))
    }
}

impl Profiles {
    /// Those and the `*.toml` of a folder, each named as its file; one of a name that is known takes its place.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(folder: &Path) -> Result<Self, Vec<String>> {
        let mut all = (*Self::default().0).clone();
        let mut problems = Vec::new();
        let entries = std::fs::read_dir(folder).map_err(|e| vec![format!("{}: {e}", folder.display())])?;
        for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")) {
            let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let read = std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| Profile::read(&text));
            match read {
                Ok(profile) => drop(all.insert(name, Arc::new(profile))),
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        if problems.is_empty() { Ok(Self(Arc::new(all))) } else { Err(problems) }
    }

    /// A profile; an empty name is one that asks for nothing.
    pub fn get(&self, name: &str) -> Option<Arc<Profile>> {
        if name.is_empty() { Some(Arc::default()) } else { self.0.get(name).cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_any_number_of_steps() {
        for (pattern, path, expected) in [
            ("/ClinicalDocument/code", "/ClinicalDocument/code", true),
            ("/ClinicalDocument/code", "/ClinicalDocument/component/code", false),
            ("/ClinicalDocument/**/code", "/ClinicalDocument/code", true),
            ("/ClinicalDocument/**/code", "/ClinicalDocument/a/code/b/code", true),
            ("/ClinicalDocument/*/code", "/ClinicalDocument/a/b/code", false),
            ("/ClinicalDocument/recordTarget/**", "/ClinicalDocument/recordTarget/a/b", true),
            ("/ClinicalDocument/recordTarget/**", "/ClinicalDocument/author/a", false),
            ("observation/value", "/ClinicalDocument/entry/observation/value", true),
            ("observation/value", "/ClinicalDocument/observation/value/qualifier", false),
            ("Composition.type", "Composition.type", true),
            ("**/a/**/b/**", "/a/x/b/y", true),
            ("**/a/**/b", "/a/a/a/a/a/a", false),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_shipped_one_is_read_and_wrong_ones_are_told() {
        let shipped = Profiles::default().get("imaging-report").expect("is there");
        assert!(
            shipped.rule("/ClinicalDocument/code").required && !shipped.rule("/ClinicalDocument/section/code").required
        );
        assert!(Profiles::default().get("nothing").is_none());
        for (text, why) in [
            ("x = 1", "unknown field"),
            ("[[element]]\npath = \"/**\"", "names no element"),
            ("[[element]]\npath = \"a\"\nkeep = true\nrequired = true", "has no target"),
            ("others = \"drop\"", "unknown variant"),
        ] {
            let error = Profile::read(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
        let folder = crate::load::tests::folder(&[("summary.toml", "others = \"keep\""), ("bad.toml", "x = 1")]);
        let problems = Profiles::load(folder.path()).expect_err("one is wrong");
        assert!(problems.len() == 1 && problems[0].contains("bad.toml"), "{problems:?}");
        std::fs::remove_file(folder.path().join("bad.toml")).expect("goes");
        let loaded = Profiles::load(folder.path()).expect("loads");
        assert!(loaded.get("summary").is_some_and(|p| p.rule("/x").keep) && loaded.get("imaging-report").is_some());
    }
}
