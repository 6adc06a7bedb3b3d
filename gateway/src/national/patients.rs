//! The patients of this country with their national and local identifiers, from a TOML file.

use std::path::Path;

use ncp_ihe::{PatientId, PatientQuery, PatientRecord, PersonName};
use serde::Deserialize;

use super::{LocatedStudy, NationalError};

/// One person.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patient {
    /// National identifier, CX.
    pub national_id: String,
    /// Ids under which archives know the person (0010,0020).
    #[serde(default)]
    pub local_ids: Vec<String>,
    /// Family name.
    pub family: String,
    /// Given names.
    pub given: Vec<String>,
    /// `YYYYMMDD`.
    pub birth_date: String,
    /// `M`, `F`, `UN`.
    pub sex: String,
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
            let born = query.birth_date.as_ref().is_none_or(|date| patient.birth_date.starts_with(date.as_str()));
            let family = query.name.as_ref().map(|n| n.family.to_lowercase()).filter(|f| !f.is_empty());
            let gender = query.gender.as_ref().is_none_or(|sex| patient.sex.eq_ignore_ascii_case(sex));
            query.ids.contains(id) && born && gender && family.is_none_or(|f| patient.family.to_lowercase() == f)
        };
        let found: Vec<PatientRecord> = self.0.iter().filter(fits).map(|(id, p)| record(id, p)).collect();
        if found.is_empty() { Err(NationalError::NoPatient) } else { Ok(found) }
    }

    /// Who an archive's local id stands for.
    pub fn of_local_id(&self, local: &str) -> Option<(&PatientId, &Patient)> {
        self.0.iter().find(|(_, p)| p.local_ids.iter().any(|l| l == local)).map(|(id, p)| (id, p))
    }

    /// By national identifier.
    pub fn get(&self, id: &PatientId) -> Option<&Patient> {
        self.0.iter().find(|(own, _)| own == id).map(|(_, p)| p)
    }

    /// How the objects of a study may name its patient, where the register says under which ids archives know her.
    pub(super) fn identify(&self, study: &mut LocatedStudy) {
        let Some(id) = &study.patient else { return };
        let Some(known) = self.get(id) else { return };
        if !known.local_ids.is_empty() {
            study.patient_ids = known.local_ids.iter().chain([&id.extension]).cloned().collect();
        }
        study.birth_date = Some(known.birth_date.clone());
    }
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
