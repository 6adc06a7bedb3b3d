//! The words for a code in a reader's language: the loaded release; else her national name by the reverse map; else our
//! own phrase "modality region side", flagged, never called a name of LOINC or SNOMED CT; then the next language.

use std::borrow::Cow;

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

/// The same, as it stands in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Text.
    pub text: Cow<'a, str>,
    /// BCP 47 tag.
    pub language: Cow<'a, str>,
    /// As of [`Designation`].
    pub fallback: bool,
    /// Source.
    pub origin: Origin,
    /// As of [`Designation`].
    pub several: bool,
}

/// A language that is asked for: its tag, and a language reference set behind `-x-`.
struct Asked<'a> {
    tag: &'a str,
    refset: String,
}

impl<'a> Asked<'a> {
    fn read(asked: &'a str) -> Self {
        let private = asked.as_bytes().windows(3).position(|w| w == b"-x-");
        let (tag, refset) = private.map_or((asked, ""), |at| (&asked[..at], &asked[at + 3..]));
        Self { tag, refset: refset.trim_start_matches("sctlang-").replace('-', "") }
    }
}

/// The primary subtag; Norwegian without a form, and Nynorsk, read Bokmål.
fn primary(tag: &str) -> &str {
    let end = tag.bytes().position(|b| matches!(b, b'-' | b'_')).unwrap_or(tag.len());
    let first = &tag[..end];
    if first.eq_ignore_ascii_case("no") || first.eq_ignore_ascii_case("nn") { "nb" } else { first }
}

fn same(a: &str, b: &str) -> bool {
    primary(a).eq_ignore_ascii_case(primary(b))
}

/// The best designation in the first of the languages that has one.
pub fn choose(snapshot: &Snapshot, concept: Concept, languages: &[String]) -> Option<Designation> {
    let Found { text, language, fallback, origin, several } = find(snapshot, concept, languages)?;
    Some(Designation { text: text.into_owned(), language: language.into_owned(), fallback, origin, several })
}

/// The same without a copy.
pub fn find<'a>(snapshot: &'a Snapshot, concept: Concept, languages: &[String]) -> Option<Found<'a>> {
    let found = languages.iter().find_map(|language| {
        let asked = Asked::read(language);
        let found = release(snapshot, concept, &asked)
            .or_else(|| national(snapshot, concept, &asked))
            .or_else(|| phrase(snapshot, concept, &primary(language).to_ascii_lowercase()))?;
        Some((language, found))
    });
    let (language, mut found) = found?;
    found.fallback |= languages.first().is_some_and(|first| !same(first, language));
    Some(found)
}

fn language_of<'a>(snapshot: &'a Snapshot, concept: Concept, name: &Name<'a>) -> &'a str {
    if name.language.is_empty() { snapshot.system_language(snapshot.system_of(concept)) } else { name.language }
}

/// Names in the asked dialect before others of the language; `x-refset` picks a language reference set.
fn release<'a>(snapshot: &'a Snapshot, concept: Concept, asked: &Asked<'_>) -> Option<Found<'a>> {
    let Asked { tag, refset } = asked;
    let mut best: Option<(u32, Name<'_>, &str)> = None;
    let mut others = 0;
    for name in snapshot.names(concept) {
        let language = language_of(snapshot, concept, &name);
        if !same(language, tag) || (!refset.is_empty() && name.refset != *refset) {
            continue;
        }
        let dialect = u32::from(!language.eq_ignore_ascii_case(tag));
        let rank = u32::from(!name.preferred) * 10 + name.usage * 2 + dialect;
        match &best {
            Some((known, _, _)) if *known < rank => {}
            Some((known, of, _)) if *known == rank => others += usize::from(of.text != name.text),
            _ => {
                best = Some((rank, name, language));
                others = 0;
            }
        }
    }
    let (_, name, language) = best?;
    Some(Found {
        text: name.text.into(),
        language: language.into(),
        fallback: false,
        origin: Origin::Release,
        several: others > 0 && !name.preferred,
    })
}

fn national<'a>(snapshot: &'a Snapshot, concept: Concept, asked: &Asked<'_>) -> Option<Found<'a>> {
    let exact =
        |r: &crate::snapshot::Row| r.word.relationship() == Relationship::Equivalent && snapshot.is_current(r.map);
    for row in snapshot.rows_to(concept).filter(exact) {
        if let Some(found) = release(snapshot, row.source, asked) {
            return Some(Found { origin: Origin::National, ..found });
        }
    }
    None
}

fn phrase<'a>(snapshot: &'a Snapshot, concept: Concept, language: &str) -> Option<Found<'a>> {
    let facets = snapshot.facets(concept)?;
    let words: Vec<&str> =
        facets.iter().filter(|f| !f.is_empty()).filter_map(|f| snapshot.phrase(f, language)).collect();
    if words.len() < 2 || words.len() != facets.iter().filter(|f| !f.is_empty()).count() {
        return None;
    }
    Some(Found {
        text: words.join(" ").into(),
        language: language.to_owned().into(),
        fallback: true,
        origin: Origin::Phrase,
        several: false,
    })
}
