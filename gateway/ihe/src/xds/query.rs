//! Stored queries as ITI-18 and ITI-38 carry them (ITI TF-2: 3.18.4.1.2, 3.38).

use ncp_xml::Element;

use super::ebrim;
use super::metadata::{Availability, DocumentEntry, EntryType};
use crate::ns::{QUERY, RIM};
use crate::{Coded, Dtm, HomeCommunityId, MessageError, PatientId};

const FIND_DOCUMENTS: &str = "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d";
const GET_DOCUMENTS: &str = "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4";
/// A Value is at most 256 characters (ITI TF-2: 3.18.4.1.2.3.5).
const VALUE_LENGTH: usize = 256;

/// returnType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnType {
    /// Full objects.
    LeafClass,
    /// Ids only.
    ObjectRef,
}

/// A request of ITI-38.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossGatewayQueryRequest {
    /// `AdhocQuery/@home`.
    pub home: Option<HomeCommunityId>,
    /// returnType.
    pub return_type: ReturnType,
    /// The query.
    pub query: StoredQuery,
}

// One per exchange: its size does not matter.
#[allow(clippy::large_enum_variant)]
/// The queries we serve.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StoredQuery {
    /// FindDocuments.
    FindDocuments(FindDocuments),
    /// GetDocuments.
    GetDocuments(GetDocuments),
}

impl StoredQuery {
    /// The query's UUID URN.
    pub fn id(&self) -> &'static str {
        match self {
            Self::FindDocuments(_) => FIND_DOCUMENTS,
            Self::GetDocuments(_) => GET_DOCUMENTS,
        }
    }
}

/// `from <= t < to`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// Lower bound.
    pub from: Option<Dtm>,
    /// Upper bound, excluded.
    pub to: Option<Dtm>,
}

impl TimeRange {
    /// An entry without the time is not excluded (ITI TF-2: 3.18.4.1.2.3.3.1).
    fn holds(&self, at: Option<&Dtm>) -> bool {
        let Some(at) = at.and_then(Dtm::earliest) else { return true };
        let after = self.from.as_ref().and_then(Dtm::earliest).is_none_or(|from| from <= at);
        let before = self.to.as_ref().and_then(Dtm::earliest).is_none_or(|to| at < to);
        after && before
    }
}

/// FindDocuments.
#[derive(Debug, Clone, PartialEq)]
pub struct FindDocuments {
    /// Patient.
    pub patient_id: PatientId,
    /// Statuses; at least one.
    pub status: Vec<Availability>,
    /// classCode, any of.
    pub class_codes: Vec<Coded>,
    /// typeCode, any of.
    pub type_codes: Vec<Coded>,
    /// practiceSettingCode, any of.
    pub practice_settings: Vec<Coded>,
    /// healthcareFacilityTypeCode, any of.
    pub facility_types: Vec<Coded>,
    /// formatCode, any of.
    pub format_codes: Vec<Coded>,
    /// eventCodeList: all of any of.
    pub event_codes: Vec<Vec<Coded>>,
    /// confidentialityCode: all of any of.
    pub confidentiality: Vec<Vec<Coded>>,
    /// creationTime.
    pub creation: TimeRange,
    /// serviceStartTime.
    pub service_start: TimeRange,
    /// serviceStopTime.
    pub service_stop: TimeRange,
    /// Entry types; stable only by default.
    pub entry_types: Vec<EntryType>,
    /// LIKE patterns.
    pub author_person: Vec<String>,
    /// OpenNCP: largest size in bytes.
    pub max_size: Option<u64>,
}

/// GetDocuments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetDocuments {
    /// Which.
    pub ids: DocumentIds,
}

impl GetDocuments {
    /// Whether the query names this entry.
    pub fn names(&self, entry: &DocumentEntry) -> bool {
        self.ids.name(entry)
    }
}

