//! The patients of this country with their national and local identifiers, from a TOML file.

use std::path::Path;

use ncp_ihe::imaging::Issuer;
use ncp_ihe::{IssuedId, Oid, PatientClaim, PatientId, PatientQuery, PatientRecord, PersonName};
use serde::Deserialize;

use super::{LocatedStudy, NationalError, narrow};
use crate::patient_key::{PatientKey, Person};

/// One person.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patient {
    /// National identifier, CX.
    pub national_id: String,
    /// Ids under which archives know the person (0010,0020).
    #[serde(default)]
    pub local_ids: Vec<LocalId>,
    /// Family name.
    pub family: String,
    /// Given names.
    pub given: Vec<String>,
    /// `YYYYMMDD`.
    pub birth_date: String,
    /// `M`, `F`, `UN`.
    pub sex: String,
}

/// An id of a person in an archive. An id is unique within its issuer only (PS3.3 table C.2-2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "WrittenId")]
pub struct LocalId {
    /// The id (0010,0020).
    pub id: String,
    /// Who gives it; the connector's own authority where it is not said.
    pub authority: Option<String>,
}

/// `"ID"`, or `{ id = "ID", authority = "AUTHORITY" }`.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenId {
    Plain(String),
    Issued(IssuedLocalId),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuedLocalId {
    id: String,
    authority: String,
}

impl From<WrittenId> for LocalId {
    fn from(written: WrittenId) -> Self {
        match written {
            WrittenId::Plain(id) => Self { id, authority: None },
            WrittenId::Issued(IssuedLocalId { id, authority }) => Self { id, authority: Some(authority) },
        }
    }
}

/// The authority whose patient ids an archive uses, by all names under which objects and answers may say it: a namespace
/// (0010,0021), an OID (0010,0024). Without a name, an object that says an issuer is somebody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authority(pub Vec<String>);

impl Authority {
    /// How an object of this archive may name a person by one of her ids.
    fn key(&self, local: &LocalId) -> PatientKey {
        let foreign = local.authority.as_ref().filter(|authority| !self.0.contains(authority));
        let names = foreign.map_or_else(|| self.0.clone(), |authority| vec![authority.clone()]);
        PatientKey {
            id: local.id.clone(),
            namespaces: Some(names.clone()),
            universals: Some(names),
            implied: foreign.is_none(),
        }
    }

    /// The id with every name of its issuer, as a manifest tells them: what is accepted here is accepted there.
    fn issued(&self, local: &LocalId) -> Vec<IssuedId> {
        let names = match &local.authority {
            Some(authority) if !self.0.contains(authority) => std::slice::from_ref(authority),
            _ => &self.0,
        };
        let (universals, namespaces): (Vec<&String>, Vec<&String>) = names.iter().partition(|n| Oid::parse(n).is_ok());
        let rows = namespaces.len().max(universals.len()).max(1);
        let row = |row: usize| IssuedId {
            id: local.id.clone(),
            issuer: universals.get(row).map(|oid| Issuer::parse(oid)),
            label: namespaces.get(row).map(|name| (*name).clone()),
        };
        (0..rows).map(row).collect()
    }
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// This person's.
    Person(&'a PatientId, &'a Patient),
    /// Of nobody whom the register knows.
    Nobody,
    /// It has the id of a person of the register and is somebody else's.
    Stranger(&'static str),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    patient: Vec<Patient>,
}

/// The index.
#[derive(Debug, Default)]
pub struct Patients(Vec<(PatientId, Patient)>);

impl Patients {
    /// Loads the file.
    ///
    /// # Errors
    /// What is wrong with it, for operators.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let file: File = toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.message()))?;
        let mut out = Vec::new();
        for (index, patient) in file.patient.into_iter().enumerate() {
            let id = PatientId::parse_cx(&patient.national_id)
                .map_err(|_| format!("{}: patient[{index}].national_id is no CX", path.display()))?;
            out.push((id, patient));
        }
        Ok(Self(out))
    }

