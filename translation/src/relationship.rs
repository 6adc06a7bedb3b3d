//! How a target relates to its source, in the words of FHIR R4 (which describe the target) and R5 (which describe the
//! source), and how relationships combine along a chain of maps.

/// Relation of a target to its source, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relationship {
    /// R4 equal, equivalent; R5 equivalent.
    Equivalent,
    /// R4 wider, subsumes; R5 source-is-narrower-than-target.
    TargetWider,
    /// R4 narrower, specializes; R5 source-is-broader-than-target.
    TargetNarrower,
    /// R4 relatedto, inexact; R5 related-to.
    Related,
    /// R4 unmatched, disjoint; R5 not-related-to.
    NotRelated,
}

/// The words of the maps; the position is what a snapshot stores.
const WORDS: [(&str, Relationship); 14] = [
    ("equivalent", Relationship::Equivalent),
    ("equal", Relationship::Equivalent),
    ("wider", Relationship::TargetWider),
    ("subsumes", Relationship::TargetWider),
    ("narrower", Relationship::TargetNarrower),
    ("specializes", Relationship::TargetNarrower),
    ("relatedto", Relationship::Related),
    ("inexact", Relationship::Related),
    ("unmatched", Relationship::NotRelated),
    ("disjoint", Relationship::NotRelated),
    ("source-is-narrower-than-target", Relationship::TargetWider),
    ("source-is-broader-than-target", Relationship::TargetNarrower),
    ("related-to", Relationship::Related),
    ("not-related-to", Relationship::NotRelated),
];

/// A word of a map as it was written, R4 or R5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(u8);

impl Word {
    /// Reads a word of R4 or R5.
    pub fn parse(word: &str) -> Option<Self> {
        WORDS.iter().position(|(w, _)| *w == word).and_then(|i| u8::try_from(i).ok()).map(Self)
    }

    /// The position in the table, for a snapshot.
    pub fn number(self) -> u8 {
        self.0
    }

    /// From a snapshot; an unknown number reads as not related.
    #[inline]
    pub fn from_number(number: u8) -> Self {
        Self(if usize::from(number) < WORDS.len() { number } else { 8 })
    }

    /// As written.
    pub fn text(self) -> &'static str {
        WORDS[usize::from(self.0)].0
    }

    /// What it means.
    #[inline]
    pub fn relationship(self) -> Relationship {
        WORDS[usize::from(self.0)].1
    }
}

impl Relationship {
    /// R4 ConceptMap equivalence.
    pub fn r4(self) -> &'static str {
        match self {
            Self::Equivalent => "equivalent",
            Self::TargetWider => "wider",
            Self::TargetNarrower => "narrower",
            Self::Related => "relatedto",
            Self::NotRelated => "disjoint",
        }
    }

    /// R5 ConceptMap relationship.
    pub fn r5(self) -> &'static str {
        match self {
            Self::Equivalent => "equivalent",
            Self::TargetWider => "source-is-narrower-than-target",
            Self::TargetNarrower => "source-is-broader-than-target",
            Self::Related => "related-to",
            Self::NotRelated => "not-related-to",
        }
    }

    /// Seen from the target.
    pub fn reversed(self) -> Self {
        match self {
            Self::TargetWider => Self::TargetNarrower,
            Self::TargetNarrower => Self::TargetWider,
            other => other,
        }
    }

    /// The relationship over two steps: the weakest, and opposite directions give no more than related.
    pub fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::NotRelated, _) | (_, Self::NotRelated) => Self::NotRelated,
            (Self::Equivalent, other) | (other, Self::Equivalent) => other,
            (a, b) if a == b => a,
            _ => Self::Related,
        }
    }

    /// As a number of a snapshot or of the wire.
    #[inline]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Equivalent,
            1 => Self::TargetWider,
            2 => Self::TargetNarrower,
            3 => Self::Related,
            _ => Self::NotRelated,
        }
    }
}

/// Which relationships may be written or answered; equivalent always may, not related never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Allowed {
    /// Wider targets.
    pub wider: bool,
    /// Narrower targets.
    pub narrower: bool,
    /// Related targets.
    pub related: bool,
    /// Targets of a map's rule for unmapped codes.
    pub fallback: bool,
}

impl Allowed {
    /// Equivalent targets only.
    pub const EXACT: Self = Self { wider: false, narrower: false, related: false, fallback: false };
    /// Wider targets too: what documents and metadata take unless the caller says otherwise.
    pub const WIDER: Self = Self { wider: true, ..Self::EXACT };
    /// Everything.
    pub const ALL: Self = Self { wider: true, narrower: true, related: true, fallback: true };

    /// Whether a target of that relationship is permitted.
    #[inline]
    pub fn takes(self, relationship: Relationship) -> bool {
        match relationship {
            Relationship::Equivalent => true,
            Relationship::TargetWider => self.wider,
            Relationship::TargetNarrower => self.narrower,
            Relationship::Related => self.related,
            Relationship::NotRelated => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Relationship::*;
    use super::*;

    #[test]
    fn r4_words_describe_the_target_and_r5_words_the_source() {
        let of = |w: &str| Word::parse(w).map(Word::relationship);
        assert_eq!(of("subsumes"), of("source-is-narrower-than-target"));
        assert_eq!(of("specializes"), of("source-is-broader-than-target"));
        assert_eq!(of("nonsense"), None);
        for r in [Equivalent, TargetWider, TargetNarrower, Related, NotRelated] {
            assert_eq!((of(r.r4()), of(r.r5())), (Some(r), Some(r)));
            assert_eq!(Relationship::from_number(r as u8), r);
        }
    }

    #[test]
    fn chains_are_as_weak_as_their_weakest_step() {
        assert_eq!(Equivalent.then(TargetWider), TargetWider);
        assert_eq!(TargetNarrower.then(TargetNarrower), TargetNarrower);
        assert_eq!(TargetNarrower.then(TargetWider), Related);
        assert_eq!(TargetWider.then(Related), Related);
        assert_eq!(Equivalent.then(NotRelated), NotRelated);
        assert_eq!(TargetWider.reversed(), TargetNarrower);
    }
}