impl DocumentIds {
    /// Whether they name this entry.
    pub fn name(&self, entry: &DocumentEntry) -> bool {
        match self {
            Self::UniqueIds(ids) => ids.contains(&entry.unique_id),
            Self::EntryUuids(ids) => ids.contains(&entry.entry_uuid),
        }
    }
}

/// Exactly one of the two kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentIds {
    /// entryUUIDs.
    EntryUuids(Vec<String>),
    /// uniqueIds.
    UniqueIds(Vec<String>),
}

impl FindDocuments {
    /// All approved documents of a patient.
    pub fn of_patient(patient_id: PatientId) -> Self {
        Self {
            patient_id,
            status: vec![Availability::Approved],
            class_codes: Vec::new(),
            type_codes: Vec::new(),
            practice_settings: Vec::new(),
            facility_types: Vec::new(),
            format_codes: Vec::new(),
            event_codes: Vec::new(),
            confidentiality: Vec::new(),
            creation: TimeRange::default(),
            service_start: TimeRange::default(),
            service_stop: TimeRange::default(),
            entry_types: vec![EntryType::Stable],
            author_person: Vec::new(),
            max_size: None,
        }
    }

    /// Whether the entry is an answer.
    pub fn matches(&self, entry: &DocumentEntry) -> bool {
        let any = |wanted: &[Coded], has: &Coded| wanted.is_empty() || wanted.iter().any(|w| w.same(has));
        let all = |wanted: &[Vec<Coded>], has: &[Coded]| {
            wanted.iter().all(|any_of| any_of.iter().any(|w| has.iter().any(|h| w.same(h))))
        };
        let authored = |pattern: &String| {
            entry.authors.iter().filter_map(|a| a.person.as_deref()).any(|person| like(pattern, person))
        };
        entry.patient_id == self.patient_id
            && (self.status.is_empty() || self.status.contains(&entry.availability))
            && (self.entry_types.is_empty() || self.entry_types.contains(&entry.entry_type))
            && any(&self.class_codes, &entry.class_code)
            && any(&self.type_codes, &entry.type_code)
            && any(&self.practice_settings, &entry.practice_setting)
            && any(&self.facility_types, &entry.facility_type)
            && any(&self.format_codes, &entry.format_code)
            && all(&self.event_codes, &entry.event_codes)
            && all(&self.confidentiality, &entry.confidentiality)
            && self.creation.holds(entry.creation_time.as_ref())
            && self.service_start.holds(entry.service_start.as_ref())
            && self.service_stop.holds(entry.service_stop.as_ref())
            && (self.author_person.is_empty() || self.author_person.iter().any(authored))
            && self.max_size.is_none_or(|max| entry.size.is_none_or(|size| size <= max))
    }
}

