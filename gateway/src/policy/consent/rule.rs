//! A permission as a rule with exceptions, and what it says to one request about one unit.
//!
//! A condition that cannot be told, because the fact that it asks for is unknown, may hold or not. Both are followed through
//! all that is nested, and what closes most counts.

use jiff::Timestamp;
use jiff::civil::Date;
use ncp_tls::Country;

use super::period::{Days, Moment};
use crate::identity::Identity;
use crate::policy::facts::Facts;

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Opens what it is about.
    Permit,
    /// Closes what it is about.
    Deny,
}

/// A rule: where its conditions hold it decides, unless one of its exceptions does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it decides.
    pub decision: Decision,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// Rules inside; of several that hold one that denies wins.
    pub exceptions: Vec<Rule>,
    /// It denies because only something else was permitted, and not because somebody refused.
    pub implied: bool,
}

/// One element of a rule; one of its values is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// In force from, and until.
    InForce(Option<Moment>, Option<Moment>),
    /// Who receives, or who wrote.
    Actor(Vec<Actor>),
    /// For what: codes of v3-ActReason.
    Purpose(Vec<Purpose>),
    /// Whether it is about giving data out.
    Disclosure(bool),
    /// Confidentiality.
    Label(Vec<Label>),
    /// What kind of content.
    Content(Vec<Content>),
    /// Days of the service.
    DataPeriod(Days),
    /// Unique ids and Study Instance UIDs.
    Unit(Vec<String>),
}

/// Whom a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Everybody of a country.
    Country(Country),
    /// A receiving organisation, by identifier or name.
    Organisation(String),
    /// A receiving professional (NameID).
    Professional(String),
    /// One of both; the source does not say which.
    Recipient(String),
    /// The organisation that wrote the unit.
    Author(String),
}

/// Purposes that are told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Treatment, with all that is a kind of it: also in an emergency.
    Treatment,
    /// Treatment in an emergency, or breaking the glass.
    Emergency,
    /// The patient's own request.
    PatientRequest,
    /// One that is no purpose of this service.
    Other,
}

/// A security label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// This rank of HL7 confidentiality or a lower one: the label is a high water mark (R4 Consent.provision.securityLabel).
    UpTo(usize),
    /// This very code of another system.
    Code(String),
}

/// A kind of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Images and their manifests.
    Images,
    /// Documents of every kind.
    Documents,
    /// Documents of a LOINC class or type.
    Loinc(String),
}

/// HL7 confidentiality from the lowest to the highest.
pub(super) const CONFIDENTIALITY: [&str; 6] = ["U", "L", "M", "N", "R", "V"];

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// When.
    pub now: Timestamp,
    /// The day that it is in the patient's calendar.
    pub today: Date,
}

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    /// This unit; what cannot be told closes.
    Unit(&'a Facts, &'a [String]),
    /// Whether there can be a unit that is open; what cannot be told might open.
    Anything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
    Unknown,
}

impl From<bool> for Told {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Rule {
    /// A rule without conditions.
    pub fn of(decision: Decision) -> Self {
        Self { decision, conditions: Vec::new(), exceptions: Vec::new(), implied: false }
    }

    /// What it says; `None` where it does not hold. Of what it may say as far as is known, of a unit what closes counts,
    /// and of anything what opens.
    pub fn says(&self, asking: Asking<'_>, about: About<'_>) -> Option<Decision> {
        let may = self.may_say(asking, about);
        match about {
            About::Unit(..) if may.deny => Some(Decision::Deny),
            About::Anything if may.permit => Some(Decision::Permit),
            _ if may.nothing => None,
            About::Unit(..) => Some(Decision::Permit),
            About::Anything => Some(Decision::Deny),
        }
    }

    fn may_say(&self, asking: Asking<'_>, about: About<'_>) -> MaySay {
        let mut unknown = false;
        for condition in &self.conditions {
            match condition.holds(asking, about, self.decision) {
                Told::Yes => {}
                Told::No => return MaySay::NOTHING,
                Told::Unknown => unknown = true,
            }
        }
        let exceptions = self.exceptions.iter().map(|exception| exception.may_say(asking, about));
        let said = exceptions.fold(MaySay::NOTHING, MaySay::beside);
        MaySay {
            permit: said.permit || said.nothing && self.decision == Decision::Permit,
            deny: said.deny || said.nothing && self.decision == Decision::Deny,
            nothing: unknown,
        }
    }
}

/// What a rule may say, whatever the facts are that are unknown.
#[derive(Debug, Clone, Copy)]
struct MaySay {
    permit: bool,
    deny: bool,
    nothing: bool,
}

impl MaySay {
    const NOTHING: Self = Self { permit: false, deny: false, nothing: true };

