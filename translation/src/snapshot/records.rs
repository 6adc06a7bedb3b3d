//! What a snapshot is made of, as its readers see it.

use crate::relationship::Word;

/// A concept: a code of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Concept(pub(crate) u32);

/// Number of a code system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct System(pub(crate) u32);

/// A row of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Source.
    pub source: Concept,
    /// Target; none where the map says that there is none.
    pub target: Option<Concept>,
    /// Map.
    pub map: u32,
    /// Group.
    pub group: u32,
    /// Word.
    pub word: Word,
    pub(super) words: u32,
}

/// A designation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// Text.
    pub text: &'a str,
    /// BCP 47 tag; empty where the source does not say.
    pub language: &'a str,
    /// Chosen by the terminology's own language reference set.
    pub preferred: bool,
    /// 0 preferred name, 1 synonym, 2 fully specified name, 3 display in a map.
    pub usage: u32,
    /// Language reference set.
    pub refset: &'a str,
}

/// A map as loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapInfo<'a> {
    /// Canonical URL.
    pub url: &'a str,
    /// Business version.
    pub version: &'a str,
    /// Status.
    pub status: &'a str,
    /// Answers when no version is asked for.
    pub current: bool,
    /// SHA-256 of its files.
    pub digest: [u8; 32],
    /// Rows with a target.
    pub rows: u32,
    /// Rows without one.
    pub unmatched: u32,
    /// First source system.
    pub source: &'a str,
    /// First target system.
    pub target: &'a str,
    /// Scopes: source and target value set.
    pub scopes: [&'a str; 2],
}

/// What a group says about codes without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmappedRule<'a> {
    /// Nothing.
    None,
    /// The source code itself.
    UseSource,
    /// Always this code.
    Fixed(&'a str, Option<Word>),
    /// Another map.
    OtherMap(&'a str),
}

/// A group of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group<'a> {
    /// Map.
    pub map: u32,
    /// Source system.
    pub source: System,
    /// Version of the source system, if stated.
    pub source_version: &'a str,
    /// Target system.
    pub target: System,
    /// Version of the target system, if stated.
    pub target_version: &'a str,
    /// Rule.
    pub unmapped: UnmappedRule<'a>,
}

/// A dependency or product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// Property or attribute.
    pub name: &'a str,
    /// System of the value.
    pub system: &'a str,
    /// Value.
    pub value: &'a str,
    /// Its display.
    pub display: &'a str,
}

/// Whether a code is in a version of its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content<'a> {
    /// Version.
    pub version: &'a str,
    /// Active.
    pub active: bool,
}

/// A version of a code system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version<'a> {
    /// System.
    pub system: System,
    /// Version.
    pub version: &'a str,
    /// Title.
    pub name: &'a str,
    /// Codes are told apart by case.
    pub case_sensitive: bool,
    /// All its codes are here.
    pub complete: bool,
    /// How many.
    pub concepts: u32,
}

/// A value set.
#[derive(Debug, Clone, Copy)]
pub struct ValueSet<'a> {
    /// URL.
    pub url: &'a str,
    /// Version.
    pub version: &'a str,
    /// Name.
    pub name: &'a str,
    /// All members are here; else absence proves nothing.
    pub complete: bool,
    pub(super) members: &'a [u32],
}

impl<'a> ValueSet<'a> {
    /// Whether a concept is a member.
    pub fn contains(&self, concept: Concept) -> bool {
        self.members.binary_search(&concept.0).is_ok()
    }

    /// Members.
    pub fn members(&self) -> impl Iterator<Item = Concept> + 'a {
        self.members.iter().map(|m| Concept(*m))
    }
}