/// SQL LIKE with `%` and `_`, in linear space and without back-tracking beyond the last `%`.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star, mut mark) = (0, 0, None, 0);
    while t < text.len() {
        if p < pattern.len() && (pattern[p] == '_' || pattern[p] == text[t]) && pattern[p] != '%' {
            p += 1;
            t += 1;
        } else if p < pattern.len() && pattern[p] == '%' {
            star = Some(p);
            mark = t;
            p += 1;
        } else if let Some(at) = star {
            p = at + 1;
            mark += 1;
            t = mark;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

impl CrossGatewayQueryRequest {
    /// Reads an AdhocQueryRequest.
    ///
    /// # Errors
    /// Malformed, unknown query, missing or repeated parameter.
    pub fn read(body: &Element) -> Result<Self, MessageError> {
        if !body.is(QUERY, "AdhocQueryRequest") {
            return Err(MessageError::Malformed("AdhocQueryRequest"));
        }
        let option = body.child(QUERY, "ResponseOption").ok_or(MessageError::Malformed("ResponseOption"))?;
        let return_type = match option.get("returnType") {
            Some("LeafClass") => ReturnType::LeafClass,
            Some("ObjectRef") => ReturnType::ObjectRef,
            _ => return Err(MessageError::Malformed("returnType")),
        };
        let adhoc = body.child(RIM, "AdhocQuery").ok_or(MessageError::Malformed("AdhocQuery"))?;
        let home = match adhoc.get("home").map(str::trim).filter(|h| !h.is_empty()) {
            Some(home) => Some(HomeCommunityId::parse(home).map_err(|_| MessageError::HomeCommunityUnknown)?),
            None => None,
        };
        let parameters = Parameters(adhoc);
        let query = match adhoc.get("id") {
            Some(FIND_DOCUMENTS) => StoredQuery::FindDocuments(find_documents(&parameters)?),
            Some(GET_DOCUMENTS) => StoredQuery::GetDocuments(get_documents(&parameters)?),
            _ => return Err(MessageError::QueryUnknown),
        };
        Ok(Self { home, return_type, query })
    }

    /// Writes an AdhocQueryRequest.
    pub fn to_element(&self) -> Element {
        let return_type = match self.return_type {
            ReturnType::LeafClass => "LeafClass",
            ReturnType::ObjectRef => "ObjectRef",
        };
        let option =
            Element::new(QUERY, "ResponseOption").attr("returnComposedObjects", "true").attr("returnType", return_type);
        let mut adhoc = Element::new(RIM, "AdhocQuery").attr("id", self.query.id());
        if let Some(home) = &self.home {
            adhoc.set_attr("", "home", home.to_string());
        }
        let adhoc = match &self.query {
            StoredQuery::FindDocuments(find) => adhoc.with_all(write_find(find)),
            StoredQuery::GetDocuments(get) => {
                let (name, ids) = match &get.ids {
                    DocumentIds::EntryUuids(ids) => ("$XDSDocumentEntryEntryUUID", ids),
                    DocumentIds::UniqueIds(ids) => ("$XDSDocumentEntryUniqueId", ids),
                };
                adhoc.with(ebrim::slot(name, ids.iter().map(|id| format!("({})", quoted(id)))))
            }
        };
        Element::new(QUERY, "AdhocQueryRequest").with(option).with(adhoc)
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn write_find(find: &FindDocuments) -> Vec<Element> {
    let list = |values: Vec<String>| format!("({})", values.iter().map(|v| quoted(v)).collect::<Vec<_>>().join(","));
    let mut slots = vec![
        ebrim::slot("$XDSDocumentEntryPatientId", [quoted(&find.patient_id.to_cx())]),
        ebrim::slot("$XDSDocumentEntryStatus", [list(find.status.iter().map(|s| s.urn().to_owned()).collect())]),
    ];
    // Stable entries alone are what a registry answers when nothing is said.
    if find.entry_types != [EntryType::Stable] && !find.entry_types.is_empty() {
        let types = find.entry_types.iter().map(|t| t.urn().to_owned()).collect();
        slots.push(ebrim::slot("$XDSDocumentEntryType", [list(types)]));
    }
    let form = |codes: &[Coded]| codes.iter().map(|c| format!("{}^^{}", c.code, c.system)).collect::<Vec<_>>();
    for (name, codes) in [
        ("$XDSDocumentEntryClassCode", &find.class_codes),
        ("$XDSDocumentEntryTypeCode", &find.type_codes),
        ("$XDSDocumentEntryPracticeSettingCode", &find.practice_settings),
        ("$XDSDocumentEntryHealthcareFacilityTypeCode", &find.facility_types),
        ("$XDSDocumentEntryFormatCode", &find.format_codes),
    ] {
        if !codes.is_empty() {
            slots.push(ebrim::slot(name, [list(form(codes))]));
        }
    }
    for (name, groups) in [
        ("$XDSDocumentEntryEventCodeList", &find.event_codes),
        ("$XDSDocumentEntryConfidentialityCode", &find.confidentiality),
    ] {
        slots.extend(groups.iter().map(|any_of| ebrim::slot(name, [list(form(any_of))])));
    }
    for (name, range) in [
        ("CreationTime", &find.creation),
        ("ServiceStartTime", &find.service_start),
        ("ServiceStopTime", &find.service_stop),
    ] {
        for (end, bound) in [("From", &range.from), ("To", &range.to)] {
            slots.extend(bound.iter().map(|b| ebrim::slot(&format!("$XDSDocumentEntry{name}{end}"), [b.to_string()])));
        }
    }
    slots
}

/// The slots of an AdhocQuery with the value syntax of ITI TF-2: 3.18.4.1.2.3.5 and the variants of the field.
struct Parameters<'a>(&'a Element);

impl Parameters<'_> {
    /// Values of each occurrence of the slot.
    fn groups(&self, name: &'static str) -> Result<Vec<Vec<String>>, MessageError> {
        let slots = self.0.all(RIM, "Slot").filter(|s| s.get("name") == Some(name));
        slots
            .map(|slot| {
                let mut out = Vec::new();
                for value in ebrim::values_of(slot) {
                    // OpenNCP puts whole lists into one Value, which may pass the length of the specification.
                    if value.len() > VALUE_LENGTH * 64 {
                        return Err(MessageError::QueryParamNumber(name));
                    }
                    out.extend(split_value(&value)?);
                }
                Ok(out)
            })
            .collect()
    }

    fn many(&self, name: &'static str) -> Result<Vec<String>, MessageError> {
        Ok(self.groups(name)?.into_iter().flatten().collect())
    }

    fn one(&self, name: &'static str) -> Result<Option<String>, MessageError> {
        let mut values = self.many(name)?;
        if values.len() > 1 {
            return Err(MessageError::QueryParamNumber(name));
        }
        Ok(values.pop())
    }

    fn codes(&self, name: &'static str) -> Result<Vec<Coded>, MessageError> {
        let texts = self.many(name)?;
        // `'a^^s,b^^s'` in one string is OpenNCP's list.
        texts.iter().flat_map(|t| t.split(',')).map(|t| code(t.trim())).collect()
    }

    fn code_groups(&self, name: &'static str) -> Result<Vec<Vec<Coded>>, MessageError> {
        self.groups(name)?.iter().map(|group| group.iter().map(|t| code(t)).collect()).collect()
    }

    fn range(&self, from: &'static str, to: &'static str) -> Result<TimeRange, MessageError> {
        let bound = |name| -> Result<Option<Dtm>, MessageError> { self.one(name)?.map(|v| Dtm::parse(&v)).transpose() };
        Ok(TimeRange { from: bound(from)?, to: bound(to)? })
    }
}

fn code(text: &str) -> Result<Coded, MessageError> {
    let mut parts = text.splitn(3, '^');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(code), Some(""), Some(system)) if !code.is_empty() && !system.is_empty() => {
            Ok(Coded::new(code, system, None))
        }
        _ => Err(MessageError::Malformed("code without coding scheme")),
    }
}

