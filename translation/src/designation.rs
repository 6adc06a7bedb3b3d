//! The words for a code in a reader's language: the loaded release; else her national name by the reverse map; else our
//! own phrase "modality region side", flagged, never called a name of LOINC or SNOMED CT; then the next language.

use crate::relationship::Relationship;
use crate::snapshot::{Concept, Name, Snapshot};

/// Where a designation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A loaded release or a map's display.
    Release,
    /// The national name of an equivalent national code.
    National,
    /// Our own phrase.
    Phrase,
}

/// A designation with the language it really is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Designation {
    /// Text.
    pub text: String,
    /// BCP 47 tag.
    pub language: String,
    /// Not what was asked for first: another language, or our own phrase.
    pub fallback: bool,
    /// Source.
    pub origin: Origin,
    /// There were several and none was preferred.
    pub several: bool,
}

/// The primary subtag; Norwegian without a form, and Nynorsk, read Bokmål.
fn primary(tag: &str) -> String {
    let first = tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    if matches!(first.as_str(), "no" | "nn") { "nb".into() } else { first }
}

/// The best designation in the first of the languages that has one.
pub fn choose(snapshot: &Snapshot, concept: Concept, languages: &[String]) -> Option<Designation> {
    let first = languages.first().map(|l| primary(l)).unwrap_or_default();
    for language in languages {
        let wanted = primary(language);
        let found = release(snapshot, concept, language)
            .or_else(|| national(snapshot, concept, language))
            .or_else(|| phrase(snapshot, concept, &wanted));
        if let Some(mut found) = found {
            found.fallback |= wanted != first;
            return Some(found);
        }
    }
    None
}

fn language_of<'a>(snapshot: &'a Snapshot, concept: Concept, name: &Name<'a>) -> &'a str {
    if name.language.is_empty() { snapshot.system_language(snapshot.system_of(concept)) } else { name.language }
}

/// Names in the asked dialect before others of the language; `x-refset` picks a language reference set.
fn release(snapshot: &Snapshot, concept: Concept, asked: &str) -> Option<Designation> {
    let (tag, refset) = asked.split_once("-x-").unwrap_or((asked, ""));
    let refset = refset.trim_start_matches("sctlang-").replace('-', "");
    let wanted = primary(tag);
    let mut best: Option<(u32, Name<'_>, &str)> = None;
    let mut same = 0;
    for name in snapshot.names(concept) {
        let language = language_of(snapshot, concept, &name);
        if primary(language) != wanted || (!refset.is_empty() && name.refset != refset) {
            continue;
        }
        let dialect = u32::from(!language.eq_ignore_ascii_case(tag));
        let rank = u32::from(!name.preferred) * 10 + name.usage * 2 + dialect;
        match &best {
            Some((known, _, _)) if *known < rank => {}
            Some((known, of, _)) if *known == rank => same += usize::from(of.text != name.text),
            _ => {
                best = Some((rank, name, language));
                same = 0;
            }
        }
    }
    let (_, name, language) = best?;
    Some(Designation {
        text: name.text.to_owned(),
        language: language.to_owned(),
        fallback: false,
        origin: Origin::Release,
        several: same > 0 && !name.preferred,
    })
}

fn national(snapshot: &Snapshot, concept: Concept, asked: &str) -> Option<Designation> {
    let exact =
        |r: &crate::snapshot::Row| r.word.relationship() == Relationship::Equivalent && snapshot.is_current(r.map);
    for row in snapshot.rows_to(concept).filter(exact) {
        if let Some(found) = release(snapshot, row.source, asked) {
            return Some(Designation { origin: Origin::National, ..found });
        }
    }
    None
}

fn phrase(snapshot: &Snapshot, concept: Concept, language: &str) -> Option<Designation> {
    let facets = snapshot.facets(concept)?;
    let words: Vec<&str> =
        facets.iter().filter(|f| !f.is_empty()).filter_map(|f| snapshot.phrase(f, language)).collect();
    if words.len() < 2 || words.len() != facets.iter().filter(|f| !f.is_empty()).count() {
        return None;
    }
    Some(Designation {
        text: words.join(" "),
        language: language.to_owned(),
        fallback: true,
        origin: Origin::Phrase,
        several: false,
    })
}