    /// What two rules may say together: one that denies wins.
    fn beside(self, other: Self) -> Self {
        let opens = |one: Self| one.permit || one.nothing;
        Self {
            permit: self.permit && opens(other) || other.permit && opens(self),
            deny: self.deny || other.deny,
            nothing: self.nothing && other.nothing,
        }
    }
}

impl Condition {
    fn holds(&self, asking: Asking<'_>, about: About<'_>, decision: Decision) -> Told {
        let identity = asking.identity;
        match self {
            Self::InForce(from, until) => {
                let begun = from.is_none_or(|from| from.has_begun(asking));
                (begun && !until.is_some_and(|until| until.has_ended(asking))).into()
            }
            Self::Actor(actors) => actor(actors, identity, about, decision),
            Self::Purpose(purposes) => purposes.iter().any(|purpose| purpose.covers(identity)).into(),
            Self::Disclosure(holds) => (*holds).into(),
            Self::Label(labels) => of_unit(about, |facts, _| label(labels, facts)),
            Self::Content(kinds) => of_unit(about, |facts, _| content(kinds, facts)),
            Self::DataPeriod(days) => of_unit(about, |facts, _| period(days, facts)),
            Self::Unit(ids) => {
                of_unit(about, |_, keys| keys.iter().any(|key| ids.iter().any(|id| same_id(id, key))).into())
            }
        }
    }
}

fn of_unit(about: About<'_>, told: impl Fn(&Facts, &[String]) -> Told) -> Told {
    match about {
        About::Unit(facts, keys) => told(facts, keys),
        About::Anything => Told::Unknown,
    }
}

/// Values inside one element are OR. A permit that names both who receives and who wrote is held to both.
fn actor(actors: &[Actor], identity: &Identity, about: About<'_>, decision: Decision) -> Told {
    let (authors, recipients): (Vec<&Actor>, Vec<&Actor>) =
        actors.iter().partition(|actor| matches!(actor, Actor::Author(_)));
    let one_of = |id: &str, names: &[Option<&str>]| names.iter().flatten().any(|name| same_id(name, id));
    let organisation = [identity.organisation_id.as_deref(), identity.organisation.as_deref()];
    let received = recipients.iter().any(|actor| match actor {
        Actor::Country(country) => *country == identity.country,
        Actor::Organisation(id) => one_of(id, &organisation),
        Actor::Professional(id) => one_of(id, &[Some(&identity.user)]),
        Actor::Recipient(id) => one_of(id, &organisation) || one_of(id, &[Some(&identity.user)]),
        Actor::Author(_) => false,
    });
    if authors.is_empty() {
        return received.into();
    }
    let written = of_unit(about, |facts, _| match &facts.author_organisations {
        Some(written) if !facts.incomplete => {
            let by = |actor: &&Actor| matches!(actor, Actor::Author(id) if written.iter().any(|w| same_id(w, id)));
            authors.iter().any(by).into()
        }
        _ => Told::Unknown,
    });
    match decision {
        _ if recipients.is_empty() => written,
        Decision::Permit if received => written,
        Decision::Permit => Told::No,
        Decision::Deny if received => Told::Yes,
        Decision::Deny => written,
    }
}

/// Whether two identifiers are one: an OID has a prefix or not, and the scheme of a URN and all of a UUID are of any case.
pub(super) fn same_id(one: &str, other: &str) -> bool {
    let after = |id: &str, prefix: &str| id.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix));
    let plain = |id| if after(id, "urn:oid:") { &id["urn:oid:".len()..] } else { id };
    plain(one) == plain(other) || after(one, "urn:uuid:") && one.eq_ignore_ascii_case(other)
}

impl Purpose {
    fn covers(self, identity: &Identity) -> bool {
        match self {
            Self::Treatment => matches!(identity.purpose.as_str(), "TREATMENT" | "EMERGENCY"),
            Self::Emergency => identity.is_emergency(),
            Self::PatientRequest => identity.purpose == "PATRQT",
            Self::Other => false,
        }
    }
}

/// A unit has the highest of its labels.
fn label(labels: &[Label], facts: &Facts) -> Told {
    let Some(codes) = facts.confidentiality.as_ref().filter(|_| !facts.incomplete) else { return Told::Unknown };
    let highest = codes.iter().filter_map(|code| CONFIDENTIALITY.iter().position(|c| c == code)).max();
    let mut unknown = false;
    for label in labels {
        match label {
            Label::UpTo(rank) => match highest {
                Some(highest) if highest <= *rank => return Told::Yes,
                Some(_) => {}
                None => unknown = true,
            },
            Label::Code(code) if codes.contains(code) => return Told::Yes,
            Label::Code(_) => {}
        }
    }
    if unknown { Told::Unknown } else { Told::No }
}

fn content(kinds: &[Content], facts: &Facts) -> Told {
    let images = matches!(facts.kind, "manifest" | "study");
    let mut unknown = false;
    for kind in kinds {
        let told = match kind {
            Content::Images => images.into(),
            // Images are found by a document, and are none.
            Content::Documents if images => Told::Unknown,
            Content::Documents => Told::Yes,
            Content::Loinc(_) if facts.incomplete => Told::Unknown,
            Content::Loinc(code) => loinc(code, facts),
        };
        match told {
            Told::Yes => return Told::Yes,
            Told::Unknown => unknown = true,
            Told::No => {}
        }
    }
    if unknown { Told::Unknown } else { Told::No }
}

/// A national code may stand for the LOINC one.
fn loinc(code: &str, facts: &Facts) -> Told {
    let codes = facts.descriptions.iter().flat_map(|d| [&d.class_code, &d.type_code]);
    let mut all_loinc = true;
    for own in codes {
        match own {
            Some(own) if own == code => return Told::Yes,
            Some(own) if is_loinc(own) => {}
            _ => all_loinc = false,
        }
    }
    if all_loinc { Told::No } else { Told::Unknown }
}

/// Digits, a hyphen, a check digit.
pub(super) fn is_loinc(code: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    code.rsplit_once('-')
        .is_some_and(|(number, check)| digits(number) && number.len() <= 7 && digits(check) && check.len() == 1)
}

/// Yes when every date lies in it, no when none does.
fn period(days: &Days, facts: &Facts) -> Told {
    let within = |date: &Option<String>| days.have(date.as_deref().and_then(|d| d.get(..8))?);
    let told: Vec<Option<bool>> = facts.descriptions.iter().map(|d| within(&d.service_date)).collect();
    if facts.incomplete || told.iter().any(|within| *within != told.first().copied().flatten()) {
        return Told::Unknown;
    }
    told.first().copied().flatten().map_or(Told::Unknown, Told::from)
}