/// `12`, `'a'`, `('a','b')`, `(a)`: the strings inside.
fn split_value(value: &str) -> Result<Vec<String>, MessageError> {
    let malformed = MessageError::Malformed("query value");
    let value = value.trim();
    let inner = match value.strip_prefix('(') {
        Some(rest) => rest.strip_suffix(')').ok_or_else(|| malformed.clone())?,
        None => value,
    };
    let mut out = Vec::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (mut text, mut end, bytes) = (String::new(), None, quoted.as_bytes());
            let mut index = 0;
            let mut start = 0;
            while index < bytes.len() {
                if bytes[index] == b'\'' {
                    text.push_str(&quoted[start..index]);
                    if bytes.get(index + 1) == Some(&b'\'') {
                        text.push('\'');
                        index += 2;
                        start = index;
                        continue;
                    }
                    end = Some(index + 1);
                    break;
                }
                index += 1;
            }
            out.push(text);
            rest = quoted[end.ok_or_else(|| malformed.clone())?..].trim_start();
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            out.push(rest[..end].trim().to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => {}
            None => return Err(malformed),
        }
    }
    Ok(out)
}

fn find_documents(p: &Parameters<'_>) -> Result<FindDocuments, MessageError> {
    let patient =
        p.one("$XDSDocumentEntryPatientId")?.ok_or(MessageError::QueryMissingParam("$XDSDocumentEntryPatientId"))?;
    let status: Vec<Availability> = p
        .many("$XDSDocumentEntryStatus")?
        .iter()
        .filter_map(|s| match s.rsplit(':').next() {
            Some("Approved") => Some(Availability::Approved),
            Some("Deprecated") => Some(Availability::Deprecated),
            _ => None,
        })
        .collect();
    if status.is_empty() {
        return Err(MessageError::QueryMissingParam("$XDSDocumentEntryStatus"));
    }
    let types = p.many("$XDSDocumentEntryType")?;
    let entry_types =
        [EntryType::Stable, EntryType::OnDemand].into_iter().filter(|t| types.iter().any(|u| u == t.urn()));
    let mut entry_types: Vec<EntryType> = entry_types.collect();
    if entry_types.is_empty() {
        entry_types.push(EntryType::Stable);
    }
    Ok(FindDocuments {
        status,
        class_codes: p.codes("$XDSDocumentEntryClassCode")?,
        type_codes: p.codes("$XDSDocumentEntryTypeCode")?,
        practice_settings: p.codes("$XDSDocumentEntryPracticeSettingCode")?,
        facility_types: p.codes("$XDSDocumentEntryHealthcareFacilityTypeCode")?,
        format_codes: p.codes("$XDSDocumentEntryFormatCode")?,
        event_codes: p.code_groups("$XDSDocumentEntryEventCodeList")?,
        confidentiality: p.code_groups("$XDSDocumentEntryConfidentialityCode")?,
        creation: p.range("$XDSDocumentEntryCreationTimeFrom", "$XDSDocumentEntryCreationTimeTo")?,
        service_start: p.range("$XDSDocumentEntryServiceStartTimeFrom", "$XDSDocumentEntryServiceStartTimeTo")?,
        service_stop: p.range("$XDSDocumentEntryServiceStopTimeFrom", "$XDSDocumentEntryServiceStopTimeTo")?,
        entry_types,
        author_person: p.many("$XDSDocumentEntryAuthorPerson")?,
        max_size: p.one("$XDSDocumentEntryFilterMaximumSize")?.and_then(|v| v.parse().ok()),
        ..FindDocuments::of_patient(PatientId::parse_cx(&patient)?)
    })
}

