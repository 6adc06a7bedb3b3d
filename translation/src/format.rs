//! Layout of a snapshot: a header, a table of sections, and sections of fixed-width records of 32-bit words.
//!
//! ```text
//! word 0-1   "NCPTERM2"
//! word 2     sections
//! word 3 ..  for each section: first word, words
//! ```
//! Everything is little-endian; a big-endian machine refuses it by the magic. The name of a snapshot is the SHA-256 of
//! its bytes. Text is kept once: `Strings` holds the bytes, `StringEnds` where each ends.

/// `NCPTERM2` as two words.
pub const MAGIC: [u32; 2] = [u32::from_le_bytes(*b"NCPT"), u32::from_le_bytes(*b"ERM2")];

/// "None" in a record.
pub const NONE: u32 = u32::MAX;

/// Sections, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Section {
    /// UTF-8 of all texts, padded to a word.
    Strings,
    /// End of each text, in bytes.
    StringEnds,
    /// `[first name, language, target of documents, URL]`
    Systems,
    /// `[name without "urn:oid:", system]`, by name.
    Names,
    /// `[system, version, flags, name, concepts, licence]`
    Versions,
    /// 16 words, see [`concept`].
    Concepts,
    /// Concept + 1 in the low [`id_bits`], [`tag`] in the others; open addressing, a power of two.
    Index,
    /// `[version, flags]`, by concept, newest version first.
    Contents,
    /// `[version, language, use, preferred, text, reference set]`, by concept.
    Designations,
    /// Concept of each parent, by child.
    Parents,
    /// 20 words, see [`map`].
    Maps,
    /// `[map, source system, source version, target system, target version, mode, code, word, other map, display]`
    Groups,
    /// 16 words, see [`row`].
    Rows,
    /// Rows by target concept.
    Reverse,
    /// `[name, system, value, display]`
    Properties,
    /// `[url, version, name, first member, members, complete]`
    ValueSets,
    /// Concepts, ascending in each set.
    Members,
    /// `[modality, region, side]`
    Facets,
    /// `[key, language, text]`, by key and language.
    Phrases,
    /// The manifest, JSON, padded with spaces.
    Manifest,
}

/// How many sections.
pub const SECTIONS: usize = Section::Manifest as usize + 1;

/// Words of a concept record.
pub mod concept {
    /// Words.
    pub const WORDS: usize = 16;
    /// System.
    pub const SYSTEM: usize = 0;
    /// Bytes of the code.
    pub const CODE_LEN: usize = 1;
    /// Facets + 1.
    pub const FACETS: usize = 2;
    /// First and count in `Rows`.
    pub const ROWS: usize = 3;
    /// First and count in `Reverse`.
    pub const REVERSE: usize = 5;
    /// First in `Contents`; the next concept's first is the end, as for the two that follow.
    pub const CONTENTS: usize = 7;
    /// First in `Designations`.
    pub const DESIGNATIONS: usize = 8;
    /// First in `Parents`.
    pub const PARENTS: usize = 9;
    /// The code itself up to the end of the record, so that a look-up touches one cache line; the first byte of a longer
    /// one in `Strings`.
    pub const CODE: usize = 10;
    /// Bytes of a code that stands in its record.
    pub const CODE_BYTES: usize = (WORDS - CODE) * 4;
}

/// Words of a map row.
pub mod row {
    /// Words.
    pub const WORDS: usize = 16;
    /// Source concept.
    pub const SOURCE: usize = 0;
    /// Target concept or none.
    pub const TARGET: usize = 1;
    /// Map.
    pub const MAP: usize = 2;
    /// Group.
    pub const GROUP: usize = 3;
    /// Word of the map.
    pub const WORD: usize = 4;
    /// First and count of dependencies in `Properties`.
    pub const DEPENDS: usize = 5;
    /// First and count of products in `Properties`.
    pub const PRODUCTS: usize = 7;
    /// Comment.
    pub const COMMENT: usize = 9;
    /// Display of the target as the map has it.
    pub const DISPLAY: usize = 10;
    /// Bytes of the target's code that follow; 0: it is longer, and stands in its concept.
    pub const CODE_LEN: usize = 11;
    /// The target's code, so that a look-up need not touch the target.
    pub const CODE: usize = 12;
    /// Bytes of it.
    pub const CODE_BYTES: usize = (WORDS - CODE) * 4;
}

/// Words of a map.
pub mod map {
    /// Words.
    pub const WORDS: usize = 20;
    /// URL.
    pub const URL: usize = 0;
    /// Version.
    pub const VERSION: usize = 1;
    /// Status.
    pub const STATUS: usize = 2;
    /// Whether it answers when no version is asked for.
    pub const CURRENT: usize = 3;
    /// Source scope.
    pub const SOURCE_SCOPE: usize = 4;
    /// Target scope.
    pub const TARGET_SCOPE: usize = 5;
    /// Rows with a target.
    pub const MAPPED: usize = 6;
    /// Rows without one.
    pub const UNMATCHED: usize = 7;
    /// SHA-256 of its files.
    pub const DIGEST: usize = 8;
    /// First and count in `Groups`.
    pub const GROUPS: usize = 16;
}

/// The concept is active in that version.
pub const ACTIVE: u32 = 1;
/// Codes of the version are told apart by case.
pub const CASE_SENSITIVE: u32 = 2;
/// The version has all its codes here.
pub const COMPLETE: u32 = 4;

/// Bits that hold any concept + 1.
pub fn id_bits(concepts: usize) -> u32 {
    (usize::BITS - concepts.leading_zeros()).min(31)
}

/// The bits of a hash that stand in an index slot above the concept.
#[inline]
pub fn tag(hash: u64, id_bits: u32) -> u32 {
    ((hash >> 32) as u32) >> id_bits << id_bits
}

/// Hash of (system, code); stable across releases since it lies in files.
#[inline]
pub fn hash(system: u32, code: &str) -> u64 {
    twox_hash::XxHash3_64::oneshot(code.as_bytes()) ^ u64::from(system).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