    /// Persons that carry one of the identifiers. A given birth date, gender or family name must fit: it narrows, never widens.
    ///
    /// # Errors
    /// [`NationalError::NoPatient`].
    pub fn find(&self, query: &PatientQuery) -> Result<Vec<PatientRecord>, NationalError> {
        let fits = |(id, patient): &&(PatientId, Patient)| {
            // The file tells everything that is compared.
            query.ids.contains(id) && narrow::degree(query, &record(id, patient)) == Some(100)
        };
        let found: Vec<PatientRecord> = self.0.iter().filter(fits).map(|(id, p)| record(id, p)).collect();
        if found.is_empty() { Err(NationalError::NoPatient) } else { Ok(found) }
    }

    /// Whose an object or study of an archive is, by all that it says of its patient: the id, who issues it, the birth
    /// date; and where it says neither of these, sex and family name.
    pub fn whose(&self, claim: &PatientClaim, authority: &Authority) -> Whose<'_> {
        let has = |patient: &Patient| patient.local_ids.iter().any(|local| local.id == claim.id);
        let candidates: Vec<&(PatientId, Patient)> = self.0.iter().filter(|(_, patient)| has(patient)).collect();
        let issued = |(_, patient): &&&(PatientId, Patient)| {
            patient.local_ids.iter().any(|local| authority.key(local).accepts(claim))
        };
        let fitting: Vec<&(PatientId, Patient)> = candidates.iter().filter(issued).copied().collect();
        match (candidates.as_slice(), fitting.as_slice()) {
            ([], _) => Whose::Nobody,
            (_, []) => Whose::Stranger("its patient id is of another issuer"),
            (_, [(id, patient)]) => match patient.person().contradicted(claim) {
                Some(why) => Whose::Stranger(why),
                None => Whose::Person(id, patient),
            },
            _ => Whose::Stranger("its patient id stands for several persons"),
        }
    }

    /// The ids under which objects of a person may stand in an archive, national id first.
    pub fn issued_ids(&self, patient: &PatientId, authority: &Authority) -> Vec<IssuedId> {
        let local = self.get(patient).into_iter().flat_map(|known| &known.local_ids);
        let national = IssuedId::new(&patient.extension, Some(patient.root.clone()));
        std::iter::once(national).chain(local.flat_map(|local| authority.issued(local))).collect()
    }

    /// By national identifier.
    pub fn get(&self, id: &PatientId) -> Option<&Patient> {
        self.0.iter().find(|(own, _)| own == id).map(|(_, p)| p)
    }

    /// Authority and id of each identifier of a person whose authority is known.
    pub(super) fn ids_of(&self, id: &PatientId) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter(move |(own, _)| own == id).flat_map(issued_by_oid)
    }

    /// The authorities whose identifiers the file has.
    pub(super) fn authorities(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(issued_by_oid).map(|(authority, _)| authority)
    }

    /// How the objects of a study may name its patient, where the register says under which ids archives know her.
    pub(super) fn identify(&self, study: &mut LocatedStudy, authority: &Authority) {
        let Some(id) = &study.patient else { return };
        let Some(known) = self.get(id) else { return };
        if !known.local_ids.is_empty() {
            let national = LocalId { id: id.extension.clone(), authority: Some(id.root.to_string()) };
            let national = PatientKey { implied: true, ..authority.key(&national) };
            study.patient_ids = known.local_ids.iter().map(|local| authority.key(local)).chain([national]).collect();
        }
        study.person = known.person();
    }
}

impl Patient {
    fn person(&self) -> Person {
        Person {
            birth_date: Some(self.birth_date.clone()),
            sex: Some(self.sex.clone()),
            family: Some(self.family.clone()),
        }
    }
}

/// The national id, and the local ids whose authority is an OID.
fn issued_by_oid((id, patient): &(PatientId, Patient)) -> impl Iterator<Item = (String, String)> {
    let local = patient.local_ids.iter().filter_map(|local| {
        let authority = local.authority.as_ref().filter(|authority| Oid::parse(authority).is_ok())?;
        Some((authority.clone(), local.id.clone()))
    });
    std::iter::once((id.root.to_string(), id.extension.clone())).chain(local)
}

fn record(id: &PatientId, patient: &Patient) -> PatientRecord {
    PatientRecord {
        id: id.clone(),
        other_ids: Vec::new(),
        name: PersonName { family: patient.family.clone(), given: patient.given.clone() },
        birth_date: Some(patient.birth_date.clone()),
        gender: Some(patient.sex.clone()),
        address: None,
    }
}