fn get_documents(p: &Parameters<'_>) -> Result<GetDocuments, MessageError> {
    let uuids = p.many("$XDSDocumentEntryEntryUUID")?;
    let unique = p.many("$XDSDocumentEntryUniqueId")?;
    let ids = match (uuids.is_empty(), unique.is_empty()) {
        (false, false) => return Err(MessageError::QueryParamNumber("$XDSDocumentEntryUniqueId")),
        (true, true) => return Err(MessageError::QueryMissingParam("$XDSDocumentEntryUniqueId")),
        (false, true) => DocumentIds::EntryUuids(uuids),
        (true, false) => DocumentIds::UniqueIds(unique),
    };
    Ok(GetDocuments { ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_many_spellings() {
        let split = |v| split_value(v).expect("a value");
        assert_eq!(split("12"), ["12"]);
        assert_eq!(split("'Children''s'"), ["Children's"]);
        assert_eq!(split("('a','b, c')"), ["a", "b, c"]);
        assert_eq!(split("( 'a' , 'b' )"), ["a", "b"]);
        assert!(split("()").is_empty());
        for bad in ["('a'", "'a", "'a'b"] {
            assert!(split_value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn like_patterns() {
        assert!(like("%Olsen%", "^Olsen^Kari"));
        assert!(like("_b%", "abc"));
        assert!(!like("_b", "abc"));
        assert!(like("%", ""));
    }
}
